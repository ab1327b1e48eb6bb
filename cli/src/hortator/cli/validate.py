"""`hortator validate`: the API server's checks without an API server."""

from __future__ import annotations

import json
from pathlib import Path

from hortator.api.arithmetic import immutable_problems, num_groups, num_ranks
from hortator.api.files import ManifestError, load_llmservice
from hortator.api.problem import Problem
from hortator.api.v1alpha1 import LLMService
from hortator.cli.errors import EXIT_USAGE, CommandError


def run(*, file: Path, against: Path | None, as_json: bool) -> int:
    """Check one manifest, and with `against` the change from another one; returns the exit code.

    Raises:
        CommandError: it is refused, and the answer is wanted as text.
    """
    try:
        service = load_llmservice(file)
        if against is not None:
            _check_change(file, load_llmservice(against), service)
    except ManifestError as error:
        if not as_json:
            raise CommandError(error.lines) from None
        print(json.dumps(_document(file, error), indent=2))
        return EXIT_USAGE
    if as_json:
        print(json.dumps(_document(file, None), indent=2))
        return 0
    groups = ", ".join(
        f"{num_groups(service, role)} {role.name} x {role.parallelism.attention_dp} ranks"
        for role in service.spec.roles
    )
    print(f"{file}: LLMService {service.metadata.name} is valid: {groups}, {num_ranks(service)} ranks in all")
    return 0


def _check_change(file: Path, old: LLMService, new: LLMService) -> None:
    violated = immutable_problems(old, new)
    if old.metadata.name != new.metadata.name:
        allowed = f"allowed: {old.metadata.name}, as in --against"
        violated = [Problem(path="metadata.name", message=f"got {new.metadata.name} ({allowed})")]
    if violated:
        raise ManifestError.of(str(file), violated)


def _document(file: Path, error: ManifestError | None) -> dict[str, object]:
    found = () if error is None else error.problems
    return {
        "file": str(file),
        "valid": error is None,
        "problems": [{"field": problem.path, "message": problem.message} for problem in found]
        or [{"field": "", "message": line} for line in (error.lines if error else ())],
    }

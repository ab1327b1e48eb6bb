"""`hortator validate`: the API server's checks without an API server."""

from __future__ import annotations

import json
from pathlib import Path

from hortator.api.arithmetic import immutable_problems, num_groups, num_ranks
from hortator.api.files import Manifest, ManifestError, load_manifest, of_scaler
from hortator.api.problem import Problem
from hortator.api.scaler_rules import SCALER_TRANSITIONS
from hortator.api.v1alpha1 import LLMService, LLMServiceScaler
from hortator.cli.errors import EXIT_USAGE, CommandError


def run(*, file: Path, against: Path | None, as_json: bool) -> int:
    """Check one manifest, and with `against` the change from another one; returns the exit code.

    Raises:
        CommandError: it is refused, and the answer is wanted as text.
    """
    try:
        manifest = load_manifest(file)
        if against is not None:
            _check_change(file, load_manifest(against), manifest)
    except ManifestError as error:
        if not as_json:
            raise CommandError(error.lines) from None
        print(json.dumps(_document(file, error), indent=2))
        return EXIT_USAGE
    if as_json:
        print(json.dumps(_document(file, None), indent=2))
        return 0
    if manifest.service is not None:
        print(f"{file}: {_service(manifest.service)}")
    for scaler in manifest.scalers:
        print(f"{file}: {_scaler(scaler)}")
    return 0


def _service(service: LLMService) -> str:
    groups = ", ".join(
        f"{num_groups(service, role)} {role.name} x {role.parallelism.attention_dp} ranks"
        for role in service.spec.roles
    )
    return f"LLMService {service.metadata.name} is valid: {groups}, {num_ranks(service)} ranks in all"


def _scaler(scaler: LLMServiceScaler) -> str:
    replicas = scaler.spec.replicas
    groups = "as many groups as the role says" if replicas is None else f"{replicas} groups per role set"
    of = f"{scaler.spec.role} of {scaler.spec.service_name}"
    return f"LLMServiceScaler {scaler.metadata.name} is valid: {of} has {groups}"


def _check_change(file: Path, old: Manifest, new: Manifest) -> None:
    violated: list[Problem] = []
    if old.service is not None and new.service is not None:
        violated = immutable_problems(old.service, new.service)
        if old.service.metadata.name != new.service.metadata.name:
            allowed = f"allowed: {old.service.metadata.name}, as in --against"
            got = new.service.metadata.name
            violated = [Problem(path="metadata.name", message=f"got {got} ({allowed})")]
    before = {_where(scaler): scaler for scaler in old.scalers}
    for scaler in new.scalers:
        earlier = before.get(_where(scaler), scaler)
        for rule in SCALER_TRANSITIONS:
            violated += [of_scaler(scaler.metadata.name, one) for one in rule.problems(earlier, scaler)]
    if violated:
        raise ManifestError.of(str(file), violated)


def _where(scaler: LLMServiceScaler) -> tuple[str, str]:
    return scaler.metadata.own_namespace, scaler.metadata.name


def _document(file: Path, error: ManifestError | None) -> dict[str, object]:
    found = () if error is None else error.problems
    return {
        "file": str(file),
        "valid": error is None,
        "problems": [{"field": problem.path, "message": problem.message} for problem in found]
        or [{"field": "", "message": line} for line in (error.lines if error else ())],
    }

"""Manifests on disk: read an LLMService and its LLMServiceScalers, or say everything that is wrong with them.

`ManifestError` has one line per problem: `file: field: what is wrong (allowed: ...)`, and
`file:line: ...` where YAML itself is broken. Programs end with exit code 2 on it.
A file may hold several documents; those of our kinds are taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from hortator.api.parse import parse, parse_scaler
from hortator.api.problem import Problem
from hortator.api.quoting import quoted, shortened
from hortator.api.v1alpha1 import KIND, LLMService, LLMServiceScaler
from hortator.api.v1alpha1.scaler import SCALER_KIND

_MAX_FILE_BYTES = 1 << 20
_MAX_VALUES = 1 << 16
"""Of one document, aliases written out: a few lines of them can become billions."""


class ManifestError(Exception):
    """The file holds no valid LLMService. `str()` is one line per problem."""

    def __init__(self, lines: Sequence[str], *, problems: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)
        self.problems = tuple(problems)
        """The same by field; empty where the file as a whole is the problem."""

    @classmethod
    def of(cls, source: str, problems: Sequence[Problem]) -> ManifestError:
        """One line per problem, with the name of the file in front."""
        return cls([f"{source}: {problem}" for problem in problems], problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a file holds of ours: at least one object."""

    service: LLMService | None
    scalers: tuple[LLMServiceScaler, ...] = ()
    """Of any service; those of `service` name roles that it has, and none twice."""


def load_llmservice(path: str | os.PathLike[str]) -> LLMService:
    """Read the LLMService in a YAML (or JSON) file.

    Raises:
        ManifestError: the file cannot be read, is not YAML, has no LLMService or more than one, or has
            fields that are wrong.
    """
    return parse_llmservice(_read(path), source=os.fspath(path))


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read the LLMService and the LLMServiceScalers in a YAML (or JSON) file; one kind alone will do.

    Raises:
        ManifestError: as `load_llmservice`; a scaler that is wrong is named in front of the field.
    """
    source = os.fspath(path)
    documents = _documents(_read(path), source)
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == SCALER_KIND]
    parsed = [(_name(document), parse_scaler(document)) for document in found]
    problems = [of_scaler(name, problem) for name, one in parsed for problem in one.problems]
    service = None
    if not found or any(isinstance(one, dict) and one.get("kind") == KIND for one in documents):
        try:
            service = validate_llmservice(_the_llmservice(documents, source), source=source)
        except ManifestError as error:
            if not problems or not error.problems:
                raise
            problems = [*error.problems, *problems]
    scalers = tuple(one.scaler for _, one in parsed if one.scaler is not None)
    if service is not None:
        problems += _misfits(service, scalers)
    if problems:
        raise ManifestError.of(source, problems)
    return Manifest(service=service, scalers=scalers)


def _misfits(service: LLMService, scalers: Sequence[LLMServiceScaler]) -> Iterator[Problem]:
    owners = {role.name: "" for role in service.spec.roles}
    where = (service.metadata.own_namespace, service.metadata.name)
    for scaler in scalers:
        name, role = scaler.metadata.name, scaler.spec.role
        if (scaler.metadata.own_namespace, scaler.spec.service_name) != where:
            continue
        if role not in owners:
            allowed = ", ".join(owners)
            problem = Problem(
                path="spec.role", message=f"got {role} (allowed: roles of {where[1]}: {allowed})"
            )
            yield of_scaler(name, problem)
        elif owners[role]:
            message = f"{role} belongs to LLMServiceScaler {owners[role]} (allowed: one for each role)"
            yield of_scaler(name, Problem(path="spec.role", message=message))
        else:
            owners[role] = name


def of_scaler(name: str, problem: Problem) -> Problem:
    """The same, with the scaler named: a file may hold several."""
    return Problem(path=f"{SCALER_KIND} {name}: {problem.path}", message=problem.message)


def _name(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return shortened(name) if isinstance(name, str) and name.isprintable() else "without a name"


def _read(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ManifestError([f"{name}: larger than 1 MiB, not a manifest"])
        return raw.decode("utf-8")
    except OSError as error:
        raise ManifestError([f"{name}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ManifestError([f"{name}: not UTF-8 text: byte {error.start}"]) from None


def parse_llmservice(text: str, *, source: str) -> LLMService:
    """`load_llmservice` for a text; `source` is the name that error lines begin with."""
    return validate_llmservice(_the_llmservice(_documents(text, source), source), source=source)


def _documents(text: str, source: str) -> list[object]:
    try:
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ManifestError([f"{where}: not valid YAML: {error.problem or error.context}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ManifestError([f"{source}:{line}: not valid YAML: {error.reason}"]) from None
    except ValueError as error:  # a scalar that only looks like a number
        raise ManifestError([f"{source}: not valid YAML: {error}"]) from None
    except RecursionError:
        raise ManifestError([f"{source}: not valid YAML: nested too deeply"]) from None


def validate_llmservice(document: Mapping[str, Any], *, source: str) -> LLMService:
    """Check one LLMService object as parsed from YAML or JSON. Raises ManifestError."""
    parsed = parse(document)
    if parsed.service is None or parsed.problems:
        raise ManifestError.of(source, parsed.problems)
    return parsed.service


def _the_llmservice(documents: Sequence[object], source: str) -> Mapping[str, Any]:
    objects = [document for document in documents if isinstance(document, dict)]
    ours = [document for document in objects if document.get("kind") == KIND]
    if len(ours) > 1:
        raise ManifestError([f"{source}: {len(ours)} LLMService documents (allowed: 1)"])
    if ours:
        return cast("Mapping[str, Any]", ours[0])
    kinds = ", ".join(sorted({str(document.get("kind", "an object without kind")) for document in objects}))
    raise ManifestError(
        [f"{source}: kind: no LLMService in it, found {shortened(kinds) or 'nothing'} (allowed: {KIND})"]
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads as the API server does: times stay text, and a key given twice is refused."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _num_values(node, {}) > _MAX_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"more than {_MAX_VALUES} values, aliases written out", node.start_mark
            )
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"keys must be text, got {quoted(key)}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{quoted(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _num_values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node is when everything that aliases stand for is written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted: one that is part of itself has no end
        match node:
            case yaml.MappingNode():
                parts = [part for pair in node.value for part in pair]
            case yaml.SequenceNode():
                parts = node.value
            case _:
                parts = []
        known[id(node)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(node)]


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

"""Manifests on disk: read an LLMService, or say everything that is wrong with the file.

`ManifestError` has one line per problem: `file: field: what is wrong (allowed: ...)`, and
`file:line: ...` where YAML itself is broken. Programs end with exit code 2 on it.
A file may hold several documents; the LLMService among them is taken.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from hortator.api.parse import parse
from hortator.api.problem import Problem
from hortator.api.quoting import quoted, shortened
from hortator.api.v1alpha1 import KIND, LLMService

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


def load_llmservice(path: str | os.PathLike[str]) -> LLMService:
    """Read the LLMService in a YAML (or JSON) file.

    Raises:
        ManifestError: the file cannot be read, is not YAML, has no LLMService or more than one, or has
            fields that are wrong.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ManifestError([f"{name}: larger than 1 MiB, not a manifest"])
        text = raw.decode("utf-8")
    except OSError as error:
        raise ManifestError([f"{name}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ManifestError([f"{name}: not UTF-8 text: byte {error.start}"]) from None
    return parse_llmservice(text, source=name)


def parse_llmservice(text: str, *, source: str) -> LLMService:
    """`load_llmservice` for a text; `source` is the name that error lines begin with."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
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
    return validate_llmservice(_the_llmservice(documents, source), source=source)


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

"""Manifests on disk: read an LLMService, or say everything that is wrong with the file.

`ManifestError` has one line per problem: `file: field: what is wrong (allowed: ...)`, and
`file:line: ...` where YAML itself is broken. Programs end with exit code 2 on it.
A file may hold several documents; the LLMService among them is taken.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hortator.api.arithmetic import Problem, problems
from hortator.api.v1alpha1 import API_VERSION, KIND, LLMService

_MAX_FILE_BYTES = 1 << 20


class ManifestError(Exception):
    """The file holds no valid LLMService. `str()` is one line per problem."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


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
    except ValueError as error:  # a scalar that only looks like a date or a number
        raise ManifestError([f"{source}: not valid YAML: {error}"]) from None
    except RecursionError:
        raise ManifestError([f"{source}: not valid YAML: nested too deeply"]) from None
    return validate_llmservice(_the_llmservice(documents, source), source=source)


def validate_llmservice(document: Mapping[str, Any], *, source: str) -> LLMService:
    """Check one LLMService object as parsed from YAML or JSON. Raises ManifestError."""
    try:
        service = LLMService.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        found = _readable(error.errors())
        raise ManifestError([f"{source}: {problem}" for problem in found]) from None
    violated = problems(service)
    if violated:
        raise ManifestError([f"{source}: {problem}" for problem in violated])
    return service


def _the_llmservice(documents: Sequence[object], source: str) -> Mapping[str, Any]:
    objects = [document for document in documents if isinstance(document, dict)]
    ours = [document for document in objects if document.get("kind") == KIND]
    if len(ours) > 1:
        raise ManifestError([f"{source}: {len(ours)} LLMService documents (allowed: 1)"])
    if ours:
        return cast("Mapping[str, Any]", ours[0])
    kinds = ", ".join(sorted({str(document.get("kind", "an object without kind")) for document in objects}))
    raise ManifestError(
        [f"{source}: kind: no LLMService in it, found {kinds or 'nothing'} (allowed: {KIND})"]
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"keys must be text, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _readable(errors: Iterable[ErrorDetails]) -> list[Problem]:
    errors = list(errors)
    broken = {error["loc"][:-1] for error in errors}
    return [
        Problem(path=_path(error["loc"]), message=_message(error))
        for error in errors
        # pydantic counts the valid items only: a list with a bad item is not also too short
        if not (
            error["type"] == "too_short" and any(loc[: len(error["loc"])] == error["loc"] for loc in broken)
        )
    ]


def _path(location: Iterable[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _message(error: ErrorDetails) -> str:
    given, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "required"
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "literal_error" if error["loc"] == ("apiVersion",):
            return f"got {given!r} (allowed: {API_VERSION})"
        case "literal_error":
            return f"got {given!r} (allowed: {_listed(context['expected'])})"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            return f"got {given!r} (allowed: {_bounds(error)})"
        case "value_error":
            return str(context["error"])
        case "too_short" | "too_long":
            return f"got {len(given)} items (allowed: {_bounds(error)})"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"got {given!r} (allowed: a mapping of fields)"
        case "tuple_type" | "list_type":
            return f"got {given!r} (allowed: a list)"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"got {given!r} (allowed: a whole number, not quoted)"
        case "float_type" | "finite_number":
            return f"got {given!r} (allowed: a number, not quoted)"
        case "bool_type":
            return f"got {given!r} (allowed: true, false)"
        case "string_type":
            return f"got {given!r} (allowed: text; quote it)"
        case _:
            return f"got {given!r}: {error['msg']}"


def _listed(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")


def _bounds(error: ErrorDetails) -> str:
    """Both bounds of the field, not only the one that was violated."""
    bounds: dict[str, Any] = {}
    for constraint in _constraints(error["loc"]):
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if getattr(constraint, name, None) is not None:
                bounds[name] = getattr(constraint, name)
    low = bounds.get("ge", bounds.get("min_length"))
    high = bounds.get("le", bounds.get("max_length"))
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    if "gt" in bounds and high is not None:
        return f"above {bounds['gt']}, at most {high}"
    return error["msg"].removeprefix("Input should be ")


def _constraints(location: Sequence[int | str]) -> list[Any]:
    field = _field(location)
    if field is None:
        return []
    found = list(field.metadata)
    for option in get_args(field.annotation):  # Optional[Annotated[int, Field(...)]]
        for extra in getattr(option, "__metadata__", ()):
            found += getattr(extra, "metadata", [extra])
    return found


def _unknown(location: Sequence[int | str]) -> str:
    parent = _model_at(location[:-1])
    if parent is None:
        return "unknown field"
    known = [field.alias or name for name, field in parent.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return (
        f"unknown field, did you mean {near[0]}?" if near else f"unknown field (allowed: {', '.join(known)})"
    )


def _field(location: Sequence[int | str]) -> Any:
    parent = _model_at(location[:-1])
    if parent is None:
        return None
    for name, field in parent.model_fields.items():
        if (field.alias or name) == location[-1]:
            return field
    return None


def _model_at(location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that describes the mapping at a location, or None for a leaf."""
    model: type[BaseModel] = LLMService
    for part in location:
        if isinstance(part, int):
            continue
        for name, field in model.model_fields.items():
            if (field.alias or name) == part:
                found = _model_in(field.annotation)
                break
        else:
            return None
        if found is None:
            return None
        model = found
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {tuple, Union, UnionType}:
        for option in get_args(annotation):
            found = _model_in(option)
            if found is not None:
                return found
    return None

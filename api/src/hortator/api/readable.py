"""What pydantic finds wrong with an LLMService, in words: one `Problem` per field.

Where the API server checks the same thing by the CRD's schema (bounds, enums, required fields), its words are
in the message, so that both say the same: `got 65, should be less than or equal to 64 (allowed: 1 to 64)`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from hortator.api.problem import Problem
from hortator.api.quoting import quoted, shortened
from hortator.api.v1alpha1 import API_VERSION, LLMService


def readable(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """One problem per error, in their order."""
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
        name = shortened(str(part))
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text


def _message(error: ErrorDetails) -> str:
    given, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "Required value"
        case "extra_forbidden":
            return _unknown(error["loc"])
        case "literal_error" if error["loc"] == ("apiVersion",):
            return f"got {quoted(given)} (allowed: {API_VERSION})"
        case "literal_error":
            return f"got {quoted(given)} ({_supported(context['expected'])})"
        case "greater_than_equal":
            limit = f"should be greater than or equal to {_plain(context['ge'])}"
            return f"got {quoted(given)}, {limit} (allowed: {_bounds(error)})"
        case "greater_than":
            limit = f"should be greater than {_plain(context['gt'])}"
            return f"got {quoted(given)}, {limit} (allowed: {_bounds(error)})"
        case "less_than_equal":
            limit = f"should be less than or equal to {_plain(context['le'])}"
            return f"got {quoted(given)}, {limit} (allowed: {_bounds(error)})"
        case "string_too_long":
            return f"got {len(given)} characters, may not be more than {context['max_length']} bytes"
        case "value_error":
            return str(context["error"])
        case "too_short":
            least = context["min_length"]
            return f"got {len(given)} items, should have at least {least} items (allowed: {_bounds(error)})"
        case "too_long":
            most = context["max_length"]
            return f"got {len(given)} items, must have at most {most} items (allowed: {_bounds(error)})"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"got {quoted(given)} (allowed: a mapping of fields)"
        case "tuple_type" | "list_type":
            return f"got {quoted(given)} (allowed: a list)"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"got {quoted(given)} (allowed: a whole number, not quoted)"
        case "float_type" | "finite_number":
            return f"got {quoted(given)} (allowed: a number, not quoted)"
        case "bool_type":
            return f"got {quoted(given)} (allowed: true, false)"
        case "string_type":
            return f"got {quoted(given)} (allowed: text; quote it)"
        case _:
            return f"got {quoted(given)}: {error['msg']}"


def _supported(expected: str) -> str:
    names = expected.replace("'", "").replace(" or ", ", ").split(", ")
    return f"supported values: {', '.join(map(json.dumps, names))}"


def _plain(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)


def _bounds(error: ErrorDetails) -> str:
    """Both bounds of the field, not only the one that was violated."""
    bounds: dict[str, Any] = {}
    for constraint in _constraints(error["loc"]):
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if getattr(constraint, name, None) is not None:
                bounds[name] = getattr(constraint, name)
    low = bounds.get("ge", bounds.get("min_length", 0 if "max_length" in bounds else None))
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

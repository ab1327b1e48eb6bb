"""Events, commands and settings as JSON and back: one generic codec over frozen dataclasses.

- A value whose class is one of a closed union is written ``[class name, {field: value}]``.
- Fields that hold their default are left out; unknown fields are an error when read.
- Enums by value, tuples as lists, floats by their shortest exact form: reading gives back an equal object.

Plans per class are made once from the type hints; nothing here knows a particular event.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from hortator.scheduler.core.commands import Command
from hortator.scheduler.core.events import Event

EVENT_TYPES: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}
COMMAND_TYPES: Mapping[str, type[Any]] = {kind.__name__: kind for kind in get_args(Command)}

_Convert = Callable[[Any], Any]


def encode_tagged(value: object) -> list[Any]:
    """``[class name, fields]`` of an event or a command."""
    return [type(value).__name__, encode_fields(value)]


def decode_event(tagged: Any) -> Event:
    """The event that `encode_tagged` wrote.

    Raises:
        ValueError: an unknown event, a missing or unknown field, a value of the wrong type.
    """
    event: Event = _decode_tagged(tagged, EVENT_TYPES)
    return event


def encode_fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults, as JSON values."""
    out: dict[str, Any] = {}
    for name, default, convert in _encode_plan(type(value)):
        field_value = getattr(value, name)
        if field_value is default or (default is not dataclasses.MISSING and field_value == default):
            continue
        out[name] = field_value if convert is None else convert(field_value)
    return out


def decode_fields(kind: type[Any], fields: Any) -> Any:
    """The dataclass of type `kind` that `encode_fields` wrote.

    Raises:
        ValueError: a missing or unknown field, a value of the wrong type.
    """
    if not isinstance(fields, dict):
        raise ValueError(  # noqa: TRY004  # callers catch one kind of error
            f"{kind.__name__}: an object is wanted, got {fields!r}"
        )
    plan = _decode_plan(kind)
    arguments: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in plan:
            raise ValueError(f"{kind.__name__} has no field {name!r} (allowed: {', '.join(plan)})")
        try:
            arguments[name] = plan[name](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


def _decode_tagged(tagged: Any, kinds: Mapping[str, type[Any]]) -> Any:
    match tagged:
        case [str(name), fields] if name in kinds:
            return decode_fields(kinds[name], fields)
        case [str(name), _]:
            raise ValueError(f"unknown kind {name!r} (allowed: {', '.join(kinds)})")
        case _:
            raise ValueError(f"[name, fields] is wanted, got {tagged!r}")


_EncodePlan = tuple[tuple[str, Any, _Convert | None], ...]
_encode_plans: dict[type[Any], _EncodePlan] = {}
_decode_plans: dict[type[Any], dict[str, _Convert]] = {}


def _encode_plan(kind: type[Any]) -> _EncodePlan:
    plan = _encode_plans.get(kind)
    if plan is None:
        hints = get_type_hints(kind)
        plan = _encode_plans[kind] = tuple(
            (field.name, field.default, _encoder(hints[field.name])) for field in dataclasses.fields(kind)
        )
    return plan


def _decode_plan(kind: type[Any]) -> dict[str, _Convert]:
    plan = _decode_plans.get(kind)
    if plan is None:
        hints = get_type_hints(kind)
        plan = _decode_plans[kind] = {
            field.name: _decoder(hints[field.name]) for field in dataclasses.fields(kind)
        }
    return plan


def _optional(hint: Any) -> Any | None:
    """X of ``X | None``, else None."""
    if get_origin(hint) in {Union, types.UnionType}:
        inner = [argument for argument in get_args(hint) if argument is not types.NoneType]
        if len(inner) != 1:
            raise TypeError(f"no codec for {hint}")
        return inner[0]
    return None


def _encoder(hint: Any) -> _Convert | None:
    """How a value of this type becomes JSON; None: it is JSON already."""
    inner = _optional(hint)
    if inner is not None:
        convert = _encoder(inner)
        return None if convert is None else lambda value: None if value is None else convert(value)
    if get_origin(hint) is tuple:
        element = _encoder(get_args(hint)[0])
        return list if element is None else lambda values: [element(value) for value in values]
    if dataclasses.is_dataclass(hint):
        return encode_fields
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda value: value.value
    if hint in {int, float, str, bool}:
        return None
    raise TypeError(f"no codec for {hint}")


def _decoder(hint: Any) -> _Convert:
    inner = _optional(hint)
    if inner is not None:
        convert = _decoder(inner)
        return lambda value: None if value is None else convert(value)
    if get_origin(hint) is tuple:
        element = _decoder(get_args(hint)[0])
        return lambda values: tuple(element(value) for value in _checked(values, list))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return functools.partial(decode_fields, hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if hint is float:
        return lambda value: float(_checked(value, int, float))
    if hint in {int, str, bool}:
        return lambda value: _checked(value, hint)
    raise TypeError(f"no codec for {hint}")


def _checked(value: Any, *kinds: type[Any]) -> Any:
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{' or '.join(kind.__name__ for kind in kinds)} is wanted, got {value!r}")
    return value

"""Texts with rules: names, URIs, durations, quantities.

Each class annotates a field (`Annotated[str, Text(...)]`) and says its rule once. From it come the check
here, and the same rule in the CRD, where CEL executes it: the message is the same, word for word, in
`hortator validate`, in the operator and from the API server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from hortator.api.duration import PATTERN as DURATION_PATTERN
from hortator.api.duration import format_duration, parse_duration
from hortator.api.quoting import quoted

AUTO: Final = "Auto"
MIN_INTERVAL_S: Final = 0.001
MAX_INTERVAL_S: Final = 1.0
_MAX_DURATION_LENGTH = 40
_MAX_QUANTITY_LENGTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text that matches a regular expression as a whole; one that Python and RE2 read alike, without `'`."""

    pattern: str
    max_length: int
    allowed: str
    """The pattern for people."""

    def check(self, value: str) -> str:
        """The value itself. ValueError: it breaks the rule."""
        if len(value) > self.max_length:
            raise ValueError(
                f"got {quoted(value)}, may not be more than {self.max_length} bytes (allowed: {self.allowed})"
            )
        if not re.fullmatch(self.pattern, value, re.ASCII):
            raise ValueError(f"got {quoted(value)} (allowed: {self.allowed})")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "type": "string",
            "maxLength": self.max_length,
            **_cel(f"self.matches(r'^(?:{self.pattern})$')", self.allowed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A duration with bounds; seconds in Python."""

    low: str
    high: str

    @property
    def allowed(self) -> str:
        """The bounds for people."""
        return f"a duration from {self.low} to {self.high}, like 5ms, 2s, 1m30s, 1h"

    def parse(self, value: object) -> float:
        """Seconds. ValueError: no duration, or out of bounds."""
        seconds = _seconds(value)
        if seconds is None or not parse_duration(self.low) <= seconds <= parse_duration(self.high):
            raise ValueError(f"got {_shown(value)} (allowed: {self.allowed})")
        return seconds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self.parse,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(format_duration, when_used="json"),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        rule = f"{_IS_DURATION} && {_within(self.low, self.high)}"
        return {"type": "string", "maxLength": _MAX_DURATION_LENGTH, **_cel(rule, self.allowed)}


@dataclass(frozen=True, slots=True)
class IntervalText:
    """`Auto`, None in Python, or a duration of at most a second."""

    allowed = f"{AUTO}, or a duration from 1ms to 1s"

    def parse(self, value: object) -> float | None:
        """Seconds, or None for `Auto`. ValueError: neither."""
        if value == AUTO or value is None:
            return None
        seconds = _seconds(value)
        if seconds is None or not MIN_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
            raise ValueError(f"got {_shown(value)} (allowed: {self.allowed})")
        return seconds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self.parse,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: AUTO if value is None else format_duration(value), when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        rule = f"self == '{AUTO}' || {_IS_DURATION} && {_within('1ms', '1s')}"
        return {"type": "string", "maxLength": _MAX_DURATION_LENGTH, **_cel(rule, self.allowed)}


@dataclass(frozen=True, slots=True)
class QuantityText:
    """An amount of a resource as Kubernetes writes it: `500m`, `4`, `64Gi`; whole numbers need no quotes."""

    pattern = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
    allowed = "an amount like 500m, 4 or 64Gi"

    def parse(self, value: object) -> object:
        """The amount as text. ValueError: none."""
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(
                    f"got {value}, should be greater than or equal to 1 (allowed: {self.allowed})"
                )
            return str(value)
        if not isinstance(value, str):
            raise ValueError(f"got {quoted(value)} (allowed: {self.allowed})")  # noqa: TRY004  # for pydantic
        if len(value) > _MAX_QUANTITY_LENGTH:
            limit = f"may not be more than {_MAX_QUANTITY_LENGTH} bytes"
            raise ValueError(f"got {quoted(value)}, {limit} (allowed: {self.allowed})")
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"got {quoted(value)}, should match '{self.pattern}' (allowed: {self.allowed})")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "minimum": 1,
            "maxLength": _MAX_QUANTITY_LENGTH,
            "pattern": self.pattern,
        }


Interval = Annotated[float | None, IntervalText()]
Quantity = Annotated[str, QuantityText()]
ImageName = Annotated[
    str, Text(pattern="[!-~]+", max_length=512, allowed="an image reference without blanks")
]
ChildName = Annotated[
    str,
    Text(
        pattern="[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
        max_length=253,
        allowed="a name of a Kubernetes object: a-z, 0-9, '-' and '.'",
    ),
]
QualifiedName = Annotated[
    str,
    Text(
        pattern="([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
        max_length=253,
        allowed="a name like nvidia.com/gpu or topology.kubernetes.io/zone",
    ),
]
Time = Annotated[
    str,
    Text(
        pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})",
        max_length=35,
        allowed="a time like 2026-11-26T10:00:00Z",
    ),
]

_IS_DURATION = f"self.size() > 0 && self.matches(r'^{DURATION_PATTERN}$')"


def _within(low: str, high: str) -> str:
    return f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')"


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and len(value) <= _MAX_DURATION_LENGTH:
        try:
            return parse_duration(value)
        except ValueError:
            pass
    return None


def _shown(value: object) -> str:
    if isinstance(value, str) and len(value) > _MAX_DURATION_LENGTH:
        return f"{quoted(value)}, may not be more than {_MAX_DURATION_LENGTH} bytes"
    return repr(value)


def _cel(rule: str, allowed: str) -> dict[str, Any]:
    return {"x-kubernetes-validations": [{"rule": rule, "message": f"allowed: {allowed}"}]}

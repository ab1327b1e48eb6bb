"""What every model of the LLMService has in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """camelCase in YAML, snake_case in Python; frozen, strict, unknown fields are errors, null is absent."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: value for key, value in data.items() if value is not None or key not in known}


def _without_null(entries: Any) -> Any:
    if not isinstance(entries, dict):
        return entries
    return {key: value for key, value in entries.items() if value is not None}


NullIsAbsent = BeforeValidator(_without_null)
"""For a map: the API server drops entries that are null."""
Texts = Annotated[dict[str, str], NullIsAbsent]

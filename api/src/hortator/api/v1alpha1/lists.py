"""Lists whose items have a key of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_snake
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class ListMap:
    """No two items have the same key; server-side apply merges such a list item by item."""

    key: str
    """As YAML spells it."""

    def check(self, items: Sequence[BaseModel]) -> Sequence[BaseModel]:
        """The items themselves. ValueError: two of them have one key."""
        seen = set()
        for item in items:
            value = getattr(item, to_snake(self.key))
            if value in seen:
                raise ValueError(f"Duplicate value: {self.key} {value} (allowed: each {self.key} once)")
            seen.add(value)
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            **handler(schema),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [self.key],
        }

"""A pydantic model as a structural schema: the part of OpenAPI v3 that a CustomResourceDefinition may use.

What differs from pydantic's JSON schema:

1. No references, titles, `const` or `additionalProperties: false`: models are written out in place.
2. Optional is absent, not null: the API server drops nulls.
3. Every field of a spec that has a default carries it, so that objects are stored complete and CEL may read
   the field. A model's default is written out, since the rules of that model are executed on it as it stands.
   A status has none: what the operator reads back is what it wrote.
4. `exclusiveMinimum` is a boolean beside `minimum`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "enum",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
)


def structural_schema(model: type[BaseModel], *, with_defaults: bool) -> Schema:
    """The schema of one model with all models inside it."""
    return _Writer(model, with_defaults=with_defaults).object(model)


class _Writer:
    def __init__(self, root: type[BaseModel], *, with_defaults: bool) -> None:
        self._models = {model.__name__: model for model in _models(root)}
        self._with_defaults = with_defaults

    def object(self, model: type[BaseModel]) -> Schema:
        source = model.model_json_schema(by_alias=True)
        defaults = model.model_construct().model_dump(mode="json", by_alias=True, warnings=False)
        properties: Schema = {}
        for name, field in model.model_fields.items():
            alias = field.alias or name
            described = {"description": field.description} if field.description else {}
            properties[alias] = self.node({**source["properties"][alias], **described})
            if field.is_required() or not self._with_defaults:
                continue
            default = _without_absent(defaults[alias])
            is_model = isinstance(field.get_default(call_default_factory=True, validated_data={}), BaseModel)
            if is_model or default not in (None, {}, []):
                properties[alias]["default"] = default
        required = {"required": source["required"]} if "required" in source else {}
        return _described(source) | {"type": "object"} | required | {"properties": properties}

    def node(self, source: Schema) -> Schema:
        if "x-kubernetes-int-or-string" in source:
            return _described(source) | {"anyOf": source["anyOf"]} | _kept(source)
        options = [option for option in source.get("anyOf", ()) if option != {"type": "null"}]
        if options:
            (only,) = options  # a union of two types has no structural schema
            return self.node({**only, **_described(source)})
        if "$ref" in source:
            return self.object(self._models[source["$ref"].rpartition("/")[2]]) | _described(source)
        schema = _described(source) | _kept(source)
        if "items" in source:
            schema["items"] = self.node(source["items"])
        if isinstance(source.get("additionalProperties"), dict):
            schema["additionalProperties"] = self.node(source["additionalProperties"])
        return schema


def _described(source: Schema) -> Schema:
    text = " ".join(source.get("description", "").split())
    return {"description": text} if text else {}


def _kept(source: Schema) -> Schema:
    kept = {key: source[key] for key in _KEPT if key in source}
    if "exclusiveMinimum" in kept:
        kept |= {"minimum": kept["exclusiveMinimum"], "exclusiveMinimum": True}
    return kept


def _without_absent(value: Any) -> Any:
    """Without what is absent; a list that is empty is, in what is stored."""
    if not isinstance(value, dict):
        return value
    return {key: _without_absent(inner) for key, inner in value.items() if inner not in (None, [])}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model in an annotation, and those inside of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation)
    elif get_origin(annotation) in {tuple, Union, UnionType}:
        for option in get_args(annotation):
            yield from _models(option)

"""Does an object have to be applied? Only if the live one does not say what is wanted.

`covers(live, wanted)`: everything that is wanted is in the live object. Defaults that the API server filled
in are no difference, nor is an empty value that it leaves out, nor `1` and `1000m` of a resource. Lists are
compared item by item; several kinds of lists have extra items in the live object only if somebody added them,
and those are taken back.

What is not wanted any more is found in the live object's record of who set what (managedFields): a field that
the operator set and now leaves out calls for an apply too, which removes it.
"""

from __future__ import annotations

from typing import Any

from hortator.operator import names
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import items, loads, mapping, quantity, text

_QUANTITIES = {"limits", "requests", "sizeLimit", "capacity", "resources"}
_SYSTEM = {"f:resourceVersion", "f:uid", "f:creationTimestamp", "f:generation", "f:managedFields"}


def needs_apply(live: Obj, wanted: Obj) -> bool:
    """Whether `wanted` is to be applied over `live`."""
    head = {key: value for key, value in wanted.items() if key not in {"apiVersion", "kind"}}
    return not covers(live, head) or any(_leftover(fields, wanted) for fields in _owned(live))


def covers(live: Any, wanted: Any, *, key: str = "") -> bool:
    """Everything in `wanted` is in `live`."""
    if _is_empty(wanted):
        return _is_empty(live) or wanted == live
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return False
        inner = _QUANTITIES & {key}
        return all(
            covers(live.get(name), value, key=key if inner else str(name)) for name, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(one, other, key=key) for one, other in zip(live, wanted, strict=True))
        )
    if wanted == live and isinstance(wanted, bool) == isinstance(live, bool):
        return True
    amount = quantity(wanted) if key in _QUANTITIES else None
    return amount is not None and amount == quantity(live)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", {}, [], ()) or value == 0


def _owned(live: Obj) -> list[Obj]:
    entries = items(live, "metadata", "managedFields")
    return [
        fields
        for entry in entries
        if text(entry, "manager") == names.FIELD_MANAGER
        and text(entry, "operation") == "Apply"
        and not text(entry, "subresource")
        and (fields := mapping(entry, "fieldsV1"))
    ]


def _leftover(fields: Obj, wanted: Any) -> bool:
    """Whether a recorded field is not in `wanted`."""
    for key, below in fields.items():
        if key == "." or key in _SYSTEM:
            continue
        kind, _, name = key.partition(":")
        if kind == "f":
            found = wanted.get(name) if isinstance(wanted, dict) else None
            if not isinstance(wanted, dict) or name not in wanted:
                return True
        elif kind == "k":
            found = _item(wanted, loads(name))
            if found is None:
                return True
        else:  # v: a value of a set, i: a position; the list itself was compared already
            continue
        if isinstance(below, dict) and below and _leftover(below, found):
            return True
    return False


def _item(wanted: Any, keys: Any) -> Any:
    if not isinstance(wanted, list) or not isinstance(keys, dict):
        return None
    for entry in wanted:
        if isinstance(entry, dict) and all(
            entry.get(key, _DEFAULT_KEYS.get(key)) == value for key, value in keys.items()
        ):
            return entry
    return None


_DEFAULT_KEYS = {"protocol": "TCP"}

"""Reading raw Kubernetes objects: every function is total.

What the API server, an old client or a person with `kubectl edit` left in an object may have any shape; a
field of another type than expected reads as if it were absent. Nothing here raises.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from hortator.operator.objects import Obj

_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_FACTOR: dict[str, float] = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


def at(value: Any, *path: str | int) -> Any:
    """What stands at a path of keys and indexes; None when any part of it is missing."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(value, list) or not -len(value) <= part < len(value):
                return None
            value = value[part]
        else:
            if not isinstance(value, dict):
                return None
            value = value.get(part)
    return value


def text(value: Any, *path: str | int) -> str:
    """A text, "" when there is none."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def is_owned_by(obj: Obj, uid: str) -> bool:
    """Whether an object is a child of the one with this uid, and not of an earlier one of its name."""
    return any(text(owner, "uid") == uid for owner in items(obj, "metadata", "ownerReferences"))


def number(value: Any, *path: str | int, default: int = 0) -> int:
    """A whole number, `default` when there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else default


def maybe_number(value: Any, *path: str | int) -> int | None:
    """A whole number, None when there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def flag(value: Any, *path: str | int) -> bool:
    """True only where the value is exactly true."""
    return at(value, *path) is True


def mapping(value: Any, *path: str | int) -> Obj:
    """A mapping, empty when there is none."""
    found = at(value, *path)
    return {str(key): entry for key, entry in found.items()} if isinstance(found, dict) else {}


def texts(value: Any, *path: str | int) -> dict[str, str]:
    """The entries of a mapping that are texts, as labels and annotations are."""
    return {key: entry for key, entry in mapping(value, *path).items() if isinstance(entry, str)}


def items(value: Any, *path: str | int) -> list[Obj]:
    """The mappings in a list, empty when there is no list."""
    found = at(value, *path)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def instant(value: Any, *path: str | int) -> datetime | None:
    """An RFC 3339 time, None when there is none."""
    return parse_time(text(value, *path))


def parse_time(written: str) -> datetime | None:
    """An RFC 3339 text as an instant; None for anything else. Without a zone it is taken as UTC."""
    try:
        parsed = datetime.fromisoformat(written)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_later(moment: datetime, seconds: float) -> datetime:
    """`moment` plus some seconds; the end of the calendar instead of an overflow."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def loads(written: str) -> Any:
    """JSON in an annotation, None when it is not JSON."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return None


def quantity(value: Any) -> float | None:
    """A resource quantity as a number: `8`, `500m`, `64Gi`. None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    try:
        parsed = float(match[1]) * _FACTOR[match[2] or ""]
    except OverflowError:
        return None
    return parsed if math.isfinite(parsed) else None


def quantities(value: Any, *path: str | int) -> dict[str, float]:
    """The entries of a mapping that are quantities: capacity, requests, limits."""
    found = {name: quantity(entry) for name, entry in mapping(value, *path).items()}
    return {name: entry for name, entry in found.items() if entry is not None}

"""Copies of objects as JSON has them: several times faster than the general `copy.deepcopy`, of which tests make millions."""

from typing import TypeVar

T = TypeVar("T")


def copied(value: T) -> T:
    """Dicts and lists anew; everything else in them cannot change."""
    kind = type(value)
    if kind is dict:
        return {key: copied(inner) for key, inner in value.items()}  # type: ignore[attr-defined,return-value]
    if kind is list:
        return [copied(inner) for inner in value]  # type: ignore[attr-defined,return-value]
    return value

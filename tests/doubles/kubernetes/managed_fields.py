"""Who owns which field: the part of server-side apply that decides what is merged, taken over and removed.

A path names one field: field names, and for an item of an associative list its keys. Lists are associative
(`LIST_KEYS`), sets (`SETS`) or atomic (everything else, as in a CRD without list types).
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from doubles.kubernetes.json_copy import copied

Path = tuple[Any, ...]
"""Field names; ("k", ((key, value), ...)) for an item of a list; ("v", json) for an item of a set."""

LIST_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "conditions": ("type",),
    "containerStatuses": ("name",),
    "ownerReferences": ("uid",),
    "roles": ("name",),
    "groups": ("name",),
    "members": ("index",),
    "endpoints": ("name",),
    "addresses": ("type",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
SETS = frozenset({"finalizers"})
_DEFAULTS = {"protocol": "TCP"}


class Conflict(Exception):  # noqa: N818  # it is not raised past the API
    """Others own these fields with other values."""

    def __init__(self, managers: set[str], paths: list[Path]) -> None:
        names = ", ".join(sorted(managers))
        shown = ", ".join(sorted(show(path) for path in paths))
        super().__init__(f"Apply failed with {len(paths)} conflicts: conflicts with {names}: {shown}")


def keys_of(field: object, items: list[Any]) -> tuple[str, ...] | None:
    """The keys of an associative list, None for an atomic one."""
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    if field == "ports":
        return ("containerPort", "protocol") if "containerPort" in items[0] else ("port", "protocol")
    keys = LIST_KEYS.get(field) if isinstance(field, str) else None
    return keys if keys and all(keys[0] in item for item in items) else None


def item_key(item: dict[str, Any], keys: tuple[str, ...]) -> Path:
    """The path element of an item of an associative list."""
    return ("k", tuple((key, item.get(key, _DEFAULTS.get(key))) for key in keys))


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every field that a configuration sets: scalars, atomic lists, empty maps, and the items of lists."""
    field = path[-1] if path else None
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list) and field in SETS:
        yield from ((*path, ("v", json.dumps(item))) for item in value)
    elif isinstance(value, list) and (keys := keys_of(field, value)):
        for item in value:
            here = (*path, item_key(item, keys))
            yield here
            yield from leaves(item, here)
    else:
        yield path


def value_at(value: Any, path: Path) -> Any:
    """What stands at a path; KeyError when nothing does. An item of a list is itself."""
    for element in path:
        match element:
            case ("k", keys):
                value = next(item for item in _list(value) if _has_keys(item, keys))
            case ("v", text):
                value = next(item for item in _list(value) if json.dumps(item) == text)
            case name if isinstance(value, dict):
                value = value[name]
            case _:
                raise KeyError(path)
    return value


def has(value: Any, path: Path) -> bool:
    """Whether a path exists."""
    try:
        value_at(value, path)
    except (KeyError, StopIteration):
        return False
    return True


def merge(live: Any, applied: Any, field: object = None) -> Any:
    """The live value with a configuration laid over it."""
    if isinstance(live, dict) and isinstance(applied, dict):
        merged = dict(live)
        for name, inner in applied.items():
            merged[name] = merge(live[name], inner, name) if name in live else copied(inner)
        return merged
    if isinstance(live, list) and isinstance(applied, list):
        if field in SETS:
            return live + [item for item in applied if item not in live]
        keys = keys_of(field, live + applied)
        if keys:
            theirs = {item_key(item, keys): item for item in applied}
            merged = [merge(item, theirs.pop(item_key(item, keys), {})) for item in live]
            return merged + [copied(item) for item in theirs.values()]
    return copied(applied)


def remove(value: Any, path: Path) -> None:
    """Take a field out, and maps that are empty thereafter."""
    *parents, last = path
    try:
        holder = value_at(value, tuple(parents))
    except (KeyError, StopIteration):
        return
    match last:
        case ("k", keys):
            holder[:] = [item for item in holder if not _has_keys(item, keys)]
        case ("v", text):
            holder[:] = [item for item in holder if json.dumps(item) != text]
        case _ if isinstance(holder, dict):
            holder.pop(last, None)
    if not holder and parents:
        remove(value, tuple(parents))


def apply(
    live: dict[str, Any], config: dict[str, Any], owners: dict[str, set[Path]], manager: str, *, force: bool
) -> tuple[dict[str, Any], dict[str, set[Path]]]:
    """The object and its owners after `manager` applied `config`. Raises Conflict."""
    wanted = set(leaves(config))
    disputed: dict[str, list[Path]] = {}
    for other, paths in owners.items():
        if other == manager:
            continue
        differing = [path for path in wanted & paths if not _is_item(path) and _differs(live, config, path)]
        if differing:
            disputed[other] = differing
    if disputed and not force:
        raise Conflict(set(disputed), [path for paths in disputed.values() for path in paths])
    after = {other: paths - set(disputed.get(other, ())) for other, paths in owners.items()}
    merged = copied(merge(live, config))
    for path in sorted(owners.get(manager, set()) - wanted, key=len):
        others = [paths for other, paths in after.items() if other != manager]
        if not any(_covers(paths, path) for paths in [wanted, *others]):
            remove(merged, path)
    after[manager] = wanted
    return merged, _pruned(after, merged)


def emptied(config: dict[str, Any], owned: set[Path]) -> list[Path]:
    """Maps that a configuration leaves empty although its manager has set something in them before."""
    empty = [path for path in leaves(config) if not _is_item(path) and value_at(config, path) == {}]
    return [path for path in empty if any(one[: len(path)] == path and one != path for one in owned)]


def update(
    before: dict[str, Any], now: dict[str, Any], owners: dict[str, set[Path]], manager: str
) -> dict[str, set[Path]]:
    """The owners after `manager` wrote an object: it owns what it changed, nobody else does."""
    changed = {path for path in leaves(now) if not has(before, path) or _differs(before, now, path)}
    changed = {path for path in changed if not _is_item(path) or not has(before, path)}
    after = {other: paths - changed for other, paths in owners.items()}
    after[manager] = after.get(manager, set()) | changed
    return _pruned(after, now)


def fields_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """The form in which the API shows a set of paths."""
    tree: dict[str, Any] = {}
    for path in sorted(paths, key=_text):
        at = tree
        for element in path:
            at = at.setdefault(_encoded(element), {})
        if _is_item(path):
            at["."] = {}
    return tree


def show(path: Path) -> str:
    """A path as the API server writes it in messages."""
    return "".join(f".{element}" if isinstance(element, str) else _encoded(element)[1:] for element in path)


@functools.lru_cache(maxsize=1 << 16)
def _text(path: Path) -> str:
    return str(path)


@functools.lru_cache(maxsize=1 << 16)
def _encoded(element: Any) -> str:
    match element:
        case ("k", keys):
            return "k:" + json.dumps(dict(keys), separators=(",", ":"))
        case ("v", text):
            return f"v:{text}"
        case _:
            return f"f:{element}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has_keys(item: dict[str, Any], keys: tuple[tuple[str, Any], ...]) -> bool:
    """Whether this is the item of an associative list with these keys."""
    for name, value in keys:  # noqa: SIM110  # looked at millions of times
        if item.get(name, _DEFAULTS.get(name)) != value:
            return False
    return True


def _is_item(path: Path) -> bool:
    return bool(path) and isinstance(path[-1], tuple) and path[-1][0] == "k"


def _differs(one: Any, other: Any, path: Path) -> bool:
    try:
        return bool(value_at(one, path) != value_at(other, path))
    except (KeyError, StopIteration):
        return True


def _covers(paths: set[Path], path: Path) -> bool:
    """Whether a set owns a field or anything inside it."""
    return any(owned[: len(path)] == path for owned in paths)


def _pruned(owners: dict[str, set[Path]], obj: dict[str, Any]) -> dict[str, set[Path]]:
    kept = {name: {path for path in paths if has(obj, path)} for name, paths in owners.items()}
    return {name: paths for name, paths in kept.items() if paths}

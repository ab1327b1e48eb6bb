"""kopf's handlers: every event of a watched kind is handed on, and nothing else is done.

Only `on.event` and `on.login` are used: kopf then stores nothing in objects, adds no finalizer and decides
nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from hortator.operator.kinds import Watched

Login = Callable[[], Awaitable[kopf.AiohttpSession]]
Take = Callable[[Watched, kopf.RawEvent], None]


def build_registry(*, kinds: Sequence[Watched], take: Take, login: Login) -> kopf.OperatorRegistry:
    """Handlers for these kinds."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def connect(**_: Any) -> kopf.AiohttpSession:
        return await login()

    for kind in kinds:
        _on_event(registry, kind, take)
    return registry


def _on_event(registry: kopf.OperatorRegistry, kind: Watched, take: Take) -> None:
    group, version = kind.group_version

    @kopf.on.event(group, version, kind.plural, registry=registry, id=kind.plural)
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        take(kind, event)

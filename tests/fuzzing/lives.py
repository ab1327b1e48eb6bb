"""A life in virtual time: what a target does where waiting matters. It ends, or somebody is wedged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from virtual.loops import World

LIMIT_S = 10_000.0
"""Virtual time, so it costs nothing where nothing happens."""


class WedgedError(AssertionError):
    """Something waits that nobody will end."""


def live(life: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it to its end. Raises what it raises, and what is raised behind its back."""
    world = World()
    with structlog.testing.capture_logs() as logs:
        process = world.start("fuzzed", "127.0.0.1", lambda _: life())
        is_over = world.run(until=LIMIT_S, done=process.main.done)
        world.close()
    if not is_over:
        raise WedgedError(f"not over after {LIMIT_S:g} s")
    process.main.result()
    assert not world.problems, world.problems
    for entry in logs:
        assert entry["log_level"] not in {"error", "critical"} or entry.get("exc_info") is None, entry


async def turns(number: int = 20) -> None:
    """Let everything happen that needs no time."""
    for _ in range(number):
        await asyncio.sleep(0)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them and wait."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task

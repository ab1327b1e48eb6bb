"""Processes that simulate: the policies of one study, or whatever has names; as many at a time as cores.

What is done with a name is a task: a function of a module, or a `partial` of one, to be sent to processes,
which gets what all share and the name.

Nothing of a pool outlives what it was made for: cancelled, it ends its processes at once; when this process
dies, they end by themselves. Ctrl-C in a terminal reaches only this process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hortator.sim.records import RequestRecord
from hortator.sim.rows import write_rows
from hortator.sim.simulate import Study, simulate

S = TypeVar("S")
T = TypeVar("T")
Task = Callable[[S, str], T]


def simulate_one(study: Study, policy: str, *, rows: Path | None) -> dict[str, object]:
    """The figures of one policy, simulated in this process; `rows`: folder for a row of every request."""
    records: list[RequestRecord] | None = None if rows is None else []
    figures = simulate(study, policy, keep_records=records)
    if rows is not None and records is not None:
        write_rows(rows, policy, records)
    return figures


async def simulate_all(
    study: Study, policies: Sequence[str], *, rows: Path | None, on_done: Callable[[], None]
) -> dict[str, dict[str, object]]:
    """The figures of every policy, by name; `on_done` is called once per policy. Main thread only."""
    return await run_all(partial(simulate_one, rows=rows), study, policies, on_done=on_done)


async def run_all(
    task: Task[S, T], shared: S, names: Sequence[str], *, on_done: Callable[[], None]
) -> dict[str, T]:
    """What the task returns for every name, by name; otherwise as `simulate_all`."""
    done: dict[str, T] = {}
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(
        min(len(names), len(os.sched_getaffinity(0))),
        multiprocessing.get_context("spawn"),
        _remember,
        (shared,),
    )

    async def take(name: str, result: asyncio.Future[T]) -> None:
        done[name] = await asyncio.shield(result)
        on_done()

    try:
        with ctrl_c_held_back():  # the processes start here
            running = {name: loop.run_in_executor(pool, _run, task, name) for name in names}
        async with asyncio.TaskGroup() as tasks:
            for name, result in running.items():
                result.add_done_callback(_heard)
                tasks.create_task(take(name, result))
    except BaseException:
        # Nothing is cancelled: the pool's thread, which finds its processes dead, breaks over what is.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()
    return {name: done[name] for name in names}


def _heard(result: asyncio.Future[Any]) -> None:
    """Nobody waits any more for what the end of the pool broke."""
    if not result.cancelled():
        result.exception()


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """What starts in here never sees a SIGINT; this process sees one of that time afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_shared: list[Any] = []


def _remember(shared: object) -> None:
    """In each process of the pool: the workload is sent once, not once per name."""
    _shared[:] = [shared]
    end_with_parent()


def end_with_parent() -> None:
    """In a process of a pool: end when the process that started it has ended, however that was."""
    threading.Thread(target=_wait_for_parent, name="parent-watch", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Task[Any, T], name: str) -> T:
    if not _shared:
        raise RuntimeError("the pool was not initialised")
    return task(_shared[0], name)

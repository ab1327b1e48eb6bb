"""Processes that simulate: the policies of one study, as many at a time as there are cores.

What is done with a policy is a task: a function of a module, or a `partial` of one, to be sent to processes.

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
from typing import TypeVar

from hortator.sim.records import RequestRecord
from hortator.sim.rows import write_rows
from hortator.sim.simulate import Study, simulate

T = TypeVar("T")
Task = Callable[[Study, str], T]


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
    task: Task[T], study: Study, policies: Sequence[str], *, on_done: Callable[[], None]
) -> dict[str, T]:
    """What the task returns for every policy, by name; otherwise as `simulate_all`."""
    done: dict[str, T] = {}
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(
        min(len(policies), len(os.sched_getaffinity(0))),
        multiprocessing.get_context("spawn"),
        _remember,
        (study,),
    )

    async def take(policy: str, result: asyncio.Future[T]) -> None:
        done[policy] = await result
        on_done()

    try:
        with ctrl_c_held_back():  # the processes start here
            running = {policy: loop.run_in_executor(pool, _run, task, policy) for policy in policies}
        async with asyncio.TaskGroup() as tasks:
            for policy, result in running.items():
                tasks.create_task(take(policy, result))
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return {policy: done[policy] for policy in policies}


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """What starts in here never sees a SIGINT; this process sees one of that time afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_study: Study | None = None


def _remember(study: Study) -> None:
    """In each process of the pool: the workload is sent once, not once per policy."""
    global _study  # noqa: PLW0603
    _study = study
    end_with_parent()


def end_with_parent() -> None:
    """In a process of a pool: end when the process that started it has ended, however that was."""
    threading.Thread(target=_wait_for_parent, name="parent-watch", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(task: Task[T], policy: str) -> T:
    if _study is None:
        raise RuntimeError("the pool was not initialised")
    return task(_study, policy)

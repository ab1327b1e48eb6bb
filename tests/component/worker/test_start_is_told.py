"""A start that takes long says in the log what it waits for."""

import asyncio

import pytest
from structlog.testing import capture_logs

from hortator.runtime.metrics import new_registry
from hortator.worker.app import tell
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.startup import Startup, StartupPhase


@pytest.mark.looptime
async def test_it_is_said_again_and_again_until_the_start_is_over():
    phases = (StartupPhase.MEMBERS_JOINED, StartupPhase.ENGINE_STARTED)
    startup = Startup(phases, WorkerMetrics(new_registry()))
    startup.waiting_for = lambda: "members 1 of 2 have not joined"
    with capture_logs() as logs:
        telling = asyncio.create_task(tell(startup, every_s=30.0))
        await asyncio.sleep(65)
        startup.reached(StartupPhase.MEMBERS_JOINED)
        startup.waiting_for = lambda: "rank 9 on pod-1 has said nothing"
        await asyncio.sleep(30)
        startup.reached(StartupPhase.ENGINE_STARTED)
        await asyncio.sleep(30)
    assert telling.done()
    assert [(one["event"], one["waits_for"]) for one in logs] == [
        ("still starting", "the group is not complete: members 1 of 2 have not joined"),
        ("still starting", "the group is not complete: members 1 of 2 have not joined"),
        ("still starting", "the engine is starting: rank 9 on pod-1 has said nothing"),
    ]

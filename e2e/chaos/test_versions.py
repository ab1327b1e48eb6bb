"""Every component is rolled to this version and back under load, so each meets the version before of all others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from chaos import previous
from chaos.experiment import end, errors_in_logs
from chaos.load import Load
from chaos.service import Kept, Service, running_service

COMPONENTS = ("scheduler", "worker", "gateway")
NUM_CLIENTS = 8
ROLL_TIMEOUT_S = 60.0


async def roll(service: Service, component: str) -> None:
    """One after the other: told to end, and started again from what the component's sources are by now."""
    for kept in service.kept.values():
        if kept.component == component:
            await _replace(kept)
            await service.all_ready()


async def _replace(kept: Kept) -> None:
    before = kept.num_starts
    kept.signal(signal.SIGTERM)
    async with asyncio.timeout(ROLL_TIMEOUT_S):
        while kept.num_starts == before or not kept.is_whole:
            await asyncio.sleep(0.05)


def path_of(component: str, sources: Sequence[Path]) -> Path:
    """Where its processes have their code from."""
    command = [sys.executable, "-c", f"import hortator.{component} as it; print(it.__path__[0])"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources))}
    return Path(
        subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout.strip()
    )


@pytest.mark.safety
@pytest.mark.timeout(400)
async def test_no_request_fails_while_versions_run_side_by_side(tmp_path):
    older = previous.packages(tmp_path / "previous")
    if not older:
        pytest.skip(f"the history of this checkout does not reach back to {previous.COMMIT}")
    assert [path_of(component, older) for component in COMPONENTS] == [
        tmp_path / f"previous/{component}/src/hortator/{component}" for component in COMPONENTS
    ]
    logs = tmp_path / "logs"
    logs.mkdir()
    async with running_service(logs, dict.fromkeys(COMPONENTS, older)) as service:
        load = Load(service.endpoints, seed=3, num_clients=NUM_CLIENTS)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await asyncio.sleep(2)
            for component in COMPONENTS:
                del service.starter.sources[component]
                await roll(service, component)
            num_upgraded = load.num_ended
            for component in COMPONENTS:
                service.starter.sources[component] = older
                await roll(service, component)
            load.is_over = True
        num_starts = {kept.num_starts for kept in service.kept.values()}
        problems = load.problems + await end(service)
    assert not problems + errors_in_logs(logs)
    assert num_starts == {3}
    assert num_upgraded > NUM_CLIENTS
    assert load.num_ended > num_upgraded + NUM_CLIENTS
    print(f"{load.num_requests} requests, {load.num_tokens} tokens, worst wait {load.longest_wait_s:.1f} s")

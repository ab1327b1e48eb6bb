"""A contender in front of the engines, ready for requests, and gone afterwards.

The defaults of Hortator's knobs that are times (`SchedulerSettings`) are for passes of about a second. These
engines run `time_scale` times slower than those they model, so the knobs are multiplied by it, as the passes
are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hortator.api.v1alpha1 import LLMService
from hortator.cli import process_settings
from hortator.cli.admin.client import AdminClient
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.processes import Child, ProcessChanged, ProcessSpec
from hortator.cli.stack import with_policy
from hortator.scheduler.core.model import SchedulerSettings
from peers.clients import Client, HortatorClient, ProxyClient, SelectorClient, completion_body
from peers.contenders import Contender, EngineDoor, Hortator, Place, Proxy, Selector
from peers.engines import EngineGroup
from peers.programs import answers_ok, free_ports, program, until

JOIN_TIMEOUT_S = 30.0
SETTLE_S = 2.0
"""After the first answer: routers that poll loads have done so once by then."""
PROBE = b"probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A contender that serves."""

    client: Client
    session_ids: tuple[int, ...]
    """Of its processes, for their processor time."""


@asynccontextmanager
async def launched(
    contender: Contender, engines: EngineGroup, *, programs: Path | None, folder: Path
) -> AsyncIterator[Launched]:
    """Start a contender for the length of the block.

    Args:
        contender: who.
        engines: that run.
        programs: folder of the programs of its environment; None where it has none.
        folder: with `settings/` and `logs/` in it.

    Raises:
        CommandError: it does not start.
    """
    async with AsyncExitStack() as stack:
        match contender.kind:
            case Hortator(policy=policy):
                yield await _hortator(policy, engines, folder, stack)
            case Proxy() as proxy:
                place = _place(engines, programs, folder)
                yield await _proxy(contender, proxy, place, engines, stack)
            case Selector() as selector:
                place = _place(engines, programs, folder)
                yield await _selector(contender, selector, place, engines, stack)


def scheduler_knobs(time_scale: float) -> Mapping[str, float]:
    """Knobs of the scheduler that are times, on engines that run `time_scale` times slower."""
    defaults = SchedulerSettings()
    return {
        "max_hold_s": defaults.max_hold_s * time_scale,
        "gathered_first_s": defaults.gathered_first_s * time_scale,
        "age_first_s": defaults.age_first_s * time_scale,
        "backlog_weight": defaults.backlog_weight / time_scale,
    }


async def _hortator(policy: str, engines: EngineGroup, folder: Path, stack: AsyncExitStack) -> Launched:
    service = with_policy(engines.service, policy)
    address = f"127.0.0.1:{engines.scheduler_port}"
    scheduler = _child("scheduler", "hortator.scheduler", _scheduler_settings(service, engines), folder)
    gateway = _child(
        "gateway",
        "hortator.gateway",
        process_settings.gateway(service, port=0, scheduler_addresses=[address], log_level="WARNING"),
        folder,
    )
    tasks = await stack.enter_async_context(asyncio.TaskGroup())
    for child in (scheduler, gateway):
        tasks.create_task(child.keep_running())
        stack.push_async_callback(child.stop)
        await child.wait_ready()
    async with AdminClient(address) as admin, asyncio.timeout(JOIN_TIMEOUT_S):
        while True:
            snapshot = await admin.snapshot()
            reported = {group.worker_id for group in snapshot.groups if group.state != "unreported"}
            if snapshot.num_gateways and reported >= set(engines.worker_ids):
                break
            await asyncio.sleep(0.1)
    client = await HortatorClient.open(gateway.address)
    stack.push_async_callback(client.close)
    return Launched(client=client, session_ids=(scheduler.running().pid, gateway.running().pid))


def _scheduler_settings(service: LLMService, engines: EngineGroup) -> Mapping[str, object]:
    settings = dict(
        process_settings.scheduler(service, port=engines.scheduler_port, log_level="WARNING", record_to=None)
    )
    core = settings["core"]
    if isinstance(core, Mapping):
        knobs = scheduler_knobs(engines.time_scale)
        settings["core"] = {**core, "decode_reservation": False, **knobs}
    return settings


def _child(name: str, module: str, settings: Mapping[str, object], folder: Path) -> Child:
    spec = ProcessSpec(name=name, module=module, settings=lambda: settings, stop_timeout_s=5.0)
    return Child(spec=spec, folder=folder, on_change=_ignore)


def _place(engines: EngineGroup, programs: Path | None, folder: Path) -> Place:
    port, metrics_port = free_ports(2)
    return Place(
        programs=programs or Path(),
        port=port,
        metrics_port=metrics_port,
        engines=engines.doors,
        folder=folder,
    )


async def _proxy(
    contender: Contender, proxy: Proxy, place: Place, engines: EngineGroup, stack: AsyncExitStack
) -> Launched:
    log_path = place.folder / "logs" / f"{contender.name}.log"
    process = await stack.enter_async_context(
        program(contender.name, proxy.command(place), log_path=log_path)
    )
    url = f"http://127.0.0.1:{place.port}"
    body = completion_body(engines.service.model_name, PROBE)
    headers = {"Content-Type": "application/json", **proxy.headers}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def is_ready() -> bool:
            return await answers_ok(session, f"{url}/v1/completions", body)

        await until(contender.name, is_ready, process=process, log_path=log_path)
        await asyncio.sleep(SETTLE_S)
    client = ProxyClient(url, model=engines.service.model_name, headers=proxy.headers)
    stack.push_async_callback(client.close)
    return Launched(client=client, session_ids=(process.pid,))


async def _selector(
    contender: Contender, selector: Selector, place: Place, engines: EngineGroup, stack: AsyncExitStack
) -> Launched:
    log_path = place.folder / "logs" / f"{contender.name}.log"
    process = await stack.enter_async_context(
        program(contender.name, selector.command(place), log_path=log_path, variables=selector.variables)
    )
    url = f"http://127.0.0.1:{place.port}"
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

        async def is_ready() -> bool:
            return await answers_ok(session, f"{url}/health")

        await until(contender.name, is_ready, process=process, log_path=log_path)
        for worker_id, door in enumerate(engines.doors):
            body = await _registration(session, engines, worker_id, door)
            async with session.post(f"{url}/workers", data=body) as response:
                if response.status not in {200, 201}:
                    text = f"{contender.name}: worker {worker_id}: {response.status} {await response.text()}"
                    raise CommandError(text, exit_code=EXIT_FAILED)
    client = SelectorClient(
        url,
        model=engines.service.model_name,
        engine_urls={index: door.url for index, door in enumerate(engines.doors)},
        name=f"{contender.name}-{time.time_ns()}",
    )
    stack.push_async_callback(client.close)
    return Launched(client=client, session_ids=(process.pid,))


async def _registration(
    session: aiohttp.ClientSession, engines: EngineGroup, worker_id: int, door: EngineDoor
) -> bytes:
    """What a selector is told of an EP group."""
    async with session.get(f"{door.url}/server_info") as response:
        info = await response.json()
    tokens_per_block = engines.service.spec.roles[0].tokens_per_block
    return json.dumps(
        {
            "worker_id": worker_id,
            "model_name": engines.service.model_name,
            "endpoint": door.url,
            "block_size": tokens_per_block,
            "data_parallel_start_rank": 0,
            "data_parallel_size": info["dp_size"],
            "max_num_batched_tokens": info["chunked_prefill_size"],
            "total_kv_blocks": info["max_total_num_tokens"] // tokens_per_block,
        }
    ).encode()


def _ignore(_change: ProcessChanged) -> None:
    """Nobody watches."""

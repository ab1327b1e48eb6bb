"""The engine group that all contenders share: its processes, their ports, and what a load asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hortator.api.files import load_llmservice
from hortator.api.v1alpha1 import LLMService
from hortator.cli import process_settings
from hortator.cli.processes import Child, ProcessChanged, ProcessSpec
from hortator.cli.stack import group_names
from peers.contenders import EngineDoor
from peers.programs import free_ports

MANIFEST = Path(__file__).parent / "cluster.yaml"
IDLE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineGroup:
    """The running engines."""

    service: LLMService
    doors: tuple[EngineDoor, ...]
    worker_ids: tuple[str, ...]
    scheduler_port: int
    """Where the workers look for a scheduler."""

    @property
    def time_scale(self) -> float:
        """Seconds here per modelled second."""
        return float(self.service.spec.engine.simulated_options.time_scale)

    async def wait_idle(self, session: aiohttp.ClientSession) -> None:
        """Return when no engine has a request. Raises TimeoutError."""
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            for door in self.doors:
                while await _num_requests(session, door.url):  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.1)


def load_service(chunk_budget_tokens: int) -> LLMService:
    """The manifest beside this module, with that chunk budget."""
    service = load_llmservice(MANIFEST)
    entry, *others = service.spec.roles
    entry = entry.model_copy(update={"chunk_budget_tokens": chunk_budget_tokens})
    spec = service.spec.model_copy(update={"roles": (entry, *others)})
    return service.model_copy(update={"spec": spec})


@asynccontextmanager
async def running_engines(service: LLMService, *, folder: Path) -> AsyncIterator[EngineGroup]:
    """One process per prefill EP group for the length of the block.

    Args:
        service: the manifest.
        folder: with `settings/` and `logs/` in it.

    Raises:
        CommandError: one did not start.
    """
    entry = service.spec.roles[0]
    names = [name for name, role in group_names(service) if role == entry.name]
    dp_size = entry.parallelism.attention_dp
    num_ports = 2 + dp_size
    ports = free_ports(1 + len(names) * num_ports)
    scheduler_port, taken = ports[0], ports[1:]
    doors, children = [], []
    for index, name in enumerate(names):
        http_port, sglang_port, *rank_ports = taken[index * num_ports : (index + 1) * num_ports]
        doors.append(
            EngineDoor(
                url=f"http://127.0.0.1:{http_port}",
                rank_urls=tuple(f"http://127.0.0.1:{port}" for port in rank_ports),
                sglang_url=f"grpc://127.0.0.1:{sglang_port}",
            )
        )
        worker = _worker_settings(service, name, scheduler_port)
        settings: dict[str, object] = {
            "worker": worker,
            "http_port": http_port,
            "rank_ports": rank_ports,
            "sglang_port": sglang_port,
        }
        spec = ProcessSpec(name=name, module="peers.engine", settings=_giving(settings))
        children.append(Child(spec=spec, folder=folder, on_change=_ignore))
    async with asyncio.TaskGroup() as tasks:
        for child in children:
            tasks.create_task(child.keep_running())
        try:
            for child in children:
                await child.wait_ready()
            yield EngineGroup(
                service=service, doors=tuple(doors), worker_ids=tuple(names), scheduler_port=scheduler_port
            )
        finally:
            for child in children:
                await child.stop()


def _worker_settings(service: LLMService, name: str, scheduler_port: int) -> Mapping[str, object]:
    settings = dict(
        process_settings.worker(
            service,
            role_name=service.spec.roles[0].name,
            worker_id=name,
            scheduler_addresses=[f"127.0.0.1:{scheduler_port}"],
            log_level="WARNING",
        )
    )
    options = settings["engine_options"]
    if isinstance(options, Mapping):
        # No prompt shares anything with another, and the HTTP doors know no block hashes.
        settings["engine_options"] = {**options, "prefix_cache": False}
    return settings


def _giving(settings: Mapping[str, object]) -> Callable[[], Mapping[str, object]]:
    return lambda: settings


async def _num_requests(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/load") as response:
        return int((await response.json())["server_load"])


def _ignore(_change: ProcessChanged) -> None:
    """Nobody watches."""

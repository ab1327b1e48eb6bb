"""The processes of a service, each started again when it ends, and a relay on each link between them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from group_processes import Process, Starter, a_free_port, cleared
from live_stack import Metrics
from relays import Relay

POLL_S = 0.02
READY_TIMEOUT_S = 180.0
RESTART_AFTER_S = 0.1
CONTEXT = "HORTATOR_CHAOS_RUN"
"""In the environment of everything that a run starts, so that what it leaves behind is found."""
VOCAB_SIZE, FIRST_TOKEN = 127, 32
ENGINE = {
    "dp_size": 2,
    "chunk_budget_tokens": 512,
    "max_batch_size": 16,
    "kv_blocks_total": 400,
    "tokens_per_block": 16,
    "time_scale": 0.5,
    "vocab_size": VOCAB_SIZE,
    "first_token_id": FIRST_TOKEN,
}
MAX_SEQUENCE_TOKENS = 4096
ORPHAN_KEEP_S = 5.0
KV_LEASE_S = 5.0

EMPTY = {
    "gateway": ("hortator_gateway_in_flight", "hortator_gateway_waiting", "hortator_gateway_streams"),
    "worker": (
        "hortator_worker_running_requests",
        "hortator_worker_orphans",
        "hortator_worker_kv_leases",
        "hortator_worker_prefill_load_tokens",
        "hortator_worker_kv_blocks_used",
        "hortator_worker_batch_size",
    ),
    "scheduler": ("hortator_scheduler_waiting_requests", "hortator_scheduler_in_flight_requests"),
}
"""What is zero when nothing is held anywhere, by component."""
IS_LEADER = "hortator_scheduler_is_leader"
WATCHED = (IS_LEADER, *(name for names in EMPTY.values() for name in names))

Settings = Mapping[str, object]


@dataclass
class Kept:
    """Some processes that live and die together: one, or those of an EP group."""

    name: str
    role: str
    """scheduler, gateway, prefill or decode."""
    component: str
    settings: Callable[[int], Sequence[Settings]]
    """Of each process, by how often they were started before."""
    starter: Starter
    processes: list[Process] = field(default_factory=list)
    num_starts: int = 0
    is_ready: bool = False
    terminated_at: float | None = None
    """Told to end, and not started again yet."""
    stopped: set[int] = field(default_factory=set)
    """Ordinals of processes that got SIGSTOP."""
    exit_codes: list[int] = field(default_factory=list)
    peak_kib: int = 0
    """Resident memory of the largest of them, at any time."""
    is_over: bool = False

    @property
    def first(self) -> Process:
        """The one that others speak to."""
        return self.processes[0]

    @property
    def is_whole(self) -> bool:
        """It serves, and nobody does anything to it."""
        return self.is_ready and self.terminated_at is None and not self.stopped

    async def run(self) -> None:
        """Start them, and again whenever one ends, until `end`."""
        while not self.is_over:
            self.processes = [
                self.starter.start(self.component, **values) for values in self.settings(self.num_starts)
            ]
            self.num_starts += 1
            self.terminated_at = None
            while all(process.popen.poll() is None for process in self.processes):
                self.is_ready = self.is_ready or bool(self.first.address())
                self._look_at_memory()
                await asyncio.sleep(POLL_S)
            if self.is_over:
                return
            self.exit_codes += [code for one in self.processes if (code := one.popen.poll()) is not None]
            self.is_ready = False
            await self._put_down()
            await asyncio.sleep(RESTART_AFTER_S)

    def _look_at_memory(self) -> None:
        for process in self.processes:
            with contextlib.suppress(OSError):  # it may end meanwhile
                for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.peak_kib = max(self.peak_kib, int(line.split()[1]))

    async def _put_down(self) -> None:
        """A group ends as one: its members see to that, and who is stopped is killed."""
        for _ in range(int(5.0 / POLL_S)):
            if all(process.popen.poll() is not None for process in self.processes):
                break
            await asyncio.sleep(POLL_S)
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
            process.popen.wait()
        self.stopped.clear()

    def signal(self, number: int, ordinal: int = 0) -> None:
        """To the process as it is now; nothing if it has ended."""
        process = self.processes[ordinal]
        if process.popen.poll() is not None:
            return
        if number == signal.SIGTERM:
            self.terminated_at = time.monotonic()
        elif number == signal.SIGSTOP:
            self.stopped.add(ordinal)
        elif number == signal.SIGCONT:
            self.stopped.discard(ordinal)
        process.popen.send_signal(number)

    async def end(self, timeout_s: float = 20.0) -> list[int]:
        """SIGTERM, and no new start; the exit codes."""
        self.is_over = True
        for process in self.processes:
            process.popen.send_signal(signal.SIGCONT)
            process.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(lambda: [process.popen.wait(timeout_s) for process in self.processes])
        return [process.popen.returncode for process in self.processes]

    async def metrics(self) -> Metrics | None:
        """What it counts now; None: it does not answer."""
        if not self.is_ready or 0 in self.stopped:
            return None
        try:
            text = await asyncio.to_thread(self.first.metrics)
        except (http.client.HTTPException, OSError):  # it may die in the middle of its answer
            return None
        return Metrics("".join(f"{line}\n" for line in text.splitlines() if line.startswith(WATCHED)))


class Service:
    """See the module docstring of the package."""

    def __init__(self, starter: Starter) -> None:
        self.starter = starter
        self.links: dict[tuple[str, str], Relay] = {}
        """By who dials and who is dialled; `*` dials a worker: gateways, and decode workers for KV."""
        self.kept: dict[str, Kept] = {}
        self._ports: dict[str, int] = {}

    @property
    def schedulers(self) -> list[Kept]:
        return [one for one in self.kept.values() if one.role == "scheduler"]

    @property
    def gateways(self) -> list[Kept]:
        return [one for one in self.kept.values() if one.role == "gateway"]

    @property
    def workers(self) -> list[Kept]:
        return [one for one in self.kept.values() if one.role in {"prefill", "decode"}]

    @property
    def endpoints(self) -> list[str]:
        """Of the gateways, as clients reach them."""
        return [self._relayed["client", gateway.name] for gateway in self.gateways]

    def scheduler_address(self, name: str) -> str:
        """Not by way of a relay."""
        return f"127.0.0.1:{self._ports[name]}"

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Everything, and return when all of it serves."""
        self._relayed: dict[tuple[str, str], str] = {}
        for name in ("scheduler-0", "scheduler-1"):
            self._keep(name, "scheduler", "scheduler", [{"host": "127.0.0.1"} | SCHEDULER])
        for ordinal, name in enumerate(("prefill-0", "prefill-1", "decode-0")):
            await self._worker(name, ordinal)
        await self._group("decode-1")
        for name in ("gateway-0", "gateway-1"):
            values = {"host": "127.0.0.1", "gateway_id": name} | GATEWAY
            values["scheduler_addresses"] = await self._to_schedulers(name)
            self._keep(name, "gateway", "gateway", [values])
            await self._link("client", name, f"127.0.0.1:{self._ports[name]}")
        for kept in self.kept.values():
            tasks.create_task(kept.run(), name=kept.name)
        await self.all_ready()

    async def all_ready(self) -> None:
        """Wait until every process serves."""
        ends_at = time.monotonic() + READY_TIMEOUT_S
        while missing := [one for one in self.kept.values() if not one.is_whole]:
            if time.monotonic() >= ends_at:
                told = [
                    f"{one.name} (exit codes {one.exit_codes}): {one.first.log.read_text()[-400:]}"
                    for one in missing
                ]
                raise TimeoutError("\n".join(["not ready:", *told]))
            await asyncio.sleep(POLL_S)

    def heal(self) -> None:
        """Every link works, nobody is stopped."""
        for relay in self.links.values():
            relay.is_open, relay.delay_s = True, 0.0
            relay.speak()
        for kept in self.kept.values():
            for ordinal in list(kept.stopped):
                kept.signal(signal.SIGCONT, ordinal)

    def peak_memory_mib(self) -> dict[str, float]:
        """Of the largest process of each component, at any time."""
        components = sorted({kept.component for kept in self.kept.values()})
        return {
            component: round(
                max(kept.peak_kib for kept in self.kept.values() if kept.component == component) / 1024, 1
            )
            for component in components
        }

    async def leader(self) -> Kept | None:
        """The scheduler that says that it leads."""
        for scheduler in self.schedulers:
            metrics = await scheduler.metrics()
            if metrics is not None and metrics.value(IS_LEADER) == 1:
                return scheduler
        return None

    async def close(self) -> None:
        """The relays; the processes are the starter's."""
        for relay in self.links.values():
            await relay.stop()

    # --- what runs --------------------------------------------------------------------------------------

    def _keep(self, name: str, role: str, component: str, settings: Sequence[Settings]) -> None:
        port = self._ports.setdefault(name, a_free_port())
        values = [dict(settings[0]) | {"port": port}, *settings[1:]]
        self.kept[name] = Kept(name, role, component, lambda _: values, self.starter)

    async def _link(self, source: str, target: str, address: str) -> str:
        relay = self.links[source, target] = Relay(address)
        self._relayed[source, target] = await relay.start()
        return self._relayed[source, target]

    async def _to_schedulers(self, source: str) -> list[str]:
        return [
            await self._link(source, name, self.scheduler_address(name))
            for name in ("scheduler-0", "scheduler-1")
        ]

    async def _worker_values(self, name: str) -> dict[str, object]:
        port = self._ports.setdefault(name, a_free_port())
        return WORKER | {
            "worker_id": name,
            "phase": name.partition("-")[0],
            "host": "127.0.0.1",
            "advertise_address": await self._link("*", name, f"127.0.0.1:{port}"),
            "scheduler_addresses": await self._to_schedulers(name),
        }

    async def _worker(self, name: str, seed: int) -> None:
        values = await self._worker_values(name)
        values["engine_options"] = ENGINE | {"seed": seed}
        self._keep(name, name.partition("-")[0], "worker", [values])

    async def _group(self, name: str) -> None:
        """Two processes as pods run them; each start is another epoch."""
        leader = await self._worker_values(name)
        join_port = a_free_port()
        shared: dict[str, object] = {
            "group_size": 2,
            "join_port": join_port,
            "leader_address": f"127.0.0.1:{join_port}",
            "heartbeat_interval_s": 0.3,
            "heartbeat_timeout_s": 2.0,
            "engine_options": ENGINE,
        }
        member = WORKER | {"worker_id": name, "phase": leader["phase"], "host": "127.0.0.11"}
        port = self._ports[name]

        def settings(num_starts: int) -> Sequence[Settings]:
            of_epoch = shared | {"epoch": num_starts + 1}
            return [
                leader | of_epoch | {"port": port, "pod_name": f"{name}-0", "node_name": "node-0"},
                member | of_epoch | {"pod_name": f"{name}-1", "node_name": "node-1"},
            ]

        self.kept[name] = Kept(name, "decode", "worker", settings, self.starter)


SCHEDULER: Settings = {
    "standby": True,
    "drain_timeout_s": 3,
    "log_level": "WARNING",
    "core": {"policy": "staggered", "expected_output_tokens": 64},
}
WORKER: dict[str, object] = {
    "log_level": "WARNING",
    "drain_timeout_s": 2,
    "kv_lease_s": KV_LEASE_S,
    "orphan_keep_s": ORPHAN_KEEP_S,
    "gate_max_idle_s": 0.3,
    "gate_idle_share": 0.3,
}
GATEWAY: dict[str, object] = {
    "model": "m",
    "tokenizer": "bytes",
    "max_sequence_tokens": MAX_SEQUENCE_TOKENS,
    "tokens_per_block": ENGINE["tokens_per_block"],
    "chunk_budget_tokens": ENGINE["chunk_budget_tokens"],
    "drain_timeout_s": 10,
    "log_level": "WARNING",
    "max_worker_failures": 1000,  # no request is to blame for its worker's end here
    "max_refusals": 1000,
}


@asynccontextmanager
async def running_service(
    folder: Path, sources: Mapping[str, Sequence[Path]] = MappingProxyType({})
) -> AsyncIterator[Service]:
    """A service until the block ends; afterwards none of its processes is there.

    Args:
        folder: for logs.
        sources: see `Starter.sources`.
    """
    os.environ[CONTEXT] = str(folder)
    with cleared(Starter(folder)) as starter:
        starter.sources = dict(sources)
        service = Service(starter)
        try:
            async with asyncio.TaskGroup() as tasks:
                await service.start(tasks)
                yield service
                for kept in service.kept.values():
                    kept.is_over = True
        finally:
            await service.close()
            del os.environ[CONTEXT]


def left_behind(folder: Path) -> Iterator[int]:
    """Processes that a run started and that are still there."""
    wanted = f"{CONTEXT}={folder}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)

"""The processes of a service in a world: each is the application itself, started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import PropertyMock, patch

import grpc.aio
import structlog
from live_stack import Metrics
from pydantic import BaseModel

from hortator.gateway import app as gateway_app
from hortator.gateway.settings import GatewaySettings
from hortator.runtime import garbage
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import AdminServer
from hortator.runtime.settings import Settings
from hortator.runtime.transport import Plaintext
from hortator.scheduler import app as scheduler_app
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.worker import app as worker_app
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.simulated.engine import SimulatedEngine
from hortator.worker.settings import WorkerSettings
from virtual.loops import Process, VirtualLoop, World
from virtual.network import Network

PORT = 80
RESTART_S = (0.05, 0.6)
WALL_NS = 1_750_000_000_000_000_000
_IS_LEADER = "hortator_scheduler_is_leader"
RANK_LOST = "a rank was lost"
EXPECTED_ERRORS = frozenset({f"the engine died: {RANK_LOST}"})

S = TypeVar("S", bound=Settings)
Main = Callable[[Drain], Coroutine[Any, Any, Any]]


class Counted(Metrics):
    """Some metrics of a process, without a scrape."""

    def __init__(self, admin: AdminServer, names: Sequence[str]) -> None:
        families = admin._registry.restricted_registry(names).collect()
        self.samples = [sample for family in families for sample in family.samples]


@dataclass
class Member:
    """A process of the service over all its lives."""

    name: str
    role: str
    host: str
    main: Main
    process: Process | None = None
    drain: Drain | None = None
    num_starts: int = 0

    @property
    def component(self) -> str:
        return self.role if self.role in {"scheduler", "gateway"} else "worker"

    @property
    def is_whole(self) -> bool:
        """It lives, and nobody does anything to it."""
        process = self.process
        return process is not None and not process.is_stopped and not self.is_draining

    @property
    def is_draining(self) -> bool:
        return self.drain is not None and self.drain.is_requested

    def metrics(self, *names: str) -> Metrics | None:
        """What it counts now; None: it is not there."""
        admin = None if self.process is None else self.process.admin
        return None if admin is None else Counted(admin, names)


class Stack:
    """All members, on one network in one world."""

    def __init__(self, world: World, network: Network, rng: random.Random) -> None:
        self.world = world
        self.network = network
        self._random = rng
        self.members: dict[str, Member] = {}
        self.is_over = False
        self.num_restarts = 0
        self.restart_s: dict[str, tuple[float, float]] = {}
        """Of members of a role that takes another time than others."""

    def of(self, *roles: str) -> list[Member]:
        return [member for member in self.members.values() if member.role in roles]

    @property
    def endpoints(self) -> list[str]:
        return [f"{gateway.host}:{PORT}" for gateway in self.of("gateway")]

    def leader(self) -> Member | None:
        """The scheduler that says that it leads."""
        for scheduler in self.of("scheduler"):
            metrics = scheduler.metrics(_IS_LEADER) if scheduler.is_whole else None
            if metrics is not None and metrics.value(_IS_LEADER) == 1:
                return scheduler
        return None

    def add(self, name: str, role: str, make: Callable[[str], Main]) -> None:
        """Another member, with an address of its own."""
        host = f"10.0.0.{len(self.members) + 1}"
        self.network.names[host] = name
        self.members[name] = Member(name, role, host, make(host))

    def start(self, name: str) -> None:
        """A life of a member, if it has none."""
        member = self.members[name]
        if member.process is not None or self.is_over:
            return
        member.num_starts += 1

        async def life() -> None:
            member.drain = Drain()
            await member.main(member.drain)

        process = member.process = self.world.start(name, member.host, lambda _: life())
        process.on_death.append(lambda: self._died(member, process))

    def _died(self, member: Member, process: Process) -> None:
        if member.process is process:
            member.process = member.drain = None
            self.num_restarts += 1
            away_s = self._random.uniform(*self.restart_s.get(member.role, RESTART_S))
            self.world.at(self.world.now + away_s, lambda: self.start(member.name))


def _read(kind: type[S], host: str, values: Mapping[str, Any]) -> S:
    """Settings checked as ever, but of nothing that the environment says."""
    settings = kind.__new__(kind)
    BaseModel.__init__(settings, host=host, port=PORT, **values)
    return settings


def scheduler(settings: Mapping[str, Any]) -> Callable[[str], Main]:
    def make(host: str) -> Main:
        read = _read(SchedulerProcessSettings, host, settings)
        return lambda drain: scheduler_app.run(read, drain, transport=Plaintext())

    return make


def gateway(settings: Mapping[str, Any]) -> Callable[[str], Main]:
    def make(host: str) -> Main:
        read = _read(GatewaySettings, host, settings)
        return lambda drain: gateway_app.serve(read, drain, transport=Plaintext())

    return make


def worker(settings: Mapping[str, Any], engine: SimulatedConfig) -> Callable[[str], Main]:
    def make(host: str) -> Main:
        read = _read(WorkerSettings, host, settings)

        async def main(drain: Drain) -> None:
            running = _process().engine = SimulatedEngine(engine)
            await worker_app.serve(read, running, drain, transport=Plaintext())

        return main

    return make


@contextlib.contextmanager
def virtual_service(seed: int) -> Iterator[Stack]:
    """A world with nobody in it yet; what processes know of the machine is the world's while it is there."""
    rng = random.Random(seed)
    world = World()
    network = Network(world, rng.getrandbits(32))
    said = rng.getrandbits(32)
    before = random.getstate()
    dice = random.Random(said)
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (grpc.aio, "server", network.server),
            (grpc.aio, "insecure_channel", network.channel),
            (AdminServer, "start", _probes),
            (garbage, "gc", SimpleNamespace(collect=_nothing, freeze=_nothing, set_threshold=_nothing)),
            (secrets, "randbelow", dice.randrange),
            (secrets, "randbits", dice.getrandbits),
            (secrets, "token_hex", lambda number: dice.randbytes(number).hex()),
            (os, "urandom", dice.randbytes),
            (time, "time_ns", lambda: WALL_NS + int(world.now * 1e9)),
        ):
            stack.enter_context(patch.object(target, name, value))
        stack.enter_context(patch.object(AdminServer, "port", PropertyMock(return_value=0)))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        structlog.configure(
            processors=[lambda _, level, event: _note(world, level, event)],
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        )
        random.seed(said)
        try:
            yield Stack(world, network, rng)
        finally:
            world.close()
            random.setstate(before)
            structlog.reset_defaults()


def _nothing(*_: object) -> None:
    """The garbage of many processes in one is not their own."""


def _probes(admin: AdminServer) -> int:
    """Nobody asks by HTTP: whoever wants to know asks the process's admin server itself."""
    _process().admin = admin
    return 0


def _process() -> Process:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.process


def _note(world: World, level: str, event: Mapping[str, Any]) -> str:
    """What a process calls an error is one, unless it is dead and only buried."""
    loop = asyncio._get_running_loop()
    process = loop.process if isinstance(loop, VirtualLoop) else None
    if (process is None or not process.is_dead) and event.get("event") not in EXPECTED_ERRORS:
        world.problems.append(f"{process.name if process else '?'}: {level}: {dict(event)}")
    raise structlog.DropEvent

"""The worker process: put together, announced, drained, ended.

    start:  members of the group -> engine -> gRPC server -> report streams -> SERVING, and the ready line
    stop:   NOT_SERVING, WorkerDraining -> what runs finishes (or is aborted) -> streams, server, members,
            engine

In a group of several pods this is what ordinal 0 does; the others are `group.member_process`. Where the
engine has ranks in all of them, ordinal 0 starts those between members and engine, and ends them before it
lets the members go (`launch`).

Exit codes: 0 after a drain, 70 when the engine died (the whole EP group is to be started again), 71 and 72
those of `group.membership`, 2 for bad settings, and those of `hortator.runtime.lifecycle`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from hortator.runtime.endpoints import Endpoints
from hortator.runtime.garbage import settle
from hortator.runtime.grpc_server import GrpcServer
from hortator.runtime.last_words import say_last_words
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import AdminServer, new_registry
from hortator.runtime.pulse import LoopPulse
from hortator.runtime.tokenizer_files import TOKENIZER, ids_digest
from hortator.runtime.transport import Plaintext, Transport
from hortator.worker.client.kv import KvClient
from hortator.worker.client.report import SchedulerLinks
from hortator.worker.engine import Engine, EngineDeadError, EngineInfo
from hortator.worker.errors import GroupBrokenError
from hortator.worker.gate import Gate
from hortator.worker.group.boot_record import claim_epoch
from hortator.worker.group.leader import GroupLeader
from hortator.worker.group.member import GroupPlace, Member
from hortator.worker.group.member_process import MemberProcess
from hortator.worker.group.membership import End
from hortator.worker.group.service import CALLERS as GROUP_CALLERS
from hortator.worker.group.service import SERVICE_NAME as GROUP_SERVICE_NAME
from hortator.worker.group.service import GroupService
from hortator.worker.host import WorkerHost
from hortator.worker.kv_leases import KvLeases
from hortator.worker.launch.door import Door
from hortator.worker.launch.world import World
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.orphans import Orphans
from hortator.worker.report import WorkerIdentity
from hortator.worker.service import CALLERS, SERVICE_NAME, WorkerService
from hortator.worker.settings import WorkerSettings
from hortator.worker.startup import STILL_STARTING, Startup, StartupPhase

_T = TypeVar("_T")

EXIT_ENGINE_DEAD = 70
ABORT_TIMEOUT_S = 3.0
"""Aborted requests end within one forward pass; longer than this nobody waits for their last words."""
LEAVE_TIMEOUT_S = 1.0
TELL_EVERY_S = 30.0
"""How often a start says what it waits for; a start that may take less says it ten times."""
CLOSE_MARGIN_S = 15.0
"""What stopping takes after the drain: aborts, streams, and the engine's 10 s."""


async def serve(
    settings: WorkerSettings, engine: Engine, drain: Drain, *, transport: Transport | None = None
) -> int:
    """Run a worker until it is drained, its engine dies or its group breaks; returns the exit code."""
    transport = transport or Plaintext()
    registry = new_registry()
    metrics = WorkerMetrics(registry)
    startup = Startup(_phases(settings), metrics)
    boot_id = settings.new_boot_id()
    group: GroupLeader | None = None
    world: World | None = None
    ends_at = None if settings.group_place() is None else _now() + settings.startup_timeout_s
    async with AsyncExitStack() as stack:
        try:
            admin_port = open_admin(settings, startup, registry, stack)
            telling = asyncio.create_task(tell(startup, every_s=_tell_every_s(settings)))
            stack.callback(telling.cancel)
            if settings.is_launched:
                world = await stack.enter_async_context(_world(settings))
            group = await _open_group(settings, boot_id, metrics, drain, stack, transport, world)
            stack.push_async_callback(engine.aclose)
            if group is not None:
                startup.waiting_for = group.waits_for
                await _until(group.wait_complete(), drain, group)
            startup.reached(StartupPhase.MEMBERS_JOINED)
            if group is not None and world is not None:
                startup.waiting_for = world.waits_for
                await _until(world.start(group.members), drain, group)
                startup.reached(StartupPhase.RANKS_STARTED)
            info = await _until(_started(engine, settings, ends_at, world), drain, group, world)
            startup.reached(StartupPhase.ENGINE_STARTED)
            if group is not None:
                group.started()
            worker = await Worker.open(
                settings,
                engine,
                info,
                metrics,
                stack,
                boot_id=boot_id,
                startup=startup,
                transport=transport,
            )
            await worker.announce(admin_port)
            await worker.run_until_drained(drain, group, world)
            if world is not None:
                await engine.aclose()
                await world.aclose()
        except _DrainedEarlyError:
            pass
        except (EngineDeadError, GroupBrokenError, BaseExceptionGroup) as error:
            return _failed(error, group)
        if group is not None:
            await group.dismiss()
    return 0


async def tell(startup: Startup, *, every_s: float) -> None:
    """Say in the log what a start waits for, until it is over: `hortator k8s explain` looks for it there."""
    log = structlog.get_logger("hortator.worker.app")
    while True:
        await asyncio.sleep(every_s)
        waits_for = startup.not_ready()
        if not waits_for or startup.is_draining:
            return
        log.info(STILL_STARTING, waits_for=waits_for[0])


def _tell_every_s(settings: WorkerSettings) -> float:
    return min(TELL_EVERY_S, settings.startup_timeout_s / 10)


async def hold_place(
    settings: WorkerSettings, place: GroupPlace, drain: Drain, *, transport: Transport | None = None
) -> int:
    """Run a member other than ordinal 0; returns the exit code."""
    registry = new_registry()
    phases = (StartupPhase.MEMBERS_JOINED, StartupPhase.ENGINE_STARTED)
    startup = Startup(phases, WorkerMetrics(registry))
    member = Member(place=place, boot_id=settings.new_boot_id())
    async with AsyncExitStack() as stack:
        try:
            admin_port = open_admin(settings, startup, registry, stack)
            _claim_epoch(settings, member)
            door = await stack.enter_async_context(_door(settings)) if settings.is_launched else None
            if door is not None:
                member = await door.shown(member)
            process = MemberProcess(
                member,
                settings.group_limits(),
                leader_address=settings.leader_address,
                startup=startup,
                on_welcome=door.on_welcome if door is not None else lambda _: None,
                transport=transport,
            )
            _say_ready(address="", admin_port=admin_port)
            end = await _held(process, drain, member, door)
        except GroupBrokenError as error:
            return _failed(error, None)
    if end.exit_code:
        say_last_words(end.message)
    structlog.get_logger("hortator.worker.app").info("ended", why=end.message, exit_code=end.exit_code)
    return end.exit_code


async def _held(process: MemberProcess, drain: Drain, member: Member, door: Door | None) -> End:
    """How the place was given up. Raises GroupBrokenError when the door fell shut before."""
    holding = asyncio.ensure_future(process.run(drain))
    opening = [] if door is None else [asyncio.ensure_future(door.run(member))]
    tasks = [holding, *opening]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            return holding.result()
        for one in opening:
            await one
        raise AssertionError  # a door ends with an error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _phases(settings: WorkerSettings) -> tuple[StartupPhase, ...]:
    """What a worker that hosts an engine goes through."""
    if settings.is_launched:
        return tuple(StartupPhase)
    return tuple(phase for phase in StartupPhase if phase is not StartupPhase.RANKS_STARTED)


def _world(settings: WorkerSettings) -> World:
    return World(
        gpus_per_node=settings.gpus_per_node,
        secret=settings.group_secret(),
        timeout_s=min(settings.launch_timeout_s, settings.startup_timeout_s),
    )


async def _started(
    engine: Engine, settings: WorkerSettings, ends_at: float | None, world: World | None
) -> EngineInfo:
    """The engine's start, which ends with the time that a pod has for all of its start."""
    try:
        async with asyncio.timeout_at(ends_at) as limit:
            return await engine.start()
    except TimeoutError:
        if not limit.expired():
            raise
        detail = "" if world is None else f": {world.waits_for()}"
        raise EngineDeadError(f"it did not start within {settings.startup_timeout_s:g} s{detail}") from None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _door(settings: WorkerSettings) -> Door:
    return Door(
        host=settings.ssh_host or settings.advertise_host or settings.host,
        listen=settings.host,
        port=settings.ssh_port,
        secret=settings.group_secret(),
    )


def open_admin(
    settings: WorkerSettings, startup: Startup, registry: CollectorRegistry, stack: AsyncExitStack
) -> int:
    """Serve metrics and probes; the port."""
    pulse = LoopPulse()
    stack.callback(pulse.close)
    admin = AdminServer(
        registry,
        host=settings.admin_host,
        port=settings.admin_port,
        is_live=pulse.is_alive,
        not_ready=startup.not_ready,
        details=startup.timeline,
    )
    port = admin.start()
    stack.callback(admin.close)
    return port


async def _open_group(
    settings: WorkerSettings,
    boot_id: str,
    metrics: WorkerMetrics,
    drain: Drain,
    stack: AsyncExitStack,
    transport: Transport,
    world: World | None,
) -> GroupLeader | None:
    """Take members, if there are to be any. Raises GroupBrokenError for a second boot of this pod."""
    place = settings.group_place()
    if place is None:
        return None
    leader = Member(place=place, boot_id=boot_id)
    _claim_epoch(settings, leader)
    if place.group_size == 1:
        return None
    group = GroupLeader(leader, settings.group_limits(), request_drain=drain.request, launch=world)
    stack.callback(group.close)
    metrics.group_members.set_function(lambda: group.num_members)
    service = GroupService(group)
    server = GrpcServer(
        register=service.register,
        service_names=(GROUP_SERVICE_NAME,),
        host=settings.host,
        port=settings.join_port,
        credentials=transport.server_credentials(),
        interceptors=transport.interceptors(GROUP_CALLERS),
    )
    await server.start()
    stack.push_async_callback(server.close, grace_s=0.5)
    await server.set_serving(serving=True)
    structlog.get_logger("hortator.worker.app").info(
        "waiting for members", address=server.address, group_size=place.group_size, epoch=place.epoch
    )
    return group


def _claim_epoch(settings: WorkerSettings, member: Member) -> None:
    if settings.boot_dir and settings.epoch is not None:
        claim_epoch(Path(settings.boot_dir), member, pod_uid=settings.pod_uid)


class _DrainedEarlyError(Exception):
    """A drain was asked for before there was anything to drain."""


async def _until(
    work: Coroutine[Any, Any, _T], drain: Drain, group: GroupLeader | None, world: World | None = None
) -> _T:
    """The result of `work`, unless a drain is asked for or the group, or its ranks, break before."""
    doing = asyncio.ensure_future(work)
    draining = asyncio.ensure_future(drain.wait())
    watching = [asyncio.ensure_future(one.run()) for one in (group, world) if one is not None]
    tasks = [doing, draining, *watching]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for watch in watching:
            if watch.done():
                await watch
        if doing.done():
            return doing.result()
        raise _DrainedEarlyError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _failed(error: BaseException, group: GroupLeader | None) -> int:
    """Say why this process ends, to people and to the group; the exit code. Raises what is not expected."""
    known = _known(error)
    match known:
        case EngineDeadError():
            message, exit_code = f"the engine died: {known}", EXIT_ENGINE_DEAD
            if group is not None:
                group.fail(message)
        case GroupBrokenError():
            message, exit_code = f"the group is broken: {known}", known.exit_code
            if group is not None:
                group.fail(str(known))  # says nothing more where the group itself has found it out
        case _:
            raise error
    structlog.get_logger("hortator.worker.app").critical(message, exit_code=exit_code)
    say_last_words(message)
    return exit_code


def _known(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        found = (_known(one) for one in error.exceptions)
        return next((one for one in found if one is not None), None)
    return error if isinstance(error, (EngineDeadError, GroupBrokenError)) else None


def _tokenizer_of(info: EngineInfo) -> bytes:
    """The digest by which gateways and schedulers know the model's tokenizer; empty where it has none."""
    for path in info.tokenizer_files:
        if path.name == TOKENIZER:
            with suppress(OSError):
                return ids_digest(path.read_bytes())
    return b""


def _say_ready(*, address: str, admin_port: int) -> None:
    ready = {"event": "ready", "address": address, "admin_port": admin_port}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


class Worker:
    """Everything of a running worker; closed by the stack it was opened on."""

    def __init__(
        self, *, host: WorkerHost, server: GrpcServer, links: SchedulerLinks, startup: Startup, drain_s: float
    ) -> None:
        self.host = host
        self._server = server
        self.links = links
        self._startup = startup
        self._drain_s = drain_s
        self._log = structlog.get_logger("hortator.worker.app")

    @classmethod
    async def open(
        cls,
        settings: WorkerSettings,
        engine: Engine,
        info: EngineInfo,
        metrics: WorkerMetrics,
        stack: AsyncExitStack,
        *,
        boot_id: str = "",
        startup: Startup | None = None,
        transport: Transport | None = None,
    ) -> Worker:
        """Bind the server, and make the host that it serves: the host's identity holds the bound address."""
        transport = transport or Plaintext()
        kv_client = KvClient(timeout_s=settings.kv_pull_timeout_s, transport=transport)
        stack.push_async_callback(kv_client.aclose)
        service = WorkerService()
        server = GrpcServer(
            register=service.register,
            service_names=(SERVICE_NAME,),
            host=settings.host,
            port=settings.port,
            credentials=transport.server_credentials(),
            interceptors=transport.interceptors(CALLERS),
        )
        await server.start()
        stack.push_async_callback(server.close, grace_s=0.5)
        host = WorkerHost(
            engine=engine,
            info=info,
            identity=WorkerIdentity(
                worker_id=settings.worker_id or f"worker-{secrets.token_hex(4)}",
                boot_id=boot_id or settings.new_boot_id(),
                address=settings.advertised(server.address),
                phase=settings.phase.value,
                tokenizer=await asyncio.to_thread(_tokenizer_of, info),
            ),
            gate=Gate(settings.gate_limits()),
            leases=KvLeases(duration_s=settings.kv_lease_s),
            orphans=Orphans(
                keep_s=settings.orphan_keep_s,
                max_orphans=settings.max_orphans,
                max_tokens=settings.max_orphan_tokens,
            ),
            kv_fetcher=kv_client,
            metrics=metrics,
        )
        service.host = host
        endpoints = Endpoints(settings.scheduler_addresses, interval_s=settings.scheduler_resolve_interval_s)
        startup = startup or Startup(_phases(settings), metrics)
        links = SchedulerLinks(
            endpoints,
            host,
            on_welcome=lambda: startup.reached(StartupPhase.REPORTED),
            transport=transport,
            leader_timeout_s=settings.leader_timeout_s,
        )
        if not settings.scheduler_addresses:
            startup.reached(StartupPhase.REPORTED)
        host.add_sink(links)
        return cls(host=host, server=server, links=links, startup=startup, drain_s=settings.drain_timeout_s)

    async def announce(self, admin_port: int) -> None:
        """Health, the log, and the ready line."""
        await self._server.set_serving(serving=True)
        identity, info = self.host.identity, self.host.info
        self._log.info(
            "worker ready",
            worker_id=identity.worker_id,
            boot_id=identity.boot_id,
            address=identity.address,
            phase=identity.phase,
            model=info.model_name,
            dp_size=info.dp_size,
        )
        _say_ready(address=self._server.address, admin_port=admin_port)

    async def run_until_drained(
        self, drain: Drain, group: GroupLeader | None = None, world: World | None = None
    ) -> None:
        """Serve. Raises EngineDeadError or GroupBrokenError in an exception group."""
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(one.run()) for one in (group, world) if one is not None]
            serving = tasks.create_task(self.host.run())
            reporting = tasks.create_task(self.links.run())
            settle()
            await drain.wait()
            self._log.info("stopping", reason=drain.reason, num_live=self.host.num_live)
            self._startup.is_draining = True
            await self._server.set_serving(serving=False)
            await self._drain(is_orphan=drain.reason == "parent died")
            self.links.leave()
            await asyncio.wait({reporting}, timeout=LEAVE_TIMEOUT_S)
            reporting.cancel()
            await self._server.close(grace_s=0.5)
            serving.cancel()
            for watch in watching:
                watch.cancel()

    async def _drain(self, *, is_orphan: bool) -> None:
        self.host.start_draining()
        try:
            async with asyncio.timeout(0 if is_orphan else self._drain_s):
                await self.host.wait_idle()
        except TimeoutError:
            self._log.warning(
                "drain timeout: aborting",
                num_live=self.host.num_live,
                num_kv_leases=self.host.kv.num_leases,
            )
            self.host.abort_all()
            try:
                async with asyncio.timeout(ABORT_TIMEOUT_S):
                    await self.host.wait_idle()
            except TimeoutError:
                self._log.warning("requests did not end in time", num_live=self.host.num_live)

"""The worker process: put together, announced, drained, ended.

    start:  engine -> gRPC server -> report streams -> SERVING, and the ready line on standard output
    stop:   NOT_SERVING, WorkerDraining -> what runs finishes (or is aborted) -> streams, server, engine

Exit codes: 0 after a drain, 70 when the engine died (the whole EP group is to be started again), 2 for bad
settings, and those of `hortator.runtime.lifecycle`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from contextlib import AsyncExitStack

import structlog

from hortator.runtime.garbage import settle
from hortator.runtime.grpc_server import GrpcServer
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import AdminServer, new_registry
from hortator.worker.client.kv import KvClient
from hortator.worker.client.report import SchedulerLinks
from hortator.worker.engine import Engine, EngineDeadError, EngineInfo
from hortator.worker.gate import Gate
from hortator.worker.host import WorkerHost
from hortator.worker.kv_leases import KvLeases
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.report import WorkerIdentity
from hortator.worker.service import SERVICE_NAME, WorkerService
from hortator.worker.settings import WorkerSettings

EXIT_ENGINE_DEAD = 70
ABORT_TIMEOUT_S = 3.0
"""Aborted requests end within one forward pass; longer than this nobody waits for their last words."""
LEAVE_TIMEOUT_S = 1.0
CLOSE_MARGIN_S = 15.0
"""What stopping takes after the drain: aborts, streams, and the engine's 10 s."""


async def serve(settings: WorkerSettings, engine: Engine, drain: Drain) -> int:
    """Run a worker until it is drained or its engine dies; returns the exit code."""
    log = structlog.get_logger("hortator.worker.app")
    registry = new_registry()
    not_ready = ["the engine is starting"]
    exit_code = 0
    async with AsyncExitStack() as stack:
        admin = AdminServer(
            registry, host=settings.admin_host, port=settings.admin_port, not_ready=lambda: not_ready
        )
        admin_port = admin.start()
        stack.callback(admin.close)
        stack.push_async_callback(engine.aclose)
        try:
            info = await _start(engine, drain)
        except EngineDeadError as error:
            log.critical("the engine did not start", error=str(error))
            return EXIT_ENGINE_DEAD
        if info is None:
            return 0
        worker = await Worker.open(settings, engine, info, WorkerMetrics(registry), stack)
        not_ready.clear()
        await worker.announce(admin_port)
        try:
            await worker.run_until_drained(drain, not_ready)
        except* EngineDeadError as errors:
            log.critical("the engine died", error=str(errors.exceptions[0]))
            exit_code = EXIT_ENGINE_DEAD
    return exit_code


async def _start(engine: Engine, drain: Drain) -> EngineInfo | None:
    """Start the engine; None when a drain was asked for before it was up."""
    starting = asyncio.ensure_future(engine.start())
    draining = asyncio.ensure_future(drain.wait())
    try:
        await asyncio.wait({starting, draining}, return_when=asyncio.FIRST_COMPLETED)
        return starting.result() if starting.done() else None
    finally:
        for task in (starting, draining):
            task.cancel()
        await asyncio.gather(starting, draining, return_exceptions=True)


class Worker:
    """Everything of a running worker; closed by the stack it was opened on."""

    def __init__(
        self, *, host: WorkerHost, server: GrpcServer, links: SchedulerLinks, drain_s: float
    ) -> None:
        self.host = host
        self._server = server
        self.links = links
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
    ) -> Worker:
        """Bind the server, and make the host that it serves: the host's identity holds the bound address."""
        kv_client = KvClient(timeout_s=settings.kv_pull_timeout_s)
        stack.push_async_callback(kv_client.aclose)
        service = WorkerService()
        server = GrpcServer(
            register=service.register, service_names=(SERVICE_NAME,), host=settings.host, port=settings.port
        )
        await server.start()
        stack.push_async_callback(server.close, grace_s=0.5)
        host = WorkerHost(
            engine=engine,
            info=info,
            identity=WorkerIdentity(
                worker_id=settings.worker_id or f"worker-{secrets.token_hex(4)}",
                boot_id=secrets.token_hex(8),
                address=settings.advertise_address or server.address,
                phase=settings.phase.value,
            ),
            gate=Gate(settings.gate_limits()),
            leases=KvLeases(duration_s=settings.kv_lease_s),
            kv_fetcher=kv_client,
            metrics=metrics,
        )
        service.host = host
        links = SchedulerLinks(settings.scheduler_addresses, host)
        host.add_sink(links)
        return cls(host=host, server=server, links=links, drain_s=settings.drain_timeout_s)

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
        ready = {"event": "ready", "address": self._server.address, "admin_port": admin_port}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()

    async def run_until_drained(self, drain: Drain, not_ready: list[str]) -> None:
        """Serve. Raises EngineDeadError in an exception group."""
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self.host.run())
            reporting = tasks.create_task(self.links.run())
            settle()
            await drain.wait()
            not_ready.append("draining")
            await self._server.set_serving(serving=False)
            await self._drain(is_orphan=drain.reason == "parent died")
            self.links.leave()
            await asyncio.wait({reporting}, timeout=LEAVE_TIMEOUT_S)
            reporting.cancel()
            await self._server.close(grace_s=0.5)
            serving.cancel()

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

"""The gateway process: puts the parts together, serves until told to stop, drains, closes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from hortator.gateway.admission import Admission
from hortator.gateway.api_keys import ApiKeyFile
from hortator.gateway.client.scheduler import SchedulerClient
from hortator.gateway.client.tokenizer_source import TokenizerSource
from hortator.gateway.client.worker import WorkerClient
from hortator.gateway.coalescing import Coalescer
from hortator.gateway.driver import Driver
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.idempotency import KeyedGenerations
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.self_placement import SelfPlacement
from hortator.gateway.service import CALLERS, SERVICE_NAME, InferenceService
from hortator.gateway.settings import ClientAuth, GatewaySettings
from hortator.gateway.tokenization import WORKERS, load_tokenizer
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.garbage import settle
from hortator.runtime.grpc_server import GrpcServer
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import AdminServer, new_registry
from hortator.runtime.pulse import LoopPulse
from hortator.runtime.transport import Plaintext, Transport

_CLOSE_GRACE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway."""

    server: GrpcServer
    admin: AdminServer
    admission: Admission
    driver: Driver
    scheduler: SchedulerClient
    workers: WorkerClient
    service: InferenceService
    metrics: GatewayMetrics

    @property
    def address(self) -> str:
        """`host:port` of the public API."""
        return self.server.address

    async def drain(self) -> None:
        """Refuse what is new; return once everything held has ended and been sent."""
        self.admission.is_draining = True
        await self.server.set_serving(serving=False)
        await self.driver.wait_idle()
        while self.service.num_calls:  # noqa: ASYNC110  # last messages, a few milliseconds
            await asyncio.sleep(0.005)

    async def leave(self, *, timeout_s: float) -> bool:
        """Send clients elsewhere and return once everything held has ended; False: the time was up before.

        For a gateway that others stand beside: connections are told to go (GOAWAY), so a client's next call
        takes a new connection, to another gateway, where `drain` would refuse it.
        """
        closing = asyncio.create_task(self.server.close(grace_s=timeout_s + _CLOSE_GRACE_S))
        done, _ = await asyncio.wait({closing}, timeout=timeout_s)
        if not done:
            self.driver.end_all(_stopped())
        await closing
        return bool(done)


@asynccontextmanager
async def run_gateway(
    settings: GatewaySettings, *, transport: Transport | None = None
) -> AsyncIterator[Gateway]:
    """A gateway that serves while the context is open; leaving it ends what is still held.

    Raises:
        TokenizerError: the tokenizer cannot be loaded.
        BindError: the public port is taken.
        OSError: the admin port is taken.
        ApiKeysError: the file of API keys cannot be used.
    """
    transport = transport or Plaintext()
    boot = os.urandom(4).hex()  # a gateway that starts again under its old name must not repeat request ids
    gateway_id = f"{settings.gateway_id or 'gw'}-{boot}"
    tokenizer = load_tokenizer(settings.tokenizer)
    registry = new_registry()
    metrics = GatewayMetrics(registry)
    keyed = KeyedGenerations(retention_s=settings.idempotency_retention_s)
    driver = Driver(
        metrics=metrics,
        coalescer=Coalescer(
            max_window_s=settings.max_coalescing_window_s,
            target_messages_per_s=settings.target_messages_per_s,
        ),
        keyed=keyed,
        queue_timeout_s=settings.queue_timeout_s,
        self_placement=SelfPlacement(gateway_id),
    )
    admission = Admission(settings, gateway_id=gateway_id, tokenizer=tokenizer, driver=driver, keyed=keyed)
    workers = WorkerClient(gateway_id=gateway_id, events=driver, transport=transport)
    api_keys = ApiKeyFile(settings.api_keys_file) if settings.api_keys_file else None
    service = InferenceService(
        admission=admission,
        driver=driver,
        metrics=metrics,
        api_keys=api_keys,
        call_limits=settings.call_limits,
        max_message_bytes=settings.max_message_bytes,
        max_metadata_bytes=settings.max_metadata_bytes,
    )
    endpoints = Endpoints(settings.scheduler_addresses, interval_s=settings.scheduler_resolve_interval_s)
    scheduler = SchedulerClient(
        endpoints,
        gateway_id=gateway_id,
        events=driver,
        transport=transport,
        leader_timeout_s=settings.leader_timeout_s,
        alone_after_s=settings.degraded_after_s,
    )
    source = None
    if settings.tokenizer == WORKERS:
        source = TokenizerSource(endpoints, transport=transport, on_found=admission.use_tokenizer)
        admission.tokenizer_pending = lambda: source.pending
        driver.on_no_worker = source.look_again
    loop = asyncio.get_running_loop()

    def not_ready() -> Sequence[str]:
        reasons = []
        if admission.is_draining or admission.is_leaving:
            reasons.append("draining")
        since = scheduler.disconnected_at
        is_new = scheduler.num_connects == 0
        is_late = since is not None and loop.time() - since > settings.ready_without_scheduler_s
        if is_new or (is_late and not driver.is_degraded):
            reasons.append("no scheduler")
        if source is not None and not source.is_settled:
            reasons.append("workers have not been asked for the tokenizer yet")
        return reasons

    asks_for_certificates = settings.client_auth is ClientAuth.CERTIFICATE
    server = GrpcServer(
        register=service.register,
        service_names=[SERVICE_NAME],
        host=settings.host,
        port=settings.port,
        credentials=transport.server_credentials()
        if asks_for_certificates
        else transport.public_credentials(),
        interceptors=(
            service.counting_others(),
            *(transport.interceptors(CALLERS) if asks_for_certificates else ()),
        ),
        limits=settings.server_limits,
    )
    pulse = LoopPulse()
    admin = AdminServer(
        registry,
        host=settings.admin_host,
        port=settings.admin_port,
        is_live=pulse.is_alive,
        not_ready=not_ready,
    )
    metrics.gauge("in_flight", "Requests held.", lambda: driver.num_in_flight)
    metrics.gauge("waiting", "Requests that want a placement.", lambda: driver.num_waiting)
    metrics.gauge("streams", "Open Generate calls.", lambda: service.num_calls)
    metrics.gauge("scheduler_connected", "1 while a scheduler is there.", lambda: scheduler.is_connected)
    metrics.degraded.set_function(lambda: driver.is_degraded)
    metrics.gauge("worker_streams", "Open Submit streams.", lambda: workers.num_streams)
    driver.attach(scheduler=scheduler, workers=workers)
    gateway = Gateway(
        server=server,
        admin=admin,
        admission=admission,
        driver=driver,
        scheduler=scheduler,
        workers=workers,
        service=service,
        metrics=metrics,
    )
    with admin:
        async with server, workers, asyncio.TaskGroup() as group:
            group.create_task(scheduler.run())
            beside = [group.create_task(driver.sweep())]
            if source is not None:
                beside.append(group.create_task(source.run()))
            try:
                await server.set_serving(serving=True)
                yield gateway
                driver.end_all(_stopped())
                await server.close(grace_s=_CLOSE_GRACE_S)
            finally:
                pulse.close()
                scheduler.close()
                for task in beside:
                    task.cancel()


def _stopped() -> GatewayError:
    return GatewayError(ErrorKind.UNAVAILABLE, "this gateway stopped", retry_after_s=0.0)


async def serve(settings: GatewaySettings, drain: Drain, *, transport: Transport) -> None:
    """Serve until `drain` is requested; print one line of JSON on standard output when ready."""
    log = structlog.get_logger("hortator.gateway")
    log.info("settings", **settings.model_dump(mode="json"))
    if settings.is_open_to_all:
        log.warning("anybody who reaches this address may use it", host=settings.host)
    async with run_gateway(settings, transport=transport) as gateway:
        await _serve(gateway, settings, drain)
    log.info("stopped")


async def _serve(gateway: Gateway, settings: GatewaySettings, drain: Drain) -> None:
    log = structlog.get_logger("hortator.gateway")
    ready = {"event": "ready", "address": gateway.address, "admin_port": gateway.admin.port}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    settle()
    await drain.wait()
    log.info("draining", in_flight=gateway.driver.num_in_flight, after_s=settings.drain_delay_s)
    if settings.drain_delay_s and drain.reason != "parent died":
        gateway.admission.is_leaving = True
        await asyncio.sleep(settings.drain_delay_s)
        if not await gateway.leave(timeout_s=settings.drain_timeout_s):
            log.warning("drain timed out")
        return
    try:
        async with asyncio.timeout(settings.drain_timeout_s):
            await gateway.drain()
    except TimeoutError:
        log.warning("drain timed out", in_flight=gateway.driver.num_in_flight)

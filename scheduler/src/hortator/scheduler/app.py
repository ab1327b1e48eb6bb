"""The scheduler process: puts the parts together, and takes them apart in order.

Start: machine, driver, shell, gRPC server, admin port; then the ready line. Stop (SIGTERM): health says no,
the lead is handed over (one of several) or admission stops and what waits is still placed (the only one),
streams and servers close, the recording is completed.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Sequence

import structlog

from hortator.runtime.garbage import settle
from hortator.runtime.grpc_server import BindError, GrpcServer
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import AdminServer, new_registry
from hortator.runtime.transport import Plaintext, Transport
from hortator.scheduler import service
from hortator.scheduler.core.leadership import TAG_BITS, Leadership, first_epoch
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.scheduler.driver import Driver
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.recorder import EventRecorder
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.scheduler.shell import Shell

EXIT_CANNOT_START = 1
CLOSE_GRACE_S = 0.5
HAND_OVER_TIMEOUT_S = 3.0
"""Without a word from another leader: there is none, and gateways hold what waits."""
DRAIN_MARGIN_S = 2.0
"""The process may take this much longer than its drain timeout before it is forced to stop."""


class SchedulerApp:
    """A whole scheduler in the running loop. `start` it, `drain` it, `close` it."""

    def __init__(self, settings: SchedulerProcessSettings, *, transport: Transport | None = None) -> None:
        """Must be called in a running loop; nothing listens before `start`."""
        self._settings = settings
        transport = transport or Plaintext()
        core = settings.core_settings()
        tag = secrets.randbits(TAG_BITS)
        epoch = settings.epoch or (0 if settings.standby else first_epoch(time.time_ns() // 1_000_000, tag))
        leadership = Leadership(settings.leadership_settings(), tag=tag, epoch=epoch)
        registry = new_registry()
        metrics = SchedulerMetrics(registry, policy=core.policy)
        self._recorder: EventRecorder | None = None
        if settings.events_path is not None:
            self._recorder = EventRecorder(
                settings.events_path,
                settings=core,
                epoch=epoch,
                max_file_bytes=settings.events_max_file_bytes,
                max_files=settings.events_max_files,
            )
        driver = Driver(
            SchedulerMachine(core, epoch=epoch),
            metrics=metrics,
            policy=core.policy,
            recorder=self._recorder,
        )
        self._is_draining = False
        self.shell = Shell(
            driver,
            leadership=leadership,
            metrics=metrics,
            leader_heartbeat_s=settings.leader_heartbeat_s,
            worker_grace_s=settings.worker_grace_s,
            gateway_grace_s=settings.gateway_grace_s,
            outbox_limit=settings.outbox_limit,
        )
        self._server = GrpcServer(
            register=lambda server: service.register(
                server,
                self.shell,
                heartbeat_interval_s=settings.heartbeat_interval_s,
                policy_names=POLICY_NAMES,
            ),
            service_names=service.SERVICE_NAMES,
            host=settings.host,
            port=settings.port,
            credentials=transport.server_credentials(),
            interceptors=transport.interceptors(service.CALLERS),
        )
        self._admin = AdminServer(
            registry,
            host=settings.admin_host,
            port=settings.admin_port,
            is_live=self.shell.is_alive,
            not_ready=self._not_ready,
        )

    @property
    def address(self) -> str:
        """Where gateways and workers connect; known after `start`."""
        return self._server.address

    @property
    def admin_port(self) -> int:
        """Where metrics and probes are; known after `start`."""
        return self._admin.port

    async def start(self) -> None:
        """Listen and say so to health checks.

        Raises:
            BindError: the gRPC port is taken.
            OSError: the admin port is taken, or the recording cannot be created.
        """
        if self._recorder is not None:
            self._recorder.start()
        await self._server.start()
        self._admin.start()
        self.shell.start()
        await self._server.set_serving(serving=True)

    async def drain(self) -> None:
        """Hand over to another scheduler; without any, leave arrivals to the next and place what waits.

        Within the drain timeout.
        """
        self._is_draining = True
        await self._server.set_serving(serving=False)
        if self._settings.standby:
            await self.shell.hand_over(timeout_s=min(self._settings.drain_timeout_s, HAND_OVER_TIMEOUT_S))
            return
        await self.shell.drain(timeout_s=self._settings.drain_timeout_s)

    async def close(self) -> None:
        """End all streams, stop listening, complete the recording. Safe after a failed `start`."""
        self.shell.close()
        await self._server.close(grace_s=CLOSE_GRACE_S)
        self._admin.close()
        if self._recorder is not None:
            self._recorder.close()

    def _not_ready(self) -> Sequence[str]:
        return ("draining",) if self._is_draining else ()


async def run(settings: SchedulerProcessSettings, drain: Drain, *, transport: Transport) -> int:
    """Serve until `drain` is requested; the exit code. Prints the ready line on stdout."""
    log = structlog.get_logger("hortator.scheduler.app")
    app = SchedulerApp(settings, transport=transport)
    try:
        try:
            await app.start()
        except (BindError, OSError) as error:
            log.error("cannot start", error=str(error))  # noqa: TRY400  # one line says it all
            return EXIT_CANNOT_START
        log.info("settings", effective=settings.render().splitlines())
        ready = {"event": "ready", "address": app.address, "admin_port": app.admin_port}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        settle(settings.gc_threshold)
        await drain.wait()
        log.info("draining", reason=drain.reason)
        await app.drain()
    finally:
        await app.close()
    log.info("stopped")
    return 0

"""The operator process: puts the parts together, and takes them apart in order.

Start: admin port, API server, first list of all, watches; then the ready line, leader or not. Whoever
leads looks at every service once, and then at what changes.

Stop (SIGTERM): no new look is begun, the one under way is finished, the Lease is released. A leader that has
lost its Lease ends with exit code 1 and starts anew: its memory is not to be trusted any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import kopf
import structlog

from hortator.operator.app.watching import Watcher
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.client.configuration import (
    NoClusterError,
    load_configuration,
    open_session,
    own_namespace,
)
from hortator.operator.client.kubernetes import KubernetesCluster
from hortator.operator.client.scheduler import SchedulerAdmin
from hortator.operator.guard import GuardedCluster
from hortator.operator.inventory import Inventory
from hortator.operator.kinds import Watched
from hortator.operator.lease import Leadership, LeadershipLostError
from hortator.operator.metrics import OperatorMetrics
from hortator.operator.names import OPERATOR_NAME
from hortator.operator.options import Images, Options
from hortator.operator.reconciler import Reconciler
from hortator.operator.recorder import EventRecorder
from hortator.operator.resync import Resync
from hortator.operator.settings import OperatorSettings
from hortator.operator.work_queue import Done, Failed, Key, WorkQueue
from hortator.runtime.garbage import settle
from hortator.runtime.lifecycle import EXIT_FAILED, Drain
from hortator.runtime.metrics import AdminServer, new_registry
from hortator.runtime.pulse import LoopPulse
from hortator.runtime.transport import Transport


class OperatorApp:
    """A whole operator in the running loop. `serve` runs it to its end."""

    def __init__(
        self, settings: OperatorSettings, cluster: KubernetesCluster, *, transport: Transport | None = None
    ) -> None:
        """Must be called in a running loop."""
        self._settings = settings
        self._cluster = cluster
        self._pulse = LoopPulse()
        self._inventory = Inventory()
        self._leadership = Leadership(
            cluster,
            namespace=settings.namespace or own_namespace(),
            name=OPERATOR_NAME,
            identity=settings.identity or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
            times=settings.lease_times(),
        )
        guarded = GuardedCluster(cluster, self._leadership.remaining_s)
        certificates = CertificateKeeper(guarded, now=lambda: datetime.now(UTC))
        self._schedulers = SchedulerAdmin(transport=transport, transport_to=certificates.transport)
        self._resync = Resync(
            cluster,
            self._inventory,
            namespaces=settings.namespaces,
            told=self._told,
            interval_s=settings.resync_interval_s,
            observe_nodes=settings.observe_nodes,
            gang_providers=settings.gang_providers,
        )
        registry = new_registry()
        self._queue = WorkQueue(self._look, num_workers=settings.num_workers)
        metrics = OperatorMetrics(
            registry,
            is_leader=lambda: self._is_leading,
            silence_s=self._resync.silence_s,
            num_due=lambda: self._queue.num_due,
        )
        self._reconciler = Reconciler(
            cluster=guarded,
            inventory=self._inventory,
            schedulers=self._schedulers,
            certificates=certificates,
            recorder=EventRecorder(guarded),
            metrics=metrics,
            options=_options(settings),
        )
        self._admin = AdminServer(
            registry,
            host=settings.admin_host,
            port=settings.admin_port,
            is_live=self._is_live,
            not_ready=self._not_ready,
        )
        self._waits_for = "the first list of all objects"
        self._is_leading = False
        self._log = structlog.get_logger("hortator.operator.app")

    async def serve(self, drain: Drain) -> int:
        """Run until a drain is requested or leadership is lost; the exit code."""
        try:
            self._admin.start()
            return await self._serve(drain)
        finally:
            self._pulse.close()
            self._admin.close()
            await self._schedulers.close()

    async def _serve(self, drain: Drain) -> int:
        if not await _unless(drain, self._resync.first(not_yet=self._not_yet)):
            return 0
        queue = asyncio.create_task(self._queue.run(), name="queue")
        tasks: list[asyncio.Task[object]] = [
            queue,
            asyncio.create_task(drain.wait(), name="drain"),
            asyncio.create_task(self._watcher().run(), name="watches"),
            asyncio.create_task(self._resync.run(), name="resync"),
            asyncio.create_task(self._lead(), name="lead"),
        ]
        self._waits_for = ""
        self._say_ready()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code = self._verdict(done, drain)
            self._queue.close()
            await asyncio.wait({queue}, timeout=self._settings.drain_timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if code == 0:
            await self._leadership.release()
        return code

    def _verdict(self, done: Iterable[asyncio.Task[object]], drain: Drain) -> int:
        if drain.is_requested:
            self._log.info("draining", reason=drain.reason)
            return 0
        for task in done:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, LeadershipLostError):
                self._log.error("lost the leadership", error=str(error))
            else:
                self._log.error("a part ended", part=task.get_name(), exc_info=error)
        return EXIT_FAILED

    async def _lead(self) -> None:
        await self._leadership.acquire()
        self._is_leading = True
        self._told(self._inventory.keys())
        try:
            await self._leadership.hold()
        finally:
            self._is_leading = False

    def _watcher(self) -> Watcher:
        async def log_in() -> kopf.AiohttpSession:
            session = open_session(self._cluster.configuration)
            return kopf.AiohttpSession(server=self._cluster.configuration.host, aiohttp_session=session)

        return Watcher(
            lambda: self._resync.kinds,
            namespaces=self._settings.namespaces,
            inactivity_s=self._settings.watch_inactivity_s,
            take=self._take,
            login=log_in,
        )

    # --- queue ----------------------------------------------------------------------------------------

    def _told(self, keys: Iterable[Key]) -> None:
        if self._is_leading:
            for key in list(keys):
                self._queue.add(key)

    def _take(self, kind: Watched, event: kopf.RawEvent) -> None:
        """An event of a watch."""
        self._resync.hear()
        obj = {"apiVersion": kind.api_version, "kind": kind.kind} | dict(event["object"])
        if event["type"] == "DELETED":
            self._told(self._inventory.remove(obj))
        else:
            self._told(self._inventory.put(obj, told_at=time.monotonic()))

    async def _look(self, key: Key) -> Done | Failed:
        return await self._reconciler.look(key)

    # --- probes (from the admin server's threads) -----------------------------------------------------

    def _not_yet(self, reason: str) -> None:
        if reason != self._waits_for:
            self._log.info("waiting", reason=reason)
        self._waits_for = reason

    def _is_live(self) -> bool:
        return self._pulse.is_alive() and self._resync.silence_s() < self._settings.max_silence_s

    def _not_ready(self) -> Sequence[str]:
        return (self._waits_for,) if self._waits_for else ()

    def _say_ready(self) -> None:
        ready = {"event": "ready", "admin_port": self._admin.port}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        settle(self._settings.gc_threshold)


async def run(settings: OperatorSettings, drain: Drain, *, transport: Transport) -> int:
    """Run the operator until a drain is requested or it cannot go on; the exit code."""
    log = structlog.get_logger("hortator.operator.app")
    try:
        configuration = await load_configuration(settings.kubeconfig)
    except NoClusterError as error:
        log.error("cannot start", error=str(error))  # noqa: TRY400  # one line says it all
        return EXIT_FAILED
    cluster = KubernetesCluster(configuration, call_timeout_s=settings.call_timeout_s)
    try:
        log.info("settings", effective=settings.render().splitlines())
        code = await OperatorApp(settings, cluster, transport=transport).serve(drain)
    except OSError as error:  # the admin port
        log.error("cannot start", error=str(error))  # noqa: TRY400  # one line says it all
        return EXIT_FAILED
    finally:
        await cluster.close()
    log.info("stopped", exit_code=code)
    return code


async def _unless(drain: Drain, work: object) -> bool:
    """Whether some work was finished before a drain was requested."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    stop = asyncio.create_task(drain.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


def _options(settings: OperatorSettings) -> Options:
    tag = settings.image_tag or version("hortator")
    return Options(
        images=Images.of_version(tag, registry=settings.image_registry),
        cluster_domain=settings.cluster_domain,
        listen="PodIP" if settings.pods_share_host else "0.0.0.0",  # noqa: S104  # in a pod
        log_level=settings.child_log_level,
        operator_namespace=settings.namespace or own_namespace(),
    )

"""The operator without kopf and sockets, in loop time: queue, inventory, reconciler over the in-memory API.

News come by lists every second instead of by watches; the cluster's controllers and kubelets take a step
every 0.2 s. What a test changes, it changes in `api`.
"""

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import yaml
from prometheus_client import CollectorRegistry

from doubles.kubernetes.api import ApiServer, Obj, Write
from doubles.kubernetes.cluster import FakeCluster
from doubles.kubernetes.controllers import Controllers
from doubles.kubernetes.kubelets import Kubelets
from hortator.api.v1alpha1 import SCALER_KIND
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.desired import Options
from hortator.operator.guard import GuardedCluster
from hortator.operator.inventory import Inventory
from hortator.operator.metrics import OperatorMetrics
from hortator.operator.observed import SchedulerView, WorkerLoad
from hortator.operator.options import Images
from hortator.operator.reconciler import Reconciler
from hortator.operator.recorder import EventRecorder
from hortator.operator.resync import Resync
from hortator.operator.schedulers import SchedulerAt
from hortator.operator.work_queue import Key, WorkQueue

SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "samples" / "llmservice-simulated-64.yaml"
NAME = "simulated"
SERVICE = ("serving.hortator.dev/v1alpha1", "LLMService", "default", NAME)
STEP_S = 0.2
RESYNC_S = 1.0


class KilledError(BaseException):
    """The operator's process is gone: nobody in it catches this."""


class InstantSchedulers:
    """Answers at once, or nobody does: a real call would take real time, of which this loop knows nothing."""

    def __init__(self) -> None:
        self.answer: Callable[[Sequence[SchedulerAt]], SchedulerView | None] = lambda _: None

    async def view(self, schedulers: Sequence[SchedulerAt]) -> SchedulerView | None:
        return self.answer(schedulers)

    def start_drain(self, scheduler: SchedulerAt, worker_id: str, *, timeout_s: float) -> None:
        pass


class OperatorWorld:
    """A cluster of twelve nodes with an operator; `async with`."""

    def __init__(
        self,
        api: ApiServer | None = None,
        *,
        past: ApiServer | None = None,
        at: float = 0.0,
        gang_providers: Sequence[str] = (),
    ) -> None:
        """`past` is a copy of the API server of a world that began `at` that loop time: it goes on from there."""
        self.began_at = asyncio.get_running_loop().time() if at is None else at
        self.api = past or api or ApiServer()
        self.api.now = self.now
        self.cluster = FakeCluster(self.api)
        self.controllers = Controllers(self.api)
        self.kubelets = Kubelets(self.api)
        self.schedulers = InstantSchedulers()
        for number in range(0 if past else 12):
            self.kubelets.add_node(f"node-{number}")
        self.leads_for_s = 1e9
        self.gang_providers = gang_providers
        self.num_starts = 0
        self._cluster_task: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._make_operator()

    def ready_workers(self) -> dict[str, WorkerLoad]:
        """What a scheduler knows of the groups that are ready: an idle worker each, by its id."""
        groups = self.api.get(SERVICE).get("status", {}).get("groups", [])
        return {
            one["workerId"]: WorkerLoad(
                worker_id=one["workerId"],
                phase=one["role"].lower(),
                boot_id="1-1-a",
                state="running",
                num_in_flight=0,
                num_ranks=16,
                is_draining=False,
            )
            for one in groups
            if one["phase"] == "Ready"
        }

    def _make_operator(self) -> None:
        """A process that knows nothing yet."""
        self.inventory = Inventory()
        self.registry = CollectorRegistry()
        self.metrics = OperatorMetrics(self.registry)
        self.queue = WorkQueue(self._look)
        clock = asyncio.get_running_loop().time
        guarded = GuardedCluster(self.cluster, lambda: self.leads_for_s)
        self.certificates = CertificateKeeper(guarded, now=self.now)
        self.reconciler = Reconciler(
            cluster=guarded,
            inventory=self.inventory,
            schedulers=self.schedulers,
            certificates=self.certificates,
            recorder=EventRecorder(guarded, now=self.now),
            metrics=self.metrics,
            options=Options(images=Images.of_version("1.2.3")),
            now=self.now,
            told_at=clock,
        )
        self.resync = Resync(
            self.cluster,
            self.inventory,
            namespaces=(),
            told=self._told,
            interval_s=RESYNC_S,
            gang_providers=self.gang_providers,
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        self._cluster_task = asyncio.create_task(self._turn())
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._cluster_task is not None:
            self._cluster_task.cancel()
        await self._stop()

    def copy(self) -> ApiServer:
        """What is in the cluster at this moment."""
        logs = {id(log): list(log) for log in (self.api.writes, self.api._changes)}
        return copy.deepcopy(self.api, {id(self): self} | logs)

    async def restart(self) -> None:
        """The operator ends, wherever it is, and the next one starts; the cluster goes on."""
        await self._stop()
        self._make_operator()
        await self._start()

    async def killed(self) -> None:
        """Return when the operator has ended by a `KilledError` from one of its calls."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _start(self) -> None:
        self.num_starts += 1
        await self.resync.first(not_yet=lambda _reason: None)
        self._told(self.inventory.keys())
        self._tasks = [asyncio.create_task(work) for work in (self.queue.run(), self.resync.run())]

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def now(self) -> datetime:
        """The wall clock follows the loop's."""
        passed = asyncio.get_running_loop().time() - self.began_at
        return datetime(2026, 11, 26, 10, tzinfo=UTC) + timedelta(seconds=passed)

    # --- what a person does and sees ------------------------------------------------------------------

    def create(self, **spec: Any) -> Obj:
        obj = yaml.safe_load(SAMPLE.read_text())
        obj["metadata"] = {"name": NAME, "namespace": "default"}
        obj["spec"] |= spec
        return self.api.create(obj)

    def create_scaler(self, role: str, **spec: Any) -> Obj:
        """An LLMServiceScaler of the service, named after its role."""
        head = {"apiVersion": SERVICE[0], "kind": SCALER_KIND}
        metadata = {"name": role.lower(), "namespace": "default"}
        return self.api.create(
            head | {"metadata": metadata, "spec": {"serviceName": NAME, "role": role} | spec}
        )

    def edit(self, **spec: Any) -> None:
        self.api.patch(SERVICE, {"spec": spec})

    def condition(self, kind: str = "Ready") -> Obj:
        conditions = self.api.get(SERVICE).get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {})

    def reason(self) -> str:
        return str(self.condition().get("reason", ""))

    async def until(self, what: str, *, within_s: float = 60.0) -> None:
        """Wait for the reason of Ready."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        while self.reason() != what:
            assert loop.time() < end, f"{self.reason()} instead of {what} after {within_s} s"
            await asyncio.sleep(0.1)

    def writes(self, since: int = 0) -> list[Write]:
        """What the operator has written."""
        return [write for write in self.api.writes[since:] if write.manager == "hortator-operator"]

    # --- what runs ------------------------------------------------------------------------------------

    async def _look(self, key: Key) -> Any:
        return await self.reconciler.look(key)

    def _told(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            self.queue.add(key)

    async def _turn(self) -> None:
        seen = -1
        while True:
            if self.api.version != seen:
                seen = self.api.version
                self.controllers.step()
                self.kubelets.step()
            await asyncio.sleep(STEP_S)

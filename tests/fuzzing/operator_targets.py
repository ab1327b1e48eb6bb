"""The operator: what schedulers say of their workers, and what an API server answers.

Whatever it is, a look at a service ends with a plan and a status, the scaler decides, and a client of the API
server gives objects that have a name, or one of its own errors. A record of leadership that makes no sense is
waited out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from datetime import timedelta
from functools import cache
from typing import Any

from hypothesis import strategies as st
from kubernetes.aio.client.configuration import Configuration

from doubles.service_world import OPTIONS, World, a_manifest
from fuzzing.frames import framed, frames, parsed
from fuzzing.lives import live
from fuzzing.protos import around, wire
from fuzzing.target import Target
from fuzzing.texts import as_json, broken, wrong_values
from hortator.api.v1alpha1 import AutoscalingSpec
from hortator.operator.autoscaling import ScalingState, decide
from hortator.operator.client.kubernetes import KubernetesCluster
from hortator.operator.client.scheduler import SchedulerAdmin
from hortator.operator.cluster import ClusterError, UnavailableError
from hortator.operator.demand import Demand, sample_of, sample_of_role
from hortator.operator.desired import desired
from hortator.operator.inventory import Inventory
from hortator.operator.lease import Leadership
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed import observe
from hortator.operator.plan import plan
from hortator.operator.schedulers import SchedulerAt
from hortator.operator.status.explain import explain
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.runtime.identity import Identity

SCHEDULER = SchedulerAt(
    address="127.0.0.1:1", identity=Identity(component="scheduler", namespace="a", service="b")
)
SCALING = AutoscalingSpec.model_validate(
    {"maxReplicas": 5, "targetTTFT": "2s", "scaleUpWindow": "1m", "scaleDownWindow": "10m"}
)
KINDS = ("StatefulSet", "Pod", "Service", "PodDisruptionBudget", "Deployment", "ControllerRevision", "Node")
ADMIN_STATUSES = (200, 201, 400, 403, 404, 409, 410, 422, 429, 500, 503)


class Service:
    """A service that serves, as the operator sees it."""

    def __init__(self) -> None:
        self.world = World(a_manifest())
        self.world.settle()
        self.meta, service, *_ = self.world._seen()
        self.service = service
        self.wanted = desired(service, uid=self.meta.uid, options=OPTIONS)
        self.objects = [obj for kind in KINDS for obj in self.world.api.find(kind)]
        spec = service.spec
        self.spec = spec.model_copy(update={"autoscaling": SCALING})


a_service = cache(Service)


class Channel:
    """To a scheduler that answers so."""

    identity = Identity(component="operator", namespace="a", service="b")
    generation = 1

    def __init__(self, answer: pb.SnapshotResponse) -> None:
        self._answer = answer

    def open_channel(self, *_: Any, **__: Any) -> Channel:
        return self

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        return self._call

    async def _call(self, *_: Any, **__: Any) -> pb.SnapshotResponse:
        return self._answer

    unary_stream = stream_unary = stream_stream = unary_unary

    async def close(self) -> None:
        pass


def snapshot(data: bytes) -> None:
    """An answer of a scheduler, the same for longer than every window of the scaler."""
    answer = parsed(pb.SnapshotResponse, data)
    if answer is None:
        return
    at = a_service()

    async def life() -> None:
        admin = SchedulerAdmin(transport=Channel(answer))
        view = await admin.view([SCHEDULER])
        await admin.close()
        loads = {} if view is None else view.workers
        observed = observe(at.objects, meta=at.meta, loads=loads)
        arguments = {"meta": at.meta, "desired": at.wanted, "problems": (), "observed": observed}
        plan(at.service, now=at.world.clock, **arguments)
        explain(at.service, now=at.world.clock, **arguments)
        demand, now = Demand(), at.world.clock
        for _ in range(13):
            demand = demand.with_sample(sample_of(at.spec, view, now), now, SCALING)
            sample_of_role(at.spec, "Aggregated", SCALING, view, now)
            now += timedelta(seconds=59)
        state = ScalingState(
            replicas=2, units="role sets", asked_of="every role", are_all_ready=True, hold=""
        )
        decision = decide(SCALING, state=state, demand=demand, memory=None, now=now)
        assert decision.memory.next_replicas is None or 1 <= decision.memory.next_replicas <= 5

    live(life)


class ApiServer:
    """In place of the HTTP client: answers in turn, and then that it cannot."""

    def __init__(self, answers: list[tuple[int, bytes, dict[str, str]]]) -> None:
        self._answers = answers
        self.status = 503
        self.headers: dict[str, str] = {}
        self._raw = b""

    async def update_params_for_auth(self, *_: Any) -> None:
        pass

    async def call_api(self, *_: Any, **__: Any) -> ApiServer:
        self.status, self._raw, self.headers = self._answers.pop(0) if self._answers else (503, b"", {})
        return self

    async def read(self) -> bytes:
        return self._raw


def api_server(data: bytes) -> None:
    """Each frame is an answer: one byte for its status, one for its Retry-After, and the body."""
    answers = [
        (
            ADMIN_STATUSES[frame[0] % len(ADMIN_STATUSES)],
            frame[2:],
            {"Retry-After": str(_DELAYS[frame[1] % len(_DELAYS)])},
        )
        for frame in frames(data)
        if len(frame) > 1
    ]

    async def life() -> None:
        for question in (_list, _get, _lead):
            cluster = KubernetesCluster.__new__(KubernetesCluster)  # without the pool of connections
            cluster._configuration, cluster._client = Configuration(host="http://a"), ApiServer(list(answers))
            cluster._call_timeout_s, cluster._page_size, cluster._served = 1.0, 2, {}
            try:
                await question(cluster)
            except ClusterError as error:
                _is_told(error)

    live(life)


async def _list(cluster: KubernetesCluster) -> None:
    for kind in ("Pod", "Node"):
        found = await cluster.list("v1", kind, labels={"a": "b"})
        inventory = Inventory()
        inventory.replace_all("v1", kind, found, asked_at=0.0, told_at=1.0)
        inventory.replace_all("v1", kind, [], asked_at=2.0, told_at=3.0)
        assert not inventory.num_objects()
        at = a_service()
        observe(found, meta=at.meta, loads={})


async def _get(cluster: KubernetesCluster) -> None:
    found = await cluster.get(Ref(api_version="v1", kind="Pod", namespace="a", name="b"))
    if found is not None:
        await cluster.apply({"apiVersion": "v1", "kind": "Pod"} | found | {"metadata": {"name": "b"}})


async def _lead(cluster: KubernetesCluster) -> None:
    leadership = Leadership(cluster, namespace="a", name="b", identity="c")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60.0):
            await leadership.acquire()
            await leadership._renew()
    await leadership.release()


def _is_told(error: ClusterError) -> None:
    assert len(str(error).splitlines()) <= 1
    asked_s = error.retry_after_s if isinstance(error, UnavailableError) else None
    assert asked_s is None or 0.0 <= asked_s <= 60.0


def _answer(document: Any, *, status: int = 200, delay: Any = "1") -> bytes:
    return bytes([ADMIN_STATUSES.index(status), _DELAYS.index(delay)]) + (
        document if isinstance(document, bytes) else json.dumps(document).encode()
    )


def _pod(**metadata: Any) -> Obj:
    return {
        "metadata": {"name": "b", "namespace": "a", "uid": "u", "resourceVersion": "1"} | metadata,
        "spec": {
            "nodeName": "n",
            "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


_DELAYS = ("1", "nan", "inf", "-inf", "-1", "1e300", "x", "", "9" * 400)
_RESOURCES = {
    "kind": "APIResourceList",
    "resources": [
        {"name": "pods", "kind": "Pod", "namespaced": True},
        {"name": "pods/status", "kind": "Pod", "namespaced": True},
        {"name": "nodes", "kind": "Node", "namespaced": False},
        {"name": "leases", "kind": "Lease", "namespaced": True},
    ],
}
_LIST = {"items": [_pod(), _pod(name="d", labels={"a": "b"})], "metadata": {"continue": ""}}
_LEASE = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": "b", "namespace": "a", "resourceVersion": "1"},
    "spec": {"holderIdentity": "d", "leaseDurationSeconds": 5, "leaseTransitions": 1},
}
_FREE = _LEASE | {"spec": _LEASE["spec"] | {"holderIdentity": ""}}
_STATUS = {"kind": "Status", "message": "no", "reason": "AlreadyExists", "details": {"retryAfterSeconds": 1}}
_DOCUMENTS = (_RESOURCES, _LIST, _LEASE, _FREE, _STATUS)


@st.composite
def _conversations(draw: st.DrawFn) -> bytes:
    """Mostly the resources first, which is what is asked for first."""
    bodies = st.one_of(
        wrong_values(*_DOCUMENTS).map(as_json), broken(*map(json.dumps, _DOCUMENTS)), st.sampled_from(_SOUND)
    )
    heads = st.tuples(
        st.sampled_from((0, 0, 0, *range(len(ADMIN_STATUSES)))), st.sampled_from(range(len(_DELAYS)))
    )
    answers = [bytes(draw(heads)) + draw(bodies) for _ in range(draw(st.integers(1, 4)))]
    first = [_answer(_RESOURCES)] if draw(st.booleans()) else []
    return framed([*first, *answers])


_SOUND = tuple(as_json(document) for document in _DOCUMENTS)


def _listed(document: Any, **how: Any) -> bytes:
    return framed([_answer(_RESOURCES), _answer(document, **how)])


_GROUP = pb.GroupState(
    worker_id="aggregated-0",
    boot_id="1-zlpvx89566-46f64ca6",
    phase=pb.PHASE_AGGREGATED,
    state="ready",
    num_in_flight=3,
    ranks=[pb.RankSnapshot(dp_rank=rank) for rank in range(2)],
)


def _snapshot(
    *, phase: int = pb.PHASE_AGGREGATED, saturation: float = 0.5, ttft_s: float = 0.5
) -> pb.SnapshotResponse:
    group = pb.GroupState()
    group.CopyFrom(_GROUP)
    group.phase = phase
    return pb.SnapshotResponse(
        snapshot=pb.Snapshot(
            epoch=5,
            groups=[group],
            predicted_ttft_s=ttft_s,
            saturation={"aggregated": saturation, "prefill": saturation, "decode": saturation},
        )
    )


TARGETS = (
    Target(
        "operator-snapshot",
        snapshot,
        around(_snapshot()) | wire(pb.SnapshotResponse),
        cases=(_snapshot().SerializeToString(),),
        bugs={
            "a phase of a scheduler to come": _snapshot(phase=99).SerializeToString(),
            **{
                f"a saturation of {value}": _snapshot(saturation=value).SerializeToString()
                for value in (math.nan, math.inf, -math.inf, -1.0, 1e308)
            },
            "a predicted TTFT of nan": _snapshot(ttft_s=math.nan).SerializeToString(),
        },
    ),
    Target(
        "operator-api-server",
        api_server,
        _conversations(),
        cases=(
            framed([_answer(_RESOURCES), _answer(_LIST), _answer(_LIST)]),
            framed([_answer(_RESOURCES), _answer(_LEASE), _answer(_LEASE)]),
            framed([_answer(_RESOURCES), _answer(_FREE), _answer(_FREE), _answer(_LEASE)]),
        ),
        bugs={
            "an answer that is nested too deeply": _listed(b"[" * 50_000),
            "a kind that is none": framed([_answer(_RESOURCES), _answer(_FREE | {"apiVersion": True})] * 2),
            "a namespace that is none": _listed({"items": [_pod(namespace=[1])]}),
            "a list without items": _listed({"metadata": {}}),
            "a list that is a mapping": _listed({"items": {"a": 1}}),
            "an item that is no object": _listed({"items": [1]}),
            "an object without a name": _listed({"items": [{"metadata": {}}]}),
            "metadata that are a list": _listed({"items": [], "metadata": []}),
            "resources without names": framed([_answer({"resources": [{"kind": "Pod"}, 1]})]),
            "details that are a list": _listed({"details": [1]}, status=503),
            "a resource version of ten thousand digits": _listed(
                {"items": [_pod(resourceVersion="9" * 10_000)]}
            ),
            "a pod without containers": _listed({"items": [_pod() | {"spec": None}]}),
            "a lease that lasts for a text": framed(
                [
                    _answer(_RESOURCES),
                    _answer(_LEASE | {"spec": {"holderIdentity": "d", "leaseDurationSeconds": "x"}}),
                ]
                * 3
            ),
            **{
                f"told to come back after {delay[:5]} s": _listed(_STATUS, status=503, delay=delay)
                for delay in ("nan", "inf", "-inf", "-1", "1e300")
            },
        },
    ),
)

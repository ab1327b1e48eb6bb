"""The reconciler over the in-memory API: what it does when all is well, and when nothing is."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doubles.kubernetes.api import ApiError, ApiServer, Obj
from doubles.kubernetes.kubelets import Wait
from doubles.operator_world import SERVICE, OperatorWorld
from hortator.operator.objects import Ref

pytestmark = pytest.mark.looptime


def in_world(test: Callable[[OperatorWorld], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The world must be made in the test itself: loop time begins there."""

    async def run() -> None:
        async with OperatorWorld() as world:
            await test(world)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def reason_of(verb: str, kind: str, error: ApiError):
    return lambda asked, ref: error if (asked, ref.kind) == (verb, kind) else None


@in_world
async def test_a_service_comes_up_and_is_then_left_alone(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    assert world.api.get(SERVICE)["status"]["display"]["ranks"] == "64/64"
    await asyncio.sleep(5)
    since = len(world.api.writes)
    await asyncio.sleep(60)
    assert world.api.writes[since:] == []


@in_world
async def test_a_deleted_service_leaves_nothing(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    world.api.delete(SERVICE)
    await asyncio.sleep(5)
    left = {kind: world.api.find(kind) for kind in ("StatefulSet", "Deployment", "Pod", "Service", "Secret")}
    assert {kind: found for kind, found in left.items() if found} == {}
    assert list(world.inventory.services()) == []


@in_world
async def test_what_somebody_deletes_comes_back(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    world.api.delete(("apps/v1", "Deployment", "default", "simulated-gateway"))
    world.api.delete(("v1", "Service", "default", "simulated-d-0"))
    await asyncio.sleep(5)
    assert world.api.get(("apps/v1", "Deployment", "default", "simulated-gateway"))
    assert world.api.get(("v1", "Service", "default", "simulated-d-0"))


@in_world
async def test_an_api_server_that_asks_for_patience_gets_it(world: OperatorWorld) -> None:
    calls: list[float] = []

    def refuse(verb: str, ref: Ref) -> ApiError | None:
        if verb not in {"apply", "create"} or ref.kind == "Event":
            return None
        calls.append(asyncio.get_running_loop().time())
        return ApiError(429, "TooManyRequests", "slow down", retry_after_s=7.0)

    world.cluster.fault = refuse
    world.create()
    await asyncio.sleep(30)
    gaps = [later - sooner for sooner, later in itertools.pairwise(calls)]
    assert 3 <= len(calls) <= 5
    assert min(gaps) >= 7.0
    world.cluster.fault = lambda _verb, _ref: None
    await world.until("AllGroupsReady")


@in_world
async def test_a_storm_of_errors_delays_and_nothing_else(world: OperatorWorld) -> None:
    chance = random.Random(3)
    errors = (
        ApiError(500, "InternalError", "etcdserver: request timed out"),
        ApiError(409, "Conflict", "the object has been modified"),
        ApiError(429, "TooManyRequests", "too many", retry_after_s=1.0),
        ApiError(503, "ServiceUnavailable", "apiserver is shutting down"),
        *[None] * 4,
    )
    world.cluster.fault = lambda _verb, _ref: chance.choice(errors)
    world.create()
    await world.until("AllGroupsReady", within_s=600)
    label = "serving.hortator.dev/epoch"
    sets = world.api.find("StatefulSet")
    assert {one["spec"]["template"]["metadata"]["labels"][label] for one in sets} == {"1"}


@in_world
async def test_a_write_whose_answer_was_lost_is_not_done_twice(world: OperatorWorld) -> None:
    def lose(verb: str, ref: Ref) -> None:
        if verb in {"apply", "create"} and ref.kind in {"StatefulSet", "Secret", "ControllerRevision"}:
            raise ApiError(504, "Timeout", "the answer got lost")

    world.cluster.after_write = lose
    world.create()
    await asyncio.sleep(200)
    world.cluster.after_write = lambda _verb, _ref: None
    await world.until("AllGroupsReady", within_s=120)
    assert len(world.api.find("Secret")) == 3
    label = "serving.hortator.dev/epoch"
    epochs = {one["spec"]["template"]["metadata"]["labels"][label] for one in world.api.find("StatefulSet")}
    assert epochs == {"1"}


@in_world
async def test_a_refusal_for_good_is_told_and_tried_again_later(world: OperatorWorld) -> None:
    error = ApiError(422, "Invalid", 'StatefulSet "simulated-p-0" is invalid: spec.template: no')
    world.cluster.fault = reason_of("apply", "StatefulSet", error)
    world.create()
    await world.until("ObjectRefused")
    assert "spec.template: no" in world.condition()["message"]
    asked = len(world.writes())
    await asyncio.sleep(30)
    assert len(world.writes()) - asked <= 2
    world.cluster.fault = lambda _verb, _ref: None
    await world.until("AllGroupsReady", within_s=70)
    events = [event for event in world.api.find("Event") if event["reason"] == "ObjectRefused"]
    assert len(events) == 1


@in_world
async def test_a_missing_role_of_the_operator_is_told(world: OperatorWorld) -> None:
    error = ApiError(403, "Forbidden", "services is forbidden: cannot patch resource services")
    world.cluster.fault = reason_of("apply", "Service", error)
    world.create()
    await world.until("OperatorForbidden")
    assert "cannot patch" in world.condition()["message"]


@in_world
async def test_a_pull_that_may_not_be_made_is_told_and_groups_move_without_it(world: OperatorWorld) -> None:
    drain, rollout = {"timeout": "1s"}, {"allowOutage": True, "maxSkew": 8}
    world.create(drain=drain, rollout=rollout)
    await world.until("AllGroupsReady")
    error = ApiError(403, "Forbidden", "jobs.batch is forbidden: exceeded quota: jobs")
    refuse, calls = reason_of("create", "Job", error), []

    def fault(verb: str, ref: Ref) -> ApiError | None:
        calls.extend([asyncio.get_running_loop().time()] * (ref.kind == "Job" and verb == "create"))
        return refuse(verb, ref)

    world.cluster.fault = fault
    world.edit(engine={"backend": "Simulated", "image": "registry.example/worker:2"})
    await asyncio.sleep(50)
    assert (world.reason(), len(calls)) == ("PrePulling", 1)
    assert "exceeded quota: jobs" in world.condition()["message"]
    (event,) = [event for event in world.api.find("Event") if event["reason"] == "PrePullFailed"]
    assert "exceeded quota: jobs" in event["message"]
    assert event["type"] == "Warning"
    await asyncio.sleep(100)
    assert len(calls) <= 3
    await world.until("AllGroupsReady", within_s=400)
    images = {
        one["spec"]["template"]["spec"]["containers"][0]["image"] for one in world.api.find("StatefulSet")
    }
    assert images == {"registry.example/worker:2"}


@in_world
async def test_who_does_not_lead_writes_nothing(world: OperatorWorld) -> None:
    world.leads_for_s = 0.0
    world.create()
    await asyncio.sleep(30)
    assert world.writes() == []


@in_world
async def test_a_write_does_not_outlive_the_leadership(world: OperatorWorld) -> None:
    world.leads_for_s = 0.5
    world.cluster.pause()
    world.create()
    asked_at = asyncio.get_running_loop().time()
    await world.reconciler.look(("default", "simulated"))
    assert asyncio.get_running_loop().time() - asked_at < 1.0
    world.cluster.resume()
    assert world.writes() == []


@in_world
async def test_an_invalid_object_is_not_accepted_and_what_runs_goes_on(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    before = {pod["metadata"]["uid"] for pod in world.api.find("Pod")}
    roles = world.api.get(SERVICE)["spec"]["roles"]
    roles[0]["parallelism"]["attentionDP"] = 7  # 2 nodes x 8 GPUs are 16
    world.edit(roles=roles)
    await world.until("InvalidSpec")
    assert "roles[0]" in world.condition("Accepted")["message"]
    await asyncio.sleep(10)
    assert {pod["metadata"]["uid"] for pod in world.api.find("Pod")} == before
    world.kubelets.end("default", "simulated-d-0-0")
    await asyncio.sleep(10)
    assert len({pod["metadata"]["uid"] for pod in world.api.find("Pod")} - before) == 4
    assert all(pod["status"]["phase"] == "Running" for pod in world.api.find("Pod"))
    assert world.reason() == "InvalidSpec"


@in_world
async def test_an_operator_that_starts_beside_an_invalid_object_goes_on_with_the_last_good_one(
    world: OperatorWorld,
) -> None:
    world.create()
    await world.until("AllGroupsReady")
    world.edit(drain={"timeout": "soon"})
    await world.until("InvalidSpec")
    await world.restart()
    await asyncio.sleep(5)
    assert world.condition("Available")["status"] == "True"
    uids = {pod["metadata"]["uid"] for pod in world.api.find("Pod")}
    world.kubelets.end("default", "simulated-d-0-1")
    await asyncio.sleep(10)
    assert "GroupRestarting" in [event["reason"] for event in world.api.find("Event")]
    assert len({pod["metadata"]["uid"] for pod in world.api.find("Pod")} - uids) == 4
    assert world.condition("WorkersReady")["status"] == "True"
    assert (world.reason(), world.condition("Accepted")["status"]) == ("InvalidSpec", "False")
    world.kubelets.script = lambda _pod: Wait(reason="CrashLoopBackOff")
    world.kubelets.step()
    await asyncio.sleep(10)
    assert world.condition("Available")["status"] == "False"


class ForgetfulApi(ApiServer):
    """A server that is older than a field: it drops it."""

    def apply(self, config: Obj, **options: Any) -> Obj:
        if config["kind"] == "PodDisruptionBudget":
            config = config | {"spec": dict(config["spec"])}
            config["spec"].pop("unhealthyPodEvictionPolicy", None)
        return super().apply(config, **options)


async def test_a_field_that_the_server_drops_is_not_written_again_and_again() -> None:
    async with OperatorWorld(ForgetfulApi()) as world:
        world.create()
        await world.until("AllGroupsReady")
        applied = 0

        def count(verb: str, ref: Ref) -> None:
            nonlocal applied
            applied += (verb, ref.kind) == ("apply", "PodDisruptionBudget")

        world.cluster.after_write = count
        await asyncio.sleep(60)
        assert applied == 0
        world.api.patch(
            ("policy/v1", "PodDisruptionBudget", "default", "simulated-p-0"), {"spec": {"maxUnavailable": 3}}
        )
        await asyncio.sleep(5)
        assert applied == 1  # a change by somebody else is taken back


@in_world
async def test_metrics_say_what_was_found(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    await asyncio.sleep(1)
    sample = world.registry.get_sample_value
    assert sample("hortator_operator_groups", {"phase": "Ready"}) == 3
    assert sample("hortator_operator_services", {"ready": "True", "reason": "AllGroupsReady"}) == 1
    assert sample("hortator_operator_actions_total", {"action": "Create", "kind": "Secret"}) == 3
    world.api.delete(SERVICE)
    await asyncio.sleep(5)
    assert sample("hortator_operator_groups", {"phase": "Ready"}) is None


@in_world
async def test_a_failed_member_restarts_its_group_once(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    uids = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in world.api.find("Pod")}
    world.kubelets.end("default", "simulated-d-0-2", exit_code=137, reason="OOMKilled")
    await asyncio.sleep(1.5)
    await world.until("AllGroupsReady")
    label = "serving.hortator.dev/epoch"
    epochs = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"][label]
        for one in world.api.find("StatefulSet")
    }
    assert epochs == {"simulated-p-0": "1", "simulated-p-1": "1", "simulated-d-0": "2"}
    now = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in world.api.find("Pod")}
    changed = {name for name in uids if now[name] != uids[name]}
    assert changed == {f"simulated-d-0-{ordinal}" for ordinal in range(4)}
    labels = {"reason": "OOMKilled"}
    assert world.registry.get_sample_value("hortator_operator_group_restarts_total", labels) == 1


@in_world
async def test_a_preempted_member_restarts_its_group_and_is_counted_as_that(world: OperatorWorld) -> None:
    world.create()
    await world.until("AllGroupsReady")
    pod = world.api.get(("v1", "Pod", "default", "simulated-d-0-2"))
    target = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    status = pod["status"] | {"conditions": [*pod["status"]["conditions"], target]}
    pod = world.api.replace(pod | {"status": status}, manager="scheduler", subresource="status")
    world.inventory.put(pod, told_at=asyncio.get_running_loop().time())  # as a watch tells
    world.api.delete(("v1", "Pod", "default", "simulated-d-0-2"))
    await asyncio.sleep(1.5)
    await world.until("AllGroupsReady")
    labels = {"reason": "PodPreempted"}
    assert world.registry.get_sample_value("hortator_operator_group_restarts_total", labels) == 1

"""The operator is killed in the middle of its writes, again and again, whatever it is just doing.

HORTATOR_KILLS says how often (`make soak`: 50). Each kill comes after a random number of writes of that life, so it
lands inside a change and not beside it. After each change an operator is left alone until the service has
settled, and then every group must have gone through exactly the epochs that the change asked for.
"""

import math
import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pytest

from cluster.controlplane import Lab
from cluster.fakenodes.client import FakeNodes
from cluster.kube import Obj
from cluster.operators import SERVICES, Operator, Operators, operators_in
from cluster.proxy.server import ApiProxy
from cluster.recorder import Recorder, recording
from cluster.results import record
from cluster.scene import PREFIX, condition, is_ready, reason
from cluster.test_operator import sample
from cluster.truth import epoch_of, groups_of_sample, joined_twice, lies

NUM_KILLS = int(os.environ.get("HORTATOR_KILLS") or "10")
SEED = 7
NAME = "simulated"
MOST_WRITES = 6
"""Of a life, at most, before it is killed."""
IDLE_S = 4.0
"""A life that writes nothing for so long has nothing to do: it is killed all the same."""
SHORT_LEASE = {"lease_duration_s": "2", "lease_renew_deadline_s": "1.5", "lease_retry_s": "0.2"}
"""Else each life would wait 15 s for the lease of the one before it."""


@dataclass(slots=True, kw_only=True)
class Lives:
    """Operators, one after the other; what they have written is counted on their way to the API server."""

    operators: Operators
    proxy: ApiProxy
    chance: random.Random
    present: Operator | None = None
    num_killed: int = 0
    num_killed_idle: int = 0
    writes: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """One lives."""
        if self.present is None:
            self.present = self.operators.start(wait=False)

    def end_within_a_change(self) -> None:
        """Kill the present one after a few more writes."""
        self.begin()
        assert self.present is not None
        wanted = self.chance.randint(1, MOST_WRITES)
        since = time.monotonic()
        idle_since = since
        num_written = 0
        while num_written < wanted and time.monotonic() - idle_since < IDLE_S:
            assert self.present.is_alive(), self.present.process.last_lines()
            seen = self._num_written(since)
            if seen > num_written:
                num_written, idle_since = seen, time.monotonic()
            time.sleep(0.002)
        self.present.kill()
        self.present = None
        self.num_killed += 1
        self.num_killed_idle += num_written == 0
        self.writes.append(num_written)

    def _num_written(self, since: float) -> int:
        passed = self.proxy.faults.passed(since=since, writes=True)
        return sum("/leases/" not in one.target and "/events" not in one.target for one in passed)


@dataclass(slots=True, kw_only=True)
class Stage:
    """The service, and what people and machines do to it."""

    lab: Lab
    nodes: FakeNodes
    namespace: str
    record: Recorder

    def create(self) -> None:
        self.lab.client.create(
            sample(
                self.namespace,
                drain={"timeout": "1s"},
                rollout={"allowOutage": True},  # its only decode group gets another image too
                restart={"baseDelay": "0s", "maxDelay": "0s", "maxRestarts": 100},
            )
        )

    def patch(self, **spec: object) -> None:
        path = self.lab.client.path(*SERVICES, self.namespace, NAME)
        self.lab.client.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")

    def crash(self, *pods: str) -> None:
        for pod in pods:
            self.nodes.do(self.namespace, pod, "crash", exit_code=137)

    def drain(self, group: str) -> None:
        annotation = {f"{PREFIX}drain-requested": str(self.epochs()[group])}
        path = self.lab.client.path("apps/v1", "StatefulSet", self.namespace, group)
        body = {"metadata": {"annotations": annotation}}
        self.lab.client.request("PATCH", path, body, content_type="application/merge-patch+json")

    def sets(self) -> list[Obj]:
        return self.lab.client.list("apps/v1", "StatefulSet", self.namespace)

    def epochs(self) -> dict[str, int]:
        return {one["metadata"]["name"]: epoch_of(one["spec"]["template"]) for one in self.sets()}

    def until(self, holds: Callable[[Obj], object], *, timeout_s: float = 60.0) -> Obj:
        found = self.lab.client.wait(*SERVICES, NAME, self.namespace, holds, timeout_s=timeout_s)
        assert found is not None
        return found


def serves(service: Obj, epochs: Mapping[str, int]) -> bool:
    """Every group is ready, in the epoch that it should be in (0: in any), and none is still to go."""
    status = service.get("status") or {}
    told = {one["name"]: one["epoch"] for one in status.get("groups", [])}
    return (
        is_ready(service)
        and condition(service, "Progressing").get("status") == "False"
        and status["display"]["groups"] == f"{len(epochs)}/{len(epochs)}"
        and told.keys() == epochs.keys()
        and all(epochs[name] in {0, epoch} for name, epoch in told.items())
    )


def is_suspended(service: Obj, _: Mapping[str, int]) -> bool:
    return condition(service, "Suspended").get("status") == "True"


def has_no_groups(service: Obj, _: Mapping[str, int]) -> bool:
    return reason(service) == "ScaledToZero" and service["status"].get("replicas") == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something happens; how the service ends up; which groups are in the next epoch then (None: all)."""

    name: str
    do: Callable[[Stage, int], None]
    """With the number of the round."""
    settled: Callable[[Obj, Mapping[str, int]], bool] = serves
    restarted: Collection[str] | None = ()
    num_role_sets: int = 1


def _has_settled(change: Change, epochs: Mapping[str, int], service: Obj) -> bool:
    return change.settled(service, epochs)


CREATE = Change(name="create", do=lambda stage, _: stage.create())
ROUND = [
    Change(
        name="a member fails",
        do=lambda stage, _: stage.crash("simulated-d-0-1"),
        restarted={"simulated-d-0"},
    ),
    Change(name="drain", do=lambda stage, _: stage.drain("simulated-p-1"), restarted={"simulated-p-1"}),
    Change(  # (the epoch that comes next is written when the pods go)
        name="suspend",
        do=lambda stage, _: stage.patch(suspend=True),
        settled=is_suspended,
        restarted=None,
    ),
    Change(name="resume", do=lambda stage, _: stage.patch(suspend=False)),
    Change(name="scale up", do=lambda stage, _: stage.patch(replicas=2), num_role_sets=2),
    Change(
        name="restart",
        do=lambda stage, number: stage.patch(restart={"requestedAt": f"2026-01-02T03:04:{number:02d}Z"}),
        restarted=None,
        num_role_sets=2,
    ),
    Change(name="scale down", do=lambda stage, _: stage.patch(replicas=1)),
    Change(
        name="members of two groups fail",
        do=lambda stage, _: stage.crash("simulated-p-0-0", "simulated-d-0-3"),
        restarted={"simulated-p-0", "simulated-d-0"},
    ),
    Change(
        name="another image",
        do=lambda stage, number: stage.patch(engine={"image": f"example.com/engine:{number}"}),
        restarted=None,
    ),
]
SCALE_TO_ZERO = Change(
    name="scale to zero",
    do=lambda stage, _: stage.patch(replicas=0),
    settled=has_no_groups,
    num_role_sets=0,
)


def changes() -> Iterator[tuple[int, Change]]:
    """As many rounds as the kills need."""
    num_rounds = math.ceil((NUM_KILLS - 1) / len(ROUND))
    yield 0, CREATE
    for number in range(num_rounds):
        yield from ((number, change) for change in ROUND)
    yield 0, SCALE_TO_ZERO


@pytest.fixture
def lives(lab, namespace, faulty_api) -> Iterator[Lives]:
    proxy, kubeconfig = faulty_api
    settings = {"namespaces": f'["{namespace}"]', "resync_interval_s": "5", **SHORT_LEASE}
    with operators_in(lab, namespace, kubeconfig=kubeconfig, **settings) as operators:
        yield Lives(operators=operators, proxy=proxy, chance=random.Random(SEED))


@pytest.fixture
def stage(lab, namespace, fake_nodes, lives) -> Iterator[Stage]:
    """(After `lives`, which bring the CRD.)"""
    nodes = fake_nodes(16)
    with recording(lab.client, namespace) as found:
        yield Stage(lab=lab, nodes=nodes, namespace=namespace, record=found)


@pytest.mark.timeout(240 + 20 * NUM_KILLS)
@pytest.mark.safety
def test_a_killed_operator_goes_on_where_the_cluster_stands(stage, lives):
    began_at = time.monotonic()
    expected: dict[str, int] = {}
    settled_s: dict[str, list[float]] = {}
    for number, change in changes():
        lives.begin()
        change.do(stage, number)
        if lives.num_killed < NUM_KILLS:  # once a change: later ones would find it made
            lives.end_within_a_change()
        lives.begin()
        left_alone_at = time.monotonic()
        restarted = expected.keys() if change.restarted is None else change.restarted
        groups = groups_of_sample(change.num_role_sets)
        expected = {name: expected.get(name, 0) + (name in restarted) for name in groups}
        stage.until(partial(_has_settled, change, expected))
        settled_s.setdefault(change.name, []).append(round(time.monotonic() - left_alone_at, 1))
        stage.record.quiet(("LLMService", "StatefulSet", "Pod"), for_s=2.0)
        found = stage.epochs()
        assert found == {name: epoch or found.get(name) for name, epoch in expected.items()}, change.name
        expected = found

    assert lives.num_killed == NUM_KILLS
    assert lives.num_killed_idle <= NUM_KILLS // 4, "the kills came when there was nothing to do"
    assert joined_twice(stage.record) == []
    assert lies(stage.record) == []
    record(
        "operator-kills",
        seed=SEED,
        settings={"kills": NUM_KILLS, "changes": [change.name for _, change in changes()]},
        targets={"false_ready": "0", "joined_twice": "0"},
        figures={
            "kills": lives.num_killed,
            "kills_without_a_write_before": lives.num_killed_idle,
            "writes_of_killed_operators": sum(lives.writes),
            "false_ready": 0,
            "joined_twice": 0,
            "settled_max_s": {name: max(times) for name, times in settled_s.items()},
            "elapsed_s": round(time.monotonic() - began_at, 1),
        },
    )

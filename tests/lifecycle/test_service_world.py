"""One LLMService in a world where anything may happen, as often as hypothesis likes; then the faults stop.

Pods are deleted, engines crash, nodes are cordoned and lost and come back, people scale, suspend, edit, pause rollouts,
begin others that cannot succeed and ask for restarts, nodes cannot pull, somebody scales a StatefulSet by hand, the scheduler goes silent, the operator dies after a write. While that lasts
the world's own invariants hold (`doubles.service_world`); when it ends the service is as wanted again.
"""

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from doubles.kubernetes.kubelets import Wait
from doubles.service_world import NAMESPACE, World, a_manifest
from hortator.operator import names

NUM_EXAMPLES = int(os.environ.get("HORTATOR_LIFECYCLE_EXAMPLES", "8"))
IS_SOAK = "HORTATOR_LIFECYCLE_EXAMPLES" in os.environ
"""A soak sets more, and looks for new ones each time; otherwise they are the same in every run."""
NODES = {f"n-{index}": {"gpus": 8} for index in range(5)}
PULLS = [Wait(reason="ErrImagePull"), Wait(reason="ContainerCreating")]
TIMES = [f"2026-11-26T1{hour}:00:00Z" for hour in range(5)]


class ServiceWorld(RuleBasedStateMachine):
    """See the module."""

    @initialize(backend=st.sampled_from(["Simulated", "TensorRTLLM"]), num_groups=st.integers(1, 2))
    def a_new_service(self, backend, num_groups):
        restart = {"baseDelay": "5s", "maxDelay": "30s", "maxRestarts": 2, "window": "5m"}
        self.world = World(
            a_manifest(
                backend=backend,
                aggregated=num_groups,
                nodes=2,
                gpus_per_node=8,
                restart=restart,
                drain={"timeout": "10s"},
                placement={"gang": {"timeout": "30s"}},
            ),
            nodes=NODES,
        )
        self.world.acts_of_images["a/worker:none"] = Wait(reason="ImagePullBackOff")
        self.lost: set[str] = set()

    @rule(num_ticks=st.integers(1, 12))
    def some_time_passes(self, num_ticks):
        self.time_passes(num_ticks)

    def time_passes(self, num_ticks):
        for _ in range(num_ticks):
            self.world.tick()

    @rule(num_ticks=st.integers(1, 3))
    def a_moment_passes(self, num_ticks):
        self.time_passes(num_ticks)

    @rule()
    def a_start_passes(self):
        self.time_passes(8)

    @rule(num_ticks=st.integers(1, 6))
    def the_operator_is_away(self, num_ticks):
        for _ in range(num_ticks):
            self.world.tick(with_operator=False)

    @rule()
    def it_comes_to_rest_if_it_can(self):
        for _ in range(40):
            if self.world.tick():
                return

    @rule(num_ticks=st.integers(1, 8))
    def the_operator_dies_all_the_time(self, num_ticks):
        self.the_operator_dies_after_each_write(num_ticks)

    def the_operator_dies_after_each_write(self, num_ticks):
        self.world.kills_always = True
        for _ in range(num_ticks):
            self.world.tick()
        self.world.kills_always = False

    @precondition(lambda self: self._engine_pods())
    @rule(data=st.data())
    def a_pod_is_deleted(self, data):
        self.world.delete_pod(data.draw(st.sampled_from(self._engine_pods()), label="pod"))

    @precondition(lambda self: self._running_pods())
    @rule(data=st.data())
    def an_engine_crashes(self, data):
        self.world.crash(data.draw(st.sampled_from(self._running_pods()), label="pod"))

    @rule(node=st.sampled_from(sorted(NODES)), is_cordoned=st.booleans())
    def a_node_is_cordoned_or_not(self, node, is_cordoned):
        self.world.cordon(node, is_cordoned=is_cordoned)

    @rule(node=st.sampled_from(sorted(NODES)), act=st.sampled_from([None, *PULLS]))
    def a_node_pulls_or_not(self, node, act):
        self.world.acts[node] = act

    @precondition(lambda self: len(self.lost) < 2)
    @rule(node=st.sampled_from(sorted(NODES)))
    def a_node_is_lost(self, node):
        self.lost.add(node)
        self.world.lose_node(node)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def a_node_comes_back(self, data):
        node = data.draw(st.sampled_from(sorted(self.lost)), label="node")
        self.lost.discard(node)
        self.world.find_node(node)

    @rule(replicas=st.integers(0, 2))
    def somebody_scales(self, replicas):
        self.world.edit({"replicas": replicas})

    @rule(is_suspended=st.booleans())
    def somebody_suspends_or_resumes(self, is_suspended):
        self.world.edit({"suspend": is_suspended})

    @rule(image=st.sampled_from(["a/worker:1", "a/worker:2"]))
    def somebody_changes_the_image(self, image):
        self.world.edit({"engine": {"image": image}})

    @rule(
        rollout=st.fixed_dictionaries(
            {
                "maxUnavailable": st.integers(1, 2),
                "maxSurge": st.integers(0, 1),
                "partition": st.integers(0, 1),
                "paused": st.booleans(),
                "allowOutage": st.booleans(),
                "prePull": st.sampled_from(["Auto", "Off"]),
            }
        )
    )
    def somebody_changes_how_groups_move(self, rollout):
        self.world.edit({"rollout": rollout})

    @rule(image=st.sampled_from(["a/worker:1", "a/worker:2", "a/worker:none"]), num_ticks=st.integers(1, 12))
    def a_rollout_is_under_way(self, image, num_ticks):
        self.world.edit({"engine": {"image": image}, "rollout": {"paused": False, "partition": 0}})
        self.time_passes(num_ticks)

    @rule(when=st.sampled_from(TIMES))
    def somebody_asks_for_a_restart(self, when):
        self.world.edit({"restart": {"requestedAt": when}})

    @rule(is_valid=st.booleans())
    def somebody_breaks_or_repairs_the_spec(self, is_valid):
        self.world.edit({"drain": {"timeout": "10s" if is_valid else "10 seconds"}})

    @precondition(lambda self: self._running_pods())
    @rule(data=st.data(), num_ticks=st.integers(1, 6))
    def an_engine_crashes_beside_a_broken_spec_and_an_operator_that_starts(self, data, num_ticks):
        """No operator of this world remembers anything: what it carries out is in the cluster."""
        self.world.edit({"drain": {"timeout": "10 seconds"}})
        self.world.crash(data.draw(st.sampled_from(self._running_pods()), label="pod"))
        self.the_operator_dies_after_each_write(num_ticks)

    @rule(limit=st.integers(0, 2))
    def somebody_changes_how_many_groups_may_be_away(self, limit):
        self.world.edit({"disruption": {"maxUnavailableGroups": limit}})

    @precondition(lambda self: self.world.statefulsets())
    @rule(data=st.data(), replicas=st.integers(0, 3))
    def somebody_scales_a_statefulset_by_hand(self, data, replicas):
        name = data.draw(st.sampled_from(sorted(self.world.statefulsets())), label="group")
        self.world.api.patch(("apps/v1", "StatefulSet", NAMESPACE, name), {"spec": {"replicas": replicas}})

    @precondition(lambda self: self.world.statefulsets())
    @rule(data=st.data())
    def somebody_deletes_a_statefulset(self, data):
        name = data.draw(st.sampled_from(sorted(self.world.statefulsets())), label="group")
        self.world.api.delete(("apps/v1", "StatefulSet", NAMESPACE, name))

    @rule(is_answering=st.booleans())
    def the_scheduler_answers_or_not(self, is_answering):
        self.world.is_scheduler_answering = is_answering

    @rule(is_on=st.booleans())
    def requests_come_or_not(self, is_on):
        self.world.is_traffic_on = is_on

    @invariant()
    def nothing_is_broken(self):
        if hasattr(self, "world"):
            assert self.world.broken == []

    @invariant()
    def at_most_the_budget_is_used(self):
        if not hasattr(self, "world"):
            return
        for statefulset in self.world.statefulsets().values():
            annotations = statefulset["metadata"].get("annotations", {})
            assert annotations.get(names.ANNOTATION_RESTARTS, "[]").count("T") <= 2

    def teardown(self):
        """The faults stop; what is wanted comes about."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for node in sorted(self.lost):
            world.find_node(node)
        for node in NODES:
            world.cordon(node, is_cordoned=False)
            world.acts.pop(node, None)
        world.is_scheduler_answering, world.is_traffic_on = True, False
        world.edit(
            {
                "replicas": 1,
                "suspend": False,
                "drain": {"timeout": "10s"},
                "disruption": {"maxUnavailableGroups": 1},
                "engine": {"image": "a/worker:3"},
                "rollout": {"paused": False, "partition": 0, "maxSurge": 0, "allowOutage": True},
                "restart": {"requestedAt": "2026-11-26T20:00:00Z"},  # also ends what is stalled
            }
        )
        world.settle(limit=300)
        assert world.broken == []
        assert world.is_truly_ready(), world.explain()
        assert world.is_ready(), world.explain()
        assert world.api.find("Job") == [], "nothing is left of a pull"

    def _engine_pods(self):
        pods = [pod["metadata"]["name"] for pod in self.world.api.find("Pod")]
        return [name for name in pods if names.parse_pod_name(name)]

    def _running_pods(self):
        return [
            pod["metadata"]["name"]
            for pod in self.world.api.find("Pod")
            if names.parse_pod_name(pod["metadata"]["name"])
            and pod.get("status", {}).get("phase") == "Running"
            and pod["spec"]["nodeName"] not in self.lost
        ]


TestServiceWorld = ServiceWorld.TestCase
TestServiceWorld.settings = settings(
    max_examples=NUM_EXAMPLES, stateful_step_count=25, deadline=None, derandomize=not IS_SOAK
)
TestServiceWorld.pytestmark = pytest.mark.timeout(60 + 30 * NUM_EXAMPLES)

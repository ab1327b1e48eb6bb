"""A group on a cordoned node is drained, its disruption budget is opened, and only then it is closed."""

from datetime import UTC, datetime, timedelta

import pytest

from doubles.serving_group import a_pod
from hortator.operator import names
from hortator.operator.observed import Member, Memory, Meta, WorkerLoad, observe, write_memory
from hortator.operator.plan import Apply, plan

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def a_node(name: str, *, is_cordoned: bool):
    spec = {"unschedulable": True} if is_cordoned else {}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-26T11:00:00Z"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "uid": name},
        "spec": spec,
        "status": {"conditions": [ready]},
    }


@pytest.fixture
def step_with(sample, wanted):
    """`step_with(budget)`: the plan for a service whose first group has drained for a cordon."""
    service = sample("simulated")
    result = wanted(service)
    owner = result.owner
    meta = Meta(namespace=owner.namespace, name=owner.name, uid=owner.uid, generation=1)

    def build(budget):
        objects, nodes, loads = [], set(), {}
        for index, group in enumerate(result.groups):
            members = {
                n: Member(uid=f"{index}-{n}", node=f"n{n}", restarts=0) for n in range(group.num_members)
            }
            memory = Memory(members=members, admitted_at=NOW)
            if index == 0:
                started = NOW - timedelta(seconds=5)
                memory = Memory(
                    members=members,
                    admitted_at=NOW,
                    drain_started_at=started,
                    drain_reason="NodeCordoned",
                )
            statefulset = group.statefulset(
                epoch=3, replicas=group.num_members, annotations=write_memory(memory)
            )
            statefulset["metadata"] |= {"uid": f"s{index}", "resourceVersion": "1"}
            objects += [statefulset, *(a_pod(statefulset, index, ordinal) for ordinal in members)]
            nodes |= {member.node for member in members.values()}
            loads[group.worker_id] = WorkerLoad(
                worker_id=group.worker_id,
                boot_id="3-a",
                state="draining" if index == 0 else "ready",
                num_in_flight=0,
                num_ranks=16,
                is_draining=index == 0,
            )
        objects += [a_node(name, is_cordoned=name == "n0") for name in sorted(nodes)]
        observed = observe([*objects, budget], meta=meta, loads=loads)
        return plan(service, meta=meta, desired=result, problems=(), observed=observed, now=NOW)

    return result.groups[0], build


def applied(step, kind: str, name: str):
    found = [action.obj for action in step.actions if isinstance(action, Apply)]
    return next((obj for obj in found if (obj["kind"], obj["metadata"]["name"]) == (kind, name)), None)


def budget_of(group, *, is_open: bool):
    obj = group.pdb(is_open=is_open)
    return obj | {"metadata": obj["metadata"] | {"uid": "b", "resourceVersion": "1"}}


def test_the_budget_is_opened_before_the_group_is_closed(step_with):
    group, step_for = step_with
    step = step_for(budget_of(group, is_open=False))
    assert applied(step, "PodDisruptionBudget", group.name)["spec"]["maxUnavailable"] == group.num_members
    assert applied(step, "StatefulSet", group.name) is None


@pytest.mark.parametrize("dropped", [None, "unhealthyPodEvictionPolicy"])
def test_the_group_is_closed_once_the_budget_is_open_whatever_else_an_api_server_made_of_it(
    step_with, dropped
):
    group, step_for = step_with
    budget = budget_of(group, is_open=True)
    budget["spec"].pop(dropped, None)
    statefulset = applied(step_for(budget), "StatefulSet", group.name)
    assert statefulset["spec"]["replicas"] == 0
    assert statefulset["spec"]["template"]["metadata"]["labels"][names.LABEL_EPOCH] == "4"

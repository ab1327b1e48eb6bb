"""Somebody asks for a drain of one group: its very epoch goes, and the next one knows nothing of it."""

from datetime import UTC, datetime

import pytest

from doubles.serving_group import a_pod
from hortator.operator import names
from hortator.operator.lifecycle import Stage
from hortator.operator.observed import Member, Memory, Meta, observe, write_memory
from hortator.operator.plan import Apply, plan
from hortator.operator.situation import situation_of

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.fixture
def a_serving_group(sample, wanted):
    """The objects of a service whose groups serve in epoch 3, the first with an annotation of somebody else's."""
    service = sample("simulated")
    result = wanted(service)

    def build(requested: str | None):
        objects = []
        for index, group in enumerate(result.groups):
            members = {
                n: Member(uid=f"{index}-{n}", node=f"n{n}", restarts=0) for n in range(group.num_members)
            }
            memory = Memory(members=members, admitted_at=NOW)
            statefulset = group.statefulset(
                epoch=3, replicas=group.num_members, annotations=write_memory(memory)
            )
            statefulset["metadata"] |= {"uid": f"s{index}", "resourceVersion": "1"}
            if requested is not None and index == 0:
                statefulset["metadata"]["annotations"][names.ANNOTATION_DRAIN_REQUESTED] = requested
            objects += [statefulset, *(a_pod(statefulset, index, ordinal) for ordinal in members)]
        owner = result.owner
        meta = Meta(namespace=owner.namespace, name=owner.name, uid=owner.uid, generation=1)
        return service, result, meta, observe(objects, meta=meta, loads={})

    return build


@pytest.mark.parametrize(
    ("requested", "is_outdated"), [(None, False), ("3", True), ("2", False), ("4", False), ("x", False)]
)
def test_a_request_concerns_the_epoch_that_it_names_and_no_other(a_serving_group, requested, is_outdated):
    service, result, meta, observed = a_serving_group(requested)
    situation = situation_of(service, meta=meta, desired=result, observed=observed, now=NOW)
    view = situation.views[0]
    assert view.stage is Stage.SERVING
    assert view.is_outdated is is_outdated


def test_that_group_starts_to_drain_and_no_other(a_serving_group):
    service, result, meta, observed = a_serving_group("3")
    step = plan(service, meta=meta, desired=result, problems=(), observed=observed, now=NOW)
    (statefulset,) = [
        action.obj
        for action in step.actions
        if isinstance(action, Apply) and action.obj["kind"] == "StatefulSet"
    ]
    assert statefulset["metadata"]["name"] == result.groups[0].name
    annotations = statefulset["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_DRAIN_REASON] == "RestartRequested"
    assert names.ANNOTATION_DRAIN_STARTED_AT in annotations
    assert (
        names.ANNOTATION_DRAIN_REQUESTED not in annotations
    )  # it is not the operator's: an apply leaves it alone


def test_nothing_happens_without_a_request(a_serving_group):
    service, result, meta, observed = a_serving_group(None)
    step = plan(service, meta=meta, desired=result, problems=(), observed=observed, now=NOW)
    kinds = [action.obj["kind"] for action in step.actions if isinstance(action, Apply)]
    assert "StatefulSet" not in kinds

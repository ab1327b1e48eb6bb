"""Which ControllerRevisions are ours, and which of them are kept."""

from datetime import UTC, datetime

import pytest

from hortator.api.v1alpha1 import RolloutSpec
from hortator.operator import names
from hortator.operator.objects import ref_of
from hortator.operator.observed import Meta, observe
from hortator.operator.plan import Delete, plan

REVISION_HISTORY = RolloutSpec().revision_history_limit
META = Meta(namespace="default", name="simulated", uid="uid-1", generation=1)
NOW = datetime(2026, 11, 26, tzinfo=UTC)
LABELS = names.group_labels("simulated", "Prefill", 0) | {names.LABEL_REVISION: "abc"}


def revision(number, *, owner="uid-1", kind="LLMService", prefix="simulated-p"):
    metadata = {"name": f"{prefix}-{number}", "namespace": "default", "uid": f"uid-{prefix}-{number}"}
    metadata |= {"labels": LABELS, "ownerReferences": [{"kind": kind, "name": "any", "uid": owner}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": number,
        "data": {},
    }


def of_statefulset(number):
    return revision(number, owner="uid-set", kind="StatefulSet", prefix="simulated-p-0")


@pytest.fixture
def deleted(sample, wanted):
    """`deleted(objects)`: the names of the revisions that the operator deletes when it sees these."""

    def names_of(objects):
        service = sample("simulated")
        step = plan(
            service,
            meta=META,
            desired=wanted(service),
            problems=(),
            observed=observe(objects, meta=META, loads={}),
            now=NOW,
        )
        return [action.ref.name for action in step.actions if isinstance(action, Delete)]

    return names_of


def test_the_oldest_beyond_the_history_go(deleted):
    ours = [revision(number) for number in range(1, REVISION_HISTORY + 3)]
    assert deleted(ours) == ["simulated-p-2", "simulated-p-1"]


def test_those_of_a_statefulset_are_let_alone_and_fill_no_history(deleted):
    theirs = [of_statefulset(number) for number in range(100, 120)]
    ours = [revision(number) for number in range(1, REVISION_HISTORY + 1)]
    assert deleted([*theirs, *ours]) == []


def test_those_of_a_former_service_of_that_name_are_left_to_garbage_collection(deleted):
    former = [revision(number, owner="uid-0") for number in range(1, REVISION_HISTORY + 3)]
    assert deleted(former) == []


@pytest.mark.parametrize("theirs", [of_statefulset(1), revision(1, owner="uid-0")])
def test_what_this_service_does_not_own_is_a_leftover(theirs):
    ours = revision(2)
    observed = observe([theirs, ours], meta=META, loads={})
    assert observed.leftovers == {ref_of(theirs)}

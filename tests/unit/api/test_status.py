"""What the operator writes is what it reads back, and only what is known is written."""

import pytest
from pydantic import ValidationError

from hortator.api.v1alpha1 import (
    MAX_GROUPS_IN_STATUS,
    AvoidedNode,
    Condition,
    Display,
    GroupStatus,
    LastFailure,
    LLMServiceStatus,
    MemberStatus,
    RoleStatus,
    Timeline,
)

NOW = "2026-11-26T10:00:00Z"


def a_group(index):
    return GroupStatus(
        name=f"demo-p-{index}",
        role="Prefill",
        index=index,
        epoch=3,
        members=(MemberStatus(index=0, pod=f"demo-p-{index}-0", boot_id="3-ab", ready=True, ranks="0-7"),),
        last_failure=LastFailure(pod=f"demo-p-{index}-0", exit_code=0, reason="OOMKilled", time=NOW),
        timeline=Timeline(created=NOW),
        in_flight=0,
    )


def test_a_status_reads_back_equal():
    status = LLMServiceStatus(
        observed_generation=4,
        conditions=(
            Condition(
                type="Ready",
                status="False",
                reason="OOMKilled",
                last_transition_time=NOW,
                observed_generation=4,
            ),
        ),
        replicas=1,
        selector="a=b",
        display=Display(groups="0/2", ranks="0/32", updated="2/2"),
        roles=(RoleStatus(name="Prefill", desired=2),),
        groups=(a_group(0), a_group(1)),
        avoided_nodes=(AvoidedNode(node="n", failures=2, until=NOW),),
    )
    written = status.as_dict()
    assert LLMServiceStatus.model_validate(written, by_alias=True, by_name=False) == status


def test_what_is_not_known_is_not_written_and_zero_is_known():
    written = LLMServiceStatus(groups=(a_group(0),)).as_dict()
    (group,) = written["groups"]
    assert group["inFlight"] == 0
    assert group["lastFailure"]["exitCode"] == 0
    assert group["timeline"] == {"created": NOW}
    assert "drainDeadline" not in group
    assert "observedGeneration" not in written


def test_more_groups_than_fit_are_an_error():
    groups = tuple(a_group(index) for index in range(MAX_GROUPS_IN_STATUS + 1))
    assert LLMServiceStatus(groups=groups[:-1])
    with pytest.raises(ValidationError, match="at most 64"):
        LLMServiceStatus(groups=groups)


def test_a_condition_is_there_once():
    condition = Condition(
        type="Ready", status="True", reason="AllGroupsReady", last_transition_time=NOW, observed_generation=1
    )
    with pytest.raises(ValidationError, match="Duplicate value: type Ready"):
        LLMServiceStatus(conditions=(condition, condition))

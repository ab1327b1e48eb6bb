"""When an object is applied: only if it does not say what is wanted."""

import pytest

from hortator.operator.names import FIELD_MANAGER
from hortator.operator.plan.drift import covers, needs_apply


@pytest.mark.parametrize(
    ("live", "wanted", "is_covered"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),  # defaults of the API server
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": 1}, False),
        ({}, {"a": "", "b": {}, "c": [], "d": None, "e": False, "f": 0}, True),  # left out when empty
        ({"a": "x"}, {"a": ""}, False),
        ({"l": [1, 2]}, {"l": [1, 2]}, True),
        ({"l": [1, 2, 3]}, {"l": [1, 2]}, False),  # somebody added one
        ({"l": [{"name": "x", "protocol": "TCP"}]}, {"l": [{"name": "x"}]}, True),
        ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": "0.5"}}, True),
        ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1024Mi"}}, True),
        ({"limits": {"cpu": "500m"}}, {"limits": {"cpu": "1"}}, False),
        ({"label": "1"}, {"label": "1000m"}, False),  # equal only where it is a quantity
        ({"a": 1}, {"a": True}, False),
        (None, {"a": 1}, False),
    ],
)
def test_covers(live, wanted, is_covered):
    assert covers(live, wanted) is is_covered


def owned(fields, obj):
    entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}
    return obj | {"metadata": {"name": "x", "managedFields": [entry]}}


@pytest.mark.parametrize(
    ("fields", "is_left_over"),
    [
        ({"f:spec": {"f:replicas": {}}}, False),
        ({"f:spec": {"f:replicas": {}, "f:paused": {}}}, True),
        ({"f:spec": {"f:ports": {'k:{"port":1,"protocol":"TCP"}': {".": {}, "f:port": {}}}}}, False),
        ({"f:spec": {"f:ports": {'k:{"port":2,"protocol":"TCP"}': {".": {}}}}}, True),
    ],
)
def test_a_field_that_is_not_wanted_any_more_calls_for_an_apply(fields, is_left_over):
    wanted = {
        "metadata": {"name": "x"},
        "spec": {"replicas": 1, "ports": [{"port": 1, "protocol": "TCP"}]},
    }
    live = owned(fields, {"spec": wanted["spec"] | {"paused": True}})
    assert needs_apply(live, wanted) is is_left_over


def test_fields_of_others_are_none_of_our_business():
    wanted = {"metadata": {"name": "x"}, "spec": {"replicas": 1}}
    live = owned({"f:spec": {"f:paused": {}}}, {"spec": {"replicas": 1, "paused": True}})
    live["metadata"]["managedFields"][0]["manager"] = "kubectl"
    assert not needs_apply(live, wanted)

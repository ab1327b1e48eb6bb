"""An operator that takes over a cluster of an earlier version touches no engine of it.

tests/golden/files/clusters has one file per version, recorded with its own code (`doubles.recorded_cluster`).
Schedulers and gateways start in seconds and are applied as the present version renders them; what must not be
touched is all the rest.
"""

import copy
import json
from datetime import datetime
from pathlib import Path

import pytest

from doubles.service_world import OPTIONS
from hortator.api.parse import parse
from hortator.operator import names
from hortator.operator.desired import carried_out
from hortator.operator.observed import Meta, observe
from hortator.operator.options import Images, Options
from hortator.operator.plan import Apply, plan
from hortator.operator.plan.drift import covers

FILES = sorted((Path(__file__).parent / "files/clusters").glob("*.jsonl"))
UPGRADED = Options(images=Images.of_version("9.9.9"), log_level="DEBUG", cluster_domain="example")
"""Every engine would be rendered otherwise now: another image, other variables, other host names."""


def clusters(path):
    found = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        recorded = found.setdefault(entry["service"], {"now": entry["now"], "objects": []})
        recorded["objects"].append(entry["object"])
    return [pytest.param(recorded, id=f"{path.stem}, {name}") for name, recorded in found.items()]


CLUSTERS = [one for path in FILES for one in clusters(path)]


def planned(recorded, options, *, change=lambda objects: None):
    """What an operator with these options does about a recorded cluster."""
    objects = copy.deepcopy(recorded["objects"])
    change(objects)
    obj = next(one for one in objects if one["kind"] == "LLMService")
    parsed = parse(obj)
    assert not parsed.problems
    children = [one for one in objects if one is not obj]
    service, wanted = carried_out(obj, parsed, options=options, children=children)
    meta = Meta(
        namespace=obj["metadata"]["namespace"],
        name=obj["metadata"]["name"],
        uid=obj["metadata"]["uid"],
        generation=obj["metadata"]["generation"],
        status=obj["status"],
    )
    now = datetime.fromisoformat(recorded["now"])
    observed = observe(children, meta=meta, loads={})
    return plan(service, meta=meta, desired=wanted, problems=(), observed=observed, now=now)


def test_there_is_a_cluster_of_an_earlier_version():
    assert FILES


@pytest.mark.parametrize("recorded", CLUSTERS)
def test_of_an_earlier_cluster_no_engine_is_to_be_otherwise(recorded):
    """With the options that it was recorded with: since then schedulers have learned to stand by.

    And gateways of TensorRT-LLM to ask workers for the tokenizer.
    """
    step = planned(recorded, OPTIONS)
    *others, scheduler = sorted(step.actions, key=lambda action: action.obj["metadata"]["name"])
    assert isinstance(scheduler, Apply)
    assert scheduler.obj["metadata"]["name"] == "demo-scheduler"
    assert scheduler.obj["spec"]["strategy"]["type"] == "RollingUpdate"
    spec = next(one for one in recorded["objects"] if one["kind"] == "LLMService")["spec"]
    has_learned = spec["engine"]["backend"] == "TensorRTLLM"
    assert [action.obj["metadata"]["name"] for action in others] == ["demo-gateway"] * has_learned
    ready = next(one for one in step.status["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "AllGroupsReady")
    assert step.status["rollout"]["phase"] == "Complete"
    assert step.events == ()


@pytest.mark.parametrize("recorded", CLUSTERS)
def test_other_defaults_reach_schedulers_and_gateways_and_no_engine(recorded):
    step = planned(recorded, UPGRADED)
    touched = sorted(
        (type(action).__name__, action.obj["kind"], action.obj["metadata"]["name"]) for action in step.actions
    )
    assert touched == [("Apply", "Deployment", "demo-gateway"), ("Apply", "Deployment", "demo-scheduler")]


@pytest.mark.parametrize("recorded", CLUSTERS)
def test_a_group_that_fails_after_the_upgrade_starts_again_as_it_was(recorded):
    def crash(objects):
        pod = next(one for one in objects if one["kind"] == "Pod" and names.LABEL_GROUP in labels(one))
        pod["status"]["containerStatuses"][0]["restartCount"] += 1

    step = planned(recorded, UPGRADED, change=crash)
    (closed,) = [
        action.obj
        for action in step.actions
        if isinstance(action, Apply) and action.obj["kind"] == "StatefulSet"
    ]
    before = next(
        one
        for one in recorded["objects"]
        if (one["kind"], one["metadata"]["name"]) == ("StatefulSet", closed["metadata"]["name"])
    )
    assert closed["spec"]["replicas"] == 0
    assert covers(before["spec"]["template"], of_first_epoch(closed["spec"]["template"]))

    def close(objects):
        live = next(
            one
            for one in objects
            if (one["kind"], one["metadata"]["name"]) == ("StatefulSet", closed["metadata"]["name"])
        )
        live |= {"spec": closed["spec"]}
        live["metadata"]["annotations"] = closed["metadata"]["annotations"]
        prefix = f"{closed['metadata']['name']}-"
        objects[:] = [
            one for one in objects if one["kind"] != "Pod" or not one["metadata"]["name"].startswith(prefix)
        ]

    again = [
        action.obj
        for action in planned(recorded, UPGRADED, change=close).actions
        if isinstance(action, Apply) and action.obj["metadata"]["name"] == closed["metadata"]["name"]
    ]
    admitted = next(one for one in again if one["kind"] == "StatefulSet" and one["spec"]["replicas"] > 0)
    assert covers(before["spec"]["template"], of_first_epoch(admitted["spec"]["template"]))


@pytest.mark.parametrize("recorded", CLUSTERS)
def test_the_check_can_fail(recorded):
    """Without the frozen template every group would move."""

    def thaw(objects):
        objects[:] = [one for one in objects if one["kind"] != "ControllerRevision"]

    step = planned(recorded, UPGRADED, change=thaw)
    made = [action.obj for action in step.actions if action.obj["kind"] == "ControllerRevision"]
    frozen = {
        one["metadata"]["name"]: one["data"]["template"]
        for one in recorded["objects"]
        if one["kind"] == "ControllerRevision" and "template" in one["data"]
    }
    templates = {
        one["metadata"]["name"]: one["data"]["template"] for one in made if "template" in one["data"]
    }
    assert templates.keys() == frozen.keys(), "the hash of a revision is that of the earlier version"
    assert all(templates[name] != frozen[name] for name in frozen)


def labels(obj):
    return obj["metadata"].get("labels", {})


def of_first_epoch(template):
    """With the epoch of the group that was recorded, which is the one thing that changes."""
    metadata = template["metadata"] | {"labels": labels(template) | {names.LABEL_EPOCH: "1"}}
    return template | {"metadata": metadata}

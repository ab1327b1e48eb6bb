"""The mirror of the CRD: each rule and bound refuses one object in the API server's words and takes its neighbour.

The same table is run on a real API server in e2e/cluster.
"""

import pytest
import yaml

from cluster.cases.bounds import BOUND_CASES, CRD
from cluster.cases.llmservice import BASE, RULE_CASES, TRANSITION_CASES, changed
from hortator.api.arithmetic import immutable_problems
from hortator.api.parse import parse
from hortator.api.rules import RULES
from hortator.api.transitions import TRANSITIONS

ALL_CASES = RULE_CASES + BOUND_CASES + TRANSITION_CASES


def said(case):
    """Every problem of the object and, where another stood there before, of the change."""
    parsed = parse(case.obj)
    found = list(parsed.problems)
    if case.old is not None:
        before = parse(case.old)
        assert before.service is not None
        assert not before.problems
        assert parsed.service is not None
        found += immutable_problems(before.service, parsed.service)
    return found


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.refused is None], ids=lambda case: case.name)
def test_what_keeps_a_rule_is_accepted(case):
    assert [str(problem) for problem in said(case)] == []


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.refused is not None], ids=lambda case: case.name)
def test_what_breaks_a_rule_is_refused_in_the_servers_words_at_its_field(case):
    found = said(case)
    assert [p for p in found if case.refused in p.message and p.path.startswith(case.field)], [
        *map(str, found)
    ]


def test_every_rule_has_a_refusal_and_an_acceptance():
    for cases, rules in ((RULE_CASES, RULES), (TRANSITION_CASES, TRANSITIONS)):
        for is_refused in (True, False):
            covered = {case.covers for case in cases if (case.refused is not None) is is_refused}
            assert covered == {rule.name for rule in rules}


def test_every_bound_of_the_crd_has_a_refusal_and_an_acceptance():
    bounds = set()

    def walk(schema, path):
        for name, inner in schema.get("properties", {}).items():
            below = f"{path}.{name}" if path else name
            if name in schema.get("required", ()) and path.startswith("spec"):
                bounds.add(f"{below} required")
            walk(inner, below)
        for keyword in (
            "minimum",
            "maximum",
            "maxLength",
            "pattern",
            "enum",
            "minItems",
            "maxItems",
            "maxProperties",
        ):
            if keyword in schema:
                bounds.add(f"{path} {keyword}")
        if any(
            rule["message"].startswith("allowed: ") for rule in schema.get("x-kubernetes-validations", ())
        ):
            bounds.add(f"{path} x-kubernetes-validations")
        if schema.get("x-kubernetes-list-type") == "map":
            bounds.add(f"{path} x-kubernetes-list-type")
        if "items" in schema:
            walk(schema["items"], f"{path}[]")
        if "additionalProperties" in schema:
            walk(schema["additionalProperties"], f"{path}.pool")

    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    for part in ("metadata", "spec"):
        root = version["schema"]["openAPIV3Schema"]
        walk(root["properties"][part], part)
    bounds |= {f"spec.{name} required" for name in ("model", "engine", "topology", "roles")}
    assert len(bounds) > 150
    for is_refused in (True, False):
        assert {case.covers for case in BOUND_CASES if (case.refused is not None) is is_refused} >= bounds


def test_a_role_that_is_there_twice_is_one_problem():
    role = BASE["spec"]["roles"][0]
    (problem,) = parse(BASE | {"spec": BASE["spec"] | {"roles": [role, role]}}).problems
    assert str(problem) == "spec.roles: Duplicate value: name Aggregated (allowed: each name once)"


def test_what_the_api_server_adds_to_an_object_is_left_out():
    stored = BASE | {
        "metadata": BASE["metadata"]
        | {"uid": "u", "resourceVersion": "7", "managedFields": [], "generation": 2},
        "status": {"replicas": 1, "unheardOf": True},
    }
    assert parse(stored) == parse(BASE)
    assert parse(stored).problems == ()


def test_other_metadata_is_still_an_error():
    (problem,) = parse(BASE | {"metadata": {"name": "base", "labls": {}}}).problems
    assert str(problem) == "metadata.labls: unknown field, did you mean labels?"


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.refused is None], ids=lambda case: case.name)
def test_what_is_accepted_reads_back_equal(case):
    service = parse(case.obj).service
    assert service is not None
    written = service.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert parse(written).service == service


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.gateway": None},
        {"spec.roles[0].kvBlocks": None},
        {"spec.roles[0].nodeSelector": {"pool": None}},
        {"metadata.labels": {"a": None}},
    ],
    ids=str,
)
def test_null_is_absent_as_on_the_server(changes):
    assert parse(changed(changes)).problems == ()


def test_a_required_field_that_is_null_is_missing():
    (problem,) = parse(changed({"spec.model.uri": None})).problems
    assert str(problem) == "spec.model.uri: Required value"


def test_an_unknown_field_is_an_error_even_if_null():
    (problem,) = parse(changed({"spec.drain": {"timeOut": None}})).problems
    assert str(problem) == "spec.drain.timeOut: unknown field, did you mean timeout?"


def test_a_whole_number_may_be_written_with_a_point():
    service = parse(changed({"spec.replicas": 2.0})).service
    assert service is not None
    assert service.spec.replicas == 2
    assert isinstance(service.spec.replicas, int)
    assert parse(changed({"spec.replicas": 2.5})).problems

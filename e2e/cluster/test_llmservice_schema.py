"""The CRD on a real API server: every rule and bound is executed there, and says what `hortator.api` says.

The same table is run against the mirror alone in tests/unit/api/test_rules.py.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cases.bounds import BOUND_CASES, CRD
from cluster.cases.llmservice import BASE, PREFILL_DECODE, RULE_CASES, TRANSITION_CASES, Case, Obj, changed
from cluster.cases.mixed import mixed_objects
from cluster.kube import APPLY, MERGE, ApiError, Kube
from hortator.api.arithmetic import immutable_problems
from hortator.api.crd import COLUMNS
from hortator.api.parse import parse
from hortator.api.v1alpha1 import (
    API_VERSION,
    PLURAL,
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

SAMPLES = sorted((CRD.parent / "samples").glob("llmservice-*.yaml"))
STRICT = {"fieldValidation": "Strict"}
DRY = STRICT | {"dryRun": "All"}
NOW = "2026-11-26T10:00:00Z"


@dataclass(frozen=True, slots=True)
class Services:
    """The LLMServices of one namespace."""

    client: Kube
    namespace: str

    def path(self, name: str = "", subresource: str = "") -> str:
        """Of the collection, an object or a subresource of it."""
        parts = ["/apis", API_VERSION, "namespaces", self.namespace, PLURAL, name, subresource]
        return "/".join(part for part in parts if part)

    def create(self, obj: Obj, query: dict[str, str]) -> Obj:
        """Create one."""
        return self.client.request("POST", self.path(), obj, query=query)

    def replace(self, stored: Obj, obj: Obj, query: dict[str, str]) -> Obj:
        """Put another one in the place of a stored one."""
        metadata = obj["metadata"] | {"resourceVersion": stored["metadata"]["resourceVersion"]}
        path = self.path(obj["metadata"]["name"])
        return self.client.request("PUT", path, obj | {"metadata": metadata}, query=query)

    def delete(self, name: str) -> None:
        """Delete one."""
        self.client.request("DELETE", self.path(name))


@pytest.fixture(scope="module")
def services(control_plane) -> Iterator[Services]:
    """A namespace for LLMServices that nobody reconciles."""
    control_plane.apply_crd(CRD)
    with control_plane.namespace("llmservice-schema") as namespace:
        yield Services(control_plane.client, namespace)


@pytest.fixture
def stored(services) -> Iterator[Obj]:
    """The base object, created."""
    obj = services.create(BASE, STRICT)
    yield obj
    services.delete(obj["metadata"]["name"])


def send(services: Services, case: Case) -> None:
    """Create the object of a case, or change the one before it into it; nothing stays."""
    if case.old is None:
        services.create(case.obj, DRY)
        return
    before = services.create(case.old, STRICT)
    try:
        services.replace(before, case.obj, DRY)
    finally:
        services.delete(before["metadata"]["name"])


def refusals(error: ApiError) -> list[tuple[str, str]]:
    """Field and words of every cause that the server names."""
    causes = error.body.get("details", {}).get("causes", [])
    return [(cause.get("field", ""), _plain(cause["message"])) for cause in causes]


def _plain(message: str) -> str:
    """Bounds as whole numbers: the server writes 1048576 as 1.048576e+06."""
    return re.sub(r"\d(\.\d+)?e\+\d+", lambda number: str(int(float(number[0]))), message)


def mirrored(case: Case) -> list[tuple[str, str]]:
    """Field and words of every problem that hortator.api finds."""
    parsed = parse(case.obj)
    found = list(parsed.problems)
    if case.old is not None:
        before = parse(case.old).service
        assert before is not None
        assert parsed.service is not None
        found += immutable_problems(before, parsed.service)
    return [(problem.path, problem.message) for problem in found]


ALL_CASES = RULE_CASES + TRANSITION_CASES + BOUND_CASES


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.refused is None], ids=lambda case: case.name)
def test_what_keeps_a_rule_is_accepted_by_both(services, case):
    send(services, case)
    assert mirrored(case) == []


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.refused is not None], ids=lambda case: case.name)
def test_what_breaks_a_rule_is_refused_by_both_in_the_same_words(services, case):
    with pytest.raises(ApiError) as caught:
        send(services, case)
    assert caught.value.status == 422
    server, mirror = refusals(caught.value), mirrored(case)
    assert [words for field, words in server if case.refused in words and _is_at(field, case.field)], server
    assert [words for field, words in mirror if case.refused in words and _is_at(field, case.field)], mirror


def _is_at(found: str, field: str) -> bool:
    """Whether a field is the one that was meant or inside of it; a map's entry is named by key, a twin by index."""
    return re.sub(r"\[(pool)\]", r".\1", found).startswith(field)


@pytest.mark.parametrize("seed", range(4))
def test_both_agree_about_random_objects(services, seed):
    verdicts = [
        (_refused_by(services, obj), [str(problem) for problem in parse(obj).problems], obj)
        for obj in mixed_objects(seed=seed, number=250)
    ]
    assert [verdict for verdict in verdicts if bool(verdict[0]) != bool(verdict[1])] == []
    assert 10 < sum(not server for server, *_ in verdicts) < 240


def _refused_by(services: Services, obj: Obj) -> str:
    """The server's words; empty: it accepts."""
    try:
        services.create(obj, DRY)
    except ApiError as error:
        return error.message or str(error)
    return ""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_accepted(services, path):
    services.create(yaml.safe_load(path.read_text()), DRY)


def test_what_is_stored_has_every_default_of_the_types(services):
    few = {
        "spec.engine": {"backend": "Simulated"},
        "spec.roles": [{"name": "Aggregated", "parallelism": {"attentionDP": 8, "expert": 8}}],
        "spec.model": {"uri": "hf://org/model", "cache": {"create": {"size": "1Ti"}}},
    }
    least = changed(few)
    least["spec"] = {name: least["spec"][name] for name in ("model", "engine", "topology", "roles")}
    service = parse(least).service
    assert service is not None
    spec = service.spec.model_dump(mode="json", by_alias=True)
    assert services.create(least, DRY)["spec"] == _without_empty(spec)


def _without_empty(value: Any) -> Any:
    """What is absent, empty lists and empty maps of texts are not stored; an empty part of the spec is."""
    if isinstance(value, dict):
        return {
            key: _without_empty(inner)
            for key, inner in value.items()
            if inner not in (None, []) and not (key in {"nodeSelector", "rdmaResources"} and inner == {})
        }
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def test_a_field_that_does_not_exist_is_refused(services):
    with pytest.raises(ApiError, match=r"unknown field .*spec\.roles\[0\]\.gpus"):
        services.create(changed({"spec.roles[0].gpus": 8}), DRY)


def test_scaling_changes_replicas_within_the_rules(services, stored):
    path = services.path("base", "scale")
    scaled = services.client.request("PATCH", path, {"spec": {"replicas": 2}}, content_type=MERGE)
    assert scaled["spec"]["replicas"] == 2
    for replicas, words in ((1025, "less than or equal to 1024"), (-1, "greater than or equal to 0")):
        with pytest.raises(ApiError, match=words):
            services.client.request("PATCH", path, {"spec": {"replicas": replicas}}, content_type=MERGE)
    more = changed({"spec.replicas": 2, "spec.roles[0].replicas": 512})
    services.replace(services.client.request("GET", services.path("base")), more, STRICT)
    with pytest.raises(ApiError, match="a role has at most 1024 EP groups"):
        services.client.request("PATCH", path, {"spec": {"replicas": 3}}, content_type=MERGE)


def test_two_who_apply_share_the_list_of_roles_by_name(services):
    obj = changed(PREFILL_DECODE)
    path, query = services.path("base"), STRICT | {"fieldManager": "one"}
    services.client.request("PATCH", path, obj, content_type=APPLY, query=query)
    try:
        part = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
        part["spec"] = {"roles": [{"name": "Decode", "replicas": 3}]}
        query["fieldManager"] = "two"
        applied = services.client.request("PATCH", path, part, content_type=APPLY, query=query)
        assert [(role["name"], role["replicas"]) for role in applied["spec"]["roles"]] == [
            ("Prefill", 1),
            ("Decode", 3),
        ]
    finally:
        services.delete("base")


def a_status() -> LLMServiceStatus:
    """With everything in it."""
    member = MemberStatus(index=0, pod="base-a-0-0", node="n", ready=True, boot_id="1-ab", ranks="0-7")
    group = GroupStatus(
        name="base-a-0",
        role="Aggregated",
        index=0,
        worker_id="aggregated-0",
        revision="abc",
        epoch=1,
        phase="Draining",
        reason="Draining",
        message="3 in flight",
        domain="zone-a",
        members=(member, member.model_copy(update={"index": 1})),
        restarts=1,
        next_restart_at=NOW,
        last_failure=LastFailure(
            pod="base-a-0-0",
            node="n",
            container="engine",
            exit_code=137,
            signal=9,
            reason="OOMKilled",
            time=NOW,
        ),
        timeline=Timeline(created=NOW, admitted=NOW, scheduled=NOW, images_pulled=NOW, ready=NOW),
        in_flight=3,
        drain_deadline=NOW,
    )
    return LLMServiceStatus(
        observed_generation=1,
        conditions=(
            Condition(
                type="Ready",
                status="False",
                reason="Draining",
                message="a group drains",
                last_transition_time=NOW,
                observed_generation=1,
            ),
        ),
        replicas=1,
        selector="serving.hortator.dev/name=base",
        display=Display(groups="1/2", ranks="16/32", updated="2/2"),
        roles=(RoleStatus(name="Aggregated", desired=2, created=2, ready=1),),
        groups=(group,),
        avoided_nodes=(AvoidedNode(node="n", failures=2, until=NOW),),
    )


def test_the_status_reads_back_as_it_was_written_and_feeds_the_scale(services, stored):
    status = a_status().as_dict()
    path = services.path("base", "status")
    services.client.request("PATCH", path, {"status": status}, content_type=MERGE, query=STRICT)
    assert services.client.request("GET", services.path("base"))["status"] == status
    scale = services.client.request("GET", services.path("base", "scale"))
    assert scale["status"] == {"replicas": 1, "selector": "serving.hortator.dev/name=base"}


def test_a_status_does_not_change_the_spec_nor_a_spec_the_status(services, stored):
    path = services.path("base", "status")
    both = {"status": {"replicas": 1}, "spec": {"replicas": 7}}
    changed_status = services.client.request("PATCH", path, both, content_type=MERGE)
    assert (changed_status["spec"]["replicas"], changed_status["status"]["replicas"]) == (1, 1)
    both["status"]["replicas"] = 9
    changed_spec = services.client.request("PATCH", services.path("base"), both, content_type=MERGE)
    assert (changed_spec["spec"]["replicas"], changed_spec["status"]["replicas"]) == (7, 1)


def test_kubectl_get_shows_the_columns(control_plane, services, stored):
    status = {"status": a_status().as_dict()}
    services.client.request("PATCH", services.path("base", "status"), status, content_type=MERGE)
    shown = control_plane.kubectl("get", "llms", "-n", services.namespace, "-o", "wide").stdout.splitlines()
    assert shown[0].split() == ["NAME", *(name for name, *_ in COLUMNS)]
    assert re.match(
        r"base +False +Draining +1/2 +16/32 +2/2 +hf://org/model +\d+s +Aggregated +a group drains", shown[1]
    )


def test_the_cases_are_read_from_the_crd_that_is_applied():
    assert Path(CRD).samefile(Path(__file__).parents[2] / "manifests/crd.yaml")

"""Names that fit and can be read back, and revisions that move only with what a pod sees, for any LLMService."""

import json
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hortator.api.files import load_llmservice
from hortator.api.parse import parse
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.accepted import accepted
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

SAMPLES = sorted((Path(__file__).resolve().parents[3] / "manifests/samples").glob("*.yaml"))
SERVICES = [load_llmservice(path) for path in SAMPLES]
OPTIONS = Options(images=Images.of_version("1.2.3"))
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")

service_names = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
roles = st.sampled_from(["Prefill", "Decode", "Aggregated"])


@given(service_names, roles, st.integers(0, 1024 * 1024 - 1), st.integers(0, 63))
def test_a_pod_name_fits_and_says_which_member_it_is(service, role, index, ordinal):
    name = names.pod_name(service, role, index, ordinal)
    assert LABEL.fullmatch(name)
    assert LABEL.fullmatch(f"{names.group_name(service, role, index)}-{'b' * 10}")
    found = names.parse_pod_name(name)
    assert (found.group.service, found.group.role, found.group.index, found.ordinal) == (
        service,
        role,
        index,
        ordinal,
    )


@given(service_names, service_names)
def test_children_of_two_services_share_no_name(one, other):
    def children(service):
        return {
            *(names.group_name(service, role, index) for role in ("Prefill", "Decode") for index in (0, 1)),
            names.scheduler_name(service),
            names.gateway_name(service),
            names.cache_name(service),
            names.prefetch_name(service),
            names.pull_name(service, {}),
            names.account_name(service),
            names.accepted_name(service, 1, "uid"),
        }

    assert one == other or not children(one) & children(other)


def changed(service, changes):
    document = service.model_dump(mode="json", by_alias=True, exclude_unset=True)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
    return LLMService.model_validate(document, by_alias=True, by_name=False)


def durations(low, high):
    return st.integers(low, high).map(lambda seconds: f"{seconds}s")


unseen = st.fixed_dictionaries(
    {},
    optional={
        "metadata.labels": st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
        "spec.replicas": st.integers(0, 4),
        "spec.roles.0.replicas": st.integers(0, 4),
        "spec.suspend": st.booleans(),
        "spec.scheduler.policy": st.sampled_from(["staggered", "staggered-plus", "fixed-batch"]),
        "spec.scheduler.maxHold": durations(0, 10),
        "spec.scheduler.replicas": st.integers(1, 5),
        "spec.gateway.replicas": st.integers(1, 5),
        "spec.drain.timeout": durations(0, 600),
        "spec.restart.maxRestarts": st.integers(0, 9),
        "spec.disruption.maxUnavailableGroups": st.integers(0, 3),
        "spec.placement.gang.timeout": durations(10, 600),
    },
)


def seen(service):
    """Changes that a pod sees, one at a time; of any backend."""
    return st.one_of(
        st.sampled_from(["a:1", "b:2"]).map(lambda image: {"spec.engine.image": image}),
        st.sampled_from("xy").map(lambda value: {"spec.engine.env": [{"name": "A", "value": value}]}),
        st.integers(3, 9).map(lambda cpu: {"spec.roles.0.resources": {"cpu": str(cpu)}}),
        durations(10, 60).map(lambda timeout: {"spec.roles.0.startupTimeout": timeout}),
        st.integers(1, 200).map(lambda tokens: {"spec.roles.0.chunkBudgetTokens": tokens}),
    )


def of_first_role(service):
    wanted = desired(service, uid="u", options=OPTIONS)
    (revision, *_) = wanted.revisions
    return revision["metadata"]["name"], json.dumps(revision["data"]["template"])


@given(st.sampled_from(SERVICES), unseen)
def test_what_no_pod_sees_changes_neither_revision_nor_template(service, changes):
    assert of_first_role(changed(service, changes)) == of_first_role(service)


@given(st.data(), st.sampled_from(SERVICES), unseen)
def test_what_a_pod_sees_changes_both(data, service, others):
    """Whatever else is changed with it."""
    after = changed(service, others | data.draw(seen(service)))
    before_name, before_template = of_first_role(service)
    name, template = of_first_role(after)
    assert name != before_name
    assert template != before_template


@given(st.sampled_from(SERVICES), unseen)
def test_every_service_has_an_answer_and_always_the_same(service, changes):
    after = changed(service, changes)
    one, other = (desired(after, uid="u", options=OPTIONS) for _ in range(2))
    assert one == other
    found = [(obj["kind"], obj["metadata"]["name"]) for obj in one.objects()]
    assert len(set(found)) == len(found)


@given(st.data(), st.sampled_from(SERVICES), unseen, st.integers(1, 2**40))
def test_a_spec_is_read_from_its_record_as_it_was_accepted(data, service, others, generation):
    kept = changed(service, others | data.draw(seen(service)))
    wanted = desired(kept, uid="u", options=OPTIONS, generation=generation)
    metadata = {
        "name": wanted.owner.name,
        "namespace": wanted.owner.namespace,
        "uid": "u",
        "generation": generation + 1,
    }
    invalid = {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": metadata,
        "spec": 7,
    }
    record = json.loads(json.dumps(wanted.record))
    found = accepted(invalid, parse(invalid), known=[*wanted.revisions, record])
    assert (found.service.spec, found.generation) == (kept.spec, generation)
    assert desired(found.service, uid="u", options=OPTIONS, generation=generation).groups == wanted.groups

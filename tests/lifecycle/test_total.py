"""No state of the cluster makes observe, plan or explain raise: any part of any object may be anything."""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.service_world import OPTIONS, World, a_manifest
from hortator.api.parse import parse
from hortator.operator.accepted import accepted
from hortator.operator.desired import desired
from hortator.operator.observed import observe
from hortator.operator.plan import plan
from hortator.operator.scalers import scaled
from hortator.operator.status.explain import explain

GARBAGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.just("2026-11-26T10:00:00Z"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=6,
)


def _paths(value, path=()):
    yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        yield from _paths(inner, (*path, key))


def _put(value, path, garbage):
    for part in path[:-1]:
        value = value[part]
    value[path[-1]] = garbage


def _a_world(gang):
    manifest = a_manifest(backend="TensorRTLLM", gpus_per_node=8, placement={"gang": {"provider": gang}})
    world = World(manifest, nodes={f"n-{i}": {} for i in range(4)})
    world.api.installed.add(("scheduling.volcano.sh/v1beta1", "PodGroup"))
    world.settle()
    world.add_scaler("demo", "Aggregated", replicas=2, autoscaling={"maxReplicas": 4})
    world.edit({"engine": {"image": "a/worker:2"}, "rollout": {"partition": 1, "maxSurge": 1}})
    world.until(lambda: "demo-a-2" in world.statefulsets())
    world.crash("demo-a-0-0")  # its next start is of a revision that spec does not ask for
    world.until(lambda: world.statefulsets()["demo-a-0"]["spec"]["replicas"] == 0 and is_empty(world))
    return world


def is_empty(world):
    return not any(pod["metadata"]["name"].startswith("demo-a-0-") for pod in world.api.find("Pod"))


WORLD, GANG_WORLD = _a_world("Builtin"), _a_world("Volcano")
META, SERVICE, _, PROBLEMS, _ = WORLD._seen()
KINDS = (
    "StatefulSet",
    "Pod",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "ControllerRevision",
    "Node",
    "PodGroup",
    "LLMServiceScaler",
)
OBJECTS = [obj for kind in KINDS for obj in WORLD.api.find(kind)]
WANTED = desired(SERVICE, uid=META.uid, options=OPTIONS)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_garbage_in_gangs_never_raises(data):
    meta, service, _, _, _ = GANG_WORLD._seen()
    objects = [copy.deepcopy(one) for kind in KINDS for one in GANG_WORLD.api.find(kind)]
    touched = [one for one in objects if one["kind"] in {"PodGroup", "ControllerRevision", "StatefulSet"}]
    assert any(one["kind"] == "PodGroup" for one in touched)
    for _ in range(data.draw(st.integers(1, 4))):
        obj = data.draw(st.sampled_from(touched))
        paths = sorted((path for path in _paths(obj) if path), key=str)
        if paths:
            _put(obj, data.draw(st.sampled_from(paths)), data.draw(GARBAGE))
    for providers in (frozenset(), frozenset({"Volcano"})):
        observed = observe(objects, meta=meta, loads=GANG_WORLD.loads(), gang_providers=providers)
        wanted = desired(service, uid=meta.uid, options=OPTIONS)
        now = GANG_WORLD.clock
        plan(service, meta=meta, desired=wanted, problems=(), observed=observed, now=now)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_never_raises(data):
    objects = copy.deepcopy(OBJECTS)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(objects) - 1))
        paths = sorted((path for path in _paths(objects[index]) if path), key=str)
        if paths:
            _put(objects[index], data.draw(st.sampled_from(paths)), data.draw(GARBAGE))
    observed = observe(objects, meta=META, loads=WORLD.loads())
    arguments = {"meta": META, "desired": WANTED, "problems": (), "observed": observed, "now": WORLD.clock}
    plan(scaled(SERVICE, observed.scalers), **arguments)
    explain(SERVICE, **arguments)
    invalid = {
        "apiVersion": "?",
        "metadata": {"name": META.name, "namespace": META.namespace, "uid": META.uid},
    }
    accepted(invalid, parse(invalid), known=[one for one in objects if "data" in one])


@given(st.lists(GARBAGE, max_size=5))
def test_objects_that_are_none_are_passed_over(objects):
    assert observe(objects, meta=META, loads={}).groups == {}


@settings(max_examples=20, deadline=None)
@given(st.randoms())
def test_the_order_of_objects_does_not_matter(random):
    shuffled = list(OBJECTS)
    random.shuffle(shuffled)
    assert observe(shuffled, meta=META, loads={}) == observe(OBJECTS, meta=META, loads={})


def test_observing_and_planning_change_no_object():
    objects = copy.deepcopy(OBJECTS)
    observed = observe(objects, meta=META, loads=WORLD.loads())
    plan(SERVICE, meta=META, desired=WANTED, problems=(), observed=observed, now=WORLD.clock)
    assert objects == OBJECTS

"""The operator beside other schedulers that see to gangs: they come, they go, it may use them or not."""

import asyncio

import pytest

from doubles.kubernetes.api import ApiError
from doubles.operator_world import OperatorWorld
from doubles.service_world import gang_of
from hortator.operator import names
from hortator.operator.manifests.gang import PROVIDERS
from hortator.operator.permissions import PERMISSIONS

pytestmark = pytest.mark.looptime

VERBS = {"apply": {"create", "patch"}}
WITH_OBJECTS = ["Volcano", "Coscheduling"]


def install(world, provider):
    world.api.installed.add(PROVIDERS[provider].needs[0])


def create(world, provider, **gang):
    return world.create(placement={"gang": {"provider": provider} | gang}, drain={"timeout": "1s"})


def gangs(world):
    return {one["metadata"]["name"] for one in world.api.find("PodGroup")}


def engines(world):
    return world.api.find("Pod", **{names.LABEL_COMPONENT: names.COMPONENT_ENGINE})


def asked(world):
    """What it asked of PodGroups."""
    calls = set()

    def note(verb, ref):
        if ref.kind == "PodGroup":
            calls.update(VERBS.get(verb, {verb}))
        return fault(verb, ref)

    fault, world.cluster.fault = world.cluster.fault, note
    return calls


@pytest.mark.parametrize("provider", WITH_OBJECTS)
async def test_every_verb_on_its_objects_is_used_and_no_other(provider):
    async with OperatorWorld(gang_providers=[provider]) as world:
        calls = asked(world)
        install(world, provider)
        create(world, provider)
        await world.until("AllGroupsReady")
        assert gangs(world) == {gang_of(pod) for pod in engines(world)} != {""}
        world.edit(suspend=True)
        await world.until("Suspended", within_s=300)
        assert gangs(world) == set()
        # a conflict, after which the object is read again
        refuse = [ApiError(409, "Conflict", "somebody else was faster")]
        before = world.cluster.fault

        def once(verb, ref):
            return refuse.pop() if refuse and (verb, ref.kind) == ("apply", "PodGroup") else before(verb, ref)

        world.cluster.fault = once
        world.edit(suspend=False)
        await world.until("AllGroupsReady")
        (granted,) = (set(one.verbs) for one in PERMISSIONS if one.provider == provider)
        assert calls == granted


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_groups_wait_for_its_api_and_start_when_it_comes(provider):
    async with OperatorWorld(gang_providers=[provider]) as world:
        create(world, provider, **({"queue": "q"} if provider == "Kueue" else {}))
        await world.until("GangProviderMissing")
        assert engines(world) == []
        install(world, provider)
        await world.until("AllGroupsReady")


async def test_one_that_the_operator_was_not_told_of_is_never_asked_for():
    async with OperatorWorld(gang_providers=["Kueue"]) as world:
        calls = asked(world)
        install(world, "Volcano")
        create(world, "Volcano")
        await world.until("GangProviderMissing")
        await asyncio.sleep(10)
        assert calls == set()
        assert "gang.providers" in world.condition()["message"]


async def test_without_its_role_it_counts_as_missing():
    async with OperatorWorld(gang_providers=["Volcano"]) as world:
        before = world.cluster.fault
        refused = ApiError(403, "Forbidden", 'podgroups is forbidden: User "x" cannot list resource')
        world.cluster.fault = lambda verb, ref: refused if ref.kind == "PodGroup" else before(verb, ref)
        install(world, "Volcano")
        create(world, "Volcano")
        await world.until("GangProviderMissing")
        world.cluster.fault = before
        await world.until("AllGroupsReady")


async def test_one_that_cannot_be_asked_for_a_moment_is_not_gone():
    async with OperatorWorld(gang_providers=["Volcano"]) as world:
        install(world, "Volcano")
        create(world, "Volcano")
        await world.until("AllGroupsReady")
        before = world.cluster.fault
        broken = ApiError(503, "ServiceUnavailable", "try again")
        world.cluster.fault = lambda verb, ref: broken if ref.kind == "PodGroup" else before(verb, ref)
        await asyncio.sleep(5)
        assert world.inventory.gang_providers == {"Volcano"}
        world.cluster.fault = before
        world.api.installed.clear()
        await asyncio.sleep(5)
        assert world.inventory.gang_providers == frozenset()
        assert world.reason() == "AllGroupsReady"


async def test_a_gang_that_somebody_made_anew_under_its_name_is_taken():
    """Whatever is left of an operator that ended between its two writes."""
    async with OperatorWorld(gang_providers=["Volcano"]) as world:
        install(world, "Volcano")
        create(world, "Volcano")
        await world.until("AllGroupsReady")
        await world.restart()
        await asyncio.sleep(5)
        assert world.reason() == "AllGroupsReady"
        assert gangs(world) == {gang_of(pod) for pod in engines(world)}

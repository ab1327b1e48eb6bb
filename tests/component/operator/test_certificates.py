"""Certificates that the operator makes, over the in-memory API: made once, renewed, and nobody else's touched."""

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from doubles.kubernetes.api import ApiError, Obj
from doubles.operator_world import NAME, KilledError, OperatorWorld
from hortator.operator.certificate_keeper import CertificateKeeper
from hortator.operator.certificates import Wanted
from hortator.operator.cluster import ConflictError
from hortator.operator.manifests.metadata import Owner
from hortator.operator.objects import Ref
from hortator.runtime.certificate_facts import Said, read_certificates
from hortator.runtime.identity import Identity

pytestmark = pytest.mark.looptime

SECURITY = {"tls": {"issuer": "Operator", "hosts": ["llm.example.com", "192.0.2.7", "2001:DB8:0::7"]}}
COMPONENTS = ("gateway", "scheduler", "worker", "client")
SECRETS = {f"{NAME}-{component}-tls" for component in (*COMPONENTS, "authority")}


def secret(world: OperatorWorld, component: str) -> Obj:
    return world.api.get(("v1", "Secret", "default", f"{NAME}-{component}-tls"))


def file(world: OperatorWorld, component: str, name: str = "tls.crt") -> bytes:
    return base64.b64decode(secret(world, component)["data"][name])


def said(world: OperatorWorld, component: str, name: str = "tls.crt") -> Sequence[Said]:
    return read_certificates(file(world, component, name))


def made(world: OperatorWorld) -> list[Obj]:
    return [one for one in world.api.find("Secret") if one["metadata"]["name"] in SECRETS]


def writes(world: OperatorWorld, since: int = 0) -> list[Any]:
    return [write for write in world.writes(since) if write.key[3] in SECRETS]


def create(world: OperatorWorld, **security: Any) -> Obj:
    """A service whose groups do not start: what is made for it does not wait for them."""
    return world.create(suspend=True, security=SECURITY | security)


async def until(world: OperatorWorld, reason: str, *, within_s: float = 30.0) -> None:
    end = asyncio.get_running_loop().time() + within_s
    while world.condition("CertificatesReady").get("reason") != reason:
        assert asyncio.get_running_loop().time() < end, world.condition("CertificatesReady")
        await asyncio.sleep(0.1)


async def pass_days(world: OperatorWorld, days: float) -> None:
    """The wall clock jumps, and the operator looks again, for it is told of the service."""
    world.began_at -= days * 86400
    world.queue.add(("default", NAME))
    await asyncio.sleep(2)


def is_in_order(world: OperatorWorld) -> bool:
    """Every certificate is good now, and signed by one that everybody trusts."""
    now = world.now()
    bundles = {file(world, component, "ca.crt") for component in (*COMPONENTS, "authority")}
    trusted = {one.subject for one in said(world, "authority", "ca.crt")}
    certificates = [said(world, component)[0] for component in COMPONENTS]
    return len(bundles) == 1 and all(
        one.issuer in trusted and one.begins_at <= now < one.ends_at for one in certificates
    )


async def test_they_are_made_once_before_any_pod_that_mounts_them_and_then_left_alone() -> None:
    async with OperatorWorld() as world:
        world.create(security=SECURITY)
        await world.until("AllGroupsReady")
        order = [write.key for write in world.writes()]
        first_pods = min(order.index(key) for key in order if key[1] in {"Deployment", "StatefulSet"})
        ours = [order.index(key) for key in order if key[3] in SECRETS]
        assert len(ours) == len(SECRETS)
        assert max(ours) < first_pods
        assert world.condition("CertificatesReady")["status"] == "True"
        assert is_in_order(world)
        since = len(world.api.writes)
        await asyncio.sleep(330)
        assert world.writes(since) == []


async def test_each_says_whose_it_is_and_the_gateways_what_clients_dial() -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        for component in COMPONENTS:
            (one,) = said(world, component)
            identity = Identity(namespace="default", service=NAME, component=component)
            assert identity.uri in one.uris
            assert identity.server_name in one.hosts
            assert secret(world, component)["type"] == "kubernetes.io/tls"
        dialled = {"llm.example.com", "192.0.2.7", "2001:db8::7", f"{NAME}-gateway.default.svc"}
        assert dialled <= said(world, "gateway")[0].hosts
        assert not dialled & said(world, "worker")[0].hosts


async def test_they_go_with_their_owner() -> None:
    async with OperatorWorld() as world:
        uid = create(world)["metadata"]["uid"]
        await until(world, "CertificatesReady")
        owners = [one["metadata"]["ownerReferences"] for one in made(world)]
        assert [[owner["uid"] for owner in owner] for owner in owners] == [[uid]] * len(SECRETS)
        world.api.delete(("serving.hortator.dev/v1alpha1", "LLMService", "default", NAME))
        await asyncio.sleep(5)
        assert made(world) == []


async def test_a_certificate_is_renewed_and_a_new_authority_is_trusted_before_it_signs() -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        (first,) = said(world, "authority", "ca.crt")
        keys = [file(world, "worker", "tls.key")]
        trusted: list[list[str]] = []
        signed: list[str] = []
        for _ in range(13):  # two years and a bit
            await pass_days(world, 61)
            assert is_in_order(world)
            keys.append(file(world, "worker", "tls.key"))
            trusted.append([one.subject for one in said(world, "worker", "ca.crt")])
            signed.append(said(world, "worker")[0].issuer)
        assert len(set(keys)) == len(keys)
        second = trusted[-1][0]
        assert second != first.subject
        assert next(at for at, names in enumerate(trusted) if second in names) + 3 < signed.index(second)
        assert first.subject not in trusted[-1]
        assert world.condition("CertificatesReady")["status"] == "True"


async def test_an_operator_that_was_away_for_years_begins_anew() -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        await world._stop()
        world.began_at -= 1000 * 86400
        await world.restart()
        await until(world, "CertificatesReady")
        await asyncio.sleep(3)
        assert is_in_order(world)
        assert len(said(world, "authority", "ca.crt")) == 1


async def test_a_secret_that_somebody_deletes_or_spoils_comes_back() -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        world.api.delete(("v1", "Secret", "default", f"{NAME}-worker-tls"))
        world.api.patch(("v1", "Secret", "default", f"{NAME}-gateway-tls"), {"data": {"tls.crt": "AAAA"}})
        before = file(world, "scheduler")
        await asyncio.sleep(310)
        assert is_in_order(world)
        assert file(world, "scheduler") == before


@pytest.mark.safety
@pytest.mark.parametrize("component", ["worker", "authority"])
async def test_somebody_elses_secret_is_left_alone_and_told_of(component: str) -> None:
    async with OperatorWorld() as world:
        name = f"{NAME}-{component}-tls"
        theirs = {"name": name, "namespace": "default"}
        foreign = {"apiVersion": "v1", "kind": "Secret", "metadata": theirs, "data": {"tls.key": "bWluZQ=="}}
        world.api.create(foreign)
        create(world)
        await until(world, "NameTaken")
        assert name in world.condition("CertificatesReady")["message"]
        await pass_days(world, 61)
        assert secret(world, component)["data"] == {"tls.key": "bWluZQ=="}
        assert len(made(world)) == (1 if component == "authority" else len(SECRETS))
        world.api.delete(("v1", "Secret", "default", name))
        await until(world, "CertificatesReady")
        assert is_in_order(world)


@pytest.mark.safety
@pytest.mark.parametrize("nth", range(1, len(SECRETS) + 1))
async def test_an_operator_that_dies_after_any_write_is_followed_by_one_that_goes_on(nth: int) -> None:
    async with OperatorWorld() as world:
        count = 0

        def die(verb: str, ref: Ref) -> None:
            nonlocal count
            count += ref.name in SECRETS
            if count == nth:
                world.cluster.after_write = lambda _verb, _ref: None
                raise KilledError

        world.cluster.after_write = die
        create(world)
        await world.killed()
        there = {one["metadata"]["name"]: one for one in made(world)}
        assert len(there) == nth
        await world.restart()
        await until(world, "CertificatesReady")
        assert is_in_order(world)
        assert all(one["data"] == there.get(one["metadata"]["name"], one)["data"] for one in made(world))
        assert len(writes(world)) == len(SECRETS)


@pytest.mark.safety
@pytest.mark.parametrize("nth", range(1, len(SECRETS) + 1))
async def test_a_change_of_the_authority_goes_on_after_a_death_too(nth: int) -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        count = 0

        def die(verb: str, ref: Ref) -> None:
            nonlocal count
            count += ref.name in SECRETS
            if count == nth:
                world.cluster.after_write = lambda _verb, _ref: None
                raise KilledError

        world.cluster.after_write = die
        world.began_at -= 366 * 86400
        world.queue.add(("default", NAME))
        await world.killed()
        await world.restart()
        await asyncio.sleep(3)
        assert is_in_order(world)
        assert len(said(world, "worker", "ca.crt")) == 2


@pytest.mark.safety
async def test_of_two_operators_that_write_at_once_one_makes_each_secret() -> None:
    """The Lease keeps them apart; where it does not, the API server does."""
    async with OperatorWorld() as world:
        uid = create(world, tls={"issuer": "Secrets"})["metadata"]["uid"]
        await asyncio.sleep(3)
        owner = Owner(name=NAME, namespace="default", uid=uid)
        wanted = Wanted(owner=owner, prefix=NAME, hosts=())
        keepers = [CertificateKeeper(world.cluster, now=world.now) for _ in range(3)]
        for days in (0, 61, 305, 300):  # made, renewed, with another authority, signed by that
            world.began_at -= days * 86400
            since = len(world.api.writes)
            for _ in range(2):  # who was second has read again
                ends = await asyncio.gather(
                    *(one.make(("default", NAME), wanted) for one in keepers), return_exceptions=True
                )
                assert {type(end) for end in ends} <= {type(None), ConflictError}
            assert is_in_order(world)
            of_authority = [one for one in writes(world, since) if "authority" in one.key[3]]
            assert len(of_authority) == (days in {0, 305})


@pytest.mark.parametrize(
    ("verb", "kind", "reason"),
    [
        ("get", ApiError(403, "Forbidden", "secrets is forbidden: cannot get"), "OperatorForbidden"),
        ("create", ApiError(403, "Forbidden", "secrets is forbidden: cannot create"), "OperatorForbidden"),
        ("create", ApiError(422, "Invalid", "admission webhook says no"), "ObjectRefused"),
    ],
)
async def test_a_refusal_is_told_steadily_stops_nothing_else_and_ends_when_it_is_over(
    verb: str, kind: ApiError, reason: str
) -> None:
    async with OperatorWorld() as world:
        world.cluster.fault = lambda asked, ref: kind if asked == verb and ref.name in SECRETS else None
        create(world)
        await until(world, reason)
        assert world.api.get(("apps/v1", "Deployment", "default", f"{NAME}-gateway"))
        await asyncio.sleep(5)
        since = len(world.api.writes)
        await asyncio.sleep(130)
        assert [write for write in world.writes(since) if write.key[1] == "LLMService"] == []
        assert world.condition("CertificatesReady")["reason"] == reason
        world.cluster.fault = lambda _verb, _ref: None
        await until(world, "CertificatesReady", within_s=70)
        assert is_in_order(world)


async def test_a_renewal_that_is_refused_is_told_before_anything_ends() -> None:
    async with OperatorWorld() as world:
        create(world)
        await until(world, "CertificatesReady")
        error = ApiError(403, "Forbidden", "secrets is forbidden: cannot update")
        world.cluster.fault = lambda verb, ref: error if (verb, ref.kind) == ("replace", "Secret") else None
        await pass_days(world, 76)
        condition = world.condition("CertificatesReady")
        assert condition["reason"] == "OperatorForbidden"
        ends_at = said(world, "worker")[0].ends_at
        assert f"{NAME}-worker-tls ends at {ends_at:%Y-%m-%d}" in condition["message"]


async def test_of_secrets_nothing_is_asked_but_what_the_table_grants_and_all_of_that() -> None:
    asked: set[str] = set()

    async with OperatorWorld() as world:

        def listen(verb: str, ref: Ref) -> None:
            if ref.kind == "Secret":
                asked.add(verb)

        world.cluster.fault = listen
        create(world)
        await until(world, "CertificatesReady")
        await pass_days(world, 61)
    assert asked == {"get", "create", "replace"}  # a replace is the verb update


@pytest.mark.safety
async def test_no_key_is_told_logged_or_recorded(caplog: pytest.LogCaptureFixture) -> None:
    with structlog.testing.capture_logs() as logs, caplog.at_level(logging.DEBUG):
        async with OperatorWorld() as world:
            world.create(security=SECURITY)
            await world.until("AllGroupsReady")
            await pass_days(world, 61)
            await asyncio.sleep(2)
            keys = [file(world, component, "tls.key") for component in COMPONENTS]
            keys.append(file(world, "authority", "ca.key"))
            held = [own.current().key_pem for own in world.certificates._own.values()]
            assert held
            kinds = ("LLMService", "Event", "ControllerRevision", "StatefulSet", "Deployment", "Pod", "Job")
            others = [one for kind in kinds for one in world.api.find(kind)]
            assert len(others) > len(kinds)
            known = [world.inventory.children(("default", NAME)), world.inventory._held]
            told = "\n".join([json.dumps(others), repr(known), repr(logs), caplog.text])
            told += repr(world.certificates._facts) + repr(held and world.certificates._own)
            for pem in (*keys, *held):
                lines = pem.decode().splitlines()[1:-1]
                assert not [line for line in lines if line in told]
                assert base64.b64encode(pem).decode()[:60] not in told


async def test_who_makes_its_own_secrets_is_asked_nothing() -> None:
    async with OperatorWorld() as world:
        asked: list[str] = []

        def listen(verb: str, ref: Ref) -> None:
            if ref.kind == "Secret" and ref.name in SECRETS:
                asked.append(verb)

        world.cluster.fault = listen
        world.create(suspend=True, security={"tls": {}})
        await asyncio.sleep(20)
        assert asked == []
        assert world.condition("CertificatesReady") == {}


async def test_the_operators_own_certificate_is_of_the_same_authority_and_stays_fresh() -> None:
    async with OperatorWorld() as world:
        scheduler = Identity(namespace="default", service=NAME, component="scheduler")
        assert world.certificates.transport(scheduler) is None
        create(world)
        await until(world, "CertificatesReady")
        await asyncio.sleep(310)
        transport = world.certificates.transport(scheduler)
        assert transport is not None
        assert str(transport.identity) == f"operator of default/{NAME}"
        before = transport.generation
        await pass_days(world, 4)
        assert transport.generation == before + 1
        assert world.certificates.transport(scheduler) is transport
        world.api.delete(("serving.hortator.dev/v1alpha1", "LLMService", "default", NAME))
        await asyncio.sleep(5)
        assert world.certificates.transport(scheduler) is None

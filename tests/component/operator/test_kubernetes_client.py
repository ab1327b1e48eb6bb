"""The client over HTTP: what answers become, time limits, pages."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio.client.configuration import Configuration

from doubles.kubernetes.api import ApiError, ApiServer
from doubles.kubernetes.http_front import HttpFront
from hortator.operator.client.kubernetes import KubernetesCluster
from hortator.operator.cluster import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from hortator.operator.objects import Obj, Ref

ONE = Ref(api_version="v1", kind="ConfigMap", namespace="default", name="one")


def config_map(name: str = "one") -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}


@pytest.fixture
async def front() -> AsyncIterator[HttpFront]:
    async with HttpFront(ApiServer()) as front:
        yield front


@pytest.fixture
async def cluster(front: HttpFront) -> AsyncIterator[KubernetesCluster]:
    cluster = KubernetesCluster(Configuration(host=front.url), call_timeout_s=0.5, page_size=2)
    await cluster.serves("v1", "ConfigMap")
    yield cluster
    await cluster.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(ApiError(404, "NotFound", "no"), NotFoundError, id="absent"),
        pytest.param(ApiError(409, "AlreadyExists", "there"), AlreadyExistsError, id="exists"),
        pytest.param(ApiError(409, "Conflict", "changed"), ConflictError, id="changed"),
        pytest.param(
            ApiError(422, "Invalid", 'metadata.uid: Invalid value: "x": field is immutable'),
            ConflictError,
            id="another uid",
        ),
        pytest.param(ApiError(422, "Invalid", "spec.replicas: must be a number"), InvalidError, id="invalid"),
        pytest.param(ApiError(400, "BadRequest", "json: cannot unmarshal"), InvalidError, id="malformed"),
        pytest.param(
            ApiError(500, "InternalError", ".spec.schedulingGates: field not declared in schema"),
            InvalidError,
            id="a field that the server lacks",
        ),
        pytest.param(ApiError(403, "Forbidden", "cannot patch"), ForbiddenError, id="no role"),
        pytest.param(
            ApiError(403, "Forbidden", "unable to create: because it is being terminated"),
            NotFoundError,
            id="namespace is going",
        ),
        pytest.param(ApiError(401, "Unauthorized", "expired"), UnavailableError, id="token expired"),
        pytest.param(ApiError(429, "TooManyRequests", "slow"), UnavailableError, id="throttled"),
        pytest.param(ApiError(500, "InternalError", "etcd leader changed"), UnavailableError, id="broken"),
        pytest.param(ApiError(503, "ServiceUnavailable", "starting"), UnavailableError, id="starting"),
    ],
)
async def test_answers_become_errors(
    front: HttpFront, cluster: KubernetesCluster, answer: ApiError, kind: type[Exception]
) -> None:
    front.fail = lambda _method, _path: answer
    with pytest.raises(kind) as caught:
        await cluster.apply(config_map())
    assert type(caught.value) is kind
    assert str(caught.value).startswith("apply ConfigMap default/one: ")
    assert "\n" not in str(caught.value)


async def test_the_time_that_the_server_asks_for_is_told(
    front: HttpFront, cluster: KubernetesCluster
) -> None:
    front.fail = lambda _method, _path: ApiError(429, "TooManyRequests", "slow", retry_after_s=7)
    with pytest.raises(UnavailableError) as caught:
        await cluster.get(ONE)
    assert caught.value.retry_after_s == 7.0


async def test_a_server_that_says_nothing_is_unavailable_in_time(
    front: HttpFront, cluster: KubernetesCluster
) -> None:
    front.pause()
    began_at = time.monotonic()
    with pytest.raises(UnavailableError):
        await cluster.apply(config_map())
    assert time.monotonic() - began_at < 2.0
    front.resume()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    cluster = KubernetesCluster(Configuration(host="http://127.0.0.1:1"))
    with pytest.raises(UnavailableError):
        await cluster.get(ONE)
    await cluster.close()


async def test_lists_fetch_all_pages(front: HttpFront, cluster: KubernetesCluster) -> None:
    for number in range(5):
        front.api.create(config_map(f"n{number}"))
    found = await cluster.list("v1", "ConfigMap", namespace="default")
    assert [obj["metadata"]["name"] for obj in found] == [f"n{number}" for number in range(5)]
    assert found[0]["kind"] == "ConfigMap"
    assert front.requests.count(("GET", "/api/v1/namespaces/default/configmaps")) == 3


async def test_a_list_whose_pages_expired_begins_again(front: HttpFront, cluster: KubernetesCluster) -> None:
    for number in range(3):
        front.api.create(config_map(f"n{number}"))
    calls = iter(range(10))

    def expire(_method: str, _path: str) -> ApiError | None:
        return ApiError(410, "Expired", "continue token is too old") if next(calls) == 1 else None

    front.fail = expire
    found = await cluster.list("v1", "ConfigMap", namespace="default")
    assert [obj["metadata"]["name"] for obj in found] == ["n0", "n1", "n2"]


async def test_a_kind_that_comes_later_is_found_then(front: HttpFront) -> None:
    cluster = KubernetesCluster(Configuration(host=front.url))
    front.fail = lambda _method, path: (
        ApiError(404, "NotFound", "page not found") if "serving.hortator.dev" in path else None
    )
    assert not await cluster.serves("serving.hortator.dev/v1alpha1", "LLMService")
    front.fail = lambda _method, _path: None
    assert await cluster.serves("serving.hortator.dev/v1alpha1", "LLMService")
    await cluster.close()


async def test_a_crd_that_comes_or_goes_beside_another_one_is_noticed(
    front: HttpFront, cluster: KubernetesCluster
) -> None:
    group, kind = "serving.hortator.dev/v1alpha1", "LLMServiceScaler"
    assert await cluster.serves(group, kind)
    front.unserved.add(kind)
    with pytest.raises(NotFoundError):
        await cluster.list(group, kind)
    assert await cluster.serves(group, "LLMService")
    assert not await cluster.serves(group, kind)
    with pytest.raises(InvalidError):
        await cluster.list(group, kind)
    front.unserved.clear()
    assert await cluster.list(group, kind) == []
    assert await cluster.serves(group, kind)


async def test_calls_run_side_by_side(front: HttpFront, cluster: KubernetesCluster) -> None:
    made = await asyncio.gather(*(cluster.create(config_map(f"n{number}")) for number in range(40)))
    assert len({obj["metadata"]["uid"] for obj in made}) == 40

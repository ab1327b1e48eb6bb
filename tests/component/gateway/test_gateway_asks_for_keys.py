"""API keys at the public API: who is let in, as which tenant, and what is never written down."""

import grpc
import grpc.aio
import pytest

from hortator.cli import api_key
from hortator.rpc.inference.v1 import inference_pb2

REQUEST = inference_pb2.GenerateRequest(text="go", sampling=inference_pb2.SamplingParameters(max_tokens=4))


@pytest.fixture
def new_key(tmp_path, capsys):
    def make(name, *tenants):
        api_key.run(name=name, file=tmp_path / "keys.yaml", tenants=tenants)
        return capsys.readouterr().out.strip()

    return make


@pytest.fixture
async def guarded(empty_cluster, tmp_path, new_key):
    """A gateway that wants keys, and one key for tenant `ci`."""
    key = new_key("evaluation", "ci")
    await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(api_keys_file=str(tmp_path / "keys.yaml"))
    return empty_cluster, key


def _call(cluster, key, **fields):
    request = inference_pb2.GenerateRequest()
    request.CopyFrom(REQUEST)
    for name, value in fields.items():
        setattr(request, name, value)
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    return cluster.stub.Generate(request, metadata=metadata)


async def _refusal(cluster, call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.read(call)
    return caught.value.code(), caught.value.details()


async def test_a_key_lets_in_as_its_tenant(guarded):
    cluster, key = guarded
    reply = await cluster.read(_call(cluster, key))
    assert len(reply.token_ids) == 4
    assert [announced.tenant for announced in cluster.scheduler.of("announcement")] == ["ci"]


@pytest.mark.safety
async def test_without_a_key_nothing_is_announced(guarded):
    cluster, key = guarded
    for wrong in (None, "", "hk_other", key[:-1]):
        code, details = await _refusal(cluster, _call(cluster, wrong))
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "authorization" in details
    code, details = await _refusal(cluster, _call(cluster, key, tenant="prod"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details == "tenant: API key 'evaluation' may not be used for 'prod' (allowed: ci)"
    assert cluster.scheduler.of("announcement") == []


async def test_a_tenant_of_any_length_is_refused_in_few_words(guarded):
    """What is said travels as metadata, of which a client takes little."""
    cluster, key = guarded
    code, details = await _refusal(cluster, _call(cluster, key, tenant="x" * 100_000))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details.startswith("tenant: API key 'evaluation' may not be used for 'xxx")


async def test_models_are_listed_for_holders_of_a_key_only(guarded):
    cluster, key = guarded
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.stub.ListModels(inference_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    metadata = (("authorization", f"Bearer {key}"),)
    reply = await cluster.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=metadata)
    assert [model.name for model in reply.models] == ["tiny"]


async def test_a_key_that_is_taken_out_or_added_counts_from_the_next_call(guarded, new_key, tmp_path):
    cluster, key = guarded
    other = new_key("other")
    assert len((await cluster.read(_call(cluster, other, tenant="any"))).token_ids) == 4
    (tmp_path / "keys.yaml").write_text("keys: []")
    code, _ = await _refusal(cluster, _call(cluster, key))
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_tenant_does_not_reach_anothers_generation_by_its_idempotency_key(guarded, new_key):
    """Keys of clients are names within a tenant, and the tenant comes from the API key."""
    cluster, key = guarded
    other = new_key("other", "prod")
    first = await cluster.read(_call(cluster, key, idempotency_key="k"))
    again = await cluster.read(_call(cluster, key, idempotency_key="k"))
    theirs = await cluster.read(_call(cluster, other, idempotency_key="k"))
    assert again.request_id == first.request_id
    assert theirs.request_id != first.request_id

"""`tokenizer: workers`: the gateway asks the workers for the tokenizer of the model that they serve."""

import asyncio
import contextlib

import grpc
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hortator.gateway.client.tokenizer_source import TokenizerSource
from hortator.rpc.inference.v1 import inference_pb2
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.transport import Plaintext


def a_tokenizer(words) -> dict[str, bytes]:
    """Words in the order of their ids."""
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": b"{}"}


WORDS = a_tokenizer(["?", *(f"word{number}" for number in range(200))])


async def refused(cluster, **fields) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await cluster.generate(**fields)
    return refusal.value.code(), refusal.value.details()


def prompts(cluster) -> list[list[int]]:
    return [list(request.prompt_token_ids) for worker in cluster.workers for request in worker.received]


async def test_text_is_read_with_what_a_worker_has(empty_cluster, wait_until):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    reply = await empty_cluster.generate("word4 word2 nobody", max_tokens=2)
    assert prompts(empty_cluster) == [[5, 3, 0]]
    assert reply.text == "word96word97"  # tokens 97 and 98
    assert gateway.admission.limits.vocab_size == 201


async def test_until_it_is_there_text_is_refused_for_a_moment_and_token_ids_are_taken(
    empty_cluster, wait_until
):
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    code, why = await refused(empty_cluster, text="word4")
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "tokenizer is not here yet (no" in why
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    tokens = inference_pb2.TokenPrompt(token_ids=[5, 6])
    sampling = inference_pb2.SamplingParameters(max_tokens=1)
    request = inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling)
    await empty_cluster.read(empty_cluster.stub.Generate(request))
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    await empty_cluster.generate("word4", max_tokens=1)
    assert prompts(empty_cluster) == [[5, 6], [5]]


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED])
async def test_where_workers_have_none_text_is_refused_for_good(empty_cluster, wait_until, code):
    """The second: a worker of an earlier version."""
    worker = await empty_cluster.add_worker("w0")
    worker.no_tokenizer = code
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: not gateway.admission.tokenizer_pending())
    assert await refused(empty_cluster, text="word4") == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "prompt: no tokenizer here: give token ids",
    )


@pytest.mark.parametrize(
    "files",
    [{"tokenizer.json": b"{"}, {"tokenizer_config.json": b"{}"}, {"../../etc/passwd": b"root"}],
    ids=["no JSON", "no tokenizer", "another file"],
)
async def test_nonsense_is_no_tokenizer(empty_cluster, wait_until, files):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = files
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: worker.num_pulls > 0 and not gateway.admission.tokenizer_pending())
    assert not gateway.admission.limits.has_tokenizer


async def test_the_gateway_is_ready_once_workers_were_asked(empty_cluster, wait_until):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    reason = b"workers have not been asked for the tokenizer yet"
    before, _, text = gateway.admin.answer("/readyz")
    assert before == 503
    assert reason in text
    await wait_until(lambda: gateway.admin.answer("/readyz")[0] == 200)
    assert gateway.admission.limits.has_tokenizer


@contextlib.asynccontextmanager
async def a_source(cluster, found):
    endpoints = Endpoints([cluster.scheduler.address])
    source = TokenizerSource(
        endpoints, transport=Plaintext(), on_found=found.append, retry_s=0.01, refresh_s=0.01
    )
    task = asyncio.create_task(source.run())
    yield source
    task.cancel()


async def test_what_is_known_is_not_sent_again_and_what_is_new_is_taken(empty_cluster, wait_until):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    found: list = []
    async with a_source(empty_cluster, found):
        await wait_until(lambda: worker.num_pulls > 5)
        assert [one.vocab_size for one in found] == [201]
        worker.tokenizer = a_tokenizer(["?", "other"])
        await wait_until(lambda: len(found) == 2)
        assert found[1].encode("other") == [1]
        worker.tokenizer = None  # goes on with what it has
        num_pulls = worker.num_pulls
        await asyncio.sleep(0.05)
        assert worker.num_pulls == num_pulls
        assert len(found) == 2


async def test_a_worker_that_dies_is_not_the_last_that_is_asked(empty_cluster, wait_until):
    first, second = await empty_cluster.add_worker("w0"), await empty_cluster.add_worker("w1")
    first.tokenizer = second.tokenizer = WORDS
    await first.kill()
    found: list = []
    async with a_source(empty_cluster, found) as source:
        await wait_until(lambda: len(found) == 1)
        assert not source.pending

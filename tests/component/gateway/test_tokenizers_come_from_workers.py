"""`tokenizer: workers`: the gateway asks the workers for the tokenizer of the model that they serve."""

import asyncio
import contextlib
import json
import threading

import grpc
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hortator.gateway.client import tokenizer_source
from hortator.gateway.client.tokenizer_source import TokenizerSource
from hortator.gateway.client_request import ChatMessage
from hortator.gateway.errors import ChatError, TokenizerError
from hortator.gateway.model_chat import model_chat_template
from hortator.gateway.tokenization import ByteTokenizer, JsonTokenizer
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.tokenizer_files import ids_digest
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
        endpoints,
        transport=Plaintext(),
        on_found=lambda tokenizer, *_: found.append(tokenizer),
        retry_s=0.01,
        refresh_s=0.01,
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


async def test_what_goes_wrong_there_ends_nothing_else(empty_cluster, wait_until, monkeypatch):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    monkeypatch.setattr(tokenizer_source, "model_chat_template", lambda _: 1 / 0)
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admin.answer("/readyz")[0] == 200)
    code, _ = await refused(empty_cluster, text="word4")
    assert code is grpc.StatusCode.UNAVAILABLE
    monkeypatch.undo()
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)


async def test_a_worker_that_dies_is_not_the_last_that_is_asked(empty_cluster, wait_until):
    first, second = await empty_cluster.add_worker("w0"), await empty_cluster.add_worker("w1")
    first.tokenizer = second.tokenizer = WORDS
    await first.kill()
    found: list = []
    async with a_source(empty_cluster, found) as source:
        await wait_until(lambda: len(found) == 1)
        assert not source.pending


CHAT = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %} {{ m.content }}{% endfor %}{% if add_generation_prompt %} word9{% endif %}"
CONFIGURED = b'{"bos_token": {"content": "word1"}, "chat_template": %s}'


@pytest.mark.parametrize("where", ["tokenizer_config.json", "a list there", "chat_template.jinja"])
async def test_a_chat_is_rendered_with_the_models_own_template(empty_cluster, wait_until, where):
    """And nothing is added to what it gives: it has the special tokens in it."""
    worker = await empty_cluster.add_worker("w0")
    found = json.dumps(CHAT).encode()
    if where == "a list there":
        found = json.dumps(
            [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT}]
        ).encode()
    worker.tokenizer = WORDS | {"tokenizer_config.json": CONFIGURED % found}
    if where == "chat_template.jinja":
        worker.tokenizer |= {"tokenizer_config.json": CONFIGURED % b'"x"', where: CHAT.encode()}
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    await empty_cluster.chat(("user", "word4"), ("assistant", "word5"))
    assert prompts(empty_cluster) == [[2, 5, 6, 10]]
    with pytest.raises(grpc.aio.AioRpcError, match=r"prompt.chat: .* refuses them: no system here"):
        await empty_cluster.chat(("system", "word4"))


async def test_a_model_without_a_template_gets_the_plain_one(empty_cluster, wait_until):
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = a_tokenizer(["?", "user:", "word1", "assistant:"])
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    await empty_cluster.chat(("user", "word1"))
    assert prompts(empty_cluster) == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"chat_template.jinja": b"{% if %}"}, "the model's chat template cannot be used"),
        ({"tokenizer_config.json": b"["}, "tokenizer_config.json of the model is no JSON"),
        ({"tokenizer_config.json": b"[]"}, "tokenizer_config.json of the model is no JSON object"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(files, says):
    with pytest.raises(TokenizerError, match=says):
        model_chat_template(WORDS | files)


@pytest.mark.parametrize(
    "program",
    ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ nothing.there }}", "{{ 1 / 0 }}"],
)
def test_a_template_reaches_nothing_and_its_faults_are_refusals(program):
    template = model_chat_template(WORDS | {"chat_template.jinja": program.encode()})
    with pytest.raises(ChatError, match="refuses them"):
        template.render([ChatMessage(role="user", content="x")])


async def test_what_a_workers_tokenizer_has_read_says_so_to_scheduler_and_worker(empty_cluster, wait_until):
    """Token ids that a client brought too: their output is read with it."""
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS | {"chat_template.jinja": b"x"}
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    await empty_cluster.generate("word4", max_tokens=1)
    digest = ids_digest(WORDS["tokenizer.json"])
    (announced,) = empty_cluster.scheduler.of("announcement")
    assert announced.tokenizer == digest
    assert [request.tokenizer for request in worker.received] == [digest]


async def test_a_tokenizer_of_its_own_is_nobodys_business(empty_cluster):
    """One that was mounted may differ from the model's in bytes and mean the same."""
    worker = await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(tokenizer="bytes")
    await empty_cluster.generate("abc", max_tokens=1)
    assert [request.tokenizer for request in worker.received] == [b""]


async def test_where_no_worker_has_its_tokenizer_any_more_it_asks_for_the_new_one_at_once(
    empty_cluster, wait_until
):
    """The rejected request fails in a way that is tried again; the next one is read with the new one."""
    worker = await empty_cluster.add_worker("w0")
    worker.tokenizer = WORDS
    gateway = await empty_cluster.start_gateway(tokenizer="workers")
    await wait_until(lambda: gateway.admission.limits.has_tokenizer)
    worker.tokenizer = a_tokenizer(["?", "other"])
    empty_cluster.scheduler.reject = scheduling_pb2.Rejection(
        reason=scheduling_pb2.REJECT_REASON_NO_WORKER, message="no worker has the tokenizer"
    )
    assert await refused(empty_cluster, text="other") == (
        grpc.StatusCode.UNAVAILABLE,
        "no worker has the tokenizer",
    )
    await wait_until(lambda: gateway.admission.limits.vocab_size == 2)
    empty_cluster.scheduler.reject = None
    await empty_cluster.generate("other", max_tokens=1)
    assert prompts(empty_cluster) == [[1]]


class Slow(ByteTokenizer):
    """Reads when it is told to."""

    def __init__(self) -> None:
        self.is_reading, self.may_end = threading.Event(), threading.Event()

    def encode(self, text, *, with_special_tokens=True):
        self.is_reading.set()
        assert self.may_end.wait(5)
        return [7]


async def test_a_text_that_is_being_read_as_the_tokenizer_changes_keeps_the_one_it_began_with(
    empty_cluster, wait_until
):
    """Ids, digest and the reading of the output belong together."""
    worker = await empty_cluster.add_worker("w0")
    gateway = await empty_cluster.start_gateway()
    slow = Slow()
    gateway.admission.use_tokenizer(slow, None, b"slow")
    asked = asyncio.create_task(empty_cluster.generate("x" * 5000, max_tokens=1))  # long: in a thread
    await wait_until(slow.is_reading.is_set)
    words = JsonTokenizer(WORDS["tokenizer.json"], "words")
    gateway.admission.use_tokenizer(words, None, b"words")
    slow.may_end.set()
    assert (await asked).text == "a"
    (request,) = worker.received
    assert (list(request.prompt_token_ids), request.tokenizer) == ([7], b"slow")

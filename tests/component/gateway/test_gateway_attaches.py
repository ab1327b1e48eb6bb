"""A client that comes from another gateway, with its key."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.idempotency import key_hash
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2
from hortator.runtime.rpc_errors import details_of

KEY = key_hash("", "my key")


@pytest.fixture
async def worker(empty_cluster):
    """One worker, on which the request of another gateway has 4 tokens of 10."""
    worker = await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(max_refusals=3)
    worker.attachable[KEY] = list(b"abcd")
    empty_cluster.scheduler.attaches = True
    return worker


async def test_it_gets_what_it_has_not_seen_of_what_runs_already(empty_cluster, worker, expected_text):
    reply = await empty_cluster.generate(max_tokens=10, idempotency_key="my key", resume_from_index=2)
    assert reply.deltas[0].token_index == 2
    assert reply.text == expected_text(10)[2:]
    assert reply.completion.usage.num_output_tokens == 10
    [submitted] = worker.received
    assert submitted.mode == worker_pb2.MODE_ATTACH
    assert not submitted.prompt_token_ids


async def test_the_scheduler_and_the_worker_hear_digests_and_never_the_key(empty_cluster, worker):
    empty_cluster.scheduler.attaches = False
    await empty_cluster.generate(max_tokens=3, idempotency_key="my key", tenant="a")
    await empty_cluster.generate(max_tokens=3, idempotency_key="my key", tenant="b")
    await empty_cluster.generate(max_tokens=3)
    first, second, without = empty_cluster.scheduler.of("announcement")
    assert len(first.key_hash) == len(first.request_hash) == 16
    assert first.key_hash == key_hash("a", "my key") != second.key_hash
    assert (without.key_hash, without.request_hash) == (b"", b"")
    assert [r.key_hash for r in worker.received] == [first.key_hash, second.key_hash, b""]
    assert not any(b"my key" in r.SerializeToString() for r in [first, second, *worker.received])
    assert not first.is_resumed


async def test_where_there_is_nothing_to_attach_to_another_placement_is_asked_for(
    empty_cluster, worker, expected_text
):
    """The scheduler makes sure that nothing runs before it answers."""
    worker.attachable.clear()
    scheduler = empty_cluster.scheduler
    place = scheduler.place

    def place_after_a_refusal(*wish):
        scheduler.attaches = not scheduler.of("placement_refused")
        place(*wish)

    scheduler.place = place_after_a_refusal
    reply = await empty_cluster.generate(max_tokens=10, idempotency_key="my key", resume_from_index=4)
    assert reply.deltas[0].token_index == 4
    assert reply.text == expected_text(10)[4:]
    [refused] = scheduler.of("placement_refused")
    assert refused.attempt == 0
    assert [r.mode for r in worker.received] == [worker_pb2.MODE_ATTACH, worker_pb2.MODE_AGGREGATED]
    assert scheduler.of("announcement")[0].is_resumed


async def test_where_nothing_runs_any_more_it_goes_on_after_the_tokens_that_the_client_brings(
    empty_cluster, worker, expected_text
):
    """Nothing is generated twice, so clients whose gateways die often get on."""
    empty_cluster.scheduler.attaches = False
    brought = expected_text(4).encode()
    fields = {"max_tokens": 10, "idempotency_key": "my key"}
    reply = await empty_cluster.generate(resume_from_index=4, prior_output_ids=brought, **fields)
    assert reply.deltas[0].token_index == 4
    assert reply.text == expected_text(10)[4:]
    assert reply.completion.usage.num_output_tokens == 10
    [announced] = empty_cluster.scheduler.of("announcement")
    assert (announced.num_prompt_tokens, announced.max_output_tokens) == (len("go") + 4, 6)
    [submitted] = worker.received
    assert bytes(submitted.prior_output_ids) == brought
    again = await empty_cluster.generate(
        resume_from_index=10, prior_output_ids=[*brought, *reply.token_ids], **fields
    )
    assert again.token_ids == [], "what is kept here is the same request, whatever is brought"


async def test_what_runs_already_is_attached_to_whatever_the_client_brings(
    empty_cluster, worker, expected_text
):
    reply = await empty_cluster.generate(
        max_tokens=10, idempotency_key="my key", resume_from_index=4, prior_output_ids=b"abcd"
    )
    assert reply.text == expected_text(10)[4:]
    [submitted] = worker.received
    assert submitted.mode == worker_pb2.MODE_ATTACH


async def test_a_stop_string_may_begin_in_what_the_client_brings(empty_cluster, worker):
    empty_cluster.scheduler.attaches = False
    reply = await empty_cluster.generate(
        max_tokens=10,
        idempotency_key="my key",
        resume_from_index=4,
        prior_output_ids=b"abcd",
        sampling={"stop": ["cdef"]},
    )
    assert reply.text == ""
    assert reply.completion.finish_reason == inference_pb2.FINISH_REASON_STOP


async def test_a_client_that_has_all_tokens_only_gets_the_end(empty_cluster, worker):
    empty_cluster.scheduler.attaches = False
    reply = await empty_cluster.generate(
        max_tokens=4, idempotency_key="my key", resume_from_index=4, prior_output_ids=b"abcd"
    )
    assert (reply.text, reply.completion.finish_reason) == ("", inference_pb2.FINISH_REASON_LENGTH)
    assert reply.completion.usage.num_output_tokens == 4
    assert not worker.received


async def test_a_stop_token_at_the_end_of_what_is_brought_is_for_the_worker_to_judge(empty_cluster, worker):
    empty_cluster.scheduler.attaches = False
    await empty_cluster.generate(
        max_tokens=10,
        idempotency_key="my key",
        resume_from_index=4,
        prior_output_ids=b"abcd",
        sampling={"stop_token_ids": b"d"},
    )
    [submitted] = worker.received
    assert bytes(submitted.prior_output_ids) == b"abc"


async def test_what_is_too_long_to_prefill_at_once_is_generated_again(empty_cluster):
    worker = await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(chunk_budget_tokens=4, chunked_prefill=False)
    for num_brought, num_prior in ((2, 2), (3, 0)):
        await empty_cluster.generate(
            max_tokens=10,
            idempotency_key=f"brings {num_brought}",
            resume_from_index=num_brought,
            prior_output_ids=b"abcdefg"[:num_brought],
        )
        assert len(worker.received[-1].prior_output_ids) == num_prior


async def test_who_comes_back_before_the_first_token_may_have_seen_more_at_another_gateway(
    empty_cluster, worker, expected_text, wait_until
):
    """Its index is beyond what is here yet, not beyond what it was told."""
    worker.is_running = False
    empty_cluster.scheduler.attaches = False
    fields = {"max_tokens": 10, "idempotency_key": "my key", "resume_from_index": 4}
    call = empty_cluster.call(**fields)
    await wait_until(lambda: worker.runs)
    again = empty_cluster.call(**fields)
    call.cancel()
    worker.is_running = True
    assert (await empty_cluster.read(again)).text == expected_text(10)[4:]


async def test_a_request_that_another_gateway_took_over_ends_here(empty_cluster, worker, wait_until):
    empty_cluster.scheduler.attaches = False
    worker.is_running = False
    call = empty_cluster.call(max_tokens=10, idempotency_key="my key")
    await wait_until(lambda: worker.runs)
    [(request_id, attempt)] = worker.runs
    [run] = worker.runs.values()
    completion = worker_pb2.Completion(
        request_id=request_id, attempt=attempt, reason=worker_pb2.COMPLETION_REASON_TAKEN_OVER
    )
    rejection = scheduling_pb2.Rejection(reason=scheduling_pb2.REJECT_REASON_TAKEN_OVER)
    empty_cluster.scheduler.reject = rejection
    run.stream.responses.put_nowait(worker_pb2.SubmitResponse(completions=[completion]))
    with pytest.raises(grpc.aio.AioRpcError, match="another gateway") as caught:
        await empty_cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert details_of(caught.value).reason == "TAKEN_OVER"
    first, again = empty_cluster.scheduler.of("announcement")
    assert (again.attempt, again.key_hash) == (0, first.key_hash)
    assert first.age_s == 0 < again.age_s
    empty_cluster.scheduler.reject = None
    worker.runs.clear()
    worker.is_running = True
    again = await empty_cluster.generate(max_tokens=10, idempotency_key="my key")
    assert again.request_id != request_id


async def test_a_call_that_an_older_one_took_over_goes_on_without_an_error(
    empty_cluster, worker, wait_until, expected_text
):
    """After a change of leader, which hears of both in any order. The client knows nothing of such things."""
    empty_cluster.scheduler.attaches = False
    worker.is_running = False
    call = empty_cluster.call(max_tokens=10, idempotency_key="my key")
    await wait_until(lambda: worker.runs)
    [((request_id, attempt), run)] = worker.runs.items()
    completion = worker_pb2.Completion(
        request_id=request_id, attempt=attempt, reason=worker_pb2.COMPLETION_REASON_TAKEN_OVER
    )
    delta = worker_pb2.TokenDelta(
        request_id=request_id, attempt=attempt, token_index=0, token_ids=expected_text(3).encode()
    )
    worker.runs.clear()
    worker.is_running = True
    run.stream.responses.put_nowait(worker_pb2.SubmitResponse(deltas=[delta], completions=[completion]))
    reply = await empty_cluster.read(call)
    assert reply.text == expected_text(10)
    assert bytes(worker.received[-1].prior_output_ids).decode() == expected_text(3)
    assert worker.received[-1].request_id != request_id


@pytest.mark.parametrize(
    ("reason", "status", "message"),
    [
        (
            scheduling_pb2.REJECT_REASON_KEY_REUSED,
            grpc.StatusCode.INVALID_ARGUMENT,
            "idempotency_key: was used",
        ),
        (scheduling_pb2.REJECT_REASON_TAKEN_OVER, grpc.StatusCode.ABORTED, "another gateway"),
    ],
)
async def test_what_the_scheduler_says_of_a_key_is_told(empty_cluster, worker, reason, status, message):
    empty_cluster.scheduler.reject = scheduling_pb2.Rejection(reason=reason)
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await empty_cluster.generate(idempotency_key="my key")
    assert caught.value.code() is status


async def test_a_gateway_that_stops_leaves_what_has_a_key_to_the_next(empty_cluster, worker, wait_until):
    empty_cluster.scheduler.attaches = False
    worker.is_running = False
    keyed = empty_cluster.call(max_tokens=10, idempotency_key="my key")
    await wait_until(lambda: len(worker.runs) == 1)
    other = empty_cluster.call(max_tokens=10)
    await wait_until(lambda: len(worker.runs) == 2)
    without = next(name for name, run in worker.runs.items() if not run.request.key_hash)
    empty_cluster.gateway.driver.end_all(GatewayError(ErrorKind.UNAVAILABLE, "this gateway stopped"))
    for call in (keyed, other):
        with pytest.raises(grpc.aio.AioRpcError, match="stopped"):
            await empty_cluster.read(call)
    await wait_until(lambda: worker.aborted)
    assert worker.aborted == [without]
    assert len(empty_cluster.scheduler.of("cancellation")) == 1


async def test_a_stop_string_that_began_at_the_other_gateway_is_found(empty_cluster, worker):
    """The client has four tokens and the text 'ab': the rest may begin the stop string."""
    reply = await empty_cluster.generate(
        max_tokens=10, idempotency_key="my key", resume_from_index=4, sampling={"stop": ["cde"]}
    )
    assert reply.text == ""
    assert reply.completion.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert reply.completion.usage.num_output_tokens == 5


async def test_a_character_that_began_at_the_other_gateway_comes_out_whole(empty_cluster, worker):
    text = "a\N{EURO SIGN}b"
    worker.output = text.encode()
    worker.attachable[KEY] = list(worker.output[:3])
    reply = await empty_cluster.generate(max_tokens=10, idempotency_key="my key", resume_from_index=3)
    assert reply.text == (2 * text)[1:]
    assert reply.deltas[0].token_index == 3

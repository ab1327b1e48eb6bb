"""Workers and schedulers that fail, clients that leave, and clients that come back."""

from __future__ import annotations

import asyncio
import math
import re

import grpc
import grpc.aio
import pytest

from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2
from hortator.runtime.rpc_errors import details_of


def slow(cluster, pass_s: float = 0.004) -> None:
    for worker in cluster.workers:
        worker.pass_s = pass_s


async def test_a_worker_that_dies_is_replaced_and_every_token_comes_once(cluster, expected_text):
    slow(cluster)
    calls = [cluster.call(max_tokens=60) for _ in range(10)]
    firsts = await asyncio.gather(*(cluster.read(call, num_tokens=5) for call in calls))
    await cluster.workers[0].kill()
    cluster.scheduler.workers.remove(cluster.workers[0])
    rests = await asyncio.gather(*(cluster.read(call) for call in calls))
    for first, rest in zip(firsts, rests, strict=True):
        assert first.text + rest.text == expected_text(60)
        assert rest.deltas[0].token_index == len(first.token_ids)
    assert sorted(rest.completion.timings.num_replacements for rest in rests) == [0] * 5 + [1] * 5
    resumed = [r for r in cluster.workers[1].received if r.attempt == 1]
    assert len(resumed) == 5
    for request in resumed:
        assert len(request.prior_output_ids) >= 5
        assert request.sampling.max_tokens == 60
    again = [a for a in cluster.scheduler.of("announcement") if a.attempt == 1]
    for announcement in again:
        assert announcement.num_prompt_tokens + announcement.max_output_tokens == 2 + 60
        assert announcement.num_prompt_tokens > 2


async def cut(cluster, call, *, num_tokens):
    """Read so many tokens, then the worker that runs the request dies; what came before and after."""
    first = await cluster.read(call, num_tokens=num_tokens)
    victim = next(worker for worker in cluster.workers if worker.runs)
    cluster.scheduler.workers.remove(victim)
    await victim.kill()
    for worker in cluster.workers:
        worker.is_running = True
    rest = await cluster.read(call)
    assert rest.completion.timings.num_replacements == 1
    return first, rest


async def passes(cluster, number):
    """So many forward passes of the worker that runs the request, and none more before it dies."""
    async with asyncio.timeout(10):
        while not any(worker.runs for worker in cluster.workers):
            await asyncio.sleep(0.005)
    for _ in range(number):
        for worker in cluster.workers:
            worker.step()


async def test_a_stop_string_is_found_across_the_cut(cluster):
    """Half of it came from the worker that died: 'g' is held back, and 'h' comes from the next."""
    for worker in cluster.workers:
        worker.is_running = False
    call = cluster.call(max_tokens=60, sampling={"stop": ["ghi"]})
    await passes(cluster, 7)
    first, rest = await cut(cluster, call, num_tokens=7)
    assert (first.text, rest.text) == ("abcdef", "")
    assert rest.completion.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert rest.completion.usage.num_output_tokens == 9


async def test_a_character_whose_bytes_are_cut_comes_out_whole(cluster):
    """Two of the three bytes of the euro sign came from the worker that died."""
    text = "a\N{EURO SIGN}b"
    for worker in cluster.workers:
        worker.output, worker.is_running = text.encode(), False
    call = cluster.call(max_tokens=10)
    await passes(cluster, 3)
    first, rest = await cut(cluster, call, num_tokens=3)
    assert first.text == "a"
    assert first.text + rest.text == 2 * text


async def test_sampling_and_usage_count_what_was_sent_before_the_cut(cluster):
    slow(cluster)
    call = cluster.call(max_tokens=40, sampling={"min_tokens": 30, "stop_token_ids": [1], "seed": 5})
    first, rest = await cut(cluster, call, num_tokens=5)
    [before] = [r for worker in cluster.workers for r in worker.received if r.attempt == 0]
    [after] = [r for worker in cluster.workers for r in worker.received if r.attempt == 1]
    assert after.sampling == before.sampling
    assert after.sampling.min_tokens == 30
    assert list(after.prompt_token_ids) == list(before.prompt_token_ids)
    usage = rest.completion.usage
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (2, 40)
    assert len(first.token_ids) + len(rest.token_ids) == 40


async def test_a_request_on_two_workers_that_died_is_quarantined(cluster):
    slow(cluster)
    call = cluster.call(max_tokens=500)
    await cluster.read(call, num_tokens=2)
    first = next(worker for worker in cluster.workers if worker.runs)
    second = next(worker for worker in cluster.workers if worker is not first)
    cluster.scheduler.workers.remove(first)
    await first.kill()
    await cluster.read(call, num_tokens=5)
    await second.kill()
    with pytest.raises(grpc.aio.AioRpcError, match="quarantined after 2 worker failures") as caught:
        await cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert details_of(caught.value).reason == "QUARANTINED"
    assert cluster.gateway.driver.num_in_flight == 0


async def test_a_worker_that_says_failed_counts_as_crashed(cluster):
    for worker in cluster.workers:
        worker.fail = True
    with pytest.raises(grpc.aio.AioRpcError, match=r"quarantined.*the engine broke"):
        await cluster.generate()


async def test_a_refused_placement_is_placed_again_under_the_same_attempt(cluster, expected_text):
    cluster.workers[0].refuse = worker_pb2.Completion(message="late for its batch")
    reply = await cluster.generate(max_tokens=5)
    assert reply.text == expected_text(5)
    [refused] = cluster.scheduler.of("placement_refused")
    assert (refused.attempt, refused.worker_id, refused.reason) == (0, "w0", "late for its batch")
    assert [r.attempt for r in cluster.workers[1].received] == [0]
    assert reply.completion.timings.num_replacements == 0


async def test_a_worker_that_cannot_be_reached_is_a_refusal_and_not_a_crash(cluster, expected_text):
    await cluster.workers[0].kill()
    replies = await asyncio.gather(*(cluster.generate(max_tokens=5) for _ in range(4)))
    assert {reply.text for reply in replies} == {expected_text(5)}
    assert {refused.worker_id for refused in cluster.scheduler.of("placement_refused")} == {"w0"}
    assert {reply.completion.timings.num_replacements for reply in replies} == {0}


async def test_another_boot_under_the_same_address_is_a_refusal(cluster):
    worker = cluster.workers[0]
    placed = cluster.scheduler.placement
    real_boot_id = worker.boot_id

    def stale(worker_, request_id, attempt):
        placement = placed(worker_, request_id, attempt)
        if worker_ is worker:
            placement.boot_id = "an-older-boot"
        return placement

    cluster.scheduler.placement = stale
    await cluster.generate()
    assert worker.boot_id == real_boot_id
    assert worker.received == []
    assert "an-older-boot is gone" in cluster.scheduler.of("placement_refused")[0].reason


async def test_a_worker_that_always_refuses_ends_as_unavailable(empty_cluster):
    worker = await empty_cluster.add_worker("w0")
    worker.refuse = worker_pb2.Completion(message="busy")
    await empty_cluster.start_gateway(max_refusals=3)
    with pytest.raises(
        grpc.aio.AioRpcError, match="refused 3 times in a row, the last time by w0: busy"
    ) as caught:
        await empty_cluster.generate()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(worker.received) == 3


async def test_a_refusal_that_names_a_field_is_the_clients_fault(cluster):
    for worker in cluster.workers:
        worker.refuse = worker_pb2.Completion(message="too long for 4 KV blocks", field="prompt")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.generate()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(caught.value).violations
    assert (violation.field, violation.description) == ("prompt", "too long for 4 KV blocks")


async def test_a_worker_that_skips_a_token_is_left_for_another(cluster, expected_text):
    cluster.workers[0].skip_one_token = True
    reply = await cluster.generate(max_tokens=10)
    assert reply.text == expected_text(10)
    assert reply.completion.timings.num_replacements == 1


async def test_a_lost_kv_lease_prefills_again_under_the_next_attempt(
    disaggregated, expected_text, wait_until
):
    prefill, decode = disaggregated.workers
    decode.lose_kv = True
    call = disaggregated.call(max_tokens=6)
    await wait_until(lambda: decode.received)
    decode.lose_kv = False
    reply = await disaggregated.read(call)
    assert reply.text == expected_text(6)
    lost = disaggregated.scheduler.of("kv_transfer_failed")
    assert len(lost) >= 1
    assert lost[0].attempt == 0
    assert list(prefill.received[1].prior_output_ids) == [97]
    assert prefill.received[1].attempt == 1
    assert reply.completion.timings.num_replacements == len(lost)


async def test_a_prefill_worker_that_dies_with_the_kv_prefills_elsewhere(
    disaggregated, expected_text, wait_until
):
    scheduler, (prefill, _) = disaggregated.scheduler, disaggregated.workers
    place = scheduler.place
    scheduler.place = lambda *wish: scheduler.held.append(wish) if wish[2] else place(*wish)
    call = disaggregated.call(max_tokens=6)
    await wait_until(lambda: scheduler.held)
    scheduler.held.clear()
    scheduler.place = place
    scheduler.workers.remove(prefill)
    await disaggregated.add_worker("prefill2", scheduling_pb2.PHASE_PREFILL)
    await prefill.kill()
    reply = await disaggregated.read(call)
    assert reply.text == expected_text(6)
    assert [lost.attempt for lost in scheduler.of("kv_transfer_failed")] == [0]
    assert disaggregated.workers[2].received[0].attempt == 1


async def test_a_batch_split_is_announced_again(cluster, expected_text, wait_until):
    scheduler = cluster.scheduler
    for worker in cluster.workers:
        worker.is_running = False
    call = cluster.call(max_tokens=5)
    await wait_until(lambda: any(worker.received for worker in cluster.workers))
    [first] = [r for worker in cluster.workers for r in worker.received]
    split = scheduling_pb2.RETRACT_REASON_BATCH_SPLIT
    scheduler.say(
        retractions=[scheduling_pb2.Retraction(request_id=first.request_id, attempt=0, reason=split)]
    )
    await wait_until(lambda: sum(len(worker.received) for worker in cluster.workers) == 2)
    assert [key for worker in cluster.workers for key in worker.aborted] == [(first.request_id, 0)]
    for worker in cluster.workers:
        worker.is_running = True
    assert (await cluster.read(call)).text == expected_text(5)


async def test_a_retraction_for_the_deadline_fails_the_request(cluster, wait_until):
    cluster.scheduler.is_placing = False
    call = cluster.call()
    await wait_until(lambda: cluster.scheduler.held)
    request_id = cluster.scheduler.held[0][0]
    deadline = scheduling_pb2.RETRACT_REASON_DEADLINE
    retraction = scheduling_pb2.Retraction(request_id=request_id, attempt=0, reason=deadline)
    cluster.scheduler.say(retractions=[retraction])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_client_that_leaves_frees_worker_and_scheduler(cluster, wait_until):
    slow(cluster)
    call = cluster.call(max_tokens=2000)
    reply = await cluster.read(call, num_tokens=3)
    call.cancel()
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 0)
    await wait_until(
        lambda: [k for worker in cluster.workers for k in worker.aborted] == [(reply.request_id, 0)]
    )
    await wait_until(lambda: cluster.scheduler.of("cancellation"))
    assert cluster.scheduler.of("cancellation")[0].request_id == reply.request_id
    assert cluster.gateway.driver.num_streaming == 0
    _, _, body = cluster.gateway.admin.answer("/metrics")
    assert 'hortator_gateway_requests_total{outcome="cancelled"} 1.0' in body.decode()


async def test_a_client_that_leaves_between_prefill_and_decode_frees_the_kv(disaggregated, wait_until):
    scheduler, (prefill, _) = disaggregated.scheduler, disaggregated.workers
    place = scheduler.place
    scheduler.place = lambda *wish: scheduler.held.append(wish) if wish[2] else place(*wish)
    call = disaggregated.call(max_tokens=6)
    await wait_until(lambda: scheduler.held)
    call.cancel()
    await wait_until(lambda: prefill.released)
    assert not prefill.leases
    await wait_until(lambda: scheduler.of("cancellation"))


async def test_a_placement_for_a_request_that_is_gone_is_cancelled(cluster, wait_until):
    cluster.scheduler.is_placing = False
    call = cluster.call()
    await wait_until(lambda: cluster.scheduler.held)
    call.cancel()
    await wait_until(lambda: cluster.scheduler.of("cancellation"))
    cluster.scheduler.place_held()
    await wait_until(lambda: len(cluster.scheduler.of("cancellation")) == 2)
    assert all(not worker.received for worker in cluster.workers)


async def test_a_deadline_frees_everything_and_is_told_to_the_scheduler(cluster, wait_until):
    slow(cluster, 0.02)
    call = cluster.call(max_tokens=2000, timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.read(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await wait_until(lambda: any(worker.aborted for worker in cluster.workers))
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 0)
    assert 0 < cluster.scheduler.of("announcement")[0].timeout_s <= 0.3
    _, _, body = cluster.gateway.admin.answer("/metrics")
    assert 'hortator_gateway_requests_total{outcome="deadline"} 1.0' in body.decode()


async def test_a_full_queue_says_when_to_come_back(cluster):
    cluster.scheduler.reject = scheduling_pb2.Rejection(
        reason=scheduling_pb2.REJECT_REASON_QUEUE_FULL_TOKENS,
        retry_after_s=2.5,
        message="9 wait; the limit is 9",
    )
    with pytest.raises(grpc.aio.AioRpcError, match="the limit is 9") as caught:
        await cluster.generate()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = details_of(caught.value)
    assert (details.retry_after_s, details.reason) == (2.5, "QUEUE_FULL")


@pytest.mark.parametrize("delay_s", [math.nan, math.inf, -math.inf, -3.0, 1e300, 1e12])
async def test_a_refusal_with_an_impossible_delay_says_one_that_can_be(cluster, expected_text, delay_s):
    cluster.scheduler.reject = scheduling_pb2.Rejection(
        reason=scheduling_pb2.REJECT_REASON_QUEUE_FULL_TOKENS, retry_after_s=delay_s, message="full"
    )
    with pytest.raises(grpc.aio.AioRpcError, match="full") as caught:
        await cluster.generate()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = details_of(caught.value).retry_after_s
    assert retry_after_s is not None
    assert 0 < retry_after_s <= 60
    cluster.scheduler.reject = None
    assert (await cluster.generate(max_tokens=5)).text == expected_text(5)


@pytest.mark.parametrize("delay_s", [math.nan, math.inf])
async def test_what_has_begun_is_carried_through_a_refusal_with_an_impossible_delay(
    cluster, expected_text, wait_until, delay_s
):
    slow(cluster)
    call = cluster.call(max_tokens=30)
    first = await cluster.read(call, num_tokens=3)
    cluster.scheduler.reject = scheduling_pb2.Rejection(
        reason=scheduling_pb2.REJECT_REASON_QUEUE_FULL_REQUESTS, retry_after_s=delay_s
    )
    dead = next(worker for worker in cluster.workers if worker.runs)
    cluster.scheduler.workers.remove(dead)
    await dead.kill()
    await wait_until(lambda: len(cluster.scheduler.of("announcement")) >= 3)
    cluster.scheduler.reject = None
    rest = await cluster.read(call)
    assert first.text + rest.text == expected_text(30)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (scheduling_pb2.REJECT_REASON_QUEUE_FULL_REQUESTS, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (scheduling_pb2.REJECT_REASON_PREDICTED_WAIT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (scheduling_pb2.REJECT_REASON_QUEUE_TIMEOUT, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (scheduling_pb2.REJECT_REASON_TENANT_QUOTA, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (scheduling_pb2.REJECT_REASON_DEADLINE, grpc.StatusCode.DEADLINE_EXCEEDED),
        (scheduling_pb2.REJECT_REASON_NO_WORKER, grpc.StatusCode.UNAVAILABLE),
        (scheduling_pb2.REJECT_REASON_PROMPT_TOO_LONG, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_each_rejection_has_its_status(cluster, reason, status):
    cluster.scheduler.reject = scheduling_pb2.Rejection(reason=reason)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cluster.generate()
    assert caught.value.code() is status
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert details_of(caught.value).retry_after_s is not None
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        assert [violation.field for violation in details_of(caught.value).violations] == ["prompt"]


async def test_a_newcomer_waits_while_the_only_scheduler_stops_and_starts_again(
    cluster, expected_text, wait_until
):
    cluster.scheduler.reject = scheduling_pb2.Rejection(reason=scheduling_pb2.REJECT_REASON_DRAINING)
    call = cluster.call(max_tokens=5)
    await wait_until(lambda: cluster.scheduler.of("announcement"))
    await cluster.scheduler.stop()
    await wait_until(lambda: not cluster.gateway.scheduler.is_connected)
    cluster.scheduler.reject = None
    cluster.scheduler.epoch = 2
    await cluster.scheduler.start()
    assert (await cluster.read(call)).text == expected_text(5)


async def test_a_request_that_has_begun_is_carried_through_a_full_queue(cluster, expected_text, wait_until):
    slow(cluster)
    call = cluster.call(max_tokens=30)
    first = await cluster.read(call, num_tokens=3)
    cluster.scheduler.reject = scheduling_pb2.Rejection(
        reason=scheduling_pb2.REJECT_REASON_QUEUE_FULL_REQUESTS
    )
    dead = next(worker for worker in cluster.workers if worker.runs)
    cluster.scheduler.workers.remove(dead)
    await dead.kill()
    await wait_until(lambda: len(cluster.scheduler.of("announcement")) >= 3)
    cluster.scheduler.reject = None
    rest = await cluster.read(call)
    assert first.text + rest.text == expected_text(30)


async def test_a_scheduler_that_restarts_hears_again_what_waits(cluster, expected_text, wait_until):
    cluster.scheduler.is_placing = False
    calls = [cluster.call(max_tokens=5) for _ in range(3)]
    await wait_until(lambda: len(cluster.scheduler.held) == 3)
    before = {a.request_id for a in cluster.scheduler.of("announcement")}
    await cluster.scheduler.stop()
    await wait_until(lambda: not cluster.gateway.scheduler.is_connected)
    cluster.scheduler.events.clear()
    cluster.scheduler.is_placing = True
    cluster.scheduler.epoch = 2
    await cluster.scheduler.start()
    replies = await asyncio.gather(*(cluster.read(call) for call in calls))
    assert {reply.text for reply in replies} == {expected_text(5)}
    assert cluster.scheduler.events[0].hello.gateway_id.startswith("gw-")
    again = cluster.scheduler.of("announcement")
    assert {a.request_id for a in again} == before
    assert [a.attempt for a in again] == [0, 0, 0]


async def test_streams_go_on_while_the_scheduler_is_gone(cluster, expected_text, wait_until):
    slow(cluster)
    call = cluster.call(max_tokens=40)
    first = await cluster.read(call, num_tokens=2)
    await cluster.scheduler.stop()
    rest = await cluster.read(call)
    assert first.text + rest.text == expected_text(40)
    cluster.scheduler.events.clear()
    await cluster.scheduler.start()
    await wait_until(lambda: cluster.scheduler.of("request_finished"))  # kept until somebody hears it


async def test_a_restarted_scheduler_hears_of_prefills_that_want_decode(
    disaggregated, expected_text, wait_until
):
    scheduler = disaggregated.scheduler
    place = scheduler.place
    scheduler.place = lambda *wish: scheduler.held.append(wish) if wish[2] else place(*wish)
    call = disaggregated.call(max_tokens=6)
    await wait_until(lambda: scheduler.held)
    await scheduler.stop()
    await wait_until(lambda: not disaggregated.gateway.scheduler.is_connected)
    scheduler.events.clear()
    scheduler.place = place
    await scheduler.start()
    assert (await disaggregated.read(call)).text == expected_text(6)
    assert [f.num_prompt_tokens for f in scheduler.of("prefill_finished")] == [3]
    assert not scheduler.of("announcement")


async def test_placements_of_an_older_epoch_are_ignored(cluster, wait_until):
    scheduler = cluster.scheduler
    scheduler.epoch = 7
    await cluster.generate(max_tokens=2)
    scheduler.is_placing = False
    call = cluster.call(max_tokens=2)
    await wait_until(lambda: scheduler.held)
    request_id = scheduler.held[0][0]
    received_before = sum(len(worker.received) for worker in cluster.workers)
    scheduler.say(epoch=6, placements=[scheduler.placement(cluster.workers[0], request_id, 0)])
    scheduler.place_held()
    await cluster.read(call)
    assert sum(len(worker.received) for worker in cluster.workers) == received_before + 1
    _, _, body = cluster.gateway.admin.answer("/metrics")
    assert "hortator_gateway_stale_placements_total 1.0" in body.decode()


async def test_without_a_scheduler_requests_wait_and_then_fail(empty_cluster):
    await empty_cluster.scheduler.stop()
    await empty_cluster.start_gateway(queue_timeout_s=0.3)
    with pytest.raises(grpc.aio.AioRpcError, match=r"no scheduler for 0\.3 s") as caught:
        await empty_cluster.generate()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_next_scheduler_is_tried_when_the_first_is_not_there(empty_cluster, expected_text):
    await empty_cluster.add_worker("w0")
    nobody = "127.0.0.1:1"
    await empty_cluster.start_gateway(scheduler_addresses=[nobody, empty_cluster.scheduler.address])
    assert (await empty_cluster.generate(max_tokens=3)).text == expected_text(3)


async def test_a_retry_with_the_same_key_reads_the_same_generation(cluster, expected_text):
    slow(cluster)
    first = cluster.call(max_tokens=30, idempotency_key="k")
    begun = await cluster.read(first, num_tokens=4)
    retry = cluster.call(max_tokens=30, idempotency_key="k", resume_from_index=4)
    resumed, rest = await asyncio.gather(cluster.read(retry), cluster.read(first))
    assert begun.text + rest.text == expected_text(30)
    assert resumed.deltas[0].token_index == 4
    assert resumed.text == expected_text(26, start=4)
    assert resumed.request_id == begun.request_id
    assert sum(len(worker.received) for worker in cluster.workers) == 1


async def test_a_retry_after_the_end_replays_what_was_generated(cluster, expected_text):
    await cluster.generate(max_tokens=12, idempotency_key="k", tenant="a")
    again = await cluster.generate(max_tokens=12, idempotency_key="k", tenant="a", resume_from_index=7)
    assert again.text == expected_text(5, start=7)
    assert again.completion.usage.num_output_tokens == 12
    assert sum(len(worker.received) for worker in cluster.workers) == 1
    await cluster.generate(max_tokens=12, idempotency_key="k", tenant="another")  # keys belong to tenants
    assert sum(len(worker.received) for worker in cluster.workers) == 2


async def test_a_client_that_was_cut_off_goes_on_where_it_was(cluster, expected_text, wait_until):
    slow(cluster)
    call = cluster.call(max_tokens=30, idempotency_key="k")
    begun = await cluster.read(call, num_tokens=4)
    call.cancel()
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 0)
    await wait_until(lambda: all(not worker.runs for worker in cluster.workers))  # nothing runs for nobody
    num_had = len(begun.token_ids)
    resumed = await cluster.generate(max_tokens=30, idempotency_key="k", resume_from_index=num_had)
    assert begun.text + resumed.text == expected_text(30)
    received = {r.request_id: r for worker in cluster.workers for r in worker.received}
    assert set(received) == {begun.request_id, resumed.request_id}, "one that was followed cannot lead again"
    assert len(received[resumed.request_id].prior_output_ids) >= num_had


async def test_a_client_that_was_cut_off_comes_back_with_more_than_it_had_here(
    cluster, expected_text, wait_until
):
    """It has been at another gateway since, which has died."""
    slow(cluster)
    call = cluster.call(max_tokens=30, idempotency_key="k")
    await cluster.read(call, num_tokens=4)
    call.cancel()
    await wait_until(lambda: cluster.gateway.driver.num_in_flight == 0)
    resumed = await cluster.generate(max_tokens=30, idempotency_key="k", resume_from_index=25)
    assert resumed.deltas[0].token_index == 25
    assert resumed.text == expected_text(30)[25:]


async def test_a_key_cannot_mean_two_things(cluster):
    await cluster.generate("one", idempotency_key="k")
    with pytest.raises(grpc.aio.AioRpcError, match="idempotency_key") as caught:
        await cluster.generate("two", idempotency_key="k")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_nobody_can_resume_beyond_what_there_is(cluster):
    await cluster.generate(max_tokens=5, idempotency_key="k")
    with pytest.raises(grpc.aio.AioRpcError, match=re.escape("beyond max_tokens 5")):
        await cluster.generate(max_tokens=5, idempotency_key="k", resume_from_index=6)
    await cluster.generate(max_tokens=500, sampling={"stop": ["e"]}, idempotency_key="s")
    with pytest.raises(grpc.aio.AioRpcError, match="6 is beyond the 5 output tokens") as caught:
        await cluster.generate(
            max_tokens=500, sampling={"stop": ["e"]}, idempotency_key="s", resume_from_index=6
        )
    assert [v.field for v in details_of(caught.value).violations] == ["resume_from_index"]


async def test_draining_refuses_newcomers_and_finishes_what_it_holds(cluster, expected_text):
    slow(cluster)
    call = cluster.call(max_tokens=40)
    begun = await cluster.read(call, num_tokens=2)
    drain = asyncio.create_task(cluster.gateway.drain())
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError, match="draining") as caught:
        await cluster.generate()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not drain.done()
    rest = await cluster.read(call)
    assert begun.text + rest.text == expected_text(40)
    async with asyncio.timeout(5):
        await drain


async def test_more_requests_than_the_limit_are_refused_at_arrival(empty_cluster, wait_until):
    await empty_cluster.start_gateway(max_requests=2)
    calls = [empty_cluster.call() for _ in range(2)]
    empty_cluster.scheduler.is_placing = False
    await wait_until(lambda: empty_cluster.gateway.driver.num_in_flight == 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await empty_cluster.generate()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(caught.value).retry_after_s == 1.0
    for call in calls:
        call.cancel()

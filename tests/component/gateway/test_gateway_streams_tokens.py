"""The whole path: client, gateway, scheduler, worker, tokens."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.worker.v1 import worker_pb2


async def test_a_prompt_comes_back_as_tokens_text_and_a_completion(cluster, expected_text):
    reply = await cluster.generate("hello", max_tokens=10, tenant="acme", priority=5)
    assert reply.text == expected_text(10)
    assert reply.token_ids == [ord(c) for c in expected_text(10)]
    assert reply.deltas[0].token_index == 0
    completion = reply.completion
    assert completion.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert (completion.usage.num_prompt_tokens, completion.usage.num_output_tokens) == (5, 10)
    timings = completion.timings
    assert 0 < timings.ttft_s <= timings.e2e_s
    assert timings.hold_s > 0
    assert timings.first_gap_s > 0
    assert timings.num_replacements == 0


async def test_tokens_that_come_with_the_end_travel_in_the_completion(cluster):
    reply = await cluster.generate("hello", max_tokens=2)
    first, last = reply.deltas
    assert (first.token_index, list(first.token_ids)) == (0, [ord("a")])
    assert reply.completion.delta == last
    assert (last.token_index, list(last.token_ids), last.text) == (1, [ord("b")], "b")


async def test_the_scheduler_hears_lengths_and_outcomes_but_never_the_prompt(cluster, wait_until):
    reply = await cluster.generate("0123456789", max_tokens=4, tenant="acme", priority=5)
    await wait_until(lambda: cluster.scheduler.of("request_finished"))
    assert cluster.scheduler.events[0].hello.gateway_id.startswith("gw-")
    [announcement] = cluster.scheduler.of("announcement")
    assert announcement.request_id == reply.request_id
    assert (announcement.attempt, announcement.num_prompt_tokens, announcement.max_output_tokens) == (
        0,
        10,
        4,
    )
    assert len(announcement.block_hashes) == 2  # 10 tokens are two full blocks of 4
    assert (announcement.priority, announcement.tenant, announcement.timeout_s) == (5, "acme", 0)
    [first] = cluster.scheduler.of("first_token")
    assert first.ttft_s > 0
    [finished] = cluster.scheduler.of("request_finished")
    assert finished.num_output_tokens == 4
    assert finished.e2e_s >= finished.ttft_s > 0
    assert finished.first_gap_s > 0
    assert b"0123456789" not in b"".join(event.SerializeToString() for event in cluster.scheduler.events)


async def test_the_worker_gets_prompt_placement_and_sampling(cluster):
    await cluster.generate(
        "abcd",
        max_tokens=3,
        sampling={"temperature": 0.5, "top_p": 0.75, "top_k": 7, "seed": 9, "min_tokens": 2},
    )
    [submitted] = [r for worker in cluster.workers for r in worker.received]
    assert list(submitted.prompt_token_ids) == [97, 98, 99, 100]
    assert (submitted.mode, submitted.epoch) == (worker_pb2.MODE_AGGREGATED, 1)
    assert (submitted.batch_id, submitted.batch_size, submitted.dispatch_seq) == ("batch-1", 1, 1)
    assert list(submitted.block_hashes) == list(cluster.scheduler.of("announcement")[0].block_hashes)
    sampling = submitted.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.top_k, sampling.seed) == (3, 2, 7, 9)
    assert (sampling.temperature, sampling.top_p) == (0.5, 0.75)


async def test_many_requests_share_one_stream_per_worker(cluster, expected_text):
    replies = await asyncio.gather(*(cluster.generate(f"prompt {i}", max_tokens=20) for i in range(60)))
    assert {reply.text for reply in replies} == {expected_text(20)}
    assert [worker.num_streams for worker in cluster.workers] == [1, 1]
    assert cluster.gateway.driver.num_in_flight == 0
    assert cluster.gateway.driver.num_streaming == 0


async def test_chat_and_token_prompts_are_understood(cluster):
    chat = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="user", content="hi")])
    sampling = inference_pb2.SamplingParameters(max_tokens=1)
    await cluster.read(cluster.stub.Generate(inference_pb2.GenerateRequest(chat=chat, sampling=sampling)))
    tokens = inference_pb2.TokenPrompt(token_ids=[5, 6, 7])
    await cluster.read(cluster.stub.Generate(inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling)))
    prompts = [list(r.prompt_token_ids) for worker in cluster.workers for r in worker.received]
    assert sorted(prompts, key=len) == [[5, 6, 7], list(b"user: hi\nassistant:")]


async def test_without_a_tokenizer_tokens_stream_without_text(empty_cluster):
    await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(tokenizer="", vocab_size=300)
    tokens = inference_pb2.TokenPrompt(token_ids=[5, 299])
    sampling = inference_pb2.SamplingParameters(max_tokens=4)
    call = empty_cluster.stub.Generate(inference_pb2.GenerateRequest(tokens=tokens, sampling=sampling))
    reply = await empty_cluster.read(call)
    assert reply.token_ids == [97, 98, 99, 100]
    assert reply.text == ""


async def test_text_ends_before_a_stop_string_and_the_worker_is_told(cluster, wait_until):
    reply = await cluster.generate(max_tokens=1000, sampling={"stop": ["fgh"]})
    assert reply.text == "abcde"
    assert reply.token_ids == [ord(c) for c in "abcdefgh"]
    assert reply.completion.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert reply.completion.usage.num_output_tokens == 8
    await wait_until(lambda: any(worker.aborted for worker in cluster.workers))
    await wait_until(lambda: cluster.scheduler.of("request_finished"))
    assert cluster.scheduler.of("request_finished")[0].num_output_tokens == 8
    assert not cluster.scheduler.of("cancellation")


async def test_a_stop_string_that_never_comes_holds_nothing_back_at_the_end(cluster):
    reply = await cluster.generate(max_tokens=5, sampling={"stop": ["defx"]})
    assert reply.text == "abcde"
    assert reply.completion.finish_reason == inference_pb2.FINISH_REASON_LENGTH


async def test_disaggregated_requests_prefill_here_and_decode_there(disaggregated, expected_text):
    reply = await disaggregated.generate("hello", max_tokens=6)
    assert reply.text == expected_text(6)
    prefill, decode = disaggregated.workers
    [prefilled], [decoded] = prefill.received, decode.received
    assert prefilled.mode == worker_pb2.MODE_PREFILL_ONLY
    assert decoded.mode == worker_pb2.MODE_DECODE_ONLY
    assert list(decoded.prior_output_ids) == [97]
    assert decoded.attempt == prefilled.attempt == 0
    assert decoded.kv_source.lease_id in prefill.leases
    assert (decoded.kv_source.worker_address, decoded.kv_source.boot_id) == (prefill.address, prefill.boot_id)
    [finished] = disaggregated.scheduler.of("prefill_finished")
    assert (finished.num_prompt_tokens, finished.max_output_tokens) == (6, 5)


async def test_a_single_token_needs_no_decode_phase(disaggregated):
    reply = await disaggregated.generate(max_tokens=1)
    assert reply.text == "a"
    assert disaggregated.workers[1].received == []
    assert not disaggregated.scheduler.of("prefill_finished")


async def test_a_first_token_that_ends_the_request_needs_no_decode_phase(disaggregated):
    disaggregated.workers[0].first_token_ends = True
    reply = await disaggregated.generate(max_tokens=50)
    assert reply.text == "a"
    assert reply.completion.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert disaggregated.workers[1].received == []


async def test_tokens_share_messages_when_there_are_many_streams(empty_cluster, expected_text):
    await empty_cluster.add_worker("w0")
    await empty_cluster.start_gateway(target_messages_per_s=20, max_coalescing_window_s=0.05)
    replies = await asyncio.gather(*(empty_cluster.generate(max_tokens=100) for _ in range(5)))
    for reply in replies:
        assert reply.text == expected_text(100)
        assert len(reply.deltas[0].token_ids) == 1  # the first token never waits
        assert len(reply.deltas) < 50


async def test_latency_critical_requests_bypass_coalescing(empty_cluster):
    worker = await empty_cluster.add_worker("w0")
    worker.pass_s = 0.004
    await empty_cluster.start_gateway(target_messages_per_s=1, max_coalescing_window_s=0.05)
    critical = inference_pb2.LATENCY_CLASS_CRITICAL
    reply = await empty_cluster.generate(max_tokens=20, latency_class=critical)
    assert len(reply.deltas) >= 15
    assert empty_cluster.scheduler.of("announcement")[0].latency_critical


async def test_list_models_tells_name_and_limits(cluster):
    response = await cluster.stub.ListModels(inference_pb2.ListModelsRequest())
    [model] = response.models
    assert (model.name, model.max_sequence_tokens, model.vocab_size) == ("tiny", 4096, 256)


async def test_metrics_count_what_happened(cluster):
    await cluster.generate(max_tokens=6)
    with pytest.raises(grpc.aio.AioRpcError):
        await cluster.generate(model="other")
    _, _, body = cluster.gateway.admin.answer("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    assert lines['hortator_gateway_requests_total{outcome="length"}'] == "1.0"
    assert lines['hortator_gateway_requests_total{outcome="unknown_model"}'] == "1.0"
    assert lines["hortator_gateway_output_tokens_total"] == "6.0"
    assert lines["hortator_gateway_prompt_tokens_total"] == "2.0"
    for name, number in [("ttft", 1), ("e2e", 1), ("tpot", 1), ("first_gap", 1), ("hold", 1), ("itl", 5)]:
        assert lines[f"hortator_gateway_{name}_seconds_count"] == f"{number}.0", name
    assert lines["hortator_gateway_in_flight"] == "0.0"
    assert lines["hortator_gateway_worker_streams"] == "1.0"
    assert lines["hortator_gateway_scheduler_connected"] == "1.0"

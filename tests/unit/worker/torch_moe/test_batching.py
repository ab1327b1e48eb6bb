"""Continuous batching on one DP rank, without a rank: the test answers the passes."""

import random
from itertools import count

import pytest

from hortator.worker.engine import EngineRequest, Finished, FinishReason, RequestMode, Sampling, TokenChunk
from hortator.worker.engines.torch_moe.batching import RankBatcher
from hortator.worker.engines.torch_moe.plan import PassResult
from hortator.worker.engines.torch_moe.sequence import Sequence

EOS, TOKEN = 0, 7
_ids = count()


def a_batcher(**changes):
    sizes = {"chunk_budget_tokens": 8, "max_batch_size": 4, "kv_blocks": 64, "tokens_per_block": 4}
    return RankBatcher(dp_rank=0, prefix_cache=True, **(sizes | changes))


def a_sequence(
    prompt=4, outputs=4, prior=0, mode=RequestMode.AGGREGATED, hashes=(), handed_over=0, **sampling
):
    request = EngineRequest(
        request_id=f"r{next(_ids)}",
        dp_rank=0,
        mode=mode,
        prompt_token_ids=[1] * prompt,
        prior_output_ids=[2] * prior,
        sampling=Sampling(max_tokens=outputs, **sampling),
        block_hashes=hashes,
    )
    sequence = Sequence.of(request, eos_token_id=EOS, max_sequence_tokens=64)
    if handed_over:
        sequence.num_handed_over = sequence.num_computed = handed_over
        sequence.kv_data = b"kv"
    return sequence


def run_pass(batcher, pass_id=1, token=TOKEN):
    """Plan a pass and answer `token` wherever one is to be sampled."""
    plan = batcher.plan(pass_id)
    tokens = tuple(None if step.sample is None else token for step in plan.steps)
    return plan, batcher.complete(PassResult(token_ids=tokens))


def lengths(plan):
    return [len(step.token_ids) for step in plan.steps]


def test_a_long_prompt_is_cut_into_chunks_of_the_budget():
    """20 tokens at a budget of 8 are 8 + 8 + 4; the first token comes with the last chunk."""
    batcher = a_batcher()
    batcher.add(a_sequence(prompt=20))
    chunks = [run_pass(batcher) for _ in range(3)]
    assert [lengths(plan) for plan, _ in chunks] == [[8], [8], [4]]
    assert [len(outputs) for _, outputs in chunks] == [0, 0, 1]


def test_the_budget_is_shared_oldest_first_and_decoding_costs_none_of_it():
    batcher = a_batcher()
    for prompt in (4, 6, 9):
        batcher.add(a_sequence(prompt=prompt))
    plan, _ = run_pass(batcher)
    assert lengths(plan) == [4, 4]  # 8 tokens; the third request has to wait
    assert batcher.load().num_waiting == 1
    plan, _ = run_pass(batcher)
    assert lengths(plan) == [1, 2, 6]  # one decodes, 2 + 6 prefill
    assert batcher.load(with_pass=True).pass_prefill_tokens == 8
    assert batcher.load(with_pass=True).pass_decode_tokens == 1


def test_nobody_overtakes_the_head_of_the_queue_when_blocks_are_short():
    """6 blocks of 4. The first request needs 4, the second 4 (waits), the third 1 (would fit, but waits too)."""
    batcher = a_batcher(kv_blocks=6)
    first, second, third = a_sequence(prompt=13), a_sequence(prompt=13), a_sequence(prompt=1, outputs=2)
    for sequence in (first, second, third):
        batcher.add(sequence)
    run_pass(batcher)
    run_pass(batcher)
    assert batcher.live() == [first, second, third]
    assert (batcher.load().batch_size, batcher.load().num_waiting) == (1, 2)


def test_a_running_request_holds_all_the_blocks_it_will_ever_need():
    """Prompt 5 and 4 output tokens: KV of at most 8 tokens (the last one needs none), 2 blocks of 4."""
    batcher = a_batcher()
    batcher.add(a_sequence(prompt=5, outputs=4))
    run_pass(batcher)
    assert batcher.load().kv_blocks_used == 2


def test_a_request_ends_at_max_tokens_and_gives_its_blocks_back():
    batcher = a_batcher()
    batcher.add(a_sequence(outputs=2))
    run_pass(batcher)
    _, outputs = run_pass(batcher)
    assert isinstance(outputs[-1], Finished)
    assert outputs[-1].reason is FinishReason.LENGTH
    assert outputs[-1].num_output_tokens == 2
    assert batcher.load().kv_blocks_used == 0


def test_the_sequence_limit_ends_a_request_with_length():
    batcher = a_batcher(chunk_budget_tokens=64)
    batcher.add(a_sequence(prompt=62, outputs=10))
    ends = [run_pass(batcher)[1] for _ in range(2)]
    assert ends[-1][-1].reason is FinishReason.LENGTH
    assert ends[-1][-1].num_output_tokens == 2


@pytest.mark.parametrize(
    ("sampling", "token", "reason"),
    [
        pytest.param({}, EOS, FinishReason.STOP, id="end of sequence stops"),
        pytest.param({"ignore_eos": True}, EOS, None, id="unless it is ignored"),
        pytest.param({"stop_token_ids": (9,)}, 9, FinishReason.STOP, id="stop tokens stop"),
        pytest.param({"stop_token_ids": (9,), "ignore_eos": True}, 9, FinishReason.STOP, id="always"),
        pytest.param({}, TOKEN, None, id="others do not"),
    ],
)
def test_what_stops_a_request(sampling, token, reason):
    batcher = a_batcher()
    batcher.add(a_sequence(**sampling))
    _, outputs = run_pass(batcher, token=token)
    assert outputs[0].token_ids == (token,)
    assert [o.reason for o in outputs if isinstance(o, Finished)] == ([reason] if reason else [])


def test_end_tokens_are_banned_until_min_tokens_are_there():
    batcher = a_batcher()
    batcher.add(a_sequence(min_tokens=1, stop_token_ids=(9,)))
    first, _ = run_pass(batcher)
    second, _ = run_pass(batcher)
    assert first.steps[0].sample.banned_token_ids == (9, EOS)
    assert second.steps[0].sample.banned_token_ids == ()


def test_a_resumed_request_prefills_prior_output_and_continues_its_numbering():
    batcher = a_batcher()
    batcher.add(a_sequence(prompt=4, prior=2, outputs=4))
    plan, outputs = run_pass(batcher)
    assert lengths(plan) == [6]
    assert plan.steps[0].sample.position == 6
    assert outputs == [
        TokenChunk(request_id=outputs[0].request_id, attempt=0, token_index=2, token_ids=(TOKEN,))
    ]


def test_a_prefilled_request_keeps_its_blocks_until_the_lease_is_released():
    batcher = a_batcher()
    sequence = a_sequence(prompt=6, mode=RequestMode.PREFILL_ONLY)
    batcher.add(sequence)
    _, outputs = run_pass(batcher)
    assert [type(o) for o in outputs] == [TokenChunk, Finished]
    assert outputs[-1].reason is FinishReason.PREFILLED
    assert batcher.load().kv_blocks_used == 2  # 6 tokens, no room for output
    assert batcher.load().batch_size == 0
    batcher.release_lease(sequence.request.request_id)
    batcher.release_lease("unknown")
    assert batcher.load().kv_blocks_used == 0


def test_a_request_that_is_complete_after_its_first_token_leaves_no_lease():
    batcher = a_batcher()
    batcher.add(a_sequence(mode=RequestMode.PREFILL_ONLY, outputs=1))
    _, outputs = run_pass(batcher)
    assert outputs[-1].reason is FinishReason.LENGTH
    assert batcher.leases == {}
    assert batcher.load().kv_blocks_used == 0


def test_handed_over_kv_is_imported_once_and_decoding_starts_at_once():
    batcher = a_batcher()
    batcher.add(a_sequence(prompt=6, prior=1, mode=RequestMode.DECODE_ONLY, handed_over=6))
    plan, outputs = run_pass(batcher)
    assert lengths(plan) == [1]
    assert plan.steps[0].start == 6
    assert (plan.imports[0].num_tokens, len(plan.imports[0].block_ids)) == (6, 2)
    assert batcher.load(with_pass=True).pass_prefill_tokens == 0
    assert outputs[0].token_index == 1
    plan, _ = run_pass(batcher)
    assert plan.imports == ()


def test_a_handed_over_request_with_more_known_tokens_prefills_the_rest():
    """KV of 6 of 6 + 4 tokens: 3 are prefill, the newest one decodes after them."""
    batcher = a_batcher()
    batcher.add(a_sequence(prompt=6, prior=4, outputs=8, mode=RequestMode.DECODE_ONLY, handed_over=6))
    assert batcher.load().prefill_load_tokens == 4
    plan, outputs = run_pass(batcher)
    assert lengths(plan) == [4]
    assert outputs[0].token_index == 4


def test_a_second_request_reuses_the_prefix_the_first_one_computed():
    batcher = a_batcher(chunk_budget_tokens=32)
    hashes = (101, 102)
    batcher.add(a_sequence(prompt=10, hashes=hashes, outputs=1))
    run_pass(batcher)
    assert batcher.load(with_changes=True).stored_blocks == hashes
    batcher.add(a_sequence(prompt=10, hashes=hashes, outputs=1))
    assert batcher.load().prefill_load_tokens == 2
    plan, outputs = run_pass(batcher)
    assert (plan.steps[0].start, lengths(plan)) == (8, [2])
    assert outputs[-1].num_cached_prompt_tokens == 8


def test_the_last_prompt_token_is_computed_even_when_all_blocks_are_cached():
    """8 tokens are 2 full blocks; the second is recomputed, because its last token's logits are needed."""
    batcher = a_batcher()
    for _ in range(2):
        batcher.add(a_sequence(prompt=8, hashes=(101, 102), outputs=1))
        plan, outputs = run_pass(batcher)
    assert lengths(plan) == [4]
    assert outputs[-1].num_cached_prompt_tokens == 4


def test_requests_of_one_pass_do_not_reuse_blocks_that_are_not_computed_yet():
    batcher = a_batcher(chunk_budget_tokens=32)
    for _ in range(2):
        batcher.add(a_sequence(prompt=10, hashes=(101, 102)))
    plan, _ = run_pass(batcher)
    assert lengths(plan) == [10, 10]
    assert set(plan.steps[0].block_ids).isdisjoint(plan.steps[1].block_ids)


def test_an_abort_in_mid_pass_frees_blocks_and_drops_what_the_pass_computes():
    batcher = a_batcher()
    doomed, other = a_sequence(), a_sequence()
    batcher.add(doomed)
    batcher.add(other)
    plan = batcher.plan(1)
    used = batcher.load().kv_blocks_used
    assert batcher.abort(doomed).reason is FinishReason.ABORTED
    assert batcher.load().kv_blocks_used == used // 2
    outputs = batcher.complete(PassResult(token_ids=(TOKEN,) * len(plan.steps)))
    assert {o.request_id for o in outputs} == {other.request.request_id}


def test_a_waiting_request_can_be_aborted():
    batcher = a_batcher(max_batch_size=1)
    first, second = a_sequence(), a_sequence()
    batcher.add(first)
    batcher.add(second)
    run_pass(batcher)
    assert batcher.abort(second).reason is FinishReason.ABORTED
    assert batcher.live() == [first]


@pytest.mark.parametrize("seed", range(20))
def test_random_traffic_keeps_every_limit_and_ends_every_request_once(seed):
    rng = random.Random(seed)
    batcher = a_batcher(kv_blocks=24)
    finished, submitted, running = [], [], {}
    for pass_id in range(400):
        if pass_id < 60 and rng.random() < 0.7:
            prompt = rng.randint(1, 40)
            hashes = tuple(1000 * rng.randint(0, 2) + i for i in range(prompt // 4))
            mode = rng.choice([RequestMode.AGGREGATED, RequestMode.PREFILL_ONLY])
            sequence = a_sequence(prompt=prompt, outputs=rng.randint(1, 20), hashes=hashes, mode=mode)
            submitted.append(sequence.request.request_id)
            running[sequence.request.request_id] = sequence
            batcher.add(sequence)
        plan = batcher.plan(pass_id)
        assert batcher.load(with_pass=True).pass_prefill_tokens <= 8
        assert len(plan.steps) <= 4
        written = [
            step.block_ids[position // 4]
            for step in plan.steps
            for position in {p - p % 4 for p in range(step.start, step.start + len(step.token_ids))}
        ]
        assert len(written) == len(set(written))  # no two sequences write the same block
        outputs = []
        if running and rng.random() < 0.1:
            victim = running.pop(rng.choice(sorted(running)))
            outputs.append(batcher.abort(victim))
        tokens = tuple(None if step.sample is None else rng.randint(0, 9) for step in plan.steps)
        outputs += batcher.complete(PassResult(token_ids=tokens))
        for output in outputs:
            if isinstance(output, Finished):
                finished.append(output.request_id)
                running.pop(output.request_id, None)
                if output.reason is FinishReason.PREFILLED and rng.random() < 0.8:
                    batcher.release_lease(output.request_id)
        if len(batcher.leases) > 1:
            batcher.release_lease(next(iter(batcher.leases)))
    assert sorted(finished) == sorted(submitted)
    for request_id in list(batcher.leases):
        batcher.release_lease(request_id)
    load = batcher.load()
    assert (load.kv_blocks_used, load.batch_size, load.num_waiting, load.prefill_load_tokens) == (0, 0, 0, 0)

"""The EP group model: what joins a pass, how long it takes, what comes out, who holds KV."""

import itertools
import random

import pytest

from hortator.worker.engine import FinishReason, RequestMode, RequestRefusedError
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig, GroupModel, GroupRequest

_ids = itertools.count()


@pytest.fixture
def a_group():
    """Builds groups and checks their books at teardown."""
    models = []

    def build(**overrides):
        options = {"dp_size": 4, "chunk_budget_tokens": 1024, "kv_blocks_total": 1000, "tokens_per_block": 16}
        config = GroupConfig(**{**options, **overrides})
        models.append(GroupModel(config, PassCost(dp_size=config.dp_size)))
        return models[-1]

    yield build
    for model in models:
        model.check_invariants()


def a_request(prompt=100, *, rank=0, output=None, mode=RequestMode.AGGREGATED, request_id=None, **options):
    if output is None:  # one token, or one here and one elsewhere
        output = 2 if mode is RequestMode.PREFILL_ONLY else 1
    return GroupRequest(request_id or f"r{next(_ids)}", rank, mode, prompt, output, **options)


def run_pass(model, now=0.0):
    duration_s = model.start_pass(now)
    assert duration_s is not None
    return model.end_pass()


def run_until_idle(model, now=0.0):
    outcomes = []
    while (duration_s := model.start_pass(now)) is not None:
        now += duration_s
        outcomes.append(model.end_pass())
    return outcomes


def ids(requests):
    return [request.request_id for request in requests]


# The barrier


def test_a_pass_lasts_as_long_as_its_fullest_rank(a_group):
    lone, with_company = a_group(), a_group()
    lone.submit([a_request(1000, rank=0)], 0.0)
    with_company.submit([a_request(1000, rank=0), *(a_request(900, rank=r) for r in (1, 2, 3))], 0.0)
    fuller = a_group()
    fuller.submit([a_request(1000, rank=0), *(a_request(1000, rank=r) for r in (1, 2, 3))], 0.0)
    expected = PassCost(dp_size=4)
    assert lone.start_pass(0.0) == expected.prefill_s([1000], [500_000.0])
    assert with_company.start_pass(0.0) == expected.prefill_s(
        [1000, 900, 900, 900], [500_000.0] + [405_000.0] * 3
    )
    assert fuller.start_pass(0.0) == pytest.approx(with_company.predicted_s, rel=0.08)


def test_an_idle_group_starts_no_pass(a_group):
    model = a_group()
    assert model.start_pass(0.0) is None
    assert model.forward_pass_id == 0


def test_pass_ids_count_from_one(a_group):
    model = a_group()
    model.submit([a_request(3000)], 0.0)
    assert [outcome.forward_pass_id for outcome in run_until_idle(model)] == [1, 2, 3]


# Prefill: FCFS, chunks, budget


def test_requests_of_a_rank_are_served_first_come_first_served(a_group):
    model = a_group(chunked_prefill=False)
    first, second, third = a_request(600), a_request(600), a_request(200)
    model.submit([first, second], 0.0)
    model.submit([third], 0.0)
    # 600 + 600 > 1024: the second does not fit, and the third, which would, does not overtake it
    assert ids(run_pass(model).first_tokens) == ids([first])
    assert ids(run_pass(model).first_tokens) == ids([second, third])


def test_ranks_do_not_hold_each_other_back(a_group):
    model = a_group(chunked_prefill=False)
    blocked = [a_request(600, rank=0), a_request(600, rank=0)]
    free = a_request(600, rank=1)
    model.submit([*blocked, free], 0.0)
    assert ids(run_pass(model).first_tokens) == ids([blocked[0], free])


def test_a_long_prompt_is_cut_at_the_chunk_budget_and_goes_on_first(a_group):
    model = a_group()
    long, short = a_request(2500), a_request(300)
    model.submit([long, short], 0.0)
    tokens, firsts = [], []
    for _ in range(3):
        outcome = run_pass(model)
        tokens.append(model.ranks[0].pass_prefill_tokens)
        firsts.append(ids(outcome.first_tokens))
    assert tokens == [1024, 1024, 452 + 300]
    assert firsts == [[], [], ids([long, short])]


def test_a_chunk_pays_for_the_attention_to_its_prefix(a_group):
    model = a_group()
    model.submit([a_request(2048)], 0.0)
    first_s = model.start_pass(0.0)
    model.end_pass()
    second_s = model.start_pass(first_s)
    cost = PassCost(dp_size=4)
    assert first_s == cost.prefill_s([1024], [1024 * 512.0])
    assert second_s == cost.prefill_s([1024], [1024 * (1024 + 512.0)])
    assert second_s > first_s


def test_an_indivisible_prompt_over_the_budget_is_refused(a_group):
    model = a_group(chunked_prefill=False)
    with pytest.raises(RequestRefusedError, match="chunk budget of 1024") as refusal:
        model.submit([a_request(10), a_request(1025, request_id="big")], 0.0)
    assert (refusal.value.request_id, refusal.value.field) == ("big", "prompt")
    assert model.num_live == 0
    assert model.start_pass(0.0) is None


def test_at_most_max_batch_size_requests_run_on_a_rank(a_group):
    model = a_group(max_batch_size=2)
    requests = [a_request(10, output=3) for _ in range(3)]
    model.submit(requests, 0.0)
    assert ids(run_pass(model).first_tokens) == ids(requests[:2])
    assert (model.ranks[0].batch_size, model.ranks[0].num_waiting) == (2, 1)
    run_pass(model)
    assert ids(run_pass(model).finished) == ids(requests[:2])
    assert ids(run_pass(model).first_tokens) == ids(requests[2:])


# When a submitted request joins


def test_what_is_submitted_during_a_pass_joins_the_next_one(a_group):
    model = a_group()
    model.submit([a_request(10)], 0.0)
    model.start_pass(0.0)
    late = a_request(10, rank=1)
    model.submit([late], 0.01)
    assert late not in model.end_pass().first_tokens
    assert ids(run_pass(model).first_tokens) == ids([late])


def test_with_an_overlap_scheduler_it_joins_the_one_after_the_next(a_group):
    model = a_group(admission_lead_passes=1)
    model.submit([a_request(3000)], 0.0)  # keeps the group busy for three passes
    model.start_pass(0.0)
    late = a_request(10, rank=1)
    model.submit([late], 0.01)
    firsts = [ids(model.end_pass().first_tokens)]
    firsts += [ids(run_pass(model).first_tokens) for _ in range(2)]
    assert firsts[0] == firsts[1] == []
    assert late.request_id in firsts[2]


def test_an_idle_group_with_an_overlap_scheduler_takes_work_at_once(a_group):
    model = a_group(admission_lead_passes=1)
    request = a_request(10)
    model.submit([request], 0.0)
    assert ids(run_pass(model).first_tokens) == ids([request])


# Decode


def test_every_running_decode_gets_one_token_in_every_pass(a_group):
    model = a_group()
    short, long = a_request(10, output=3), a_request(20, rank=1, output=5)
    model.submit([short, long], 0.0)
    tokens = {short.request_id: [], long.request_id: []}
    ends = {}
    while model.start_pass(0.0) is not None:
        for request_id, request in model.decoding.items():
            tokens[request_id].append(request.output_index(model.forward_pass_id))
        outcome = model.end_pass()
        for request in outcome.first_tokens:
            tokens[request.request_id].append(request.num_prior_tokens)
        ends |= {request.request_id: outcome.forward_pass_id for request in outcome.finished}
    assert tokens == {short.request_id: [0, 1, 2], long.request_id: [0, 1, 2, 3, 4]}
    assert ends == {short.request_id: 3, long.request_id: 5}
    assert short.finish_reason is FinishReason.LENGTH


def test_a_resumed_request_goes_on_after_its_prior_tokens(a_group):
    model = a_group()
    request = a_request(100 + 3, output=5, num_prior_tokens=3)
    model.submit([request], 0.0)
    assert run_pass(model).first_tokens == [request]  # output token 3
    model.start_pass(0.0)
    assert request.output_index(model.forward_pass_id) == 4
    assert model.end_pass().finished == [request]


def test_decode_passes_are_priced_by_batch_and_growing_kv(a_group):
    model = a_group()
    model.submit([a_request(100, output=4), a_request(200, output=3), a_request(50, rank=1, output=4)], 0.0)
    run_pass(model)
    cost = PassCost(dp_size=4)
    assert model.start_pass(0.0) == cost.decode_s([2, 1], [101 + 201, 51])
    model.end_pass()
    assert model.start_pass(0.0) == cost.decode_s([2, 1], [102 + 202, 52])
    model.end_pass()  # the second one has its three tokens
    assert model.start_pass(0.0) == cost.decode_s([1, 1], [103, 53])
    model.end_pass()
    assert model.start_pass(0.0) is None


def test_decodes_take_their_share_of_the_chunk_budget(a_group):
    model = a_group(chunk_budget_tokens=100)
    model.submit([a_request(4, output=50) for _ in range(20)], 0.0)
    run_pass(model)
    model.submit([a_request(300)], 0.0)
    run_pass(model)
    assert model.ranks[0].pass_prefill_tokens == 80
    assert model.loads(of_pass=True)[0].pass_decode_tokens == 20


def test_a_prompt_on_one_rank_makes_the_pass_of_all_decodes_longer(a_group):
    model = a_group()
    model.submit([a_request(10, rank=rank, output=9) for rank in range(4)], 0.0)
    run_pass(model)
    decode_s = model.start_pass(0.0)
    model.end_pass()
    model.submit([a_request(1000)], 0.0)
    assert model.start_pass(0.0) > 1.5 * decode_s
    assert model.end_pass().first_tokens


# KV blocks


def test_a_request_waits_until_all_the_blocks_it_can_need_are_free(a_group):
    model = a_group(kv_blocks_total=10)  # 160 tokens
    first, second = a_request(70, output=10), a_request(70, output=20)  # 5 and 6 blocks
    model.submit([first, second], 0.0)
    assert run_pass(model).first_tokens == [first]
    assert (model.ranks[0].kv.used, model.ranks[0].num_waiting) == (5, 1)
    while first.finish_reason is None:
        assert second not in run_pass(model).first_tokens
    assert run_pass(model).first_tokens == [second]


def test_a_request_that_can_never_fit_is_refused(a_group):
    model = a_group(kv_blocks_total=10)
    with pytest.raises(RequestRefusedError) as refusal:
        model.submit([a_request(161)], 0.0)
    assert refusal.value.field == "prompt"
    with pytest.raises(RequestRefusedError) as refusal:
        model.submit([a_request(100, output=100)], 0.0)
    assert refusal.value.field == "max_tokens"


@pytest.mark.parametrize(
    "bad", [{"rank": 4}, {"rank": -1}, {"prompt": 0}, {"request_id": "live"}, {"output": 0}]
)
def test_a_batch_with_one_bad_request_is_refused_as_a_whole(a_group, bad):
    model = a_group()
    live = a_request(10, request_id="live", output=2)
    model.submit([live], 0.0)
    with pytest.raises(RequestRefusedError):
        model.submit([a_request(10), a_request(**bad)], 0.0)
    assert model.live_requests() == (live,)


def test_prefilled_kv_is_held_until_it_is_released(a_group):
    model = a_group(kv_blocks_total=10)
    first = a_request(100, mode=RequestMode.PREFILL_ONLY)  # 7 blocks
    second = a_request(100, mode=RequestMode.PREFILL_ONLY)
    model.submit([first, second], 0.0)
    outcome = run_pass(model)
    assert (outcome.first_tokens, outcome.finished) == ([first], [first])
    assert first.finish_reason is FinishReason.PREFILLED
    assert model.ranks[0].batch_size == 0
    assert model.ranks[0].kv.used == 7
    assert model.start_pass(0.0) is None  # held back by the lease
    assert model.release(first.request_id)
    assert not model.release(first.request_id)
    assert run_pass(model).finished == [second]


def test_a_prefilled_request_that_needs_one_token_ends_without_a_lease(a_group):
    model = a_group()
    request = a_request(100, output=1, mode=RequestMode.PREFILL_ONLY)
    model.submit([request], 0.0)
    assert run_pass(model).finished == [request]
    assert request.finish_reason is FinishReason.LENGTH
    assert model.ranks[0].kv.used == 0


def test_a_new_attempt_supersedes_the_lease_of_an_old_one(a_group):
    model = a_group()
    for _ in range(2):
        model.submit([a_request(100, request_id="again", mode=RequestMode.PREFILL_ONLY)], 0.0)
        run_pass(model)
    assert model.ranks[0].kv.used == 7


# Prefix cache


def prompt_of(*blocks, tokens=None, **options):
    return a_request(tokens or 16 * len(blocks), block_hashes=list(blocks), **options)


def test_a_cached_prefix_is_not_computed_again(a_group):
    model = a_group()
    model.submit([prompt_of(1, 2, 3, tokens=60)], 0.0)
    run_until_idle(model)
    again = prompt_of(1, 2, 9, tokens=60)
    model.submit([again], 0.0)
    assert model.ranks[0].prefill_load_tokens == 60 - 32
    run_pass(model)
    assert model.ranks[0].pass_prefill_tokens == 60 - 32
    assert again.num_cached_tokens == 32


def test_prefixes_are_cached_per_rank(a_group):
    model = a_group()
    model.submit([prompt_of(1, 2)], 0.0)
    run_until_idle(model)
    elsewhere = prompt_of(1, 2, rank=1)
    model.submit([elsewhere], 0.0)
    run_until_idle(model)
    assert elsewhere.num_cached_tokens == 0


def test_at_least_one_prompt_token_is_computed(a_group):
    model = a_group()
    model.submit([prompt_of(1, 2)], 0.0)
    run_until_idle(model)
    again = prompt_of(1, 2)
    model.submit([again], 0.0)
    outcomes = run_until_idle(model)
    assert again.num_cached_tokens == 16
    assert outcomes[0].first_tokens == [again]


def test_cached_blocks_are_free_and_evicted_least_recently_used_first(a_group):
    model = a_group(kv_blocks_total=6)
    model.submit([prompt_of(1, 2, tokens=33)], 0.0)
    run_until_idle(model)
    model.submit([prompt_of(3, 4, tokens=33)], 0.0)
    run_until_idle(model)
    assert model.ranks[0].kv.used == 0
    load = model.loads(drain=True)[0]
    assert (load.stored_blocks, load.removed_blocks) == ((1, 2, 3, 4), ())
    model.submit([a_request(16 * 3 - 1)], 0.0)  # needs 3 blocks, 2 are neither used nor cached
    run_until_idle(model)
    load = model.loads(drain=True)[0]
    assert (load.stored_blocks, load.removed_blocks) == ((), (2,))  # the older prompt, its tail first
    assert model.loads(drain=True)[0].removed_blocks == ()


def test_running_requests_share_blocks(a_group):
    model = a_group(kv_blocks_total=8)
    model.submit([prompt_of(1, 2, 3, tokens=48, output=16)], 0.0)  # 4 blocks
    run_pass(model)
    twin = prompt_of(1, 2, 3, 4, 5, tokens=80, output=16)  # 6 blocks, of which 3 are shared
    model.submit([twin], 0.0)
    assert run_pass(model).first_tokens == [twin]
    assert model.ranks[0].kv.used == 7
    run_until_idle(model)
    assert model.ranks[0].kv.used == 0


# Abort


def test_aborting_a_waiting_request_ends_it_at_once(a_group):
    model = a_group()
    request = a_request(10)
    model.submit([request], 0.0)
    assert model.abort(request.request_id) is request
    assert request.finish_reason is FinishReason.ABORTED
    assert model.start_pass(0.0) is None
    assert model.ranks[0].prefill_load_tokens == 0


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_aborting_in_a_pass_ends_the_request_with_that_pass_and_frees_its_blocks(a_group, passes):
    model = a_group()
    request = a_request(1500, output=30)  # two passes of prefill, then decode
    model.submit([request, a_request(5, rank=1, output=10)], 0.0)
    for _ in range(passes):
        run_pass(model)
    model.start_pass(0.0)
    assert model.abort(request.request_id) is None
    assert request.request_id not in model.decoding
    outcome = model.end_pass()
    assert outcome.finished == [request]
    assert request not in outcome.first_tokens
    assert model.ranks[0].kv.used == 0
    assert model.ranks[0].prefill_load_tokens == 0
    assert len(run_until_idle(model)) > 0


def test_aborting_between_passes_keeps_the_kv_sums_right(a_group):
    model = a_group()
    gone, stays = a_request(100, output=9), a_request(50, output=9)
    model.submit([gone, stays], 0.0)
    run_pass(model)
    run_pass(model)
    assert model.abort(gone.request_id) is gone
    assert model.start_pass(0.0) == PassCost(dp_size=4).decode_s([1], [52])


def test_aborting_unknown_or_finished_requests_does_nothing(a_group):
    model = a_group()
    request = a_request(10, mode=RequestMode.PREFILL_ONLY)
    model.submit([request], 0.0)
    run_pass(model)
    assert model.abort("nobody") is None
    assert model.abort(request.request_id) is None
    assert model.lease(request.request_id) is request
    model.release(request.request_id)


# Decode-only


def decode_request(prompt, *, rank=0, output=5, transfer_s=0.0):
    return a_request(
        prompt + 1,
        rank=rank,
        output=output,
        mode=RequestMode.DECODE_ONLY,
        num_prior_tokens=1,
        transfer_s=transfer_s,
    )


def test_a_decode_request_runs_when_its_kv_has_arrived(a_group):
    model = a_group()
    request = decode_request(100, output=3, transfer_s=0.5)
    model.submit([request], 1.0)
    assert model.start_pass(1.2) is None
    assert model.next_ready_at() == 1.5
    assert model.ranks[0].kv.used == 7  # blocks are taken when the transfer starts
    assert model.start_pass(1.5) == PassCost(dp_size=4).decode_s([1], [101])
    assert request.output_index(model.forward_pass_id) == 1
    assert model.end_pass().finished == []
    assert run_pass(model, 2.0).finished == [request]
    assert model.next_ready_at() is None


def test_transfers_to_one_rank_are_serial(a_group):
    model = a_group()
    requests = [decode_request(100, transfer_s=0.5), decode_request(100, transfer_s=0.5)]
    model.submit([*requests, decode_request(100, rank=1, transfer_s=0.7)], 0.0)
    assert [request.ready_at for request in requests] == [0.5, 1.0]
    assert model.next_ready_at() == 0.5


def test_a_decode_request_that_does_not_fit_starts_its_transfer_when_blocks_are_free(a_group):
    model = a_group(kv_blocks_total=10)
    first, second = decode_request(100, output=3), decode_request(100, output=3, transfer_s=0.25)
    model.submit([first, second], 0.0)
    run_pass(model, 0.0)
    assert run_pass(model, 1.0).finished == [first]
    assert model.start_pass(2.0) is None
    assert model.next_ready_at() == 2.25
    assert model.start_pass(2.25) is not None
    assert model.end_pass().finished == []


# Reports, noise


def test_loads_say_what_waits_runs_and_is_held(a_group):
    model = a_group()
    model.submit([a_request(1500, output=9), a_request(600, output=9), a_request(10, rank=2, output=9)], 0.0)
    before = model.loads()[0]
    assert (before.prefill_load_tokens, before.num_waiting, before.batch_size) == (2100, 2, 0)
    run_pass(model)
    after = model.loads(of_pass=True)[0]
    assert (after.prefill_load_tokens, after.num_waiting, after.batch_size) == (2100 - 1024, 1, 1)
    assert (after.pass_prefill_tokens, after.pass_decode_tokens) == (1024, 0)
    assert after.kv_blocks_used == -(-1509 // 16)
    assert model.loads()[0].pass_prefill_tokens == 0


def test_jitter_is_seeded_and_has_mean_one(a_group):
    def durations(seed):
        model = a_group(jitter=0.1, seed=seed)
        model.submit([a_request(8, output=2000)], 0.0)
        ratios = []
        while (duration_s := model.start_pass(0.0)) is not None:
            ratios.append(duration_s / model.predicted_s)
            model.end_pass()
        return ratios

    assert durations(1) == durations(1)
    assert durations(1) != durations(2)
    assert sum(durations(3)) / 2000 == pytest.approx(1.0, abs=0.01)


# Whatever happens


@pytest.mark.parametrize("seed", range(20))
def test_under_random_traffic_every_request_ends_once_and_the_books_balance(a_group, seed):
    rng = random.Random(seed)
    model = a_group(
        kv_blocks_total=60,
        max_batch_size=6,
        chunk_budget_tokens=200,
        chunked_prefill=seed % 2 == 0,
        admission_lead_passes=seed // 2 % 2,
    )
    ended, submitted, now, leased = [], [], 0.0, []
    for _ in range(600):
        now += rng.random() * 0.02
        action = rng.random()
        if action < 0.4 and len(submitted) < 200:
            mode = rng.choice(list(RequestMode))
            prior = 1 if mode is RequestMode.DECODE_ONLY else rng.choice([0, 0, 3])
            request = a_request(
                rng.randint(4, 190),
                rank=rng.randrange(4),
                output=prior + rng.randint(1, 12),
                mode=mode,
                num_prior_tokens=prior,
                block_hashes=[rng.randrange(3) * 100 + i for i in range(rng.randrange(8))],
                transfer_s=rng.random() * 0.05,
            )
            model.submit([request], now)
            submitted.append(request)
        elif action < 0.5 and submitted:
            gone = model.abort(rng.choice(submitted).request_id)
            ended += [gone] if gone else []
        elif action < 0.6 and leased:
            model.release(leased.pop(rng.randrange(len(leased))).request_id)
        elif not model.is_running:
            model.start_pass(now)
        else:
            finished = model.end_pass().finished
            ended += finished
            leased += [r for r in finished if r.finish_reason is FinishReason.PREFILLED]
        if not model.is_running:
            model.check_invariants()
    for _ in range(10_000):
        if not model.num_live and not model.is_running:
            break
        for request in leased:
            model.release(request.request_id)
        leased.clear()
        if model.is_running or model.start_pass(now) is not None:
            ended += (finished := model.end_pass().finished)
            leased += [r for r in finished if r.finish_reason is FinishReason.PREFILLED]
        now += 0.1
    for request in leased:
        model.release(request.request_id)
    assert len(ended) == len(submitted)
    assert set(ids(ended)) == set(ids(submitted))
    assert all(rank.kv.used == 0 and rank.num_waiting == 0 for rank in model.ranks)


# A slow rank


def test_everyone_waits_for_the_slow_rank_as_if_it_had_more_to_do(a_group):
    slow, fuller = a_group(slow_rank_factor=1.25), a_group()
    for model, prompt in ((slow, 800), (fuller, 1000)):
        model.submit([a_request(prompt, rank=0), a_request(100, rank=1)], 0.0)
    assert slow.start_pass(0.0) == pytest.approx(fuller.start_pass(0.0), rel=0.01)
    elsewhere, same = a_group(slow_rank_factor=1.25), a_group()
    for model in (elsewhere, same):
        model.submit([a_request(800, rank=1)], 0.0)
    assert elsewhere.start_pass(0.0) == same.start_pass(0.0)
    for model in (slow, fuller, elsewhere, same):
        model.end_pass()


def test_a_slow_rank_slows_decode_and_mixed_passes_too(a_group):
    times = []
    for factor in (1.0, 2.0):
        model = a_group(slow_rank_factor=factor)
        model.submit([a_request(900, rank=0, output=3) for _ in range(8)], 0.0)
        times.append([])
        while (duration_s := model.start_pass(0.0)) is not None:
            times[-1].append(duration_s)
            model.end_pass()
    assert len(times[0]) == len(times[1]) > 8
    assert all(slow > normal for normal, slow in zip(*times, strict=True))
    with pytest.raises(ValueError, match="slow_rank_factor cannot be under 1"):
        a_group(slow_rank_factor=0.5)

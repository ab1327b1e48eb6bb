"""Answers do not depend on where, with whom and in which pieces they are computed."""

import pytest

from hortator.worker.engine import (
    FinishReason,
    ForwardPassEnded,
    ForwardPassStarted,
    RequestMode,
    RequestRefusedError,
)

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

CREATIVE = {"temperature": 0.8, "top_p": 0.95, "top_k": 200}

HELD_OUT = """SCENE VII. The French camp, near Agincourt.

[Enter the Constable of France, the Lord Rambures,
Orleans, Dauphin, with others.]

CONSTABLE.
Tut! I have the best armour of the world.
Would it were day!

ORLEANS.
You have an excellent armour; but let my horse have his due.

CONSTABLE.
It is the best horse of Europe.

ORLEANS.
Will it never be morning?

DAUPHIN.
My Lord of Orleans, and my Lord High Constable, you talk of
horse and armour?

ORLEANS.
You are as well provided of both as any prince in the world.

DAUPHIN.
What a long night is this! I will not change my horse with
any that treads but on four pasterns.
"""  # of the validation part of hack/train-moe

COMMON_WORDS = """
the and to of i you my a that in is not me it for with be your this his but he have as thou him so
will what thy all her no do by shall if are we thee on lord our king good now sir from come at they
or let enter would more was love here well she than them may us then go am how there like man were
when some did one an too their make speak where who had which much yet must see give tis know say
upon such out can why these should take most hear hath
"""


def hashes(prompt, salt):
    """Chained hashes of full blocks, as a gateway would send them."""
    chained, result = salt, []
    for start in range(0, len(prompt) - 15, 16):
        chained = hash((chained, tuple(prompt[start : start + 16]))) & (2**64 - 1)
        result.append(chained)
    return tuple(result)


async def test_the_engine_declares_what_it_is(aggregated):
    info = aggregated.info
    assert (info.dp_size, info.ep_size, info.tokens_per_block, info.vocab_size) == (2, 2, 16, 2048)
    assert info.chunked_prefill
    assert info.prefix_cache
    assert info.max_sequence_tokens == 1024


async def test_greedy_answers_are_those_of_the_reference_alone_together_and_on_any_rank(
    aggregated, odd, a_request, prompts, num_greedy
):
    greedy = {"max_tokens": 24, "ignore_eos": True}
    alone = [(await aggregated.run(a_request(prompt, **greedy)))[0] for prompt in prompts]
    batch = [a_request(prompt, dp_rank=i % 2, **greedy) for i, prompt in enumerate(prompts)]
    together = await aggregated.run(*batch)
    elsewhere = await odd.run(*(a_request(p, dp_rank=i % 3, **greedy) for i, p in enumerate(prompts)))
    num_clear = [num_greedy(p, answer.tokens) for p, answer in zip(prompts, alone, strict=True)]
    assert sum(num_clear) > 100  # the margin rule must not empty the test
    for number, clear in enumerate(num_clear):
        wanted = alone[number].tokens[:clear]
        assert together[number].tokens[:clear] == wanted
        assert elsewhere[number].tokens[:clear] == wanted


async def test_seeded_answers_repeat_on_any_rank_with_any_company(aggregated, odd, a_request, prompts):
    settings = [{**CREATIVE, "max_tokens": 24, "seed": seed} for seed in range(len(prompts))]
    pairs = list(zip(prompts, settings, strict=True))
    alone = [(await aggregated.run(a_request(prompt, dp_rank=1, **s)))[0] for prompt, s in pairs]
    together = await odd.run(*(a_request(p, dp_rank=i % 3, **s) for i, (p, s) in enumerate(pairs)))
    assert [a.tokens for a in together] == [a.tokens for a in alone]


async def test_other_seeds_give_other_answers(aggregated, a_request, prompts):
    answers = await aggregated.run(*(a_request(prompts[0], seed=seed, **CREATIVE) for seed in range(4)))
    assert len({tuple(answer.tokens) for answer in answers}) == 4


@pytest.mark.parametrize("settings", [{}, {**CREATIVE, "seed": 5}], ids=["greedy", "seeded"])
async def test_a_resumed_request_continues_as_if_it_had_never_stopped(
    aggregated, odd, a_request, prompts, settings
):
    (whole,) = await aggregated.run(a_request(prompts[3], max_tokens=20, ignore_eos=True, **settings))
    resumed = a_request(
        prompts[3],
        dp_rank=2,
        max_tokens=20,
        ignore_eos=True,
        attempt=1,
        prior_output_ids=whole.tokens[:9],
        **settings,
    )
    (rest,) = await odd.run(resumed)
    assert rest.first_index == 9
    assert rest.tokens == whole.tokens[9:]
    assert rest.end.num_output_tokens == 20
    assert rest.end.attempt == 1


async def test_a_resumed_request_that_was_complete_just_ends(aggregated, a_request, prompts):
    (answer,) = await aggregated.run(a_request(prompts[0], max_tokens=3, prior_output_ids=[5, 6, 7]))
    assert answer.tokens == []
    assert (answer.end.reason, answer.end.num_output_tokens) == (FinishReason.LENGTH, 3)


@pytest.mark.parametrize("settings", [{}, {**CREATIVE, "seed": 11}], ids=["greedy", "seeded"])
async def test_prefill_and_decode_groups_answer_token_for_token_like_one_group(
    aggregated, odd, a_request, prompts, settings
):
    """Prefill on two ranks, decode on three; KV crosses as bytes."""
    common = {"max_tokens": 20, "ignore_eos": True, **settings}
    whole = await aggregated.run(*(a_request(p, dp_rank=i % 2, **common) for i, p in enumerate(prompts)))
    prefill = [
        a_request(p, dp_rank=i % 2, mode=RequestMode.PREFILL_ONLY, **common) for i, p in enumerate(prompts)
    ]
    firsts = await aggregated.run(*prefill)
    assert {first.end.reason for first in firsts} == {FinishReason.PREFILLED}
    assert sum(load.kv_blocks_used for load in aggregated.engine.rank_loads()) >= len(prompts)
    decode = []
    for number, (request, first) in enumerate(zip(prefill, firsts, strict=True)):
        chunks = await aggregated.export(request.request_id)
        assert max(map(len, chunks)) <= 1 << 20
        await aggregated.engine.release_kv(request.request_id)
        decode.append(
            a_request(
                prompts[number],
                dp_rank=number % 3,
                mode=RequestMode.DECODE_ONLY,
                prior_output_ids=first.tokens,
                kv_payload=b"".join(chunks),
                **common,
            )
        )
    assert {load.kv_blocks_used for load in aggregated.engine.rank_loads()} == {0}
    num_passes = len(odd.passes)
    seconds = await odd.run(*decode)
    for one, first, second in zip(whole, firsts, seconds, strict=True):
        assert first.tokens + second.tokens == one.tokens
        assert second.first_index == 1
    assert all(load.pass_prefill_tokens == 0 for report in odd.passes[num_passes:] for load in report.ranks)


async def test_kv_of_another_prompt_is_refused(aggregated, a_request, prompts):
    request = a_request(prompts[0], mode=RequestMode.PREFILL_ONLY)
    (first,) = await aggregated.run(request)
    payload = b"".join(await aggregated.export(request.request_id))
    await aggregated.engine.release_kv(request.request_id)
    wrong = a_request(
        prompts[1], mode=RequestMode.DECODE_ONLY, prior_output_ids=first.tokens, kv_payload=payload
    )
    with pytest.raises(RequestRefusedError, match="other tokens"):
        await aggregated.submit(wrong)


async def test_kv_without_a_lease_cannot_be_exported(aggregated):
    with pytest.raises(KeyError):
        await aggregated.export("nobody")


async def test_a_reused_prefix_changes_nothing_but_the_work(aggregated, a_request, prompts):
    prompt = prompts[5]
    keys = hashes(prompt, salt=1)
    (plain,) = await aggregated.run(a_request(prompt, max_tokens=16, ignore_eos=True))
    num_passes = len(aggregated.passes)
    (first,) = await aggregated.run(a_request(prompt, max_tokens=16, ignore_eos=True, block_hashes=keys))
    stored = [h for report in aggregated.passes[num_passes:] for h in report.ranks[0].stored_blocks]
    num_passes = len(aggregated.passes)
    (second,) = await aggregated.run(a_request(prompt, max_tokens=16, ignore_eos=True, block_hashes=keys))
    (other_tenant,) = await aggregated.run(
        a_request(prompt, max_tokens=16, ignore_eos=True, block_hashes=hashes(prompt, salt=2))
    )
    assert tuple(stored) == keys
    assert first.end.num_cached_prompt_tokens == 0
    assert second.end.num_cached_prompt_tokens == 16 * ((len(prompt) - 1) // 16)
    assert other_tenant.end.num_cached_prompt_tokens == 0
    assert plain.tokens == first.tokens == second.tokens == other_tenant.tokens
    prefill = aggregated.passes[num_passes].ranks[0].pass_prefill_tokens
    assert prefill == len(prompt) - second.end.num_cached_prompt_tokens
    assert {load.kv_blocks_used for load in aggregated.engine.rank_loads()} == {0}


async def test_cached_blocks_make_room_for_others_and_are_reported_removed(odd, a_request, tokenizer):
    """24 blocks: two prompts of 13 and more blocks cannot both stay cached."""
    texts = [
        "O Romeo, Romeo! wherefore art thou Romeo? " * 20,
        "Friends, Romans, countrymen, lend me your ears! " * 20,
    ]
    long = [tokenizer.encode(text).ids[:210] for text in texts]
    num_passes = len(odd.passes)
    keys = [hashes(prompt, salt=3) for prompt in long]
    for prompt, key in zip(long, keys, strict=True):
        await odd.run(a_request(prompt, max_tokens=2, block_hashes=key))
    ended = [report for report in odd.passes[num_passes:] if isinstance(report, ForwardPassEnded)]
    stored = {h for report in ended for h in report.ranks[0].stored_blocks}
    removed = {h for report in ended for h in report.ranks[0].removed_blocks}
    assert stored >= {*keys[0], *keys[1]}
    assert removed & set(keys[0])
    assert not removed & set(keys[1])
    remaining = len(keys[0]) - len(removed & set(keys[0]))
    (again,) = await odd.run(a_request(long[0], max_tokens=2, block_hashes=keys[0]))
    assert again.end.num_cached_prompt_tokens == 16 * remaining


async def test_an_abort_frees_kv_within_one_pass_and_ends_the_request_once(aggregated, a_request, prompts):
    doomed = a_request(prompts[0], max_tokens=900, ignore_eos=True)
    other = a_request(prompts[1], max_tokens=40, ignore_eos=True)
    await aggregated.submit(doomed, other)
    answer = aggregated.answers[doomed.request_id]
    await answer.until(num_tokens=3)
    num_passes = len(aggregated.passes)
    await aggregated.engine.abort(doomed.request_id)
    await answer.done.wait()
    assert len(aggregated.passes) - num_passes <= 2  # the end of this pass, at most the start of the next
    used = aggregated.engine.rank_loads()[0].kv_blocks_used
    assert used == -(-(len(prompts[1]) + 40 - 1) // 16)
    await aggregated.engine.abort(doomed.request_id)
    await aggregated.engine.abort("unknown")
    await aggregated.answers[other.request_id].done.wait()
    assert answer.end.reason is FinishReason.ABORTED
    assert answer.end.num_output_tokens == len(answer.tokens)
    assert {load.kv_blocks_used for load in aggregated.engine.rank_loads()} == {0}


async def test_one_bad_request_keeps_the_whole_batch_out(aggregated, a_request, prompts):
    num_passes = len(aggregated.passes)
    bad = a_request(prompts[0], dp_rank=2)
    with pytest.raises(RequestRefusedError) as refused:
        await aggregated.submit(a_request(prompts[0]), bad)
    assert (refused.value.request_id, refused.value.field) == (bad.request_id, "dp_rank")
    assert {load.num_waiting for load in aggregated.engine.rank_loads()} == {0}
    await aggregated.run(a_request(prompts[0], max_tokens=1))
    assert len(aggregated.passes) - num_passes == 2


async def test_a_request_id_can_run_only_once_at_a_time(aggregated, a_request, prompts):
    request = a_request(prompts[0], max_tokens=30, ignore_eos=True)
    with pytest.raises(RequestRefusedError, match="already running"):
        await aggregated.engine.submit([request, request])
    await aggregated.run(request)
    await aggregated.run(request)


async def test_a_batch_enters_one_pass_as_a_whole(aggregated, a_request, prompts):
    num_passes = len(aggregated.passes)
    await aggregated.run(*(a_request(prompts[i], dp_rank=i % 2, max_tokens=1) for i in range(4)))
    first = aggregated.passes[num_passes]
    assert [load.batch_size for load in first.ranks] == [2, 2]
    assert [load.pass_prefill_tokens for load in first.ranks] == [
        len(prompts[0]) + len(prompts[2]),
        len(prompts[1]) + len(prompts[3]),
    ]


async def test_every_pass_is_reported_with_its_start_and_end_within_the_budget(odd):
    assert len(odd.passes) > 20
    starts, ends = odd.passes[::2], odd.passes[1::2]
    assert all(isinstance(report, ForwardPassStarted) for report in starts)
    assert all(isinstance(report, ForwardPassEnded) and report.duration_s > 0 for report in ends)
    numbers = list(range(1, len(starts) + 1))
    assert [report.forward_pass_id for report in starts] == numbers
    assert [report.forward_pass_id for report in ends] == numbers
    for report in odd.passes:
        assert all(load.pass_prefill_tokens <= 7 for load in report.ranks)
        assert all(load.kv_blocks_used <= 24 for load in report.ranks)


async def test_more_requests_than_the_batch_holds_wait_their_turn(odd, a_request, prompts):
    requests = [a_request(prompts[2], max_tokens=8, ignore_eos=True, seed=i) for i in range(8)]
    num_passes = len(odd.passes)
    answers = await odd.run(*requests)
    assert all(len(answer.tokens) == 8 for answer in answers)
    assert max(report.ranks[0].batch_size for report in odd.passes[num_passes:]) == 3
    assert odd.passes[num_passes].ranks[0].num_waiting >= 5


async def test_the_sequence_limit_ends_an_answer(aggregated, a_request):
    (answer,) = await aggregated.run(a_request([5] * 1020, max_tokens=900, ignore_eos=True))
    assert len(answer.tokens) == 4
    assert answer.end.reason is FinishReason.LENGTH


async def test_stop_tokens_end_an_answer_unless_too_early(aggregated, a_request, prompts):
    (free,) = await aggregated.run(a_request(prompts[3], max_tokens=12, ignore_eos=True))
    stop = free.tokens[5]
    first = free.tokens.index(stop)
    (stopped,) = await aggregated.run(
        a_request(prompts[3], max_tokens=12, ignore_eos=True, stop_token_ids=(stop,))
    )
    assert stopped.tokens == free.tokens[: first + 1]
    assert stopped.end.reason is FinishReason.STOP
    (late,) = await aggregated.run(
        a_request(prompts[3], max_tokens=12, min_tokens=8, ignore_eos=True, stop_token_ids=(stop,))
    )
    assert len(late.tokens) >= 8
    assert stop not in late.tokens[:8]


async def test_sampled_answers_are_mostly_common_words(aggregated, a_request, prompts, tokenizer):
    """Not a judgement of style, a guard against weights that do not fit the code.

    Of the running words of the plays 52 % are among these.
    """
    answers = await aggregated.run(
        *(a_request(prompts[3], max_tokens=120, seed=s, temperature=0.7, ignore_eos=True) for s in range(4))
    )
    common = set(COMMON_WORDS.split())
    text = " ".join(tokenizer.decode(answer.tokens) for answer in answers)
    words = "".join(letter.lower() if letter.isalpha() else " " for letter in text).split()
    assert len(words) > 150
    assert sum(word in common for word in words) / len(words) > 0.4


async def test_the_weights_predict_text_they_were_not_trained_on(reference, tokenizer):
    """A uniform guess costs ln 2048 = 7.6 nats per token."""
    import torch

    ids = torch.tensor([tokenizer.encode(HELD_OUT).ids])
    with torch.no_grad():
        logits = reference(ids)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert loss < 4.5

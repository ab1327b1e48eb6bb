"""The distributed forward pass computes what the single-process reference computes.

These tests drive the rank processes directly, with hand-made plans, and look at the logits of every token.
"""

import numpy as np
import pytest
import pytest_asyncio

from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.group import RankGroup
from hortator.worker.engines.torch_moe.plan import KvImport, PassPlan, ReadKv, SamplePlan, SequenceStep

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

TOKENS_PER_BLOCK = 16
GREEDY = SamplePlan(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)


class Passes:
    """Numbers passes and turns answers into arrays."""

    def __init__(self, group, dp_size):
        self.group = group
        self.dp_size = dp_size
        self.number = 0

    async def run(self, steps_by_rank, imports_by_rank=None):
        self.number += 1
        plans = [
            PassPlan(
                forward_pass_id=self.number,
                steps=tuple(steps_by_rank.get(rank, ())),
                imports=tuple((imports_by_rank or {}).get(rank, ())),
                return_logits=True,
            )
            for rank in range(self.dp_size)
        ]
        results = await self.group.run_pass(plans)
        return [
            [np.frombuffer(data, dtype=np.float32).reshape(-1, 2048) for data in result.logits]
            for result in results
        ]


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[2, 3], ids=["dp2", "dp3"])
async def passes(request):
    group = RankGroup(TorchMoEConfig(dp_size=request.param, kv_blocks=64))
    await group.start()
    yield Passes(group, request.param)
    await group.aclose()


@pytest.fixture(scope="module")
def expected(reference):
    def logits(tokens):
        with torch.no_grad():
            return reference(torch.tensor([tokens]))[0].numpy()

    return logits


def a_step(tokens, start, end, first_block=0, sample=GREEDY):
    """A step in up to 8 blocks behind `first_block`, out of order, so that no position is its own slot."""
    num_blocks = -(-end // TOKENS_PER_BLOCK)
    blocks = tuple(first_block + offset for offset in (5, 2, 7, 0, 4, 1, 6, 3)[:num_blocks])
    return SequenceStep(token_ids=tuple(tokens[start:end]), start=start, block_ids=blocks, sample=sample)


def a_text(length, seed):
    return np.random.default_rng(seed).integers(1, 2048, length).tolist()


def assert_close(actual, wanted):
    assert np.abs(actual - wanted).max() < 1e-4


async def test_whole_prompts_on_all_ranks_match_the_reference(passes, expected):
    texts = [a_text(40 + 13 * i, i) for i in range(2 * passes.dp_size)]
    steps = {
        rank: [a_step(texts[2 * rank], 0, len(texts[2 * rank])), a_step(texts[2 * rank + 1], 0, 30, 16)]
        for rank in range(passes.dp_size)
    }
    logits = await passes.run(steps)
    for rank in range(passes.dp_size):
        assert_close(logits[rank][0], expected(texts[2 * rank]))
        assert_close(logits[rank][1], expected(texts[2 * rank + 1][:30]))


@pytest.mark.parametrize("length", [1, 2, 50])
async def test_ranks_without_tokens_join_and_change_nothing(passes, expected, length):
    text = a_text(length, 3)
    for rank in range(passes.dp_size):
        logits = await passes.run({rank: [a_step(text, 0, length)]})
        assert_close(logits[rank][0], expected(text))


async def test_a_pass_in_which_nobody_has_tokens_is_a_pass(passes):
    assert await passes.run({}) == [[]] * passes.dp_size


async def test_chunks_and_decode_steps_match_the_reference_at_every_position(passes, expected):
    """70 tokens as chunks of 20, 1, 32 and then 17 single steps, while another rank prefills and a third idles."""
    text, other = a_text(70, 4), a_text(60, 5)
    last = passes.dp_size - 1
    rows = []
    spans = [(0, 20), (20, 21), (21, 53), *((i, i + 1) for i in range(53, 70))]
    for number, (start, end) in enumerate(spans):
        steps = {last: [a_step(text, start, end)]}
        if number < 3:
            steps[0] = [a_step(other, number * 20, number * 20 + 20, 32)]
        logits = await passes.run(steps)
        rows.append(logits[last][0])
    assert_close(np.concatenate(rows), expected(text))


async def test_decoding_sequences_of_different_lengths_share_a_pass(passes, expected):
    texts = [a_text(length, length) for length in (5, 33, 64, 18)]
    firsts = [0, 8, 16, 24]
    pairs = list(zip(texts, firsts, strict=True))
    await passes.run({1: [a_step(text, 0, len(text) - 1, first) for text, first in pairs]})
    steps = [a_step(text, len(text) - 1, len(text), first) for text, first in pairs]
    logits = await passes.run({1: steps})
    for text, row in zip(texts, logits[1], strict=True):
        assert_close(row[0], expected(text)[-1])


async def test_a_reused_prefix_gives_the_logits_of_a_computed_one(passes, expected):
    """The second sequence shares two blocks (32 tokens) with the first and computes only the rest."""
    first = a_text(48, 6)
    second = first[:32] + a_text(20, 7)
    await passes.run({0: [SequenceStep(token_ids=tuple(first), start=0, block_ids=(9, 3, 5), sample=None)]})
    step = SequenceStep(token_ids=tuple(second[32:]), start=32, block_ids=(9, 3, 11, 12), sample=GREEDY)
    logits = await passes.run({0: [step]})
    assert_close(logits[0][0], expected(second)[32:])


async def test_kv_read_from_one_rank_and_written_to_another_decodes_the_same(passes, expected):
    text = a_text(41, 8)
    await passes.run(
        {0: [SequenceStep(token_ids=tuple(text[:40]), start=0, block_ids=(1, 2, 3), sample=None)]}
    )
    data = await passes.group.read_kv(0, ReadKv(block_ids=(1, 2, 3), num_tokens=40))
    kv = KvImport(block_ids=(30, 20, 10), num_tokens=40, data=data)
    step = SequenceStep(token_ids=(text[40],), start=40, block_ids=(30, 20, 10), sample=GREEDY)
    logits = await passes.run({1: [step]}, {1: [kv]})
    assert_close(logits[1][0][0], expected(text)[-1])

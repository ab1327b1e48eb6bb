import numpy as np
import pytest

from hortator.sim.workload import (
    LENGTHS,
    TraceRequest,
    conversation_lengths,
    generate,
    poisson_arrivals,
    short_prompt_lognormal_lengths,
    short_prompt_uniform_lengths,
)


def _rng(seed=0):
    return np.random.default_rng(seed)


def a_workload(**changes):
    arguments = {
        "lengths": conversation_lengths,
        "arrivals": poisson_arrivals(rate_per_s=50.0, duration_s=20.0),
        "seed": 3,
    }
    return generate(**(arguments | changes))


def test_the_same_seed_gives_the_same_workload_and_another_seed_another():
    assert a_workload() == a_workload()
    assert a_workload() != a_workload(seed=4)


def test_other_arrivals_leave_the_lengths_as_they_are():
    one = a_workload()
    other = a_workload(arrivals=poisson_arrivals(rate_per_s=100.0, duration_s=20.0))
    common = min(len(one), len(other))
    assert common > 100
    # Lengths are drawn per kind, so only a workload of the same size is the same to the last request.
    same_size = a_workload(arrivals=lambda rng: np.linspace(0.0, 20.0, len(one), endpoint=False))
    assert [r.num_prompt_tokens for r in one] == [r.num_prompt_tokens for r in same_size]
    assert [r.num_output_tokens for r in one] == [r.num_output_tokens for r in same_size]


def test_conversation_lengths_have_the_moments_of_the_trace_they_are_fitted_to():
    prompts, outputs = conversation_lengths(_rng(), 200_000)
    assert prompts.mean() == pytest.approx(1155, rel=0.02)
    assert np.median(prompts) == pytest.approx(1020, rel=0.02)
    assert outputs.mean() == pytest.approx(211, rel=0.02)
    assert np.median(outputs) == pytest.approx(129, rel=0.03)
    assert 10_000 < prompts.max() <= 14_050
    assert outputs.max() <= 1_000
    assert min(prompts.min(), outputs.min()) >= 1


def test_in_conversations_the_output_length_depends_on_the_kind_of_prompt():
    prompts, outputs = conversation_lengths(_rng(), 50_000)
    template = (prompts > 1000) & (prompts < 1120)
    long = prompts > 3000
    assert outputs[template].mean() > 3 * outputs[long].mean()


@pytest.mark.parametrize("lengths", [short_prompt_uniform_lengths, short_prompt_lognormal_lengths])
def test_short_prompt_workloads_stay_within_64_and_1024_tokens(lengths):
    prompts, outputs = lengths(_rng(), 50_000)
    assert (prompts.min(), prompts.max()) == (pytest.approx(1, abs=3), 64)
    assert outputs.min() >= 1
    assert outputs.max() == 1024


def test_uniform_short_prompts_have_the_means_of_a_uniform_distribution():
    prompts, outputs = short_prompt_uniform_lengths(_rng(), 100_000)
    assert prompts.mean() == pytest.approx(32.5, rel=0.01)  # (1 + 64) / 2
    assert outputs.mean() == pytest.approx(512.5, rel=0.01)  # (1 + 1024) / 2


@pytest.mark.parametrize("name", LENGTHS)
def test_every_named_workload_generates(name):
    requests = a_workload(lengths=LENGTHS[name])
    assert all(request.num_prompt_tokens >= 1 and request.num_output_tokens >= 1 for request in requests)


def test_poisson_arrivals_have_their_rate_and_independent_gaps():
    times = poisson_arrivals(rate_per_s=100.0, duration_s=1000.0)(_rng())
    gaps = np.diff(times)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert (gaps >= 0).all()
    assert 0.0 <= times[0] <= times[-1] < 1000.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: poisson_arrivals(rate_per_s=0.0, duration_s=1.0),
        lambda: poisson_arrivals(rate_per_s=1.0, duration_s=float("inf")),
        lambda: poisson_arrivals(rate_per_s=1.0, duration_s=-1.0),
    ],
)
def test_arrivals_without_meaning_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


def a_request(prompt, ids):
    return TraceRequest(
        arrived_at=0.0,
        num_prompt_tokens=prompt,
        num_output_tokens=1,
        prefix_block_ids=ids,
        prefix_block_tokens=512,
    )


def test_prefix_blocks_are_cut_to_another_block_size_without_the_partial_one():
    # 700 tokens at 128 per block: 5 full blocks, 4 of them in the first 512-token block
    assert a_request(700, (7, 9)).prefix_hashes(128) == (28, 29, 30, 31, 36)


def test_equal_prefixes_have_equal_hashes_and_no_others():
    one, other = a_request(1100, (1, 2, 3)).prefix_hashes(256), a_request(1100, (1, 4, 5)).prefix_hashes(256)
    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])


def test_a_request_of_unknown_content_has_no_hashes():
    assert a_request(700, ()).prefix_hashes(64) == ()


@pytest.mark.parametrize("size", [100, 1024])
def test_a_block_size_that_does_not_divide_the_traces_is_refused(size):
    with pytest.raises(ValueError, match=f"tokens_per_block {size} does not divide the trace's 512"):
        a_request(700, (1, 2)).prefix_hashes(size)

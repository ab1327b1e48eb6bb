"""Layouts of a number of GPUs, and what the arithmetic says that each could serve."""

import pytest

from hortator.api.v1alpha1 import LLMService
from hortator.sim.load import default_engine_seconds
from hortator.sim.sizing import Groups, Layout, Shape, estimate, layouts, manifest, service_of
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost


def requests(*lengths):
    return [
        TraceRequest(arrived_at=float(index), num_prompt_tokens=prompt, num_output_tokens=output)
        for index, (prompt, output) in enumerate(lengths)
    ]


def split(prefill, decode, *, ep=(16, 16)):
    return Layout(
        entry=Groups(num_groups=prefill, ep_size=ep[0]), decode=Groups(num_groups=decode, ep_size=ep[1])
    )


def test_32_gpus_are_two_groups_or_one():
    assert [layout.describe() for layout in layouts(32)] == [
        "2 x EP16 aggregated",
        "1 x EP32 aggregated",
        "1 x EP16 prefill + 1 x EP16 decode",
    ]


@pytest.mark.parametrize("num_gpus", [16, 48, 64, 128])
def test_every_layout_takes_all_gpus_and_none_is_there_twice(num_gpus):
    found = layouts(num_gpus)
    assert len(found) == len(set(found))
    assert {layout.num_gpus for layout in found} == {num_gpus}


def test_too_few_gpus_are_refused_with_the_reason():
    arithmetic = (
        r"78.7 GB usable of a GPU - 19.9 weights of every rank - 81.8 experts - 5.0 buffers = -28.0 GB for KV"
    )
    with pytest.raises(
        ValueError, match=r"got 8 GPUs \(allowed: 16 or more; on one node of 8: " + arithmetic
    ):
        layouts(8)
    with pytest.raises(ValueError, match=r"got 24 GPUs \(allowed: multiples of 16: an EP group takes whole"):
        layouts(24)


def test_the_mean_context_is_over_steps_not_requests():
    """100 steps with 1000 + 50 tokens, 300 with 200 + 150: the longer output has three times the say."""
    shape = Shape.of(requests((1000, 100), (200, 300)))
    assert shape.prompt == 600
    assert shape.context == pytest.approx((100 * 1050 + 300 * 350) / 400)
    assert shape.reserved == pytest.approx((100 * 1100 + 300 * 500) / 400)


def test_prefill_groups_serve_what_load_one_is():
    """Short outputs: decode never ends it."""
    shape = Shape.of(requests((2000, 2), (2000, 2)))
    found = estimate(split(2, 1), shape, itl_s=0.05)
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=16)(2000)
    assert found.limit == "prefill"
    assert found.requests_per_s == pytest.approx(2 / seconds)


def test_decode_steps_end_it_where_a_larger_batch_would_be_too_slow():
    """At the estimate's batch a step takes the gap that is allowed."""
    shape = Shape.of(requests((500, 500)))
    found = estimate(split(3, 1), shape, itl_s=0.040)
    assert found.limit == "decode steps"
    batch = found.decode_rps * 499 * 0.040 / 16  # Little's law, if a step takes 40 ms
    step_s = PassCost(dp_size=16).decode_s([batch] * 16, [batch * shape.context] * 16)
    assert step_s == pytest.approx(0.040, rel=0.01)


def test_memory_ends_it_where_contexts_are_long():
    shape = Shape.of(requests((60_000, 400)))
    found = estimate(split(8, 1), shape, itl_s=1.0)
    assert found.limit == "decode memory"
    batch = PassCost(dp_size=16).kv_tokens_total() / 60_400
    step_s = PassCost(dp_size=16).decode_s([batch] * 16, [batch * shape.context] * 16)
    assert found.decode_rps == pytest.approx(16 * batch / (399 * step_s), rel=0.01)


def test_batch_slots_end_it_where_steps_are_quick():
    found = estimate(split(8, 1), Shape.of(requests((50, 400))), itl_s=1.0, max_batch_size=8)
    assert found.limit == "batch slots"


def test_aggregated_groups_serve_nothing_within_gaps_shorter_than_a_mixed_pass():
    layout = Layout(entry=Groups(num_groups=4, ep_size=16), decode=None)
    shape = Shape.of(requests((1000, 200)))
    assert estimate(layout, shape, itl_s=0.03).requests_per_s == 0.0
    some, more = (estimate(layout, shape, itl_s=itl_s).requests_per_s for itl_s in (0.15, 0.3))
    assert 0.0 < some < more


def test_twice_the_groups_serve_twice_as_much():
    shape = Shape.of(requests((1000, 200)))
    one, two = (estimate(split(n, n), shape, itl_s=0.05).requests_per_s for n in (1, 2))
    assert two == pytest.approx(2 * one)


def test_a_layout_becomes_a_valid_service_for_either_engine():
    layout = split(2, 1, ep=(16, 32))
    plain = manifest(
        layout,
        name="x",
        chunk_budget_tokens=4096,
        policy="staggered",
        backend="TensorRTLLM",
        chunked_prefill=False,
    )
    service = LLMService.model_validate(plain)
    assert [(role.name, role.replicas, role.nodes) for role in service.spec.roles] == [
        ("Prefill", 2, 2),
        ("Decode", 1, 4),
    ]
    assert not service.role("Prefill").chunked_prefill
    simulated = service_of(layout, chunk_budget_tokens=4096, policy="staggered", chunked_prefill=True)
    assert simulated.spec.engine.backend == "Simulated"
    assert simulated.role("Prefill").chunk_budget_tokens == 4096

"""What is particular to the simulated engine, in virtual loop time: pass times, transfer times, failure."""

import asyncio

import pytest

from hortator.worker.engine import (
    EngineDeadError,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassEnded,
    ForwardPassStarted,
    RequestMode,
    RequestRefusedError,
    Sampling,
)
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.engine import SimulatedEngine

pytestmark = pytest.mark.looptime


def a_config(**overrides):
    return SimulatedConfig(**{"dp_size": 16, "kv_blocks_total": 1000, **overrides})


def a_request(prompt=100, *, rank=0, max_tokens=2, request_id="one", **options):
    return EngineRequest(
        request_id=request_id,
        dp_rank=rank,
        prompt_token_ids=[7] * prompt,
        sampling=Sampling(max_tokens=max_tokens, seed=options.pop("seed", 0)),
        **options,
    )


async def until_finished(engine, num=1):
    """Read until so many requests have ended; (loop time, output) of everything said."""
    loop, said = asyncio.get_running_loop(), []
    async for output in engine.outputs():
        said.append((loop.time(), output))
        num -= isinstance(output, Finished)
        if not num:
            return said
    raise AssertionError("the stream ended early")


@pytest.mark.parametrize("time_scale", [1.0, 0.1])
async def test_tokens_come_when_the_cost_model_says(time_scale):
    engine = SimulatedEngine(a_config(time_scale=time_scale))
    await engine.start()
    began_at = asyncio.get_running_loop().time()
    await engine.submit([a_request(8192, max_tokens=3)])
    said = await until_finished(engine)
    await engine.aclose()
    cost = PassCost(dp_size=16)
    prefill_s = cost.prefill_s([8192], [8192 * 4096.0])
    second_s = prefill_s + cost.decode_s([1], [8193])
    third_s = second_s + cost.decode_s([1], [8194])
    expected = [prefill_s * time_scale, second_s * time_scale, third_s * time_scale]
    assert [at - began_at for at, _ in said[:3]] == pytest.approx(expected, abs=1e-3)


async def test_reports_carry_the_predicted_and_the_measured_duration():
    engine = SimulatedEngine(a_config(time_scale=0.5))
    await engine.start()
    await engine.submit([a_request(4096, max_tokens=1)])
    await until_finished(engine)
    await engine.aclose()
    started, ended = [report async for report in engine.forward_passes()]
    assert isinstance(started, ForwardPassStarted)
    assert isinstance(ended, ForwardPassEnded)
    assert started.predicted_s == 0.5 * PassCost(dp_size=16).prefill_s([4096], [4096 * 2048.0])
    assert ended.duration_s == pytest.approx(started.predicted_s, abs=1e-3)
    assert started.ranks[0].pass_prefill_tokens == ended.ranks[0].pass_prefill_tokens == 4096
    assert (started.ranks[0].prefill_load_tokens, ended.ranks[0].prefill_load_tokens) == (4096, 0)


async def test_a_decode_request_waits_for_the_transfer_of_its_kv():
    prefill, decode = SimulatedEngine(a_config()), SimulatedEngine(a_config())
    await prefill.start()
    await decode.start()
    await prefill.submit([a_request(8192, mode=RequestMode.PREFILL_ONLY)])
    (_, first), (_, end) = await until_finished(prefill)
    assert end.reason is FinishReason.PREFILLED
    payload = b"".join([chunk async for chunk in prefill.export_kv("one")])
    assert len(payload) < 100
    began_at = asyncio.get_running_loop().time()
    await decode.submit(
        [a_request(8192, mode=RequestMode.DECODE_ONLY, prior_output_ids=first.token_ids, kv_payload=payload)]
    )
    said = await until_finished(decode)
    expected_s = PassCost(dp_size=16).transfer_s(8192) + PassCost(dp_size=16).decode_s([1], [8193])
    assert said[0][0] - began_at == pytest.approx(expected_s, abs=1e-3)
    await prefill.aclose()
    await decode.aclose()


async def test_kv_of_another_model_is_refused():
    prefill, decode = SimulatedEngine(a_config()), SimulatedEngine(a_config(model_name="other"))
    await prefill.start()
    await decode.start()
    await prefill.submit([a_request(100, mode=RequestMode.PREFILL_ONLY)])
    (_, first), _ = await until_finished(prefill)
    payload = b"".join([chunk async for chunk in prefill.export_kv("one")])
    with pytest.raises(RequestRefusedError, match="another model than other"):
        await decode.submit(
            [
                a_request(
                    100, mode=RequestMode.DECODE_ONLY, prior_output_ids=first.token_ids, kv_payload=payload
                )
            ]
        )
    await prefill.aclose()
    await decode.aclose()


async def test_a_failed_engine_ends_its_requests_and_raises_on_both_streams():
    engine = SimulatedEngine(a_config())
    await engine.start()
    await engine.submit([a_request(request_id="a"), a_request(request_id="b", rank=3)])
    engine.fail("rank 3 was lost")
    said = []
    with pytest.raises(EngineDeadError, match="rank 3 was lost"):  # noqa: PT012
        async for output in engine.outputs():
            said.append(output)  # noqa: PERF401 - what was said before it raised
    assert [(o.request_id, o.reason) for o in said] == [
        ("a", FinishReason.FAILED),
        ("b", FinishReason.FAILED),
    ]
    with pytest.raises(EngineDeadError):
        async for _ in engine.forward_passes():
            pass
    with pytest.raises(EngineDeadError):
        await engine.submit([a_request()])
    await engine.aclose()


async def test_tokens_avoid_specials_and_differ_by_seed():
    engine = SimulatedEngine(a_config(vocab_size=50, first_token_id=40))
    await engine.start()
    await engine.submit(
        [a_request(request_id=str(seed), rank=seed, max_tokens=100, seed=seed) for seed in (0, 1)]
    )
    said = [output for _, output in await until_finished(engine, num=2)]
    tokens = {
        seed: [t for o in said if o.request_id == seed and not isinstance(o, Finished) for t in o.token_ids]
        for seed in ("0", "1")
    }
    assert tokens["0"] != tokens["1"]
    assert {t for row in tokens.values() for t in row} == set(range(40, 50))
    await engine.aclose()


async def test_each_stream_can_be_read_once():
    engine = SimulatedEngine(a_config())
    engine.outputs()
    with pytest.raises(RuntimeError):
        engine.outputs()
    await engine.aclose()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"time_scale": 0}, "time_scale must be more than 0"),
        ({"preset": "h900"}, "unknown preset 'h900'"),
        ({"dp_size": 8, "kv_blocks_total": None}, "do not fit 8 GPUs"),
        ({"dp_size": 4, "ep_size": 6}, "multiple of dp_size"),
        ({"chunk_budget_tokens": 0}, "chunk_budget_tokens must be at least 1"),
        ({"first_token_id": 200000}, "first_token_id"),
    ],
)
def test_impossible_settings_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        SimulatedEngine(a_config(**overrides))


def test_kv_capacity_comes_from_the_hbm_unless_it_is_set():
    cost = PassCost(dp_size=16)
    assert a_config(kv_blocks_total=None).group_config(cost).kv_blocks_total == cost.kv_blocks_total(64)
    assert a_config(kv_blocks_total=77).group_config(cost).kv_blocks_total == 77

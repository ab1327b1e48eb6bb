"""The TensorRT-LLM engine over its double, beyond the contract: what must never reach the executor, and what must."""

import asyncio
import random
import time
from contextlib import asynccontextmanager

import pytest
import structlog

from doubles import trtllm
from hortator.worker.engine import (
    Admission,
    EngineDeadError,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassEnded,
    ForwardPassStarted,
    RankLoad,
    RequestMode,
    RequestRefusedError,
    Sampling,
)
from hortator.worker.engines.trtllm.watchdog import EXIT_CODE

PATIENCE_S = 10.0


class Bench:
    """An engine with both streams being read."""

    def __init__(self, engine, info):
        self.engine, self.info = engine, info
        self.double = engine.llm._double
        self.num_warm_up_passes = self.double.counters.passes
        self.tokens, self.ends, self.reports = {}, {}, []
        self.changed = asyncio.Event()
        self.readers = [asyncio.create_task(self.read_outputs()), asyncio.create_task(self.read_reports())]

    async def read_outputs(self):
        async for output in self.engine.outputs():
            if isinstance(output, Finished):
                self.ends[output.request_id] = output
            else:
                self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            self.changed.set()

    async def read_reports(self):
        async for report in self.engine.forward_passes():
            self.reports.append(report)
            self.changed.set()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def run(self, *requests):
        await self.engine.submit(requests)
        await self.until(lambda: all(request.request_id in self.ends for request in requests))
        return [self.ends[request.request_id] for request in requests]

    @property
    def used(self):
        return [load.kv_blocks_used for load in self.engine.rank_loads()]


@asynccontextmanager
async def opened(version="1.2.1", *, time_scale=trtllm.TIME_SCALE, fault="", **options):
    trtllm.emulate(version, time_scale=time_scale, fault=fault)
    exits = trtllm.Exits()
    engine = trtllm.engine(exits=exits, **options)
    bench = Bench(engine, await engine.start())
    bench.exits = exits
    try:
        yield bench
    finally:
        await engine.aclose()
        await asyncio.gather(*bench.readers, return_exceptions=True)


def a_request(name, prompt=20, *, rank=0, max_tokens=4, **options):
    return EngineRequest(
        request_id=name,
        dp_rank=rank,
        prompt_token_ids=tuple(range(3, 3 + prompt)),
        sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
        **options,
    )


@pytest.fixture(params=trtllm.VERSIONS)
def version(request):
    return request.param


# Capabilities


async def test_everything_looked_for_is_logged_as_found_or_missing(version):
    with structlog.testing.capture_logs() as logs:
        async with opened(version):
            pass
    lines = {log["what"]: log["event"].split()[0] for log in logs if "what" in log}
    is_newer = version != "1.2.1"
    newer = {
        "LLM._check_health",
        "LLM.get_kv_cache_capacity",
        "statistics over RPC",
        "statistics rows with a rank",
    }
    assert newer < set(lines)
    assert {what for what, event in lines.items() if event == "missing"} == (set() if is_newer else newer)


@pytest.mark.parametrize(
    ("phase", "admission", "lead"),
    [
        ("prefill", Admission.ATOMIC, 0),
        ("decode", Admission.BEST_EFFORT, 1),
        ("aggregated", Admission.BEST_EFFORT, 1),
    ],
)
async def test_a_phase_decides_how_batches_enter(phase, admission, lead):
    async with opened(phase=phase) as bench:
        assert (bench.info.admission, bench.info.admission_lead_passes) == (admission, lead)
        args = bench.engine.llm.args
        assert args.disable_overlap_scheduler is (phase == "prefill")
        assert args.batch_wait_timeout_ms == (3.0 if phase == "prefill" else 0.0)
        assert (args.cache_transceiver_config is None) is (phase == "aggregated")


async def test_kv_blocks_are_what_the_engine_says_and_not_what_was_asked_for(version):
    async with opened(version, llm_args={"kv_cache_config": {"max_tokens": 48 * 16}}) as bench:
        assert bench.info.kv_blocks_total == 48


async def test_without_salts_prompts_of_tenants_cannot_be_kept_apart_so_nothing_is_reused(monkeypatch):
    trtllm.emulate("1.2.1")
    import tensorrt_llm

    def generate_async(
        self, inputs, sampling_params=None, streaming=False, disaggregated_params=None, scheduling_params=None
    ):
        return self._generate(inputs, sampling_params, disaggregated_params, scheduling_params, None)

    monkeypatch.setattr(tensorrt_llm.LLM, "generate_async", generate_async)
    async with opened() as bench:
        assert not bench.info.prefix_cache
        assert not bench.engine.llm.args.kv_cache_config.enable_block_reuse
        assert (await bench.run(a_request("r", 60, block_hashes=(1, 2, 3))))[0].reason is FinishReason.LENGTH


async def test_a_model_that_is_not_there_is_named():
    with pytest.raises(EngineDeadError, match=r"model: /no/such is not a folder in this container"):
        async with opened(model="/no/such"):
            pass


async def test_a_failed_start_says_what_helps():
    with pytest.raises(EngineDeadError, match=r"CUDA out of memory.*more GPUs"):
        async with opened(fault="construct:CUDA out of memory. Tried to allocate 2 GiB"):
            pass


async def test_latent_attention_with_chunked_prefill_needs_a_word(tmp_path):
    (tmp_path / "config.json").write_text('{"kv_lora_rank": 512}')
    with pytest.raises(EngineDeadError, match="chunkedPrefill: false"):
        async with opened(model=str(tmp_path)):
            pass
    async with opened(model=str(tmp_path), chunked_prefill_on_mla=True) as bench:
        assert bench.info.chunked_prefill


async def test_a_model_says_its_own_sizes(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"vocab_size": 777, "max_position_embeddings": 512, "eos_token_id": [5, 6]}'
    )
    async with opened(model=str(tmp_path), vocab_size=None, max_seq_len=None, end_id=None) as bench:
        assert (bench.info.vocab_size, bench.info.max_sequence_tokens) == (777, 512)
        assert not bench.info.tokenizer_files


async def test_a_model_brings_its_tokenizer(tmp_path):
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).write_text("{}")
    async with opened(model=str(tmp_path)) as bench:
        assert [file.name for file in bench.info.tokenizer_files] == ["tokenizer.json", "chat_template.jinja"]


# Placement


async def test_a_rank_that_does_not_exist_never_reaches_the_executor():
    """There it would be an IndexError in the loop, or wrap: the engine lives on."""
    async with opened() as bench:
        for rank in (-1, 2):
            with pytest.raises(RequestRefusedError):
                await bench.engine.submit([a_request("bad", rank=rank)])
        assert (await bench.run(a_request("good", rank=1)))[0].reason is FinishReason.LENGTH


async def test_requests_land_on_the_rank_they_were_placed_on(version):
    async with opened(version) as bench:
        await bench.engine.submit([a_request(f"r{i}", rank=1, max_tokens=30) for i in range(4)])
        await bench.until(lambda: "r3" in bench.tokens)
        assert [rank.batch_size for rank in bench.double.model.ranks] == [0, 4]


async def test_a_batch_that_finds_the_engine_idle_is_split_without_a_wait_and_that_is_counted():
    async with opened(phase="aggregated") as bench:
        await bench.run(*(a_request(f"r{i}", rank=i % 2, max_tokens=2) for i in range(4)))
        assert [len(ids) for ids in bench.double.counters.first_passes if ids][-2:] != [4]
        assert bench.engine.num_split_batches > 0


async def test_a_batch_that_finds_a_prefill_engine_idle_is_in_one_pass(version):
    async with opened(version) as bench:
        await bench.run(*(a_request(f"r{i}", rank=i % 2, max_tokens=2) for i in range(4)))
        assert bench.engine.num_split_batches == 0
        ended = [report for report in bench.reports if isinstance(report, ForwardPassEnded)]
        assert [rank.pass_prefill_tokens for rank in ended[0].ranks] == [40, 40]


async def test_passes_of_ranks_are_compared_with_rows_that_have_ranks():
    async with opened("1.3.0rc20") as bench:
        await bench.run(*(a_request(f"r{i}", 30 + i, rank=i % 2, max_tokens=9) for i in range(6)))
        await asyncio.sleep(0.05)
        assert bench.engine.rank_mismatches == 0
        bench.engine._tracker._recent = dict.fromkeys(bench.engine._tracker._recent, (7, 7))
        row = {"iter": bench.double.model.forward_pass_id, "attentionDpRank": 1, "inflightBatchingStats": {}}
        bench.double.statistics.put(row)
        await asyncio.sleep(0.1)
        assert bench.engine.rank_mismatches == 1


POISON = 7777


def a_row_of_poison(iteration, **tag):
    """Every figure that a row can have, in one that no rank here ever has."""
    kv = dict.fromkeys(
        ("maxNumBlocks", "freeNumBlocks", "usedNumBlocks", "allocTotalBlocks", "reusedBlocks"), POISON
    )
    names = (
        "numScheduledRequests", "numContextRequests", "numGenRequests", "numPausedRequests", "numCtxTokens",
        "numCtxKvTokens", "numGenKvTokens", "numQueuedContextRequests", "numQueuedCtxTokens", "numQueuedGenRequests",
    )  # fmt: skip
    row = dict.fromkeys(
        ("numActiveRequests", "numQueuedRequests", "numNewActiveRequests", "iterLatencyMS"), POISON
    )
    batching = dict.fromkeys(names, POISON)
    return row | tag | {"iter": iteration, "kvCacheStats": kv, "inflightBatchingStats": batching}


@pytest.mark.parametrize("tag", [{}, {"attentionDpRank": 0}, {"attentionDpRank": 1}, {"rank": 0}])
async def test_no_statistic_of_rank_0_is_ever_shown_as_another_ranks(version, tag):
    """Untagged rows are rank 0's; tagged ones carry copies of rank 0's figures. Nothing of them is in what is reported."""
    async with opened(version) as bench:
        running = [a_request(f"r{i}", 30, rank=i % 2, max_tokens=40) for i in range(6)]
        await bench.engine.submit(running)
        shown = []
        while len(bench.ends) < len(running):
            bench.double.statistics.put(a_row_of_poison(bench.double.model.forward_pass_id, **tag))
            shown += bench.engine.rank_loads()
            await asyncio.sleep(0.002)
        shown += bench.engine.rank_loads()
        shown += [rank for report in bench.reports for rank in report.ranks]
    assert len(shown) > 100
    of_others = [rank for rank in shown if rank.dp_rank != 0]
    figures = [getattr(rank, name) for rank in of_others for name in RankLoad.__slots__]
    assert [figure for figure in figures if isinstance(figure, int | float) and figure >= POISON] == []
    assert {rank.batch_size for rank in of_others} <= {0, 1, 2, 3}


async def test_passes_without_tokens_are_seen_by_rows(version):
    """A prompt of ten chunks alone: nine passes give no token."""
    async with opened(version) as bench:
        await bench.engine.submit([a_request("long", 640, max_tokens=1)])
        await bench.until(lambda: sum(isinstance(r, ForwardPassEnded) for r in bench.reports) >= 3)
        assert "long" not in bench.ends
        await bench.until(lambda: "long" in bench.ends)
        await bench.until(lambda: isinstance(bench.reports[-1], ForwardPassEnded))
        prefills = [r.ranks[0].pass_prefill_tokens for r in bench.reports if isinstance(r, ForwardPassEnded)]
        assert prefills == [64] * 10


# Hand-over


async def prefilled(bench, name, **options):
    request = a_request(name, 50, max_tokens=10, mode=RequestMode.PREFILL_ONLY, **options)
    (end,) = await bench.run(request)
    assert end.reason is FinishReason.PREFILLED
    return b"".join([chunk async for chunk in bench.engine.export_kv(name)])


def decoding(bench, name, payload, **options):
    return a_request(
        name,
        50,
        max_tokens=10,
        mode=RequestMode.DECODE_ONLY,
        prior_output_ids=tuple(bench.tokens["p"]),
        kv_payload=payload,
        **options,
    )


async def test_kv_travels_from_engine_to_engine_and_is_freed_where_it_was(version):
    async with opened(version) as prefill, opened(version, phase="decode") as decode:
        payload = await prefilled(prefill, "p")
        assert prefill.double.model.ranks[0].kv.used > 0
        await prefill.engine.release_kv("p")
        await asyncio.sleep(0.02)
        assert prefill.double.model.ranks[0].kv.used > 0  # not pulled yet: nobody may free it
        (end,) = await decode.run(decoding(prefill, "d", payload))
        assert (end.reason, len(decode.tokens["d"])) == (FinishReason.LENGTH, 9)
        assert 0 < decode.engine.last_transfer_s < PATIENCE_S
        assert prefill.double.model.ranks[0].kv.used == 0


async def test_kv_that_nobody_asked_for_is_cancelled_in_the_engine(version):
    async with opened(version) as bench:
        await bench.run(a_request("p", 50, max_tokens=10, mode=RequestMode.PREFILL_ONLY))
        await bench.engine.release_kv("p")
        assert bench.used == [0, 0]
        await bench.run(a_request("next"))
        assert bench.double.model.ranks[0].kv.used == 0


async def test_a_request_cancelled_while_its_kv_travels_ends_at_once_and_the_engine_hears_of_it_later(
    version,
):
    """An abort before the first token wedges the executor."""
    async with opened(version) as prefill, opened(version, phase="decode", time_scale=0.2) as decode:
        payload = await prefilled(prefill, "p")
        await decode.engine.submit([decoding(prefill, "d", payload)])
        await decode.engine.abort("d")
        assert decode.engine.rank_loads()[0].kv_blocks_used > 0
        await decode.until(lambda: "d" in decode.ends)
        assert decode.ends["d"].reason is FinishReason.ABORTED
        async with asyncio.timeout(PATIENCE_S):
            while decode.used != [0, 0]:
                await asyncio.sleep(0.005)
        assert decode.double.counters.aborted_in_transfer == 0
        assert "d" not in decode.tokens
        assert (await decode.run(a_request("after")))[0].reason is FinishReason.LENGTH


async def test_kv_that_does_not_come_fails_its_request_and_nothing_else(version):
    async with (
        opened(version) as prefill,
        opened(version, phase="decode", time_scale=0.3, transfer_timeout_s=0.0005) as decode,
    ):
        payload = await prefilled(prefill, "p")
        (end,) = await decode.run(decoding(prefill, "d", payload))
        assert (end.reason, end.message) == (FinishReason.FAILED, "its KV did not arrive within 0.0005 s")
        assert (await decode.run(a_request("after", max_tokens=2)))[0].reason is FinishReason.LENGTH


async def test_an_engine_that_leaves_out_the_first_token_is_found_out(monkeypatch):
    """Whether outputs of generation_only begin with what prefill sampled is a guess of the double."""
    trtllm.emulate("1.2.1")
    from tensorrt_llm import _executor

    send = _executor.Executor._send

    def without_first(self, sequence, response):
        disagg = sequence.submitted.disagg
        if disagg is not None and disagg.request_type == "generation_only":
            first = disagg.first_gen_tokens
            if response.tokens[: len(first)] == first:
                response.tokens = response.tokens[len(first) :]
        send(self, sequence, response)

    async with opened() as prefill, opened(phase="decode") as decode:
        whole = await decode.run(a_request("whole", 50, max_tokens=10))
        payload = await prefilled(prefill, "p")
        monkeypatch.setattr(_executor.Executor, "_send", without_first)
        await decode.run(decoding(prefill, "d", payload))
        assert prefill.tokens["p"] + decode.tokens["d"] == decode.tokens["whole"]
        assert whole[0].num_output_tokens == 10


# Errors and death


async def test_an_error_of_one_request_ends_that_request_alone():
    async with opened() as bench:
        await bench.engine.submit([a_request("bad", max_tokens=200), a_request("good", max_tokens=40)])
        await bench.until(lambda: "bad" in bench.tokens)
        from tensorrt_llm.executor.utils import RequestError

        bench.engine._live["bad"].result._put(RequestError("no such adapter"))
        await bench.until(lambda: "good" in bench.ends)
        assert bench.ends["bad"].reason is FinishReason.FAILED
        assert bench.ends["bad"].message == "no such adapter"
        assert bench.ends["good"].reason is FinishReason.LENGTH


async def death(bench, name):
    async with asyncio.timeout(PATIENCE_S):
        raised = await asyncio.gather(*bench.readers, return_exceptions=True)
    assert [type(error) for error in raised] == [EngineDeadError, EngineDeadError]
    assert bench.ends[name].reason is FinishReason.FAILED
    return str(raised[0])


@pytest.mark.parametrize("fault", ["hang:8", "fatal:8"])
async def test_an_engine_that_hangs_or_fails_is_dead(version, fault):
    async with opened(version, fault=fault, no_progress_timeout_s=0.3) as bench:
        await bench.engine.submit([a_request("r", max_tokens=100)])
        why = await death(bench, "r")
        assert ("no progress" in why) if fault == "hang:8" else ("illegal memory access" in why)
        with pytest.raises(EngineDeadError):
            await bench.engine.submit([a_request("late")])


async def test_a_fatal_error_kills_an_idle_engine_and_the_process_is_ended_by_force(version):
    async with opened(version) as bench:
        await bench.run(a_request("r"))
        bench.double.die(RuntimeError("rank 1 was lost"))
        assert "rank 1 was lost" in await death_of_idle(bench)
        async with asyncio.timeout(PATIENCE_S):
            while not bench.exits:
                await asyncio.sleep(0.01)
        assert set(bench.exits) == {EXIT_CODE}


async def death_of_idle(bench):
    async with asyncio.timeout(PATIENCE_S):
        raised = await asyncio.gather(*bench.readers, return_exceptions=True)
    return str(raised[0])


async def test_an_idle_engine_is_not_dead_however_long():
    async with opened(no_progress_timeout_s=0.05) as bench:
        await bench.run(a_request("r"))
        await asyncio.sleep(0.2)
        assert (await bench.run(a_request("again")))[0].reason is FinishReason.LENGTH


async def test_a_shutdown_that_hangs_is_left_behind_and_the_process_is_ended(monkeypatch):
    async with opened(shutdown_timeout_s=0.1) as bench:
        monkeypatch.setattr(type(bench.engine.llm), "shutdown", lambda _: time.sleep(0.5), raising=False)
        began = time.monotonic()
        await bench.engine.aclose()
        assert time.monotonic() - began < 0.45
        async with asyncio.timeout(PATIENCE_S):
            while not bench.exits:
                await asyncio.sleep(0.01)


# Anything, in any order


@pytest.mark.parametrize(("version", "phase"), [("1.2.1", "aggregated"), ("1.3.0rc20", "prefill")])
async def test_whatever_is_submitted_and_cancelled_ends_once_and_leaves_nothing(version, phase):
    rng = random.Random(7)
    async with opened(version, phase=phase, kv_blocks=40) as bench:
        names = []
        for step in range(12):
            batch = []
            for i in range(rng.randrange(2, 6)):
                prompt, salt = rng.randrange(1, 300), rng.randrange(3)  # all prompts begin alike
                batch.append(
                    a_request(
                        f"{step}.{i}",
                        prompt,
                        rank=rng.randrange(2),
                        max_tokens=rng.randrange(1, 40),
                        block_hashes=tuple(1000 * salt + block for block in range(prompt // 16))
                        if salt
                        else (),
                    )
                )
            await bench.engine.submit(batch)
            names += [request.request_id for request in batch]
            for name in rng.sample(names, 2):
                if rng.random() < 0.5:
                    await bench.engine.abort(name)
            await asyncio.sleep(rng.random() * 0.01)
        await bench.until(lambda: all(name in bench.ends for name in names))
        async with asyncio.timeout(PATIENCE_S):
            while bench.used != [0, 0] or bench.engine._aborting or bench.double.model.num_live:
                await asyncio.sleep(0.002)
        loads = bench.engine.rank_loads()
        assert [(load.batch_size, load.num_waiting, load.prefill_load_tokens) for load in loads] == [
            (0, 0, 0)
        ] * 2
        for name in names:
            assert bench.ends[name].num_output_tokens == len(bench.tokens.get(name, ()))
        kinds = [type(report) for report in bench.reports]
        assert kinds[::2] == [ForwardPassStarted] * len(kinds[::2])
        assert kinds[1::2] == [ForwardPassEnded] * len(kinds[1::2])
        ended = bench.engine._tracker.books.num_ended
        assert abs(ended - (bench.double.counters.passes - bench.num_warm_up_passes)) <= 3  # of about 150

"""What an Engine is: every rule of `hortator.worker.engine`, over every engine.

To add an engine, write a function from `Limits` to an engine and give it a line in `ENGINES`, with a way to
make it die. It may `pytest.skip` limits it cannot have. One engine per kind is shared by most tests (starting one may take
seconds), so each test uses its own request ids and leaves nothing running; tests that need other limits, or
close the engine, open their own.
"""

import asyncio
import itertools
import os
import random
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from hortator.worker.engine import (
    Admission,
    EngineDeadError,
    EngineInfo,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassEnded,
    ForwardPassStarted,
    RequestMode,
    RequestRefusedError,
    Sampling,
    TokenChunk,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONGER = 20.0
PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the tests ask of an engine."""

    dp_size: int = 2
    chunk_budget_tokens: int = 64
    chunked_prefill: bool = True
    max_batch_size: int = 8
    kv_blocks_total: int = 64
    tokens_per_block: int = 16
    admission_lead_passes: int = 0


def simulated(limits):
    from hortator.worker.engines.simulated.config import SimulatedConfig
    from hortator.worker.engines.simulated.engine import SimulatedEngine

    return SimulatedEngine(
        SimulatedConfig(
            dp_size=limits.dp_size,
            chunk_budget_tokens=limits.chunk_budget_tokens,
            chunked_prefill=limits.chunked_prefill,
            max_batch_size=limits.max_batch_size,
            kv_blocks_total=limits.kv_blocks_total,
            tokens_per_block=limits.tokens_per_block,
            admission_lead_passes=limits.admission_lead_passes,
            max_sequence_tokens=1024,
            vocab_size=2048,
            time_scale=0.05,
        )
    )


def torch_moe(limits):
    from hortator.worker.engines.torch_moe.config import TorchMoEConfig
    from hortator.worker.engines.torch_moe.engine import TorchMoEEngine

    if not limits.chunked_prefill:
        pytest.skip("torch_moe always chunks prefill")
    return TorchMoEEngine(
        TorchMoEConfig(
            dp_size=limits.dp_size,
            chunk_budget_tokens=limits.chunk_budget_tokens,
            max_batch_size=limits.max_batch_size,
            kv_blocks=limits.kv_blocks_total,
            tokens_per_block=limits.tokens_per_block,
        )
    )


def simulated_ahead(limits):
    """As an overlap scheduler does it: the next batch is fetched when a pass starts."""
    return simulated(replace(limits, admission_lead_passes=1))


def trtllm(version, phase, limits):
    from doubles.trtllm import emulate, engine

    emulate(version)
    return engine(
        phase=phase,
        tensor_parallel_size=limits.dp_size,
        max_num_tokens=limits.chunk_budget_tokens,
        enable_chunked_prefill=limits.chunked_prefill,
        max_batch_size=limits.max_batch_size,
        kv_blocks=limits.kv_blocks_total,
        tokens_per_block=limits.tokens_per_block,
        llm_args={"cache_transceiver_config": {"backend": "UCX"}}
        | ({"batch_wait_timeout_ms": 0.3} if phase == "prefill" else {}),
    )


def trtllm_prefill(limits):
    return trtllm("1.2.1", "prefill", limits)


def trtllm_aggregated(limits):
    """A newer line, with the overlap scheduler."""
    return trtllm("1.3.0rc20", "aggregated", limits)


def lose_a_double_rank(engine):
    engine.llm._double.die(RuntimeError("rank 1 was lost"))


def lose_a_rank(engine):
    engine.fail("rank 1 was lost")


def kill_a_rank(engine):
    os.kill(engine.rank_pids[1], signal.SIGKILL)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An engine of the suite."""

    build: Callable[[Limits], Any]
    kill: Callable[[Any], None]
    """Make it die as a whole; returns before it has."""
    admission_lead_passes: int = 0
    """What it must declare."""
    admission: Admission = Admission.ATOMIC
    """The same. BEST_EFFORT: an idle engine may take a batch in two passes."""


ENGINES = [
    pytest.param(Kind(build=simulated, kill=lose_a_rank), id="simulated"),
    pytest.param(
        Kind(build=simulated_ahead, kill=lose_a_rank, admission_lead_passes=1), id="simulated, one pass ahead"
    ),
    pytest.param(Kind(build=trtllm_prefill, kill=lose_a_double_rank), id="tensorrt_llm 1.2.1, prefill"),
    pytest.param(
        Kind(
            build=trtllm_aggregated,
            kill=lose_a_double_rank,
            admission_lead_passes=1,
            admission=Admission.BEST_EFFORT,
        ),
        id="tensorrt_llm 1.3.0rc20, aggregated",
    ),
    pytest.param(Kind(build=torch_moe, kill=kill_a_rank), id="torch_moe", marks=pytest.mark.torch),
]


# The other side of the port: reads both streams and remembers everything


@dataclass
class Transcript:
    """All that was said about one request."""

    chunks: list[TokenChunk] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tokens(self):
        return [token for chunk in self.chunks for token in chunk.token_ids]

    @property
    def end(self):
        assert len(self.finished) == 1, self.finished
        return self.finished[0]


class Bench:
    """A started engine with both of its streams being read."""

    def __init__(self, engine, info: EngineInfo):
        self.engine = engine
        self.info = info
        self.transcripts: dict[str, Transcript] = {}
        self.refused: dict[str, Transcript] = {}
        self.reports = []
        self._ids = itertools.count()
        self._readers = [asyncio.create_task(self._read_outputs()), asyncio.create_task(self._read_reports())]

    async def _read_outputs(self):
        async for output in self.engine.outputs():
            transcript = self.transcripts.get(output.request_id) or self.refused[output.request_id]
            match output:
                case TokenChunk():
                    assert not transcript.finished, "a token after the end"
                    transcript.chunks.append(output)
                case Finished():
                    transcript.finished.append(output)
            transcript.changed.set()

    async def _read_reports(self):
        async for report in self.engine.forward_passes():
            self.reports.append(report)

    def ended(self, since=0):
        return [report for report in self.reports[since:] if isinstance(report, ForwardPassEnded)]

    def a_request(self, prompt=20, *, max_tokens=4, rank=0, **options):
        """`prompt` is a number of tokens (seeded by it) or the tokens."""
        if isinstance(prompt, int):
            rng = random.Random(prompt)
            prompt = [rng.randrange(3, self.info.vocab_size) for _ in range(prompt)]
        sampling = options.pop("sampling", None) or Sampling(max_tokens=max_tokens, ignore_eos=True)
        return EngineRequest(
            request_id=options.pop("request_id", f"request-{next(self._ids)}"),
            dp_rank=rank,
            prompt_token_ids=tuple(prompt),
            sampling=sampling,
            **options,
        )

    async def submit(self, *requests):
        for request in requests:
            self.transcripts[request.request_id] = Transcript()
        try:
            await self.engine.submit(requests)
        except RequestRefusedError:
            self.refused.update({r.request_id: self.transcripts.pop(r.request_id) for r in requests})
            raise
        return [self.transcripts[request.request_id] for request in requests]

    async def until(self, transcript, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                transcript.changed.clear()
                await transcript.changed.wait()

    async def run(self, *requests):
        """Submit as one batch and wait for every end."""
        transcripts = await self.submit(*requests)
        for transcript in transcripts:
            await self.until(transcript, lambda t=transcript: t.finished)
        return transcripts

    async def run_one(self, request):
        return (await self.run(request))[0]

    async def settle(self):
        """Wait until the last pass is reported as ended and nothing is held."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_idle():
                await asyncio.sleep(0.002)

    def is_idle(self):
        is_open = bool(self.reports) and isinstance(self.reports[-1], ForwardPassStarted)
        loads = self.engine.rank_loads()
        return not is_open and not any(load.batch_size or load.num_waiting for load in loads)

    async def export(self, request_id):
        return [chunk async for chunk in self.engine.export_kv(request_id)]

    async def close(self):
        await self.engine.aclose()
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.gather(*self._readers, return_exceptions=True)


@asynccontextmanager
async def opened(build, limits):
    engine = build(limits)
    bench = Bench(engine, await engine.start())
    try:
        yield bench
    finally:
        await bench.close()


@pytest.fixture(scope="module", params=ENGINES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def build(kind):
    return kind.build


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(build):
    async with opened(build, Limits()) as bench:
        yield bench


@pytest_asyncio.fixture(loop_scope="module")
async def bench(shared):
    """The shared engine; each test leaves it idle with all KV blocks free, and every request ended once."""
    yield shared
    await shared.settle()
    assert all(load.kv_blocks_used == 0 for load in shared.engine.rank_loads())
    assert all(load.prefill_load_tokens == 0 for load in shared.engine.rank_loads())
    for request_id, transcript in shared.transcripts.items():
        assert len(transcript.finished) == 1, request_id
    for request_id, transcript in shared.refused.items():
        assert not transcript.chunks, request_id
        assert not transcript.finished, request_id
    shared.transcripts.clear()


def hashes_of(prompt, tokens_per_block, salt=0):
    """Chained hash of each full block, as the gateway computes them (any 64-bit function will do)."""
    hashes, chain = [], salt
    for end in range(tokens_per_block, len(prompt) + 1, tokens_per_block):
        chain = hash((chain, tuple(prompt[end - tokens_per_block : end]))) & (2**63 - 1)
        hashes.append(chain)
    return tuple(hashes)


# What is declared


async def test_info_declares_the_limits_asked_for(bench, kind):
    info, limits = bench.info, Limits()
    assert (info.dp_size, info.chunk_budget_tokens) == (limits.dp_size, limits.chunk_budget_tokens)
    assert (info.kv_blocks_total, info.tokens_per_block) == (limits.kv_blocks_total, limits.tokens_per_block)
    assert info.max_batch_size == limits.max_batch_size
    assert info.ep_size % info.dp_size == 0
    assert info.admission is kind.admission  # ATOMIC: what the tests of rule 1 demand
    assert info.admission_lead_passes == kind.admission_lead_passes
    assert info.model_name
    assert min(info.vocab_size, info.max_sequence_tokens) > 0


# Rule 1: submit is atomic


async def test_a_batch_is_in_before_the_next_pass_is_formed(bench):
    if bench.info.admission is Admission.BEST_EFFORT:
        pytest.skip("an idle engine may take a batch in two passes, and says so")
    since = len(bench.reports)
    await bench.run(*(bench.a_request(10 + i, rank=i % 2) for i in range(4)))
    first = bench.ended(since)[0]
    assert [rank.pass_prefill_tokens for rank in first.ranks] == [10 + 12, 11 + 13]


async def test_a_batch_submitted_during_a_pass_runs_in_one_later_pass(bench):
    (busy,) = await bench.submit(bench.a_request(20, max_tokens=40))
    await bench.until(busy, lambda: busy.chunks)
    since = len(bench.reports)
    await bench.run(bench.a_request(30, rank=0), bench.a_request(31, rank=1))
    prefills = [report for report in bench.ended(since) if any(r.pass_prefill_tokens for r in report.ranks)]
    assert [[rank.pass_prefill_tokens for rank in report.ranks] for report in prefills] == [[30, 31]]
    await bench.until(busy, lambda: busy.finished)


@contextmanager
def longer_passes(engine):
    """A double's passes are shorter than a turn of the event loop on a busy machine: make them longer."""
    double = getattr(getattr(engine, "llm", None), "_double", None)
    if double is not None:
        double.time_scale *= LONGER
    try:
        yield
    finally:
        if double is not None:
            double.time_scale /= LONGER


async def test_a_batch_submitted_during_a_pass_runs_in_the_next_one_or_as_many_later_as_are_declared(bench):
    """`admission_lead_passes` 1: the next pass was put together when the current one started."""
    with longer_passes(bench.engine):
        await its_passes_are_as_declared(bench)


async def its_passes_are_as_declared(bench):
    request = bench.a_request(20, max_tokens=400)
    await bench.submit(request)
    expected = found = None
    for _ in range(20):  # once more where a pass ended just then
        async with asyncio.timeout(PATIENCE_S):
            while not (bench.reports and isinstance(bench.reports[-1], ForwardPassStarted)):
                await asyncio.sleep(0)
        since = len(bench.reports)
        running = bench.reports[-1].forward_pass_id
        (joins,) = await bench.submit(bench.a_request(30, max_tokens=1))
        for _ in range(3):
            await asyncio.sleep(0)
        is_same_pass = len(bench.reports) == since
        await bench.until(joins, lambda j=joins: j.finished)
        if is_same_pass:
            await bench.engine.abort(request.request_id)
            await bench.settle()
            expected = running + 1 + bench.info.admission_lead_passes
            found = [r.forward_pass_id for r in bench.ended(since) if r.ranks[0].pass_prefill_tokens == 30]
            break
    assert found == [expected]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"rank": -1}, "dp_rank"),
        ({"rank": 2}, "dp_rank"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 1500}, "prompt"),  # more than a sequence may have
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
async def test_a_batch_with_an_impossible_request_is_refused_as_a_whole(bench, change, where):
    since = len(bench.reports)
    good, bad = bench.a_request(), bench.a_request(**change)
    with pytest.raises(RequestRefusedError) as refusal:
        await bench.submit(good, bad)
    assert (refusal.value.request_id, refusal.value.field) == (bad.request_id, where)
    assert all(load.num_waiting == 0 for load in bench.engine.rank_loads())
    await bench.run(bench.a_request(5))  # the next request runs alone
    assert sum(rank.pass_prefill_tokens for report in bench.ended(since) for rank in report.ranks) == 5


async def test_a_request_that_can_never_have_its_blocks_is_refused(build):
    async with opened(build, Limits(kv_blocks_total=4)) as bench:  # 64 tokens
        with pytest.raises(RequestRefusedError) as refusal:
            await bench.submit(bench.a_request(30, max_tokens=100))
        assert refusal.value.field in {"prompt", "max_tokens"}
        assert (await bench.run_one(bench.a_request(30, max_tokens=30))).end.reason is FinishReason.LENGTH


async def test_a_request_id_is_live_once(bench):
    first = bench.a_request(max_tokens=30)
    (transcript,) = await bench.submit(first)
    with pytest.raises(RequestRefusedError) as refusal:
        await bench.engine.submit([bench.a_request(request_id=first.request_id)])
    assert refusal.value.field == "request_id"
    await bench.until(transcript, lambda: transcript.finished)
    assert len(transcript.tokens) == 30


# Rules 2 and 3: tokens in order, one end


async def test_tokens_come_in_order_and_then_one_end(bench):
    transcript = await bench.run_one(bench.a_request(50, max_tokens=17, attempt=3))
    position = 0
    for chunk in transcript.chunks:
        assert (chunk.token_index, chunk.attempt) == (position, 3)
        position += len(chunk.token_ids)
    assert position == 17
    assert all(0 <= token < bench.info.vocab_size for token in transcript.tokens)
    end = transcript.end
    assert (end.reason, end.num_output_tokens, end.attempt) == (FinishReason.LENGTH, 17, 3)


async def test_a_resumed_request_goes_on_where_the_last_attempt_stopped(bench):
    whole = await bench.run_one(bench.a_request(40, max_tokens=12))
    resumed = await bench.run_one(
        bench.a_request(40, max_tokens=12, rank=1, prior_output_ids=tuple(whole.tokens[:5]), attempt=1)
    )
    assert resumed.chunks[0].token_index == 5
    assert resumed.tokens == whole.tokens[5:]
    assert resumed.end.num_output_tokens == 12


async def test_min_tokens_counts_the_tokens_of_earlier_attempts(bench):
    """A stop token before the sixth is none, whichever attempt it falls into."""
    free = await bench.run_one(bench.a_request(40, max_tokens=12))
    sampling = Sampling(max_tokens=12, min_tokens=6, ignore_eos=True, stop_token_ids=tuple(free.tokens))
    whole = await bench.run_one(bench.a_request(40, sampling=sampling))
    assert whole.end.num_output_tokens >= 6
    for num_prior in (2, 5):
        prior = tuple(whole.tokens[:num_prior])
        resumed = await bench.run_one(
            bench.a_request(40, sampling=sampling, prior_output_ids=prior, attempt=1)
        )
        assert resumed.tokens == whole.tokens[num_prior:]
        assert (resumed.end.reason, resumed.end.num_output_tokens) == (
            whole.end.reason,
            whole.end.num_output_tokens,
        )


async def test_a_resumed_request_with_nothing_left_ends_at_once(bench):
    transcript = await bench.run_one(bench.a_request(40, max_tokens=3, prior_output_ids=(5, 6, 7)))
    assert transcript.chunks == []
    assert (transcript.end.reason, transcript.end.num_output_tokens) == (FinishReason.LENGTH, 3)


async def test_output_ends_at_the_sequence_limit(build):
    async with opened(build, Limits()) as bench:
        room = 6
        prompt = bench.info.max_sequence_tokens - room
        if prompt > Limits().kv_blocks_total * Limits().tokens_per_block - room:
            pytest.skip("the KV cache is smaller than a sequence")
        transcript = await bench.run_one(bench.a_request(prompt, max_tokens=1000))
        assert transcript.end.reason is FinishReason.LENGTH
        assert len(transcript.tokens) == transcript.end.num_output_tokens == room


async def test_tokens_depend_on_seed_and_position_not_on_company_or_rank(bench):
    def dice(rank):
        return bench.a_request(
            30, rank=rank, sampling=Sampling(max_tokens=10, temperature=1.0, seed=7, ignore_eos=True)
        )

    alone = await bench.run_one(dice(0))
    company = [bench.a_request(n, rank=n % 2, max_tokens=15) for n in (10, 21, 32)]
    _, _, _, again = await bench.run(*company, dice(1))
    assert again.tokens == alone.tokens


async def test_a_stop_token_is_the_last_one(bench):
    tokens = (await bench.run_one(bench.a_request(30, max_tokens=12))).tokens
    stop = tokens[7]
    expected = tokens[: tokens.index(stop) + 1]
    sampling = Sampling(max_tokens=12, stop_token_ids=(stop,), ignore_eos=True)
    transcript = await bench.run_one(bench.a_request(30, sampling=sampling))
    assert transcript.tokens == expected
    assert transcript.end.reason is FinishReason.STOP
    assert transcript.end.num_output_tokens == len(expected)


async def test_many_requests_over_all_limits_each_end_once(bench):
    requests = [bench.a_request(5 + 7 * i, rank=i % 2, max_tokens=1 + i % 9) for i in range(40)]
    since = len(bench.reports)
    transcripts = await bench.run(*requests)
    await bench.settle()
    assert [len(t.tokens) for t in transcripts] == [request.sampling.max_tokens for request in requests]
    for report in bench.reports[since:]:
        for rank in report.ranks:
            assert rank.batch_size <= bench.info.max_batch_size
            assert rank.kv_blocks_used <= bench.info.kv_blocks_total


# Rule 4: abort


async def test_aborting_a_running_request_ends_it_within_a_pass_and_frees_its_blocks(bench):
    request = bench.a_request(40, max_tokens=500)
    (transcript,) = await bench.submit(request)
    await bench.until(transcript, lambda: len(transcript.chunks) >= 2)
    assert bench.engine.rank_loads()[0].kv_blocks_used > 0
    since = len(bench.reports)
    await bench.engine.abort(request.request_id)
    await bench.until(transcript, lambda: transcript.finished)
    assert len(bench.ended(since)) <= 1
    assert transcript.end.reason is FinishReason.ABORTED
    assert transcript.end.num_output_tokens == len(transcript.tokens)
    await bench.settle()
    assert bench.engine.rank_loads()[0].kv_blocks_used == 0


async def test_aborting_in_the_middle_of_a_long_prefill_ends_it(build):
    async with opened(build, Limits(chunk_budget_tokens=16)) as bench:
        request = bench.a_request(960, max_tokens=5)  # sixty passes
        since = len(bench.reports)
        (transcript,) = await bench.submit(request)
        async with asyncio.timeout(PATIENCE_S):
            while not bench.ended(since):
                await asyncio.sleep(0.001)
        await bench.engine.abort(request.request_id)
        await bench.until(transcript, lambda: transcript.finished)
        await bench.settle()
        assert len(bench.ended(since)) < 60
        assert (transcript.end.reason, transcript.chunks) == (FinishReason.ABORTED, [])


async def test_aborting_a_waiting_request_ends_it_and_lets_others_pass(bench):
    requests = [bench.a_request(10, max_tokens=20) for _ in range(bench.info.max_batch_size + 2)]
    transcripts = await bench.submit(*requests)
    await bench.until(transcripts[0], lambda: transcripts[0].chunks)
    await bench.engine.abort(requests[-2].request_id)
    await bench.until(transcripts[-2], lambda: transcripts[-2].finished)
    assert (transcripts[-2].end.reason, transcripts[-2].tokens) == (FinishReason.ABORTED, [])
    for transcript in transcripts:
        await bench.until(transcript, lambda t=transcript: t.finished)
    assert [t.end.reason for t in transcripts].count(FinishReason.LENGTH) == len(requests) - 1


async def test_aborting_unknown_and_finished_requests_is_a_no_op(bench):
    request = bench.a_request()
    transcript = await bench.run_one(request)
    await bench.engine.abort(request.request_id)
    await bench.engine.abort("nobody")
    await bench.run_one(bench.a_request())
    assert transcript.end.reason is FinishReason.LENGTH


async def test_an_aborted_request_id_can_come_back_as_the_next_attempt(bench):
    request = bench.a_request(30, max_tokens=300)
    (first,) = await bench.submit(request)
    await bench.until(first, lambda: first.chunks)
    await bench.engine.abort(request.request_id)
    await bench.until(first, lambda: first.finished)
    again = await bench.run_one(bench.a_request(30, max_tokens=6, request_id=request.request_id, attempt=1))
    assert (again.end.reason, again.end.attempt) == (FinishReason.LENGTH, 1)


# Rule 5: pass reports


async def test_passes_are_reported_in_order_start_then_end(bench):
    await bench.run(bench.a_request(100, max_tokens=6), bench.a_request(30, rank=1))
    await bench.settle()
    assert len(bench.reports) % 2 == 0
    for index, report in enumerate(bench.reports):
        expected = ForwardPassStarted if index % 2 == 0 else ForwardPassEnded
        assert isinstance(report, expected)
        assert report.forward_pass_id == index // 2 + 1
        assert [rank.dp_rank for rank in report.ranks] == [0, 1]
    assert all(report.duration_s > 0 for report in bench.ended())


async def test_an_idle_engine_reports_nothing(bench):
    await bench.run_one(bench.a_request())
    await bench.settle()
    reports = list(bench.reports)
    await asyncio.sleep(0.05)
    assert bench.reports == reports
    assert bench.engine.rank_loads()[0].batch_size == 0


async def test_no_rank_runs_over_its_chunk_budget_and_all_of_a_prompt_is_run(bench):
    since = len(bench.reports)
    prompts = [150, 200, 64, 70]
    await bench.run(*(bench.a_request(n, rank=i % 2, max_tokens=2) for i, n in enumerate(prompts)))
    await bench.settle()
    budget = bench.info.chunk_budget_tokens
    for rank in (0, 1):
        tokens = [report.ranks[rank].pass_prefill_tokens for report in bench.ended(since)]
        assert max(tokens) <= budget
        assert sum(tokens) == sum(prompts[rank::2])
        assert sum(1 for n in tokens if n) >= -(-sum(prompts[rank::2]) // budget)


async def test_decode_tokens_are_reported_per_pass(bench):
    since = len(bench.reports)
    transcripts = await bench.run(*(bench.a_request(10 + i, max_tokens=9) for i in range(3)))
    await bench.settle()
    decoded = sum(report.ranks[0].pass_decode_tokens for report in bench.ended(since))
    assert decoded == sum(len(t.tokens) for t in transcripts) - 3  # a first token comes from prefill
    assert sum(report.ranks[1].pass_decode_tokens for report in bench.ended(since)) == 0


async def test_loads_tell_what_waits_and_what_runs(bench):
    size = bench.info.max_batch_size
    requests = [bench.a_request(10, max_tokens=30) for _ in range(size + 3)]
    transcripts = await bench.submit(*requests)
    waiting = bench.engine.rank_loads()[0]
    assert waiting.num_waiting + waiting.batch_size == size + 3
    assert waiting.prefill_load_tokens == 10 * (size + 3)
    await bench.until(transcripts[0], lambda: len(transcripts[0].tokens) >= 8)
    running = bench.engine.rank_loads()[0]
    assert (running.batch_size, running.num_waiting, running.prefill_load_tokens) == (size, 3, 30)
    assert running.kv_blocks_used > 0
    assert (running.pass_prefill_tokens, running.pass_decode_tokens) == (0, 0)
    assert (running.stored_blocks, running.removed_blocks) == ((), ())
    for transcript in transcripts:
        await bench.until(transcript, lambda t=transcript: t.finished)


async def test_an_indivisible_prompt_over_the_chunk_budget_is_refused(build):
    async with opened(build, Limits(chunked_prefill=False)) as bench:
        assert not bench.info.chunked_prefill
        with pytest.raises(RequestRefusedError) as refusal:
            await bench.submit(bench.a_request(bench.info.chunk_budget_tokens + 1))
        assert refusal.value.field == "prompt"
        await bench.run(*(bench.a_request(40) for _ in range(3)))
        tokens = [report.ranks[0].pass_prefill_tokens for report in bench.ended()]
        assert [n for n in tokens if n] == [40, 40, 40]  # two do not fit 64, and none is cut


async def test_requests_wait_for_kv_blocks(build):
    async with opened(build, Limits(kv_blocks_total=8)) as bench:  # 128 tokens
        transcripts = await bench.run(
            *(bench.a_request(50, max_tokens=20) for _ in range(4))
        )  # 5 blocks each
        assert all(t.end.reason is FinishReason.LENGTH for t in transcripts)
        assert max(report.ranks[0].kv_blocks_used for report in bench.reports) <= 8
        assert max(report.ranks[0].batch_size for report in bench.reports) == 1


# KV hand-over


async def test_a_prefilled_request_gives_its_first_token_and_holds_its_kv_until_release(bench):
    request = bench.a_request(50, max_tokens=10, mode=RequestMode.PREFILL_ONLY)
    transcript = await bench.run_one(request)
    assert (transcript.end.reason, len(transcript.tokens)) == (FinishReason.PREFILLED, 1)
    await bench.settle()
    assert bench.engine.rank_loads()[0].kv_blocks_used >= -(-50 // 16)
    await bench.engine.abort(request.request_id)  # finished: a no-op, the lease stays
    chunks = await bench.export(request.request_id)
    assert chunks
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    await bench.engine.release_kv(request.request_id)
    assert bench.engine.rank_loads()[0].kv_blocks_used == 0
    await bench.engine.release_kv(request.request_id)
    with pytest.raises(KeyError):
        await bench.export(request.request_id)


async def test_a_prefilled_request_that_is_complete_leaves_no_lease(bench):
    request = bench.a_request(50, max_tokens=1, mode=RequestMode.PREFILL_ONLY)
    transcript = await bench.run_one(request)
    assert (transcript.end.reason, len(transcript.tokens)) == (FinishReason.LENGTH, 1)
    with pytest.raises(KeyError):
        await bench.export(request.request_id)


async def test_kv_handed_to_a_decode_engine_gives_the_tokens_of_an_aggregated_run(build, bench):
    expected = {n: (await bench.run_one(bench.a_request(n, max_tokens=12))).tokens for n in (33, 150)}
    async with opened(build, Limits()) as decode:
        for n, tokens in expected.items():
            request = bench.a_request(n, max_tokens=12, mode=RequestMode.PREFILL_ONLY)
            first = (await bench.run_one(request)).tokens
            payload = b"".join(await bench.export(request.request_id))
            await bench.engine.release_kv(request.request_id)
            handed = await decode.run_one(
                decode.a_request(
                    n,
                    rank=1,
                    max_tokens=12,
                    mode=RequestMode.DECODE_ONLY,
                    prior_output_ids=tuple(first),
                    kv_payload=payload,
                )
            )
            assert handed.chunks[0].token_index == 1
            assert first + handed.tokens == tokens
            assert (handed.end.reason, handed.end.num_output_tokens) == (FinishReason.LENGTH, 12)
        await decode.settle()
        assert sum(rank.pass_prefill_tokens for report in decode.ended() for rank in report.ranks) == 0
        assert decode.engine.rank_loads()[1].kv_blocks_used == 0


async def test_kv_of_another_prompt_is_refused(bench):
    request = bench.a_request(50, max_tokens=10, mode=RequestMode.PREFILL_ONLY)
    first = (await bench.run_one(request)).tokens
    payload = b"".join(await bench.export(request.request_id))
    await bench.engine.release_kv(request.request_id)
    for prompt, kv in ((51, payload), (50, payload[:-1]), (50, None)):
        bad = bench.a_request(
            prompt, mode=RequestMode.DECODE_ONLY, prior_output_ids=tuple(first), kv_payload=kv
        )
        with pytest.raises(RequestRefusedError) as refusal:
            await bench.submit(bad)
        assert refusal.value.field == "kv_payload"


# Prefix cache


async def test_a_cached_prefix_is_counted_and_changes_no_token(bench):
    if not bench.info.prefix_cache:
        pytest.skip("no prefix cache declared")
    prompt, size = bench.a_request(101).prompt_token_ids, bench.info.tokens_per_block
    hashes = hashes_of(prompt, size, salt=1)
    since = len(bench.reports)
    cold = await bench.run_one(bench.a_request(prompt, block_hashes=hashes))
    await bench.settle()
    stored = [h for report in bench.reports[since:] for h in report.ranks[0].stored_blocks]
    assert set(hashes) <= set(stored)
    since = len(bench.reports)
    warm = await bench.run_one(bench.a_request(prompt, block_hashes=hashes))
    assert cold.end.num_cached_prompt_tokens == 0
    assert warm.end.num_cached_prompt_tokens == 101 // size * size
    assert bench.ended(since)[0].ranks[0].pass_prefill_tokens == 101 - 101 // size * size
    assert warm.tokens == cold.tokens


async def test_only_a_request_with_the_same_hashes_on_the_same_rank_reuses_a_prefix(bench):
    if not bench.info.prefix_cache:
        pytest.skip("no prefix cache declared")
    prompt, size = bench.a_request(80).prompt_token_ids, bench.info.tokens_per_block
    hashes = hashes_of(prompt, size, salt=2)
    await bench.run_one(bench.a_request(prompt, block_hashes=hashes))
    no_hashes = await bench.run_one(bench.a_request(prompt))
    other_tenant = await bench.run_one(bench.a_request(prompt, block_hashes=hashes_of(prompt, size, salt=3)))
    other_rank = await bench.run_one(bench.a_request(prompt, block_hashes=hashes, rank=1))
    same = await bench.run_one(bench.a_request(prompt, block_hashes=hashes))
    cached = [t.end.num_cached_prompt_tokens for t in (no_hashes, other_tenant, other_rank, same)]
    assert cached == [0, 0, 0, 79 // size * size]  # the last prompt token is always computed


async def test_blocks_that_make_room_are_reported_as_removed(build):
    async with opened(build, Limits(kv_blocks_total=8)) as bench:
        if not bench.info.prefix_cache:
            pytest.skip("no prefix cache declared")
        prompt = bench.a_request(64).prompt_token_ids
        hashes = hashes_of(prompt, 16, salt=4)
        await bench.run_one(bench.a_request(prompt, block_hashes=hashes, max_tokens=2))
        await bench.run_one(bench.a_request(100, max_tokens=20))  # all 8 blocks
        await bench.settle()
        removed = [h for report in bench.reports for h in report.ranks[0].removed_blocks]
        assert sorted(removed) == sorted(hashes)


# Rule 6: the end of the engine


async def test_both_iterators_end_after_aclose_and_every_request_has_its_end(build):
    async with opened(build, Limits()) as bench:
        requests = [bench.a_request(200, rank=i % 2, max_tokens=400) for i in range(6)]
        transcripts = await bench.submit(*requests)
        await bench.until(transcripts[0], lambda: transcripts[0].chunks)
        async with asyncio.timeout(10):
            assert await bench.close() == [None, None]
        assert {t.end.reason for t in transcripts} == {FinishReason.ABORTED}
        with pytest.raises(EngineDeadError):
            await bench.engine.submit([bench.a_request()])
        await bench.engine.aclose()  # closing twice is fine


# Rule 7: the death of the engine


async def test_when_the_engine_dies_what_lives_fails_both_iterators_raise_and_nothing_is_taken(kind):
    """Running and waiting requests alike; what had ended before stays as it ended."""
    async with opened(kind.build, Limits()) as bench:
        before = await bench.run_one(bench.a_request(max_tokens=3))
        requests = [bench.a_request(20, rank=i % 2, max_tokens=900) for i in range(2 * 8 + 3)]
        transcripts = await bench.submit(*requests)
        await bench.until(transcripts[0], lambda: transcripts[0].chunks)
        assert bench.engine.rank_loads()[0].num_waiting > 0
        kind.kill(bench.engine)
        async with asyncio.timeout(PATIENCE_S):
            raised = await asyncio.gather(*bench._readers, return_exceptions=True)
        assert [type(error) for error in raised] == [EngineDeadError, EngineDeadError]
        assert all(str(error) for error in raised)
        assert {transcript.end.reason for transcript in transcripts} == {FinishReason.FAILED}
        assert all(t.end.num_output_tokens == len(t.tokens) for t in transcripts)
        assert before.end.reason is FinishReason.LENGTH
        with pytest.raises(EngineDeadError):
            await bench.engine.submit([bench.a_request()])
        await bench.engine.abort(requests[0].request_id)  # a no-op, like that of any finished request

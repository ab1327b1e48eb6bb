"""What the adapter assumes of TensorRT-LLM, looked at on the real thing; see docs/how-to/tensorrt-llm.md.

The engine is started once with the options of the worker, given a few short requests, and closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from statistics import fmean

from hortator.runtime.checks import Check
from hortator.worker.engine import EngineDeadError, RequestMode
from hortator.worker.engines.trtllm import capabilities, library, llm_args
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.doctor import outputs
from hortator.worker.engines.trtllm.doctor.bench import Bench
from hortator.worker.engines.trtllm.engine import TensorRTLLMEngine
from hortator.worker.engines.trtllm.model_facts import model_facts

LONG_OUTPUT_TOKENS = 60
NUM_BATCHES = 5
MAX_REPORT_DELAY_S = 0.020
MAX_ABORT_S = 1.0
MIN_ROWS_PER_PASS = 0.5

Examine = Callable[[Bench, float], Awaitable[Check]]


def library_checks() -> Iterator[Check]:
    """Is it there, new enough, and has the classes that placement needs?"""
    try:
        found = library.load()
    except EngineDeadError as error:
        is_absent = not library.is_installed()
        yield Check(
            name="tensorrt_llm",
            verdict="skipped" if is_absent else "failed",
            found=str(error).removeprefix("engine: ").split(";")[0],
            fix="run this in the image hortator-worker-trtllm",
        )
        return
    yield Check(name="tensorrt_llm", verdict="ok", found=found.version)
    for finding in capabilities.probe_library(found):
        yield Check(
            name=finding.what,
            verdict="ok" if finding.is_found else "failed",
            found=finding.meaning if finding.is_found else "missing",
            fix="" if finding.is_found else "use a line of the library that has it (1.2.1 has)",
        )


async def engine_checks(
    config: TensorRTLLMConfig, *, patience_s: float, exit_process: Callable[[int], object]
) -> AsyncIterator[Check]:
    """Start the engine, examine it, close it. A decode group is examined as an aggregated one."""
    if config.phase == "decode":
        config = replace(config, phase="aggregated")
    for check in _argument_checks(config):
        yield check
    engine = TensorRTLLMEngine(config, exit_process=exit_process)
    began = time.monotonic()
    try:
        info = await engine.start()
    except EngineDeadError as error:
        yield Check(
            name="start",
            verdict="failed",
            found=str(error).splitlines()[0],
            fix="docs/how-to/tensorrt-llm.md, What can go wrong; the log above has the library's own words",
        )
        await engine.aclose()
        return
    yield Check(
        name="start",
        verdict="ok",
        found=f"{info.dp_size} DP ranks in {time.monotonic() - began:.0f} s, each answered; "
        f"{info.kv_blocks_total:,} KV blocks of {info.tokens_per_block} tokens a rank",
    )
    try:
        for check in _capability_checks(engine, config):
            yield check
        async with Bench(engine, info) as bench:
            for name, examine in EXAMINATIONS:
                try:
                    check = await examine(bench, patience_s)
                except TimeoutError:
                    check = Check(
                        name=name,
                        verdict="failed",
                        found=f"nothing for {patience_s:g} s",
                        fix="the engine hangs or is very slow: look at its log",
                    )
                except EngineDeadError as error:
                    yield Check(
                        name=name, verdict="failed", found=f"the engine died: {error}", fix="look at its log"
                    )
                    return
                yield check
    finally:
        began = time.monotonic()
        await engine.aclose()
    seconds = time.monotonic() - began
    is_quick = seconds < config.shutdown_timeout_s
    yield Check(
        name="shutdown",
        verdict="ok" if is_quick else "warning",
        found=f"{seconds:.1f} s",
        fix="" if is_quick else "raise shutdown_timeout_s, and terminationGracePeriod with it",
    )


def _argument_checks(config: TensorRTLLMConfig) -> Iterator[Check]:
    found = library.load()
    _, dropped = llm_args.fitting(llm_args.arguments(config, model_facts(config)), found.arguments)
    yield Check(
        name="arguments",
        verdict="warning" if dropped else "ok",
        found=f"this line has no {', '.join(dropped)}" if dropped else "this line has all that we give",
        fix="left out at start; what they ask for is not done" if dropped else "",
    )


def _capability_checks(engine: TensorRTLLMEngine, config: TensorRTLLMConfig) -> Iterator[Check]:
    found = capabilities.probe_engine(engine.llm, library.load(), config)
    for finding in found.findings[2:]:  # the first two are the library's
        yield Check(name=finding.what, verdict="ok" if finding.is_found else "warning", found=finding.meaning)


# Examinations: each with its engine idle before and after


async def pinning(bench: Bench, patience_s: float) -> Check:
    """A prompt pinned to a rank shows in that rank's rows, or in rank 0's where rows tell of no other."""
    name = "placement on ranks"
    seen: dict[int, dict[int | None, int]] = {}
    for dp_rank in range(bench.info.dp_size):
        bench.rows.clear()
        request = bench.request(dp_rank, prompt=bench.prompt(dp_rank), max_tokens=2, mode=_mode(bench))
        await bench.run(request, timeout_s=patience_s)
        await _let_rows_come(bench, patience_s)
        await _release(bench, [request.request_id])
        tokens: dict[int | None, int] = {}
        for row in bench.rows:
            tokens[row.dp_rank] = tokens.get(row.dp_rank, 0) + row.prefill_tokens
        seen[dp_rank] = tokens
    have_ranks = any(rank is not None for tokens in seen.values() for rank in tokens)
    if not any(any(tokens.values()) for tokens in seen.values()):
        return Check(
            name=name,
            verdict="skipped",
            found="no row of statistics had prompt tokens: nothing tells where a prompt ran",
            fix="set stats_reader to the other value (sync or async) and try again",
        )
    if have_ranks:
        wrong = [rank for rank, tokens in seen.items() if _loudest(tokens) != rank]
        found = f"each of {len(seen)} ranks ran what was pinned to it, as its own rows say"
    else:
        wrong = [rank for rank, tokens in seen.items() if bool(tokens.get(None)) is not (rank == 0)]
        found = "rank 0 ran what was pinned to it and nothing else; rows tell of no other rank"
    if not wrong:
        return Check(name=name, verdict="ok", found=found)
    return Check(
        name=name,
        verdict="failed",
        found=f"prompts pinned to ranks {', '.join(map(str, wrong))} ran elsewhere",
        fix="the engine routes by itself: nothing under attention_dp_config may, and relax must be false",
    )


async def whole_batches(bench: Bench, patience_s: float) -> Check:
    """A batch that finds the engine idle runs in one pass."""
    name = "a batch enters as one"
    is_prefill = bench.is_prefill
    num_split = 0
    for index in range(NUM_BATCHES):
        bench.rows.clear()
        before = bench.engine.num_split_batches
        batch = [
            bench.request(rank, prompt=bench.prompt(100 + 16 * index + rank), max_tokens=2, mode=_mode(bench))
            for rank in range(bench.info.dp_size)
        ]
        await bench.run(*batch, timeout_s=patience_s)
        await _release(bench, [request.request_id for request in batch])
        await _let_rows_come(bench, patience_s)
        # Rows tell it where the tokens of both parts came too close together for the books.
        num_iterations = len({row.iteration for row in bench.rows})
        num_split += bench.engine.num_split_batches > before or (is_prefill and num_iterations > 1)
    found = f"{num_split} of {NUM_BATCHES} batches into an idle engine were split"
    if not is_prefill:
        return Check(name=name, verdict="ok", found=f"{found}; expected outside of prefill groups")
    return Check(
        name=name,
        verdict="failed" if num_split else "ok",
        found=found,
        fix="raise llm_args.batch_wait_timeout_ms (up to 10)" if num_split else "",
    )


async def report_delay(bench: Bench, patience_s: float) -> Check:
    """From a request's only token to the report that its pass has ended."""
    delays = []
    for index in range(NUM_BATCHES):
        request = bench.request(0, prompt=bench.prompt(200 + index), max_tokens=2, mode=_mode(bench))
        bench.ended_passes.clear()
        await bench.run(request, timeout_s=patience_s)
        await bench.until(lambda: len(bench.ended_passes) > 0, timeout_s=patience_s)
        delays.append(max(0.0, bench.ended_passes[-1][0] - bench.token_at[request.request_id]))
        await _release(bench, [request.request_id])
    mean_s = fmean(delays)
    is_quick = mean_s <= MAX_REPORT_DELAY_S
    return Check(
        name="end of a pass",
        verdict="ok" if is_quick else "warning",
        found=f"reported {1000 * mean_s:.1f} ms after its last token, {1000 * max(delays):.1f} ms at most",
        fix=""
        if is_quick
        else "the engine idles so long between passes: look for another process on the worker's cores",
    )


async def rows_while_decoding(bench: Bench, patience_s: float) -> Check:
    """Statistics go on in a long decode, during which no prompt is submitted."""
    name = "statistics in long decodes"
    if bench.is_prefill:
        return Check(name=name, verdict="skipped", found="a prefill group does not decode")
    await _let_rows_come(bench, patience_s)
    bench.rows.clear()
    request = bench.request(0, prompt=bench.prompt(300), max_tokens=_long(bench))
    await bench.run(request, timeout_s=patience_s)
    await _let_rows_come(bench, patience_s)
    num_rows = len({row.iteration for row in bench.rows})
    enough = num_rows >= MIN_ROWS_PER_PASS * _long(bench)
    return Check(
        name=name,
        verdict="ok" if enough else "warning",
        found=f"{num_rows} rows in {_long(bench)} passes",
        fix="" if enough else "set stats_reader to sync; passes without tokens are not seen otherwise",
    )


async def abort(bench: Bench, patience_s: float) -> Check:
    """How long the engine holds on to what was aborted."""
    name = "abort"
    if bench.is_prefill:
        return Check(name=name, verdict="skipped", found="a prefill group has nothing long enough to abort")
    request = bench.request(0, prompt=bench.prompt(400), max_tokens=_long(bench))
    await bench.engine.submit([request])
    await bench.until(lambda: len(bench.tokens.get(request.request_id, ())) >= 3, timeout_s=patience_s)
    began = time.monotonic()
    await bench.engine.abort(request.request_id)
    await bench.until(
        lambda: not any(load.batch_size for load in bench.engine.rank_loads()), timeout_s=patience_s
    )
    seconds = time.monotonic() - began
    return Check(
        name=name,
        verdict="ok" if seconds <= MAX_ABORT_S else "warning",
        found=f"the rank is free {1000 * seconds:.0f} ms after it",
        fix="" if seconds <= MAX_ABORT_S else "an aborted request holds its KV that long: keep some room",
    )


async def hand_over(bench: Bench, patience_s: float) -> Check:
    """A prefill group's KV has a description that can be sent, and blocks come back when it is released."""
    name = "KV hand-over"
    if not bench.is_prefill:
        return Check(
            name=name, verdict="skipped", found="needs --phase prefill; the pull itself needs two groups"
        )
    request = bench.request(0, prompt=bench.prompt(600), max_tokens=2, mode=RequestMode.PREFILL_ONLY)
    await bench.run(request, timeout_s=patience_s)
    payload = b"".join([chunk async for chunk in bench.engine.export_kv(request.request_id)])
    await bench.engine.release_kv(request.request_id)
    await bench.until(
        lambda: not any(load.kv_blocks_used for load in bench.engine.rank_loads()), timeout_s=patience_s
    )
    return Check(name=name, verdict="ok", found=f"{len(payload):,} bytes describe the KV of one request")


EXAMINATIONS: tuple[tuple[str, Examine], ...] = (
    ("placement on ranks", pinning),
    ("a batch enters as one", whole_batches),
    ("end of a pass", report_delay),
    ("statistics in long decodes", rows_while_decoding),
    ("abort", abort),
    ("resumed requests", outputs.resume),
    ("resumed requests with a seed", outputs.resume_sampled),
    ("stop tokens", outputs.stop_tokens),
    ("KV hand-over", hand_over),
)


def _long(bench: Bench) -> int:
    return min(LONG_OUTPUT_TOKENS, bench.info.max_sequence_tokens // 2)


def _mode(bench: Bench) -> RequestMode:
    """That this group runs."""
    return RequestMode.PREFILL_ONLY if bench.is_prefill else RequestMode.AGGREGATED


def _loudest(tokens: dict[int | None, int]) -> int | None:
    return max(tokens, key=lambda rank: tokens[rank]) if tokens else None


async def _release(bench: Bench, request_ids: list[str]) -> None:
    for request_id in request_ids:
        await bench.engine.release_kv(request_id)


async def _let_rows_come(bench: Bench, patience_s: float) -> None:
    """Rows come behind their passes: wait until none has come for a while."""
    quiet_s = max(0.1, bench.engine.config.warm_up_quiet_s)
    deadline = time.monotonic() + patience_s
    number = -1
    while number != len(bench.rows) and time.monotonic() < deadline:
        number = len(bench.rows)
        await asyncio.sleep(quiet_s)

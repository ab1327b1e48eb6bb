"""`TensorRTLLMEngine`: `tensorrt_llm.LLM` (PyTorch backend) behind the Engine port.

One task per request reads its outputs; tokens go out at once. `pass_tracker` tells passes from them and
from rows of statistics. What must not happen to the executor is kept from it:

1. Ranks are checked before, and pinned strictly: a rank out of range kills the executor.
2. A batch is checked as a whole and then submitted in one turn of the event loop.
3. A request that is aborted ends here at once; the engine is told, and keeps its place in the books until
   it says that it has let go. While its KV is on the way from another group it is not told: an abort then
   wedges the executor. It hears of it with the first token.
4. An error of one request ends that request; any other exception ends the engine.

KV of a prefilled request is freed by the engine itself once it was pulled. `release_kv` of KV that nobody
has asked for cancels it in the engine.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog

from hortator.worker.engine import (
    EngineDeadError,
    EngineInfo,
    EngineOutput,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassReport,
    RankLoad,
    RequestMode,
    RequestRefusedError,
    TokenChunk,
)
from hortator.worker.engines.trtllm import capabilities as caps
from hortator.worker.engines.trtllm import hand_over, library, llm_args
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.explain import explained
from hortator.worker.engines.trtllm.group_books import GroupBooks
from hortator.worker.engines.trtllm.live import Lease, Live
from hortator.worker.engines.trtllm.model_facts import (
    ModelFacts,
    missing_folder,
    model_facts,
    tokenizer_files,
)
from hortator.worker.engines.trtllm.pass_tracker import PassTracker
from hortator.worker.engines.trtllm.rank_books import Entry, RankLimits, State
from hortator.worker.engines.trtllm.requests import Prepared, Translator, blocks_for
from hortator.worker.engines.trtllm.statistics import Row, StatisticsReader
from hortator.worker.engines.trtllm.threads import in_thread
from hortator.worker.engines.trtllm.warm_up import WarmUp
from hortator.worker.engines.trtllm.watchdog import Progress, Watchdog, exit_soon
from hortator.worker.errors import EngineConfigError
from hortator.worker.outbox import Outbox

EXPORT_CHUNK_BYTES = 1 << 20


class TensorRTLLMEngine:
    """Implements `hortator.worker.engine.Engine`.

    Args:
        config: what it is told.
        exit_process: ends the process by force, with an exit code, when a dead engine keeps it from ending.

    Raises:
        EngineConfigError: an argument would make the engine wait, or hide its passes.
    """

    def __init__(
        self, config: TensorRTLLMConfig, *, exit_process: Callable[[int], object] = os._exit
    ) -> None:
        llm_args.check_overrides(config)
        llm_args.check_world(config)
        missing = missing_folder(config) if config.num_pods > 1 else ""
        if missing:  # every pod looks at its own volume before ranks are started over all of them
            raise EngineConfigError(missing)
        self.config = config
        self.llm: Any = None
        """The library's own object, once started."""
        self.last_transfer_s: float | None = None
        """From the submission of the last DECODE_ONLY request to its first output: transfer and a pass."""
        self.rank_mismatches = 0
        """Ranks of passes that the engine filled otherwise than was reported, where rows tell of ranks."""
        self.on_rows_seen: Callable[[Sequence[Row]], object] | None = None
        """Told of every row of statistics; for the doctor."""
        self._exit_process = exit_process
        self._model_name = config.model_name or config.model_source
        self._library: library.Library | None = None
        self._translator: Translator | None = None
        self._tracker: PassTracker | None = None
        self._reader: StatisticsReader | None = None
        self._watchdog: Watchdog | None = None
        self._warm_up: WarmUp | None = None
        self._progress = Progress()
        self._live: dict[str, Live] = {}
        self._aborting: set[Live] = set()
        self._leases: dict[str, Lease] = {}
        self._outputs: Outbox[EngineOutput] = Outbox()
        self._reports: Outbox[ForwardPassReport] = Outbox()
        self._is_closed = False
        self._is_dead = False
        self._includes_first = True
        """Whether outputs of generation_only requests begin with the token that prefill sampled."""
        self._num_submitted = 0
        self._num_batches = 0
        self._log = structlog.get_logger("hortator.worker.engines.trtllm")

    @property
    def num_split_batches(self) -> int:
        """Batches that the engine took into more than one pass though they fitted one."""
        return 0 if self._tracker is None else self._tracker.books.num_split_batches

    # Life

    async def start(self) -> EngineInfo:
        """Bring up all ranks and see each of them answer. Raises EngineDeadError."""
        if self._is_closed:
            raise EngineDeadError("the engine is closed")
        config = self.config
        try:
            facts = await in_thread(lambda: model_facts(config), name="trtllm-model")
            llm_args.check_chunking(config, facts)
            found = self._library = await in_thread(library.load, name="trtllm-import")
            arguments, dropped = llm_args.fitting(llm_args.arguments(config, facts), found.arguments)
        except EngineConfigError as error:
            raise EngineDeadError(str(error)) from None
        for name in dropped:
            self._log.info("argument of TensorRT-LLM missing", name=name, version=found.version)
        for finding in caps.probe_library(found):
            if not finding.is_found:
                raise EngineDeadError(f"tensorrt_llm {found.version} has no {finding.what}")
        can_reuse = "cache_salt" in inspect.signature(found.llm.generate_async).parameters
        if not can_reuse:
            arguments["kv_cache_config"]["enable_block_reuse"] = False
        self._log.info("starting TensorRT-LLM", version=found.version, arguments=arguments)
        self.llm = await self._construct(found, arguments)
        return await self._announce(found, facts)

    async def submit(self, batch: Sequence[EngineRequest]) -> None:
        """Admit the whole batch before the next pass, or raise RequestRefusedError and admit none."""
        tracker, translator = self._require_alive()
        ids: set[str] = set()
        ready: list[tuple[EngineRequest, Prepared | None]] = []
        for request in batch:
            if request.request_id in self._live or request.request_id in ids:
                raise RequestRefusedError(
                    request.request_id, "request_id", f"request {request.request_id} is live already"
                )
            ids.add(request.request_id)
            self._num_submitted += 1
            checked = translator.prepare(request, self._num_submitted)
            ready.append((request, None if translator.is_complete(request) else checked))
        admitted = self._admit(ready)
        for request, prepared in ready:
            if prepared is None:
                self._outputs.items.append(
                    Finished(
                        request_id=request.request_id,
                        attempt=request.attempt,
                        reason=FinishReason.LENGTH,
                        num_output_tokens=len(request.prior_output_ids),
                    )
                )
        self._outputs.flush()
        if admitted:
            self._progress.touch()
            tracker.books.submit([live.entry for live in admitted])
            tracker.submitted()
            self._note_busy()
            if self._reader is not None:
                self._reader.poke()

    async def abort(self, request_id: str) -> None:
        """End a request here at once, and in the engine when it may hear of it."""
        live = self._live.get(request_id)
        if live is not None and not self._is_closed:
            self._end(live, FinishReason.ABORTED)
            self._let_go(live)

    def outputs(self) -> AsyncIterator[EngineOutput]:
        """Tokens and ends of all requests, once. Raises EngineDeadError when the engine fails."""
        return self._outputs.read()

    def forward_passes(self) -> AsyncIterator[ForwardPassReport]:
        """Start and end of each pass, once. Raises EngineDeadError when the engine fails."""
        return self._reports.read()

    def rank_loads(self) -> tuple[RankLoad, ...]:
        """Load of every rank now, by our own account."""
        return () if self._tracker is None else self._tracker.books.loads()

    async def export_kv(self, request_id: str) -> AsyncIterator[bytes]:
        """What the decode engine must know to pull the KV. KeyError when there is no such lease."""
        lease = self._leases[request_id]
        lease.is_exported = True
        for start in range(0, len(lease.payload), EXPORT_CHUNK_BYTES):
            yield lease.payload[start : start + EXPORT_CHUNK_BYTES]

    async def release_kv(self, request_id: str) -> None:
        """The lease has ended; unknown ids are a no-op."""
        lease = self._leases.pop(request_id, None)
        if lease is None or self._tracker is None:
            return
        self._tracker.books.drop(lease.entry)
        if not lease.is_exported:
            self._tell_abort(lease.result)
        self._tracker.submitted()

    async def aclose(self) -> None:
        """Stop all ranks; what is in flight ends as ABORTED and both iterators end."""
        was_closed = self._is_closed
        self._close(None)
        llm, self.llm = self.llm, None
        if llm is None or (was_closed and self._is_dead):
            return  # a dead engine's own shutdown can hang; the process ends
        try:
            async with asyncio.timeout(self.config.shutdown_timeout_s):
                await in_thread(llm.shutdown, name="trtllm-shutdown")
        except TimeoutError:
            self._log.warning("TensorRT-LLM did not shut down", after_s=self.config.shutdown_timeout_s)
            if self._watchdog is not None:
                self._watchdog.exit_soon()
        except Exception as error:  # noqa: BLE001  # it is over in any case
            self._log.warning("TensorRT-LLM failed to shut down", error=repr(error))

    # Start

    async def _construct(self, found: library.Library, arguments: dict[str, Any]) -> Any:
        try:
            return await in_thread(lambda: found.llm(**arguments), name="trtllm-start")
        except asyncio.CancelledError:  # nobody waits for it any more, and its thread may hang
            exit_soon(self._exit_process, grace_s=self.config.exit_grace_s)
            raise
        except Exception as error:
            raise EngineDeadError(explained(error)) from error

    async def _announce(self, found: library.Library, facts: ModelFacts) -> EngineInfo:
        config = self.config
        capabilities = caps.probe_engine(self.llm, found, config)
        self._warm_up = WarmUp(self.llm, found, capabilities, config, end_id=facts.end_id)
        self._reader = StatisticsReader(self.llm, capabilities.stats_reader, self._on_rows)
        self._reader.start()
        seen = await self._warm_up.run(self._reader.poke)
        self._warm_up = None
        for finding in (*capabilities.findings, caps.ranked_rows(seen.rows_have_ranks)):
            self._log.info(
                "found in TensorRT-LLM" if finding.is_found else "missing in TensorRT-LLM",
                what=finding.what,
                meaning=finding.meaning,
            )
        admitting = llm_args.ADMITTING[config.phase]
        limits = RankLimits(
            chunk_budget_tokens=config.max_num_tokens,
            chunked_prefill=config.enable_chunked_prefill,
            max_batch_size=config.max_batch_size,
            kv_blocks_total=seen.kv_blocks_total,
            tokens_per_block=config.tokens_per_block,
            decode_tokens=1 + config.draft_tokens,
            prefix_cache=config.enable_block_reuse and capabilities.cache_salt,
        )
        self._translator = Translator(
            found,
            capabilities,
            model_name=self._model_name,
            dp_size=config.dp_size,
            limits=limits,
            max_sequence_tokens=facts.max_seq_len,
            end_id=facts.end_id,
            is_placing=config.enable_attention_dp,
        )
        books = GroupBooks(config.dp_size, limits, lead_passes=admitting.lead_passes)
        self._tracker = PassTracker(
            books,
            self._reports,
            self._progress.touch,
            fetch_wait_s=llm_args.batch_wait_ms(config) / 1000,
        )
        if seen.last_iteration is not None:
            self._tracker.clock.on_row(seen.last_iteration, open_pass=None, num_passes_ended=0)
            self._tracker.clock.settle(0)
        loop = asyncio.get_running_loop()
        self._progress.touch()
        self._watchdog = Watchdog(
            self.llm,
            self._progress,
            no_progress_timeout_s=config.no_progress_timeout_s,
            on_dead=lambda why: _call_on(loop, self._die, why),
            exit_process=self._exit_process,
            interval_s=config.watch_interval_s,
            exit_grace_s=config.exit_grace_s,
        )
        self._watchdog.start()
        return EngineInfo(
            model_name=self._model_name,
            dp_size=config.dp_size,
            ep_size=config.tensor_parallel_size,
            chunk_budget_tokens=config.max_num_tokens,
            chunked_prefill=config.enable_chunked_prefill,
            max_batch_size=config.max_batch_size,
            kv_blocks_total=seen.kv_blocks_total,
            tokens_per_block=config.tokens_per_block,
            max_sequence_tokens=facts.max_seq_len,
            vocab_size=facts.vocab_size,
            admission=admitting.admission,
            admission_lead_passes=admitting.lead_passes,
            prefix_cache=limits.prefix_cache,
            tokenizer_files=await in_thread(lambda: tokenizer_files(config), name="trtllm-tokenizer"),
        )

    # Requests

    def _admit(self, ready: Sequence[tuple[EngineRequest, Prepared | None]]) -> list[Live]:
        """All into the engine's queue, in one turn of the loop."""
        assert self._library is not None  # noqa: S101  # alive
        admitted: list[Live] = []
        self._num_batches += 1
        for request, prepared in ready:
            if prepared is None:
                continue
            try:
                result = self.llm.generate_async(**prepared.call)
            except (self._library.request_error, ValueError) as error:
                self._undo(admitted)
                raise RequestRefusedError(request.request_id, "prompt", str(error)) from error
            except Exception as error:
                self._undo(admitted)
                self._die(f"a request could not be submitted: {type(error).__name__}: {error}")
                raise EngineDeadError(f"the engine takes no requests: {error}") from error
            admitted.append(self._make_live(request, prepared, result))
        for live in admitted:
            self._live[live.request.request_id] = live
            live.task = asyncio.create_task(self._consume(live))
            if live.entry.mode is RequestMode.DECODE_ONLY:
                live.transfer_timer = asyncio.get_running_loop().call_later(
                    self.config.transfer_timeout_s, self._on_transfer_timeout, live
                )
        return admitted

    def _make_live(self, request: EngineRequest, prepared: Prepared, result: Any) -> Live:
        assert self._translator is not None  # noqa: S101  # alive
        return Live(
            request=request,
            entry=Entry(
                dp_rank=request.dp_rank,
                mode=prepared.mode,
                num_prefill_tokens=prepared.num_prefill_tokens,
                num_blocks=blocks_for(prepared.num_tokens, self._translator.limits),
                block_hashes=request.block_hashes,
                batch=self._num_batches,
            ),
            result=result,
            num_first=prepared.num_first,
            num_output=len(request.prior_output_ids),
            submitted_at=asyncio.get_running_loop().time(),
        )

    def _undo(self, admitted: Sequence[Live]) -> None:
        for live in admitted:
            self._tell_abort(live.result)

    async def _consume(self, live: Live) -> None:
        assert self._library is not None  # noqa: S101  # alive
        try:
            async for output in live.result:
                self._on_output(live, output.outputs[0], is_final=output.finished)
                if output.finished:
                    return
        except asyncio.CancelledError:
            raise
        except self._library.request_error as error:
            self._fail(live, str(error))
        except Exception as error:  # noqa: BLE001  # facts: anything else is fatal
            self._die(f"{type(error).__name__}: {error}")

    def _on_output(self, live: Live, completion: Any, *, is_final: bool) -> None:
        assert self._tracker is not None  # noqa: S101  # alive
        tokens = completion.token_ids
        start = live.num_seen
        if not start and tokens and live.num_first:
            start = self._num_first(live, tokens)
            self._on_kv_arrived(live)
        new = tokens[start:]
        live.num_seen = max(len(tokens), live.num_seen)
        if is_final and not live.is_aborting:
            new = self._with_stop_token(live, completion, list(new))
        if new:
            self._tracker.arrived(live.entry, len(new))
            if not live.is_aborting:
                self._outputs.items.append(
                    TokenChunk(
                        request_id=live.request.request_id,
                        attempt=live.request.attempt,
                        token_index=live.num_output,
                        token_ids=tuple(new),
                    )
                )
                live.num_output += len(new)
                self._outputs.flush()
        if is_final:
            self._on_final(live, completion)

    def _num_first(self, live: Live, tokens: Sequence[int]) -> int:
        """How many leading tokens of a generation_only output prefill has sampled; a mismatch settles it."""
        if self._includes_first and tokens[0] != live.request.prior_output_ids[-1]:
            self._includes_first = False
            self._log.info("outputs of generation_only requests do not repeat the first token")
        return live.num_first if self._includes_first else 0

    def _with_stop_token(self, live: Live, completion: Any, new: list[int]) -> list[int]:
        """The library leaves out the stop token unless it can be told not to."""
        stop = completion.stop_reason
        stops = live.request.sampling.stop_token_ids
        if completion.finish_reason == "stop" and stop in stops and (not new or new[-1] != stop):
            new.append(stop)
        return new

    def _on_final(self, live: Live, completion: Any) -> None:
        assert self._tracker is not None  # noqa: S101  # alive
        entry = live.entry
        if live.is_aborting:
            self._forget(live)
            return
        reason, message, payload = self._reason(live, completion)
        self._tracker.books.drop(entry, keep_kv=payload is not None)
        if payload is not None:
            self._leases[live.request.request_id] = Lease(entry=entry, result=live.result, payload=payload)
        self._end(live, reason, message, num_cached=_num_cached(completion, entry, self.config))
        self._forget(live)

    def _reason(self, live: Live, completion: Any) -> tuple[FinishReason, str, bytes | None]:
        """Why it ended, and its hand-over where it was prefilled for another group."""
        request = live.request
        match completion.finish_reason:
            case "stop":
                return FinishReason.STOP, "", None
            case "length" if live.entry.mode is RequestMode.PREFILL_ONLY:
                params = completion.disaggregated_params
                if params is None or getattr(params, "opaque_state", None) is None:
                    return FinishReason.FAILED, "the engine gave no KV hand-over", None
                tokens = [*request.prior_output_ids, *completion.token_ids]
                payload = hand_over.encode(
                    params,
                    model_name=self._model_name,
                    prompt_token_ids=request.prompt_token_ids,
                    output_token_ids=tokens,
                )
                return FinishReason.PREFILLED, "", payload
            case "length":
                return FinishReason.LENGTH, "", None
            case other:
                return FinishReason.FAILED, f"the engine ended it: {other}", None

    def _fail(self, live: Live, message: str) -> None:
        if not live.is_aborting:
            self._end(live, FinishReason.FAILED, message)
        self._forget(live)

    def _end(self, live: Live, reason: FinishReason, message: str = "", *, num_cached: int = 0) -> None:
        """Its last word; it may stay in the engine a little longer."""
        request = live.request
        self._live.pop(request.request_id, None)
        self._outputs.items.append(
            Finished(
                request_id=request.request_id,
                attempt=request.attempt,
                reason=reason,
                num_output_tokens=live.num_output,
                num_cached_prompt_tokens=num_cached,
                message=message,
            )
        )
        self._outputs.flush()

    def _let_go(self, live: Live) -> None:
        """Have the engine end it, as soon as it may hear of it (rule 3)."""
        assert self._tracker is not None  # noqa: S101  # alive
        live.is_aborting = True
        self._aborting.add(live)
        self._tracker.books.abort(live.entry)
        if not live.is_in_transfer:
            self._tell_abort(live.result)
        self._tracker.changed_expectation()
        self._note_busy()

    def _on_kv_arrived(self, live: Live) -> None:
        self.last_transfer_s = asyncio.get_running_loop().time() - live.submitted_at
        self._log.debug(
            "kv arrived", request_id=live.request.request_id, after_s=round(self.last_transfer_s, 4)
        )
        if live.transfer_timer is not None:
            live.transfer_timer.cancel()
            live.transfer_timer = None
        if live.is_aborting:
            self._tell_abort(live.result)

    def _on_transfer_timeout(self, live: Live) -> None:
        live.transfer_timer = None
        if live.is_in_transfer and not live.is_aborting and not self._is_closed:
            self._end(
                live,
                FinishReason.FAILED,
                f"its KV did not arrive within {self.config.transfer_timeout_s:g} s",
            )
            self._let_go(live)

    def _forget(self, live: Live) -> None:
        """The engine has let go of it."""
        assert self._tracker is not None  # noqa: S101  # alive
        if live.transfer_timer is not None:
            live.transfer_timer.cancel()
        self._aborting.discard(live)
        if live.entry.state is not State.LEASED:
            self._tracker.books.drop(live.entry)
        self._tracker.changed()
        self._note_busy()

    def _tell_abort(self, result: Any) -> None:
        try:
            result.abort()
        except Exception as error:  # noqa: BLE001  # the watchdog finds out what is wrong
            self._log.warning("an abort failed", error=repr(error))

    # Signs of life and death

    def _on_rows(self, rows: Sequence[Row]) -> None:
        if self._is_closed:
            return
        if self._tracker is None:
            if self._warm_up is not None:
                self._warm_up.on_rows(rows)
            return
        if self.on_rows_seen is not None:
            self.on_rows_seen(rows)
        for row in rows:
            self._tracker.on_iteration(row.iteration)
            self._compare(row)

    def _compare(self, row: Row) -> None:
        """Where rows tell of ranks: does a rank's pass hold what we reported?"""
        if row.dp_rank is None or self._tracker is None:
            return
        reported = self._tracker.reported_prefill(row.iteration, row.dp_rank)
        if reported is not None and reported != row.prefill_tokens:
            self.rank_mismatches += 1

    def _note_busy(self) -> None:
        if self._tracker is not None:
            books = self._tracker.books
            self._progress.is_busy = any(rank.waiting or rank.running for rank in books.ranks)

    def _die(self, why: str) -> None:
        if not self._is_closed:
            self._is_dead = True
            self._log.critical("TensorRT-LLM failed", why=why)
            if self._watchdog is not None:
                self._watchdog.exit_soon()
            self._close(EngineDeadError(why))

    def _close(self, error: EngineDeadError | None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        reason, message = (
            (FinishReason.ABORTED, "the engine was closed")
            if error is None
            else (FinishReason.FAILED, str(error))
        )
        everyone = [*self._live.values(), *self._aborting]
        for live in list(self._live.values()):
            self._end(live, reason, message)
        for live in everyone:
            if live.transfer_timer is not None:
                live.transfer_timer.cancel()
            if live.task is not None and live.task is not asyncio.current_task():
                live.task.cancel()
        if self._tracker is not None:
            self._tracker.stop()
        if self._reader is not None:
            self._reader.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._outputs.close(error)
        self._reports.close(error)

    def _require_alive(self) -> tuple[PassTracker, Translator]:
        if self._is_closed or self._tracker is None or self._translator is None:
            raise EngineDeadError("the engine is closed" if self._is_closed else "the engine is not started")
        return self._tracker, self._translator


def _num_cached(completion: Any, entry: Entry, config: TensorRTLLMConfig) -> int:
    """By the engine's own count where it gives one."""
    metrics = getattr(completion, "request_perf_metrics", None)
    reused = getattr(getattr(metrics, "kv_cache_metrics", None), "num_reused_blocks", None)
    if not isinstance(reused, int):
        return entry.num_cached
    return min(reused * config.tokens_per_block, max(entry.num_prefill_tokens - 1, 0))


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[str], None], why: str) -> None:
    try:
        loop.call_soon_threadsafe(call, why)
    except RuntimeError:
        return  # the loop is closed: the process is about to end

"""`SimulatedEngine`: the group model behind the Engine port, in wall-clock time.

One task runs passes: form a batch, report its start, sleep as long as the cost model says (times
`time_scale`), hand out the tokens of the pass in one go, report its end. It lives on the event loop's
clock alone, so it runs under a virtual loop time as well. Tokens are pseudo-random (see `tokens`) and a
request runs to `max_tokens`, unless one of its tokens is among its stop tokens. KV hand-over carries a
small header and the transfer's modelled duration (see `kv_payload`), which the decode side waits out,
one transfer per rank at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from hortator.worker.engine import (
    EngineDeadError,
    EngineInfo,
    EngineOutput,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassEnded,
    ForwardPassReport,
    ForwardPassStarted,
    RankLoad,
    RequestMode,
    RequestRefusedError,
    TokenChunk,
)
from hortator.worker.engines.simulated import kv_payload
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.simulated.group_model import GroupModel, PassOutcome
from hortator.worker.engines.simulated.group_request import GroupRequest
from hortator.worker.outbox import Outbox

_SHORTEST_SLEEP_S = 0.0002
"""A pass shorter than this ends at the loop's next turn: timers are no finer than a millisecond."""
_CATCH_UP_S = 0.002
"""How late a timer may fire and be made up for by the next pass."""


class _Sequence(GroupRequest):
    """A request of the port inside the model."""

    __slots__ = ("num_emitted", "request", "token_offset")

    def __init__(self, request: EngineRequest, num_output_tokens: int, transfer_s: float) -> None:
        num_prompt, num_prior = len(request.prompt_token_ids), len(request.prior_output_ids)
        super().__init__(
            request.request_id,
            request.dp_rank,
            request.mode,
            num_prompt + num_prior,
            num_output_tokens,
            num_prior,
            block_hashes=request.block_hashes,
            transfer_s=transfer_s,
        )
        self.request = request
        self.num_emitted = num_prior
        self.token_offset = num_prompt
        """Absolute position = output token index + this."""


class SimulatedEngine:
    """An EP group of simulated GPUs; implements `hortator.worker.engine.Engine`.

    Raises:
        ValueError: the configuration's sizes do not fit together.
    """

    def __init__(self, config: SimulatedConfig) -> None:
        self._cost = cost = config.pass_cost()
        group_config = config.group_config(cost)
        self._config = config
        self._model = GroupModel(group_config, cost)
        self._tokens = config.token_source()
        self._outputs: Outbox[EngineOutput] = Outbox()
        self._reports: Outbox[ForwardPassReport] = Outbox()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False
        self._info = EngineInfo(
            model_name=config.model_name,
            dp_size=config.dp_size,
            ep_size=cost.ep_size,
            chunk_budget_tokens=config.chunk_budget_tokens,
            chunked_prefill=config.chunked_prefill,
            max_batch_size=config.max_batch_size,
            kv_blocks_total=group_config.kv_blocks_total,
            tokens_per_block=config.tokens_per_block,
            max_sequence_tokens=config.max_sequence_tokens,
            vocab_size=config.vocab_size,
            admission_lead_passes=config.admission_lead_passes,
            prefix_cache=config.prefix_cache,
        )

    async def start(self) -> EngineInfo:
        """Start the simulated ranks. Raises EngineDeadError after `aclose`."""
        self._require_alive()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="simulated-engine")
            self._task.add_done_callback(self._on_task_done)
        return self._info

    async def submit(self, batch: Sequence[EngineRequest]) -> None:
        """Admit the whole batch before the next pass, or raise RequestRefusedError and admit none."""
        self._require_alive()
        sequences: list[_Sequence] = []
        complete: list[Finished] = []
        for request in batch:
            sequence, reason = self._sequence(request)
            if reason is None:
                sequences.append(sequence)
            else:
                complete.append(_finished(sequence, reason))
        self._model.submit(sequences, self._now())
        self._outputs.items.extend(complete)
        self._outputs.flush()
        self._wake.set()

    async def abort(self, request_id: str) -> None:
        """End a request within one pass and free its KV blocks; unknown and finished ones are a no-op."""
        if self._is_closed:
            return
        request = self._model.abort(request_id)
        if isinstance(request, _Sequence):
            self._outputs.items.append(_finished(request, FinishReason.ABORTED))
            self._outputs.flush()
        self._wake.set()

    def outputs(self) -> AsyncIterator[EngineOutput]:
        """Tokens and ends of all requests, once. Raises EngineDeadError when the engine fails."""
        return self._outputs.read()

    def forward_passes(self) -> AsyncIterator[ForwardPassReport]:
        """Start and end of each pass, once. Raises EngineDeadError when the engine fails."""
        return self._reports.read()

    def rank_loads(self) -> tuple[RankLoad, ...]:
        """Load of every rank now."""
        return self._model.loads()

    async def export_kv(self, request_id: str) -> AsyncIterator[bytes]:
        """The header that stands for the KV of a PREFILLED request. KeyError when there is no such lease."""
        lease = self._model.lease(request_id)
        if not isinstance(lease, _Sequence):
            raise KeyError(request_id)
        request = lease.request
        outputs = [*request.prior_output_ids, self._token(lease, lease.num_prior_tokens)]
        payload = kv_payload.KvPayload(
            model_name=self._config.model_name,
            num_prompt_tokens=len(request.prompt_token_ids),
            num_output_tokens=len(outputs),
            checksum=kv_payload.checksum(request.prompt_token_ids, outputs),
            transfer_s=self._cost.transfer_s(lease.num_prefill_tokens),
        )
        yield payload.encode()

    async def release_kv(self, request_id: str) -> None:
        """Free leased KV blocks; unknown ids are a no-op."""
        if self._model.release(request_id):
            self._wake.set()

    def fail(self, message: str) -> None:
        """Die as if a rank was lost: requests end as FAILED, both iterators raise. For fault injection."""
        self._close(EngineDeadError(message))

    async def aclose(self) -> None:
        """Stop the ranks; what is in flight ends as ABORTED and both iterators end."""
        self._close(None)
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    # The loop

    async def _run(self) -> None:
        """Pass after pass; sleeps while nothing can run."""
        loop = asyncio.get_running_loop()
        scale = self._config.time_scale
        model, reports = self._model, self._reports
        ended_at = loop.time()
        while True:
            self._wake.clear()
            duration_s = model.start_pass(self._now())
            if duration_s is None:
                await self._idle()
                continue
            started_at = loop.time()
            reports.items.append(
                ForwardPassStarted(
                    forward_pass_id=model.forward_pass_id,
                    ranks=model.loads(of_pass=True, drain=True),
                    predicted_s=model.predicted_s * scale,
                )
            )
            reports.flush()
            # A pass that follows at once makes up for the lateness of the timer that ended the last one.
            origin = ended_at if started_at - ended_at < _CATCH_UP_S else started_at
            ended_at = origin + duration_s * scale
            left_s = ended_at - loop.time()
            await asyncio.sleep(left_s if left_s >= _SHORTEST_SLEEP_S else 0)
            self._end_pass()
            reports.items.append(
                ForwardPassEnded(
                    forward_pass_id=model.forward_pass_id,
                    duration_s=loop.time() - started_at,
                    ranks=model.loads(of_pass=True, drain=True),
                )
            )
            reports.flush()
            await asyncio.sleep(0)  # whoever acts on the report may still submit to the next pass

    async def _idle(self) -> None:
        """Wait until something is submitted, aborted or released, or a KV transfer ends."""
        ready_at = self._model.next_ready_at()
        if ready_at is None:
            await self._wake.wait()
            return
        delay_s = max((ready_at - self._now()) * self._config.time_scale, _SHORTEST_SLEEP_S)
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _end_pass(self) -> None:
        """Hand out everything the running pass produced."""
        model, items = self._model, self._outputs.items
        forward_pass_id = model.forward_pass_id
        decoding = tuple(model.decoding.values())
        outcome = model.end_pass()
        token = self._tokens.token
        for sequence in decoding:
            if not isinstance(sequence, _Sequence):
                continue
            index = forward_pass_id + sequence.pass_offset
            sequence.num_emitted = index + 1
            request = sequence.request
            items.append(
                TokenChunk(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    token_index=index,
                    token_ids=(token(request.sampling.seed, sequence.token_offset + index),),
                )
            )
        self._report_outcome(outcome)
        self._outputs.flush()

    def _report_outcome(self, outcome: PassOutcome) -> None:
        items = self._outputs.items
        for sequence in outcome.first_tokens:
            if isinstance(sequence, _Sequence):
                index = sequence.num_prior_tokens
                sequence.num_emitted = index + 1
                items.append(
                    TokenChunk(
                        request_id=sequence.request_id,
                        attempt=sequence.request.attempt,
                        token_index=index,
                        token_ids=(self._token(sequence, index),),
                    )
                )
        for sequence in outcome.finished:
            if isinstance(sequence, _Sequence) and sequence.finish_reason is not None:
                items.append(_finished(sequence, sequence.finish_reason))

    # Requests

    def _sequence(self, request: EngineRequest) -> tuple[_Sequence, FinishReason | None]:
        """Check what the model cannot know; the reason is given when nothing is left to generate."""
        sampling = request.sampling
        num_prompt, num_prior = len(request.prompt_token_ids), len(request.prior_output_ids)
        if sampling.max_tokens < 1:
            raise RequestRefusedError(request.request_id, "max_tokens", "max_tokens must be at least 1")
        num_output = min(sampling.max_tokens, self._config.max_sequence_tokens - num_prompt)
        end_reason = FinishReason.LENGTH
        if sampling.stop_token_ids:
            first = num_prompt + max(num_prior - 1, sampling.min_tokens, 0)
            stop_at = self._tokens.find_first(
                sampling.seed, first, num_prompt + num_output, sampling.stop_token_ids
            )
            if stop_at is not None:
                num_output, end_reason = stop_at - num_prompt + 1, FinishReason.STOP
        sequence = _Sequence(request, num_output, self._transfer_s(request))
        sequence.end_reason = end_reason
        is_complete = 0 < num_output <= num_prior
        return sequence, end_reason if is_complete else None

    def _transfer_s(self, request: EngineRequest) -> float:
        """Modelled duration of a DECODE_ONLY request's KV transfer; checks its payload."""
        if request.mode is not RequestMode.DECODE_ONLY:
            return 0.0
        if not request.prior_output_ids:
            raise RequestRefusedError(
                request.request_id, "prior_output_ids", "decode needs the first token that prefill sampled"
            )
        try:
            payload = kv_payload.decode(
                request.kv_payload or b"",
                model_name=self._config.model_name,
                prompt_token_ids=request.prompt_token_ids,
                output_token_ids=request.prior_output_ids,
            )
        except kv_payload.KvPayloadError as error:
            raise RequestRefusedError(request.request_id, "kv_payload", str(error)) from error
        return payload.transfer_s

    def _token(self, sequence: _Sequence, index: int) -> int:
        return self._tokens.token(sequence.request.sampling.seed, sequence.token_offset + index)

    # Life

    def _now(self) -> float:
        """Simulated seconds."""
        return asyncio.get_running_loop().time() / self._config.time_scale

    def _require_alive(self) -> None:
        if self._is_closed:
            raise EngineDeadError("the engine is closed")

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """The loop never ends by itself: if it did, it failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._close(EngineDeadError(f"the simulation failed: {error!r}"))

    def _close(self, error: EngineDeadError | None) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
        reason, message = (
            (FinishReason.ABORTED, "the engine was closed")
            if error is None
            else (FinishReason.FAILED, str(error))
        )
        self._outputs.items.extend(_finished(request, reason, message) for request in self._unfinished())
        self._outputs.close(error)
        self._reports.close(error)

    def _unfinished(self) -> list[_Sequence]:
        """Everything that still has to hear its last word, aborted requests of the running pass included."""
        pending = (*self._model.live_requests(), *self._model.aborting_requests())
        return [request for request in pending if isinstance(request, _Sequence)]


def _finished(sequence: _Sequence, reason: FinishReason, message: str = "") -> Finished:
    return Finished(
        request_id=sequence.request_id,
        attempt=sequence.request.attempt,
        reason=reason,
        num_output_tokens=sequence.num_emitted,
        num_cached_prompt_tokens=sequence.num_cached_tokens,
        message=message,
    )

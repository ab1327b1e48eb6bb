"""The executor: one loop over passes that fetches its queue between them, as rank 0 does.

Timed by the H800 cost model, on the event loop of whoever submits first, so nothing here depends on the speed of
the machine. What is awkward, in order of appearance:

1. An idle executor blocks on its queue and takes ONE item when `batch_wait_timeout_ms` is 0; a busy one drains its
   queue at the boundary. With a timeout every fetch waits up to that long for `max_batch_size` items (facts s1.3).
2. With the overlap scheduler the batch of pass i+1 is fetched when pass i starts (facts s1.3).
3. A rank out of range is an IndexError in the loop: the engine dies; negative ones wrap (facts s2.1).
4. Several requests with relax=None in one batch crash all ranks where that is the default (facts s2.1).
5. An abort is an item of the queue like any other; one that reaches a generation_only request whose KV is still
   on its way wedges the executor (facts s2.3).
6. A row of statistics is closed one loop later with the overlap scheduler (facts s3, trap a).
7. With ranks in other processes a pass ends when all have answered; one that is gone is not noticed (facts s7).
"""

import asyncio
import itertools
import struct
from collections import deque
from dataclasses import dataclass, field
from zlib import crc32

from hortator.worker.engine import FinishReason, RequestMode, RequestRefusedError
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_model import GroupConfig, GroupModel, GroupRequest
from hortator.worker.engines.simulated.tokens import TokenSource
from tensorrt_llm import _statistics
from tensorrt_llm._params import DisaggregatedParams
from tensorrt_llm._result import Response
from tensorrt_llm.executor.utils import RequestError

_SENDERS: dict[int, "Executor"] = {}
"""Executors of this process by the id in their opaque state: who frees KV when it has been pulled."""
_uids = itertools.count(1)
_OPAQUE = struct.Struct("<4sIIId")


DEADLY = frozenset({"hang", "zombie", "fatal"})
"""Faults that end the passes."""


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A request as the queue holds it."""

    request_id: int
    result: object
    prompt: tuple[int, ...]
    sampling: object
    rank: int | None
    relax: bool | None
    disagg: object
    cache_salt: str | None


@dataclass(frozen=True)
class Cancel:
    """An abort as the queue holds it."""

    request_id: int


@dataclass
class Counters:
    """What a test asks afterwards."""

    passes: int = 0
    first_passes: list[list[int]] = field(default_factory=list)
    """Request ids by pass in which they got their first token."""
    aborted_in_transfer: int = 0


class _Sequence(GroupRequest):
    __slots__ = ("first_token_out", "num_sent", "position", "submitted")


class Executor:
    """See the module docstring."""

    def __init__(self, args, setting, ranks=None):
        self.args = args
        self._ranks = ranks
        self.profile = setting.profile
        self.time_scale = setting.time_scale
        self.counters = Counters()
        self._fatal_error = None
        self._fault, _, number = setting.fault.partition(":")
        self._fault_after = int(number) if number.isdigit() else 0
        self.uid = next(_uids)
        _SENDERS[self.uid] = self
        dp_size = args.tensor_parallel_size if args.enable_attention_dp else 1
        kv = args.kv_cache_config
        cost = PassCost(
            "deepseek-h800", dp_size=dp_size, ep_size=args.tensor_parallel_size, kv_cache_dtype=kv.dtype
        )
        self._cost = cost
        blocks = (
            cost.kv_blocks_total(kv.tokens_per_block)
            if kv.max_tokens is None
            else kv.max_tokens // kv.tokens_per_block
        )
        self.model = GroupModel(
            GroupConfig(
                dp_size=dp_size,
                chunk_budget_tokens=args.max_num_tokens,
                chunked_prefill=args.enable_chunked_prefill,
                max_batch_size=args.max_batch_size,
                kv_blocks_total=blocks,
                tokens_per_block=kv.tokens_per_block,
                max_sequence_tokens=args.max_seq_len or 131072,
                admission_lead_passes=0 if args.disable_overlap_scheduler else 1,
                prefix_cache=kv.enable_block_reuse,
            ),
            cost,
        )
        self.tokens = TokenSource(2048, 3)
        self.statistics = _statistics.statistics(self.profile)
        self._held_rows = []
        self._queue = deque()
        self._turn_at = None
        self._sequences: dict[int, _Sequence] = {}
        self._results: dict[int, object] = {}
        self._wake = asyncio.Event()
        self._task = None
        self.is_shut_down = False

    # The other side of the queue

    def put(self, item):
        if isinstance(item, Submitted):
            self._results[item.request_id] = item.result
            self.statistics.on_prompt()
        loop = asyncio.get_running_loop()
        if self._turn_at is None:  # what is put in one turn of the loop arrives together: a guess
            self._turn_at = loop.time()
            loop.call_soon(self._next_turn)
        self._queue.append((self._turn_at, item))
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _next_turn(self):
        self._turn_at = None

    def die(self, error):
        """A rank is gone: everything that waits hears it (facts s7)."""
        self._fatal_error = error
        if self._task is not None:
            self._task.cancel()
        for result in self._results.values():
            result._put(error)
        self._results.clear()

    def hang(self):
        """No iteration ends any more; nobody is told."""
        self._fault, self._fault_after = "hang", 0

    def shutdown(self):
        self.is_shut_down = True
        _SENDERS.pop(self.uid, None)
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        if self._ranks is not None:
            self._ranks.close()

    # The loop

    async def _run(self):
        try:
            while True:
                await self._fetch()
                started_at = self._now()
                duration_s = self.model.start_pass(started_at)
                if duration_s is None:
                    await self._wait_for_transfer()
                    continue
                await asyncio.sleep(duration_s * self.time_scale)
                if self._ranks is not None:
                    await self._all_ranks_answer()
                self.counters.passes += 1
                if self._fault in DEADLY and self.counters.passes > self._fault_after:
                    await self._go_wrong()
                self._end_pass(duration_s)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever happens in the loop is the engine's death
            self.die(error)

    async def _all_ranks_answer(self):
        try:
            await asyncio.to_thread(self._ranks.ask, self.counters.passes)
        except (OSError, ValueError):  # oddity 7
            await asyncio.Event().wait()

    async def _go_wrong(self):
        if self._fault == "fatal":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        await asyncio.Event().wait()

    def _is_idle(self):
        return not self.model.num_live

    async def _fetch(self):
        wait_s = self.args.batch_wait_timeout_ms * 1e-3
        if self._is_idle():
            self._release_rows()
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            if not wait_s or self._fault == "split":
                self._apply([self._queue.popleft()[1]])  # oddity 1
                return
        closes_at = asyncio.get_running_loop().time() + wait_s
        if wait_s and len(self._queue) < self.args.max_batch_size:
            await asyncio.sleep(wait_s)
        items = []
        while self._queue and self._queue[0][0] <= closes_at:  # a late timer keeps no door open
            items.append(self._queue.popleft()[1])
        self._apply(items)

    async def _wait_for_transfer(self):
        ready_at = self.model.next_ready_at()
        if self._queue or self._is_idle():
            return
        self._wake.clear()
        delay_s = None if ready_at is None else max(ready_at - self._now(), 0) * self.time_scale
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _apply(self, items):
        requests = [item for item in items if isinstance(item, Submitted)]
        if sum(item.relax is None and item.rank is not None for item in requests) > 1:  # oddity 4
            raise TypeError("'<' not supported between instances of 'NoneType' and 'NoneType'")
        for item in items:
            if isinstance(item, Submitted):
                self._admit(item)
            else:
                self._cancel(item.request_id)

    def _admit(self, item):
        ranks = self.model.ranks
        if item.rank is None:
            dp_rank = min(ranks, key=lambda rank: (rank.prefill_load_tokens, rank.batch_size)).dp_rank
        else:
            dp_rank = ranks[item.rank].dp_rank  # oddity 3
            if self._fault == "misplace" and self.counters.passes > self._fault_after:
                dp_rank = (dp_rank + 1) % len(ranks)
        sequence = self._sequence(item, dp_rank)
        try:
            self.model.submit([sequence], self._now())
        except RequestRefusedError as error:
            self._results.pop(item.request_id)._put(RequestError(str(error)))
            return
        self._sequences[item.request_id] = sequence

    def _cancel(self, request_id):
        sequence = self._sequences.get(request_id)
        if sequence is None:
            self.model.release(str(request_id))  # a finished context_only request whose KV nobody pulled
            return
        if sequence.mode is RequestMode.DECODE_ONLY and not sequence.num_sent:  # oddity 5
            self.counters.aborted_in_transfer += 1
            self.hang()
            return
        self.model.abort(str(request_id))
        self._send(sequence, Response(finish_reason="cancelled"))

    # Requests

    def _sequence(self, item, dp_rank):
        sampling, disagg = item.sampling, item.disagg
        kind = disagg.request_type if disagg is not None else None
        mode = {"context_only": RequestMode.PREFILL_ONLY, "generation_only": RequestMode.DECODE_ONLY}.get(
            kind, RequestMode.AGGREGATED
        )
        num_prior = len(disagg.first_gen_tokens) if mode is RequestMode.DECODE_ONLY else 0
        num_output = min(sampling.max_tokens, self.model.config.max_sequence_tokens - len(item.prompt))
        if mode is RequestMode.PREFILL_ONLY:
            num_output = 2  # the model ends at one; the second says that KV waits
        stops = () if self._fault == "never-stops" else tuple(sampling.stop_token_ids or ())
        if not sampling.ignore_eos and sampling.end_id is not None:
            stops += (sampling.end_id,)
        seed, start = sampling.seed or 0, len(item.prompt)
        first = start + max(num_prior, (sampling.min_tokens or 0) - 1, 0)
        stop_at = self.tokens.find_first(seed, first, start + num_output, stops) if stops else None
        if stop_at is not None and (mode is not RequestMode.PREFILL_ONLY or stop_at == start):
            num_output = stop_at - start + 1
        transfer_s = _OPAQUE.unpack(disagg.opaque_state)[4] if mode is RequestMode.DECODE_ONLY else 0.0
        sequence = _Sequence(
            str(item.request_id),
            dp_rank,
            mode,
            len(item.prompt) + num_prior,
            num_output,
            num_prior,
            block_hashes=self._hashes(item),
            transfer_s=transfer_s,
        )
        if stop_at is not None and num_output == stop_at - start + 1:
            sequence.end_reason = FinishReason.STOP
        sequence.submitted = item
        sequence.position = start
        sequence.num_sent = 0
        sequence.first_token_out = False
        return sequence

    def _hashes(self, item):
        size = self.args.kv_cache_config.tokens_per_block
        chain, hashes = crc32((item.cache_salt or "").encode()), []
        for end in range(size, len(item.prompt) + 1, size):
            chain = hash((chain, item.prompt[end - size : end]))
            hashes.append(chain)
        return tuple(hashes)

    def _token(self, sequence, index):
        seed = sequence.submitted.sampling.seed or 0
        if self._fault == "reseeds" and seed:
            seed += len(sequence.submitted.prompt)  # what is drawn depends on where the attempt began
        return self.tokens.token(seed, sequence.position + index)

    # The end of a pass

    def _end_pass(self, duration_s):
        model = self.model
        pass_id = model.forward_pass_id
        brought: dict[_Sequence, list[int]] = {}
        for sequence in tuple(model.decoding.values()):
            index = sequence.output_index(pass_id)
            tokens = [self._token(sequence, index)]
            if sequence.mode is RequestMode.DECODE_ONLY and not sequence.num_sent:
                self._pulled(sequence)
                # the first response holds what prefill sampled as well: a guess
                tokens = [*sequence.submitted.disagg.first_gen_tokens, *tokens]
            brought[sequence] = tokens
        rows = _statistics.rows_of(pass_id, duration_s, model, self.profile)
        outcome = model.end_pass()
        for sequence in outcome.first_tokens:
            brought[sequence] = [self._token(sequence, sequence.num_prior_tokens)]
        self.counters.first_passes.append([int(s.request_id) for s in outcome.first_tokens])
        ended = {sequence: sequence.finish_reason for sequence in outcome.finished}
        for sequence, tokens in brought.items():
            sequence.num_sent += len(tokens)
            self._send(sequence, self._response(sequence, tokens, ended.get(sequence)))
        if self.args.enable_iter_perf_stats:
            if model.config.admission_lead_passes:
                self._release_rows()
            self._held_rows = rows
            if not model.config.admission_lead_passes:
                self._release_rows()

    def _release_rows(self):
        for row in self._held_rows:
            self.statistics.put(row)
        self._held_rows = []

    def _response(self, sequence, tokens, reason):
        sampling = sequence.submitted.sampling
        response = Response(tokens=tokens)
        if reason is None:
            return response
        if sampling.return_perf_metrics:
            response.num_reused_blocks = sequence.num_cached_tokens // self.model.config.tokens_per_block
        if reason is FinishReason.PREFILLED:
            response.finish_reason = "length"
            response.disaggregated_params = DisaggregatedParams(
                request_type="context_only",
                first_gen_tokens=list(tokens),
                ctx_request_id=int(sequence.request_id),
                opaque_state=_OPAQUE.pack(
                    b"TRTX",
                    self.uid,
                    int(sequence.request_id),
                    sequence.num_prefill_tokens,
                    self._cost.transfer_s(sequence.num_prefill_tokens),
                ),
            )
        elif reason is FinishReason.STOP:
            response.finish_reason = "stop"
            if tokens[-1] in (sampling.stop_token_ids or ()):
                response.stop_reason = tokens[-1]
                if not sampling.include_stop_str_in_output:
                    response.tokens = tokens[:-1]
        else:
            response.finish_reason = "length"
        return response

    def _pulled(self, sequence):
        """The KV has arrived: the sender frees its copy."""
        _, uid, request_id, _, _ = _OPAQUE.unpack(sequence.submitted.disagg.opaque_state)
        sender = _SENDERS.get(uid)
        if sender is not None and not sender.model.release(str(request_id)):
            self.hang()  # freed under the transfer, which never ends (facts s2.3, #12117)

    def _send(self, sequence, response):
        request_id = int(sequence.request_id)
        if response.finish_reason is not None:
            del self._sequences[request_id]
            self._results.pop(request_id)._put(response)
        else:
            self._results[request_id]._put(response)

    def _now(self):
        return asyncio.get_running_loop().time() / self.time_scale

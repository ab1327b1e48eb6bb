"""What one EP group's engine does with its requests: a pure model, time passed in.

Theory of operation. The D ranks row in stroke: `start_pass` forms a batch on every rank and says how
long the pass takes (the fullest rank decides, `PassCost`); `end_pass` hands out what the pass produced.
The driver owns the clock: the wall-clock engine sleeps, the virtual-time simulator uses its heap.

    while the duration := model.start_pass(now) is not None:      None: nothing can run now
        now += duration
        outcome = model.end_pass()

Rules:

1. Each rank serves its requests first come, first served. A request that does not fit (KV blocks, batch
   size, an indivisible prompt in what is left of the chunk budget) holds back those behind it.
2. Budget of a rank in a pass = chunk budget - its decode tokens. With chunked prefill a prompt is cut
   at the budget and goes on first in the next pass; so at most one prompt per rank is in pieces.
3. A request reserves all the KV blocks it can need when it first runs (no eviction of running requests).
4. Every running decode gets one token in every pass. Nothing is done per sequence for that: the token
   index is a function of the pass id, a finish is found in a bucket keyed by pass id, and KV sums grow by the
   batch size.
5. What is submitted during a pass joins the next one; with `admission_lead_passes` 1 the next batch was
   fetched when the current pass started, so a prompt joins the one after that (at once when nothing runs).
6. A DECODE_ONLY request is runnable when its KV has arrived: transfers of a rank are serial (one NIC).
7. With `context_timeout_iters` the engine holds prompts back by itself, see `context_wait`.
8. An abort takes effect at once for what waits, and at the end of the running pass for what is in it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hortator.worker.engine import FinishReason, RankLoad, RequestMode
from hortator.worker.engines.simulated.context_wait import ContextWait
from hortator.worker.engines.simulated.cost import PassCost
from hortator.worker.engines.simulated.group_config import GroupConfig, refusal
from hortator.worker.engines.simulated.group_request import (
    DECODING,
    ENDED,
    LEASED,
    PREFILLING,
    TRANSFERRING,
    WAITING,
    GroupRequest,
    Rank,
)

__all__ = ["GroupConfig", "GroupModel", "GroupRequest", "PassOutcome", "Rank"]


@dataclass(slots=True)
class PassOutcome:
    """What a pass produced. Decodes in progress are not listed: see `GroupModel.decoding`."""

    forward_pass_id: int
    first_tokens: list[GroupRequest] = field(default_factory=list)
    """Prefill ended in this pass: each has output token number `num_prior_tokens` now."""
    finished: list[GroupRequest] = field(default_factory=list)
    """Ended for this model, `finish_reason` says why; PREFILLED ones keep their KV until `release`."""


class GroupModel:
    """The engine of one EP group in lock-step; see the module docstring.

    Attributes:
        decoding: running decodes by request id. Between `start_pass` and `end_pass` these are exactly the
            requests that get a token from the pass; its index is `request.output_index(forward_pass_id)`.
        forward_pass_id: of the running pass, or of the last one.
        predicted_s: of the running or last pass, without jitter.
    """

    __slots__ = (
        "_aborting",
        "_budget",
        "_chunked",
        "_context_wait",
        "_cost",
        "_decode_kv_tokens",
        "_ending_at",
        "_jitter",
        "_leases",
        "_live",
        "_num_decoding",
        "_pass_decodes",
        "_pieces",
        "_prefill_ranks",
        "_random",
        "_slow_rank_factor",
        "_staged",
        "_transfer_ranks",
        "config",
        "decoding",
        "forward_pass_id",
        "is_running",
        "predicted_s",
        "ranks",
    )

    def __init__(self, config: GroupConfig, cost: PassCost) -> None:
        if cost.dp_size != config.dp_size:
            raise ValueError(f"the cost model is for {cost.dp_size} ranks, not {config.dp_size}")
        self.config = config
        self._cost = cost
        self._budget = config.chunk_budget_tokens
        self._chunked = config.chunked_prefill
        self._context_wait = (
            ContextWait(
                timeout_iters=config.context_timeout_iters, batching_wait_iters=config.batching_wait_iters
            )
            if config.context_timeout_iters or config.batching_wait_iters
            else None
        )
        self._jitter = config.jitter
        self._random = random.Random(config.seed)
        self._slow_rank_factor = config.slow_rank_factor
        self.ranks = tuple(Rank(rank, config.kv_blocks_total) for rank in range(config.dp_size))
        self.forward_pass_id = 0
        self.is_running = False
        self.predicted_s = 0.0
        self.decoding: dict[str, GroupRequest] = {}
        self._live: dict[str, GroupRequest] = {}
        self._leases: dict[str, GroupRequest] = {}
        self._staged: list[GroupRequest] = []
        self._aborting: list[GroupRequest] = []
        self._pieces: list[tuple[GroupRequest, int]] = []
        self._prefill_ranks: dict[int, Rank] = {}
        self._transfer_ranks: dict[int, Rank] = {}
        self._num_decoding = [0] * config.dp_size
        self._decode_kv_tokens = [0] * config.dp_size
        self._pass_decodes: Sequence[int] = self._num_decoding[:]
        self._ending_at: dict[int, list[GroupRequest]] = {}

    @property
    def num_live(self) -> int:
        """Requests submitted and not ended (aborting ones not counted)."""
        return len(self._live)

    # Requests come and go

    def check(self, request: GroupRequest) -> None:
        """Raise RequestRefusedError if this request could never run here, or is live already."""
        if request.request_id in self._live:
            raise refusal(request, "request_id", f"request {request.request_id} is live already")
        self.config.check_fits(request)

    def submit(self, requests: Sequence[GroupRequest], now: float) -> None:
        """Take all requests, or raise RequestRefusedError and take none."""
        ids = set()
        for request in requests:
            self.check(request)
            if request.request_id in ids:
                raise refusal(request, "request_id", f"request {request.request_id} is twice in the batch")
            ids.add(request.request_id)
        is_staged = self.config.admission_lead_passes > 0
        for request in requests:
            rank = self.ranks[request.dp_rank]
            self.release(request.request_id)  # a new attempt supersedes the lease of an old one
            self._live[request.request_id] = request
            rank.num_waiting += 1
            if request.mode is RequestMode.DECODE_ONLY:
                if rank.waiting or not self._start_transfer(rank, request, now):
                    self._queue(rank, request)
                continue
            request.uncached_tokens = request.num_prefill_tokens
            if request.block_hashes and self.config.prefix_cache:
                request.uncached_tokens -= self._match(rank, request) * self.config.tokens_per_block
            rank.prefill_load_tokens += request.uncached_tokens
            if is_staged:
                self._staged.append(request)
            else:
                self._queue(rank, request)

    def abort(self, request_id: str) -> GroupRequest | None:
        """End a request early; unknown ids are a no-op.

        Returns:
            The request if it ended now; None if it ends with the running pass (it is then among the
            outcome's `finished`) or is not known.
        """
        request = self._live.pop(request_id, None)
        if request is None:
            return None
        request.aborting = True
        self.decoding.pop(request_id, None)
        if self.is_running and request.state in {PREFILLING, DECODING}:
            self._aborting.append(request)
            return None
        self._drop(request)
        return request

    def release(self, request_id: str) -> bool:
        """Free the leased KV of a PREFILLED request; False if there is no such lease."""
        request = self._leases.pop(request_id, None)
        if request is None:
            return False
        self._free(request)
        request.state = ENDED
        return True

    def lease(self, request_id: str) -> GroupRequest | None:
        """The PREFILLED request whose KV is held under this id."""
        return self._leases.get(request_id)

    def live_requests(self) -> tuple[GroupRequest, ...]:
        """All requests that were submitted and have not ended, oldest first."""
        return tuple(self._live.values())

    def aborting_requests(self) -> tuple[GroupRequest, ...]:
        """Aborted requests that end with the running pass."""
        return tuple(self._aborting)

    # Passes

    def start_pass(self, now: float) -> float | None:
        """Form the next batch; returns the pass's duration in seconds, or None when nothing can run now.

        None does not mean empty: requests may wait for KV blocks (until a release, abort or finish) or for
        a transfer (see `next_ready_at`).
        """
        if self.is_running:
            raise RuntimeError("a pass is running")
        forward_pass_id = self.forward_pass_id + 1
        if self._transfer_ranks:
            self._admit_arrived(forward_pass_id, now)
        if not self._prefill_ranks and not self.decoding:
            self._unstage()
        ns, pairs = self._form_prefill(now)
        if not ns and not self.decoding:
            if not self._staged:
                return None
            self._unstage()
            ns, pairs = self._form_prefill(now)
            if not ns and not self.decoding:
                return None
        self._unstage()
        self._pass_decodes = self._num_decoding[:]
        if self._slow_rank_factor != 1.0:
            self.predicted_s = self._slowed_s()
        elif not self.decoding:
            self.predicted_s = self._cost.prefill_s(ns, pairs)
        elif not ns:
            self.predicted_s = self._cost.decode_s(self._num_decoding, self._decode_kv_tokens)
        else:
            self.predicted_s = self._mixed_s()
        self.forward_pass_id = forward_pass_id
        self.is_running = True
        if self._jitter:
            return self.predicted_s * self._random.lognormvariate(-0.5 * self._jitter**2, self._jitter)
        return self.predicted_s

    def end_pass(self) -> PassOutcome:
        """Finish the running pass: progress, tokens, ends; see `PassOutcome`."""
        if not self.is_running:
            raise RuntimeError("no pass is running")
        self.is_running = False
        forward_pass_id = self.forward_pass_id
        outcome = PassOutcome(forward_pass_id)
        kv_tokens = self._decode_kv_tokens
        for rank, sequences in enumerate(self._pass_decodes):
            if sequences:
                kv_tokens[rank] += sequences
        ending = self._ending_at.pop(forward_pass_id, None)
        if ending is not None:
            for request in ending:
                if not request.aborting:
                    self._end_decode(request)
                    self._finish(request, request.end_reason, outcome)
        if self._pieces:
            self._end_prefill(outcome)
        if self._aborting:
            for request in self._aborting:
                self._drop(request)
                outcome.finished.append(request)
            self._aborting.clear()
        return outcome

    def next_ready_at(self) -> float | None:
        """When the next KV transfer ends; the time to call `start_pass` again if nothing else happens."""
        heads = [rank.transferring[0].ready_at for rank in self._transfer_ranks.values() if rank.transferring]
        return min(heads, default=None)

    # Reports

    def loads(self, *, of_pass: bool = False, drain: bool = False) -> tuple[RankLoad, ...]:
        """Load of every rank now, in the words of the port.

        Args:
            of_pass: fill `pass_prefill_tokens` and `pass_decode_tokens` with the running or last pass.
            drain: hand over the stored and removed block hashes collected since the last such call.
        """
        return tuple(
            rank.load(decodes, of_pass=of_pass, drain=drain)
            for rank, decodes in zip(self.ranks, self._pass_decodes, strict=True)
        )

    def check_invariants(self) -> None:
        """Raise AssertionError if the books do not balance; for tests."""
        for rank in self.ranks:
            rank.kv.check()
            waiting = [r for r in (*rank.waiting, *rank.transferring) if r.state in {WAITING, TRANSFERRING}]
            staged = [r for r in self._staged if r.dp_rank == rank.dp_rank and r.state == WAITING]
            if rank.num_waiting != len(waiting) + len(staged):
                raise AssertionError(
                    f"rank {rank.dp_rank}: {rank.num_waiting} waiting, {len(waiting)} queued"
                )
            if not 0 <= rank.batch_size <= self.config.max_batch_size:
                raise AssertionError(f"rank {rank.dp_rank}: batch of {rank.batch_size}")
            if rank.pass_prefill_tokens + self._pass_decodes[rank.dp_rank] > max(
                self._budget, self._pass_decodes[rank.dp_rank]
            ):
                raise AssertionError(f"rank {rank.dp_rank} ran over its chunk budget")
        if not self._live and not self._leases and not self._aborting:
            for rank in self.ranks:
                if rank.kv.used or rank.batch_size or rank.prefill_load_tokens:
                    raise AssertionError(f"rank {rank.dp_rank} holds something of nobody")

    # Inside

    def _queue(self, rank: Rank, request: GroupRequest) -> None:
        rank.waiting.append(request)
        self._prefill_ranks[rank.dp_rank] = rank

    def _unstage(self) -> None:
        """The next batch is fetched: what was staged until now may run in the pass after this one."""
        for request in self._staged:
            if not request.aborting:
                self._queue(self.ranks[request.dp_rank], request)
        self._staged.clear()

    def _form_prefill(self, now: float) -> tuple[list[int], list[float]]:
        """Cut pieces for this pass; returns (n, S) of the ranks that have any."""
        ns: list[int] = []
        pairs: list[float] = []
        if self._context_wait is not None and self._holds_prompts_back(self._context_wait):
            return ns, pairs
        drained: list[int] = []
        pieces: list[tuple[GroupRequest, int]] = []
        for rank in self._prefill_ranks.values():
            budget = self._budget - self._num_decoding[rank.dp_rank]
            n = 0
            s = 0.0
            request = rank.partial
            while True:
                if request is None:
                    request = self._admit_next(rank, budget, now)
                    if request is None:
                        break
                elif budget <= 0:
                    break
                prefix = request.num_computed_tokens
                q = request.num_prefill_tokens - prefix
                if q > budget:
                    q = budget
                    rank.partial = request
                else:
                    rank.partial = None
                budget -= q
                n += q
                s += q * (prefix + 0.5 * q)
                pieces.append((request, q))
                request = None
            rank.pass_prefill_tokens = n
            if n:
                ns.append(n)
                pairs.append(s)
            elif not rank.waiting and rank.partial is None:
                drained.append(rank.dp_rank)
        for dp_rank in drained:
            del self._prefill_ranks[dp_rank]
        self._pieces = pieces
        return ns, pairs

    def _admit_next(self, rank: Rank, budget: int, now: float) -> GroupRequest | None:
        """Move the head of the rank's queue into its batch if it fits; starts transfers it passes."""
        waiting = rank.waiting
        config = self.config
        while waiting:
            request = waiting[0]
            if request.aborting:
                waiting.popleft()
                continue
            if request.mode is RequestMode.DECODE_ONLY:
                if not self._start_transfer(rank, request, now):
                    return None
                waiting.popleft()
                continue
            if budget <= 0 or rank.batch_size >= config.max_batch_size:
                return None
            num_hits = self._match(rank, request) if request.block_hashes and config.prefix_cache else 0
            num_cached = num_hits * config.tokens_per_block
            if not self._chunked and request.num_prefill_tokens - num_cached > budget:
                return None
            num_blocks = self.config.blocks_of(request)
            hits = request.block_hashes[:num_hits] if num_hits else ()
            if not rank.kv.reserve(num_blocks, hits):
                return None
            waiting.popleft()
            request.kv_blocks = num_blocks
            request.kv_refs.extend(hits)
            request.num_stored_blocks = num_hits
            request.num_cached_tokens = request.num_computed_tokens = num_cached
            uncached = request.num_prefill_tokens - num_cached
            rank.prefill_load_tokens += uncached - request.uncached_tokens
            request.uncached_tokens = uncached
            request.state = PREFILLING
            request.started_at = now
            rank.num_waiting -= 1
            rank.batch_size += 1
            return request
        return None

    def _holds_prompts_back(self, wait: ContextWait) -> bool:
        """Ask the engine's own wait, if there are prompts at all."""
        num_ranks = sum(
            rank.partial is not None or any(r.mode is not RequestMode.DECODE_ONLY for r in rank.waiting)
            for rank in self._prefill_ranks.values()
        )
        return num_ranks > 0 and not wait.lets_go(
            all_have_prompts=num_ranks == self.config.dp_size,
            all_have_decodes=min(self._num_decoding) > 0,
            all_have_slots=max(self._num_decoding) < self.config.max_batch_size,
        )

    def _start_transfer(self, rank: Rank, request: GroupRequest, now: float) -> bool:
        """Reserve blocks and start pulling the KV of a DECODE_ONLY request; False if it does not fit yet."""
        num_blocks = self.config.blocks_of(request)
        if not rank.kv.reserve(num_blocks):
            return False
        request.kv_blocks = num_blocks
        request.state = TRANSFERRING
        request.ready_at = rank.transfer_free_at = max(now, rank.transfer_free_at) + request.transfer_s
        rank.transferring.append(request)
        self._transfer_ranks[rank.dp_rank] = rank
        return True

    def _admit_arrived(self, forward_pass_id: int, now: float) -> None:
        """Let DECODE_ONLY requests whose KV has arrived decode from this pass on."""
        drained = []
        for rank in self._transfer_ranks.values():
            transferring = rank.transferring
            while transferring:
                request = transferring[0]
                if not request.aborting:
                    if request.ready_at > now or rank.batch_size >= self.config.max_batch_size:
                        break
                    rank.num_waiting -= 1
                    rank.batch_size += 1
                    self._start_decode(request, forward_pass_id)
                    self._decode_kv_tokens[rank.dp_rank] += request.num_prefill_tokens
                transferring.popleft()
            if not transferring:
                drained.append(rank.dp_rank)
        for dp_rank in drained:
            del self._transfer_ranks[dp_rank]

    def _mixed_s(self) -> float:
        """Price the formed pass; all four sequences over all ranks."""
        ns, pairs = self._prefill_by_rank()
        return self._cost.mixed_s(ns, pairs, self._num_decoding, self._decode_kv_tokens)

    def _slowed_s(self) -> float:
        """The same as if rank 0 had more of everything than it has."""
        columns: list[list[float]] = [list(column) for column in self._prefill_by_rank()]
        columns += [list(self._num_decoding), list(self._decode_kv_tokens)]
        for column in columns:
            column[0] *= self._slow_rank_factor
        return self._cost.mixed_s(*columns)

    def _prefill_by_rank(self) -> tuple[list[int], list[float]]:
        ns = [0] * self.config.dp_size
        pairs = [0.0] * self.config.dp_size
        for request, q in self._pieces:
            ns[request.dp_rank] += q
            pairs[request.dp_rank] += q * (request.num_computed_tokens + 0.5 * q)
        return ns, pairs

    def _end_prefill(self, outcome: PassOutcome) -> None:
        """Move each piece's request along; a complete prompt yields its first token."""
        tokens_per_block = self.config.tokens_per_block
        for request, q in self._pieces:
            rank = self.ranks[request.dp_rank]
            rank.prefill_load_tokens -= q
            request.uncached_tokens -= q
            request.num_computed_tokens += q
            if request.aborting:
                continue
            if request.block_hashes and self.config.prefix_cache:
                num_full = min(request.num_computed_tokens // tokens_per_block, len(request.block_hashes))
                if num_full > request.num_stored_blocks:
                    new = request.block_hashes[request.num_stored_blocks : num_full]
                    request.kv_refs.extend(rank.kv.store(new))
                    request.num_stored_blocks = num_full
            if request.num_computed_tokens < request.num_prefill_tokens:
                continue
            outcome.first_tokens.append(request)
            if request.num_prior_tokens + 1 >= request.num_output_tokens:
                rank.batch_size -= 1
                self._finish(request, request.end_reason, outcome)
            elif request.mode is RequestMode.PREFILL_ONLY:
                del self._live[request.request_id]
                rank.batch_size -= 1
                request.state = LEASED
                request.finish_reason = FinishReason.PREFILLED
                self._leases[request.request_id] = request
                outcome.finished.append(request)
            else:
                self._start_decode(request, outcome.forward_pass_id)
                self._decode_kv_tokens[rank.dp_rank] += request.num_prefill_tokens + 1
        self._pieces = []

    def _start_decode(self, request: GroupRequest, forward_pass_id: int) -> None:
        """From now on the request's output index is a function of the pass id."""
        request.state = DECODING
        request.pass_offset = request.num_prior_tokens - forward_pass_id
        self.decoding[request.request_id] = request
        self._num_decoding[request.dp_rank] += 1
        ending_at = request.num_output_tokens - 1 - request.pass_offset
        self._ending_at.setdefault(ending_at, []).append(request)

    def _end_decode(self, request: GroupRequest) -> None:
        """Take the request out of its rank's decode sums, after the increments of the last pass."""
        dp_rank = request.dp_rank
        self.decoding.pop(request.request_id, None)
        self._num_decoding[dp_rank] -= 1
        self.ranks[dp_rank].batch_size -= 1
        # joined with num_prefill_tokens in pass (num_prior_tokens - pass_offset), one more per pass since
        passes = self.forward_pass_id + 1 + request.pass_offset - request.num_prior_tokens
        self._decode_kv_tokens[dp_rank] -= request.num_prefill_tokens + passes

    def _finish(self, request: GroupRequest, reason: FinishReason, outcome: PassOutcome) -> None:
        del self._live[request.request_id]
        self._free(request)
        request.state = ENDED
        request.finish_reason = reason
        outcome.finished.append(request)

    def _drop(self, request: GroupRequest) -> None:
        """End an aborted request, whatever it was doing, between passes."""
        rank = self.ranks[request.dp_rank]
        if request.state in {WAITING, TRANSFERRING}:
            rank.num_waiting -= 1
        elif request.state == DECODING:
            self._end_decode(request)
        else:
            rank.batch_size -= 1
            if rank.partial is request:
                rank.partial = None
        rank.prefill_load_tokens -= request.uncached_tokens
        request.uncached_tokens = 0
        self._free(request)
        request.state = ENDED
        request.finish_reason = FinishReason.ABORTED

    def _free(self, request: GroupRequest) -> None:
        if request.kv_blocks:
            self.ranks[request.dp_rank].kv.free(request.kv_blocks - len(request.kv_refs), request.kv_refs)
            request.kv_blocks = 0
            request.kv_refs = []

    def _match(self, rank: Rank, request: GroupRequest) -> int:
        """Reusable leading blocks; at least one prompt token is always computed."""
        most = (request.num_prefill_tokens - 1) // self.config.tokens_per_block
        hashes = request.block_hashes
        return rank.kv.match(hashes[:most] if len(hashes) > most else hashes)

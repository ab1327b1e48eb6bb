"""An EP group as the scheduler believes it to be.

Load of a rank = what the worker last reported + what was dispatched after that report (the *unreported*
dispatches). Reports name the highest dispatch sequence they contain, so work is never counted twice and
never missed. Readiness, in three tiers: quiescent (nothing dispatched or running), feedback (pass ended, or
about to: see `boundary`), watchdog (silence: see `SchedulerMachine`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heapreplace

from hortator.scheduler.core.boundary import BoundaryLead
from hortator.scheduler.core.estimates import PassEstimator, Smoothed
from hortator.scheduler.core.mixed_passes import MixedPasses
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads
from hortator.scheduler.core.occupants import Occupants
from hortator.scheduler.core.prefix_index import PrefixIndex
from hortator.scheduler.core.request import RequestState

BLOCKS_BEYOND_KV = 4
"""Blocks that may be found in a group, in units of its KV blocks: an engine may keep more in host memory."""

DispatchedShare = tuple[int, int, int]
"""(DP rank, prefill tokens, KV blocks) of one dispatched request."""


class GroupState:
    """Mutable; only the machine writes it. Columns (`load_tokens`, ...) are lists indexed by DP rank."""

    __slots__ = (
        "_roomiest",
        "_unreported",
        "balance",
        "batch_size",
        "boundary",
        "closing",
        "continues",
        "draining",
        "estimator",
        "forward_pass_id",
        "has_reported",
        "in_flight",
        "kv_used",
        "last_dispatch_at",
        "last_heard_at",
        "last_seq",
        "load_tokens",
        "longest_prompt",
        "mixed_passes",
        "occupants",
        "pass_done",
        "pass_ended_at",
        "pass_started_at",
        "pass_tokens",
        "prefixes",
        "probed_at",
        "progress_at",
        "ready_since",
        "reserved_blocks",
        "running",
        "running_predicted_s",
        "spec",
        "suspect",
    )

    def __init__(
        self, spec: GroupSpec, *, now: float, warmup_passes: int, attention_pair_cost: float = 0.0
    ) -> None:
        zeros = [0] * spec.dp_size
        self.spec = spec
        self.longest_prompt = spec.longest_prompt
        self.estimator = PassEstimator(warmup=warmup_passes)
        self.balance = Smoothed(1.0)  # mean / maximum of the ranks' prefill tokens, per pass
        self.boundary = BoundaryLead()
        self.closing = False  # the running pass is about to end: what is sent now joins the next one
        self.continues = False  # its last pass left something over: the next one has begun, unheard of
        self.mixed_passes = MixedPasses()
        self.occupants = Occupants(
            chunk_budget_tokens=spec.chunk_budget_tokens, attention_pair_cost=attention_pair_cost
        )
        self.prefixes = self.new_prefixes()
        self.load_tokens = list(zeros)
        self.batch_size = list(zeros)
        self.kv_used = list(zeros)
        self.reserved_blocks = list(zeros)  # decode: promised to prefills that have not arrived here yet
        self._roomiest: list[tuple[int, int]] | None = None
        """Heap of (-free KV blocks, rank), never less than what is free; None: to be made anew."""
        self._unreported: deque[tuple[int, tuple[DispatchedShare, ...]]] = deque()
        self.in_flight: dict[str, RequestState] = {}
        self.has_reported = False
        self.running = False
        self.forward_pass_id = 0
        self.pass_started_at = now
        self.pass_ended_at = now
        self.running_predicted_s = 0.0
        self.pass_tokens = list(zeros)  # what the running pass takes off each rank's load
        self.pass_done: dict[int, int] = {}  # by rank: tokens of its prompt that were computed before that
        self.ready_since = now
        self.last_heard_at = now
        self.progress_at = now  # it ran a pass, let go of a request, or got its first one
        self.last_dispatch_at = float("-inf")
        self.last_seq = 0
        self.draining = False
        self.suspect = False
        self.probed_at: float | None = None

    def new_prefixes(self) -> PrefixIndex:
        """Of no block; the next reports tell what there is."""
        num_blocks = self.spec.dp_size * self.spec.kv_blocks_total
        return PrefixIndex(max_blocks=BLOCKS_BEYOND_KV * num_blocks)

    @property
    def placeable(self) -> bool:
        """May anything be placed here at all?"""
        return self.has_reported and not self.draining and not self.suspect

    def reads(self, tokenizer: str) -> bool:
        """Do ids of this tokenizer mean here what they meant where the prompt was read?"""
        return tokenizer == self.spec.tokenizer or not tokenizer or not self.spec.tokenizer

    def can_hold(self, request: RequestState) -> bool:
        """May it ever run here?"""
        return request.num_prompt_tokens <= self.longest_prompt and self.reads(request.tokenizer)

    @property
    def is_ready(self) -> bool:
        """Would work dispatched now join the very next pass, with nothing else on its way?

        With an admission lead the engine fetches the next batch while a pass runs, so running is no bar.
        """
        if not self.placeable or self._unreported:
            return False
        if self.running:
            return self.closing or self.spec.admission_lead_passes > 0
        return not self.continues

    @property
    def is_quiescent(self) -> bool:
        """Nothing dispatched, nothing running."""
        return not self.running and not self._unreported

    def free_tokens(self) -> list[int]:
        """A_d: prefill tokens that still fit into each rank's next pass (can be negative)."""
        budget = self.spec.chunk_budget_tokens
        if self.running and self.closing and self.spec.phase is Phase.AGGREGATED:
            queued = self.queued_tokens()
            return [budget - load - batch for load, batch in zip(queued, self.batch_size, strict=True)]
        if self.spec.phase is Phase.AGGREGATED:
            return [
                budget - load - batch for load, batch in zip(self.load_tokens, self.batch_size, strict=True)
            ]
        if self.running and (self.closing or self.spec.admission_lead_passes):
            return [budget - queued for queued in self.queued_tokens()]  # what runs now is gone by then
        return [budget - load for load in self.load_tokens]

    def queued_tokens(self) -> list[int]:
        """Prefill tokens per rank that the running pass will leave over (in-engine queueing)."""
        if not self.running:
            return self.load_tokens
        return [load - taken for load, taken in zip(self.load_tokens, self.pass_tokens, strict=True)]

    def start_pass(self, now: float, predicted_s: float | None) -> None:
        """A pass began with what the ranks have reported; each takes up to a chunk budget of it."""
        budget = self.spec.chunk_budget_tokens
        self.running = True
        self.closing = self.continues = False
        self.pass_started_at = now
        reported = list(self.load_tokens)
        for _, shares in self._unreported:
            for rank, tokens, _ in shares:
                reported[rank] -= tokens  # still on its way: it joins the next pass
        self.pass_tokens = [min(load, budget) for load in reported]
        self.pass_done = self.occupants.done(reported)
        self.running_predicted_s = (
            self.estimator.predict_s(self.cost_of_pass(self.pass_tokens))
            if predicted_s is None
            else predicted_s
        )

    def cost_of_pass(self, pass_tokens: Sequence[int]) -> float:
        """Cost tokens of the fullest rank of the running pass, or of the one that has just ended."""
        chunk_cost = self.occupants.chunk_cost
        cost = chunk_cost(max(pass_tokens))
        for dp_rank, done in self.pass_done.items():
            cost = max(cost, chunk_cost(pass_tokens[dp_rank], done))
        return cost

    def learn_pass(self, pass_tokens: Sequence[int], duration_s: float) -> None:
        """A pass ended that computed so many prefill tokens of each rank."""
        self.estimator.observe(self.cost_of_pass(pass_tokens), duration_s)
        fullest = max(pass_tokens)
        if fullest:
            self.balance.observe(sum(pass_tokens) / self.spec.dp_size / fullest)

    def learn_boundary(self, now: float) -> None:
        """A pass began, and its report was applied: what was sent before is in it, or came too late."""
        if self._unreported:
            self.boundary.missed()
        else:
            was_idle = not self.running and not self.continues and self.last_dispatch_at >= self.pass_ended_at
            self.boundary.joined(now - self.last_dispatch_at if was_idle else None)

    def end_pass(self, now: float, *, leaves_over: bool) -> None:
        """A pass ended. `leaves_over`: the engine has something to go on with, and does."""
        self.continues = leaves_over and self.boundary.lead_s > 0.0
        if self.continues and self.running and not (self.closing or self._unreported):
            self.boundary.missed()  # it ended before anything was sent
        self.running = self.closing = False
        self.pass_ended_at = now

    @property
    def closes_at(self) -> float | None:
        """When the running pass nears its end and the next batch must be sent; None: not before it has."""
        if not self.running or self.closing or not self.boundary.lead_s:
            return None
        lead_s = self.boundary.before_end_of(self.running_predicted_s)
        return self.pass_started_at + self.running_predicted_s - lead_s

    def disturb_pass(self) -> None:
        """A request was taken out while a pass runs: what that takes off the loads is not known any more."""
        self.pass_tokens = [0] * self.spec.dp_size
        self.pass_done = {}

    def not_started(self) -> list[int]:
        """Requests per rank that no pass has begun with: sent since, or more than there are batch slots."""
        most = self.spec.max_batch_size
        waiting = [max(0, batch - most) for batch in self.batch_size]
        for _, shares in self._unreported:
            for rank, _, _ in shares:
                waiting[rank] = min(waiting[rank] + 1, self.batch_size[rank])
        return waiting

    def free_kv_blocks(self) -> list[int]:
        """KV blocks per rank that nobody uses or was promised."""
        return self.free_kv_blocks_after(self.kv_used)

    def free_kv_blocks_after(self, kv_used: list[int]) -> list[int]:
        """The same if each rank used so many blocks (while a round is planned)."""
        total = self.spec.kv_blocks_total
        return [total - used - reserved for used, reserved in zip(kv_used, self.reserved_blocks, strict=True)]

    def roomiest_rank(self) -> tuple[int, int]:
        """(free KV blocks, rank) of the rank with most of them, the first of equals; no scan of ranks."""
        heap = self._roomiest
        if heap is None:
            heap = [(-free, rank) for rank, free in enumerate(self.free_kv_blocks())]
            heapify(heap)
            self._roomiest = heap
        total = self.spec.kv_blocks_total
        while True:
            least, rank = heap[0]
            free = total - self.kv_used[rank] - self.reserved_blocks[rank]
            if free == -least:
                return free, rank
            heapreplace(heap, (-free, rank))

    def reserve_kv(self, rank: int, blocks: int) -> None:
        """Promise KV blocks of a rank."""
        self.reserved_blocks[rank] += blocks

    def return_kv(self, rank: int, blocks: int) -> None:
        """Take a promise back."""
        self.reserved_blocks[rank] -= blocks
        self._roomiest = None

    def free_slots(self) -> list[int]:
        """Requests per rank that may still be admitted."""
        return [self.spec.max_batch_size - batch for batch in self.batch_size]

    def blocks_for(self, num_tokens: int) -> int:
        """KV blocks that a sequence of so many tokens takes."""
        return -(-num_tokens // self.spec.tokens_per_block)

    def blocks_for_sequence(self, num_prompt_tokens: int, num_output_tokens: int) -> int:
        """KV blocks to book for a prompt and a guess of its output; a guess never asks for over a rank."""
        blocks = self.blocks_for(num_prompt_tokens + num_output_tokens)
        if blocks <= self.spec.kv_blocks_total:
            return blocks
        return min(blocks, max(self.spec.kv_blocks_total, self.blocks_for(num_prompt_tokens + 1)))

    def residual_s(self, now: float) -> float:
        """Predicted time until the running pass ends; 0 when idle."""
        if not self.running:
            return 0.0
        return max(0.0, self.pass_started_at + self.running_predicted_s - now)

    @property
    def full_pass_s(self) -> float:
        """Predicted time of a pass that fills every rank."""
        return self.estimator.predict_s(self.spec.chunk_budget_tokens)

    @property
    def full_pass_tokens(self) -> int:
        """Prefill tokens of a pass that fills every rank."""
        return self.spec.chunk_budget_tokens * self.spec.dp_size

    def record_dispatch(self, shares: tuple[DispatchedShare, ...], now: float) -> int:
        """Count a dispatched batch until a report contains it. Returns its dispatch sequence."""
        self.last_seq += 1
        self._unreported.append((self.last_seq, shares))
        for rank, tokens, blocks in shares:
            self.load_tokens[rank] += tokens
            self.batch_size[rank] += 1
            self.kv_used[rank] += blocks
        self.last_dispatch_at = now
        return self.last_seq

    def apply_report(self, loads: RankLoads, included_seq: int) -> None:
        """Replace the reported loads and forget dispatches that they contain."""
        unreported = self._unreported
        while unreported and unreported[0][0] <= included_seq:
            unreported.popleft()
        self.has_reported = True
        self.load_tokens = list(loads.prefill_load_tokens)
        # What left a rank while the pass runs is in neither: without this, its share would count as room.
        self.pass_tokens = list(map(min, self.pass_tokens, self.load_tokens))
        self.batch_size = list(loads.batch_size)
        self.kv_used = list(loads.kv_blocks_used)
        self._roomiest = None
        for _, shares in unreported:
            for rank, tokens, blocks in shares:
                self.load_tokens[rank] += tokens
                self.batch_size[rank] += 1
                self.kv_used[rank] += blocks
        self.occupants.forget_idle(self.load_tokens)
        if loads.blocks_changed:
            self.prefixes.apply(loads.blocks_changed)

    def forget_dispatches(self) -> None:
        """A new leadership epoch counts from 1, and nothing is placed before the worker has reported."""
        self._unreported.clear()
        self.last_seq = 0
        self.has_reported = False

    @property
    def num_unreported(self) -> int:
        """Dispatched batches that no report contains yet."""
        return len(self._unreported)

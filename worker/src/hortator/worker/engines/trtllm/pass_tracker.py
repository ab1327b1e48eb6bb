"""When a forward pass begins and ends, told from outside: TensorRT-LLM has no callback for either.

A pass gives each running request at most one output, and their tokens reach us together. So a pass has
ended

    when every request that must bring a token of it has             at once, after the turn of the loop
    when one brings a second output                                  the pass before was over
    when some are still missing and nothing more comes for a while   GAP_S
    when a prompt is done for which the books see a further piece    passes without tokens ended unseen
    when a row of statistics says so                                 passes without tokens

and the next one has begun if the books say that anything runs, after the time for which the engine waits
for its queue to fill (`batch_wait_timeout_ms`): what is submitted until then is in. What comes later
corrects what was expected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hortator.worker.engine import ForwardPassEnded, ForwardPassReport, ForwardPassStarted
from hortator.worker.engines.trtllm.group_books import GroupBooks
from hortator.worker.engines.trtllm.pass_clock import PassClock
from hortator.worker.engines.trtllm.rank_books import Entry
from hortator.worker.outbox import Outbox

GAP_S = 0.002
"""Outputs of one pass follow each other faster than this."""
QUEUE_S = 0.0003
"""On top of its wait: the way of a request to the executor's queue, which is where the wait begins."""
ROW_PATIENCE = 2
"""So many passes a row must be ahead before it ends one whose tokens are missing."""


KEPT_PASSES = 16
"""Rows come no later than this many passes after their own."""


class PassTracker:
    """See the module docstring. `on_progress` is called at each sign of life of the engine."""

    def __init__(
        self,
        books: GroupBooks,
        reports: Outbox[ForwardPassReport],
        on_progress: Callable[[], None],
        *,
        fetch_wait_s: float,
    ) -> None:
        self.books = books
        self._fetch_wait_s = fetch_wait_s + QUEUE_S if fetch_wait_s else 0.0
        self.clock = PassClock()
        self._reports = reports
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._opened_at = 0.0
        self._last_duration_s = 0.001
        self._last_arrival_at = 0.0
        self._gap: asyncio.TimerHandle | None = None
        self._closing: asyncio.Handle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._recent: dict[int, tuple[int, ...]] = {}
        """Prefill tokens by rank of the last passes, oldest first."""

    def submitted(self) -> None:
        """Something was put into the engine, or room was made in it."""
        if not self.books.is_open:
            self._open_soon()

    def arrived(self, entry: Entry, num_tokens: int) -> None:
        """An output of a request with new tokens."""
        self._on_progress()
        books = self.books
        if books.is_open and entry.arrived_in == books.pass_id:
            self._close(is_seen_by_tokens=True)
        if not books.is_open:
            self._open(is_seen=True)
        while books.is_behind(entry):
            self._close(is_seen_by_tokens=False)
            if not books.is_open:
                self._open(is_seen=True)
        books.arrived(entry, num_tokens)
        self._last_arrival_at = self._loop.time()
        self._settle_soon()
        if self._gap is None and self._closing is None:
            self._gap = self._loop.call_later(GAP_S, self._on_gap)

    def changed_expectation(self) -> None:
        """A request is no longer waited for, but still in the engine."""
        self._settle_soon()

    def changed(self) -> None:
        """A request has left the engine."""
        books = self.books
        if books.is_open and not any(rank.running for rank in books.ranks):
            self._close(is_seen_by_tokens=False)
        else:
            self._settle_soon()

    def on_iteration(self, iteration: int) -> None:
        """A row of statistics."""
        self._on_progress()
        books = self.books
        ended = self.clock.on_row(
            iteration,
            open_pass=books.pass_id if books.is_open else None,
            num_passes_ended=books.num_ended,
        )
        while ended is not None and books.pass_id <= ended:
            if not books.is_open:
                if self._opening is None:
                    break
                self._open()  # it has begun, and ended, already
            elif books.expects_tokens and ended < books.pass_id + ROW_PATIENCE:
                break
            else:
                self._close(is_seen_by_tokens=False)

    def reported_prefill(self, iteration: int, dp_rank: int) -> int | None:
        """Prefill tokens reported for a rank in the pass of this iteration; None: not known any more."""
        pass_id = self.clock.pass_of(iteration)
        ranks = self._recent.get(pass_id) if pass_id is not None else None
        return None if ranks is None else ranks[dp_rank]

    def stop(self) -> None:
        """No timers any more."""
        self._disarm()
        if self._opening is not None:
            self._opening.cancel()

    def _settle_soon(self) -> None:
        """Outputs of the same turn still belong to the pass."""
        if self._closing is None and self.books.is_complete:
            self._closing = self._loop.call_soon(self._on_complete)

    def _on_complete(self) -> None:
        self._closing = None
        if self.books.is_complete:
            self._close(is_seen_by_tokens=True)

    def _on_gap(self) -> None:
        self._gap = None
        if not self.books.is_open:
            return
        left_s = self._last_arrival_at + GAP_S - self._loop.time()
        if left_s > 0:
            self._gap = self._loop.call_later(left_s, self._on_gap)
        else:
            self._close(is_seen_by_tokens=True)

    def _open_soon(self) -> None:
        if not self._fetch_wait_s:
            self._open()
        elif self._opening is None and not self.books.is_empty:
            self._opening = self._loop.call_later(self._fetch_wait_s, self._open)

    def _open(self, *, is_seen: bool = False) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self.books.open(is_seen=is_seen):
            self._opened_at = self._loop.time()
            self._reports.items.append(
                ForwardPassStarted(
                    forward_pass_id=self.books.pass_id, ranks=self.books.loads(of_pass=True, drain=True)
                )
            )
            self._reports.flush()

    def _close(self, *, is_seen_by_tokens: bool) -> None:
        self._disarm()
        pass_id = self.books.pass_id
        self.books.close(is_seen_by_tokens=is_seen_by_tokens)
        duration_s = self._loop.time() - self._opened_at
        if duration_s <= 0:  # opened by its own tokens: as long as the one before, for all we know
            duration_s = self._last_duration_s
        self._last_duration_s = duration_s
        ranks = self.books.loads(of_pass=True, drain=True)
        self._recent[pass_id] = tuple(rank.pass_prefill_tokens for rank in ranks)
        if len(self._recent) > KEPT_PASSES:
            del self._recent[next(iter(self._recent))]
        self._reports.items.append(
            ForwardPassEnded(forward_pass_id=pass_id, duration_s=duration_s, ranks=ranks)
        )
        self._reports.flush()
        self._open_soon()

    def _disarm(self) -> None:
        for handle in (self._gap, self._closing):
            if handle is not None:
                handle.cancel()
        self._gap = self._closing = None

"""The books of all DP ranks of a group, and the pass that they run together. Pure.

    engine submits      books.submit(entries)
    a pass begins       books.open() -> True when something runs
    tokens come         books.arrived(entry, n), one call per request and pass
    the pass is over    books.close(...)

A pass is over when every request that must bring a token has (`is_complete`); see `engine` for the other
signs.
"""

from __future__ import annotations

from collections.abc import Sequence

from hortator.worker.engine import RankLoad, RequestMode
from hortator.worker.engines.trtllm.rank_books import Entry, RankBooks, RankLimits, State


class GroupBooks:
    """See the module docstring.

    Attributes:
        num_ended: passes that have ended; ids count from 1.
        num_split_batches: batches that fitted one pass by the books, and of which the engine took a part.
    """

    def __init__(self, dp_size: int, limits: RankLimits, *, lead_passes: int) -> None:
        self.ranks = tuple(RankBooks(rank, limits) for rank in range(dp_size))
        self.limits = limits
        self.is_open = False
        self.num_ended = 0
        self.num_split_batches = 0
        self._lead = lead_passes
        self._staged: list[Entry] = []
        self._num_expected = 0
        self._num_came = 0

    @property
    def pass_id(self) -> int:
        """Of the running pass, or the next one."""
        return self.num_ended + 1

    @property
    def is_complete(self) -> bool:
        """Everybody who must bring a token of the running pass has; False for a pass without tokens."""
        return self.is_open and 0 < self._num_expected <= self._num_came

    @property
    def expects_tokens(self) -> bool:
        """Somebody must still bring a token of the running pass."""
        return self._num_came < self._num_expected

    @property
    def is_empty(self) -> bool:
        """Nothing is in the engine, as far as we know."""
        return not self._staged and not any(
            rank.waiting or rank.transferring or rank.running for rank in self.ranks
        )

    def submit(self, entries: Sequence[Entry]) -> None:
        """They are in the engine's queue."""
        for entry in entries:
            rank = self.ranks[entry.dp_rank]
            rank.announce(entry)
            if self._lead and self.is_open and entry.mode is not RequestMode.DECODE_ONLY:
                self._staged.append(entry)
                rank.num_staged += 1
            else:
                rank.enqueue(entry)

    def open(self, *, is_seen: bool = False) -> bool:
        """Begin the next pass, if anything can run in it, or if `is_seen`: tokens of it are here."""
        if not self._form():
            self._unstage()
            if not self._form() and not is_seen:
                return False
        self._unstage()
        self.is_open = True
        return True

    def is_behind(self, entry: Entry) -> bool:
        """It brings its first token, and by the books its prompt needs a further pass: one ended unseen."""
        return self.is_open and entry.state is State.PREFILLING and entry.chunk > 0 and not entry.completes

    def arrived(self, entry: Entry, num_tokens: int) -> None:
        """Tokens of it came out of the running pass."""
        if self._is_expected(entry):
            self._num_came += 1
        self.ranks[entry.dp_rank].arrived(entry, num_tokens, self.pass_id)

    def close(self, *, is_seen_by_tokens: bool) -> None:
        """The running pass is over."""
        absent: list[Entry] = []
        came: set[int] = set()
        for rank in self.ranks:
            came.update(entry.batch for entry in rank.pieces if entry.arrived_in == self.pass_id)
            absent.extend(rank.end(is_seen_by_tokens=is_seen_by_tokens))
        self.num_split_batches += len(came.intersection(entry.batch for entry in absent))
        self.num_ended += 1
        self.is_open = False
        self._num_expected = self._num_came = 0

    def abort(self, entry: Entry) -> None:
        """Nobody waits for its tokens any more; it is in the engine until `drop`."""
        if self._is_expected(entry):
            self._num_expected -= 1
        entry.is_aborting = True
        if entry.state is State.WAITING:  # the engine hears of it before it forms the next batch
            self._leave_stage(entry)
            self.ranks[entry.dp_rank].withdraw(entry)

    def drop(self, entry: Entry, *, keep_kv: bool = False) -> None:
        """It has ended in the engine."""
        if self._is_expected(entry):
            self._num_expected -= 1
        self._leave_stage(entry)
        self.ranks[entry.dp_rank].drop(entry, keep_kv=keep_kv)

    def loads(self, *, of_pass: bool = False, drain: bool = False) -> tuple[RankLoad, ...]:
        """Of every rank."""
        return tuple(rank.load(of_pass=of_pass, drain=drain) for rank in self.ranks)

    def _leave_stage(self, entry: Entry) -> None:
        if entry in self._staged:
            self._staged.remove(entry)
            self.ranks[entry.dp_rank].num_staged -= 1

    def _is_expected(self, entry: Entry) -> bool:
        """It must bring a token of the running pass, and has not yet."""
        if not self.is_open or entry.is_aborting or entry.arrived_in == self.pass_id:
            return False
        if entry.state is State.PREFILLING:
            return entry.completes
        return entry.state is State.DECODING and entry.decoding_from <= self.pass_id

    def _form(self) -> bool:
        self._num_came = 0
        self._num_expected = sum(rank.form(self.pass_id) for rank in self.ranks)
        return any(rank.pieces or rank.num_decoding for rank in self.ranks)

    def _unstage(self) -> None:
        staged, self._staged = self._staged, []
        for entry in staged:
            rank = self.ranks[entry.dp_rank]
            rank.num_staged -= 1
            rank.enqueue(entry)

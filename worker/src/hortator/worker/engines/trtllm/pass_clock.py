"""Which of our passes a row of statistics tells of. Pure.

Tokens say at once that a pass has ended; a pass without tokens (the middle of a long prompt) is seen by a
row alone. Rows come late, may be lost and may come several at a time, but they carry the engine's own
iteration number, so all that has to be known is the difference between its count and ours. It is taken when
the engine has been quiet, and again when a row tells of a pass that cannot have happened.
"""

from __future__ import annotations


class PassClock:
    """Iterations of the engine to passes of ours."""

    __slots__ = ("_last_iteration", "_offset")

    def __init__(self) -> None:
        self._offset: int | None = None
        self._last_iteration: int | None = None

    def settle(self, num_passes_ended: int) -> None:
        """The engine is quiet: its last row tells of our last pass."""
        if self._last_iteration is not None:
            self._offset = self._last_iteration - num_passes_ended

    def pass_of(self, iteration: int) -> int | None:
        """Our pass of an iteration; None while that is not known."""
        return None if self._offset is None else iteration - self._offset

    def on_row(self, iteration: int, *, open_pass: int | None, num_passes_ended: int) -> int | None:
        """The pass that this row says has ended; None: a row of what is known already.

        Args:
            iteration: of the row.
            open_pass: id of the running pass, None while nothing runs as far as we know.
            num_passes_ended: passes that have ended as far as we know.
        """
        if self._last_iteration is not None and iteration <= self._last_iteration:
            return None  # another rank's row of the same iteration
        self._last_iteration = iteration
        if self._offset is None:
            self._offset = iteration - max(num_passes_ended, 1)
        pass_id = iteration - self._offset
        if pass_id <= num_passes_ended:
            return None
        if open_pass is None:  # it ran something that we know nothing of: a warm-up, a dummy
            self._offset = iteration - num_passes_ended
            return None
        return pass_id

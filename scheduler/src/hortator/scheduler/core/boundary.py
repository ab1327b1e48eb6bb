"""How early a batch must be sent to join the next pass, learned from those that came too late.

A pass that leaves something over starts the next one at once. What is sent when the report of its end is here
comes too late by the time that report and batch were on their way, and waits for a whole pass; so does the
batch after it. So a running group is given its next batch `lead_s` before the predicted end of its pass.

- A batch that found the engine idle: its pass started so long after it was sent. The lead is at least that.
- A pass started without a batch that had been sent, or ended before one was: the lead was too short. It grows
  by a quarter.
- Otherwise it shrinks by a twentieth.

Where messages take no time nothing is ever late, and the lead stays 0: batches are sent as passes end.
"""

from __future__ import annotations

FIRST_STEP_S = 0.002
"""What a lead grows by at least; also covers the error of a predicted pass time."""
GROWTH = 0.25
DECAY = 0.95
SMOOTHING = 0.1
MAX_SHARE = 0.5
"""Of the predicted pass: a batch is never sent earlier than in the second half of the pass before it."""


class BoundaryLead:
    """The lead of one group, in seconds."""

    __slots__ = ("_round_trip_s", "lead_s")

    def __init__(self) -> None:
        self._round_trip_s = 0.0
        self.lead_s = 0.0

    def missed(self) -> None:
        """A pass started without a batch that was on its way."""
        self.lead_s += max(FIRST_STEP_S, GROWTH * self.lead_s)

    def joined(self, round_trip_s: float | None) -> None:
        """A pass started with all that was sent.

        Args:
            round_trip_s: from sending to the report of the start, if the engine did nothing meanwhile.
        """
        if round_trip_s is not None:
            self._round_trip_s += SMOOTHING * (round_trip_s - self._round_trip_s)
        self.lead_s = max(DECAY * self.lead_s, self._round_trip_s)

    def before_end_of(self, predicted_s: float) -> float:
        """How long before the end of a pass so long its successor's batch is sent."""
        return min(self.lead_s, MAX_SHARE * predicted_s)

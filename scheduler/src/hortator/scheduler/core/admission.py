"""Admission: which arrivals are refused, and when those may come back.

Question answered: may this request wait here? Refusal happens on arrival, when nothing has been spent yet:
queue limits (newcomers only: what has begun is carried through), a prompt that no group can ever hold, a
deadline that the predicted wait would miss. The prediction refuses nobody before it is trained.
"""

from __future__ import annotations

from hortator.scheduler.core.events import RequestArrived
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.model import RejectReason
from hortator.scheduler.core.waiting import WaitingQueue

MIN_RETRY_AFTER_S = 0.05
MAX_RETRY_AFTER_S = 30.0

Refusal = tuple[RejectReason, str]


class Admission:
    """Judges arrivals against the queue and the fleet; its only own state is whether it is open."""

    def __init__(self, fleet: Fleet, waiting: WaitingQueue) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self.is_open = True
        """False: the service drains."""

    def refusal(self, event: RequestArrived, now: float) -> Refusal | None:
        """Why the request may not wait; None: it may."""
        prompt = event.num_prompt_tokens
        if event.attempt == 0:
            full = self._queue_refusal(prompt)
            if full is not None:
                return full
        limit = self._longest_prompt()
        if limit is not None and prompt > limit:
            return (
                RejectReason.PROMPT_TOO_LONG,
                f"{prompt} prompt tokens; the longest prompt that a group takes is {limit}",
            )
        if event.deadline_at is not None:
            if event.deadline_at <= now:
                return RejectReason.DEADLINE, "the deadline has passed"
            wait_s = self._predicted_wait_s()
            if wait_s is not None and now + wait_s > event.deadline_at:
                return RejectReason.PREDICTED_WAIT, f"predicted wait {wait_s:.3f} s is beyond the deadline"
        return None

    def retry_after_s(self) -> float:
        """The time to work off what waits, within bounds."""
        rate = self._fleet.tokens_per_s()
        wait_s = self._waiting.num_tokens / rate if rate > 0.0 else 1.0
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, wait_s))

    def _queue_refusal(self, num_prompt_tokens: int) -> Refusal | None:
        waiting, settings = self._waiting, self._fleet.settings
        if not self.is_open:
            return RejectReason.DRAINING, "the scheduler is draining"
        if len(waiting) >= settings.max_waiting_requests:
            return (
                RejectReason.QUEUE_FULL_REQUESTS,
                f"{len(waiting)} requests wait; the limit is {settings.max_waiting_requests}",
            )
        if waiting.num_tokens + num_prompt_tokens > settings.max_waiting_tokens:
            return (
                RejectReason.QUEUE_FULL_TOKENS,
                f"{waiting.num_tokens} prompt tokens wait; the limit is {settings.max_waiting_tokens}",
            )
        return None

    def _longest_prompt(self) -> int | None:
        """The longest prompt that some entry group takes, and some decode group; None while there is none."""
        fleet = self._fleet
        if not fleet.entry:
            return None
        limit = max(group.longest_prompt for group in fleet.entry.values())
        if fleet.decode and fleet.settings.decode_reservation:
            limit = min(limit, max(group.longest_prompt for group in fleet.decode.values()))
        return limit

    def _predicted_wait_s(self) -> float | None:
        """Time until an arrival now would be released; None while too little is known."""
        warmup = self._fleet.settings.warmup_passes
        if not any(group.estimator.num_passes > warmup for group in self._fleet.placeable_entry()):
            return None
        return self._waiting.num_tokens / self._fleet.tokens_per_s()

"""Admission: which arrivals are refused, and when those may come back.

Question answered: may this request wait here? Refusal happens on arrival, when nothing has been spent yet:
queue limits, a tenant's share of them, a tokenizer that no group has and a predicted wait that is too long
(newcomers only: what has begun is carried through), a prompt that no group can ever hold, a deadline that the
predicted wait would miss. The prediction refuses nobody before it is trained.

The wait is predicted for the tenant: what waits before a newcomer is its own tenant's queue and as much of
the others' as take turns with it, so a tenant that floods is refused long before the others are. It cannot
count on more than its share, even while nobody else happens to wait.
"""

from __future__ import annotations

from hortator.scheduler.core.events import RequestArrived
from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.model import LatencyClass, RejectReason
from hortator.scheduler.core.waiting import TenantLoad, WaitingQueue

MIN_RETRY_AFTER_S = 0.05
MAX_RETRY_AFTER_S = 30.0

OTHER_TOKENIZER = "no worker has the tokenizer that the prompt was read with: the service moves to another"

PACKING = 0.85
"""The prediction takes passes to be full, which they never are: a limit counts this share of itself."""

Refusal = tuple[RejectReason, str]


class Admission:
    """Judges arrivals against the queue and the fleet; its only own state is whether it is open."""

    def __init__(self, fleet: Fleet, waiting: WaitingQueue) -> None:
        self._fleet = fleet
        self._waiting = waiting
        self._queue_shares = {
            tenant.name: tenant.queue_share
            for tenant in fleet.settings.tenants
            if tenant.queue_share is not None
        }
        self.is_open = True
        """False: the service drains."""

    def refusal(self, event: RequestArrived, now: float) -> Refusal | None:
        """Why the request may not wait; None: it may."""
        prompt = event.num_prompt_tokens
        is_newcomer = event.attempt == 0
        if is_newcomer:
            full = self._queue_refusal(event.tenant, prompt)
            if full is not None:
                return full
        limit = self._longest_prompt()
        if limit is not None and prompt > limit:
            return (
                RejectReason.PROMPT_TOO_LONG,
                f"{prompt} prompt tokens; the longest prompt that a group takes is {limit}",
            )
        if is_newcomer and not self._fleet.is_read(event.tokenizer):
            return RejectReason.NO_WORKER, OTHER_TOKENIZER
        if event.deadline_at is not None and event.deadline_at <= now:
            return RejectReason.DEADLINE, "the deadline has passed"
        return self._wait_refusal(event, now, is_newcomer=is_newcomer)

    def retry_after_s(self, event: RequestArrived | None = None, now: float = 0.0) -> float:
        """The time to work off what waits, before an arrival if one is given, within bounds."""
        rate = self._fleet.tokens_per_s()
        if rate <= 0.0:
            wait_s = 1.0
        elif event is not None and event.tenant in self._waiting.tenants:
            wait_s = self._wait_s(event, now, rate)
        else:
            wait_s = self._waiting.num_tokens / rate
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, wait_s))

    def _queue_refusal(self, tenant: str, num_prompt_tokens: int) -> Refusal | None:
        waiting, settings = self._waiting, self._fleet.settings
        if not self.is_open:
            return RejectReason.DRAINING, "the scheduler is draining"
        share = self._queue_shares.get(tenant, settings.max_tenant_share)
        if share < 1.0:
            over_quota = self._quota_refusal(tenant, num_prompt_tokens, share)
            if over_quota is not None:
                return over_quota
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

    def _quota_refusal(self, tenant: str, num_prompt_tokens: int, share: float) -> Refusal | None:
        settings = self._fleet.settings
        load = self._waiting.tenants.get(tenant) or TenantLoad()
        who = f"tenant {tenant!r}" if tenant else "requests without a tenant"
        max_requests = max(1, int(share * settings.max_waiting_requests))
        if load.num_requests >= max_requests:
            waits = f"{load.num_requests} requests wait"
            return RejectReason.TENANT_QUOTA, f"{who}: {waits}; the limit is {max_requests}"
        max_tokens = int(share * settings.max_waiting_tokens)
        if load.num_tokens + num_prompt_tokens > max_tokens:
            waits = f"{load.num_tokens} prompt tokens wait"
            return RejectReason.TENANT_QUOTA, f"{who}: {waits}; the limit is {max_tokens}"
        return None

    def _wait_refusal(self, event: RequestArrived, now: float, *, is_newcomer: bool) -> Refusal | None:
        """The wait would miss the deadline or, of a newcomer, be longer than anybody's may be."""
        may_be_too_long = is_newcomer and event.latency_class is not LatencyClass.CRITICAL  # it never waits
        if event.deadline_at is None and not (may_be_too_long and self._waiting):
            return None
        wait_s = self._predicted_wait_s(event, now)
        if wait_s is None:
            return None
        if event.deadline_at is not None and now + wait_s > event.deadline_at:
            return RejectReason.PREDICTED_WAIT, f"predicted wait {wait_s:.3f} s is beyond the deadline"
        settings = self._fleet.settings
        limit_s = settings.queue_timeout_s if settings.max_wait_s is None else settings.max_wait_s
        if may_be_too_long and wait_s > PACKING * limit_s:
            return RejectReason.PREDICTED_WAIT, f"predicted wait {wait_s:.3f} s; the limit is {limit_s:g} s"
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

    def _predicted_wait_s(self, event: RequestArrived, now: float) -> float | None:
        """Time until an arrival now would be released; None while too little is known."""
        warmup = self._fleet.settings.warmup_passes
        if not any(group.estimator.num_passes > warmup for group in self._fleet.placeable_entry()):
            return None
        return self._wait_s(event, now, self._fleet.tokens_per_s())

    def _wait_s(self, event: RequestArrived, now: float, rate: float) -> float:
        wait_s = self._waiting.tokens_ahead(event.tenant, event.priority) / rate
        asked, load = self._fleet.asked, self._waiting.tenants.get(event.tenant)
        if load is not None and asked.asks_too_much(event.tenant, now, tokens_per_s=rate):
            wait_s = max(wait_s, load.num_tokens / (rate * asked.share(event.tenant)))
        return wait_s

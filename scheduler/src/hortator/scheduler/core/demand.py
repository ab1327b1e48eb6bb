"""What is asked of the cluster: the prompts that arrive, accepted or not, and how much of them is computed.

A rate of the last `MEMORY_S`, or of the time since the lead was taken if that is shorter. Whole numbers in
buckets of time (`ArrivalRate`), so the same arrivals give the same rates on every machine; O(1) per arrival
and per placement.
"""

from __future__ import annotations

from hortator.scheduler.core.estimates import ArrivalRate

MEMORY_S = 60.0
MIN_WATCHED_S = 10.0
"""Before so much time has been seen, nothing is said."""


class Demand:
    """Requests, prompt tokens and their cost, per second."""

    __slots__ = ("_began_at", "_computed", "_cost", "_placed", "_requests", "_tokens")

    def __init__(self, began_at: float | None = None) -> None:
        """`began_at`: when the lead was taken; None: at the first arrival."""
        self._began_at = began_at
        self._requests, self._tokens, self._cost, self._placed, self._computed = (
            ArrivalRate(memory_s=MEMORY_S, num_buckets=60) for _ in range(5)
        )

    def observe_asked(self, num_prompt_tokens: int, cost_tokens: float, now: float) -> None:
        """A request arrived. `cost_tokens`: with the attention of a long prompt, as the pass model counts."""
        if self._began_at is None:
            self._began_at = now
        self._requests.observe(1, now)
        self._tokens.observe(num_prompt_tokens, now)
        self._cost.observe(int(cost_tokens), now)

    def observe_placed(self, num_prompt_tokens: int, num_prefill_tokens: int, now: float) -> None:
        """Of a prompt so much has to be computed: the rest is in the rank's prefix cache."""
        self._placed.observe(num_prompt_tokens, now)
        self._computed.observe(num_prefill_tokens, now)

    def is_known(self, now: float) -> bool:
        """Whether it has been watched for long enough."""
        return self._began_at is not None and now - self._began_at >= MIN_WATCHED_S

    def tokens_per_s(self, now: float) -> float:
        """Prompt tokens per second that would have to be computed."""
        return self._per_s(self._tokens, now) * self.computed_share(now)

    def computed_share(self, now: float) -> float:
        """Of the prompt tokens placed, those that no prefix cache had; 1 while nothing was placed."""
        placed = self._placed.tokens_per_s(now)
        return self._computed.tokens_per_s(now) / placed if placed else 1.0

    def mean_prompt_tokens(self, now: float) -> float:
        """Of the requests that arrived; 0 while there are none."""
        requests = self._requests.tokens_per_s(now)
        return self._tokens.tokens_per_s(now) / requests if requests else 0.0

    def cost_per_token(self, now: float) -> float:
        """What the mean prompt token costs, in tokens without attention."""
        tokens = self._tokens.tokens_per_s(now)
        return max(1.0, self._cost.tokens_per_s(now) / tokens) if tokens else 1.0

    def _per_s(self, rate: ArrivalRate, now: float) -> float:
        began_at = now if self._began_at is None else self._began_at
        watched_s = min(MEMORY_S, max(MIN_WATCHED_S, now - began_at))
        return rate.tokens_per_s(now) * MEMORY_S / watched_s

"""What the driver needs from the two sides it speaks to. The clients are these; tests bring their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hortator.gateway.placement import Claim, KvSource, Submission, WorkerTarget


class SchedulerPort(Protocol):
    """What is said to the scheduler. Nothing waits."""

    @property
    def disconnected_at(self) -> float | None:
        """Loop time since when no scheduler has been there; None while one is."""
        ...

    @property
    def epoch(self) -> int:
        """The newest leadership epoch heard of."""
        ...

    def announce(
        self,
        *,
        request_id: str,
        attempt: int,
        num_prompt_tokens: int,
        max_output_tokens: int,
        block_hashes: Sequence[int],
        priority: int,
        tenant: str,
        latency_critical: bool,
        timeout_s: float,
        claim: Claim,
        is_resumed: bool,
        age_s: float,
        tokenizer: bytes,
    ) -> None:
        """A request wants a placement; `timeout_s` counts from now, 0 is none."""
        ...

    def prefill_finished(
        self,
        *,
        request_id: str,
        attempt: int,
        num_prompt_tokens: int,
        max_output_tokens: int,
        claim: Claim,
        tokenizer: bytes,
    ) -> None:
        """A request wants a decode placement."""
        ...

    def cancel(self, request_id: str, attempt: int) -> None:
        """A request wants nothing any more."""
        ...

    def first_token(self, request_id: str, attempt: int, ttft_s: float) -> None:
        """The first output token came."""
        ...

    def request_finished(
        self,
        request_id: str,
        attempt: int,
        *,
        num_output_tokens: int,
        ttft_s: float,
        e2e_s: float,
        first_gap_s: float,
    ) -> None:
        """The last output token came."""
        ...

    def placement_refused(self, request_id: str, attempt: int, *, worker_id: str, reason: str) -> None:
        """The placement did not work; the same attempt wants another."""
        ...

    def kv_transfer_failed(self, request_id: str, attempt: int) -> None:
        """The KV is gone; the next attempt will be announced."""
        ...


class WorkerPort(Protocol):
    """What is said to workers. Nothing waits."""

    def submit(self, submission: Submission) -> None:
        """Send an attempt to the worker that its placement names."""
        ...

    def abort(self, target: WorkerTarget, request_id: str, attempt: int) -> None:
        """End an attempt."""
        ...

    def release_kv(self, source: KvSource) -> None:
        """Free a lease that nobody will pull."""
        ...

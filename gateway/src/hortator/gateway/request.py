"""One request's life, sans-IO: a method per thing that can happen, each returning the actions to carry out.

States:

- WAITING: announced; wants a placement for prefill (or for the whole of it).
- PREFILLING: submitted; no token yet, or (PrefillDecode) its prefill worker has not let go of it.
- TRANSFERRING: PrefillDecode only: the first token is out, KV waits under a lease, wants a decode placement.
- DECODING: tokens flow.
- FINISHED: nothing more happens, unless a client comes back for it (`resumed`).

Rules:

1. A token position is accepted once and in order. Tokens of another attempt and positions already here are
   dropped; a gap is the worker's fault and costs it the request.
2. A new attempt carries all tokens accepted so far: they are prefilled after the prompt, `attempt` grows by
   one. A refused placement is placed again under the same attempt: nothing of it ever ran.
3. A *crash* is a worker that was lost, or failed, while this request was running on it. At
   `max_worker_failures` crashes the request is quarantined: it may be what kills workers. A drain, a refusal,
   a batch split or a lost lease is no crash.
4. Whatever ends a request early frees it everywhere: an abort for the worker that runs it, the release of a
   lease nobody will pull, a cancellation for the scheduler.
5. This file knows no clock, no network and no text.
6. Only what waits is placed, by whomever, and only this file hands an attempt to a worker: so no two attempts
   run at a time. Without a scheduler a gateway places the attempt after the one that it has announced.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from hortator.gateway.actions import (
    AbortAttempt,
    Action,
    Announce,
    AnnounceDecode,
    Complete,
    Fail,
    Finish,
    ReleaseLease,
    Replacement,
    ReportKvLost,
    ReportRefusal,
    Submit,
    Withdraw,
)
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.placement import (
    CompletionReason,
    KvSource,
    Phase,
    Placement,
    Rejection,
    RejectReason,
    Retraction,
    RetractReason,
    SubmitMode,
    WorkerCompletion,
    WorkerTarget,
)
from hortator.runtime.rpc_errors import FieldViolation

GAP = -1
"""`accept_tokens`: tokens are missing before these."""

_REFUSAL_BACKOFF_S = 0.05
_MAX_REFUSAL_BACKOFF_S = 1.0
_PASSING = frozenset({RejectReason.QUEUE_FULL, RejectReason.PREDICTED_WAIT, RejectReason.TENANT_QUOTA})


class State(Enum):
    """Where a request is; see the module docstring."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    TRANSFERRING = "transferring"
    DECODING = "decoding"
    FINISHED = "finished"


class RequestMachine:
    """The one place that decides what happens to a request. See the rules in the module docstring."""

    __slots__ = (
        "_kv_source",
        "_max_tokens",
        "_num_prompt_tokens",
        "_placement",
        "_refusals",
        "attempt",
        "max_refusals",
        "max_worker_failures",
        "num_cached_prompt_tokens",
        "num_crashes",
        "num_replacements",
        "output_ids",
        "state",
    )

    def __init__(
        self,
        *,
        num_prompt_tokens: int,
        max_tokens: int,
        max_worker_failures: int = 2,
        max_refusals: int = 16,
    ) -> None:
        """A request that nobody knows yet; call `accepted`.

        Args:
            num_prompt_tokens: at least 1.
            max_tokens: output tokens in total, at least 1.
            max_worker_failures: crashes after which the request is quarantined.
            max_refusals: refusals in a row after which the request fails as UNAVAILABLE.
        """
        self._num_prompt_tokens = num_prompt_tokens
        self._max_tokens = max_tokens
        self.max_worker_failures = max_worker_failures
        self.max_refusals = max_refusals
        self.state = State.WAITING
        self.attempt = 0
        self.output_ids = array("I")
        self.num_crashes = 0
        self.num_replacements = 0
        self.num_cached_prompt_tokens = 0
        self._placement: Placement | None = None
        self._kv_source: KvSource | None = None
        self._refusals = 0

    @property
    def is_whole(self) -> bool:
        """Whether all tokens are here."""
        return len(self.output_ids) >= self._max_tokens

    @property
    def target(self) -> WorkerTarget | None:
        """The worker that runs the current attempt; None while nobody does."""
        return None if self._placement is None else self._placement.target

    @property
    def lease_holder(self) -> WorkerTarget | None:
        """The worker that keeps KV for us under a lease, if one does."""
        source = self._kv_source
        return None if source is None else WorkerTarget(source.worker_address, source.boot_id)

    @property
    def to_place(self) -> tuple[int, int]:
        """Tokens to prefill before the next one comes, and output tokens still to come at most."""
        num_prior = len(self.output_ids)
        return self._num_prompt_tokens + num_prior, self._max_tokens - num_prior

    # --- the scheduler's side -------------------------------------------------------------------------

    def bring(self, output_ids: Sequence[int]) -> None:
        """The client has these already, from another gateway. Before `accepted` or `resumed` only."""
        self.output_ids.extend(output_ids[len(self.output_ids) : self._max_tokens])

    def accepted(self) -> list[Action]:
        """The client's request is in."""
        if self.output_ids and self.is_whole:
            return self._completed(Finish.LENGTH)
        return [self._announcement()]

    def scheduler_connected(self) -> list[Action]:
        """A scheduler that knows nothing of us is there: say again what it must know."""
        if self.state is State.WAITING:
            return [self._announcement()]
        if self.state is State.TRANSFERRING:
            return [self._decode_announcement()]
        return []

    def placed(self, placement: Placement) -> list[Action]:
        """The scheduler chose a worker. A placement that answers no open question changes nothing."""
        if placement.attempt < self.attempt:
            return []
        if self.state is State.WAITING and placement.attaches:
            self.state = State.DECODING if placement.phase is Phase.DECODE else State.PREFILLING
            mode = SubmitMode.ATTACH
        elif self.state is State.WAITING and placement.phase is not Phase.DECODE:
            self.state = State.PREFILLING
            aggregated = placement.phase is Phase.AGGREGATED
            mode = SubmitMode.AGGREGATED if aggregated else SubmitMode.PREFILL_ONLY
        elif self.state is State.TRANSFERRING and placement.phase is Phase.DECODE:
            self.state = State.DECODING
            mode = SubmitMode.DECODE_ONLY
        else:
            return []
        self.attempt = placement.attempt
        self._placement = placement
        return [Submit(placement, mode, self._kv_source)]

    def placed_here(self, placement: Placement) -> list[Action]:
        """This gateway chose a worker by itself, for the attempt after the one that it has announced.

        Whatever a scheduler still says of that one comes too late.
        """
        announced = self.attempt
        if placement.attempt != announced + 1:
            return []
        actions = self.placed(placement)
        return [Withdraw(announced), *actions] if actions else []

    def rejected(self, rejection: Rejection) -> list[Action]:
        """The scheduler does not take the request."""
        if rejection.attempt != self.attempt or self.state not in {State.WAITING, State.TRANSFERRING}:
            return []
        if rejection.reason is RejectReason.DRAINING:
            return []  # announced again to the scheduler that comes next
        if self.num_replacements and rejection.reason in _PASSING and self._refusals + 1 < self.max_refusals:
            self._refusals += 1  # a full queue turns newcomers away; what has begun is carried through
            self.state = State.WAITING
            self.attempt += 1
            delay_s = max(rejection.retry_after_s, _REFUSAL_BACKOFF_S)
            return [
                *self._freed(),
                replace(self._announcement(), delay_s=min(delay_s, _MAX_REFUSAL_BACKOFF_S)),
            ]
        if self.output_ids and rejection.reason is RejectReason.PROMPT_TOO_LONG:
            message = f"cannot go on elsewhere: too long to prefill by now ({rejection.message})"
            error = GatewayError(ErrorKind.UNAVAILABLE, message)
        else:
            error = _rejection_error(rejection)
        return [*self._freed(), *self._failed(error, is_known=True)]

    def retracted(self, retraction: Retraction) -> list[Action]:
        """A placement no longer holds; the scheduler has forgotten the attempt."""
        if retraction.attempt != self.attempt or self.state is State.FINISHED:
            return []
        match retraction.reason:
            case RetractReason.DEADLINE:
                error = GatewayError(ErrorKind.DEADLINE, "the deadline passed")
                return [*self._freed(), *self._failed(error, is_known=True)]
            case RetractReason.TAKEN_OVER:
                return [*self._freed(), *self._failed(_taken_over(), is_known=True)]
            case RetractReason.BATCH_SPLIT:
                return [*self._freed(), *self._replaced(Replacement.BATCH_SPLIT)]
            case RetractReason.WORKER_LOST:
                if self._placement is None:  # the holder of its KV is gone, or it was refused already
                    transferring = self.state is State.TRANSFERRING
                    why = Replacement.KV_LOST if transferring else Replacement.WORKER_LEFT
                    return [*self._freed(), *self._replaced(why)]
                return [*self._freed(), *self._crashed("the scheduler lost sight of the worker")]

    # --- the worker's side ----------------------------------------------------------------------------

    def accept_tokens(self, attempt: int, token_index: int, token_ids: Sequence[int]) -> int:
        """Take output tokens from a worker.

        Returns:
            How many were new (the last so many of `output_ids`), or GAP: then call `worker_faulted`.
        """
        if attempt != self.attempt or self._placement is None:
            return 0
        output_ids = self.output_ids
        have = len(output_ids)
        if token_index != have:
            if token_index > have:
                return GAP
            token_ids = token_ids[have - token_index :]
        if have + len(token_ids) > self._max_tokens:
            token_ids = token_ids[: self._max_tokens - have]
        if not token_ids:
            return 0
        output_ids.extend(token_ids)
        if self.state is State.DECODING:
            if self._kv_source is not None:  # it has been pulled; the worker has freed the lease
                self._kv_source = None
        elif self._placement.phase is Phase.AGGREGATED:
            self.state = State.DECODING
        self._refusals = 0
        return len(token_ids)

    def worker_completed(self, completion: WorkerCompletion) -> list[Action]:
        """A worker's last word on an attempt. Its tokens were handed to `accept_tokens` before."""
        placement = self._placement
        if completion.attempt != self.attempt or placement is None:
            return []
        match completion.reason:
            case CompletionReason.STOP | CompletionReason.LENGTH:
                if completion.num_output_tokens > len(self.output_ids):
                    return self.worker_faulted("the completion counts tokens that never came")
                self._note_cached(completion)
                stopped = completion.reason is CompletionReason.STOP
                return self._completed(Finish.STOP if stopped else Finish.LENGTH)
            case CompletionReason.PREFILLED:
                return self._prefilled(completion)
            case CompletionReason.ABORTED:
                self._placement = None
                return [*self._freed(), *self._replaced(Replacement.WORKER_LEFT)]
            case CompletionReason.FAILED:
                self._placement = None
                return [*self._freed(), *self._crashed(completion.message)]
            case CompletionReason.TAKEN_OVER:
                self._placement = None
                return [*self._freed(), *self._failed(_taken_over(), is_known=True)]
            case CompletionReason.KV_LOST:
                self._placement = None
                return [*self._freed(), *self._kv_lost()]
            case CompletionReason.REFUSED:
                if completion.field:
                    self._placement = None
                    violation = FieldViolation(field=completion.field, description=completion.message)
                    message = f"{completion.field}: {completion.message}"
                    error = GatewayError(ErrorKind.INVALID, message, violations=(violation,))
                    return [*self._freed(), *self._failed(error)]
                return self.refused(completion.message or "refused")

    def refused(self, reason: str) -> list[Action]:
        """The current placement never ran: the worker refused it or could not be reached."""
        placement = self._placement
        if placement is None:
            return []
        self._placement = None
        if placement.is_degraded:  # a guess of ours; nobody says that there is no better place
            self.state = State.TRANSFERRING if placement.phase is Phase.DECODE else State.WAITING
            return [ReportRefusal(self.attempt, placement.worker_id, reason, 0.0, 0)]
        self._refusals += 1
        if self._refusals >= self.max_refusals:
            message = (
                f"refused {self._refusals} times in a row, the last time by {placement.worker_id}: {reason}"
            )
            error = GatewayError(ErrorKind.UNAVAILABLE, message, retry_after_s=_MAX_REFUSAL_BACKOFF_S)
            return [*self._freed(), *self._failed(error)]
        goes_on = placement.phase is Phase.DECODE and not placement.attaches
        self.state = State.TRANSFERRING if goes_on else State.WAITING
        doublings = self._refusals - 2  # the first refusal is told at once
        delay_s = 0.0 if doublings < 0 else min(_REFUSAL_BACKOFF_S * 2**doublings, _MAX_REFUSAL_BACKOFF_S)
        return [ReportRefusal(self.attempt, placement.worker_id, reason, delay_s, placement.epoch)]

    def worker_faulted(self, reason: str) -> list[Action]:
        """The worker broke the protocol: what it says cannot be used. Counts as a crash."""
        if self._placement is None:
            return []
        return [*self._freed(), *self._crashed(reason)]

    def worker_lost(self, target: WorkerTarget, reason: str, *, crashed: bool) -> list[Action]:
        """A worker's stream ended while it may have been running this request or keeping its KV."""
        if self._placement is not None and self._placement.target == target:
            self._placement = None
            if crashed:
                return [*self._freed(), *self._crashed(reason)]
            return [*self._freed(), *self._replaced(Replacement.WORKER_LEFT)]
        if self.state is State.TRANSFERRING and self.lease_holder == target:
            return self._kv_lost()
        return []

    # --- the client's side ----------------------------------------------------------------------------

    def stopped(self, num_output_tokens: int) -> list[Action]:
        """The text met a stop string at the token before position `num_output_tokens`."""
        if self.state is State.FINISHED:
            return []
        del self.output_ids[num_output_tokens:]
        return [*self._freed(), *self._completed(Finish.STOP)]

    def ended_early(self, error: GatewayError) -> list[Action]:
        """The client left, its deadline passed, or the gateway gives up: free everything."""
        if self.state is State.FINISHED:
            return []
        return [*self._freed(), *self._failed(error)]

    def left(self, error: GatewayError) -> list[Action]:
        """The gateway gives up a request with a key: what a worker runs goes on, for the next gateway."""
        if self._placement is None:
            return self.ended_early(error)
        return self._failed(error, is_known=True)

    def resumed(self) -> list[Action]:
        """A client is back for a request that `ended_early`: continue after the tokens there are.

        Under another name, so attempts begin again: to the scheduler it is a newcomer under its key.
        """
        if self.state is not State.FINISHED:
            return []
        self.attempt = -1
        self._refusals = 0
        return self._replaced(Replacement.CLIENT_BACK)

    # --- inside ---------------------------------------------------------------------------------------

    def _announcement(self, replacement: Replacement | None = None) -> Announce:
        num_prompt_tokens, max_output_tokens = self.to_place
        return Announce(self.attempt, num_prompt_tokens, max_output_tokens, replacement)

    def _decode_announcement(self) -> AnnounceDecode:
        return AnnounceDecode(self.attempt, *self.to_place)

    def _note_cached(self, completion: WorkerCompletion) -> None:
        if completion.num_cached_prompt_tokens:
            self.num_cached_prompt_tokens = completion.num_cached_prompt_tokens

    def _prefilled(self, completion: WorkerCompletion) -> list[Action]:
        if self.state is not State.PREFILLING or completion.kv_source is None or not self.output_ids:
            return self.worker_faulted("a prefill ended without its first token or its KV")
        self._note_cached(completion)
        self._placement = None
        self._kv_source = completion.kv_source
        if self.is_whole:
            return [*self._freed(), *self._completed(Finish.LENGTH)]
        self.state = State.TRANSFERRING
        return [self._decode_announcement()]

    def _kv_lost(self) -> list[Action]:
        self._placement = None
        self._kv_source = None
        lost_attempt = self.attempt
        return [ReportKvLost(lost_attempt), *self._replaced(Replacement.KV_LOST)]

    def _crashed(self, reason: str) -> list[Action]:
        self.num_crashes += 1
        if self.num_crashes >= self.max_worker_failures:
            message = (
                f"quarantined after {self.num_crashes} worker failures with this request; the last: {reason}"
            )
            return self._failed(GatewayError(ErrorKind.QUARANTINED, message))
        return self._replaced(Replacement.CRASH)

    def _replaced(self, why: Replacement) -> list[Action]:
        """Back to WAITING under a new attempt, unless all tokens are here already."""
        if self.is_whole:  # only the worker's last word was lost
            return self._completed(Finish.LENGTH)
        self.attempt += 1
        self.num_replacements += 1
        self.state = State.WAITING
        return [self._announcement(why)]

    def _freed(self) -> list[Action]:
        """Let go of the worker that runs the attempt and of a lease that nobody will pull."""
        actions: list[Action] = []
        if self._placement is not None:
            actions.append(AbortAttempt(self._placement.target, self.attempt))
            self._placement = None
        if self._kv_source is not None:
            actions.append(ReleaseLease(self._kv_source))
            self._kv_source = None
        return actions

    def _completed(self, finish: Finish) -> list[Action]:
        self._placement = None
        self._kv_source = None
        self.state = State.FINISHED
        return [Complete(finish)]

    def _failed(self, error: GatewayError, *, is_known: bool = False) -> list[Action]:
        """End with an error; `is_known`: the scheduler said so itself, it need not be told."""
        self._placement = None
        self._kv_source = None
        self.state = State.FINISHED
        return [Fail(error)] if is_known else [Withdraw(self.attempt), Fail(error)]


def _taken_over() -> GatewayError:
    message = "the client came back at another gateway, where the request goes on"
    return GatewayError(ErrorKind.TAKEN_OVER, message)


def _rejection_error(rejection: Rejection) -> GatewayError:
    message = rejection.message
    retry_after_s = rejection.retry_after_s
    match rejection.reason:
        case RejectReason.QUEUE_FULL:
            kind, fallback = ErrorKind.QUEUE_FULL, "the queue is full"
        case RejectReason.PREDICTED_WAIT:
            kind, fallback = ErrorKind.QUEUE_FULL, "the predicted wait is too long"
        case RejectReason.TENANT_QUOTA:
            kind, fallback = ErrorKind.QUEUE_FULL, "the tenant holds as much of the queue as it may"
        case RejectReason.QUEUE_TIMEOUT:
            kind, fallback = ErrorKind.QUEUE_TIMEOUT, "waited too long for a worker"
        case RejectReason.DEADLINE:
            return GatewayError(ErrorKind.DEADLINE, message or "the deadline passed in the queue")
        case RejectReason.PROMPT_TOO_LONG:
            message = message or "longer than any worker can prefill"
            violation = FieldViolation(field="prompt", description=message)
            return GatewayError(ErrorKind.INVALID, f"prompt: {message}", violations=(violation,))
        case RejectReason.KEY_REUSED:
            violation = FieldViolation(field="idempotency_key", description="was used with another request")
            return GatewayError(
                ErrorKind.INVALID, f"{violation.field}: {violation.description}", violations=(violation,)
            )
        case RejectReason.TAKEN_OVER:
            return _taken_over()
        case RejectReason.NO_WORKER:
            kind, fallback = ErrorKind.UNAVAILABLE, "no worker"
        case RejectReason.DRAINING | RejectReason.OTHER:
            kind, fallback = ErrorKind.UNAVAILABLE, "rejected by the scheduler"
    return GatewayError(kind, message or fallback, retry_after_s=retry_after_s)

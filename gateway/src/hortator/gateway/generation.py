"""A request's output as it grows, and the clients that read it.

The output belongs to the generation, not to a client's call: a client reads it through a `Subscriber` with a
position of its own. So a client that comes back (idempotency key) goes on where it was, and two calls with
one key read the same tokens.

`num_released` and `text` say how much may be read; what a worker has sent beyond that waits in the machine
for its message (coalescing).
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hortator.gateway.actions import Finish
from hortator.gateway.detokenization import OutputText
from hortator.gateway.errors import GatewayError
from hortator.gateway.placement import NO_CLAIM, Claim, WorkerSampling
from hortator.gateway.request import RequestMachine


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What stays the same about a request from acceptance to end."""

    request_id: str
    prompt_token_ids: array[int]
    block_hashes: Sequence[int]
    sampling: WorkerSampling
    priority: int = 0
    tenant: str = ""
    latency_critical: bool = False
    idempotency_key: str = ""
    fingerprint: bytes = b""
    """Of the whole request, when it has a key: the same key must not mean something else."""
    claim: Claim = NO_CLAIM
    """What the key says outside this gateway."""
    tokenizer: bytes = b""
    """Digest of the tokenizer of workers that reads prompt and output; empty: it came from elsewhere."""


News = tuple[int, Sequence[int], str]
"""What a reader has not seen yet: index of the first new token, the new tokens, their text."""


@dataclass(frozen=True, slots=True)
class End:
    """How a generation ended: one of the two is set."""

    finish: Finish | None = None
    error: GatewayError | None = None


class Generation:
    """One request and its output. The driver writes it, subscribers read it."""

    __slots__ = (
        "_new_output_text",
        "accepted_at",
        "announced_at",
        "asked_at",
        "came_back_in",
        "deadline_at",
        "end",
        "ended_at",
        "facts",
        "first_token_at",
        "held_since",
        "is_held",
        "is_unstarted",
        "last_flush_at",
        "last_token_at",
        "machine",
        "num_released",
        "output_text",
        "placed_at",
        "resumed_from_index",
        "second_token_at",
        "subscribers",
        "text",
        "waiting_since",
    )

    def __init__(
        self,
        *,
        facts: RequestFacts,
        machine: RequestMachine,
        new_output_text: Callable[[], OutputText] | None,
        accepted_at: float,
        deadline_at: float | None = None,
        resumed_from_index: int = 0,
    ) -> None:
        """A generation without output.

        Args:
            facts: the request.
            machine: in its first state.
            new_output_text: makes the text side; None without a tokenizer.
            accepted_at: loop time at which the client's call began.
            deadline_at: loop time of the client's deadline.
            resumed_from_index: tokens that its client has already, from another gateway.
        """
        self.facts = facts
        self.machine = machine
        self._new_output_text = new_output_text
        self.output_text = None if new_output_text is None else new_output_text()
        self.accepted_at = accepted_at
        self.asked_at = accepted_at
        """Loop time of the newest call for it."""
        self.waiting_since = accepted_at
        """Loop time since when it has wanted the placement that it wants, or wanted last."""
        self.came_back_in = 0
        """The last epoch in which it was announced again after it had been taken over."""
        self.deadline_at = deadline_at
        self.resumed_from_index = resumed_from_index
        self.announced_at: float | None = None
        self.placed_at: float | None = None
        self.first_token_at: float | None = None
        self.second_token_at: float | None = None
        self.last_token_at = accepted_at
        self.last_flush_at = accepted_at
        self.ended_at: float | None = None
        self.is_held = False
        """Tokens wait in the due wheel, the oldest since `held_since`."""
        self.held_since = accepted_at
        self.is_unstarted = False
        """This gateway placed it by itself, and no token has come since."""
        self.num_released = 0
        self.text = ""
        self.end: End | None = None
        self.subscribers: list[Subscriber] = []

    def subscribe(self, from_index: int) -> Subscriber:
        """A reader of the tokens from `from_index` on."""
        subscriber = Subscriber(self, from_index)
        self.subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> bool:
        """A reader leaves; True when nobody reads any more."""
        self.subscribers.remove(subscriber)
        return not self.subscribers

    def wake(self) -> None:
        """Let every reader look."""
        for subscriber in self.subscribers:
            subscriber.wake()

    def text_length_at(self, token_index: int) -> int:
        """Characters that were shown to a reader who had the tokens before `token_index`."""
        if token_index == 0 or self._new_output_text is None:
            return 0
        output_text = self._new_output_text()
        return len(output_text.push(self.machine.output_ids[:token_index]))

    @property
    def ttft_s(self) -> float:
        """Accepted to first token; 0 before it."""
        return 0.0 if self.first_token_at is None else self.first_token_at - self.accepted_at

    @property
    def first_gap_s(self) -> float:
        """First to second token; 0 before it."""
        if self.first_token_at is None or self.second_token_at is None:
            return 0.0
        return self.second_token_at - self.first_token_at

    @property
    def hold_s(self) -> float:
        """First announcement to first placement; 0 before it."""
        if self.announced_at is None or self.placed_at is None:
            return 0.0
        return self.placed_at - self.announced_at

    @property
    def e2e_s(self) -> float:
        """Accepted to end; 0 before it."""
        return 0.0 if self.ended_at is None else self.ended_at - self.accepted_at


class Subscriber:
    """One client's position in a generation's output."""

    __slots__ = ("_generation", "_num_taken", "_text_taken", "_waiter")

    def __init__(self, generation: Generation, from_index: int) -> None:
        self._generation = generation
        self._num_taken = from_index
        self._text_taken = 0 if from_index == 0 else None
        self._waiter: asyncio.Future[None] | None = None

    def take(self) -> News | None:
        """What is new since the last call; None: nothing."""
        generation = self._generation
        start, end = self._num_taken, generation.num_released
        if end < start:
            return None
        text_start = self._text_taken
        if text_start is None:
            text_start = self._text_taken = min(generation.text_length_at(start), len(generation.text))
        text = generation.text
        if end == start and len(text) == text_start:
            return None
        self._num_taken, self._text_taken = end, len(text)
        return start, generation.machine.output_ids[start:end], text[text_start:] if text_start else text

    async def wait(self) -> None:
        """Until `wake`. Look with `take` first, and do not await in between."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Something is new: output, or the end."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

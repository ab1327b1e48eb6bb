"""Clients of the client library, and what each of them is promised.

The simulated engine's tokens follow from (seed, position), so every position of every answer is known before it
is asked for: there is no undisturbed run to compare with.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from chaos.service import FIRST_TOKEN, VOCAB_SIZE
from hortator.client import Client, Completion, Delta, GenerateError, Sampling
from hortator.worker.engines.simulated.tokens import TokenSource

TOKENS = TokenSource(VOCAB_SIZE, FIRST_TOKEN)
STUCK_AFTER_S = 60.0
CANCELLED_SHARE = 0.15
STOPPED_SHARE = 0.15
LONG_SHARE = 0.2


@dataclass(kw_only=True)
class Asked:
    """One request: what is asked, what must come, what came."""

    prompt: str
    seed: int
    max_tokens: int
    stop: str = ""
    cancel_at: int | None = None
    """Tokens after which the client is gone; -1: it waits for a moment and is gone before the first."""
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    request_ids: list[str] = field(default_factory=list)
    completion: Completion | None = None
    num_endings: int = 0
    is_cancelled: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def brings_key(self) -> bool:
        """Whether its key is the caller's, not the client library's."""
        return bool(self.seed % 2)

    @property
    def state(self) -> str:
        """How far it has come, as its client sees it."""
        if self.is_over:
            return "ended"
        if len(self.request_ids) > 1:
            return "resumed elsewhere"
        return {0: "no token yet", 1: "between phases"}.get(len(self.token_ids), "decoding")

    @property
    def is_over(self) -> bool:
        return bool(self.num_endings or self.is_cancelled)

    def expected(self, index: int) -> int:
        return TOKENS.token(self.seed, len(self.prompt) + index)

    @property
    def stops_at(self) -> int:
        """Output tokens until the stop text begins, or all."""
        if not self.stop:
            return self.max_tokens
        at = "".join(chr(self.expected(index)) for index in range(self.max_tokens)).find(self.stop)
        return self.max_tokens if at < 0 else at

    def take(self, delta: Delta) -> None:
        """Some tokens came: each position once, in order, and the right one."""
        if delta.request_id not in self.request_ids:
            self.request_ids.append(delta.request_id)
        if delta.token_index != len(self.token_ids):
            self.problems.append(f"token {delta.token_index} came when {len(self.token_ids)} were there")
        for token in delta.token_ids:
            if token != self.expected(len(self.token_ids)):
                self.problems.append(f"token {len(self.token_ids)} is {token}")
            self.token_ids.append(token)
        self.text += delta.text
        if self.num_endings:
            self.problems.append("tokens came after the end")

    def end(self, completion: Completion) -> None:
        """It is said to be done: all of it is there, and counted right."""
        self.num_endings += 1
        self.completion = completion
        num_tokens = self.stops_at
        text = "".join(chr(self.expected(index)) for index in range(num_tokens))
        reason = "length" if num_tokens == self.max_tokens else "stop"
        found = (completion.num_prompt_tokens, self.text, completion.finish_reason)
        if found != (len(self.prompt), text, reason):
            self.problems.append(f"ended as {found}, not {(len(self.prompt), text, reason)}")
        if completion.num_output_tokens != len(self.token_ids):
            self.problems.append(
                f"{completion.num_output_tokens} output tokens are charged, {len(self.token_ids)} came"
            )
        if reason == "length" and len(self.token_ids) != self.max_tokens:
            self.problems.append(f"{len(self.token_ids)} tokens came of {self.max_tokens}")

    def fail(self, error: GenerateError) -> None:
        self.num_endings += 1
        self.problems.append(f"after {len(self.token_ids)} tokens: {error}")

    def named(self) -> list[str]:
        """The problems, each with what it takes to know the request."""
        who = (
            f"{'/'.join(self.request_ids) or 'unnamed'} (prompt {len(self.prompt)}, {self.max_tokens} tokens)"
        )
        return [f"{who}: {problem}" for problem in self.problems]


class Load:
    """As many requests at a time as there are clients, until `is_over`."""

    def __init__(
        self, endpoints: list[str], *, seed: int, num_clients: int, longest_tokens: int = 150
    ) -> None:
        self._endpoints = endpoints
        self._random = random.Random(seed)
        self._num_clients = num_clients
        self._longest_tokens = longest_tokens
        self.is_over = False
        self.asked: list[Asked] = []
        self.num_ended = self.num_cancelled = self.num_tokens = self.num_replacements = self.num_moved = 0
        self.num_requests = 0
        self.longest_wait_s = 0.0
        """For a first token or a next one."""
        self.problems: list[str] = []
        self.on_cancel: Callable[[str], None] = lambda _: None
        """Called with the state of a request whose client goes."""

    @property
    def live(self) -> list[Asked]:
        """Requests that have not ended."""
        return [asked for asked in self.asked if not asked.is_over]

    async def run(self) -> None:
        """Ask until it is over, and wait for all answers."""
        async with self._client() as client, asyncio.TaskGroup() as tasks:
            for number in range(self._num_clients):
                tasks.create_task(self._ask_on(client, random.Random(self._random.random()), number))

    def _client(self) -> Client:
        return Client(self._endpoints, retry_for_s=STUCK_AFTER_S)

    async def _ask_on(self, client: Client, rng: random.Random, number: int) -> None:
        await asyncio.sleep(number * 0.05)
        while not self.is_over:
            asked = some_request(rng, self._longest_tokens)
            self.asked.append(asked)
            self.num_requests += 1
            try:
                async with asyncio.timeout(None) as patience:
                    await self._read(client, asked, patience, rng)
            except TimeoutError:
                if not asked.is_cancelled:
                    asked.problems.append(
                        f"nothing came for {STUCK_AFTER_S:g} s after {len(asked.token_ids)} tokens"
                    )
                    asked.num_endings += 1
            except GenerateError as error:
                asked.fail(error)
            self._close(asked)
            await asyncio.sleep(rng.expovariate(10.0))

    async def _read(
        self, client: Client, asked: Asked, patience: asyncio.Timeout, rng: random.Random
    ) -> None:
        sampling = Sampling(
            max_tokens=asked.max_tokens,
            seed=asked.seed,
            ignore_eos=True,
            stop=(asked.stop,) if asked.stop else (),
        )
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        patience.reschedule(heard_at + STUCK_AFTER_S)
        if asked.cancel_at == -1:
            patience.reschedule(loop.time() + rng.uniform(0.0, 0.3))
        key = secrets.token_hex(16) if asked.brings_key else ""
        async with aclosing(client.generate(asked.prompt, sampling=sampling, idempotency_key=key)) as events:
            try:
                async for event in events:
                    self.longest_wait_s = max(self.longest_wait_s, loop.time() - heard_at)
                    heard_at = loop.time()
                    if isinstance(event, Completion):
                        asked.end(event)
                        continue
                    asked.take(event)
                    patience.reschedule(loop.time() + STUCK_AFTER_S)
                    if asked.cancel_at is not None and len(asked.token_ids) > asked.cancel_at:
                        self._cancel(asked)
                        return
            except asyncio.CancelledError:
                if asked.cancel_at == -1:
                    self._cancel(asked)
                raise

    def _cancel(self, asked: Asked) -> None:
        if not asked.is_over:
            self.on_cancel(asked.state)
            asked.is_cancelled = True

    def _close(self, asked: Asked) -> None:
        self.asked.remove(asked)
        self.problems += asked.named()
        self.num_cancelled += asked.is_cancelled
        self.num_ended += asked.completion is not None
        if not asked.is_cancelled and asked.num_endings != 1:
            self.problems.append(f"{asked.request_ids}: {asked.num_endings} endings")
        self.num_tokens += len(asked.token_ids)
        self.num_moved += len(asked.request_ids) > 1
        if asked.completion is not None:
            self.num_replacements += asked.completion.num_replacements


def some_request(rng: random.Random, longest_tokens: int) -> Asked:
    """Short and long, some with a stop text, some whose client will be gone."""
    num_prompt = rng.randint(600, 2500) if rng.random() < LONG_SHARE else rng.randint(1, 300)
    asked = Asked(
        prompt="".join(rng.choices("abcdefgh ", k=num_prompt)),
        seed=rng.getrandbits(31),
        max_tokens=rng.choice((1, 2, rng.randint(3, longest_tokens // 4), rng.randint(3, longest_tokens))),
    )
    if rng.random() < STOPPED_SHARE and asked.max_tokens > 2:
        at = rng.randrange(asked.max_tokens - 1)
        asked.stop = "".join(chr(asked.expected(index)) for index in (at, at + 1))
    elif rng.random() < CANCELLED_SHARE:
        asked.cancel_at = rng.choice((-1, 0, rng.randint(0, asked.max_tokens)))
    return asked

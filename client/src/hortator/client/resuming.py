"""Generations that outlive their gateway.

A generation has an idempotency key, made here if the caller brings none. When its call breaks, the same
request is made again at the next address, with the same key, the index of the first token that is still
missing and the tokens before it. The gateway there goes on with what runs or, once that has ended, after the
tokens that it was brought; either way every token position comes once, in order.

What is tried again: calls that broke (UNAVAILABLE, CANCELLED), for `retry_for_s` from the first failure to
the next token; and a call that an older one of ours has taken over (ABORTED), as it may when a scheduler that
is new hears of the older one last. With a key that was made here it was always one of ours: nobody else has
it. With the caller's, each call of ours that broke may be that once. What is not: a refusal (wrong input, a
full queue, a quarantined request), a deadline that has passed, a service of which no gateway has ever
answered, or that says before the first token that it has no worker.
"""

from __future__ import annotations

import asyncio
import secrets
from array import array
from collections.abc import AsyncGenerator, Sequence
from itertools import count
from types import TracebackType
from typing import Self

from hortator.client.access import ANYBODY, Access
from hortator.client.errors import GenerateError
from hortator.client.gateway import NO_SAMPLING, GatewayClient
from hortator.client.messages import Completion, Delta, Model, Prompt, Sampling

FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0

_BROKEN = frozenset({"UNAVAILABLE", "CANCELLED"})
_TAKEN_OVER = "ABORTED"
_INVALID = "INVALID_ARGUMENT"


class Client:
    """A service and all of its gateways. Use as an async context manager, or call `aclose`."""

    def __init__(
        self, addresses: str | Sequence[str], *, retry_for_s: float = 30.0, access: Access = ANYBODY
    ) -> None:
        """Nothing is connected before the first call.

        Args:
            addresses: `host:port` of every gateway, or of one name that stands for all. Calls begin at one
                after the other.
            retry_for_s: how long a generation is tried again without a new token; 0: never.
            access: certificates and API key to show.
        """
        self.addresses = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not self.addresses:
            raise ValueError("addresses: got none (allowed: host:port of at least one gateway)")
        self._retry_for_s = retry_for_s
        self._gateways = [GatewayClient(address, access) for address in self.addresses]
        self._calls = count(secrets.randbelow(len(self._gateways)))
        self._was_answered = False  # ever, by any gateway

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; what still streams is cancelled."""
        for gateway in self._gateways:
            await gateway.aclose()

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        sampling: Sampling = NO_SAMPLING,
        priority: int = 0,
        tenant: str = "",
        latency_critical: bool = False,
        idempotency_key: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Delta | Completion, None]:
        """Stream one generation, whatever dies: every token once, in order, then one completion.

        Args:
            prompt: text, token ids, or chat turns.
            model: empty means the only one.
            sampling: how tokens are chosen.
            priority: -100..100; higher goes first.
            tenant: whose request this is.
            latency_critical: bypass every voluntary hold.
            idempotency_key: names this generation within the tenant; empty: one is made.
            timeout_s: deadline for the whole generation, retries included; None is none.

        Raises:
            GenerateError: the request was refused, or could not be carried through.
        """
        tries = _Tries(
            self._retry_for_s,
            len(self._gateways),
            timeout_s,
            others_have_key=bool(idempotency_key),
            was_answered=self._was_answered,
        )
        key = idempotency_key or secrets.token_hex(16)
        token_ids = array("I")
        brings_tokens = True
        first = next(self._calls)
        for number in count(first):
            gateway = self._gateways[number % len(self._gateways)]
            events = gateway.generate(
                prompt,
                model=model,
                sampling=sampling,
                priority=priority,
                tenant=tenant,
                latency_critical=latency_critical,
                idempotency_key=key,
                resume_from_index=len(token_ids),
                prior_output_ids=token_ids if brings_tokens else (),
                timeout_s=tries.rest_s(),
            )
            try:
                async for event in events:
                    tries.heard()
                    self._was_answered = True
                    if isinstance(event, Completion):
                        yield event
                        return
                    token_ids.extend(event.token_ids)
                    yield event
            except GenerateError as error:
                if token_ids and brings_tokens and error.status == _INVALID:
                    brings_tokens = False  # an older gateway takes it for another request under the same key
                    pause_s = 0.0
                else:
                    pause_s = tries.pause_after(error)
            finally:
                await events.aclose()
            await asyncio.sleep(pause_s)

    async def list_models(self, *, timeout_s: float | None = 10.0) -> list[Model]:
        """The models that the service serves, as the first gateway that answers says.

        Raises:
            GenerateError: no gateway can be reached.
        """
        *others, last = self._gateways
        for gateway in others:
            try:
                return await gateway.list_models(timeout_s=timeout_s)
            except GenerateError as error:
                if not error.is_unreachable:
                    raise
        return await last.list_models(timeout_s=timeout_s)


class _Tries:
    """How often one generation is tried, and how long is waited in between."""

    def __init__(
        self,
        retry_for_s: float,
        num_gateways: int,
        timeout_s: float | None,
        *,
        others_have_key: bool,
        was_answered: bool,
    ) -> None:
        self._retry_for_s = retry_for_s
        self._others_have_key = others_have_key
        self._num_broken = 0  # calls that have not taken over a later one yet
        self._num_gateways = num_gateways
        self._now = asyncio.get_running_loop().time
        self._deadline_at = None if timeout_s is None else self._now() + timeout_s
        self._failing_since: float | None = None
        self._num_unanswered = 0
        self._num_failed = 0
        self._was_answered = was_answered
        self._has_begun = False

    def rest_s(self) -> float | None:
        """Until the deadline; None: there is none."""
        return None if self._deadline_at is None else max(self._deadline_at - self._now(), 0.001)

    def heard(self) -> None:
        """Something new came."""
        self._failing_since = None
        self._num_unanswered = self._num_failed = 0
        self._was_answered = self._has_begun = True

    def pause_after(self, error: GenerateError) -> float:
        """How long to wait before the next try. Raises the error where there is none."""
        now = self._now()
        if self._failing_since is None:
            self._failing_since = now
        if not self._is_tried_again(error) or now - self._failing_since >= self._retry_for_s:
            raise error
        if error.reason and error.retry_after_s and not self._has_begun:
            raise error  # told by a gateway, which has waited already: no worker, no scheduler
        if error.has_connected:
            self._was_answered = True
        else:
            self._num_unanswered += 1
            if not self._was_answered and self._num_unanswered >= self._num_gateways:
                raise error
        self._num_failed += 1
        if self._num_failed < self._num_gateways:
            return 0.0  # there is another one
        doublings = min(self._num_failed - self._num_gateways, 16)
        pause_s = min(FIRST_PAUSE_S * (1 << doublings), MAX_PAUSE_S)
        return max(pause_s, min(error.retry_after_s or 0.0, MAX_PAUSE_S))

    def _is_tried_again(self, error: GenerateError) -> bool:
        if error.status in _BROKEN:
            self._num_broken += 1
            return True
        if error.status != _TAKEN_OVER:
            return False
        self._num_broken -= 1
        return self._num_broken >= 0 or not self._others_have_key

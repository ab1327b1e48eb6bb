"""`hortator.client` for commands: options in one value, failures as `CommandError`.

A failed call is one line naming the gateway, the field if one is at fault, and when to come back if the
gateway says so. Exit codes: 2 wrong input, 3 nothing answers or too busy, 1 anything else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from hortator.cli.errors import EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from hortator.cli.inference.options import GenerateOptions
from hortator.client import (
    Access,
    AccessError,
    ChatTurn,
    Client,
    Completion,
    Delta,
    GenerateError,
    Sampling,
)
from hortator.client.access import ANYBODY

_EXIT_CODES = {
    "INVALID_ARGUMENT": EXIT_USAGE,
    "NOT_FOUND": EXIT_USAGE,
    "UNAUTHENTICATED": EXIT_USAGE,
    "PERMISSION_DENIED": EXIT_USAGE,
    "UNAVAILABLE": EXIT_UNAVAILABLE,
    "RESOURCE_EXHAUSTED": EXIT_UNAVAILABLE,
    "DEADLINE_EXCEEDED": EXIT_UNAVAILABLE,
}


class InferenceClient:
    """A service, at the addresses of its gateways; an async context manager."""

    def __init__(self, *addresses: str, access: Access = ANYBODY) -> None:
        """Nothing is connected yet. Raises CommandError when a file of `access` cannot be used."""
        self._addresses = ", ".join(addresses)
        try:
            self._client = Client(addresses, access=access)
        except AccessError as error:
            raise CommandError(f"--tls: {error}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def generate(self, prompt: str, options: GenerateOptions) -> AsyncIterator[Delta | Completion]:
        """Stream one answer: deltas, then one completion. Leaving the iteration early cancels the request.

        Raises:
            CommandError: the call failed.
        """
        try:
            events = self._client.generate(
                _turns(prompt, options) if options.is_chat else prompt,
                model=options.model,
                sampling=Sampling(
                    max_tokens=options.max_tokens,
                    temperature=options.temperature,
                    top_p=options.top_p,
                    top_k=options.top_k,
                    seed=options.seed,
                    stop=options.stop,
                    ignore_eos=options.ignore_eos,
                ),
                priority=options.priority,
                tenant=options.tenant,
                latency_critical=options.is_latency_critical,
                timeout_s=options.timeout_s or None,
            )
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()
        except GenerateError as error:
            raise self._readable(error) from None
        except ValueError as error:  # a number that the field cannot hold
            raise CommandError(f"a sampling value is out of range: {error}") from None

    def _readable(self, error: GenerateError) -> CommandError:
        line = f"gateway {self._addresses}: {error.message or error.status}"
        if error.retry_after_s is not None:
            line += f" (try again in {error.retry_after_s:.1f} s)"
        return CommandError(line, exit_code=_EXIT_CODES.get(error.status, EXIT_FAILED))


def _turns(prompt: str, options: GenerateOptions) -> list[ChatTurn]:
    before = [ChatTurn(role="system", content=options.system)] if options.system else []
    return [*before, ChatTurn(role="user", content=prompt)]

"""Open calls: how many there may be, whose they are, and which are ended because they stay too long.

A call counts from its first word, before its request is here, so that whoever sends half of a request holds
no more than whoever sends all of it. A client is the API key that it shows, else the address that it comes
from; of IPv6 the network, since whoever has one address there has all of it.

What a client does not read waits in its call (all of its output at the most), and the write of the next
message waits with it. That harms nobody else; but nothing ends a call whose connection lives, and a client
may open ever new ones. So a write may take `slow_client_timeout_s`, and so may a client to send its request.

Nothing is armed per message: each call notes since when it waits for its client, and all calls are looked at
now and then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from hortator.gateway.errors import ErrorKind, GatewayError, over_limit

RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """What open calls may take; the names are those of the gateway's settings."""

    max_calls: int = 40_000
    max_calls_per_client: int = 10_000
    max_call_s: float = 14_400.0
    slow_client_timeout_s: float = 300.0


class OpenCall:
    """One call, as its handler's task keeps it."""

    __slots__ = ("client", "error", "opened_at", "task", "waits_since")

    def __init__(self, task: asyncio.Task[object], client: str, now: float) -> None:
        self.task = task
        self.client = client
        self.opened_at = now
        self.waits_since: float | None = now
        """When it began to wait for its client; None: it does not. Set by the handler."""
        self.error: GatewayError | None = None
        """Why the handler is cancelled."""


class OpenCalls:
    """All open calls of a server."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._calls: set[OpenCall] = set()
        self._per_client: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._look_every_s = min(limits.slow_client_timeout_s, limits.max_call_s) / 4

    def open(self, client: str) -> OpenCall:
        """Let the current task's call in.

        Raises:
            GatewayError: LIMIT, and when to come back.
        """
        limits = self._limits
        if len(self._calls) >= limits.max_calls:
            message = f"this gateway has {limits.max_calls} calls open, its limit"
            raise over_limit("max_calls", message, retry_after_s=RETRY_AFTER_S)
        if self._per_client[client] >= limits.max_calls_per_client:
            message = f"{client} has {limits.max_calls_per_client} calls open, the limit of a client"
            raise over_limit("max_calls_per_client", message, retry_after_s=RETRY_AFTER_S)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call is handled in a task")
        call = OpenCall(task, client, asyncio.get_running_loop().time())
        self._calls.add(call)
        self._per_client[client] += 1
        self._arm()
        return call

    def close(self, call: OpenCall) -> None:
        """It has ended."""
        self._calls.discard(call)
        self._per_client[call.client] -= 1
        if not self._per_client[call.client]:
            del self._per_client[call.client]

    def _arm(self) -> None:
        if self._timer is None and self._calls:
            self._timer = asyncio.get_running_loop().call_later(self._look_every_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            if call.error is None:
                call.error = self._overdue(call, now)
                if call.error is not None:
                    call.task.cancel()
        self._arm()

    def _overdue(self, call: OpenCall, now: float) -> GatewayError | None:
        limits = self._limits
        if call.waits_since is not None and now - call.waits_since >= limits.slow_client_timeout_s:
            message = f"the client has read nothing for {limits.slow_client_timeout_s:g} s"
            if call.waits_since == call.opened_at:
                message = f"the client has sent no request for {limits.slow_client_timeout_s:g} s"
            return GatewayError(ErrorKind.SLOW_CLIENT, message, limit="slow_client_timeout_s")
        if now - call.opened_at >= limits.max_call_s:
            return over_limit("max_call_s", f"the call is open for {limits.max_call_s:g} s, the limit")
        return None

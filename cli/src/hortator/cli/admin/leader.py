"""Which of several schedulers leads: the one whose snapshot names the highest epoch; a standby's is 0."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hortator.cli.admin.client import AdminClient
from hortator.cli.admin.snapshot import Snapshot
from hortator.cli.errors import EXIT_UNAVAILABLE, CommandError


async def leading_snapshot(addresses: Sequence[str]) -> Snapshot | None:
    """The leader's view now; None: no scheduler leads at the moment.

    Raises:
        CommandError: there is one address, and nothing answers there.
    """
    found = await _find(addresses)
    return None if found is None else found[1]


async def leader_address(addresses: Sequence[str]) -> str:
    """Where the leader is; a single address is not asked.

    Raises:
        CommandError: none of them leads at the moment.
    """
    if len(addresses) == 1:
        return addresses[0]
    found = await _find(addresses)
    if found is None:
        line = f"no scheduler leads at the moment (asked: {', '.join(addresses)})"
        raise CommandError(line, exit_code=EXIT_UNAVAILABLE)
    return found[0]


async def _find(addresses: Sequence[str]) -> tuple[str, Snapshot] | None:
    answers = await asyncio.gather(*map(_ask, addresses), return_exceptions=len(addresses) > 1)
    leaders = [
        (address, answer)
        for address, answer in zip(addresses, answers, strict=True)
        if isinstance(answer, Snapshot) and answer.epoch
    ]
    return max(leaders, key=lambda found: found[1].epoch, default=None)


async def _ask(address: str) -> Snapshot:
    async with AdminClient(address) as admin:
        return await admin.snapshot()

"""`hortator drain` and `hortator policy`: what an operator changes on a running scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hortator.cli.admin.client import AdminClient, Drained
from hortator.cli.console import stdout
from hortator.cli.errors import EXIT_FAILED
from hortator.cli.running import find_stack
from hortator.cli.state import scheduler_address
from hortator.client import Access


def drain(
    *, worker_id: str, timeout_s: float, name: str | None, scheduler: str | None, tls: Path | None
) -> int:
    """Drain one worker; returns the exit code. Raises CommandError for an unknown worker."""
    address = scheduler_address(name=name, scheduler=scheduler)

    async def call() -> Drained:
        async with AdminClient(address, access=Access(tls_folder=tls)) as admin:
            return await admin.drain(worker_id, timeout_s=timeout_s)

    drained = asyncio.run(call())
    if drained.is_drained:
        stdout().print(f"{worker_id}: drained, nothing in flight")
        return 0
    stdout().print(
        f"{worker_id}: takes nothing new; "
        f"{drained.num_in_flight} requests still in flight after {timeout_s:g} s"
    )
    return EXIT_FAILED


def change_policy(policy: str, *, name: str | None, scheduler: str | None, tls: Path | None) -> None:
    """Switch the policy, of standbys too. Raises CommandError for an unknown one."""
    addresses = (scheduler,) if scheduler else find_stack(name).schedulers

    async def call(address: str) -> str:
        async with AdminClient(address, access=Access(tls_folder=tls)) as admin:
            return await admin.change_policy(policy)

    previous = [asyncio.run(call(address)) for address in addresses]
    stdout().print(f"policy: {previous[0]} -> {policy}")

"""`hortator state`: EP groups, DP ranks, queue and placements of a running scheduler, as tables or JSON."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hortator.cli.admin.client import AdminClient
from hortator.cli.admin.leader import leader_address
from hortator.cli.admin.snapshot import GroupSnapshot, PlacementSnapshot, Snapshot
from hortator.cli.console import stdout
from hortator.cli.running import find_stack
from hortator.client import Access

_STATE_STYLES = {
    "ready": "green",
    "running": "green",
    "suspect": "red",
    "draining": "yellow",
    "unreported": "dim",
}
_BAR_CELLS = 10


def run(
    *,
    watch: bool,
    interval_s: float,
    num_placements: int,
    name: str | None,
    scheduler: str | None,
    tls: Path | None,
    as_json: bool,
) -> None:
    """Print the state once, or keep showing it. Raises CommandError when no scheduler answers."""
    address = scheduler_address(name=name, scheduler=scheduler)
    access = Access(tls_folder=tls)
    if watch:
        try:
            asyncio.run(_watch(address, access, interval_s, num_placements, as_json=as_json))
        except KeyboardInterrupt:
            return
    else:
        _print(stdout(), asyncio.run(_once(address, access, num_placements)), as_json=as_json)


def scheduler_address(*, name: str | None, scheduler: str | None) -> str:
    """The address given, or that of the stack's leader. Raises CommandError when there is none."""
    return scheduler or asyncio.run(leader_address(find_stack(name).schedulers))


def render(snapshot: Snapshot) -> RenderableType:
    """A snapshot as tables."""
    parts: list[RenderableType] = [_headline(snapshot), _groups(snapshot.groups)]
    if snapshot.recent_placements:
        parts.append(_placements(snapshot.recent_placements))
    return Group(*parts)


async def _once(address: str, access: Access, num_placements: int) -> Snapshot:
    async with AdminClient(address, access=access) as admin:
        return await admin.snapshot(num_recent_placements=num_placements)


async def _watch(
    address: str, access: Access, interval_s: float, num_placements: int, *, as_json: bool
) -> None:
    console = stdout()
    async with AdminClient(address, access=access) as admin:
        snapshots = admin.watch(interval_s=interval_s, num_recent_placements=num_placements)
        if as_json or not console.is_terminal:
            async for snapshot in snapshots:
                _print(console, snapshot, as_json=as_json)
            return
        with Live(console=console, auto_refresh=False, screen=True) as live:
            async for snapshot in snapshots:
                live.update(render(snapshot), refresh=True)


def _print(console: Console, snapshot: Snapshot, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(snapshot)), flush=True)
    else:
        console.print(render(snapshot))


def _headline(snapshot: Snapshot) -> Text:
    rejected = sum(snapshot.num_rejected.values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in snapshot.num_rejected.items())
    text = Text.assemble(
        ("policy ", "dim"), (snapshot.policy, "bold"),
        ("   waiting ", "dim"), f"{snapshot.num_waiting} ({snapshot.waiting_tokens} tokens",
        f", oldest {snapshot.oldest_wait_s:.2f} s)" if snapshot.num_waiting else ")",
        ("   in flight ", "dim"), str(snapshot.num_in_flight),
        ("   finished ", "dim"), str(snapshot.num_finished),
        ("   rejected ", "dim"), f"{rejected} ({reasons})" if rejected else "0",
        ("   gateways ", "dim"), str(snapshot.num_gateways),
        ("   epoch ", "dim"), str(snapshot.epoch),
    )  # fmt: skip
    text.append("\n")
    return text


def _groups(groups: tuple[GroupSnapshot, ...]) -> Table:
    table = Table(title="EP groups", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("worker", "phase", "state", "pass", "in flight", "last report"):
        table.add_column(header, no_wrap=True)
    for header in ("rank", "prefill tokens", "batch", "KV blocks"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for group in groups:
        style = _STATE_STYLES.get(group.state, "")
        cells: list[str | Text] = [
            group.worker_id,
            group.phase,
            Text(group.state, style=style),
            str(group.forward_pass_id),
            str(group.num_in_flight),
            f"{group.last_report_age_s:.1f} s ago",
        ]
        for rank in group.ranks:
            share = rank.kv_blocks_used / rank.kv_blocks_total if rank.kv_blocks_total else 0.0
            table.add_row(
                *cells,
                str(rank.dp_rank),
                str(rank.prefill_load_tokens),
                str(rank.batch_size),
                f"{rank.kv_blocks_used}/{rank.kv_blocks_total}",
                _bar(share),
            )
            cells = [""] * len(cells)
        if not group.ranks:
            table.add_row(*cells, "", "", "", "", "")
    return table


def _bar(share: float) -> Text:
    filled = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
    return Text("█" * filled, style="cyan") + Text("·" * (_BAR_CELLS - filled), style="dim")


def _placements(placements: tuple[PlacementSnapshot, ...]) -> Table:
    table = Table(
        title="\nnewest placements", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for header in ("request", "attempt", "phase", "worker", "rank", "batch", "held"):
        table.add_column(header, no_wrap=True)
    for placement in placements:
        table.add_row(
            placement.request_id,
            str(placement.attempt),
            placement.phase,
            placement.worker_id,
            str(placement.dp_rank),
            f"{placement.batch_id} ({placement.batch_size})",
            f"{1000 * placement.hold_s:.1f} ms",
        )
    return table

"""One engine group behind every door: `python -m peers.engine --settings FILE`.

The worker is the one that serves (`hortator.worker.app.Worker`): engine, gate, gRPC door, reports to a
scheduler. The HTTP doors stand beside its gRPC door. The ready line's `admin_port` is the HTTP port.

    {"worker": {fields of WorkerSettings}, "http_port": 9000, "rank_ports": [9001, 9002],
     "sglang_port": 9003}

Without a port the SGLang gRPC door is not opened.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from hortator.runtime.grpc_server import GrpcServer
from hortator.runtime.lifecycle import Drain, run_process
from hortator.runtime.logs import configure_logging
from hortator.runtime.metrics import new_registry
from hortator.worker.app import CLOSE_MARGIN_S, Worker
from hortator.worker.engine_factory import build_engine
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.settings import WorkerSettings
from peers.entry import EngineEntry
from peers.http_door import HttpDoor
from peers.sglang_door import SERVICE_NAME as SGLANG_SERVICE_NAME
from peers.sglang_door import SglangDoor

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the process is told."""

    worker: WorkerSettings
    http_port: int
    """0 lets the kernel choose."""
    rank_ports: tuple[int, ...] = ()
    """One port per DP rank, in order; empty: none."""
    sglang_port: int | None = None
    """Of the SGLang gRPC door; None: none."""

    @classmethod
    def load(cls, path: Path) -> EngineSettings:
        """Read a file. Raises OSError, ValueError or SettingsError."""
        values: dict[str, Any] = json.loads(path.read_text())
        return cls(
            worker=WorkerSettings.load(**values["worker"]),
            http_port=values["http_port"],
            rank_ports=tuple(values.get("rank_ports", ())),
            sglang_port=values.get("sglang_port"),
        )


async def serve(settings: EngineSettings, drain: Drain) -> int:
    """Run until drained; returns the exit code."""
    worker_settings = settings.worker
    async with AsyncExitStack() as stack:
        engine = build_engine(worker_settings.engine, worker_settings.engine_options)
        stack.push_async_callback(engine.aclose)
        info = await engine.start()
        metrics = WorkerMetrics(new_registry())
        worker = await Worker.open(worker_settings, engine, info, metrics, stack)
        entry = EngineEntry(worker.host, name="http")
        _keep(entry.run(), stack)
        port = await open_http_door(
            entry, stack, http_port=settings.http_port, rank_ports=settings.rank_ports
        )
        if settings.sglang_port is not None:
            entry = EngineEntry(worker.host, name="sglang")
            _keep(entry.run(), stack)
            await open_sglang_door(entry, stack, port=settings.sglang_port)
        await worker.announce(port)
        await worker.run_until_drained(drain)
    return 0


async def open_http_door(
    entry: EngineEntry, stack: AsyncExitStack, *, http_port: int = 0, rank_ports: Sequence[int] = ()
) -> int:
    """Listen; returns the HTTP port. Raises OSError when a port is taken."""
    door = HttpDoor(entry, ranks_by_port={port: rank for rank, port in enumerate(rank_ports)})
    runner = web.AppRunner(
        door.app(),
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a client that goes away aborts its request
        shutdown_timeout=1.0,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    for port in (http_port, *rank_ports):
        await web.TCPSite(runner, LOOPBACK, port).start()
    return int(runner.addresses[0][1])


async def open_sglang_door(entry: EngineEntry, stack: AsyncExitStack, *, port: int = 0) -> int:
    """Listen; returns the port. Raises BindError."""
    door = SglangDoor(entry)
    server = GrpcServer(
        register=door.register, service_names=(SGLANG_SERVICE_NAME,), host=LOOPBACK, port=port
    )
    await server.start()
    stack.push_async_callback(server.close, grace_s=0.5)
    await server.set_serving(serving=True)
    return server.port


def _keep(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Run until the stack is closed."""
    stack.callback(asyncio.create_task(work).cancel)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m peers.engine", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process dies")
    arguments = parser.parse_args(argv)
    settings = EngineSettings.load(arguments.settings)
    configure_logging(
        component="engine", level=settings.worker.log_level, log_format=settings.worker.log_format
    )
    return run_process(
        lambda drain: serve(settings, drain),
        drain_timeout_s=settings.worker.drain_timeout_s + CLOSE_MARGIN_S,
        parent_pid=os.getppid() if arguments.die_with_parent else None,
    )


if __name__ == "__main__":
    sys.exit(main())

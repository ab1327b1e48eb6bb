"""The control socket: tests ask the fake nodes to do things. One JSON object a line, both ways."""

import asyncio
import json
import os
import resource
from pathlib import Path
from typing import Any

from cluster.fakenodes.kubelet import Kubelet, Rule
from cluster.fakenodes.nodes import Heartbeats, Node
from cluster.fakenodes.script import Script
from cluster.processes import LabError, peak_rss_mib

Obj = dict[str, Any]


class Control:
    """The operations; each takes and gives plain JSON values."""

    def __init__(self, kubelet: Kubelet, heartbeats: Heartbeats) -> None:
        self._kubelet = kubelet
        self._heartbeats = heartbeats

    async def handle(self, request: Obj) -> Any:
        """One request."""
        arguments = {name: value for name, value in request.items() if name != "op"}
        match request.get("op"):
            case "pods":
                return [player.describe() for player in self._kubelet.players.values()]
            case "script":
                script = Script.parse(arguments["script"])
                self._kubelet.rules.append(Rule(arguments["namespace"], arguments["pattern"], script))
                return None
            case "do":
                player = self._kubelet.find(arguments.pop("namespace"), arguments.pop("name"))
                player.do(arguments.pop("action"), arguments)
                return None
            case "lose":
                await self._kubelet.lose(self._node(arguments["node"]), arguments.get("how", "partition"))
                return None
            case "return":
                node = self._node(arguments["node"])
                await self._kubelet.give_back(node)
                await self._heartbeats.register(node)
                return None
            case "stats":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                return {
                    "num_pods": len(self._kubelet.players),
                    "num_status_writes": self._kubelet.num_writes,
                    "cpu_s": usage.ru_utime + usage.ru_stime,
                    "max_rss_mib": peak_rss_mib(os.getpid()),
                }
            case other:
                raise LabError(f"unknown operation {other!r}")

    def _node(self, name: str) -> Node:
        try:
            return self._kubelet.nodes[name]
        except KeyError:
            raise LabError(f"no fake node {name}") from None


async def serve(control: Control, path: Path) -> asyncio.Server:
    """Listen on a Unix socket."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                reply = {"result": await control.handle(json.loads(line))}
            except (LabError, KeyError, TypeError, ValueError) as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(talk, str(path), limit=1 << 20)

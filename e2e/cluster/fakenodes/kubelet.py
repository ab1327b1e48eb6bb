"""Plays the kubelet for all nodes: one watch on bound pods, a player per pod, statuses written in batches.

A player (cluster.fakenodes.player) decides what happens to its pod; here is which pods there are, how their statuses
reach the API server, and that those of a lost node do not.
"""

import asyncio
import fnmatch
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.fakenodes.api import STRATEGIC, Api
from cluster.fakenodes.nodes import Node
from cluster.fakenodes.player import Player
from cluster.fakenodes.script import ANNOTATION, Script
from cluster.fakenodes.status import timestamp
from cluster.netns import POD_PREFIX
from cluster.processes import LabError

Obj = dict[str, Any]
NUM_WRITERS = 12
BATCH_S = 0.02  # changes of a pod within this time are written once
EVENT_SOURCE = "kubelet"
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Rule:
    """A script for pods that have none of their own."""

    namespace: str
    pattern: str
    script: Script

    def matches(self, key: tuple[str, str]) -> bool:
        """Whether it is for this pod."""
        return key[0] == self.namespace and fnmatch.fnmatchcase(key[1], self.pattern)


@dataclass(slots=True)
class Addresses:
    """Pod addresses, in turn; 10.244.1.1 to 10.244.126.250."""

    used: set[str] = field(default_factory=set)
    _next: int = 0

    def take(self) -> str:
        """A free one."""
        for _ in range(126 * 250):
            address = f"{POD_PREFIX}.{1 + self._next // 250 % 126}.{1 + self._next % 250}"
            self._next += 1
            if address not in self.used:
                self.used.add(address)
                return address
        raise LabError("no pod address is free")

    def give_back(self, address: str | None) -> None:
        """It may be taken again."""
        self.used.discard(address or "")


class Kubelet:
    """All pods of all nodes."""

    def __init__(
        self, api: Api, nodes: dict[str, Node], make: Callable[[Obj, Node, "Kubelet"], Player]
    ) -> None:
        self.api = api
        self.nodes = nodes
        self.players: dict[str, Player] = {}
        self.rules: list[Rule] = []
        self.addresses = Addresses()
        self.num_writes = 0
        self._make = make
        self._dirty: dict[str, Player] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._finished: set[str] = set()

    def script_of(self, pod: Obj) -> Script | None:
        """The pod's annotation, else the newest rule for it."""
        written = pod["metadata"].get("annotations", {}).get(ANNOTATION)
        if written:
            return Script.parse(written)
        key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        return next((rule.script for rule in reversed(self.rules) if rule.matches(key)), None)

    async def run(self) -> None:
        """Watch and write until cancelled."""
        writers = [asyncio.create_task(self._write_dirty()) for _ in range(NUM_WRITERS)]
        try:
            async for kind, obj in self.api.watch("/api/v1/pods", fieldSelector="spec.nodeName!="):
                if kind == "LISTED":
                    self._see_list(obj["items"])
                elif kind == "DELETED":
                    self._forget(obj["metadata"]["uid"])
                else:
                    self._see(obj)
        finally:
            for task in writers:
                task.cancel()
            await self.release_all()

    async def release_all(self) -> None:
        """End everything that runs on this machine."""
        players = list(self.players.values())
        for player in players:
            if player.task is not None:
                player.task.cancel()
        await asyncio.gather(*(p.task for p in players if p.task is not None), return_exceptions=True)

    def find(self, namespace: str, name: str) -> Player:
        """The player of a pod."""
        for player in self.players.values():
            if player.key == (namespace, name):
                return player
        raise LabError(f"no pod {namespace}/{name} on a fake node")

    async def lose(self, node: Node, how: str) -> None:
        """A node stops reporting; `how`: crash (its pods are gone) or partition (they go on, cut off)."""
        node.is_lost = True
        node.returned.clear()
        for player in [p for p in self.players.values() if p.node is node]:
            await (player.power_off() if how == "crash" else player.cut_off())

    async def give_back(self, node: Node) -> None:
        """A lost node returns: its pods report, and those deleted meanwhile end."""
        node.is_lost = False
        node.returned.set()
        for player in [p for p in self.players.values() if p.node is node]:
            await player.reconnect()
            player.see(player.pod)
            player.publish()

    def _see_list(self, pods: Sequence[Obj]) -> None:
        seen = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self.players if uid not in seen]:
            self._forget(uid)
        for pod in pods:
            self._see(pod)

    def _see(self, pod: Obj) -> None:
        uid, node = pod["metadata"]["uid"], self.nodes.get(pod["spec"].get("nodeName", ""))
        if node is None:
            return
        player = self.players.get(uid)
        if player is not None:
            player.see(pod)
            return
        if uid in self._finished:
            return
        try:
            player = self._make(pod, node, self)
        except (LabError, TypeError, ValueError) as error:
            log.error("pod %s: %s", pod["metadata"]["name"], error)  # noqa: TRY400  # the test's fault, one line
            self._finished.add(uid)
            return
        self.players[uid] = player
        player.see(pod)
        player.task = asyncio.create_task(self._run(player))

    async def _run(self, player: Player) -> None:
        while player.node.is_lost:
            await player.node.returned.wait()
        await player.run()

    def _forget(self, uid: str) -> None:
        """The object is gone, whoever removed it."""
        player = self.players.pop(uid, None)
        self._dirty.pop(uid, None)
        self._finished.discard(uid)
        if player is not None:
            self.addresses.give_back(player.pod_ip)
            if player.task is not None:
                player.task.cancel()

    def publish(self, player: Player) -> None:
        """Have the player's status written soon; several changes become one write."""
        if player.uid in self.players and player.uid not in self._dirty:
            self._dirty[player.uid] = player
            self._queue.put_nowait(player.uid)

    async def _write_dirty(self) -> None:
        while True:
            uid = await self._queue.get()
            await asyncio.sleep(BATCH_S)
            player = self._dirty.pop(uid, None)
            if player is None or player.node.is_lost:  # published again when the node returns
                continue
            try:
                await self.write(player)
            except Exception:
                log.exception("status of %s/%s", *player.key)

    async def write(self, player: Player) -> None:
        """Write the status now; conditions of others stay, as they do with a kubelet."""
        if player.uid not in self.players:
            return
        async with player.writing:
            self._dirty.pop(player.uid, None)
            status = player.status()
            conditions = [{"reason": None, "message": None} | mine for mine in status["conditions"]]
            body = {"metadata": {"uid": player.uid}, "status": status | {"conditions": conditions}}
            self.num_writes += 1
            path = f"{player.path}/status"
            written = await self.api.request_until_done("PATCH", path, body, content_type=STRATEGIC)
        if written is not None:
            player.written_version = int(written["metadata"]["resourceVersion"])

    async def remove(self, player: Player) -> None:
        """The kubelet's last word: the object goes."""
        while player.node.is_lost:
            await player.node.returned.wait()
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": player.uid}}
        await self.api.request_until_done("DELETE", player.path, options)

    async def tell(self, player: Player, *, reason: str, message: str, kind: str = "Warning") -> None:
        """An event about the pod."""
        namespace, name = player.key
        now = timestamp()
        involved = {
            "kind": "Pod",
            "namespace": namespace,
            "name": name,
            "uid": player.uid,
            "apiVersion": "v1",
        }
        event = {
            "metadata": {"generateName": f"{name}.", "namespace": namespace},
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": kind,
            "source": {"component": EVENT_SOURCE, "host": player.node.name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self.api.request_until_done("POST", f"/api/v1/namespaces/{namespace}/events", event)

"""Pods that do what their script says, with the statuses a kubelet would write."""

import asyncio
from dataclasses import dataclass
from typing import Any

from cluster.fakenodes.kubelet import Kubelet
from cluster.fakenodes.nodes import Node
from cluster.fakenodes.player import Player
from cluster.fakenodes.script import Script
from cluster.fakenodes.status import OOM_EXIT_CODE, back_off_message, waiting_message

Obj = dict[str, Any]
MAX_BACK_OFF_S = 300.0
PULL_ALTERNATES_S = 2.0  # ErrImagePull, ImagePullBackOff, ErrImagePull, ... (a kubelet: 10 s and more)
ACTIONS = ("crash", "oom", "exit", "ready", "unready", "go_on", "lose_node")


@dataclass(frozen=True, slots=True)
class Exit:
    """The first container ended."""

    code: int
    reason: str = ""
    message: str = ""


class _Terminated(Exception):  # noqa: N818  # not an error
    """The pod is being deleted."""


class ScriptedPod(Player):
    """One scripted pod."""

    mode = "scripted"

    def __init__(self, pod: Obj, node: Node, kubelet: Kubelet, script: Script | None) -> None:
        super().__init__(pod, node, kubelet)
        if script is None:
            is_job = pod["spec"].get("restartPolicy", "Always") != "Always"
            script = Script(succeed_after_s=0.5) if is_job else Script()
        self.script = script
        self._actions: asyncio.Queue[tuple[str, Obj]] = asyncio.Queue()
        self._num_crashes = 0

    def do(self, action: str, arguments: Obj) -> None:
        """Something now, whatever the script says."""
        if action not in ACTIONS:
            super().do(action, arguments)
        self._actions.put_nowait((action, arguments))

    async def release(self) -> None:
        """Nothing runs on this machine."""

    async def play(self) -> None:
        """See `Script`."""
        try:
            self.publish()
            await self._next_action(self.script.start_after_s)
            self.pod_ip = self.kubelet.addresses.take()
            if self.script.waiting:
                await self._wait_in_vain()
            while True:
                ended = await self._live()
                first = self.containers[0]
                first.end(ended.code, reason=ended.reason, message=ended.message)
                policy = self.pod["spec"].get("restartPolicy", "Always")
                if policy == "Never" or (policy == "OnFailure" and ended.code == 0):
                    for other in self.containers[1:]:
                        other.end(0)
                    self.publish()
                    return
                await self.kubelet.write(self)  # seen, however soon the restart is
                await self._back_off()
                first.restart_count += 1
        except _Terminated:
            await self._terminate()

    async def _live(self) -> Exit:
        """One run of the container, by the script's times; returns how it ends."""
        script, loop = self.script, asyncio.get_running_loop()
        for container in self.containers:
            if not container.is_running:
                container.run(self.uid)
            container.started = True
        self.publish()
        will_crash = script.crashes is None or self._num_crashes < script.crashes
        times = {
            "ready": script.ready_after_s,
            "unready": script.unready_after_s,
            "exit": script.succeed_after_s,
            "lose_node": script.lose_node_after_s,
            "oom" if script.oom else "crash": script.crash_after_s if will_crash else None,
        }
        agenda = sorted((at, action) for action, at in times.items() if at is not None)
        started_at = loop.time()
        while True:
            left_s = max(agenda[0][0] - (loop.time() - started_at), 0) if agenda else None
            asked = await self._next_action(left_s)
            action, arguments = asked if asked is not None else (agenda.pop(0)[1], {})
            match action:
                case "ready" | "unready":
                    for container in self.containers:
                        container.ready = action == "ready"
                    self.publish()
                case "crash":
                    self._num_crashes += 1
                    return Exit(int(arguments.get("exit_code", script.exit_code)))
                case "oom":
                    self._num_crashes += 1
                    return Exit(OOM_EXIT_CODE, "OOMKilled")
                case "exit":
                    return Exit(0)
                case "lose_node":
                    await self.kubelet.lose(self.node, "partition")

    async def _next_action(self, seconds: float | None) -> tuple[str, Obj] | None:
        """What is asked for within the time, if anything; a deletion raises."""
        waits = [
            asyncio.ensure_future(self.terminating.wait()),
            asyncio.ensure_future(self._actions.get()),
        ]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self.terminating.is_set():
                raise _Terminated
            return waits[1].result() if waits[1].done() else None  # type: ignore[return-value]
        finally:
            for wait in waits:
                wait.cancel()

    async def _wait_in_vain(self) -> None:
        """The container cannot start, until somebody says `go_on`."""
        reason, image = self.script.waiting, self.containers[0].image
        is_pull = reason in {"ErrImagePull", "ImagePullBackOff"}
        while True:
            text = self.script.message or waiting_message(
                reason, image=image, secret=self.script.missing_secret
            )
            if reason == "RunContainerError":  # it was made, and its first process could not be started
                self.containers[0].run(self.uid)
                self.containers[0].end(128, reason="StartError", message=text)
            self.containers[0].wait(reason, text)
            self.publish()
            await self.kubelet.tell(self, reason="BackOff" if "BackOff" in reason else "Failed", message=text)
            action = await self._next_action(PULL_ALTERNATES_S if is_pull else None)
            if action is not None and action[0] == "go_on":
                return
            if is_pull and action is None:
                reason = "ImagePullBackOff" if reason == "ErrImagePull" else "ErrImagePull"

    async def _back_off(self) -> None:
        """The first restart is at once, the next ones wait longer and longer."""
        count = self.containers[0].restart_count
        if count == 0:
            return
        seconds = min(self.script.back_off_s * 2 ** (count - 1), MAX_BACK_OFF_S)
        text = back_off_message(self.containers[0].name, self.pod, seconds)
        self.containers[0].wait("CrashLoopBackOff", text)
        self.publish()
        await self.kubelet.tell(self, reason="BackOff", message="Back-off restarting failed container")
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left_s := until - loop.time()) > 0:
            action = await self._next_action(left_s)
            if action is not None and action[0] == "go_on":
                return

    async def _terminate(self) -> None:
        if self.script.never_terminates:
            await asyncio.Event().wait()  # until the object is gone
        await asyncio.sleep(min(self.script.terminate_after_s, self.grace_s))
        for container in self.containers:
            if container.is_running:
                container.end(0)

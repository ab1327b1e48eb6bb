"""Pods whose containers run as processes of this machine: real workers on many nodes, without images.

Done as a kubelet does it: environment, init containers, probes, restarts with back-off, SIGTERM, grace, SIGKILL.
Not done: images (the command is run as it is), volumes other than the service account, resource limits.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

from cluster.fakenodes import environment, probes
from cluster.fakenodes.api import ApiError
from cluster.fakenodes.environment import MissingReferenceError, References
from cluster.fakenodes.kubelet import Kubelet
from cluster.fakenodes.nodes import Node
from cluster.fakenodes.player import Player
from cluster.fakenodes.sandbox import Running, Sandbox, start
from cluster.fakenodes.status import Container, back_off_message
from cluster.processes import LabError

Obj = dict[str, Any]
FIRST_BACK_OFF_S, MAX_BACK_OFF_S, BACK_OFF_RESET_S = 1.0, 60.0, 600.0
REFERENCE_RETRY_S = 1.0
ACCOUNT_VOLUME_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


class ProcessPod(Player):
    """One pod of local processes."""

    mode = "process"

    def __init__(
        self, pod: Obj, node: Node, kubelet: Kubelet, *, folder: Path, api_port: int, zone: str
    ) -> None:
        super().__init__(pod, node, kubelet)
        namespace, name = self.key
        self.folder = folder / f"{namespace}_{name}_{self.uid}"
        self.specs = {spec["name"]: spec for spec in pod["spec"]["containers"]}
        self.running: dict[str, Running] = {}
        self.sandbox: Sandbox | None = None
        self._environments: dict[str, dict[str, str]] = {}
        self._api_port = api_port
        self._zone = zone
        self._is_off = False

    def log(self, container: str) -> Path:
        """Where a container's output goes; one file for all its restarts."""
        return self.folder / f"{container}.log"

    def describe(self) -> Obj:
        """With process ids and logs."""
        found = super().describe()
        for name, entry in found["containers"].items():
            running = self.running.get(name)
            entry |= {"pid": running.pid if running else None, "log": str(self.log(name))}
        return found

    async def play(self) -> None:
        """Everything, until it has ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.publish()
        ending = asyncio.create_task(self.terminating.wait())
        living = asyncio.create_task(self._live())
        try:
            await asyncio.wait({ending, living}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()
        finally:
            for task in (ending, living):
                task.cancel()
            await asyncio.gather(ending, living, return_exceptions=True)
        if self.terminating.is_set():
            await self._end_all()

    async def _live(self) -> None:
        await self._make_sandbox()
        for spec in self.pod["spec"].get("initContainers", []):
            await self._initialize(spec)
        await asyncio.gather(*(self._keep(container) for container in self.containers))
        self.publish()

    async def _make_sandbox(self) -> None:
        namespace, name = self.key
        self.pod_ip = self.pod_ip or self.kubelet.addresses.take()
        has_account = await self._fetch_account()
        self.sandbox = await Sandbox.create(
            self.folder,
            name=name,
            uid=self.uid,
            pod_ip=self.pod_ip,
            search=f"{namespace}.svc.{self._zone} svc.{self._zone} {self._zone}",
            account=has_account,
        )
        self.publish()

    async def _initialize(self, spec: Obj) -> None:
        """Run an init container until it succeeds."""
        container = Container(name=spec["name"], image=spec.get("image", ""))
        while True:
            running = await self._start(container, spec)
            code = await running.wait()
            self.running.pop(spec["name"], None)
            if code == 0:
                return
            await asyncio.sleep(FIRST_BACK_OFF_S)

    async def _keep(self, container: Container) -> None:
        """Run a container again and again, as the restart policy says."""
        policy = self.pod["spec"].get("restartPolicy", "Always")
        loop = asyncio.get_running_loop()
        num_failures = 0
        while True:
            running = await self._start(container, self.specs[container.name])
            started_at = loop.time()
            container.run(self.uid)
            watching = asyncio.create_task(self._probe(container, running))
            self.publish()
            try:
                code = await running.wait()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            if self._is_off:
                await asyncio.Event().wait()
            container.end(code)
            await self.kubelet.write(self)
            if policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            num_failures = 1 if loop.time() - started_at > BACK_OFF_RESET_S else num_failures + 1
            if num_failures > 1:
                seconds = min(FIRST_BACK_OFF_S * 2 ** (num_failures - 2), MAX_BACK_OFF_S)
                container.wait("CrashLoopBackOff", back_off_message(container.name, self.pod, seconds))
                self.publish()
                await asyncio.sleep(seconds)
            container.restart_count += 1

    async def _start(self, container: Container, spec: Obj) -> Running:
        """Resolve the environment, however long a secret is missing, and start."""
        assert self.sandbox is not None
        assert self.pod_ip is not None
        while True:
            try:
                known = await self._references()
                values = environment.environment(
                    spec, self.pod, pod_ip=self.pod_ip, known=known, api_port=self._api_port
                )
                volumes = self.folder / "volumes"
                values = environment.in_own_folders(values, spec, self.pod, volumes, known=known)
                break
            except MissingReferenceError as error:
                container.wait("CreateContainerConfigError", str(error))
                self.publish()
                await self.kubelet.tell(self, reason="Failed", message=f"Error: {error}")
                await asyncio.sleep(REFERENCE_RETRY_S)
        words = environment.command_line(spec, values)
        if not words:
            container.wait(
                "CreateContainerError", "process mode runs no images: the container needs a command"
            )
            self.publish()
            await asyncio.Event().wait()
        folder = spec.get("workingDir", "/")
        running = await start(self.sandbox, words, env=values, log=self.log(container.name), folder=folder)
        self.running[container.name] = running
        self._environments[container.name] = values
        return running

    async def _probe(self, container: Container, running: Running) -> None:
        spec = self.specs[container.name]
        arguments: Obj = {
            "container": spec,
            "pod_ip": self.pod_ip,
            "run": partial(self._run_inside, container.name),
        }

        async def change_ready(passed: bool, problem: str) -> None:
            container.ready = passed
            self.publish()
            if not passed:
                await self.kubelet.tell(
                    self, reason="Unhealthy", message=f"Readiness probe failed: {problem}"
                )

        def kill_after(kind: str) -> Any:
            async def change(passed: bool, problem: str) -> None:
                if passed:
                    started.set()
                    return
                await self.kubelet.tell(self, reason="Unhealthy", message=f"{kind} probe failed: {problem}")
                await self.kubelet.tell(
                    self, reason="Killing", message=f"{kind} probe failed, will be restarted"
                )
                await running.end(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

            return change

        started = asyncio.Event()
        if "startupProbe" in spec:
            starting = asyncio.create_task(
                probes.watch(spec["startupProbe"], initially=None, changed=kill_after("Startup"), **arguments)
            )
            try:
                await started.wait()
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
        container.started = True
        tasks = []
        if "livenessProbe" in spec:
            tasks.append(
                probes.watch(
                    spec["livenessProbe"], initially=True, changed=kill_after("Liveness"), **arguments
                )
            )
        if "readinessProbe" in spec:
            tasks.append(
                probes.watch(spec["readinessProbe"], initially=False, changed=change_ready, **arguments)
            )
        else:
            container.ready = True
        self.publish()
        await asyncio.gather(*tasks)

    async def _run_inside(self, container: str, words: list[str]) -> int:
        """An exec probe, in the environment of its container."""
        assert self.sandbox is not None
        process = await asyncio.create_subprocess_exec(
            *self.sandbox.command(words),
            env=self._environments[container],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()

    async def _end_all(self) -> None:
        """SIGTERM for every container, SIGKILL after the grace period."""
        by_name = {container.name: container for container in self.containers}
        running = [(by_name[name], process) for name, process in self.running.items() if name in by_name]
        codes = await asyncio.gather(*(process.end(self.grace_s) for _, process in running))
        for (container, _), code in zip(running, codes, strict=True):
            if container.is_running:
                container.end(code)

    async def release(self) -> None:
        """Nothing of the pod is left; its logs are (in the lab's folder)."""
        if self.sandbox is not None:
            await self.sandbox.destroy()
            self.sandbox = None
        shutil.rmtree(self.folder / "account", ignore_errors=True)

    async def power_off(self) -> None:
        """Kill the sandbox; nobody reports it."""
        self._is_off = True
        if self.sandbox is not None:
            await self.sandbox.destroy()

    async def cut_off(self) -> None:
        """The pod's link goes down."""
        if self.sandbox is not None:
            await self.sandbox.set_link(up=False)

    async def reconnect(self) -> None:
        """After a partition the link comes up; after a crash the containers start again, in a new sandbox."""
        if not self._is_off:
            if self.sandbox is not None:
                await self.sandbox.set_link(up=True)
            return
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self._is_off = False
        for container in self.containers:
            if container.is_running:
                container.end(255, reason="Error")
                container.restart_count += 1
        self.task = asyncio.create_task(self.run())

    def do(self, action: str, arguments: Obj) -> None:
        """`signal`: to the first process of a container, or to those whose command line `match` (a regular expression) finds."""
        if action != "signal":
            super().do(action, arguments)
        number = (
            signal.Signals[arguments["signal"]]
            if isinstance(arguments["signal"], str)
            else arguments["signal"]
        )
        pids = self._matching(arguments.get("container"), arguments.get("match"))
        if not pids:
            raise LabError(f"{'/'.join(self.key)}: no such process")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _matching(self, container: str | None, match: str | None) -> list[int]:
        if match is None:
            running = self.running.get(container or next(iter(self.specs)))
            return [running.pid] if running is not None and running.pid is not None else []
        found = []
        for pid in self.sandbox.pids() if self.sandbox is not None else []:
            with contextlib.suppress(OSError):
                words = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if re.search(match, words) and not words.startswith(("nsenter ", "setpriv ")):
                    found.append(pid)
        return found

    async def _references(self) -> References:
        secrets, config_maps = environment.references(self.pod)
        base = f"/api/v1/namespaces/{self.key[0]}"
        return References(
            secrets={name: await self._read(f"{base}/secrets/{name}") for name in secrets},
            config_maps={name: await self._read(f"{base}/configmaps/{name}") for name in config_maps},
        )

    async def _read(self, path: str) -> Obj | None:
        return await self.kubelet.api.request_until_done("GET", path)

    async def _fetch_account(self) -> bool:
        """The service account's token, where the pod mounts one."""
        mounts = [mount for spec in self.pod["spec"]["containers"] for mount in spec.get("volumeMounts", [])]
        if not any(mount["mountPath"] == ACCOUNT_VOLUME_PATH for mount in mounts):
            return False
        folder = self.folder / "account"
        folder.mkdir(exist_ok=True)
        account = self.pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self.key[0]}/serviceaccounts/{account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        with contextlib.suppress(ApiError):
            token = await self.kubelet.api.request("POST", path, body)
            (folder / "token").write_text(token["status"]["token"])
            (folder / "ca.crt").write_bytes(self.kubelet.api.ca)
            (folder / "namespace").write_text(self.key[0])
            return True
        return False

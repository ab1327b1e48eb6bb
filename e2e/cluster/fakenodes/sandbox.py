"""What a process-mode pod lives in: namespaces of its own, held by one process, gone when that process is.

A pod has a network namespace (an address on the lab's bridge, a loopback of its own: two pods may listen on the same
port), a process namespace (its processes all end with it), a mount namespace (its own /etc/resolv.conf, /etc/hosts
and service account) and a host name. The files are this machine's: nothing else is hidden from the pod.
"""

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.netns import BRIDGE, BRIDGE_IP
from cluster.processes import DIES_WITH_PARENT, LabError

ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
SETUP_TIMEOUT_S = 20
# The holder is process 1 of the pod and waits for ever; it ignores SIGCHLD, so the kernel reaps what it inherits.
HOLDER = """trap '' CHLD; touch "$1/up"; exec sleep infinity"""


@dataclass(slots=True, kw_only=True)
class Sandbox:
    """The namespaces of one pod; `pid` is the holder's."""

    pod_ip: str
    unshared: asyncio.subprocess.Process
    pid: int
    interface: str

    @classmethod
    async def create(
        cls, folder: Path, *, name: str, uid: str, pod_ip: str, search: str, account: bool
    ) -> "Sandbox":
        """Make the namespaces; `folder` holds the pod's files and, in `account/`, its service account."""
        (folder / "resolv.conf").write_text(f"nameserver {BRIDGE_IP}\nsearch {search}\noptions ndots:5\n")
        (folder / "hosts").write_text(f"127.0.0.1\tlocalhost\n{pod_ip}\t{name}\n")
        (folder / "up").unlink(missing_ok=True)
        where = shlex.quote(str(folder))
        lines = [
            "set -e",
            f"hostname {shlex.quote(name)}",
            f"mount --bind {where}/resolv.conf /etc/resolv.conf",
            f"mount --bind {where}/hosts /etc/hosts",
        ]
        if account:
            # /run is hidden by an empty one, so that nothing is created on this machine
            lines += [
                *(f"exec 9<{where}/account/token 8<{where}/account/ca.crt 7<{where}/account/namespace",),
                *("mount -t tmpfs -o size=1m tmpfs /run", f"mkdir -p {ACCOUNT}"),
                f"cat <&9 >{ACCOUNT}/token; cat <&8 >{ACCOUNT}/ca.crt; cat <&7 >{ACCOUNT}/namespace",
                "exec 9<&- 8<&- 7<&-",
            ]
        lines.append(HOLDER)
        unshared = await asyncio.create_subprocess_exec(
            *DIES_WITH_PARENT,
            *("unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("sh", "-c", "\n".join(lines), "sandbox", str(folder)),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        sandbox = cls(pod_ip=pod_ip, unshared=unshared, pid=0, interface=f"lab{uid.replace('-', '')[:11]}")
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await sandbox._wait_until_up(folder)
                await sandbox._connect()
        except BaseException:
            await sandbox.destroy()
            raise
        return sandbox

    async def _wait_until_up(self, folder: Path) -> None:
        while not (folder / "up").exists():
            if self.unshared.returncode is not None:
                raise LabError(f"sandbox in {folder} ended with {self.unshared.returncode}")
            await asyncio.sleep(0.01)
        self.pid = next(children(self.unshared.pid))

    async def _connect(self) -> None:
        """The pod's interface: one end on the bridge, the other inside."""
        outside = [
            f"link add {self.interface} type veth peer name eth0 netns {self.pid}",
            f"link set {self.interface} master {BRIDGE}",
            f"link set {self.interface} up",
        ]
        inside = [
            "link set lo up",
            # everything is routed, also to pods on the same bridge: kube-proxy sees both directions
            f"address add {self.pod_ip}/32 dev eth0",
            "link set eth0 up",
            f"route add {BRIDGE_IP} dev eth0",
            f"route add default via {BRIDGE_IP} dev eth0",
        ]
        await _ip([], outside)
        await _ip(["nsenter", f"--target={self.pid}", "--net"], inside)

    def command(self, words: Sequence[str], folder: str = "/") -> list[str]:
        """A command line inside."""
        entered = ("--net", "--mount", "--uts", "--pid", f"--wd={folder}")
        return [*DIES_WITH_PARENT, "nsenter", f"--target={self.pid}", *entered, "--", *words]

    async def set_link(self, *, up: bool) -> None:
        """Connect or cut the pod's network."""
        await _ip([], [f"link set {self.interface} {'up' if up else 'down'}"])

    def pids(self) -> Iterator[int]:
        """The pod's processes (this machine's ids) without the holder."""
        with contextlib.suppress(OSError):
            space = Path(f"/proc/{self.pid}/ns/pid").readlink()
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != self.pid:
                    with contextlib.suppress(OSError):
                        if (entry / "ns/pid").readlink() == space:
                            yield int(entry.name)

    async def destroy(self) -> None:
        """Kill the holder: every process and namespace of the pod goes with it."""
        if self.unshared.returncode is None:
            self.unshared.kill()
        await self.unshared.wait()


def children(pid: int) -> Iterator[int]:
    """Child processes."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from (int(word) for word in (task / "children").read_text().split())


async def start(
    sandbox: Sandbox, words: Sequence[str], *, env: Mapping[str, str], log: Path, folder: str
) -> "Running":
    """Start a container's command; its output is appended to `log`."""
    with log.open("ab") as output:
        entering = await asyncio.create_subprocess_exec(
            *sandbox.command(words, folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
    return Running(entering)


@dataclass(slots=True)
class Running:
    """A container's first process: the child of the `nsenter` that entered the pod for it."""

    entering: asyncio.subprocess.Process

    @property
    def pid(self) -> int | None:
        """Its id on this machine."""
        return next(children(self.entering.pid), None)

    async def wait(self) -> int:
        """Its exit code, 128 + N after signal N as a container runtime says it."""
        code = await self.entering.wait()
        return 128 - code if code < 0 else code

    async def send(self, number: int) -> None:
        """A signal for the first process."""
        for _ in range(100):
            if self.entering.returncode is not None:
                return
            pid = self.pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                return
            await asyncio.sleep(0.01)  # it has not forked yet

    async def end(self, grace_s: float) -> int:
        """SIGTERM, then SIGKILL; returns the exit code."""
        await self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            await self.send(signal.SIGKILL)
            return await self.wait()


async def _ip(prefix: Sequence[str], lines: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*prefix, "ip", "-batch", "-"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate("\n".join(lines).encode() + b"\n")
    if process.returncode != 0:
        raise LabError(f"ip {lines[0]}: {errors.decode().strip()}")

"""The MPI world of a group, as ordinal 0 holds it.

start   every member's sshd answers -> mpirun -> every rank says that it is here, and the launcher's command
        which environment it has; the worker takes that environment over and may construct `LLM` from then on
run     while mpirun lives; its end is the end of the group
aclose  the launcher's command ends, the launcher ends its ranks; what is left is killed
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import structlog

from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.member import Member, Shell
from hortator.worker.group.membership import EXIT_GROUP_BROKEN
from hortator.worker.launch import proof, script
from hortator.worker.launch.descendants import adopt_orphans, end_all
from hortator.worker.launch.keys import make_key, private_folder, program, user, write_private
from hortator.worker.launch.roll import Roll
from hortator.worker.launch.tethered import tethered

LOOK_AGAIN_S = 0.2
ANSWER_TIMEOUT_S = 3.0
END_TIMEOUT_S = 5.0
"""For a world to end by itself; then it is killed."""
NUM_LAST_LINES = 60
CHUNK_BYTES = 1 << 16
MAX_ENVIRONMENT_BYTES = 4 << 20


class World:
    """One boot's; `async with` closes it."""

    def __init__(self, *, gpus_per_node: int, secret: bytes, timeout_s: float) -> None:
        self.launch_key = ""
        """What members are to let in."""
        self._gpus_per_node, self._secret, self._timeout_s = gpus_per_node, secret, timeout_s
        self._folder = Path()
        self._mpirun: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[int] | None = None
        self._server: asyncio.Server | None = None
        self._hold: asyncio.StreamWriter | None = None
        self._environment: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        self._lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self._sshd = ""
        self._roll: Roll | None = None
        self._all_here = asyncio.Event()
        self._log = structlog.get_logger("hortator.worker.launch")

    async def __aenter__(self) -> Self:
        self._folder = private_folder()
        adopt_orphans()
        self.launch_key = await make_key(self._folder / "launch_key")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    def waits_for(self) -> str:
        """For /readyz; may be called from other threads."""
        return self._sshd if self._roll is None else self._roll.waits_for(now=time.monotonic())

    def may_join(self, member: Member) -> str:
        """Why a process may not say where ranks are started; empty: it may."""
        if member.shell is None:
            return f"{member} says nothing of its sshd"
        if not proof.fits(member.proof, proof.of_member(self._secret, member)):
            return f"{member} does not hold the secret of this group"
        fault = script.fault_of(member.shell)
        return f"{member} {fault}" if fault else ""

    def proof_for(self, member: Member) -> bytes:
        """Goes with the key in a member's welcome."""
        return proof.of_leader(self._secret, member, self.launch_key)

    async def start(self, members: Sequence[Member]) -> None:
        """Start every rank. Raises GroupBrokenError."""
        shells = tuple(member.shell for member in members if member.shell is not None)
        plan = script.WorldPlan(
            own_host=socket.gethostname(), shells=shells, gpus_per_node=self._gpus_per_node
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                for shell in shells:
                    await self._answers(shell)
                self._roll = Roll(plan.hosts, gpus_per_node=plan.gpus_per_node)
                await self._spawn(plan)
                self._take_over(await self._until_held())
        except TimeoutError:
            raise self._broken(f"not all started within {self._timeout_s:g} s: {self.waits_for()}") from None
        self._log.info("ranks started", num_ranks=plan.num_ranks, num_pods=1 + len(shells))

    async def run(self) -> None:
        """Until cancelled. Raises GroupBrokenError when the world ends."""
        assert self._output is not None  # noqa: S101  # started
        code = await asyncio.shield(self._output)
        raise self._broken(script.why_it_ended(list(self._lines), code))

    async def aclose(self) -> None:
        """End every rank; again is a no-op."""
        if self._hold is not None:
            self._hold.close()
        if self._server is not None:
            self._server.close()
        if self._mpirun is not None and self._output is not None and not self._output.done():
            await asyncio.wait({self._output}, timeout=END_TIMEOUT_S if self._hold else 0)
            if not self._output.done():
                with suppress(ProcessLookupError):
                    self._mpirun.terminate()
                await asyncio.wait({self._output}, timeout=END_TIMEOUT_S)
        self._mpirun = None
        left = await end_all()
        if left:
            self._log.error("processes of this world cannot be ended", pids=sorted(left))

    async def _answers(self, shell: Shell) -> None:
        """Its name is known, and its sshd is there: a pod's name is published some time after its start."""
        while True:
            why = await _greeting_of(shell)
            if not why:
                return
            self._sshd = f"sshd at {shell.host}:{shell.port}: {why}"
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _spawn(self, plan: script.WorldPlan) -> None:
        folder = self._folder
        write_private(folder / "known_hosts", script.known_hosts(plan.shells))
        config = script.ssh_config(
            plan.shells,
            user=user(),
            key=folder / "launch_key",
            known_hosts=folder / "known_hosts",
        )
        write_private(folder / "ssh_config", config)
        self._server = await asyncio.start_unix_server(
            self._on_hold, path=folder / "world.sock", limit=MAX_ENVIRONMENT_BYTES
        )
        command = [sys.executable, "-m", "hortator.worker.launch.hold", str(folder / "world.sock")]
        words = script.mpirun(
            plan, ssh_config=folder / "ssh_config", is_root=os.geteuid() == 0, command=command
        )
        self._log.info("starting ranks", command=words)
        self._mpirun = await asyncio.create_subprocess_exec(
            *tethered([program(words[0]) or words[0], *words[1:]]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._output = asyncio.create_task(self._read(self._mpirun))

    async def _read(self, mpirun: asyncio.subprocess.Process) -> int:
        assert mpirun.stdout is not None  # noqa: S101  # a pipe
        rest = b""
        while chunk := await mpirun.stdout.read(CHUNK_BYTES):
            lines, rest = script.complete_lines(rest + chunk)
            self._note(lines)
        self._note(script.complete_lines(rest + b"\n")[0])
        return await mpirun.wait()

    def _note(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._lines.append(line)
            if self._roll is not None:
                self._roll.hear(line, now=time.monotonic())
            self._log.info("ranks", line=line)
        if self._roll is not None and self._roll.is_complete:
            self._all_here.set()

    async def _on_hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._hold is not None:
            writer.close()
            return
        self._hold = writer
        self._environment.set_result(json.loads(await reader.readline()))

    async def _until_held(self) -> Mapping[str, str]:
        """The launcher's environment, once every rank is here."""
        assert self._output is not None  # noqa: S101  # spawned
        all_here = asyncio.ensure_future(self._all_here.wait())
        try:
            for awaited in (self._environment, all_here):
                either: set[asyncio.Future[Any]] = {self._output, awaited}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not awaited.done():
                    raise self._broken(script.why_it_ended(list(self._lines), self._output.result()))
        finally:
            all_here.cancel()
        return self._environment.result()

    @staticmethod
    def _take_over(environment: Mapping[str, str]) -> None:
        """From here on this process is what the launcher has started, as far as a library can see."""
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)

    @staticmethod
    def _broken(why: str) -> GroupBrokenError:
        return GroupBrokenError(f"the ranks: {why}", exit_code=EXIT_GROUP_BROKEN)


async def _greeting_of(shell: Shell) -> str:
    """Why a SSH server does not answer there; empty: it does."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(shell.host, shell.port)
            try:
                greeting = await reader.readline()
            finally:
                writer.close()
    except TimeoutError:
        return "no answer"
    except socket.gaierror:
        return "the name is not known yet"
    except OSError as error:
        return error.strerror or str(error)
    return "" if greeting.startswith(b"SSH-2.0") else "it is no SSH server"

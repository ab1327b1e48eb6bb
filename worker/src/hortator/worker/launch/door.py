"""A member's sshd, through which ordinal 0 starts ranks in this pod, from when the leader's key is known."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Self

import structlog

from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.member import Member, Shell
from hortator.worker.group.membership import EXIT_FENCED, EXIT_GROUP_BROKEN, Welcomed
from hortator.worker.launch import proof, script
from hortator.worker.launch.descendants import adopt_orphans, end_all
from hortator.worker.launch.keys import make_key, private_folder, program, user, write_private
from hortator.worker.launch.tethered import tethered


class Door:
    """One boot's; `async with` closes it, and ends whatever was started through it."""

    def __init__(self, *, host: str, listen: str, port: int, secret: bytes) -> None:
        self._host, self._listen, self._port, self._secret = host, listen, port, secret
        self._folder = Path()
        self._welcome: asyncio.Future[Welcomed] = asyncio.get_running_loop().create_future()
        self._log = structlog.get_logger("hortator.worker.launch")

    async def __aenter__(self) -> Self:
        self._folder = private_folder()
        adopt_orphans()
        return self

    async def __aexit__(self, *_: object) -> None:
        left = await end_all()
        if left:
            self._log.error("processes of this member cannot be ended", pids=sorted(left))
        shutil.rmtree(self._folder, ignore_errors=True)

    async def shown(self, member: Member) -> Member:
        """The member as it says hello: with its address and a new host key."""
        shell = Shell(host=self._host, port=self._port, host_key=await make_key(self._folder / "host_key"))
        with_shell = replace(member, shell=shell)
        return replace(with_shell, proof=proof.of_member(self._secret, with_shell))

    def on_welcome(self, welcome: Welcomed) -> None:
        """The leader has taken this member and says what it will log in with."""
        if not self._welcome.done():
            self._welcome.set_result(welcome)

    async def run(self, member: Member) -> None:
        """Let the leader in until cancelled. Raises GroupBrokenError: it may not, or sshd has ended."""
        welcome = await self._welcome
        expected = proof.of_leader(self._secret, member, welcome.launch_key)
        if not script.is_key(welcome.launch_key) or not proof.fits(welcome.launch_proof, expected):
            raise GroupBrokenError(
                "who answers as ordinal 0 does not hold the secret of this group", exit_code=EXIT_FENCED
            )
        sshd = await self._open(welcome.launch_key)
        self._log.info("ranks may be started here", user=user(), host=self._host, port=self._port)
        assert sshd.stderr is not None  # noqa: S101  # a pipe
        last = ""
        async for line in sshd.stderr:
            last = line.decode(errors="replace").strip() or last
            self._log.info("sshd", line=last)
        code = await sshd.wait()
        raise GroupBrokenError(f"sshd ended with exit code {code}: {last}", exit_code=EXIT_GROUP_BROKEN)

    async def _open(self, launch_key: str) -> asyncio.subprocess.Process:
        folder, is_root = self._folder, os.geteuid() == 0
        write_private(folder / "authorized_keys", f"restrict {launch_key}\n")
        write_private(folder / "session", script.session(os.environ))
        config = script.sshd_config(host=self._listen, port=self._port, folder=folder, is_root=is_root)
        write_private(folder / "sshd_config", config)
        return await asyncio.create_subprocess_exec(
            *tethered([program("sshd") or "sshd", "-D", "-e", "-f", str(folder / "sshd_config")]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

"""Key pairs of a boot, and the folder that nobody else can read."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from hortator.worker.errors import EngineConfigError, GroupBrokenError
from hortator.worker.group.membership import EXIT_GROUP_BROKEN
from hortator.worker.launch.script import LAUNCHER

SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where daemons are; not on every user's PATH."""
FOR_LEADER = ("mpirun", "ssh", "ssh-keygen", LAUNCHER)
FOR_MEMBER = ("mpirun", "sshd", "ssh-keygen", LAUNCHER)
FOLDER_PREFIX = "hortator-launch-"
PACKAGES = "openmpi-bin, openssh-server and TensorRT-LLM's own scripts"


def program(name: str) -> str | None:
    """Where a program is."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}")


def check_programs(*, is_leader: bool) -> None:
    """Raise EngineConfigError that names what this image lacks."""
    missing = [name for name in (FOR_LEADER if is_leader else FOR_MEMBER) if program(name) is None]
    if missing:
        raise EngineConfigError(
            f"engine: tensorrt_llm over several pods needs {', '.join(missing)} in the image "
            f"(hortator-worker-trtllm has {PACKAGES})"
        )
    user()


def user() -> str:
    """The name of this process's user: sshd lets in users that have one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise EngineConfigError(
            f"engine: tensorrt_llm over several pods: user {os.geteuid()} has no entry in /etc/passwd"
        ) from None


def private_folder() -> Path:
    """A new one, mode 0700, where temporary files go: an emptyDir in a pod."""
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def write_private(path: Path, text: str) -> None:
    """A file of mode 0600."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


async def make_key(path: Path) -> str:
    """A new pair at `path` and `path.pub`; the public half, `ssh-ed25519 AAAA...`, without a comment."""
    process = await asyncio.create_subprocess_exec(
        *(program("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        why = " ".join(output.decode(errors="replace").split())
        raise GroupBrokenError(f"ssh-keygen: {why}", exit_code=EXIT_GROUP_BROKEN)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])

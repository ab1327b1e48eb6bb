"""A network of one's own for the whole run: a loopback and nothing else.

`dynamo.select_service` listens on every address there is, and the routers know no password; in a network
namespace nobody else can reach them, and ports are free. Linux only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from hortator.cli.errors import EXIT_FAILED, CommandError

MARK = "HORTATOR_PEERS_NAMESPACE"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def is_inside() -> bool:
    """This process was started by `go_inside`."""
    return MARK in os.environ


def go_inside(command: Sequence[str]) -> NoReturn:
    """Become a command in a namespace of its own: the same process, so signals find it.

    Raises:
        CommandError: this system does not let us make one.
    """
    prefix = unshare_command()
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        raise CommandError(
            f"{' '.join(prefix)}: not permitted here; run as root, or --no-namespace (without dynamo-*, "
            "which would listen on every address of this machine)",
            exit_code=EXIT_FAILED,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(prefix[0], [*prefix, *command], os.environ | {MARK: "1"})  # noqa: S606


def unshare_command() -> list[str]:
    """What makes one; root needs no user namespace.

    Raises:
        CommandError: util-linux is not installed.
    """
    program = shutil.which("unshare")
    if program is None:
        raise CommandError("unshare: not found (util-linux); or --no-namespace", exit_code=EXIT_FAILED)
    return [program, "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def bring_loopback_up() -> None:
    """A new namespace has a loopback that is down. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def own_command(arguments: Sequence[str]) -> list[str]:
    """This program again."""
    return [sys.executable, "-m", "peers", *arguments]

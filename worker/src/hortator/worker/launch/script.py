"""Command lines and configuration files of a launch. Pure.

Rules:

1. Ranks fill pods in the order of ordinals, `gpus_per_node` each: the library takes rank modulo that number
   as the GPU. So hosts come with explicit slots, and mapping is by slot.
2. Ordinal 0 goes by the name that its kernel has: MPI knows it as the machine it runs on, and dials no sshd.
3. mpirun binds nothing to cores: a rank has many threads.
4. Nobody is trusted but the host keys that members have sent, and nothing is read but what is written here.
5. A session gets the environment of its pod, which sshd would not hand on: paths of libraries, and what the
   manifest or a device plug-in says of NCCL, NVSHMEM and UCX on this node.
6. What a member sends stands in these files only if it is one word of its kind: a line break in a host would
   be a line of configuration.
7. The first that a rank says is that it is here (`roll`); then it becomes the launcher.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortator.worker.group.member import Shell
from hortator.worker.launch.roll import HERE

LAUNCHER = "trtllm-llmapi-launch"
CONNECT_TIMEOUT_S = 10
MAX_LINE_BYTES = 1 << 16
NOT_FOR_RANKS = ("HORTATOR_", "OMPI_", "PMIX_", "PRTE_", "SSH_")
"""Prefixes of variables that are the worker's own, or would tell MPI that it runs already."""
SAY_HERE = ("/bin/sh", "-c", f'echo "{HERE}"; exec "$@"', "sh")
"""Before the launcher: how a rank says that it is here."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*")
_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]+={0,2}")
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldPlan:
    """One MPI world over the pods of a group."""

    own_host: str
    shells: tuple[Shell, ...]
    """Of the other members, by ordinal."""
    gpus_per_node: int

    @property
    def hosts(self) -> tuple[str, ...]:
        """By ordinal."""
        return (self.own_host, *(shell.host for shell in self.shells))

    @property
    def num_ranks(self) -> int:
        """Of the whole world."""
        return self.gpus_per_node * (1 + len(self.shells))


def mpirun(plan: WorldPlan, *, ssh_config: Path, is_root: bool, command: Sequence[str]) -> list[str]:
    """The command line that starts every rank; `command` is what the launcher starts beside rank 0."""
    return [
        "mpirun",
        *(["--allow-run-as-root"] if is_root else []),
        *("--mca", "plm_rsh_agent", f"ssh -F {ssh_config}"),
        *("--mca", "plm_rsh_no_tree_spawn", "1"),  # only ordinal 0 has the key
        *("--mca", "orte_keep_fqdn_hostnames", "1"),
        *("--mca", "pml", "ob1"),  # MPI carries what is said between hosts; GPUs talk by NCCL and DeepEP
        *("-np", str(plan.num_ranks)),
        *("-H", ",".join(f"{host}:{plan.gpus_per_node}" for host in plan.hosts)),
        *("--map-by", "slot", "--bind-to", "none", "--tag-output"),
        *SAY_HERE,
        LAUNCHER,
        *command,
    ]


def is_key(text: str) -> bool:
    """The public half of one key, and nothing that ssh would read as more."""
    return _KEY.fullmatch(text) is not None


def fault_of(shell: Shell) -> str:
    """Why a member's words cannot stand in the files below; empty: they can."""
    if not _HOST.fullmatch(shell.host):
        return f"names a host that is none: {shell.host[:80]!r}"
    if not 0 < shell.port <= MAX_PORT:
        return f"names port {shell.port} (allowed: 1 to {MAX_PORT})"
    if not is_key(shell.host_key):
        return f"sends a host key that is none: {shell.host_key[:80]!r}"
    return ""


def known_hosts(shells: Iterable[Shell]) -> str:
    """Host keys of the members."""
    return "".join(f"[{shell.host}]:{shell.port} {shell.host_key}\n" for shell in shells)


def ssh_config(shells: Iterable[Shell], *, user: str, key: Path, known_hosts: Path) -> str:
    """How ordinal 0 reaches the members, and nobody else."""
    ports = "".join(f"Host {shell.host}\n  Port {shell.port}\n" for shell in shells)
    return f"""{ports}Host *
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout {CONNECT_TIMEOUT_S}
  ServerAliveInterval 5
  ServerAliveCountMax 3
  LogLevel ERROR
"""


def sshd_config(*, host: str, port: int, folder: Path, is_root: bool) -> str:
    """One user, one key, one command, no forwarding.

    StrictModes is off because every folder above ours is looked at by it, and /tmp of a pod is for all to
    write; ours is for its owner alone.
    """
    return f"""ListenAddress {host}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin {"prohibit-password" if is_root else "no"}
DisableForwarding yes
PermitTTY no
PermitUserEnvironment no
PrintMotd no
PrintLastLog no
ForceCommand /bin/sh {folder}/session
LogLevel INFO
"""


def session(environment: Mapping[str, str]) -> str:
    """What runs in place of the command that was asked for: the pod's environment, and then that command."""
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n"
        for name, value in sorted(environment.items())
        if _NAME.fullmatch(name) and not name.startswith(NOT_FOR_RANKS)
    )
    return f'{exports}exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'


def complete_lines(said: bytes) -> tuple[list[str], bytes]:
    """Lines of what a process has said so far, and what has no end yet.

    A bar of progress ends its lines by going back to their start, and one that never ends is cut.
    """
    *lines, rest = re.split(rb"[\r\n]+", said)
    if len(rest) > MAX_LINE_BYTES:
        lines, rest = [*lines, rest], b""
    return [text for line in lines if (text := line.decode(errors="replace").strip())], rest


_ENDED = (
    re.compile(r"noticed that (process rank \d+ .*)"),
    re.compile(r"(Host key verification failed.*)"),
    re.compile(r"(Permission denied \(.*)"),
    re.compile(r"(ssh: .*)"),
    re.compile(r"(mpirun was unable to .*)"),
    re.compile(r"(There are not enough slots .*)"),
    re.compile(r"(.*: command not found.*)"),
    re.compile(r"(ORTE was unable to reliably start .*)"),
    re.compile(r"(ORTE has lost communication .*)"),
)
_FIRST = re.compile(r"Process name: \[\[\d+,\d+\],(\d+)\]")
_CODE = re.compile(r"Exit code:\s+(\d+)")


def why_it_ended(lines: Sequence[str], exit_code: int) -> str:
    """One line from the last ones of mpirun and its ranks."""
    for line in lines:
        first = _FIRST.search(line)
        if first:
            code = next((found[1] for found in map(_CODE.search, lines) if found), "?")
            return f"rank {first[1]} ended with exit code {code}"
        for pattern in _ENDED:
            found = pattern.search(line)
            if found:
                return " ".join(found[1].split()).rstrip(".")
    last = next((line for line in reversed(lines) if line.strip(" -")), "")
    return f"mpirun ended with exit code {exit_code}" + (f": {last.strip()}" if last else "")

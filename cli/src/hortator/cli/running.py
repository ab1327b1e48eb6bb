"""Where a running stack leaves its address, so that `hortator generate` and `hortator state` find it.

One folder per stack, named like its LLMService:

    $HORTATOR_STATE_DIR | $XDG_STATE_HOME/hortator | ~/.local/state/hortator
      NAME/stack.json     endpoint, scheduler, pid of `hortator up`, its processes
      NAME/settings/      what each process was started with
      NAME/logs/          what each process wrote

`hortator up` removes the folder when it ends well. After a crash the file stays behind: a `stack.json` whose
pid is gone counts as absent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hortator.cli.errors import EXIT_UNAVAILABLE, CommandError

STACK_FILE = "stack.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningProcess:
    """One child of `hortator up`."""

    name: str
    pid: int
    address: str
    """host:port of its gRPC server."""
    admin_port: int
    """Metrics and health over HTTP; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """What `stack.json` holds."""

    name: str
    pid: int
    """Of `hortator up`."""
    model: str
    endpoint: str
    """host:port of the first gateway's public gRPC API."""
    scheduler: str
    """host:port of the scheduler, for the admin commands."""
    processes: tuple[RunningProcess, ...] = ()
    endpoints: tuple[str, ...] = ()
    """host:port of every gateway."""

    @property
    def schedulers(self) -> tuple[str, ...]:
        """host:port of every scheduler; which of them leads is theirs to say."""
        several = [one.address for one in self.processes if one.name.startswith("scheduler-")]
        return tuple(several) or (self.scheduler,)

    def process(self, name: str) -> RunningProcess:
        """The process of that name; KeyError when there is none."""
        for process in self.processes:
            if process.name == name:
                return process
        raise KeyError(name)


def state_dir() -> Path:
    """The folder that holds one folder per running stack."""
    if explicit := os.environ.get("HORTATOR_STATE_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "hortator"


def claim_folder(name: str) -> Path:
    """A fresh folder for a stack about to start.

    Raises:
        CommandError: a stack of that name is running.
    """
    folder = state_dir() / name
    running = _read(folder / STACK_FILE)
    if running is not None:
        raise CommandError(
            f"{name}: already running as process {running.pid} (allowed: stop it, or another metadata.name)"
        )
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "settings").mkdir(parents=True)
    (folder / "logs").mkdir()
    return folder


def write_stack(folder: Path, stack: RunningStack) -> None:
    """Publish a stack; readers see the old file or the new one, never half of one."""
    partial = folder / f"{STACK_FILE}.partial"
    partial.write_text(json.dumps(asdict(stack), indent=2) + "\n")
    partial.replace(folder / STACK_FILE)


def remove_folder(folder: Path, *, keep_logs: bool) -> None:
    """What the end of a stack leaves: nothing, or its logs and settings."""
    if keep_logs:
        (folder / STACK_FILE).unlink(missing_ok=True)
        return
    shutil.rmtree(folder, ignore_errors=True)


def find_stack(name: str | None = None) -> RunningStack:
    """The stack of that name, or the only one that runs.

    Raises:
        CommandError: none runs, or several do and none was named.
    """
    stacks = {stack.name: stack for stack in running_stacks()}
    if name is not None:
        if name not in stacks:
            raise CommandError(
                f"--name {name}: not running (running: {', '.join(stacks) or 'none'})",
                exit_code=EXIT_UNAVAILABLE,
            )
        return stacks[name]
    if not stacks:
        raise CommandError(
            "nothing is running here (start it with `hortator up -f FILE`, or name an address)",
            exit_code=EXIT_UNAVAILABLE,
        )
    if len(stacks) > 1:
        raise CommandError(f"several stacks are running (name one with --name: {', '.join(sorted(stacks))})")
    return next(iter(stacks.values()))


def running_stacks() -> Iterator[RunningStack]:
    """Every stack that runs on this machine for this user."""
    for path in sorted(state_dir().glob(f"*/{STACK_FILE}")):
        stack = _read(path)
        if stack is not None:
            yield stack


def _read(path: Path) -> RunningStack | None:
    try:
        document = json.loads(path.read_text())
        processes = tuple(RunningProcess(**process) for process in document.pop("processes"))
        endpoints = tuple(document.pop("endpoints", ()))
        stack = RunningStack(**document, processes=processes, endpoints=endpoints)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return stack if _is_alive(stack.pid) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

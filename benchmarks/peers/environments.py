"""Where peers are installed: one virtual environment each, pinned, made on first use.

They are measured, not used: none of them is a dependency of Hortator, and their own dependencies do not agree
with each other.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortator.cli.errors import EXIT_FAILED, CommandError


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is installed together."""

    name: str
    requirements: Sequence[str] = ()
    without_dependencies: Sequence[str] = ()
    """Installed alone: what they need for our use is in `requirements`."""
    size: str
    """For the person who waits."""

    def version(self) -> str:
        """The package that is measured, with its version."""
        return (*self.without_dependencies, *self.requirements)[0].replace("==", " ")

    def folder(self, root: Path) -> Path:
        """Where it is."""
        return root / self.name

    def install(self, root: Path, on_progress: Callable[[str], None]) -> Path:
        """Make it unless it is there; returns the folder of its programs.

        Raises:
            CommandError: it cannot be installed.
        """
        folder = self.folder(root)
        wanted = "\n".join((*self.without_dependencies, "", *self.requirements))
        stamp = folder / f".stamp-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
        programs = folder / "bin"
        if stamp.exists():
            return programs
        on_progress(f"installing {self.version()} into {folder} ({self.size})")
        shutil.rmtree(folder, ignore_errors=True)
        quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(self.name, [sys.executable, "-m", "venv", str(folder)])
        pip = [str(programs / "python"), *quiet]
        if self.without_dependencies:
            _run(self.name, [*pip, "--no-deps", *self.without_dependencies])
        if self.requirements:
            _run(self.name, [*pip, *self.requirements])
        stamp.touch()
        return programs


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise CommandError(
            [f"{name}: cannot be installed; `--only` chooses contenders that need it not:", *last],
            exit_code=EXIT_FAILED,
        )


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(name="smg", requirements=("smg==1.13.0",), size="154 MB"),
        Environment(name="vllm-router", requirements=("vllm-router==0.1.17",), size="130 MB"),
        Environment(
            name="dynamo",
            # select_service needs no more than this; the whole list of the package is more than 1 GB.
            without_dependencies=("ai-dynamo==1.6.1", "ai-dynamo-runtime==1.6.1"),
            requirements=("pydantic==2.13.5", "uvloop==0.23.0"),
            size="310 MB",
        ),
    )
}

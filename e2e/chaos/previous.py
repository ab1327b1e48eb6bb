"""The version before this one: its packages, out of the history of this repository."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

COMMIT = "a9d575efe7ac"
"""Of the version before. A release puts its own here; until there is one, what was last called complete."""
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api/src", "client/src", "gateway/src", "proto/gen", "runtime/src", "scheduler/src", "worker/src")


def packages(folder: Path) -> Sequence[Path]:
    """Folders to put on a path; empty: the history does not reach that far back.

    Args:
        folder: where they are written to.
    """
    command = ["git", "-C", str(ROOT), "archive", COMMIT, "--", *PACKAGES]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode != 0:
        return ()
    with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return [folder / name for name in PACKAGES]

"""What a lab that was killed left behind is removed by the next one.

Its processes died with it (cluster.processes); its folder, network namespace and cgroups are still there. A folder
names its owner by pid and start time, so a living lab is never touched.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from cluster.netns import RUN, NetworkNamespace
from cluster.processes import started_at

FOLDERS = Path("/tmp")  # not $TMPDIR: all labs of a machine must see each other's
OWNER = "owner.json"
CGROUPS = Path("/sys/fs/cgroup")
CLAIM_WITHIN_S = 60


def claim(folder: Path) -> None:
    """Say that this process owns the folder."""
    pid = os.getpid()
    (folder / OWNER).write_text(json.dumps({"pid": pid, "started_at": started_at(pid)}))


def sweep(prefix: str) -> None:
    """Remove the folders, namespaces and cgroups whose owner is gone."""
    for folder in FOLDERS.glob(f"{prefix}*"):
        if not _has_owner(folder):
            remove_cgroups(folder.name)
            NetworkNamespace(folder.name).delete()
            shutil.rmtree(folder, ignore_errors=True)
    for path in RUN.glob(f"{prefix}*"):
        if not _has_folder(path.name):
            NetworkNamespace(path.name).delete()
    for path in [*CGROUPS.glob(f"*/{prefix}*"), *CGROUPS.glob(f"{prefix}*")]:
        if not _has_folder(path.name):
            remove_cgroups(path.name)


def remove_cgroups(name: str) -> None:
    """Remove the cgroup trees called `name`; they must be without processes."""
    for top in [*CGROUPS.glob(f"*/{name}"), CGROUPS / name]:
        if not top.is_dir():
            continue
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _has_folder(name: str) -> bool:
    """A lab makes its folder before anything else, so what has none is nobody's."""
    return (FOLDERS / name).exists()


def _has_owner(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        owner = json.loads((folder / OWNER).read_text())
        return started_at(owner["pid"]) == owner["started_at"]
    with contextlib.suppress(OSError):  # not claimed yet, or never
        return time.time() - folder.stat().st_mtime < CLAIM_WITHIN_S
    return True

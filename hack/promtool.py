"""Where promtool is: the one that hack/install-promtool unpacks, else the one on the PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNPACKED = ROOT / "build" / "bin" / "promtool"
REMEDY = "promtool is missing: run hack/install-promtool (Debian or Ubuntu), or put it on the PATH"


def find() -> str | None:
    """The command to call; None: there is none."""
    return str(UNPACKED) if UNPACKED.exists() else shutil.which("promtool")

"""Where helm is: the pinned one that hack/install-helm unpacks, else the one on the PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "build" / "bin" / "helm"
REMEDY = "helm is missing: run hack/install-helm (linux/amd64), or put helm 4 on the PATH"


def find() -> str | None:
    """The command to call; None: there is none."""
    return str(PINNED) if PINNED.exists() else shutil.which("helm")

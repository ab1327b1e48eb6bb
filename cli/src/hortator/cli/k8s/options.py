"""Which cluster a command is about; apart from the client, so that `--help` does not load that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster, and where in it; None: as kubectl would choose."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

"""The document that every benchmark writes: figures never travel without their circumstances.

    {"benchmark", "at", "seed", "commit", "is_modified", "machine": {...}, "settings": {...},
     "targets": {...}, "figures": {...}, "repeats": [...]}

`figures` are medians over `repeats`, which holds the raw values of each repeat in the order in which they
ran.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hortator.cli.errors import CommandError


def document(
    benchmark: str,
    *,
    seed: int,
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    repeats: Sequence[Mapping[str, Any]],
    targets: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A result with its circumstances."""
    revision, is_modified = commit()
    return {
        "benchmark": benchmark,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "commit": revision,
        "is_modified": is_modified,
        "machine": machine(),
        "settings": dict(settings),
        "targets": dict(targets or {}),
        "figures": dict(figures),
        "repeats": [dict(repeat) for repeat in repeats],
    }


def write(result: Mapping[str, Any], path: Path | None) -> None:
    """Write a result to a file; `-` is standard output, None nowhere.

    Raises:
        CommandError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(result, indent=1, default=float) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise CommandError(f"--json {path}: {error.strerror}") from None


def medians(repeats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every value over the repeats that have it."""
    names = dict.fromkeys(name for repeat in repeats for name in repeat)
    return {name: statistics.median(repeat[name] for repeat in repeats if name in repeat) for name in names}


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cpu": _cpu_model(),
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def commit() -> tuple[str, bool]:
    """The commit of the source tree and whether files differ from it; empty outside a checkout.

    Results do not count: `make study` and `make bench` write one after the other.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments],  # noqa: S607  # whichever git the user has
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    results = [f":(top,exclude)benchmarks/{what}" for what in ("**/*.json", "**/*.md")]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *results)
    return git("rev-parse", "HEAD"), bool(changed)

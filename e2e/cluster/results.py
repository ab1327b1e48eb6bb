"""Figures that tests of the lab measure, for the record: one file a test under HORTATOR_LAB_RESULTS.

Without that variable nothing is written; the tests' limits hold either way.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hortator.cli.bench.result import document, write

FOLDER = "HORTATOR_LAB_RESULTS"


def record(
    name: str,
    *,
    settings: Mapping[str, Any],
    targets: Mapping[str, str],
    figures: Mapping[str, Any],
    seed: int = 0,
) -> None:
    """Print what was measured, and write it to FOLDER/NAME.json with seed, commit and machine."""
    print(f"{name}: {json.dumps(dict(figures))}")
    folder = os.environ.get(FOLDER)
    if folder:
        result = document(
            name, seed=seed, settings=settings, targets=targets, figures=figures, repeats=[figures]
        )
        write(result, Path(folder) / f"{name}.json")

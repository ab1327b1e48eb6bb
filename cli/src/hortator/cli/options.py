"""Options that commands of several modules share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FileOption = Annotated[
    Path,
    typer.Option("--file", "-f", help="The LLMService manifest (YAML).", metavar="FILE", show_default=False),
]
JsonFileOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result here as JSON ('-': standard output)."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same run.")]

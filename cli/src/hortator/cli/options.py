"""Options that commands of several modules share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FileOption = Annotated[
    Path,
    typer.Option("--file", "-f", help="The LLMService manifest (YAML).", metavar="FILE", show_default=False),
]
TlsOption = Annotated[
    Path | None,
    typer.Option(
        "--tls",
        metavar="DIR",
        envvar="HORTATOR_TLS",
        help="Certificates to show: DIR/ca.crt, and tls.crt with tls.key where they are wanted.",
        show_default=False,
    ),
]
ApiKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        envvar="HORTATOR_API_KEY_FILE",
        help="One line: the API key to show.",
        show_default=False,
    ),
]
JsonFileOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result here as JSON ('-': standard output)."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same run.")]

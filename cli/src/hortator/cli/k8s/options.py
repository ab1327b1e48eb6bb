"""What all commands take: which cluster they are about, and how they answer.

Apart from the client, so that `--help` does not load that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster, and where in it; None: as kubectl would choose."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

    @classmethod
    def of(cls, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Self:
        """From the options of a command."""
        return cls(kubeconfig=kubeconfig, context=context, namespace=namespace)


NameArgument = Annotated[
    str | None,
    typer.Argument(help="The LLMService; may be left out if the namespace has one.", show_default=False),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: that of the context.")
]
ContextOption = Annotated[
    str | None, typer.Option("--context", help="Of the kubeconfig; default: the current one.")
]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="Instead of KUBECONFIG.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
WaitOption = Annotated[
    float | None,
    typer.Option("--wait", metavar="SECONDS", help="Wait until it is done; exit code 1 if it is not."),
]

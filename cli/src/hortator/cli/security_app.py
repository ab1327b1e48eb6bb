"""Commands that make what processes and clients prove themselves with: certificates and API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

security_app = typer.Typer()


@security_app.command()
def certificates(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="metadata.name of the LLMService.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go; made if it is not there.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of the LLMService.")] = "default",
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="DNS name or address that clients know the gateway by; repeatable."
        ),
    ] = None,
    component: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this one: the authority in DIR signs it anew; repeatable."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they are good.")] = 90,
) -> None:
    """Make certificates for TLS between the processes of a service, and for its clients.

    DIR/ca.crt and ca.key are the authority, made once and used again; each component has a folder with
    tls.crt, tls.key and ca.crt, as its settings `tls.cert_file`, `tls.key_file` and `tls.ca_file` want them;
    DIR/secrets.yaml has the same as Secrets <SERVICE>-<component>-tls for `kubectl apply`. Keep ca.key away
    from all of them. Where cert-manager runs, let it make them: docs/how-to/secure.md.

    hortator certificates deepseek-v3 --out certs --host llm.example.com

    hortator certificates deepseek-v3 --out certs --component gateway   [dim]# before it runs out[/dim]
    """
    from hortator.cli import certificates as command

    raise SystemExit(
        command.run(
            namespace=namespace,
            service=service,
            out=out,
            hosts=tuple(host or ()),
            components=tuple(component or ()),
            days=days,
        )
    )


@security_app.command()
def api_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will have it, for logs and errors.")],
    *,
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="KEYS.yaml", help="The gateway's `api_keys_file`.")
    ],
    tenant: Annotated[
        list[str] | None,
        typer.Option(help="Whose requests it may make; repeatable. None: those of any tenant."),
    ] = None,
) -> None:
    """Make an API key: its hash goes into KEYS.yaml, the key itself is printed once and kept nowhere.

    hortator api-key evaluation --tenant ci -f keys.yaml
    """
    from hortator.cli import api_key as command

    command.run(name=name, file=file, tenants=tuple(tenant or ()))

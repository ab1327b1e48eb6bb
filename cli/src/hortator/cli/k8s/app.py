"""`hortator k8s ...`, and the same commands as `kubectl hortator ...`: names, options and help."""

from __future__ import annotations

import asyncio
from typing import Annotated, NoReturn

import typer

from hortator.cli.entry import run_app
from hortator.cli.k8s.options import (
    ClusterOptions,
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NameArgument,
    NamespaceOption,
    WaitOption,
)
from hortator.cli.k8s.rollout_app import app as rollout_app

app = typer.Typer(
    name="k8s",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Look after LLMServices on a Kubernetes cluster.

    The cluster is the one of kubectl: KUBECONFIG, or ~/.kube/config, and the namespace of the context.
    Installed with Hortator, these commands are also a plugin: [b]kubectl hortator status[/b].

    [b]When a service does not serve:[/b]

    hortator k8s status my-llm        [dim]# what is there: conditions, groups, members, ranks[/dim]

    hortator k8s explain my-llm       [dim]# what blocks it, and what helps[/dim]

    hortator k8s logs my-llm --group decode-0 --rank 17 --previous

    hortator k8s doctor               [dim]# is the cluster itself fit?[/dim]

    [b]When it moves to another image or model:[/b] hortator k8s rollout --help
    """,
)
app.add_typer(rollout_app, name="rollout")


@app.command()
def status(
    name: NameArgument = None,
    *,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show conditions, EP groups, their pods to the rank, and what is in flight where a group drains.

    Without a name: the only LLMService of the namespace, or a list of all.
    """
    from hortator.cli.k8s import status as command

    asyncio.run(command.run(ClusterOptions.of(kubeconfig, context, namespace), name=name, as_json=json))


@app.command()
def explain(
    name: NameArgument = None,
    *,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what blocks an LLMService, naming pod, node or resource, and what helps.

    Uses the operator's own reasoning on what the API server says now; it works while the operator is away.
    What you may not see (nodes, other namespaces) is left out of account.
    """
    from hortator.cli.k8s import explain as command

    asyncio.run(command.run(ClusterOptions.of(kubeconfig, context, namespace), name=name, as_json=json))


@app.command()
def drain(
    name: Annotated[str, typer.Argument(help="The LLMService.")],
    group: Annotated[str, typer.Argument(help="Worker id as in `status`, for example decode-0.")],
    *,
    wait: WaitOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Drain one EP group and start it anew, without a failed request.

    Nothing new is placed on it, what is in flight finishes (at most spec.drain.timeout), then all its pods
    are replaced. To empty a node, `kubectl cordon NODE` is enough: its groups drain and move by themselves.
    """
    from hortator.cli.k8s import change as command

    options = ClusterOptions.of(kubeconfig, context, namespace)
    raise SystemExit(asyncio.run(command.drain(options, name=name, group=group, wait_s=wait, as_json=json)))


@app.command()
def restart(
    name: NameArgument = None,
    *,
    wait: WaitOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Restart every EP group, one after the other, each drained first; also ends Stalled.

    The same as setting spec.restart.requestedAt to the present time.
    """
    from hortator.cli.k8s import change as command

    options = ClusterOptions.of(kubeconfig, context, namespace)
    raise SystemExit(asyncio.run(command.restart(options, name=name, wait_s=wait, as_json=json)))


@app.command()
def logs(
    name: NameArgument = None,
    *,
    group: Annotated[
        str | None, typer.Option("--group", "-g", help="Worker id, for example decode-0.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", "-r", help="DP rank: the pod of its first GPU.")
    ] = None,
    member: Annotated[
        int | None, typer.Option("--member", help="Ordinal in the group; 0 hosts the engine.")
    ] = None,
    component: Annotated[
        str | None, typer.Option("--component", help="scheduler or gateway, instead.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it is written.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the container before this one.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
) -> None:
    """Print the log of the pod that a DP rank, a member or a component runs in.

    hortator k8s logs my-llm --group decode-0 --rank 17

    hortator k8s logs my-llm --component scheduler --follow
    """
    from hortator.cli.k8s import logs as command

    wanted = command.Wanted(group=group, rank=rank, member=member, component=component)
    options = ClusterOptions.of(kubeconfig, context, namespace)
    asyncio.run(command.run(options, name=name, wanted=wanted, follow=follow, previous=previous, tail=tail))


@app.command()
def doctor(
    *,
    operator_namespace: Annotated[
        str | None, typer.Option(help="Where the operator runs; default: looked for everywhere.")
    ] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check the cluster: version, CRD, your permissions, nodes and GPUs, the operator. Each with the fix.

    Exit code 1 when a check has failed; warnings do not count.
    """
    from hortator.cli.k8s import doctor as command

    options = ClusterOptions.of(kubeconfig, context, namespace)
    raise SystemExit(asyncio.run(command.run(options, operator_namespace=operator_namespace, as_json=json)))


def kubectl_main() -> NoReturn:
    """The entry point of `kubectl hortator`."""
    app.info.name = "kubectl hortator"
    run_app(app, name="kubectl hortator")

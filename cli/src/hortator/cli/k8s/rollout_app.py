"""`hortator k8s rollout ...`: names, options and help."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from hortator.cli.k8s.options import (
    ClusterOptions,
    ContextOption,
    JsonOption,
    KubeconfigOption,
    NameArgument,
    NamespaceOption,
    WaitOption,
)

app = typer.Typer(
    name="rollout",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Follow, pause and take back the move of an LLMService's EP groups to another revision.

    hortator k8s rollout status my-llm --wait 7200

    hortator k8s rollout history my-llm

    hortator k8s rollout undo my-llm [dim]# what groups still run, or what was before the last change[/dim]
    """,
)


@app.command()
def status(
    name: NameArgument = None,
    *,
    wait: WaitOption = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say how many groups have moved, which one is rolled now and what it waits for.

    Exit code 1 when it has made no step for spec.rollout.progressDeadline.
    """
    from hortator.cli.k8s import rollout as command

    options = ClusterOptions.of(kubeconfig, context, namespace)
    raise SystemExit(asyncio.run(command.status(options, name=name, wait_s=wait, as_json=json)))


@app.command()
def history(
    name: NameArgument = None,
    *,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the revisions that are kept: what changed in each, and how many groups run it."""
    from hortator.cli.k8s import rollout as command

    asyncio.run(command.history(ClusterOptions.of(kubeconfig, context, namespace), name=name, as_json=json))


@app.command()
def undo(
    name: NameArgument = None,
    *,
    to_revision: Annotated[
        int | None, typer.Option("--to-revision", metavar="NUMBER", help="As in `history`.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help="Prefill, Decode or Aggregated.")] = None,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write the fields of an earlier revision into the spec; groups that have moved come back one by one.

    Without a number: what the groups run that have not moved yet, or, when all have, what was before the last
    change. Replicas, scheduler, gateway and rollout settings stay as they are.
    """
    from hortator.cli.k8s import rollout as command

    options = ClusterOptions.of(kubeconfig, context, namespace)
    raise SystemExit(
        asyncio.run(command.undo(options, name=name, role=role, number=to_revision, as_json=json))
    )


@app.command()
def pause(
    name: NameArgument = None,
    *,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Let no group move until `resume`; one that fails meanwhile starts again as it was."""
    _pause(ClusterOptions.of(kubeconfig, context, namespace), name, is_paused=True, as_json=json)


@app.command()
def resume(
    name: NameArgument = None,
    *,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    json: JsonOption = False,
) -> None:
    """Let groups move again."""
    _pause(ClusterOptions.of(kubeconfig, context, namespace), name, is_paused=False, as_json=json)


def _pause(options: ClusterOptions, name: str | None, *, is_paused: bool, as_json: bool) -> None:
    from hortator.cli.k8s import rollout as command

    raise SystemExit(
        asyncio.run(command.set_paused(options, name=name, is_paused=is_paused, as_json=as_json))
    )

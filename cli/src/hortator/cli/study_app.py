"""The commands `hortator study ...`: declared here, done in the module of each; nothing is imported early."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

study_app = typer.Typer(invoke_without_command=True)

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the JSON and the page go.")]
WorkOption = Annotated[
    Path,
    typer.Option(
        "--work", metavar="DIR", help="Where finished points are kept, to go on after an interruption."
    ),
]
TracesOption = Annotated[
    Path | None,
    typer.Option(
        "--traces", metavar="DIR", help="Folder with the public traces; without it they are left out."
    ),
]
MinutesOption = Annotated[
    float,
    typer.Option("--minutes", min=0.1, help="Virtual minutes per point; under 20 is for a first look."),
]
LoadsOption = Annotated[
    list[float] | None, typer.Option("--load", help="Only this load; may be given several times.")
]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Seeds per point.")]

OUT = Path("benchmarks/sim")
WORK = Path("build/study")


@study_app.callback()
def study(
    context: typer.Context,
    *,
    out: OutOption = OUT,
    traces: TracesOption = None,
    work: WorkOption = WORK,
    minutes: MinutesOption = 20.0,
    load: LoadsOption = None,
    seeds: SeedsOption = 5,
) -> None:
    """The study behind the claims (`make study`): policies, loads, chunk budgets and seeds in virtual time.

    About 40 minutes on two cores. Every policy of a case sees the same requests; see benchmarks/sim/study.md.
    The other studies are commands of their own, with their options behind their name.
    """
    from hortator.cli.errors import CommandError

    if context.invoked_subcommand is not None:
        for name in context.params:
            if _is_given(context, name):
                like = f"hortator study {context.invoked_subcommand} --{name} ..."
                raise CommandError(f"--{name}: goes behind the name of the study, like: {like}")
        return
    from hortator.cli import study as command
    from hortator.sim.study.plan import Plan

    plan = Plan(seeds=tuple(range(seeds)), loads=tuple(load) if load else Plan().loads)
    command.run(plan=plan, out=out, traces=traces, work=work, minutes=minutes)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@study_app.command("sensitivity")
def study_sensitivity(
    *,
    out: OutOption = OUT,
    work: WorkOption = WORK,
    minutes: MinutesOption = 20.0,
    load: LoadsOption = None,
    seeds: SeedsOption = 3,
    case: Annotated[
        list[str] | None, typer.Option(help="Only this case; may be given several times.")
    ] = None,
) -> None:
    """Where the cluster is not perfect: latency, lost reports, deaths, slow ranks, one group.

    About 30 minutes on two cores; see benchmarks/sim/sensitivity.md.
    """
    from hortator.cli import study_sensitivity as command

    plan = command.plan_of(seeds=seeds, loads=load, cases=case)
    command.run(plan=plan, out=out, work=work, minutes=minutes)


@study_app.command("paper")
def study_paper(
    *,
    out: OutOption = OUT,
    traces: TracesOption = None,
    work: WorkOption = WORK,
    scale: Annotated[
        float, typer.Option(min=0.01, max=10.0, help="Of all run times; under 1 is for a first look.")
    ] = 1.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this setup; may be given several times.")
    ] = None,
) -> None:
    """The paper's table on 64 simulated H800, and capacities at equal p99 TTFT and ITL.

    About half an hour on two cores; see benchmarks/sim/paper.md.
    """
    from hortator.cli import study_paper as command

    command.run(out=out, traces=traces, work=work, scale=scale, only=only or ())


@study_app.command("ablation")
def study_ablation(
    *,
    out: OutOption = OUT,
    work: WorkOption = WORK,
    minutes: MinutesOption = 20.0,
    load: LoadsOption = None,
    seeds: SeedsOption = 3,
) -> None:
    """What each ingredient of `staggered-plus` is good for, and what tuning its knobs could gain.

    About 30 minutes on two cores; see benchmarks/sim/ablation.md.
    """
    from hortator.cli import study_ablation as command
    from hortator.sim.study.ablation import AblationPlan

    plan = AblationPlan(seeds=tuple(range(seeds)), loads=tuple(load) if load else AblationPlan().loads)
    command.run(plan=plan, out=out, work=work, minutes=minutes)

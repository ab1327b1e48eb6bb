"""`python -m peers` (`make peers`): the comparison with other routers, from installing them to the page."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hortator.cli.bench import result
from hortator.cli.console import stderr, stdout
from hortator.cli.entry import run_app
from hortator.cli.errors import CommandError
from hortator.cli.progress import Progress
from peers import namespace, page
from peers.contenders import CONTENDERS, STANDARD, Contender, Selector
from peers.environments import ENVIRONMENTS
from peers.plan import Plan
from peers.programs import program_version
from peers.session import Found, document, require_some, run_all

QUICK = Plan(loads=(0.7,), repeats=1, warmup_s=3.0, measured_s=9.0)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def peers(
    *,
    only: Annotated[
        str,
        typer.Option(metavar="NAME[,NAME...]", help="Contenders; 'all': every one; --list names them."),
    ] = ",".join(STANDARD),
    load: Annotated[
        list[float] | None, typer.Option(help="Only this load; may be given several times.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Runs per contender and load; 3 is the least to quote.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Measured seconds of a run.")] = None,
    quick: Annotated[
        bool, typer.Option(help="One short run each at one load: does it work? Not for figures to quote.")
    ] = False,
    chunk_budget: Annotated[
        int, typer.Option(min=64, help="Prefill tokens per DP rank and forward pass of the engines.")
    ] = Plan().chunk_budget_tokens,
    seed: Annotated[int, typer.Option(help="Of lengths and arrivals.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results.json and results.md go.")] = Path(
        "benchmarks/peers"
    ),
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Environments of the peers, finished runs, logs.")
    ] = Path("build/peers"),
    any_machine: Annotated[
        bool, typer.Option(help="Count runs on a busy machine, too: for a first look, not to quote.")
    ] = False,
    no_namespace: Annotated[
        bool, typer.Option(help="Use this machine's loopback; dynamo-* is left out then.")
    ] = False,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Make results.md of the results.json that is there, and end.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name the contenders and end.")] = False,
) -> None:
    """Compare Hortator with other routers on the same simulated engines, in real time.

    Installs what it needs on first use (smg, vllm-router, ai-dynamo: about 600 MB below build/peers), starts
    two simulated EP groups with the doors that each contender knows, and sends the same requests at the same
    times through one contender after the other. The standard set takes about half an hour on two cores that
    do nothing else. Interrupted, it goes on where it was.

    python -m peers --quick                                does everything start and answer?

    python -m peers --only staggered-plus,vllm-router      two contenders, all loads

    python -m peers --only all --load 0.7                  everybody at one load
    """
    if list_:
        for contender in CONTENDERS.values():
            stdout().print(f"{contender.name:<24} {contender.what}")
        return
    if page_only:
        _write_page(out)
        return
    plan = replace(
        QUICK if quick else Plan(), seed=seed, contenders=_names(only), chunk_budget_tokens=chunk_budget
    )
    if load:
        plan = replace(plan, loads=tuple(load))
    if repeats:
        plan = replace(plan, repeats=repeats)
    if seconds:
        plan = replace(plan, measured_s=seconds)
    if any_machine:
        plan = replace(plan, max_machine_share=1.0)
    chosen, skipped = _available(plan.contenders, no_namespace=no_namespace)
    with Progress(stderr()) as progress:
        needed = {contender.environment for contender in chosen if contender.environment}
        programs = {
            name: ENVIRONMENTS[name].install(work.absolute(), progress.line) for name in sorted(needed)
        }
        if not no_namespace and not namespace.is_inside():
            namespace.go_inside(namespace.own_command(sys.argv[1:]))
        if namespace.is_inside():
            namespace.bring_loopback_up()
        for name, why in skipped.items():
            progress.line(f"{name}: left out: {why}")
        plan = replace(plan, contenders=tuple(contender.name for contender in chosen))
        work_on = run_all(
            plan,
            work=work.absolute(),
            programs={
                contender.name: programs[contender.environment] if contender.environment else None
                for contender in chosen
            },
            on_progress=progress.line,
        )
        try:
            found = asyncio.run(_until_told(work_on))
        except asyncio.CancelledError:
            raise SystemExit(128 + signal.SIGTERM) from None
    require_some(found)
    versions = {"hortator": f"hortator {result.commit()[0][:12]}"}
    versions |= {name: ENVIRONMENTS[name].version() for name in sorted(needed)}
    versions |= {one.program: program_version(one.program) for one in chosen if one.program}
    results = document(plan, found, versions=versions, skipped=skipped)
    result.write(results, out / "results.json")
    _write_page(out)
    for line in page.verdicts(results["points"]):
        stdout().print(line, markup=False)
    stdout().print(f"{out / 'results.md'}", markup=False)


def _write_page(out: Path) -> None:
    try:
        results = json.loads((out / "results.json").read_text())
        (out / "results.md").write_text(page.render(results))
    except OSError as error:
        raise CommandError(f"--out {out}: {error.strerror}") from None


async def _until_told(work: Coroutine[Any, Any, Found]) -> Found:
    """Its result, unless SIGTERM comes: then everything that it has started ends, as at Ctrl-C."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _names(only: str) -> tuple[str, ...]:
    names = tuple(CONTENDERS) if only == "all" else tuple(name.strip() for name in only.split(","))
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        raise CommandError(f"--only: got {', '.join(unknown)} (allowed: all, {', '.join(CONTENDERS)})")
    return tuple(dict.fromkeys(names))


def _available(names: tuple[str, ...], *, no_namespace: bool) -> tuple[list[Contender], dict[str, str]]:
    """Who can run here, and why the others cannot."""
    chosen, skipped = [], {}
    for name in names:
        contender = CONTENDERS[name]
        if contender.program and shutil.which(contender.program) is None:
            skipped[name] = f"{contender.program} is not installed"
        elif no_namespace and isinstance(contender.kind, Selector):
            skipped[name] = "it would listen on every address of this machine (--no-namespace)"
        else:
            chosen.append(contender)
    if not chosen:
        raise CommandError([f"{name}: {why}" for name, why in skipped.items()])
    return chosen, skipped


if __name__ == "__main__":
    run_app(app, name="peers")

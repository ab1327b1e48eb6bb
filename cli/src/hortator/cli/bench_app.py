"""The commands `hortator bench ...`: names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from hortator.cli.options import JsonFileOption, SeedOption

bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure this machine; every result carries seed, commit, machine and settings.",
    rich_markup_mode="rich",
)


@bench_app.command("core")
def bench_core(*, seed: SeedOption = 0, json: JsonFileOption = None) -> None:
    """The scheduler core alone: events per second, time of one release, cost per placement."""
    from hortator.cli.bench import core as command

    command.run(seed=seed, json_file=json)


@bench_app.command("service")
def bench_service(
    *,
    seed: SeedOption = 0,
    quick: Annotated[bool, typer.Option(help="Shorter, for a first look; not for figures to quote.")] = False,
    json: JsonFileOption = None,
) -> None:
    """Latency that gateway and scheduler add, placements per second, and memory over many requests."""
    from hortator.cli.bench import service as command

    command.run(seed=seed, quick=quick, json_file=json)


@bench_app.command("stream")
def bench_stream(
    *,
    seed: SeedOption = 0,
    quick: Annotated[bool, typer.Option(help="Shorter, for a first look; not for figures to quote.")] = False,
    json: JsonFileOption = None,
) -> None:
    """Tokens per second that one gateway process streams to 500 clients at a time."""
    from hortator.cli.bench import stream as command

    command.run(seed=seed, quick=quick, json_file=json)


@bench_app.command("failover")
def bench_failover(
    *,
    seed: SeedOption = 0,
    quick: Annotated[bool, typer.Option(help="Once, for a first look; not for figures to quote.")] = False,
    json: JsonFileOption = None,
) -> None:
    """How long nothing is placed when the leading scheduler is killed, terminated or stopped, under load."""
    from hortator.cli.bench import failover as command

    command.run(seed=seed, quick=quick, json_file=json)


@bench_app.command("simulator")
def bench_simulator(
    *,
    seed: SeedOption = 0,
    requests: Annotated[int, typer.Option(min=1000, help="Requests of the large run.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of all but the large run.")] = 3,
    json: JsonFileOption = None,
) -> None:
    """Requests per minute in virtual time, cost per event, and a million requests over a thousand ranks."""
    from hortator.cli.bench import simulator as command

    command.run(seed=seed, num_large=requests, repeats=repeats, json_file=json)

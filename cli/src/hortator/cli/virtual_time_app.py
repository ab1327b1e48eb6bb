"""The commands that run a cluster in virtual time: names, options and help; see `main` for the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hortator.cli.options import FileOption, JsonFileOption, SeedOption

virtual_time_app = typer.Typer()

TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Azure LLM CSV or Mooncake JSONL; absent: requests are made up from --seed.",
    ),
]
ArrivalsOption = Annotated[
    str,
    typer.Option(
        "--arrivals", help="recorded (a trace's own, stretched), poisson, gamma (bursts) or diurnal."
    ),
]
BurstinessOption = Annotated[
    float | None,
    typer.Option(
        "--burstiness",
        metavar="CV",
        help="With gamma: coefficient of variation of the gaps; 1 is poisson, default 2.",
    ),
]
PeriodOption = Annotated[
    str | None,
    typer.Option("--period", metavar="DURATION", help="With diurnal: one swing of the rate; default 24h."),
]
PeakToMeanOption = Annotated[
    float | None,
    typer.Option(
        "--peak-to-mean",
        metavar="RATIO",
        help="With diurnal: highest rate over mean rate, 1 to 2; default 1.6.",
    ),
]
LengthsOption = Annotated[
    str | None,
    typer.Option(
        "--lengths",
        metavar="NAME",
        help="Without a trace: conversation (default), short-prompt-uniform or short-prompt-lognormal.",
    ),
]
MinutesOption = Annotated[
    float, typer.Option("--minutes", help="Virtual minutes at least; under 20 a point is marked SHORT.")
]
PrefillOnlyOption = Annotated[
    bool,
    typer.Option("--prefill-only", help="Leave decode out: five times faster, when only TTFT is asked for."),
]
DisturbOption = Annotated[
    str,
    typer.Option(
        "--disturb",
        metavar="NAME=VALUE[,...]",
        help="What is not perfect. latency, jitter: of every message; report-delay, report-loss: old loads; "
        "length-error: wrong lengths announced; loss-every, loss-at, away: EP groups die and return; "
        "engine-factor, floor-factor, slow-rank: slower engines. Like latency=5ms,length-error=10%.",
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Skip bad trace lines instead of stopping at the first.")
]


@virtual_time_app.command()
def simulate(
    file: FileOption,
    *,
    policy: Annotated[
        str, typer.Option(metavar="NAME[,NAME...]", help="Policies to compare; 'all': every one.")
    ] = "all",
    trace: TraceOption = None,
    load: Annotated[
        float, typer.Option(help="Share of the prefill capacity that is asked for; 0.7 is busy.")
    ] = 0.7,
    arrivals: ArrivalsOption = "poisson",
    burstiness: BurstinessOption = None,
    period: PeriodOption = None,
    peak_to_mean: PeakToMeanOption = None,
    lengths: LengthsOption = None,
    minutes: MinutesOption = 20.0,
    prefill_only: PrefillOnlyOption = False,
    seed: SeedOption = 0,
    skip_bad: SkipBadOption = False,
    tenants: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Give requests to so many tenants; TTFT of each."),
    ] = None,
    flood: Annotated[
        float | None,
        typer.Option(metavar="FACTOR", help="Tenant 1 asks for so many times its share."),
    ] = None,
    slo: Annotated[
        str,
        typer.Option(
            metavar="NAME=DURATION[,...]",
            help="Report goodput: requests within limits of ttft, tpot, itl, e2e; like ttft=2s,itl=50ms.",
        ),
    ] = "",
    disturb: DisturbOption = "",
    requests: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a CSV row for every request of every policy.")
    ] = None,
    json: JsonFileOption = None,
) -> None:
    """Run the scheduler core in virtual time on a manifest's cluster: simulate what you deploy.

    Without --disturb messages take no time, nothing fails, and engines are as fast as the cost model says.

    hortator simulate -f FILE --disturb latency=1ms,jitter=50%

    hortator simulate -f FILE --disturb loss-every=5m,away=40s,slow-rank=1.2 --policy staggered-plus

    docs/how-to/disturb.md explains every disturbance.
    """
    from hortator.cli import simulate as command
    from hortator.cli.workload_options import WorkloadOptions

    command.run(
        file=file,
        policies=policy,
        trace=trace,
        options=WorkloadOptions(
            load=load,
            minutes=minutes,
            arrivals=arrivals,
            burstiness=burstiness,
            period=period,
            peak_to_mean=peak_to_mean,
            lengths=lengths,
            skip_bad=skip_bad,
            tenants=tenants,
            flood=flood,
        ),
        prefill_only=prefill_only,
        seed=seed,
        slo=slo,
        disturb=disturb,
        requests_file=requests,
        json_file=json,
    )


@virtual_time_app.command()
def recommend(
    file: FileOption,
    *,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            metavar="TOKENS",
            help="Try this chunk budget; several times for several. Default: 1024, 2048, ... 16384.",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="With this policy; default: the manifest's.")
    ] = None,
    trace: TraceOption = None,
    load: Annotated[
        float, typer.Option(help="Share of the prefill capacity that is asked for; take that of your peak.")
    ] = 0.7,
    arrivals: ArrivalsOption = "poisson",
    burstiness: BurstinessOption = None,
    period: PeriodOption = None,
    peak_to_mean: PeakToMeanOption = None,
    lengths: LengthsOption = None,
    minutes: MinutesOption = 20.0,
    prefill_only: PrefillOnlyOption = False,
    seed: SeedOption = 0,
    skip_bad: SkipBadOption = False,
    json: JsonFileOption = None,
) -> None:
    """Find the chunk budget for your prompts: the manifest's cluster in virtual time, once per budget.

    How much of a prompt an engine takes per forward pass matters as much as the policy, and cannot be changed
    while it runs. Give a trace of your own traffic, and the load of your peak.

    hortator recommend -f FILE --trace my-requests.csv --load 0.85
    """
    from hortator.cli import recommend as command
    from hortator.cli.workload_options import WorkloadOptions

    command.run(
        file=file,
        policy=policy,
        budgets=budget,
        trace=trace,
        options=WorkloadOptions(
            load=load,
            minutes=minutes,
            arrivals=arrivals,
            burstiness=burstiness,
            period=period,
            peak_to_mean=peak_to_mean,
            lengths=lengths,
            skip_bad=skip_bad,
        ),
        prefill_only=prefill_only,
        seed=seed,
        json_file=json,
    )


@virtual_time_app.command("plan-capacity")
def plan_capacity(
    *,
    gpus: Annotated[int, typer.Option(min=1, help="H800 GPUs to split, eight per node.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Whose passes are modelled.")] = "deepseek-v3",
    trace: TraceOption = None,
    slo: Annotated[
        str, typer.Option(metavar="ttft=DURATION,itl=DURATION", help="What p99 may be.")
    ] = "ttft=2s,itl=50ms",
    policy: Annotated[str, typer.Option(metavar="NAME", help="Scheduling policy.")] = "staggered-plus",
    tries: Annotated[
        int, typer.Option(min=1, max=50, help="Layouts to simulate, the best estimates first.")
    ] = 3,
    chunked_prefill: Annotated[
        bool,
        typer.Option(
            help="Whether engines cut prompts; without, the chunk budget is at least the longest prompt."
        ),
    ] = True,
    kv_dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Data type of the KV cache: auto (the model's, BF16), fp8 (half of it)."
        ),
    ] = "auto",
    arrivals: ArrivalsOption = "poisson",
    lengths: LengthsOption = None,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Virtual minutes per rate that is tried.")
    ] = 3.0,
    seed: SeedOption = 0,
    skip_bad: SkipBadOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.yaml", help="Write the LLMService here.")
    ] = None,
    json: JsonFileOption = None,
) -> None:
    """Split GPUs into prefill and decode groups for your traffic: arithmetic, checked in virtual time.

    Says what every layout could serve at most and what ends it, and simulates the best for the highest rate
    within the limits.

    hortator plan-capacity --gpus 64 --trace my-requests.csv --slo ttft=2s,itl=50ms -o llmservice.yaml
    """
    from hortator.cli import plan_capacity as command
    from hortator.cli.workload_options import WorkloadOptions

    command.run(
        num_gpus=gpus,
        model=model,
        trace=trace,
        options=WorkloadOptions(
            load=0.5, minutes=minutes, arrivals=arrivals, lengths=lengths, skip_bad=skip_bad
        ),
        slo=slo,
        policy=policy,
        num_tried=tries,
        chunked_prefill=chunked_prefill,
        kv_dtype=kv_dtype,
        seed=seed,
        out=out,
        json_file=json,
    )


@virtual_time_app.command()
def report(
    file: FileOption,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.html", help="Where the page goes.")
    ] = Path("report.html"),
    policy: Annotated[
        str, typer.Option(metavar="NAME[,NAME...]", help="Policies to compare; 'all': every one.")
    ] = "immediate-least-tokens,immediate-least-delay,staggered,staggered-plus",
    load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOAD[,LOAD...]",
            help="Share of the prefill capacity that is asked for; default 0.7. Several: also TTFT against "
            "load; everything else is of the first.",
        ),
    ] = None,
    trace: TraceOption = None,
    arrivals: ArrivalsOption = "poisson",
    burstiness: BurstinessOption = None,
    period: PeriodOption = None,
    peak_to_mean: PeakToMeanOption = None,
    lengths: LengthsOption = None,
    minutes: MinutesOption = 20.0,
    prefill_only: PrefillOnlyOption = False,
    seed: SeedOption = 0,
    skip_bad: SkipBadOption = False,
    window: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How much of the middle of the run is drawn pass by pass: 100ms to 1m.",
        ),
    ] = "4s",
    svg: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write every figure as an SVG file, for documents."),
    ] = None,
) -> None:
    """Simulate policies on the same requests and draw them: one HTML page, open it in a browser.

    Table, distribution of TTFT, where requests wait, every DP rank in every forward pass of a few seconds
    with its bubbles, balance and queues over the run. Needs no network; the same options give the same file.

    hortator report -f benchmarks/sim/clusters/prefill-4xEP16.yaml --prefill-only -o report.html

    hortator report -f FILE --policy staggered,staggered-plus --load 0.7,0.5,0.85,0.95 --svg figures/
    """
    from hortator.cli import report as command
    from hortator.cli.workload_options import WorkloadOptions

    command.run(
        command.ReportOptions(
            file=file,
            policies=policy,
            loads=",".join(load or ["0.7"]),
            trace=trace,
            workload=WorkloadOptions(
                minutes=minutes,
                arrivals=arrivals,
                burstiness=burstiness,
                period=period,
                peak_to_mean=peak_to_mean,
                lengths=lengths,
                skip_bad=skip_bad,
            ),
            window=window,
            prefill_only=prefill_only,
            seed=seed,
            out=out,
            svg=svg,
        )
    )

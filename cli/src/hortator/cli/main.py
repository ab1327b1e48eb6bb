"""The command line: every command's name, options and help. What it does is in the module named like it.

Rules:

1. Nothing heavy is imported before a command needs it: `hortator --help` and typing mistakes answer at once.
2. Every problem is one line on standard error naming the file or option, the field and what is allowed.
   Exit codes: 0 done, 1 failed, 2 wrong input (repeating will not help), 3 nothing answers.
3. Results go to standard output, everything else to standard error; `--json` makes results readable by
   machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from hortator.cli.entry import run_app
from hortator.cli.k8s.app import app as k8s_app
from hortator.cli.study_app import study_app

app = typer.Typer(
    name="hortator",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Serve mixture-of-experts LLMs under data-parallel attention and expert parallelism.

    [b]Try it:[/b]

    hortator up -f manifests/samples/llmservice-local.yaml   [dim]# a real small MoE, here[/dim]

    hortator generate "Shall I compare thee"                 [dim]# in another terminal[/dim]

    hortator state --watch                                   [dim]# ranks, queues, placements[/dim]

    hortator simulate -f benchmarks/sim/clusters/prefill-4xEP16.yaml --policy all
    """,
)
bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure this machine; every result carries seed, commit, machine and settings.",
    rich_markup_mode="rich",
)
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")
app.add_typer(k8s_app, name="k8s")

FileOption = Annotated[
    Path,
    typer.Option("--file", "-f", help="The LLMService manifest (YAML).", metavar="FILE", show_default=False),
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Which running stack (its metadata.name); needed when several run."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="HOST:PORT", help="Scheduler to ask; default: the stack that runs here."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
JsonFileOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result here as JSON ('-': standard output)."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same run.")]
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


def main() -> NoReturn:
    """Run the command line and exit."""
    run_app(app, name="hortator")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options that stand before any command."""
    if version:
        from importlib.metadata import version as version_of

        print(f"hortator {version_of('hortator')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def up(
    file: FileOption,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the gRPC API; 0: a free one.")] = 0,
    policy: Annotated[str | None, typer.Option(help="Instead of spec.scheduler.policy.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="EVENTS.jsonl", help="Record the scheduler's events for `hortator replay`."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR, of every process.")] = "INFO",
    keep_logs: Annotated[bool, typer.Option(help="Leave logs and settings behind.")] = False,
) -> None:
    """Run an LLMService on this machine: scheduler, one worker per EP group, gateway.

    Stays in the foreground. Ctrl-C (or SIGTERM) drains: what is running finishes, then everything stops;
    a second Ctrl-C stops at once. A worker that dies is started again.
    """
    from hortator.cli import up as command

    raise SystemExit(
        command.run(
            file=file, port=port, policy=policy, record=record, log_level=log_level, keep_logs=keep_logs
        )
    )


@app.command()
def validate(
    file: FileOption,
    *,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OLD.yaml", help="What is there now: also check what may not change."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check an LLMService as the API server and the operator would; exit code 2 when it is refused.

    hortator validate -f new.yaml --against <(kubectl get llms deepseek-v3 -o yaml)
    """
    from hortator.cli import validate as command

    raise SystemExit(command.run(file=file, against=against, as_json=json))


@app.command()
def generate(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts; none: read standard input as one prompt.", show_default=False),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help='Many prompts: one per line, or .jsonl ("text" or {"prompt": "...", "max_tokens": 5, ...}).',
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Gateway; default: the stack that runs here.")
    ] = None,
    name: NameOption = None,
    model: Annotated[str, typer.Option(help="Served model name; empty: the only one.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Output tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Smallest set of tokens with this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: all tokens.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="The text ends before this; may be repeated.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on after the end-of-sequence token.")] = False,
    priority: Annotated[int, typer.Option(help="-100 to 100; higher goes first.")] = 0,
    critical: Annotated[bool, typer.Option(help="Latency-critical: never held on purpose.")] = False,
    tenant: Annotated[str, typer.Option(help="Keeps prefix caches apart.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one request; 0: no limit.")] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests at a time, with --file.")] = 16,
    json: JsonOption = False,
) -> None:
    """Stream a completion: from the argument, standard input, or many from a file.

    hortator generate "To be, or not to be"

    echo "Once more unto the breach" | hortator generate --max-tokens 20

    hortator generate -f prompts.txt --json > answers.jsonl
    """
    from hortator.cli import generate as command

    raise SystemExit(
        command.run(
            prompts=tuple(prompt or ()),
            file=file,
            endpoint=endpoint,
            name=name,
            options=command.GenerateOptions(
                model=model,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                seed=seed,
                stop=tuple(stop or ()),
                ignore_eos=ignore_eos,
                priority=priority,
                is_latency_critical=critical,
                tenant=tenant,
                timeout_s=timeout,
            ),
            concurrency=concurrency,
            as_json=json,
        )
    )


@app.command()
def state(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it; Ctrl-C ends.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between views with --watch.")] = 1.0,
    placements: Annotated[int, typer.Option(min=0, max=1000, help="Newest placements to show.")] = 10,
    name: NameOption = None,
    scheduler: SchedulerOption = None,
    json: JsonOption = False,
) -> None:
    """Show EP groups, their DP ranks, the queue and the newest placements."""
    from hortator.cli import state as command

    command.run(
        watch=watch,
        interval_s=interval,
        num_placements=placements,
        name=name,
        scheduler=scheduler,
        as_json=json,
    )


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="Worker id, as `hortator state` shows it.")],
    *,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for what is in flight.")] = 600.0,
    name: NameOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Stop placements on one worker and wait until nothing is in flight there (else exit code 1)."""
    from hortator.cli import admin_commands as command

    raise SystemExit(command.drain(worker_id=worker, timeout_s=timeout, name=name, scheduler=scheduler))


@app.command()
def policy(
    policy: Annotated[
        str, typer.Argument(help="For example staggered, staggered-plus, immediate-least-tokens.")
    ],
    *,
    name: NameOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Switch the scheduling policy of a running stack; nothing is lost."""
    from hortator.cli import admin_commands as command

    command.change_policy(policy, name=name, scheduler=scheduler)


@app.command()
def replay(
    recording: Annotated[
        Path, typer.Argument(metavar="EVENTS.jsonl", help="What `hortator up --record` wrote.")
    ],
    *,
    allow_gaps: Annotated[bool, typer.Option(help="Also replay a recording that misses events.")] = False,
    commands: Annotated[
        bool, typer.Option(help="Print every event and what the scheduler answered.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a recording again through a fresh scheduler core: the same commands as live, or exit code 1."""
    from hortator.cli import replay as command

    command.run(recording, allow_gaps=allow_gaps, show_commands=commands, as_json=json)


@app.command()
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


@app.command()
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


@app.command("plan-capacity")
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
        seed=seed,
        out=out,
        json_file=json,
    )


@app.command()
def doctor(
    *,
    engine: Annotated[str, typer.Option(metavar="NAME", help="Which engine: trtllm.")] = "trtllm",
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A worker's settings (JSON): start this engine and examine it."),
    ] = None,
    phase: Annotated[
        str | None, typer.Option(metavar="PHASE", help="prefill or aggregated; default: the settings'.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1.0, help="Seconds that any one examination may take.")
    ] = 120.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also the log of the engine.")] = False,
    json: JsonOption = False,
) -> None:
    """Check a GPU machine and its TensorRT-LLM: is all as Hortator takes it to be? Each line with the fix.

    GPUs, driver, shared memory, RDMA, NCCL, version and classes of the library. With --settings the engine is
    started and given a few short requests: are prompts run by the rank that they are pinned to, do batches
    enter as one, how soon is the end of a pass known, do statistics go on, what do aborts and hand-overs do?

    Run it in a worker pod. Exit code 1 when a check has failed; warnings do not count, and what cannot be
    looked at here is skipped.
    """
    from hortator.cli import doctor as command

    raise SystemExit(
        command.run(
            engine=engine,
            settings=settings,
            phase=phase,
            patience_s=patience,
            verbose=verbose,
            as_json=json,
        )
    )


@app.command()
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


@app.command()
def plan(
    file: FileOption,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", help="table, or yaml: the objects as `kubectl` takes them.")
    ] = "table",
    registry: Annotated[
        str, typer.Option(metavar="HOST/PATH", help="Where images come from, if the manifest names none.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Show what the operator makes of an LLMService: ranks, pods, objects, warnings. Needs no cluster."""
    from hortator.cli import plan as command

    command.run(file=file, output=output, registry=registry, as_json=json)


@app.command()
def demo(
    *,
    live_seconds: Annotated[
        float, typer.Option(min=1, help="Length of the live run over simulated engines.")
    ] = 20.0,
    seed: SeedOption = 0,
    skip_comparison: Annotated[bool, typer.Option(help="Only serve the real model.")] = False,
) -> None:
    """The tour (`make run`): policies compared in virtual time and live, then a real MoE model served."""
    from hortator.cli import demo as command

    raise SystemExit(command.run(live_s=live_seconds, seed=seed, skip_comparison=skip_comparison))


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


@bench_app.command("policies")
def bench_policies(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per point.")] = 5,
    json: JsonFileOption = None,
) -> None:
    """Every policy in virtual time at three loads."""
    from hortator.cli.bench import policies as command

    command.run(num_seeds=seeds, json_file=json)


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


if __name__ == "__main__":
    main()

"""The command line: every command's name, options and help. What it does is in the module named like it.

Commands in virtual time, `bench`, `study` and `k8s` are declared in modules of their own.

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

from hortator.cli.bench_app import bench_app
from hortator.cli.entry import run_app
from hortator.cli.k8s.app import app as k8s_app
from hortator.cli.options import ApiKeyOption, FileOption, SeedOption, TlsOption
from hortator.cli.security_app import security_app
from hortator.cli.study_app import study_app
from hortator.cli.virtual_time_app import virtual_time_app

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
app.add_typer(virtual_time_app)
app.add_typer(security_app)
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")
app.add_typer(k8s_app, name="k8s")

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
    gateways: Annotated[
        int, typer.Option(min=1, max=16, help="How many; clients go on at another when one dies.")
    ] = 1,
    policy: Annotated[str | None, typer.Option(help="Instead of spec.scheduler.policy.")] = None,
    schedulers: Annotated[int, typer.Option(min=1, max=9, help="One leads, the others stand by.")] = 1,
    record: Annotated[
        Path | None,
        typer.Option(metavar="EVENTS.jsonl", help="Record the scheduler's events for `hortator replay`."),
    ] = None,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR, of every process.")] = "INFO",
    keep_logs: Annotated[bool, typer.Option(help="Leave logs and settings behind.")] = False,
) -> None:
    """Run an LLMService on this machine: scheduler, one worker per EP group, gateways.

    Stays in the foreground. Ctrl-C (or SIGTERM) drains: what is running finishes, then everything stops;
    a second Ctrl-C stops at once. A worker or gateway that dies is started again.
    """
    from hortator.cli import up as command

    raise SystemExit(
        command.run(
            file=file,
            port=port,
            gateways=gateways,
            num_schedulers=schedulers,
            policy=policy,
            record=record,
            log_level=log_level,
            keep_logs=keep_logs,
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
    """Check an LLMService, and LLMServiceScalers, as the API server and the operator would.

    Exit code 2 when anything is refused. A file may hold both; roles are compared then.

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
        str | None,
        typer.Option(
            metavar="HOST:PORT[,...]",
            help="Gateway, or several: one goes on when another dies. Default: the stack that runs here.",
        ),
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
    chat: Annotated[
        bool,
        typer.Option(help="Prompts are what a user says: the model's own chat template makes them text."),
    ] = False,
    system: Annotated[str, typer.Option(help="Said to the model before the user; makes it a chat.")] = "",
    priority: Annotated[int, typer.Option(help="-100 to 100; higher goes first.")] = 0,
    critical: Annotated[bool, typer.Option(help="Latency-critical: never held on purpose.")] = False,
    tenant: Annotated[str, typer.Option(help="Keeps prefix caches apart.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one request; 0: no limit.")] = 0.0,
    tls: TlsOption = None,
    api_key_file: ApiKeyOption = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Requests at a time, with --file.")] = 16,
    json: JsonOption = False,
) -> None:
    """Stream a completion: from the argument, standard input, or many from a file.

    hortator generate "To be, or not to be"

    echo "Once more unto the breach" | hortator generate --max-tokens 20

    hortator generate --chat --system "Answer in one line." "Who wrote Hamlet?"

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
                is_chat=chat or bool(system),
                system=system,
            ),
            tls=tls,
            api_key_file=api_key_file,
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
    tls: TlsOption = None,
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
        tls=tls,
        as_json=json,
    )


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="Worker id, as `hortator state` shows it.")],
    *,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for what is in flight.")] = 600.0,
    name: NameOption = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Stop placements on one worker and wait until nothing is in flight there (else exit code 1)."""
    from hortator.cli import admin_commands as command

    raise SystemExit(
        command.drain(
            worker_id=worker,
            timeout_s=timeout,
            name=name,
            scheduler=scheduler,
            tls=tls,
        )
    )


@app.command()
def policy(
    policy: Annotated[
        str, typer.Argument(help="For example staggered, staggered-plus, immediate-least-tokens.")
    ],
    *,
    name: NameOption = None,
    scheduler: SchedulerOption = None,
    tls: TlsOption = None,
) -> None:
    """Switch the scheduling policy of a running stack; nothing is lost."""
    from hortator.cli import admin_commands as command

    command.change_policy(policy, name=name, scheduler=scheduler, tls=tls)


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
    group: Annotated[
        bool,
        typer.Option("--group", help="In the pod of ordinal 0: the machines of all members of its group."),
    ] = False,
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

    With --group, in the pod of ordinal 0 while its group starts or serves: is every member reached, are
    driver, GPUs, NCCL, RDMA ports, MPI and versions the same on all of them?

    Run it in a worker pod. Exit code 1 when a check has failed; warnings do not count, and what cannot be
    looked at here is skipped.
    """
    from hortator.cli import doctor as command

    raise SystemExit(
        command.run(
            engine=engine,
            settings=settings,
            phase=phase,
            group=group,
            patience_s=patience,
            verbose=verbose,
            as_json=json,
        )
    )


@app.command()
def plan(
    file: FileOption,
    *,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="table; yaml: the objects as `kubectl` takes them; lws: LeaderWorkerSets (never run).",
        ),
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


if __name__ == "__main__":
    main()

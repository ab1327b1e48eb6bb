"""All runs of a plan, one after the other; a finished run is kept, so that an interrupted session goes on.

WORK/runs/DIGEST/NAME.json      a run that counts
WORK/runs/DIGEST/discarded.jsonl
WORK/settings, WORK/logs        of the processes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from hortator.cli.bench import result
from hortator.cli.errors import EXIT_FAILED, CommandError
from peers.contenders import CONTENDERS
from peers.engines import EngineGroup, load_service, running_engines
from peers.measurement import measure
from peers.plan import Plan, Run

COUNTS = ("requests", "answered", "rejected", "failed")
"""Totals over the runs of a point: a median would hide what one of them lost."""

OnProgress = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Found:
    """What a session found."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    discarded: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


async def run_all(
    plan: Plan,
    *,
    work: Path,
    programs: Mapping[str, Path | None],
    on_progress: OnProgress,
) -> Found:
    """Run what is missing.

    Args:
        plan: what to run.
        work: where runs, settings and logs are kept.
        programs: by contender, the folder of the programs of its environment.
        on_progress: gets a line per run.

    Raises:
        CommandError: the engines do not start.
    """
    service = load_service(plan.chunk_budget_tokens)
    folder = work / "runs" / plan.digest(result.commit()[0], service.model_dump_json())
    for path in (folder, work / "settings", work / "logs"):
        path.mkdir(parents=True, exist_ok=True)
    found = Found(discarded=_read_lines(folder / "discarded.jsonl"))
    missing = []
    for run in plan.runs():
        file = folder / f"{run.key}.json"
        if file.exists():
            found.runs.append(json.loads(file.read_text()))
        else:
            missing.append(run)
    if not missing:
        return found
    minutes = plan.duration_s(len(missing)) / 60
    on_progress(f"{len(missing)} runs, about {minutes:.0f} minutes ({len(found.runs)} are there already)")
    try:
        async with running_engines(service, folder=work) as engines:
            turns = _Turns(
                plan=plan,
                engines=engines,
                programs=programs,
                work=work,
                folder=folder,
                found=found,
                on_progress=on_progress,
            )
            for number, run in enumerate(missing, start=1):
                await turns.take(run, f"{number}/{len(missing)}  {run.words}")
    except BaseExceptionGroup as group:
        expected = group.subgroup(CommandError)
        if expected is None:
            raise
        raise _first(expected) from None
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turns:
    """Makes runs on engines that are there, and keeps what they say."""

    plan: Plan
    engines: EngineGroup
    programs: Mapping[str, Path | None]
    work: Path
    folder: Path
    found: Found
    on_progress: OnProgress

    async def take(self, run: Run, label: str) -> None:
        """One run, made again when the machine was too busy, up to the last try."""
        for _ in range(self.plan.max_tries):
            try:
                figures = await measure(
                    CONTENDERS[run.contender],
                    self.engines,
                    self.plan,
                    run,
                    programs=self.programs[run.contender],
                    folder=self.work,
                )
            except (CommandError, ValueError, TimeoutError, aiohttp.ClientError, ExceptionGroup) as error:
                self._failed(run, _first(error), label)
                return
            if self._keep(run, figures, label):
                return

    def _failed(self, run: Run, error: BaseException, label: str) -> None:
        why = str(error) or repr(error)
        self.on_progress(f"{label}: failed: {why}")
        self.found.failed.append(
            {"contender": run.contender, "load": run.load, "repeat": run.repeat, "why": why}
        )

    def _keep(self, run: Run, figures: dict[str, Any], label: str) -> bool:
        """Whether the run counts; it is written to its file, or to the discarded ones."""
        said = (
            f"{label}: TTFT mean {figures['ttft_mean_ms']:,.0f} ms, p99 {figures['ttft_p99_ms']:,.0f} ms, "
            f"{figures['rejected'] + figures['failed']:.0f} of {figures['requests']:.0f} not answered, "
            f"machine {figures['machine_cpu_share']:.0%} busy"
        )
        limit = self.plan.max_machine_share
        if figures["machine_cpu_share"] > limit:
            self.on_progress(f"{said}: discarded (over {limit:.0%})")
            self.found.discarded.append(figures)
            with (self.folder / "discarded.jsonl").open("a") as file:
                file.write(json.dumps(figures) + "\n")
            return False
        self.on_progress(said)
        self.found.runs.append(figures)
        (self.folder / f"{run.key}.json").write_text(json.dumps(figures) + "\n")
        return True


def document(
    plan: Plan, found: Found, *, versions: Mapping[str, str], skipped: Mapping[str, str]
) -> dict[str, Any]:
    """The results file."""
    service = load_service(plan.chunk_budget_tokens)
    by_point: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for run in found.runs:
        by_point.setdefault((run["contender"], run["load"]), []).append(run)
    points = [
        {
            "contender": contender,
            "load": load,
            "runs": len(runs),
            **result.medians([_numbers(run) for run in runs]),
            **{name: sum(run[name] for run in runs) for name in COUNTS},
        }
        for (contender, load), runs in sorted(by_point.items())
    ]
    figures = {
        f"{point['contender']}.{point['load']:g}.{name}": point[name]
        for point in points
        for name in ("ttft_mean_ms", "ttft_p99_ms", "goodput_per_s", "rejected", "failed")
    }
    settings = {
        "loads": list(plan.loads),
        "repeats": plan.repeats,
        "warmup_s": plan.warmup_s,
        "measured_s": plan.measured_s,
        "max_machine_share": plan.max_machine_share,
        "slo_ttft_s": plan.slo_ttft_s,
        "time_scale": float(service.spec.engine.simulated_options.time_scale),
        "num_groups": service.spec.roles[0].replicas,
        "dp_size": service.spec.roles[0].parallelism.attention_dp,
        "chunk_budget_tokens": service.spec.roles[0].chunk_budget_tokens,
        "contenders": {name: CONTENDERS[name].what for name in plan.contenders},
    }
    results = result.document("peers", seed=plan.seed, settings=settings, figures=figures, repeats=found.runs)
    results["versions"] = dict(versions)
    results["skipped"] = dict(skipped)
    results["points"] = points
    results["discarded"] = found.discarded
    results["failed_runs"] = found.failed
    return results


def _numbers(run: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in run.items()
        if isinstance(value, (int, float)) and name not in {"load", "repeat"}
    }


def _read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def require_some(found: Found) -> None:
    """Raise CommandError when nothing was measured."""
    if not found.runs:
        lines: Sequence[str] = [
            f"{one['contender']} at {one['load']:g}: {one['why']}" for one in found.failed
        ]
        busy = (
            [f"{len(found.discarded)} runs were discarded: the machine was too busy"]
            if found.discarded
            else []
        )
        raise CommandError(["no run counts", *lines[:5], *busy], exit_code=EXIT_FAILED)

"""`hortator study --what sensitivity`: policies where the cluster is not perfect; resumable as `study` is."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hortator.api.files import load_llmservice
from hortator.cli.bench import result
from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.study import CLUSTER, KEPT, Figures, KnownPoints, check_checkout, simulate_points
from hortator.sim.study import sensitivity_page
from hortator.sim.study.sensitivity import BY_NAME, CasePoint, SensitivityPlan, figures_of

JSON_NAME = "sensitivity.json"
PAGE_NAME = "sensitivity.md"
KEPT_TOO = (*KEPT, "pass_s", "forward_passes", "disturbed")


def run(*, plan: SensitivityPlan, out: Path, work: Path, minutes: float) -> None:
    """Simulate what is missing, then write `sensitivity.json` and `sensitivity.md` into `out`.

    Raises:
        CommandError: not in a checkout, or a load cannot be used.
    """
    check_checkout(plan.loads)
    revision, is_modified = result.commit()
    path = work / f"sensitivity-{revision[:12]}-{minutes:g}min.jsonl"
    known = KnownPoints(None if is_modified else path, CasePoint)
    points = plan.points()
    simulate_points(points, known, partial(_figures, minutes=minutes), text="every case, every policy")
    document = {
        "study": "sensitivity",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": revision,
        "is_modified": is_modified,
        "machine": result.machine(),
        "settings": {
            "cluster": str(CLUSTER),
            "prefill_only": True,
            "min_run_s": 60 * minutes,
            "seeds": list(plan.seeds),
            "loads": list(plan.loads),
            "cases": {case.name: case.about for case, _ in plan.rows()},
        },
        "rows": sensitivity_page.rows(plan, known.figures.__getitem__),
        "points": {point.key(): known.figures[point] for point in sorted(points)},
    }
    result.write(document, out / JSON_NAME)
    (out / PAGE_NAME).write_text(sensitivity_page.page(document))
    stderr().print(f"{out / JSON_NAME}, {out / PAGE_NAME}", markup=False)


def plan_of(*, seeds: int, loads: list[float] | None, cases: list[str] | None) -> SensitivityPlan:
    """The plan with what the command line narrows down.

    Raises:
        CommandError: an unknown case.
    """
    whole = SensitivityPlan()
    wanted = set(cases or BY_NAME)
    for name in sorted(wanted - BY_NAME.keys()):
        raise CommandError(f"--case: got {name!r} (allowed: {', '.join(BY_NAME)})")
    return SensitivityPlan(
        seeds=tuple(range(seeds)),
        loads=tuple(loads) if loads else whole.loads,
        cases=tuple(case for case in whole.cases if case.name in wanted),
        theory=tuple(case for case in whole.theory if case.name in wanted),
    )


def _figures(point: CasePoint, *, minutes: float) -> Figures:
    figures = figures_of(point, load_llmservice(CLUSTER), min_run_s=60 * minutes)
    return {name: figures[name] for name in KEPT_TOO if name in figures}

"""`hortator study sensitivity`: policies where the cluster is not perfect; resumable as `study` is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hortator.api.files import load_llmservice
from hortator.cli.errors import CommandError
from hortator.cli.study import CLUSTER, KEPT, check_checkout
from hortator.cli.study_points import Figures, KnownPoints, simulate_points, write
from hortator.sim.study import sensitivity_page
from hortator.sim.study.sensitivity import BY_NAME, CasePoint, SensitivityPlan, figures_of

KEPT_TOO = (*KEPT, "pass_s", "forward_passes", "disturbed")


def run(*, plan: SensitivityPlan, out: Path, work: Path, minutes: float) -> None:
    """Simulate what is missing, then write `sensitivity.json` and `sensitivity.md` into `out`.

    Raises:
        CommandError: not in a checkout, or a load cannot be used.
    """
    check_checkout(plan.loads)
    known = KnownPoints(CasePoint, work=work, name=f"sensitivity-{minutes:g}min")
    points = plan.points()
    simulate_points(points, known, partial(_figures, minutes=minutes), text="every case, every policy")
    write(
        "sensitivity",
        known,
        out=out,
        settings={
            "cluster": str(CLUSTER),
            "prefill_only": True,
            "min_run_s": 60 * minutes,
            "seeds": list(plan.seeds),
            "loads": list(plan.loads),
            "cases": {case.name: case.about for case, _ in plan.rows()},
        },
        rows=sensitivity_page.rows(plan, known.figures.__getitem__),
        points=points,
        page=sensitivity_page.page,
    )


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

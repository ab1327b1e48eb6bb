"""`hortator study ablation`: `staggered-plus` with one ingredient less; resumable as `study` is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hortator.api.files import load_llmservice
from hortator.cli.study import CLUSTER, KEPT, check_checkout
from hortator.cli.study_points import Figures, KnownPoints, simulate_points, write
from hortator.sim.study import ablation_page
from hortator.sim.study.ablation import CHUNK_BUDGET, AblationPlan, AblationPoint, figures_of


def run(*, plan: AblationPlan, out: Path, work: Path, minutes: float) -> None:
    """Simulate what is missing, then write `ablation.json` and `ablation.md` into `out`.

    Raises:
        CommandError: not in a checkout, or a load cannot be used.
    """
    check_checkout(plan.loads)
    known = KnownPoints(AblationPoint, work=work, name=f"ablation-{minutes:g}min")
    points = list(plan.points())
    simulate_points(points, known, partial(_figures, minutes=minutes), text="one ingredient less")
    write(
        "ablation",
        known,
        out=out,
        settings={
            "cluster": str(CLUSTER),
            "prefill_only": True,
            "chunk_budget_tokens": CHUNK_BUDGET,
            "min_run_s": 60 * minutes,
            "seeds": list(plan.seeds),
            "loads": list(plan.loads),
            "variants": ablation_page.about_variants(),
        },
        rows=ablation_page.rows(plan, known.figures.__getitem__),
        points=points,
        page=ablation_page.page,
    )


def _figures(point: AblationPoint, *, minutes: float) -> Figures:
    figures = figures_of(point, load_llmservice(CLUSTER), min_run_s=60 * minutes)
    return {name: figures[name] for name in KEPT if name in figures}

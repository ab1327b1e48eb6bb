"""`python -m chaos` (`make chaos`): everything that is promised when things go wrong, as figures and a page.

Real processes for a while, schedules of faults in virtual time, leaders that go away, a minute of overload and one
tenant's flood (in virtual time and in real processes), bad inputs. Each figure comes from a run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog

from chaos import experiment, nonsense, overload, page, realtime
from hortator.cli.bench import failover, result
from virtual.__main__ import outcomes
from virtual.tally import Tally

POLICIES = ("staggered", "staggered-plus")
FAIR_POLICY = "staggered-plus"


def main() -> int:
    """Parse and run; the exit code."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of both parts")
    parser.add_argument("--seconds", type=float, default=600.0, help="of faults in real processes; 0: none")
    parser.add_argument("--trials", type=int, default=3000, help="schedules in virtual time; 0: none")
    parser.add_argument("--inputs", type=int, default=1000, help="bad ones for each boundary; 0: none")
    parser.add_argument("--no-failover", action="store_true", help="leave out leaders that go away")
    parser.add_argument("--no-overload", action="store_true", help="leave out overload and flood")
    parser.add_argument("--overload-seconds", type=float, default=60.0, help="of each in real processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures; the page goes beside them as .md")
    options = parser.parse_args()
    if options.json is not None and result.commit()[1]:
        print("--json: files differ from the commit (allowed: a clean checkout)", file=sys.stderr)
        return 2
    figures: dict[str, object] = {}
    problems: list[str] = []
    if options.seconds:
        with tempfile.TemporaryDirectory(prefix="hortator-chaos-") as folder:
            shown = asyncio.run(experiment.run(Path(folder), seed=options.seed, seconds=options.seconds))
        print(shown.text(), flush=True)
        figures["processes"], problems = shown.document(), shown.problems
    if options.trials:
        tally = Tally()
        for outcome in outcomes(seed=options.seed, num_trials=options.trials):
            tally.add(outcome)
            problems += [f"virtual seed {outcome.seed}: {problem}" for problem in outcome.problems]
        print(tally.text())
        figures["virtual"] = tally.document()
    if not options.no_failover:
        figures["failover"] = _failover(options.seed)
    if not options.no_overload:
        figures["overload"] = [overload.overloaded(policy) for policy in POLICIES]
        figures["flood"] = overload.flooded(FAIR_POLICY)
        for name, in_real_time in _in_real_time(options.seed, options.overload_seconds).items():
            figures[name] = in_real_time
            problems += in_real_time["problems"]
    if options.inputs:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        counts, found = nonsense.tried(first_seed=options.seed, num_inputs=options.inputs)
        figures["bad_inputs"] = {"by_boundary": counts, "problems": found}
        problems += found
    print("\n".join(problems))
    if options.json is not None:
        settings = {"seconds": options.seconds, "trials": options.trials, "inputs": options.inputs}
        settings |= {"overload_seconds": options.overload_seconds}
        document = result.document("chaos", seed=options.seed, settings=settings, figures=figures, repeats=())
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page.render(document))
    return bool(problems)


def _in_real_time(seed: int, seconds: float) -> dict[str, dict[str, Any]]:
    figures = {}
    for name, run in (("overload_realtime", realtime.overloaded), ("flood_realtime", realtime.flooded)):
        with tempfile.TemporaryDirectory(prefix="hortator-chaos-") as folder:
            figures[name] = asyncio.run(run(Path(folder), seed=seed, seconds=seconds))
        print(json.dumps({name: figures[name]}), flush=True)
    return figures


def _failover(seed: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="hortator-chaos-") as folder:
        file = Path(folder) / "failover.json"
        failover.run(seed=seed, quick=False, json_file=file)
        figures: dict[str, object] = json.loads(file.read_text())["figures"]
    return figures


if __name__ == "__main__":
    sys.exit(main())

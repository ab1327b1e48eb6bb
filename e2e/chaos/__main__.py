"""`python -m chaos` (`make chaos`): real processes for a while, then schedules in virtual time; figures and page."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from chaos import experiment, page
from hortator.cli.bench import result
from virtual.__main__ import outcomes
from virtual.tally import Tally


def main() -> int:
    """Parse and run; the exit code."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of both parts")
    parser.add_argument("--seconds", type=float, default=600.0, help="of faults in real processes; 0: none")
    parser.add_argument("--trials", type=int, default=3000, help="schedules in virtual time; 0: none")
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
    print("\n".join(problems))
    if options.json is not None:
        settings = {"seconds": options.seconds, "trials": options.trials}
        document = result.document("chaos", seed=options.seed, settings=settings, figures=figures, repeats=())
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page.render(document))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

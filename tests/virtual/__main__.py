"""`python -m virtual`: as many schedules of faults as wanted, and every one that breaks a promise, by its seed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from virtual import trial
from virtual.tally import Tally


def outcomes(*, seed: int, num_trials: int) -> Iterator[trial.Outcome]:
    """Those of the seeds from `seed` on, on every core."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(trial.run, range(seed, seed + num_trials), chunksize=4)


def main() -> int:
    """Parse and run; the exit code."""
    parser = argparse.ArgumentParser(prog="virtual", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--trials", type=int, default=1000, help="how many")
    options = parser.parse_args()
    tally = Tally()
    for outcome in outcomes(seed=options.seed, num_trials=options.trials):
        tally.add(outcome)
        if outcome.problems:
            lines = [f"seed {outcome.seed}: {outcome.shape}", *outcome.schedule, *outcome.problems]
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
    sys.stdout.write(tally.text() + "\n")
    return bool(tally.broken)


if __name__ == "__main__":
    sys.exit(main())

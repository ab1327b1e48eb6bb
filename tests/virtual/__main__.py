"""`python -m virtual`: as many schedules of faults as wanted, and every one that breaks a promise, by its seed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from virtual import siege, trial, unled
from virtual.tally import Tally


def outcomes(
    *, seed: int, num_trials: int, is_siege: bool = False, is_unled: bool = False
) -> Iterator[trial.Outcome]:
    """Those of the seeds from `seed` on, on every core."""
    run, chunk = (siege.run, 1) if is_siege else (unled.run if is_unled else trial.run, 4)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(run, range(seed, seed + num_trials), chunksize=chunk)


def main() -> int:
    """Parse and run; the exit code."""
    parser = argparse.ArgumentParser(prog="virtual", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--trials", type=int, default=1000, help="how many")
    parser.add_argument("--siege", action="store_true", help="of a minute and a half each, not seconds")
    parser.add_argument("--unled", action="store_true", help="ten seconds without schedulers each")
    options = parser.parse_args()
    tally = Tally()
    chosen = outcomes(
        seed=options.seed, num_trials=options.trials, is_siege=options.siege, is_unled=options.unled
    )
    for outcome in chosen:
        tally.add(outcome)
        if outcome.problems:
            lines = [f"seed {outcome.seed}: {outcome.shape}", *outcome.schedule, *outcome.problems]
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
    sys.stdout.write(tally.text() + "\n")
    return bool(tally.broken)


if __name__ == "__main__":
    sys.exit(main())

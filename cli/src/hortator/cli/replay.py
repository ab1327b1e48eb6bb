"""`hortator replay`: a recorded scheduler run through a fresh core."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hortator.cli.console import stderr, stdout
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.event_json import encode_tagged
from hortator.scheduler.replay import Replay, ReplaySummary, Verdict, summarize


def run(recording: Path, *, allow_gaps: bool, show_commands: bool, as_json: bool) -> None:
    """Print the summary, or every event with its commands as JSON lines, and say whether live was the same.

    Raises:
        CommandError: the file is no recording, or misses events; with exit code 1: the commands are not those
        of the live run.
    """
    try:
        if show_commands:
            verdict = _print_commands(Replay(recording, allow_gaps=allow_gaps))
        else:
            summary = summarize(recording, allow_gaps=allow_gaps)
            verdict = summary.verdict
            if as_json:
                print(json.dumps(asdict(summary)))
            else:
                _print_summary(recording, summary)
    except RecordingError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{recording}: cannot be read: {error.strerror}") from None
    if verdict is Verdict.DIFFERENT:
        raise CommandError(
            f"{recording}: not the commands of the live run (other code, or the recording was changed)",
            exit_code=EXIT_FAILED,
        )
    if not as_json:
        stderr().print(f"{recording}: {_SAYINGS[verdict]}", markup=False)


_SAYINGS = {
    Verdict.SAME: "the same commands as the live run",
    Verdict.UNKNOWN: "not compared with the live run: the recording was cut short, or misses events",
}


def _print_commands(run: Replay) -> Verdict:
    for step in run.steps():
        line = {
            "now": step.now,
            "event": encode_tagged(step.event),
            "commands": [encode_tagged(command) for command in step.commands],
        }
        print(json.dumps(line))
    return run.verdict


def _print_summary(recording: Path, summary: ReplaySummary) -> None:
    console = stdout()
    console.print(
        f"{recording}: {summary.num_events} events over {summary.span_s:.1f} s, policy {summary.policy}, "
        f"epoch {summary.epoch}, recorded by version {summary.version}"
    )
    for title, counts in (("events", summary.events_by_kind), ("commands", summary.commands_by_kind)):
        console.print(f"{title}: " + ", ".join(f"{kind} {number}" for kind, number in counts.items()))
    console.print(f"digest of the commands: {summary.digest}")
    console.print(f"digest of the live run: {summary.live_digest or 'not in the recording'}")

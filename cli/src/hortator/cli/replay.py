"""`hortator replay`: a recorded scheduler run through a fresh core."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hortator.cli.console import stdout
from hortator.cli.errors import CommandError
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.event_json import encode_tagged
from hortator.scheduler.replay import replay, summarize


def run(recording: Path, *, allow_gaps: bool, show_commands: bool, as_json: bool) -> None:
    """Print the summary, or every event with its commands as JSON lines.

    Raises:
        CommandError: the file is no recording, or misses events.
    """
    try:
        if show_commands:
            for step in replay(recording, allow_gaps=allow_gaps):
                line = {
                    "now": step.now,
                    "event": encode_tagged(step.event),
                    "commands": [encode_tagged(command) for command in step.commands],
                }
                print(json.dumps(line))
            return
        summary = summarize(recording, allow_gaps=allow_gaps)
    except RecordingError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{recording}: cannot be read: {error.strerror}") from None
    if as_json:
        print(json.dumps(asdict(summary)))
        return
    console = stdout()
    console.print(
        f"{recording}: {summary.num_events} events over {summary.span_s:.1f} s, policy {summary.policy}, "
        f"epoch {summary.epoch}, recorded by version {summary.version}"
    )
    for title, counts in (("events", summary.events_by_kind), ("commands", summary.commands_by_kind)):
        console.print(f"{title}: " + ", ".join(f"{kind} {number}" for kind, number in counts.items()))
    console.print(f"digest of the commands: {summary.digest}")

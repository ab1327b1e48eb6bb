"""`hortator replay`: what it prints, and when it fails."""

import json

import pytest

from hortator.cli import replay
from hortator.cli.errors import CommandError
from hortator.scheduler.core.events import RequestArrived, RequestFinished
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.recorder import EventRecorder


@pytest.fixture
def recording(tmp_path):
    """A request that is refused because none may wait, and one event without an answer."""
    path = tmp_path / "events.jsonl"
    settings = SchedulerSettings(max_waiting_tokens=10)
    machine = SchedulerMachine(settings, epoch=1)
    recorder = EventRecorder(path, settings=settings, epoch=1)
    recorder.start()
    for now, event in (
        (0.5, RequestArrived(request_id="r", gateway_id="gw", num_prompt_tokens=100)),
        (1.5, RequestFinished(request_id="r", num_output_tokens=0)),
    ):
        recorder.record(now, event)
        recorder.answered(now, machine.handle(event, now))
    recorder.close()
    return path


def run(path, **options):
    replay.run(path, **({"allow_gaps": False, "show_commands": False, "as_json": False} | options))


def change(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_replay_says_that_the_commands_are_those_of_the_live_run(recording, capsys):
    run(recording)
    out, err = capsys.readouterr()
    assert "commands: Reject 1" in out
    assert out.splitlines()[-1].split()[-1] == out.splitlines()[-2].split()[-1]
    assert err == f"{recording}: the same commands as the live run\n"
    run(recording, as_json=True)
    summary = json.loads(capsys.readouterr().out)
    assert summary["verdict"] == "same"
    assert summary["digest"] == summary["live_digest"]


@pytest.mark.parametrize(
    "options", [{}, {"as_json": True}, {"show_commands": True}, {"allow_gaps": True}], ids=str
)
def test_a_changed_recording_ends_with_exit_code_1(recording, capsys, options):
    change(recording, '"num_prompt_tokens":100', '"num_prompt_tokens":10')
    with pytest.raises(CommandError) as caught:
        run(recording, **options)
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"{recording}: not the commands of the live run")
    assert "the same commands" not in capsys.readouterr().err


def test_every_event_is_printed_with_its_commands_and_then_compared(recording, capsys):
    run(recording, show_commands=True)
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["now"], first["event"][0], first["commands"][0][0]) == (0.5, "RequestArrived", "Reject")
    assert (second["now"], second["event"][0], second["commands"]) == (1.5, "RequestFinished", [])
    assert err == f"{recording}: the same commands as the live run\n"


def test_a_recording_without_its_beginning_is_refused_and_with_allow_gaps_not_compared(recording, capsys):
    change(recording, '"first_event":0', '"first_event":7')
    with pytest.raises(CommandError, match="starts at event 7") as caught:
        run(recording)
    assert caught.value.exit_code == 2
    run(recording, allow_gaps=True)
    assert "not compared with the live run" in capsys.readouterr().err
    run(recording, allow_gaps=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["verdict"] == "unknown"

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from hortator.scheduler.core.events import RequestArrived, TimerFired
from hortator.scheduler.core.model import SchedulerSettings
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.recorder import EventRecorder, Recording

SETTINGS = SchedulerSettings(policy="fixed-batch", interval_s=0.01)


def an_arrival(number: int) -> RequestArrived:
    return RequestArrived(request_id=f"r{number}", num_prompt_tokens=64, block_hashes=(number,) * 8)


def record(path, count, *, first=0, **options):
    recorder = EventRecorder(path, settings=SETTINGS, epoch=7, **options)
    recorder.start()
    for number in range(first, first + count):
        recorder.record(0.1 * number, an_arrival(number))
    recorder.close()
    return recorder


def test_what_was_recorded_is_read_back_with_its_times_and_header(tmp_path):
    path = tmp_path / "deep" / "events.jsonl"
    record(path, 100)
    recording = Recording(path)
    assert list(recording.events()) == [(0.1 * number, an_arrival(number)) for number in range(100)]
    assert recording.header.settings == SETTINGS
    assert recording.header.epoch == 7
    assert recording.is_complete


def test_a_file_over_its_size_goes_on_in_a_new_one_and_both_are_read_as_one(tmp_path):
    path = tmp_path / "events.jsonl"
    recorder = EventRecorder(path, settings=SETTINGS, epoch=7, max_file_bytes=500, write_interval_s=0.001)
    recorder.start()
    written = []
    for number in range(60):
        recorder.record(float(number), an_arrival(number))
        written.append((float(number), an_arrival(number)))
        if number % 20 == 19:
            wait_until_written(path, f'"r{number}"')
    recorder.close()
    assert (tmp_path / "events.jsonl.1").exists()
    assert (tmp_path / "events.jsonl.2").exists()
    recording = Recording(path)
    assert list(recording.events()) == written
    assert recording.end is not None
    assert recording.end.num_events == 60


def wait_until_written(path, text):
    done = threading.Event()
    for _ in range(2000):
        with contextlib.suppress(FileNotFoundError):  # renamed while we looked
            if any(text in file.read_text() for file in path.parent.iterdir()):
                return
        done.wait(0.001)
    raise AssertionError(f"{text} was never written")


def test_the_oldest_files_go_and_the_recording_says_that_its_beginning_is_missing(tmp_path):
    path = tmp_path / "events.jsonl"
    recorder = EventRecorder(
        path, settings=SETTINGS, epoch=7, max_file_bytes=100, max_files=2, write_interval_s=0.001
    )
    recorder.start()
    for number in range(5):
        recorder.record(float(number), an_arrival(number))
        wait_until_written(path, f'"r{number}"')
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 2
    recording = Recording(path)
    assert not recording.is_complete
    assert recording.header.first_event >= 3


def test_a_restart_keeps_the_earlier_recording_apart(tmp_path):
    path = tmp_path / "events.jsonl"
    record(path, 3)
    later = EventRecorder(path, settings=SETTINGS, epoch=8)
    later.start()
    later.record(1.0, TimerFired())
    later.close()
    assert list(Recording(path).events()) == [(1.0, TimerFired())]
    assert len(list(Recording(tmp_path / "events.jsonl.1").events())) == 3


def test_events_beyond_the_buffer_are_counted_and_leave_a_gap_that_a_reader_notices(tmp_path):
    path = tmp_path / "events.jsonl"
    recorder = EventRecorder(path, settings=SETTINGS, epoch=7, max_buffer_bytes=200, write_interval_s=0.001)
    for number in range(10):  # not started: nothing is written yet
        recorder.record(0.0, an_arrival(number))
    assert recorder.num_dropped > 0
    recorder.start()
    wait_until_written(path, '"r0"')
    recorder.record(1.0, TimerFired())
    recorder.close()
    with pytest.raises(RecordingError, match=f"{recorder.num_dropped} events are missing here"):
        list(Recording(path).events())
    assert list(Recording(path).events(allow_gaps=True))[-1] == (1.0, TimerFired())


def test_a_last_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    record(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1])[:-10])
    recording = Recording(path)
    assert len(list(recording.events())) == 2
    assert recording.end is None


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '[1.0, "Nothing", {}]', '["x", "TimerFired", {}]'])
def test_a_line_that_is_no_event_is_an_error_with_file_and_line(tmp_path, line):
    path = tmp_path / "events.jsonl"
    record(path, 2)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordingError, match=r"events\.jsonl:5: "):
        list(Recording(path).events())


@pytest.mark.parametrize("text", ["", "nonsense\n", "{}\n", '{"hortator_recording": 2}\n'])
def test_a_file_that_is_no_recording_is_refused(tmp_path, text):
    path = tmp_path / "events.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match="not a recording"):
        Recording(path)


def test_a_header_with_settings_of_another_version_is_refused_with_the_setting_named(tmp_path):
    path = tmp_path / "events.jsonl"
    record(path, 1)
    header, rest = path.read_text().split("\n", 1)
    fields = json.loads(header)
    fields["settings"]["gone"] = 1
    path.write_text(json.dumps(fields) + "\n" + rest)
    with pytest.raises(RecordingError, match="no field 'gone'"):
        Recording(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordingError, match=r"none\.jsonl"):
        Recording(tmp_path / "none.jsonl")

from __future__ import annotations

import pytest

from hortator.runtime.metrics import new_registry
from hortator.scheduler.core.commands import Dispatch
from hortator.scheduler.core.events import (
    ForwardPassEnded,
    RankStateReported,
    RequestArrived,
    RequestFinished,
    WorkerJoined,
)
from hortator.scheduler.core.machine import SchedulerMachine
from hortator.scheduler.core.model import GroupSpec, Phase, RankLoads, SchedulerSettings
from hortator.scheduler.digest import CommandDigest
from hortator.scheduler.driver import Driver
from hortator.scheduler.errors import RecordingError
from hortator.scheduler.metrics import SchedulerMetrics
from hortator.scheduler.recorder import EventRecorder
from hortator.scheduler.replay import Verdict, replay, summarize

IDLE = RankLoads(prefill_load_tokens=(0, 0), batch_size=(0, 0), kv_blocks_used=(0, 0))


def a_run():
    """(now, event) of a small run: one group, 20 requests, a pass now and then."""
    group = GroupSpec(
        group_id="g",
        boot_id="b",
        phase=Phase.AGGREGATED,
        dp_size=2,
        chunk_budget_tokens=2048,
        kv_blocks_total=10_000,
    )
    yield 0.0, WorkerJoined(group=group)
    yield 0.1, RankStateReported(group_id="g", included_dispatch_seq=0, loads=IDLE)
    for number in range(20):
        at = 0.2 + number / 10
        yield (
            at,
            RequestArrived(request_id=f"r{number}", gateway_id="gw", num_prompt_tokens=100 + 37 * number),
        )
        yield (
            at + 0.05,
            ForwardPassEnded(
                group_id="g",
                forward_pass_id=number + 1,
                duration_s=0.04,
                included_dispatch_seq=number + 1,
                loads=IDLE,
                pass_prefill_tokens=(100, 0),
            ),
        )
        yield at + 0.06, RequestFinished(request_id=f"r{number}", num_output_tokens=3)


def record_run(path, *, skip=0, **options):
    settings = SchedulerSettings(policy="staggered")
    recorder = EventRecorder(path, settings=settings, epoch=3, **options)
    recorder.start()
    driver = Driver(
        SchedulerMachine(settings, epoch=3),
        metrics=SchedulerMetrics(new_registry(with_process=False), policy="staggered"),
        policy="staggered",
        recorder=recorder,
    )
    digest = CommandDigest()
    commands = []
    for now, event in list(a_run())[skip:]:
        out = driver.handle(event, now)
        digest.update(now, out)
        commands += out
    recorder.close()
    return digest.hexdigest(), commands


def test_a_replayed_recording_gives_the_commands_of_the_live_run(tmp_path):
    live_digest, live_commands = record_run(tmp_path / "events.jsonl")
    replayed = [command for step in replay(tmp_path / "events.jsonl") for command in step.commands]
    assert sum(isinstance(command, Dispatch) for command in live_commands) > 0
    assert replayed == live_commands
    summary = summarize(tmp_path / "events.jsonl")
    assert summary.digest == summary.live_digest == live_digest
    assert summary.verdict is Verdict.SAME


def test_the_same_file_always_gives_the_same_summary(tmp_path):
    record_run(tmp_path / "events.jsonl")
    first = summarize(tmp_path / "events.jsonl")
    assert summarize(tmp_path / "events.jsonl") == first
    assert first.num_events == 62
    assert first.events_by_kind["RequestArrived"] == 20
    assert first.policy == "staggered"
    assert first.epoch == 3
    assert first.span_s == pytest.approx(2.16)


def test_other_events_give_another_digest(tmp_path):
    record_run(tmp_path / "a.jsonl")
    record_run(tmp_path / "b.jsonl", skip=3)
    assert summarize(tmp_path / "a.jsonl").digest != summarize(tmp_path / "b.jsonl").digest


def test_the_digest_depends_on_order_and_time():
    _, commands = [], [Dispatch(batch=batch) for batch in _two_batches()]
    one, other, later = CommandDigest(), CommandDigest(), CommandDigest()
    one.update(1.0, commands)
    other.update(1.0, commands[::-1])
    later.update(1.5, commands)
    assert len({one.hexdigest(), other.hexdigest(), later.hexdigest()}) == 3


def _two_batches():
    from hortator.scheduler.core.model import Batch

    for number in (1, 2):
        yield Batch(
            batch_id=f"1-{number}",
            group_id="g",
            phase=Phase.PREFILL,
            dispatch_seq=number,
            predicted_pass_s=0.1,
            placements=(),
        )


def test_a_recording_without_its_beginning_is_replayed_only_when_that_is_allowed(tmp_path):
    path = tmp_path / "events.jsonl"
    record_run(path)
    path.write_text(path.read_text().replace('"first_event":0', '"first_event":10'))
    with pytest.raises(RecordingError, match="starts at event 10"):
        list(replay(path))
    assert len(list(replay(path, allow_gaps=True))) == 62
    assert summarize(path, allow_gaps=True).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"num_prompt_tokens":137', '"num_prompt_tokens":138', id="an event"),
        pytest.param('"digest":"', '"digest":"0', id="the digest"),
        pytest.param('"end":62', '"end":63', id="the number of events"),
        pytest.param('"settings":{}', '"settings":{"policy":"immediate-round-robin"}', id="the settings"),
    ],
)
def test_a_changed_recording_is_different_from_the_live_run(tmp_path, old, new):
    path = tmp_path / "events.jsonl"
    record_run(path)
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert summarize(path).verdict is Verdict.DIFFERENT


def test_a_recording_without_its_end_is_not_compared(tmp_path):
    path = tmp_path / "events.jsonl"
    record_run(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    summary = summarize(path)
    assert (summary.num_events, summary.live_digest, summary.verdict) == (62, None, Verdict.UNKNOWN)


def test_a_recording_that_lost_events_has_no_digest_of_the_live_run(tmp_path):
    path = tmp_path / "events.jsonl"
    record_run(path, max_buffer_bytes=500)
    assert '"end"' not in path.read_text()
    assert summarize(path, allow_gaps=True).verdict is Verdict.UNKNOWN

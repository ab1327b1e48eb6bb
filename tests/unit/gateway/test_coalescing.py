"""When tokens go out."""

from __future__ import annotations

import pytest

from hortator.gateway.coalescing import Coalescer, DueWheel


def test_a_few_streams_are_never_held():
    coalescer = Coalescer(max_window_s=0.05, target_messages_per_s=8000)
    assert coalescer.due_at(10.0) == 10.0
    coalescer.streams_changed(8)
    assert coalescer.due_at(10.0) == pytest.approx(10.001)  # 8 streams / 8 000 per second


def test_the_window_grows_with_the_streams_up_to_its_maximum():
    coalescer = Coalescer(max_window_s=0.05, target_messages_per_s=8000)
    coalescer.streams_changed(160)
    assert coalescer.window_s == pytest.approx(0.02)
    coalescer.streams_changed(400)
    assert coalescer.window_s == pytest.approx(0.05)
    coalescer.streams_changed(100_000)
    assert coalescer.window_s == 0.05
    coalescer.streams_changed(0)
    assert coalescer.window_s == 0.0


def test_a_window_of_zero_turns_coalescing_off():
    coalescer = Coalescer(max_window_s=0.0, target_messages_per_s=1)
    coalescer.streams_changed(1000)
    assert coalescer.due_at(3.0) == 3.0


@pytest.mark.parametrize(
    ("window_s", "target"), [(0.051, 1.0), (-0.001, 1.0), (0.02, 0.0), (float("nan"), 1.0)]
)
def test_windows_beyond_50_ms_and_senseless_targets_are_refused(window_s, target):
    with pytest.raises(ValueError, match="must be"):
        Coalescer(max_window_s=window_s, target_messages_per_s=target)


def test_nothing_leaves_the_wheel_later_than_due_or_a_slot_early():
    wheel: DueWheel[str] = DueWheel(slot_s=0.004)
    assert wheel.next_at() is None
    due = {name: 5.0 + 0.0013 * number for number, name in enumerate("abcdefghij")}
    for name, due_at in due.items():
        wheel.add(due_at, name)
    assert len(wheel) == 10
    left: dict[str, float] = {}
    while (now := wheel.next_at()) is not None:
        for name in wheel.take_due(now):
            left[name] = now
    assert left.keys() == due.keys()
    for name, left_at in left.items():
        assert due[name] - 0.004 <= left_at <= due[name] + 1e-9


def test_only_a_new_slot_asks_for_another_look_at_the_timer():
    wheel: DueWheel[str] = DueWheel(slot_s=0.004)
    assert wheel.add(1.0001, "a")
    assert not wheel.add(1.0002, "b")
    assert wheel.add(0.5, "c")
    assert wheel.next_at() == pytest.approx(0.5)
    assert wheel.take_due(2.0) == ["c", "a", "b"]
    assert wheel.take_due(2.0) == []

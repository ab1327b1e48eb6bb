"""The admission gate: batch manifests and members meet, in either order, and enter as one."""

from __future__ import annotations

import pytest

from hortator.worker.gate import Admit, Arrival, Gate, GateLimits, Manifest, Pull, Refuse, Split

LIMITS = GateLimits(
    max_idle_s=0.005,
    idle_share=0.02,
    min_idle_s=0.002,
    manifest_wait_s=0.1,
    absent_wait_s=0.5,
    max_remembered=4,
)


def key(name: str, attempt: int = 0) -> tuple[str, int]:
    return (name, attempt)


def manifest(
    *names: str, batch: str = "b1", seq: int = 1, epoch: int = 1, predicted_s: float = 1.0
) -> Manifest:
    return Manifest(
        batch_id=batch,
        epoch=epoch,
        dispatch_seq=seq,
        members=tuple(key(name) for name in names),
        predicted_pass_s=predicted_s,
    )


def arrival(
    name: str, *, batch: str = "b1", size: int = 2, seq: int = 1, epoch: int = 1, kv: bool = False
) -> Arrival:
    return Arrival(key=key(name), epoch=epoch, batch_id=batch, batch_size=size, dispatch_seq=seq, needs_kv=kv)


@pytest.fixture
def gate() -> Gate:
    return Gate(LIMITS)


def admitted(commands) -> list[tuple[str, ...]]:
    return [tuple(name for name, _ in c.keys) for c in commands if isinstance(c, Admit)]


def test_a_batch_enters_as_one_when_its_last_member_comes_after_the_manifest(gate):
    assert gate.on_manifest(manifest("r1", "r2"), 0.0) == []
    assert gate.on_arrival(arrival("r1"), 0.001) == []
    commands = gate.on_arrival(arrival("r2"), 0.003)
    assert commands == [Admit(keys=(key("r1"), key("r2")), waited_s=pytest.approx(0.002))]


def test_a_batch_that_is_complete_does_not_wait_for_its_manifest(gate):
    assert gate.on_arrival(arrival("r1"), 0.0) == []
    assert admitted(gate.on_arrival(arrival("r2"), 0.0)) == [("r1", "r2")]
    assert gate.on_manifest(manifest("r1", "r2"), 0.01) == []
    assert gate.next_wakeup() is None


class TestPlacedByItsGateway:
    """A gateway that had no leader chose this worker: without a batch, in the newest epoch that it knows."""

    def placed(self, *, epoch: int, kv: bool = False) -> Arrival:
        return Arrival(key=key("r1"), epoch=epoch, needs_kv=kv, is_degraded=True)

    def test_it_enters_at_once_in_the_epoch_that_is_known_here(self, gate):
        gate.on_epoch(7)
        assert admitted(gate.on_arrival(self.placed(epoch=7), 0.0)) == [("r1",)]
        assert gate.on_arrival(self.placed(epoch=7, kv=True), 0.0) == [Pull(key=key("r1"))]

    def test_it_enters_where_its_leader_is_not_known_yet_and_fences_nobody(self, gate):
        gate.on_epoch(6)
        assert admitted(gate.on_arrival(self.placed(epoch=7), 0.0)) == [("r1",)]
        assert gate.epoch == 6

    @pytest.mark.parametrize("kv", [False, True])
    def test_a_newer_leader_fences_it(self, gate, kv):
        gate.on_epoch(8)
        (command,) = gate.on_arrival(self.placed(epoch=7, kv=kv), 0.0)
        assert command == Refuse(key=key("r1"), message="placed in epoch 7, this worker is in epoch 8")

    def test_a_worker_that_drains_refuses_it(self, gate):
        gate.start_draining()
        (command,) = gate.on_arrival(self.placed(epoch=7), 0.0)
        assert command == Refuse(key=key("r1"), message="draining")


def test_a_submission_without_a_batch_enters_at_once_whatever_its_epoch(gate):
    gate.on_epoch(7)
    assert admitted(gate.on_arrival(arrival("r1", batch="", epoch=0), 0.0)) == [("r1",)]


@pytest.mark.parametrize(
    ("predicted_s", "limit_s"),
    [
        pytest.param(1.0, 0.005, id="max_idle_s"),  # 2 % of 1 s is 20 ms, capped
        pytest.param(0.15, 0.003, id="idle_share"),  # 2 % of 150 ms
        pytest.param(0.01, 0.002, id="min_idle_s"),  # 2 % of 10 ms is 0.2 ms, raised
        pytest.param(0.0, 0.005, id="unknown"),
    ],
)
def test_an_idle_engine_waits_for_a_missing_member_only_so_long(gate, predicted_s, limit_s):
    gate.on_manifest(manifest("r1", "r2", predicted_s=predicted_s), 0.0)
    gate.on_arrival(arrival("r1"), 1e-3)
    assert gate.next_wakeup() == pytest.approx(1e-3 + limit_s)
    assert gate.on_timer(gate.next_wakeup() - 1e-6) == []
    commands = gate.on_timer(gate.next_wakeup())
    assert admitted(commands) == [("r1",)]
    assert Split(batch_id="b1", request_ids=("r2",)) in commands


def test_a_batch_that_is_still_being_received_is_not_split(gate):
    names = [f"r{number}" for number in range(40)]
    gate.on_manifest(manifest(*names), 0.0)
    for number, name in enumerate(names[:-1]):
        now = number * 0.0005  # 40 members at 2 000 a second: 20 ms, four times the limit
        assert gate.on_timer(now) == []
        assert gate.on_arrival(arrival(name, size=40), now) == []
    assert admitted(gate.on_arrival(arrival(names[-1], size=40), 0.0195)) == [tuple(names)]


def test_a_trickle_of_members_does_not_stretch_the_wait_without_end(gate):
    names = [f"r{number}" for number in range(10)]
    gate.on_manifest(manifest(*names), 0.0)
    for number in range(3):
        gate.on_arrival(arrival(names[number], size=10), number * 0.004)
    # 5 ms after the last would be 13 ms; the cap is 5 ms + 10 x 0.5 ms
    assert gate.next_wakeup() == pytest.approx(0.010)


def test_a_late_member_is_refused_and_may_come_again_in_another_batch(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    gate.on_arrival(arrival("r1"), 0.0)
    gate.on_timer(0.005)
    assert gate.on_arrival(arrival("r2"), 0.006) == [Refuse(key=key("r2"), message="late for its batch")]
    gate.on_manifest(manifest("r2", batch="b2", seq=2), 0.02)
    assert admitted(gate.on_arrival(arrival("r2", batch="b2", size=1, seq=2), 0.021)) == [("r2",)]


def test_while_a_pass_runs_waiting_is_free_and_ends_with_that_pass_plus_the_limit(gate):
    gate.on_pass_started(0.4)
    gate.on_manifest(manifest("r1", "r2"), 0.1)
    gate.on_arrival(arrival("r1"), 0.1)
    assert gate.next_wakeup() is None
    assert gate.on_timer(0.39) == []
    assert gate.on_pass_ended(0.4, 0.4) == []
    assert gate.next_wakeup() == pytest.approx(0.405)
    # Another pass that starts in the meantime (decodes run on) does not make it wait again.
    gate.on_pass_started(0.4)
    assert admitted(gate.on_timer(0.405)) == [("r1",)]


def test_a_batch_that_waits_at_an_idle_engine_waits_on_for_free_when_a_pass_starts(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    gate.on_arrival(arrival("r1"), 0.0)
    gate.on_pass_started(0.2)
    assert gate.next_wakeup() is None
    gate.on_pass_ended(0.2, 0.2)
    assert admitted(gate.on_arrival(arrival("r2"), 0.201)) == [("r1", "r2")]


def test_a_batch_that_waited_for_one_pass_does_not_wait_for_the_next(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    gate.on_arrival(arrival("r1"), 0.0)
    gate.on_pass_started(0.2)
    gate.on_pass_ended(0.2, 0.2)
    gate.on_pass_started(0.2)
    assert gate.next_wakeup() == pytest.approx(0.205)


def test_without_a_manifest_members_wait_longer_and_the_late_are_named_when_it_comes(gate):
    gate.on_arrival(arrival("r1", size=3), 0.0)
    assert gate.next_wakeup() == pytest.approx(0.1)
    assert gate.on_timer(0.1) == [Admit(keys=(key("r1"),), waited_s=pytest.approx(0.1))]
    assert gate.on_manifest(manifest("r1", "r2", "r3"), 0.15) == [
        Split(batch_id="b1", request_ids=("r2", "r3"))
    ]
    assert gate.on_manifest(manifest("r1", "r2", "r3"), 0.16) == []


def test_a_manifest_that_comes_after_members_shortens_their_wait(gate):
    gate.on_arrival(arrival("r1", size=3), 0.0)
    gate.on_manifest(manifest("r1", "r2", "r3"), 0.003)
    assert gate.next_wakeup() == pytest.approx(0.0065)  # 5 ms + 3 x 0.5 ms since r1


def test_a_batch_of_which_nobody_comes_is_given_up(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    assert gate.on_timer(0.4) == []
    assert gate.on_timer(0.5) == [Split(batch_id="b1", request_ids=("r1", "r2"))]
    assert gate.included(0.5) == 1


def test_a_batch_is_given_up_when_its_only_member_is_cancelled_while_a_pass_runs(gate):
    """Nobody is left to wait for the pass; the manifest never came, so nothing else would end the batch."""
    gate.on_pass_started(1.0)
    gate.on_arrival(arrival("a"), 0.0)
    assert gate.on_gone(key("a"), 0.1) == []
    assert gate.next_wakeup() == pytest.approx(0.6)  # 0.1 + absent_wait_s
    assert gate.on_timer(0.6) == []
    assert gate.is_idle
    assert gate.included(0.6) == 1


def test_a_batch_is_given_up_when_only_strangers_waited_for_the_pass(gate):
    """The manifest names members of which nobody comes."""
    gate.on_pass_started(1.0)
    gate.on_arrival(arrival("x"), 0.0)
    gate.on_manifest(manifest("a", "b"), 0.1)
    gate.on_timer(0.6)
    assert gate.is_idle


def test_a_cancelled_member_shrinks_its_batch(gate):
    gate.on_manifest(manifest("r1", "r2", "r3"), 0.0)
    gate.on_arrival(arrival("r1", size=3), 0.0)
    gate.on_arrival(arrival("r2", size=3), 0.0)
    assert admitted(gate.on_gone(key("r3"), 0.001)) == [("r1", "r2")]


def test_a_member_that_is_cancelled_while_it_waits_does_not_enter(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    gate.on_arrival(arrival("r1"), 0.0)
    gate.on_gone(key("r1"), 0.0)
    assert admitted(gate.on_arrival(arrival("r2"), 0.001)) == [("r2",)]


def test_a_batch_whose_members_are_all_cancelled_is_settled_without_an_admission(gate):
    gate.on_manifest(manifest("r1"), 0.0)
    assert gate.on_gone(key("r1"), 0.0) == []
    assert gate.included(0.0) == 1
    assert gate.is_idle


def test_a_cancelled_member_that_comes_after_all_is_refused(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    gate.on_gone(key("r1"), 0.0)
    assert gate.on_arrival(arrival("r1"), 0.0) == [Refuse(key=key("r1"), message="cancelled")]


def test_a_stranger_in_a_batch_is_refused(gate):
    gate.on_manifest(manifest("r1", "r2"), 0.0)
    assert gate.on_arrival(arrival("x"), 0.0) == [Refuse(key=key("x"), message="not a member of its batch")]


def test_a_stranger_that_came_before_the_manifest_is_refused_when_it_comes(gate):
    gate.on_arrival(arrival("x", size=3), 0.0)
    gate.on_arrival(arrival("r1", size=3), 0.0)
    commands = gate.on_manifest(manifest("r1"), 0.0)
    assert Refuse(key=key("x"), message="not a member of its batch") in commands
    assert admitted(commands) == [("r1",)]


class TestEpochs:
    def test_a_member_placed_by_a_former_leader_is_refused(self, gate):
        gate.on_epoch(3)
        (command,) = gate.on_arrival(arrival("r1", epoch=2), 0.0)
        assert isinstance(command, Refuse)
        assert "epoch 2" in command.message

    def test_a_new_leader_ends_what_waits_of_the_former_one(self, gate):
        gate.on_manifest(manifest("r1", "r2", epoch=1), 0.0)
        gate.on_arrival(arrival("r1", epoch=1), 0.0)
        assert gate.on_epoch(2) == [Refuse(key=key("r1"), message="placed by a former leader")]
        assert gate.next_wakeup() is None
        assert gate.is_idle

    def test_a_member_of_a_newer_epoch_teaches_the_gate_about_it(self, gate):
        gate.on_arrival(arrival("r1", size=1, epoch=5), 0.0)
        assert gate.epoch == 5

    def test_a_manifest_of_a_former_leader_is_ignored(self, gate):
        gate.on_epoch(2)
        gate.on_manifest(manifest("r1", epoch=1), 0.0)
        assert gate.is_idle


class TestDecodeBatches:
    """Members whose KV comes from elsewhere do not hold each other up."""

    def test_each_member_enters_with_its_own_kv(self, gate):
        gate.on_manifest(manifest("r1", "r2"), 0.0)
        assert gate.on_arrival(arrival("r1", kv=True), 0.0) == [Pull(key=key("r1"))]
        assert gate.on_kv_pulled(key("r1")) == [Admit(keys=(key("r1"),))]

    def test_the_batch_is_included_when_every_member_is_accounted_for(self, gate):
        gate.on_manifest(manifest("r1", "r2", "r3"), 0.0)
        for name in ("r1", "r2", "r3"):
            gate.on_arrival(arrival(name, size=3, kv=True), 0.0)
        gate.on_kv_pulled(key("r1"))
        gate.on_submitted([key("r1")])
        gate.on_gone(key("r2"), 0.1)  # its KV was lost
        assert gate.included(0.1) == 0
        gate.on_kv_pulled(key("r3"))
        gate.on_submitted([key("r3")])
        assert gate.included(0.1) == 1

    def test_a_member_that_does_not_come_is_late_but_holds_nobody_up(self, gate):
        gate.on_manifest(manifest("r1", "r2"), 0.0)
        gate.on_arrival(arrival("r1", kv=True), 0.0)
        gate.on_kv_pulled(key("r1"))
        gate.on_submitted([key("r1")])
        assert gate.on_timer(0.5) == [Split(batch_id="b1", request_ids=("r2",))]
        assert gate.included(0.5) == 1


class TestInclusion:
    """A report may claim a dispatch only when all of it is inside the engine, or will never be."""

    def test_a_batch_is_included_once_the_engine_has_it(self, gate):
        gate.on_manifest(manifest("r1"), 0.0)
        gate.on_arrival(arrival("r1", size=1), 0.0)
        assert gate.included(0.0) == 0
        gate.on_submitted([key("r1")])
        assert gate.included(0.0) == 1

    def test_a_later_batch_does_not_hide_an_earlier_one(self, gate):
        gate.on_manifest(manifest("r1", "r2", batch="b1", seq=1), 0.0)
        gate.on_manifest(manifest("r3", batch="b2", seq=2), 0.0)
        gate.on_arrival(arrival("r3", batch="b2", size=1, seq=2), 0.0)
        gate.on_submitted([key("r3")])
        assert gate.included(0.0) == 0
        gate.on_gone(key("r1"), 0.0)
        gate.on_gone(key("r2"), 0.0)
        assert gate.included(0.0) == 2

    def test_counting_starts_again_with_a_new_epoch(self, gate):
        gate.on_manifest(manifest("r1", epoch=1), 0.0)
        gate.on_arrival(arrival("r1", size=1, epoch=1), 0.0)
        gate.on_epoch(2)
        assert gate.included(0.0) == 0
        gate.on_manifest(manifest("r9", batch="b9", epoch=2), 0.0)
        gate.on_submitted([key("r1")])  # of the former epoch: settles nothing of this one
        assert gate.included(0.0) == 0


class TestDraining:
    def test_known_batches_go_on_and_new_ones_are_refused(self, gate):
        gate.on_manifest(manifest("r1"), 0.0)
        gate.start_draining()
        assert admitted(gate.on_arrival(arrival("r1", size=1), 0.0)) == [("r1",)]
        assert gate.on_arrival(arrival("r2", batch="b2", seq=2), 0.0) == [
            Refuse(key=key("r2"), message="draining")
        ]
        assert gate.on_arrival(arrival("r3", batch=""), 0.0) == [Refuse(key=key("r3"), message="draining")]

    def test_a_manifest_that_crosses_the_drain_goes_straight_back(self, gate):
        gate.start_draining()
        assert gate.on_manifest(manifest("r1"), 0.0) == [Split(batch_id="b1", request_ids=("r1",))]
        assert gate.included(0.0) == 1
        assert gate.is_idle


def test_memory_stays_bounded_over_many_batches():
    gate = Gate(LIMITS)
    for seq in range(1, 200):
        name = f"r{seq}"
        gate.on_manifest(manifest(name, batch=f"b{seq}", seq=seq), 0.0)
        gate.on_arrival(arrival(name, batch=f"b{seq}", size=1, seq=seq), 0.0)
        gate.on_submitted([key(name)])
    assert gate.included(0.0) == 199
    assert gate.is_idle
    assert len(gate._closed) == LIMITS.max_remembered

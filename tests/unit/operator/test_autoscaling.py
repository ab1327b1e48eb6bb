"""The operator's own scaler: what spec.replicas should be, and whose it is."""

from datetime import UTC, datetime, timedelta

import pytest

from hortator.api.v1alpha1 import AutoscalingSpec, AutoscalingStatus
from hortator.operator.autoscaling import ScalingState, decide, digest
from hortator.operator.demand import Demand, Sample, sample_of, sample_of_role
from hortator.operator.observed import SchedulerView, WorkerLoad

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SCALING = AutoscalingSpec.model_validate(
    {"maxReplicas": 5, "targetTTFT": "2s", "scaleUpWindow": "1m", "scaleDownWindow": "10m"}
)
SETTINGS = digest(SCALING)


def state(replicas, *, ready=True, hold=""):
    return ScalingState(
        replicas=replicas, units="role sets", asked_of="every role", are_all_ready=ready, hold=hold
    )


def wrote(replicas, next_replicas=None, *, settings=SETTINGS):
    return AutoscalingStatus(settings=settings, replicas=replicas, next_replicas=next_replicas)


def demand(*num_units, serving=9, ttft_s=None):
    """One sample every 10 s, the last one now; before them, the first for two hours."""
    start = NOW - timedelta(seconds=10 * (len(num_units) - 1))
    samples = [
        Sample(at=start + timedelta(seconds=10 * i), num_units=units, num_serving=serving, ttft_s=ttft_s)
        for i, units in enumerate(num_units)
    ]
    old = Sample(at=NOW - timedelta(hours=2), num_units=num_units[0], num_serving=serving, ttft_s=ttft_s)
    return Demand(samples=(old, *samples))


def wanted(replicas, asked, *, scaling=SCALING, ready=True, hold=""):
    """What it announces for a service that is its own."""
    decision = decide(
        scaling,
        state=state(replicas, ready=ready, hold=hold),
        demand=asked,
        memory=wrote(replicas, settings=digest(scaling)),
        now=NOW,
    )
    assert decision.write is None
    assert decision.memory.replicas == replicas
    return decision.memory.next_replicas or replicas


@pytest.mark.parametrize(
    ("replicas", "num_sets", "expected"),
    [
        (1, 1.0, 1),
        (1, 1.09, 1),  # within a tenth
        (1, 1.2, 2),  # as a HorizontalPodAutoscaler would
        (1, 2.5, 3),  # at once
        (1, 9.0, 5),  # maxReplicas
        (3, 2.9, 3),
        (3, 1.9, 3),  # two sets would be more than nine tenths full
        (3, 1.8, 2),
        (3, 0.1, 2),  # one at a time
        (1, 0.0, 1),  # minReplicas
    ],
)
def test_so_many_sets_are_wanted_for_a_steady_demand(replicas, num_sets, expected):
    assert wanted(replicas, demand(*[num_sets] * 100)) == expected


def test_up_only_what_was_asked_for_all_through_the_window():
    """A dip in the last minute: the least of it counts. A dip before it does not."""
    assert wanted(1, demand(*[3.0] * 60, 1.5, *[3.0] * 3)) == 2
    assert wanted(1, demand(*[3.0] * 60, 1.0, *[3.0] * 3)) == 1
    assert wanted(1, demand(*[1.0] * 60, *[3.0] * 7)) == 3


def test_down_only_when_the_rest_was_enough_all_through_the_window():
    """One busy moment nine minutes ago keeps the set; eleven minutes ago does not."""
    assert wanted(2, demand(*[0.5] * 60, 1.5, *[0.5] * 55)) == 2
    assert wanted(2, demand(1.5, *[0.5] * 66)) == 1


def test_a_window_that_is_not_full_decides_nothing():
    """An operator that has just started neither adds nor takes."""
    young = Demand(samples=demand(*[4.0] * 4).samples[1:])
    assert wanted(1, young) == 1
    young = Demand(samples=demand(*[0.1] * 30).samples[1:])
    assert wanted(3, young) == 3


def test_sets_that_are_starting_are_not_asked_for_again():
    """2.5 sets are asked for, 3 are there, 2 of them starting for an hour: nothing more."""
    assert wanted(3, demand(*[2.5] * 100, serving=1, ttft_s=9.0), ready=False) == 3
    assert wanted(3, demand(*[3.6] * 100, serving=1), ready=False) == 4  # but more demand is


def test_nothing_goes_while_anything_starts_or_moves():
    assert wanted(3, demand(*[0.1] * 100), ready=False) == 3


def test_one_more_while_the_predicted_ttft_is_too_long_and_all_serve():
    slow = demand(*[0.9] * 100, serving=1, ttft_s=2.5)
    assert wanted(1, slow) == 2
    assert wanted(1, demand(*[0.9] * 100, serving=1, ttft_s=1.5)) == 1
    assert (
        wanted(2, demand(*[0.9] * 100, serving=1, ttft_s=2.5)) == 2
    )  # the second has not served for so long
    assert wanted(5, demand(*[4.9] * 100, ttft_s=2.5)) == 5  # maxReplicas


def test_what_is_too_slow_loses_no_set():
    assert wanted(2, demand(*[0.5] * 100, serving=1, ttft_s=2.5)) == 2


def test_bounds_hold_at_once():
    """Without a word from any scheduler."""
    scaling = SCALING.model_copy(update={"min_replicas": 2})
    assert wanted(1, Demand(), scaling=scaling) == 2
    assert wanted(7, Demand(), scaling=scaling) == 5


def test_nothing_is_scaled_while_it_is_held():
    decision = decide(
        SCALING,
        state=state(1, hold="the rollout makes no progress"),
        demand=demand(*[3.0] * 100),
        memory=wrote(1),
        now=NOW,
    )
    assert (decision.memory, decision.write) == (wrote(1), None)
    assert (decision.is_active, decision.reason) == (False, "ScalingHeld")


def test_a_write_is_announced_first_and_known_afterwards():
    """Killed between any two steps, the operator knows its write again."""
    asked = demand(*[2.0] * 100)
    announced = decide(SCALING, state=state(1), demand=asked, memory=wrote(1), now=NOW)
    assert (announced.memory, announced.write) == (wrote(1, 2), None)
    written = decide(SCALING, state=state(1), demand=asked, memory=announced.memory, now=NOW)
    assert (written.memory, written.write) == (wrote(1, 2), 2)
    for before in (written.memory, wrote(2)):  # before and after the status says so
        known = decide(SCALING, state=state(2), demand=asked, memory=before, now=NOW)
        assert (known.memory, known.write, known.reason) == (wrote(2), None, "Scaling")


def test_an_announcement_that_is_out_of_date_is_not_carried_out():
    decision = decide(SCALING, state=state(1), demand=demand(*[3.0] * 100), memory=wrote(1, 2), now=NOW)
    assert (decision.memory, decision.write) == (wrote(1, 3), None)
    decision = decide(SCALING, state=state(1), demand=demand(*[1.0] * 100), memory=wrote(1, 2), now=NOW)
    assert (decision.memory, decision.write) == (wrote(1), None)


@pytest.mark.parametrize("others", [0, 1, 4])
def test_what_somebody_else_wrote_stays(others):
    """A person, a HorizontalPodAutoscaler: whatever is asked for, and whatever the bounds."""
    decision = decide(SCALING, state=state(others), demand=demand(*[3.0] * 100), memory=wrote(2, 3), now=NOW)
    assert (decision.memory, decision.write) == (wrote(2, 3), None)
    assert (decision.is_active, decision.reason) == (False, "ScaledByOthers")
    assert decision.message == (f"somebody else has set spec.replicas to {others}; the scaler had it at 2")


def test_other_settings_or_the_old_number_hand_it_back():
    asked = demand(*[3.0] * 100)
    assert decide(SCALING, state=state(2), demand=asked, memory=wrote(2), now=NOW).memory == wrote(2, 3)
    other = SCALING.model_copy(update={"max_replicas": 6})
    decision = decide(other, state=state(4), demand=asked, memory=wrote(2), now=NOW)
    assert decision.memory == wrote(4, settings=digest(other))
    assert decision.is_active


def test_a_load_that_is_not_known_is_said():
    decision = decide(SCALING, state=state(2), demand=Demand(), memory=wrote(2), now=NOW)
    assert (decision.memory, decision.write, decision.reason) == (wrote(2), None, "LoadUnknown")


class TestDemand:
    """From a scheduler's answers to samples."""

    def view(self, saturation, **num_groups):
        workers = {
            f"{phase}-{i}": WorkerLoad(
                worker_id=f"{phase}-{i}",
                phase=phase,
                boot_id="1-1-a",
                state="running" if i else "draining" if phase == "aggregated" else "ready",
                num_in_flight=0,
                num_ranks=8,
                is_draining=False,
            )
            for phase, num in num_groups.items()
            for i in range(num)
        }
        return SchedulerView(epoch=1, workers=workers, saturation=saturation, predicted_ttft_s=0.5)

    @pytest.fixture
    def spec(self, sample, changed):
        """A set is two prefill groups and one decode group."""
        scaling = {"minReplicas": 1, "maxReplicas": 4, "targetSaturation": 0.5}
        return changed(sample("simulated-64"), {"spec.autoscaling": scaling}).spec

    def test_the_role_that_asks_for_most_decides(self, spec):
        """3 prefill groups at 0.6, two a set, should be at 0.5: 1.8 sets. Decode asks for 1.6."""
        view = self.view({"prefill": 0.6, "decode": 0.4}, prefill=3, decode=2)
        assert sample_of(spec, view, NOW) == Sample(
            at=NOW, num_units=pytest.approx(1.8), num_serving=1, ttft_s=0.5
        )
        view = self.view({"prefill": 0.6, "decode": 0.5}, prefill=3, decode=2)
        found = sample_of(spec, view, NOW)
        assert found is not None
        assert found.num_units == pytest.approx(2.0)

    def test_a_role_of_which_nothing_is_known_makes_all_of_it_unknown(self, spec):
        assert sample_of(spec, self.view({"prefill": 0.6}, prefill=3, decode=2), NOW) is None
        assert sample_of(spec, None, NOW) is None

    def test_a_role_with_a_scaler_of_its_own_has_no_say_in_the_sets(self, spec):
        """Prefill asks for 1.8 sets, decode for 1.6; without prefill nobody's time to first token counts."""
        view = self.view({"prefill": 0.6, "decode": 0.4}, prefill=3, decode=2)
        found = sample_of(spec, view, NOW, scaled_apart={"Prefill"})
        assert found == Sample(at=NOW, num_units=pytest.approx(1.6), num_serving=2, ttft_s=None)
        assert sample_of(spec, self.view({"decode": 0.4}, decode=2), NOW, scaled_apart={"Prefill"})
        assert sample_of(spec, view, NOW, scaled_apart={"Prefill", "Decode"}) is None

    def test_groups_of_a_role_are_asked_for_per_set(self, spec):
        """Six prefill groups in two sets at 0.6, which should be at 0.5: 7.2 of them, 3.6 a set."""
        view = self.view({"prefill": 0.6}, prefill=6)
        scaling = SCALING.model_copy(update={"target_saturation": 0.5})
        two_sets = spec.model_copy(update={"replicas": 2})
        found = sample_of_role(two_sets, "Prefill", scaling, view, NOW)
        assert found == Sample(at=NOW, num_units=pytest.approx(3.6), num_serving=3, ttft_s=0.5)
        found = sample_of_role(spec, "Decode", scaling, self.view({"decode": 0.6}, decode=2), NOW)
        assert found == Sample(at=NOW, num_units=pytest.approx(2.4), num_serving=2, ttft_s=None)
        no_set = spec.model_copy(update={"replicas": 0})
        assert sample_of_role(no_set, "Prefill", scaling, view, NOW) is None

    def test_samples_stand_ten_seconds_apart_and_end_with_the_windows(self):
        kept = Demand()
        for second in range(2000):
            now = NOW + timedelta(seconds=second)
            sample = Sample(at=now, num_units=1.0, num_serving=1, ttft_s=None)
            kept = kept.with_sample(sample, now, SCALING)
        assert len(kept.samples) == 600 / 10 + 60 / 10 + 1
        assert len(kept.within(60.0, now)) == 6
        assert len(kept.within(600.0, now)) == 60
        assert kept.within(900.0, now) == ()

    def test_what_nobody_looked_at_for_a_minute_begins_anew(self):
        late = NOW + timedelta(seconds=61)
        sample = Sample(at=late, num_units=1.0, num_serving=1, ttft_s=None)
        assert demand(*[1.0] * 9).with_sample(sample, late, SCALING) == Demand(samples=(sample,))
        assert demand(*[1.0] * 9).with_sample(None, NOW, SCALING) == Demand()

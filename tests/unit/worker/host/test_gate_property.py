"""Whatever the order of events: every member has exactly one outcome, nothing waits for ever, all is accounted for."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from hortator.worker.gate import Admit, Arrival, Gate, GateLimits, Manifest, Pull, Refuse, Split

NUM_BATCHES = 4
SIZE = 3
LIMITS = GateLimits()


def key(batch: int, member: int) -> tuple[str, int]:
    return (f"b{batch}m{member}", 0)


@st.composite
def histories(draw):
    """Each manifest at most once, each member at most once, cancellations and passes in between, times growing."""
    events = [("manifest", batch, 0) for batch in range(NUM_BATCHES)]
    events += [("arrival", batch, member) for batch in range(NUM_BATCHES) for member in range(SIZE)]
    events = [event for event in events if draw(st.integers(0, 9))]  # one in ten is lost
    members = st.tuples(st.just("gone"), st.integers(0, NUM_BATCHES - 1), st.integers(0, SIZE - 1))
    events += draw(st.lists(members, max_size=3))
    events += [("pass", 0, 0)] * draw(st.integers(0, 6))
    steps = st.sampled_from([0.0, 0.0005, 0.003, 0.05, 0.2])
    order = draw(st.permutations(events))
    return [(event, draw(steps)) for event in order]


class Driver:
    """Plays a history to a gate and keeps account of the outcomes."""

    def __init__(self, *, decode: bool) -> None:
        self.gate = Gate(LIMITS)
        self.decode = decode
        self.now = 0.0
        self.is_busy = False
        self.outcomes: Counter = Counter()
        self.arrived: set = set()
        self.gone: set = set()
        self.splits: Counter = Counter()
        self.arrived_at: dict = {}
        self.idle_since = 0.0
        self.announced_at: dict[int, float] = {}

    def play(self, event, step: float) -> None:
        target = self.now + step
        self.run_until(target)
        kind, batch, member = event
        match kind:
            case "manifest":
                self.announced_at[batch] = self.now
                members = tuple(key(batch, i) for i in range(SIZE) if key(batch, i) not in self.gone)
                manifest = Manifest(
                    batch_id=f"b{batch}",
                    epoch=1,
                    dispatch_seq=batch + 1,
                    members=members,
                    predicted_pass_s=0.1,
                )
                self.take(self.gate.on_manifest(manifest, self.now))
            case "arrival" if key(batch, member) not in self.gone:
                self.arrived.add(key(batch, member))
                self.arrived_at[key(batch, member)] = self.now
                arrival = Arrival(
                    key=key(batch, member),
                    epoch=1,
                    batch_id=f"b{batch}",
                    batch_size=SIZE,
                    dispatch_seq=batch + 1,
                    needs_kv=self.decode,
                )
                self.take(self.gate.on_arrival(arrival, self.now))
            case "gone":
                self.gone.add(key(batch, member))
                self.take(self.gate.on_gone(key(batch, member), self.now))
            case "pass" if self.is_busy:
                self.is_busy = False
                self.idle_since = self.now
                self.take(self.gate.on_pass_ended(0.1, self.now))
            case "pass":
                self.is_busy = True
                self.gate.on_pass_started(0.1)

    def run_until(self, target: float) -> None:
        while (wakeup := self.gate.next_wakeup()) is not None and wakeup <= target:
            self.now = max(self.now, wakeup)
            self.take(self.gate.on_timer(self.now))
        self.now = target

    def take(self, commands) -> None:
        for command in commands:
            match command:
                case Admit(keys=keys):
                    assert not self.gone & set(keys), "a cancelled member entered"
                    self.outcomes.update(keys)
                    self.gate.on_submitted(keys)
                case Refuse(key=refused):
                    self.outcomes[refused] += 1
                case Pull(key=pulled):
                    self.take(self.gate.on_kv_pulled(pulled))
                case Split(batch_id=batch_id):
                    self.splits[batch_id] += 1

    def finish(self) -> None:
        if self.is_busy:
            self.play(("pass", 0, 0), 0.0)
        self.run_until(self.now + 10.0)


@settings(deadline=None, max_examples=300)
@given(histories(), st.booleans())
def test_every_member_has_one_outcome_and_nothing_is_left(history, decode):
    driver = Driver(decode=decode)
    for event, step in history:
        driver.play(event, step)
    driver.finish()
    gate = driver.gate
    assert gate.next_wakeup() is None
    assert gate.is_idle
    for member in driver.arrived - driver.gone:
        assert driver.outcomes[member] == 1, member
    assert all(count <= 1 for count in driver.outcomes.values())
    assert all(count <= 1 for count in driver.splits.values())
    highest = max(
        (batch + 1 for (kind, batch, _), _ in history if kind == "manifest" or key_arrived(driver, batch)),
        default=0,
    )
    assert gate.included(driver.now) == highest


def key_arrived(driver: Driver, batch: int) -> bool:
    return any(key(batch, member) in driver.arrived for member in range(SIZE))


@settings(deadline=None, max_examples=300)
@given(histories())
def test_an_idle_engine_never_waits_longer_than_the_limits(history):
    driver = Driver(decode=False)
    for event, step in history:
        driver.play(event, step)
        if driver.is_busy:
            continue
        for batch in range(NUM_BATCHES):
            members = {key(batch, member) for member in range(SIZE)}
            waiting = [m for m in members & (driver.arrived - driver.gone) if not driver.outcomes[m]]
            if not waiting:
                continue
            since = max(min(driver.arrived_at[member] for member in waiting), driver.idle_since)
            limit_s = LIMITS.manifest_wait_s
            if batch in driver.announced_at:
                since = max(since, driver.announced_at[batch])
                # 2 ms (2 % of the predicted 0.1 s), and 0.5 ms for each of three members
                limit_s = 0.002 + SIZE * 0.0005
            assert driver.now - since <= limit_s + 1e-9

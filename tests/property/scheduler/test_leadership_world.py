"""Several schedulers and their witnesses, with broken, slow and silent streams between them.

The true `Leadership` of each scheduler and the true `LeaderWatch` of each witness, joined by streams that keep
order. A stream may break (both ends know), or hold everything back for a while (nobody knows: lost packets, a
stopped process). Promises:

1. In every epoch only one scheduler is obeyed, by whomever, and no witness goes back to an older epoch.
2. Once all streams work, one scheduler leads, and every witness and every scheduler knows it.
3. While a leader is heard by most witnesses of every standby, nobody takes its place.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hortator.runtime.leader_watch import LeaderSeen, LeaderWatch
from hortator.scheduler.core.leadership import Lead, Leadership, LeadershipSettings

STEP_S = 0.05
BEAT_S = 0.5
TIMEOUT_S = 2.0
SETTINGS = LeadershipSettings(patience_s=0.05, settling_s=0.75)


class Scheduler:
    def __init__(self, name, tag, now):
        self.name, self.tag = name, tag
        self.start(now)

    def start(self, now):
        self.leadership = Leadership(SETTINGS, tag=self.tag)
        self.beat_at = now
        self.is_stopped = False


class Stream:
    """Between a scheduler and a witness."""

    def __init__(self):
        self.is_up = False
        self.is_held = False
        self.down = deque()
        self.up = deque()


class World:
    def __init__(self, num_schedulers, num_witnesses):
        self.now = 0.0
        self.schedulers = {f"s{i}": Scheduler(f"s{i}", 17 * i + 1, 0.0) for i in range(num_schedulers)}
        self.watches = {f"w{i}": LeaderWatch(timeout_s=TIMEOUT_S) for i in range(num_witnesses)}
        self.said = dict.fromkeys(self.watches, LeaderSeen())
        self.streams = {(s, w): Stream() for s in self.schedulers for w in self.watches}
        self.broken = set()
        self.owners = {}
        self.num_leads = 0
        for key in self.streams:
            self.connect(key)

    def connect(self, key):
        stream = self.streams[key]
        stream.is_up = True
        stream.up.append(self.watches[key[1]].seen(self.now))
        stream.down.append((self.schedulers[key[0]].leadership.epoch, False))

    def break_(self, key):
        stream = self.streams[key]
        if not stream.is_up:
            return
        stream.is_up = False
        stream.up.clear()
        stream.down.clear()
        self.schedulers[key[0]].leadership.lost(key[1], self.now)
        self.watches[key[1]].lost(key[0])

    def kill(self, name):
        for key in self.streams:
            if key[0] == name:
                self.break_(key)
        self.schedulers[name].start(self.now)

    def step(self):
        self.now += STEP_S
        for key, stream in self.streams.items():
            if not stream.is_up and key not in self.broken and not self.schedulers[key[0]].is_stopped:
                self.connect(key)
        for scheduler in self.schedulers.values():
            if not scheduler.is_stopped:
                self.run(scheduler)
        for (name, witness), stream in self.streams.items():
            while stream.is_up and stream.down and not stream.is_held:
                epoch, has_resigned = stream.down.popleft()
                self.hear(witness, name, epoch, has_resigned=has_resigned)
        for witness, watch in self.watches.items():
            seen = watch.seen(self.now)
            if seen != self.said[witness]:
                self.said[witness] = seen
                for (_, other), stream in self.streams.items():
                    if other == witness and stream.is_up:
                        stream.up.append(seen)

    def run(self, scheduler):
        leadership = scheduler.leadership
        for (name, witness), stream in self.streams.items():
            while name == scheduler.name and stream.is_up and stream.up and not stream.is_held:
                seen = stream.up.popleft()
                leadership.saw(witness, epoch=seen.epoch, is_there=seen.is_there, now=self.now)
        change = leadership.look(self.now, wall_ms=1)
        self.num_leads += isinstance(change, Lead)
        if leadership.is_leader and (change is not None or self.now >= scheduler.beat_at + BEAT_S):
            scheduler.beat_at = self.now
            self.tell(scheduler, leadership.epoch, has_resigned=False)

    def tell(self, scheduler, epoch, *, has_resigned):
        for (name, _), stream in self.streams.items():
            if name == scheduler.name and stream.is_up:
                stream.down.append((epoch, has_resigned))

    def hear(self, witness, name, epoch, *, has_resigned):
        watch = self.watches[witness]
        before = watch.epoch
        if watch.spoke(name, epoch, self.now):
            assert epoch >= before
            assert self.owners.setdefault(epoch, name) == name
            if has_resigned:
                watch.lost(name)

    def resign(self, name):
        scheduler = self.schedulers[name]
        epoch = scheduler.leadership.epoch
        if scheduler.leadership.resign() is not None:
            self.tell(scheduler, epoch, has_resigned=True)


class LeadershipWorld(RuleBasedStateMachine):
    @initialize(num_schedulers=st.integers(1, 3), num_witnesses=st.integers(1, 5))
    def begin(self, num_schedulers, num_witnesses):
        self.world = World(num_schedulers, num_witnesses)

    def _key(self, index):
        return sorted(self.world.streams)[index % len(self.world.streams)]

    def _name(self, index):
        return f"s{index % len(self.world.schedulers)}"

    @rule(index=st.integers(0, 14))
    def cut(self, index):
        self.world.broken.add(self._key(index))
        self.world.break_(self._key(index))

    @rule(index=st.integers(0, 14), is_held=st.booleans())
    def hold(self, index, is_held):
        self.world.streams[self._key(index)].is_held = is_held

    @rule(index=st.integers(0, 2))
    def stop(self, index):
        self.world.schedulers[self._name(index)].is_stopped = True

    @rule(index=st.integers(0, 2))
    def go_on(self, index):
        """The first thing it does is what it would have done next."""
        scheduler = self.world.schedulers[self._name(index)]
        if scheduler.is_stopped and scheduler.leadership.is_leader:
            self.world.tell(scheduler, scheduler.leadership.epoch, has_resigned=False)
        scheduler.is_stopped = False

    @rule(index=st.integers(0, 2))
    def die(self, index):
        self.world.kill(self._name(index))

    @rule(index=st.integers(0, 2))
    def hand_over(self, index):
        """Then the process ends, and another is started."""
        name = self._name(index)
        if not self.world.schedulers[name].is_stopped:
            self.world.resign(name)
            self.pass_time(2)
            self.world.kill(name)

    @rule(num_steps=st.integers(1, 80))
    def pass_time(self, num_steps):
        for _ in range(num_steps):
            self.world.step()

    @rule()
    def heal(self):
        """All streams work again: after a while there is one leader, and it stays."""
        world = self.world
        world.broken.clear()
        for stream in world.streams.values():
            stream.is_held = False
        for scheduler in world.schedulers.values():
            scheduler.is_stopped = False
        self.pass_time(int(40.0 / STEP_S))  # the most that patience grows to, and silence
        self._one_leads()
        num_leads = world.num_leads
        self.pass_time(int(5.0 / STEP_S))
        assert world.num_leads == num_leads
        self._one_leads()

    def _one_leads(self):
        world = self.world
        (leader,) = [one for one in world.schedulers.values() if one.leadership.is_leader]
        assert {watch.leader(world.now) for watch in world.watches.values()} == {leader.name}
        assert {watch.epoch for watch in world.watches.values()} == {leader.leadership.epoch}

    @invariant()
    def epochs_have_one_owner(self):
        """A witness's leader owns the epoch that it follows."""
        for watch in self.world.watches.values() if hasattr(self, "world") else ():
            leader = watch.leader(self.world.now)
            assert leader is None or self.world.owners[watch.epoch] == leader


LeadershipWorld.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLeadershipWorld = LeadershipWorld.TestCase


def test_a_leader_that_most_witnesses_hear_keeps_the_lead_whatever_becomes_of_the_others():
    world = World(3, 5)
    for _ in range(100):
        world.step()
    (leader,) = [name for name, one in world.schedulers.items() if one.leadership.is_leader]
    num_leads = world.num_leads
    for witness in ("w0", "w1"):  # two of five never hear it again, the standbys hear everybody
        world.broken.add((leader, witness))
        world.break_((leader, witness))
    for _ in range(400):
        world.step()
    assert world.num_leads == num_leads
    assert world.schedulers[leader].leadership.is_leader


def test_schedulers_that_are_seen_by_another_half_each_do_not_alternate_for_ever():
    """Two see only s0, two only s1, one sees both: whoever leads, most that the other one sees are unled."""
    world = World(2, 5)
    for key in (("s1", "w0"), ("s1", "w1"), ("s0", "w3"), ("s0", "w4")):
        world.broken.add(key)
        world.break_(key)
    for _ in range(int(120.0 / STEP_S)):
        world.step()
    assert 4 <= world.num_leads <= 24  # patience that did not grow would make it a thousand

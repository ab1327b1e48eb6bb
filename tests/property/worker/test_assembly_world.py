"""Whatever comes in whatever order: a group is complete only with one boot of each ordinal, all of its epoch."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hortator.worker.group.assembly import (
    Assembly,
    AssemblyState,
    Break,
    Heard,
    Joined,
    LeaderDrained,
    Leaving,
    LinkBroke,
    Refuse,
    SayComplete,
    TimePassed,
    Welcome,
)
from hortator.worker.group.member import GroupLimits, GroupPlace, Member

EPOCH = 5
LIMITS = GroupLimits(startup_timeout_s=30.0, heartbeat_interval_s=1.0, heartbeat_timeout_s=6.0)


class AssemblyWorld(RuleBasedStateMachine):
    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.size, self.now, self.next_link = size, 0.0, 0
        self.welcomed: dict[int, Member] = {}
        self.ever_welcomed: list[Member] = []
        self.open_links: dict[int, Member] = {}
        self.ended = False
        self.completions = 0
        leader = Member(place=self.place(0, EPOCH), boot_id="leader")
        self.assembly = Assembly(leader, LIMITS, now=0.0)
        self.take(self.assembly.start())

    def place(self, ordinal: int, epoch: int, *, worker_id: str = "w", made: str = "x") -> GroupPlace:
        return GroupPlace(
            worker_id=worker_id,
            group_size=self.size,
            ordinal=ordinal,
            epoch=epoch,
            pod_name=f"p-{ordinal}",
            incarnation=made,
        )

    def take(self, commands: list) -> None:
        for command in commands:
            assert not self.ended or isinstance(command, Refuse), "only refusals come after the end"
            match command:
                case Welcome(link=link):
                    member = self.open_links[link]
                    self.welcomed[link] = member
                    self.ever_welcomed.append(member)
                case Refuse(link=link):
                    assert link not in self.welcomed
                    self.open_links.pop(link, None)
                case SayComplete(links=links):
                    self.completions += 1
                    assert {self.welcomed[link].place.ordinal for link in links} == set(range(1, self.size))
                case Break():
                    self.ended = True
                case _:
                    pass

    @rule(ordinal=st.integers(0, 4), epoch=st.sampled_from([EPOCH - 1, EPOCH, EPOCH, EPOCH, EPOCH + 1]),
          boot=st.sampled_from("abc"), worker_id=st.sampled_from(["w", "w", "w", "other"]),
          made=st.sampled_from("xxxy"))  # fmt: skip
    def join(self, ordinal: int, epoch: int, boot: str, worker_id: str, made: str) -> None:
        self.next_link += 1
        member = Member(place=self.place(ordinal, epoch, worker_id=worker_id, made=made), boot_id=boot)
        self.open_links[self.next_link] = member
        self.take(self.assembly.handle(Joined(link=self.next_link, member=member), self.now))

    @precondition(lambda self: self.open_links)
    @rule(data=st.data(), kind=st.sampled_from(["heard", "leaving", "broke"]))
    def link_event(self, data: st.DataObject, kind: str) -> None:
        link = data.draw(st.sampled_from(sorted(self.open_links)))
        match kind:
            case "heard":
                event = Heard(link=link)
            case "leaving":
                event = Leaving(link=link)
            case _:
                event = LinkBroke(link=link, why="broke")
                del self.open_links[link]
        was_over = self.assembly.is_over
        commands = self.assembly.handle(event, self.now)
        if kind == "broke" and link in self.welcomed and not was_over:
            assert any(isinstance(command, Break) for command in commands)
        if kind == "broke":
            self.welcomed.pop(link, None)
        self.take(commands)

    @rule(after_s=st.sampled_from([0.1, 1.0, 2.0, 7.0]))
    def time_passes(self, after_s: float) -> None:
        end = self.now + after_s
        while (at := self.assembly.next_wakeup()) is not None and at <= end:
            self.now = max(self.now, at)
            self.take(self.assembly.handle(TimePassed(), self.now))
        self.now = end

    @rule()
    def drained(self) -> None:
        self.take(self.assembly.handle(LeaderDrained(), self.now))

    @invariant()
    def an_ordinal_joins_the_epoch_once_and_nobody_else_does(self) -> None:
        ordinals = [member.place.ordinal for member in self.ever_welcomed]
        assert len(ordinals) == len(set(ordinals))
        assert all(member.place.epoch == EPOCH for member in self.ever_welcomed)
        assert all(member.place.worker_id == "w" for member in self.ever_welcomed)
        assert all(member.place.incarnation == "x" for member in self.ever_welcomed)
        assert self.completions <= 1

    @invariant()
    def a_complete_group_has_everybody(self) -> None:
        if self.assembly.state is AssemblyState.COMPLETE:
            assert {m.place.ordinal for m in self.assembly.members} == set(range(self.size))
            assert {m.place.ordinal for m in self.welcomed.values()} == set(range(1, self.size))

    @invariant()
    def a_broken_group_has_been_told(self) -> None:
        assert self.ended == (self.assembly.state is AssemblyState.BROKEN)


TestAssemblyWorld = AssemblyWorld.TestCase
TestAssemblyWorld.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

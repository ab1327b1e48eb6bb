"""A group of three pods: what members say to ordinal 0 and ordinal 0 to a member.

Who breaks the protocol may break the group, which is what the processes of a group are for: each ends then with
a line that says why. Nobody waits for longer than the start-up timeout, and no member says what ssh would obey.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from fuzzing.frames import conversation, conversations, said
from fuzzing.lives import ended, live, turns
from fuzzing.protos import around, wire
from fuzzing.target import Target
from hortator.rpc.worker.v1 import group_pb2 as pb
from hortator.runtime.lifecycle import Drain
from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.codec import encode_hello
from hortator.worker.group.leader import GroupLeader
from hortator.worker.group.member import GroupLimits, GroupPlace, Member, Shell
from hortator.worker.group.member_process import MemberProcess
from hortator.worker.group.membership import EXIT_FENCED, EXIT_GROUP_BROKEN
from hortator.worker.group.service import GroupService
from hortator.worker.launch import script
from hortator.worker.launch.world import World
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.startup import Startup, StartupPhase

LEADER = "127.0.0.1:1"
LIMITS = GroupLimits(startup_timeout_s=60.0)
SIZE = 3


def _member(ordinal: int) -> Member:
    place = GroupPlace(
        worker_id="w0", group_size=SIZE, ordinal=ordinal, epoch=5, pod_name=f"w0-{ordinal}", incarnation="k"
    )
    shell = Shell(host=f"w0-{ordinal}.w0", port=22, host_key="ssh-ed25519 AAAA")
    return Member(place=place, boot_id=f"b{ordinal}", shell=shell)


class AbortedError(Exception):
    """How gRPC unwinds a handler."""


class Link:
    """A member's stream, as gRPC shows it to ordinal 0; a sane member goes when it is dismissed."""

    def __init__(self, service: GroupService) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self.heard: list[str | None] = []
        self.task = asyncio.ensure_future(self._join(service))

    async def _join(self, service: GroupService) -> None:
        try:
            await service.Join(None, self)
        except AbortedError:
            self.heard.append("aborted")

    def say(self, message: pb.JoinRequest | None) -> None:
        self._messages.put_nowait(grpc.aio.EOF if message is None else message)

    async def read(self) -> Any:
        return await self._messages.get()

    async def write(self, message: pb.JoinResponse) -> None:
        message = pb.JoinResponse.FromString(message.SerializeToString())
        self.heard.append(message.WhichOneof("event"))
        if self.heard[-1] == "dismissed":
            self.say(None)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise AbortedError(code, details)


def leader_and_members(data: bytes) -> None:
    """m: on the link of member 1, which has joined; j: the first message on a link of its own."""
    messages = [(frame_kind, message) for frame_kind, message in _with_kinds(data)]

    async def life() -> None:
        launch = World(gpus_per_node=8, secret=b"", timeout_s=1.0)
        leader = GroupLeader(_member(0), LIMITS, request_drain=lambda _: None, launch=launch)
        running = asyncio.ensure_future(leader.run())
        service = GroupService(leader)
        links = [Link(service)]
        links[0].say(encode_hello(_member(1)))
        await turns()
        try:
            for kind, message in messages:
                if kind == b"j":
                    links.append(Link(service))
                    links[-1].say(message)
                else:
                    links[0].say(message)
                await asyncio.sleep(0.5)
            if not running.done() and 2 not in {one.place.ordinal for one in leader.members}:
                links.append(Link(service))
                links[-1].say(encode_hello(_member(2)))
                await turns()
                assert leader.is_complete or running.done()
            _can_be_launched(leader.members)
            if leader.is_complete:
                leader.started()
                await leader.dismiss()
                assert links[0].heard[-1] == "dismissed"
            else:
                await asyncio.wait({running}, timeout=2 * LIMITS.startup_timeout_s)
                assert str(_broken(running))
            for link in links:
                link.say(None)
            await turns()
            for link in links:
                assert link.task.done(), "a link that nobody ends"
                link.task.result()
        finally:
            leader.close()
            await ended(*(link.task for link in links if not link.task.done()))
            if not running.done():
                await ended(running)

    live(life)


def _with_kinds(data: bytes) -> Any:
    """`said`, for two kinds of one type."""
    for letter in (b"m", b"j"):
        for message in said({letter: pb.JoinRequest}, data):
            yield letter, message


def _broken(running: asyncio.Task[None]) -> GroupBrokenError:
    error = running.exception() if running.done() else None
    assert isinstance(error, GroupBrokenError), error
    return error


def _can_be_launched(members: tuple[Member, ...]) -> None:
    """Whoever has joined is one host in ssh's files, and nothing else is."""
    shells = [member.shell for member in members[1:] if member.shell is not None]
    hosts = script.known_hosts(shells).splitlines()
    assert len(hosts) == len(shells)
    assert all(len(line.split()) == 3 for line in hosts), hosts
    config = script.ssh_config(shells, user="u", key=Path("k"), known_hosts=Path("h"))
    own = script.ssh_config((), user="u", key=Path("k"), known_hosts=Path("h"))
    assert len(config.splitlines()) == len(own.splitlines()) + 2 * len(shells)


class Transport:
    """Leads to an ordinal 0 that says what it likes on the first link, and closes each after that."""

    def __init__(self, messages: list[pb.JoinResponse]) -> None:
        self._messages = messages

    @asynccontextmanager
    async def open_channel(self, *_: Any, **__: Any):
        yield self

    def stream_stream(self, *_: Any, **__: Any):
        return lambda: self

    async def write(self, message: pb.JoinRequest) -> None:
        message.SerializeToString()

    async def read(self) -> Any:
        await asyncio.sleep(0.5)
        return self._messages.pop(0) if self._messages else grpc.aio.EOF

    def cancel(self) -> None:
        pass


def member(data: bytes) -> None:
    messages = list(said({b"j": pb.JoinResponse}, data))

    async def life() -> None:
        phases = (StartupPhase.MEMBERS_JOINED, StartupPhase.ENGINE_STARTED)
        startup = Startup(phases, WorkerMetrics(CollectorRegistry()))
        process = MemberProcess(
            _member(1), LIMITS, leader_address=LEADER, startup=startup, transport=Transport(messages)
        )
        async with asyncio.timeout(2 * LIMITS.startup_timeout_s):
            end = await process.run(Drain())
        assert end.exit_code in {0, EXIT_FENCED, EXIT_GROUP_BROKEN}
        assert end.message
        startup.not_ready()

    live(life)


def _shell(**fields: Any) -> pb.JoinRequest:
    hello = encode_hello(_member(2))
    for name, value in fields.items():
        setattr(hello.hello.shell, name, value)
    return hello


def _welcome(*, heartbeat_interval_s: float) -> pb.JoinResponse:
    welcome = pb.MemberWelcome(heartbeat_interval_s=heartbeat_interval_s, heartbeat_timeout_s=6.0)
    return pb.JoinResponse(welcome=welcome)


_HELLOS = (encode_hello(_member(2)), encode_hello(_member(1)))
_WORDS = (
    pb.JoinRequest(heartbeat=pb.MemberHeartbeat()),
    pb.JoinRequest(leaving=pb.MemberLeaving()),
    *_HELLOS,
)
_ANSWERS = (
    _welcome(heartbeat_interval_s=1.0),
    pb.JoinResponse(refused=pb.JoinRefused(message="no", try_again=True)),
    pb.JoinResponse(heartbeat=pb.LeaderHeartbeat()),
    pb.JoinResponse(complete=pb.GroupComplete()),
    pb.JoinResponse(engine_started=pb.EngineStarted()),
    pb.JoinResponse(broken=pb.GroupBroken(message="lost")),
    pb.JoinResponse(dismissed=pb.MemberDismissed()),
)

TARGETS = (
    Target(
        "group-leader",
        leader_and_members,
        conversations(
            {
                b"m": around(*_WORDS) | wire(pb.JoinRequest),
                b"j": around(*_HELLOS) | wire(pb.JoinRequest),
            }
        ),
        cases=(
            conversation((b"m", _WORDS[0]), (b"j", _HELLOS[0]), (b"m", _WORDS[1])),
            conversation((b"j", _HELLOS[1])),
        ),
        bugs={
            "a host with lines of configuration": conversation(
                (b"j", _shell(host="w0-2\nHost *\n  ProxyCommand rm -r x"))
            ),
            "a host that is an option": conversation((b"j", _shell(host="-oProxyCommand=x"))),
            "a host that is two": conversation((b"j", _shell(host="a,b"))),
            "a port that is none": conversation((b"j", _shell(port=1 << 31))),
            "a host key with a second one": conversation(
                (b"j", _shell(host_key="ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"))
            ),
        },
    ),
    Target(
        "group-member",
        member,
        conversations({b"j": around(*_ANSWERS) | wire(pb.JoinResponse)}),
        cases=(
            conversation(*((b"j", message) for message in _ANSWERS)),
            conversation(*((b"j", message) for message in (_ANSWERS[0], *_ANSWERS[2:5]))),
        ),
        bugs={"heartbeats without a pause": conversation((b"j", _welcome(heartbeat_interval_s=1e-63)))},
    ),
)

"""Group messages between the wire and the state machines."""

from __future__ import annotations

from typing import assert_never

from hortator.rpc.worker.v1 import group_pb2 as pb
from hortator.worker.group.assembly import (
    AssemblyCommand,
    Break,
    Dismiss,
    Drain,
    Refuse,
    SayComplete,
    SayHeartbeat,
    SayStarted,
    Welcome,
)
from hortator.worker.group.member import GroupLimits, GroupPlace, Member, Shell
from hortator.worker.group.membership import (
    Completed,
    Dismissed,
    EngineStarted,
    GroupBroke,
    LeaderHeard,
    MembershipEvent,
    Refused,
    Welcomed,
)

MIN_SECONDS, MAX_SECONDS = 0.001, 24 * 3600.0


def encode_hello(member: Member) -> pb.JoinRequest:
    """The first message of a member."""
    place = member.place
    return pb.JoinRequest(
        hello=pb.MemberHello(
            worker_id=place.worker_id,
            group_size=place.group_size,
            ordinal=place.ordinal,
            epoch=place.epoch,
            boot_id=member.boot_id,
            pod_name=place.pod_name,
            node_name=place.node_name,
            incarnation=place.incarnation,
            shell=_encode_shell(member),
        )
    )


def _encode_shell(member: Member) -> pb.MemberShell | None:
    shell = member.shell
    if shell is None:
        return None
    return pb.MemberShell(host=shell.host, port=shell.port, host_key=shell.host_key, proof=member.proof)


def decode_hello(hello: pb.MemberHello) -> Member:
    """Who says hello; whether it may join is for the assembly to say."""
    return Member(
        place=GroupPlace(
            worker_id=hello.worker_id,
            group_size=hello.group_size,
            ordinal=hello.ordinal,
            epoch=hello.epoch,
            pod_name=hello.pod_name,
            node_name=hello.node_name,
            incarnation=hello.incarnation,
        ),
        boot_id=hello.boot_id,
        shell=Shell(host=hello.shell.host, port=hello.shell.port, host_key=hello.shell.host_key)
        if hello.HasField("shell")
        else None,
        proof=hello.shell.proof,
    )


def encode_command(
    command: AssemblyCommand, limits: GroupLimits, *, launch_key: str = "", launch_proof: bytes = b""
) -> pb.JoinResponse | None:
    """What a member is told; None for what is not said to members. The key goes with the welcome."""
    match command:
        case Welcome():
            return pb.JoinResponse(
                welcome=pb.MemberWelcome(
                    heartbeat_interval_s=limits.heartbeat_interval_s,
                    heartbeat_timeout_s=limits.heartbeat_timeout_s,
                    launch_key=launch_key,
                    launch_proof=launch_proof,
                )
            )
        case Refuse(message=message, try_again=try_again):
            return pb.JoinResponse(refused=pb.JoinRefused(message=message, try_again=try_again))
        case SayHeartbeat():
            return pb.JoinResponse(heartbeat=pb.LeaderHeartbeat())
        case SayComplete():
            return pb.JoinResponse(complete=pb.GroupComplete())
        case SayStarted():
            return pb.JoinResponse(engine_started=pb.EngineStarted())
        case Dismiss():
            return pb.JoinResponse(dismissed=pb.MemberDismissed())
        case Break(message=message):
            return pb.JoinResponse(broken=pb.GroupBroken(message=message))
        case Drain():
            return None
        case _:
            assert_never(command)


def decode_response(message: pb.JoinResponse) -> MembershipEvent:
    """What the leader says; an event of a newer leader only shows that it is here."""
    match message.WhichOneof("event"):
        case "welcome":
            return Welcomed(
                heartbeat_interval_s=_seconds(message.welcome.heartbeat_interval_s),
                heartbeat_timeout_s=_seconds(message.welcome.heartbeat_timeout_s),
                launch_key=message.welcome.launch_key,
                launch_proof=message.welcome.launch_proof,
            )
        case "refused":
            return Refused(message=message.refused.message, try_again=message.refused.try_again)
        case "complete":
            return Completed()
        case "engine_started":
            return EngineStarted()
        case "dismissed":
            return Dismissed()
        case "broken":
            return GroupBroke(message=message.broken.message)
        case _:
            return LeaderHeard()


def _seconds(value: float) -> float:
    """A time, or 0 (the member's own counts) for what is none that anybody waits."""
    return value if MIN_SECONDS <= value <= MAX_SECONDS else 0.0

"""GroupService: the gRPC face of a group's leader."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from hortator.rpc.worker.v1 import group_pb2 as pb
from hortator.rpc.worker.v1 import group_pb2_grpc as pb_grpc
from hortator.worker.group.assembly import Break, Refuse
from hortator.worker.group.codec import decode_hello, encode_command
from hortator.worker.group.leader import GroupLeader, Outbox
from hortator.worker.group.member import Member

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GroupService"].full_name

CALLERS = {f"/{SERVICE_NAME}/Join": frozenset({"worker"})}
"""Which components may call what, where they have certificates."""

_Context = grpc.aio.ServicerContext[Any, Any]


class GroupService(pb_grpc.GroupServiceServicer):
    """Translates between streams and the leader; holds no state."""

    def __init__(self, leader: GroupLeader) -> None:
        self._leader = leader

    def register(self, server: grpc.aio.Server) -> None:
        """Serve this on a server."""
        pb_grpc.add_GroupServiceServicer_to_server(self, server)

    async def Join(self, request_iterator: object, context: _Context) -> None:  # type: ignore[override]  # noqa: ARG002, N802
        """One member's stream; its end is the end of the member."""
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        if first.WhichOneof("event") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello")
        member = decode_hello(first.hello)
        link, outbox = self._leader.open_link(member)
        why = "the link broke"
        try:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(link, context))
                writer = tasks.create_task(self._write(member, outbox, context))
                await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
                if reader.done() and not reader.exception():
                    why = "it closed its side"
                reader.cancel()
                writer.cancel()
        except* (grpc.aio.AbortError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the member vanished in the middle of a write
        finally:
            self._leader.link_broke(link, why)

    async def _read(self, link: int, context: _Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            match message.WhichOneof("event"):
                case "leaving":
                    self._leader.leaving(link)
                case _:
                    self._leader.heard(link)

    async def _write(self, member: Member, outbox: Outbox, context: _Context) -> None:
        """Until a last word. A dismissed member closes its side itself, so that it has surely heard."""
        launch = self._leader.launch
        key, proof = (launch.launch_key, launch.proof_for(member)) if launch else ("", b"")
        while True:
            command = await outbox.get()
            message = encode_command(command, self._leader.limits, launch_key=key, launch_proof=proof)
            if message is not None:
                await context.write(message)
            if isinstance(command, (Refuse, Break)):
                return

"""A member's link to its leader: one attempt to join, and what is said on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from hortator.rpc.worker.v1 import group_pb2 as pb
from hortator.rpc.worker.v1 import group_pb2_grpc as pb_grpc
from hortator.runtime.transport import Transport
from hortator.worker.client.cancellation import PeerCancelledError, peer_cancellation_as_error
from hortator.worker.group.codec import decode_response, encode_hello
from hortator.worker.group.member import Member
from hortator.worker.group.membership import LinkFailed, MembershipEvent

ANSWER_TIMEOUT_S = 5.0
"""A leader that is there answers a hello at once."""

_Call = grpc.aio.StreamStreamCall[pb.JoinRequest, pb.JoinResponse]


class LeaderLink:
    """One stream to the leader. `run` ends with `LinkFailed`, whatever else was said."""

    def __init__(
        self,
        address: str,
        member: Member,
        on_event: Callable[[MembershipEvent], None],
        *,
        transport: Transport,
    ) -> None:
        self._address = address
        self._member = member
        self._on_event = on_event
        self._transport = transport
        self._outbox: asyncio.Queue[pb.JoinRequest] = asyncio.Queue()

    def send_heartbeat(self) -> None:
        """This member is here."""
        self._outbox.put_nowait(pb.JoinRequest(heartbeat=pb.MemberHeartbeat()))

    def send_leaving(self) -> None:
        """This member was told to stop."""
        self._outbox.put_nowait(pb.JoinRequest(leaving=pb.MemberLeaving()))

    async def run(self) -> None:
        """Join, and hand on what the leader says until the stream ends."""
        # A channel of its own for every try: neither DNS answers nor gRPC's own backoff outlive it.
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with self._transport.open_channel(self._address, "worker", options=options) as channel:
            call = pb_grpc.GroupServiceStub(channel).Join()
            try:
                why = await self._talk(call)
            finally:
                call.cancel()
        self._on_event(LinkFailed(why=why))

    async def _talk(self, call: _Call) -> str:
        sender: asyncio.Task[None] | None = None
        try:
            with peer_cancellation_as_error():
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await call.write(encode_hello(self._member))
                    message = await call.read()
                sender = asyncio.ensure_future(self._send(call))
                while isinstance(message, pb.JoinResponse):
                    self._on_event(decode_response(message))
                    message = await call.read()
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except TimeoutError:
            return f"no answer within {ANSWER_TIMEOUT_S:g} s"
        except (PeerCancelledError, asyncio.InvalidStateError) as error:
            return str(error)
        finally:
            if sender is not None:
                sender.cancel()
        return "the leader closed the link"

    async def _send(self, call: _Call) -> None:
        """What is to be said, in order; a link that breaks is noticed by the reader."""
        try:
            while True:
                await call.write(await self._outbox.get())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return

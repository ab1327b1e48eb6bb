"""The decode side of a KV hand-over: pull from the prefill worker, then acknowledge."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import structlog

from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.transport import Plaintext, Transport
from hortator.worker.client.cancellation import PeerCancelledError, peer_cancellation_as_error
from hortator.worker.errors import KvLostError
from hortator.worker.submission import KvLocation


class KvClient:
    """Implements `KvFetcher` over gRPC, with one channel to each prefill worker (the last used are kept)."""

    def __init__(
        self, *, timeout_s: float = 30.0, max_channels: int = 64, transport: Transport | None = None
    ) -> None:
        self._transport = transport or Plaintext()
        self._timeout_s = timeout_s
        self._max_channels = max_channels
        self._channels: dict[tuple[str, int], grpc.aio.Channel] = {}
        """By address and generation of our certificate."""
        self._log = structlog.get_logger("hortator.worker.kv")

    async def fetch(self, location: KvLocation) -> bytes:
        """All of the KV of a lease. Raises KvLostError when it cannot be had within `timeout_s`."""
        request = worker_pb2.PullKvRequest(lease_id=location.lease_id, boot_id=location.boot_id)
        stub = await self._stub(location.worker_address)
        try:
            with peer_cancellation_as_error():
                async with asyncio.timeout(self._timeout_s):
                    return b"".join([response.chunk async for response in stub.PullKv(request)])
        except grpc.aio.AioRpcError as error:
            message = f"{location.worker_address}: {error.code().name}: {error.details()}"
            raise KvLostError(message) from error
        except PeerCancelledError as error:
            raise KvLostError(f"{location.worker_address}: {error}") from error
        except TimeoutError as error:
            raise KvLostError(f"{location.worker_address}: no KV within {self._timeout_s:g} s") from error

    async def release(self, location: KvLocation) -> None:
        """Acknowledge; a lost acknowledgement only means that the lease expires."""
        request = worker_pb2.ReleaseKvRequest(lease_id=location.lease_id, boot_id=location.boot_id)
        stub = await self._stub(location.worker_address)
        try:
            with peer_cancellation_as_error():
                await stub.ReleaseKv(request, timeout=self._timeout_s)
        except (grpc.aio.AioRpcError, PeerCancelledError) as error:
            self._log.info("kv release failed", address=location.worker_address, error=str(error))

    async def aclose(self) -> None:
        """Close all channels."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    async def _stub(self, address: str) -> worker_pb2_grpc.WorkerServiceStub:
        key = (address, self._transport.generation)
        channel = self._channels.pop(key, None) or self._transport.open_channel(address, "worker")
        self._channels[key] = channel  # last used is last
        if len(self._channels) > self._max_channels:
            oldest = next(iter(self._channels))
            # Calls that still run on it get a grace period before they fail.
            await self._channels.pop(oldest).close(grace=self._timeout_s)
        return worker_pb2_grpc.WorkerServiceStub(channel)

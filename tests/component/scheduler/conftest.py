"""A whole scheduler on loopback, and hand-written gateways and workers that talk to it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc.aio
import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as pb_grpc
from hortator.runtime.grpc_server import open_channel
from hortator.scheduler.app import SchedulerApp
from hortator.scheduler.settings import SchedulerProcessSettings

PATIENCE_S = 10.0


class StubGateway:
    """One Place stream; keeps everything that came, and finds what a test waits for."""

    def __init__(self, channel, name="gw"):
        self.name = name
        self.call = pb_grpc.SchedulingServiceStub(channel).Place()
        self.responses = []
        self.placements = []
        self.rejections = []
        self.retractions = []

    async def send(self, *events):
        await self.call.write(pb.PlaceRequest(events=[pb.GatewayEvent(**event) for event in events]))

    async def hello(self):
        await self.send({"hello": pb.GatewayHello(gateway_id=self.name)})
        return self

    async def announce(self, *request_ids, **fields):
        for request_id in request_ids:
            announcement = pb.Announcement(
                **{"request_id": request_id, "num_prompt_tokens": 100, "max_output_tokens": 10, **fields}
            )
            await self.send({"announcement": announcement})

    async def finish(self, request_id, attempt=0):
        finished = pb.RequestFinished(
            request_id=request_id, attempt=attempt, num_output_tokens=5, ttft_s=0.1, e2e_s=0.5
        )
        await self.send({"request_finished": finished})

    async def _until(self, done):
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                response = await self.call.read()
                assert response is not grpc.aio.EOF, await self.call.code()
                self.responses.append(response)
                self.placements += response.placements
                self.rejections += response.rejections
                self.retractions += response.retractions

    async def wait_placements(self, count):
        await self._until(lambda: len(self.placements) >= count)
        return self.placements

    async def wait_rejections(self, count):
        await self._until(lambda: len(self.rejections) >= count)
        return self.rejections

    async def wait_retractions(self, count):
        await self._until(lambda: len(self.retractions) >= count)
        return self.retractions

    async def wait_end(self):
        """The status with which the scheduler ended the stream."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self.call.code(), await self.call.details()


class StubWorker:
    """One Report stream of one boot."""

    def __init__(self, channel, name="w", boot="b1", ranks=2, phase=pb.PHASE_AGGREGATED):
        self.name, self.boot, self.ranks, self.phase = name, boot, ranks, phase
        self.call = pb_grpc.SchedulingServiceStub(channel).Report()
        self.sequence = 0
        self.epoch = 0
        self.pass_id = 0
        self.included = 0
        self.unread = []

    def idle(self):
        zeros = [0] * self.ranks
        return pb.RankStates(prefill_load_tokens=zeros, batch_size=zeros, kv_blocks_used=zeros)

    async def report(self, **event):
        fields = {
            "worker_id": self.name,
            "boot_id": self.boot,
            "sequence": self.sequence + 1,
            "epoch": self.epoch,
            "included_dispatch_seq": self.included,
        }
        message = pb.ReportRequest(**{**fields, **event})
        self.sequence = max(self.sequence, message.sequence)
        await self.call.write(message)

    async def hello(self, **changes):
        fields = {
            "address": f"127.0.0.1:{4000 + len(self.name)}",
            "phase": self.phase,
            "dp_size": self.ranks,
            "chunk_budget_tokens": 1000,
            "chunked_prefill": True,
            "max_batch_size": 64,
            "kv_blocks_total": 1000,
            "tokens_per_block": 64,
            "max_sequence_tokens": 8192,
            "rank_states": self.idle(),
        }
        await self.report(hello=pb.WorkerHello(**{**fields, **changes}))
        return self

    async def join(self):
        await self.hello()
        welcome = await self.next("welcome")
        assert welcome.heartbeat_interval_s > 0
        return self

    async def next(self, kind):
        """The next answer of a kind; others are kept for later."""
        for response in self.unread:
            if response.WhichOneof("event") == kind:
                self.unread.remove(response)
                return getattr(response, kind)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, await self.call.code()
                self.epoch = response.epoch
                if response.WhichOneof("event") == kind:
                    return getattr(response, kind)
                self.unread.append(response)

    async def end_pass(self, manifest=None):
        if manifest is not None:
            self.included = manifest.dispatch_seq
        self.pass_id += 1
        ended = pb.ForwardPassEnded(
            forward_pass_id=self.pass_id,
            duration_s=0.01,
            rank_states=self.idle(),
            pass_prefill_tokens=[10] * self.ranks,
            pass_decode_tokens=[1] * self.ranks,
        )
        await self.report(forward_pass_ended=ended)

    async def wait_end(self):
        """The status with which the scheduler ended the stream."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self.call.code(), await self.call.details()


class Bench:
    """One scheduler and its clients, each on a channel of its own."""

    def __init__(self, app, stack):
        self.app = app
        self._stack = stack

    async def channel(self):
        return await self._stack.enter_async_context(open_channel(self.app.address))

    async def gateway(self, name="gw"):
        return await StubGateway(await self.channel(), name).hello()

    async def worker(self, name="w", **options):
        return await StubWorker(await self.channel(), name, **options).join()

    async def stranger(self, name="w", **options):
        """A worker that has not said hello."""
        return StubWorker(await self.channel(), name, **options)

    async def silent_gateway(self, name="gw"):
        """A gateway that has not said hello."""
        return StubGateway(await self.channel(), name)

    async def admin(self):
        return pb_grpc.AdminServiceStub(await self.channel())

    async def until(self, condition):
        """Wait until a condition about the scheduler holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # the machine has no event for it
                await asyncio.sleep(0.005)

    def snapshot(self):
        return self.app.shell.snapshot()


@pytest.fixture
async def start_scheduler():
    """`await start_scheduler(core={...}, ...)` gives a Bench; everything is closed at the end."""
    async with AsyncExitStack() as stack:

        async def start(*, core=None, **settings):
            values = {
                "port": 0,
                "worker_grace_s": 0.3,
                "gateway_grace_s": 0.3,
                "core": core or {},
                **settings,
            }
            app = SchedulerApp(SchedulerProcessSettings.load(**values))
            stack.push_async_callback(app.close)
            await app.start()
            return Bench(app, stack)

        yield start


@pytest.fixture
async def bench(start_scheduler):
    """A scheduler with default settings."""
    return await start_scheduler()

"""A worker on loopback with a fake engine, a gateway that speaks the real protocol, and a fake scheduler."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as sched
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.rpc.worker.v1 import worker_pb2_grpc
from hortator.runtime.grpc_server import GrpcServer, open_channel
from hortator.runtime.lifecycle import Drain
from hortator.runtime.metrics import new_registry
from hortator.worker.app import Worker
from hortator.worker.engine import (
    EngineDeadError,
    EngineInfo,
    Finished,
    FinishReason,
    ForwardPassEnded,
    ForwardPassStarted,
    RankLoad,
    RequestMode,
    RequestRefusedError,
    TokenChunk,
)
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.settings import WorkerSettings

DP_SIZE = 2
BLOCK = 4
MAX_PROMPT = 100


def token_at(prompt, index: int) -> int:
    """What the fake engine says: a function of the prompt and the position alone."""
    return (sum(prompt) * 31 + index * 7) % 1000


class FakeEngine:
    """An engine whose passes a test runs by hand (`run_pass`) or that runs them while there is work (`auto`)."""

    def __init__(self, *, auto: bool = False, pass_s: float = 0.0) -> None:
        self.auto = auto
        self.pass_s = pass_s
        self.batches: list[list[str]] = []
        self.running = {}
        self.leases = {}
        self.aborted: list[str] = []
        self.released: list[str] = []
        self.is_closed = False
        self.forward_pass_id = 0
        self._outputs: asyncio.Queue = asyncio.Queue()
        self._passes: asyncio.Queue = asyncio.Queue()
        self._work = asyncio.Event()
        self._task = None
        self.error: Exception | None = None
        self.tokenizer_files = ()

    async def start(self) -> EngineInfo:
        if self.auto:
            self._task = asyncio.ensure_future(self._loop())
        return EngineInfo(
            model_name="fake",
            dp_size=DP_SIZE,
            ep_size=DP_SIZE,
            chunk_budget_tokens=64,
            chunked_prefill=True,
            max_batch_size=8,
            kv_blocks_total=100,
            tokens_per_block=BLOCK,
            max_sequence_tokens=200,
            vocab_size=1000,
            tokenizer_files=self.tokenizer_files,
        )

    async def submit(self, batch) -> None:
        if self.error:
            raise self.error
        for request in batch:
            if not 0 < len(request.prompt_token_ids) <= MAX_PROMPT:
                raise RequestRefusedError(request.request_id, "prompt", "the prompt has the wrong length")
            if not request.dp_rank < DP_SIZE:
                raise RequestRefusedError(request.request_id, "dp_rank", "no such rank")
            assert request.request_id not in self.running
            if request.mode is RequestMode.DECODE_ONLY:
                assert request.kv_payload == bytes(request.prompt_token_ids) * 1000
        self.batches.append([request.request_id for request in batch])
        for request in batch:
            self.running[request.request_id] = [request, len(request.prior_output_ids)]
        self._work.set()

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        if entry := self.running.pop(request_id, None):
            self._finish(entry, FinishReason.ABORTED)

    async def outputs(self):
        while (item := await self._outputs.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def forward_passes(self):
        while (item := await self._passes.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def rank_loads(self):
        return tuple(
            RankLoad(
                dp_rank=rank,
                prefill_load_tokens=sum(
                    len(request.prompt_token_ids)
                    for request, done in self.running.values()
                    if request.dp_rank == rank and not done
                ),
                num_waiting=0,
                batch_size=sum(request.dp_rank == rank for request, _ in self.running.values()),
                kv_blocks_used=10 * sum(lease[0].dp_rank == rank for lease in self.leases.values()),
            )
            for rank in range(DP_SIZE)
        )

    def start_pass(self, **columns) -> None:
        """`columns` are fields of the ranks' loads: `removed_blocks=((7,), ())`."""
        self.forward_pass_id += 1
        self._passes.put_nowait(
            ForwardPassStarted(
                forward_pass_id=self.forward_pass_id, ranks=self._ranks(columns), predicted_s=0.5
            )
        )

    def _ranks(self, columns):
        """The loads now, and for each rank what `columns` say."""
        return tuple(
            replace(load, **{name: values[load.dp_rank] for name, values in columns.items()})
            for load in self.rank_loads()
        )

    def end_pass(self, **columns) -> None:
        for request_id, entry in list(self.running.items()):
            request, index = entry
            self._outputs.put_nowait(
                TokenChunk(
                    request_id=request_id,
                    attempt=request.attempt,
                    token_index=index,
                    token_ids=(token_at(request.prompt_token_ids, index),),
                )
            )
            entry[1] += 1
            if request.mode is RequestMode.PREFILL_ONLY:
                self.leases[request_id] = self.running.pop(request_id)
                self._finish(entry, FinishReason.PREFILLED)
            elif entry[1] >= request.sampling.max_tokens:
                del self.running[request_id]
                self._finish(entry, FinishReason.LENGTH)
        self._passes.put_nowait(
            ForwardPassEnded(forward_pass_id=self.forward_pass_id, duration_s=0.5, ranks=self._ranks(columns))
        )

    def run_pass(self) -> None:
        self.start_pass()
        self.end_pass()

    def fail(self, message: str) -> None:
        self.error = EngineDeadError(message)
        self._outputs.put_nowait(self.error)
        self._passes.put_nowait(self.error)

    async def export_kv(self, request_id: str):
        payload = bytes(self.leases[request_id][0].prompt_token_ids) * 1000
        for start in range(0, len(payload), 1000):
            yield payload[start : start + 1000]

    async def release_kv(self, request_id: str) -> None:
        self.released.append(request_id)
        self.leases.pop(request_id, None)

    async def aclose(self) -> None:
        self.is_closed = True
        if self._task:
            self._task.cancel()
        self._outputs.put_nowait(None)
        self._passes.put_nowait(None)

    async def _loop(self) -> None:
        while True:
            self._work.clear()
            while self.running:
                self.start_pass()
                await asyncio.sleep(self.pass_s)
                self.end_pass()
            await self._work.wait()

    def _finish(self, entry, reason) -> None:
        request, count = entry
        self._outputs.put_nowait(
            Finished(
                request_id=request.request_id, attempt=request.attempt, reason=reason, num_output_tokens=count
            )
        )


class FakeGateway:
    """A gateway's side of a Submit stream: tokens and completions by request, and every message as it came."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self.stub = worker_pb2_grpc.WorkerServiceStub(self._channel)
        self.call = self.stub.Submit()
        self.messages = []
        self.tokens = defaultdict(list)
        self.completions = {}
        self._changed = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    async def send(self, *messages) -> None:
        for message in messages:
            await self.call.write(message)

    async def submit(self, request_id: str, **fields) -> None:
        await self.send(pb.SubmitRequest(requests=[a_request(request_id, **fields)]))

    async def abort(self, request_id: str, attempt: int = 0) -> None:
        await self.send(pb.SubmitRequest(aborts=[pb.Abort(request_id=request_id, attempt=attempt)]))

    async def completion(self, request_id: str) -> pb.Completion:
        await self.until(lambda: request_id in self.completions)
        return self.completions[request_id]

    async def until(self, condition) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        self.call.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def _read(self) -> None:
        async for message in self.call:
            self.messages.append(message)
            for delta in message.deltas:
                assert delta.token_index == len(self.tokens[delta.request_id]), "tokens out of order"
                self.tokens[delta.request_id].extend(delta.token_ids)
            for completion in message.completions:
                self.completions[completion.request_id] = completion
            self._changed.set()


class FakeScheduler(scheduling_pb2_grpc.SchedulingServiceServicer):
    """The scheduler's side of a Report stream: every message as it came; `send` answers."""

    def __init__(self) -> None:
        self.epoch = 1
        """That it says it leads in; 0: it stands by."""
        self.heartbeat_interval_s = 0.05
        self.reports = []
        self.num_streams = 0
        self.has_left = False
        self._answers: asyncio.Queue = asyncio.Queue()
        self._changed = asyncio.Event()
        self.server = None
        self.address = ""

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.server = GrpcServer(
            register=lambda server: scheduling_pb2_grpc.add_SchedulingServiceServicer_to_server(self, server),
            service_names=("hortator.rpc.scheduling.v1.SchedulingService",),
            host=host,
            port=port,
        )
        await self.server.start()
        self.address = self.server.address

    async def stop(self) -> None:
        await self.server.close()

    def send(self, *, epoch: int = 1, **event) -> None:
        self._answers.put_nowait(sched.ReportResponse(epoch=epoch, **event))

    def send_manifest(
        self, batch_id: str, *names: str, seq: int = 1, epoch: int = 1, predicted_s: float = 0.5
    ):
        members = [sched.BatchMember(request_id=name) for name in names]
        self.send(
            epoch=epoch,
            manifest=sched.BatchManifest(
                batch_id=batch_id, dispatch_seq=seq, members=members, predicted_pass_s=predicted_s
            ),
        )

    async def until(self, condition) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def report(self, kind: str, number: int = 0) -> sched.ReportRequest:
        """The (number + 1)-th report of a kind."""
        await self.until(lambda: len(self.of(kind)) > number)
        return self.of(kind)[number]

    def of(self, kind: str):
        return [report for report in self.reports if report.WhichOneof("event") == kind]

    async def Place(self, request_iterator, context):  # noqa: N802
        raise NotImplementedError

    async def Report(self, request_iterator, context):  # noqa: N802
        self.num_streams += 1
        answering = asyncio.ensure_future(self._answer(context))
        try:
            async for report in request_iterator:
                self.reports.append(report)
                self._changed.set()
            self.has_left = True
            self._changed.set()
        finally:
            answering.cancel()

    async def _answer(self, context) -> None:
        welcome = sched.Welcome(heartbeat_interval_s=self.heartbeat_interval_s)
        await context.write(sched.ReportResponse(epoch=self.epoch, welcome=welcome))
        while True:
            try:
                async with asyncio.timeout(0.5):
                    answer = await self._answers.get()
            except TimeoutError:
                answer = sched.ReportResponse(epoch=self.epoch)
            await context.write(answer)


def a_request(request_id: str, *, prompt=(1, 2, 3), max_tokens: int = 3, mode=pb.MODE_AGGREGATED, **fields):
    return pb.SubmittedRequest(
        request_id=request_id,
        mode=mode,
        prompt_token_ids=prompt,
        sampling=pb.Sampling(max_tokens=max_tokens, top_p=1.0),
        **fields,
    )


@pytest.fixture
def an_engine():
    return FakeEngine


@pytest.fixture
async def scheduler():
    fake = FakeScheduler()
    await fake.start()
    yield fake
    await fake.stop()


@asynccontextmanager
async def running_worker(engine, **settings):
    """A worker as `serve` puts it together, without the process around it."""
    settings = WorkerSettings.load(worker_id="w", drain_timeout_s=5.0, **settings)
    drain = Drain()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.aclose)
        info = await engine.start()
        worker = await Worker.open(settings, engine, info, WorkerMetrics(new_registry()), stack)
        running = asyncio.ensure_future(worker.run_until_drained(drain))
        worker.drain, worker.running = drain, running
        try:
            yield worker
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def a_worker():
    """Start workers: `worker = await a_worker(engine, phase="prefill")`."""
    async with AsyncExitStack() as stack:

        async def start(engine, **settings):
            return await stack.enter_async_context(running_worker(engine, **settings))

        yield start


@pytest.fixture
async def a_gateway():
    """Open gateway streams: `gateway = await a_gateway(worker)`."""
    async with AsyncExitStack() as stack:

        async def open_stream(worker, gateway_id: str = "g1"):
            gateway = FakeGateway(worker.host.identity.address)
            stack.push_async_callback(gateway.close)
            await gateway.send(pb.SubmitRequest(hello=pb.SubmitHello(gateway_id=gateway_id)))
            return gateway

        yield open_stream

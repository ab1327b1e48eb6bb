"""A fake scheduler and fake workers on loopback, and a gateway between them and a real client."""

# ruff: noqa: N802  # methods of gRPC services have the names of their calls
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from hortator.gateway.app import Gateway, run_gateway
from hortator.gateway.settings import GatewaySettings
from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.grpc_server import GrpcServer, open_channel
from hortator.runtime.tokenizer_files import digest_of

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def letter(index: int) -> int:
    """The output token at `index`: every fake worker gives the same."""
    return ord(ALPHABET[index % len(ALPHABET)])


def letters(number: int, start: int = 0) -> str:
    return "".join(chr(letter(i)) for i in range(start, start + number))


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for something that other tasks bring about; fails loudly after `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # any condition, whoever brings it about
            await asyncio.sleep(0.001)


@dataclass
class Run:
    """One attempt on a fake worker."""

    request: worker_pb2.SubmittedRequest
    stream: FakeStream
    next_index: int


class FakeStream:
    def __init__(self) -> None:
        self.responses: asyncio.Queue[worker_pb2.SubmitResponse | None] = asyncio.Queue()


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Runs one forward pass after another while it is `running`; or one per `step`."""

    def __init__(self, worker_id: str, phase: int = scheduling_pb2.PHASE_AGGREGATED) -> None:
        self.worker_id = worker_id
        self.boot_id = f"{worker_id}-boot"
        self.phase = phase
        self.pass_s = 0.001
        self.tokens_per_pass = 1
        self.output = ALPHABET.encode()
        """What it says, again and again; a byte is a token."""
        self.attachable: dict[bytes, list[int]] = {}
        """Key hash: the tokens that a request without a gateway has so far."""
        self.is_running = True
        self.refuse: worker_pb2.Completion | None = None
        self.lose_kv = False
        self.first_token_ends = False
        self.skip_one_token = False
        self.fail = False
        self.received: list[worker_pb2.SubmittedRequest] = []
        self.aborted: list[tuple[str, int]] = []
        self.released: list[str] = []
        self.leases: set[str] = set()
        self.runs: dict[tuple[str, int], Run] = {}
        self.num_streams = 0
        self.tokenizer: dict[str, bytes] | None = None
        self.no_tokenizer = grpc.StatusCode.NOT_FOUND
        self.num_pulls = 0
        self._server: GrpcServer | None = None
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> None:
        self._server = GrpcServer(
            register=lambda server: worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, server),
            service_names=[],
            port=port,
        )
        await self._server.start()
        self._loop_task = asyncio.create_task(self._passes())

    @property
    def address(self) -> str:
        assert self._server is not None
        return self._server.address

    async def kill(self) -> None:
        """Everything of it is gone at once."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop_task
        self.runs.clear()
        if self._server is not None:
            await self._server.close()

    async def Info(self, request, context):
        return worker_pb2.InfoResponse(worker_id=self.worker_id, boot_id=self.boot_id)

    async def ReleaseKv(self, request, context):
        self.released.append(request.lease_id)
        self.leases.discard(request.lease_id)
        return worker_pb2.ReleaseKvResponse()

    async def PullKv(self, request, context):
        raise NotImplementedError

    async def PullTokenizer(self, request, context):
        if self.tokenizer is None:
            await context.abort(self.no_tokenizer, "no tokenizer.json")
        self.num_pulls += 1
        if digest_of(self.tokenizer) != request.known_digest:
            for name, content in self.tokenizer.items():
                for start in range(0, len(content), 1000):
                    yield worker_pb2.PullTokenizerResponse(file=name, chunk=content[start : start + 1000])

    async def Submit(self, request_iterator, context):
        stream = FakeStream()
        self.num_streams += 1
        reader = asyncio.create_task(self._read(request_iterator, stream))
        try:
            while True:
                response = await stream.responses.get()
                if response is None:
                    return
                yield response
        finally:
            reader.cancel()

    async def _read(self, request_iterator, stream: FakeStream) -> None:
        async for message in request_iterator:
            for request in message.requests:
                self._submitted(request, stream)
            for abort in message.aborts:
                key = (abort.request_id, abort.attempt)
                self.aborted.append(key)
                self.runs.pop(key, None)
                self.leases.discard(f"lease-{abort.request_id}-{abort.attempt}")

    def _submitted(self, request: worker_pb2.SubmittedRequest, stream: FakeStream) -> None:
        self.received.append(request)
        completion = worker_pb2.Completion(request_id=request.request_id, attempt=request.attempt)
        if self.refuse is not None:
            completion.MergeFrom(self.refuse)
            completion.reason = worker_pb2.COMPLETION_REASON_REFUSED
        elif self.fail:
            completion.reason = worker_pb2.COMPLETION_REASON_FAILED
            completion.message = "the engine broke"
        elif request.mode == worker_pb2.MODE_ATTACH:
            tokens = self.attachable.pop(request.key_hash, None)
            if tokens is not None:
                self._attached(request, stream, tokens)
                return
            completion.reason = worker_pb2.COMPLETION_REASON_REFUSED
        elif self.lose_kv and request.mode == worker_pb2.MODE_DECODE_ONLY:
            completion.reason = worker_pb2.COMPLETION_REASON_KV_LOST
        else:
            key = (request.request_id, request.attempt)
            self.runs[key] = Run(request, stream, len(request.prior_output_ids))
            return
        stream.responses.put_nowait(worker_pb2.SubmitResponse(completions=[completion]))

    def _attached(self, request: worker_pb2.SubmittedRequest, stream: FakeStream, tokens: list[int]) -> None:
        request.sampling.max_tokens = 10
        self.runs[request.request_id, request.attempt] = Run(request, stream, len(tokens))
        delta = worker_pb2.TokenDelta(request_id=request.request_id, token_ids=tokens)
        stream.responses.put_nowait(worker_pb2.SubmitResponse(deltas=[delta]))

    async def _passes(self) -> None:
        while True:
            await asyncio.sleep(self.pass_s)
            if self.is_running:
                self.step()

    def step(self) -> None:
        """One forward pass: one message per stream."""
        responses: dict[FakeStream, worker_pb2.SubmitResponse] = {}
        for key, run in list(self.runs.items()):
            response = responses.setdefault(run.stream, worker_pb2.SubmitResponse())
            if self._advance(run, response):
                del self.runs[key]
        for stream, response in responses.items():
            stream.responses.put_nowait(response)

    def _advance(self, run: Run, response: worker_pb2.SubmitResponse) -> bool:
        request = run.request
        maximum = request.sampling.max_tokens
        prefill_only = request.mode == worker_pb2.MODE_PREFILL_ONLY
        number = 1 if prefill_only else self.tokens_per_pass
        start = run.next_index + (1 if self.skip_one_token and run.next_index == 2 else 0)
        end = min(start + number, maximum)
        response.deltas.append(
            worker_pb2.TokenDelta(
                request_id=request.request_id,
                attempt=request.attempt,
                token_index=start,
                token_ids=[self.output[i % len(self.output)] for i in range(start, end)],
            )
        )
        run.next_index = end
        completion = worker_pb2.Completion(
            request_id=request.request_id, attempt=request.attempt, num_output_tokens=end
        )
        if end >= maximum:
            completion.reason = worker_pb2.COMPLETION_REASON_LENGTH
        elif self.first_token_ends:
            completion.reason = worker_pb2.COMPLETION_REASON_STOP
        elif prefill_only:
            completion.reason = worker_pb2.COMPLETION_REASON_PREFILLED
            lease_id = f"lease-{request.request_id}-{request.attempt}"
            self.leases.add(lease_id)
            completion.kv_source.CopyFrom(
                worker_pb2.KvSource(worker_address=self.address, boot_id=self.boot_id, lease_id=lease_id)
            )
        else:
            return False
        response.completions.append(completion)
        return True


class FakeScheduler(scheduling_pb2_grpc.SchedulingServiceServicer):
    """Places whatever is announced on the next worker of the right phase; `is_placing` False: holds it."""

    def __init__(self) -> None:
        self.epoch = 1
        self.workers: list[FakeWorker] = []
        self.is_placing = True
        self.is_silent = False
        """Its streams stand, and it says nothing by itself."""
        self.attaches = False
        """What is announced first runs already, on the next worker."""
        self.reject: scheduling_pb2.Rejection | None = None
        self.events: list[scheduling_pb2.GatewayEvent] = []
        self.held: list[tuple[str, int, bool]] = []
        self.num_turns = 0
        self.port = 0
        self._out: asyncio.Queue[scheduling_pb2.PlaceResponse] = asyncio.Queue()
        self._server: GrpcServer | None = None

    async def start(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._out = asyncio.Queue()
        self._host, self.port = host, port or self.port
        self._server = GrpcServer(
            register=lambda server: scheduling_pb2_grpc.add_SchedulingServiceServicer_to_server(self, server),
            service_names=[],
            host=host,
            port=self.port,
        )
        self.port = await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.close()
        self.held.clear()

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    def of(self, kind: str) -> list:
        """Events of one kind, oldest first."""
        return [getattr(event, kind) for event in self.events if event.WhichOneof("event") == kind]

    async def Report(self, request_iterator, context):
        raise NotImplementedError
        yield

    async def Workers(self, request, context):
        return scheduling_pb2.WorkersResponse(addresses=[worker.address for worker in self.workers])

    async def Place(self, request_iterator, context):
        """Leads, and says so as often as a scheduler does."""
        reader = asyncio.create_task(self._read(request_iterator))
        yield scheduling_pb2.PlaceResponse(epoch=self.epoch)
        try:
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        response = await self._out.get()
                except TimeoutError:
                    if self.is_silent:
                        continue
                    response = scheduling_pb2.PlaceResponse(epoch=self.epoch)
                yield response
        finally:
            reader.cancel()

    async def _read(self, request_iterator) -> None:
        async for message in request_iterator:
            for event in message.events:
                self.events.append(event)
                self._handle(event)

    def _handle(self, event: scheduling_pb2.GatewayEvent) -> None:
        match event.WhichOneof("event"):
            case "announcement":
                wish = (event.announcement.request_id, event.announcement.attempt, False)
            case "prefill_finished":
                wish = (event.prefill_finished.request_id, event.prefill_finished.attempt, True)
            case "placement_refused":
                refused = event.placement_refused
                wish = (refused.request_id, refused.attempt, refused.worker_id.startswith("decode"))
            case _:
                return
        if self.reject is not None:
            rejection = scheduling_pb2.Rejection(request_id=wish[0], attempt=wish[1])
            rejection.MergeFrom(self.reject)
            self.say(rejections=[rejection])
        elif self.is_placing:
            self.place(*wish)
        else:
            self.held.append(wish)

    def place_held(self) -> None:
        self.is_placing = True
        held, self.held = self.held, []
        for wish in held:
            self.place(*wish)

    def place(self, request_id: str, attempt: int, wants_decode: bool) -> None:
        decode = scheduling_pb2.PHASE_DECODE
        workers = [worker for worker in self.workers if (worker.phase == decode) == wants_decode]
        worker = workers[self.num_turns % len(workers)]
        self.num_turns += 1
        self.say(placements=[self.placement(worker, request_id, attempt)])

    def placement(self, worker: FakeWorker, request_id: str, attempt: int) -> scheduling_pb2.Placement:
        return scheduling_pb2.Placement(
            request_id=request_id,
            attempt=attempt,
            phase=worker.phase,
            worker_id=worker.worker_id,
            worker_address=worker.address,
            boot_id=worker.boot_id,
            batch_id=f"batch-{self.num_turns}",
            batch_size=1,
            dispatch_seq=self.num_turns,
            attaches=self.attaches,
        )

    def tell_fleet(self, *, num_gateways: int = 1, heartbeat_s: float = 0.5) -> None:
        """What gateways need to place by themselves: every worker has one idle rank."""
        groups = [
            scheduling_pb2.GroupView(
                worker_id=worker.worker_id,
                boot_id=worker.boot_id,
                address=worker.address,
                phase=worker.phase,
                chunk_budget_tokens=100,
                max_batch_size=8,
                kv_blocks_total=1000,
                tokens_per_block=4,
                longest_prompt_tokens=4000,
                prefill_load_tokens=[0],
                batch_size=[0],
                kv_blocks_used=[0],
            )
            for worker in self.workers
        ]
        self.say(
            fleet_view=scheduling_pb2.FleetView(
                groups=groups, num_gateways=num_gateways, heartbeat_s=heartbeat_s
            )
        )

    def say(self, *, epoch: int | None = None, **commands) -> None:
        self._out.put_nowait(
            scheduling_pb2.PlaceResponse(epoch=self.epoch if epoch is None else epoch, **commands)
        )


@dataclass
class Reply:
    """What a client got."""

    deltas: list[inference_pb2.Delta] = field(default_factory=list)
    completion: inference_pb2.Completion | None = None
    request_id: str = ""

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    def take(self, message: inference_pb2.GenerateResponse) -> None:
        """Add a message; checks that deltas follow each other without gap or repetition."""
        self.request_id = message.request_id
        assert self.completion is None, "something after the completion"
        delta = message.delta
        if message.HasField("completion"):
            self.completion = message.completion
            if not message.completion.HasField("delta"):
                return
            delta = message.completion.delta
        if self.deltas:
            last = self.deltas[-1]
            assert delta.token_index == last.token_index + len(last.token_ids)
        self.deltas.append(delta)


class Cluster:
    """The gateway under test and everything around it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.scheduler = FakeScheduler()
        self.workers: list[FakeWorker] = []
        self.gateway: Gateway
        self.stub: inference_pb2_grpc.InferenceServiceStub

    async def add_worker(self, worker_id: str, phase: int = scheduling_pb2.PHASE_AGGREGATED) -> FakeWorker:
        worker = FakeWorker(worker_id, phase)
        await worker.start()
        self._stack.push_async_callback(worker.kill)
        self.workers.append(worker)
        self.scheduler.workers.append(worker)
        return worker

    async def start_gateway(self, **overrides) -> Gateway:
        settings = GatewaySettings.load(
            **{
                "port": 0,
                "gateway_id": "gw",
                "scheduler_addresses": [self.scheduler.address],
                "model": "tiny",
                "max_sequence_tokens": 4096,
                "tokens_per_block": 4,
                "tokenizer": "bytes",
                **overrides,
            }
        )
        self.gateway = await self._stack.enter_async_context(run_gateway(settings))
        channel = await self._stack.enter_async_context(open_channel(self.gateway.address))
        self.stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return self.gateway

    def call(self, text: str = "go", *, timeout: float | None = None, max_tokens: int = 8, **fields):
        """Start a Generate call."""
        sampling = fields.pop("sampling", {})
        request = inference_pb2.GenerateRequest(
            text=text,
            sampling=inference_pb2.SamplingParameters(max_tokens=max_tokens, **sampling),
            **fields,
        )
        return self.stub.Generate(request, timeout=timeout)

    async def read(self, call, *, num_tokens: int | None = None) -> Reply:
        """Read a call to its end, or until so many tokens are here."""
        reply = Reply()
        while num_tokens is None or len(reply.token_ids) < num_tokens:
            message = await call.read()
            if message is grpc.aio.EOF:
                status = await call.code()
                if status is not grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(
                        status,
                        await call.initial_metadata(),
                        await call.trailing_metadata(),
                        await call.details(),
                    )
                break
            reply.take(message)
        return reply

    async def chat(self, *messages: tuple[str, str]) -> Reply:
        """One token in answer to messages: role and content."""
        said = [inference_pb2.ChatMessage(role=role, content=content) for role, content in messages]
        request = inference_pb2.GenerateRequest(
            chat=inference_pb2.ChatPrompt(messages=said),
            sampling=inference_pb2.SamplingParameters(max_tokens=1),
        )
        return await self.read(self.stub.Generate(request))

    async def generate(self, text: str = "go", **fields) -> Reply:
        return await self.read(self.call(text, **fields))


@pytest.fixture
async def empty_cluster() -> AsyncIterator[Cluster]:
    """A scheduler that runs, no worker, no gateway yet."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(stack)
        await cluster.scheduler.start()
        stack.push_async_callback(cluster.scheduler.stop)
        yield cluster


@pytest.fixture
async def cluster(empty_cluster: Cluster) -> Cluster:
    """Two aggregated workers and a connected gateway."""
    await empty_cluster.add_worker("w0")
    await empty_cluster.add_worker("w1")
    await empty_cluster.start_gateway()
    return empty_cluster


@pytest.fixture
async def disaggregated(empty_cluster: Cluster) -> Cluster:
    """One prefill worker, one decode worker and a connected gateway."""
    await empty_cluster.add_worker("prefill", scheduling_pb2.PHASE_PREFILL)
    await empty_cluster.add_worker("decode", scheduling_pb2.PHASE_DECODE)
    await empty_cluster.start_gateway()
    return empty_cluster


@pytest.fixture
def wait_until() -> Callable:
    return until


@pytest.fixture
def expected_text() -> Callable[..., str]:
    return letters

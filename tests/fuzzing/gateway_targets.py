"""The gateway: what clients ask for, and what schedulers and workers say on their streams.

After any of it every call that is open ends once its scheduler and its workers are sane, with the tokens that
were accepted, each once and in order, or with an error that is documented; then nothing is held any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, generate_latest

from fuzzing.frames import conversation, conversations, said
from fuzzing.lives import ended, live, turns
from fuzzing.protos import around, wire
from fuzzing.target import Target
from hortator.gateway import codec
from hortator.gateway.admission import Admission
from hortator.gateway.client.scheduler import SchedulerClient
from hortator.gateway.client.worker import _StreamEndedError, _SubmitStream
from hortator.gateway.coalescing import Coalescer
from hortator.gateway.driver import Driver
from hortator.gateway.idempotency import KeyedGenerations
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.placement import KvSource, Submission, SubmitMode, WorkerTarget
from hortator.gateway.service import STATUS_CODES, InferenceService
from hortator.gateway.settings import GatewaySettings
from hortator.gateway.tokenization import load_tokenizer
from hortator.rpc.inference.v1 import inference_pb2
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.rpc_errors import details_of
from hortator.runtime.transport import Plaintext

EPOCH = 5
SCHEDULER = "127.0.0.1:1"
WORKER = WorkerTarget("127.0.0.1:1", "b1")
SETTINGS = GatewaySettings(
    scheduler_addresses=(SCHEDULER,), model="m", max_sequence_tokens=300, tokenizer="bytes"
)
MAX_TEXT_CHARS = 4000
"""Longer texts are tokenized in a thread, and there are none in virtual time."""
MAX_ROUNDS = 200
"""Until everything that is asked of a sane cluster is answered."""


class AbortedError(Exception):
    """How gRPC unwinds a handler."""


class Call:
    """A Generate call, as gRPC shows it to the handler; checks all that a client would see."""

    def __init__(self, request: inference_pb2.GenerateRequest) -> None:
        self.request = request.SerializeToString()
        self.num_tokens = 0
        self.status: grpc.StatusCode | None = None
        self.completion: inference_pb2.Completion | None = None
        self.resume_from_index = request.resume_from_index

    async def read(self) -> bytes:
        return self.request

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, message: inference_pb2.GenerateResponse) -> None:
        assert self.completion is None
        message = inference_pb2.GenerateResponse.FromString(message.SerializeToString())
        if message.HasField("delta"):
            self._take(message.delta)
            return
        self.completion = message.completion
        if message.completion.HasField("delta"):
            self._take(message.completion.delta)
        assert message.completion.usage.num_output_tokens >= self.num_tokens

    def _take(self, delta: inference_pb2.Delta) -> None:
        if not self.num_tokens:
            self.num_tokens = self.resume_from_index
        assert delta.token_index == self.num_tokens, (delta.token_index, self.num_tokens)
        self.num_tokens += len(delta.token_ids)

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> None:
        self.status = code
        details.encode()
        error = grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing_metadata), details
        )
        assert details_of(error).reason
        raise AbortedError


class Workers:
    """Where the gateway's submissions go: kept, in form for the wire, until a sane worker answers them."""

    def __init__(self) -> None:
        self.submissions: list[Submission] = []
        self.targets: dict[WorkerTarget, None] = {}

    def submit(self, submission: Submission) -> None:
        codec.submit_message([codec.submit_request(submission)]).SerializeToString()
        self.submissions.append(submission)
        self.targets[submission.placement.target] = None

    def abort(self, target: WorkerTarget, request_id: str, attempt: int) -> None:
        codec.abort_request(request_id, attempt).SerializeToString()
        self.submissions = [one for one in self.submissions if one.placement.request_id != request_id]

    def release_kv(self, source: KvSource) -> None:
        worker_pb2.ReleaseKvRequest(lease_id=source.lease_id, boot_id=source.boot_id).SerializeToString()


class Gateway:
    """All of a gateway but its sockets, and a cluster around it that is sane when it is asked."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        metrics = GatewayMetrics(self.registry)
        keyed = KeyedGenerations(retention_s=30.0)
        self.driver = Driver(
            metrics=metrics,
            coalescer=Coalescer(max_window_s=0.05, target_messages_per_s=10_000),
            keyed=keyed,
            queue_timeout_s=5.0,
        )
        self.workers = Workers()
        self.scheduler = SchedulerClient(
            Endpoints((SCHEDULER,)), gateway_id="gw", events=self.driver, alone_after_s=0.05
        )
        self.driver.attach(scheduler=self.scheduler, workers=self.workers)
        admission = Admission(
            SETTINGS,
            gateway_id="r",
            tokenizer=load_tokenizer(SETTINGS.tokenizer),
            driver=self.driver,
            keyed=keyed,
        )
        self.service = InferenceService(
            admission=admission,
            driver=self.driver,
            metrics=metrics,
            call_limits=SETTINGS.call_limits,
            max_message_bytes=SETTINGS.max_message_bytes,
            max_metadata_bytes=SETTINGS.max_metadata_bytes,
        )
        self.calls: list[tuple[Call, asyncio.Task[None]]] = []
        self.asked: dict[str, tuple[str, Any]] = {}
        """Open questions to the scheduler, by request."""
        self.scheduler_says(scheduling_pb2.PlaceResponse(epoch=EPOCH))

    def client_says(self, request: inference_pb2.GenerateRequest) -> Call:
        call = Call(request)
        self.calls.append((call, asyncio.ensure_future(self._serve(call))))
        return call

    async def _serve(self, call: Call) -> None:
        try:
            await self.service.Generate(None, call)
        except AbortedError:
            assert call.status in STATUS_CODES.values()

    def scheduler_says(self, message: scheduling_pb2.PlaceResponse) -> None:
        self.scheduler.heard(SCHEDULER, message)

    async def worker_says(self, *messages: worker_pb2.SubmitResponse) -> None:
        async def stream() -> AsyncIterator[worker_pb2.SubmitResponse]:
            for message in messages:
                yield message

        with contextlib.suppress(_StreamEndedError):
            await _SubmitStream(WORKER, "gw", self.driver, Plaintext())._read(stream())

    def lose_workers(self) -> None:
        """What runs at workers goes elsewhere."""
        self.workers.submissions.clear()
        for target in list(self.workers.targets):
            self.driver.worker_lost(target, "the link broke", crashed=False)

    async def answered(self) -> None:
        """A sane scheduler and a sane worker answer everything that was asked of them."""
        for _ in range(MAX_ROUNDS):
            if all(task.done() for _, task in self.calls):
                break
            if not self.scheduler.is_connected:
                self.scheduler_says(scheduling_pb2.PlaceResponse(epoch=max(self.scheduler.epoch, EPOCH)))
            self._place()
            submissions, self.workers.submissions = self.workers.submissions, []
            for submission in submissions:
                await self.worker_says(_answer(submission))
            await asyncio.sleep(0.1)
        for _, task in self.calls:
            assert task.done(), "a call that nobody ends"
            task.result()

    def _place(self) -> None:
        self._listen()
        asked, self.asked = self.asked, {}
        placements = [
            scheduling_pb2.Placement(
                request_id=request_id,
                attempt=event.attempt,
                worker_id="w0",
                worker_address=WORKER.address,
                boot_id=WORKER.boot_id,
                phase=scheduling_pb2.PHASE_DECODE
                if kind == "prefill_finished"
                else scheduling_pb2.PHASE_AGGREGATED,
            )
            for request_id, (kind, event) in asked.items()
        ]
        self.scheduler_says(scheduling_pb2.PlaceResponse(epoch=self.scheduler.epoch, placements=placements))

    def _listen(self) -> None:
        """What the gateway has to say goes over the wire."""
        while events := self.scheduler.take(SCHEDULER):
            message = scheduling_pb2.PlaceRequest(events=events)
            for event in scheduling_pb2.PlaceRequest.FromString(message.SerializeToString()).events:
                kind = event.WhichOneof("event")
                said_event = getattr(event, kind)
                if kind in {"announcement", "prefill_finished"}:
                    self.asked[said_event.request_id] = (kind, said_event)
                elif kind == "placement_refused":  # the same attempt wants another
                    self.asked[said_event.request_id] = ("announcement", said_event)

    async def check(self) -> None:
        """Everything ends, and a newcomer is served as if nothing had been."""
        newcomer = self.client_says(
            inference_pb2.GenerateRequest(
                text="a newcomer", sampling=inference_pb2.SamplingParameters(max_tokens=4)
            )
        )
        await turns()
        await self.answered()
        assert newcomer.completion is not None, newcomer.status
        assert newcomer.num_tokens == 4
        for call, _ in self.calls:
            assert (call.completion is None) != (call.status is None)
        assert not self.driver.num_in_flight
        assert not self.driver.num_streaming
        assert not self.service.num_calls
        generate_latest(self.registry)

    async def close(self) -> None:
        self.scheduler.close()
        self.scheduler._follower.close()
        await ended(*(task for _, task in self.calls if not task.done()))


def _answer(submission: Submission) -> worker_pb2.SubmitResponse:
    """All the tokens that are wanted, and the end."""
    place, prior = submission.placement, len(submission.prior_output_ids)
    is_prefill = submission.mode is SubmitMode.PREFILL_ONLY
    num_tokens = 1 if is_prefill else submission.sampling.max_tokens - prior
    completion = worker_pb2.Completion(
        request_id=place.request_id,
        attempt=place.attempt,
        reason=worker_pb2.COMPLETION_REASON_PREFILLED if is_prefill else worker_pb2.COMPLETION_REASON_LENGTH,
        num_output_tokens=prior + num_tokens,
    )
    if is_prefill:
        completion.kv_source.worker_address = WORKER.address
    delta = worker_pb2.TokenDelta(
        request_id=place.request_id,
        attempt=place.attempt,
        token_index=prior,
        token_ids=[65 + number % 26 for number in range(num_tokens)],
    )
    return worker_pb2.SubmitResponse(deltas=[delta], completions=[completion])


def client_requests(data: bytes) -> None:
    """One gateway, and whatever its clients ask."""
    requests = [
        request for request in said({b"c": inference_pb2.GenerateRequest}, data) if _is_short(request)
    ]

    async def life() -> None:
        gateway = Gateway()
        try:
            for request in requests:
                gateway.client_says(request)
                await turns(3)
            await gateway.check()
        finally:
            await gateway.close()

    live(life)


def streams(data: bytes) -> None:
    """r-1 waits for a placement and r-2 runs at a worker, while both sides say whatever they like."""
    kinds = {b"s": scheduling_pb2.PlaceResponse, b"w": worker_pb2.SubmitResponse}
    messages = list(said(kinds, data))

    async def life() -> None:
        gateway = Gateway()
        try:
            for stop in ((), ("Z",)):
                sampling = inference_pb2.SamplingParameters(max_tokens=30, stop=stop)
                gateway.client_says(inference_pb2.GenerateRequest(text="hello", sampling=sampling))
            await turns()
            gateway._listen()
            gateway.scheduler_says(_PLACED)
            for message in messages:
                if isinstance(message, scheduling_pb2.PlaceResponse):
                    gateway.scheduler_says(message)
                else:
                    await gateway.worker_says(message)
                await asyncio.sleep(0.01)
            gateway.lose_workers()
            await gateway.check()
        finally:
            await gateway.close()

    live(life)


def _is_short(request: inference_pb2.GenerateRequest) -> bool:
    texts = [request.text, *(turn.content for turn in request.chat.messages)]
    return sum(map(len, texts)) < MAX_TEXT_CHARS


def _place(request_id: str, phase: int, **fields: Any) -> scheduling_pb2.Placement:
    return scheduling_pb2.Placement(
        request_id=request_id,
        worker_id="w0",
        worker_address=WORKER.address,
        boot_id=WORKER.boot_id,
        phase=phase,
        **fields,
    )


_PLACED = scheduling_pb2.PlaceResponse(
    epoch=EPOCH, placements=[_place("r-2", scheduling_pb2.PHASE_AGGREGATED)]
)
_PLACES = (
    scheduling_pb2.PlaceResponse(epoch=EPOCH, placements=[_place("r-1", scheduling_pb2.PHASE_PREFILL)]),
    scheduling_pb2.PlaceResponse(
        epoch=EPOCH, placements=[_place("r-1", scheduling_pb2.PHASE_AGGREGATED, attaches=True)]
    ),
    scheduling_pb2.PlaceResponse(
        epoch=EPOCH, placements=[_place("r-1", scheduling_pb2.PHASE_DECODE), *_PLACED.placements]
    ),
    scheduling_pb2.PlaceResponse(
        epoch=EPOCH,
        rejections=[
            scheduling_pb2.Rejection(
                request_id="r-1",
                reason=scheduling_pb2.REJECT_REASON_QUEUE_FULL_REQUESTS,
                retry_after_s=1.0,
                message="full",
            )
        ],
        retractions=[
            scheduling_pb2.Retraction(request_id="r-2", reason=scheduling_pb2.RETRACT_REASON_WORKER_LOST)
        ],
    ),
    scheduling_pb2.PlaceResponse(epoch=EPOCH, resigned=True),
    scheduling_pb2.PlaceResponse(
        epoch=EPOCH,
        resigned=True,
        fleet_view=scheduling_pb2.FleetView(
            groups=[
                scheduling_pb2.GroupView(
                    worker_id="w0",
                    boot_id=WORKER.boot_id,
                    address=WORKER.address,
                    phase=scheduling_pb2.PHASE_AGGREGATED,
                    chunk_budget_tokens=512,
                    max_batch_size=8,
                    kv_blocks_total=100,
                    tokens_per_block=16,
                    longest_prompt_tokens=1000,
                    full_pass_s=0.1,
                    prefill_load_tokens=[0, 7],
                    batch_size=[0, 1],
                    kv_blocks_used=[0, 3],
                )
            ],
            num_gateways=1,
            heartbeat_s=0.02,
        ),
    ),
)
_LAST_ATTEMPT = scheduling_pb2.PlaceResponse(
    epoch=EPOCH, placements=[_place("r-1", scheduling_pb2.PHASE_AGGREGATED, attempt=(1 << 32) - 1)]
)
"""After it there is no number for another one."""
_TOKENS = worker_pb2.SubmitResponse(
    deltas=[
        worker_pb2.TokenDelta(request_id="r-2", token_ids=[72, 195, 169]),
        worker_pb2.TokenDelta(request_id="r-2", token_index=3, token_ids=[90, 1 << 31]),
        worker_pb2.TokenDelta(request_id="r-1", token_ids=[72]),
    ]
)
_ENDS = (
    worker_pb2.Completion(request_id="r-2", reason=worker_pb2.COMPLETION_REASON_STOP, num_output_tokens=3),
    worker_pb2.Completion(
        request_id="r-2", reason=worker_pb2.COMPLETION_REASON_FAILED, message="out of memory"
    ),
    worker_pb2.Completion(request_id="r-2", reason=worker_pb2.COMPLETION_REASON_REFUSED, field="max_tokens"),
    worker_pb2.Completion(
        request_id="r-1",
        reason=worker_pb2.COMPLETION_REASON_PREFILLED,
        num_output_tokens=1,
        kv_source=worker_pb2.KvSource(worker_address=WORKER.address, boot_id="b1", lease_id="r-1/0"),
    ),
)
_ANSWERS = (_TOKENS, *(worker_pb2.SubmitResponse(deltas=_TOKENS.deltas, completions=[end]) for end in _ENDS))
_REQUESTS = (
    inference_pb2.GenerateRequest(
        model="m",
        text="hello",
        sampling=inference_pb2.SamplingParameters(
            max_tokens=10, min_tokens=1, temperature=0.5, top_p=0.9, stop=["Z"], stop_token_ids=[5]
        ),
        priority=1,
        tenant="k",
    ),
    inference_pb2.GenerateRequest(
        tokens=inference_pb2.TokenPrompt(token_ids=[1, 2, 3]), idempotency_key="k", resume_from_index=2
    ),
    inference_pb2.GenerateRequest(
        tokens=inference_pb2.TokenPrompt(token_ids=[1, 2, 3]),
        idempotency_key="brings",
        resume_from_index=2,
        prior_output_ids=[4, 5],
    ),
    inference_pb2.GenerateRequest(
        chat=inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="user", content="hello")]),
        latency_class=inference_pb2.LATENCY_CLASS_CRITICAL,
    ),
)
_SIDES = [*((b"s", message) for message in _PLACES), *((b"w", message) for message in _ANSWERS)]

TARGETS = (
    Target(
        "gateway-client-requests",
        client_requests,
        conversations({b"c": around(*_REQUESTS) | wire(inference_pb2.GenerateRequest)}),
        cases=(conversation(*((b"c", request) for request in _REQUESTS)),),
    ),
    Target(
        "gateway-streams",
        streams,
        conversations(
            {
                b"s": around(*_PLACES) | wire(scheduling_pb2.PlaceResponse, epoch=EPOCH),
                b"w": around(*_ANSWERS) | wire(worker_pb2.SubmitResponse),
            }
        ),
        cases=tuple(conversation(*_SIDES[at : at + 3]) for at in range(len(_SIDES))),
        bugs={"an attempt that has no next one": conversation((b"s", _LAST_ATTEMPT), (b"w", _TOKENS))},
    ),
)

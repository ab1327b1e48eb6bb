"""The worker: what gateways say on their streams and about KV, what schedulers say, what a prefill worker sends.

The engine is the simulated one. After any of it each submission has had one last word, tokens came once and in
order, and a newcomer is served as if nothing had been, unless the worker was told to drain.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from fuzzing.frames import conversation, conversations, said
from fuzzing.lives import ended, live, turns
from fuzzing.protos import around, wire
from fuzzing.target import Target
from hortator.rpc.scheduling.v1 import scheduling_pb2
from hortator.rpc.worker.v1 import worker_pb2
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.transport import Plaintext
from hortator.worker.client.report import SchedulerLink, SchedulerLinks
from hortator.worker.codec import encode_hello, encode_report
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.simulated.engine import SimulatedEngine
from hortator.worker.engines.simulated.kv_payload import KvPayload, checksum
from hortator.worker.errors import KvLostError
from hortator.worker.gate import Gate
from hortator.worker.host import WorkerHost
from hortator.worker.kv_leases import KvLeases
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.orphans import Orphans
from hortator.worker.report import WorkerIdentity
from hortator.worker.service import WorkerService
from hortator.worker.submission import KvLocation

EPOCH = 5
SCHEDULER = "127.0.0.1:1"
SETTLE_S = 120.0
"""Longer than a lease, an orphan and every pass of these sizes."""
ENGINE = SimulatedConfig(
    dp_size=2,
    ep_size=16,
    chunk_budget_tokens=256,
    max_batch_size=8,
    kv_blocks_total=100,
    tokens_per_block=16,
    max_sequence_tokens=200,
    vocab_size=1000,
)


class AbortedError(Exception):
    """How gRPC unwinds a handler."""


class Stream:
    """A gateway's Submit stream, as gRPC shows it to the handler; checks all that the gateway would see."""

    def __init__(self, world: Worker) -> None:
        self.num_ended: Counter[tuple[str, int]] = Counter()
        self.reasons: dict[str, int] = {}
        self.tokens: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._messages: asyncio.Queue[worker_pb2.SubmitRequest | None] = asyncio.Queue()
        self.num_submitted: Counter[tuple[str, int]] = Counter()
        self.task = asyncio.ensure_future(self._serve(world))

    async def _serve(self, world: Worker) -> None:
        try:
            await world.service.Submit(self._requests(), self)
        except AbortedError:
            self.num_submitted.clear()

    async def _requests(self) -> AsyncIterator[worker_pb2.SubmitRequest]:
        while (message := await self._messages.get()) is not None:
            yield message

    def say(self, message: worker_pb2.SubmitRequest | None) -> None:
        for request in message.requests if message is not None else ():
            self.num_submitted[request.request_id, request.attempt] += 1
        self._messages.put_nowait(message)

    async def write(self, message: worker_pb2.SubmitResponse) -> None:
        message = worker_pb2.SubmitResponse.FromString(message.SerializeToString())
        for delta in message.deltas:
            tokens = self.tokens[delta.request_id, delta.attempt]
            if tokens and delta.token_index:  # one that is attached to begins at 0 again
                assert delta.token_index == tokens[-1] + 1
            tokens.extend(range(delta.token_index, delta.token_index + len(delta.token_ids)))
        for completion in message.completions:
            self.num_ended[completion.request_id, completion.attempt] += 1
            self.reasons[completion.request_id] = completion.reason

    async def abort(self, code: Any, details: str) -> None:
        details.encode()
        raise AbortedError(code)


class Worker:
    """All of a worker but its sockets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.engine = SimulatedEngine(ENGINE)
        self.service = WorkerService()
        self.payloads: list[bytes] = []
        self.streams: list[Stream] = []

    async def start(self) -> None:
        info = await self.engine.start()
        self.host = self.service.host = WorkerHost(
            engine=self.engine,
            info=info,
            identity=WorkerIdentity(worker_id="w0", boot_id="b1", address=SCHEDULER, phase="aggregated"),
            gate=Gate(),
            leases=KvLeases(duration_s=30.0),
            orphans=Orphans(keep_s=30.0, max_orphans=4, max_tokens=1000),
            kv_fetcher=self,
            metrics=WorkerMetrics(self.registry),
        )
        links = SchedulerLinks(Endpoints((SCHEDULER,)), self.host)
        self.follower = links._follower
        self.link = links._links[SCHEDULER] = SchedulerLink(
            SCHEDULER,
            self.host,
            min_backoff_s=1.0,
            max_backoff_s=1.0,
            on_welcome=lambda: None,
            transport=Plaintext(),
            follower=self.follower,
        )
        self.link._is_up = True
        self.host.add_sink(links)
        self.running = asyncio.ensure_future(self.host.run())
        self.beating = asyncio.ensure_future(self.link._heartbeat())
        self.link._handle(scheduling_pb2.ReportResponse(epoch=EPOCH, probe=scheduling_pb2.Probe()))

    async def fetch(self, location: KvLocation) -> bytes:
        """What a prefill worker sends, if it sends anything."""
        await asyncio.sleep(0.01)
        if not self.payloads:
            raise KvLostError(f"{location.worker_address}: no KV")
        return self.payloads.pop(0)

    async def release(self, location: KvLocation) -> None:
        assert location is not None

    def stream(self) -> Stream:
        stream = Stream(self)
        self.streams.append(stream)
        return stream

    async def asked_for_kv(self, message: worker_pb2.PullKvRequest | worker_pb2.ReleaseKvRequest) -> None:
        try:
            if isinstance(message, worker_pb2.PullKvRequest):
                async for response in self.service.PullKv(message, self):
                    response.SerializeToString()
            else:
                await self.service.ReleaseKv(message, self)
        except AbortedError:
            pass

    async def abort(self, code: Any, details: str) -> None:
        details.encode()
        raise AbortedError(code)

    def report(self) -> int:
        """Everything that there is to say can be said."""
        num_reports = 0
        while self.link._backlog:
            encode_report(self.host.identity, self.link._backlog.popleft()).SerializeToString()
            num_reports += 1
        host = self.host
        encode_hello(
            host.identity, host.info, host.load_snapshot(), host.reusable_blocks(), host.keyed_requests()
        ).SerializeToString()
        return num_reports

    async def check(self) -> None:
        await asyncio.sleep(SETTLE_S)
        assert not self.running.done(), self.running
        assert 0 < self.report() < 1000 * SETTLE_S
        await self._newcomer()
        for stream in self.streams:
            stream.say(None)
        await turns()
        await asyncio.sleep(SETTLE_S)
        self.report()
        for stream in self.streams:
            assert stream.task.done(), "a stream that nobody ends"
            stream.task.result()
            if stream.num_submitted:
                assert stream.num_ended == stream.num_submitted
        assert not self.host.num_live
        assert not self.host.kv.num_leases
        assert not any(load.batch_size or load.num_waiting for load in self.engine.rank_loads())
        async with asyncio.timeout(1):
            await self.host.wait_idle()
        generate_latest(self.registry)

    async def _newcomer(self) -> None:
        newcomer = self.stream()
        newcomer.say(_HELLO)
        newcomer.say(worker_pb2.SubmitRequest(requests=[_request("newcomer")]))
        await asyncio.sleep(10.0)
        is_draining = self.host.is_draining
        wanted = worker_pb2.COMPLETION_REASON_REFUSED if is_draining else worker_pb2.COMPLETION_REASON_LENGTH
        assert newcomer.reasons == {"newcomer": wanted}
        assert newcomer.tokens["newcomer", 0] == ([] if is_draining else [0, 1, 2])

    async def close(self) -> None:
        self.follower.close()
        await self.engine.aclose()
        await ended(self.beating, *(stream.task for stream in self.streams if not stream.task.done()))
        await asyncio.wait({self.running}, timeout=1)  # it ends with its engine
        if self.running.done() and not self.running.cancelled():
            self.running.exception()


def conversation_with_a_worker(data: bytes) -> None:
    kinds = {
        b"g": worker_pb2.SubmitRequest,
        b"s": scheduling_pb2.ReportResponse,
        b"k": worker_pb2.PullKvResponse,
        b"p": worker_pb2.PullKvRequest,
        b"r": worker_pb2.ReleaseKvRequest,
    }
    messages = list(said(kinds, data))

    async def life() -> None:
        worker = Worker()
        await worker.start()
        try:
            gateway = worker.stream()
            gateway.say(_HELLO)
            for message in messages:
                match message:
                    case worker_pb2.SubmitRequest() if message.HasField("hello"):
                        gateway.say(None)
                        gateway = worker.stream()
                        gateway.say(message)
                    case worker_pb2.SubmitRequest():
                        gateway.say(message)
                    case scheduling_pb2.ReportResponse():
                        worker.link._handle(message)
                    case worker_pb2.PullKvResponse():
                        worker.payloads.append(message.chunk)
                    case _:
                        await worker.asked_for_kv(message)
                await asyncio.sleep(0.05)
                worker.report()
            await worker.check()
        finally:
            await worker.close()

    live(life)


def _request(request_id: str, **fields: Any) -> worker_pb2.SubmittedRequest:
    fields = {"mode": worker_pb2.MODE_AGGREGATED, "prompt_token_ids": [1, 2, 3], "block_hashes": [1]} | fields
    sampling = worker_pb2.Sampling(max_tokens=3, top_p=1.0)
    return worker_pb2.SubmittedRequest(request_id=request_id, sampling=sampling, **fields)


def _kv(transfer_s: float) -> bytes:
    """What a prefill worker sends of r1."""
    return KvPayload(
        model_name=ENGINE.model_name,
        num_prompt_tokens=3,
        num_output_tokens=1,
        checksum=checksum([1, 2, 3], [7]),
        transfer_s=transfer_s,
    ).encode()


_HELLO = worker_pb2.SubmitRequest(hello=worker_pb2.SubmitHello(gateway_id="gw"))
_BATCH = {"epoch": EPOCH, "batch_id": "5-1", "batch_size": 2, "dispatch_seq": 1}
_KEY = {"key_hash": b"k", "request_hash": b"k"}
_SOURCE = worker_pb2.KvSource(worker_address=SCHEDULER, boot_id="b1", lease_id="r0#0")
_DECODE = _request("r1", mode=worker_pb2.MODE_DECODE_ONLY, kv_source=_SOURCE, prior_output_ids=[7])
_SUBMITS = (
    worker_pb2.SubmitRequest(requests=[_request("r0", **_BATCH), _request("r1", **_BATCH)]),
    worker_pb2.SubmitRequest(
        requests=[
            _request("r0", mode=worker_pb2.MODE_PREFILL_ONLY, **_KEY),
            _DECODE,
        ]
    ),
    worker_pb2.SubmitRequest(
        requests=[
            _request("r0", attempt=1, **_KEY),
            _request("r1", mode=worker_pb2.MODE_ATTACH, key_hash=b"k"),
            _request("w0", prior_output_ids=[1, 2]),
        ],
        aborts=[worker_pb2.Abort(request_id="r0")],
    ),
    worker_pb2.SubmitRequest(
        hello=_HELLO.hello, requests=[_request("k", mode=worker_pb2.MODE_ATTACH, key_hash=b"k")]
    ),
)
_MANIFEST = scheduling_pb2.BatchManifest(
    batch_id="5-1",
    dispatch_seq=1,
    predicted_pass_s=0.1,
    members=[scheduling_pb2.BatchMember(request_id=name) for name in ("r0", "r1", "k")],
)
_COMMANDS = tuple(
    scheduling_pb2.ReportResponse(epoch=EPOCH, **event)
    for event in (
        {"welcome": scheduling_pb2.Welcome(heartbeat_interval_s=0.5)},
        {"manifest": _MANIFEST},
        {"correction": scheduling_pb2.Correction(request_id="r0", key_hash=b"k", dispatch_seq=1)},
        {"probe": scheduling_pb2.Probe()},
        {"drain": scheduling_pb2.DrainWorker()},
        {"resigned": scheduling_pb2.Resigned()},
    )
)
_PULL = worker_pb2.PullKvRequest(lease_id="r0#0", boot_id="b1")
_RELEASE = worker_pb2.ReleaseKvRequest(lease_id="r0#0", boot_id="b1")
_CHUNK = worker_pb2.PullKvResponse(chunk=_kv(1.0))
_SIDES = [
    *((b"g", message) for message in _SUBMITS),
    *((b"s", message) for message in _COMMANDS),
    (b"k", _CHUNK),
    (b"p", _PULL),
    (b"r", _RELEASE),
    *((b"g", message) for message in _SUBMITS),
]


def _pulled(transfer_s: float) -> bytes:
    """A hand-over that says that it takes so long."""
    chunk = worker_pb2.PullKvResponse(chunk=_kv(transfer_s))
    return conversation((b"k", chunk), (b"g", worker_pb2.SubmitRequest(requests=[_DECODE])))


TARGETS = (
    Target(
        "worker-streams",
        conversation_with_a_worker,
        conversations(
            {
                b"g": around(*_SUBMITS) | wire(worker_pb2.SubmitRequest),
                b"s": around(*_COMMANDS) | wire(scheduling_pb2.ReportResponse, epoch=EPOCH),
                b"k": around(_CHUNK),
                b"p": around(_PULL),
                b"r": around(_RELEASE),
            }
        ),
        cases=tuple(conversation(*_SIDES[at : at + 4]) for at in range(0, len(_SIDES), 2)),
        bugs={
            f"a hand-over that takes {transfer_s} s": _pulled(transfer_s)
            for transfer_s in (math.nan, math.inf, -math.inf, -1.0, 1e300)
        },
    ),
)

"""One scheduler process under announcements as fast as it places: a gateway and EP groups that are not there.

The gateway side is a closed loop: `num_waiting` requests wait for a placement at any time; every placement is
answered by one new announcement, each in a message of its own. The worker side does what a worker does: a
manifest is taken into the next forward pass, a pass has a fixed length, its end reports loads and the
prefix-cache blocks it stored (the oldest are removed), and then its requests are finished.

Everything is prepared before the clock runs, so that this process costs little beside the scheduler.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import dataclass, field

from hortator.cli.bench.client.http2 import Connection, request_headers
from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb

_PLACE = "/hortator.rpc.scheduling.v1.SchedulingService/Place"
_REPORT = "/hortator.rpc.scheduling.v1.SchedulingService/Report"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementLoad:
    """What the scheduler is given."""

    num_groups: int = 4
    dp_size: int = 16
    num_prompt_tokens: int = 4096
    num_block_hashes: int = 64
    tokens_per_block: int = 64
    chunk_budget_tokens: int = 8192
    cached_blocks_per_rank: int = 2048
    pass_s: float = 0.02
    num_waiting: int = 1500


@dataclass(slots=True, kw_only=True)
class Placed:
    """Counts since the start."""

    num_placed: int = 0
    num_rejected: int = 0
    num_messages: int = 0
    """Responses that carried them: the scheduler batches by itself."""


class FakeGateway:
    """Announces, counts placements, finishes requests."""

    def __init__(self, address: str, load: PlacementLoad, *, num_prepared: int, seed: int) -> None:
        self._address = address
        self._load = load
        rng = random.Random(seed)
        self._announcements = [self._announcement(index, rng) for index in range(num_prepared)]
        self._next = 0
        self._hashes: dict[str, list[int]] = {}
        self._connection: Connection | None = None
        self._stream_id = 0
        self.placed = Placed()

    async def open(self) -> None:
        """Connect and say hello."""
        self._connection = await Connection.open(self._address, on_message=self._receive)
        hello = pb.PlaceRequest(events=[pb.GatewayEvent(hello=pb.GatewayHello(gateway_id="bench"))])
        headers = request_headers(_PLACE, self._address)
        self._stream_id = self._connection.call(headers, hello.SerializeToString(), ends=False)

    def start(self) -> None:
        """Announce the first requests; every placement brings the next."""
        for _ in range(self._load.num_waiting):
            self._announce()

    @property
    def is_exhausted(self) -> bool:
        """All prepared requests were announced: the measurement should have ended before."""
        return self._next >= len(self._announcements)

    def finish(self, request_ids: list[str]) -> None:
        """Say that requests are done: several events in one message, as a gateway batches them."""
        for request_id in request_ids:
            self._hashes.pop(request_id, None)
        events = [
            pb.GatewayEvent(request_finished=pb.RequestFinished(request_id=request_id, num_output_tokens=1))
            for request_id in request_ids
        ]
        self._send(pb.PlaceRequest(events=events).SerializeToString())

    def hashes_of(self, request_id: str) -> list[int]:
        """Block hashes of a request that has not finished."""
        return self._hashes.get(request_id, [])

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()

    def _announcement(self, index: int, rng: random.Random) -> tuple[str, list[int], bytes]:
        request_id = f"r{index:08d}"
        hashes = [rng.getrandbits(64) for _ in range(self._load.num_block_hashes)]
        announcement = pb.Announcement(
            request_id=request_id,
            num_prompt_tokens=self._load.num_prompt_tokens,
            max_output_tokens=1,
            block_hashes=hashes,
        )
        message = pb.PlaceRequest(events=[pb.GatewayEvent(announcement=announcement)])
        return request_id, hashes, message.SerializeToString()

    def _announce(self) -> None:
        if self.is_exhausted:
            return
        request_id, hashes, message = self._announcements[self._next]
        self._next += 1
        self._hashes[request_id] = hashes
        self._send(message)

    def _send(self, message: bytes) -> None:
        if self._connection is not None:
            self._connection.send(self._stream_id, message)

    def _receive(self, _stream_id: int, _at: float, raw: bytes) -> None:
        response = pb.PlaceResponse.FromString(raw)
        self.placed.num_messages += 1
        self.placed.num_placed += len(response.placements)
        self.placed.num_rejected += len(response.rejections)
        for _ in range(len(response.placements) + len(response.rejections)):
            self._announce()


@dataclass(slots=True)
class _Pass:
    """A forward pass that runs or is being gathered."""

    members: list[tuple[str, int]] = field(default_factory=list)
    """(request id, DP rank)."""


class FakeWorker:
    """One EP group that runs passes of a fixed length."""

    def __init__(self, address: str, load: PlacementLoad, gateway: FakeGateway, *, index: int) -> None:
        self._address = address
        self._load = load
        self._gateway = gateway
        self._worker_id = f"group-{index}"
        self._sequence = 0
        self._epoch = 0
        self._included_seq = 0
        self._forward_pass_id = 0
        self._gathered = _Pass()
        self._is_running = False
        self._cached: list[deque[int]] = [deque() for _ in range(load.dp_size)]
        self._connection: Connection | None = None
        self._stream_id = 0

    async def open(self) -> None:
        """Connect and join."""
        load = self._load
        hello = pb.WorkerHello(
            address=f"127.0.0.1:{1000 + len(self._worker_id)}",
            phase=pb.PHASE_AGGREGATED,
            model="bench",
            dp_size=load.dp_size,
            ep_size=load.dp_size,
            chunk_budget_tokens=load.chunk_budget_tokens,
            chunked_prefill=True,
            max_batch_size=4096,
            kv_blocks_total=1 << 20,
            tokens_per_block=load.tokens_per_block,
            max_sequence_tokens=1 << 20,
            rank_states=self._rank_states(_Pass()),
        )
        self._connection = await Connection.open(self._address, on_message=self._receive)
        headers = request_headers(_REPORT, self._address)
        message = pb.ReportRequest(
            worker_id=self._worker_id, boot_id="bench", sequence=self._step(), hello=hello
        )
        self._stream_id = self._connection.call(headers, message.SerializeToString(), ends=False)

    def close(self) -> None:
        """Leave."""
        if self._connection is not None:
            self._connection.close()

    def heartbeat(self) -> None:
        """What a silent worker says."""
        self._report(rank_states=self._rank_states(self._gathered))

    def _receive(self, _stream_id: int, _at: float, raw: bytes) -> None:
        response = pb.ReportResponse.FromString(raw)
        self._epoch = response.epoch
        match response.WhichOneof("event"):
            case "manifest":
                members = [(member.request_id, member.dp_rank) for member in response.manifest.members]
                self._gathered.members += members
                self._included_seq = response.manifest.dispatch_seq
                if not self._is_running:
                    self._start_pass()
            case "probe":
                self.heartbeat()
            case _:
                pass

    def _start_pass(self) -> None:
        self._is_running = True
        self._forward_pass_id += 1
        running, self._gathered = self._gathered, _Pass()
        started = pb.ForwardPassStarted(
            forward_pass_id=self._forward_pass_id,
            predicted_s=self._load.pass_s,
            rank_states=self._rank_states(running),
        )
        self._report(forward_pass_started=started)
        asyncio.get_running_loop().call_later(self._load.pass_s, self._end_pass, running)

    def _end_pass(self, ran: _Pass) -> None:
        changed: list[pb.BlocksChanged] = []
        tokens = [0] * self._load.dp_size
        for request_id, dp_rank in ran.members:
            tokens[dp_rank] += self._load.num_prompt_tokens
            changed.append(self._store(dp_rank, self._gateway.hashes_of(request_id)))
        states = self._rank_states(self._gathered)
        states.blocks_changed.extend(changed)
        ended = pb.ForwardPassEnded(
            forward_pass_id=self._forward_pass_id,
            duration_s=self._load.pass_s,
            rank_states=states,
            pass_prefill_tokens=tokens,
            pass_decode_tokens=[0] * self._load.dp_size,
        )
        self._report(forward_pass_ended=ended)
        self._gateway.finish([request_id for request_id, _ in ran.members])
        self._is_running = False
        if self._gathered.members:
            self._start_pass()

    def _store(self, dp_rank: int, hashes: list[int]) -> pb.BlocksChanged:
        cached = self._cached[dp_rank]
        cached.extend(hashes)
        num_over = max(0, len(cached) - self._load.cached_blocks_per_rank)
        return pb.BlocksChanged(
            dp_rank=dp_rank, stored=hashes, removed=[cached.popleft() for _ in range(num_over)]
        )

    def _rank_states(self, waiting: _Pass) -> pb.RankStates:
        num_requests = [0] * self._load.dp_size
        for _, dp_rank in waiting.members:
            num_requests[dp_rank] += 1
        return pb.RankStates(
            prefill_load_tokens=[number * self._load.num_prompt_tokens for number in num_requests],
            batch_size=num_requests,
            kv_blocks_used=[number * self._load.num_block_hashes for number in num_requests],
            num_waiting=num_requests,
        )

    def _report(self, **event: object) -> None:
        message = pb.ReportRequest(
            worker_id=self._worker_id,
            boot_id="bench",
            sequence=self._step(),
            epoch=self._epoch,
            included_dispatch_seq=self._included_seq,
            **event,  # type: ignore[arg-type]
        )
        if self._connection is not None:
            self._connection.send(self._stream_id, message.SerializeToString())

    def _step(self) -> int:
        self._sequence += 1
        return self._sequence


async def placements_per_s(
    address: str, load: PlacementLoad, *, warmup_s: float, measured_s: float, max_rate_per_s: float, seed: int
) -> dict[str, float]:
    """Drive one scheduler; placements per second over `measured_s`.

    `max_rate_per_s` bounds what is prepared: a scheduler that is faster ends the run with RuntimeError.
    """
    num_prepared = int(max_rate_per_s * (warmup_s + measured_s)) + load.num_waiting
    gateway = FakeGateway(address, load, num_prepared=num_prepared, seed=seed)
    workers = [FakeWorker(address, load, gateway, index=index) for index in range(load.num_groups)]
    await gateway.open()
    for worker in workers:
        await worker.open()
    await asyncio.sleep(0.5)
    heartbeats = asyncio.get_running_loop().create_task(_heartbeats(workers))
    try:
        gateway.start()
        await asyncio.sleep(warmup_s)
        num_before, messages_before, started_at = (
            gateway.placed.num_placed,
            gateway.placed.num_messages,
            time.perf_counter(),
        )
        cpu_before = time.process_time()
        await asyncio.sleep(measured_s)
        elapsed_s = time.perf_counter() - started_at
        num_placed = gateway.placed.num_placed - num_before
        if gateway.is_exhausted:
            raise RuntimeError(f"more than {max_rate_per_s:g} placements/s: prepare more")
        if gateway.placed.num_rejected:
            raise RuntimeError(f"{gateway.placed.num_rejected} requests were rejected")
        return {
            "placements_per_s": num_placed / elapsed_s,
            "placements_per_message": num_placed / max(1, gateway.placed.num_messages - messages_before),
            "load_generator_cpu_share": (time.process_time() - cpu_before) / elapsed_s,
        }
    finally:
        heartbeats.cancel()
        gateway.close()
        for worker in workers:
            worker.close()


async def _heartbeats(workers: list[FakeWorker]) -> None:
    while True:
        await asyncio.sleep(0.5)
        for worker in workers:
            worker.heartbeat()

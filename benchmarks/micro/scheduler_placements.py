"""Placements per second of one scheduler process over real gRPC, and the latency it adds.

A scheduler process on one core; on the other this load: fake gateways that announce requests one per message,
each with 64 block hashes, and fake workers (4 EP groups of 16 ranks) that end a pass as soon as a batch's
manifest arrives. First-token and finished reports go back as a gateway sends them, gathered for 10 ms.

- `saturated`: a fixed number of announcements outstanding, as many placements per second as come back.
- `paced`, `idle`: announcements at a fixed rate whatever comes back; latency from announcement to placement,
  measured in the load process, so it contains two hops through gRPC on both ends.

Each figure is the median of the runs (each with a fresh scheduler process).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.rpc.scheduling.v1 import scheduling_pb2_grpc as pb_grpc
from hortator.runtime.grpc_server import open_channel

OUTCOMES_INTERVAL_S = 0.01
PROMPT_TOKENS = 4096
NUM_PREPARED = 512


class FakeWorker:
    """One EP group. A batch's manifest is answered by the end of the pass that ran it."""

    def __init__(
        self, stub: pb_grpc.SchedulingServiceStub, name: str, *, num_ranks: int, pass_s: float
    ) -> None:
        self._call = stub.Report()
        self._name = name
        self._num_ranks = num_ranks
        self._pass_s = pass_s
        self._sequence = 0
        self._pass_id = 0
        self._zeros = pb.RankStates(
            prefill_load_tokens=[0] * num_ranks, batch_size=[0] * num_ranks, kv_blocks_used=[0] * num_ranks
        )
        self._epoch = 0
        self._newest_seq = 0
        self._wake = asyncio.Event()

    async def join(self) -> None:
        """Say hello and wait for the welcome."""
        hello = pb.WorkerHello(
            address="127.0.0.1:1",
            phase=pb.PHASE_AGGREGATED,
            dp_size=self._num_ranks,
            ep_size=self._num_ranks,
            chunk_budget_tokens=8192,
            chunked_prefill=True,
            max_batch_size=4096,
            kv_blocks_total=1_000_000,
            tokens_per_block=64,
            max_sequence_tokens=131_072,
            rank_states=self._zeros,
        )
        await self._report(hello=hello)
        welcome = await self._call.read()
        self._epoch = welcome.epoch

    async def read(self) -> None:
        """Take manifests for ever."""
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                return
            if response.WhichOneof("event") == "manifest":
                self._newest_seq = response.manifest.dispatch_seq
                self._wake.set()

    async def work(self) -> None:
        """End a pass for what came in, for ever; report twice a second when there is nothing."""
        reported = 0
        while True:
            try:
                async with asyncio.timeout(0.5):
                    await self._wake.wait()
            except TimeoutError:
                await self._report(rank_states=self._zeros)
                continue
            self._wake.clear()
            if self._newest_seq == reported:
                continue
            included = reported = self._newest_seq
            self._pass_id += 1
            if self._pass_s:
                started = pb.ForwardPassStarted(forward_pass_id=self._pass_id, rank_states=self._zeros)
                await self._report(included=included, forward_pass_started=started)
                await asyncio.sleep(self._pass_s)
            ended = pb.ForwardPassEnded(
                forward_pass_id=self._pass_id,
                duration_s=max(self._pass_s, 0.001),
                rank_states=self._zeros,
                pass_prefill_tokens=[PROMPT_TOKENS] * self._num_ranks,
                pass_decode_tokens=[0] * self._num_ranks,
            )
            await self._report(included=included, forward_pass_ended=ended)

    async def _report(self, *, included: int = 0, **event: Any) -> None:
        self._sequence += 1
        await self._call.write(
            pb.ReportRequest(
                worker_id=self._name,
                boot_id="boot",
                sequence=self._sequence,
                epoch=self._epoch,
                included_dispatch_seq=included or self._newest_seq,
                **event,
            )
        )


class FakeGateway:
    """Announces, notes when the placement comes, and reports the request as finished."""

    def __init__(self, stub: pb_grpc.SchedulingServiceStub, name: str, *, num_hashes: int, seed: int) -> None:
        self._call = stub.Place()
        self._name = name
        self._count = 0
        rng = random.Random(seed)
        self._hashes = [[rng.getrandbits(64) for _ in range(num_hashes)] for _ in range(NUM_PREPARED)]
        self._sent_at: dict[str, float] = {}
        self._outcomes: list[pb.GatewayEvent] = []
        self._writing = asyncio.Lock()  # one write of a call at a time
        self.placed: list[tuple[float, float]] = []
        """(when, seconds since its announcement) of every placement."""
        self.num_rejected = 0
        self.on_placed: Callable[[int], None] = lambda _count: None

    async def join(self) -> None:
        """Say hello."""
        hello = pb.GatewayEvent(hello=pb.GatewayHello(gateway_id=self._name))
        await self._call.write(pb.PlaceRequest(events=[hello]))

    async def announce(self) -> None:
        """One request, one message."""
        self._count += 1
        request_id = f"{self._name}-{self._count}"
        announcement = pb.Announcement(
            request_id=request_id,
            num_prompt_tokens=PROMPT_TOKENS,
            max_output_tokens=128,
            block_hashes=self._hashes[self._count % NUM_PREPARED],
        )
        self._sent_at[request_id] = time.perf_counter()
        async with self._writing:
            await self._call.write(pb.PlaceRequest(events=[pb.GatewayEvent(announcement=announcement)]))

    async def read(self) -> None:
        """Take placements for ever."""
        while True:
            response = await self._call.read()
            if response is grpc.aio.EOF:
                return
            now = time.perf_counter()
            for placement in response.placements:
                request_id = placement.request_id
                self.placed.append((now, now - self._sent_at.pop(request_id)))
                self._outcomes.append(
                    pb.GatewayEvent(first_token=pb.FirstToken(request_id=request_id, ttft_s=0.01))
                )
                finished = pb.RequestFinished(
                    request_id=request_id, num_output_tokens=2, ttft_s=0.01, e2e_s=0.02
                )
                self._outcomes.append(pb.GatewayEvent(request_finished=finished))
            self.num_rejected += len(response.rejections)
            self.on_placed(len(response.placements) + len(response.rejections))

    async def report_outcomes(self) -> None:
        """Send first tokens and finished requests, gathered as a gateway gathers them."""
        while True:
            await asyncio.sleep(OUTCOMES_INTERVAL_S)
            if self._outcomes:
                events, self._outcomes = self._outcomes, []
                async with self._writing:
                    await self._call.write(pb.PlaceRequest(events=events))


async def _saturate(gateways: list[FakeGateway], *, outstanding: int) -> None:
    """Keep `outstanding` announcements on their way, for ever."""

    async def one(gateway: FakeGateway) -> None:
        slots = asyncio.Semaphore(outstanding // len(gateways))

        def free(count: int) -> None:
            for _ in range(count):
                slots.release()

        gateway.on_placed = free
        while True:
            await slots.acquire()
            await gateway.announce()

    async with asyncio.TaskGroup() as tasks:
        for gateway in gateways:
            tasks.create_task(one(gateway))


async def _pace(gateways: list[FakeGateway], *, rate: float, seed: int) -> None:
    """Announce at Poisson times, for ever; late ones are sent at once."""
    rng = random.Random(seed)
    at = time.perf_counter()
    turn = 0
    while True:
        at += rng.expovariate(rate)
        delay = at - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        await gateways[turn % len(gateways)].announce()
        turn += 1


async def _measure(
    address: str,
    pid: int,
    load: Callable[[list[FakeGateway]], Any],
    *,
    num_groups: int,
    num_ranks: int,
    num_gateways: int,
    num_hashes: int,
    pass_s: float,
    warmup_s: float,
    duration_s: float,
    seed: int,
) -> dict[str, float]:
    async with open_channel(address) as worker_channel, open_channel(address) as gateway_channel:
        workers = [
            FakeWorker(
                pb_grpc.SchedulingServiceStub(worker_channel),
                f"group-{n}",
                num_ranks=num_ranks,
                pass_s=pass_s,
            )
            for n in range(num_groups)
        ]
        gateways = [
            FakeGateway(
                pb_grpc.SchedulingServiceStub(gateway_channel),
                f"gateway-{n}",
                num_hashes=num_hashes,
                seed=seed + n,
            )
            for n in range(num_gateways)
        ]
        for peer in (*workers, *gateways):
            await peer.join()
        tasks = [asyncio.ensure_future(peer.read()) for peer in (*workers, *gateways)]
        tasks += [asyncio.ensure_future(worker.work()) for worker in workers]
        tasks += [asyncio.ensure_future(gateway.report_outcomes()) for gateway in gateways]
        await asyncio.sleep(0.2)
        tasks.append(asyncio.ensure_future(load(gateways)))
        watch = asyncio.gather(*tasks)
        try:
            await _sleep_beside(watch, warmup_s)
            started, cpu_started, own_started = time.perf_counter(), _cpu_s(pid), time.process_time()
            await _sleep_beside(watch, duration_s)
            ended = time.perf_counter()
            cpu_s, own_s = _cpu_s(pid) - cpu_started, time.process_time() - own_started
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)
        latencies = sorted(
            latency for gateway in gateways for at, latency in gateway.placed if started <= at < ended
        )
        wall_s = ended - started
        return {
            "placements_per_s": len(latencies) / wall_s,
            "num_rejected": float(sum(gateway.num_rejected for gateway in gateways)),
            "latency_p50_ms": _percentile(latencies, 0.5) * 1e3,
            "latency_p90_ms": _percentile(latencies, 0.9) * 1e3,
            "latency_p99_ms": _percentile(latencies, 0.99) * 1e3,
            "latency_max_ms": latencies[-1] * 1e3 if latencies else float("nan"),
            "scheduler_cpu_share": cpu_s / wall_s,
            "scheduler_cpu_us_per_placement": cpu_s / max(len(latencies), 1) * 1e6,
            "load_cpu_share": own_s / wall_s,
            "scheduler_rss_mib": _rss_mib(pid),
        }


async def _sleep_beside(watch: asyncio.Future[Any], seconds: float) -> None:
    """Sleep, unless the load fails first."""
    await asyncio.wait({watch}, timeout=seconds)
    if watch.done():
        watch.result()
        raise RuntimeError("a stream ended in the middle of the measurement")


async def _with_scheduler(settings: dict[str, Any], body: Callable[[str, int], Any]) -> dict[str, float]:
    """Run `body(address, pid)` against a fresh scheduler process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "hortator.scheduler", "--settings", str(path)]
        process = await asyncio.create_subprocess_exec(
            *command, "--die-with-parent", str(os.getpid()), stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None  # noqa: S101
            ready = json.loads(await asyncio.wait_for(process.stdout.readline(), timeout=30))
            result: dict[str, float] = await body(ready["address"], process.pid)
        finally:
            process.terminate()
            await process.wait()
        return result


async def run(
    *,
    runs: int = 3,
    duration_s: float = 8.0,
    warmup_s: float = 2.0,
    rates: tuple[float, ...] = (200.0, 3000.0),
    outstanding: int = 256,
    num_groups: int = 4,
    num_ranks: int = 16,
    num_gateways: int = 2,
    num_hashes: int = 64,
    pass_s: float = 0.0,
    policy: str = "staggered",
    record: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure and return the figures (JSON values), each the median over `runs`.

    Args:
        runs: how often everything is measured, each time with a new scheduler process.
        duration_s: length of one measurement.
        warmup_s: load before each measurement that is not measured.
        rates: announcements per second of the paced measurements.
        outstanding: announcements on their way in the saturated measurement.
        num_groups: EP groups.
        num_ranks: DP ranks per group.
        num_gateways: Place streams that announce.
        num_hashes: block hashes per announcement.
        pass_s: how long a fake pass takes; 0: its end is reported at once.
        policy: the scheduler's.
        record: whether the scheduler records its events.
        seed: of hashes and arrival times.
    """
    loads: dict[str, Callable[[list[FakeGateway]], Any]] = {
        "saturated": lambda gateways: _saturate(gateways, outstanding=outstanding)
    }
    for rate in rates:
        loads[f"paced_{rate:g}_per_s"] = lambda gateways, rate=rate: _pace(gateways, rate=rate, seed=seed)
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in loads}
    gc_was_enabled = gc.isenabled()
    gc.disable()  # the load's own collections are not the scheduler's latency
    try:
        for number in range(runs):
            for name, load in loads.items():
                with tempfile.TemporaryDirectory() as folder:
                    settings: dict[str, Any] = {"port": 0, "log_level": "WARNING", "core": {"policy": policy}}
                    if record:
                        settings["events_path"] = str(Path(folder) / "events.jsonl")

                    async def body(
                        address: str,
                        pid: int,
                        load: Callable[[list[FakeGateway]], Any] = load,
                        number: int = number,
                    ) -> dict[str, float]:
                        return await _measure(
                            address,
                            pid,
                            load,
                            num_groups=num_groups,
                            num_ranks=num_ranks,
                            num_gateways=num_gateways,
                            num_hashes=num_hashes,
                            pass_s=pass_s,
                            warmup_s=warmup_s,
                            duration_s=duration_s,
                            seed=seed + 1000 * number,
                        )

                    samples[name].append(await _with_scheduler(settings, body))
                gc.collect()
    finally:
        if gc_was_enabled:
            gc.enable()
    return {
        "benchmark": "scheduler_placements",
        "parameters": {
            "runs": runs,
            "duration_s": duration_s,
            "outstanding": outstanding,
            "num_groups": num_groups,
            "num_ranks": num_ranks,
            "num_gateways": num_gateways,
            "num_hashes": num_hashes,
            "pass_s": pass_s,
            "policy": policy,
            "record": record,
            "seed": seed,
        },
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "results": {
            name: {key: round(statistics.median(one[key] for one in runs_of), 4) for key in runs_of[0]}
            for name, runs_of in samples.items()
        },
        "placements_per_s_of_each_run": [round(one["placements_per_s"], 1) for one in samples["saturated"]],
    }


def _percentile(ordered: list[float], share: float) -> float:
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Command line: prints one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--duration-s", type=float, default=8.0)
    parser.add_argument("--outstanding", type=int, default=256)
    parser.add_argument("--num-gateways", type=int, default=2)
    parser.add_argument("--pass-s", type=float, default=0.0)
    parser.add_argument("--policy", default="staggered")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--rates", type=float, nargs="*", default=[200.0, 3000.0])
    arguments = vars(parser.parse_args())
    arguments["rates"] = tuple(arguments["rates"])
    print(json.dumps(asyncio.run(run(**arguments)), indent=2))


if __name__ == "__main__":
    main()

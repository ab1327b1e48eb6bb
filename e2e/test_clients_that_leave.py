"""Clients that leave at any moment of a request's life, through real processes: nothing of them stays."""

from __future__ import annotations

import asyncio
import random

import pytest
from group_processes import processes
from live_stack import Metrics, wait_until

from hortator.client import Completion, GatewayClient, Sampling

KV_BLOCKS = 64
ENGINE = {
    "dp_size": 2,
    "kv_blocks_total": KV_BLOCKS,
    "time_scale": 0.2,
    "vocab_size": 127,
    "first_token_id": 32,
}
NUM_CLIENTS = 150


@pytest.fixture
def service(tmp_path):
    """One prefill and one decode worker, with little KV."""
    with processes(tmp_path) as starter:
        scheduler = starter.serving("scheduler", host="127.0.0.1", port=0)
        addresses = {"scheduler_addresses": [scheduler.address()]}
        workers = {
            phase: starter.start(
                "worker",
                host="127.0.0.1",
                worker_id=f"{phase}-0",
                phase=phase,
                engine_options=ENGINE,
                **addresses,
            )
            for phase in ("prefill", "decode")
        }
        gateway = starter.start(
            "gateway",
            host="127.0.0.1",
            port=0,
            model="m",
            max_sequence_tokens=4096,
            tokenizer="bytes",
            **addresses,
        )
        started = {"scheduler": scheduler, "gateway": gateway, **workers}
        for process in started.values():
            wait_until(lambda process=process: process.readyz()[0] == 200, timeout=60, what=str(process.log))
        yield started


async def leave(client: GatewayClient, number: int, chance: random.Random) -> int:
    """Ask, and leave after a while or so many tokens; how many came."""
    after_s, after_tokens = chance.choice([(chance.random() * 1.5, 1000), (1000.0, chance.randrange(1, 30))])
    key = f"key {number}" if number % 2 else ""
    prompt = "x" * chance.randrange(1, 1500)
    num_tokens = 0
    events = client.generate(prompt, sampling=Sampling(max_tokens=30, ignore_eos=True), idempotency_key=key)
    try:
        async with asyncio.timeout(after_s):
            async for event in events:
                if isinstance(event, Completion):
                    break
                num_tokens += len(event.token_ids)
                if num_tokens >= after_tokens:
                    break
    except TimeoutError:
        pass
    finally:
        await events.aclose()
    return num_tokens


async def test_a_hundred_and_fifty_clients_leave_and_all_memory_is_free_again(service):
    chance = random.Random(7)
    async with GatewayClient(service["gateway"].address()) as client:
        came = await asyncio.gather(*(leave(client, number, chance) for number in range(NUM_CLIENTS)))
        assert any(number == 0 for number in came)
        assert any(0 < number < 30 for number in came)
        await asyncio.to_thread(nothing_is_left, service)
        # What was reserved on the decode worker is free: this takes nearly all of a rank.
        num_tokens = 0
        whole = Sampling(max_tokens=200, ignore_eos=True)
        async with asyncio.timeout(30):
            async for event in client.generate("y" * 3500, sampling=whole):
                num_tokens += 0 if isinstance(event, Completion) else len(event.token_ids)
        assert num_tokens == 200


def nothing_is_left(service) -> None:
    left = {
        "scheduler": (
            "waiting_requests",
            "in_flight_requests",
            "rank_kv_blocks_used",
            "rank_batch_size",
            "rank_prefill_load_tokens",
        ),
        "gateway": ("in_flight", "streams"),
        "prefill": ("orphans", "running_requests", "kv_leases", "kv_blocks_used"),
        "decode": ("orphans", "running_requests", "kv_leases", "kv_blocks_used"),
    }
    for process, names in left.items():
        component = process if process in {"scheduler", "gateway"} else "worker"
        for name in names:
            metric = f"hortator_{component}_{name}"
            wait_until(
                lambda p=process, m=metric: metric_of(service[p], m) == 0, what=f"{process}: no {metric}"
            )


def metric_of(process, name: str) -> float:
    """The sum over all series of that name."""
    return Metrics(process.metrics()).value(name)

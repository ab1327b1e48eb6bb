"""One scheduler, no standby: it is killed and comes back five seconds later, or is stopped and goes on.

Meanwhile the gateway places by itself what has no idempotency key.
"""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from group_processes import Process, a_free_port, processes
from live_stack import Metrics

from hortator.client import Completion, GatewayClient, Sampling

ENGINE = {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 0.15, "vocab_size": 127, "first_token_id": 32}
SAMPLING = Sampling(max_tokens=30, ignore_eos=True)
PROMPT = "Arma virumque cano"
EVERY_S = 0.25
LONGEST_WAIT_S = 3.0
"""For a first token: 0.3 s without a leader, and a machine that is busy with other tests."""


class Service:
    """A prefill worker, a decode worker, a scheduler and a gateway."""

    def __init__(self, starter) -> None:
        self._starter = starter
        self._port = a_free_port()
        self.start_scheduler()
        for phase in ("prefill", "decode"):
            starter.serving(
                "worker",
                host="127.0.0.1",
                port=0,
                worker_id=f"{phase}-0",
                phase=phase,
                scheduler_addresses=[f"127.0.0.1:{self._port}"],
                engine_options=ENGINE,
            )
        self.gateway: Process = starter.serving(
            "gateway",
            host="127.0.0.1",
            port=0,
            model="m",
            max_sequence_tokens=4096,
            tokenizer="bytes",
            scheduler_addresses=[f"127.0.0.1:{self._port}"],
        )

    def start_scheduler(self) -> None:
        self.scheduler: Process = self._starter.serving("scheduler", host="127.0.0.1", port=self._port)

    def is_degraded(self) -> bool:
        return Metrics(self.gateway.metrics()).value("hortator_gateway_degraded") == 1

    def placements(self, by: str) -> float:
        return Metrics(self.gateway.metrics()).value("hortator_gateway_placements_total", by=by)


@pytest.fixture
async def service(tmp_path):
    with processes(tmp_path) as starter:
        yield await asyncio.to_thread(Service, starter)


async def ask(client: GatewayClient) -> tuple[str, float]:
    """An answer, and how long its first token took."""
    text, asked_at, first_s = "", time.monotonic(), 0.0
    async for event in client.generate(PROMPT, sampling=SAMPLING):
        if isinstance(event, Completion):
            assert event.num_replacements == 0
            return text, first_s
        assert event.token_index == len(text)
        first_s = first_s or time.monotonic() - asked_at
        text += event.text
    raise AssertionError("a stream ended without a completion")


async def asked_for(client: GatewayClient, seconds: float, and_then) -> list[tuple[str, float]]:
    """Answers to requests that come all the time, until `and_then` has been done after so many seconds."""
    ends_at = time.monotonic() + seconds
    answers, then = [], None
    while then is None or not then.done():
        answers.append(asyncio.create_task(ask(client)))
        await asyncio.sleep(EVERY_S)
        if then is None and time.monotonic() >= ends_at:
            then = asyncio.create_task(asyncio.to_thread(and_then))
    then.result()
    return await asyncio.gather(*answers)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


async def until_told_of_workers(client: GatewayClient) -> str:
    """Both have been used, and the gateway has been told of both since."""
    text, _ = await ask(client)
    await asyncio.sleep(2.5)
    return text


@pytest.mark.parametrize(("way", "away_s"), [("killed", 5.0), ("stopped", 2.5)])
async def test_new_requests_get_their_tokens_while_the_only_scheduler_is_away(service, way, away_s):
    async with GatewayClient(service.gateway.address()) as client:
        expected = await until_told_of_workers(client)
        if way == "killed":
            service.scheduler.kill(signal.SIGKILL)
            answers = await asked_for(client, away_s, service.start_scheduler)
        else:
            service.scheduler.kill(signal.SIGSTOP)
            answers = await asked_for(client, away_s, lambda: service.scheduler.kill(signal.SIGCONT))
        assert len(answers) > away_s / EVERY_S / 2
        assert {text for text, _ in answers} == {expected}
        assert max(first_s for _, first_s in answers) < LONGEST_WAIT_S
        placed_here = service.placements("gateway")
        assert placed_here >= len(answers), "most of them twice: for prefill and decode"
        await until(lambda: not service.is_degraded())
        before = service.placements("scheduler")
        assert (await ask(client))[0] == expected
        assert service.placements("scheduler") == before + 2
        assert service.gateway.readyz()[0] == 200

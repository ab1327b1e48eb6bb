"""Two gateways, of which one is killed: clients go on at the other, with what ran for them."""

import asyncio
import json
import os
import signal
import time

import pytest
from live_stack import ROOT, running, wait_until

from hortator.client import Client, Completion, Delta, Sampling

NUM_STREAMS = 50
NUM_TOKENS = 80


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Two simulated groups behind two gateways."""
    folder = tmp_path_factory.mktemp("twins")
    with running(ROOT / "e2e/manifests/aggregated.yaml", "e2e-aggregated", folder, "--gateways", "2") as up:
        yield up


class Answer:
    """One generation as its client sees it."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.text = ""
        self.request_ids: set[str] = set()
        self.completion: Completion | None = None

    async def read(self, client: Client, **options) -> None:
        async for event in client.generate(self.prompt, **options):
            self.request_ids.add(event.request_id)
            if isinstance(event, Delta):
                assert event.token_index == len(self.token_ids)
                self.token_ids += event.token_ids
                self.text += event.text
            else:
                self.completion = event


async def answers(endpoints, prompts, *, num_tokens=NUM_TOKENS, after=0, then=None, retry_for_s=30.0):
    """Everybody's answers; `then` is called when each has `after` tokens."""
    asked = [Answer(prompt) for prompt in prompts]
    sampling = Sampling(max_tokens=num_tokens, ignore_eos=True)
    async with Client(endpoints, retry_for_s=retry_for_s) as client, asyncio.TaskGroup() as tasks:
        for answer in asked:
            tasks.create_task(answer.read(client, sampling=sampling))
        if then is not None:
            while min(len(answer.token_ids) for answer in asked) < after:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(then)
    return asked


def both_serve(up, pid: int) -> None:
    """The killed gateway is back and the scheduler knows it."""
    wait_until(lambda: up.pid_of("gateway") != pid, what="a new gateway")
    wait_until(lambda: up.state()["num_gateways"] == 2, what="two gateways")


def requests_on_workers(up, workers=("aggregated-0", "aggregated-1")) -> dict[str, float]:
    """How many requests ended on the workers' engines, by reason; and how many were attached to."""
    counted: dict[str, float] = {}
    for worker in workers:
        for sample in up.metrics(worker).samples:
            if sample.name == "hortator_worker_ended_requests_total":
                reason = sample.labels["reason"]
            elif sample.name == "hortator_worker_attached_requests_total":
                reason = "attached"
            else:
                continue
            counted[reason] = counted.get(reason, 0) + sample.value
    return counted


def difference(after, before):
    return {
        reason: after[reason] - before.get(reason, 0)
        for reason in after
        if after[reason] != before.get(reason)
    }


@pytest.mark.safety
def test_fifty_streams_outlive_their_gateway_and_nothing_is_generated_twice(twins):
    endpoints = twins.info()["endpoints"]
    prompts = [f"stream {number} " * (1 + number % 5) for number in range(NUM_STREAMS)]
    undisturbed = asyncio.run(answers(endpoints, prompts))
    before = requests_on_workers(twins)
    pid = twins.pid_of("gateway")
    killed_at = []

    def kill():
        os.kill(pid, signal.SIGKILL)
        killed_at.append(time.monotonic())

    disturbed = asyncio.run(answers(endpoints, prompts, after=5, then=kill))
    for answer, expected in zip(disturbed, undisturbed, strict=True):
        assert answer.token_ids == expected.token_ids
        assert answer.text == expected.text
        assert answer.completion.num_output_tokens == NUM_TOKENS
        assert answer.completion.num_replacements == 0
    moved = [answer for answer in disturbed if len(answer.request_ids) > 1]
    assert 20 <= len(moved) <= 30, "half of them were at the gateway that died"
    on_workers = difference(requests_on_workers(twins), before)
    assert on_workers == {"length": NUM_STREAMS, "attached": len(moved)}
    both_serve(twins, pid)


@pytest.mark.safety
def test_streams_outlive_their_gateway_and_their_worker_at_once(twins):
    endpoints = twins.info()["endpoints"]
    prompts = [f"both {number}" for number in range(12)]
    undisturbed = asyncio.run(answers(endpoints, prompts))
    pid, worker = twins.pid_of("gateway"), twins.pid_of("aggregated-0")

    def kill():
        os.kill(worker, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    disturbed = asyncio.run(answers(endpoints, prompts, after=5, then=kill))
    for answer, expected in zip(disturbed, undisturbed, strict=True):
        assert answer.token_ids == expected.token_ids
        assert answer.text == expected.text
    both_serve(twins, pid)
    wait_until(lambda: len(twins.state()["groups"]) == 2, what="both groups")


def test_the_command_line_goes_on_at_the_other_gateway(twins):
    command = ("generate", "the show goes on", "--json", "--max-tokens", "80", "--ignore-eos")
    expected = [json.loads(line) for line in twins.cli(*command).stdout.splitlines()]
    process = twins.start_cli(*command)
    lines = [process.stdout.readline() for _ in range(4)]
    names = ("gateway", "gateway-2")
    busy = next(name for name in names if twins.metrics(name).value("hortator_gateway_in_flight"))
    pid = twins.pid_of(busy)
    os.kill(pid, signal.SIGKILL)
    events = [json.loads(line) for line in [*lines, *process.stdout]]
    assert process.wait(30) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert ids(events) == ids(expected)
    wait_until(lambda: twins.pid_of(busy) != pid, what="a new gateway")


def ids(events) -> list[int]:
    return [token for event in events if "delta" in event for token in event["delta"]["token_ids"]]

"""Two gateways, of which one is killed: clients go on at the other, with what ran for them."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from functools import partial

import pytest
from live_stack import ROOT, running, wait_until

from hortator.client import Client, Completion, Delta, GatewayClient, GenerateError, Sampling

NUM_STREAMS = 50
NUM_TOKENS = 80


KEEP_S = 2.0


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
    kill = partial(os.kill, pid, signal.SIGKILL)
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


def test_with_one_gateway_a_stream_waits_for_its_restart_and_goes_on(twins):
    pid, endpoint = twins.pid_of("gateway"), twins.info()["endpoint"]
    [expected] = asyncio.run(answers(endpoint, ["alone"]))
    [answer] = asyncio.run(answers(endpoint, ["alone"], after=5, then=partial(os.kill, pid, signal.SIGKILL)))
    assert answer.token_ids == expected.token_ids
    assert answer.text == expected.text
    assert answer.completion.num_replacements == 0
    both_serve(twins, pid)


@pytest.mark.safety
def test_streams_outlive_their_gateway_and_the_scheduler_at_once(twins):
    """The scheduler that comes knows nothing but what workers and gateways say."""
    endpoints = twins.info()["endpoints"]
    prompts = [f"leaderless {number}" for number in range(12)]
    undisturbed = asyncio.run(answers(endpoints, prompts, num_tokens=200))
    before = requests_on_workers(twins)
    pid, scheduler = twins.pid_of("gateway"), twins.pid_of("scheduler")

    def kill():
        os.kill(scheduler, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    disturbed = asyncio.run(answers(endpoints, prompts, num_tokens=200, after=5, then=kill))
    for answer, expected in zip(disturbed, undisturbed, strict=True):
        assert answer.token_ids == expected.token_ids
        assert answer.text == expected.text
    moved = [answer for answer in disturbed if len(answer.request_ids) > 1]
    on_workers = difference(requests_on_workers(twins), before)
    assert on_workers == {"length": len(prompts), "attached": len(moved)}
    wait_until(lambda: twins.pid_of("scheduler") != scheduler, what="a new scheduler")
    both_serve(twins, pid)


@pytest.mark.safety
def test_a_prompt_that_kills_workers_restarts_two_groups_and_no_more(twins):
    """Whoever runs it is killed. The client library does not ask again, and asking with the key changes nothing."""
    pids = {name: twins.pid_of(name) for name in ("aggregated-0", "aggregated-1")}
    num_killed = 0
    is_over = threading.Event()

    def poison() -> None:
        nonlocal num_killed
        while not is_over.is_set():
            for group in twins.state()["groups"]:
                if group["num_in_flight"] and twins.pid_of(group["worker_id"]) == pids[group["worker_id"]]:
                    os.kill(pids[group["worker_id"]], signal.SIGKILL)
                    num_killed += 1
                    wait_until(
                        lambda name=group["worker_id"]: twins.pid_of(name) != pids[name], what="a restart"
                    )
                    pids[group["worker_id"]] = twins.pid_of(group["worker_id"])

    async def ask(client: Client) -> GenerateError:
        answer = Answer("poison")
        with pytest.raises(GenerateError) as caught:
            await answer.read(
                client, sampling=Sampling(max_tokens=2000, ignore_eos=True), idempotency_key="poison"
            )
        return caught.value

    async def ask_twice() -> list[GenerateError]:
        async with Client(twins.info()["endpoint"]) as client:
            return [await ask(client), await ask(client)]

    poisoner = threading.Thread(target=poison)
    poisoner.start()
    try:
        errors = asyncio.run(ask_twice())
    finally:
        is_over.set()
        poisoner.join()
    assert [error.reason for error in errors] == ["QUARANTINED", "QUARANTINED"]
    assert num_killed == 2
    wait_until(lambda: len(twins.state()["groups"]) == 2, what="both groups")
    healthy = asyncio.run(answers(twins.info()["endpoints"], ["healthy"], num_tokens=5))
    assert len(healthy[0].token_ids) == 5


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


def test_who_comes_back_too_late_gets_a_new_attempt_once_the_orphan_has_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("HORTATOR_WORKER_ORPHAN_KEEP_S", f"{KEEP_S}")
    manifest = ROOT / "e2e/manifests/aggregated.yaml"
    sampling = Sampling(max_tokens=200, ignore_eos=True)

    async def some(endpoint: str, number: int) -> list[int]:
        token_ids: list[int] = []
        async with GatewayClient(endpoint) as client:
            with contextlib.suppress(GenerateError):
                async for event in client.generate("late", sampling=sampling, idempotency_key="late"):
                    token_ids += event.token_ids
                    if len(token_ids) == number:
                        os.kill(up.pid_of("gateway"), signal.SIGKILL)
        return token_ids

    async def the_rest(endpoint: str, start: int) -> Answer:
        answer = Answer("late")
        async with GatewayClient(endpoint) as client:
            async for event in client.generate(
                "late", sampling=sampling, idempotency_key="late", resume_from_index=start
            ):
                if isinstance(event, Delta):
                    assert event.token_index == start + len(answer.token_ids)
                    answer.token_ids += event.token_ids
        return answer

    with running(manifest, "e2e-aggregated", tmp_path, "--gateways", "2") as up:
        first, second = up.info()["endpoints"]
        seen = asyncio.run(some(first, 5))
        workers = ("aggregated-0", "aggregated-1")
        assert sum(up.metrics(worker).value("hortator_worker_orphans") for worker in workers) == 1
        wait_until(lambda: requests_on_workers(up).get("aborted") == 1, timeout=2 * KEEP_S, what="its end")
        late = asyncio.run(the_rest(second, len(seen)))
        [whole] = asyncio.run(answers([second], ["late"], num_tokens=200))
        assert seen + late.token_ids == whole.token_ids
        assert difference(requests_on_workers(up), {"attached": 0}) == {"aborted": 1, "length": 2}


@pytest.mark.torch
@pytest.mark.safety
def test_real_text_goes_on_at_the_other_gateway_as_if_nothing_had_happened(tmp_path):
    """The MoE engine, prefill and decode apart: what decodes is attached to, what prefills begins again."""
    manifest = ROOT / "manifests/samples/llmservice-local.yaml"
    prompts = ["To be, or not to be", "Now is the winter", "All the world's a stage", "If music be the food"]
    with running(manifest, "local", tmp_path, "--gateways", "2") as up:
        endpoints = up.info()["endpoints"]
        undisturbed = asyncio.run(answers(endpoints, prompts, num_tokens=120))
        pid = up.pid_of("gateway")
        disturbed = asyncio.run(
            answers(endpoints, prompts, num_tokens=120, after=3, then=lambda: os.kill(pid, signal.SIGKILL))
        )
        for answer, expected in zip(disturbed, undisturbed, strict=True):
            assert answer.token_ids == expected.token_ids
            assert answer.text == expected.text
        moved = [answer for answer in disturbed if len(answer.request_ids) > 1]
        assert len(moved) == 2
        assert up.metrics("decode-0").value("hortator_worker_attached_requests_total") == 2
        assert up.metrics("decode-0").value("hortator_worker_ended_requests_total", reason="length") == 8


def ids(events) -> list[int]:
    return [token for event in events if "delta" in event for token in event["delta"]["token_ids"]]

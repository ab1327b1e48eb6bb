"""What a full queue and a lack of workers answer, through the real gateway and scheduler."""

import asyncio

import pytest
from live_stack import ROOT, running

from hortator.client import GatewayClient, GenerateError, Sampling

QUEUE = "  scheduler:\n    queue: {maxRequests: 1, timeout: 1s}\n"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """One worker, drained, before a queue of one request and one second."""
    folder = tmp_path_factory.mktemp("narrow")
    manifest = folder / "narrow.yaml"
    text = (ROOT / "e2e/manifests/aggregated.yaml").read_text().replace("replicas: 2", "replicas: 1")
    manifest.write_text(text.rstrip() + "\n" + QUEUE)
    with running(manifest, "e2e-aggregated", folder / "state") as up:
        assert up.cli("generate", "there is a worker", "--max-tokens", "2").returncode == 0
        assert up.cli("drain", "aggregated-0").returncode == 0
        yield up


async def refusal(client, prompt):
    """The error and the seconds until it came."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    with pytest.raises(GenerateError) as caught:
        async for _ in client.generate(prompt, sampling=Sampling(max_tokens=2)):
            pass
    return caught.value, loop.time() - started_at


async def test_a_full_queue_refuses_at_arrival_and_a_lack_of_workers_after_the_timeout(narrow):
    endpoint = narrow.info()["endpoint"]
    async with GatewayClient(endpoint) as client, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(refusal(client, "waits for a worker"))
        while not narrow.metrics("scheduler").value("hortator_scheduler_waiting_requests"):
            await asyncio.sleep(0.02)
        full, full_s = await refusal(client, "finds the queue full")
    late, late_s = waiting.result()
    assert (full.status, full.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert full.retry_after_s > 0
    assert full_s < 0.9
    assert (late.status, late.reason) == ("UNAVAILABLE", "UNAVAILABLE")
    assert "no worker is available; waited 1 s" in str(late)
    assert 0.9 < late_s < 5
    assert full_s < late_s
    rejections = narrow.metrics("scheduler")
    assert rejections.value("hortator_scheduler_rejections_total", reason="queue_full_requests") == 1
    assert rejections.value("hortator_scheduler_rejections_total", reason="no_worker") == 1


def test_the_command_says_when_to_try_again_and_ends_with_exit_code_3(narrow):
    result = narrow.cli("generate", "nobody is there", "--max-tokens", "2")
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()
    assert "no worker is available" in line

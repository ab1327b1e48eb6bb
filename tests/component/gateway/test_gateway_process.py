"""The gateway as a process: ready line, drain on SIGTERM, exit codes, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.request import urlopen

import pytest

from hortator.client import Delta, GatewayClient, GenerateError, Sampling


@asynccontextmanager
async def a_gateway_process(cluster, tmp_path, *arguments, **overrides):
    settings = {
        "port": 0,
        "scheduler_addresses": [cluster.scheduler.address],
        "model": "tiny",
        "max_sequence_tokens": 4096,
        "tokenizer": "bytes",
        **overrides,
    }
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps(settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hortator.gateway", "--settings", str(path), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def the_ready_line(process) -> dict:
    async with asyncio.timeout(30):
        return json.loads(await process.stdout.readline())


async def the_text_of(events) -> str:
    return "".join([event.text async for event in events if isinstance(event, Delta)])


async def refused(client) -> None:
    """Ask again and again, until the signal has arrived."""
    while True:
        async for _ in client.generate("too late", sampling=Sampling(max_tokens=1)):
            pass


async def test_sigterm_finishes_what_streams_refuses_what_is_new_and_exits_0(
    empty_cluster, tmp_path, expected_text, wait_until
):
    worker = await empty_cluster.add_worker("w0")
    worker.pass_s = 0.01
    async with a_gateway_process(empty_cluster, tmp_path) as process:
        ready = await the_ready_line(process)
        assert ready["event"] == "ready"
        async with GatewayClient(ready["address"]) as client:
            events = client.generate("hello", sampling=Sampling(max_tokens=60))
            text = (await anext(events)).text
            with urlopen(f"http://127.0.0.1:{ready['admin_port']}/metrics", timeout=5) as answer:  # noqa: ASYNC210
                assert b"hortator_gateway_in_flight 1.0" in answer.read()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(GenerateError, match="draining") as caught:
                await refused(client)
            assert caught.value.status == "UNAVAILABLE"
            async for event in events:
                text += event.text if isinstance(event, Delta) else ""
            assert text == expected_text(60)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    await wait_until(lambda: not worker.runs)


async def test_a_gateway_beside_another_sends_its_clients_there_and_finishes_what_streams(
    empty_cluster, tmp_path, expected_text
):
    worker = await empty_cluster.add_worker("w0")
    worker.pass_s = 0.02
    scheduler = type(empty_cluster.scheduler)()  # the double has one gateway at a time
    scheduler.workers.append(worker)
    await scheduler.start()
    beside = {"scheduler_addresses": [scheduler.address]}
    (tmp_path / "other").mkdir()
    async with (
        AsyncExitStack() as stack,
        a_gateway_process(empty_cluster, tmp_path, drain_delay_s=0.2) as process,
        a_gateway_process(empty_cluster, tmp_path / "other", **beside) as other,
    ):
        stack.push_async_callback(scheduler.stop)
        addresses = [(await the_ready_line(one))["address"] for one in (process, other)]
        async with GatewayClient(f"ipv4:{','.join(addresses)}") as client:  # the first that answers
            events = client.generate("hello", sampling=Sampling(max_tokens=80))
            begun = (await anext(events)).text
            rest = asyncio.create_task(the_text_of(events))
            process.send_signal(signal.SIGTERM)
            while process.returncode is None:  # none of these fails
                await the_text_of(client.generate("and this?", sampling=Sampling(max_tokens=1)))
            assert begun + await rest == expected_text(80)
        assert process.returncode == 0


@pytest.mark.parametrize("drain_delay_s", [0, 0.1])
async def test_a_drain_that_takes_too_long_ends_the_streams_with_unavailable(
    empty_cluster, tmp_path, drain_delay_s
):
    worker = await empty_cluster.add_worker("w0")
    worker.pass_s = 0.05
    times = {"drain_timeout_s": 0.3, "drain_delay_s": drain_delay_s}
    async with a_gateway_process(empty_cluster, tmp_path, **times) as process:
        ready = await the_ready_line(process)
        async with GatewayClient(ready["address"]) as client:
            events = client.generate("hello", sampling=Sampling(max_tokens=2000))
            assert isinstance(await anext(events), Delta)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(GenerateError, match="this gateway stopped") as caught:
                async for _ in events:
                    pass
            assert caught.value.status == "UNAVAILABLE"
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_taken_port_is_named_and_ends_the_process(cluster, tmp_path):
    port = cluster.gateway.server.port
    async with a_gateway_process(cluster, tmp_path, port=port) as process:
        async with asyncio.timeout(30):
            _, stderr = await process.communicate()
        assert process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in stderr.decode().splitlines()[-1]
        assert "Traceback" not in stderr.decode()


async def test_bad_settings_end_the_process_with_2_and_one_line(cluster, tmp_path):
    async with a_gateway_process(cluster, tmp_path, queue_timeout_s=-1) as process:
        async with asyncio.timeout(30):
            stdout, stderr = await process.communicate()
        assert process.returncode == 2
        assert stdout == b""
        [line] = stderr.decode().splitlines()
        assert "gateway.json: queue_timeout_s:" in line

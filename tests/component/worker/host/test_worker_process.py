"""`python -m hortator.worker` as an operating system sees it: arguments, ready line, signals, exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.rpc.worker.v1 import worker_pb2_grpc
from hortator.runtime.grpc_server import open_channel

SETTINGS = {
    "worker_id": "w",
    "engine": "simulated",
    "engine_options": {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 0.01},
    "drain_timeout_s": 2.0,
}


async def start(*arguments: str, settings=None, tmp_path=None, program=None):
    if settings is not None:
        path = tmp_path / "settings.json"
        path.write_text(json.dumps(settings))
        arguments = ("--settings", str(path), *arguments)
    return await asyncio.create_subprocess_exec(
        *(program or (sys.executable, "-m", "hortator.worker")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(tmp_path, settings=SETTINGS, *arguments: str):
    """A worker process and its ready line."""
    process = await start(*arguments, settings=settings, tmp_path=tmp_path)
    try:
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        if not line:
            pytest.fail((await process.stderr.read()).decode())
        yield process, json.loads(line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_serves_says_where_and_ends_with_zero_on_sigterm(tmp_path):
    async with running(tmp_path) as (process, ready), open_channel(ready["address"]) as channel:
        assert ready["event"] == "ready"
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        call = worker_pb2_grpc.WorkerServiceStub(channel).Submit()
        await call.write(pb.SubmitRequest(hello=pb.SubmitHello(gateway_id="g")))
        request = pb.SubmittedRequest(
            request_id="r1",
            mode=pb.MODE_AGGREGATED,
            prompt_token_ids=range(10),
            sampling=pb.Sampling(max_tokens=5, top_p=1, ignore_eos=True),
        )
        await call.write(pb.SubmitRequest(requests=[request]))
        num_tokens = 0
        async for response in call:
            num_tokens += sum(len(delta.token_ids) for delta in response.deltas)
            if response.completions:
                break
        assert num_tokens == 5
        url = f"http://127.0.0.1:{ready['admin_port']}/metrics"
        metrics = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
        assert 'hortator_worker_tokens_total{kind="prefill"} 10.0' in metrics
        assert "hortator_worker_forward_pass_seconds_count 5.0" in metrics
        assert 'hortator_worker_kv_blocks_used{dp_rank="1"} 0.0' in metrics
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_drain_finishes_what_runs_before_the_process_ends(tmp_path):
    settings = {**SETTINGS, "drain_timeout_s": 30.0}
    async with running(tmp_path, settings) as (process, ready), open_channel(ready["address"]) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Submit()
        await call.write(pb.SubmitRequest(hello=pb.SubmitHello(gateway_id="g")))
        request = pb.SubmittedRequest(
            request_id="r1",
            mode=pb.MODE_AGGREGATED,
            prompt_token_ids=range(10),
            sampling=pb.Sampling(max_tokens=300, top_p=1, ignore_eos=True),
        )
        await call.write(pb.SubmitRequest(requests=[request]))
        last = None
        async for response in call:
            if response.deltas and response.deltas[0].token_index == 0:
                process.send_signal(signal.SIGTERM)
            if response.completions:
                last = response.completions[0]
                break
        assert last is not None
        assert (last.reason, last.num_output_tokens) == (pb.COMPLETION_REASON_LENGTH, 300)
        assert await process.wait() == 0


async def test_it_dies_with_its_parent(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-m', 'hortator.worker', '--settings', {str(path)!r},"
        " '--die-with-parent'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        child_pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while is_alive(child_pid):  # not our child
            await asyncio.sleep(0.05)


def is_alive(pid: int) -> bool:
    """A zombie that nobody waits for counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"engin": "simulated"}, "engin: unknown setting", id="unknown setting"),
        pytest.param({"port": 99999}, "PORT", id="bad value"),
        pytest.param(
            {"engine_options": {"dp_sise": 1}}, "engine_options.dp_sise: unknown option", id="option"
        ),
    ],
)
async def test_bad_settings_end_it_with_one_line_and_code_two(tmp_path, settings, said):
    process = await start(settings=settings, tmp_path=tmp_path)
    _, err = await process.communicate()
    assert process.returncode == 2
    assert said in err.decode()
    assert len(err.decode().splitlines()) == 1


async def test_the_effective_settings_can_be_printed(tmp_path):
    process = await start("--print-settings", settings=SETTINGS, tmp_path=tmp_path)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert "HORTATOR_WORKER_WORKER_ID=w" in out.decode()


async def test_a_taken_port_is_an_error_at_start(tmp_path):
    async with running(tmp_path) as (_, ready):
        port = int(ready["address"].rpartition(":")[2])
        process = await start(settings={**SETTINGS, "port": port}, tmp_path=tmp_path)
        _, err = await process.communicate()
        assert process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in err.decode().splitlines()[-1]
        assert "Traceback" not in err.decode()

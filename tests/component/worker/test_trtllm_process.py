"""A worker process over the double: it serves, and it ends with a code of its own when its engine hangs."""

import asyncio
import json
import os
import sys

from doubles.trtllm import SITE, options
from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.rpc.worker.v1 import worker_pb2_grpc
from hortator.runtime.grpc_server import open_channel


async def test_a_worker_serves_and_when_its_engine_hangs_it_exits_with_70(tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "worker_id": "w",
                "engine": "tensorrt_llm",
                "engine_options": options(no_progress_timeout_s=0.5, exit_grace_s=5.0)
                | {"phase": "aggregated"},
            }
        )
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(SITE)]).strip(os.pathsep),
        "TENSORRT_LLM_DOUBLE_FAULT": "hang:12",
        "TENSORRT_LLM_DOUBLE_TIME_SCALE": "0.01",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hortator.worker", "--settings", str(settings)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(20):
            ready = json.loads(await process.stdout.readline())
            tokens = await generate(ready["address"])
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert 0 < tokens < 100
    assert process.returncode == 70
    assert b"the engine died: no progress for" in errors


async def generate(address):
    """Tokens that came before the request failed."""
    async with open_channel(address) as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Submit()
        await call.write(pb.SubmitRequest(hello=pb.SubmitHello(gateway_id="g")))
        request = pb.SubmittedRequest(
            request_id="r1",
            mode=pb.MODE_AGGREGATED,
            prompt_token_ids=range(10),
            sampling=pb.Sampling(max_tokens=100, top_p=1, ignore_eos=True),
        )
        await call.write(pb.SubmitRequest(requests=[request]))
        num_tokens = 0
        async for response in call:
            num_tokens += sum(len(delta.token_ids) for delta in response.deltas)
            if response.completions:
                assert response.completions[0].reason == pb.COMPLETION_REASON_FAILED
                return num_tokens
    raise AssertionError("the stream ended without a last word")

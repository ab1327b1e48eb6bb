"""What the TensorRT-LLM adapter costs per token, in processor time, over the double of the library.

    .venv/bin/python benchmarks/micro/trtllm_adapter.py [--json FILE]

A decode group of 16 DP ranks with 64 requests each gives 100 tokens per request. The same requests are then
read from the double without the adapter; the difference is the adapter's. The double runs in the same process
and thread, so `with_double_us_per_token` is an upper bound that takes nothing on trust.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from doubles import trtllm
from hortator.cli.bench import result
from hortator.worker.engine import EngineRequest, Sampling, TokenChunk

SETTINGS = {"dp_size": 16, "requests_per_rank": 64, "tokens_per_request": 100, "version": "1.2.1"}
RANKS, PER_RANK, TOKENS = 16, 64, 100
PROMPT = (5,) * 20
TARGETS = {"adapter_us_per_token": "<= 50", "with_double_us_per_token": "<= 50"}


def main() -> None:
    """Run five repeats and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("-"))
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    repeats = [asyncio.run(one_repeat()) for _ in range(5)]
    result.write(
        result.document(
            "trtllm-adapter",
            seed=0,
            settings=SETTINGS,
            figures=result.medians(repeats),
            repeats=repeats,
            targets=TARGETS,
        ),
        arguments.json,
    )


async def one_repeat() -> dict[str, float]:
    """With the adapter, then without."""
    trtllm.emulate("1.2.1", time_scale=0.0001)
    engine = trtllm.engine(
        phase="decode",
        tensor_parallel_size=RANKS,
        gpus_per_node=RANKS,
        max_num_tokens=8192,
        max_batch_size=PER_RANK,
        kv_blocks=4000,
        enable_chunked_prefill=False,
    )
    await engine.start()
    began = time.process_time()
    num_tokens = await through_the_adapter(engine)
    adapted_s = time.process_time() - began
    args = engine.llm.args
    began = time.process_time()
    bare_tokens = await without_it(type(engine.llm)(**args.model_dump(exclude_unset=True)))
    bare_s = time.process_time() - began
    await engine.aclose()
    together = 1e6 * adapted_s / num_tokens
    return {
        "adapter_us_per_token": together - 1e6 * bare_s / bare_tokens,
        "with_double_us_per_token": together,
    }


async def through_the_adapter(engine: Any) -> int:
    """All requests through the port, both streams read; the number of tokens."""
    num_tokens = num_ended = 0

    async def read_passes() -> None:
        async for _ in engine.forward_passes():
            pass

    passes = asyncio.create_task(read_passes())
    await engine.submit(
        [
            EngineRequest(
                request_id=f"r{index}",
                dp_rank=index % RANKS,
                prompt_token_ids=PROMPT,
                sampling=Sampling(max_tokens=TOKENS, ignore_eos=True),
            )
            for index in range(RANKS * PER_RANK)
        ]
    )
    async for output in engine.outputs():
        if isinstance(output, TokenChunk):
            num_tokens += len(output.token_ids)
        else:
            num_ended += 1
            if num_ended == RANKS * PER_RANK:
                break
    passes.cancel()
    return num_tokens


async def without_it(llm: Any) -> int:
    """The same requests, read from the double itself; the number of tokens."""
    from tensorrt_llm import SamplingParams, SchedulingParams  # noqa: PLC0415

    async def read(stream: Any) -> int:
        num_tokens = 0
        async for output in stream:
            num_tokens += len(output.outputs[0].token_ids_diff)
        return num_tokens

    streams = [
        llm.generate_async(
            inputs=list(PROMPT),
            sampling_params=SamplingParams(max_tokens=TOKENS, end_id=1, ignore_eos=True),
            streaming=True,
            scheduling_params=SchedulingParams(attention_dp_rank=index % RANKS, attention_dp_relax=False),
            cache_salt=f"alone-{index}",
        )
        for index in range(RANKS * PER_RANK)
    ]
    counts = await asyncio.gather(*map(read, streams))
    llm.shutdown()
    return sum(counts)


if __name__ == "__main__":
    main()

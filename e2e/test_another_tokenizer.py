"""A service moves to a model with another tokenizer: processes over the double of TensorRT-LLM, each with a model of its own."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from group_processes import Process, Starter, a_free_port, processes
from live_stack import wait_until
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from doubles.trtllm import SITE, options
from hortator.client import Delta, GatewayClient, GenerateError, Sampling

NUM_WORDS = 2048
NUM_REQUESTS = 24


@pytest.fixture
def starter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(SITE)]))
    monkeypatch.setenv("TENSORRT_LLM_DOUBLE_TIME_SCALE", "0.01")
    with processes(tmp_path) as started:
        yield started


def a_model(folder: Path, language: str) -> Path:
    """Its words are `old0` to `old2047`: the same ids mean something else in every language."""
    tokenizer = Tokenizer(
        models.WordLevel({f"{language}{n}": n for n in range(NUM_WORDS)}, unk_token=f"{language}0")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": NUM_WORDS, "max_position_embeddings": 1024, "eos_token_id": 1})
    )
    return folder


def a_worker(starter: Starter, language: str, scheduler: str) -> Process:
    model = a_model(starter.folder / language, language)
    return starter.serving(
        "worker",
        host="127.0.0.1",
        worker_id=language,
        port=0,
        phase="aggregated",
        scheduler_addresses=[scheduler],
        engine="tensorrt_llm",
        engine_options=options(phase="aggregated", model=str(model)) | {"exit_grace_s": 20.0},
    )


async def answered(address: str, number: int = NUM_REQUESTS) -> set[str]:
    """The languages in which so many requests at once were answered."""

    async def one(client: GatewayClient) -> str:
        events = client.generate("go on", sampling=Sampling(max_tokens=4, ignore_eos=True))
        return "".join([event.text async for event in events if isinstance(event, Delta)])

    async with GatewayClient(address) as client:
        texts = await asyncio.gather(*(one(client) for _ in range(number)))
    return {word for text in texts for word in re.findall("[a-z]+", text)}


def num_ended(worker: Process) -> int:
    lines = [
        line
        for line in worker.metrics().splitlines()
        if line.startswith("hortator_worker_ended_requests_total{")
    ]
    return sum(int(float(line.split()[-1])) for line in lines)


def test_every_text_is_answered_by_the_model_whose_tokenizer_has_read_it(starter):
    """Also while an idle group of the other model stands beside a busy one; and when one has left, by the other."""
    scheduler = starter.serving("scheduler", host="127.0.0.1", port=a_free_port()).address()
    old = a_worker(starter, "old", scheduler)
    gateway = starter.serving(
        "gateway",
        host="127.0.0.1",
        port=a_free_port(),
        scheduler_addresses=[scheduler],
        model="moves",
        tokenizer="workers",
        max_sequence_tokens=1024,
        tokens_per_block=16,
    )
    wait_until(lambda: gateway.readyz()[0] == 200, what="the gateway has asked a worker")
    new = a_worker(starter, "new", scheduler)
    wait_until(lambda: new.readyz()[0] == 200, what="a scheduler knows the new one")
    before = num_ended(old), num_ended(new)
    assert asyncio.run(answered(gateway.address())) == {"old"}
    assert (num_ended(old) - before[0], num_ended(new) - before[1]) == (NUM_REQUESTS, 0)

    old.kill(signal.SIGTERM)
    assert old.wait() == 0
    refusals: list[str] = []

    def is_answered() -> bool:
        try:
            return asyncio.run(answered(gateway.address(), 1)) == {"new"}
        except GenerateError as error:
            refusals.append(str(error))
            return False

    wait_until(is_answered, timeout=10, what="the gateway reads what the workers that are left read")
    assert all("tokenizer" in refusal for refusal in refusals), refusals
    assert asyncio.run(answered(gateway.address())) == {"new"}

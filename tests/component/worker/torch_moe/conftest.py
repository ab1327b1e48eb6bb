"""Running engines and the single-process reference, shared by all tests of a module."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from hortator.worker.engine import EngineDeadError, EngineRequest, Finished, Sampling, TokenChunk
from hortator.worker.engines.torch_moe import (
    TorchMoEConfig,
    TorchMoEEngine,
    builtin_tokenizer_path,
    builtin_weights_path,
)

_ids = itertools.count()


@dataclass
class Answer:
    """What came out for one request."""

    tokens: list[int] = field(default_factory=list)
    first_index: int | None = None
    finished: list[Finished] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, num_tokens):
        """Wait until that many tokens are out."""
        async with asyncio.timeout(60):
            while len(self.tokens) < num_tokens:
                self.grown.clear()
                await self.grown.wait()

    @property
    def end(self):
        (only,) = self.finished
        return only


class Driver:
    """An engine with consumers on both of its streams."""

    def __init__(self, engine, info):
        self.engine = engine
        self.info = info
        self.answers = {}
        self.passes = []
        self.output_error = None

    async def consume_outputs(self):
        try:
            async for output in self.engine.outputs():
                answer = self.answers.setdefault(output.request_id, Answer())
                match output:
                    case TokenChunk():
                        if answer.first_index is None:
                            answer.first_index = output.token_index
                        assert output.token_index == answer.first_index + len(answer.tokens)
                        answer.tokens += output.token_ids
                        answer.grown.set()
                    case Finished():
                        answer.finished.append(output)
                        answer.done.set()
        except EngineDeadError as error:
            self.output_error = error
        finally:
            for answer in self.answers.values():
                answer.done.set()

    async def consume_passes(self):
        try:
            async for report in self.engine.forward_passes():
                self.passes.append(report)
        except EngineDeadError as error:
            self.pass_error = error

    async def submit(self, *requests):
        for request in requests:
            self.answers[request.request_id] = Answer()
        await self.engine.submit(requests)

    async def run(self, *requests):
        """Submit as one batch, wait for all ends, return the answers in order."""
        await self.submit(*requests)
        async with asyncio.timeout(60):
            for request in requests:
                await self.answers[request.request_id].done.wait()
        return [self.answers[request.request_id] for request in requests]

    async def export(self, request_id):
        return [chunk async for chunk in self.engine.export_kv(request_id)]


@asynccontextmanager
async def running(**config):
    engine = TorchMoEEngine(TorchMoEConfig(**config))
    driver = Driver(engine, await engine.start())
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(driver.consume_outputs())
            tasks.create_task(driver.consume_passes())
            yield driver
            await engine.aclose()
    finally:
        await engine.aclose()


@pytest.fixture(scope="session")
def start_engine():
    """An async context manager: settings of TorchMoEConfig in, a Driver out."""
    return running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def aggregated():
    """Two ranks, plain settings."""
    async with running(dp_size=2) as driver:
        yield driver


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def odd():
    """Three ranks, tiny chunks, few blocks: everything that should make no difference."""
    async with running(dp_size=3, chunk_budget_tokens=7, max_batch_size=3, kv_blocks=24) as driver:
        yield driver


@pytest.fixture(scope="session")
def a_request():
    def build(prompt, *, dp_rank=0, max_tokens=16, **changes):
        sampling = {k: changes.pop(k) for k in list(changes) if k in Sampling.__dataclass_fields__}
        return EngineRequest(
            request_id=changes.pop("request_id", f"request-{next(_ids)}"),
            dp_rank=dp_rank,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=max_tokens, **sampling),
            **changes,
        )

    return build


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(builtin_tokenizer_path()))


@pytest.fixture(scope="session")
def prompts(tokenizer):
    """Test prompts of 5 to about 200 tokens."""
    texts = [
        "HAMLET.\nTo be, or not to be",
        "[Enter ROMEO and JULIET.]\n\nROMEO.\n",
        "Good my lord, ",
        "KING.\nNow, gentle sirs, the day is come, and all our swords must answer for the crown.\n\nQUEEN.\n",
        "What light is this? " * 12 + "\n\nJULIET.\n",
        "O, pardon me, thou bleeding piece of earth, that I am meek and gentle with these butchers!\n" * 4,
    ]
    return [tokenizer.encode(text).ids for text in texts]


@pytest.fixture(scope="session")
def reference():
    import torch

    from hortator.worker.engines.torch_moe.reference import ReferenceModel

    torch.set_num_threads(1)
    return ReferenceModel.load(builtin_weights_path())


@pytest.fixture(scope="session")
def num_greedy(reference):
    """How many tokens of an answer the single-process model decides greedily and clearly.

    One forward over prompt and answer gives the best two logits at each place. Tokens count up to the first
    place where those come within 1e-3; before it, a token that is not the best one fails the test.
    """
    import torch

    def check(prompt, answer):
        with torch.no_grad():
            best = reference(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1].topk(2)
        for number, token in enumerate(answer):
            first, second = best.values[number].tolist()
            if first - second <= 1e-3:
                return number
            assert token == best.indices[number, 0]
        return len(answer)

    return check

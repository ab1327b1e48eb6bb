"""The HTTP doors of an engine, asked as routers ask: over real HTTP, with the engine that they stand before."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import grpc
import grpc.aio
import pytest
import smg_grpc_proto
from aiohttp import web

from hortator.runtime.metrics import new_registry
from hortator.worker.app import Worker
from hortator.worker.engine import ForwardPassStarted
from hortator.worker.engine_factory import build_engine
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.report import PassReported
from hortator.worker.settings import WorkerSettings
from peers.answers import Answer, Outcome
from peers.clients import ProxyClient, SelectorClient
from peers.engine import open_http_door, open_sglang_door
from peers.entry import EngineEntry
from peers.programs import free_ports

DP_SIZE = 4
OPTIONS = {
    "dp_size": DP_SIZE,
    "ep_size": 16,
    "kv_blocks_total": 64,
    "tokens_per_block": 64,
    "time_scale": 0.05,
    "prefix_cache": False,
    "vocab_size": 127,
    "first_token_id": 32,
}


class Engine:
    """A served engine, and on which ranks its passes had prompt tokens."""

    def __init__(self, url, rank_urls, session, host):
        self.host = host
        self.url = url
        self.rank_urls = rank_urls
        self.session = session
        self.prefilled: list[tuple[int, int]] = []

    def offer(self, report):
        """A sink of the worker's reports: (rank, prompt tokens) of each pass that starts."""
        if isinstance(report, PassReported) and isinstance(report.report, ForwardPassStarted):
            self.prefilled += [
                (rank.dp_rank, rank.pass_prefill_tokens)
                for rank in report.report.ranks
                if rank.pass_prefill_tokens
            ]

    async def get(self, path, url=None):
        async with self.session.get(f"{url or self.url}{path}") as response:
            assert response.status == 200
            return await response.json()

    async def complete(self, url=None, headers=None, **body):
        body = {"model": "deepseek-v3", "prompt": "hello", "max_tokens": 1} | body
        async with self.session.post(
            f"{url or self.url}/v1/completions", json=body, headers=headers
        ) as response:
            return response.status, await response.json()


@asynccontextmanager
async def served(**options):
    settings = WorkerSettings(worker_id="prefill-0", phase="prefill", drain_timeout_s=0.0)
    rank_ports = free_ports(DP_SIZE)
    async with AsyncExitStack() as stack:
        engine = build_engine(settings.engine, OPTIONS | options)
        stack.push_async_callback(engine.aclose)
        info = await engine.start()
        worker = await Worker.open(settings, engine, info, WorkerMetrics(new_registry()), stack)
        entry = EngineEntry(worker.host, name="http")
        port = await open_http_door(entry, stack, rank_ports=rank_ports)
        for work in (worker.host.run(), entry.run()):
            stack.callback(asyncio.ensure_future(work).cancel)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = "http://127.0.0.1:{}".format
        served_engine = Engine(url(port), [url(port) for port in rank_ports], session, worker.host)
        worker.host.add_sink(served_engine)
        yield served_engine


@pytest.fixture
async def engine():
    async with served() as one:
        yield one


class TestPlacement:
    async def test_the_rank_in_the_body_wins_over_the_header_and_the_port(self, engine):
        header = {"x-data-parallel-rank": "2"}
        await engine.complete(engine.rank_urls[1], headers=header, data_parallel_rank=3)
        await engine.complete(engine.rank_urls[1], headers=header)
        await engine.complete(engine.rank_urls[1])
        assert engine.prefilled == [(3, 5), (2, 5), (1, 5)]

    async def test_rank_0_is_a_rank_and_not_a_missing_one(self, engine):
        for _ in range(2):
            await engine.complete(data_parallel_rank=0)
        assert engine.prefilled == [(0, 5), (0, 5)]

    async def test_a_request_without_a_rank_gets_the_next_in_turn(self, engine):
        for _ in range(DP_SIZE + 1):
            await engine.complete()
        assert [rank for rank, _ in engine.prefilled] == [0, 1, 2, 3, 0]

    @pytest.mark.parametrize("rank", [DP_SIZE, -1, "first"])
    async def test_a_rank_that_is_none_is_refused_by_name(self, engine, rank):
        status, answer = await engine.complete(data_parallel_rank=rank)
        assert status == 400
        assert f"data_parallel_rank: got {rank!r} (allowed: 0 to 3)" in answer["error"]["message"]


class TestGeneration:
    async def test_a_completion_has_as_many_tokens_as_asked_for(self, engine):
        status, answer = await engine.complete(prompt="one token a byte", max_tokens=3)
        assert status == 200
        assert len(answer["choices"][0]["text"]) == 3
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"] == {"prompt_tokens": 16, "completion_tokens": 3, "total_tokens": 19}

    async def test_token_ids_are_a_prompt_as_well(self, engine):
        _, answer = await engine.complete(prompt=[65, 66, 67])
        assert answer["usage"]["prompt_tokens"] == 3

    async def test_a_chat_streams_events_and_the_mark_of_the_end(self, engine):
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": True}
        async with engine.session.post(f"{engine.url}/v1/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            lines = [line.decode().strip() async for line in response.content if line.strip()]
        *events, done = [line.removeprefix("data: ") for line in lines]
        choices = [json.loads(event)["choices"][0] for event in events]
        assert [choice["finish_reason"] for choice in choices] == [None, None, "length"]
        assert [len(choice["delta"]["content"]) for choice in choices] == [1, 1, 0]
        assert done == "[DONE]"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            pytest.param({"prompt": None}, "prompt", id="none"),
            pytest.param({"prompt": {"text": "x"}}, "prompt", id="another kind"),
            pytest.param({"max_tokens": -1}, "max_tokens", id="nothing asked for"),
            pytest.param({"prompt": "x" * 5000}, "prompt", id="more than the KV cache holds"),
        ],
    )
    async def test_what_cannot_run_is_refused_naming_the_field(self, engine, body, field):
        status, answer = await engine.complete(**body)
        assert status == 400
        assert answer["error"]["message"].startswith(f"{field}: ")

    async def test_a_client_that_goes_away_frees_its_rank(self):
        async with served(time_scale=5.0) as engine:
            body = {"prompt": "hello", "max_tokens": 1000}
            asking = asyncio.ensure_future(engine.session.post(f"{engine.url}/v1/completions", json=body))
            while not engine.prefilled:
                await asyncio.sleep(0.01)
            assert await engine.get("/load") == {"server_load": 1}
            asking.cancel()
            async with asyncio.timeout(10):
                while (await engine.get("/load"))["server_load"]:
                    await asyncio.sleep(0.01)


class TestWhatRoutersAsk:
    async def test_an_engine_is_healthy_and_names_its_model_and_ranks(self, engine):
        async with engine.session.get(f"{engine.url}/health") as response:
            assert response.status == 200
        assert (await engine.get("/v1/models"))["data"][0]["id"] == "deepseek-v3"
        assert (await engine.get("/model_info"))["model_path"] == "deepseek-v3"
        assert (await engine.get("/server_info"))["dp_size"] == DP_SIZE

    async def test_loads_are_those_of_each_rank_now(self):
        async with served(time_scale=20.0) as engine:
            first = asyncio.ensure_future(engine.complete(prompt="x" * 100, data_parallel_rank=1))
            while not engine.prefilled:
                await asyncio.sleep(0.01)
            second = asyncio.ensure_future(engine.complete(prompt="x" * 200, data_parallel_rank=1))
            async with asyncio.timeout(5):
                loads = await engine.get("/v1/loads")
                while not loads["loads"][1]["num_waiting_reqs"]:
                    await asyncio.sleep(0.01)
                    loads = await engine.get("/v1/loads")
            busy = loads["loads"][1]
            assert (busy["num_running_reqs"], busy["num_waiting_reqs"]) == (1, 1)
            assert busy["num_waiting_uncached_tokens"] == 300
            assert loads["dp_rank_count"] == DP_SIZE
            assert (await engine.get("/get_load"))[1]["num_reqs"] == 2
            assert await engine.get("/load") == {"server_load": 2}
            assert await engine.get("/load", engine.rank_urls[1]) == {"server_load": 2}
            assert await engine.get("/load", engine.rank_urls[2]) == {"server_load": 0}
            first.cancel()
            second.cancel()

    async def test_a_port_of_one_rank_is_an_engine_of_one_rank(self, engine):
        assert (await engine.get("/server_info", engine.rank_urls[2]))["dp_size"] == 1
        assert [
            load["dp_rank"] for load in (await engine.get("/v1/loads", engine.rank_urls[2]))["loads"]
        ] == [0]


class TestSglangDoor:
    """Generate, loads and the tokenizer over SGLang's gRPC."""

    @pytest.fixture
    def pb(self):
        return smg_grpc_proto

    @pytest.fixture
    async def stub(self, pb, engine):
        async with AsyncExitStack() as stack:
            entry = EngineEntry(engine.host, name="sglang")
            stack.callback(asyncio.ensure_future(entry.run()).cancel)
            port = await open_sglang_door(entry, stack)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            yield pb.sglang_scheduler_pb2_grpc.SglangSchedulerStub(channel)

    @staticmethod
    def request(pb, *, num_tokens=5, max_new_tokens=2, **fields):
        messages = pb.sglang_scheduler_pb2
        return messages.GenerateRequest(
            request_id="r1",
            tokenized=messages.TokenizedInput(input_ids=range(32, 32 + num_tokens)),
            sampling_params=messages.SamplingParams(max_new_tokens=max_new_tokens),
            **fields,
        )

    async def test_tokens_stream_and_the_end_says_what_it_came_to(self, pb, stub, engine):
        call = stub.Generate(self.request(pb, stream=True, data_parallel_rank=2))
        *chunks, last = [response async for response in call]
        assert [len(response.chunk.token_ids) for response in chunks] == [1, 1]
        assert (last.complete.finish_reason, last.complete.completion_tokens) == ("length", 2)
        assert [*last.complete.output_ids] == [chunk.chunk.token_ids[0] for chunk in chunks]
        assert engine.prefilled == [(2, 5)]

    async def test_a_missing_rank_is_rank_0(self, pb, stub, engine):
        for _ in range(2):
            assert [
                response.WhichOneof("response") async for response in stub.Generate(self.request(pb))
            ] == ["complete"]
        assert engine.prefilled == [(0, 5), (0, 5)]

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [({"data_parallel_rank": 9}, "data_parallel_rank: got 9"), ({"num_tokens": 5000}, "prompt: ")],
    )
    async def test_what_cannot_run_is_refused_naming_the_field(self, pb, stub, fields, problem):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            _ = [response async for response in stub.Generate(self.request(pb, **fields))]
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details().startswith(problem)

    async def test_it_says_what_it_is_and_how_loaded_its_ranks_are(self, pb, stub):
        messages = pb.sglang_scheduler_pb2
        assert (await stub.HealthCheck(messages.HealthCheckRequest())).healthy
        info = await stub.GetServerInfo(messages.GetServerInfoRequest())
        assert info.server_args["dp_size"] == DP_SIZE
        assert (await stub.GetModelInfo(messages.GetModelInfoRequest())).served_model_name == "deepseek-v3"
        loads = await stub.GetLoads(messages.GetLoadsRequest())
        assert [load.dp_rank for load in loads.loads] == [0, 1, 2, 3]
        one = await stub.GetLoads(messages.GetLoadsRequest(dp_rank=3))
        assert [load.dp_rank for load in one.loads] == [3]


class TestClient:
    async def test_it_notes_first_token_and_end(self, engine):
        client = ProxyClient(engine.url, model="deepseek-v3")
        loop = asyncio.get_running_loop()
        answer = Answer(due_at=loop.time())
        client.send(answer, client.prepare(0, b"hello"))
        await client.finish(10)
        await client.close()
        assert answer.outcome is Outcome.ANSWERED
        assert 0 < answer.ttft_s < 10

    async def test_a_refusal_and_nobody_there_are_failures_with_what_was_said(self, engine):
        too_long = Answer(due_at=0.0)
        client = ProxyClient(engine.url, model="deepseek-v3")
        client.send(too_long, client.prepare(0, b"x" * 5000))
        await client.finish(10)
        await client.close()
        nobody = Answer(due_at=0.0)
        client = ProxyClient(f"http://127.0.0.1:{free_ports(1)[0]}", model="deepseek-v3")
        client.send(nobody, client.prepare(0, b"hello"))
        await client.finish(10)
        await client.close()
        assert [one.outcome for one in (too_long, nobody)] == [Outcome.FAILED, Outcome.FAILED]
        assert too_long.detail.startswith("400: ")
        assert nobody.detail.startswith("ClientConnectorError")
        assert too_long.ttft_s is None


class Selector:
    """Stands for `dynamo.select_service`: sends everything to one rank, and writes down what it is told."""

    def __init__(self, *, is_full=False):
        self.is_full = is_full
        self.told = []

    async def select(self, request):
        body = await request.json()
        self.told.append(("select", len(body["token_ids"])))
        if self.is_full:
            return web.Response(status=503, text="all workers are busy")
        return web.json_response({"worker_id": 7, "dp_rank": 3})

    async def note(self, request):
        self.told.append((request.method, request.path))
        return web.json_response({"status": "ok"})

    @asynccontextmanager
    async def served(self):
        app = web.Application()
        app.router.add_post("/select_and_reserve", self.select)
        app.router.add_post("/reservations/{id}/prefill_complete", self.note)
        app.router.add_delete("/reservations/{id}", self.note)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()


async def ask_selector(selector, engine):
    async with selector.served() as url:
        client = SelectorClient(url, model="deepseek-v3", engine_urls={7: engine.url}, name="run")
        answer = Answer(due_at=asyncio.get_running_loop().time())
        client.send(answer, client.prepare(5, b"hello"))
        await client.finish(10)
        await client.close()
    return answer


async def test_a_request_goes_where_the_selector_says_which_hears_of_first_token_and_end(engine):
    selector = Selector()
    answer = await ask_selector(selector, engine)
    assert answer.outcome is Outcome.ANSWERED
    assert engine.prefilled == [(3, 5)]
    first, *rest = selector.told
    assert first == ("select", 5)
    assert sorted(rest) == [
        ("DELETE", "/reservations/run-5"),
        ("POST", "/reservations/run-5/prefill_complete"),
    ]


async def test_a_selector_that_is_full_has_rejected_the_request(engine):
    answer = await ask_selector(Selector(is_full=True), engine)
    assert answer.outcome is Outcome.REJECTED
    assert answer.detail == "selector 503: all workers are busy"
    assert engine.prefilled == []

"""What clients say and show stays between them and the engine: it is in no log, metric, recording, state or argument.

Every process logs all that it can. Requests with marks in them end well and badly, a worker and a gateway die
with some of them; afterwards nothing that anybody can read has a mark.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from group_processes import Starter, a_free_port, processes
from live_stack import HORTATOR, wait_until

from hortator.rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc

SOON_S = 10.0
ENGINE = {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 0.01, "vocab_size": 123, "first_token_id": 97}
"""It says letters."""

PROMPT = "zyzzyva-prompt"
STOP = "zyzzyva-stop"
ROLE = "zyzzyva-role"
KEY = "zyzzyva-idempotency"
WRONG_API_KEY = "hk_zyzzyva-api-key"
HEADER = "zyzzyva-header"
MARK = "zyzzyva"
"""In all of these."""
TOKEN_IDS = (1717171711, 1828282822)
STOP_TOKEN_ID = 1939393933


class Service:
    """A scheduler that records, two workers, a gateway for text and one for token ids, all at DEBUG."""

    def __init__(self, starter: Starter) -> None:
        self.starter = starter
        self.recordings = starter.folder / "recordings"
        self.recordings.mkdir()
        self.api_key = f"hk_{secrets.token_urlsafe(32)}"
        keys = starter.folder / "keys.yaml"
        digest = sha256(self.api_key.encode()).hexdigest()
        keys.write_text(f"keys: [{{name: tests, sha256: {digest}, tenants: [ci]}}]")
        self.address = f"127.0.0.1:{a_free_port()}"
        port = int(self.address.rpartition(":")[2])
        self._start("scheduler", port=port, events_path=str(self.recordings / "events.jsonl"))
        self.workers = [self._worker(name) for name in ("w0", "w1")]
        gateway = {"scheduler_addresses": [self.address], "model": "tiny", "max_sequence_tokens": 4096}
        self.text = self._start("gateway", **gateway, tokenizer="bytes", api_keys_file=str(keys))
        self.ids = self._start("gateway", **gateway)
        wait_until(self._is_ready, timeout=60, what="all are ready")
        self.answers: list[tuple[str, list[int]]] = []

    def _start(self, component: str, **settings: object):
        usual = {"host": "127.0.0.1", "port": 0, "log_level": "DEBUG", "drain_timeout_s": 1.0}
        return self.starter.start(component, **(usual | settings))

    def _worker(self, name: str):
        return self._start(
            "worker", worker_id=name, scheduler_addresses=[self.address], engine_options=ENGINE
        )

    def _is_ready(self) -> bool:
        return all(process.address() and process.readyz()[0] == 200 for process in self.starter.started)

    def call(self, gateway, *, api_key: str | None = None, metadata=(), **fields):
        """Begin a call; its channel stays open until it is read."""
        channel = grpc.insecure_channel(gateway.address())
        request = inference_pb2.GenerateRequest(**fields)
        shown = (("authorization", f"Bearer {self.api_key if api_key is None else api_key}"), *metadata)
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        return stub.Generate(request, metadata=shown, timeout=SOON_S)

    def read(self, call) -> None:
        text, token_ids = "", []
        try:
            for answer in call:
                delta = answer.completion.delta if answer.HasField("completion") else answer.delta
                text += delta.text
                token_ids += delta.token_ids
        finally:
            if token_ids:
                self.answers.append((text, token_ids))

    def refused(self, status: grpc.StatusCode, gateway, **fields) -> None:
        with pytest.raises(grpc.RpcError) as caught:
            self.read(self.call(gateway, **fields))
        assert caught.value.code() is status, caught.value.details()

    def told(self) -> dict[str, str]:
        """Everything that anybody can read, by where it is."""
        told = {}
        for process in self.starter.started:
            name = process.log.stem
            if process.popen.poll() is None:
                told[f"{name}: metrics"] = process.metrics()
                told[f"{name}: readyz"] = process.readyz()[1]
                for file in ("cmdline", "environ"):
                    told[f"{name}: {file}"] = Path(f"/proc/{process.popen.pid}/{file}").read_text()
        state = [*HORTATOR, "state", "--json", "--scheduler", self.address]
        told["state"] = subprocess.run(state, check=True, capture_output=True, text=True).stdout
        return told

    def written(self) -> dict[str, str]:
        """Logs and recordings."""
        files = [process.log for process in self.starter.started]
        files += [path for path in self.recordings.rglob("*") if path.is_file()]
        return {path.name: path.read_bytes().decode(errors="replace") for path in files}


def sampling(**fields) -> inference_pb2.SamplingParameters:
    return inference_pb2.SamplingParameters(
        **({"max_tokens": 8, "ignore_eos": True, "stop": [STOP]} | fields)
    )


def chat(role: str) -> inference_pb2.ChatPrompt:
    return inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role=role, content=PROMPT)])


IDS = inference_pb2.TokenPrompt(token_ids=TOKEN_IDS * 20)
IDS_SAMPLING = sampling(stop=[], stop_token_ids=[STOP_TOKEN_ID])


@pytest.mark.safety
def test_nothing_of_requests_and_keys_is_told(tmp_path):
    with processes(tmp_path) as starter:
        service = Service(starter)
        end_well(service)
        end_badly(service)
        send_nonsense(service)
        die_with_it(service)
        found = service.told()
        for process in starter.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill(signal.SIGTERM)
        for process in starter.started:
            process.wait()
        found |= service.written()
    texts = [text for text, _ in service.answers]
    assert len(texts) == 7, "four that end well and three that a worker dies with"
    assert sum(len(text) >= 8 for text in texts) >= 5
    for where, text in found.items():
        for what, mark in marks(service):
            assert mark not in text, f"{where} tells {what}: {around(text, mark)}"
    everything = "".join(found.values())
    assert "hortator_gateway_requests_total" in everything, "there was something to read"
    assert '"num_prompt_tokens"' in everything, "the recording was read"
    assert '"level": "debug"' in everything, "the logs are as long as they can be"


def marks(service):
    """What must not be there, by what it is."""
    yield "a text of a client", MARK
    yield "an API key", service.api_key
    for token_id in (*TOKEN_IDS, STOP_TOKEN_ID):
        yield "a token of a client", str(token_id)
    for separator in (", ", ","):
        yield "a prompt as tokens", separator.join(map(str, MARK.encode()))
        for _, token_ids in service.answers:
            if len(token_ids) >= 8:
                yield "an answer as tokens", separator.join(map(str, token_ids[:8]))
    for text, _ in service.answers:
        if len(text) >= 8:
            yield "an answer", text[:8]


def around(text: str, mark: str) -> str:
    at = text.index(mark)
    return text[max(0, at - 200) : at + 100]


def end_well(service) -> None:
    service.read(service.call(service.text, text=PROMPT, sampling=sampling(), idempotency_key=KEY))
    service.read(service.call(service.text, text=PROMPT, sampling=sampling(), idempotency_key=KEY))
    service.read(service.call(service.text, chat=chat("user"), sampling=sampling(max_tokens=40), priority=1))
    service.read(service.call(service.ids, tokens=IDS, sampling=IDS_SAMPLING, tenant="ci"))


def end_badly(service) -> None:
    code, text, ids = grpc.StatusCode, service.text, service.ids
    service.refused(code.UNAUTHENTICATED, text, text=PROMPT, api_key=WRONG_API_KEY)
    service.refused(code.UNAUTHENTICATED, text, text=PROMPT, api_key="")
    service.refused(code.PERMISSION_DENIED, text, text=PROMPT, tenant="other")
    service.refused(code.NOT_FOUND, text, text=PROMPT, model=PROMPT)
    service.refused(code.INVALID_ARGUMENT, text, chat=chat(ROLE))
    service.refused(code.INVALID_ARGUMENT, text, text=PROMPT * 1000, sampling=sampling())
    service.refused(code.INVALID_ARGUMENT, text, text=PROMPT, sampling=sampling(stop=[STOP * 100]))
    service.refused(code.INVALID_ARGUMENT, text, text=PROMPT, sampling=sampling(temperature=float("nan")))
    service.refused(code.INVALID_ARGUMENT, text, tokens=IDS)
    service.refused(code.INVALID_ARGUMENT, text, text=f"{PROMPT} other", idempotency_key=KEY)
    service.refused(code.INVALID_ARGUMENT, ids, text=PROMPT)
    service.refused(code.RESOURCE_EXHAUSTED, text, text=PROMPT, metadata=(("x-header", HEADER * 1000),))
    service.refused(code.RESOURCE_EXHAUSTED, text, text=PROMPT, metadata=(("x-header", HEADER * 3000),))
    with grpc.insecure_channel(text.address()) as channel:
        method = channel.unary_stream("/hortator.rpc.inference.v1.InferenceService/Generate")
        with pytest.raises(grpc.RpcError):
            list(
                method(b"\xff" + PROMPT.encode(), metadata=(("authorization", f"Bearer {service.api_key}"),))
            )
    call = service.call(text, text=PROMPT, sampling=sampling(max_tokens=2000))
    next(call)
    call.cancel()


def send_nonsense(service) -> None:
    """To the ports of the components, as another component that has lost its mind."""
    with grpc.insecure_channel(service.workers[0].address()) as channel:
        requests = [
            worker_pb2.SubmittedRequest(request_id="bad", mode=mode, prompt_token_ids=ids, dp_rank=rank)
            for mode, ids, rank in (
                (worker_pb2.MODE_AGGREGATED, TOKEN_IDS, 4711),
                (worker_pb2.MODE_DECODE_ONLY, TOKEN_IDS, 0),
                (4711, TOKEN_IDS, 0),
                (worker_pb2.MODE_AGGREGATED, TOKEN_IDS * 10_000, 0),
            )
        ]
        hello = worker_pb2.SubmitRequest(hello=worker_pb2.SubmitHello(gateway_id="mad"), requests=requests)
        call = worker_pb2_grpc.WorkerServiceStub(channel).Submit(iter([hello]), timeout=2)
        with contextlib.suppress(grpc.RpcError):
            list(call)
        submit = channel.stream_stream("/hortator.rpc.worker.v1.WorkerService/Submit")
        with pytest.raises(grpc.RpcError):
            list(submit(iter([b"\xff" + PROMPT.encode()]), timeout=2))
    with grpc.insecure_channel(service.address) as channel:
        events = [
            scheduling_pb2.GatewayEvent(hello=scheduling_pb2.GatewayHello(gateway_id="mad")),
            scheduling_pb2.GatewayEvent(
                announcement=scheduling_pb2.Announcement(request_id="r", num_prompt_tokens=0)
            ),
        ]
        place = scheduling_pb2_grpc.SchedulingServiceStub(channel).Place
        with contextlib.suppress(grpc.RpcError):
            list(place(iter([scheduling_pb2.PlaceRequest(events=events)]), timeout=1))


def die_with_it(service) -> None:
    """A worker with requests that go on at the other, and a gateway with one that has a key."""
    long = {"max_tokens": 3000}
    calls = [
        service.call(service.text, text=PROMPT, sampling=sampling(**long)),
        service.call(service.ids, tokens=IDS, sampling=sampling(stop=[], **long)),
        service.call(service.text, text=f"{PROMPT} again", sampling=sampling(**long)),
    ]
    for call in calls:
        next(call)
    service.workers[1].kill(signal.SIGKILL)
    for call in calls:
        with contextlib.suppress(grpc.RpcError):
            service.read(call)
    orphan = service.call(service.ids, tokens=IDS, sampling=sampling(stop=[], **long), idempotency_key=KEY)
    next(orphan)
    service.ids.kill(signal.SIGKILL)
    with pytest.raises(grpc.RpcError):
        list(orphan)

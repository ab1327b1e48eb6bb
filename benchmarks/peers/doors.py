"""The HTTP doors of an engine group: what routers of other projects expect of a worker.

A door is one more gateway of the worker that hosts the engine: requests enter through the same `WorkerHost`
that gRPC gateways submit to, alone, at once, on the rank that the router named:

    body `data_parallel_rank` (SGLang, smg)  >  header `x-data-parallel-rank` (vLLM)  >  the port's own rank

A request that names none gets the next rank in turn, as SGLang's own controller does. A prompt is text, one
byte a token (or a list of token ids), as the gateway's `bytes` tokenizer has it.

    POST /v1/completions, /v1/chat/completions      one JSON answer, or SSE with `stream`
    GET  /health, /v1/models, /server_info, /model_info
    GET  /v1/loads (SGLang: per rank), /get_load (its former form), /load (vLLM: a number)

At a port that stands for one rank, what routers ask is answered for that rank alone, as if it were an engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from hortator.worker.engine import EngineRequest, RankLoad, RequestMode, Sampling, TokenChunk
from hortator.worker.gate import RequestKey
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.host import WorkerHost
from hortator.worker.submission import Ended, EndReason, Submission, engine_request_id

DEFAULT_MAX_TOKENS = 16
MAX_BODY_BYTES = 4 << 20
SPOKEN_VERSION = "0.5.8"
"""Of SGLang, whose interface this is."""
STREAMED = {"chat.completion": "chat.completion.chunk"}
"""What an object is called when it comes in pieces, where it has another name then."""

_Event = TokenChunk | Ended


class BadRequestError(Exception):
    """A request that cannot be read; the message names the field and what is allowed."""


class HttpDoors:
    """Serves one `WorkerHost` over HTTP. `run` must run while it serves.

    Args:
        host: of the engine.
        ranks_by_port: ports that stand for one DP rank each; requests at other ports name their rank.
    """

    def __init__(self, host: WorkerHost, *, ranks_by_port: Mapping[int, int] | None = None) -> None:
        self._host = host
        self._info = host.info
        self._ranks_by_port = dict(ranks_by_port or {})
        self._link: GatewayLink = host.connect("http")
        self._ids = itertools.count()
        self._turns = itertools.cycle(range(self._info.dp_size))
        self._answers: dict[RequestKey, asyncio.Queue[_Event]] = {}

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/health", _ok)
        app.router.add_get("/health_generate", _ok)
        for path, answer in (
            ("/v1/models", self._models),
            ("/server_info", self._server_info),
            ("/get_server_info", self._server_info),
            ("/model_info", self._model_info),
            ("/get_model_info", self._model_info),
            ("/v1/loads", self._loads),
            ("/get_load", self._load_list),
            ("/load", self._load_number),
        ):
            app.router.add_get(path, self._json(answer))
        return app

    async def run(self) -> None:
        """Hand out what the engine says, until cancelled."""
        try:
            while (outbox := await self._link.take()) is not None:
                for key, chunk in outbox.chunks:
                    self._tell(key, chunk)
                for ended in outbox.ends:
                    self._tell(ended.key, ended)
        finally:
            self._host.disconnect(self._link)

    def _tell(self, key: RequestKey, event: _Event) -> None:
        answer = self._answers.get(key)
        if answer is not None:
            answer.put_nowait(event)

    # --- generation

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _prompt_of, "text_completion", _completion_choice)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, _messages_of, "chat.completion", _chat_choice)

    async def _generate(
        self,
        request: web.Request,
        prompt_of: Callable[[Mapping[str, Any]], Sequence[int]],
        kind: str,
        choice_of: Callable[[str, str | None], Mapping[str, Any]],
    ) -> web.StreamResponse:
        try:
            body = _object(await request.text())
            engine_request = self._engine_request(request, body, prompt_of(body))
        except BadRequestError as error:
            return _error(400, str(error))
        async with self._submitted(engine_request) as events:
            first = await events.get()
            if isinstance(first, Ended):
                return _ended_early(first)
            frame = {"id": engine_request.request_id, "object": kind, "created": int(time.time())}
            frame["model"] = self._info.model_name
            if body.get("stream"):
                frame["object"] = STREAMED.get(kind, kind)
                return await _stream(request, frame, first, events, choice_of)
            text = _text(first)
            while isinstance(event := await events.get(), TokenChunk):
                text += _text(event)
            if event.reason not in _FINISHED:
                return _ended_early(event)
            usage = _usage(engine_request, event)
            choice = choice_of(text, _FINISHED[event.reason])
            return web.json_response(frame | {"choices": [choice], "usage": usage})

    def _engine_request(
        self, request: web.Request, body: Mapping[str, Any], prompt: Sequence[int]
    ) -> EngineRequest:
        max_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
        if not isinstance(max_tokens, int) or max_tokens < 1:
            raise BadRequestError(f"max_tokens: got {max_tokens!r} (allowed: 1 or more)")
        key = (f"http-{next(self._ids)}", 0)
        return EngineRequest(
            request_id=engine_request_id(key),
            dp_rank=self._rank(request, body),
            mode=RequestMode.AGGREGATED,
            prompt_token_ids=prompt,
            sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
        )

    def _rank(self, request: web.Request, body: Mapping[str, Any]) -> int:
        """Where a request goes."""
        named = body.get("data_parallel_rank")
        if named is None:
            named = request.headers.get("x-data-parallel-rank")
        if named is None:
            named = self._rank_of_port(request)
        if named is None:
            return next(self._turns)
        try:
            rank = int(named)
        except (TypeError, ValueError):
            rank = -1
        if not 0 <= rank < self._info.dp_size:
            raise BadRequestError(
                f"data_parallel_rank: got {named!r} (allowed: 0 to {self._info.dp_size - 1})"
            )
        return rank

    def _rank_of_port(self, request: web.Request) -> int | None:
        if request.transport is None:
            return None
        return self._ranks_by_port.get(request.transport.get_extra_info("sockname")[1])

    @asynccontextmanager
    async def _submitted(self, engine_request: EngineRequest) -> AsyncIterator[asyncio.Queue[_Event]]:
        """What happens to a request, up to and with its end; leaving the block before aborts it."""
        key = (engine_request.request_id.rpartition("#")[0], 0)
        answer = self._answers[key] = asyncio.Queue()
        self._host.submit(
            self._link,
            Submission(
                key=key, epoch=0, batch_id="", batch_size=1, dispatch_seq=0, engine_request=engine_request
            ),
        )
        try:
            yield answer
        finally:
            del self._answers[key]
            self._host.abort(key)  # a no-op once it has ended

    # --- what routers ask

    def _json(
        self, answer: Callable[[Sequence[RankLoad]], Any]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A handler whose answer is made of the loads of the ranks that a port stands for."""

        async def handle(request: web.Request) -> web.Response:
            loads = self._host.load_snapshot().ranks
            rank = self._rank_of_port(request)
            return web.json_response(answer(loads if rank is None else loads[rank : rank + 1]))

        return handle

    def _models(self, _loads: Sequence[RankLoad]) -> Any:
        info = self._info
        model = {"id": info.model_name, "object": "model", "owned_by": "hortator", "created": 0}
        details = {"root": info.model_name, "max_model_len": info.max_sequence_tokens}
        return {"object": "list", "data": [model | details]}

    def _server_info(self, loads: Sequence[RankLoad]) -> Any:
        info = self._info
        return {
            "model_path": info.model_name,
            "served_model_name": info.model_name,
            "tokenizer_path": "",
            "dp_size": len(loads),
            "tp_size": len(loads),
            "load_balance_method": "round_robin",
            "max_running_requests": len(loads) * info.max_batch_size,
            "max_total_num_tokens": info.kv_blocks_total * info.tokens_per_block,
            "chunked_prefill_size": info.chunk_budget_tokens,
            "context_length": info.max_sequence_tokens,
            "version": SPOKEN_VERSION,
        }

    def _model_info(self, _loads: Sequence[RankLoad]) -> Any:
        return {
            "model_path": self._info.model_name,
            "served_model_name": self._info.model_name,
            "is_generation": True,
            "max_context_length": self._info.max_sequence_tokens,
            "vocab_size": self._info.vocab_size,
        }

    def _loads(self, loads: Sequence[RankLoad]) -> Any:
        """Every rank as SGLang describes it; waiting tokens are those that are not computed yet."""
        info = self._info
        kv_tokens = info.kv_blocks_total * info.tokens_per_block
        return {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": SPOKEN_VERSION,
            "dp_rank_count": len(loads),
            "loads": [
                {
                    "dp_rank": index,
                    "num_running_reqs": load.batch_size,
                    "num_waiting_reqs": load.num_waiting,
                    "num_waiting_uncached_tokens": load.prefill_load_tokens,
                    "num_total_reqs": load.batch_size + load.num_waiting,
                    "num_used_tokens": load.kv_blocks_used * info.tokens_per_block,
                    "max_total_num_tokens": kv_tokens,
                    "token_usage": load.kv_blocks_used / info.kv_blocks_total,
                    "gen_throughput": 0.0,
                    "cache_hit_rate": 0.0,
                    "utilization": load.batch_size / info.max_batch_size,
                    "max_running_requests": info.max_batch_size,
                }
                for index, load in enumerate(loads)
            ],
            "aggregate": {
                "total_running_reqs": sum(load.batch_size for load in loads),
                "total_waiting_reqs": sum(load.num_waiting for load in loads),
                "total_reqs": sum(map(_num_requests, loads)),
            },
        }

    def _load_list(self, loads: Sequence[RankLoad]) -> Any:
        return [
            {
                "dp_rank": index,
                "num_reqs": _num_requests(load),
                "num_waiting_reqs": load.num_waiting,
                "num_tokens": load.prefill_load_tokens,
            }
            for index, load in enumerate(loads)
        ]

    def _load_number(self, loads: Sequence[RankLoad]) -> Any:
        return {"server_load": sum(map(_num_requests, loads))}


_FINISHED: Mapping[EndReason, str] = {EndReason.STOP: "stop", EndReason.LENGTH: "length"}


async def _ok(_request: web.Request) -> web.Response:
    return web.Response()


def _num_requests(load: RankLoad) -> int:
    return load.batch_size + load.num_waiting


def _object(text: str) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise BadRequestError(f"body: not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequestError("body: must be a JSON object")
    return body


def _prompt_of(body: Mapping[str, Any]) -> Sequence[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt.encode()
    if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
        return prompt
    raise BadRequestError("prompt: missing or of another kind (allowed: a string, a list of token ids)")


def _messages_of(body: Mapping[str, Any]) -> Sequence[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages: missing or empty (allowed: a list of role and content)")
    contents = [message.get("content") if isinstance(message, dict) else None for message in messages]
    if not all(isinstance(content, str) for content in contents):
        raise BadRequestError("messages: a content that is no text (allowed: strings)")
    return "".join(map(str, contents)).encode()


def _completion_choice(text: str, finish_reason: str | None) -> Mapping[str, Any]:
    return {"index": 0, "text": text, "finish_reason": finish_reason}


def _chat_choice(text: str, finish_reason: str | None) -> Mapping[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"index": 0, "message": message, "delta": message, "finish_reason": finish_reason}


def _text(chunk: TokenChunk) -> str:
    return bytes(token % 128 for token in chunk.token_ids).decode()


def _usage(request: EngineRequest, ended: Ended) -> Mapping[str, int]:
    num_prompt = len(request.prompt_token_ids)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": ended.num_output_tokens,
        "total_tokens": num_prompt + ended.num_output_tokens,
    }


async def _stream(
    request: web.Request,
    frame: Mapping[str, Any],
    first: TokenChunk,
    rest: asyncio.Queue[_Event],
    choice_of: Callable[[str, str | None], Mapping[str, Any]],
) -> web.StreamResponse:
    """One SSE event per chunk of tokens, one with the finish reason, and the mark of the end."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)

    async def send(text: str, finish_reason: str | None) -> None:
        data = json.dumps({**frame, "choices": [choice_of(text, finish_reason)]})
        await response.write(f"data: {data}\n\n".encode())

    await send(_text(first), None)
    while isinstance(event := await rest.get(), TokenChunk):
        await send(_text(event), None)
    await send("", _FINISHED.get(event.reason, "abort"))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _ended_early(ended: Ended) -> web.Response:
    """It was not finished: what was wrong with the request, or with the engine."""
    if ended.reason is EndReason.REFUSED and ended.field:
        return _error(400, f"{ended.field}: {ended.message}")
    return _error(503, ended.message or "the engine ended it")


def _error(status: int, message: str) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "service_unavailable"
    return web.json_response({"error": {"message": message, "type": kind, "code": status}}, status=status)

"""The HTTP door of an engine: what routers of other projects expect of a worker.

A request goes to the rank that the router named:

    body `data_parallel_rank` (SGLang, smg)  >  header `x-data-parallel-rank` (vLLM)  >  the port's own rank

and one that names none to the next in turn. A prompt is text, one byte a token (or a list of token ids), as
the gateway's `bytes` tokenizer has it.

    POST /v1/completions, /v1/chat/completions      one JSON answer, or SSE with `stream`
    GET  /health, /v1/models, /server_info, /model_info
    GET  /v1/loads (SGLang: per rank), /get_load (its former form), /load (vLLM: a number)

At a port that stands for one rank, what routers ask is answered for that rank alone, as if it were an engine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from hortator.worker.engine import RankLoad, TokenChunk
from hortator.worker.submission import Ended, EndReason
from peers import described
from peers.entry import BadRequestError, EngineEntry, Event

DEFAULT_MAX_TOKENS = 16
MAX_BODY_BYTES = 4 << 20
STREAMED = {"chat.completion": "chat.completion.chunk"}
"""What an object is called when it comes in pieces, where it has another name then."""


class HttpDoor:
    """Serves one engine over HTTP.

    Args:
        entry: the way into it.
        ranks_by_port: ports that stand for one DP rank each; requests at other ports name their rank.
    """

    def __init__(self, entry: EngineEntry, *, ranks_by_port: Mapping[int, int] | None = None) -> None:
        self._entry = entry
        self._info = entry.info
        self._ranks_by_port = dict(ranks_by_port or {})

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/health", _ok)
        app.router.add_get("/health_generate", _ok)
        info = self._info
        for path, answer in (
            ("/v1/models", lambda _ranks: described.models(info)),
            ("/server_info", lambda ranks: described.server_info(info, num_ranks=len(ranks))),
            ("/model_info", lambda _ranks: described.model_info(info)),
            ("/v1/loads", lambda ranks: described.loads(info, ranks)),
            ("/get_load", described.load_list),
            ("/load", lambda ranks: {"server_load": described.num_requests(ranks)}),
        ):
            app.router.add_get(path, self._json(answer))
        return app

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
            prompt, max_tokens = prompt_of(body), _max_tokens(body)
            rank = self._rank(request, body)
        except BadRequestError as error:
            return _error(400, str(error))
        async with self._entry.submitted(prompt, dp_rank=rank, max_tokens=max_tokens) as events:
            first = await events.get()
            if isinstance(first, Ended):
                return _ended_early(first)
            frame = {"id": first.request_id, "object": kind, "created": int(time.time())}
            frame["model"] = self._info.model_name
            if body.get("stream"):
                frame["object"] = STREAMED.get(kind, kind)
                return await _stream(request, frame, first, events, choice_of)
            text = _text(first)
            while isinstance(event := await events.get(), TokenChunk):
                text += _text(event)
            if event.reason not in FINISHED:
                return _ended_early(event)
            usage = _usage(len(prompt), event)
            choice = choice_of(text, FINISHED[event.reason])
            return web.json_response(frame | {"choices": [choice], "usage": usage})

    def _rank(self, request: web.Request, body: Mapping[str, Any]) -> int:
        """Where a request goes."""
        named = body.get("data_parallel_rank")
        if named is None:
            named = request.headers.get("x-data-parallel-rank")
        if named is None:
            named = self._rank_of_port(request)
        return self._entry.rank(named)

    def _rank_of_port(self, request: web.Request) -> int | None:
        if request.transport is None:
            return None
        return self._ranks_by_port.get(request.transport.get_extra_info("sockname")[1])

    def _json(
        self, answer: Callable[[Sequence[RankLoad]], Any]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A handler whose answer is made of the loads of the ranks that a port stands for."""

        async def handle(request: web.Request) -> web.Response:
            loads = self._entry.loads()
            rank = self._rank_of_port(request)
            return web.json_response(answer(loads if rank is None else loads[rank : rank + 1]))

        return handle


FINISHED: Mapping[EndReason, str] = {EndReason.STOP: "stop", EndReason.LENGTH: "length"}


async def _ok(_request: web.Request) -> web.Response:
    return web.Response()


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


def _max_tokens(body: Mapping[str, Any]) -> int:
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_MAX_TOKENS
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise BadRequestError(f"max_tokens: got {max_tokens!r} (allowed: 1 or more)")
    return max_tokens


def _usage(num_prompt: int, ended: Ended) -> Mapping[str, int]:
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": ended.num_output_tokens,
        "total_tokens": num_prompt + ended.num_output_tokens,
    }


async def _stream(
    request: web.Request,
    frame: Mapping[str, Any],
    first: TokenChunk,
    rest: asyncio.Queue[Event],
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
    await send("", FINISHED.get(event.reason, "abort"))
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

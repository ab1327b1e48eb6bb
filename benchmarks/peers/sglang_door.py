"""The SGLang gRPC door of an engine: what smg speaks to workers given as `grpc://host:port`.

The protocol is the one of the package smg-grpc-proto. Requests come as token ids. A missing rank is rank 0:
the field has presence in the package's protocol, but smg 1.13 leaves it out for rank 0.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from smg_grpc_proto import sglang_scheduler_pb2 as pb
from smg_grpc_proto import sglang_scheduler_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

from hortator.worker.engine import TokenChunk
from hortator.worker.submission import Ended, EndReason
from peers import described
from peers.byte_tokenizer import byte_tokenizer_zip
from peers.entry import BadRequestError, EngineEntry

SERVICE_NAME = "sglang.grpc.scheduler.SglangScheduler"
DEFAULT_MAX_TOKENS = 16

_Context = grpc.aio.ServicerContext[Any, Any]


class SglangDoor:
    """A servicer of `SglangScheduler`: the calls that a router makes; all others are UNIMPLEMENTED.

    Args:
        entry: the way into the engine.
    """

    def __init__(self, entry: EngineEntry) -> None:
        self._entry = entry
        self._started_at = time.monotonic()

    def register(self, server: grpc.aio.Server) -> None:
        """Serve this on a server."""
        base: type = pb_grpc.SglangSchedulerServicer
        servicer = type("Servicer", (_Calls, base), {"door": self, "entry": self._entry})
        pb_grpc.add_SglangSchedulerServicer_to_server(servicer(), server)

    @property
    def uptime_s(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._started_at


class _Calls:
    """The calls; names are the protocol's."""

    door: SglangDoor
    entry: EngineEntry

    async def Generate(self, request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: N802
        """Tokens as they come with `stream`, and what it comes to at the end."""
        prompt = list(request.tokenized.input_ids)
        sampling = request.sampling_params
        max_tokens = sampling.max_new_tokens if sampling.HasField("max_new_tokens") else DEFAULT_MAX_TOKENS
        try:
            rank = self.entry.rank(request.data_parallel_rank)
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        tokens: list[int] = []
        async with self.entry.submitted(prompt, dp_rank=rank, max_tokens=max_tokens) as events:
            while isinstance(event := await events.get(), TokenChunk):
                tokens += event.token_ids
                if request.stream:
                    chunk = pb.GenerateStreamChunk(
                        token_ids=event.token_ids, prompt_tokens=len(prompt), completion_tokens=len(tokens)
                    )
                    yield pb.GenerateResponse(request_id=request.request_id, chunk=chunk)
        if event.reason not in _FINISHED:
            await context.abort(_status(event), f"{event.field}: {event.message}".removeprefix(": "))
        complete = pb.GenerateComplete(
            output_ids=tokens,
            finish_reason=_FINISHED[event.reason],
            prompt_tokens=len(prompt),
            completion_tokens=len(tokens),
        )
        yield pb.GenerateResponse(request_id=request.request_id, complete=complete)

    async def HealthCheck(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802
        """An engine that serves is healthy."""
        return pb.HealthCheckResponse(healthy=True, message="ok")

    async def GetModelInfo(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802
        """What is served."""
        return pb.GetModelInfoResponse(**described.model_info(self.entry.info))

    async def GetServerInfo(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802
        """How it was started: smg reads `dp_size` of it."""
        info = described.server_info(self.entry.info, num_ranks=self.entry.info.dp_size)
        response = pb.GetServerInfoResponse(
            sglang_version=described.SPOKEN_VERSION,
            server_type="grpc",
            uptime_seconds=self.door.uptime_s,
            max_total_num_tokens=info["max_total_num_tokens"],
        )
        response.server_args.update(info)
        return response

    async def GetTokenizer(self, request: Any, context: _Context) -> AsyncIterator[Any]:  # noqa: ARG002, N802
        """The tokenizer of one token a byte, packed: smg makes its own of it."""
        packed = byte_tokenizer_zip()
        chunk = common_pb2.GetTokenizerChunk
        yield chunk(data=packed)
        yield chunk(sha256=hashlib.sha256(packed).hexdigest())

    async def GetLoads(self, request: Any, context: _Context) -> Any:  # noqa: ARG002, N802
        """Load of every rank, or of the one that is asked for."""
        ranks = self.entry.loads()
        found = described.loads(self.entry.info, ranks)
        if request.HasField("dp_rank"):
            found["loads"] = [load for load in found["loads"] if load["dp_rank"] == request.dp_rank]
        return pb.GetLoadsResponse(**found)


_FINISHED = {EndReason.STOP: "stop", EndReason.LENGTH: "length"}


def _status(ended: Ended) -> grpc.StatusCode:
    is_refused = ended.reason is EndReason.REFUSED and ended.field
    return grpc.StatusCode.INVALID_ARGUMENT if is_refused else grpc.StatusCode.UNAVAILABLE

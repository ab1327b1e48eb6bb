"""The tokenizer of the served model, from whichever worker has it.

Theory of operation:

- A gateway has no weights and no volume, so nothing beside them either. Workers do: any scheduler says where
  they are, and one of them sends the files. They have one digest, by which what is known is not sent again.
- Until then requests with text are refused for a moment, and those with token ids are taken. A gateway is
  not ready while workers are there that it has not yet asked; without workers it is, as nobody else could
  take text either.
- It goes on asking now and then, and takes what is new: a service may move to a model with another tokenizer.
  While it does, some groups read one and some the other, and a gateway has one: what it reads goes to groups
  that have the same. When none is left it asks at once (`look_again`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from contextlib import suppress

import grpc
import grpc.aio
import structlog

from hortator.gateway.chat import Chat
from hortator.gateway.errors import TokenizerError
from hortator.gateway.model_chat import model_chat_template
from hortator.gateway.tokenization import JsonTokenizer, Tokenizer
from hortator.rpc.scheduling.v1 import scheduling_pb2, scheduling_pb2_grpc
from hortator.rpc.worker.v1 import worker_pb2, worker_pb2_grpc
from hortator.runtime.endpoints import Endpoints
from hortator.runtime.tokenizer_files import MAX_BYTES, NAMES, TOKENIZER, digest_of, ids_digest
from hortator.runtime.transport import Transport

RETRY_S = 1.0
REFRESH_S = 30.0
ASK_TIMEOUT_S = 3.0
PULL_TIMEOUT_S = 60.0
MAX_ASKED = 3
"""Workers that are asked in one round."""
_HAS_NONE = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED})
"""What a worker says that will not have one later either; the latter is one of an earlier version."""


class TokenizerSource:
    """Looks for the tokenizer until cancelled."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        transport: Transport,
        on_found: Callable[[Tokenizer, Chat | None, bytes], None],
        retry_s: float = RETRY_S,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """Nothing happens before `run`.

        Args:
            endpoints: of every scheduler.
            transport: how to connect.
            on_found: called in the event loop with each tokenizer that is new, the model's chat template, and
                the digest by which workers say that they have the same tokenizer.
            retry_s: pause while there is none.
            refresh_s: pause once there is one, or it is known that there is none.
        """
        self._endpoints = endpoints
        self._transport = transport
        self._on_found = on_found
        self._retry_s = retry_s
        self._refresh_s = refresh_s
        self._digest = b""
        self._again = asyncio.Event()
        self._log = structlog.get_logger("hortator.gateway.client.tokenizer_source")
        self.pending: str = "no scheduler has said where workers are"
        """Why there is none though one may still come; empty: it is here, or the workers have none."""
        self.is_settled = False
        """Workers were asked, or none are there."""

    async def run(self) -> None:
        """Ask, and ask again."""
        while True:
            try:
                await self._look()
            except Exception:  # noqa: BLE001  # whatever a stranger's tokenizer or template does
                self._log.exception("no tokenizer")
                self.is_settled = True
            self._again.clear()
            await asyncio.sleep(self._retry_s)
            if not self.pending:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), self._refresh_s - self._retry_s)

    def look_again(self) -> None:
        """What it has may be out of date."""
        self._again.set()

    async def _look(self) -> None:
        addresses = await self._workers()
        if addresses is None:
            return
        if not addresses:
            if not self._digest:
                self.pending = "no worker is there yet"
            self.is_settled = True
            return
        asked = random.sample(addresses, min(MAX_ASKED, len(addresses)))
        for address in asked:
            if await self._pull(address):
                break
        self.is_settled = True

    async def _workers(self) -> Sequence[str] | None:
        """Addresses; None: no scheduler says."""
        for endpoint in self._endpoints.current:
            try:
                async with self._transport.open_channel(endpoint, "scheduler") as channel:
                    stub = scheduling_pb2_grpc.SchedulingServiceStub(channel)
                    answer = await stub.Workers(scheduling_pb2.WorkersRequest(), timeout=ASK_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                self._log.debug("no answer about workers", address=endpoint, error=error.details())
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    self.pending, self.is_settled = "the scheduler is too old to say where workers are", True
                continue
            return list(answer.addresses)
        return None

    async def _pull(self, address: str) -> bool:
        """Ask a worker; whether there is no need to ask another."""
        request = worker_pb2.PullTokenizerRequest(known_digest=self._digest)
        try:
            async with self._transport.open_channel(address, "worker") as channel:
                stub = worker_pb2_grpc.WorkerServiceStub(channel)
                files = await _joined(stub.PullTokenizer(request, timeout=PULL_TIMEOUT_S))
            if files or not self._digest:
                await self._take(files)
        except grpc.aio.AioRpcError as error:
            self._note(f"{address}: {error.details()}", is_final=error.code() in _HAS_NONE)
            return False
        except TokenizerError as error:
            self._note(f"{address}: {error}", is_final=True)
            return False
        return True

    async def _take(self, files: Mapping[str, bytes]) -> None:
        tokenizer, chat, self._digest, digest = await asyncio.to_thread(_parsed, files)
        self.pending = ""
        self._log.info(
            "tokenizer",
            digest=self._digest.hex()[:12],
            vocab_size=tokenizer.vocab_size,
            has_chat_template=chat is not None,
        )
        self._on_found(tokenizer, chat, digest)

    def _note(self, why: str, *, is_final: bool) -> None:
        if self._digest:
            return  # it goes on with what it has
        pending = "" if is_final else why
        if pending != self.pending or is_final:
            self._log.warning("no tokenizer", why=why)
        self.pending = pending


def _parsed(files: Mapping[str, bytes]) -> tuple[Tokenizer, Chat | None, bytes, bytes]:
    """What files are, their digest, and that of their ids: megabytes, so not on the loop of all streams."""
    content = files.get(TOKENIZER)
    if content is None:
        raise TokenizerError(f"no {TOKENIZER} was sent")
    tokenizer = JsonTokenizer(content, f"the worker's {TOKENIZER}")
    return tokenizer, model_chat_template(files), digest_of(files), ids_digest(content)


async def _joined(responses: AsyncIterable[worker_pb2.PullTokenizerResponse]) -> dict[str, bytes]:
    """The files that came in pieces; those with other names are left out."""
    files: dict[str, bytearray] = {}
    num_bytes = 0
    async for response in responses:
        num_bytes += len(response.chunk)
        if num_bytes > MAX_BYTES:
            raise TokenizerError(f"it has more than {MAX_BYTES} bytes")
        if response.file in NAMES:
            files.setdefault(response.file, bytearray()).extend(response.chunk)
    return {name: bytes(content) for name, content in files.items()}

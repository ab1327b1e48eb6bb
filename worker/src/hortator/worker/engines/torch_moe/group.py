"""The rank processes of one EP group: bring them up, talk to them, notice at once when one is gone.

One rank gone means the group is gone: the others would wait for it in their next collective. So the first
sign of trouble (a process ends, a rank reports a failure, a stream breaks, an answer is overdue) fails every
call in progress and every later one with EngineDeadError, and `aclose` ends what still lives.
Processes are started in sessions of their own, so a terminal's Ctrl-C reaches the worker only; they die with
the worker by the kernel's parent-death signal and by the end of their stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hortator.worker.engine import EngineDeadError
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.plan import (
    JoinGroup,
    PassPlan,
    PassResult,
    RankFailed,
    RankSetup,
    ReadKv,
)
from hortator.worker.engines.torch_moe.wire import encode, read_frame

_RANK_MODULE = "hortator.worker.engines.torch_moe.rank_process"
_OnFailure = Callable[[EngineDeadError], None]
_STOP_GRACE_S = 2.0
_ANSWER_GRACE_S = 2.0


class RankGroup:
    """D rank processes. `run_pass` is the one way to make them compute."""

    def __init__(self, config: TorchMoEConfig) -> None:
        self._config = config
        self._links: list[_RankLink] = []
        self._failure: asyncio.Future[EngineDeadError] | None = None
        self._folder: Path | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids by DP rank."""
        return tuple(link.process.pid for link in self._links)

    async def start(self) -> None:
        """Start all ranks and wait until they met. Raises EngineDeadError; then nothing is left running."""
        for library in ("torch", "safetensors"):
            if importlib.util.find_spec(library) is None:
                raise EngineDeadError(
                    f"{library} is missing; install the extra `cpu`: pip install 'hortator[cpu]'"
                )
        self._failure = asyncio.get_running_loop().create_future()
        self._folder = Path(tempfile.mkdtemp(prefix="hortator-ranks-"))
        try:
            for dp_rank in range(self._config.dp_size):
                self._links.append(await _RankLink.open(dp_rank, self._fail))
            setups = [self._setup(link.dp_rank) for link in self._links]
            await self._call_all(setups, self._config.start_timeout_s)
            joins = [JoinGroup() for _ in self._links]
            await self._call_all(joins, self._config.collective_timeout_s + _ANSWER_GRACE_S)
        except BaseException:
            await self.aclose()
            raise
        shutil.rmtree(self._folder, ignore_errors=True)

    def _setup(self, dp_rank: int) -> RankSetup:
        config = self._config
        return RankSetup(
            dp_rank=dp_rank,
            dp_size=config.dp_size,
            parent_pid=os.getpid(),
            weights_path=str(config.weights_path),
            store_path=f"{self._folder}/store",
            kv_blocks=config.kv_blocks,
            tokens_per_block=config.tokens_per_block,
            collective_timeout_s=config.collective_timeout_s,
        )

    async def run_pass(self, plans: Sequence[PassPlan]) -> list[PassResult]:
        """Run one forward pass on all ranks; `plans` and results are in rank order."""
        answers = await self._call_all(plans, self._config.collective_timeout_s + _ANSWER_GRACE_S)
        return [answer for answer in answers if isinstance(answer, PassResult)]

    async def read_kv(self, dp_rank: int, request: ReadKv) -> bytes:
        """KV of some blocks of one rank, between passes."""
        answer = await self._links[dp_rank].call(request, self._config.collective_timeout_s + _ANSWER_GRACE_S)
        if not isinstance(answer, bytes):
            raise TypeError(f"a rank answered {type(answer).__name__} for KV")
        return answer

    async def failed(self) -> EngineDeadError:
        """Wait until the group fails."""
        if self._failure is None:
            raise RuntimeError("the group was not started")
        return await asyncio.shield(self._failure)

    async def _call_all(self, messages: Sequence[object], timeout_s: float) -> list[object]:
        pairs = zip(self._links, messages, strict=True)
        return await asyncio.gather(*(link.call(message, timeout_s) for link, message in pairs))

    def _fail(self, error: EngineDeadError) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(error)
        for link in self._links:
            link.fail(error)

    async def aclose(self) -> None:
        """End all rank processes: they leave when their stream ends, or are killed after a grace period."""
        self._fail(EngineDeadError("the engine is closed"))
        links, self._links = self._links, []
        await asyncio.gather(*(link.aclose() for link in links))
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _RankLink:
    """One rank process and the stream to it. Calls may overlap; the rank answers in order."""

    def __init__(
        self,
        dp_rank: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_failure: _OnFailure,
    ) -> None:
        self.dp_rank = dp_rank
        self.process = process
        self._reader = reader
        self._writer = writer
        self._on_failure = on_failure
        self._calls: dict[int, asyncio.Future[object]] = {}
        self._num_calls = 0
        self._error: EngineDeadError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, dp_rank: int, on_failure: _OnFailure) -> _RankLink:
        """Start the process of a rank; what goes wrong later is told to `on_failure`."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", _RANK_MODULE, str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env=_rank_environment(),
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        link = cls(dp_rank, process, reader, writer, on_failure)
        link._tasks = [
            asyncio.create_task(link._read()),
            asyncio.create_task(link._watch()),
        ]
        return link

    async def call(self, message: object, timeout_s: float) -> object:
        """Send a message and wait for its answer. Raises EngineDeadError when the group failed."""
        if self._error is not None:
            raise self._error
        self._num_calls += 1
        number = self._num_calls
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(encode(number, message))
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            error = EngineDeadError(f"DP rank {self.dp_rank} did not answer within {timeout_s:g} s")
            self._on_failure(error)
            raise error from None
        finally:
            self._calls.pop(number, None)

    def fail(self, error: EngineDeadError) -> None:
        """Make calls in progress and later ones raise."""
        self._error = self._error or error
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(self._error)

    async def _read(self) -> None:
        """Hand answers to their calls until the stream ends; `_watch` says why it ended."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                number, message = await read_frame(self._reader)
                if isinstance(message, RankFailed):
                    self._on_failure(EngineDeadError(f"DP rank {self.dp_rank} failed: {message.message}"))
                elif (answer := self._calls.get(number)) is not None and not answer.done():
                    answer.set_result(message)

    async def _watch(self) -> None:
        code = await self.process.wait()
        await self._tasks[0]  # a rank that failed says why before it ends
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._on_failure(EngineDeadError(f"the process of DP rank {self.dp_rank} {how}"))

    async def aclose(self) -> None:
        """End the process. Returns when it is gone."""
        self._writer.close()
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _rank_environment() -> dict[str, str]:
    """One thread per rank, loopback only, no chatter from C++.

    glibc keeps freed memory, instead of asking the kernel for the same pages in every pass.
    """
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    }

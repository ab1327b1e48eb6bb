"""Entry point of a rank process: `python -m hortator.worker.engines.torch_moe.rank_process FD`.

FD is the rank's end of a socket pair. The first message is the RankSetup; then each message is answered in
order. The process ends when the stream ends, when its parent dies, or after reporting a failure.
torch is imported only after the parent-death signal is armed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING

from hortator.runtime.parent_death import signal_at_parent_death
from hortator.worker.engines.torch_moe.plan import (
    JoinGroup,
    PassPlan,
    RankFailed,
    RankReady,
    RankSetup,
    ReadKv,
)
from hortator.worker.engines.torch_moe.wire import encode, receive

if TYPE_CHECKING:
    from hortator.worker.engines.torch_moe.rank import Rank


def serve(connection: socket.socket) -> None:
    """Answer messages until the stream ends. Raises OSError when the parent is gone in between."""
    rank: Rank | None = None
    while (frame := receive(connection)) is not None:
        number, message = frame
        try:
            if isinstance(message, RankSetup):
                rank = _come_up(message)
            answer = _answer(rank, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the group must know
            connection.sendall(encode(number, RankFailed(message=_describe(error))))
            return
        connection.sendall(encode(number, answer))


def _come_up(setup: RankSetup) -> Rank:
    if os.getppid() != setup.parent_pid:
        raise RuntimeError("the parent is gone")
    from hortator.worker.engines.torch_moe.rank import Rank  # noqa: PLC0415 - the heavy import

    return Rank(setup)


def _answer(rank: Rank | None, message: object) -> object:
    if rank is None:
        raise RuntimeError("the first message must be the setup")
    match message:
        case RankSetup():
            return RankReady()
        case JoinGroup():
            rank.join()
            return RankReady()
        case PassPlan():
            return rank.run_pass(message)
        case ReadKv():
            return rank.read_kv(message)
        case _:
            raise TypeError(f"unknown message {type(message).__name__}")


def _describe(error: Exception) -> str:
    """The error and where it came from, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}:{frame.lineno})"  # noqa: PTH119


def main() -> None:
    """Arm the parent-death signal, serve, and leave without waiting for anybody."""
    signal_at_parent_death(signal.SIGKILL)
    with socket.socket(fileno=int(sys.argv[1])) as connection, contextlib.suppress(OSError):
        serve(connection)
    sys.stderr.flush()
    os._exit(0)  # not through torch's teardown, which would wait for peers


if __name__ == "__main__":
    main()

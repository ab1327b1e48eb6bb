"""The processes that simulate end with the command that started them, however it ends."""

import asyncio
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from hortator.cli.study_pool import run_all

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "benchmarks/sim/clusters/prefill-4xEP16.yaml"


def marked(mark):
    """Processes with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_comparison_that_is_ended_leaves_no_process(tmp_path, number, code):
    mark = f"THIS_TEST={tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-m", "hortator.cli.main", "simulate", "-f", str(CLUSTER), "--prefill-only", "--minutes", "5",
         "--policy", "staggered,immediate-least-tokens"],
        env=os.environ | dict([mark.split("=")]),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_until(lambda: len(marked(mark)) >= 3, "processes that simulate")
        process.send_signal(number)
        assert process.wait(90) == code
        wait_until(lambda: not marked(mark), "the end of the processes that simulate")
        if number == signal.SIGINT:
            assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("seconds_before_the_end", [0.0, 0.05, 0.3, 1.0])
async def test_what_is_cancelled_breaks_nothing_whenever_the_pool_finds_its_processes_dead(
    monkeypatch, seconds_before_the_end
):
    """Its thread dies over a cancelled task, so none may be."""
    broken = []
    monkeypatch.setattr(threading, "excepthook", lambda of: broken.append(of.exc_value))
    told = ProcessPoolExecutor.shutdown

    def late(pool, *args, **options):
        time.sleep(seconds_before_the_end)
        told(pool, *args, **options)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", late)
    # More than there are processes, so that some have not begun: they sleep half a minute each.
    naps = [30.0 + number for number in range(9)]
    running = asyncio.create_task(run_all(operator.call, time.sleep, naps, on_done=lambda: None))
    async with asyncio.timeout(30):
        while not multiprocessing.active_children():
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert broken == []
    assert multiprocessing.active_children() == []

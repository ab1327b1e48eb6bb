"""Real processes and real signals: that is what the module is about."""

import signal
import subprocess
import sys
import textwrap

import pytest

from hortator.runtime import lifecycle

PRELUDE = """
import asyncio, os, sys
from hortator.runtime import lifecycle
from hortator.runtime.logs import configure_logging
configure_logging(component="demo")
"""


@pytest.fixture
def start():
    running = []

    def _start(body):
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield _start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


GRACEFUL = """
async def main(drain):
    print("up", flush=True)
    await drain.wait()
    print("draining for", drain.reason, flush=True)

sys.exit(lifecycle.run_process(main))
"""

STUBBORN = """
async def main(drain):
    print("up", flush=True)
    await drain.wait()
    print("draining", flush=True)
    await asyncio.sleep(3600)

sys.exit(lifecycle.run_process(main, drain_timeout_s={timeout_s}))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_exits_zero(start, number):
    process = start(GRACEFUL)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert out == f"draining for {signal.Signals(number).name}\n"
    assert process.returncode == 0


def test_the_second_signal_forces_with_its_exit_code(start):
    process = start(STUBBORN.format(timeout_s=3600))
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT


def test_the_first_signal_does_not_force_a_drain_that_was_asked_for_otherwise(start):
    process = start("""
    async def main(drain):
        drain.request("another member of the group")
        print("draining for", drain.reason, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("drained", flush=True)

    sys.exit(lifecycle.run_process(main))
    """)
    assert process.stdout.readline() == "draining for another member of the group\n"
    process.send_signal(signal.SIGTERM)
    assert '"drain requested"' in process.stderr.readline()
    out, _ = process.communicate("go on\n", timeout=20)
    assert out == "drained\n"
    assert process.returncode == 0


def test_a_drain_that_takes_too_long_is_forced(start):
    process = start(STUBBORN.format(timeout_s=0.05))
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == lifecycle.EXIT_DRAIN_TIMED_OUT


def test_a_main_that_swallows_cancellation_is_left_behind(start):
    process = start("""
    lifecycle.FORCE_GRACE_S = 0.1

    async def main(drain):
        print("up", flush=True)
        await drain.wait()
        print("draining", flush=True)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    sys.exit(lifecycle.run_process(main))
    """)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_the_value_of_main_is_the_exit_code(start):
    process = start("""
    async def main(drain):
        return 7

    sys.exit(lifecycle.run_process(main))
    """)
    process.communicate(timeout=20)
    assert process.returncode == 7


def test_a_main_that_raises_exits_one_and_logs_the_traceback(start):
    process = start("""
    async def main(drain):
        raise LookupError("no such thing")

    sys.exit(lifecycle.run_process(main))
    """)
    _, err = process.communicate(timeout=20)
    assert process.returncode == lifecycle.EXIT_FAILED
    assert "LookupError: no such thing" in err


def test_a_child_drains_when_its_parent_is_killed(start):
    parent = start("""
    import subprocess
    child = '''
    import asyncio, os, sys
    from hortator.runtime import lifecycle
    async def main(drain):
        print(os.getpid(), flush=True)
        await drain.wait()
        print(drain.reason, flush=True)
    sys.exit(lifecycle.run_process(main, parent_pid=%d))
    ''' % os.getpid()
    import textwrap
    subprocess.Popen([sys.executable, "-c", textwrap.dedent(child)]).wait()
    """)
    parent.stdout.readline()
    parent.kill()
    # The child holds the other end of the pipe: reading to the end means that it is gone.
    assert parent.stdout.read().endswith("parent died\n")


async def test_only_the_first_reason_of_a_drain_counts():
    drain = lifecycle.Drain()
    assert not drain.is_requested
    drain.request("SIGTERM")
    drain.request("SIGINT")
    await drain.wait()
    assert drain.reason == "SIGTERM"

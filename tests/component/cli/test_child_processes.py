"""Children of `hortator up`, with small programs in their place."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hortator.cli.errors import CommandError
from hortator.cli.processes import Child, ProcessSpec, readable_log_line

READY = 'print(\'{"event": "ready", "address": "127.0.0.1:5", "admin_port": 6}\', flush=True)\n'
WAIT = "import time\ntime.sleep(60)\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make a module that a child can run."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(source, *, changes=None, stop_timeout_s=5.0):
        (tmp_path / "child_program.py").write_text(source)
        spec = ProcessSpec(
            name="child", module="child_program", settings=lambda: {"key": 1}, stop_timeout_s=stop_timeout_s
        )
        return Child(spec=spec, folder=tmp_path, on_change=(changes if changes is not None else []).append)

    return make


async def test_a_child_is_ready_when_it_says_so_and_its_output_is_logged(program):
    child = program("print('hello', flush=True)\n" + READY + WAIT)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        await child.wait_ready()
        assert (child.address, child.admin_port) == ("127.0.0.1:5", 6)
        pid = child.running().pid
        await child.stop()
    assert "hello" in child.log_path.read_text()
    assert not Path(f"/proc/{pid}").exists()


async def test_settings_are_handed_over_as_a_file(program):
    source = (
        "import sys, json\nprint(json.load(open(sys.argv[sys.argv.index('--settings') + 1])), flush=True)\n"
    )
    child = program(source + READY + WAIT)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        await child.wait_ready()
        await child.stop()
    assert "{'key': 1}" in child.log_path.read_text()


@pytest.mark.parametrize("set_already", [None, "something-else"])
async def test_children_wait_for_sockets_as_we_want_unless_the_environment_says_otherwise(
    program, monkeypatch, set_already
):
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    if set_already is not None:
        monkeypatch.setenv("GRPC_EXPERIMENTS", set_already)
    child = program("import os\nprint('got', os.environ['GRPC_EXPERIMENTS'], flush=True)\n" + READY + WAIT)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        await child.wait_ready()
        await child.stop()
    wanted = set_already or "-event_engine_client,-event_engine_listener"
    assert f"got {wanted}\n" in child.log_path.read_text()


async def test_a_child_that_ends_before_it_serves_fails_the_start_with_its_last_lines(program):
    child = program("import sys\nsys.stderr.write('port: 70000 is too high\\n')\nsys.exit(2)\n")
    with pytest.raises(CommandError, match="exit code 2 before it was ready") as caught:
        await child.keep_running()
    assert caught.value.lines[-1] == "  port: 70000 is too high"
    assert caught.value.exit_code == 2


async def test_a_child_that_dies_is_started_again_and_reported(program):
    changes = []
    child = program(READY + WAIT, changes=changes)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        await child.wait_ready()
        first = child.running().pid
        os.kill(first, signal.SIGKILL)
        while child.running().pid == first:
            await asyncio.sleep(0.01)
        await child.wait_ready()
        await child.stop()
    assert [change.state for change in changes] == [
        "starting", "ready", "died", "starting", "ready", "stopping", "stopped",
    ]  # fmt: skip
    assert "SIGKILL" in changes[2].detail
    assert child.num_restarts == 1


async def test_stopping_does_not_wait_for_a_pending_restart(program):
    child = program(READY)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        while child.num_restarts < 2:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(3):
            await child.stop()


async def test_a_child_that_ignores_the_signal_is_killed_with_everything_it_started(program, tmp_path):
    source = (
        "import signal, subprocess, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grand = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(grand.pid))\n"
    )
    child = program(source + READY + WAIT, stop_timeout_s=0.3)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(child.keep_running())
        await child.wait_ready()
        await child.stop()
    grandchild = int((tmp_path / "pid").read_text())
    async with asyncio.timeout(5):
        while _is_running(grandchild):
            await asyncio.sleep(0.01)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain text", "plain text"),
        ('{"level": "error", "event": "failed", "error": "no disk"}', "error: failed: no disk"),
        (
            '{"level": "error", "event": "x", "exception": "Traceback\\nOSError: taken"}',
            "error: x: OSError: taken",
        ),
        ('{"no": "log"}', '{"no": "log"}'),
    ],
)
def test_a_json_log_line_is_shown_as_a_person_reads_it(line, shown):
    assert readable_log_line(line) == shown

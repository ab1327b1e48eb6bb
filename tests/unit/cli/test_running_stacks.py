"""The folder through which commands find a running stack."""

import json
import os

import pytest

from hortator.cli import running
from hortator.cli.errors import CommandError
from hortator.cli.running import (
    RunningProcess,
    RunningStack,
    claim_folder,
    find_stack,
    remove_folder,
    write_stack,
)

NO_SUCH_PID = 2**22 + 1


@pytest.fixture(autouse=True)
def _state_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HORTATOR_STATE_DIR", str(tmp_path))


def a_stack(name="local", *, pid=None):
    return RunningStack(
        name=name,
        pid=os.getpid() if pid is None else pid,
        model="m",
        endpoint="127.0.0.1:1",
        scheduler="127.0.0.1:2",
        processes=(RunningProcess(name="gateway", pid=3, address="127.0.0.1:1", admin_port=4),),
    )


def publish(stack):
    folder = claim_folder(stack.name)
    write_stack(folder, stack)
    return folder


def test_a_published_stack_is_found_by_name_and_as_the_only_one():
    stack = a_stack()
    publish(stack)
    assert find_stack() == stack
    assert find_stack("local") == stack
    assert stack.process("gateway").admin_port == 4


def test_several_stacks_must_be_told_apart_by_name():
    publish(a_stack("one"))
    publish(a_stack("two"))
    with pytest.raises(CommandError, match=r"--name: one, two"):
        find_stack()
    assert find_stack("two").name == "two"


def test_a_stack_whose_process_is_gone_counts_as_absent():
    publish(a_stack(pid=NO_SUCH_PID))
    with pytest.raises(CommandError, match="nothing is running") as caught:
        find_stack()
    assert caught.value.exit_code == 3


def test_a_name_is_taken_while_its_stack_runs_and_free_after_a_crash():
    publish(a_stack())
    with pytest.raises(CommandError, match="already running"):
        claim_folder("local")
    publish_after_crash = a_stack(pid=NO_SUCH_PID)
    (running.state_dir() / "local" / "stack.json").unlink()
    publish(publish_after_crash)
    assert claim_folder("local").is_dir()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"processes": 3}'])
def test_a_broken_file_counts_as_absent(text):
    folder = claim_folder("broken")
    (folder / "stack.json").write_text(text)
    with pytest.raises(CommandError, match="nothing is running"):
        find_stack()


def test_the_end_of_a_stack_leaves_nothing_or_its_logs():
    folder = publish(a_stack())
    (folder / "logs" / "gateway.log").write_text("x")
    remove_folder(folder, keep_logs=True)
    assert not (folder / "stack.json").exists()
    assert (folder / "logs" / "gateway.log").exists()
    remove_folder(folder, keep_logs=False)
    assert not folder.exists()


def test_what_is_written_is_json_that_other_programs_can_read():
    folder = publish(a_stack())
    assert json.loads((folder / "stack.json").read_text())["endpoint"] == "127.0.0.1:1"

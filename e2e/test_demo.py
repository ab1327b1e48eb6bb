"""The tour that `make run` gives, to its end and ended early: what it prints, and that it leaves nothing."""

import contextlib
import signal
import subprocess

import pytest
from live_stack import HORTATOR, ROOT, environment, processes_under, wait_until

from hortator.cli.demo import PROMPTS


@contextlib.contextmanager
def touring(tmp_path, *arguments):
    """`hortator demo` with temporary files of its own; afterwards no process and no file of it is there."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [*HORTATOR, "demo", *arguments],
        cwd=ROOT,
        env=environment(tmp_path / "state") | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
            assert not processes_under(tmp_path / "state")
            assert not list(temporary.iterdir())
        finally:
            if process.poll() is None:
                process.kill()
            wait_until(lambda: not processes_under(tmp_path / "state"), timeout=20, what="end of the demo")


def read_until(process, words):
    """The output up to the line with these words; they must come."""
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} did not come in:\n{seen}")


@pytest.mark.torch
def test_the_demo_prints_every_sample_prompt_with_its_text_and_leaves_nothing(tmp_path):
    with touring(tmp_path, "--skip-comparison") as process:
        output = process.stdout.read()
        assert process.wait(60) == 0, output
    rest = output
    for prompt, following in zip(PROMPTS, [*PROMPTS[1:], "stopping"], strict=True):
        _, found, rest = rest.partition(prompt)
        assert found, output
        text, found, _ = rest.partition(following)[0].partition(" output tokens (")
        assert found, output
        assert len(text.split()) > 10, output
    assert "nothing is left running" in rest


@pytest.mark.torch
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_demo_told_to_stop_finishes_the_answer_and_leaves_nothing(tmp_path, number):
    with touring(tmp_path, "--skip-comparison") as process:
        read_until(process, PROMPTS[0].splitlines()[-1])
        assert len(processes_under(tmp_path / "state")) == 1 + 5 + 6
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert output.count(" output tokens (") in {1, 2}
    assert PROMPTS[-1] not in output
    assert f"ended early ({number.name})" in output
    assert "Traceback" not in output
    assert "is closed" not in output


def test_the_demo_told_to_stop_in_its_comparison_ends_and_leaves_nothing(tmp_path):
    with touring(tmp_path) as process:
        read_until(process, "half a minute")
        wait_until(lambda: len(processes_under(tmp_path / "state")) > 2, what="processes that simulate")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert "ended early (SIGINT)" in output
    assert "Traceback" not in output

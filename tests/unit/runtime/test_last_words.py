"""Why a process ends is one line, for people and for Kubernetes."""

from __future__ import annotations

from hortator.runtime.last_words import MAX_CHARS, say_last_words


def test_it_is_one_line_on_standard_error_and_in_the_termination_log(tmp_path, capsys):
    log = tmp_path / "termination-log"
    log.touch()
    say_last_words("the engine died:\n  rank 1", termination_log=log)
    assert capsys.readouterr().err == "the engine died: rank 1\n"
    assert log.read_text() == "the engine died: rank 1\n"


def test_outside_a_pod_no_file_is_made(tmp_path, capsys):
    say_last_words("x" * 5000, termination_log=tmp_path / "absent")
    assert len(capsys.readouterr().err) == MAX_CHARS + 1
    assert list(tmp_path.iterdir()) == []

"""Prompts from files: each line checked, each mistake named with its line."""

import pytest

from hortator.cli.errors import CommandError
from hortator.cli.generate import read_prompts
from hortator.cli.inference.options import GenerateOptions

DEFAULTS = GenerateOptions(max_tokens=7)


def read(tmp_path, text, name="prompts.jsonl"):
    file = tmp_path / name
    file.write_text(text)
    return read_prompts(file, DEFAULTS)


def test_a_text_file_has_one_prompt_per_line_and_empty_lines_are_skipped(tmp_path):
    asked = read(tmp_path, 'one\n\n  \n{"not": "json here"}\n', name="prompts.txt")
    assert [one.prompt for one in asked] == ["one", '{"not": "json here"}']
    assert all(one.options == DEFAULTS for one in asked)


def test_a_json_line_may_override_sampling(tmp_path):
    line = '{"prompt": "a", "max_tokens": 3, "temperature": 1, "stop": ["x", "y"], "ignore_eos": true}'
    (text, asked) = read(tmp_path, f'"just text"\n{line}\n')
    assert text.options == DEFAULTS
    assert asked.options.max_tokens == 3
    assert asked.options.temperature == 1.0
    assert asked.options.stop == ("x", "y")
    assert asked.options.ignore_eos


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("{", "not valid JSON", id="json"),
        pytest.param("[1]", "prompt: missing", id="list"),
        pytest.param('{"max_tokens": 2}', "prompt: missing", id="no-prompt"),
        pytest.param('{"prompt": "a", "max_token": 2}', r"max_token: unknown \(allowed: prompt, .*max_tokens", id="field"),
        pytest.param('{"prompt": "a", "max_tokens": "2"}', r"max_tokens: got '2' \(allowed: a whole number", id="type"),
        pytest.param('{"prompt": "a", "max_tokens": true}', r"max_tokens: got True", id="bool-is-no-number"),
        pytest.param('{"prompt": "a", "stop": "x"}', r"stop: got 'x' \(allowed: a list of texts", id="list-wanted"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_its_number(tmp_path, line, words):
    with pytest.raises(CommandError, match=rf"prompts.jsonl:2: {words}"):
        read(tmp_path, f'"good"\n{line}\n')


def test_a_file_without_prompts_is_refused(tmp_path):
    with pytest.raises(CommandError, match="no prompt in it"):
        read(tmp_path, "\n\n")

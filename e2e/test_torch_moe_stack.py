"""The local sample as a user runs it: the real MoE engine on CPU, prefill and decode apart."""

import json
import os
import signal

import pytest
from live_stack import events_of, tokens_in

pytestmark = pytest.mark.torch
PROMPT = "ROMEO.\nBut soft, what light"


def test_text_streams_from_a_prefill_group_through_a_decode_group(torch_moe):
    result = torch_moe.cli("generate", PROMPT, "--max-tokens", "24", "--json")
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    token_ids, completion = tokens_in(events)
    assert completion["num_output_tokens"] == len(token_ids)
    assert completion["finish_reason"] in {"length", "stop"}
    text = "".join(event["delta"]["text"] for event in events if "delta" in event)
    assert any(word in text.lower() for word in (" the ", " i ", " my ", " and ", " of ", "enter")), text
    placed = {(one["request_id"], one["phase"]) for one in torch_moe.state()["recent_placements"]}
    assert {(completion["request_id"], "prefill"), (completion["request_id"], "decode")} <= placed


def test_greedy_text_is_the_same_alone_and_in_a_crowd(torch_moe, tmp_path):
    prompts = [
        PROMPT,
        "HAMLET.\nTo be",
        "MACBETH.\n",
        "[Enter",
        "My lord, ",
        "KING HENRY.\nO ",
        "Good night",
        "Come",
    ]
    alone = [json.loads(torch_moe.cli("generate", "-f", one_line(tmp_path, prompt), "--json", "--max-tokens", "12").stdout) for prompt in prompts[:2]]  # fmt: skip
    file = tmp_path / "crowd.jsonl"
    file.write_text("\n".join(json.dumps(prompt) for prompt in prompts))
    result = torch_moe.cli("generate", "-f", str(file), "--json", "--max-tokens", "12")
    assert result.returncode == 0, result.stderr
    crowd = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["token_ids"] for answer in crowd[:2]] == [answer["token_ids"] for answer in alone]


def one_line(folder, prompt):
    file = folder / "one.jsonl"
    file.write_text(json.dumps(prompt))
    return str(file)


def test_a_killed_decode_worker_costs_no_token(torch_moe):
    options = ("--json", "--max-tokens", "160", "--ignore-eos")
    undisturbed = torch_moe.cli("generate", PROMPT, *options)
    expected, _ = tokens_in(json.loads(line) for line in undisturbed.stdout.splitlines())
    process = torch_moe.start_cli("generate", PROMPT, *options)
    stream = events_of(process)
    seen = [next(stream) for _ in range(4)]
    os.kill(torch_moe.pid_of("decode-0"), signal.SIGKILL)
    token_ids, completion = tokens_in([*seen, *stream])
    assert process.wait(60) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert completion["num_replacements"] >= 1
    assert len(token_ids) == len(expected) == 160
    assert token_ids == expected

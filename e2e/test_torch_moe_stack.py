"""The local sample as a user runs it: the real MoE engine on CPU, prefill and decode apart."""

import json
import os
import signal
import time

import pytest
from live_stack import events_of, is_alive, ranks_of, tokens_in, wait_until

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


def generated(stack, prompt, *options):
    """The completion, its token ids and its text, of `generate --json`."""
    result = stack.cli("generate", prompt, "--json", *options)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    token_ids, completion = tokens_in(events)
    return completion, token_ids, "".join(event["delta"]["text"] for event in events if "delta" in event)


def test_sampling_options_choose_the_tokens(torch_moe):
    def text(*options):
        return generated(torch_moe, PROMPT, "--max-tokens", "20", *options)[2]

    greedy = text()
    hot = ("--temperature", "1.5", "--seed", "11")
    assert text(*hot) != greedy
    assert text(*hot, "--top-p", "0.000001") == greedy
    assert text(*hot, "--top-k", "1") == greedy


def test_a_repeated_prompt_goes_to_the_rank_of_its_group_that_has_its_prefix(torch_moe, tmp_path):
    """Which group is next is a matter of time (they take turns); which rank of it, one of the cache."""
    line = "Now is the winter of our discontent made glorious summer by this sun of York.\n"
    prompts = [f"KING {number}.\n" + 10 * line for number in range(6)]
    file = tmp_path / "crowd.jsonl"
    file.write_text("\n".join(json.dumps(prompt) for prompt in prompts))
    crowd = torch_moe.cli("generate", "-f", str(file), "--json", "--max-tokens", "2")
    assert crowd.returncode == 0, crowd.stderr
    answers = [json.loads(line) for line in crowd.stdout.splitlines()]
    placed = prefills(torch_moe)
    # An idle group takes a prompt that it does not know on rank 0, so one that rank 1 knows tells the two apart.
    known = next(one for one in answers if placed[one["completion"]["request_id"]][1] == 1)
    worker, dp_rank = placed[known["completion"]["request_id"]]
    completions = [generated(torch_moe, known["prompt"], "--max-tokens", "2")[0] for _ in range(4)]
    placed = prefills(torch_moe)
    there = [one for one in completions if placed[one["request_id"]][0] == worker]
    assert there
    for completion in there:
        assert placed[completion["request_id"]] == (worker, dp_rank)
        assert completion["num_cached_prompt_tokens"] > completion["num_prompt_tokens"] / 2


def prefills(stack):
    """(worker, DP rank) of the newest prefills, by request."""
    state = json.loads(stack.cli("state", "--json", "--placements", "100").stdout)
    return {
        one["request_id"]: (one["worker_id"], one["dp_rank"])
        for one in state["recent_placements"]
        if one["phase"] == "prefill"
    }


def test_every_process_counts_what_it_did(torch_moe):
    for number in range(3):
        generated(torch_moe, f"{PROMPT}, number {number}", "--max-tokens", "12", "--ignore-eos")
    scheduler, gateway = torch_moe.metrics("scheduler"), torch_moe.metrics("gateway")
    for name in ("hold", "forward_pass", "decision", "ttft", "tpot", "itl", "e2e", "first_gap"):
        assert scheduler.value(f"hortator_scheduler_{name}_seconds_count") > 0, name
        assert scheduler.value(f"hortator_scheduler_{name}_seconds_sum") > 0, name
    for name in ("chunk_utilization", "balance"):
        assert scheduler.value(f"hortator_scheduler_{name}_ratio_count") > 0, name
        assert scheduler.value(f"hortator_scheduler_{name}_ratio_sum") > 0, name
    for name in ("placements", "batches", "events", "requests"):
        assert scheduler.value(f"hortator_scheduler_{name}_total") > 0, name
    for phase in ("prefill", "decode"):
        assert scheduler.series("hortator_scheduler_waiting_requests").count({"phase": phase}) == 1
    ranks = {(worker, str(rank)) for worker in ("prefill-0", "prefill-1", "decode-0") for rank in range(2)}
    for name in ("prefill_load_tokens", "batch_size", "kv_blocks_used"):
        found = scheduler.series(f"hortator_scheduler_rank_{name}")
        assert {(labels["ep_group"], labels["dp_rank"]) for labels in found} == ranks, name
    assert scheduler.value("hortator_scheduler_waiting_tokens") == 0
    for name in ("split_batches", "split_members", "workers_lost"):
        found = scheduler.series(f"hortator_scheduler_{name}_total")
        assert {labels["ep_group"] for labels in found} == {"prefill-0", "prefill-1", "decode-0"}, name
    reasons = {labels["reason"] for labels in scheduler.series("hortator_scheduler_rejections_total")}
    assert {"queue_full_requests", "queue_timeout", "no_worker", "deadline"} <= reasons
    for name in ("ttft", "tpot", "itl", "e2e", "hold", "first_gap"):
        assert gateway.value(f"hortator_gateway_{name}_seconds_count") > 0, name
    assert gateway.value("hortator_gateway_requests_total", outcome="length") >= 3
    assert gateway.value("hortator_gateway_output_tokens_total") >= 36
    for worker in ("prefill-0", "prefill-1", "decode-0"):
        assert torch_moe.metrics(worker).value("hortator_worker_forward_pass_seconds_count") > 0, worker
    decode = torch_moe.metrics("decode-0")
    assert decode.value("hortator_worker_kv_transfer_seconds_count") >= 3
    assert decode.value("hortator_worker_kv_transfer_bytes_total") > 0


@pytest.mark.safety
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


@pytest.mark.safety
def test_a_killed_rank_costs_no_token_and_its_whole_group_is_started_again(torch_moe):
    options = ("--json", "--max-tokens", "160", "--ignore-eos")
    expected = generated(torch_moe, PROMPT, *options)[1]
    worker = torch_moe.pid_of("decode-0")
    ranks = ranks_of(worker)
    assert len(ranks) == 2
    process = torch_moe.start_cli("generate", PROMPT, *options)
    stream = events_of(process)
    seen = [next(stream) for _ in range(4)]
    os.kill(ranks[1], signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: torch_moe.pid_of("decode-0") != worker, timeout=15, what="a new worker process")
    print(f"a new worker served {time.monotonic() - killed_at:.1f} s after a rank was killed")
    token_ids, completion = tokens_in([*seen, *stream])
    assert process.wait(60) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert completion["num_replacements"] >= 1
    assert token_ids == expected
    assert not [pid for pid in (worker, *ranks) if is_alive(pid)]


def test_ctrl_c_lets_an_answer_finish_and_leaves_no_process_of_any_rank(torch_moe):
    """The last test of this file: it ends the stack."""
    process = torch_moe.start_cli("generate", PROMPT, "--json", "--max-tokens", "60", "--ignore-eos")
    stream = events_of(process)
    seen = [next(stream)]
    assert len(torch_moe.left()) == 1 + 5 + 6 + 1  # up, its children, the ranks, and `generate`
    assert torch_moe.stop(signal.SIGINT) == 0, torch_moe.log.read_text()
    token_ids, _ = tokens_in([*seen, *stream])
    assert process.wait(10) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert len(token_ids) == 60
    assert not torch_moe.left()
    assert not (torch_moe.state_dir / "local").exists()

"""Gateway, scheduler and two workers with simulated engines, as real processes."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from live_stack import HORTATOR, ROOT, environment, events_of, is_alive, running, tokens_in, wait_until

LONG = ["--max-tokens", "60", "--ignore-eos"]


def test_a_prompt_comes_back_as_text_and_the_same_prompt_gives_the_same_text(simulated):
    first = simulated.cli("generate", "hello", "--max-tokens", "16")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.rstrip("\n")) == 16
    assert "16 output tokens (length)" in first.stderr
    assert simulated.cli("generate", "--max-tokens", "16", stdin="hello\n").stdout == first.stdout


def test_a_chat_is_the_text_that_the_template_makes_of_it(simulated):
    asked = ["Who goes there?", "--max-tokens", "8"]
    as_text = "system: Be brief.\nuser: Who goes there?\nassistant:"  # what a model without a template gets
    chat = simulated.cli("generate", *asked, "--system", "Be brief.")
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout == simulated.cli("generate", as_text, "--max-tokens", "8").stdout
    assert chat.stdout != simulated.cli("generate", *asked, "--chat").stdout
    assert chat.stdout != simulated.cli("generate", *asked).stdout


def test_the_first_token_of_a_service_is_waited_for(simulated):
    address = simulated.info()["endpoint"]
    command = [sys.executable, "-m", "hortator.cli.first_token", address, "--timeout", "30"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"token \d+ from {re.escape(address)}\n", result.stdout)


def test_many_prompts_from_a_file_are_answered_in_order_as_json(simulated, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"prompt {n}", "max_tokens": 3 + n}) for n in range(12)))
    result = simulated.cli("generate", "-f", str(file), "--json")
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == [f"prompt {n}" for n in range(12)]
    assert [len(answer["token_ids"]) for answer in answers] == [3 + n for n in range(12)]


def test_a_bad_prompt_of_many_fails_alone_and_sets_the_exit_code(simulated, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "good", "max_tokens": 2}\n{"prompt": "bad", "max_tokens": 2, "temperature": 9}\n'
    )
    result = simulated.cli("generate", "-f", str(file), "--json")
    assert result.returncode == 2
    good, bad = (json.loads(line) for line in result.stdout.splitlines())
    assert len(good["token_ids"]) == 2
    assert "sampling.temperature" in bad["error"]


def test_state_shows_every_group_and_rank_and_what_was_placed(simulated):
    assert simulated.cli("generate", "look at me", "--max-tokens", "2").returncode == 0
    state = simulated.state()
    assert {group["worker_id"]: len(group["ranks"]) for group in state["groups"]} == {
        "aggregated-0": 4,
        "aggregated-1": 4,
    }
    assert state["num_gateways"] == 1
    assert state["recent_placements"]
    assert "aggregated-1" in simulated.cli("state").stdout


def test_a_cancelled_request_leaves_the_engine(simulated):
    process = simulated.start_cli("generate", "never mind", "--json", "--max-tokens", "4000", "--ignore-eos")
    next(events_of(process))
    assert simulated.state()["num_in_flight"] == 1
    process.send_signal(signal.SIGINT)
    process.wait(10)
    process.stdout.close()
    process.stderr.close()

    def is_gone():
        state = simulated.state()
        blocks = sum(rank["kv_blocks_used"] for group in state["groups"] for rank in group["ranks"])
        return state["num_in_flight"] == 0 and blocks == 0

    wait_until(is_gone, timeout=10, what="an empty engine")


def test_a_request_beyond_its_deadline_leaves_queue_and_engine_and_is_counted(simulated):
    before = simulated.metrics("gateway").value("hortator_gateway_requests_total")
    result = simulated.cli("generate", "too long", "--timeout", "0.5", "--max-tokens", "4000", "--ignore-eos")
    assert result.returncode == 3
    assert "deadline" in result.stderr.lower()
    assert len(result.stderr.splitlines()) == 1

    def is_gone():
        state = simulated.state()
        blocks = sum(rank["kv_blocks_used"] for group in state["groups"] for rank in group["ranks"])
        return (state["num_in_flight"], state["num_waiting"], blocks) == (0, 0, 0)

    wait_until(is_gone, timeout=5, what="an empty engine")
    counted = simulated.metrics("gateway")
    assert counted.value("hortator_gateway_requests_total", outcome="deadline") == 1
    assert counted.value("hortator_gateway_requests_total") == before + 1


def test_the_text_ends_before_a_stop_text(simulated):
    text = simulated.cli("generate", "where to stop", "--max-tokens", "16").stdout.rstrip("\n")
    assert len(text) == 16
    stop = text[5:8]
    result = simulated.cli(
        "generate", "where to stop", "--max-tokens", "16", "--stop", stop, "--stop", "never"
    )
    assert result.stdout == text[: text.index(stop)] + "\n"
    assert "(stop)" in result.stderr


def test_the_state_is_shown_again_and_again_until_ctrl_c(simulated):
    process = simulated.start_cli("state", "--watch", "--interval", "0.2", "--json")
    first, second = (json.loads(next(process.stdout)) for _ in range(2))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Traceback" not in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert second["at_s"] > first["at_s"]
    assert {group["worker_id"] for group in second["groups"]} == {"aggregated-0", "aggregated-1"}


@pytest.mark.safety
def test_a_killed_worker_costs_no_token_and_is_started_again(simulated):
    undisturbed = simulated.cli("generate", "the show goes on", "--json", *LONG)
    expected, _ = tokens_in(json.loads(line) for line in undisturbed.stdout.splitlines())
    process = simulated.start_cli("generate", "the show goes on", "--json", *LONG)
    stream = events_of(process)
    seen = [next(stream) for _ in range(5)]
    busy = next(group["worker_id"] for group in simulated.state()["groups"] if group["num_in_flight"])
    pid = simulated.pid_of(busy)
    os.kill(pid, signal.SIGKILL)
    token_ids, completion = tokens_in([*seen, *stream])
    assert process.wait(30) == 0, process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert token_ids == expected
    assert completion["num_replacements"] == 1
    wait_until(lambda: simulated.pid_of(busy) != pid, what="a new worker process")
    wait_until(
        lambda: (
            {group["state"] for group in simulated.state()["groups"]} <= {"ready", "running"}
            and len(simulated.state()["groups"]) == 2
        ),
        what="both groups ready",
    )
    assert "SIGKILL" in simulated.log.read_text()


def test_the_policy_is_switched_while_requests_run(simulated):
    process = simulated.start_cli("generate", "keep going", "--json", *LONG)
    stream = events_of(process)
    seen = [next(stream)]
    assert (
        simulated.cli("policy", "immediate-least-tokens").stdout
        == "policy: staggered -> immediate-least-tokens\n"
    )
    assert simulated.state()["policy"] == "immediate-least-tokens"
    token_ids, completion = tokens_in([*seen, *stream])
    assert process.wait(30) == 0
    process.stdout.close()
    process.stderr.close()
    assert (len(token_ids), completion["num_replacements"]) == (60, 0)
    refused = simulated.cli("policy", "best")
    assert refused.returncode == 2
    assert "staggered-plus" in refused.stderr
    assert simulated.cli("policy", "staggered").returncode == 0


def test_a_drained_worker_takes_nothing_new(simulated):
    assert simulated.cli("drain", "aggregated-0").returncode == 0
    states = {group["worker_id"]: group["state"] for group in simulated.state()["groups"]}
    assert states["aggregated-0"] == "draining"
    for number in range(4):
        assert simulated.cli("generate", f"after the drain {number}", "--max-tokens", "2").returncode == 0
    recent = simulated.state()["recent_placements"]
    newest = {placement["request_id"]: placement["worker_id"] for placement in recent[-4:]}
    assert set(newest.values()) == {"aggregated-1"}
    assert simulated.cli("drain", "nobody").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_a_running_request_finish_and_leaves_nothing(tmp_path, number):
    recording = tmp_path / "events.jsonl"
    manifest = ROOT / "e2e/manifests/aggregated.yaml"
    with running(manifest, "e2e-aggregated", tmp_path / "state", "--record", str(recording)) as up:
        prompt = "the same beginning " * 20
        for options in (
            ["--tenant", "one", "--critical", "--priority", "7"],
            ["--tenant", "one"],
            ["--tenant", "two"],
        ):
            assert up.cli("generate", prompt, "--max-tokens", "2", *options).returncode == 0
        process = up.start_cli("generate", "to the end", "--json", "--max-tokens", "60", "--ignore-eos")
        stream = events_of(process)
        seen = [next(stream)]
        assert up.stop(number) == 0, up.log.read_text()
        token_ids, _ = tokens_in([*seen, *stream])
        assert process.wait(10) == 0, process.stderr.read()
        process.stdout.close()
        process.stderr.close()
        assert len(token_ids) == 60
        assert not up.left()
        assert not list((tmp_path / "state").glob("e2e-aggregated*"))
        summary = json.loads(up.cli("replay", str(recording), "--json").stdout)
        assert summary["events_by_kind"]["RequestArrived"] == 4
        assert summary["commands_by_kind"]["Dispatch"] == 4
        assert summary["verdict"] == "same", summary
        replayed = up.cli("replay", str(recording), "--commands")
        assert replayed.returncode == 0, replayed.stderr
        events = [json.loads(line)["event"] for line in replayed.stdout.splitlines()]
        first, second, third, last = (fields for kind, fields in events if kind == "RequestArrived")
        assert (first["latency_class"], first["priority"], first["tenant"]) == ("critical", 7, "one")
        assert "latency_class" not in last
        assert "priority" not in last
        assert first["block_hashes"] == second["block_hashes"] != third["block_hashes"]


def test_killing_the_parent_leaves_no_process(tmp_path):
    with running(ROOT / "e2e/manifests/aggregated.yaml", "e2e-aggregated", tmp_path) as up:
        assert len(up.left()) == 5
        up.stop(signal.SIGKILL)
        wait_until(lambda: not up.left(), timeout=20, what="orphans to end")


def test_a_second_stack_of_the_same_name_is_refused(simulated):
    result = simulated.cli("up", "-f", str(ROOT / "e2e/manifests/aggregated.yaml"))
    assert result.returncode == 2
    assert "already running" in result.stderr
    assert all(is_alive(process["pid"]) for process in simulated.info()["processes"])


def test_sigint_before_it_serves_stops_it_cleanly(tmp_path):
    with subprocess.Popen(
        [*HORTATOR, "up", "-f", str(ROOT / "e2e/manifests/aggregated.yaml")],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if "aggregated-0" in line and "starting" in line:
                break
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
        assert process.wait(30) == 0, output
    assert "stopped before it served" in output
    assert not list(tmp_path.iterdir())

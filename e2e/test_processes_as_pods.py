"""Scheduler, worker and gateway as pods run them: an address each, settings from the environment, any may go."""

import signal
import subprocess
import sys
import time

import pytest
from group_processes import ENGINE_OPTIONS, HORTATOR, a_free_port, processes
from live_stack import wait_until

TEXT_ENGINE = ENGINE_OPTIONS | {"vocab_size": 127, "first_token_id": 32, "time_scale": 0.05}
GATEWAY = {"model": "m", "max_sequence_tokens": 4096, "tokenizer": "bytes", "port": 0}
NUM_PROMPTS = 300


@pytest.fixture
def pods(tmp_path):
    with processes(tmp_path) as starter:
        yield starter


def drain(scheduler: str, worker_id: str) -> subprocess.CompletedProcess[str]:
    command = [*HORTATOR, "drain", worker_id, "--scheduler", scheduler, "--timeout", "20"]
    return subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)


def test_a_worker_is_ready_once_a_scheduler_has_taken_its_report(pods):
    port = a_free_port()
    worker = pods.serving(
        "worker", host="127.0.0.31", scheduler_addresses=[f"127.0.0.30:{port}"], engine_options=ENGINE_OPTIONS
    )
    status, text = worker.readyz()
    assert (status, text.splitlines()[0]) == (503, "no scheduler has taken the report")
    scheduler = pods.serving("scheduler", host="127.0.0.30", port=port)
    wait_until(lambda: worker.readyz()[0] == 200, timeout=5)
    scheduler.kill(signal.SIGKILL)
    scheduler.wait()
    time.sleep(1.5)
    assert worker.readyz()[0] == 200  # it serves what it has, and a new scheduler will find it


def test_a_scheduler_that_is_killed_under_load_and_comes_back_elsewhere_costs_no_request(pods, tmp_path):
    port = a_free_port()
    addresses = [f"127.0.0.{last}:{port}" for last in (30, 40)]
    first = pods.serving("scheduler", host="127.0.0.30", port=port)
    for number in range(2):
        pods.serving("worker", host=f"127.0.0.{31 + number}", worker_id=f"aggregated-{number}",
                     scheduler_addresses=addresses, engine_options=TEXT_ENGINE)  # fmt: skip
    gateway = pods.serving("gateway", host="127.0.0.35", scheduler_addresses=addresses, **GATEWAY)
    wait_until(lambda: gateway.readyz()[0] == 200)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt number {number}\n" for number in range(NUM_PROMPTS)))
    answers = tmp_path / "answers.jsonl"
    with answers.open("w") as output:
        client = subprocess.Popen(
            [*HORTATOR, "generate", "-f", str(prompts), "--endpoint", gateway.address(), "--json",
             "--max-tokens", "24", "--ignore-eos", "--concurrency", "12"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    wait_until(lambda: len(answers.read_text().splitlines()) > 20)
    first.kill(signal.SIGKILL)
    num_done = len(answers.read_text().splitlines())
    assert num_done < NUM_PROMPTS - 50, "the load was over before the scheduler was killed"
    killed_at = time.monotonic()
    pods.serving("scheduler", host="127.0.0.40", port=port)
    back_after_s = time.monotonic() - killed_at
    wait_until(lambda: len(answers.read_text().splitlines()) > num_done + 30)
    serving_after_s = time.monotonic() - killed_at
    assert gateway.readyz()[0] == 200
    assert client.wait(60) == 0, client.stderr.read()
    assert len(answers.read_text().splitlines()) == NUM_PROMPTS
    assert serving_after_s < back_after_s + 4.0
    print(f"scheduler back after {back_after_s:.2f} s, serving again after {serving_after_s:.2f} s")


def test_a_drain_may_be_asked_for_again_and_a_drained_worker_ends_at_once(pods):
    scheduler = pods.serving("scheduler", host="127.0.0.30", port=0)
    worker = pods.serving("worker", host="127.0.0.31", worker_id="aggregated-0", scheduler_addresses=[scheduler.address()],
                          engine_options=ENGINE_OPTIONS)  # fmt: skip
    wait_until(lambda: worker.readyz()[0] == 200)
    for _ in range(3):
        drained = drain(scheduler.address(), "aggregated-0")
        assert drained.returncode == 0, drained.stderr
        assert "drained" in drained.stdout
    asked_at = time.monotonic()
    worker.kill(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert time.monotonic() - asked_at < 3.0


def test_a_drain_survives_the_scheduler_that_was_asked(pods):
    port = a_free_port()
    first = pods.serving("scheduler", host="127.0.0.30", port=port)
    worker = pods.serving("worker", host="127.0.0.31", worker_id="aggregated-0", engine_options=ENGINE_OPTIONS,
                          scheduler_addresses=[f"127.0.0.30:{port}", f"127.0.0.40:{port}"])  # fmt: skip
    wait_until(lambda: worker.readyz()[0] == 200)
    assert drain(first.address(), "aggregated-0").returncode == 0
    first.kill(signal.SIGKILL)
    second = pods.serving("scheduler", host="127.0.0.40", port=port)

    def state() -> str:
        command = [*HORTATOR, "state", "--scheduler", second.address()]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout

    wait_until(lambda: "draining" in state(), timeout=10)


def test_a_gateway_that_is_told_to_stop_still_takes_requests_until_load_balancers_have_noticed(pods):
    scheduler = pods.serving("scheduler", host="127.0.0.30", port=0)
    to_scheduler = {"scheduler_addresses": [scheduler.address()]}
    pods.serving("worker", host="127.0.0.31", engine_options=TEXT_ENGINE, **to_scheduler)
    gateway = pods.serving("gateway", host="127.0.0.35", drain_delay_s=4, **GATEWAY, **to_scheduler)
    wait_until(lambda: gateway.readyz()[0] == 200)
    gateway.kill(signal.SIGTERM)
    wait_until(lambda: gateway.readyz() == (503, "draining\n"))
    client = pods.generating(gateway.address(), "still there?", max_tokens=3)
    assert client.wait(20) == 0, client.stderr.read()
    assert gateway.wait(15) == 0


def test_a_pod_that_cannot_be_part_of_its_group_says_why_in_one_line():
    environment = {
        "PATH": "/usr/bin",
        "HORTATOR_WORKER_POD_NAME": "svc-a-0-4",
        "HORTATOR_WORKER_GROUP_SIZE": "4",
        "HORTATOR_WORKER_ENGINE": "torch_moe",
    }
    result = subprocess.run(
        [sys.executable, "-m", "hortator.worker"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "HORTATOR_WORKER_POD_NAME: ordinal 4 of svc-a-0-4 is not in a group of 4 (GROUP_SIZE)",
        "HORTATOR_WORKER_EPOCH: required with GROUP_SIZE above 1",
        "HORTATOR_WORKER_WORKER_ID: required with GROUP_SIZE above 1, the same in all members",
        "HORTATOR_WORKER_LEADER_ADDRESS: required in members other than ordinal 0 (allowed: host:port)",
        "HORTATOR_WORKER_GROUP_SIZE: got 4, but torch_moe runs all its ranks in one pod (allowed: 1)",
    ]

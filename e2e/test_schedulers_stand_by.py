"""Two schedulers as real processes: one leads, the other follows its place when it goes away, however it goes."""

import json
import os
import signal

import pytest
from live_stack import ROOT, running, wait_until

NAMES = ("scheduler-0", "scheduler-1")
MARGIN = 3.0
"""Over the limits: the machine that runs this is busy with other tests."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    manifest = ROOT / "e2e/manifests/aggregated.yaml"
    with running(manifest, "e2e-aggregated", folder, "--schedulers", "2") as up:
        yield up


def leaders(up):
    return [name for name in NAMES if up.metrics(name).value("hortator_scheduler_is_leader") == 1]


def address_of(up, name):
    return next(process["address"] for process in up.info()["processes"] if process["name"] == name)


def one_leads(up):
    wait_until(lambda: len(leaders(up)) == 1, what="one leader")
    (leader,) = leaders(up)
    return leader, next(name for name in NAMES if name != leader)


def test_the_standby_knows_the_loads_and_leaves_what_only_a_leader_can_do(pair):
    _, standby = one_leads(pair)
    assert pair.cli("generate", "hello", "--max-tokens", "3").returncode == 0
    assert pair.state()["num_finished"] >= 1
    shown = json.loads(pair.cli("state", "--json", "--scheduler", address_of(pair, standby)).stdout)
    assert shown["epoch"] == 0
    assert shown["num_in_flight"] == 0
    assert {group["state"] for group in shown["groups"]} == {"ready"}
    refused = pair.cli("drain", "aggregated-0", "--scheduler", address_of(pair, standby))
    assert refused.returncode != 0
    assert "a standby; the leader is another scheduler" in refused.stderr


def test_a_leader_that_was_stopped_comes_back_as_a_standby(pair):
    leader, standby = one_leads(pair)
    pid = pair.pid_of(leader)
    epoch = pair.state()["epoch"]
    os.kill(pid, signal.SIGSTOP)
    try:
        result = pair.cli("generate", "hello", "--max-tokens", "3")
        assert result.returncode == 0, result.stderr
        shown = json.loads(pair.cli("state", "--json", "--scheduler", address_of(pair, standby)).stdout)
        assert shown["epoch"] > epoch
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: leaders(pair) == [standby], what="the one that came back stands by")
    assert pair.pid_of(leader) == pid
    assert pair.cli("generate", "hello", "--max-tokens", "3").returncode == 0


def test_under_load_no_request_fails_when_the_leader_is_killed_terminated_or_stopped(pair, tmp_path):
    """By the benchmark itself, once."""
    file = tmp_path / "failover.json"
    result = pair.cli("bench", "failover", "--quick", "--json", str(file), timeout=180)
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())["figures"]
    assert figures["requests"] > 100
    assert figures["failed_requests"] == 0
    assert figures["broken_streams"] == 0
    assert figures["killed_s"] < 2.0 * MARGIN
    assert figures["terminated_s"] < 0.5 * MARGIN
    assert figures["stopped_s"] < 5.0 * MARGIN

"""An EP group of several processes, as pods run it: assembled, fenced by its epoch, ended as one."""

import signal
import time
from itertools import chain

import pytest
from group_processes import processes
from live_stack import events_of, tokens_in, wait_until

EXIT_GROUP_BROKEN, EXIT_FENCED = 71, 72
FAST = {"heartbeat_interval_s": 0.5, "heartbeat_timeout_s": 3.0}


@pytest.fixture
def group(tmp_path):
    with processes(tmp_path) as starter:
        yield starter


def ready(*members) -> bool:
    return all(member.readyz()[0] == 200 for member in members)


def a_running_group(group, *, size: int = 2, **settings):
    members = [group.member(ordinal, size=size, **settings) for ordinal in range(size)]
    wait_until(lambda: ready(*members), what=str([member.readyz() for member in members]))
    return members


def test_members_that_start_first_wait_and_say_for_whom(group):
    member = group.member(1)
    wait_until(lambda: "has not taken this member: UNAVAILABLE" in member.readyz()[1])
    leader = group.member(0, size=2)
    wait_until(lambda: ready(leader, member))
    assert member.readyz()[1].startswith("ok\nmembers_joined after ")
    lines = leader.readyz()[1].splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "members_joined", "engine_started", "reported"]
    metrics = leader.metrics()
    assert "hortator_worker_group_members 2.0" in metrics
    assert 'hortator_worker_startup_seconds{phase="reported"}' in metrics
    assert 'boot_id="1-' in metrics


def test_the_leader_names_who_is_missing_and_gives_up_at_the_timeout(group):
    leader, member = (
        group.member(0, size=3, startup_timeout_s=5),
        group.member(2, size=3, startup_timeout_s=30),
    )
    wait_until(lambda: "the group is not complete: members 1 of 3 have not joined" in leader.readyz()[1])
    assert leader.wait() == EXIT_GROUP_BROKEN
    why = "epoch 1: 2 of 3 members joined within 5 s (missing: 1)"
    assert leader.last_words() == f"the group is broken: {why}"
    assert member.wait() == EXIT_GROUP_BROKEN
    assert member.last_words() == f"the group is broken: {why}"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_within_ten_seconds(group, victim):
    members = a_running_group(group)
    members[victim].kill(signal.SIGKILL)
    killed_at = time.monotonic()
    assert members[1 - victim].wait(10) == EXIT_GROUP_BROKEN
    assert time.monotonic() - killed_at < 10
    assert "lost" in members[1 - victim].last_words()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_noticed_within_ten_seconds(group, victim):
    members = a_running_group(group)  # with the heartbeats that a cluster has
    members[victim].kill(signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert members[1 - victim].wait(10) == EXIT_GROUP_BROKEN
    assert time.monotonic() - stopped_at < 10
    assert "silent for" in members[1 - victim].last_words()


def test_one_lost_member_ends_all_of_the_group(group):
    leader, first, second = a_running_group(group, size=3, **FAST)
    first.kill(signal.SIGKILL)
    assert leader.wait(10) == EXIT_GROUP_BROKEN
    assert second.wait(10) == EXIT_GROUP_BROKEN
    assert "lost member 1 (svc-a-0-1 on node-1, boot 1-" in second.last_words()


@pytest.mark.safety
def test_a_second_boot_of_an_ordinal_in_an_epoch_is_refused_and_ends_the_group(group):
    leader, member = a_running_group(group)
    second = group.member(1, host="127.0.0.12")
    assert second.wait(10) == EXIT_FENCED
    assert "refused by the leader: member 1 (svc-a-0-1" in second.last_words()
    assert leader.wait(10) == EXIT_GROUP_BROKEN
    assert member.wait(10) == EXIT_GROUP_BROKEN


@pytest.mark.safety
def test_a_leftover_of_an_older_epoch_is_refused_and_the_group_goes_on(group):
    leader, member = a_running_group(group, epoch=7)
    leftover = group.member(1, epoch=6, host="127.0.0.12")
    assert leftover.wait(10) == EXIT_FENCED
    assert leftover.last_words() == "refused by the leader: epoch 6 is over: this group is in epoch 7"
    assert ready(leader, member)


@pytest.mark.safety
def test_a_container_that_is_started_again_in_its_pod_does_not_join_the_epoch_again(group, tmp_path):
    shared = {"boot_dir": str(tmp_path), "pod_uid": "u-1"}
    leader, member = a_running_group(group, **shared)
    leader.kill(signal.SIGKILL)
    assert member.wait(10) == EXIT_GROUP_BROKEN
    again = [group.member(ordinal, **shared) for ordinal in range(2)]
    for process in again:
        assert process.wait(10) == EXIT_FENCED
        assert "has run epoch 1 already" in process.last_words()
    a_running_group(group, epoch=2, **shared)


def test_all_are_told_to_stop_and_end_in_order(group):
    members = a_running_group(group, size=3)
    for member in reversed(members):
        member.kill(signal.SIGTERM)
    assert [member.wait(10) for member in members] == [0, 0, 0]


def test_one_member_that_is_told_to_stop_takes_the_group_along_in_order(group):
    leader, member = a_running_group(group)
    member.kill(signal.SIGTERM)
    assert member.wait(10) == 0
    assert leader.wait(10) == 0


@pytest.mark.parametrize("is_leader_told", [False, True])
def test_a_member_stays_until_the_leader_has_drained(group, is_leader_told):
    scheduler = group.serving("scheduler", host="127.0.0.9", port=0)
    to_scheduler = {"scheduler_addresses": [scheduler.address()]}
    slow = {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 1.0, "vocab_size": 127, "first_token_id": 32}
    leader, member = a_running_group(group, engine_options=slow, **to_scheduler)
    gateway = group.serving(
        "gateway",
        host="127.0.0.8",
        port=0,
        model="m",
        max_sequence_tokens=4096,
        tokenizer="bytes",
        **to_scheduler,
    )
    client = group.generating(gateway.address(), "Arma virumque", max_tokens=60)
    events = events_of(client)
    first = next(events)
    member.kill(signal.SIGTERM)
    if is_leader_told:  # as all pods of a group are; whoever hears of it first
        wait_until(lambda: '"event": "stopping"' in leader.log.read_text(), what="the member's word")
        leader.kill(signal.SIGTERM)
    token_ids, completion = tokens_in(chain([first], events))
    assert client.wait(10) == 0
    assert len(token_ids) == 60
    assert completion["num_replacements"] == 0
    assert member.wait(15) == 0
    assert leader.wait(15) == 0
    assert "member 1 (svc-a-0-1" in leader.log.read_text()

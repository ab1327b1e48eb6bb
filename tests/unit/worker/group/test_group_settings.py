"""What a pod is told becomes a place in a group, a boot id and an address, or one line per problem."""

from __future__ import annotations

import re

import pytest

from hortator.runtime.settings import SettingsError
from hortator.worker.errors import GroupBrokenError
from hortator.worker.group.boot_record import claim_epoch
from hortator.worker.group.member import GroupPlace, Member
from hortator.worker.settings import WorkerSettings

IN_A_GROUP = {
    "worker_id": "decode-0",
    "pod_name": "svc-d-0-2",
    "group_size": 4,
    "epoch": 3,
    "leader_address": "svc-d-0-0.svc-d-0.ns.svc:7072",
}


def test_a_process_that_is_no_pods_has_no_place():
    assert WorkerSettings.load().group_place() is None


def test_the_place_comes_from_the_ordinal_of_the_pods_name():
    place = WorkerSettings.load(**IN_A_GROUP, node_name="n7", incarnation="x7").group_place()
    assert place == GroupPlace(
        worker_id="decode-0",
        group_size=4,
        ordinal=2,
        epoch=3,
        pod_name="svc-d-0-2",
        node_name="n7",
        incarnation="x7",
    )
    assert not place.is_leader


def test_a_group_of_one_pod_needs_nothing_but_its_name():
    place = WorkerSettings.load(pod_name="svc-a-0-0").group_place()
    assert place is not None
    assert place.is_leader


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pod_name": "svc-d-0"}, None),
        ({"pod_name": "svc"}, "HORTATOR_WORKER_POD_NAME: got 'svc' (allowed: a name that ends in -0 to -3)"),
        ({"pod_name": "svc-d-0-02"}, "HORTATOR_WORKER_POD_NAME: got 'svc-d-0-02'"),
        (
            {"pod_name": "svc-d-0-4"},
            "HORTATOR_WORKER_POD_NAME: ordinal 4 of svc-d-0-4 is not in a group of 4",
        ),
        ({"epoch": None}, "HORTATOR_WORKER_EPOCH: required with GROUP_SIZE above 1"),
        ({"worker_id": ""}, "HORTATOR_WORKER_WORKER_ID: required with GROUP_SIZE above 1"),
        ({"leader_address": ""}, "HORTATOR_WORKER_LEADER_ADDRESS: required in members other than ordinal 0"),
        (
            {"engine": "torch_moe"},
            "HORTATOR_WORKER_GROUP_SIZE: got 4, but torch_moe runs all its ranks in one pod",
        ),
        ({"heartbeat_timeout_s": 2.0}, "HORTATOR_WORKER_HEARTBEAT_TIMEOUT_S: must be more than twice"),
    ],
)
def test_what_does_not_fit_together_is_named(change, message):
    settings = WorkerSettings.load(**(IN_A_GROUP | change))
    if message is None:
        assert settings.group_place().ordinal == 0
        return
    with pytest.raises(SettingsError, match=re.escape(message)):
        settings.group_place()


def test_a_boot_id_begins_with_the_epoch_and_differs_at_every_start():
    settings = WorkerSettings.load(**IN_A_GROUP)
    first, second = settings.new_boot_id(), settings.new_boot_id()
    assert first != second
    assert re.fullmatch(r"3-[0-9a-f]{16}", first)
    assert re.fullmatch(
        r"3-x7-[0-9a-f]{16}", WorkerSettings.load(**IN_A_GROUP, incarnation="x7").new_boot_id()
    )
    assert re.fullmatch(r"[0-9a-f]{16}", WorkerSettings.load().new_boot_id())


@pytest.mark.parametrize(
    ("settings", "advertised"),
    [
        ({}, "0.0.0.0:7071"),
        ({"advertise_host": "10.0.0.7"}, "10.0.0.7:7071"),
        ({"advertise_host": "fd00::7"}, "[fd00::7]:7071"),
        ({"advertise_host": "10.0.0.7", "advertise_address": "w.example:1"}, "w.example:1"),
    ],
)
def test_others_are_told_where_this_worker_is_reached(settings, advertised):
    assert WorkerSettings.load(**settings).advertised("0.0.0.0:7071") == advertised


def a_member(boot: str, *, epoch: int = 3) -> Member:
    place = GroupPlace(worker_id="w", group_size=2, ordinal=1, epoch=epoch, pod_name="svc-d-0-1")
    return Member(place=place, boot_id=boot)


def test_a_second_boot_of_a_pod_in_an_epoch_finds_the_record_of_the_first(tmp_path):
    claim_epoch(tmp_path, a_member("3-a"), pod_uid="u1")
    with pytest.raises(
        GroupBrokenError, match=r"pod svc-d-0-1 has run epoch 3 already \(boot 3-a\)"
    ) as caught:
        claim_epoch(tmp_path, a_member("3-b"), pod_uid="u1")
    assert caught.value.exit_code == 72


def test_another_pod_or_another_epoch_is_nobody_s_second_boot(tmp_path):
    claim_epoch(tmp_path, a_member("3-a"), pod_uid="u1")
    claim_epoch(tmp_path, a_member("3-b"), pod_uid="u2")
    claim_epoch(tmp_path, a_member("4-a", epoch=4), pod_uid="u1")

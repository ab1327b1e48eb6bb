"""What a member says of itself arrives as it was said."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hortator.rpc.worker.v1 import group_pb2
from hortator.worker.group.assembly import SayStarted, Welcome
from hortator.worker.group.codec import decode_hello, decode_response, encode_command, encode_hello
from hortator.worker.group.member import GroupLimits, GroupPlace, Member, Shell
from hortator.worker.group.membership import EngineStarted, Welcomed


def test_every_field_of_a_hello_arrives():
    place = GroupPlace(
        worker_id="decode-0",
        group_size=4,
        ordinal=2,
        epoch=7,
        pod_name="svc-d-0-2",
        node_name="n1",
        incarnation="x7",
    )
    assert all(getattr(place, one.name) for one in dataclasses.fields(place)), (
        "a field left out would be missed"
    )
    shell = Shell(host="svc-d-0-2.svc-d-0.ns.svc", port=2222, host_key="ssh-ed25519 AAAA")
    for member in (
        Member(place=place, boot_id="7-x7-ab"),
        Member(place=place, boot_id="7-x7-ab", shell=shell, proof=b"proof"),
    ):
        assert decode_hello(encode_hello(member).hello) == member


def test_a_welcome_brings_the_key_that_ordinal_0_will_log_in_with():
    message = encode_command(
        Welcome(link=1), GroupLimits(), launch_key="ssh-ed25519 BBBB", launch_proof=b"proof"
    )
    assert decode_response(message) == Welcomed(
        heartbeat_interval_s=1.0,
        heartbeat_timeout_s=6.0,
        launch_key="ssh-ed25519 BBBB",
        launch_proof=b"proof",
    )


def test_members_hear_that_the_engine_has_started():
    assert decode_response(encode_command(SayStarted(links=(1,)), GroupLimits())) == EngineStarted()


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-63, 1e300])
def test_an_impossible_time_in_a_welcome_counts_as_none(seconds):
    welcome = group_pb2.MemberWelcome(heartbeat_interval_s=seconds, heartbeat_timeout_s=seconds)
    assert decode_response(group_pb2.JoinResponse(welcome=welcome)) == Welcomed(
        heartbeat_interval_s=0.0, heartbeat_timeout_s=0.0, launch_key="", launch_proof=b""
    )

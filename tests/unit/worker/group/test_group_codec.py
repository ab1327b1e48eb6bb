"""What a member says of itself arrives as it was said."""

from __future__ import annotations

import dataclasses

from hortator.worker.group.codec import decode_hello, encode_hello
from hortator.worker.group.member import GroupPlace, Member


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
    member = Member(place=place, boot_id="7-x7-ab")
    assert decode_hello(encode_hello(member).hello) == member

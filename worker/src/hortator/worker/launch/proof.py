"""That a key on the join channel comes from a pod of the group: a HMAC with the group's secret.

A pod's sshd takes the key that ordinal 0 sends, and ordinal 0 logs in where a member says. Each says so with
the secret that only pods of the group can read; the boot ids in it keep a proof from being used again.
Without a secret (one machine) both proofs are empty.
"""

from __future__ import annotations

import hashlib
import hmac

from hortator.worker.group.member import Member


def of_member(secret: bytes, member: Member) -> bytes:
    """For a hello."""
    place, shell = member.place, member.shell
    assert shell is not None  # noqa: S101  # only such hellos are proven
    said = ("member", place.worker_id, place.ordinal, place.epoch, place.incarnation, member.boot_id)
    return _of(secret, *said, shell.host, shell.port, shell.host_key)


def of_leader(secret: bytes, member: Member, launch_key: str) -> bytes:
    """For the welcome of one boot."""
    return _of(secret, "leader", member.boot_id, launch_key)


def fits(given: bytes, expected: bytes) -> bool:
    """In a time that says nothing."""
    return hmac.compare_digest(given, expected)


def _of(secret: bytes, *parts: object) -> bytes:
    if not secret:
        return b""
    return hmac.new(secret, "\0".join(map(str, parts)).encode(), hashlib.sha256).digest()

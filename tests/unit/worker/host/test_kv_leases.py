"""Leases on KV that waits to be pulled end exactly once."""

from __future__ import annotations

import pytest

from hortator.worker.errors import UnknownLeaseError
from hortator.worker.kv_leases import KvLeases


@pytest.fixture
def leases() -> KvLeases:
    leases = KvLeases(duration_s=30.0)
    leases.grant("a", "gateway-1", 0.0)
    leases.grant("b", "gateway-2", 1.0)
    return leases


def test_a_lease_expires_after_its_time(leases):
    assert leases.next_expiry() == 30.0
    assert leases.expire(29.9) == []
    assert leases.expire(30.0) == ["a"]
    assert leases.next_expiry() == 31.0
    assert len(leases) == 1


def test_a_released_lease_is_gone(leases):
    assert leases.release("a")
    assert not leases.release("a")
    with pytest.raises(UnknownLeaseError):
        leases.start_pull("a")


def test_a_lease_does_not_expire_while_it_is_pulled(leases):
    leases.start_pull("a")
    assert leases.expire(31.0) == ["b"]
    assert leases.next_expiry() is None
    assert not leases.end_pull("a")
    assert leases.expire(31.0) == ["a"]


def test_a_lease_that_is_revoked_while_pulled_ends_with_the_pull(leases):
    leases.start_pull("a")
    assert not leases.revoke("a")
    with pytest.raises(UnknownLeaseError):
        leases.start_pull("a")
    assert leases.end_pull("a")
    assert len(leases) == 1


def test_the_loss_of_a_gateway_revokes_its_leases_only(leases):
    assert leases.revoke_owned_by("gateway-1") == ["a"]
    assert len(leases) == 1


def test_a_release_during_the_pull_ends_the_lease_once(leases):
    leases.start_pull("a")
    assert leases.release("a")
    assert not leases.end_pull("a")

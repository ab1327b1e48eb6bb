"""How long, and how much, is kept for gateways that are gone."""

import pytest

from hortator.worker.orphans import Orphans


@pytest.fixture
def orphans():
    return Orphans(keep_s=30.0, max_orphans=3, max_tokens=100)


def test_an_orphan_is_kept_for_its_time(orphans):
    assert orphans.next_expiry() is None
    assert orphans.add(b"a", 5, 1.0) == []
    assert orphans.add(b"b", 5, 2.0) == []
    assert orphans.next_expiry() == 31.0
    assert orphans.expire(30.9) == []
    assert orphans.expire(31.0) == [b"a"]
    assert b"b" in orphans
    assert orphans.num_tokens == 5


def test_one_that_was_attached_to_is_none_any_more(orphans):
    orphans.add(b"a", 5, 1.0)
    assert orphans.remove(b"a")
    assert not orphans.remove(b"a")
    assert orphans.expire(100.0) == []
    assert (len(orphans), orphans.num_tokens) == (0, 0)


def test_beyond_their_number_the_oldest_goes(orphans):
    for at, name in enumerate((b"a", b"b", b"c")):
        assert orphans.add(name, 1, float(at)) == []
    assert orphans.add(b"d", 1, 4.0) == [b"a"]
    assert len(orphans) == 3


def test_beyond_their_tokens_the_oldest_go(orphans):
    for at, name in enumerate((b"a", b"b", b"c")):
        orphans.add(name, 30, float(at))
    assert orphans.grow(b"c", 10) == []  # 100
    assert orphans.grow(b"c", 31) == [b"a", b"b"]  # 131, 101, 71
    assert orphans.num_tokens == 71


def test_one_that_is_too_long_by_itself_is_not_kept(orphans):
    orphans.add(b"a", 1, 0.0)
    assert orphans.add(b"b", 101, 1.0) == [b"a", b"b"]
    assert len(orphans) == 0


def test_none_are_kept_where_none_may_be():
    assert Orphans(max_orphans=0).add(b"a", 1, 0.0) == [b"a"]

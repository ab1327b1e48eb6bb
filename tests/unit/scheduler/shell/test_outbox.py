from __future__ import annotations

import asyncio

import pytest

from hortator.scheduler.errors import CloseReason, OutboxClosedError
from hortator.scheduler.outbox import Outbox


async def test_everything_put_in_one_turn_is_taken_at_once_and_in_order():
    outbox: Outbox[int] = Outbox()
    reader = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    for item in (1, 2, 3):
        outbox.put(item)
    assert await reader == [1, 2, 3]


async def test_take_waits_until_something_is_put():
    outbox: Outbox[int] = Outbox()
    outbox.put(1)
    assert await outbox.take() == [1]
    reader = asyncio.ensure_future(outbox.take())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reader.done()
    outbox.put(2)
    assert await reader == [2]


async def test_a_closed_outbox_gives_what_is_in_and_then_the_reason():
    outbox: Outbox[int] = Outbox()
    outbox.put(1)
    outbox.close(CloseReason.STOPPED)
    outbox.close(CloseReason.REPLACED)
    outbox.put(2)
    assert await outbox.take() == [1]
    with pytest.raises(OutboxClosedError) as caught:
        await outbox.take()
    assert caught.value.reason is CloseReason.STOPPED


async def test_closing_wakes_a_reader_that_waits():
    outbox: Outbox[int] = Outbox()
    reader = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    outbox.close(CloseReason.DECLARED_LOST)
    with pytest.raises(OutboxClosedError):
        await reader


async def test_a_peer_that_does_not_read_is_cut_off_at_the_limit_and_its_items_freed():
    outbox: Outbox[int] = Outbox(limit=3)
    for item in range(4):
        outbox.put(item)
    assert outbox.is_closed
    assert len(outbox) == 0
    with pytest.raises(OutboxClosedError) as caught:
        await outbox.take()
    assert caught.value.reason is CloseReason.OVERFLOW


async def test_a_newer_stream_gets_what_the_older_one_did_not_write():
    older: Outbox[int] = Outbox()
    older.put(1)
    assert await older.take() == [1]
    older.put(2)
    newer: Outbox[int] = Outbox()
    newer.take_over(older)
    newer.put(3)
    assert await newer.take() == [2, 3]
    with pytest.raises(OutboxClosedError) as caught:
        await older.take()
    assert caught.value.reason is CloseReason.REPLACED


async def test_kept_items_are_told_again_to_the_stream_that_takes_over_but_only_the_newest():
    older: Outbox[int] = Outbox(keep_taken=2)
    for item in (1, 2, 3):
        older.put(item)
    assert await older.take() == [1, 2, 3]
    older.put(4)
    newer: Outbox[int] = Outbox(keep_taken=2)
    newer.take_over(older)
    assert await newer.take() == [2, 3, 4]


async def test_what_the_next_one_says_better_is_not_kept_for_the_stream_that_takes_over():
    older: Outbox[object] = Outbox(keep_taken=2, passing=(str,))
    for item in (1, "beat", 2, "beat", "beat"):
        older.put(item)
    assert await older.take() == [1, "beat", 2, "beat", "beat"]
    newer: Outbox[object] = Outbox(keep_taken=2, passing=(str,))
    newer.take_over(older)
    assert await newer.take() == [1, 2]

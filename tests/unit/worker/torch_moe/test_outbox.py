"""The stream to one consumer."""

import asyncio

import pytest

from hortator.worker.engines.torch_moe.outbox import Outbox


async def test_items_come_in_order_and_the_stream_ends():
    outbox = Outbox()
    outbox.put(1)
    outbox.put(2)
    outbox.close()
    outbox.put(3)
    assert [item async for item in outbox.stream()] == [1, 2]


async def test_an_error_comes_after_what_was_put_before_it():
    outbox = Outbox()
    outbox.put(1)
    outbox.close(RuntimeError("gone"))
    outbox.close()
    stream = outbox.stream()
    assert await anext(stream) == 1
    with pytest.raises(RuntimeError, match="gone"):
        await anext(stream)


async def test_a_waiting_consumer_wakes_up():
    outbox = Outbox()

    async def consume():
        return [item async for item in outbox.stream()]

    async with asyncio.TaskGroup() as tasks:
        consumer = tasks.create_task(consume())
        await asyncio.sleep(0)
        outbox.put(1)
        await asyncio.sleep(0)
        outbox.close()
    assert consumer.result() == [1]

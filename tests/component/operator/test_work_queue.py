"""The work queue: one look at a time per service, news joined, failures spaced out."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from hortator.operator.work_queue import Done, Failed, Key, WorkQueue

pytestmark = pytest.mark.looptime

A, B = ("default", "a"), ("default", "b")


class Looks:
    """What the queue asked for, and what it is answered."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Key]] = []
        self.running: dict[Key, int] = {}
        self.takes_s = 0.0
        self.answer: Callable[[Key], Done | Failed] = lambda _key: Done()

    async def __call__(self, key: Key) -> Done | Failed:
        self.seen.append((asyncio.get_running_loop().time(), key))
        self.running[key] = self.running.get(key, 0) + 1
        assert self.running[key] == 1, "two looks at one service at once"
        await asyncio.sleep(self.takes_s)
        self.running[key] -= 1
        return self.answer(key)

    def times(self, key: Key = A) -> list[float]:
        return [at for at, seen in self.seen if seen == key]


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
async def queue(looks: Looks) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(
        looks, num_workers=2, settle_s=0.1, base_backoff_s=1.0, max_backoff_s=8.0, jitter=lambda: 1.0
    )
    running = asyncio.create_task(queue.run())
    yield queue
    queue.close()
    await running


async def test_a_burst_of_news_is_one_look(queue: WorkQueue, looks: Looks) -> None:
    for _ in range(50):
        queue.add(A)
    await asyncio.sleep(5)
    assert looks.times() == [pytest.approx(0.1)]


async def test_news_during_a_look_make_one_more(queue: WorkQueue, looks: Looks) -> None:
    looks.takes_s = 2.0
    queue.add(A)
    await asyncio.sleep(1)
    queue.add(A)
    queue.add(A)
    await asyncio.sleep(10)
    assert looks.times() == [pytest.approx(0.1), pytest.approx(2.2)]


async def test_services_do_not_wait_for_each_other(queue: WorkQueue, looks: Looks) -> None:
    looks.takes_s = 5.0
    queue.add(A)
    queue.add(B)
    await asyncio.sleep(1)
    assert {key for _, key in looks.seen} == {A, B}


async def test_a_look_is_repeated_when_it_asked_to(queue: WorkQueue, looks: Looks) -> None:
    answers = iter([Done(wake_after_s=30.0), Done()])
    looks.answer = lambda _key: next(answers)
    queue.add(A)
    await asyncio.sleep(100)
    assert looks.times() == [pytest.approx(0.1), pytest.approx(30.1)]


async def test_news_come_before_the_time_that_was_asked_for(queue: WorkQueue, looks: Looks) -> None:
    answers = iter([Done(wake_after_s=30.0), Done(), Done()])
    looks.answer = lambda _key: next(answers)
    queue.add(A)
    await asyncio.sleep(5)
    queue.add(A)
    await asyncio.sleep(100)
    assert looks.times() == [pytest.approx(0.1), pytest.approx(5.1)]


async def test_failures_wait_longer_and_longer(queue: WorkQueue, looks: Looks) -> None:
    looks.answer = lambda _key: Failed()
    queue.add(A)
    await asyncio.sleep(40)
    gaps = [later - sooner for sooner, later in zip(looks.times(), looks.times()[1:], strict=False)]
    assert gaps == pytest.approx([1, 2, 4, 8, 8, 8, 8])


async def test_news_do_not_hurry_a_failing_service(queue: WorkQueue, looks: Looks) -> None:
    looks.answer = lambda _key: Failed(retry_after_s=20.0)
    queue.add(A)
    await asyncio.sleep(1)
    for _ in range(10):
        queue.add(A)
        await asyncio.sleep(1)
    assert len(looks.times()) == 1
    await asyncio.sleep(15)
    assert looks.times() == [pytest.approx(0.1), pytest.approx(20.1)]


async def test_progress_begins_the_pauses_anew(queue: WorkQueue, looks: Looks) -> None:
    answers = iter([Failed(), Failed(), Failed(has_progressed=True), Failed(), Done()])
    looks.answer = lambda _key: next(answers)
    queue.add(A)
    await asyncio.sleep(40)
    gaps = [later - sooner for sooner, later in itertools.pairwise(looks.times())]
    assert gaps == pytest.approx([1, 2, 1, 2])


async def test_success_forgets_the_failures(queue: WorkQueue, looks: Looks) -> None:
    answers = iter([Failed(), Failed(), Done(), Failed(), Done()])
    looks.answer = lambda _key: next(answers)
    queue.add(A)
    await asyncio.sleep(10)
    queue.add(A)
    await asyncio.sleep(10)
    gaps = [later - sooner for sooner, later in zip(looks.times(), looks.times()[1:], strict=False)]
    assert gaps[:2] == pytest.approx([1, 2])
    assert gaps[3] == pytest.approx(1)


async def test_closing_finishes_what_is_under_way_and_begins_nothing() -> None:
    looks = Looks()
    looks.takes_s = 3.0
    queue = WorkQueue(looks, num_workers=1, settle_s=0.1)
    running = asyncio.create_task(queue.run())
    queue.add(A)
    queue.add(B)
    await asyncio.sleep(1)
    queue.close()
    await running
    assert asyncio.get_running_loop().time() == pytest.approx(3.1)
    assert [key for _, key in looks.seen] == [A]

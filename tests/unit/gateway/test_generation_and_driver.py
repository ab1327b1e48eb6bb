"""What readers see of a growing output, and which tokens wait for company."""

from __future__ import annotations

import asyncio
from array import array

import pytest
from prometheus_client import CollectorRegistry

from hortator.gateway.coalescing import Coalescer
from hortator.gateway.detokenization import OutputText
from hortator.gateway.driver import Driver
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.generation import Generation, RequestFacts, Subscriber
from hortator.gateway.idempotency import KeyedGenerations
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.placement import (
    CompletionReason,
    Phase,
    Placement,
    Rejection,
    RejectReason,
    WorkerCompletion,
    WorkerSampling,
    WorkerTarget,
)
from hortator.gateway.request import RequestMachine
from hortator.gateway.tokenization import ByteTokenizer

BYTES = ByteTokenizer()
TARGET = WorkerTarget("h:1", "boot")


class RecordingPort:
    """Scheduler and workers in one: notes what it is told."""

    def __init__(self) -> None:
        self.disconnected_at: float | None = None
        self.epoch = 0
        self.told: list[tuple] = []

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: self.told.append((name, args, kwargs))

    def names(self) -> list[str]:
        return [name for name, _, _ in self.told]


class Bench:
    """A driver with one hundred streams' worth of coalescing: windows of 50 ms."""

    def __init__(self) -> None:
        self.coalescer = Coalescer(max_window_s=0.05, target_messages_per_s=10)
        self.port = RecordingPort()
        self.driver = Driver(
            metrics=GatewayMetrics(CollectorRegistry()),
            coalescer=self.coalescer,
            keyed=KeyedGenerations(retention_s=30),
            queue_timeout_s=5,
        )
        self.driver.attach(scheduler=self.port, workers=self.port)

    def start(self, *, max_tokens=1000, stops=(), request_id="r") -> tuple[Generation, Subscriber]:
        facts = RequestFacts(
            request_id=request_id,
            prompt_token_ids=array("I", [1, 2]),
            block_hashes=[],
            sampling=WorkerSampling(max_tokens=max_tokens),
        )
        generation = Generation(
            facts=facts,
            machine=RequestMachine(num_prompt_tokens=2, max_tokens=max_tokens),
            new_output_text=lambda: OutputText(BYTES.new_detokenizer(), stops),
            accepted_at=self.now,
        )
        subscriber = generation.subscribe(0)
        self.driver.start(generation)
        placement = Placement(
            request_id=request_id, attempt=0, phase=Phase.AGGREGATED, worker_id="w", target=TARGET
        )
        self.driver.placed(placement)
        return generation, subscriber

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def tokens(self, text: str | bytes, *, at: int, now: float, request_id="r") -> None:
        ids = list(text.encode() if isinstance(text, str) else text)
        self.driver.tokens_arrived(request_id, 0, at, ids, now)

    def completed(self, number: int) -> None:
        completion = WorkerCompletion(
            request_id="r", attempt=0, reason=CompletionReason.STOP, num_output_tokens=number
        )
        self.driver.worker_completed(completion)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def test_a_reader_that_comes_back_gets_the_text_that_follows_its_tokens():
    text = "añ漢🦜z"
    ids = BYTES.encode(text)
    machine = RequestMachine(num_prompt_tokens=1, max_tokens=100)
    machine.output_ids.extend(ids)
    facts = RequestFacts(
        request_id="r",
        prompt_token_ids=array("I", [1]),
        block_hashes=[],
        sampling=WorkerSampling(max_tokens=100),
    )
    generation = Generation(
        facts=facts,
        machine=machine,
        new_output_text=lambda: OutputText(BYTES.new_detokenizer()),
        accepted_at=0.0,
    )
    generation.text = text
    generation.num_released = len(ids)
    for start in range(len(ids) + 1):
        had = bytes(ids[:start]).decode(errors="ignore")  # what was shown with those tokens
        news = generation.subscribe(start).take()
        if had == text:
            assert news is None
        else:
            assert news is not None
            assert (news[0], list(news[1]), news[2]) == (start, ids[start:], text[len(had) :])


async def test_the_first_token_goes_out_at_once_and_the_next_wait_for_company(bench):
    _, subscriber = bench.start()
    assert subscriber.take() is None
    now = bench.now
    bench.tokens("a", at=0, now=now)
    assert subscriber.take() == (0, array("I", list(b"a")), "a")
    bench.tokens("b", at=1, now=now + 0.01)
    bench.tokens("c", at=2, now=now + 0.02)
    assert subscriber.take() is None
    await asyncio.wait_for(subscriber.wait(), 1)  # the wheel turns
    assert subscriber.take() == (1, array("I", list(b"bc")), "bc")
    assert bench.now - now <= 0.05 + 0.05  # the window, and a slow machine


async def test_a_token_that_comes_a_window_after_the_last_message_is_not_held(bench):
    _, subscriber = bench.start()
    now = bench.now
    bench.tokens("a", at=0, now=now)
    bench.tokens("b", at=1, now=now + 0.06)
    assert subscriber.take() == (0, array("I", list(b"ab")), "ab")


async def test_the_last_token_takes_what_was_held_along_at_once(bench):
    generation, subscriber = bench.start()
    now = bench.now
    bench.tokens("a", at=0, now=now)
    bench.tokens("b", at=1, now=now + 0.001)
    bench.tokens("c", at=2, now=now + 0.002)
    bench.completed(3)
    assert subscriber.take() == (0, array("I", list(b"abc")), "abc")
    assert generation.end is not None
    assert generation.end.finish is not None
    assert bench.port.names()[-1] == "request_finished"


async def test_half_a_character_at_the_end_is_shown_as_replacement_with_the_completion(bench):
    _, subscriber = bench.start()
    bench.tokens("é".encode()[:1], at=0, now=bench.now)
    assert subscriber.take() == (0, array("I", [0xC3]), "")
    bench.completed(1)
    assert subscriber.take() == (1, array("I"), "\ufffd")


async def test_a_stop_string_that_arrives_with_the_completion_wins(bench):
    generation, subscriber = bench.start(stops=["c"])
    now = bench.now
    bench.tokens("a", at=0, now=now)
    bench.tokens("bcd", at=1, now=now + 0.001)  # held, and not looked at yet
    bench.completed(4)
    assert subscriber.take() == (0, array("I", list(b"abc")), "ab")
    assert generation.machine.output_ids == array("I", list(b"abc"))


async def test_windows_follow_the_number_of_streams(bench):
    assert bench.coalescer.window_s == 0
    bench.start()
    assert bench.coalescer.window_s == 0  # nothing streams before its first token
    bench.tokens("a", at=0, now=bench.now)
    assert bench.coalescer.window_s == 0.05
    bench.completed(1)
    assert bench.coalescer.window_s == 0
    assert bench.driver.num_in_flight == 0


async def test_what_arrived_before_a_failure_is_still_readable(bench):
    generation, subscriber = bench.start()
    now = bench.now
    bench.tokens("a", at=0, now=now)
    bench.tokens("b", at=1, now=now + 0.001)
    error = GatewayError(ErrorKind.UNAVAILABLE, "gone")
    bench.driver.end_early(generation, error)
    assert subscriber.take() == (0, array("I", list(b"ab")), "ab")
    assert generation.end.error is error
    assert {"abort", "cancel"} <= set(bench.port.names())


async def test_waiting_in_vain_counts_from_the_loss_of_the_scheduler(bench):
    generation, _ = bench.start()
    bench.driver.worker_lost(TARGET, "drained", crashed=False)  # back to waiting
    bench.driver.sweep_once(bench.now + 1e6)
    assert generation.end is None  # a scheduler is there: its word counts
    bench.port.disconnected_at = bench.now
    bench.driver.sweep_once(bench.port.disconnected_at + 4.9)
    assert generation.end is None
    bench.driver.sweep_once(bench.port.disconnected_at + 5.1)
    assert generation.end.error.kind is ErrorKind.UNAVAILABLE


async def test_what_a_draining_scheduler_turns_away_waits_for_the_next_one_as_long_as_without_any(bench):
    generation, _ = bench.start()
    bench.driver.worker_lost(TARGET, "drained", crashed=False)
    bench.driver.rejected(Rejection(request_id="r", attempt=1, reason=RejectReason.DRAINING))
    turned_away_at = bench.now
    bench.driver.sweep_once(turned_away_at + 4.9)
    bench.port.disconnected_at = turned_away_at + 4.0
    bench.driver.sweep_once(turned_away_at + 4.9)
    bench.port.disconnected_at = None
    bench.driver.scheduler_connected()
    assert bench.port.names().count("announce") == 3
    bench.driver.sweep_once(turned_away_at + 100.0)
    assert generation.end is None  # the next one holds it
    bench.driver.rejected(Rejection(request_id="r", attempt=1, reason=RejectReason.DRAINING))
    bench.port.disconnected_at = bench.now + 4.0
    bench.driver.sweep_once(bench.now + 5.1)
    assert generation.end.error.kind is ErrorKind.UNAVAILABLE


async def test_a_running_stream_is_not_ended_because_the_scheduler_is_gone(bench):
    generation, _ = bench.start()
    bench.tokens("a", at=0, now=bench.now)
    bench.port.disconnected_at = bench.now
    bench.driver.sweep_once(bench.now + 1e6)
    assert generation.end is None


async def test_who_loses_its_worker_late_in_a_time_without_schedulers_waits_as_long_as_others(bench):
    generation, _ = bench.start()
    generation.accepted_at = generation.waiting_since = bench.now - 100.0
    bench.port.disconnected_at = bench.now - 50.0
    bench.driver.worker_lost(TARGET, "gone", crashed=False)
    bench.driver.sweep_once(bench.now + 4.9)
    assert generation.end is None
    bench.driver.sweep_once(bench.now + 5.1)
    assert generation.end is not None
    assert generation.end.error is not None
    assert generation.end.error.kind is ErrorKind.UNAVAILABLE
    assert bench.driver.num_in_flight == 0


async def test_a_late_placement_of_a_withdrawn_attempt_is_answered(bench):
    """The word that it was withdrawn may be lost on the way: without an answer its place would stay taken."""
    bench.start()
    bench.driver.worker_lost(TARGET, "gone", crashed=False)
    late = Placement(request_id="r", attempt=0, phase=Phase.AGGREGATED, worker_id="w", target=TARGET)
    bench.driver.placed(late)
    assert ("cancel", ("r", 0), {}) in bench.port.told
    assert bench.port.names().count("submit") == 1

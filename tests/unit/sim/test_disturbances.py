"""What may be disturbed, how it is written, and what is drawn."""

from math import inf

import pytest

from hortator.sim.disturbances import Disturbances, Draws, Streams, parse_disturbances


def test_every_disturbance_can_be_written():
    text = (
        "latency=5ms,jitter=50%,report-delay=20ms,report-loss=1%,length-error=0.1,loss-at=1m,loss-every=5m,"
        "away=40s,engine-factor=1.21,floor-factor=0.5,slow-rank=1.3"
    )
    assert parse_disturbances(text) == Disturbances(
        latency_s=0.005,
        jitter=0.5,
        report_delay_s=0.02,
        report_loss=0.01,
        length_error=0.1,
        loss_at_s=60.0,
        loss_every_s=300.0,
        away_s=40.0,
        engine_factor=1.21,
        floor_factor=0.5,
        slow_rank=1.3,
    )


def test_what_was_given_is_said_in_the_same_words():
    assert Disturbances().given() == {}
    assert parse_disturbances("latency=2ms,slow-rank=1.1").given() == {"latency": 0.002, "slow-rank": 1.1}
    assert parse_disturbances("") == Disturbances()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("delay=5ms", "got 'delay=5ms' (allowed: NAME=VALUE with latency, jitter, "),
        ("latency=5", "latency: got '5' (allowed: a duration like"),
        ("jitter=lots", "jitter: got 'lots' (allowed: a number like 1.3, or 10%)"),
        ("jitter=120%", "jitter: got 1.2 (allowed: 0% to 100%)"),
        ("slow-rank=0.5", "slow-rank: got 0.5 (allowed: 1 to 10)"),
        ("engine-factor=nan", "engine-factor: got nan (allowed: 0.1 to 10)"),
        ("jitter=1%,jitter=2%", "jitter is there twice"),
    ],
)
def test_a_wrong_one_is_told_with_what_is_allowed(text, message):
    with pytest.raises(ValueError) as refused:
        parse_disturbances(text)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "are_in_transit"),
    [
        ("", False),
        ("engine-factor=1.1,floor-factor=0.5,slow-rank=1.3", False),
        ("away=5s,jitter=10%", False),
        ("latency=1ms", True),
        ("loss-at=10s", True),
        ("report-loss=1%", True),
        ("length-error=1%", True),
    ],
)
def test_slow_engines_need_no_messages_that_take_time(text, are_in_transit):
    assert parse_disturbances(text).are_in_transit is are_in_transit


def test_jitter_keeps_the_mean_of_the_latency_and_has_a_floor():
    draws = Draws(Disturbances(latency_s=0.01, jitter=0.5), seed=3)
    delays = [draws.delay_s() for _ in range(20_000)]
    assert sum(delays) / len(delays) == pytest.approx(0.01, rel=0.02)
    assert min(delays) == pytest.approx(0.005, rel=0.01)
    assert max(delays) > 0.03


def test_deaths_and_lengths_do_not_depend_on_how_many_messages_there_were():
    quiet, chatty = (
        Draws(Disturbances(latency_s=0.01, jitter=1.0, loss_every_s=60.0, length_error=0.1), seed=1)
        for _ in range(2)
    )
    for _ in range(100):
        chatty.delay_s()
    assert [quiet.next_loss_s() for _ in range(3)] == [chatty.next_loss_s() for _ in range(3)]
    assert [quiet.length_factor() for _ in range(3)] == [chatty.length_factor() for _ in range(3)]


def test_nothing_is_drawn_where_nothing_is_disturbed():
    draws = Draws(Disturbances(), seed=1)
    assert (draws.delay_s(), draws.length_factor(), draws.is_report_lost()) == (0.0, 1.0, False)
    assert draws.next_loss_s() == inf


def test_messages_of_one_stream_stay_in_order_and_those_of_others_pass():
    sent = []
    draws = Draws(Disturbances(latency_s=0.01, jitter=1.0), seed=2)
    streams = Streams(lambda at, deliver: sent.append((at, deliver)), draws)
    for number in range(200):
        streams.send(f"s{number % 2}", number * 1e-4, lambda: None)
    own = [[at for index, (at, _) in enumerate(sent) if index % 2 == which] for which in (0, 1)]
    assert all(times == sorted(times) for times in own)
    assert [at for at, _ in sent] != sorted(at for at, _ in sent)

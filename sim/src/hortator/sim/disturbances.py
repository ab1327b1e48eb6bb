"""What a real cluster has and the perfect one of `cluster` has not.

Messages take time, news is old, lengths are wrong, groups die, engines are slower than the cost model says.

Everything is drawn from the seed of the run, each kind from its own stream: the same seed gives the same
bytes, and every policy of a seed meets the same deaths and the same wrong lengths.

    delay of a message    latency x (1 - jitter + jitter x e),   e exponential with mean 1
    announced length      length x (1 + length_error x g),       g standard normal; at least 1 token

Messages of one stream (a worker's reports, the batches for a group, a request's gateway) stay in order, so a
late one holds back those behind it, as in gRPC. An announcement and a report take one delay, a batch two: the
placement goes to the gateway, which sends the prompt to the worker.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf

from hortator.api.duration import parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbances:
    """All off by default. Times in virtual seconds, shares 0..1.

    Raises:
        ValueError: `name: got ... (allowed: ...)` for the first field out of range.
    """

    latency_s: float = 0.0
    """Mean delay of one message between two processes."""
    jitter: float = 0.0
    """Share of the latency that is exponentially distributed instead of constant."""
    report_delay_s: float = 0.0
    """What a worker's reports take beyond that: the scheduler sees loads and pass ends this late."""
    report_loss: float = 0.0
    """Share of the reports of passes that never arrive. A worker silent for HEARTBEAT_S reports again."""
    length_error: float = 0.0
    """Standard deviation of the announced prompt length over the true one."""
    loss_at_s: float = inf
    """An EP group (a drawn one) dies at this time."""
    loss_every_s: float = inf
    """Groups die as a Poisson process, one in so many seconds over the whole cluster."""
    away_s: float = 30.0
    """A group that died is back, empty, after this."""
    engine_factor: float = 1.0
    """Every pass takes so many times what the cost model says."""
    floor_factor: float = 1.0
    """So many times what a prefill pass takes whatever its size; decides how long small passes are."""
    slow_rank: float = 1.0
    """The tokens of rank 0 of every group cost so many times as much, and all ranks wait for it."""
    context_wait_iters: float = 0.0
    """Engines hold prompts back for up to so many passes until all ranks have some, as TensorRT-LLM can."""
    batching_wait_iters: float = 0.0
    """And once all have some, for so many more."""

    def __post_init__(self) -> None:
        for field in fields(self):
            least, most, allowed = _ALLOWED[field.name]
            value = getattr(self, field.name)
            if not least <= value <= most:
                raise ValueError(f"{_option(field.name)}: got {value:g} (allowed: {allowed})")

    @property
    def are_in_transit(self) -> bool:
        """Is anything but the engines disturbed?"""
        return any(
            getattr(self, field.name) != field.default
            for field in fields(self)
            if field.name not in {*_OF_ENGINES, "away_s", "jitter"}
        )

    def given(self) -> dict[str, float]:
        """Those that differ from the default, by the name that `parse_disturbances` takes."""
        values = {field: getattr(self, field.name) for field in fields(self)}
        return {_option(field.name): value for field, value in values.items() if value != field.default}


HEARTBEAT_S = 0.5
"""Of workers, by default."""
_OF_ENGINES = frozenset(
    {"engine_factor", "floor_factor", "slow_rank", "context_wait_iters", "batching_wait_iters"}
)
_A_WEEK_S = 7 * 86400.0
_DELAY = (0.0, 10.0, "0s to 10s")
_SHARE = (0.0, 1.0, "0% to 100%")
_TIME = (0.001, inf, "1ms or more")
_ALLOWED: Mapping[str, tuple[float, float, str]] = {
    "latency_s": _DELAY,
    "jitter": _SHARE,
    "report_delay_s": _DELAY,
    "report_loss": (0.0, 0.9, "0% to 90%"),
    "length_error": _SHARE,
    "loss_at_s": _TIME,
    "loss_every_s": _TIME,
    "away_s": (0.001, _A_WEEK_S, "1ms to a week"),
    "engine_factor": (0.1, 10.0, "0.1 to 10"),
    "floor_factor": (0.0, 10.0, "0 to 10"),
    "slow_rank": (1.0, 10.0, "1 to 10"),
    "context_wait_iters": (0.0, 10_000.0, "0 to 10000"),
    "batching_wait_iters": (0.0, 10_000.0, "0 to 10000"),
}


def parse_disturbances(text: str) -> Disturbances:
    """From `latency=5ms,jitter=50%,slow-rank=1.3`; the empty text is none.

    Raises:
        ValueError: names the part that is wrong and what is allowed.
    """
    names = {_option(name): name for name in _ALLOWED}
    given: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        option, _, value = part.strip().partition("=")
        if option not in names:
            raise ValueError(f"got {part.strip()!r} (allowed: NAME=VALUE with {', '.join(names)})")
        name = names[option]
        if name in given:
            raise ValueError(f"{option} is there twice")
        try:
            given[name] = parse_duration(value) if name.endswith("_s") else _parse_number(value)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
    return Disturbances(**given)


def _option(name: str) -> str:
    return name.removesuffix("_s").replace("_", "-")


def _parse_number(text: str) -> float:
    try:
        return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        raise ValueError(f"got {text!r} (allowed: a number like 1.3, or 10%)") from None


class Draws:
    """The random numbers of one run."""

    def __init__(self, disturbances: Disturbances, *, seed: int) -> None:
        self._disturbances = disturbances
        self._delays, self._reports, self._lengths, self._losses = (
            random.Random(f"{seed}/{name}") for name in ("delays", "reports", "lengths", "losses")
        )

    def delay_s(self) -> float:
        """Of one message."""
        latency_s, jitter = self._disturbances.latency_s, self._disturbances.jitter
        if not latency_s or not jitter:
            return latency_s
        return latency_s * (1.0 - jitter + jitter * self._delays.expovariate(1.0))

    def is_report_lost(self) -> bool:
        """Does this report never arrive?"""
        loss = self._disturbances.report_loss
        return loss > 0.0 and self._reports.random() < loss

    def length_factor(self) -> float:
        """Announced over true length of the next request."""
        error = self._disturbances.length_error
        return 1.0 + error * self._lengths.gauss(0.0, 1.0) if error else 1.0

    def next_loss_s(self) -> float:
        """Until the next death; infinite: never."""
        every_s = self._disturbances.loss_every_s
        return self._losses.expovariate(1.0 / every_s) if every_s < inf else inf

    def one_of(self, choose_from: list[str]) -> str:
        """Who dies."""
        return self._losses.choice(choose_from)


Action = Callable[[], None]


class Streams:
    """Delivers messages at their time, those of one stream in the order in which they were sent."""

    def __init__(self, at: Callable[[float, Action], None], draws: Draws) -> None:
        self._at = at
        self._draws = draws
        self._arrived_at: dict[str, float] = {}

    def send(
        self, stream: str, now: float, deliver: Action, *, num_hops: int = 1, extra_s: float = 0.0
    ) -> None:
        """Call `deliver` when the message is there."""
        at = now + extra_s
        for _ in range(num_hops):
            at += self._draws.delay_s()
        at = max(at, self._arrived_at.get(stream, 0.0))
        self._arrived_at[stream] = at
        self._at(at, deliver)

    def close(self, stream: str) -> None:
        """Nothing more comes on it."""
        self._arrived_at.pop(stream, None)

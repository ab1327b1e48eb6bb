"""What is asked of a cluster: requests with arrival times, and generators of them.

A generated workload is lengths x arrivals, each a function of a random generator. `generate` gives both
their own stream of one seed, so two workloads that differ only in arrivals have the same lengths in the same
order (common random numbers: differences between policies are not differences between draws). `streams` draws
the same requests a chunk at a time.

Lengths are *fits*, not data:

- `conversation_lengths`: a mixture fitted by hand to the Azure 2023 conversation trace (19,366 requests).
  That trace is not log-normal: it is mostly a few fixed prompt templates, each with its own output length,
  over a broad background. The mixture below has prompt mean 1,158 and median 1,014 (trace: 1,155 and 1,020),
  output mean 212 and median 131 (trace: 211 and 129), a longest prompt of 14,050, and the correlation of both
  lengths. It knows nothing of order: in the trace the shares of the templates drift over the hour.
- `short_prompt_*`: prompts of at most 64 tokens, outputs of at most 1,024, where decode is everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Lengths = Callable[[np.random.Generator, int], tuple[Ints, Ints]]
"""(generator, number of requests) -> prompt tokens, output tokens; all >= 1."""
Draw = Callable[[np.random.Generator, int], NDArray[Any]]
"""(generator, number of requests) -> a number for each; as many at once as are asked for or few by few."""
ArrivalTimes = Callable[[np.random.Generator], Floats]
"""generator -> ascending arrival times in seconds, from 0."""

MAX_CONVERSATION_PROMPT_TOKENS = 14_050
MAX_CONVERSATION_OUTPUT_TOKENS = 1_000
MAX_SHORT_PROMPT_TOKENS = 64
MAX_SHORT_OUTPUT_TOKENS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One request of a recorded or generated workload."""

    arrived_at: float
    """Seconds since the workload began."""
    num_prompt_tokens: int
    num_output_tokens: int
    prefix_block_ids: tuple[int, ...] = ()
    """One per block of `prefix_block_tokens` prompt tokens, the last of which may be partial. Equal ids mean
    an equal prompt up to the end of that block. Empty: nothing is known of the content."""
    prefix_block_tokens: int = 0
    tenant: int = 0
    """Whose it is; see `tenant_name`."""

    def prefix_hashes(self, tokens_per_block: int) -> tuple[int, ...]:
        """Ids of the full prompt blocks at another block size, equal where prefixes are equal.

        Raises:
            ValueError: `tokens_per_block` does not divide the block size of the trace.
        """
        if not self.prefix_block_ids:
            return ()
        parts, rest = divmod(self.prefix_block_tokens, tokens_per_block)
        if rest or not parts:
            raise ValueError(
                f"tokens_per_block {tokens_per_block} does not divide the trace's {self.prefix_block_tokens}"
            )
        num_full = self.num_prompt_tokens // tokens_per_block
        return tuple(
            self.prefix_block_ids[index // parts] * parts + index % parts for index in range(num_full)
        )


def tenant_name(tenant: int) -> str:
    """What the scheduler is told: empty for 0, as where requests name no tenant."""
    return f"tenant-{tenant}" if tenant else ""


def generate(*, lengths: Lengths, arrivals: ArrivalTimes, seed: int) -> tuple[TraceRequest, ...]:
    """Make a workload. The same arguments give the same requests on every machine."""
    length_stream, arrival_stream = seeded(seed)
    times = arrivals(arrival_stream)
    prompts, outputs = lengths(length_stream, len(times))
    return tuple(
        TraceRequest(arrived_at=at, num_prompt_tokens=prompt, num_output_tokens=output)
        for at, prompt, output in zip(times.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    )


def seeded(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """The streams of lengths and of arrivals."""
    lengths, arrivals = np.random.SeedSequence(seed).spawn(2)
    return np.random.default_rng(lengths), np.random.default_rng(arrivals)


# --- lengths -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnLengths:
    """Lengths that are a function of some drawn columns, request by request. Is a `Lengths`."""

    draws: tuple[Draw, ...]
    """Drawn one column after the other, each for all requests."""
    of: Callable[..., tuple[Ints, Ints]]
    """The columns, of any of the requests -> their prompt tokens, output tokens."""

    def __call__(self, rng: np.random.Generator, num_requests: int) -> tuple[Ints, Ints]:
        """For all requests at once."""
        return self.of(*(draw(rng, num_requests) for draw in self.draws))

    def chunks(
        self, rng: np.random.Generator, num_requests: int, num_at_once: int
    ) -> Iterator[tuple[Ints, Ints]]:
        """The same lengths, so many at once: each column has a generator, put where its numbers begin."""
        sizes = [min(num_at_once, num_requests - start) for start in range(0, num_requests, num_at_once)]
        generators = []
        for draw in self.draws:
            generators.append(deepcopy(rng))
            for size in sizes:
                draw(rng, size)
        for size in sizes:
            yield self.of(*(draw(own, size) for draw, own in zip(self.draws, generators, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Component:
    """One kind of prompt in a mixture; normal in tokens, or log-normal where `log_sigma` is set."""

    share: float
    prompt: float
    """Mean, or median of a log-normal."""
    prompt_sigma: float = 0.0
    log_sigma: float = 0.0
    output: float
    output_sigma: float


_CONVERSATION = (
    _Component(share=0.040, prompt=60, prompt_sigma=35, output=85, output_sigma=60),
    _Component(share=0.070, prompt=195, prompt_sigma=18, output=180, output_sigma=38),
    _Component(share=0.245, prompt=399, prompt_sigma=20, output=97, output_sigma=26),
    _Component(share=0.345, prompt=1060, prompt_sigma=85, output=412, output_sigma=42),
    _Component(share=0.030, prompt=1316, prompt_sigma=12, output=168, output_sigma=28),
    _Component(share=0.045, prompt=4083, prompt_sigma=12, output=58, output_sigma=30),
    _Component(share=0.225, prompt=1690, log_sigma=0.6, output=98, output_sigma=30),
)


def _normal(rng: np.random.Generator, num_requests: int) -> Floats:
    return rng.standard_normal(num_requests)


def _kinds(rng: np.random.Generator, num_requests: int) -> Ints:
    shares = [kind.share for kind in _CONVERSATION]
    return rng.choice(len(_CONVERSATION), size=num_requests, p=shares)


def _conversation(kinds: Ints, prompt_noise: Floats, output_noise: Floats) -> tuple[Ints, Ints]:
    prompts = np.empty(len(kinds))
    outputs = np.empty(len(kinds))
    for index, kind in enumerate(_CONVERSATION):
        here = kinds == index
        noise = prompt_noise[here]
        prompts[here] = (
            kind.prompt * np.exp(kind.log_sigma * noise)
            if kind.log_sigma
            else kind.prompt + kind.prompt_sigma * noise
        )
        outputs[here] = kind.output + kind.output_sigma * output_noise[here]
    return (
        _tokens(prompts, 1, MAX_CONVERSATION_PROMPT_TOKENS),
        _tokens(outputs, 8, MAX_CONVERSATION_OUTPUT_TOKENS),
    )


def _uniform_prompts(rng: np.random.Generator, num_requests: int) -> Ints:
    return rng.integers(1, MAX_SHORT_PROMPT_TOKENS + 1, size=num_requests, dtype=np.int64)


def _uniform_outputs(rng: np.random.Generator, num_requests: int) -> Ints:
    return rng.integers(1, MAX_SHORT_OUTPUT_TOKENS + 1, size=num_requests, dtype=np.int64)


def _as_drawn(prompts: Ints, outputs: Ints) -> tuple[Ints, Ints]:
    return prompts, outputs


def _short_prompt_lognormal(prompt_noise: Floats, output_noise: Floats) -> tuple[Ints, Ints]:
    prompts = 24.0 * np.exp(0.6 * prompt_noise)
    outputs = 256.0 * np.exp(0.8 * output_noise)
    return _tokens(prompts, 1, MAX_SHORT_PROMPT_TOKENS), _tokens(outputs, 1, MAX_SHORT_OUTPUT_TOKENS)


conversation_lengths = DrawnLengths(draws=(_kinds, _normal, _normal), of=_conversation)
"""Like the Azure 2023 conversation trace: a fit, see the module docstring."""
short_prompt_uniform_lengths = DrawnLengths(draws=(_uniform_prompts, _uniform_outputs), of=_as_drawn)
"""Prompts uniform in 1..64, outputs uniform in 1..1,024."""
short_prompt_lognormal_lengths = DrawnLengths(draws=(_normal, _normal), of=_short_prompt_lognormal)
"""Prompts log-normal with median 24, at most 64; outputs log-normal with median 256, at most 1,024."""

LENGTHS: Mapping[str, DrawnLengths] = {
    "conversation": conversation_lengths,
    "short-prompt-uniform": short_prompt_uniform_lengths,
    "short-prompt-lognormal": short_prompt_lognormal_lengths,
}
"""By the names that the command line takes."""


def _tokens(values: Floats, least: int, most: int) -> Ints:
    return np.clip(np.rint(values), least, most).astype(np.int64)


# --- arrivals ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonTimes:
    """Independent requests at a rate on average, for a time; how many is drawn too. Is an `ArrivalTimes`.

    Raises:
        ValueError: a rate or duration that is not positive.
    """

    rate_per_s: float
    duration_s: float

    def __post_init__(self) -> None:
        _require_positive(rate_per_s=self.rate_per_s, duration_s=self.duration_s)

    def __call__(self, rng: np.random.Generator) -> Floats:
        """All times."""
        return np.concatenate([*self.chunks(rng, self._num_drawn)])

    def chunks(self, rng: np.random.Generator, num_at_once: int) -> Iterator[Floats]:
        """The same times, at most so many at once.

        Gaps are added up from where the last whole draw ended, so that sums are rounded alike whatever the
        chunks.
        """
        reached = 0.0
        while reached < self.duration_s:
            start, so_far = reached, 0.0
            for first in range(0, self._num_drawn, num_at_once):
                gaps = rng.exponential(1.0 / self.rate_per_s, min(num_at_once, self._num_drawn - first))
                gaps[0] += so_far
                sums = np.cumsum(gaps)
                so_far = float(sums[-1])
                times = start + sums
                yield times[times < self.duration_s]
                reached = float(times[-1])
                if reached >= self.duration_s:
                    return

    @property
    def _num_drawn(self) -> int:
        """Nearly always enough for the whole duration."""
        return int(self.rate_per_s * self.duration_s * 1.1) + 64


def poisson_arrivals(*, rate_per_s: float, duration_s: float) -> PoissonTimes:
    """Independent requests at `rate_per_s` on average, for `duration_s` seconds.

    Raises:
        ValueError: a rate or duration that is not positive.
    """
    return PoissonTimes(rate_per_s=rate_per_s, duration_s=duration_s)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")

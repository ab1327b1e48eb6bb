"""Which points the ablation has: `staggered-plus` with one ingredient less or one knob elsewhere.

An ingredient that nobody misses at any load should go. The knobs say what a tuner that always found the best
of them could gain: if that is little, none is worth having. Variants are settings of the core, so each could
be run in production too. Cluster, chunk budget and lengths are those of the sensitivity study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from hortator.api.v1alpha1 import LLMService
from hortator.sim.load import LoadedTrace
from hortator.sim.simulate import Study, generated_workload, simulate, with_entry_role

POLICY = "staggered-plus"
CHUNK_BUDGET = 4096
WHOLE = "whole"
NEVER = 1e9
"""Seconds that no request lives for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The policy without something, or with a knob elsewhere."""

    name: str
    about: str
    settings: Mapping[str, Any]
    is_knob: bool = False


def _knob(name: str, about: str, **settings: float) -> Variant:
    return Variant(name=name, about=about, settings=settings, is_knob=True)


VARIANTS = (
    Variant(name=WHOLE, about="as it is", settings={}),
    Variant(
        name="no-backlog",
        about="work is worth nothing in itself (beta 0)",
        settings={"backlog_weight": 0.0},
    ),
    Variant(
        name="no-oldest-first",
        about="who has waited has no right to go first, for however long",
        settings={"age_first_s": NEVER, "gathered_first_s": NEVER},
    ),
    Variant(
        name="no-gathering",
        about="who has waited goes first after 5 s only, however many they are",
        settings={"gathered_first_s": NEVER},
    ),
    Variant(
        name="one-level",
        about="a pass may be as long as the longest waiting prompt, twice or four times that, or full",
        settings={"num_levels": 1},
    ),
    Variant(
        name="one-start",
        about="every window begins with the shortest prompt",
        settings={"num_starts": 1},
    ),
    Variant(
        name="linear-attention",
        about="prompts are taken to cost what their tokens do; none is judged by all its passes",
        settings={"attention_pair_cost": 0.0},
    ),
    _knob("weight-2", "beta 2: work is worth less, passes are shorter", backlog_weight=2.0),
    _knob("weight-5", "beta 5", backlog_weight=5.0),
    _knob("weight-20", "beta 20: work is worth more, passes are fuller", backlog_weight=20.0),
    _knob("gathered-after-1", "who has waited for 1 s goes first in company", gathered_first_s=1.0),
    _knob("gathered-after-4", "who has waited for 4 s does", gathered_first_s=4.0),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


def is_knob(name: str) -> bool:
    """Whether a variant has a knob elsewhere; so had those that are not tried any more."""
    return name not in BY_NAME or BY_NAME[name].is_knob


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AblationPoint:
    """Everything that its figures depend on, beside the cluster."""

    load: float
    seed: int
    variant: str

    def key(self) -> str:
        """As one text, the same in every process."""
        return "/".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationPlan:
    """What is simulated."""

    seeds: tuple[int, ...] = (0, 1, 2)
    loads: tuple[float, ...] = (0.5, 0.7, 0.85, 0.95)
    variants: tuple[Variant, ...] = VARIANTS

    def points(self) -> Iterator[AblationPoint]:
        """All of them."""
        for load in self.loads:
            for variant in self.variants:
                yield from self.points_of(variant.name, load)

    def points_of(self, variant: str, load: float) -> list[AblationPoint]:
        """One point per seed."""
        return [AblationPoint(load=load, seed=seed, variant=variant) for seed in self.seeds]


def figures_of(point: AblationPoint, service: LLMService, *, min_run_s: float) -> dict[str, Any]:
    """Simulate a point, prefill only."""
    service = with_entry_role(service, chunk_budget_tokens=CHUNK_BUDGET)
    study = Study(
        service=service,
        workload=_conversation(service.model_dump_json(), point.load, point.seed, min_run_s),
        seed=point.seed,
        prefill_only=True,
        settings=BY_NAME[point.variant].settings,
    )
    return simulate(study, POLICY)


@lru_cache(maxsize=1)
def _conversation(service: str, load: float, seed: int, min_run_s: float) -> LoadedTrace:
    """Points of a load and a seed come one after the other and have the same requests."""
    return generated_workload(
        LLMService.model_validate_json(service), load=load, seed=seed, min_run_s=min_run_s
    )

"""Parameters of a request."""

import functools
from dataclasses import dataclass, field, make_dataclass


@dataclass(kw_only=True)
class SamplingParams:
    """As far as token-id serving needs it (facts s2)."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    n: int = 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    return_perf_metrics: bool = False
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass(slots=True, kw_only=True)
class DisaggregatedParams:
    """The five that every line sets (facts s2.2)."""

    request_type: str | None = None
    first_gen_tokens: list[int] | None = None
    ctx_request_id: int | None = None
    opaque_state: bytes | None = None
    draft_tokens: list[int] | None = None


@functools.cache
def scheduling_params_class(profile):
    """`attention_dp_relax` defaulted to None, which the router cannot compare, before PR #14276 (facts s2.1)."""
    return make_dataclass(
        "SchedulingParams",
        [
            ("attention_dp_rank", int | None, field(default=None)),
            ("attention_dp_relax", bool | None, field(default=profile.relax_default)),
        ],
        slots=True,
        kw_only=True,
    )

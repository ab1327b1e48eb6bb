"""Which release line the double emulates, and what goes wrong on purpose.

`facts sN` in this package means section N of the page on TensorRT-LLM that the adapter was written from; docs/how-to/tensorrt-llm.md
repeats what matters. A process chooses by environment variables, a test by `doubles.trtllm.emulate`.

    TENSORRT_LLM_DOUBLE              1.2.1, 1.3.0rc20 or 1.1.0
    TENSORRT_LLM_DOUBLE_TIME_SCALE   wall seconds per modelled second
    TENSORRT_LLM_DOUBLE_FAULT        hang:N | zombie:N | fatal:N | misplace:N after N passes; split; construct:TEXT;
                                     stuck:N hangs rank N before it takes part (several pods); banner prints at import
"""

import os
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What differs between the lines."""

    version: str
    ranked_rows: bool
    """A statistics row per rank, tagged `attentionDpRank` (facts s0.2, s3): rc15 to rc19 onward."""
    rpc_statistics: bool
    """Reads of statistics do not go silent (facts s3: the RPC path)."""
    relax_default: bool | None
    """Of `SchedulingParams.attention_dp_relax`: None before PR #14276 (facts s2.1)."""
    has_health: bool
    """`_check_health` exists (facts s7: not everywhere)."""
    has_capacity: bool
    """`get_kv_cache_capacity` exists (facts s3.2: late 1.3rc)."""
    has_priority: bool
    """`generate_async(priority=)` exists (facts s2)."""


PROFILES = {
    "1.2.1": Profile(
        version="1.2.1",
        ranked_rows=False,
        rpc_statistics=False,
        relax_default=None,
        has_health=False,
        has_capacity=False,
        has_priority=False,
    ),
    "1.3.0rc20": Profile(
        version="1.3.0rc20",
        ranked_rows=True,
        rpc_statistics=True,
        relax_default=True,
        has_health=True,
        has_capacity=True,
        has_priority=True,
    ),
}
PROFILES["1.1.0"] = replace(PROFILES["1.2.1"], version="1.1.0")  # too old for the adapter


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The profile in use and the time scale."""

    profile: Profile
    time_scale: float = 1.0
    fault: str = ""


current = Setting(
    profile=PROFILES[os.environ.get("TENSORRT_LLM_DOUBLE", "1.2.1")],
    time_scale=float(os.environ.get("TENSORRT_LLM_DOUBLE_TIME_SCALE", "1.0")),
    fault=os.environ.get("TENSORRT_LLM_DOUBLE_FAULT", ""),
)

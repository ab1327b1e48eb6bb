"""A double of `tensorrt_llm`: its Python surface, timed by the H800 cost model; on no import path but a test's.

It does what the facts say that the library does, the awkward parts first, and nothing of our adapter's own. What it
guesses is in the table of docs/how-to/tensorrt-llm.md.
"""

from tensorrt_llm import _profile
from tensorrt_llm._params import DisaggregatedParams, SamplingParams

__all__ = ["LLM", "DisaggregatedParams", "SamplingParams", "SchedulingParams", "__version__"]

if _profile.current.fault == "banner":
    print(f"[TensorRT-LLM] TensorRT-LLM version: {_profile.current.profile.version}")  # noqa: T201  # it does


def __getattr__(name):
    if name == "__version__":
        return _profile.current.profile.version
    if name == "LLM":
        from tensorrt_llm._llm import llm_class

        return llm_class(_profile.current.profile)
    if name == "SchedulingParams":
        from tensorrt_llm._params import scheduling_params_class

        return scheduling_params_class(_profile.current.profile)
    raise AttributeError(name)

"""Where the library keeps its parameter classes."""

from tensorrt_llm._params import DisaggregatedParams, SamplingParams
from tensorrt_llm.executor.utils import RequestError

__all__ = ["DisaggregatedParams", "RequestError", "SamplingParams", "SchedulingParams"]


def __getattr__(name):
    if name == "SchedulingParams":
        from tensorrt_llm import _params, _profile

        return _params.scheduling_params_class(_profile.current.profile)
    raise AttributeError(name)

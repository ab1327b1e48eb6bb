"""The double of TensorRT-LLM, put on the import path, and engines over it.

`trtllm_site` is a folder of its own so that nothing but a test (or a process that a test starts) ever finds a
package named `tensorrt_llm` in this repository.
"""

import sys
from pathlib import Path

from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.engine import TensorRTLLMEngine

SITE = Path(__file__).parent / "trtllm_site"
VERSIONS = ("1.2.1", "1.3.0rc20")
TIME_SCALE = 0.007


def emulate(version, *, time_scale=TIME_SCALE, fault=""):
    """What is started from now on runs on the double of this line."""
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    from tensorrt_llm import _profile

    _profile.current = _profile.Setting(
        profile=_profile.PROFILES[version], time_scale=time_scale, fault=fault
    )


def options(**changes):
    """A small engine of two DP ranks."""
    return {
        "model": "a/model",
        "model_name": "double",
        "phase": "prefill",
        "tensor_parallel_size": 2,
        "max_num_tokens": 64,
        "max_batch_size": 8,
        "max_seq_len": 1024,
        "kv_blocks": 64,
        "tokens_per_block": 16,
        "enable_chunked_prefill": True,
        "vocab_size": 2048,
        "end_id": 1,
        "watch_interval_s": 0.02,
        "exit_grace_s": 0.05,
        "warm_up_quiet_s": 0.008,
    } | changes


class Exits(list):
    """Exit codes that a process would have ended with."""

    def __call__(self, code):
        self.append(code)


def engine(*, exits=None, **changes):
    """Not started. Its double is `engine.llm._double` once it is."""
    return TensorRTLLMEngine(
        TensorRTLLMConfig(**options(**changes)), exit_process=exits if exits is not None else Exits()
    )

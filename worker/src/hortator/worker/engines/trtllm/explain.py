"""What a failed start means, in one line."""

from __future__ import annotations

_HINTS = (
    (
        "out of memory",
        "give the group more GPUs (DeepSeek-V3 in FP8 needs 16 of 80 GB), or lower free_gpu_memory_fraction",
    ),
    ("world size", "attentionDP x tensor must be the number of MPI ranks: nodes x gpusPerNode"),
    ("no cuda", "no GPU is visible in this container (is nvidia.com/gpu requested?)"),
)


def explained(error: Exception) -> str:
    """One line that says what to do where that is known."""
    text = " ".join(str(error).split())
    hint = next((hint for sign, hint in _HINTS if sign in text.lower()), "")
    line = f"TensorRT-LLM did not start: {type(error).__name__}: {text}"
    return f"{line} ({hint})" if hint else line

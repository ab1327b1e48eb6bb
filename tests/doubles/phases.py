"""Traffic that changes: conversations at one load after another."""

from __future__ import annotations

from dataclasses import replace

from hortator.sim.load import default_engine_seconds
from hortator.sim.workload import LENGTHS, TraceRequest, generate, poisson_arrivals


def phases(*parts: tuple[float, float]) -> list[TraceRequest]:
    """Conversation lengths; each part is a load of one group and how long it lasts, in seconds."""
    seconds = default_engine_seconds(preset="deepseek-h800", dp_size=16)
    lengths = LENGTHS["conversation"]
    sample = generate(lengths=lengths, arrivals=poisson_arrivals(rate_per_s=100, duration_s=60), seed=0)
    rate = len(sample) / sum(seconds(request.num_prompt_tokens) for request in sample)
    requests: list[TraceRequest] = []
    begin = 0.0
    for seed, (load, duration_s) in enumerate(parts):
        arrivals = poisson_arrivals(rate_per_s=load * rate, duration_s=duration_s)
        part = generate(lengths=lengths, arrivals=arrivals, seed=seed)
        requests += [replace(request, arrived_at=begin + request.arrived_at) for request in part]
        begin += duration_s
    return requests

"""How many groups of what size: layouts of a number of GPUs, and what each could serve.

The estimate of a layout is the arithmetic of the cost model on the mean request, without queues: what its
prefill groups can run, and what its decode groups can hold and step through within the gap that the SLO
allows. It is an upper bound that says which part ends first; `hortator plan-capacity` then looks for the rate
that the simulator really serves within the SLO.

    prefill     groups / mean engine-seconds of a prompt (see `load`)
    decode      sequences that a group runs at once / (output tokens x time per step); their number ends
                where a step takes longer than the gap allowed, where KV memory is full, or at the batch slots
    aggregated  the same, with each step as long as its share of the prefill makes it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from hortator.api.v1alpha1 import KvCacheDtype, LLMService
from hortator.sim.load import FULL_PASS_TOKENS, engine_seconds_of
from hortator.sim.workload import TraceRequest
from hortator.worker.engines.simulated.cost import PassCost

EP_SIZES = (16, 32, 64)
MAX_BATCH_SIZE = 256
"""Running requests per DP rank."""
GPUS_PER_NODE = 8
MAX_ESTIMATE_RPS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """So many EP groups of one size."""

    num_groups: int
    ep_size: int

    @property
    def num_gpus(self) -> int:
        """Of all of them."""
        return self.num_groups * self.ep_size

    def describe(self) -> str:
        """As in 2 x EP16."""
        return f"{self.num_groups} x EP{self.ep_size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the GPUs are split."""

    entry: Groups
    """Prefill groups; aggregated ones where there is no decode."""
    decode: Groups | None

    @property
    def num_gpus(self) -> int:
        """Of the whole layout."""
        return self.entry.num_gpus + (0 if self.decode is None else self.decode.num_gpus)

    def describe(self) -> str:
        """For people."""
        if self.decode is None:
            return f"{self.entry.describe()} aggregated"
        return f"{self.entry.describe()} prefill + {self.decode.describe()} decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The mean request; tokens."""

    prompt: float
    output: float
    context: float
    """Tokens of a sequence while it decodes, in the mean over its steps."""
    reserved: float
    """Tokens of KV that it holds, in the mean over the time that it decodes."""
    prompts: tuple[int, ...]
    """Lengths that the mean engine-seconds are of."""

    @classmethod
    def of(cls, requests: Sequence[TraceRequest]) -> Shape:
        """ValueError without requests."""
        if not requests:
            raise ValueError("no requests to plan for")
        steps = float(sum(request.num_output_tokens for request in requests))
        return cls(
            prompt=fmean(request.num_prompt_tokens for request in requests),
            output=fmean(request.num_output_tokens for request in requests),
            context=sum(
                r.num_output_tokens * (r.num_prompt_tokens + r.num_output_tokens / 2) for r in requests
            )
            / steps,
            reserved=sum(r.num_output_tokens * (r.num_prompt_tokens + r.num_output_tokens) for r in requests)
            / steps,
            prompts=tuple(request.num_prompt_tokens for request in requests),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a layout could serve at most."""

    layout: Layout
    requests_per_s: float
    limit: str
    """What ends first: prefill, decode steps, decode memory, batch slots, mixed passes."""
    prefill_rps: float
    decode_rps: float


def layouts(num_gpus: int) -> list[Layout]:
    """Every split of exactly so many GPUs into groups of EP_SIZES that can hold the model.

    Raises:
        ValueError: there is none; says why.
    """
    possible = [size for size in EP_SIZES if size <= num_gpus]
    if not possible:
        raise ValueError(_too_few(num_gpus))
    found = list(_layouts(num_gpus, possible))
    if not found:
        raise ValueError(
            f"got {num_gpus} GPUs (allowed: multiples of {EP_SIZES[0]}: an EP group takes whole nodes of "
            f"{GPUS_PER_NODE}, and DeepSeek-V3 in FP8 at least two)"
        )
    return found


def _layouts(num_gpus: int, sizes: Sequence[int]) -> Iterator[Layout]:
    for size in sizes:
        if num_gpus % size == 0:
            yield Layout(entry=Groups(num_groups=num_gpus // size, ep_size=size), decode=None)
    for entry in sizes:
        for num_entry in range(1, num_gpus // entry + 1):
            left = num_gpus - num_entry * entry
            for decode in sizes:
                if left and left % decode == 0:
                    yield Layout(
                        entry=Groups(num_groups=num_entry, ep_size=entry),
                        decode=Groups(num_groups=left // decode, ep_size=decode),
                    )


def _too_few(num_gpus: int) -> str:
    memory = PassCost(dp_size=GPUS_PER_NODE).memory().describe()
    return f"got {num_gpus} GPUs (allowed: {EP_SIZES[0]} or more; on one node of {GPUS_PER_NODE}: {memory})"


def estimate(
    layout: Layout,
    shape: Shape,
    *,
    itl_s: float,
    max_batch_size: int = MAX_BATCH_SIZE,
    kv_cache_dtype: KvCacheDtype = "auto",
) -> Estimate:
    """What the layout could serve with gaps of at most `itl_s` between tokens."""
    entry = layout.entry
    cost = PassCost(dp_size=entry.ep_size, kv_cache_dtype=kv_cache_dtype)
    prefill_rps = entry.num_groups / fmean(map(engine_seconds_of(cost), shape.prompts))
    if layout.decode is None:
        rate, limit = _aggregated(cost, shape, itl_s=itl_s, most=max_batch_size)
        rate *= entry.num_groups
        return Estimate(
            layout=layout, requests_per_s=rate, limit=limit, prefill_rps=prefill_rps, decode_rps=rate
        )
    decode_cost = PassCost(dp_size=layout.decode.ep_size, kv_cache_dtype=kv_cache_dtype)
    rate, limit = _decode(decode_cost, shape, itl_s=itl_s, most=max_batch_size)
    decode_rps = rate * layout.decode.num_groups
    return Estimate(
        layout=layout,
        requests_per_s=min(prefill_rps, decode_rps),
        limit="prefill" if prefill_rps <= decode_rps else limit,
        prefill_rps=prefill_rps,
        decode_rps=decode_rps,
    )


def _decode(cost: PassCost, shape: Shape, *, itl_s: float, most: int) -> tuple[float, str]:
    """Requests per second of a decode group, and what ends it."""
    if shape.output <= 1.0:
        return MAX_ESTIMATE_RPS, "decode steps"
    ranks = cost.dp_size

    def step_s(batch: float) -> float:
        return cost.decode_s([batch] * ranks, [batch * shape.context] * ranks)

    by_memory = cost.kv_tokens_total() / shape.reserved
    by_steps = _largest(lambda batch: step_s(batch) <= itl_s, most=float(most))
    batch = min(by_steps, by_memory, float(most))
    if batch <= 0.0:
        return 0.0, "decode steps"
    limit = "decode memory" if by_memory < min(by_steps, most) else "decode steps"
    if most <= min(by_steps, by_memory):
        limit = "batch slots"
    return ranks * batch / ((shape.output - 1.0) * step_s(batch)), limit


def _aggregated(cost: PassCost, shape: Shape, *, itl_s: float, most: int) -> tuple[float, str]:
    """The same where every pass has its share of the prefill too."""
    ranks = cost.dp_size
    by_memory = cost.kv_tokens_total() / shape.reserved
    slots = min(by_memory, float(most))
    pairs_per_token = sum(n * n / 2 for n in shape.prompts) / sum(shape.prompts)

    def step_s(rate: float) -> float:
        """Of a group that takes so many requests per second: each step's prefill is what arrived in it."""
        step = 0.02
        for _ in range(60):
            batch = min(slots, rate * max(0.0, shape.output - 1.0) * step / ranks)
            n = min(float(FULL_PASS_TOKENS), rate * shape.prompt * step / ranks)
            new = cost.mixed_s(
                [n] * ranks, [n * pairs_per_token] * ranks, [batch] * ranks, [batch * shape.context] * ranks
            )
            if abs(new - step) < 1e-6:
                break
            step = 0.5 * (step + new)
        return step

    def fits(rate: float) -> bool:
        step = step_s(rate)
        return step <= itl_s and rate * (shape.output - 1.0) * step / ranks <= slots

    rate = _largest(fits, most=1e4)
    if rate * 1.01 * (shape.output - 1.0) * step_s(rate * 1.01) / ranks > slots:
        return rate, "decode memory" if by_memory < most else "batch slots"
    return rate, "mixed passes"


def _largest(fits: Callable[[float], bool], *, most: float) -> float:
    """The largest value up to `most` that fits, to a thousandth; 0: not even the smallest."""
    if fits(most):
        return most
    low, high = 0.0, most
    while high - low > 1e-3 * max(1e-3, high):
        middle = 0.5 * (low + high)
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def manifest(
    layout: Layout,
    *,
    name: str,
    chunk_budget_tokens: int,
    policy: str,
    backend: str,
    chunked_prefill: bool,
    max_batch_size: int = MAX_BATCH_SIZE,
    kv_cache_dtype: KvCacheDtype = "auto",
) -> dict[str, Any]:
    """The layout as an LLMService, as in a YAML file."""

    def role(role_name: str, groups: Groups) -> dict[str, Any]:
        return {
            "name": role_name,
            "replicas": groups.num_groups,
            "nodes": groups.ep_size // GPUS_PER_NODE,
            "gpusPerNode": GPUS_PER_NODE,
            "parallelism": {"attentionDP": groups.ep_size, "expert": groups.ep_size},
            "chunkBudgetTokens": chunk_budget_tokens,
            "chunkedPrefill": chunked_prefill,
            "maxBatchSize": max_batch_size,
            **({} if kv_cache_dtype == "auto" else {"tensorrtLLM": {"kvCacheDtype": kv_cache_dtype}}),
        }

    roles = [role("Aggregated" if layout.decode is None else "Prefill", layout.entry)]
    if layout.decode is not None:
        roles.append(role("Decode", layout.decode))
    return {
        "apiVersion": "serving.hortator.dev/v1alpha1",
        "kind": "LLMService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-V3", "name": name},
            "engine": {"backend": backend},
            "topology": "Aggregated" if layout.decode is None else "PrefillDecode",
            "roles": roles,
            "scheduler": {"policy": policy},
        },
    }


def service_of(
    layout: Layout,
    *,
    chunk_budget_tokens: int,
    policy: str,
    chunked_prefill: bool,
    kv_cache_dtype: KvCacheDtype = "auto",
) -> LLMService:
    """The layout with simulated engines; limits far away, so that rates are what latencies allow."""
    plain = manifest(
        layout,
        name="plan",
        chunk_budget_tokens=chunk_budget_tokens,
        policy=policy,
        backend="Simulated",
        chunked_prefill=chunked_prefill,
        kv_cache_dtype=kv_cache_dtype,
    )
    plain["spec"]["scheduler"]["queue"] = {
        "maxRequests": 1_000_000,
        "maxTokens": 2_000_000_000,
        "timeout": "1h",
    }
    return LLMService.model_validate(plain)

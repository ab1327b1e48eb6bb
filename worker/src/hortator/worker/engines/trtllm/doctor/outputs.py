"""Examinations of what comes out: after a cut, with a seed, at a stop token."""

from __future__ import annotations

from hortator.runtime.checks import Check
from hortator.worker.engine import FinishReason, Sampling
from hortator.worker.engines.trtllm.doctor.bench import Bench

WHOLE, CUT = 8, 4
"""Output tokens of an example, and how many of them an earlier attempt had brought."""
_NO_DECODE = "a prefill group does not decode"


async def resume(bench: Bench, patience_s: float) -> Check:
    """Greedy decoding goes on after prior tokens as it would have without a cut."""
    sampling = Sampling(max_tokens=WHOLE, ignore_eos=True)
    fix = "numerics depend on the batch; not an error of the service"
    return await _resumed(bench, patience_s, "resumed requests", "greedy", sampling, fix, seed=500)


async def resume_sampled(bench: Bench, patience_s: float) -> Check:
    """So does sampling with a seed, if what is drawn follows from seed and position alone."""
    sampling = Sampling(max_tokens=WHOLE, ignore_eos=True, temperature=1.0, seed=7)
    name, fix = (
        "resumed requests with a seed",
        "sampled answers are not repeatable across a failure: tell clients",
    )
    return await _resumed(bench, patience_s, name, "temperature 1", sampling, fix, seed=510)


async def stop_tokens(bench: Bench, patience_s: float) -> Check:
    """A stop token that is given by its id ends the output and is its last token."""
    name = "stop tokens"
    if bench.is_prefill:
        return Check(name=name, verdict="skipped", found=_NO_DECODE)
    prompt = bench.prompt(520)
    whole = bench.request(0, prompt=prompt, max_tokens=WHOLE)
    await bench.run(whole, timeout_s=patience_s)
    tokens = bench.tokens[whole.request_id]
    stop = tokens[CUT]
    expected = tokens[: tokens.index(stop) + 1]
    sampling = Sampling(max_tokens=WHOLE, ignore_eos=True, stop_token_ids=(stop,))
    stopped = bench.request(0, prompt=prompt, max_tokens=WHOLE, sampling=sampling)
    await bench.run(stopped, timeout_s=patience_s)
    got, reason = bench.tokens.get(stopped.request_id, []), bench.ends[stopped.request_id].reason
    if got == expected and reason is FinishReason.STOP:
        return Check(name=name, verdict="ok", found="end the output and are in it")
    return Check(
        name=name,
        verdict="warning",
        found=f"after {len(got)} tokens it ended with {reason.value}; expected were {len(expected)} and stop",
        fix="greedy output may differ from run to run: try again; else clients get one token more or less",
    )


async def _resumed(
    bench: Bench, patience_s: float, name: str, how: str, sampling: Sampling, fix: str, *, seed: int
) -> Check:
    if bench.is_prefill:
        return Check(name=name, verdict="skipped", found=_NO_DECODE)
    prompt = bench.prompt(seed)
    first = bench.request(0, prompt=prompt, max_tokens=WHOLE, sampling=sampling)
    await bench.run(first, timeout_s=patience_s)
    tokens = bench.tokens[first.request_id]
    again = bench.request(
        0, prompt=prompt, max_tokens=WHOLE, prior_output_ids=tuple(tokens[:CUT]), sampling=sampling
    )
    await bench.run(again, timeout_s=patience_s)
    if bench.tokens.get(again.request_id) == tokens[CUT:]:
        return Check(name=name, verdict="ok", found=f"go on with the same tokens ({how}, one example)")
    found = "go on with other tokens than without the cut; none is lost or sent twice"
    return Check(name=name, verdict="warning", found=found, fix=fix)

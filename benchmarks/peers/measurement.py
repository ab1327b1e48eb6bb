"""One run: the requests of a load sent at their times through one contender, and what that took."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from hortator.api.v1alpha1 import LLMService
from hortator.sim.simulate import generated_workload
from peers.answers import Answer, summarize
from peers.contenders import Contender
from peers.cpu import MachineTime, session_seconds
from peers.engines import EngineGroup
from peers.launch import launched
from peers.plan import Plan, Run

LEAD_S = 0.5
"""Between the last preparation and the first request."""
LAST_ANSWER_S = 120.0
"""After the last request; who has no answer by then has failed."""
ALPHABET = bytes(code for code in range(32, 127) if code not in b'"\\')
"""Prompts are made of it: printable, and nothing that JSON writes otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One of a run."""

    due_s: float
    """After the run's start."""
    prompt: bytes


def requests_of(service: LLMService, plan: Plan, run: Run) -> list[Request]:
    """Conversation lengths at Poisson times; the same for every contender of a load and repeat."""
    time_scale = float(service.spec.engine.simulated_options.time_scale)
    seed = plan.seed + run.repeat
    workload = generated_workload(service, load=run.load, seed=seed, min_run_s=plan.sending_s / time_scale)
    rng = random.Random(seed)
    return [
        Request(
            due_s=request.arrived_at * time_scale,
            prompt=bytes(rng.choices(ALPHABET, k=request.num_prompt_tokens)),
        )
        for request in workload.requests
        if request.arrived_at * time_scale < plan.sending_s
    ]


async def measure(
    contender: Contender,
    engines: EngineGroup,
    plan: Plan,
    run: Run,
    *,
    programs: Path | None,
    folder: Path,
) -> dict[str, Any]:
    """Figures of one run.

    Raises:
        CommandError: the contender does not start. ValueError: next to nothing was answered.
        TimeoutError: the engines had requests long after.
    """
    requests = requests_of(engines.service, plan, run)
    async with aiohttp.ClientSession() as session:
        await engines.wait_idle(session)
        async with launched(contender, engines, programs=programs, folder=folder) as serving:
            client = serving.client
            messages = [client.prepare(index, request.prompt) for index, request in enumerate(requests)]
            machine, router_s = MachineTime.now(), _seconds(serving.session_ids)
            loop = asyncio.get_running_loop()
            started_at = loop.time() + LEAD_S
            answers = [Answer(due_at=started_at + request.due_s) for request in requests]
            for answer, message in zip(answers, messages, strict=True):
                delay_s = answer.due_at - loop.time()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                answer.sent_at = loop.time()
                client.send(answer, message)
            machine_share = MachineTime.now().share_since(machine)
            await client.finish(LAST_ANSWER_S)
            router_s = _seconds(serving.session_ids) - router_s
        await engines.wait_idle(session)
    measured = [answer for answer in answers if answer.due_at - started_at >= plan.warmup_s]
    figures = summarize(measured, measured_s=plan.measured_s, slo_ttft_s=plan.slo_ttft_s * engines.time_scale)
    return {
        "contender": run.contender,
        "load": run.load,
        "repeat": run.repeat,
        **figures,
        "prompt_tokens": sum(len(request.prompt) for request in requests),
        "router_cpu_ms_per_request": 1e3 * router_s / len(requests),
        "machine_cpu_share": machine_share,
        "details": _details(measured),
    }


def _seconds(session_ids: Sequence[int]) -> float:
    return sum(session_seconds(session_id) for session_id in session_ids)


def _details(answers: Sequence[Answer]) -> list[str]:
    """What was said of requests that were not answered, the first few kinds."""
    return sorted({answer.detail for answer in answers if answer.detail})[:3]

"""How much of what the groups can do is asked of them, and how long a newcomer waits: what to scale on.

The saturation of a phase is what is asked over what its placeable groups have, the larger of two shares:

    time (Prefill, Aggregated)   (tokens/s that arrive + tokens that wait / DRAIN_S) / tokens/s of full passes
    room (Decode, Aggregated)    KV blocks used, promised and waited for / all; or batch slots used / all

Full passes are those that the estimators predict for prompts of the present mean cost. What is refused was
asked as well, so an overload reads above 1 and says by how much; a prefix cache counts for what it saves;
what waits is counted wherever it waits, here or in the engines. In virtual time it reads as the load that is
offered, within a tenth.

The predicted TTFT is that of a request of mean length that arrives now: what waits before it, the rest of the
running pass, its own passes. It is never less than the oldest has waited.

Nothing is said without a placeable group, before passes have trained an estimate, or before arrivals have
been watched for long enough: an unknown figure must not look like an idle cluster.
"""

from __future__ import annotations

from collections.abc import Collection
from math import ceil

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.waiting import WaitingQueue

DRAIN_S = 60.0
"""What waits counts as work that is to be done within so much time."""
EXPERT_SHARE = 0.5
"""How much of what a token adds to a pass follows from the tokens of all ranks, not of the fullest one."""


def saturations(fleet: Fleet, waiting: WaitingQueue, now: float) -> dict[Phase, float]:
    """Of every phase of which something is known."""
    found: dict[Phase, float] = {}
    for phase in Phase:
        groups = [group for group in fleet.groups.values() if group.spec.phase is phase and group.placeable]
        shares: list[float] = []
        if phase is not Phase.DECODE:
            time = _time_share(fleet, waiting, groups, now)
            if time is None:
                continue
            shares.append(time)
        if phase is not Phase.PREFILL and groups:
            shares.append(_room_share(fleet, waiting, groups))
        if shares:
            found[phase] = max(shares)
    return found


def predicted_ttft_s(fleet: Fleet, waiting: WaitingQueue, now: float) -> float | None:
    """Of a request of mean length that arrives now; None: too little is known."""
    groups = [group for group in fleet.placeable_entry() if _is_trained(fleet, group)]
    if not groups or not fleet.demand.is_known(now):
        return None
    rate = sum(_tokens_per_s(group, fleet.demand.cost_per_token(now)) for group in groups)
    wait_s = waiting.num_tokens * fleet.demand.computed_share(now) / rate
    served_s = min(_served_s(fleet, group, now, is_held=bool(waiting)) for group in groups)
    return max(wait_s + served_s, waiting.oldest_wait_s(now))


def _time_share(
    fleet: Fleet, waiting: WaitingQueue, groups: Collection[GroupState], now: float
) -> float | None:
    demand = fleet.demand
    trained = [group for group in groups if _is_trained(fleet, group)]
    if not groups or not demand.is_known(now):
        return None
    if not waiting and not demand.tokens_per_s(now):
        return 0.0  # whatever they can do
    if not trained:
        return None
    cost = demand.cost_per_token(now)
    rate = sum(_tokens_per_s(group, cost) for group in trained)
    # One that has just joined is taken to be as fast as the others are.
    rate *= sum(group.full_pass_tokens for group in groups) / sum(g.full_pass_tokens for g in trained)
    backlog = waiting.num_tokens * demand.computed_share(now)
    backlog += sum(sum(group.queued_tokens()) for group in groups)
    return (demand.tokens_per_s(now) + backlog / DRAIN_S) / rate


def _room_share(fleet: Fleet, waiting: WaitingQueue, groups: Collection[GroupState]) -> float:
    spec = next(iter(groups)).spec
    asked = waiting.num_tokens + len(waiting) * fleet.output_tokens.value
    blocks = asked / spec.tokens_per_block
    blocks += sum(sum(group.kv_used) + sum(group.reserved_blocks) for group in groups)
    slots = sum(sum(group.batch_size) for group in groups)
    return max(
        blocks / sum(group.spec.kv_blocks_total * group.spec.dp_size for group in groups),
        slots / sum(group.spec.max_batch_size * group.spec.dp_size for group in groups),
    )


def _is_trained(fleet: Fleet, group: GroupState) -> bool:
    return group.estimator.num_passes > fleet.settings.warmup_passes


def _tokens_per_s(group: GroupState, cost_per_token: float) -> float:
    """At full passes of prompts that cost so much.

    The estimate is learned from passes whose other ranks had less than the fullest one: to a full pass they
    add what the experts need for their tokens.
    """
    unlearned = 1.0 / (1.0 - EXPERT_SHARE * (1.0 - group.balance.value))
    full_s = group.estimator.predict_s(group.spec.chunk_budget_tokens * cost_per_token * unlearned)
    return group.full_pass_tokens / full_s


def _served_s(fleet: Fleet, group: GroupState, now: float, *, is_held: bool) -> float:
    """From the release of a request of mean length to its first token."""
    demand, estimator = fleet.demand, group.estimator
    num_tokens = demand.mean_prompt_tokens(now) * demand.computed_share(now)
    pass_s = estimator.predict_s(min(num_tokens, group.spec.chunk_budget_tokens) * demand.cost_per_token(now))
    if is_held or group.running:
        pass_s = max(pass_s, estimator.smoothed_s)  # in company
    queued_s = sum(group.queued_tokens()) / group.full_pass_tokens * group.full_pass_s
    return (
        group.residual_s(now) + queued_s + max(1, ceil(num_tokens / group.spec.chunk_budget_tokens)) * pass_s
    )

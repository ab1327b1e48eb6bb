"""Groups that prompts of many passes occupy: who should start or join there, and who should not.

The chunks of a very long prompt become slower pass by pass (see `occupants`), and all ranks of its group wait
for them. Two rules keep that from spreading over the whole cluster:

- *Like to like.* A prompt of several passes does not start on a group that it would slow down, while another
  group that is occupied for at least HOST_SHARE of its time has an empty rank on which it would end within
  PATIENCE times its own time. So very long prompts gather on as few groups as hold them.
- *Not into somebody else's long pass.* A request does not join a pass that leftovers make long, if another
  group could start it and end its pass sooner, even after BACKLOG_SHARE times the backlog was run.

Neither keeps a request back when there is nowhere better, or when it has waited for `patience_s` already:
the other group may have no room for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.group import GroupState
from hortator.scheduler.core.occupants import Rest
from hortator.scheduler.core.request import RequestState

HOST_SHARE = 0.5
PATIENCE = 2.0
BACKLOG_SHARE = 3.0


class _Elsewhere(NamedTuple):
    """What another group offers; seconds."""

    wait_s: float
    """Until its next pass begins."""
    pass_s: float
    """What its leftovers make that pass take at least; 0 without."""
    rest_s: float
    """How long its leftovers occupy it from then on; 0 if they fit one pass."""
    has_empty_rank: bool


def rest_s(group: GroupState, rest: Rest) -> float:
    """Predicted seconds of the passes that these leftovers take."""
    if not rest.num_passes:
        return 0.0
    return group.estimator.base_s * (rest.num_passes - 1) + group.estimator.predict_s(rest.cost_tokens)


def solo_s(group: GroupState, request: RequestState) -> float:
    """Predicted seconds of the passes that a request takes on a group of its own."""
    return rest_s(group, Rest(_num_passes(group, request), request.cost_tokens))


def _num_passes(group: GroupState, request: RequestState) -> int:
    return -(-request.num_prompt_tokens // group.spec.chunk_budget_tokens)


def willing(
    fleet: Fleet,
    group: GroupState,
    requests: Sequence[RequestState],
    *,
    backlog_s: float,
    patience_s: float,
    now: float,
) -> list[RequestState]:
    """Those of the requests that the rules above let go to the next pass of `group`."""
    budget = group.spec.chunk_budget_tokens
    leftovers = group.queued_tokens()
    fixed = group.occupants.next_cost(leftovers)
    if not fixed and not any(request.num_prompt_tokens > budget for request in requests):
        return list(requests)
    tokenizer = group.spec.tokenizer
    others = [
        _look_at(other, now)
        for other in fleet.placeable_entry()
        if other is not group and other.reads(tokenizer)
    ]
    hosts = [other for other in others if other.rest_s and other.has_empty_rank]
    here_s = rest_s(group, group.occupants.rest(leftovers))
    fixed_s = group.estimator.predict_s(fixed) if fixed else 0.0
    queue_s = BACKLOG_SHARE * backlog_s

    def is_better_elsewhere(request: RequestState) -> bool:
        if now - request.waiting_since > patience_s:
            return False
        if hosts and request.num_prompt_tokens > budget and _belongs_to(hosts, group, request, here_s):
            return True
        return fixed > 0.0 and _is_sooner_elsewhere(others, group, request, fixed_s, queue_s)

    return [request for request in requests if not is_better_elsewhere(request)]


def _look_at(group: GroupState, now: float) -> _Elsewhere:
    leftovers = group.queued_tokens()
    cost = group.occupants.next_cost(leftovers)
    return _Elsewhere(
        wait_s=group.residual_s(now),
        pass_s=group.estimator.predict_s(cost) if cost else 0.0,
        rest_s=rest_s(group, group.occupants.rest(leftovers)),
        has_empty_rank=min(leftovers) <= 0,
    )


def _belongs_to(hosts: list[_Elsewhere], group: GroupState, request: RequestState, here_s: float) -> bool:
    own_s = solo_s(group, request)
    if here_s >= HOST_SHARE * own_s:
        return False
    num_passes = _num_passes(group, request)
    return any(
        host.rest_s >= HOST_SHARE * own_s
        and host.wait_s + max(own_s, min(host.rest_s, num_passes * host.pass_s)) <= PATIENCE * own_s
        for host in hosts
    )


def _is_sooner_elsewhere(
    others: list[_Elsewhere], group: GroupState, request: RequestState, fixed_s: float, queue_s: float
) -> bool:
    budget = group.spec.chunk_budget_tokens
    own_s = group.estimator.predict_s(min(request.cost_tokens, group.occupants.chunk_cost(budget)))
    return own_s < fixed_s and any(
        other.wait_s + max(own_s, other.pass_s) + queue_s < fixed_s for other in others
    )

"""What must always hold. Every test's teardown checks it; it costs a walk over everything."""

from __future__ import annotations

from collections.abc import Mapping

from hortator.scheduler.core.fleet import Fleet
from hortator.scheduler.core.keys import Keys
from hortator.scheduler.core.model import Phase
from hortator.scheduler.core.request import RequestState, RequestStatus
from hortator.scheduler.core.waiting import WaitingQueue


def check(
    fleet: Fleet,
    waiting: WaitingQueue,
    requests: Mapping[str, RequestState],
    decode_ready: Mapping[str, RequestState],
    by_gateway: Mapping[str, Mapping[str, None]],
) -> None:
    """AssertionError naming the first broken promise."""
    queued = {request.request_id for request in waiting}
    _require(len(queued) == len(waiting), "a request waits twice")
    tokens = sum(request.num_prompt_tokens for request in waiting)
    _require(tokens == waiting.num_tokens, "waiting tokens are miscounted")
    by_tenant: dict[str, list[int]] = {}
    for request in waiting:
        by_tenant.setdefault(request.tenant, []).append(request.num_prompt_tokens)
    loads = {tenant: (load.num_requests, load.num_tokens) for tenant, load in waiting.tenants.items()}
    expected = {tenant: (len(prompts), sum(prompts)) for tenant, prompts in by_tenant.items()}
    _require(loads == expected, "what tenants have waiting is miscounted")
    placed: dict[str, str] = {}
    for group_id, group in fleet.groups.items():
        for request_id in group.in_flight:
            _require(request_id not in placed, f"{request_id} is in flight on two groups")
            placed[request_id] = group_id
    for request_id, request in requests.items():
        match request.status:
            case RequestStatus.FENCED:
                _require(request_id not in queued, f"{request_id} is held and waits")
                _require(request_id not in placed, f"{request_id} is held and is placed")
            case RequestStatus.WAITING:
                _require(request_id in queued, f"{request_id} waits nowhere")
                _require(request_id not in placed, f"{request_id} waits and is placed")
            case RequestStatus.DECODE_WAITING:
                _require(request_id in decode_ready, f"{request_id} is lost between prefill and decode")
                _require(request_id not in placed, f"{request_id} wants decode and is placed")
            case RequestStatus.PLACED:
                _require(placed.get(request_id) == request.group_id, f"{request_id} is placed nowhere")
                group = fleet.groups[request.group_id]
                _require(group.spec.phase is not Phase.DECODE, f"{request_id}: wrong role")
                _require(group.reads(request.tokenizer), f"{request_id}: wrong tokenizer")
            case RequestStatus.DECODING:
                _require(placed.get(request_id) == request.group_id, f"{request_id} decodes nowhere")
                group = fleet.groups[request.group_id]
                _require(group.spec.phase is Phase.DECODE, f"{request_id}: wrong role")
                _require(group.reads(request.tokenizer), f"{request_id}: wrong tokenizer")
    _require(queued <= requests.keys(), "an unknown request waits")
    _require(decode_ready.keys() <= requests.keys(), "an unknown request wants decode")
    _require(placed.keys() <= requests.keys(), "an unknown request is in flight")
    held = {request_id for ids in by_gateway.values() for request_id in ids}
    _require(held == requests.keys(), "gateways and requests disagree")
    _check_reservations(fleet, requests)


def check_keys(
    keys: Keys,
    requests: Mapping[str, RequestState],
    fleet: Fleet,
    unsettled: Mapping[str, RequestState],
) -> None:
    """AssertionError when a key might have two live attempts."""
    held = {request.key: request for request in requests.values() if request.key}
    _require(held == keys.holders, "keys and the requests that hold them disagree")
    _require(len(held) == sum(bool(r.key) for r in requests.values()), "a key has two requests")
    fenced = {request.request_id for request in keys.fenced}
    expected = {r.request_id for r in requests.values() if r.status is RequestStatus.FENCED}
    _require(fenced == expected, "who is held for a key is not known")
    for key, groups in keys.leftovers.items():
        holder = keys.holders.get(key)
        running = [leftover for leftover in groups.values() if not leftover.is_ending]
        is_held = holder is None or holder.status is RequestStatus.FENCED
        _require(len(running) <= is_held, f"{len(running)} attempts run that nobody stands for")
        for group_id, leftover in groups.items():
            _require(group_id in fleet.groups, f"something is left on {group_id}, which is gone")
            if holder is not None and not is_held and not leftover.came_late:
                _require(
                    holder.request_id == leftover.request_id and holder.attempt > leftover.attempt,
                    f"{holder.request_id} was let go before {leftover.request_id} had ended",
                )
    for request in keys.fenced:
        for_something = request.key in keys.leftovers or unsettled.get(request.key) is request
        _require(for_something, f"{request.request_id} is held for nothing")


def _check_reservations(fleet: Fleet, requests: Mapping[str, RequestState]) -> None:
    booked: dict[tuple[str, int], int] = {}
    for request in requests.values():
        if request.reservation is not None:
            group_id, rank, blocks = request.reservation
            booked[group_id, rank] = booked.get((group_id, rank), 0) + blocks
    for group_id, group in fleet.decode.items():
        for rank, blocks in enumerate(group.reserved_blocks):
            _require(blocks == booked.get((group_id, rank), 0), f"{group_id}/{rank}: reservations disagree")
        free = group.free_kv_blocks()
        roomiest = (max(free), free.index(max(free)))
        _require(group.roomiest_rank() == roomiest, f"{group_id}: another rank has more KV blocks free")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

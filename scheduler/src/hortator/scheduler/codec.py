"""Proto messages to core values and back; the only place, with `service`, that knows `hortator.rpc`.

Decoding checks what the core takes for granted: ids are there, counts are possible, times are finite, rank
columns have one entry per DP rank. What fails raises InvalidMessageError naming the field; the caller drops
that message and goes on. Figures that only feed metrics are never a reason to drop an event: an impossible
one is read as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.scheduler.core.commands import Abort, Attach, Probe, Reject
from hortator.scheduler.core.events import (
    BatchSplit,
    Event,
    FirstToken,
    ForwardPassEnded,
    ForwardPassStarted,
    KeyedRequest,
    KeyedRequestsEnded,
    KeyedRequestsListed,
    KvTransferFailed,
    PlacementRefused,
    PrefillFinished,
    RankStateReported,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    WorkerDraining,
)
from hortator.scheduler.core.model import (
    AbortReason,
    Batch,
    BlocksChanged,
    GroupSpec,
    LatencyClass,
    Phase,
    Placement,
    RankLoads,
    RejectReason,
)
from hortator.scheduler.core.snapshot import GroupSnapshot, SchedulerSnapshot
from hortator.scheduler.errors import InvalidMessageError, UnknownMessageError
from hortator.scheduler.registry import (
    AttachNotice,
    DrainOrder,
    FleetView,
    GatewayItem,
    Heartbeat,
    InvalidRequest,
    PlacementNotice,
    Resignation,
    Welcome,
    WorkerItem,
)

MAX_ID_CHARS = 256
MAX_TOKENS = 1 << 26
MAX_BLOCK_HASHES = 1 << 17
MAX_DP_SIZE = 4096
MAX_SECONDS = 7 * 24 * 3600.0
MAX_SPLIT_MEMBERS = 1 << 16
MAX_KEYED_REQUESTS = 1 << 16
MAX_HASH_BYTES = 64
MAX_LOAD = 1 << 30
"""Of one rank, in tokens, requests or blocks."""
MAX_BUDGETS = 4
"""Prefill tokens of one rank in one pass, in units of its chunk budget; more were never computed."""
MAX_EPOCH = 1 << 56
"""Epochs are milliseconds since 1970 and some bits: those of the year 4000 are below."""

_PHASES: Mapping[Phase, pb.Phase.ValueType] = {
    Phase.PREFILL: pb.PHASE_PREFILL,
    Phase.DECODE: pb.PHASE_DECODE,
    Phase.AGGREGATED: pb.PHASE_AGGREGATED,
}
_PHASE_OF: Mapping[pb.Phase.ValueType, Phase] = {wire: phase for phase, wire in _PHASES.items()}
_REJECT_REASONS: Mapping[RejectReason, pb.RejectReason.ValueType] = {
    reason: pb.RejectReason.Value(f"REJECT_REASON_{reason.name}") for reason in RejectReason
}
_RETRACT_REASONS: Mapping[AbortReason, pb.RetractReason.ValueType] = {
    reason: pb.RetractReason.Value(f"RETRACT_REASON_{reason.name}")
    for reason in (
        AbortReason.WORKER_LOST,
        AbortReason.DEADLINE,
        AbortReason.BATCH_SPLIT,
        AbortReason.TAKEN_OVER,
    )
}


# -- from gateways ----------------------------------------------------------------------------------------


def decode_gateway_id(message: pb.PlaceRequest) -> str:
    """Who opens a Place stream: the hello that must be the first event of its first message.

    Raises:
        InvalidMessageError: no hello there, or without a name.
    """
    if not message.events or message.events[0].WhichOneof("event") != "hello":
        raise InvalidMessageError("events[0].hello", "the first event of the stream must be a hello")
    return _id(message.events[0].hello.gateway_id, "hello.gateway_id")


def decode_gateway_event(message: pb.GatewayEvent, gateway_id: str, now: float) -> Event:
    """One event of a gateway; `now` turns a timeout into a deadline.

    Raises:
        InvalidMessageError: unknown or misplaced kind, or impossible content.
    """
    kind = message.WhichOneof("event")
    decode = _GATEWAY_EVENTS.get(kind) if kind is not None else None
    if decode is None:
        raise UnknownMessageError(kind or "event", "not expected here (or not known to this version)")
    return decode(getattr(message, kind or ""), gateway_id, now)


def invalid_request(message: pb.GatewayEvent, error: InvalidMessageError) -> InvalidRequest | None:
    """What to answer a gateway whose event is waiting for a placement that will not come; else None."""
    match message.WhichOneof("event"):
        case "announcement":
            wanted: pb.Announcement | pb.PrefillFinished = message.announcement
        case "prefill_finished":
            wanted = message.prefill_finished
        case _:
            return None
    return InvalidRequest(wanted.request_id, wanted.attempt, str(error))


def _announcement(message: pb.Announcement, gateway_id: str, now: float) -> Event:
    hashes = tuple(message.block_hashes)
    if len(hashes) > MAX_BLOCK_HASHES:
        raise InvalidMessageError("announcement.block_hashes", f"at most {MAX_BLOCK_HASHES}")
    timeout_s = message.timeout_s
    if timeout_s:
        timeout_s = _seconds(timeout_s, "announcement.timeout_s")
    tenant = message.tenant
    if len(tenant) > MAX_ID_CHARS:
        raise InvalidMessageError("announcement.tenant", f"at most {MAX_ID_CHARS} characters")
    return RequestArrived(
        request_id=_id(message.request_id, "announcement.request_id"),
        gateway_id=gateway_id,
        attempt=message.attempt,
        num_prompt_tokens=_tokens(message.num_prompt_tokens, "announcement.num_prompt_tokens"),
        max_output_tokens=_tokens(message.max_output_tokens or 1, "announcement.max_output_tokens"),
        block_hashes=hashes,
        priority=message.priority,
        tenant=tenant,
        latency_class=LatencyClass.CRITICAL if message.latency_critical else LatencyClass.STANDARD,
        deadline_at=now + timeout_s if timeout_s else None,
        key=_hash(message.key_hash, "announcement.key_hash"),
        fingerprint=_hash(message.request_hash, "announcement.request_hash"),
        is_resumed=message.is_resumed and bool(message.key_hash),
        asked_at=now - _seconds(message.age_s, "announcement.age_s") if message.age_s else None,
        tokenizer=_hash(message.tokenizer, "announcement.tokenizer"),
    )


def _cancellation(message: pb.Cancellation, _gateway_id: str, _now: float) -> Event:
    return RequestCancelled(
        request_id=_id(message.request_id, "cancellation.request_id"), attempt=message.attempt
    )


def _prefill_finished(message: pb.PrefillFinished, gateway_id: str, _now: float) -> Event:
    prompt = message.num_prompt_tokens
    return PrefillFinished(
        request_id=_id(message.request_id, "prefill_finished.request_id"),
        attempt=message.attempt,
        gateway_id=gateway_id,
        num_prompt_tokens=_tokens(prompt, "prefill_finished.num_prompt_tokens") if prompt else 0,
        max_output_tokens=_tokens(message.max_output_tokens or 1, "prefill_finished.max_output_tokens"),
        key=_hash(message.key_hash, "prefill_finished.key_hash"),
        fingerprint=_hash(message.request_hash, "prefill_finished.request_hash"),
        tokenizer=_hash(message.tokenizer, "prefill_finished.tokenizer"),
    )


def _first_token(message: pb.FirstToken, _gateway_id: str, _now: float) -> Event:
    return FirstToken(
        request_id=_id(message.request_id, "first_token.request_id"),
        attempt=message.attempt,
        ttft_s=_figure(message.ttft_s),
    )


def _request_finished(message: pb.RequestFinished, _gateway_id: str, _now: float) -> Event:
    return RequestFinished(
        request_id=_id(message.request_id, "request_finished.request_id"),
        attempt=message.attempt,
        num_output_tokens=message.num_output_tokens if message.num_output_tokens <= MAX_TOKENS else 0,
        ttft_s=_figure(message.ttft_s),
        e2e_s=_figure(message.e2e_s),
        first_gap_s=_figure(message.first_gap_s),
    )


def _placement_refused(message: pb.PlacementRefused, _gateway_id: str, _now: float) -> Event:
    return PlacementRefused(
        request_id=_id(message.request_id, "placement_refused.request_id"),
        attempt=message.attempt,
        group_id=message.worker_id,
        reason=message.reason[:MAX_ID_CHARS],
    )


def _kv_transfer_failed(message: pb.KvTransferFailed, _gateway_id: str, _now: float) -> Event:
    return KvTransferFailed(
        request_id=_id(message.request_id, "kv_transfer_failed.request_id"), attempt=message.attempt
    )


_GATEWAY_EVENTS: Mapping[str, Callable[[Any, str, float], Event]] = {
    "announcement": _announcement,
    "cancellation": _cancellation,
    "prefill_finished": _prefill_finished,
    "first_token": _first_token,
    "request_finished": _request_finished,
    "placement_refused": _placement_refused,
    "kv_transfer_failed": _kv_transfer_failed,
}


# -- from workers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """What a worker says first."""

    group: GroupSpec
    loads: RankLoads | None
    """None: it does not say."""
    keyed_requests: tuple[KeyedRequest, ...]


def decode_hello(message: pb.ReportRequest) -> WorkerHello:
    """The EP group that a worker declares in its first message, and what is on it.

    Raises:
        InvalidMessageError: not a hello, or one that describes no possible group.
    """
    if message.WhichOneof("event") != "hello":
        raise InvalidMessageError("hello", "the first message of the stream must be a hello")
    hello = message.hello
    phase = _PHASE_OF.get(hello.phase)
    if phase is None:
        raise InvalidMessageError("hello.phase", f"prefill, decode or aggregated, got {hello.phase}")
    if not 1 <= hello.dp_size <= MAX_DP_SIZE:
        raise InvalidMessageError("hello.dp_size", f"must be 1..{MAX_DP_SIZE}, got {hello.dp_size}")
    chunk_budget_tokens = hello.chunk_budget_tokens
    if phase is Phase.DECODE:
        chunk_budget_tokens = max(chunk_budget_tokens, 1)
    group = GroupSpec(
        group_id=_id(message.worker_id, "worker_id"),
        boot_id=_id(message.boot_id, "boot_id"),
        phase=phase,
        dp_size=hello.dp_size,
        ep_size=hello.ep_size,
        chunk_budget_tokens=_tokens(chunk_budget_tokens, "hello.chunk_budget_tokens"),
        chunked_prefill=hello.chunked_prefill,
        max_batch_size=_positive(hello.max_batch_size, "hello.max_batch_size"),
        kv_blocks_total=_positive(hello.kv_blocks_total, "hello.kv_blocks_total"),
        tokens_per_block=_tokens(hello.tokens_per_block, "hello.tokens_per_block"),
        max_sequence_tokens=hello.max_sequence_tokens or 1 << 30,
        admission_lead_passes=hello.admission_lead_passes,
        tokenizer=_hash(hello.tokenizer, "hello.tokenizer"),
        address=_id(hello.address, "hello.address"),
    )
    loads = None
    if hello.HasField("rank_states"):
        loads = _loads(hello.rank_states, group.dp_size, "hello.rank_states")
    keyed_requests = decode_keyed(hello.keyed_requests, "hello.keyed_requests")
    return WorkerHello(group, loads, keyed_requests)


def decode_report(message: pb.ReportRequest, group: GroupSpec, included_dispatch_seq: int) -> Event:
    """One report of a worker that has said hello.

    Args:
        message: the report.
        group: what its hello declared.
        included_dispatch_seq: what it includes of our own dispatches (see `registry`).

    Raises:
        InvalidMessageError: unknown or misplaced kind, or impossible content.
    """
    match message.WhichOneof("event"):
        case "forward_pass_ended":
            ended = message.forward_pass_ended
            prefill = _column(ended.pass_prefill_tokens, group.dp_size, "pass_prefill_tokens")
            most = MAX_BUDGETS * group.chunk_budget_tokens
            if group.phase is not Phase.DECODE and prefill and max(prefill) > most:
                raise InvalidMessageError("pass_prefill_tokens", f"at most {most}, got {max(prefill)}")
            return ForwardPassEnded(
                group_id=group.group_id,
                forward_pass_id=ended.forward_pass_id,
                duration_s=_seconds(ended.duration_s, "forward_pass_ended.duration_s"),
                included_dispatch_seq=included_dispatch_seq,
                loads=_loads(ended.rank_states, group.dp_size, "forward_pass_ended.rank_states"),
                pass_prefill_tokens=prefill,
                pass_decode_tokens=_column(ended.pass_decode_tokens, group.dp_size, "pass_decode_tokens"),
            )
        case "forward_pass_started":
            started = message.forward_pass_started
            loads = None
            if started.HasField("rank_states"):
                loads = _loads(started.rank_states, group.dp_size, "forward_pass_started.rank_states")
            predicted_s = _seconds(started.predicted_s, "forward_pass_started.predicted_s")
            return ForwardPassStarted(
                group_id=group.group_id,
                forward_pass_id=started.forward_pass_id,
                included_dispatch_seq=included_dispatch_seq,
                loads=loads,
                predicted_s=predicted_s or None,
            )
        case "rank_states":
            return RankStateReported(
                group_id=group.group_id,
                included_dispatch_seq=included_dispatch_seq,
                loads=_loads(message.rank_states, group.dp_size, "rank_states"),
            )
        case "batch_split":
            split = message.batch_split
            if len(split.request_ids) > MAX_SPLIT_MEMBERS:
                raise InvalidMessageError("batch_split.request_ids", f"at most {MAX_SPLIT_MEMBERS}")
            return BatchSplit(
                group_id=group.group_id, batch_id=split.batch_id, request_ids=tuple(split.request_ids)
            )
        case "keyed_ends":
            keyed = decode_keyed(message.keyed_ends.requests, "keyed_ends.requests")
            return KeyedRequestsEnded(group_id=group.group_id, requests=keyed)
        case "keyed_requests":
            keyed = decode_keyed(message.keyed_requests.requests, "keyed_requests.requests")
            return KeyedRequestsListed(group_id=group.group_id, requests=keyed)
        case "draining":
            return WorkerDraining(group_id=group.group_id)
        case kind:
            raise UnknownMessageError(kind or "event", "not expected here (or not known to this version)")


def decode_leader_seen(message: pb.LeaderSeen) -> tuple[int, bool]:
    """The newest epoch that a worker or gateway knows of, and whether the leader is there for it.

    Raises:
        InvalidMessageError: no epoch that a scheduler could ever have taken. Whoever followed it would run
            out of epochs.
    """
    if message.epoch > MAX_EPOCH:
        raise InvalidMessageError("leader_seen.epoch", f"must be 0..{MAX_EPOCH}, got {message.epoch}")
    return message.epoch, message.is_there


def decode_keyed(messages: Sequence[pb.KeyedRequest], where: str) -> tuple[KeyedRequest, ...]:
    """Requests with keys, as their worker knows them.

    Raises:
        InvalidMessageError: too many, or without key or name.
    """
    if len(messages) > MAX_KEYED_REQUESTS:
        raise InvalidMessageError(where, f"at most {MAX_KEYED_REQUESTS}")
    return tuple(
        KeyedRequest(
            key=_id(_hash(message.key_hash, f"{where}.key_hash"), f"{where}.key_hash"),
            fingerprint=_hash(message.request_hash, f"{where}.request_hash"),
            request_id=_id(message.request_id, f"{where}.request_id"),
            attempt=message.attempt,
        )
        for message in messages
    )


def _loads(states: pb.RankStates, dp_size: int, where: str) -> RankLoads:
    prefill = tuple(states.prefill_load_tokens)
    batch = tuple(states.batch_size)
    blocks = tuple(states.kv_blocks_used)
    if not len(prefill) == len(batch) == len(blocks) == dp_size:
        raise InvalidMessageError(
            where,
            f"each column needs {dp_size} entries, one per DP rank; "
            f"got {len(prefill)}, {len(batch)} and {len(blocks)}",
        )
    if states.num_waiting:
        if len(states.num_waiting) != dp_size:
            raise InvalidMessageError(where, f"num_waiting needs {dp_size} entries, one per DP rank")
        # The core's batch size is what occupies a rank's slots: running requests and those queued for one.
        batch = tuple([running + queued for running, queued in zip(batch, states.num_waiting, strict=True)])
    for name, column in (("prefill_load_tokens", prefill), ("batch_size", batch), ("kv_blocks_used", blocks)):
        if max(column) > MAX_LOAD:
            raise InvalidMessageError(f"{where}.{name}", f"must be 0..{MAX_LOAD}, got {max(column)}")
    if not states.blocks_changed:
        return RankLoads(prefill_load_tokens=prefill, batch_size=batch, kv_blocks_used=blocks)
    changes = []
    for change in states.blocks_changed:
        if change.dp_rank >= dp_size:
            raise InvalidMessageError(f"{where}.blocks_changed.dp_rank", f"must be below {dp_size}")
        changes.append(
            BlocksChanged(dp_rank=change.dp_rank, stored=tuple(change.stored), removed=tuple(change.removed))
        )
    return RankLoads(
        prefill_load_tokens=prefill, batch_size=batch, kv_blocks_used=blocks, blocks_changed=tuple(changes)
    )


# -- to gateways and workers ------------------------------------------------------------------------------


def encode_place_response(epoch: int, items: Iterable[GatewayItem]) -> pb.PlaceResponse:
    """Everything a gateway should hear now, as one message."""
    response = pb.PlaceResponse(epoch=epoch)
    for item in items:
        match item:
            case PlacementNotice():
                _fill_placement(response.placements.add(), item.batch, item.placement, item.group)
            case AttachNotice():
                _fill_attach(response.placements.add(), item.attach, item.group)
            case Reject():
                response.rejections.add(
                    request_id=item.request_id,
                    attempt=item.attempt,
                    reason=_REJECT_REASONS[item.reason],
                    retry_after_s=item.retry_after_s,
                    message=item.message,
                )
            case Abort():
                response.retractions.add(
                    request_id=item.request_id,
                    attempt=item.attempt,
                    reason=_RETRACT_REASONS.get(item.reason, pb.RETRACT_REASON_UNSPECIFIED),
                )
            case InvalidRequest():
                response.rejections.add(
                    request_id=item.request_id, attempt=item.attempt, message=item.message
                )
            case Heartbeat():
                pass  # the epoch says it all
            case FleetView():
                _fill_fleet_view(response.fleet_view, item)
            case Resignation():
                response.epoch = item.epoch
                response.resigned = True
    return response


def _fill_fleet_view(message: pb.FleetView, view: FleetView) -> None:
    message.Clear()  # of two views in one message the newer one counts
    message.num_gateways = view.num_gateways
    message.heartbeat_s = view.heartbeat_s
    for group in view.groups:
        spec, loads = group.spec, group.loads
        message.groups.add(
            worker_id=spec.group_id,
            boot_id=spec.boot_id,
            address=spec.address,
            phase=_PHASES[spec.phase],
            chunk_budget_tokens=spec.chunk_budget_tokens,
            max_batch_size=spec.max_batch_size,
            kv_blocks_total=spec.kv_blocks_total,
            tokens_per_block=spec.tokens_per_block,
            longest_prompt_tokens=max(spec.longest_prompt, 0),
            tokenizer=bytes.fromhex(spec.tokenizer),
            full_pass_s=group.predicted_pass_s,
            prefill_load_tokens=loads.prefill_load_tokens,
            batch_size=loads.batch_size,
            kv_blocks_used=loads.kv_blocks_used,
        )


def encode_report_response(epoch: int, item: WorkerItem) -> pb.ReportResponse:
    """One thing a worker should hear."""
    match item:
        case Batch():
            return pb.ReportResponse(
                epoch=epoch,
                manifest=pb.BatchManifest(
                    batch_id=item.batch_id,
                    dispatch_seq=item.dispatch_seq,
                    phase=_PHASES[item.phase],
                    members=[
                        pb.BatchMember(
                            request_id=member.request_id, attempt=member.attempt, dp_rank=member.dp_rank
                        )
                        for member in item.placements
                    ],
                    predicted_pass_s=item.predicted_pass_s,
                ),
            )
        case Abort():
            correction = pb.Correction(
                request_id=item.request_id,
                attempt=item.attempt,
                key_hash=bytes.fromhex(item.key),
                dispatch_seq=item.dispatch_seq,
            )
            return pb.ReportResponse(epoch=epoch, correction=correction)
        case Probe():
            return pb.ReportResponse(epoch=epoch, probe=pb.Probe())
        case DrainOrder():
            return pb.ReportResponse(epoch=epoch, drain=pb.DrainWorker())
        case Welcome():
            welcome = pb.Welcome(heartbeat_interval_s=item.heartbeat_interval_s)
            return pb.ReportResponse(epoch=epoch, welcome=welcome)
        case Heartbeat():
            return pb.ReportResponse(epoch=epoch)
        case Resignation():
            return pb.ReportResponse(epoch=item.epoch, resigned=pb.Resigned())


def _fill_placement(wire: pb.Placement, batch: Batch, placement: Placement, group: GroupSpec | None) -> None:
    wire.request_id = placement.request_id
    wire.attempt = placement.attempt
    wire.phase = _PHASES[batch.phase]
    wire.worker_id = batch.group_id
    if group is not None:
        wire.worker_address = group.address
        wire.boot_id = group.boot_id
    wire.dp_rank = placement.dp_rank
    wire.batch_id = batch.batch_id
    wire.batch_size = len(batch.placements)
    wire.dispatch_seq = batch.dispatch_seq
    wire.hold_s = placement.hold_s


def _fill_attach(wire: pb.Placement, attach: Attach, group: GroupSpec) -> None:
    wire.request_id = attach.request_id
    wire.attempt = attach.attempt
    wire.phase = _PHASES[attach.phase]
    wire.worker_id = attach.group_id
    wire.worker_address = group.address
    wire.boot_id = group.boot_id
    wire.attaches = True


# -- to operators -----------------------------------------------------------------------------------------


def encode_snapshot(
    snapshot: SchedulerSnapshot,
    *,
    at_s: float,
    num_gateways: int,
    num_finished: int,
    num_rejected: Mapping[RejectReason, int],
    recent: Sequence[tuple[Batch, Placement]],
    acknowledged: Collection[str] = (),
) -> pb.Snapshot:
    """The machine for people and tools.

    Args:
        snapshot: the machine.
        at_s: seconds since 1970.
        num_gateways: gateways connected.
        num_finished: requests finished so far.
        num_rejected: requests rejected so far.
        recent: newest placements with their batches.
        acknowledged: workers that have said themselves that they take nothing new.
    """
    specs = {group.spec.group_id: group.spec for group in snapshot.groups}
    wire = pb.Snapshot(
        at_s=at_s,
        epoch=snapshot.epoch,
        policy=snapshot.policy,
        num_waiting=snapshot.num_waiting + snapshot.num_waiting_decode,
        waiting_tokens=snapshot.waiting_tokens,
        oldest_wait_s=snapshot.oldest_wait_s,
        num_in_flight=snapshot.num_in_flight,
        num_gateways=num_gateways,
        groups=[
            _group_state(group, acknowledged=group.spec.group_id in acknowledged) for group in snapshot.groups
        ],
        num_rejected={reason.value: count for reason, count in num_rejected.items()},
        num_finished=num_finished,
        saturation={phase.value: share for phase, share in snapshot.saturation.items()},
        predicted_ttft_s=snapshot.predicted_ttft_s,
    )
    for batch, placement in recent:
        _fill_placement(wire.recent_placements.add(), batch, placement, specs.get(batch.group_id))
    return wire


def _group_state(group: GroupSnapshot, *, acknowledged: bool) -> pb.GroupState:
    spec = group.spec
    loads = group.loads
    return pb.GroupState(
        worker_id=spec.group_id,
        boot_id=spec.boot_id,
        address=spec.address,
        phase=_PHASES[spec.phase],
        state=group.state,
        forward_pass_id=group.forward_pass_id,
        last_report_age_s=group.last_report_age_s,
        predicted_pass_s=group.predicted_pass_s,
        num_in_flight=_uint32(group.num_in_flight),
        is_draining=group.state == "draining",
        drain_acknowledged=acknowledged,
        ranks=[
            pb.RankSnapshot(
                dp_rank=rank,
                prefill_load_tokens=_uint32(prefill),
                batch_size=_uint32(batch),
                kv_blocks_used=_uint32(blocks),
                kv_blocks_total=spec.kv_blocks_total,
                chunk_budget_tokens=spec.chunk_budget_tokens,
            )
            for rank, (prefill, batch, blocks) in enumerate(
                zip(loads.prefill_load_tokens, loads.batch_size, loads.kv_blocks_used, strict=True)
            )
        ],
    )


# -- checks -----------------------------------------------------------------------------------------------


def _id(value: str, field: str) -> str:
    if not value or len(value) > MAX_ID_CHARS:
        raise InvalidMessageError(field, f"must have 1..{MAX_ID_CHARS} characters, got {len(value)}")
    return value


def _hash(value: bytes, field: str) -> str:
    """A digest in the core's form: hexadecimal."""
    if len(value) > MAX_HASH_BYTES:
        raise InvalidMessageError(field, f"at most {MAX_HASH_BYTES} bytes, got {len(value)}")
    return value.hex()


def _tokens(value: int, field: str) -> int:
    if not 1 <= value <= MAX_TOKENS:
        raise InvalidMessageError(field, f"must be 1..{MAX_TOKENS}, got {value}")
    return value


def _positive(value: int, field: str) -> int:
    if value < 1:
        raise InvalidMessageError(field, f"must be at least 1, got {value}")
    return value


def _seconds(value: float, field: str) -> float:
    if not 0.0 <= value <= MAX_SECONDS:  # also refuses NaN
        raise InvalidMessageError(field, f"must be 0..{MAX_SECONDS:g} s, got {value}")
    return value


def _figure(value: float) -> float:
    """A measurement for metrics; an impossible one counts as 0."""
    return value if math.isfinite(value) and 0.0 <= value <= MAX_SECONDS else 0.0


def _uint32(value: int) -> int:
    """What the wire can say of a number that a worker has made up, or that dispatches since have added to."""
    return min(max(0, value), (1 << 32) - 1)


def _column(values: Iterable[int], dp_size: int, field: str) -> tuple[int, ...]:
    column = tuple(values)
    if not column or len(column) == dp_size:
        return column
    raise InvalidMessageError(field, f"needs {dp_size} entries, one per DP rank; got {len(column)}")

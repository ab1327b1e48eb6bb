from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb
from hortator.scheduler import codec
from hortator.scheduler.core import events
from hortator.scheduler.core.commands import Abort, Probe, Reject
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
from hortator.scheduler.errors import InvalidMessageError
from hortator.scheduler.registry import DrainOrder, FleetView, InvalidRequest, PlacementNotice, Welcome

GROUP = GroupSpec(
    group_id="w",
    boot_id="b",
    phase=Phase.PREFILL,
    dp_size=2,
    chunk_budget_tokens=100,
    kv_blocks_total=50,
    address="127.0.0.1:9",
)
STATES = pb.RankStates(prefill_load_tokens=[5, 0], batch_size=[1, 2], kv_blocks_used=[3, 4])
LOADS = RankLoads(prefill_load_tokens=(5, 0), batch_size=(1, 2), kv_blocks_used=(3, 4))


def gateway_event(**event):
    return codec.decode_gateway_event(pb.GatewayEvent(**event), "gw", 100.0)


def report(**event):
    return codec.decode_report(pb.ReportRequest(**event), GROUP, 42)


def a_hello(**changes):
    fields = {
        "address": "127.0.0.1:9",
        "phase": pb.PHASE_PREFILL,
        "dp_size": 2,
        "ep_size": 2,
        "chunk_budget_tokens": 100,
        "chunked_prefill": True,
        "max_batch_size": 8,
        "kv_blocks_total": 50,
        "tokens_per_block": 64,
        "max_sequence_tokens": 4096,
        "rank_states": STATES,
    }
    return pb.ReportRequest(worker_id="w", boot_id="b", hello=pb.WorkerHello(**{**fields, **changes}))


# -- gateways


def test_an_announcement_becomes_an_arrival_with_a_deadline_from_now():
    announcement = pb.Announcement(
        request_id="r",
        attempt=2,
        num_prompt_tokens=7,
        max_output_tokens=9,
        block_hashes=[1, 2**64 - 1],
        priority=-3,
        tenant="t",
        latency_critical=True,
        timeout_s=2.5,
    )
    assert gateway_event(announcement=announcement) == events.RequestArrived(
        request_id="r",
        gateway_id="gw",
        attempt=2,
        num_prompt_tokens=7,
        max_output_tokens=9,
        block_hashes=(1, 2**64 - 1),
        priority=-3,
        tenant="t",
        latency_class=LatencyClass.CRITICAL,
        deadline_at=102.5,
    )


def test_an_announcement_without_timeout_or_output_limit_has_no_deadline_and_one_token():
    event = gateway_event(announcement=pb.Announcement(request_id="r", num_prompt_tokens=1))
    assert (event.deadline_at, event.max_output_tokens) == (None, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request_id", ""),
        ("request_id", "x" * 257),
        ("num_prompt_tokens", 0),
        ("num_prompt_tokens", 2**32 - 1),
        ("max_output_tokens", 2**32 - 1),
        ("timeout_s", -1.0),
        ("timeout_s", math.nan),
        ("timeout_s", math.inf),
        ("timeout_s", 1e12),
        ("tenant", "x" * 257),
    ],
)
def test_an_announcement_with_an_impossible_field_is_refused_naming_it(field, value):
    announcement = pb.Announcement(**{"request_id": "r", "num_prompt_tokens": 1, field: value})
    with pytest.raises(InvalidMessageError) as caught:
        gateway_event(announcement=announcement)
    assert caught.value.field == f"announcement.{field}"


def test_the_other_gateway_events_carry_their_fields_over():
    assert gateway_event(cancellation=pb.Cancellation(request_id="r", attempt=1)) == events.RequestCancelled(
        request_id="r", attempt=1
    )
    assert gateway_event(
        prefill_finished=pb.PrefillFinished(
            request_id="r", attempt=1, num_prompt_tokens=5, max_output_tokens=6
        )
    ) == events.PrefillFinished(
        request_id="r", attempt=1, gateway_id="gw", num_prompt_tokens=5, max_output_tokens=6
    )
    assert gateway_event(
        first_token=pb.FirstToken(request_id="r", attempt=1, ttft_s=0.5)
    ) == events.FirstToken(request_id="r", attempt=1, ttft_s=0.5)
    assert gateway_event(
        request_finished=pb.RequestFinished(
            request_id="r", attempt=1, num_output_tokens=3, ttft_s=0.5, e2e_s=1.5, first_gap_s=0.25
        )
    ) == events.RequestFinished(
        request_id="r", attempt=1, num_output_tokens=3, ttft_s=0.5, e2e_s=1.5, first_gap_s=0.25
    )
    assert gateway_event(
        placement_refused=pb.PlacementRefused(request_id="r", attempt=1, worker_id="w", reason="full")
    ) == events.PlacementRefused(request_id="r", attempt=1, group_id="w", reason="full")
    assert gateway_event(
        kv_transfer_failed=pb.KvTransferFailed(request_id="r", attempt=1)
    ) == events.KvTransferFailed(request_id="r", attempt=1)


@pytest.mark.parametrize("figure", [math.nan, math.inf, -1.0, 1e300])
def test_an_impossible_figure_does_not_lose_the_end_of_a_request(figure):
    event = gateway_event(
        request_finished=pb.RequestFinished(request_id="r", num_output_tokens=3, ttft_s=figure, e2e_s=figure)
    )
    assert (event.num_output_tokens, event.ttft_s, event.e2e_s) == (3, 0.0, 0.0)


@pytest.mark.parametrize("event", [{}, {"hello": pb.GatewayHello(gateway_id="gw")}])
def test_an_unknown_event_or_a_second_hello_is_refused(event):
    with pytest.raises(InvalidMessageError):
        gateway_event(**event)


def test_a_gateway_that_waits_for_a_placement_is_answered_and_others_are_not():
    error = InvalidMessageError("announcement.num_prompt_tokens", "must be at least 1")
    announcement = pb.GatewayEvent(announcement=pb.Announcement(request_id="r", attempt=3))
    assert codec.invalid_request(announcement, error) == InvalidRequest(
        "r", 3, "announcement.num_prompt_tokens: must be at least 1"
    )
    assert codec.invalid_request(pb.GatewayEvent(cancellation=pb.Cancellation()), error) is None


def test_the_first_event_of_a_place_stream_names_the_gateway():
    hello = pb.GatewayEvent(hello=pb.GatewayHello(gateway_id="gw"))
    assert codec.decode_gateway_id(pb.PlaceRequest(events=[hello])) == "gw"
    for wrong in (
        pb.PlaceRequest(),
        pb.PlaceRequest(events=[pb.GatewayEvent(cancellation=pb.Cancellation(request_id="r"))]),
        pb.PlaceRequest(events=[pb.GatewayEvent(hello=pb.GatewayHello())]),
    ):
        with pytest.raises(InvalidMessageError):
            codec.decode_gateway_id(wrong)


# -- workers


def test_a_hello_declares_the_group_and_its_loads():
    hello = codec.decode_hello(a_hello())
    group, loads = hello.group, hello.loads
    assert group == GroupSpec(
        group_id="w",
        boot_id="b",
        phase=Phase.PREFILL,
        dp_size=2,
        ep_size=2,
        chunk_budget_tokens=100,
        max_batch_size=8,
        kv_blocks_total=50,
        tokens_per_block=64,
        max_sequence_tokens=4096,
        address="127.0.0.1:9",
    )
    assert loads == LOADS


def test_a_hello_may_come_without_loads_and_a_decode_group_without_a_chunk_budget():
    message = a_hello(phase=pb.PHASE_DECODE, chunk_budget_tokens=0)
    message.hello.ClearField("rank_states")
    hello = codec.decode_hello(message)
    group, loads = hello.group, hello.loads
    assert (group.phase, group.chunk_budget_tokens, loads) == (Phase.DECODE, 1, None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"phase": pb.PHASE_UNSPECIFIED}, "hello.phase"),
        ({"phase": 17}, "hello.phase"),
        ({"dp_size": 0}, "hello.dp_size"),
        ({"dp_size": 5000}, "hello.dp_size"),
        ({"dp_size": 3}, "hello.rank_states"),
        ({"address": ""}, "hello.address"),
        ({"chunk_budget_tokens": 0}, "hello.chunk_budget_tokens"),
        ({"max_batch_size": 0}, "hello.max_batch_size"),
        ({"kv_blocks_total": 0}, "hello.kv_blocks_total"),
        ({"tokens_per_block": 0}, "hello.tokens_per_block"),
    ],
)
def test_a_hello_that_describes_no_possible_group_is_refused_naming_the_field(change, field):
    with pytest.raises(InvalidMessageError) as caught:
        codec.decode_hello(a_hello(**change))
    assert caught.value.field == field


def test_a_report_before_the_hello_is_refused():
    with pytest.raises(InvalidMessageError, match="must be a hello"):
        codec.decode_hello(pb.ReportRequest(worker_id="w", boot_id="b", rank_states=STATES))


def test_the_end_of_a_pass_carries_loads_and_what_ran():
    changed = pb.BlocksChanged(dp_rank=1, stored=[2**64 - 1], removed=[4])
    states = pb.RankStates()
    states.CopyFrom(STATES)
    states.blocks_changed.append(changed)
    ended = pb.ForwardPassEnded(
        forward_pass_id=8,
        duration_s=0.25,
        rank_states=states,
        pass_prefill_tokens=[10, 20],
        pass_decode_tokens=[],
    )
    assert report(forward_pass_ended=ended) == events.ForwardPassEnded(
        group_id="w",
        forward_pass_id=8,
        duration_s=0.25,
        included_dispatch_seq=42,
        loads=RankLoads(
            prefill_load_tokens=(5, 0),
            batch_size=(1, 2),
            kv_blocks_used=(3, 4),
            blocks_changed=(BlocksChanged(dp_rank=1, stored=(2**64 - 1,), removed=(4,)),),
        ),
        pass_prefill_tokens=(10, 20),
    )


def test_a_started_pass_may_come_without_loads_and_prediction():
    started = pb.ForwardPassStarted(forward_pass_id=8)
    assert report(forward_pass_started=started) == events.ForwardPassStarted(
        group_id="w", forward_pass_id=8, included_dispatch_seq=42
    )
    started = pb.ForwardPassStarted(forward_pass_id=8, predicted_s=0.5, rank_states=STATES)
    assert report(forward_pass_started=started) == events.ForwardPassStarted(
        group_id="w", forward_pass_id=8, included_dispatch_seq=42, loads=LOADS, predicted_s=0.5
    )


def test_heartbeat_split_and_draining_carry_their_fields_over():
    assert report(rank_states=STATES) == events.RankStateReported(
        group_id="w", included_dispatch_seq=42, loads=LOADS
    )
    assert report(batch_split=pb.BatchSplit(batch_id="1-2", request_ids=["a", "b"])) == events.BatchSplit(
        group_id="w", batch_id="1-2", request_ids=("a", "b")
    )
    assert report(draining=pb.WorkerDraining()) == events.WorkerDraining(group_id="w")


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({}, id="no-event"),
        pytest.param({"hello": pb.WorkerHello()}, id="second-hello"),
        pytest.param({"rank_states": pb.RankStates(prefill_load_tokens=[1, 2])}, id="missing-columns"),
        pytest.param(
            {
                "rank_states": pb.RankStates(
                    prefill_load_tokens=[1] * 3, batch_size=[1] * 3, kv_blocks_used=[1] * 3
                )
            },
            id="too-many-ranks",
        ),
        pytest.param({"forward_pass_ended": pb.ForwardPassEnded(duration_s=0.1)}, id="pass-without-loads"),
        pytest.param(
            {"forward_pass_ended": pb.ForwardPassEnded(duration_s=math.nan, rank_states=STATES)}, id="nan"
        ),
        pytest.param(
            {"forward_pass_ended": pb.ForwardPassEnded(duration_s=-0.1, rank_states=STATES)}, id="negative"
        ),
        pytest.param(
            {
                "forward_pass_ended": pb.ForwardPassEnded(
                    duration_s=0.1, rank_states=STATES, pass_prefill_tokens=[1]
                )
            },
            id="short-pass-column",
        ),
        pytest.param({"forward_pass_started": pb.ForwardPassStarted(predicted_s=math.inf)}, id="inf"),
        pytest.param(
            {
                "rank_states": pb.RankStates(
                    prefill_load_tokens=[1, 2],
                    batch_size=[1, 2],
                    kv_blocks_used=[1, 2],
                    blocks_changed=[pb.BlocksChanged(dp_rank=2)],
                )
            },
            id="block-of-no-rank",
        ),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(event):
    with pytest.raises(InvalidMessageError):
        report(**event)


# -- answers


def a_batch() -> Batch:
    members = tuple(
        Placement(request_id=name, attempt=1, gateway_id="gw", dp_rank=rank, num_prefill_tokens=5, hold_s=0.5)
        for rank, name in enumerate(("a", "b"))
    )
    return Batch(
        batch_id="1-7",
        group_id="w",
        phase=Phase.PREFILL,
        dispatch_seq=7,
        predicted_pass_s=0.125,
        placements=members,
    )


def test_one_response_tells_a_gateway_everything_that_gathered():
    batch = a_batch()
    abort = Abort(request_id="d", attempt=2, gateway_id="gw", group_id="w", reason=AbortReason.WORKER_LOST)
    reject = Reject(
        request_id="c",
        attempt=0,
        gateway_id="gw",
        reason=RejectReason.QUEUE_FULL_TOKENS,
        retry_after_s=1.5,
        message="full",
    )
    response = codec.encode_place_response(
        9, [PlacementNotice(batch, batch.placements[1], GROUP), reject, abort, InvalidRequest("e", 4, "bad")]
    )
    assert response == pb.PlaceResponse(
        epoch=9,
        placements=[
            pb.Placement(
                request_id="b",
                attempt=1,
                phase=pb.PHASE_PREFILL,
                worker_id="w",
                worker_address="127.0.0.1:9",
                boot_id="b",
                dp_rank=1,
                batch_id="1-7",
                batch_size=2,
                dispatch_seq=7,
                hold_s=0.5,
            )
        ],
        rejections=[
            pb.Rejection(
                request_id="c",
                reason=pb.REJECT_REASON_QUEUE_FULL_TOKENS,
                retry_after_s=1.5,
                message="full",
            ),
            pb.Rejection(request_id="e", attempt=4, message="bad"),
        ],
        retractions=[pb.Retraction(request_id="d", attempt=2, reason=pb.RETRACT_REASON_WORKER_LOST)],
    )


def test_a_gateway_is_told_all_that_it_needs_to_place_by_itself():
    older, newer = (
        GroupSnapshot(
            spec=replace(GROUP, tokenizer="00ff", max_sequence_tokens=90),
            state="running",
            forward_pass_id=11,
            last_report_age_s=0.25,
            predicted_pass_s=predicted_pass_s,
            loads=LOADS,
            num_in_flight=4,
        )
        for predicted_pass_s in (0.5, 0.125)
    )
    views = [FleetView((group,), num_gateways=3, heartbeat_s=0.25) for group in (older, newer)]
    response = codec.encode_place_response(9, views)
    assert response.fleet_view == pb.FleetView(
        groups=[
            pb.GroupView(
                worker_id="w",
                boot_id="b",
                address="127.0.0.1:9",
                phase=pb.PHASE_PREFILL,
                chunk_budget_tokens=GROUP.chunk_budget_tokens,
                max_batch_size=GROUP.max_batch_size,
                kv_blocks_total=GROUP.kv_blocks_total,
                tokens_per_block=GROUP.tokens_per_block,
                longest_prompt_tokens=89,
                tokenizer=b"\x00\xff",
                full_pass_s=0.125,
                prefill_load_tokens=LOADS.prefill_load_tokens,
                batch_size=LOADS.batch_size,
                kv_blocks_used=LOADS.kv_blocks_used,
            )
        ],
        num_gateways=3,
        heartbeat_s=0.25,
    )


@pytest.mark.parametrize("reason", RejectReason)
def test_every_reject_reason_has_its_own_word_on_the_wire(reason):
    reject = Reject(request_id="c", attempt=0, gateway_id="gw", reason=reason)
    wire = codec.encode_place_response(1, [reject]).rejections[0].reason
    assert pb.RejectReason.Name(wire) == f"REJECT_REASON_{reason.name}"


def test_a_manifest_lists_the_members_in_order():
    assert codec.encode_report_response(9, a_batch()) == pb.ReportResponse(
        epoch=9,
        manifest=pb.BatchManifest(
            batch_id="1-7",
            dispatch_seq=7,
            phase=pb.PHASE_PREFILL,
            members=[
                pb.BatchMember(request_id="a", attempt=1, dp_rank=0),
                pb.BatchMember(request_id="b", attempt=1, dp_rank=1),
            ],
            predicted_pass_s=0.125,
        ),
    )


def test_the_other_answers_to_a_worker():
    abort = Abort(request_id="d", attempt=2, gateway_id="gw", group_id="w", reason=AbortReason.CANCELLED)
    assert codec.encode_report_response(9, abort).correction == pb.Correction(request_id="d", attempt=2)
    assert codec.encode_report_response(9, Probe(group_id="w")).WhichOneof("event") == "probe"
    assert codec.encode_report_response(9, DrainOrder()).WhichOneof("event") == "drain"
    assert codec.encode_report_response(9, Welcome(0.5)).welcome.heartbeat_interval_s == 0.5


def test_a_snapshot_shows_groups_ranks_counters_and_the_newest_placements():
    batch = a_batch()
    snapshot = SchedulerSnapshot(
        epoch=9,
        policy="staggered",
        num_waiting=3,
        waiting_tokens=300,
        num_waiting_decode=2,
        oldest_wait_s=0.5,
        num_in_flight=4,
        saturation={Phase.PREFILL: 0.75},
        predicted_ttft_s=0.625,
        groups=(
            GroupSnapshot(
                spec=GROUP,
                state="running",
                forward_pass_id=11,
                last_report_age_s=0.25,
                predicted_pass_s=0.125,
                loads=LOADS,
                num_in_flight=4,
            ),
        ),
    )
    wire = codec.encode_snapshot(
        snapshot,
        at_s=1000.0,
        num_gateways=1,
        num_finished=12,
        num_rejected={RejectReason.DEADLINE: 2},
        recent=[(batch, batch.placements[0])],
    )
    assert (wire.num_waiting, wire.num_in_flight, wire.num_gateways, wire.num_finished) == (5, 4, 1, 12)
    assert dict(wire.num_rejected) == {"deadline": 2}
    assert dict(wire.saturation) == {"prefill": 0.75}
    assert wire.predicted_ttft_s == 0.625
    assert wire.recent_placements[0].worker_address == "127.0.0.1:9"
    (group,) = wire.groups
    assert (group.worker_id, group.state, group.phase) == ("w", "running", pb.PHASE_PREFILL)
    assert group.ranks[0] == pb.RankSnapshot(
        dp_rank=0,
        prefill_load_tokens=5,
        batch_size=1,
        kv_blocks_used=3,
        kv_blocks_total=50,
        chunk_budget_tokens=100,
    )

from __future__ import annotations

import grpc
import pytest
from grpc.aio import AioRpcError

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb


def state_of(bench, worker="w"):
    return next((group for group in bench.snapshot().groups if group.spec.group_id == worker), None)


async def test_a_worker_is_welcomed_and_ready_once_it_has_reported(bench):
    worker = await bench.stranger()
    await worker.hello()
    welcome = await worker.next("welcome")
    assert welcome.heartbeat_interval_s == 0.5
    await bench.until(lambda: state_of(bench) is not None and state_of(bench).state == "ready")


async def test_nothing_is_placed_on_a_worker_that_has_not_reported_its_loads(bench):
    worker = await bench.stranger()
    await worker.hello(rank_states=None)
    await worker.next("welcome")
    gateway = await bench.gateway()
    await gateway.announce("r1")
    await bench.until(lambda: bench.snapshot().num_waiting == 1)
    assert state_of(bench).state == "unreported"
    await worker.report(rank_states=worker.idle())
    assert (await gateway.wait_placements(1))[0].request_id == "r1"


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"phase": 9}, "hello.phase"), ({"dp_size": 0}, "hello.dp_size"), ({"dp_size": 7}, "hello.rank_states")],
)
async def test_a_hello_of_no_possible_group_ends_the_stream_naming_the_field(bench, changes, field):
    worker = await bench.stranger()
    await worker.hello(**changes)
    code, details = await worker.wait_end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in details
    assert bench.snapshot().groups == ()


async def test_a_report_that_makes_no_sense_is_dropped_and_the_stream_goes_on(bench):
    worker = await bench.worker()
    await worker.report(rank_states=pb.RankStates(prefill_load_tokens=[1]))
    await worker.report()
    await worker.report(forward_pass_ended=pb.ForwardPassEnded(duration_s=-1.0, rank_states=worker.idle()))
    await worker.end_pass()
    await bench.until(lambda: state_of(bench).forward_pass_id == 1)
    assert bench.app.shell.metrics._dropped.of("invalid_report").value == 3


async def test_a_stale_a_repeated_and_a_foreign_report_change_nothing(bench):
    worker = await bench.worker()
    await worker.end_pass()
    await worker.end_pass()
    await bench.until(lambda: state_of(bench).forward_pass_id == 2)
    stale = pb.ForwardPassEnded(forward_pass_id=77, duration_s=0.1, rank_states=worker.idle())
    await worker.report(forward_pass_ended=stale, sequence=1)
    await worker.report(forward_pass_ended=stale, sequence=worker.sequence)
    await worker.report(forward_pass_ended=stale, boot_id="other")
    await worker.report(forward_pass_ended=stale, worker_id="other")
    await worker.end_pass()
    await bench.until(lambda: state_of(bench).forward_pass_id == 3)
    dropped = bench.app.shell.metrics._dropped
    assert dropped.of("stale_sequence").value == 2
    assert dropped.of("wrong_boot").value == 1
    assert dropped.of("wrong_worker").value == 1


async def test_work_reported_under_another_epoch_counts_as_not_included(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    manifest = await worker.next("manifest")
    ours, worker.epoch = worker.epoch, worker.epoch - 1
    await worker.report(rank_states=worker.idle(), included_dispatch_seq=manifest.dispatch_seq)
    await worker.report(draining=pb.WorkerDraining())
    await bench.until(lambda: state_of(bench).state == "draining")
    assert sum(state_of(bench).loads.prefill_load_tokens) == 100  # still counted as on its way
    worker.epoch = ours
    await worker.report(rank_states=worker.idle(), included_dispatch_seq=manifest.dispatch_seq)
    await bench.until(lambda: sum(state_of(bench).loads.prefill_load_tokens) == 0)


async def test_a_worker_whose_stream_breaks_is_lost_after_the_grace_and_its_requests_retracted(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1", attempt=4)
    await gateway.wait_placements(1)
    worker.call.cancel()
    (retraction,) = await gateway.wait_retractions(1)
    assert retraction == pb.Retraction(request_id="r1", attempt=4, reason=pb.RETRACT_REASON_WORKER_LOST)
    assert bench.snapshot().groups == ()


async def test_the_same_boot_back_within_the_grace_keeps_its_requests(start_scheduler):
    bench = await start_scheduler(worker_grace_s=30.0)
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    manifest = await worker.next("manifest")
    worker.call.cancel()
    again = await bench.worker()
    await again.end_pass(manifest)
    await gateway.announce("r2")
    await gateway.wait_placements(2)
    assert gateway.retractions == []
    assert bench.snapshot().num_in_flight == 2


async def test_another_boot_replaces_the_worker_at_once(start_scheduler):
    bench = await start_scheduler(worker_grace_s=30.0)
    old, gateway = await bench.worker(boot="b1"), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    await bench.worker(boot="b2")
    (retraction,) = await gateway.wait_retractions(1)
    assert retraction.reason == pb.RETRACT_REASON_WORKER_LOST
    code, _ = await old.wait_end()
    assert code is grpc.StatusCode.ABORTED
    await gateway.announce("r2")
    assert (await gateway.wait_placements(2))[1].boot_id == "b2"


async def test_members_that_missed_their_batch_are_retracted(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    manifest = await worker.next("manifest")
    await worker.report(batch_split=pb.BatchSplit(batch_id=manifest.batch_id, request_ids=["r1"]))
    (retraction,) = await gateway.wait_retractions(1)
    assert retraction.reason == pb.RETRACT_REASON_BATCH_SPLIT


async def test_a_silent_worker_is_probed_then_declared_lost_and_may_come_back(start_scheduler):
    core = {"watchdog_min_s": 0.1, "watchdog_factor": 0.01, "warmup_passes": 0}
    bench = await start_scheduler(core=core)
    worker, gateway = await bench.worker(), await bench.gateway()
    for _ in range(3):
        await worker.end_pass()
    await gateway.announce("r1")
    await gateway.wait_placements(1)
    await worker.next("probe")
    code, details = await worker.wait_end()
    assert code is grpc.StatusCode.ABORTED
    assert "lost" in details
    (retraction,) = await gateway.wait_retractions(1)
    assert retraction.reason == pb.RETRACT_REASON_WORKER_LOST
    await bench.worker()
    await gateway.announce("r1", attempt=1)
    assert (await gateway.wait_placements(2))[1].attempt == 1


async def test_a_worker_that_announces_its_drain_gets_nothing_new(bench):
    draining, gateway = await bench.worker("w1"), await bench.gateway()
    await draining.report(draining=pb.WorkerDraining())
    await bench.until(lambda: state_of(bench, "w1").state == "draining")
    await bench.worker("w2")
    await gateway.announce("r1")
    assert (await gateway.wait_placements(1))[0].worker_id == "w2"


async def test_a_report_before_the_hello_is_refused(bench):
    worker = await bench.stranger()
    await worker.report(rank_states=worker.idle())
    code, _ = await worker.wait_end()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(AioRpcError):
        await worker.call.read()

"""Idempotency keys on the wire: who comes back, what runs, what must end before."""

from __future__ import annotations

from hortator.rpc.scheduling.v1 import scheduling_pb2 as pb

KEYED = {"key_hash": b"key", "request_hash": b"request"}


async def test_a_request_goes_on_for_another_gateway(bench):
    worker, first = await bench.worker(), await bench.gateway("g1")
    await first.announce("r1", **KEYED)
    await first.wait_placements(1)
    second = await bench.gateway("g2")
    await second.announce("r2", **KEYED)
    (placement,) = await second.wait_placements(1)
    assert placement.attaches
    assert (placement.request_id, placement.worker_id, placement.boot_id) == ("r2", "w", "b1")
    assert placement.worker_address == "127.0.0.1:4001"
    assert placement.phase == pb.PHASE_AGGREGATED
    assert worker.unread == []


async def test_where_it_cannot_attach_the_worker_is_asked_to_end_it_and_answers(bench):
    worker, first = await bench.worker(), await bench.gateway("g1")
    await first.announce("r1", **KEYED)
    await first.wait_placements(1)
    manifest = await worker.next("manifest")
    second = await bench.gateway("g2")
    await second.announce("r2", **KEYED)
    await second.wait_placements(1)
    await second.send({"placement_refused": pb.PlacementRefused(request_id="r2", worker_id="w")})
    correction = await worker.next("correction")
    assert correction.key_hash == b"key"
    assert correction.dispatch_seq == manifest.dispatch_seq
    ended = pb.KeyedRequest(key_hash=b"key", request_id="r1")
    await worker.report(keyed_ends=pb.KeyedRequests(requests=[ended]))
    await worker.end_pass(manifest)
    *_, placement = await second.wait_placements(2)
    assert not placement.attaches
    assert placement.batch_size == 1


async def test_a_worker_says_what_runs_under_which_key_when_it_comes(bench):
    worker = await bench.stranger()
    await worker.hello(keyed_requests=[pb.KeyedRequest(**KEYED, request_id="old", attempt=2)])
    gateway = await bench.gateway()
    await gateway.announce("r1", **KEYED)
    (placement,) = await gateway.wait_placements(1)
    assert placement.attaches


async def test_a_key_that_meant_something_else_is_refused(bench):
    await bench.worker()
    gateway = await bench.gateway()
    await gateway.announce("r1", **KEYED)
    await gateway.announce("r2", key_hash=b"key", request_hash=b"another")
    (rejection,) = await gateway.wait_rejections(1)
    assert (rejection.request_id, rejection.reason) == ("r2", pb.REJECT_REASON_KEY_REUSED)


async def test_who_waits_hears_that_the_client_is_elsewhere(bench):
    first, second = await bench.gateway("g1"), await bench.gateway("g2")
    await first.announce("r1", **KEYED)
    await bench.until(lambda: bench.snapshot().num_waiting == 1)
    await second.announce("r2", **KEYED)
    (rejection,) = await first.wait_rejections(1)
    assert (rejection.request_id, rejection.reason) == ("r1", pb.REJECT_REASON_TAKEN_OVER)
    await bench.worker()
    (placement,) = await second.wait_placements(1)
    assert not placement.attaches


async def test_a_hash_of_absurd_length_is_refused(bench):
    await bench.worker()
    gateway = await bench.gateway()
    await gateway.announce("r1", key_hash=b"k" * 65)
    (rejection,) = await gateway.wait_rejections(1)
    assert "announcement.key_hash: at most 64 bytes" in rejection.message


async def test_a_worker_says_what_runs_under_which_key_to_a_new_leader(bench):
    worker, gateway = await bench.worker(), await bench.gateway()
    keyed = pb.KeyedRequest(**KEYED, request_id="old")
    await worker.report(keyed_requests=pb.KeyedRequests(requests=[keyed]))
    await bench.until(lambda: bench.app.shell._driver._machine.keys.leftovers)
    await gateway.announce("r1", **KEYED)
    (placement,) = await gateway.wait_placements(1)
    assert placement.attaches

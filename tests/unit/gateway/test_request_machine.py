"""The request machine: what happens in, actions out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hortator.gateway.actions import (
    AbortAttempt,
    Announce,
    AnnounceDecode,
    Complete,
    Fail,
    Finish,
    ReleaseLease,
    Replacement,
    ReportKvLost,
    ReportRefusal,
    Submit,
    Withdraw,
)
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.placement import (
    CompletionReason,
    KvSource,
    Phase,
    Placement,
    Rejection,
    RejectReason,
    Retraction,
    RetractReason,
    SubmitMode,
    WorkerCompletion,
    WorkerTarget,
)
from hortator.gateway.request import GAP, RequestMachine, State

W0 = WorkerTarget("h0:1", "boot0")
W1 = WorkerTarget("h1:1", "boot1")
KV = KvSource(worker_address="h0:1", boot_id="boot0", lease_id="lease")


def a_placement(phase=Phase.AGGREGATED, *, attempt=0, target=W0) -> Placement:
    return Placement(request_id="r", attempt=attempt, phase=phase, worker_id=target.address, target=target)


def a_completion(reason, **fields) -> WorkerCompletion:
    return WorkerCompletion(request_id="r", reason=reason, **{"attempt": 0, **fields})


def a_machine(*, prompt=10, max_tokens=5, **limits) -> RequestMachine:
    machine = RequestMachine(num_prompt_tokens=prompt, max_tokens=max_tokens, **limits)
    assert machine.accepted() == [Announce(0, prompt, max_tokens)]
    return machine


def a_running_machine(**fields) -> RequestMachine:
    machine = a_machine(**fields)
    machine.placed(a_placement())
    return machine


def a_transferring_machine(**fields) -> RequestMachine:
    machine = a_machine(**fields)
    machine.placed(a_placement(Phase.PREFILL))
    machine.accept_tokens(0, 0, [7])
    machine.worker_completed(a_completion(CompletionReason.PREFILLED, kv_source=KV, num_output_tokens=1))
    return machine


def failure(actions) -> GatewayError:
    [fail] = [action for action in actions if isinstance(action, Fail)]
    return fail.error


def test_aggregated_requests_wait_prefill_decode_and_finish():
    machine = a_machine()
    placement = a_placement()
    assert machine.placed(placement) == [Submit(placement, SubmitMode.AGGREGATED)]
    assert machine.state is State.PREFILLING
    assert machine.accept_tokens(0, 0, [7]) == 1
    assert machine.state is State.DECODING
    assert machine.accept_tokens(0, 1, [8, 9]) == 2
    done = a_completion(CompletionReason.STOP, num_output_tokens=3, num_cached_prompt_tokens=4)
    assert machine.worker_completed(done) == [Complete(Finish.STOP)]
    assert machine.state is State.FINISHED
    assert list(machine.output_ids) == [7, 8, 9]
    assert machine.num_cached_prompt_tokens == 4


def test_disaggregated_requests_transfer_between_prefill_and_decode():
    machine = a_machine()
    placement = a_placement(Phase.PREFILL)
    assert machine.placed(placement) == [Submit(placement, SubmitMode.PREFILL_ONLY)]
    assert machine.accept_tokens(0, 0, [7]) == 1
    assert machine.state is State.PREFILLING
    prefilled = a_completion(CompletionReason.PREFILLED, kv_source=KV, num_output_tokens=1)
    assert machine.worker_completed(prefilled) == [AnnounceDecode(0, 11, 4)]
    assert (machine.state, machine.target) == (State.TRANSFERRING, None)
    decode = a_placement(Phase.DECODE, target=W1)
    assert machine.placed(decode) == [Submit(decode, SubmitMode.DECODE_ONLY, KV)]
    assert machine.accept_tokens(0, 1, [8]) == 1
    assert machine.lease_holder is None  # pulled, and freed by the worker
    assert (
        machine.worker_lost(W0, "gone", crashed=True) == []
    )  # the prefill worker has no part in it any more


def test_a_prefill_that_ends_the_request_releases_the_lease_it_does_not_need():
    machine = a_machine(max_tokens=1)
    machine.placed(a_placement(Phase.PREFILL))
    machine.accept_tokens(0, 0, [7])
    prefilled = a_completion(CompletionReason.PREFILLED, kv_source=KV, num_output_tokens=1)
    assert machine.worker_completed(prefilled) == [ReleaseLease(KV), Complete(Finish.LENGTH)]


def test_repeated_tokens_and_tokens_of_other_attempts_are_dropped():
    machine = a_running_machine(max_tokens=10)
    assert machine.accept_tokens(0, 0, [1, 2, 3]) == 3
    assert machine.accept_tokens(0, 0, [1, 2, 3]) == 0
    assert machine.accept_tokens(0, 1, [2, 3, 4]) == 1
    assert machine.accept_tokens(1, 4, [99]) == 0
    assert list(machine.output_ids) == [1, 2, 3, 4]


def test_tokens_beyond_max_tokens_are_cut():
    machine = a_running_machine(max_tokens=2)
    assert machine.accept_tokens(0, 0, [1, 2, 3]) == 2
    assert list(machine.output_ids) == [1, 2]


def test_a_gap_costs_the_worker_the_request():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1])
    assert machine.accept_tokens(0, 2, [3]) == GAP
    assert machine.worker_faulted("gap") == [AbortAttempt(W0, 0), Announce(1, 11, 4, Replacement.CRASH)]


def test_a_completion_that_counts_more_tokens_than_came_is_a_fault():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1])
    actions = machine.worker_completed(a_completion(CompletionReason.LENGTH, num_output_tokens=5))
    assert actions == [AbortAttempt(W0, 0), Announce(1, 11, 4, Replacement.CRASH)]


def test_a_lost_worker_means_a_new_attempt_that_carries_the_tokens():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1, 2])
    assert machine.worker_lost(W1, "another one", crashed=True) == []
    assert machine.worker_lost(W0, "gone", crashed=True) == [Announce(1, 12, 3, Replacement.CRASH)]
    assert (machine.attempt, machine.state, machine.num_replacements) == (1, State.WAITING, 1)
    assert machine.accept_tokens(0, 2, [3]) == 0  # what the dead still send
    machine.placed(a_placement(attempt=1, target=W1))
    assert machine.accept_tokens(1, 2, [3]) == 1


def test_the_second_crash_quarantines():
    machine = a_running_machine()
    machine.worker_lost(W0, "gone", crashed=True)
    machine.placed(a_placement(attempt=1, target=W1))
    actions = machine.worker_lost(W1, "gone, too", crashed=True)
    assert actions[0] == Withdraw(1)
    error = failure(actions)
    assert error.kind is ErrorKind.QUARANTINED
    assert "quarantined after 2 worker failures" in error.message
    assert machine.resumed() != []  # only the driver's is_final keeps a client from it
    assert error.is_final


@pytest.mark.parametrize(
    "reason", [CompletionReason.ABORTED, CompletionReason.REFUSED, CompletionReason.KV_LOST]
)
def test_what_is_no_crash_never_quarantines(reason):
    machine = a_machine(max_refusals=100)
    for turn in range(10):
        machine.placed(a_placement(attempt=machine.attempt))
        actions = machine.worker_completed(a_completion(reason, attempt=machine.attempt))
        assert not any(isinstance(action, Fail) for action in actions), turn
    assert machine.num_crashes == 0
    assert machine.state is State.WAITING


def test_a_drained_worker_is_no_crash():
    machine = a_running_machine()
    assert machine.worker_lost(W0, "drained", crashed=False) == [Announce(1, 10, 5, Replacement.WORKER_LEFT)]
    assert machine.num_crashes == 0


def test_a_crash_that_only_lost_the_last_word_completes_the_request():
    machine = a_running_machine(max_tokens=2)
    machine.accept_tokens(0, 0, [1, 2])
    assert machine.worker_lost(W0, "gone", crashed=True) == [Complete(Finish.LENGTH)]


def test_refusals_keep_the_attempt_and_come_slower_each_time():
    machine = a_machine(max_refusals=8)
    delays = []
    for _ in range(7):
        machine.placed(a_placement())
        [report] = machine.refused("busy")
        assert isinstance(report, ReportRefusal)
        assert (report.attempt, report.worker_id, report.reason) == (0, "h0:1", "busy")
        delays.append(report.delay_s)
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    machine.placed(a_placement())
    assert failure(machine.refused("busy")).kind is ErrorKind.UNAVAILABLE


def test_tokens_forgive_refusals():
    machine = a_machine(max_refusals=3, max_tokens=50)
    for round_number in range(5):
        machine.placed(a_placement(attempt=machine.attempt))
        machine.refused("late")
        machine.placed(a_placement(attempt=machine.attempt))
        assert machine.accept_tokens(machine.attempt, round_number, [1]) == 1
        machine.worker_lost(W0, "drained", crashed=False)
    assert machine.state is State.WAITING


def test_a_refused_decode_placement_keeps_the_lease_and_wants_another():
    machine = a_transferring_machine()
    machine.placed(a_placement(Phase.DECODE, target=W1))
    [report] = machine.refused("full")
    assert (machine.state, report.attempt, machine.lease_holder) == (State.TRANSFERRING, 0, W0)
    again = a_placement(Phase.DECODE, target=W1)
    assert machine.placed(again) == [Submit(again, SubmitMode.DECODE_ONLY, KV)]


def test_lost_kv_is_told_and_prefilled_again():
    machine = a_transferring_machine()
    machine.placed(a_placement(Phase.DECODE, target=W1))
    actions = machine.worker_completed(a_completion(CompletionReason.KV_LOST))
    assert actions == [ReleaseLease(KV), ReportKvLost(0), Announce(1, 11, 4, Replacement.KV_LOST)]


def test_the_loss_of_the_lease_holder_is_the_loss_of_the_kv():
    machine = a_transferring_machine()
    assert machine.worker_lost(W1, "another", crashed=True) == []
    actions = machine.worker_lost(W0, "gone", crashed=True)
    assert actions == [ReportKvLost(0), Announce(1, 11, 4, Replacement.KV_LOST)]
    assert machine.num_crashes == 0


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (RetractReason.BATCH_SPLIT, [AbortAttempt(W0, 0), Announce(1, 10, 5, Replacement.BATCH_SPLIT)]),
        (RetractReason.WORKER_LOST, [AbortAttempt(W0, 0), Announce(1, 10, 5, Replacement.CRASH)]),
    ],
)
def test_retractions_announce_again(reason, expected):
    machine = a_running_machine()
    assert machine.retracted(Retraction(request_id="r", attempt=5, reason=reason)) == []
    assert machine.retracted(Retraction(request_id="r", attempt=0, reason=reason)) == expected


def test_a_retraction_after_the_worker_was_seen_to_die_counts_no_second_crash():
    machine = a_running_machine()
    machine.worker_lost(W0, "gone", crashed=True)
    assert machine.retracted(Retraction(request_id="r", attempt=0, reason=RetractReason.WORKER_LOST)) == []
    assert machine.num_crashes == 1


def test_a_retraction_of_a_refused_placement_announces_again():
    machine = a_running_machine()
    machine.refused("late for its batch")
    split = Retraction(request_id="r", attempt=0, reason=RetractReason.BATCH_SPLIT)
    assert machine.retracted(split) == [Announce(1, 10, 5, Replacement.BATCH_SPLIT)]


def test_a_retraction_for_the_deadline_frees_the_worker_and_fails():
    machine = a_running_machine()
    actions = machine.retracted(Retraction(request_id="r", attempt=0, reason=RetractReason.DEADLINE))
    assert actions[0] == AbortAttempt(W0, 0)
    assert failure(actions).kind is ErrorKind.DEADLINE


def test_rejections_end_new_requests_and_carry_the_retry_time():
    machine = a_machine()
    rejection = Rejection(
        request_id="r", attempt=0, reason=RejectReason.QUEUE_FULL, retry_after_s=3.0, message="m"
    )
    [fail] = machine.rejected(rejection)
    assert (fail.error.kind, fail.error.retry_after_s, fail.error.message) == (ErrorKind.QUEUE_FULL, 3.0, "m")


def test_a_rejection_of_a_running_or_older_attempt_changes_nothing():
    machine = a_running_machine()
    assert machine.rejected(Rejection(request_id="r", attempt=0, reason=RejectReason.QUEUE_FULL)) == []
    machine.worker_lost(W0, "gone", crashed=True)
    assert machine.rejected(Rejection(request_id="r", attempt=0, reason=RejectReason.QUEUE_FULL)) == []


def test_a_full_queue_does_not_end_what_has_begun():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1])
    machine.worker_lost(W0, "gone", crashed=True)
    full = Rejection(request_id="r", attempt=1, reason=RejectReason.QUEUE_FULL, retry_after_s=0.3)
    assert machine.rejected(full) == [Announce(2, 11, 4, delay_s=0.3)]
    late = Rejection(request_id="r", attempt=2, reason=RejectReason.QUEUE_TIMEOUT)
    assert failure(machine.rejected(late)).kind is ErrorKind.QUEUE_TIMEOUT


def test_a_scheduler_that_drains_leaves_a_newcomer_for_the_next_one():
    machine = a_machine()
    draining = Rejection(request_id="r", attempt=0, reason=RejectReason.DRAINING)
    assert machine.rejected(draining) == []
    assert machine.state is State.WAITING
    assert machine.scheduler_connected() == [Announce(0, 10, 5)]


def test_leaving_frees_whatever_is_held_in_each_state():
    error = GatewayError(ErrorKind.CANCELLED, "gone")
    assert a_machine().ended_early(error) == [Withdraw(0), Fail(error)]
    assert a_running_machine().ended_early(error) == [AbortAttempt(W0, 0), Withdraw(0), Fail(error)]
    assert a_transferring_machine().ended_early(error) == [ReleaseLease(KV), Withdraw(0), Fail(error)]
    decoding = a_transferring_machine()
    decoding.placed(a_placement(Phase.DECODE, target=W1))
    assert decoding.ended_early(error) == [AbortAttempt(W1, 0), ReleaseLease(KV), Withdraw(0), Fail(error)]
    assert decoding.ended_early(error) == []


def test_a_client_that_comes_back_goes_on_as_a_newcomer_with_its_tokens():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1, 2])
    machine.ended_early(GatewayError(ErrorKind.CANCELLED, "gone"))
    assert machine.resumed() == [Announce(0, 12, 3, Replacement.CLIENT_BACK)]
    assert machine.resumed() == []


def test_a_stop_string_ends_the_request_at_its_token():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1, 2, 3])
    assert machine.stopped(2) == [AbortAttempt(W0, 0), Complete(Finish.STOP)]
    assert list(machine.output_ids) == [1, 2]
    assert machine.stopped(1) == []


def test_a_new_scheduler_hears_what_waits_and_nothing_else():
    assert a_machine().scheduler_connected() == [Announce(0, 10, 5)]
    assert a_transferring_machine().scheduler_connected() == [AnnounceDecode(0, 11, 4)]
    assert a_running_machine().scheduler_connected() == []


def test_placements_that_answer_no_open_question_change_nothing():
    machine = a_running_machine()
    assert machine.placed(a_placement(target=W1)) == []
    assert machine.target == W0
    assert a_machine().placed(a_placement(Phase.DECODE)) == []
    assert a_transferring_machine().placed(a_placement(Phase.PREFILL)) == []
    machine.worker_lost(W0, "gone", crashed=True)
    assert machine.placed(a_placement(attempt=0, target=W1)) == []  # an attempt that is over


def test_a_refusal_that_names_a_field_is_invalid():
    machine = a_running_machine()
    actions = machine.worker_completed(
        a_completion(CompletionReason.REFUSED, field="prompt", message="too long")
    )
    error = failure(actions)
    assert (error.kind, error.message) == (ErrorKind.INVALID, "prompt: too long")
    assert [violation.field for violation in error.violations] == ["prompt"]


_EVENTS = st.one_of(
    st.tuples(st.just("placed"), st.sampled_from(Phase), st.sampled_from([W0, W1])),
    st.tuples(st.just("placed late"), st.sampled_from(Phase), st.sampled_from([W0, W1]), st.integers(1, 3)),
    st.tuples(st.just("placed here"), st.sampled_from(Phase), st.sampled_from([W0, W1])),
    st.tuples(st.just("tokens"), st.integers(0, 3), st.integers(0, 12), st.integers(1, 4)),
    st.tuples(st.just("completed"), st.sampled_from(CompletionReason)),
    st.tuples(st.just("lost"), st.sampled_from([W0, W1]), st.booleans()),
    st.tuples(st.just("refused")),
    st.tuples(st.just("retracted"), st.sampled_from([RetractReason.BATCH_SPLIT, RetractReason.WORKER_LOST])),
    st.tuples(st.just("connected")),
)


@given(st.lists(_EVENTS, max_size=60))
def test_whatever_happens_tokens_come_once_in_order_and_nothing_is_left_behind(events):
    """Truth: the token at index i is 100 + i. Workers may repeat, skip, die, refuse and lie about their end."""
    machine = RequestMachine(num_prompt_tokens=3, max_tokens=12)
    machine.accepted()
    held: set[tuple[WorkerTarget, int]] = set()  # attempts that workers run for us
    leases = 0

    def carry_out(actions):
        nonlocal leases
        for action in actions:
            match action:
                case Submit(placement):
                    held.add((placement.target, placement.attempt))
                case AbortAttempt(target, attempt):
                    held.discard((target, attempt))
                case ReleaseLease():
                    leases -= 1

    for kind, *details in events:
        match kind:
            case "placed":
                carry_out(machine.placed(a_placement(details[0], attempt=machine.attempt, target=details[1])))
            case "placed late":  # by a leader that has not heard yet of what happened since
                phase, target, late_by = details
                attempt = machine.attempt - late_by
                if attempt >= 0:
                    assert machine.placed(a_placement(phase, attempt=attempt, target=target)) == []
            case "placed here":
                phase, target = details
                carry_out(machine.placed_here(placed_here(phase, attempt=machine.attempt + 1, target=target)))
            case "tokens":
                back, index, number = details
                index = max(0, index - back)
                if (
                    machine.accept_tokens(machine.attempt, index, range(100 + index, 100 + index + number))
                    == GAP
                ):
                    carry_out(machine.worker_faulted("gap"))
            case "completed":
                if machine.target is None:
                    continue
                held.discard((machine.target, machine.attempt))
                source = KV if details[0] is CompletionReason.PREFILLED else None
                carry_out(
                    machine.worker_completed(
                        a_completion(details[0], attempt=machine.attempt, kv_source=source)
                    )
                )
            case "lost":
                held -= {entry for entry in held if entry[0] == details[0]}
                carry_out(machine.worker_lost(details[0], "gone", crashed=details[1]))
            case "refused":
                if machine.target is not None:
                    held.discard((machine.target, machine.attempt))
                carry_out(machine.refused("late"))
            case "retracted":
                retraction = Retraction(request_id="r", attempt=machine.attempt, reason=details[0])
                carry_out(machine.retracted(retraction))
            case "connected":
                carry_out(machine.scheduler_connected())
        assert list(machine.output_ids) == [100 + i for i in range(len(machine.output_ids))]
        assert len(machine.output_ids) <= 12
        running = set() if machine.target is None else {(machine.target, machine.attempt)}
        assert held == running  # never two live attempts, never one that nobody wants
        assert (machine.target is None) == (
            machine.state in {State.WAITING, State.TRANSFERRING, State.FINISHED}
        )
    carry_out(machine.ended_early(GatewayError(ErrorKind.CANCELLED, "gone")))
    assert not held


def test_a_request_that_grew_too_long_to_prefill_elsewhere_is_no_fault_of_the_client():
    machine = a_running_machine()
    machine.accept_tokens(0, 0, [1])
    machine.worker_lost(W0, "gone", crashed=True)
    [fail] = machine.rejected(Rejection(request_id="r", attempt=1, reason=RejectReason.PROMPT_TOO_LONG))
    assert fail.error.kind is ErrorKind.UNAVAILABLE


@pytest.mark.parametrize("phase", [Phase.AGGREGATED, Phase.DECODE])
def test_a_request_that_runs_already_is_attached_to_and_gets_all_tokens_from_the_first(phase):
    machine = a_machine()
    placement = replace(a_placement(phase), attaches=True)
    assert machine.placed(placement) == [Submit(placement, SubmitMode.ATTACH)]
    assert machine.accept_tokens(0, 0, [1, 2, 3]) == 3
    assert machine.state is State.DECODING
    done = machine.worker_completed(a_completion(CompletionReason.LENGTH, num_output_tokens=3))
    assert done == [Complete(Finish.LENGTH)]


@pytest.mark.parametrize("phase", [Phase.AGGREGATED, Phase.DECODE])
def test_who_cannot_attach_wants_a_placement_under_the_same_attempt(phase):
    machine = a_machine()
    machine.placed(replace(a_placement(phase), attaches=True))
    [report] = machine.worker_completed(a_completion(CompletionReason.REFUSED))
    assert isinstance(report, ReportRefusal)
    assert (machine.state, machine.attempt) == (State.WAITING, 0)
    placement = a_placement()
    assert machine.placed(placement) == [Submit(placement, SubmitMode.AGGREGATED)]


def test_what_was_taken_over_is_not_announced_again():
    """Two gateways would race for it."""
    machine = a_running_machine()
    actions = machine.worker_completed(a_completion(CompletionReason.TAKEN_OVER))
    assert failure(actions).kind is ErrorKind.TAKEN_OVER
    assert actions == [Fail(failure(actions))]
    machine = a_machine()
    machine.placed(a_placement(Phase.PREFILL))
    actions = machine.retracted(Retraction(request_id="r", attempt=0, reason=RetractReason.TAKEN_OVER))
    assert failure(actions).kind is ErrorKind.TAKEN_OVER
    assert actions[0] == AbortAttempt(W0, 0)


def test_a_gateway_that_stops_ends_only_what_no_worker_runs():
    error = GatewayError(ErrorKind.UNAVAILABLE, "stopped")
    assert a_running_machine().left(error) == [Fail(error)]
    assert a_machine().left(error) == [Withdraw(0), Fail(error)]
    assert a_transferring_machine().left(error) == [ReleaseLease(KV), Withdraw(0), Fail(error)]


def placed_here(phase=Phase.AGGREGATED, **fields) -> Placement:
    return replace(a_placement(phase, **fields), is_degraded=True, epoch=7)


def test_what_a_gateway_places_itself_is_the_attempt_after_the_one_that_it_announced():
    machine = a_machine()
    placement = placed_here(attempt=1)
    assert machine.placed_here(placement) == [Withdraw(0), Submit(placement, SubmitMode.AGGREGATED)]
    assert machine.attempt == 1
    assert machine.placed(a_placement()) == [], "a scheduler that comes back is too late"
    assert machine.placed_here(placed_here(attempt=2)) == [], "it runs"
    assert machine.accept_tokens(0, 0, [7]) == 0
    assert machine.accept_tokens(1, 0, [7]) == 1


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_gateway_places_no_other_attempt(attempt):
    assert a_machine().placed_here(placed_here(attempt=attempt)) == []


def test_a_decode_is_placed_by_a_gateway_with_its_kv():
    machine = a_transferring_machine()
    placement = placed_here(Phase.DECODE, attempt=1)
    assert machine.placed_here(placement) == [Withdraw(0), Submit(placement, SubmitMode.DECODE_ONLY, KV)]


@pytest.mark.parametrize("is_decode", [False, True])
def test_a_refusal_of_what_a_gateway_placed_is_none_of_the_schedulers_and_never_the_last(is_decode):
    machine = a_transferring_machine(max_refusals=2) if is_decode else a_machine(max_refusals=2)
    phase = Phase.DECODE if is_decode else Phase.AGGREGATED
    state = machine.state
    for attempt in range(1, 9):
        machine.placed_here(placed_here(phase, attempt=attempt))
        [report] = machine.refused("it knows a newer epoch")
        assert (report.attempt, report.epoch, report.delay_s) == (attempt, 0, 0.0)
        assert machine.state is state

"""Where everything meets: what schedulers, workers and clients say goes into the machines, actions come out.

Runs in one event loop, waits for nothing: each method does its work in the loop turn in which it is called.
Every token passes here, so `tokens_arrived` makes no task, no queue and no object per token.

A generation is in `_generations` exactly while its machine is not FINISHED.

While no scheduler leads, what waits and has no idempotency key is placed here (`SelfPlacement` says where).
Everything is announced all the same, to whoever leads next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from hortator.gateway.actions import (
    AbortAttempt,
    Action,
    Announce,
    AnnounceDecode,
    Complete,
    Fail,
    Finish,
    ReleaseLease,
    ReportKvLost,
    ReportRefusal,
    Submit,
    Withdraw,
)
from hortator.gateway.coalescing import Coalescer, DueWheel
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.fleet_view import FleetView
from hortator.gateway.generation import End, Generation
from hortator.gateway.idempotency import KeyedGenerations
from hortator.gateway.metrics import GatewayMetrics
from hortator.gateway.placement import (
    CompletionReason,
    KvSource,
    Phase,
    Placement,
    Rejection,
    RejectReason,
    Retraction,
    Submission,
    SubmitMode,
    WorkerCompletion,
    WorkerTarget,
)
from hortator.gateway.ports import SchedulerPort, WorkerPort
from hortator.gateway.request import GAP, State
from hortator.gateway.self_placement import SelfPlacement, Want

SWEEP_INTERVAL_S = 0.25
MIN_AGE_S = 1e-6
PLACE_DELAY_S = 0.02
"""What is placed here is placed together: every look goes over all ranks."""


class Driver:
    """Runs all generations of one gateway."""

    def __init__(
        self,
        *,
        metrics: GatewayMetrics,
        coalescer: Coalescer,
        keyed: KeyedGenerations,
        queue_timeout_s: float,
        self_placement: SelfPlacement | None = None,
    ) -> None:
        """Call `attach` before anything else.

        Args:
            metrics: where everything is counted.
            coalescer: says how long tokens wait for a message.
            keyed: generations that clients may come back to.
            queue_timeout_s: longest wait while no scheduler can be reached.
            self_placement: where requests go while no scheduler leads.
        """
        self._metrics = metrics
        self._coalescer = coalescer
        self._keyed = keyed
        self._queue_timeout_s = queue_timeout_s
        self._self_placement = self_placement or SelfPlacement("")
        self._alone_since: float | None = None
        self._num_placed_alone = 0
        self._place_timer: asyncio.TimerHandle | None = None
        self._generations: dict[str, Generation] = {}
        self._wheel: DueWheel[Generation] = DueWheel()
        self._wheel_timer: asyncio.TimerHandle | None = None
        self._num_streaming = 0
        self._turned_away_at: dict[str, float] = {}
        """By request: when a scheduler that drains did not take it. The next one will."""
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_no_worker: Callable[[], None] = lambda: None
        """Called when a scheduler has no worker that could run a request."""
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("hortator.gateway")
        self._scheduler: SchedulerPort
        self._workers: WorkerPort

    def attach(self, *, scheduler: SchedulerPort, workers: WorkerPort) -> None:
        """Give the driver the two sides it speaks to (they know the driver, so they come later)."""
        self._scheduler = scheduler
        self._workers = workers

    @property
    def num_in_flight(self) -> int:
        """Requests that are held now."""
        return len(self._generations)

    @property
    def num_streaming(self) -> int:
        """Requests between their first and last token."""
        return self._num_streaming

    @property
    def num_waiting(self) -> int:
        """Requests that want a placement. Looks at all of them."""
        return sum(
            generation.machine.state in {State.WAITING, State.TRANSFERRING}
            for generation in list(self._generations.values())
        )

    async def wait_idle(self) -> None:
        """Until no request is held."""
        await self._idle.wait()

    async def sweep(self) -> None:
        """Until cancelled: end what waits in vain and forget what ended long ago."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            self.sweep_once(self._loop.time())

    def sweep_once(self, now: float) -> None:
        """One round of `sweep`."""
        self._keyed.expire(now)
        for generation, since in self._unheld():
            if now - since < self._queue_timeout_s:
                continue
            if generation.machine.state in {State.WAITING, State.TRANSFERRING}:
                message = f"no scheduler for {self._queue_timeout_s:g} s"
                error = GatewayError(ErrorKind.UNAVAILABLE, message, retry_after_s=1.0)
                self._run(generation, generation.machine.ended_early(error))

    def _unheld(self) -> list[tuple[Generation, float]]:
        """What no scheduler takes, and since when."""
        generations, turned_away_at = self._generations, self._turned_away_at
        since = self._scheduler.disconnected_at
        if since is None:
            return [(generations[request_id], at) for request_id, at in turned_away_at.items()]
        return [
            (generation, turned_away_at.get(request_id, max(since, generation.waiting_since)))
            for request_id, generation in generations.items()
        ]

    # --- clients --------------------------------------------------------------------------------------

    def start(self, generation: Generation) -> None:
        """Hold a new request until its end."""
        self._hold(generation)
        self._metrics.prompt_tokens.inc(len(generation.facts.prompt_token_ids))
        self._run(generation, generation.machine.accepted())
        self._show_brought(generation)

    def resume(self, generation: Generation, *, deadline_at: float | None) -> None:
        """A client came back for a request that had ended early: go on."""
        generation.end = None
        generation.ended_at = None
        generation.deadline_at = deadline_at
        if generation.first_token_at is not None:
            self._streaming(1)
        self._hold(generation)
        self._run(generation, generation.machine.resumed())
        self._show_brought(generation)

    def end_early(self, generation: Generation, error: GatewayError) -> None:
        """Nobody wants the rest: free everything."""
        self._run(generation, generation.machine.ended_early(error))

    def end_all(self, error: GatewayError) -> None:
        """End everything that is left; what has a key goes on at its worker, for another gateway."""
        for generation in list(self._generations.values()):
            if not generation.facts.idempotency_key:
                self.end_early(generation, error)
            else:
                self._run(generation, generation.machine.left(error))

    # --- the scheduler --------------------------------------------------------------------------------

    def scheduler_connected(self) -> None:
        """Say again what a new scheduler must know."""
        self._turned_away_at.clear()
        for generation in list(self._generations.values()):
            self._run(generation, generation.machine.scheduler_connected())

    def placed(self, placement: Placement) -> None:
        """A worker was chosen. For a request that is gone: say so, lest its place stay taken."""
        generation = self._generations.get(placement.request_id)
        if generation is None:
            self._scheduler.cancel(placement.request_id, placement.attempt)
            return
        actions = generation.machine.placed(placement)
        if actions:
            self._note_placed(generation, by="scheduler")
        elif placement.attempt < generation.machine.attempt:  # withdrawn, and it did not hear of that
            self._scheduler.cancel(placement.request_id, placement.attempt)
        self._run(generation, actions)

    def _note_placed(self, generation: Generation, *, by: str) -> None:
        self._metrics.placements.labels(by=by).inc()
        if generation.placed_at is None:
            generation.placed_at = self._loop.time()
            self._metrics.hold.observe(generation.hold_s)

    def rejected(self, rejection: Rejection) -> None:
        """The scheduler does not take a request."""
        generation = self._generations.get(rejection.request_id)
        if generation is not None:
            if rejection.reason is RejectReason.DRAINING:
                self._turned_away_at[rejection.request_id] = self._loop.time()
            elif rejection.reason is RejectReason.NO_WORKER:
                self.on_no_worker()
            self._run(generation, generation.machine.rejected(rejection))

    def retracted(self, retraction: Retraction) -> None:
        """A placement no longer holds."""
        generation = self._generations.get(retraction.request_id)
        if generation is not None:
            self._run(generation, generation.machine.retracted(retraction))

    def placement_was_stale(self) -> None:
        """Commands of an older epoch were ignored."""
        self._metrics.stale_placements.inc()

    # --- without a scheduler --------------------------------------------------------------------------

    @property
    def is_degraded(self) -> bool:
        """Requests are placed here, because no scheduler leads."""
        return self._alone_since is not None and self._self_placement.can_place(self._loop.time())

    def fleet_viewed(self, view: FleetView) -> None:
        """The leader tells of the workers."""
        self._self_placement.viewed(view, self._loop.time())

    def left_alone(self) -> None:
        """No scheduler has led for a while: place what waits."""
        self._alone_since = self._loop.time()
        self._num_placed_alone = 0
        for generation in self._generations.values():
            self._wants_place_here(generation)
        self._log.warning(
            "no leader: places by itself",
            num_waiting=self._self_placement.num_waiting,
            knows_of_workers=self.is_degraded,
        )

    def leader_back(self) -> None:
        """There is a leader again: it places."""
        now = self._loop.time()
        alone_s = 0.0 if self._alone_since is None else now - self._alone_since
        self._alone_since = None
        self._self_placement.stop_waiting()
        if self._place_timer is not None:
            self._place_timer.cancel()
            self._place_timer = None
        self._log.info(
            "a leader is back: places no more by itself",
            alone_s=round(alone_s, 3),
            num_placed=self._num_placed_alone,
        )

    def _wants_place_here(self, generation: Generation) -> None:
        """While nobody else places: a request that waits, and that nothing can run of elsewhere."""
        machine, facts = generation.machine, generation.facts
        if (
            self._alone_since is None
            or facts.claim.key_hash
            or machine.state not in {State.WAITING, State.TRANSFERRING}
        ):
            return
        num_prompt_tokens, max_output_tokens = machine.to_place
        self._self_placement.waits(
            Want(
                request_id=facts.request_id,
                attempt=machine.attempt,
                is_decode=machine.state is State.TRANSFERRING,
                num_prompt_tokens=num_prompt_tokens,
                max_output_tokens=max_output_tokens,
                tokenizer=facts.tokenizer,
                is_critical=facts.latency_critical,
                priority=facts.priority,
            )
        )
        self._place_soon()

    def _lets_go(self, generation: Generation) -> None:
        """A request wants nothing more of the worker on which it was placed here, if it was."""
        generation.is_unstarted = False
        self._self_placement.let_go(generation.facts.request_id)
        self._place_soon()

    def _started_here(self, generation: Generation) -> None:
        generation.is_unstarted = False
        self._self_placement.started(generation.facts.request_id)
        self._place_soon()

    def _place_soon(self, at: float = 0.0) -> None:
        if self._alone_since is None or not self._self_placement.num_waiting:
            return
        at = max(at, self._loop.time() + PLACE_DELAY_S)
        if self._place_timer is not None:
            if self._place_timer.when() <= at:
                return
            self._place_timer.cancel()
        self._place_timer = self._loop.call_at(at, self._place_here)

    def _place_here(self) -> None:
        self._place_timer = None
        now = self._loop.time()
        for placement in self._self_placement.place(now, epoch=self._scheduler.epoch):
            generation = self._generations.get(placement.request_id)
            actions = () if generation is None else generation.machine.placed_here(placement)
            if generation is None or not actions:
                self._self_placement.let_go(placement.request_id)
                continue
            generation.is_unstarted = placement.phase is not Phase.DECODE
            self._num_placed_alone += 1
            self._note_placed(generation, by="gateway")
            self._run(generation, actions)
        retry_at = self._self_placement.next_look_at(now)
        if retry_at is not None:
            self._place_soon(retry_at)

    # --- workers --------------------------------------------------------------------------------------

    def tokens_arrived(
        self, request_id: str, attempt: int, token_index: int, token_ids: Sequence[int], now: float
    ) -> None:
        """Output tokens of one request: the hot path."""
        generation = self._generations.get(request_id)
        if generation is None:
            return
        num_new = generation.machine.accept_tokens(attempt, token_index, token_ids)
        if num_new <= 0:
            if num_new == GAP:
                reason = f"tokens from {token_index} on without those before"
                self._run(generation, generation.machine.worker_faulted(reason))
            return
        if generation.is_unstarted:
            self._started_here(generation)
        if generation.first_token_at is None:
            self._first_token(generation, num_new, now)
            return
        itl = self._metrics.itl
        itl.observe(now - generation.last_token_at)
        if num_new > 1:
            itl.observe_zeros(num_new - 1)
        generation.last_token_at = now
        if generation.second_token_at is None:
            generation.second_token_at = now
            self._metrics.first_gap.observe(generation.first_gap_s)
        if generation.is_held:
            return
        due_at = self._coalescer.due_at(generation.last_flush_at)
        if due_at <= now or generation.facts.latency_critical:
            self._flush(generation, now)
        else:
            generation.is_held = True
            generation.held_since = now
            if self._wheel.add(due_at, generation):
                self._arm_wheel()

    def worker_completed(self, completion: WorkerCompletion) -> None:
        """A worker's last word on an attempt."""
        generation = self._generations.get(completion.request_id)
        if generation is not None:
            actions = generation.machine.worker_completed(completion)
            if completion.reason is CompletionReason.PREFILLED and actions:
                generation.waiting_since = self._loop.time()  # for a decode placement
            self._run(generation, actions)

    def submission_refused(self, request_id: str, attempt: int, reason: str) -> None:
        """The attempt never reached its worker."""
        generation = self._generations.get(request_id)
        if generation is not None and generation.machine.attempt == attempt:
            self._run(generation, generation.machine.refused(reason))

    def worker_lost(self, target: WorkerTarget, reason: str, *, crashed: bool) -> None:
        """Whatever ran there must go elsewhere."""
        if self._alone_since is not None:
            self._self_placement.lost(target, self._loop.time())
        for generation in list(self._generations.values()):
            self._run(generation, generation.machine.worker_lost(target, reason, crashed=crashed))

    # --- inside ---------------------------------------------------------------------------------------

    def _hold(self, generation: Generation) -> None:
        self._generations[generation.facts.request_id] = generation
        self._idle.clear()
        if generation.facts.idempotency_key:
            self._keyed.add(generation)

    def _show_brought(self, generation: Generation) -> None:
        """What a client brought is output like any other: its text, and the stop strings in it."""
        if generation.end is None:
            self._flush(generation, self._loop.time())

    def _streaming(self, change: int) -> None:
        self._num_streaming += change
        self._coalescer.streams_changed(self._num_streaming)

    def _first_token(self, generation: Generation, num_new: int, now: float) -> None:
        generation.first_token_at = generation.last_token_at = now
        if num_new > 1:
            generation.second_token_at = now
            self._metrics.itl.observe_zeros(num_new - 1)
            self._metrics.first_gap.observe(0.0)
        self._metrics.ttft.observe(generation.ttft_s)
        self._streaming(1)
        machine = generation.machine
        self._scheduler.first_token(generation.facts.request_id, machine.attempt, generation.ttft_s)
        self._flush(generation, now)

    def _flush(self, generation: Generation, now: float) -> None:
        """Make everything that came readable and wake the readers."""
        if generation.is_held:
            generation.is_held = False
            self._metrics.coalescing.observe(now - generation.held_since)
        machine = generation.machine
        start, end = generation.num_released, len(machine.output_ids)
        if end == start:
            return
        output_text = generation.output_text
        if output_text is not None:
            piece = output_text.push(machine.output_ids[start:end])
            if piece:
                generation.text += piece
            if output_text.stopped_at is not None:
                self._run(generation, machine.stopped(output_text.stopped_at))
                return
        generation.num_released = end
        generation.last_flush_at = now
        generation.wake()

    def _arm_wheel(self) -> None:
        next_at = self._wheel.next_at()
        timer = self._wheel_timer
        if next_at is None or (timer is not None and timer.when() <= next_at):
            return
        if timer is not None:
            timer.cancel()
        self._wheel_timer = self._loop.call_at(next_at, self._turn_wheel)

    def _turn_wheel(self) -> None:
        self._wheel_timer = None
        now = self._loop.time()
        for generation in self._wheel.take_due(now):
            if generation.is_held:
                self._flush(generation, now)
        self._arm_wheel()

    def _run(self, generation: Generation, actions: Sequence[Action]) -> None:
        request_id = generation.facts.request_id
        for action in actions:
            match action:
                case Announce():
                    self._announce(generation, action)
                case AnnounceDecode(attempt, num_prompt_tokens, max_output_tokens):
                    self._scheduler.prefill_finished(
                        request_id=request_id,
                        attempt=attempt,
                        num_prompt_tokens=num_prompt_tokens,
                        max_output_tokens=max_output_tokens,
                        claim=generation.facts.claim,
                        tokenizer=generation.facts.tokenizer,
                    )
                    self._lets_go(generation)
                    self._wants_place_here(generation)
                case Submit(placement, mode, kv_source):
                    self._submit(generation, placement, mode, kv_source)
                case Withdraw(attempt):
                    self._scheduler.cancel(request_id, attempt)
                case AbortAttempt(target, attempt):
                    self._workers.abort(target, request_id, attempt)
                case ReleaseLease(kv_source):
                    self._workers.release_kv(kv_source)
                case ReportRefusal():
                    self._report_refusal(generation, action)
                case ReportKvLost(attempt):
                    self._scheduler.kv_transfer_failed(request_id, attempt)
                case Complete(finish):
                    self._complete(generation, finish)
                case Fail(error):
                    if not self._comes_back(generation, error):
                        self._fail(generation, error)

    def _comes_back(self, generation: Generation, error: GatewayError) -> bool:
        """Taken over while a client reads it: by a newer call, or an older one that a leader heard of last.

        The scheduler finds out which from those that come back: each may do so once in an epoch.
        """
        epoch = self._scheduler.epoch
        if (
            error.kind is not ErrorKind.TAKEN_OVER
            or not generation.subscribers
            or generation.came_back_in == epoch
        ):
            return False
        generation.came_back_in = epoch
        old_id = generation.facts.request_id
        new_id = f"{old_id.partition('@')[0]}@{epoch:x}"  # whoever has taken it over may know the old name
        del self._generations[old_id]
        self._turned_away_at.pop(old_id, None)
        generation.facts = replace(generation.facts, request_id=new_id)
        self._generations[new_id] = generation
        self._log.info("announced again after it was taken over", request_id=new_id, was=old_id)
        self._run(generation, generation.machine.resumed())
        return True

    def _announce(self, generation: Generation, action: Announce) -> None:
        self._lets_go(generation)
        if action.replacement is not None:
            generation.waiting_since = self._loop.time()
            self._metrics.replacements.labels(reason=action.replacement.value).inc()
            self._log.info(
                "announced again",
                request_id=generation.facts.request_id,
                attempt=action.attempt,
                reason=action.replacement.value,
            )
        if action.delay_s > 0:
            self._loop.call_later(action.delay_s, self._announce_late, generation, action)
        else:
            self._announce_now(generation, action)

    def _announce_late(self, generation: Generation, action: Announce) -> None:
        machine = generation.machine
        if machine.state is State.WAITING and machine.attempt == action.attempt:
            self._announce_now(generation, action)

    def _announce_now(self, generation: Generation, action: Announce) -> None:
        now = self._loop.time()
        if generation.announced_at is None:
            generation.announced_at = now
        facts = generation.facts
        deadline_at = generation.deadline_at
        self._scheduler.announce(
            request_id=facts.request_id,
            attempt=action.attempt,
            num_prompt_tokens=action.num_prompt_tokens,
            max_output_tokens=action.max_output_tokens,
            block_hashes=facts.block_hashes,
            priority=facts.priority,
            tenant=facts.tenant,
            latency_critical=facts.latency_critical,
            timeout_s=0.0 if deadline_at is None else max(deadline_at - now, 0.001),
            claim=facts.claim,
            is_resumed=generation.resumed_from_index > 0,
            age_s=max(now - generation.asked_at, MIN_AGE_S) if generation.came_back_in else 0.0,
            tokenizer=facts.tokenizer,
        )
        self._wants_place_here(generation)

    def _submit(
        self, generation: Generation, placement: Placement, mode: SubmitMode, kv_source: KvSource | None
    ) -> None:
        facts = generation.facts
        self._workers.submit(
            Submission(
                placement=placement,
                mode=mode,
                prompt_token_ids=facts.prompt_token_ids,
                prior_output_ids=generation.machine.output_ids,
                block_hashes=facts.block_hashes,
                sampling=facts.sampling,
                kv_source=kv_source,
                claim=facts.claim,
                tokenizer=facts.tokenizer,
            )
        )

    def _report_refusal(self, generation: Generation, action: ReportRefusal) -> None:
        self._metrics.refusals.inc()
        if not action.epoch:
            self._self_placement.avoid(action.worker_id, self._loop.time())
        self._log.info(
            "placement refused",
            request_id=generation.facts.request_id,
            attempt=action.attempt,
            worker_id=action.worker_id,
            reason=action.reason,
        )
        if action.delay_s > 0:
            self._loop.call_later(action.delay_s, self._report_refusal_late, generation, action)
        else:
            self._report_refusal_now(generation, action)

    def _report_refusal_late(self, generation: Generation, action: ReportRefusal) -> None:
        machine = generation.machine
        if machine.attempt == action.attempt and machine.state in {State.WAITING, State.TRANSFERRING}:
            self._report_refusal_now(generation, action)

    def _report_refusal_now(self, generation: Generation, action: ReportRefusal) -> None:
        if action.epoch != self._scheduler.epoch:  # somebody else placed it: this leader knows nothing of it
            self._run(generation, generation.machine.scheduler_connected())
            return
        self._scheduler.placement_refused(
            generation.facts.request_id, action.attempt, worker_id=action.worker_id, reason=action.reason
        )

    def _complete(self, generation: Generation, finish: Finish) -> None:
        machine, output_text = generation.machine, generation.output_text
        ids = machine.output_ids
        if output_text is not None:
            if output_text.stopped_at is None:
                generation.text += output_text.push(ids[generation.num_released :]) + output_text.finish()
            if output_text.stopped_at is not None:
                del ids[output_text.stopped_at :]
                finish = Finish.STOP
        generation.num_released = num_output_tokens = len(ids)
        self._finish(generation, End(finish=finish), outcome=finish.value)
        metrics = self._metrics
        metrics.e2e.observe(generation.e2e_s)
        if num_output_tokens > 1:
            metrics.tpot.observe((generation.e2e_s - generation.ttft_s) / (num_output_tokens - 1))
        self._scheduler.request_finished(
            generation.facts.request_id,
            machine.attempt,
            num_output_tokens=num_output_tokens,
            ttft_s=generation.ttft_s,
            e2e_s=generation.e2e_s,
            first_gap_s=generation.first_gap_s,
        )

    def _fail(self, generation: Generation, error: GatewayError) -> None:
        ids, output_text = generation.machine.output_ids, generation.output_text
        if output_text is not None and output_text.stopped_at is None:
            generation.text += output_text.push(ids[generation.num_released :])
        generation.num_released = len(ids)
        self._finish(generation, End(error=error), outcome=error.kind.value.lower())
        if error.kind is ErrorKind.QUARANTINED:
            self._log.error(
                "request quarantined", request_id=generation.facts.request_id, reason=error.message
            )

    def _finish(self, generation: Generation, end: End, *, outcome: str) -> None:
        now = self._loop.time()
        self._lets_go(generation)
        generation.is_held = False
        generation.end = end
        generation.ended_at = now
        del self._generations[generation.facts.request_id]
        self._turned_away_at.pop(generation.facts.request_id, None)
        if not self._generations:
            self._idle.set()
        if generation.first_token_at is not None:
            self._streaming(-1)
        self._metrics.requests.labels(outcome=outcome).inc()
        self._metrics.output_tokens.inc(generation.num_released)
        if generation.facts.idempotency_key:
            self._keyed.ended(generation, now)
            if end.error is not None and end.error.kind is ErrorKind.TAKEN_OVER:
                self._keyed.forget(generation)  # who comes back here wants what the other gateway has by then
        generation.wake()

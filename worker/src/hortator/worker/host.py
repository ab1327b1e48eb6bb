"""The worker host: where gateways, schedulers and the engine meet.

    gateway streams --submit/abort--> gate --admitted batches--> engine queue --> engine
    schedulers --manifests, corrections--^                                          |
    gateway links <-- tokens, ends ------------------------------------------- outputs
    schedulers <-- pass started/ended, splits -------------------------- forward passes

Rules:

1. Everything but `run` is synchronous and called on the event loop; nothing waits for a peer.
2. A request is known by (request_id, attempt) outside and by one string inside the engine. Of two
   attempts of a request, or under one idempotency key, only the newer may live.
3. Each submission ends with exactly one `Ended` on its link, unless the link is gone.
4. A request whose link breaks is aborted, unless it has an idempotency key: see `keyed_requests`.
5. `EngineDeadError` ends `run`: a worker without its engine must exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, assert_never

import structlog

from hortator.worker.engine import (
    Engine,
    EngineDeadError,
    EngineInfo,
    EngineRequest,
    Finished,
    FinishReason,
    ForwardPassEnded,
    RankLoad,
    RequestRefusedError,
    TokenChunk,
)
from hortator.worker.engine_queue import EngineQueue
from hortator.worker.errors import KvLostError
from hortator.worker.gate import Admit, Arrival, Gate, GateCommand, Manifest, Pull, Refuse, RequestKey, Split
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.keyed_requests import KeyedRequests
from hortator.worker.kv_export import KvExport
from hortator.worker.kv_leases import KvLeases
from hortator.worker.live_request import LiveRequest, Stage
from hortator.worker.metrics import WorkerMetrics
from hortator.worker.orphans import Orphans
from hortator.worker.report import (
    BlockIndex,
    Correction,
    DrainingReported,
    KeyedEndsReported,
    KeyedListReported,
    KeyedRequest,
    LoadSnapshot,
    PassReported,
    ReportSink,
    SplitReported,
    StatesReported,
    WorkerIdentity,
    WorkerReport,
)
from hortator.worker.submission import (
    Attachment,
    Ended,
    EndReason,
    InvalidSubmission,
    KvLocation,
    Submission,
    engine_request_id,
    key_of,
)

STATES_DELAY_S = 0.005
"""What changes outside a pass (freed KV, a batch settled) is reported this late, several changes together."""

_PLACEMENT_FIELDS = frozenset(
    {"dp_rank", "mode", "request_id", "kv_payload", "block_hashes", "prior_output_ids"}
)
"""Fields that a client does not choose: another placement may work."""


class KvFetcher(Protocol):
    """The decode side of a KV hand-over."""

    async def fetch(self, location: KvLocation) -> bytes:
        """All of the KV. Raises KvLostError."""
        ...

    async def release(self, location: KvLocation) -> None:
        """Tell the prefill worker that it is not needed any more; never raises for a peer's fault."""
        ...


class WorkerHost:
    """See the module docstring."""

    def __init__(
        self,
        *,
        engine: Engine,
        info: EngineInfo,
        identity: WorkerIdentity,
        gate: Gate,
        leases: KvLeases,
        orphans: Orphans,
        kv_fetcher: KvFetcher,
        metrics: WorkerMetrics,
    ) -> None:
        self.identity = identity
        self.info = info
        self._engine = engine
        self._gate = gate
        self._metrics = metrics
        self._queue = EngineQueue(engine, self._on_submitted)
        self.kv = KvExport(engine, self._queue, leases, metrics, self._on_kv_changed)
        self._kv_fetcher = kv_fetcher
        self._sinks: list[ReportSink] = []
        self._live: dict[RequestKey, LiveRequest] = {}
        self._by_engine_id: dict[str, LiveRequest] = {}
        self._newest: dict[str, LiveRequest] = {}
        self._keyed = KeyedRequests(orphans, metrics, abort=self.abort, say_ended=self._say_ended)
        self._keyed_ends: list[KeyedRequest] = []
        self._blocks = BlockIndex(info.dp_size)
        self._loop = asyncio.get_running_loop()
        self._tasks: asyncio.TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._states_timer: asyncio.TimerHandle | None = None
        self._is_draining = False
        self._is_over = False
        self._something_ended = asyncio.Event()
        self._last_ranks: tuple[RankLoad, ...] = ()
        self._last_included = 0
        self._log = structlog.get_logger("hortator.worker.host")
        metrics.watch(identity, info.model_name, lambda: self._last_ranks)

    # --- life

    async def run(self) -> None:
        """Serve until cancelled. Raises EngineDeadError (in an exception group) when the engine fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._deliver_outputs())
                tasks.create_task(self._watch_passes())
                tasks.create_task(self._queue.run())
        finally:
            self._is_over = True
            for timer in (self._timer, self._states_timer):
                if timer is not None:
                    timer.cancel()

    def add_sink(self, sink: ReportSink) -> None:
        """Reports go there too from now on."""
        self._sinks.append(sink)

    @property
    def is_draining(self) -> bool:
        """Nothing new is taken."""
        return self._is_draining

    @property
    def num_live(self) -> int:
        """Requests accepted and not ended."""
        return len(self._live)

    def start_draining(self) -> None:
        """Take nothing new; batches announced before still enter."""
        if not self._is_draining:
            self._is_draining = True
            self._gate.start_draining()
            self._log.info("draining", num_live=len(self._live), num_kv_leases=self.kv.num_leases)
            self._report(DrainingReported(loads=self.load_snapshot()))

    async def wait_idle(self) -> None:
        """Return when nothing is live, on its way in, or waiting to be pulled."""
        while self._live or self.kv.num_leases or not self._gate.is_idle:
            self._something_ended.clear()
            await self._something_ended.wait()

    def abort_all(self) -> None:
        """End everything that lives, whoever wants it."""
        for key in list(self._live):
            self.abort(key)

    # --- gateways

    def connect(self, gateway_id: str) -> GatewayLink:
        """A gateway's stream began."""
        return GatewayLink(gateway_id)

    def disconnect(self, link: GatewayLink) -> None:
        """A gateway's stream ended or broke: its requests end with it, or become orphans."""
        link.close()
        for live in [live for live in self._live.values() if live.link is link]:
            if not self._keyed.orphan(live, self._loop.time()):
                self.abort(live.key)
        self.kv.revoke_owned_by(link)
        self._arm_timer()

    def submit(self, link: GatewayLink, submission: Submission | Attachment | InvalidSubmission) -> None:
        """A member of a batch came, or a gateway for an orphan. The outcome comes through the link."""
        key = submission.key
        if isinstance(submission, InvalidSubmission):
            self._refuse(link, key, submission.message, submission.field)
            self._carry_out(self._gate.on_gone(key, self._loop.time()))
            return
        if self._is_over:  # the streams live a moment longer; a refusal is no crash of this request
            self._refuse(link, key, "the engine has ended", "")
            return
        if submission.tokenizer and self.identity.tokenizer not in {b"", submission.tokenizer}:
            self._refuse(link, key, "the model here has another tokenizer than the prompt was read with", "")
            self._carry_out(self._gate.on_gone(key, self._loop.time()))
            return
        if isinstance(submission, Attachment):
            if not self._keyed.attach(link, submission):
                self._refuse(link, key, "nothing to attach to runs under this key", "")
            return
        if self._keyed.is_closed(submission):
            self._refuse(link, key, "a scheduler had this attempt ended", "")
            return
        other = self._newest.get(key[0])
        if other is not None:
            if other.key[1] >= key[1]:
                self._refuse(link, key, "this or a newer attempt already runs here", "")
                return
            self.abort(other.key)
        live = LiveRequest(
            key=key,
            link=link,
            engine_id=submission.engine_request.request_id,
            engine_request=submission.engine_request,
            kv_location=submission.kv_location,
            name=key,
        )
        if submission.claim is not None:
            self._keyed.hold(live, submission.claim, submission.engine_request)
        self._live[key] = self._newest[key[0]] = self._by_engine_id[live.engine_id] = live
        link.num_live += 1
        self._metrics.running.inc()
        arrival = Arrival(
            key=key,
            epoch=submission.epoch,
            batch_id=submission.batch_id,
            batch_size=submission.batch_size,
            dispatch_seq=submission.dispatch_seq,
            needs_kv=submission.kv_location is not None,
            is_degraded=submission.is_degraded,
        )
        self._carry_out(self._gate.on_arrival(arrival, self._loop.time()))

    def abort_from(self, link: GatewayLink, name: RequestKey) -> None:
        """A gateway ends a request of its own; one that was taken over since is not."""
        key = self._keyed.key_of(name)
        live = self._live.get(key)
        if live is None or (live.link is link and live.name == name):
            self.abort(key)

    def abort(self, key: RequestKey) -> None:
        """End a request wherever it is; unknown ones are a no-op."""
        live = self._live.get(key)
        if live is None:
            self.kv.revoke(engine_request_id(key))
            return
        if live.claim is not None:
            self._keyed.is_orphan_no_more(live)
        match live.stage:
            case Stage.IN_ENGINE:
                live.is_aborted = True
                self._queue.abort(live.engine_id)
            case Stage.GATED | Stage.PULLING:
                if live.pull is not None:
                    live.pull.cancel()
                self._end(live, Ended(key=key, reason=EndReason.ABORTED))
                self._carry_out(self._gate.on_gone(key, self._loop.time()))
            case _:
                assert_never(live.stage)

    def _say_ended(self, keyed: KeyedRequest) -> None:
        if not self._keyed_ends:
            self._loop.call_soon(self._report_keyed_ends)
        self._keyed_ends.append(keyed)

    def _report_keyed_ends(self) -> None:
        ends, self._keyed_ends = tuple(self._keyed_ends), []
        self._report(KeyedEndsReported(ends=ends, loads=self.load_snapshot()))

    # --- schedulers

    def keyed_requests(self) -> Sequence[KeyedRequest]:
        """All requests with a key that are here, orphans and others."""
        return self._keyed.all()

    def load_snapshot(self) -> LoadSnapshot:
        """Loads now, and what they include."""
        self._last_ranks = self._engine.rank_loads()
        included = self._gate.included(self._loop.time())
        return LoadSnapshot(epoch=self._gate.epoch, included_dispatch_seq=included, ranks=self._last_ranks)

    def reusable_blocks(self) -> Sequence[tuple[int, tuple[int, ...]]]:
        """(dp_rank, hashes) of the blocks that can be reused."""
        return self._blocks.all()

    def on_epoch(self, epoch: int) -> None:
        """A leader of this epoch spoke. One that is new hears which keyed requests are here."""
        is_new = epoch > self._gate.epoch
        self._carry_out(self._gate.on_epoch(epoch))
        requests = tuple(self.keyed_requests()) if is_new else ()
        if requests:
            self._report(KeyedListReported(requests=requests, loads=self.load_snapshot()))

    def on_manifest(self, manifest: Manifest) -> None:
        """A batch will come."""
        self._carry_out(self._gate.on_manifest(manifest, self._loop.time()))

    def on_correction(self, correction: Correction) -> None:
        """A member will not come, or must go. Who gives the hash of a key is told when all has ended."""
        name = correction.key
        key = self._keyed.key_of(name)
        named = self._live.get(key)
        if named is None:
            self._carry_out(self._gate.on_gone(key, self._loop.time()))
        elif named.name == name:
            self.abort(key)
        if correction.key_hash:
            self._keyed.close(correction)

    # --- the gate's commands

    def _carry_out(self, commands: Sequence[GateCommand]) -> None:
        for command in commands:
            match command:
                case Admit(keys=keys, waited_s=waited_s):
                    self._metrics.gate_wait.observe(waited_s)
                    self._admit(keys)
                case Pull(key=key):
                    self._start_pull(self._live[key])
                case Refuse(key=key, message=message):
                    self._end(self._live[key], Ended(key=key, reason=EndReason.REFUSED, message=message))
                case Split():
                    self._metrics.batch_splits.inc()
                    self._log.info(
                        "batch split", batch_id=command.batch_id, num_late=len(command.request_ids)
                    )
                    self._report(SplitReported(split=command, loads=self.load_snapshot()))
                case _:
                    assert_never(command)
        self._arm_timer()
        self._gate_changed()

    def _gate_changed(self) -> None:
        if self._gate.included(self._loop.time()) != self._last_included:
            self._report_states_soon()
        if self._is_draining:
            self._something_ended.set()

    def _admit(self, keys: Sequence[RequestKey]) -> None:
        batch: list[EngineRequest] = []
        for key in keys:
            live = self._live[key]
            live.stage = Stage.IN_ENGINE
            if live.engine_request is not None:
                batch.append(live.engine_request)
                live.engine_request = None
        self._queue.submit(tuple(batch))

    def _on_submitted(
        self, batch: tuple[EngineRequest, ...], refusals: Sequence[RequestRefusedError]
    ) -> None:
        for refusal in refusals:
            live = self._by_engine_id[refusal.request_id]
            field = "" if refusal.field in _PLACEMENT_FIELDS else refusal.field
            self._end(live, Ended(key=live.key, reason=EndReason.REFUSED, message=str(refusal), field=field))
        self._gate.on_submitted([key_of(request.request_id) for request in batch])
        self._gate_changed()

    def _arm_timer(self) -> None:
        wakeups = (self._gate.next_wakeup(), self.kv.next_expiry(), self._keyed.next_expiry())
        wakeup = min((at for at in wakeups if at is not None), default=None)
        if self._timer is not None:
            if self._timer.when() == wakeup and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = None if wakeup is None else self._loop.call_at(wakeup, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self.kv.expire(now):
            self._log.warning("kv leases expired", num_left=self.kv.num_leases)
        self._keyed.expire(now)
        self._carry_out(self._gate.on_timer(now))

    # --- pulling KV

    def _start_pull(self, live: LiveRequest) -> None:
        if self._tasks is None or live.kv_location is None:
            raise RuntimeError("KV can be pulled only while the host runs, from a known place")
        live.stage = Stage.PULLING
        live.pull = self._tasks.create_task(self._pull(live, live.kv_location))

    async def _pull(self, live: LiveRequest, location: KvLocation) -> None:
        started_at = self._loop.time()
        try:
            payload = await self._kv_fetcher.fetch(location)
        except KvLostError as error:
            self._end(live, Ended(key=live.key, reason=EndReason.KV_LOST, message=str(error)))
            self._carry_out(self._gate.on_gone(live.key, self._loop.time()))
            return
        self._metrics.kv_transfer.observe(self._loop.time() - started_at)
        self._metrics.kv_transfer_bytes.inc(len(payload))
        live.pull = None  # from here on nobody may cancel this task: the source waits for its release
        if live.engine_request is not None:
            live.engine_request = replace(live.engine_request, kv_payload=payload)
        self._carry_out(self._gate.on_kv_pulled(live.key))
        await self._kv_fetcher.release(location)

    # --- the engine's output

    async def _deliver_outputs(self) -> None:
        by_engine_id = self._by_engine_id
        async for output in self._engine.outputs():
            live = by_engine_id.get(output.request_id)
            if live is None:
                continue
            if isinstance(output, TokenChunk):
                if live.claim is not None:
                    self._keyed.keep_output(live, output.token_ids)
                live.link.push_chunk(live.name, output)
            else:
                self._finish(live, output)
        raise EngineDeadError("the engine's outputs ended")

    def _finish(self, live: LiveRequest, finished: Finished) -> None:
        location: KvLocation | None = None
        if finished.reason is FinishReason.PREFILLED:
            if live.is_aborted:
                self._queue.release_kv(live.engine_id)
                finished = replace(finished, reason=FinishReason.ABORTED)
            else:
                self.kv.grant(live.engine_id, live.link, self._loop.time())
                identity = self.identity
                location = KvLocation(
                    worker_address=identity.address, boot_id=identity.boot_id, lease_id=live.engine_id
                )
        self._end(
            live,
            Ended(
                key=live.key,
                reason=EndReason(finished.reason.value),
                num_output_tokens=finished.num_output_tokens,
                num_cached_prompt_tokens=finished.num_cached_prompt_tokens,
                message=finished.message,
                kv_location=location,
            ),
        )

    def _end(self, live: LiveRequest, ended: Ended) -> None:
        del self._live[live.key]
        del self._by_engine_id[live.engine_id]
        if self._newest.get(live.key[0]) is live:
            del self._newest[live.key[0]]
        live.link.num_live -= 1
        live.link.push_end(ended if live.name == live.key else replace(ended, key=live.name))
        self._metrics.running.dec()
        if ended.reason is EndReason.REFUSED:
            self._metrics.refused.inc()
        else:
            self._metrics.ended.labels(ended.reason.value).inc()
        self._keyed.ended(live, ended)
        self._something_ended.set()

    def _refuse(self, link: GatewayLink, key: RequestKey, message: str, field: str) -> None:
        self._metrics.refused.inc()
        link.push_end(Ended(key=key, reason=EndReason.REFUSED, message=message, field=field))

    # --- the engine's passes

    async def _watch_passes(self) -> None:
        async for report in self._engine.forward_passes():
            self._blocks.apply(report.ranks)
            self._report(PassReported(report=report, loads=self.load_snapshot()))
            if self._states_timer is not None:
                self._states_timer.cancel()
                self._states_timer = None
            if isinstance(report, ForwardPassEnded):
                self._metrics.pass_ended(report)
                self._carry_out(self._gate.on_pass_ended(report.duration_s, self._loop.time()))
            else:
                self._gate.on_pass_started(report.predicted_s)
        raise EngineDeadError("the engine's forward passes ended")

    def _on_kv_changed(self) -> None:
        """Blocks were leased or freed outside a pass: say so, several changes together."""
        self._something_ended.set()
        self._arm_timer()
        self._report_states_soon()

    def _report_states_soon(self) -> None:
        if self._states_timer is None:
            self._states_timer = self._loop.call_later(STATES_DELAY_S, self._report_states)

    def _report_states(self) -> None:
        self._states_timer = None
        self._report(StatesReported(loads=self.load_snapshot()))

    def _report(self, report: WorkerReport) -> None:
        self._last_included = report.loads.included_dispatch_seq
        for sink in self._sinks:
            sink.offer(report)

"""The admission gate: members of a batch come from several gateways, and enter the engine as one.

A batch's manifest (from the scheduler) and its members (from gateways) meet here, in either order.
Pure: time is an argument, every method returns the commands to carry out, `next_wakeup` says when to
call `on_timer`.

Rules:

1. All live members present: admitted at once. `batch_size` stands in for a manifest that is still on its way.
2. A member is missing, the engine is idle: the others wait

       idle_limit = min(max_idle_s, max(min_idle_s, idle_share x predicted pass))

   from the last arrival, then enter without it. `min_idle_s` keeps engines with passes of a few milliseconds
   from splitting every batch. A large batch takes longer than that to be received, which is why arrivals
   restart the clock; all in all it runs for `idle_limit + member_s x size` at most.
3. A member is missing, a pass is running: waiting costs nothing, so they wait for the end of that pass (never
   for a second one) plus `idle_limit`.
4. No manifest yet, so nobody can say who is missing: `manifest_wait_s` (from the first arrival) instead.
5. Nobody is present: there is nothing to admit, so nothing idles; after `absent_wait_s` it is given up.
6. The missing go back to the scheduler in a `Split`; when they come after all they are refused.
7. Members whose KV comes from elsewhere (decode) do not wait for each other: each enters with its KV.
8. A member that is cancelled, or whose gateway is lost, shrinks its batch.
9. No batch id: a batch of its own, admitted at once. One that its gateway placed itself, having no leader, is
   refused if a newer leader than the gateway's last one is known here.
10. Batches of an epoch older than the newest known are refused; a newer one ends what waits of an older.
11. Draining: batches that were known before go on, new ones are refused.

Closed batches are remembered (to refuse latecomers) up to `max_remembered`. A cancellation always follows the
manifest on the same stream, so one for an unknown member means nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hortator.worker.inclusion import InclusionTracker

RequestKey = tuple[str, int]
"""(request_id, attempt)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """How long the gate may wait. Seconds."""

    max_idle_s: float = 0.005
    idle_share: float = 0.02
    min_idle_s: float = 0.002
    member_s: float = 0.0005
    """What receiving one member may take: a process reads a few thousand a second."""
    manifest_wait_s: float = 0.1
    absent_wait_s: float = 0.5
    max_remembered: int = 4096
    """Closed batches that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the scheduler says will come as one batch."""

    batch_id: str
    epoch: int
    dispatch_seq: int
    members: tuple[RequestKey, ...]
    predicted_pass_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A member that a gateway brought."""

    key: RequestKey
    epoch: int = 0
    batch_id: str = ""
    batch_size: int = 1
    dispatch_seq: int = 0
    needs_kv: bool = False
    """Its KV must be pulled before it can enter the engine."""
    is_degraded: bool = False
    """Its gateway placed it, having no leader; without a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Submit these together; then call `on_submitted`."""

    keys: tuple[RequestKey, ...]
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """Fetch the KV of this member; then call `on_kv_pulled`, or `on_gone` when it is lost."""

    key: RequestKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """This member does not enter; another placement may work."""

    key: RequestKey
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Tell the scheduler who was late."""

    batch_id: str
    request_ids: tuple[str, ...]


GateCommand = Admit | Pull | Refuse | Split


@dataclass(slots=True, kw_only=True)
class _Batch:
    batch_id: str
    dispatch_seq: int
    generation: int
    """Of the dispatch sequence."""
    size: int
    expected: set[RequestKey] | None = None
    """Members of the manifest that have not come and may still; None: no manifest yet."""
    present: dict[RequestKey, None] = field(default_factory=dict)
    """Waiting here to be admitted as one (ordered)."""
    unsettled: set[RequestKey] = field(default_factory=set)
    """Handed over or pulling KV; not yet inside the engine."""
    num_accounted: int = 0
    """Members that came or were cancelled: counts against `size` while there is no manifest."""
    seen: set[RequestKey] = field(default_factory=set)
    predicted_pass_s: float = 0.0
    deadline: float | None = None
    """When to stop waiting; None while a pass is running."""
    clock_started_at: float = 0.0
    """Since when waiting idles the engine."""
    has_waited_for_pass: bool = False
    first_present_at: float = 0.0

    @property
    def is_complete(self) -> bool:
        if self.expected is not None:
            return not self.expected
        return self.num_accounted >= self.size


@dataclass(slots=True, kw_only=True)
class _Closed:
    """What is remembered of a batch whose admission is decided."""

    batch: _Batch
    awaits_manifest: bool
    """It was cut short without a manifest: the manifest will tell who was late."""


class Gate:
    """See the rules in the module docstring. Not thread-safe."""

    def __init__(self, limits: GateLimits | None = None) -> None:
        self._limits = limits or GateLimits()
        self._epoch = 0
        self._open: dict[str, _Batch] = {}
        self._closed: OrderedDict[str, _Closed] = OrderedDict()
        self._batch_of: dict[RequestKey, _Batch] = {}
        """Batches of the members that are present or unsettled."""
        self._inclusion = InclusionTracker(gap_wait_s=self._limits.absent_wait_s)
        self._is_busy = False
        self._last_pass_s = 0.0
        self._is_draining = False

    @property
    def epoch(self) -> int:
        """The newest scheduler epoch known; 0 before any."""
        return self._epoch

    @property
    def num_waiting(self) -> int:
        """Members present and not yet admitted."""
        return sum(len(batch.present) for batch in self._open.values())

    @property
    def is_idle(self) -> bool:
        """No open batch and no member on its way into the engine: a drain need not wait for the gate."""
        return not self._open and not self._batch_of

    def included(self, now: float) -> int:
        """Highest dispatch sequence of `epoch` whose batch and all before it are settled."""
        return self._inclusion.included(now)

    def next_wakeup(self) -> float | None:
        """When `on_timer` must be called; None: never."""
        deadlines = [batch.deadline for batch in self._open.values() if batch.deadline is not None]
        return min(deadlines, default=None)

    # --- the scheduler's side

    def on_epoch(self, epoch: int) -> list[GateCommand]:
        """A leader was heard of; what waits from before it is refused (rule 10)."""
        if epoch <= self._epoch:
            return []
        self._epoch = epoch
        self._inclusion.restart()
        commands: list[GateCommand] = []
        for batch in list(self._open.values()):
            commands.extend(
                Refuse(key=key, message="placed by a former leader") for key in self._take_present(batch)
            )
            self._close(batch)
        return commands

    def on_manifest(self, manifest: Manifest, now: float) -> list[GateCommand]:
        """The scheduler announced a batch."""
        commands = self.on_epoch(manifest.epoch)
        if manifest.epoch < self._epoch:
            return commands
        closed = self._closed.get(manifest.batch_id)
        if closed is not None:
            return [*commands, *self._name_the_late(closed, manifest)]
        batch = self._open.get(manifest.batch_id)
        if batch is not None and batch.expected is not None:
            return commands
        if batch is None:
            self._inclusion.opened(manifest.dispatch_seq, now)
            if self._is_draining:
                self._inclusion.settled(manifest.dispatch_seq, self._inclusion.generation)
                late = tuple(request_id for request_id, _ in manifest.members)
                return [*commands, Split(batch_id=manifest.batch_id, request_ids=late)]
            batch = self._new_batch(manifest.batch_id, manifest.dispatch_seq, len(manifest.members), now)
        batch.predicted_pass_s = manifest.predicted_pass_s
        batch.expected = {key for key in manifest.members if key not in batch.seen}
        members = set(manifest.members)
        strangers = [key for key in batch.present if key not in members]
        for key in strangers:
            del batch.present[key]
            self._batch_of.pop(key, None)
            commands.append(Refuse(key=key, message="not a member of its batch"))
        if strangers and not batch.present:
            batch.deadline = now + self._limits.absent_wait_s  # only strangers were here (rule 5)
        self._renew_deadline(batch, now)
        return [*commands, *self._settle(batch, now)]

    def on_gone(self, key: RequestKey, now: float) -> list[GateCommand]:
        """A member was cancelled, lost its gateway or its KV: its batch goes on without it (rule 8)."""
        batch = self._batch_of.pop(key, None)
        if batch is None:
            batch = next(
                (b for b in self._open.values() if b.expected is not None and key in b.expected), None
            )
            if batch is None:
                return []
            batch.num_accounted += 1
        had_members = bool(batch.present)
        batch.present.pop(key, None)
        batch.unsettled.discard(key)
        if batch.expected is not None:
            batch.expected.discard(key)
        batch.seen.add(key)
        if had_members and not batch.present:
            batch.deadline = now + self._limits.absent_wait_s  # nobody is here any more (rule 5)
        return self._settle(batch, now)

    def start_draining(self) -> None:
        """From now on only batches that are already known are admitted (rule 11)."""
        self._is_draining = True

    # --- the gateways' side

    def on_arrival(self, arrival: Arrival, now: float) -> list[GateCommand]:
        """A gateway brought a member."""
        if not arrival.batch_id:
            return [self._lone(arrival)]
        commands = self.on_epoch(arrival.epoch)
        if arrival.epoch < self._epoch:
            return [Refuse(key=arrival.key, message=self._older(arrival))]
        if arrival.batch_id in self._closed:
            return [*commands, Refuse(key=arrival.key, message="late for its batch")]
        batch = self._open.get(arrival.batch_id)
        if batch is None:
            if self._is_draining:
                return [*commands, Refuse(key=arrival.key, message="draining")]
            self._inclusion.opened(arrival.dispatch_seq, now)
            batch = self._new_batch(arrival.batch_id, arrival.dispatch_seq, max(1, arrival.batch_size), now)
        if arrival.key in batch.seen:
            return [*commands, Refuse(key=arrival.key, message="cancelled")]
        if batch.expected is not None and arrival.key not in batch.expected:
            return [*commands, Refuse(key=arrival.key, message="not a member of its batch")]
        batch.num_accounted += 1
        batch.seen.add(arrival.key)
        self._batch_of[arrival.key] = batch
        if batch.expected is not None:
            batch.expected.discard(arrival.key)
        if arrival.needs_kv:
            batch.unsettled.add(arrival.key)
            return [*commands, Pull(key=arrival.key), *self._settle(batch, now)]
        is_first = not batch.present
        batch.present[arrival.key] = None
        if is_first:
            self._start_waiting(batch, now)
        else:
            self._renew_deadline(batch, now)
        return [*commands, *self._settle(batch, now)]

    def on_kv_pulled(self, key: RequestKey) -> list[GateCommand]:
        """The KV of a member is here: it enters now (rule 7)."""
        return [Admit(keys=(key,))]

    def on_submitted(self, keys: Sequence[RequestKey]) -> None:
        """These are inside the engine (or were refused by it): loads reported from now on include them."""
        for key in keys:
            batch = self._batch_of.pop(key, None)
            if batch is not None:
                batch.unsettled.discard(key)
                self._note_settled(batch)

    # --- the engine's side

    def on_pass_started(self, predicted_s: float | None) -> None:
        """A pass began: waiting costs nothing until it ends."""
        self._is_busy = True
        if predicted_s:
            self._last_pass_s = predicted_s
        for batch in self._open.values():
            if batch.present and not batch.has_waited_for_pass:
                batch.has_waited_for_pass = True
                batch.deadline = None

    def on_pass_ended(self, duration_s: float, now: float) -> list[GateCommand]:
        """A pass ended: from here on waiting idles the engine."""
        self._is_busy = False
        self._last_pass_s = duration_s
        for batch in self._open.values():
            if batch.present and batch.deadline is None:
                self._start_clock(batch, now)
        return self.on_timer(now)

    def on_timer(self, now: float) -> list[GateCommand]:
        """Stop waiting where the limit has passed."""
        commands: list[GateCommand] = []
        due = [b for b in self._open.values() if b.deadline is not None and b.deadline <= now]
        for batch in due:
            commands.extend(self._cut_short(batch, now))
        return commands

    # --- the rest is private

    def _lone(self, arrival: Arrival) -> GateCommand:
        if arrival.is_degraded and arrival.epoch < self._epoch:
            return Refuse(key=arrival.key, message=self._older(arrival))
        if self._is_draining:
            return Refuse(key=arrival.key, message="draining")
        return Pull(key=arrival.key) if arrival.needs_kv else Admit(keys=(arrival.key,))

    def _older(self, arrival: Arrival) -> str:
        return f"placed in epoch {arrival.epoch}, this worker is in epoch {self._epoch}"

    def _new_batch(self, batch_id: str, dispatch_seq: int, size: int, now: float) -> _Batch:
        batch = _Batch(
            batch_id=batch_id,
            dispatch_seq=dispatch_seq,
            generation=self._inclusion.generation,
            size=size,
            deadline=now + self._limits.absent_wait_s,
        )
        self._open[batch_id] = batch
        return batch

    def _start_waiting(self, batch: _Batch, now: float) -> None:
        batch.first_present_at = now
        if self._is_busy:
            batch.has_waited_for_pass = True
            batch.deadline = None
        else:
            self._start_clock(batch, now)

    def _start_clock(self, batch: _Batch, now: float) -> None:
        batch.clock_started_at = batch.deadline = now
        self._renew_deadline(batch, now)

    def _renew_deadline(self, batch: _Batch, now: float) -> None:
        """Somebody came, or the manifest did, while the clock runs."""
        if not batch.present or batch.deadline is None:
            return
        if batch.expected is None:
            batch.deadline = batch.clock_started_at + self._limits.manifest_wait_s
            return
        limit_s = self._idle_limit(batch)
        last_s = batch.clock_started_at + limit_s + self._limits.member_s * batch.size
        batch.deadline = min(now + limit_s, last_s)

    def _idle_limit(self, batch: _Batch) -> float:
        limits = self._limits
        predicted_s = batch.predicted_pass_s or self._last_pass_s
        if not predicted_s:
            return limits.max_idle_s
        return min(limits.max_idle_s, max(limits.min_idle_s, limits.idle_share * predicted_s))

    def _settle(self, batch: _Batch, now: float) -> list[GateCommand]:
        """Admit the batch if it is complete, and account for it once nothing is left of it."""
        if batch.batch_id not in self._open:
            self._note_settled(batch)
            return []
        if not batch.is_complete:
            return []
        commands = self._admit_present(batch, now)
        self._close(batch)
        return commands

    def _cut_short(self, batch: _Batch, now: float) -> list[GateCommand]:
        commands = self._admit_present(batch, now)
        if batch.expected is None:
            self._close(batch, awaits_manifest=True)
            return commands
        late = tuple(sorted(request_id for request_id, _ in batch.expected))
        self._close(batch)
        return [*commands, Split(batch_id=batch.batch_id, request_ids=late)]

    def _admit_present(self, batch: _Batch, now: float) -> list[GateCommand]:
        if not batch.present:
            return []
        keys = tuple(batch.present)
        batch.unsettled.update(keys)
        batch.present.clear()
        return [Admit(keys=keys, waited_s=now - batch.first_present_at)]

    def _take_present(self, batch: _Batch) -> tuple[RequestKey, ...]:
        keys = tuple(batch.present)
        batch.present.clear()
        for key in keys:
            self._batch_of.pop(key, None)
        return keys

    def _close(self, batch: _Batch, *, awaits_manifest: bool = False) -> None:
        del self._open[batch.batch_id]
        self._closed[batch.batch_id] = _Closed(batch=batch, awaits_manifest=awaits_manifest)
        while len(self._closed) > self._limits.max_remembered:
            self._closed.popitem(last=False)
        if not awaits_manifest:
            batch.seen.clear()
        self._note_settled(batch)

    def _note_settled(self, batch: _Batch) -> None:
        if batch.batch_id not in self._open and not batch.unsettled:
            self._inclusion.settled(batch.dispatch_seq, batch.generation)

    def _name_the_late(self, closed: _Closed, manifest: Manifest) -> list[GateCommand]:
        if not closed.awaits_manifest:
            return []
        closed.awaits_manifest = False
        late = tuple(
            request_id for request_id, a in manifest.members if (request_id, a) not in closed.batch.seen
        )
        return [Split(batch_id=manifest.batch_id, request_ids=late)] if late else []

"""Leadership by a Lease: at most one operator writes, even when the API server or a clock misbehaves.

How two leaders at once are made impossible, without comparing clocks of two machines:

1. A leader counts its term from the moment *before* it sent the renewal that succeeded, and stops writing
   `renew_deadline_s` later (`is_leader_now`, checked before every write; calls under way are cut off then).
2. A candidate takes a lease over only when it has seen the same record, unchanged, for the whole
   `duration_s` written in it, by its own monotonic clock. It saw the record after it was written, hence
   after the leader began to count, and duration > deadline: the leader has stopped by then.
3. The take-over is a replace of the version that was seen, so only one of several candidates succeeds.
4. Whoever lost leadership ends its process; it never goes on as a candidate with a head full of old state.

Times in the record are for people (`renewTime` is wall clock); nothing is decided by them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from hortator.operator.cluster import (
    AlreadyExistsError,
    Cluster,
    ClusterError,
    ConflictError,
)
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.reading import mapping, number, text

FAILED_RETRY_S = 0.5
"""After a renewal that failed: in a storm of errors some attempt within the deadline succeeds."""
API_VERSION = "coordination.k8s.io/v1"


class LeadershipLostError(Exception):
    """This process leads no more and must end; `str()` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The three times of a lease, and the limit of one call."""

    duration_s: float = 15.0
    """A candidate waits this long without a renewal before it takes over."""
    renew_deadline_s: float = 10.0
    """The leader stops this long after its last renewal; the rest is for calls that are under way."""
    retry_s: float = 2.0
    """Between two renewals, and between two looks of a candidate."""
    call_timeout_s: float = 4.0
    """One call about the lease; shorter than the deadline, so that a lost answer leaves time for another."""

    def __post_init__(self) -> None:
        if not self.duration_s > self.renew_deadline_s > self.call_timeout_s + self.retry_s > 0:
            raise ValueError(
                f"lease times {self.duration_s:g}/{self.renew_deadline_s:g}/{self.retry_s:g} s with calls of "
                f"{self.call_timeout_s:g} s (allowed: duration > deadline > retry + call)"
            )


class Leadership:
    """One candidate. `acquire`, then `hold` until it fails; `release` on the way out."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes | None = None,
    ) -> None:
        """Nothing is sent before `acquire`. `identity` must differ between any two processes."""
        self._cluster = cluster
        self._ref = Ref(api_version=API_VERSION, kind="Lease", namespace=namespace, name=name)
        self._identity = identity
        self._times = times or LeaseTimes()
        self._held: Obj | None = None
        self._renewed_at = 0.0
        self._seen: tuple[str, float] | None = None
        """resourceVersion of the record of somebody else, and when it was first seen here."""
        self._log = structlog.get_logger("hortator.operator.lease")

    def is_leader_now(self) -> bool:
        """Whether this process may write at this moment."""
        return self.remaining_s() > 0

    def remaining_s(self) -> float:
        """How long this process may still write if no renewal succeeds any more; 0 when it may not."""
        if self._held is None:
            return 0.0
        return max(0.0, self._renewed_at + self._times.renew_deadline_s - asyncio.get_running_loop().time())

    async def acquire(self) -> None:
        """Return once this process leads."""
        while True:
            try:
                async with asyncio.timeout(self._times.call_timeout_s):
                    await self._try_to_acquire()
            except (ClusterError, TimeoutError) as error:
                self._log.warning("cannot read or take the lease", error=str(error) or "no answer in time")
            if self.is_leader_now():
                self._log.info("leading", lease=str(self._ref), identity=self._identity)
                return
            await asyncio.sleep(self._times.retry_s)

    async def hold(self) -> None:
        """Renew until that fails for too long, or somebody else holds the lease.

        Raises:
            LeadershipLostError: always, in the end.
        """
        pause_s = self._times.retry_s
        while True:
            await asyncio.sleep(min(pause_s, self.remaining_s()))
            pause_s = self._times.retry_s
            remaining_s = self.remaining_s()
            if not remaining_s:
                self._held = None
                raise LeadershipLostError(
                    f"{self._ref}: no renewal succeeded for {self._times.renew_deadline_s:g} s"
                )
            try:
                async with asyncio.timeout(min(self._times.call_timeout_s, remaining_s)):
                    await self._renew()
            except (ClusterError, TimeoutError) as error:
                pause_s = min(FAILED_RETRY_S, pause_s)
                self._log.warning("cannot renew the lease", error=str(error) or "no answer in time")

    async def release(self) -> None:
        """Let the next candidate lead at once. Call it when nothing is being written any more."""
        held, self._held = self._held, None
        if held is None:
            return
        spec = mapping(held, "spec") | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            async with asyncio.timeout(self._times.call_timeout_s):
                await self._cluster.replace(held | {"spec": spec})
        except (ClusterError, TimeoutError) as error:
            self._log.info("the lease was not released, it will run out", error=str(error))

    # --- the record -----------------------------------------------------------------------------------

    async def _try_to_acquire(self) -> None:
        now = asyncio.get_running_loop().time()
        lease = await self._cluster.get(self._ref)
        try:
            if lease is None:
                self._take(await self._cluster.create(self._record(None)), sent_at=now)
            elif self._is_free(lease, now):
                self._take(await self._cluster.replace(self._record(lease)), sent_at=now)
        except (AlreadyExistsError, ConflictError):
            self._seen = None  # somebody was faster: look at what they wrote

    def _is_free(self, lease: Obj, now: float) -> bool:
        if text(lease, "spec", "holderIdentity") in {"", self._identity}:
            return True
        version = text(lease, "metadata", "resourceVersion")
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, now)
            return False
        duration_s = number(lease, "spec", "leaseDurationSeconds")
        return now - self._seen[1] >= (duration_s if duration_s > 0 else self._times.duration_s)

    async def _renew(self) -> None:
        if self._held is None:
            return
        sent_at = asyncio.get_running_loop().time()
        spec = mapping(self._held, "spec") | {"renewTime": _now()}
        try:
            self._take(await self._cluster.replace(self._held | {"spec": spec}), sent_at=sent_at)
        except ConflictError:  # an answer that got lost, or another leader: the record tells
            lease = await self._cluster.get(self._ref)
            holder = text(lease, "spec", "holderIdentity")
            if lease is None or holder != self._identity:
                self._held = None
                raise LeadershipLostError(f"{self._ref}: held by {holder or 'nobody'} now") from None
            self._held = lease

    def _take(self, lease: Obj, *, sent_at: float) -> None:
        self._held, self._renewed_at, self._seen = lease, sent_at, None

    def _record(self, previous: Obj | None) -> Obj:
        base = previous or {
            "apiVersion": API_VERSION,
            "kind": "Lease",
            "metadata": {"namespace": self._ref.namespace, "name": self._ref.name},
        }
        is_transition = bool(previous)
        return base | {
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._times.duration_s)),
                "acquireTime": _now(),
                "renewTime": _now(),
                "leaseTransitions": number(previous, "spec", "leaseTransitions") + is_transition,
            }
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

"""What the host tells schedulers, before it is put on the wire.

Loads and the dispatch sequence they include are read in the same instant: a scheduler adds to a report
exactly the dispatches after `included_dispatch_seq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hortator.runtime.leader_watch import LeaderSeen
from hortator.worker.engine import EngineInfo, ForwardPassReport, RankLoad
from hortator.worker.gate import Manifest, RequestKey, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """Who this process is."""

    worker_id: str
    boot_id: str
    """New at every start of the process."""
    address: str
    """Where gateways and other workers reach it."""
    phase: str
    """``prefill``, ``decode`` or ``aggregated``."""
    tokenizer: bytes = b""
    """Digest of the model's `tokenizer.json`, by which others know what ids mean here; empty: it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSnapshot:
    """Loads of all ranks now, and what they include."""

    epoch: int
    included_dispatch_seq: int
    ranks: tuple[RankLoad, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReported:
    """A forward pass started or ended."""

    report: ForwardPassReport
    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesReported:
    """Loads outside the rhythm of passes: a heartbeat, the answer to a probe, freed KV."""

    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReported:
    """Members did not come in time."""

    split: Split
    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainingReported:
    """Nothing new is taken from now on."""

    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with an idempotency key, under the name that its last gateway gave it."""

    key: RequestKey
    key_hash: bytes
    request_hash: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedEndsReported:
    """Nothing is here any more under these keys."""

    ends: tuple[KeyedRequest, ...]
    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedListReported:
    """All requests with a key that are here, for a leader that does not know them."""

    requests: tuple[KeyedRequest, ...]
    loads: LoadSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A member of a batch will not come, or must go."""

    key: RequestKey
    key_hash: bytes = b""
    """If set: all that is here under this idempotency key must go, but for a newer attempt of the request."""
    epoch: int = 0
    dispatch_seq: int = 0
    """What was dispatched under that idempotency key until then and comes late must not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderReported:
    """What is seen of the leader: another scheduler may have to lead."""

    seen: LeaderSeen
    loads: LoadSnapshot


WorkerReport = (
    PassReported
    | StatesReported
    | SplitReported
    | DrainingReported
    | KeyedEndsReported
    | KeyedListReported
    | LeaderReported
)


class ReportSink(Protocol):
    """Where the host's reports go: to every scheduler."""

    def offer(self, report: WorkerReport) -> None:
        """Send soon; never blocks, never fails."""
        ...


class ScheduledWorker(Protocol):
    """The host, as a scheduler's link sees it."""

    @property
    def identity(self) -> WorkerIdentity: ...  # noqa: D102

    @property
    def info(self) -> EngineInfo: ...  # noqa: D102

    @property
    def is_draining(self) -> bool: ...  # noqa: D102

    def load_snapshot(self) -> LoadSnapshot:
        """Loads now."""
        ...

    def reusable_blocks(self) -> Sequence[tuple[int, tuple[int, ...]]]:
        """(dp_rank, hashes) of all blocks that can be reused: what a scheduler that knows nothing needs."""
        ...

    def keyed_requests(self) -> Sequence[KeyedRequest]:
        """All requests with a key that are here: another thing that a new scheduler needs."""
        ...

    def on_epoch(self, epoch: int) -> None:
        """A leader of this epoch spoke."""
        ...

    def on_manifest(self, manifest: Manifest) -> None:
        """A batch will come."""
        ...

    def on_correction(self, correction: Correction) -> None:
        """A member will not come, or must go."""
        ...

    def start_draining(self) -> None:
        """Take nothing new."""
        ...


class BlockIndex:
    """Reusable KV blocks per DP rank, kept from the engine's changes so that a new scheduler learns all."""

    def __init__(self, dp_size: int) -> None:
        self._blocks: tuple[set[int], ...] = tuple(set() for _ in range(dp_size))

    def apply(self, ranks: Sequence[RankLoad]) -> None:
        """Take over the changes of one forward pass."""
        for rank in ranks:
            if rank.stored_blocks or rank.removed_blocks:
                blocks = self._blocks[rank.dp_rank]
                blocks.difference_update(rank.removed_blocks)
                blocks.update(rank.stored_blocks)

    def all(self) -> list[tuple[int, tuple[int, ...]]]:
        """(dp_rank, hashes) of the ranks that have any."""
        return [(dp_rank, tuple(blocks)) for dp_rank, blocks in enumerate(self._blocks) if blocks]

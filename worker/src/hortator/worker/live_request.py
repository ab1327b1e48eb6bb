"""A request as the host has it, from its submission to its end."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from enum import Enum

from hortator.worker.engine import EngineRequest
from hortator.worker.gate import RequestKey
from hortator.worker.gateway_link import GatewayLink
from hortator.worker.submission import Claim, Ended, KvLocation


class Stage(Enum):
    """How far it has come."""

    GATED = "gated"
    PULLING = "pulling"
    IN_ENGINE = "in_engine"


@dataclass(slots=True, kw_only=True, eq=False)
class LiveRequest:
    """Mutable; only the host and `keyed_requests` write it."""

    key: RequestKey
    """Its name at the gate and, in another form, in the engine."""
    link: GatewayLink
    engine_id: str
    engine_request: EngineRequest | None
    """Until it is handed to the engine."""
    kv_location: KvLocation | None
    stage: Stage = Stage.GATED
    is_aborted: bool = False
    """It may still finish otherwise, when the end was already on its way."""
    pull: asyncio.Task[None] | None = None

    name: RequestKey
    """What its gateway calls it; another than `key` once somebody attached."""
    claim: Claim | None = None
    can_attach: bool = False
    output_ids: array[int] | None = None
    """With an idempotency key: all output tokens, those of earlier attempts first."""
    ended: Ended | None = None
    """An orphan that has ended is kept for its tokens."""
    end_is_awaited: bool = False
    """A scheduler waits for the word that it has ended."""

"""What every boundary takes of the other side: the rows of docs/reference/limits.md.

Figures are read from the code, so the page cannot say others; `make check` compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from hortator.gateway import api_keys, codec, validation
from hortator.gateway.client import scheduler as gateway_scheduler
from hortator.gateway.settings import GatewaySettings
from hortator.operator.settings import OperatorSettings
from hortator.runtime import grpc_server, metrics, peer_calls
from hortator.scheduler import codec as scheduler_codec
from hortator.scheduler import registry
from hortator.scheduler.core import machine, prefix_index
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.worker import keyed_requests
from hortator.worker.client import report
from hortator.worker.settings import WorkerSettings

_BYTES = {1 << 20: "MiB", 1 << 10: "KiB"}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One row."""

    what: str
    value: str
    then: str
    where: str


def _setting(
    process: type[BaseModel], path: str, what: str, then: str, *, unit: str = "", times: int = 1
) -> Limit:
    *above, last = path.split(".")
    model = process
    for name in above:
        model = _model(model.model_fields[name].annotation)
    field = model.model_fields[last]
    value = (
        "required"
        if field.is_required()
        else _figure(field.get_default(call_default_factory=True, validated_data={}), unit, times)
    )
    factor = "" if times == 1 else f", {times} times it"
    return Limit(what=what, value=value, then=then, where=f"`{path}`{factor}")


def _model(annotation: Any) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    raise TypeError(f"{annotation} has no fields")


def _fixed(value: float, what: str, then: str, *, unit: str = "") -> Limit:
    return Limit(what=what, value=_figure(value, unit, 1), then=then, where="fixed")


def _figure(value: Any, unit: str, times: int) -> str:
    if value is None:
        return "none"
    value *= times
    if unit == "bytes":
        size, name = next(((size, name) for size, name in _BYTES.items() if value % size == 0), (1, "bytes"))
        return f"{value // size:,} {name}"
    number = f"{value:,}".removesuffix(".0")
    return f"{number} {unit}".strip()


_EXHAUSTED = "`RESOURCE_EXHAUSTED`, `LIMIT`"
_AGAIN = f"{_EXHAUSTED}, come back in 1 s"
_INVALID = "`INVALID_ARGUMENT`, names the field"
_BY_GRPC = "`RESOURCE_EXHAUSTED` of gRPC itself, which names no setting and is not counted"
_GATEWAY, _SCHEDULER, _WORKER = GatewaySettings, SchedulerProcessSettings, WorkerSettings
_OPERATOR = OperatorSettings

LIMITS: dict[str, tuple[Limit, ...]] = {
    "client to gateway": (
        _setting(_GATEWAY, "max_calls", "open calls", _AGAIN),
        _setting(
            _GATEWAY, "max_calls", "open calls of all services, health and reflection too", _BY_GRPC, times=2
        ),
        _setting(
            _GATEWAY,
            "max_calls_per_client",
            "open calls of one API key; without keys, or other than Generate, of one address (IPv6: a /64)",
            _AGAIN,
        ),
        _setting(
            _GATEWAY,
            "max_calls_per_client",
            "open calls of one connection",
            "more wait at the client",
            times=2,
        ),
        _setting(
            _GATEWAY, "max_requests", "requests held", "`RESOURCE_EXHAUSTED`, `QUEUE_FULL`, come back in 1 s"
        ),
        _setting(_GATEWAY, "max_call_s", "time of a call", _EXHAUSTED, unit="s"),
        _setting(
            _GATEWAY,
            "slow_client_timeout_s",
            "time that a message waits for a client that does not read, or a call for its request",
            "`RESOURCE_EXHAUSTED`, `SLOW_CLIENT`",
            unit="s",
        ),
        _setting(_GATEWAY, "max_message_bytes", "size of a request", _EXHAUSTED, unit="bytes"),
        _setting(_GATEWAY, "max_message_bytes", "the same, unread", _BY_GRPC, unit="bytes", times=2),
        _setting(
            _GATEWAY,
            "max_metadata_bytes",
            "metadata of a call, with 32 bytes for each entry",
            _EXHAUSTED,
            unit="bytes",
        ),
        _setting(_GATEWAY, "max_metadata_bytes", "the same, of any call", _BY_GRPC, unit="bytes", times=2),
        _setting(_GATEWAY, "max_connections", "connections", "closed at once; clients hear UNAVAILABLE"),
        _setting(
            _GATEWAY,
            "connection_idle_timeout_s",
            "time of a connection without a call",
            "closed; the next call makes another",
            unit="s",
        ),
        _fixed(
            grpc_server.HANDSHAKE_TIMEOUT_MS / 1000,
            "silence of a new connection",
            "closed",
            unit="s",
        ),
        _fixed(
            (grpc_server.KEEPALIVE_TIME_MS + grpc_server.KEEPALIVE_TIMEOUT_MS) / 1000,
            "silence of a peer that answers no ping",
            "its connection is closed, its calls are cancelled",
            unit="s",
        ),
        _setting(_GATEWAY, "max_sequence_tokens", "prompt and output tokens of a request", _INVALID),
        _setting(
            _GATEWAY,
            "chunk_budget_tokens",
            "prompt tokens without chunked prefill; 0: not checked",
            _INVALID,
        ),
        _setting(
            _GATEWAY, "default_max_tokens", "output tokens of a request that names no number", "cut to it"
        ),
        _fixed(validation.MAX_NAME_CHARS, "tenant, key, one stop string", _INVALID, unit="characters"),
        _fixed(validation.MAX_STOPS, "stop strings", _INVALID),
        _fixed(validation.MAX_STOP_TOKEN_IDS, "stop token ids", _INVALID),
        _fixed(validation.MAX_VIOLATIONS, "wrong fields that are told", "the others are counted"),
        _setting(
            _GATEWAY,
            "idempotency_retention_s",
            "time for which an ended request with a key is kept",
            "forgotten: the key begins anew",
            unit="s",
        ),
        _setting(
            _GATEWAY,
            "max_worker_failures",
            "worker failures with one request",
            "`INTERNAL`, `QUARANTINED`",
        ),
        _setting(_GATEWAY, "max_refusals", "refused placements in a row", "`UNAVAILABLE`"),
        _setting(_GATEWAY, "queue_timeout_s", "wait without a scheduler", "`UNAVAILABLE`", unit="s"),
        _fixed(api_keys.MAX_NAME_CHARS, "name of an API key", "the file is not taken", unit="characters"),
    ),
    "requests at the scheduler": (
        _setting(
            _SCHEDULER,
            "core.max_waiting_requests",
            "requests that wait",
            "`RESOURCE_EXHAUSTED`, `QUEUE_FULL`, with the time to work off what waits",
        ),
        _setting(_SCHEDULER, "core.max_waiting_tokens", "prompt tokens that wait", "the same"),
        _setting(_SCHEDULER, "core.max_tenant_share", "share of both that one tenant holds", "the same"),
        _setting(_SCHEDULER, "core.max_wait_s", "predicted wait; none: `queue_timeout_s`", "the same"),
        _setting(
            _SCHEDULER,
            "core.queue_timeout_s",
            "wait for a placement",
            "`RESOURCE_EXHAUSTED`, `QUEUE_TIMEOUT`",
            unit="s",
        ),
    ),
    "gateway to scheduler, worker to scheduler": (
        _fixed(grpc_server.MAX_MESSAGE_BYTES, "size of a message", _BY_GRPC, unit="bytes"),
        _fixed(
            peer_calls.MAX_CALLS_PER_PEER,
            "open calls of one address (IPv6: a /64)",
            "`RESOURCE_EXHAUSTED`, told once in the log",
        ),
        _setting(_SCHEDULER, "outbox_limit", "messages that a peer does not read", "its stream is closed"),
        _fixed(scheduler_codec.MAX_ID_CHARS, "names and ids", "dropped and counted", unit="characters"),
        _fixed(scheduler_codec.MAX_TOKENS, "tokens of a request", "dropped and counted"),
        _fixed(scheduler_codec.MAX_BLOCK_HASHES, "block hashes of a message", "dropped and counted"),
        _fixed(scheduler_codec.MAX_DP_SIZE, "DP ranks of a worker", "its hello is refused"),
        _fixed(scheduler_codec.MAX_LOAD, "load of a rank: tokens, requests or blocks", "dropped and counted"),
        _fixed(scheduler_codec.MAX_SECONDS, "any time", "dropped and counted", unit="s"),
        _fixed(scheduler_codec.MAX_KEYED_REQUESTS, "keys that a worker has", "dropped and counted"),
        _fixed(registry.MAX_NONSENSE, "senseless reports in a row", "the worker is given nothing new"),
        _fixed(registry.MAX_NONSENSE_ON_STREAM, "senseless reports in a row", "its stream is closed"),
        _fixed(prefix_index.MAX_BLOCKS, "cached blocks remembered of a worker", "all are forgotten"),
        _fixed(machine.MAX_LEFT, "workers remembered that have left", "the oldest are forgotten"),
    ),
    "scheduler to gateway and worker": (
        _fixed(codec.MAX_RETRY_AFTER_S, "time after which to come back", "cut to it", unit="s"),
        _fixed(codec.MAX_DP_SIZE, "DP ranks of a group, as a leader tells of it", "it is left out"),
        _fixed(
            gateway_scheduler.MAX_KEPT_EVENTS,
            "events kept while no scheduler is there",
            "the oldest are dropped",
        ),
        _fixed(report.MAX_HEARTBEAT_S, "heartbeat interval", "another one counts as 1 s", unit="s"),
        _fixed(report.MAX_BACKLOG, "reports that a scheduler does not read", "the stream begins anew"),
    ),
    "gateway to worker, worker to worker": (
        _fixed(grpc_server.MAX_MESSAGE_BYTES, "size of a message", _BY_GRPC, unit="bytes"),
        _fixed(
            peer_calls.MAX_CALLS_PER_PEER,
            "open calls of one address (IPv6: a /64)",
            "`RESOURCE_EXHAUSTED`, told once in the log",
        ),
        _setting(_WORKER, "kv_lease_s", "time for which KV waits to be pulled", "freed", unit="s"),
        _setting(_WORKER, "kv_pull_timeout_s", "time for pulling KV", "prefilled again", unit="s"),
        _setting(_WORKER, "orphan_keep_s", "time of a request without a gateway", "ended", unit="s"),
        _setting(_WORKER, "max_orphans", "requests without a gateway", "the oldest are ended"),
        _setting(_WORKER, "max_orphan_tokens", "output tokens of all of them", "the oldest are ended"),
        _fixed(keyed_requests.MAX_CLOSED_KEYS, "closed keys remembered", "the oldest are forgotten"),
    ),
    "monitoring to admin ports": (
        _fixed(metrics.MAX_CONNECTIONS, "connections", "the oldest is closed"),
        _fixed(metrics.READ_TIMEOUT_S, "silence of a connection", "closed", unit="s"),
    ),
    "operator to API server": (
        _setting(_OPERATOR, "call_timeout_s", "time of a call", "tried again", unit="s"),
        _setting(_OPERATOR, "watch_inactivity_s", "silence of a watch", "begins anew", unit="s"),
        _setting(_OPERATOR, "max_silence_s", "silence of the API server", "`/healthz` fails", unit="s"),
    ),
}

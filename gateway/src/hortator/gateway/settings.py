"""Settings of the gateway process."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from hortator.gateway.chat import DEFAULT_MESSAGE, DEFAULT_REPLY
from hortator.gateway.coalescing import MAX_WINDOW_S
from hortator.gateway.open_calls import CallLimits
from hortator.gateway.validation import Limits
from hortator.runtime.certificates import TlsSettings
from hortator.runtime.grpc_server import MAX_MESSAGE_BYTES, ServerLimits
from hortator.runtime.leader_follower import DEFAULT_TIMEOUT_S
from hortator.runtime.logs import LogFormat
from hortator.runtime.settings import Settings


class ClientAuth(StrEnum):
    """What a client shows before it is answered, beside an API key."""

    NONE = "none"
    CERTIFICATE = "certificate"


class GatewaySettings(Settings):
    """Everything a gateway is told. Environment variables begin with HORTATOR_GATEWAY_."""

    model_config = SettingsConfigDict(env_prefix="HORTATOR_GATEWAY_")

    host: str = Field(default="127.0.0.1", description="Address that the public gRPC port listens on.")
    port: int = Field(default=8080, ge=0, le=65535, description="Public gRPC port; 0 picks a free one.")
    admin_host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    admin_port: int = Field(
        default=0, ge=0, le=65535, description="Port of metrics and probes; 0 picks a free one."
    )
    gateway_id: str = Field(
        default="",
        max_length=64,
        description="Name of this gateway, unique per process; empty: a random one.",
    )
    scheduler_addresses: tuple[str, ...] = Field(
        min_length=1, description="`host:port` of every scheduler; tried in order."
    )

    scheduler_resolve_interval_s: float = Field(
        default=1.0,
        gt=0,
        description="How often the names among the schedulers' addresses are looked up again, in seconds.",
    )
    leader_timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S,
        gt=0,
        le=60,
        description="Seconds of silence after which the leader of the schedulers counts as away.",
    )
    degraded_after_s: float = Field(
        default=0.3,
        ge=0,
        le=60,
        description="Seconds without a leader after which this gateway places requests by itself (not those "
        "with an idempotency key); 0: never.",
    )
    ready_without_scheduler_s: float = Field(
        default=15.0,
        ge=0,
        description="Seconds for which a gateway that has lost its scheduler still says that it is ready.",
    )

    model: str = Field(min_length=1, description="Served model name.")
    max_sequence_tokens: int = Field(ge=2, description="Prompt plus output tokens of one request.")
    vocab_size: int = Field(
        default=0, ge=0, description="Number of token ids; 0: the tokenizer's, unchecked without one."
    )
    tokens_per_block: int = Field(
        default=64, ge=1, description="Tokens per KV block, as the workers have it."
    )
    chunk_budget_tokens: int = Field(
        default=0, ge=0, description="Prefill tokens per DP rank per forward pass; 0: unknown, not checked."
    )
    chunked_prefill: bool = Field(
        default=True, description="Whether workers split prompts; if not, a prompt must fit the chunk budget."
    )
    default_max_tokens: int = Field(
        default=256, ge=1, description="Output tokens of a request that names no number."
    )
    tokenizer: str = Field(
        default="",
        description="Path of a tokenizer file, `workers` (they have one), `bytes`, or empty: no text.",
    )
    chat_message: str = Field(
        default=DEFAULT_MESSAGE, description="One chat message as text; {role} and {content} are replaced."
    )
    chat_reply: str = Field(default=DEFAULT_REPLY, description="What opens the answer of a chat.")

    max_requests: int = Field(
        default=20_000, ge=1, description="Requests held at a time; more are refused with RESOURCE_EXHAUSTED."
    )
    queue_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest wait while no scheduler can be reached, in seconds."
    )
    slow_client_timeout_s: float = Field(
        default=300.0,
        gt=0,
        description="Seconds for which a message may wait for a client that does not read, or a call for its "
        "request, before the call is ended with RESOURCE_EXHAUSTED.",
    )
    max_calls: int = Field(
        default=40_000, ge=1, description="Open calls; more are refused with RESOURCE_EXHAUSTED."
    )
    max_calls_per_client: int = Field(
        default=10_000,
        ge=1,
        description="Open calls of one API key, or of one address where no key is wanted; more are refused "
        "with RESOURCE_EXHAUSTED.",
    )
    max_call_s: float = Field(
        default=14_400.0,
        gt=0,
        description="Seconds after which a call is ended with RESOURCE_EXHAUSTED, whatever it still has to "
        "say.",
    )
    max_message_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024,
        le=MAX_MESSAGE_BYTES // 2,
        description="Size of a request; larger ones are refused with RESOURCE_EXHAUSTED.",
    )
    max_metadata_bytes: int = Field(
        default=8 * 1024,
        ge=1024,
        le=1024 * 1024,
        description="Size of a call's metadata, with 32 bytes for each entry; calls with more are refused "
        "with RESOURCE_EXHAUSTED.",
    )
    max_connections: int = Field(
        default=10_000, ge=1, description="Connections of clients; more are closed as soon as they are made."
    )
    connection_idle_timeout_s: float = Field(
        default=900.0,
        ge=1,
        description="Seconds after which a connection without a call is closed.",
    )
    max_worker_failures: int = Field(
        default=2, ge=1, description="Worker failures with the same request after which it is quarantined."
    )
    max_refusals: int = Field(
        default=16, ge=1, description="Refused placements in a row after which a request fails."
    )
    idempotency_retention_s: float = Field(
        default=30.0, ge=0, description="Seconds for which an ended request with a key can be resumed."
    )
    max_coalescing_window_s: float = Field(
        default=MAX_WINDOW_S,
        ge=0,
        le=MAX_WINDOW_S,
        description="Longest time that tokens wait to share a message, in seconds; 0 turns coalescing off.",
    )
    target_messages_per_s: float = Field(
        default=8_000.0,
        gt=0,
        description="Messages per second to clients above which coalescing windows grow.",
    )
    drain_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that requests have to finish after SIGTERM."
    )
    drain_delay_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds after SIGTERM in which new requests are still taken, while /readyz says no: the "
        "time that load balancers take to notice.",
    )
    tls: TlsSettings = Field(
        default_factory=TlsSettings,
        description="Certificate, key and authority of this process; none of them: everything in the clear.",
    )
    client_auth: ClientAuth = Field(
        default=ClientAuth.NONE,
        description="certificate: clients show one of our authority, as `client`. none: they need none.",
    )
    api_keys_file: str = Field(
        default="", description="YAML file of the API keys that may generate; empty: no key is wanted."
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")

    @model_validator(mode="after")
    def _has_what_it_asks_for(self) -> Self:
        if self.client_auth is ClientAuth.CERTIFICATE and not self.tls.is_on:
            raise ValueError("client_auth: certificate needs tls.cert_file, tls.key_file and tls.ca_file")
        return self

    @property
    def is_open_to_all(self) -> bool:
        """Other machines can reach the public port, and nobody asks them who they are."""
        asks = self.client_auth is not ClientAuth.NONE or bool(self.api_keys_file)
        return not asks and not _is_loopback(self.host)

    @property
    def call_limits(self) -> CallLimits:
        """What open calls may take."""
        return CallLimits(
            max_calls=self.max_calls,
            max_calls_per_client=self.max_calls_per_client,
            max_call_s=self.max_call_s,
            slow_client_timeout_s=self.slow_client_timeout_s,
        )

    @property
    def server_limits(self) -> ServerLimits:
        """What gRPC itself refuses. It gives no reason, so its sizes and numbers are twice ours."""
        return ServerLimits(
            max_message_bytes=2 * self.max_message_bytes,
            max_metadata_bytes=2 * self.max_metadata_bytes,
            max_calls=2 * self.max_calls,
            max_calls_per_connection=2 * self.max_calls_per_client,
            max_connections=self.max_connections,
            connection_idle_timeout_s=self.connection_idle_timeout_s,
        )

    def limits(self, *, tokenizer_vocab_size: int | None) -> Limits:
        """What requests are checked against; the tokenizer's size is None without one."""
        return Limits(
            model=self.model,
            max_sequence_tokens=self.max_sequence_tokens,
            chunk_budget_tokens=self.chunk_budget_tokens,
            chunked_prefill=self.chunked_prefill,
            vocab_size=self.vocab_size or tokenizer_vocab_size or 0,
            default_max_tokens=self.default_max_tokens,
            has_tokenizer=tokenizer_vocab_size is not None,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Settings of the worker process."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, JsonValue
from pydantic_settings import SettingsConfigDict

from hortator.runtime.logs import LogFormat
from hortator.runtime.settings import Settings
from hortator.worker.gate import GateLimits


class WorkerPhase(StrEnum):
    """The role of an EP group."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class EngineKind(StrEnum):
    """The engines that a worker can host."""

    SIMULATED = "simulated"
    TORCH_MOE = "torch_moe"


class WorkerSettings(Settings):
    """Everything a worker is told. Environment variables begin with HORTATOR_WORKER_."""

    model_config = SettingsConfigDict(env_prefix="HORTATOR_WORKER_")

    worker_id: str = Field(
        default="",
        max_length=64,
        description="Name of this worker, unique in its service; empty: a random one.",
    )
    phase: WorkerPhase = Field(
        default=WorkerPhase.AGGREGATED, description="What this EP group does: prefill, decode or aggregated."
    )
    host: str = Field(default="127.0.0.1", description="Address that the gRPC port listens on.")
    port: int = Field(default=0, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    advertise_address: str = Field(
        default="", description="`host:port` where gateways and workers reach this one; empty: as bound."
    )
    admin_host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    admin_port: int = Field(
        default=0, ge=0, le=65535, description="Port of metrics and probes; 0 picks a free one."
    )
    scheduler_addresses: tuple[str, ...] = Field(
        default=(), description="`host:port` of every scheduler, leader and standbys; each gets every report."
    )

    engine: EngineKind = Field(default=EngineKind.SIMULATED, description="simulated or torch_moe.")
    engine_options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Options of that engine, a JSON object with the fields of its configuration.",
    )

    gate_max_idle_s: float = Field(
        default=0.005,
        ge=0,
        description="Longest time that an idle engine waits for the next member of a batch, in seconds.",
    )
    gate_idle_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="The same as a share of the predicted forward pass; the less counts.",
    )
    gate_min_idle_s: float = Field(
        default=0.002,
        ge=0,
        description="But never less than this, in seconds: members sent at once do not arrive at once.",
    )
    gate_member_s: float = Field(
        default=0.0005,
        ge=0,
        description="What receiving one member of a batch may add to that wait, in seconds.",
    )
    gate_manifest_wait_s: float = Field(
        default=0.1,
        ge=0,
        description="Longest wait for a batch's manifest once a member is here, in seconds.",
    )
    gate_absent_wait_s: float = Field(
        default=0.5, gt=0, description="A batch of which nobody came is given up after this, in seconds."
    )
    kv_lease_s: float = Field(
        default=30.0, gt=0, description="How long KV of a prefilled request waits to be pulled, in seconds."
    )
    kv_pull_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest time for pulling the KV of one request, in seconds."
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that requests have to finish after SIGTERM."
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")

    def gate_limits(self) -> GateLimits:
        """How long the gate may wait."""
        return GateLimits(
            max_idle_s=self.gate_max_idle_s,
            idle_share=self.gate_idle_share,
            min_idle_s=self.gate_min_idle_s,
            member_s=self.gate_member_s,
            manifest_wait_s=self.gate_manifest_wait_s,
            absent_wait_s=self.gate_absent_wait_s,
        )

"""Settings of the operator process: a JSON file, or the environment, or both (the file wins)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from hortator.operator.lease import LeaseTimes
from hortator.runtime.certificates import TlsSettings
from hortator.runtime.logs import LogFormat
from hortator.runtime.settings import Settings


class OperatorSettings(Settings):
    """Everything the operator is told. Environment variables begin with HORTATOR_OPERATOR_."""

    model_config = SettingsConfigDict(env_prefix="HORTATOR_OPERATOR_")

    namespaces: tuple[str, ...] = Field(
        default=(),
        description="Namespaces whose LLMServices are served, as a JSON list; empty: all of the cluster.",
    )
    namespace: str = Field(
        default="", description="Namespace of the operator's Lease; empty: the pod's own, else `default`."
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="File that says how to reach the API server; else KUBECONFIG, the pod's service account.",
    )
    identity: str = Field(default="", description="Name in the Lease; empty: host name and a random part.")
    admin_host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    admin_port: int = Field(
        default=9090, ge=0, le=65535, description="Port of metrics and probes; 0 picks a free one."
    )
    image_registry: str = Field(
        default="", description="Where the images of this version come from, without a slash at the end."
    )
    image_tag: str = Field(default="", description="Tag of those images; empty: the version of the operator.")
    cluster_domain: str = Field(
        default="", description="Appended to host names of Services; empty: `NAME.NAMESPACE.svc`."
    )
    child_log_level: str = Field(default="INFO", description="Log level of every process in the pods.")
    pods_share_host: bool = Field(
        default=False, description="Processes listen on their pod's address only: pods share a host."
    )
    observe_nodes: bool = Field(
        default=True,
        description="Watch Nodes and who holds devices, for the capacity check; needs a ClusterRole.",
    )
    gang_providers: tuple[Literal["Volcano", "Coscheduling", "Kueue"], ...] = Field(
        default=(),
        description="Other schedulers that may see to gangs, as a JSON list; their kinds need roles.",
    )
    num_workers: int = Field(default=4, ge=1, le=64, description="LLMServices looked at concurrently.")
    resync_interval_s: float = Field(
        default=60.0, ge=0.5, description="Seconds between complete lists, which heal what watches missed."
    )
    watch_inactivity_s: float = Field(
        default=70.0, ge=0.5, description="Seconds without event or bookmark after which a watch begins anew."
    )
    max_silence_s: float = Field(
        default=600.0, gt=0, description="Seconds without any word of the API server until /healthz fails."
    )
    call_timeout_s: float = Field(default=15.0, gt=0, description="Limit of one call to the API server.")
    lease_duration_s: float = Field(
        default=15.0, ge=1, description="Seconds without renewal after which another candidate leads."
    )
    lease_renew_deadline_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds without renewal after which the leader stops writing and ends.",
    )
    lease_retry_s: float = Field(default=2.0, gt=0, description="Seconds between two renewals.")
    drain_timeout_s: float = Field(
        default=20.0, ge=0, description="Seconds to finish what is being written before the process stops."
    )
    gc_threshold: int = Field(
        default=50_000, ge=700, description="Allocations between collections of Python's youngest garbage."
    )
    tls: TlsSettings = Field(
        default_factory=TlsSettings,
        description="Certificate, key and authority for schedulers that have TLS; none: they are not asked.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")

    @model_validator(mode="after")
    def _times_are_safe(self) -> Self:
        self.lease_times()
        return self

    def lease_times(self) -> LeaseTimes:
        """The times of the lease; one call gets what the deadline leaves, at most 4 s."""
        room_s = self.lease_renew_deadline_s - self.lease_retry_s
        return LeaseTimes(
            duration_s=self.lease_duration_s,
            renew_deadline_s=self.lease_renew_deadline_s,
            retry_s=self.lease_retry_s,
            call_timeout_s=min(4.0, room_s * 0.75),
        )

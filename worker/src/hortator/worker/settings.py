"""Settings of the worker process."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import Field, JsonValue
from pydantic_settings import SettingsConfigDict

from hortator.runtime.certificates import TlsSettings
from hortator.runtime.leader_follower import DEFAULT_TIMEOUT_S
from hortator.runtime.logs import LogFormat
from hortator.runtime.settings import Settings, SettingsError
from hortator.worker.gate import GateLimits
from hortator.worker.group.member import GroupLimits, GroupPlace


class WorkerPhase(StrEnum):
    """The role of an EP group."""

    PREFILL = "prefill"
    DECODE = "decode"
    AGGREGATED = "aggregated"


class EngineKind(StrEnum):
    """The engines that a worker can host."""

    SIMULATED = "simulated"
    TORCH_MOE = "torch_moe"
    TENSORRT_LLM = "tensorrt_llm"


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
    advertise_host: str = Field(
        default="", description="The same without the port, which is the one that was bound: a pod's address."
    )
    admin_host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    admin_port: int = Field(
        default=0, ge=0, le=65535, description="Port of metrics and probes; 0 picks a free one."
    )
    scheduler_addresses: tuple[str, ...] = Field(
        default=(), description="`host:port` of every scheduler, leader and standbys; each gets every report."
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

    pod_name: str = Field(
        default="",
        max_length=253,
        description="Name of this pod, `<group>-<ordinal>`; its ordinal says which member this is.",
    )
    pod_uid: str = Field(default="", description="UID of this pod; only makes the record in boot_dir unique.")
    node_name: str = Field(default="", description="Node of this pod, for error lines.")
    group_size: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Pods of the EP group. Ordinal 0 hosts the engine, the others join it.",
    )
    epoch: int | None = Field(
        default=None,
        ge=0,
        lt=1 << 63,
        description="Epoch of the EP group, higher at every restart of it; an ordinal joins an epoch once.",
    )
    incarnation: str = Field(
        default="",
        pattern=r"^[a-z0-9]{0,63}$",
        description="Which making of the EP group this is, the same in all members: one that was deleted and "
        "made again counts its epochs anew.",
    )
    leader_address: str = Field(
        default="",
        description="`host:port` where the other members find ordinal 0; a name is looked up anew.",
    )
    join_port: int = Field(
        default=7072, ge=0, le=65535, description="Port on which ordinal 0 takes members; 0 picks a free one."
    )
    startup_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds from the start of a pod's process until every member of the group must have "
        "joined, and until its engine must have started.",
    )
    launch_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds from then until the ranks in all pods must have been started, where ordinal 0 "
        "starts them (tensorrt_llm).",
    )
    heartbeat_interval_s: float = Field(
        default=1.0, gt=0, description="How often the members of a group say that they are here, in seconds."
    )
    heartbeat_timeout_s: float = Field(
        default=6.0, gt=0, description="Silence after which a member counts as lost, in seconds."
    )
    ssh_host: str = Field(
        default="",
        description="Name or address at which ordinal 0 reaches this pod's sshd, in groups of several pods "
        "whose ranks are started so (tensorrt_llm); empty: advertise_host, or host.",
    )
    ssh_port: int = Field(
        default=2222, ge=1, le=65535, description="Port of that sshd, which members other than ordinal 0 run."
    )
    identity_file: str = Field(
        default="",
        description="File with the secret of this EP group, the same in all its pods; with it members prove "
        "that the keys they exchange are theirs. Empty: nothing is proven.",
    )
    boot_dir: str = Field(
        default="",
        description="Folder that outlives the container but not the pod (/dev/shm, an emptyDir): a container "
        "whose pod has run this epoch before ends at once. Empty: not checked.",
    )

    engine: EngineKind = Field(
        default=EngineKind.SIMULATED, description="simulated, torch_moe or tensorrt_llm."
    )
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
    orphan_keep_s: float = Field(
        default=30.0,
        ge=0,
        description="How long a request with an idempotency key goes on without a gateway, in seconds.",
    )
    max_orphans: int = Field(
        default=10_000,
        ge=0,
        description="Requests without a gateway that are kept at a time; beyond, the oldest end early.",
    )
    max_orphan_tokens: int = Field(
        default=10_000_000,
        ge=0,
        description="Output tokens of all requests without a gateway; beyond, the oldest end early.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that requests have to finish after SIGTERM."
    )
    tls: TlsSettings = Field(
        default_factory=TlsSettings,
        description="Certificate, key and authority of this process; none of them: everything in the clear.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")

    def advertised(self, bound: str) -> str:
        """Where others reach this worker that listens on `bound` (host:port)."""
        host = self.advertise_host
        if self.advertise_address or not host:
            return self.advertise_address or bound
        return f"{f'[{host}]' if ':' in host else host}:{bound.rpartition(':')[2]}"

    def new_boot_id(self) -> str:
        """Of this start of the process; in a group it begins with epoch and incarnation."""
        boot = secrets.token_hex(8)
        if self.epoch is None:
            return boot
        return "-".join(part for part in (str(self.epoch), self.incarnation, boot) if part)

    def group_place(self) -> GroupPlace | None:
        """Where this process stands in its group; None: it is no pod's.

        Raises:
            SettingsError: what the pod says of itself does not fit together.
        """
        if not self.pod_name and self.group_size == 1:
            return None
        ordinal = _ordinal(self.pod_name)
        problems = list(self._group_problems(ordinal))
        if problems:
            raise SettingsError([f"HORTATOR_WORKER_{problem}" for problem in problems])
        return GroupPlace(
            worker_id=self.worker_id or self.pod_name,
            group_size=self.group_size,
            ordinal=ordinal or 0,
            epoch=self.epoch or 0,
            pod_name=self.pod_name,
            node_name=self.node_name,
            incarnation=self.incarnation,
        )

    def _group_problems(self, ordinal: int | None) -> Iterator[str]:
        size = self.group_size
        if ordinal is None:
            yield f"POD_NAME: got {self.pod_name!r} (allowed: a name that ends in -0 to -{size - 1})"
        elif ordinal >= size:
            yield f"POD_NAME: ordinal {ordinal} of {self.pod_name} is not in a group of {size} (GROUP_SIZE)"
        if self.heartbeat_timeout_s <= 2 * self.heartbeat_interval_s:
            yield "HEARTBEAT_TIMEOUT_S: must be more than twice HEARTBEAT_INTERVAL_S"
        if size == 1:
            return
        if self.epoch is None:
            yield "EPOCH: required with GROUP_SIZE above 1"
        if not self.worker_id:
            yield "WORKER_ID: required with GROUP_SIZE above 1, the same in all members"
        if ordinal and not self.leader_address:
            yield "LEADER_ADDRESS: required in members other than ordinal 0 (allowed: host:port)"
        if self.engine is EngineKind.TORCH_MOE:
            yield f"GROUP_SIZE: got {size}, but torch_moe runs all its ranks in one pod (allowed: 1)"

    @property
    def is_launched(self) -> bool:
        """Ranks run in all pods of the group, and ordinal 0 starts them."""
        return self.group_size > 1 and self.engine is EngineKind.TENSORRT_LLM

    @property
    def gpus_per_node(self) -> int:
        """Ranks of each pod; `build_engine` has checked it."""
        found = self.engine_options.get("gpus_per_node", 8)
        return found if isinstance(found, int) else 8

    def group_secret(self) -> bytes:
        """Of the EP group; empty: there is none. Raises SettingsError."""
        if not self.identity_file:
            return b""
        try:
            return Path(self.identity_file).read_bytes().strip()
        except OSError as error:
            raise SettingsError(
                [f"HORTATOR_WORKER_IDENTITY_FILE: {self.identity_file}: {error.strerror}"]
            ) from None

    def group_limits(self) -> GroupLimits:
        """How long the members of a group wait for each other."""
        return GroupLimits(
            startup_timeout_s=self.startup_timeout_s,
            heartbeat_interval_s=self.heartbeat_interval_s,
            heartbeat_timeout_s=self.heartbeat_timeout_s,
        )

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


def _ordinal(pod_name: str) -> int | None:
    """The number at the end of a StatefulSet pod's name."""
    found = re.fullmatch(r".+-(0|[1-9]\d*)", pod_name)
    return int(found.group(1)) if found else None

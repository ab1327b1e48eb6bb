"""Settings of the scheduler process: a JSON file, or the environment, or both (the file wins).

The core's own knobs are under `core`; its fields, defaults and texts are those of `SchedulerSettings`, so
they are declared once.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_settings import SettingsConfigDict

from hortator.runtime.certificates import TlsSettings
from hortator.runtime.logs import LogFormat
from hortator.runtime.settings import Settings
from hortator.scheduler.core.leadership import LeadershipSettings
from hortator.scheduler.core.model import SchedulerSettings, TenantSettings
from hortator.scheduler.core.policies.registry import POLICY_NAMES

MAX_WEIGHT = 1e6
_MUST_BE_POSITIVE = frozenset(
    {"max_carry", "max_waiting_requests", "max_waiting_tokens", "queue_timeout_s", "watchdog_min_s"}
    | {"watchdog_factor", "expected_output_tokens", "num_levels", "num_starts"}
)


class _Core(BaseModel):
    """Base of `CoreSettings`: what the generated fields have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("policy", check_fields=False)
    @classmethod
    def _known_policy(cls, policy: str) -> str:
        if policy not in POLICY_NAMES:
            raise ValueError(f"allowed: {', '.join(POLICY_NAMES)}")
        return policy

    @field_validator("max_tenant_share", check_fields=False)
    @classmethod
    def _is_share(cls, share: float) -> float:
        if not 0.0 < share <= 1.0:
            raise ValueError("allowed: above 0, at most 1")
        return share

    @field_validator("resumed_share", check_fields=False)
    @classmethod
    def _is_part(cls, share: float) -> float:
        if not 0.0 < share < 1.0:
            raise ValueError("allowed: above 0, below 1")
        return share

    @field_validator("tenants", check_fields=False)
    @classmethod
    def _sound_tenants(cls, tenants: tuple[TenantSettings, ...]) -> tuple[TenantSettings, ...]:
        names: set[str] = set()
        for tenant in tenants:
            if tenant.name in names:
                raise ValueError(f"{tenant.name!r} is there twice (allowed: each name once)")
            names.add(tenant.name)
            if not 0.0 < tenant.weight <= MAX_WEIGHT:
                allowed = f"above 0, at most {MAX_WEIGHT:g}"
                raise ValueError(f"{tenant.name!r}: weight: got {tenant.weight:g} (allowed: {allowed})")
            share = tenant.queue_share
            if share is not None and not 0.0 < share <= 1.0:
                raise ValueError(f"{tenant.name!r}: queue_share: got {share:g} (allowed: above 0, at most 1)")
        return tenants

    def to_core(self) -> SchedulerSettings:
        """The same values as the core wants them."""
        return SchedulerSettings(**{name: getattr(self, name) for name in type(self).model_fields})


def _core_fields() -> dict[str, Any]:
    hints = get_type_hints(SchedulerSettings)
    texts = _attribute_docstrings(SchedulerSettings)
    out: dict[str, Any] = {}
    for field in fields(SchedulerSettings):
        hint = hints[field.name]
        bounds: dict[str, Any] = {}
        if hint in {int, float, float | None}:
            bounds = {"gt": 0} if field.name in _MUST_BE_POSITIVE or hint == float | None else {"ge": 0}
        text = texts.get(field.name, f"The policy: {', '.join(POLICY_NAMES)}.")
        out[field.name] = (Annotated[hint, Field(description=text, **bounds)], field.default)
    return out


def _attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """The strings that stand under the fields of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    out: dict[str, str] = {}
    name = ""
    for node in tree.body if isinstance(tree, ast.ClassDef) else ():
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                out[name] = " ".join(text.split())
            case _:
                name = ""
    return out


CoreSettings = create_model("CoreSettings", __base__=_Core, __module__=__name__, **_core_fields())


class SchedulerProcessSettings(Settings):
    """Everything a scheduler is told. Environment variables begin with HORTATOR_SCHEDULER_."""

    model_config = SettingsConfigDict(env_prefix="HORTATOR_SCHEDULER_")

    host: str = Field(default="127.0.0.1", description="Address that the gRPC port listens on.")
    port: int = Field(default=7070, ge=0, le=65535, description="gRPC port; 0 picks a free one.")
    admin_host: str = Field(default="127.0.0.1", description="Address that the admin port listens on.")
    admin_port: int = Field(
        default=0, ge=0, le=65535, description="Port of metrics and probes; 0 picks a free one."
    )
    epoch: int = Field(
        default=0,
        ge=0,
        lt=1 << 63,
        description="Leadership epoch to begin in; 0: from the wall clock, higher at every start.",
    )
    standby: bool = Field(
        default=False,
        description="Begin as a standby, and lead once most workers and gateways are without a leader: for "
        "schedulers of which there are several.",
    )
    leader_heartbeat_s: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="Seconds between two words of a leader that has nothing to say; less than half of the "
        "leader_timeout_s of workers and gateways.",
    )
    takeover_patience_s: float = Field(
        default=0.05,
        ge=0,
        le=60,
        description="Seconds that most workers and gateways must have been without a leader.",
    )
    settling_s: float = Field(
        default=0.75,
        ge=0,
        le=60,
        description="Seconds in which a new standby hears who leads before it may.",
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds to place what waits before the process stops."
    )
    heartbeat_interval_s: float = Field(
        default=0.5,
        gt=0,
        le=10,
        description="Seconds after which a worker without news reports all the same.",
    )
    worker_grace_s: float = Field(
        default=1.0, ge=0, le=60, description="Seconds that a worker whose stream broke has to come back."
    )
    gateway_grace_s: float = Field(
        default=1.0, ge=0, le=60, description="Seconds that a gateway whose stream broke has to come back."
    )
    outbox_limit: int = Field(
        default=100_000, ge=100, description="Unread messages to one peer above which its stream is closed."
    )
    events_path: Path | None = Field(
        default=None, description="File to record every event in, for `hortator replay`; none by default."
    )
    events_max_file_bytes: int = Field(
        default=256 * 1024 * 1024, ge=4096, description="Size at which a recording goes on in a new file."
    )
    events_max_files: int = Field(default=8, ge=1, description="Files of recordings kept, newest first.")
    gc_threshold: int = Field(
        default=50_000, ge=700, description="Allocations between collections of Python's youngest garbage."
    )
    tls: TlsSettings = Field(
        default_factory=TlsSettings,
        description="Certificate, key and authority of this process; none of them: everything in the clear.",
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(default=LogFormat.JSON, description="json or console.")
    core: CoreSettings = Field(  # type: ignore[valid-type]
        default_factory=CoreSettings, description="The scheduler core."
    )

    def core_settings(self) -> SchedulerSettings:
        """What the machine gets."""
        core: _Core = self.core
        return core.to_core()

    def leadership_settings(self) -> LeadershipSettings:
        """How long to wait before this scheduler leads."""
        return LeadershipSettings(patience_s=self.takeover_patience_s, settling_s=self.settling_s)

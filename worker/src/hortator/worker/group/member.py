"""What the processes of a group are told of themselves, and say to each other when they meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlace:
    """Where a process stands in its EP group: what its pod tells it."""

    worker_id: str
    """Of the group."""
    group_size: int
    ordinal: int
    """0 hosts the engine; the others hold their place."""
    epoch: int
    """Grows by one at every restart of the group."""
    pod_name: str
    node_name: str = ""
    incarnation: str = ""
    """Which making of the group this is: one that was deleted and made again counts its epochs anew."""

    @property
    def is_leader(self) -> bool:
        """This process hosts the engine."""
        return self.ordinal == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Where ordinal 0 can start ranks in a pod: the sshd of one boot of a member."""

    host: str
    port: int
    host_key: str
    """`ssh-ed25519 AAAA...`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One boot of one process of a group."""

    place: GroupPlace
    boot_id: str
    shell: Shell | None = None
    """None: no ranks are started in its pod from outside."""
    proof: bytes = b""
    """That it holds the group's secret; see `launch.proof`."""

    def __str__(self) -> str:
        """For error lines: ordinal, pod, node and boot."""
        where = f" on {self.place.node_name}" if self.place.node_name else ""
        return f"member {self.place.ordinal} ({self.place.pod_name}{where}, boot {self.boot_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """How long anybody waits, in seconds."""

    startup_timeout_s: float = 600.0
    """From the start of the process until every member has joined."""
    heartbeat_interval_s: float = 1.0
    heartbeat_timeout_s: float = 6.0
    """Silence after which the other side counts as gone."""

"""What a plan may ask for: a closed set of commands, each with the reason why in words.

Carrying one out twice is harmless, and so is stopping between any two: the next plan is made from what is
there then. A conflict (somebody changed the object since it was seen) means: look again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hortator.operator.certificates import Wanted
from hortator.operator.objects import Obj, Ref
from hortator.operator.status.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of the whole object.

    Where the metadata has a uid and a resourceVersion it is meant for exactly that state of the object.
    """

    obj: Obj
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """Create an object that never changes; that it exists is fine. A Secret is given its random content."""

    obj: Obj
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete with background propagation, if the object still has this uid."""

    ref: Ref
    uid: str
    grace_s: int | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchLabels:
    """Set labels of an object that another controller makes."""

    ref: Ref
    labels: Mapping[str, str | None]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDrain:
    """Ask the scheduler to place nothing more on a worker. Asking again is fine; nobody waits for the end."""

    worker_id: str
    timeout_s: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Write spec.replicas by the scale subresource, if the object is still in the state that was seen."""

    ref: Ref
    replicas: int
    resource_version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeCertificates:
    """Make the certificates of a service that are due by then; there is no key in what is asked for."""

    wanted: Wanted
    why: str


Action = Apply | Create | Delete | MakeCertificates | PatchLabels | Scale | StartDrain


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit:
    """An event for `kubectl describe`."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    about: Ref | None = None
    """None: the LLMService."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Time alone changes the plan at this moment."""

    at: datetime


Item = Action | Emit | Wake
"""What the parts of a plan yield."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOf:
    """The whole status of another object than the LLMService."""

    ref: Ref
    status: Obj


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The next step. `actions` is empty when there is nothing to do now."""

    actions: tuple[Action, ...]
    """In this order; none of them waits for another to have an effect."""
    status: Obj
    """The whole status."""
    status_changed: bool
    """False: `status` is what the object says already, and is not written."""
    scalers: tuple[StatusOf, ...]
    """What the LLMServiceScalers are to say."""
    events: tuple[Emit, ...]
    """To be emitted once the actions are carried out."""
    wake_after_s: float | None
    """When time alone may change the plan; None: only when something else changes."""


def emitted(reason: Reason, message: str, *, is_warning: bool = False, about: Ref | None = None) -> Emit:
    """An event with one of the documented reasons."""
    return Emit(type="Warning" if is_warning else "Normal", reason=reason, message=message, about=about)


def wake(now: datetime, moment: datetime) -> Iterator[Wake]:
    """Look again at a moment that is still to come."""
    if moment > now:
        yield Wake(at=moment)

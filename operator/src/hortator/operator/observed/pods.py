"""From a Pod to facts. Total: whatever a status lacks reads as "not yet".

Which container counts: the one named `engine` in a group's pod, else the first. Restarts are those of all
regular containers together, because any of them ending takes the pod's rank out of its epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from hortator.operator import names
from hortator.operator.objects import Obj, Ref
from hortator.operator.observed.facts import Ending, PodFacts, WarningEvent
from hortator.operator.observed.reading import (
    at,
    flag,
    instant,
    items,
    loads,
    mapping,
    maybe_number,
    number,
    quantities,
    text,
    texts,
)

MAX_LAST_WORDS = 300
_HOSTNAME = "kubernetes.io/hostname"
_UNTELLING = {"", "PodInitializing", "ContainerCreating"}
_BEFORE_TIME = datetime.min.replace(tzinfo=UTC)


def pod_facts(pod: Obj, *, ordinal: int, owner_uid: str, events: Sequence[WarningEvent]) -> PodFacts:
    """The facts of a pod. `owner_uid` is its StatefulSet's: pods of another one are of no epoch ("": any)."""
    labels = texts(pod, "metadata", "labels")
    statuses = items(pod, "status", "containerStatuses")
    main = _main(statuses)
    waiting = _waiting(items(pod, "status", "initContainerStatuses") + statuses)
    ready, placed = _condition(pod, "Ready"), _condition(pod, "PodScheduled")
    target = _disruption(pod)
    is_unplaced = text(placed, "status") == "False"
    is_foreign = owner_uid != "" and owner_uid != _controller_uid(pod)
    return PodFacts(
        ref=Ref(
            api_version="v1",
            kind="Pod",
            namespace=text(pod, "metadata", "namespace"),
            name=text(pod, "metadata", "name"),
        ),
        uid=text(pod, "metadata", "uid"),
        ordinal=ordinal,
        epoch=-1 if is_foreign else parse_epoch(labels),
        revision=labels.get(names.LABEL_REVISION, ""),
        node=text(pod, "spec", "nodeName"),
        phase=text(pod, "status", "phase"),
        is_ready=text(ready, "status") == "True" and not text(pod, "metadata", "deletionTimestamp"),
        is_started=_is_started(main),
        is_deleting=text(pod, "metadata", "deletionTimestamp") != "",
        deletion_grace_s=maybe_number(pod, "metadata", "deletionGracePeriodSeconds"),
        num_restarts=sum(number(status, "restartCount") for status in statuses),
        waiting_reason=text(waiting, "state", "waiting", "reason"),
        waiting_message=text(waiting, "state", "waiting", "message"),
        waiting_container=text(waiting, "name"),
        running_since=instant(main, "state", "running", "startedAt"),
        ending=_ending(pod),
        unplaced_reason=text(placed, "reason") if is_unplaced else "",
        unplaced_message=text(placed, "message") if is_unplaced else "",
        status_reason=text(pod, "status", "reason"),
        status_message=text(pod, "status", "message"),
        disruption=text(target, "reason"),
        disruption_message=text(target, "message"),
        created_at=instant(pod, "metadata", "creationTimestamp"),
        placed_at=instant(placed, "lastTransitionTime") if text(placed, "status") == "True" else None,
        ready_at=instant(ready, "lastTransitionTime") if text(ready, "status") == "True" else None,
        is_scale_unit=labels.get(names.LABEL_SCALE_UNIT) == "true",
        events=tuple(events),
    )


def parse_epoch(labels: Mapping[str, str]) -> int:
    """The epoch in the labels of a pod or pod template; -1 when they name none."""
    written = labels.get(names.LABEL_EPOCH, "")
    return int(written) if written.isascii() and written.isdigit() and len(written) < 19 else -1


def pod_requests(pod_or_template: Obj) -> dict[str, float]:
    """What a pod takes from its node: requests, or limits where there are none."""
    total: dict[str, float] = {}
    for container in items(pod_or_template, "spec", "containers"):
        wanted = quantities(container, "resources", "limits") | quantities(container, "resources", "requests")
        for name, amount in wanted.items():
            total[name] = total.get(name, 0.0) + amount
    return {name: amount for name, amount in total.items() if amount > 0}


def keeps_apart(template: Obj) -> bool:
    """Whether no two pods of this template may stand on one node."""
    path = ("spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    return any(text(term, "topologyKey") == _HOSTNAME for term in items(template, *path))


def avoided_nodes(template: Obj) -> frozenset[str]:
    """The nodes that a group's template rules out by name, as `manifests.group` writes it."""
    path = ("spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    return frozenset(
        str(value)
        for term in items(template, *path, "nodeSelectorTerms")
        for field in items(term, "matchFields")
        if text(field, "operator") == "NotIn"
        for value in (at(field, "values") or ())
    )


def is_device(resource: str) -> bool:
    """Whole devices have a slash in their name: nvidia.com/gpu, rdma/hca_shared_devices_a."""
    return "/" in resource


def is_over(pod: Obj) -> bool:
    """Whether a pod has ended for good and gave back what it took."""
    return text(pod, "status", "phase") in {"Succeeded", "Failed"}


def is_disrupted(pod: Obj) -> bool:
    """Whether the cluster takes a pod away, or took it."""
    return text(_disruption(pod), "reason") != "" or text(pod, "status", "reason") == "Evicted"


def last_words(message: str) -> str:
    """The last line of a termination message, which may be the end of a log: of a JSON line its event."""
    line = next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "")
    logged = loads(line) if line.startswith("{") else None
    said = next((text(logged, key) for key in ("event", "message", "msg") if text(logged, key)), line)
    details = [text(logged, key) for key in ("why", "reason", "error") if text(logged, key)]
    return ": ".join([said, *details])[:MAX_LAST_WORDS]


def event_facts(event: Obj) -> tuple[str, str, WarningEvent] | None:
    """(kind, uid or name, facts) of a Warning event; None for any other. Reads both event APIs."""
    if text(event, "type") != "Warning":
        return None
    about = mapping(event, "involvedObject") or mapping(event, "regarding")
    times = [
        instant(event, *path)
        for path in (
            ("series", "lastObservedTime"),
            ("lastTimestamp",),
            ("deprecatedLastTimestamp",),
            ("eventTime",),
            ("metadata", "creationTimestamp"),
        )
    ]
    counts = [number(event, *path) for path in (("series", "count"), ("count",), ("deprecatedCount",))]
    facts = WarningEvent(
        reason=text(event, "reason"),
        message=text(event, "message") or text(event, "note"),
        count=max(1, *counts),
        last_at=next((time for time in times if time is not None), None),
    )
    return text(about, "kind"), text(about, "uid") or text(about, "name"), facts


def _controller_uid(pod: Obj) -> str:
    owners = items(pod, "metadata", "ownerReferences")
    return next((text(owner, "uid") for owner in owners if flag(owner, "controller")), "")


def _condition(pod: Obj, kind: str) -> Obj:
    return next((entry for entry in items(pod, "status", "conditions") if text(entry, "type") == kind), {})


def _disruption(pod: Obj) -> Obj:
    """The condition by which the cluster says that it takes a pod away; empty if it does not."""
    found = _condition(pod, "DisruptionTarget")
    return found if text(found, "status") == "True" else {}


def _main(statuses: Sequence[Obj]) -> Obj:
    named = [status for status in statuses if text(status, "name") == names.ENGINE_CONTAINER]
    return next(iter([*named, *statuses]), {})


def _is_started(status: Obj) -> bool:
    return bool(
        mapping(status, "state", "running")
        or mapping(status, "state", "terminated")
        or mapping(status, "lastState", "terminated")
        or number(status, "restartCount")
    )


def _waiting(statuses: Sequence[Obj]) -> Obj:
    """The container whose waiting says most: an error before "is being created"."""
    waiting = [status for status in statuses if mapping(status, "state", "waiting")]
    telling = [status for status in waiting if text(status, "state", "waiting", "reason") not in _UNTELLING]
    return next(iter([*telling, *waiting]), {})


def _ending(pod: Obj) -> Ending | None:
    """The latest ending of a regular container, or of an init container that failed."""
    found: list[Ending] = []
    for path, only_failures in (("initContainerStatuses", True), ("containerStatuses", False)):
        for status in items(pod, "status", path):
            for state in ("state", "lastState"):
                ended = mapping(status, state, "terminated")
                if ended and not (only_failures and number(ended, "exitCode") == 0):
                    found.append(_as_ending(text(status, "name"), ended))
    return max(found, key=lambda ending: ending.finished_at or _BEFORE_TIME, default=None)


def _as_ending(container: str, ended: Obj) -> Ending:
    code = number(ended, "exitCode")
    signal = number(ended, "signal") or (code - 128 if 128 < code < 193 else 0)
    return Ending(
        container=container,
        exit_code=code,
        signal=signal or None,
        reason=text(ended, "reason"),
        message=last_words(text(ended, "message")),
        finished_at=instant(ended, "finishedAt"),
    )

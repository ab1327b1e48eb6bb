"""Events of an LLMService, as `kubectl describe` shows them: own objects, written through the API.

The same thing said again within `REPEAT_S` is counted in the event that says it instead of making another. An
event that cannot be written is lost; everything it says stands in the status too.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from hortator.operator.cluster import Cluster, ClusterError
from hortator.operator.names import OPERATOR_NAME
from hortator.operator.objects import Obj
from hortator.operator.plan import Emit

REPEAT_S = 600.0
MAX_REMEMBERED = 4096
MAX_MESSAGE = 1024


class EventRecorder:
    """Writes events about LLMServices."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`cluster` is the guarded one."""
        self._cluster = cluster
        self._now = now
        self._recent: OrderedDict[str, Obj] = OrderedDict()
        self._log = structlog.get_logger("hortator.operator.recorder")

    async def emit(self, service: Obj, event: Emit) -> None:
        """Say it once more or for the first time."""
        metadata = service["metadata"]
        said = f"{metadata['uid']}/{event.type}/{event.reason}/{event.message}"
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        now = self._now()
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        known = self._recent.get(digest)
        if known is not None and (now - _time(known["firstTimestamp"])).total_seconds() < REPEAT_S:
            obj = known | {"count": known["count"] + 1, "lastTimestamp": stamp}
        else:
            obj = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{metadata['name']}.{digest}.{int(now.timestamp()):x}",
                    "namespace": metadata["namespace"],
                },
                "involvedObject": {
                    "apiVersion": service["apiVersion"],
                    "kind": service["kind"],
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "resourceVersion": metadata.get("resourceVersion", ""),
                },
                "type": event.type,
                "reason": event.reason,
                "message": event.message[:MAX_MESSAGE],
                "source": {"component": OPERATOR_NAME},
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
                "count": 1,
            }
        try:
            await self._cluster.apply(obj)
        except ClusterError as error:
            self._log.info("an event was not written", reason=event.reason, error=str(error))
            return
        self._recent[digest] = obj
        self._recent.move_to_end(digest)
        if len(self._recent) > MAX_REMEMBERED:
            self._recent.popitem(last=False)


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

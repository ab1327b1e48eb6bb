"""The tests' side of `cluster.witness`: starts one, and reads what it has told."""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.controlplane import E2E, Lab
from cluster.processes import LabError, Process, wait_until

Obj = dict[str, Any]
START_TIMEOUT_S = 30
LATE_S = 0.5
"""A look at the scheduler may be told so long after what it shows."""


@dataclass(slots=True, kw_only=True)
class Drained:
    """A group whose pods were deleted, as the scheduler saw it go."""

    worker_id: str
    asked_at: float
    """When the scheduler said first that it drains."""
    idle_at: float
    """When nothing was in flight any more."""
    deleted_at: float
    """When the first of its pods was told to go."""
    num_in_flight: int
    """When it was asked."""
    left: int
    """In flight when the first pod was told to go."""
    is_acknowledged: bool
    """The worker itself had said that it takes nothing more."""


@dataclass(slots=True, kw_only=True)
class Witness:
    """A running witness."""

    process: Process
    _seen: list[Obj] = field(default_factory=list)
    _offset: int = 0

    def told(self, *kinds: str) -> list[Obj]:
        """What it has said so far, of these kinds."""
        with self.process.log.open() as log:
            log.seek(self._offset)
            for line in iter(log.readline, ""):
                if not line.endswith("\n"):
                    break
                self._offset += len(line.encode())
                if line.startswith("{"):
                    self._seen.append(json.loads(line))
        return [event for event in self._seen if not kinds or event["what"] in kinds]

    def num_done(self, via: str | None = None) -> int:
        """Requests that have ended well, of one gateway or of all."""
        return sum(via in {None, event["via"]} for event in self.told("done"))

    def wait_for_more(self, num_requests: int, *, via: str | None = None, timeout_s: float = 30) -> None:
        """Until so many more requests have ended well."""
        wanted = self.num_done(via) + num_requests
        wait_until(lambda: self.num_done(via) >= wanted, timeout_s=timeout_s, what=f"{wanted} answers")

    def end_load(self) -> None:
        """Send nothing more, and wait until everything that was sent is being answered."""
        self.process.send(signal.SIGUSR1)
        wait_until(lambda: self.told("over"), what="the end of the load")
        last = len(self.told("sent"))
        wait_until(lambda: len(self.told("first", "failed")) >= last, what="the first tokens of all requests")

    def wait_until_answered(self, *, timeout_s: float = 60) -> None:
        """Until every request that has been sent so far has ended."""
        sent = {event["request"] for event in self.told("sent")}

        def are_answered() -> bool:
            return sent <= {event["request"] for event in self.told("done", "failed")}

        wait_until(are_answered, timeout_s=timeout_s, what="all answers")

    def first_words(self, uid: str) -> Obj:
        """What was told of a pod first."""
        return next(event for event in self.told("pod") if event["uid"] == uid)

    def deletions(self) -> dict[str, Obj]:
        """The moment in which each pod was seen to go, by uid."""
        found: dict[str, Obj] = {}
        for event in self.told("pod"):
            if event["deleting"] or event["gone"]:
                found.setdefault(event["uid"], event)
        return found

    def drained(self, worker_id: str, *, uids: Sequence[str]) -> Drained:
        """How the pods of one epoch of a group went, once all of them have been told to go."""
        wait_until(lambda: self.deletions().keys() >= set(uids), what=f"the end of the pods of {worker_id}")
        deleted_at = min(self.deletions()[uid]["at"] for uid in uids)
        views = [
            (event["at"], event["workers"][worker_id])
            for event in self.told("workers")
            if worker_id in event["workers"] and event["at"] <= deleted_at + LATE_S
        ]
        boot = next(view["boot"] for at, view in reversed(views) if at <= deleted_at)
        draining = [(at, view) for at, view in views if view["boot"] == boot and view["draining"]]
        if not draining:
            raise LabError(
                f"the pods of {worker_id} were deleted, and the scheduler never said that it drains"
            )
        asked_at, first = draining[0]
        _, last = draining[-1]
        return Drained(
            worker_id=worker_id,
            asked_at=asked_at,
            idle_at=next((at for at, view in draining if view["in_flight"] == 0), float("inf")),
            deleted_at=deleted_at,
            num_in_flight=first["in_flight"],
            left=last["in_flight"],
            is_acknowledged=last["acknowledged"],
        )


@contextlib.contextmanager
def running_witness(
    lab: Lab, namespace: str, gateways: Sequence[str], *, rate: float, max_tokens: int
) -> Iterator[Witness]:
    """A load on these gateways, and its witness, until the block ends."""
    options = [f"--gateway={address}" for address in gateways]
    process = lab.processes.start(
        "witness",
        [
            *(sys.executable, "-m", "cluster.witness", f"--kubeconfig={lab.direct_kubeconfig}"),
            *(f"--namespace={namespace}", f"--rate={rate}", f"--max-tokens={max_tokens}", *options),
        ],
        env={"PYTHONPATH": str(E2E)},
    )
    witness = Witness(process=process)
    try:
        wait_until(lambda: witness.told("ready"), timeout_s=START_TIMEOUT_S, what="the witness")
        yield witness
    finally:
        lab.processes.end("witness")
        process.log.rename(process.log.with_suffix(f".{process.pid}.ended"))

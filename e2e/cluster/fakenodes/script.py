"""How a scripted pod behaves: the annotation `lab.hortator.dev/script`, a JSON object with the fields below.

    {"ready_after_s": 2, "crash_after_s": 5, "exit_code": 3, "crashes": 2}

Times count from the start of the container (a restarted container starts anew), `start_after_s` from the arrival of
the pod on its node. The script is about the first container; the others start and become ready with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cluster.processes import LabError

ANNOTATION = "lab.hortator.dev/script"
REASONS = (
    "ErrImagePull",  # alternating with ImagePullBackOff, as a kubelet does
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens to a pod, and when."""

    start_after_s: float = 0.0  # ContainerCreating until then
    waiting: str = ""  # one of `REASONS`: the container never starts
    message: str = ""  # of `waiting`; none: as a kubelet words it
    missing_secret: str = ""  # CreateContainerConfigError until the pod is told to go on
    ready_after_s: float | None = 0.1  # None: never
    unready_after_s: float | None = None
    crash_after_s: float | None = None  # 0: at once
    exit_code: int = 1
    crashes: int | None = None  # so many; None: each time
    oom: bool = False  # a crash is OOMKilled, exit code 137
    succeed_after_s: float | None = None  # exit code 0
    back_off_s: float = 10.0  # before the second restart; doubles up to 300 s
    terminate_after_s: float = 0.05  # from the deletion to the end
    never_terminates: bool = False  # not even after the grace period
    lose_node_after_s: float | None = None

    @classmethod
    def parse(cls, document: Mapping[str, Any] | str) -> "Script":
        """From the annotation; an unknown word is an error, not a pod that behaves."""
        values = json.loads(document) if isinstance(document, str) else dict(document)
        known = {entry.name for entry in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise LabError(
                f"script: unknown {', '.join(sorted(unknown))} (allowed: {', '.join(sorted(known))})"
            )
        script = cls(**values)
        if script.waiting and script.waiting not in REASONS:
            raise LabError(f"script: waiting: {script.waiting!r} (allowed: {', '.join(REASONS)})")
        if script.missing_secret and not script.waiting:
            script = replace(script, waiting="CreateContainerConfigError")
        return script

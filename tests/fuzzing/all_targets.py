"""Every boundary that is fuzzed."""

from __future__ import annotations

from fuzzing import file_targets, gateway_targets, scheduler_targets, worker_targets

TARGETS = (
    *scheduler_targets.TARGETS,
    *gateway_targets.TARGETS,
    *worker_targets.TARGETS,
    *file_targets.TARGETS,
)

"""Every boundary that is fuzzed."""

from __future__ import annotations

from fuzzing import (
    client_targets,
    file_targets,
    gateway_targets,
    group_targets,
    operator_targets,
    scheduler_targets,
    worker_targets,
)

TARGETS = (
    *scheduler_targets.TARGETS,
    *gateway_targets.TARGETS,
    *worker_targets.TARGETS,
    *group_targets.TARGETS,
    *operator_targets.TARGETS,
    *client_targets.TARGETS,
    *file_targets.TARGETS,
)

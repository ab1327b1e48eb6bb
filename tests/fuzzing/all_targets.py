"""Every boundary that is fuzzed."""

from __future__ import annotations

from fuzzing import file_targets, scheduler_targets

TARGETS = (*scheduler_targets.TARGETS, *file_targets.TARGETS)

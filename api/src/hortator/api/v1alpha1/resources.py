"""Processor time and memory of a pod."""

from __future__ import annotations

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import Quantity


class ResourcesSpec(Model):
    """What each pod requests; it is given no more memory than that, and more processor time if it is free."""

    cpu: Quantity | None = None
    """Processors: 500m is a half."""
    memory: Quantity | None = None
    """A pod that uses more is killed: reason OOMKilled."""

"""Errors of the worker host. Engine errors are part of the port (`hortator.worker.engine`)."""

from __future__ import annotations


class KvLostError(Exception):
    """The KV of a request cannot be had: its lease is gone, or its worker is. Prefill again."""


class UnknownLeaseError(Exception):
    """No such KV lease here: never granted, released, expired, or of another boot of this worker."""


class EngineConfigError(Exception):
    """The engine's options do not fit; `str()` names the option and what is allowed."""


class GroupBrokenError(Exception):
    """The group of this process is over, or this process may not belong to it; `str()` is one line."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

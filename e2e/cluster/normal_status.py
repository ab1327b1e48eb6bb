"""Pod statuses without what differs from run to run, so that two of them can be compared: pure."""

import re
from typing import Any

ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
NAMESPACE = re.compile(r"test-[0-9a-f]{8}")
ADDRESS = re.compile(r"\b10\.2\d\d\.\d+\.\d+\b")
# The words of a container runtime, not of Kubernetes: their presence counts.
RUNTIME_MESSAGES = (
    "ErrImagePull",
    "RunContainerError",
    "InvalidImageName",
    "StartError",
    "CreateContainerError",
)
IDENTIFIERS = ("containerID", "imageID")


def normalized(status: Any) -> Any:
    """The status with times, ids, addresses and runtime messages replaced by what they are."""
    if isinstance(status, list):
        items = [normalized(item) for item in status]
        return sorted(items, key=lambda item: str(item.get("type", ""))) if _are_conditions(items) else items
    if isinstance(status, dict):
        result = {key: _value(key, value) for key, value in status.items()}
        if "message" in result and result.get("reason") in RUNTIME_MESSAGES:
            result["message"] = "MESSAGE"
        return result
    if isinstance(status, str):
        if TIME.match(status):
            return "TIME"
        return ADDRESS.sub("ADDRESS", NAMESPACE.sub("NAMESPACE", ID.sub("ID", status)))
    return status


def _value(key: str, value: Any) -> Any:
    if key in IDENTIFIERS:
        return "ID" if value else value
    return normalized(value)


def _are_conditions(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and "type" in item for item in items)

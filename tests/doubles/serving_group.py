"""Pods as they are while their group serves."""

from typing import Any

from hortator.operator import names

Obj = dict[str, Any]


def a_pod(statefulset: Obj, index: int, ordinal: int) -> Obj:
    """Member `ordinal`, running and ready, on a node of its own."""
    template = statefulset["spec"]["template"]
    state = {
        "name": names.ENGINE_CONTAINER,
        "ready": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-26T11:00:00Z"}},
    }
    name = statefulset["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{ordinal}",
            "namespace": statefulset["metadata"]["namespace"],
            "uid": f"{index}-{ordinal}",
            "labels": template["metadata"]["labels"],
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "StatefulSet",
                    "name": name,
                    "uid": f"s{index}",
                    "controller": True,
                }
            ],
        },
        "spec": template["spec"] | {"nodeName": f"n{ordinal}"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-26T11:00:00Z"}],
            "containerStatuses": [state],
        },
    }

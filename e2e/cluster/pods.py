"""Small objects for the lab's own tests."""

import json
from collections.abc import Sequence
from typing import Any

from cluster.fakenodes.script import ANNOTATION

Obj = dict[str, Any]


def pod(
    name: str,
    namespace: str,
    *,
    script: Obj | None = None,
    command: Sequence[str] = (),
    image: str = "lab.invalid/model-server:1",
    container: Obj | None = None,
    spec: Obj | None = None,
    labels: Obj | None = None,
) -> Obj:
    """A pod with one container `main`."""
    main: Obj = {"name": "main", "image": image, **({"command": list(command)} if command else {})}
    metadata: Obj = {"name": name, "namespace": namespace, "labels": labels or {}}
    if script is not None:
        metadata["annotations"] = {ANNOTATION: json.dumps(script)}
    body: Obj = {
        "containers": [{**main, **(container or {})}],
        "terminationGracePeriodSeconds": 5,
        **(spec or {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def headless_service(name: str, namespace: str, labels: Obj, port: int) -> Obj:
    """A headless Service that lists pods before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels,
            "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
        },
    }

"""An external metrics API with metrics that a test sets, so that Kubernetes' own autoscaler has something to read.

It is aggregated into the API server by an APIService, as prometheus-adapter is, and goes with it: an APIService that
is left behind would keep every namespace from being deleted.
"""

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from cluster.aggregation import KIND
from cluster.controlplane import Lab
from cluster.kube import Obj

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
SERVICE, NAMESPACE = "lab-metrics", "kube-system"
ROOT = f"/apis/{GROUP}/{VERSION}"


@dataclass(slots=True)
class ExternalMetrics:
    """What the API says now; a metric that is not set is an empty list."""

    values: dict[str, float] = field(default_factory=dict)
    num_asked: int = 0

    def answer(self, path: str) -> Obj:
        """To a GET."""
        if path == ROOT:
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [],
            }
        name = path.rpartition("/")[2]
        self.num_asked += 1
        items = [
            {
                "metricName": name,
                "metricLabels": {},
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": f"{round(value * 1000)}m",
            }
            for metric, value in self.values.items()
            if metric == name
        ]
        return {
            "kind": "ExternalMetricValueList",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {},
            "items": items,
        }


@contextlib.contextmanager
def external_metrics(lab: Lab) -> Iterator[ExternalMetrics]:
    """Served by the lab's API server until the block ends."""
    metrics = ExternalMetrics()
    lab.pki.certify(SERVICE, f"/CN={SERVICE}", server_names=(f"DNS:{SERVICE}.{NAMESPACE}.svc",))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(metrics))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(lab.pki.certificate(SERVICE), lab.pki.key(SERVICE))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="external-metrics", daemon=True)
    thread.start()
    objects = _objects(lab, port=server.server_port)
    for obj in objects:
        lab.direct.create(obj)
    try:
        lab.direct.wait(*KIND, f"{VERSION}.{GROUP}", None, _is_available)
        yield metrics
    finally:
        for obj in reversed(objects):
            lab.direct.delete(obj)
        server.shutdown()
        server.server_close()
        thread.join()


def _objects(lab: Lab, *, port: int) -> list[Obj]:
    """What an installation of a metrics adapter brings: an APIService, and that the autoscaler may read it."""
    rbac, name = "rbac.authorization.k8s.io", f"lab:{SERVICE}"
    reader = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
    return [
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [{"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [reader],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        {
            "apiVersion": KIND[0],
            "kind": KIND[1],
            "metadata": {"name": f"{VERSION}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "version": VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(lab.pki.ca.read_bytes()).decode(),
                "service": {"name": SERVICE, "namespace": NAMESPACE, "port": port},
            },
        },
    ]


def _is_available(registration: Obj | None) -> bool:
    conditions = ((registration or {}).get("status") or {}).get("conditions") or []
    return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)


def _handler(metrics: ExternalMetrics) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps(metrics.answer(urlsplit(self.path).path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class says so
            """Nobody reads it."""

    return Handler

"""The kinds of CRDs as the 1.20 API server serves them: by APIServices that lead to the CRD server.

A current API server serves a kind while its CRD is there. Here an APIService does, so one must come and go with each
CRD, whoever writes that: a test or kubectl. One that is left behind would keep every namespace from being deleted.
"""

import base64
import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster.components import CRD_NAMESPACE, CRD_PORT, CRD_SERVICE
from cluster.kube import ApiError, Kube, Obj
from cluster.proxy.messages import Request
from cluster.proxy.server import CRD_PATH

RETRY_S = 0.1
KIND = ("apiregistration.k8s.io/v1", "APIService")


@dataclass(slots=True, kw_only=True)
class Aggregation:
    """Keeps the APIServices as the CRDs ask, in a thread, after each write of a CRD."""

    kubeconfig: Path
    """By which the CRDs are read."""
    direct_kubeconfig: Path
    authority: Path
    _has_news: threading.Event = field(default_factory=threading.Event)
    _is_over: bool = False
    _made: set[str] = field(default_factory=set)

    def after_write(self, request: Request, status: int) -> None:
        """To be told of every write."""
        if request.path.startswith(CRD_PATH) and status in range(200, 300):
            self._has_news.set()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Until the block ends."""
        thread = threading.Thread(target=self._run, name="aggregation", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over = True
            self._has_news.set()
            thread.join()

    def _run(self) -> None:
        crds, direct = Kube.from_kubeconfig(self.kubeconfig), Kube.from_kubeconfig(self.direct_kubeconfig)
        while self._has_news.wait() and not self._is_over:
            self._has_news.clear()
            is_done = False
            with contextlib.suppress(ApiError, OSError, http.client.HTTPException):
                is_done = self._adjust(crds, direct)
            if not is_done:
                time.sleep(RETRY_S)
                self._has_news.set()
        crds.close()
        direct.close()

    def _adjust(self, crds: Kube, direct: Kube) -> bool:
        """Whether it need not be done again: no CRD is on its way out."""
        found = crds.request("GET", CRD_PATH)["items"]
        wanted = {
            f"{version['name']}.{crd['spec']['group']}": (crd["spec"]["group"], version["name"])
            for crd in found
            for version in crd["spec"]["versions"]
        }
        for name in self._made - wanted.keys():
            direct.delete({"apiVersion": KIND[0], "kind": KIND[1], "metadata": {"name": name}})
            self._made.discard(name)
        for name, (group, version) in wanted.items():
            self._aggregate(direct, name, group, version)
            self._made.add(name)
        return not any("deletionTimestamp" in crd["metadata"] for crd in found)

    def _aggregate(self, direct: Kube, name: str, group: str, version: str) -> None:
        """By create and merge patch: 1.20 panics on a server-side apply of an APIService."""
        service = {"name": CRD_SERVICE, "namespace": CRD_NAMESPACE, "port": CRD_PORT}
        obj: Obj = {
            "apiVersion": KIND[0],
            "kind": KIND[1],
            # the annotation makes the aggregator look again at once
            "metadata": {"name": name, "annotations": {"lab/at": str(time.time())}},
            "spec": {
                "group": group,
                "version": version,
                "groupPriorityMinimum": 1000,
                "versionPriority": 15,
                "caBundle": base64.b64encode(self.authority.read_bytes()).decode(),
                "service": service,
            },
        }
        if direct.get(*KIND, name) is None:
            direct.create(obj)
        else:
            direct.patch(obj, obj)

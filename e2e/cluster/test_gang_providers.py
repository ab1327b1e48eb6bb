"""Gangs that other schedulers see to, as far as their published CRDs go: none of those schedulers runs here.

The API server takes the objects as the schemas of the projects have them, and the operator makes and deletes them.
Who would place Volcano's pods is not there, so they wait; the plugin coscheduling may be in the cluster's own
scheduler, so kube-scheduler is told to place its pods, without the plugin.
"""

import contextlib
import json
from collections.abc import Iterator

import pytest

from cluster.controlplane import Lab
from cluster.fakenodes.client import FakeNodes
from cluster.kube import Obj
from cluster.operators import CRDS, SERVICES, operators_in
from cluster.processes import wait_until
from cluster.scene import is_ready, llmservice, reason
from doubles.kubernetes import published

VOLCANO, COSCHEDULING = "scheduling.volcano.sh/v1beta1", "scheduling.x-k8s.io/v1alpha1"


@contextlib.contextmanager
def published_crd(lab: Lab, name: str) -> Iterator[None]:
    """The CRD of another project, until the block ends."""
    crd = published.crd(name)
    lab.client.create(crd)
    try:
        yield
    finally:
        lab.client.delete(crd)
        lab.client.wait(*CRDS, crd["metadata"]["name"], None, lambda found: found is None)


def gangs(lab: Lab, api_version: str, namespace: str) -> dict[str, Obj]:
    return {one["metadata"]["name"]: one for one in lab.client.list(api_version, "PodGroup", namespace)}


@pytest.mark.timeout(120)
def test_gangs_are_made_as_published_and_go_with_their_groups(
    lab: Lab, eight_nodes: FakeNodes, namespace: str
):
    def found(name: str) -> Obj | None:
        return lab.client.get(*SERVICES, name, namespace)

    def pods(name: str) -> list[Obj]:
        labels = f"app.kubernetes.io/component=engine,serving.hortator.dev/name={name}"
        return lab.client.list("v1", "Pod", namespace, labels=labels)

    served, used = json.dumps([namespace]), json.dumps(["Volcano", "Coscheduling"])
    with operators_in(
        lab, namespace, namespaces=served, gang_providers=used, resync_interval_s="1"
    ) as operators:
        operators.start()
        volcano = {"provider": "Volcano", "queue": "serving"}
        lab.client.create(llmservice("one", namespace, groups=1, placement={"gang": volcano}))
        wait_until(lambda: reason(found("one")) == "GangProviderMissing", what="what is missing is told")
        assert pods("one") == []
        with published_crd(lab, "volcano-podgroups"), published_crd(lab, "coscheduling-podgroups"):
            wait_until(lambda: len(pods("one")) == 2, what="pods in a gang of Volcano", timeout_s=30)
            ((name, gang),) = gangs(lab, VOLCANO, namespace).items()
            assert gang["spec"] == {"minMember": 2, "queue": "serving"}
            for pod in pods("one"):
                assert pod["metadata"]["annotations"]["scheduling.k8s.io/group-name"] == name
                assert pod["spec"]["schedulerName"] == "volcano"
                assert "nodeName" not in pod["spec"]

            own = {"provider": "Coscheduling", "schedulerName": "default-scheduler"}
            lab.client.create(llmservice("two", namespace, placement={"gang": own}))
            wait_until(lambda: is_ready(found("two")), what="groups in gangs of coscheduling", timeout_s=40)
            named = {pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] for pod in pods("two")}
            assert named == gangs(lab, COSCHEDULING, namespace).keys()
            assert len(named) == 2

            service = found("two")
            lab.client.patch(service, {"spec": {"replicas": 0}})
            wait_until(lambda: not gangs(lab, COSCHEDULING, namespace), what="gangs go with their groups")
            lab.client.delete(found("one"))
            wait_until(lambda: not gangs(lab, VOLCANO, namespace), what="gangs go with their service")

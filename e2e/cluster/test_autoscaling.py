"""Kubernetes' own HorizontalPodAutoscaler on the scale subresource of an LLMService."""

from pathlib import Path

import yaml

from cluster.controlplane import Lab
from cluster.external_metrics import external_metrics
from cluster.kube import Obj
from cluster.operators import SERVICES
from cluster.scene import Scene, is_ready

SAMPLE = Path(__file__).resolve().parents[2] / "manifests" / "autoscaling" / "hpa.yaml"
METRIC = "hortator_saturation"
HPA = ("autoscaling/v2beta2", "HorizontalPodAutoscaler")
"""What 1.20 serves of autoscaling/v2, whose fields are the same."""


def sample(namespace: str) -> Obj:
    """For the service `llm`."""
    hpa = yaml.safe_load(SAMPLE.read_text())
    assert hpa["apiVersion"] == "autoscaling/v2"
    hpa["apiVersion"] = HPA[0]
    hpa["metadata"] |= {"name": "llm", "namespace": namespace}
    hpa["spec"]["scaleTargetRef"]["name"] = "llm"
    hpa["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"] = {}
    hpa["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"] = 0
    return hpa


def replicas_owners(service: Obj) -> set[str]:
    """Who has written spec.replicas."""
    return {
        entry["manager"]
        for entry in service["metadata"].get("managedFields", [])
        if "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    }


def test_a_ratio_of_1_2_at_one_role_set_makes_two_of_them(lab: Lab, scene: Scene):
    """A set is two groups of two pods: of four pods in all the selector counts one, else the answer were five."""
    scene.serving(groups=2, nodes=2)
    with external_metrics(lab) as metrics:
        metrics.values[METRIC] = 1.2 * 0.7
        scene.lab.client.create(sample(scene.namespace))
        lab.client.wait(
            *HPA, "llm", scene.namespace, lambda hpa: hpa["status"]["desiredReplicas"], timeout_s=40
        )
        found = scene.until(lambda service: service["spec"]["replicas"] != 1)
        assert found["spec"]["replicas"] == 2
        assert "hortator-operator" not in replicas_owners(found)
        metrics.values[METRIC] = 0.7  # what two sets are asked for now: that is enough
        ready = scene.until(is_ready)
        assert ready["status"]["replicas"] == ready["status"]["readyReplicas"] == 2
        assert ready["status"]["display"]["groups"] == "4/4"
        asked = metrics.num_asked
        hpa = lab.client.wait(
            *HPA, "llm", scene.namespace, lambda _: metrics.num_asked >= asked + 2, timeout_s=50
        )
        assert hpa["status"]["desiredReplicas"] == 2
        conditions = {one["type"]: one["status"] for one in hpa["status"]["conditions"]}
        assert conditions["AbleToScale"] == conditions["ScalingActive"] == "True"
        scale = lab.client.request(
            "GET", f"/apis/{SERVICES[0]}/namespaces/{scene.namespace}/llmservices/llm/scale"
        )
        chosen = lab.client.list("v1", "Pod", scene.namespace, labels=scale["status"]["selector"])
        assert len(chosen) == 2

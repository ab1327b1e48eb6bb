"""Kubernetes' own HorizontalPodAutoscaler on the scale subresources of LLMService and LLMServiceScaler."""

from pathlib import Path

import yaml

from cluster.controlplane import Lab
from cluster.external_metrics import external_metrics
from cluster.kube import Obj
from cluster.operators import SCALERS, SERVICES
from cluster.scene import Scene, epochs, is_ready

SAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "autoscaling"
METRIC, ROLE_METRIC = "hortator_saturation", "hortator_role_saturation"
HPA = ("autoscaling/v2beta2", "HorizontalPodAutoscaler")
"""What 1.20 serves of autoscaling/v2, whose fields are the same."""


def sample(namespace: str, file: str = "hpa.yaml") -> Obj:
    """For the service, or the scaler, `llm`."""
    *_, hpa = yaml.safe_load_all((SAMPLES / file).read_text())
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


def scaler(namespace: str) -> Obj:
    """Of the one role that the services here have."""
    return {
        "apiVersion": SCALERS[0],
        "kind": SCALERS[1],
        "metadata": {"name": "llm", "namespace": namespace},
        "spec": {"serviceName": "llm", "role": "Aggregated"},
    }


def test_a_ratio_of_1_2_at_one_group_of_a_role_makes_two_of_them(lab: Lab, scene: Scene):
    """A group is two pods, of which the scaler's selector counts one."""
    scene.serving(groups=1, nodes=2)
    before = {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")}
    with external_metrics(lab) as metrics:
        metrics.values[ROLE_METRIC] = 1.2 * 0.7
        lab.client.create(scaler(scene.namespace))
        lab.client.create(sample(scene.namespace, "scaler-hpa.yaml"))
        found = lab.client.wait(
            *SCALERS, "llm", scene.namespace, lambda one: one["spec"].get("replicas", 1) != 1, timeout_s=50
        )
        assert found["spec"]["replicas"] == 2
        metrics.values[ROLE_METRIC] = 0.7  # what two groups are asked for now: that is enough
        lab.client.wait(
            *SCALERS, "llm", scene.namespace, lambda one: one["status"]["readyReplicas"] == 2, timeout_s=30
        )
        asked = metrics.num_asked
        hpa = lab.client.wait(
            *HPA, "llm", scene.namespace, lambda _: metrics.num_asked >= asked + 2, timeout_s=50
        )
        assert hpa["status"]["desiredReplicas"] == 2
        conditions = {one["type"]: one["status"] for one in hpa["status"]["conditions"]}
        assert conditions["AbleToScale"] == conditions["ScalingActive"] == "True"
    service = scene.until(is_ready)
    assert service["spec"]["roles"][0]["replicas"] == service["spec"]["replicas"] == 1
    assert before < {pod["metadata"]["uid"] for pod in scene.pods(role="aggregated")}


def test_kubectl_scales_a_role_and_a_role_without_its_scaler_is_as_it_says(lab: Lab, scene: Scene):
    scene.serving(groups=1, nodes=1)
    lab.client.create(scaler(scene.namespace))
    scene.until(lambda service: service["status"]["roles"][0].get("scaler") == "llm")
    scene.kubectl("scale", "llmservicescalers", "llm", "--replicas=3")
    service = scene.until(lambda one: is_ready(one) and one["status"]["display"]["groups"] == "3/3")
    assert (service["metadata"]["generation"], epochs(service)["llm-a-0"]) == (1, 1)
    line = scene.kubectl("get", "llmss", "llm", "--no-headers").split()
    assert line[:6] == ["llm", "llm", "Aggregated", "3", "3", "True"]
    scene.kubectl("delete", "llmss", "llm")
    scene.until(lambda one: is_ready(one) and one["status"]["display"]["groups"] == "1/1")
    assert epochs(scene.get()) == {"llm-a-0": 1}

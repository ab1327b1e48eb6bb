"""The lab's control plane: it comes up, keeps namespaces apart, serves a CRD with CEL, and adapts what 1.20 lacks."""

import time

import pytest

from cluster.controlplane import running_lab
from cluster.kube import ApiError

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.lab.hortator.dev}
spec:
  group: lab.hortator.dev
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {low: {type: integer, default: 1}, high: {type: integer, default: 2}}
            x-kubernetes-validations: [{rule: "self.low <= self.high", message: "low must not be above high"}]
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


@pytest.fixture(scope="session")
def widgets(control_plane, tmp_path_factory):
    path = tmp_path_factory.mktemp("crd") / "crd.yaml"
    path.write_text(CRD)
    control_plane.apply_crd(path)
    return "lab.hortator.dev/v1"


def test_a_second_lab_is_up_within_30_seconds_beside_the_first(lab):
    started_at = time.monotonic()
    with running_lab() as other:
        assert time.monotonic() - started_at < 30
        with other.namespace("only-there"):
            assert other.client.get("v1", "Namespace", "only-there") is not None
    assert lab.client.get("v1", "Namespace", "only-there") is None


def test_cel_refuses_at_the_main_endpoint_with_its_message(control_plane, widgets, namespace):
    metadata = {"name": "good", "namespace": namespace}
    widget = {"apiVersion": widgets, "kind": "Widget", "metadata": metadata, "spec": {"low": 3, "high": 3}}
    assert control_plane.client.create(widget)["spec"] == {"low": 3, "high": 3}
    bad = {**widget, "metadata": {"name": "bad", "namespace": namespace}, "spec": {"low": 4, "high": 3}}
    with pytest.raises(ApiError, match="low must not be above high") as refused:
        control_plane.client.create(bad)
    assert refused.value.status == 422


def test_a_crd_is_listed_and_applied_where_everything_else_is(lab, widgets):
    assert "widgets.lab.hortator.dev" in lab.kubectl("get", "crd", "-o", "name").stdout
    assert lab.client.request("GET", f"/apis/{widgets}")["resources"][0]["name"] == "widgets"


def test_kubectl_applies_a_crd_with_cel_and_the_crd_server_validates_its_fields(lab, widgets):
    lab.kubectl("apply", "-f", "-", stdin=CRD)
    wrong = CRD.replace("scope: Namespaced", "scope: Namespaced\n  nonsense: 1")
    refused = lab.kubectl("apply", "-f", "-", stdin=wrong, check=False)
    assert refused.returncode != 0
    assert 'unknown field "spec.nonsense"' in refused.stderr


def test_a_budget_of_policy_v1_with_new_fields_is_kept_by_the_old_server(lab, namespace):
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "group-0", "namespace": namespace},
        "spec": {
            "maxUnavailable": 0,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"a": "b"}},
        },
    }
    applied = lab.client.apply(budget)
    assert applied["apiVersion"] == "policy/v1"
    assert applied["spec"]["maxUnavailable"] == 0
    assert lab.client.list("policy/v1", "PodDisruptionBudget", namespace)
    assert lab.direct.get("policy/v1beta1", "PodDisruptionBudget", "group-0", namespace) is not None
    assert "group-0" in lab.kubectl("get", "pdb", "-n", namespace).stdout


def test_fields_that_the_old_server_lacks_do_not_fail_a_server_side_apply(lab, namespace):
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": namespace},
        "spec": {"internalTrafficPolicy": "Local", "ports": [{"port": 80}], "selector": {"a": "b"}},
    }
    assert lab.client.apply(service)["spec"]["ports"][0]["protocol"] == "TCP"
    with pytest.raises(ApiError, match="not declared in schema"):  # what happens without the proxy
        lab.direct.apply(service)


def test_kubectl_applies_a_manifest_of_several_kinds(control_plane, namespace):
    manifest = f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: one, namespace: {namespace}}}
data: {{a: b}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: two, namespace: {namespace}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{a: b}}}}
  template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: x}}]}}}}
"""
    control_plane.kubectl("apply", "-f", "-", stdin=manifest)
    assert control_plane.client.get("apps/v1", "Deployment", "two", namespace) is not None

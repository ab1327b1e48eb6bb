"""What the lab drops for Kubernetes 1.20, and nothing else."""

import json

from cluster import adaptation


def stateful_set(**pod_spec):
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"template": {"spec": pod_spec}}}


def test_fields_that_1_20_lacks_are_dropped_wherever_the_pod_spec_is():
    containers = [{"name": "a", "readinessProbe": {"grpc": {"port": 1}, "periodSeconds": 3}}]
    given = stateful_set(containers=containers, schedulingGates=[{"name": "g"}], nodeName="n")
    adapted = adaptation.adapted_object(given)
    expected = [{"name": "a", "readinessProbe": {"periodSeconds": 3}}]
    assert adapted == stateful_set(containers=expected, nodeName="n")
    assert "schedulingGates" in given["spec"]["template"]["spec"]  # a copy


def test_an_object_that_1_20_takes_is_not_touched():
    body = json.dumps(stateful_set(containers=[{"name": "a", "image": "x"}]), indent=1).encode()
    assert adaptation.body_to_server(body) is body


def test_a_service_port_gets_the_protocol_that_1_20_needs():
    service = {"kind": "Service", "spec": {"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}}
    ports = adaptation.adapted_object(service)["spec"]["ports"]
    assert [port["protocol"] for port in ports] == ["TCP", "UDP"]


def test_policy_v1_is_asked_of_v1beta1_and_answered_as_v1():
    assert adaptation.to_server("/apis/policy/v1/namespaces/a/poddisruptionbudgets?x=1") == (
        "/apis/policy/v1beta1/namespaces/a/poddisruptionbudgets?x=1"
    )
    assert adaptation.to_server("/apis/policy/v1beta1/x") == "/apis/policy/v1beta1/x"
    assert adaptation.to_server("/apis/policyholder/v1") == "/apis/policyholder/v1"
    answer = b'{"apiVersion":"policy/v1beta1","kind":"PodDisruptionBudget"}'
    assert json.loads(adaptation.body_to_client("/apis/policy/v1/x", answer))["apiVersion"] == "policy/v1"
    assert adaptation.body_to_client("/apis/policy/v1beta1/x", answer) == answer


def test_discovery_lists_policy_v1_as_preferred():
    old = {"groupVersion": "policy/v1beta1", "version": "v1beta1"}
    groups = {"groups": [{"name": "apps", "versions": []}, {"name": "policy", "versions": [old]}]}
    found = json.loads(adaptation.body_to_client("/apis", json.dumps(groups).encode()))["groups"]
    assert found[0] == {"name": "apps", "versions": []}
    assert [version["version"] for version in found[1]["versions"]] == ["v1", "v1beta1"]
    assert found[1]["preferredVersion"]["version"] == "v1"

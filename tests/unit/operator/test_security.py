"""Certificates and API keys in pods: whose Secret is mounted where, and that settings name what is mounted."""

import pytest

from hortator.gateway.settings import ClientAuth, GatewaySettings
from hortator.operator.execution import schedulers_of
from hortator.operator.revision import revision_hash
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.worker.settings import WorkerSettings

SETTINGS = {"gateway": GatewaySettings, "scheduler": SchedulerProcessSettings, "worker": WorkerSettings}
KEYS = {"spec.security.apiKeysSecretRef": {"name": "my-keys"}}


def pods_of(wanted):
    """Pod specs by component."""
    deployments = {
        obj["metadata"]["labels"]["app.kubernetes.io/component"]: obj["spec"]["template"]["spec"]
        for obj in wanted.objects()
        if obj["kind"] == "Deployment"
    }
    group = wanted.groups[0].statefulset(epoch=1, replicas=1, annotations={})
    return {**deployments, "worker": group["spec"]["template"]["spec"]}


def secret_volumes(pod):
    """Secret by folder in the container."""
    secrets = {one["name"]: one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
    mounts = pod["containers"][0]["volumeMounts"]
    return {mount["mountPath"]: secrets[mount["name"]] for mount in mounts if mount["name"] in secrets}


def settings(monkeypatch, component, pod):
    """What the process in the pod reads."""
    with monkeypatch.context() as patch:
        for entry in pod["containers"][0]["env"]:
            if "value" in entry and entry["name"].startswith("HORTATOR_"):
                patch.setenv(entry["name"], entry["value"].replace("@@DRAIN_TIMEOUT_S@@", "1"))
        return SETTINGS[component].load()


def test_a_fence_changes_no_pod_and_is_not_there_unless_it_is_asked_for(sample, changed, wanted):
    plain = wanted(sample("h800-16"))
    fenced = wanted(changed(sample("h800-16"), {"spec.security.networkPolicy": {}}))
    assert pods_of(fenced) == pods_of(plain)
    assert [group.revision for group in fenced.groups] == [group.revision for group in plain.groups]
    kinds = [[obj["kind"] for obj in one.objects()].count("NetworkPolicy") for one in (plain, fenced)]
    assert kinds == [0, 3]


@pytest.mark.parametrize("component", SETTINGS)
def test_every_component_has_the_certificate_of_its_own_and_no_other(
    sample, changed, wanted, monkeypatch, component
):
    pod = pods_of(wanted(changed(sample("simulated-64"), {"spec.security.tls": {}})))[component]
    volumes = secret_volumes(pod)
    assert volumes["/etc/hortator/tls"] == f"{sample('simulated-64').metadata.name}-{component}-tls"
    assert len([name for name in volumes.values() if name.endswith("-tls")]) == 1
    tls = settings(monkeypatch, component, pod).tls
    assert (tls.cert_file, tls.key_file, tls.ca_file) == (
        "/etc/hortator/tls/tls.crt",
        "/etc/hortator/tls/tls.key",
        "/etc/hortator/tls/ca.crt",
    )


@pytest.mark.parametrize("component", SETTINGS)
def test_without_tls_no_pod_has_a_certificate(sample, wanted, monkeypatch, component):
    pod = pods_of(wanted(sample("simulated-64")))[component]
    assert "/etc/hortator/tls" not in secret_volumes(pod)
    assert not settings(monkeypatch, component, pod).tls.is_on


def test_secrets_of_another_prefix(sample, changed, wanted):
    service = changed(sample("simulated-64"), {"spec.security.tls": {"secretPrefix": "shared"}})
    assert (
        secret_volumes(pods_of(wanted(service))["scheduler"])["/etc/hortator/tls"] == "shared-scheduler-tls"
    )


def test_gateways_alone_ask_clients_for_what_the_service_wants(sample, changed, wanted, monkeypatch):
    asking = {"spec.security.tls": {}, "spec.security.clientAuth": "Certificate"} | KEYS
    pods = pods_of(wanted(changed(sample("simulated-64"), asking)))
    read = settings(monkeypatch, "gateway", pods["gateway"])
    assert read.client_auth is ClientAuth.CERTIFICATE
    assert read.api_keys_file == "/etc/hortator/api-keys/keys.yaml"
    assert secret_volumes(pods["gateway"])["/etc/hortator/api-keys"] == "my-keys"
    for component in ("scheduler", "worker"):
        assert "my-keys" not in secret_volumes(pods[component]).values()


def test_the_entry_of_the_secret_has_any_name(sample, changed, wanted):
    keys = {"spec.security.apiKeysSecretRef": {"name": "my-keys", "key": "clients"}}
    pod = pods_of(wanted(changed(sample("simulated-64"), keys)))["gateway"]
    (volume,) = (one["secret"] for one in pod["volumes"] if one["name"] == "api-keys")
    assert volume["items"] == [{"key": "clients", "path": "keys.yaml"}]


def test_certificates_make_a_revision_and_clients_keys_do_not(sample, changed):
    plain = sample("simulated-64")
    hashes = [
        revision_hash(service, service.spec.roles[0])
        for service in (
            plain,
            changed(plain, KEYS),
            changed(plain, {"spec.security": {}}),
            changed(plain, {"spec.security.tls": {}}),
            changed(plain, {"spec.security.tls": {"secretPrefix": "other"}}),
        )
    ]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 3


def test_the_service_that_clients_dial_says_what_it_speaks(sample, changed, wanted):
    for values, protocol in (({}, "kubernetes.io/h2c"), ({"spec.security.tls": {}}, "https")):
        (service,) = (
            obj
            for obj in wanted(changed(sample("simulated-64"), values)).objects()
            if obj["kind"] == "Service" and obj["metadata"]["name"].endswith("-gateway")
        )
        assert [port["appProtocol"] for port in service["spec"]["ports"]] == [protocol]


def test_a_scheduler_is_asked_as_its_pod_speaks(sample, changed, wanted):
    """Not as the LLMService says: that may have changed a moment ago."""
    for values, identity in (({}, None), ({"spec.security.tls": {}}, "scheduler of default/simulated-64")):
        service = changed(sample("simulated-64"), values | {"metadata.name": "simulated-64"})
        (deployment,) = (
            obj
            for obj in wanted(service).objects()
            if obj["kind"] == "Deployment" and obj["metadata"]["name"].endswith("-scheduler")
        )
        template = deployment["spec"]["template"]
        pod = {
            "kind": "Pod",
            "metadata": {**template["metadata"], "namespace": "default", "name": "a"},
            "spec": template["spec"],
            "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
        }
        (found,) = schedulers_of([pod])
        assert found.address == "10.0.0.7:7070"
        assert (None if found.identity is None else str(found.identity)) == identity


def test_who_makes_the_certificates_makes_no_revision(sample, changed):
    """Secrets have the same names whoever makes them, so no group moves."""
    made = {"issuer": "Operator", "hosts": ["llm.example.com"]}
    hashes = {
        revision_hash(service, service.spec.roles[0])
        for service in (changed(sample("simulated-64"), {"spec.security.tls": tls}) for tls in ({}, made))
    }
    assert len(hashes) == 1

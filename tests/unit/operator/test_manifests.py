"""The objects that an LLMService becomes, and the rules that every one of them keeps."""

import json

import pytest

from hortator.gateway.settings import GatewaySettings
from hortator.operator import names, topology
from hortator.operator.accepted import is_record
from hortator.operator.manifests import engine as engine_manifest
from hortator.operator.manifests import pods
from hortator.operator.manifests.engine import IDENTITY_KEY
from hortator.operator.manifests.group import with_token
from hortator.operator.options import Images, Options
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.worker.engine_factory import read_options
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.settings import WorkerSettings

NAMES = ("h800-16", "h800-64", "local", "simulated-64")
ADMITTED = {"epoch": 3, "replicas": 2, "annotations": {}}


def by_kind(wanted, kind):
    return [obj for obj in wanted.objects() if obj["kind"] == kind]


def pod_templates(wanted):
    """(owner, template) of everything that makes pods."""
    return [
        (f"{obj['kind']} {obj['metadata']['name']}", obj["spec"]["template"])
        for obj in wanted.objects()
        if obj["kind"] in {"StatefulSet", "Deployment", "Job"}
    ]


def containers(wanted):
    return [(owner, one) for owner, pod in pod_templates(wanted) for one in pod["spec"]["containers"]]


def environment(template):
    """Variables with a literal value."""
    return {
        entry["name"]: entry["value"]
        for entry in template["spec"]["containers"][0]["env"]
        if "value" in entry
    }


def engine_pod(wanted, index=0):
    return wanted.groups[index].statefulset(**ADMITTED)["spec"]["template"]


@pytest.fixture(params=NAMES)
def everything(request, sample, wanted, changed):
    """Each sample with a cache and standbys, so that every kind of object is there."""
    service = changed(
        sample(request.param),
        {
            "spec.gateway.replicas": 2,
            "spec.model.cache": {"create": {"size": "1Ti"}},
            "spec.security.networkPolicy": {},
        },
    )
    return wanted(service)


def test_every_object_is_a_labelled_child_of_the_service(everything):
    for obj in everything.objects():
        metadata = obj["metadata"]
        assert metadata["labels"].items() >= names.service_labels(everything.owner.name).items()
        assert metadata["namespace"] == "default"
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("uid-1", True, False)


def test_no_two_objects_have_one_name(everything):
    found = [(obj["kind"], obj["metadata"]["name"]) for obj in everything.objects()]
    assert len(set(found)) == len(found)


def test_every_object_is_json(everything):
    objects = list(everything.objects())
    assert json.loads(json.dumps(objects)) == objects


def test_no_mark_is_left_in_a_statefulset(everything):
    for obj in by_kind(everything, "StatefulSet"):
        assert "@@" not in json.dumps(obj)


def test_every_pod_passes_the_restricted_security_standard(everything):
    for owner, template in pod_templates(everything):
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"], owner
        assert context["runAsUser"] >= 10_000, owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not spec["automountServiceAccountToken"], owner
        assert not spec.get("hostNetwork"), owner
        assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} <= {
            "emptyDir",
            "secret",
            "persistentVolumeClaim",
        }
        for container in spec["containers"]:
            mine = container["securityContext"]
            assert not mine["allowPrivilegeEscalation"], owner
            assert mine["readOnlyRootFilesystem"], owner
            assert mine["capabilities"] == {"drop": ["ALL"]} | _locking(container), owner


def _locking(container):
    """RDMA needs locked memory, and that alone is more than the standard allows."""
    uses_rdma = any(name.startswith("rdma/") for name in container["resources"]["limits"])
    return {"add": ["IPC_LOCK"]} if uses_rdma else {}


def test_every_mount_has_its_volume_and_every_volume_its_mount(everything):
    for owner, template in pod_templates(everything):
        volumes = [volume["name"] for volume in template["spec"]["volumes"]]
        mounts = [mount["name"] for one in template["spec"]["containers"] for mount in one["volumeMounts"]]
        assert sorted(volumes) == sorted(mounts), owner


def test_every_container_requests_and_limits_memory(everything):
    for owner, container in containers(everything):
        resources = container["resources"]
        assert resources["requests"]["cpu"], owner
        assert resources["requests"]["memory"] == resources["limits"]["memory"], owner


def test_no_variable_is_set_twice(everything):
    for owner, container in containers(everything):
        found = [entry["name"] for entry in container["env"]]
        assert len(set(found)) == len(found), owner


def test_every_service_port_sets_its_protocol_and_aims_at_a_named_port(everything):
    ports = {port["name"] for _, one in containers(everything) for port in one.get("ports", [])}
    for service in by_kind(everything, "Service"):
        for port in service["spec"]["ports"]:
            assert port["protocol"] == "TCP"
            assert port["targetPort"] in ports


def test_every_selector_selects_the_pods_of_its_own_template_only(everything):
    templates = dict(pod_templates(everything))
    for obj in everything.objects():
        if obj["kind"] not in {"StatefulSet", "Deployment", "PodDisruptionBudget", "Service"}:
            continue
        selector = obj["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        chosen = [
            owner
            for owner, template in templates.items()
            if wanted.items() <= template["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1, obj["metadata"]["name"]
        assert chosen[0].endswith(obj["metadata"]["name"])


def test_processes_are_probed_on_their_admin_port(everything):
    for owner, container in containers(everything):
        if owner.startswith("Job"):
            continue
        paths = {
            kind: container[kind]["httpGet"]["path"]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        assert paths == {
            "startupProbe": "/readyz",
            "readinessProbe": "/readyz",
            "livenessProbe": "/healthz",
        }
        assert {"name": "admin", "containerPort": 9090, "protocol": "TCP"} in container["ports"]


def test_a_group_starts_at_once_and_is_never_updated_by_itself(sample, wanted):
    group = wanted(sample("simulated-64")).groups[0]
    made = group.statefulset(epoch=1, replicas=0, annotations={})
    admitted = group.statefulset(**ADMITTED)
    assert made["spec"]["replicas"] == 0
    spec = admitted["spec"]
    assert (spec["replicas"], spec["podManagementPolicy"]) == (2, "Parallel")
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["serviceName"] == group.service["metadata"]["name"]
    assert group.service["spec"]["publishNotReadyAddresses"]
    assert group.service["spec"]["clusterIP"] == "None"


def test_the_epoch_is_a_label_of_the_pod_template_only(sample, wanted):
    obj = wanted(sample("simulated-64")).groups[0].statefulset(**ADMITTED)
    assert obj["spec"]["template"]["metadata"]["labels"][names.LABEL_EPOCH] == "3"
    assert names.LABEL_EPOCH not in obj["metadata"]["labels"]
    assert names.LABEL_EPOCH not in obj["spec"]["selector"]["matchLabels"]


def test_annotations_are_those_given(sample, wanted):
    group = wanted(sample("simulated-64")).groups[0]
    obj = group.statefulset(epoch=1, replicas=2, annotations={names.ANNOTATION_RESTARTS: "[]"})
    assert obj["metadata"]["annotations"] == {names.ANNOTATION_RESTARTS: "[]"}


def test_a_domain_binds_all_members_to_a_node_label(sample, wanted, changed):
    service = changed(sample("simulated-64"), {"spec.roles.0.nodeSelector": {"pool": "a"}})
    group = wanted(service).groups[0]
    bound = group.statefulset(**ADMITTED, domain=("rack", "r1"))["spec"]["template"]["spec"]
    assert bound["nodeSelector"] == {"pool": "a", "rack": "r1"}
    assert group.statefulset(**ADMITTED)["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "a"}


def test_a_budget_is_closed_or_open_for_the_whole_group(sample, wanted):
    group = wanted(sample("simulated-64")).group("Decode", 0)
    assert [group.pdb(is_open=is_open)["spec"]["maxUnavailable"] for is_open in (False, True)] == [0, 4]
    assert group.pdb(is_open=False)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_an_identity_gets_its_content_at_its_creation(sample, wanted):
    secret = wanted(sample("simulated-64")).groups[0].identity
    assert not {"data", "stringData"} & secret.keys()
    assert with_token(secret, "t0k3n")["stringData"] == {"token": "t0k3n"}
    assert "stringData" not in secret


@pytest.mark.parametrize("nodes", [1, 2])
def test_one_pod_per_role_set_is_the_scale_unit(sample, changed, wanted, nodes):
    """The pods that a template labels, and those that the operator labels itself, are one per role set."""
    service = changed(
        sample("simulated-64"),
        {
            "spec.replicas": 3,
            "spec.roles.0.nodes": nodes,
            "spec.roles.0.gpusPerNode": 16 // nodes,
        },
    )
    groups = wanted(service).groups
    units = [group for group in groups if group.scale_unit_pod]
    assert [group.role_set for group in units] == [0, 1, 2]
    assert tuple(group.scale_unit_pod for group in units) == topology.scale_unit_pods(service)
    labelled = [
        group.name
        for group in groups
        if names.LABEL_SCALE_UNIT in group.statefulset(**ADMITTED)["spec"]["template"]["metadata"]["labels"]
    ]
    assert labelled == ([group.name for group in units] if nodes == 1 else [])


def test_a_role_without_groups_is_no_scale_unit(sample, changed, wanted):
    service = changed(sample("simulated-64"), {"spec.roles.0.replicas": 0, "spec.replicas": 2})
    assert topology.scale_unit_pods(service) == ("simulated-d-0-0", "simulated-d-1-0")


def test_a_suspended_service_wants_the_same(sample, changed, wanted):
    service = sample("simulated-64")
    suspended = wanted(changed(service, {"spec.suspend": True}))
    assert [obj for obj in suspended.objects() if not is_record(obj)] == [
        obj for obj in wanted(service).objects() if not is_record(obj)
    ]


def test_only_backends_on_gpus_request_them(sample, wanted):
    for name, limits in (
        (
            "h800-64",
            {"memory": "512Gi", "nvidia.com/gpu": "8", "rdma/hca_shared_devices_a": "1"},
        ),
        ("simulated-64", {"memory": "512Mi"}),
        ("local", {"memory": "1536Mi"}),
    ):
        container = engine_pod(wanted(sample(name)))["spec"]["containers"][0]
        assert container["resources"]["limits"] == limits


def test_members_on_gpus_are_on_nodes_of_their_own(sample, changed, wanted):
    affinity = engine_pod(wanted(sample("h800-16")))["spec"]["affinity"]
    (term,) = affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"] == names.group_selector("deepseek-v3", "Aggregated", 0)
    on_cpus = engine_pod(wanted(sample("simulated-64")))["spec"]["affinity"]["podAntiAffinity"]
    assert list(on_cpus) == ["preferredDuringSchedulingIgnoredDuringExecution"]


@pytest.mark.parametrize("mode", ["Required", "Preferred"])
def test_members_keep_to_one_topology_domain(sample, changed, wanted, mode):
    service = changed(sample("simulated-64"), {"spec.placement": {"topologyKey": "rack", "mode": mode}})
    affinity = engine_pod(wanted(service), index=1)["spec"]["affinity"]["podAffinity"]
    if mode == "Required":
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    else:
        (weighted,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        term = weighted["podAffinityTerm"]
    assert term["topologyKey"] == "rack"
    assert term["labelSelector"]["matchLabels"] == names.group_selector("simulated", "Prefill", 1)


def test_a_group_of_one_needs_no_affinity(sample, wanted):
    assert "affinity" not in engine_pod(wanted(sample("local")))["spec"]


def test_what_a_role_says_of_its_pods_is_in_them(sample, changed, wanted):
    service = changed(
        sample("simulated-64"),
        {
            "spec.roles.0.shmSize": "1Gi",
            "spec.roles.0.resources": {"cpu": "3", "memory": "2Gi"},
            "spec.roles.0.tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "spec.roles.0.priorityClassName": "high",
            "spec.roles.0.runtimeClassName": "nvidia",
            "spec.roles.0.startupTimeout": "10m",
            "spec.engine.image": "mine:1",
            "spec.engine.imagePullPolicy": "Never",
            "spec.engine.imagePullSecrets": [{"name": "regcred"}],
            "spec.engine.env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "HOME", "value": "/root"}],
            "spec.drain.timeout": "30s",
        },
    )
    template = engine_pod(wanted(service))
    spec, container = template["spec"], template["spec"]["containers"][0]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in spec["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert container["resources"] == {
        "requests": {"cpu": "3", "memory": "2Gi"},
        "limits": {"memory": "2Gi"},
    }
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("high", "nvidia")
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 600 + pods.STARTUP_MARGIN_S
    assert (container["image"], container["imagePullPolicy"]) == ("mine:1", "Never")
    assert spec["imagePullSecrets"] == [{"name": "regcred"}]
    assert spec["terminationGracePeriodSeconds"] == 30 + pods.TERMINATION_MARGIN_S
    found = environment(template)
    assert found["NCCL_DEBUG"] == "INFO"
    assert found["HOME"] == "/tmp"  # what Hortator sets wins
    assert found["HORTATOR_WORKER_DRAIN_TIMEOUT_S"] == "30"
    assert found["HORTATOR_WORKER_STARTUP_TIMEOUT_S"] == "600.0"


def test_a_pod_knows_itself_by_its_own_fields(sample, wanted):
    env = engine_pod(wanted(sample("simulated-64")))["spec"]["containers"][0]["env"]
    fields = {
        entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"]
        for entry in env
        if "fieldRef" in entry.get("valueFrom", {})
    }
    assert fields == {
        "HORTATOR_WORKER_ADVERTISE_HOST": "status.podIP",
        "HORTATOR_WORKER_POD_NAME": "metadata.name",
        "HORTATOR_WORKER_POD_UID": "metadata.uid",
        "HORTATOR_WORKER_NODE_NAME": "spec.nodeName",
        "HORTATOR_WORKER_EPOCH": "metadata.labels['serving.hortator.dev/epoch']",
    }


def test_processes_find_each_other_by_service_names(sample, wanted):
    result = wanted(sample("simulated-64"))
    found = environment(engine_pod(result, index=2))
    assert found["HORTATOR_WORKER_WORKER_ID"] == "decode-0"
    assert found["HORTATOR_WORKER_LEADER_ADDRESS"] == "simulated-d-0-0.simulated-d-0.default.svc:7072"
    assert json.loads(found["HORTATOR_WORKER_SCHEDULER_ADDRESSES"]) == [
        "simulated-scheduler.default.svc:7070"
    ]


def test_a_cluster_domain_is_appended_to_every_host_name(sample, wanted):
    options = Options(images=Images.of_version("1.2.3"), cluster_domain="cluster.local")
    found = environment(engine_pod(wanted(sample("simulated-64"), options=options)))
    assert found["HORTATOR_WORKER_LEADER_ADDRESS"].endswith("simulated-p-0.default.svc.cluster.local:7072")
    assert (
        "simulated-scheduler.default.svc.cluster.local:7070" in found["HORTATOR_WORKER_SCHEDULER_ADDRESSES"]
    )


def test_pods_that_share_a_host_listen_on_their_own_address(sample, wanted):
    options = Options(images=Images.of_version("1.2.3"), listen="PodIP")
    for owner, container in containers(wanted(sample("simulated-64"), options=options)):
        found = [entry for entry in container["env"] if entry["name"].endswith("HOST")]
        hosts = [entry for entry in found if not entry["name"].endswith("ADVERTISE_HOST")]
        assert len(hosts) == 2, owner
        assert all(entry["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP" for entry in hosts)


@pytest.mark.parametrize("replicas", [1, 3])
def test_as_many_schedulers_run_as_are_asked_for_and_a_new_one_comes_before_an_old_one_goes(
    sample, changed, wanted, replicas
):
    result = wanted(changed(sample("simulated-64"), {"spec.scheduler.replicas": replicas}))
    deployments = {obj["metadata"]["name"]: obj["spec"] for obj in by_kind(result, "Deployment")}
    spec = deployments["simulated-scheduler"]
    assert spec["replicas"] == replicas
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert environment(spec["template"])["HORTATOR_SCHEDULER_STANDBY"] == "true"
    spread = spec["template"]["spec"].get("topologySpreadConstraints", [])
    assert [one["labelSelector"] for one in spread] == [spec["selector"]] * (replicas > 1)
    budgets = [one["spec"] for one in by_kind(result, "PodDisruptionBudget")]
    of_scheduler = [one for one in budgets if one["selector"] == spec["selector"]]
    assert [one["maxUnavailable"] for one in of_scheduler] == [1] * (replicas > 1)


def test_a_namespace_is_that_of_the_service(sample, changed, wanted):
    result = wanted(changed(sample("simulated-64"), {"metadata.namespace": "llm"}))
    assert {obj["metadata"]["namespace"] for obj in result.objects()} == {"llm"}
    assert ".llm.svc:" in environment(engine_pod(result))["HORTATOR_WORKER_LEADER_ADDRESS"]


def settings_of(settings_type, template, monkeypatch, **of_pod):
    """What the process makes of its variables; `of_pod` are the values of those that the pod's fields have."""
    for name, value in (environment(template) | of_pod).items():
        if name.startswith(settings_type.model_config["env_prefix"]):
            monkeypatch.setenv(name, value)
    return settings_type.load()


def test_the_scheduler_accepts_its_variables(sample, changed, wanted, monkeypatch):
    service = changed(
        sample("simulated-64"), {"spec.scheduler.interval": "10ms", "spec.scheduler.policy": "fixed-batch"}
    )
    scheduler = by_kind(wanted(service), "Deployment")[0]["spec"]["template"]
    settings = settings_of(SchedulerProcessSettings, scheduler, monkeypatch)
    core = settings.core_settings()
    assert (settings.port, settings.admin_port) == (7070, 9090)
    assert (core.policy, core.interval_s, core.max_hold_s, core.max_waiting_requests) == (
        "fixed-batch",
        0.01,
        2.0,
        10_000,
    )


def test_the_gateway_accepts_its_variables(sample, wanted, monkeypatch):
    gateway = by_kind(wanted(sample("local")), "Deployment")[1]["spec"]["template"]
    settings = settings_of(GatewaySettings, gateway, monkeypatch)
    assert (settings.port, settings.admin_port, settings.model) == (8080, 9090, "moe-shakespeare")
    assert settings.scheduler_addresses == ("local-scheduler.default.svc:7070",)
    assert settings.tokenizer == "/opt/hortator/models/moe-shakespeare/tokenizer.json"
    assert settings.max_sequence_tokens == 1024


@pytest.mark.parametrize(
    ("name", "config"),
    [("simulated-64", SimulatedConfig), ("local", TorchMoEConfig)],
    ids=["simulated-64", "torch"],
)
def test_the_worker_accepts_its_variables(sample, wanted, monkeypatch, name, config):
    of_pod = {"HORTATOR_WORKER_POD_NAME": "x-p-0-0", "HORTATOR_WORKER_EPOCH": "3"}
    settings = settings_of(WorkerSettings, engine_pod(wanted(sample(name))), monkeypatch, **of_pod)
    assert (settings.worker_id, settings.phase.value, settings.port) == ("prefill-0", "prefill", 7071)
    assert settings.drain_timeout_s == 120
    place = settings.group_place()
    assert (place.worker_id, place.ordinal, place.epoch) == ("prefill-0", 0, 3)
    assert place.group_size == sample(name).spec.roles[0].nodes
    assert settings.join_port == 7072
    options = read_options(config, settings.engine_options)
    assert options.dp_size == sample(name).spec.roles[0].parallelism.attention_dp


def test_tensorrt_llm_is_told_its_split_in_its_own_words(sample, wanted):
    found = environment(engine_pod(wanted(sample("h800-64")), index=2))
    options = json.loads(found["HORTATOR_WORKER_ENGINE_OPTIONS"])
    assert found["HORTATOR_WORKER_ENGINE"] == "tensorrt_llm"
    assert (options["tensor_parallel_size"], options["moe_expert_parallel_size"]) == (32, 32)
    assert options["enable_attention_dp"] is True
    assert options["max_num_tokens"] == 8192


def test_members_of_a_group_over_several_pods_can_be_reached_for_the_start_of_ranks(sample, wanted):
    template = engine_pod(wanted(sample("h800-16")))
    container, found = template["spec"]["containers"][0], environment(template)
    names_in_order = [entry["name"] for entry in container["env"]]
    assert found["HORTATOR_WORKER_SSH_HOST"] == ("$(HORTATOR_WORKER_POD_NAME).deepseek-v3-a-0.default.svc")
    # Kubernetes fills in what stands before
    assert names_in_order.index("HORTATOR_WORKER_POD_NAME") < names_in_order.index("HORTATOR_WORKER_SSH_HOST")
    assert {"name": "ssh", "containerPort": 2222, "protocol": "TCP"} in container["ports"]
    folder = next(one["mountPath"] for one in container["volumeMounts"] if one["name"] == "identity")
    assert found["HORTATOR_WORKER_IDENTITY_FILE"] == f"{folder}/{IDENTITY_KEY}"
    assert not any("OMPI_" in name for name in names_in_order)  # the worker itself is no MPI process


def test_a_group_of_one_pod_has_no_door(sample, wanted, changed):
    role = {"spec.roles.0.nodes": 1, "spec.roles.0.parallelism": {"attentionDP": 8, "expert": 8}}
    template = engine_pod(wanted(changed(sample("h800-16"), role)))
    assert "HORTATOR_WORKER_SSH_HOST" not in environment(template)
    assert "ssh" not in [port["name"] for port in template["spec"]["containers"][0]["ports"]]


def test_rdma_ports_are_requested_and_let_the_container_lock_memory(sample, wanted, changed):
    service = changed(sample("h800-16"), {"spec.roles.0.rdmaResources": {"rdma/hca_shared_devices_a": 1}})
    container = engine_pod(wanted(service))["spec"]["containers"][0]
    assert container["resources"]["limits"]["rdma/hca_shared_devices_a"] == "1"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}


def test_engines_on_cpus_request_no_rdma_ports(sample, wanted, changed):
    service = changed(sample("simulated-64"), {"spec.roles.0.rdmaResources": {"rdma/a": 1}})
    container = engine_pod(wanted(service))["spec"]["containers"][0]
    assert "rdma/a" not in container["resources"]["limits"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_made_cache_is_filled_by_a_job_and_read_by_engines(sample, changed, wanted):
    service = changed(
        sample("h800-16"),
        {
            "spec.model.revision": "abc/1",
            "spec.model.authSecretRef": {"name": "hf"},
            "spec.model.cache": {"create": {"size": "1Ti", "storageClassName": "fast"}},
            "spec.engine.env": [{"name": "HF_ENDPOINT", "value": "https://mirror.example"}],
        },
    )
    result = wanted(service)
    (claim,) = by_kind(result, "PersistentVolumeClaim")
    assert claim["metadata"]["name"] == "deepseek-v3-cache"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["storageClassName"] == "fast"
    job = result.prefetch["spec"]["template"]["spec"]["containers"][0]
    target = "/models/deepseek-ai--DeepSeek-V3@abc--1"
    assert job["command"] == [
        "hf",
        "download",
        "deepseek-ai/DeepSeek-V3",
        "--local-dir",
        target,
        "--revision",
        "abc/1",
    ]
    assert not job["volumeMounts"][-1]["readOnly"]
    pod = engine_pod(result)["spec"]["containers"][0]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in pod["volumeMounts"]
    assert json.loads(environment(engine_pod(result))["HORTATOR_WORKER_ENGINE_OPTIONS"])["model"] == target
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}}
    mirror = {"name": "HF_ENDPOINT", "value": "https://mirror.example"}
    for container in (job, pod):
        assert secret in container["env"]
        assert mirror in container["env"]


def test_a_job_for_another_download_has_another_label(sample, changed, wanted):
    first = changed(sample("h800-16"), {"spec.model.cache": {"claimName": "weights"}})
    second = changed(first, {"spec.model.revision": "abc"})
    labels = [wanted(service).prefetch["metadata"]["labels"] for service in (first, second)]
    assert labels[0][names.LABEL_REVISION] != labels[1][names.LABEL_REVISION]


def test_a_cache_without_prefetch_is_filled_by_engines(sample, changed, wanted):
    service = changed(sample("h800-16"), {"spec.model.cache": {"claimName": "weights", "prefetch": False}})
    result = wanted(service)
    assert result.prefetch is None
    assert not by_kind(result, "PersistentVolumeClaim")
    assert not engine_pod(result)["spec"]["containers"][0]["volumeMounts"][-1]["readOnly"]


def test_weights_on_a_given_claim_are_read_there(sample, changed, wanted):
    result = wanted(changed(sample("h800-16"), {"spec.model.uri": "pvc://weights/v3"}))
    pod = engine_pod(result)
    assert {"name": "models", "persistentVolumeClaim": {"claimName": "weights"}} in pod["spec"]["volumes"]
    assert json.loads(environment(pod)["HORTATOR_WORKER_ENGINE_OPTIONS"])["model"] == "/models/v3"


def test_the_mark_of_a_frozen_template_is_no_text_of_a_manifest(sample, changed, wanted):
    """A value that looks like a template of another kind stays as it is."""
    service = changed(
        sample("simulated-64"), {"spec.engine.env": [{"name": "A", "value": "{GROUP} $(B) %s"}]}
    )
    assert environment(engine_pod(wanted(service)))["A"] == "{GROUP} $(B) %s"
    assert engine_manifest.GROUP_NAME.startswith("@@")

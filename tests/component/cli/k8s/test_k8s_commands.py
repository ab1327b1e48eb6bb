"""`hortator k8s ...` over HTTP against an API server."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from hortator.cli.errors import EXIT_UNAVAILABLE, EXIT_USAGE, CommandError
from hortator.cli.k8s import change, doctor, explain, logs, status
from hortator.cli.k8s.options import ClusterOptions
from hortator.operator import names

SERVICE = ("serving.hortator.dev/v1alpha1", "LLMService", "default", "demo")

A_STATUS = {
    "observedGeneration": 1,
    "display": {"groups": "1/3", "ranks": "16/64", "updated": "3/3"},
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "InsufficientGPU",
            "message": "group demo-d-0 needs 4 nodes with 8 free nvidia.com/gpu, 3 have them",
            "lastTransitionTime": "2026-11-25T10:00:00Z",
            "observedGeneration": 1,
        },
        {
            "type": "Suspended",
            "status": "False",
            "reason": "NotSuspended",
            "message": "",
            "lastTransitionTime": "2026-11-25T10:00:00Z",
            "observedGeneration": 1,
        },
    ],
    "groups": [
        {
            "name": "demo-p-0",
            "role": "Prefill",
            "index": 0,
            "workerId": "prefill-0",
            "epoch": 3,
            "phase": "Ready",
            "inFlight": 7,
            "restarts": 2,
            "members": [
                {
                    "index": 0,
                    "pod": "demo-p-0-0",
                    "node": "n1",
                    "ready": True,
                    "ranks": "0-7",
                    "bootId": "3-ab",
                },
                {"index": 1, "pod": "demo-p-0-1", "node": "n2", "ready": True, "ranks": "8-15"},
            ],
        },
        {
            "name": "demo-d-0",
            "role": "Decode",
            "index": 0,
            "workerId": "decode-0",
            "epoch": 1,
            "phase": "Waiting",
            "reason": "InsufficientGPU",
            "message": "decode-0: 3 of 4 nodes found",
            "members": [{"index": 0, "pod": "demo-d-0-0", "waitingReason": "ImagePullBackOff"}],
        },
    ],
    "roles": [
        {"name": "Prefill", "desired": 2},
        {"name": "Decode", "desired": 1, "scaler": "demo-decode"},
    ],
    "avoidedNodes": [{"node": "n9", "failures": 2, "until": "2026-11-26T11:00:00Z"}],
    "endpoints": [{"name": "grpc", "url": "demo-gateway.default.svc:8080"}],
}


async def refused(awaitable) -> CommandError:
    with pytest.raises(CommandError) as caught:
        await awaitable
    return caught.value


async def test_status_shows_conditions_groups_members_ranks_and_what_is_in_flight(a_service, here, capsys):
    a_service(status=A_STATUS)
    await status.run(here, name="demo", as_json=False)
    out = capsys.readouterr().out
    assert (
        "default/demo: deepseek-v3, ready False (InsufficientGPU); groups 1/3, ranks 16/64, updated 3/3"
        in out
    )
    for line in ("prefill-0  Ready    3      7          2  ", "demo-p-0-1  n2    8-15   yes", "ImagePullBackOff",
                 "n9: avoided until 2026-11-26T11:00:00Z, 2 failures on it", "3 of 4 nodes found", "grpc: demo-gateway.default.svc:8080",
                 "Decode: groups by LLMServiceScaler demo-decode, not by replicas of the role"):  # fmt: skip
        assert line in out, out


async def test_status_as_json_is_the_status(a_service, here, capsys):
    a_service(status=A_STATUS)
    await status.run(here, name=None, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "demo"
    assert document["status"] == A_STATUS


async def test_without_a_name_all_of_several_services_are_listed(a_service, here, capsys):
    a_service("one", status=A_STATUS)
    a_service("two")
    await status.run(here, name=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["one", "False", "InsufficientGPU"],
        ["two", "Unknown", "deepseek-v3"],
    ]


async def test_a_service_without_a_status_points_at_the_operator(a_service, here, capsys):
    a_service()
    await status.run(here, name="demo", as_json=False)
    assert "no status yet: is the operator running? (hortator k8s doctor)" in capsys.readouterr().out


async def test_an_unknown_service_gets_near_names_or_the_right_namespace(a_service, here):
    a_service("deepseek")
    a_service("llama", namespace="prod")
    error = await refused(status.run(here, name="deepseak", as_json=False))
    assert str(error) == "no LLMService deepseak in namespace default (did you mean deepseek?)"
    error = await refused(status.run(here, name="llama", as_json=False))
    assert str(error) == "no LLMService llama in namespace default (there is one in prod: add --namespace)"
    assert error.exit_code == EXIT_USAGE


async def test_the_namespace_is_that_of_the_context_unless_told(a_service, kubeconfig, capsys):
    a_service("llama", namespace="prod")
    await status.run(ClusterOptions(kubeconfig=kubeconfig, context="prod"), name="llama", as_json=False)
    await status.run(ClusterOptions(kubeconfig=kubeconfig, namespace="prod"), name="llama", as_json=False)
    assert capsys.readouterr().out.count("prod/llama") == 2
    error = await refused(
        status.run(ClusterOptions(kubeconfig=kubeconfig, context="prdo"), name="llama", as_json=False)
    )
    assert "--context prdo" in str(error)


async def test_a_restart_sets_the_field_that_the_operator_looks_at_and_nothing_else(
    api, a_service, here, capsys
):
    before = a_service(status=A_STATUS)
    assert await change.restart(here, name="demo", wait_s=None, as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    after = api.get(SERVICE)
    assert after["spec"]["restart"].pop("requestedAt") == said["requestedAt"]
    if not after["spec"]["restart"]:
        del after["spec"]["restart"]
    assert after["spec"] == before["spec"]
    age_s = (datetime.now(UTC) - datetime.fromisoformat(said["requestedAt"])).total_seconds()
    assert 0 <= age_s < 5


async def test_a_restart_can_be_waited_for(api, a_service, here, capsys):
    a_service(status=A_STATUS)
    assert await change.restart(here, name="demo", wait_s=0, as_json=False) == 1
    assert "not done after 0 s (hortator k8s explain demo)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("in_flight", "told"),
    [({"inFlight": 7}, " (7 in flight)"), ({"inFlight": 0}, " (0 in flight)"), ({}, "")],
)
async def test_a_drain_annotates_the_statefulset_of_the_group(api, a_service, here, capsys, in_flight, told):
    """What is in flight is told where it is known, and no number is made up where it is not."""
    first, *others = A_STATUS["groups"]
    known = {key: value for key, value in first.items() if key != "inFlight"} | in_flight
    a_service(status=A_STATUS | {"groups": [known, *others]})
    key = ("apps/v1", "StatefulSet", "default", "demo-p-0")
    template = {
        "metadata": {"labels": {"a": "b", names.LABEL_EPOCH: "3"}},
        "spec": {"containers": [{"name": "engine", "image": "i"}]},
    }
    spec = {"selector": {"matchLabels": {"a": "b"}}, "serviceName": "demo-p-0", "template": template}
    metadata = {"namespace": "default", "name": "demo-p-0"}
    api.create({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec})
    assert await change.drain(here, name="demo", group="prefill-0", wait_s=None, as_json=False) == 0
    assert capsys.readouterr().out == f"demo-p-0: drains{told}, then starts anew with epoch 4\n"
    assert api.get(key)["metadata"]["annotations"] == {names.ANNOTATION_DRAIN_REQUESTED: "3"}
    error = await refused(change.drain(here, name="demo", group="prefill-9", wait_s=None, as_json=False))
    assert str(error) == "group prefill-9: demo has no such group (allowed: prefill-0, decode-0)"


async def test_explain_names_what_the_operator_would_name_without_the_operator(api, a_service, here, capsys):
    a_service()
    await explain.run(here, name="demo", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("demo is not ready: ")
    assert "(0 of 3 groups ready)" in lines[0]
    assert any(line.startswith("  group demo-p-0 (prefill-0, epoch 0): ") for line in lines)
    assert any(line.strip().startswith("fix: ") for line in lines)


async def test_explain_counts_the_groups_that_a_scaler_says(api, a_service, here, capsys):
    a_service()
    said = {"serviceName": "demo", "role": "Decode", "replicas": 3}
    scaler = {"apiVersion": SERVICE[0], "kind": "LLMServiceScaler", "spec": said}
    api.create(scaler | {"metadata": {"name": "decode", "namespace": "default"}})
    await explain.run(here, name="demo", as_json=False)
    assert "(0 of 5 groups ready)" in capsys.readouterr().out


async def test_explain_of_an_object_that_breaks_a_rule_names_the_field(api, a_service, here, capsys):
    service = a_service()
    api.patch(
        SERVICE,
        {"spec": {"roles": [service["spec"]["roles"][0] | {"nodes": 3}, service["spec"]["roles"][1]]}},
    )
    await explain.run(here, name="demo", as_json=True)
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert lines[0] == "demo is not accepted: InvalidSpec"
    assert "spec.roles[0]" in lines[1]


def a_member(api, name, *, is_ready=False, component=names.COMPONENT_ENGINE):
    labels = {names.LABEL_SERVICE: "demo", names.LABEL_COMPONENT: component}
    metadata = {"namespace": "default", "name": name, "labels": labels}
    spec = {"containers": [{"name": "engine", "image": "i"}]}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    running = {"name": "engine", "state": {"running": {"startedAt": "2026-11-25T10:00:00Z"}}}
    ready = {"type": "Ready", "status": "True" if is_ready else "False"}
    status = {"phase": "Running", "containerStatuses": [running], "conditions": [ready]}
    api.patch(("v1", "Pod", "default", name), {"status": status}, subresource="status")


async def test_explain_says_whom_a_group_waits_for_that_is_starting(api, front, a_service, here, capsys):
    """Ordinal 0 knows which rank has not taken part; the API server only that its pods are not ready."""
    a_service()
    for name in ("demo-d-0-0", "demo-d-0-1", "demo-p-0-0", "demo-p-1-0"):
        a_member(api, name, is_ready=name == "demo-p-1-0")
    a_member(api, "demo-gateway-0", component=names.COMPONENT_GATEWAY)
    hung = "the engine is starting: rank 9 on demo-d-0-1 has said nothing in the 60 s since being started"
    line = json.dumps({"waits_for": hung, "event": "still starting"})
    older = json.dumps({"waits_for": "ranks are being started", "event": "still starting"})
    noise = "[1,3]<stdout>: NCCL INFO still starting\n{still starting\n"
    front.logs = {
        "demo-d-0-0": f"{older}\n{line}\n{noise}",
        "demo-d-0-1": line,  # no host of an engine
        "demo-p-0-0": noise,  # has said nothing yet
        "demo-p-1-0": line,  # is ready
        "demo-gateway-0": line,
    }
    await explain.run(here, name="demo", as_json=False)
    said = [one for one in capsys.readouterr().out.splitlines() if " says: " in one]
    assert said == [f"  pod demo-d-0-0 says: {hung}"]
    front.logs = {}  # one may not read it, or it is gone: the rest is said all the same
    await explain.run(here, name="demo", as_json=False)
    assert "demo is not ready" in capsys.readouterr().out


async def test_logs_finds_the_pod_of_a_rank(front, a_service, here, capsysbinary):
    a_service()
    front.logs = {"demo-d-0-2": "rank 17 speaks\n", "demo-p-1-0": "host of prefill-1\n"}
    for wanted in (logs.Wanted(group="decode-0", rank=17), logs.Wanted(group="demo-p-1")):
        await logs.run(here, name="demo", wanted=wanted, follow=False, previous=True, tail=5)
    assert capsysbinary.readouterr().out == b"rank 17 speaks\nhost of prefill-1\n"
    assert front.log_queries[0] == {
        "container": "engine",
        "follow": "false",
        "previous": "true",
        "tailLines": "5",
    }


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (logs.Wanted(), "which group? (allowed: prefill-0, prefill-1, decode-0)"),
        (logs.Wanted(group="decode-7"), "--group: got decode-7 (allowed: prefill-0, prefill-1, decode-0)"),
        (logs.Wanted(group="decode-0", rank=32), "--rank: got 32 (allowed for decode-0: 0 to 31)"),
        (
            logs.Wanted(group="prefill-0", member=2),
            "--member: got 2 (allowed: 0 (ranks 0-7), 1 (ranks 8-15))",
        ),
        (logs.Wanted(component="cache"), "--component: got cache (allowed: scheduler, gateway)"),
        (logs.Wanted(component="gateway"), "no gateway pod yet (hortator k8s explain says why)"),
        (logs.Wanted(group="prefill-0"), 'read the log of pod demo-p-0-0: pods "demo-p-0-0" not found'),
    ],
)
async def test_logs_says_what_there_is(a_service, here, wanted, message):
    a_service()
    error = await refused(logs.run(here, name="demo", wanted=wanted, follow=False, previous=False, tail=None))
    assert str(error) == message


async def test_a_cluster_that_does_not_answer_is_one_line(front, kubeconfig, here):
    await front.__aexit__(None, None, None)
    error = await refused(status.run(here, name="demo", as_json=False))
    assert error.exit_code == EXIT_UNAVAILABLE
    assert len(error.lines) == 1
    assert f"the API server at {front.url} does not answer" in str(error)


async def test_no_cluster_at_all_is_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    error = await refused(status.run(ClusterOptions(), name="demo", as_json=False))
    assert error.exit_code == EXIT_UNAVAILABLE
    assert "no Kubernetes API server: set KUBECONFIG" in str(error)


async def test_a_missing_permission_is_one_line(front, a_service, here):
    from doubles.kubernetes.api import ApiError

    a_service()
    said = 'llmservices.serving.hortator.dev "demo" is forbidden: User "eve" cannot get resource'
    front.fail = lambda method, path: ApiError(403, "Forbidden", said) if "llmservices/" in path else None
    error = await refused(status.run(here, name="demo", as_json=False))
    assert str(error).startswith("no permission: ")
    assert said in str(error)
    assert "hortator k8s doctor" in str(error)


def a_lease(*, renewed: datetime, namespace="hortator-system"):
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": "hortator-operator"},
        "spec": {
            "holderIdentity": "op-1",
            "leaseDurationSeconds": 15,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        },
    }


def a_node(name, *, ready=True, gpus="8"):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {
            "allocatable": {"nvidia.com/gpu": gpus},
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


async def diagnosis(options, capsys, **arguments) -> tuple[int, dict[str, list[dict]]]:
    exit_code = await doctor.run(options, operator_namespace=None, as_json=True, **arguments)
    checks = {}
    for check in json.loads(capsys.readouterr().out):
        checks.setdefault(check["name"], []).append(check)
    return exit_code, checks


async def test_doctor_finds_a_fit_cluster_fit(api, front, here, capsys):
    for name in ("n1", "n2"):
        api.create(a_node(name))
    api.create(a_lease(renewed=datetime.now(UTC)))
    exit_code, checks = await diagnosis(here, capsys)
    assert exit_code == 0
    assert {check["verdict"] for found in checks.values() for check in found} == {"ok"}
    assert checks["GPUs"][0]["found"] == "16 nvidia.com/gpu on 2 nodes"
    assert [check["found"].split()[1] for check in checks["CRD"]] == ["LLMService", "LLMServiceScaler"]
    assert checks["operator"][0]["found"] == "op-1 leads in namespace hortator-system"


async def test_doctor_names_what_is_wrong_and_the_fix(api, front, here, capsys):
    api.create(a_node("n1", gpus="0"))
    api.create(a_node("n2", ready=False))
    api.create(a_lease(renewed=datetime.now(UTC) - timedelta(minutes=10)))
    front.forbidden = {"patch llmservices"}
    exit_code, checks = await diagnosis(here, capsys)
    assert exit_code == 1
    assert (
        checks["permissions"][0]["found"] == "you may not patch llmservices.serving.hortator.dev in default"
    )
    assert checks["nodes"][0] == {
        "name": "nodes", "verdict": "warning", "found": "1 of 2 ready, not: n2", "fix": "kubectl describe node",
    }  # fmt: skip
    assert checks["GPUs"][0]["verdict"] == "warning"
    assert checks["operator"][0]["verdict"] == "failed"
    assert "; op-1 was last heard 60" in checks["operator"][0]["found"]


async def test_doctor_without_an_operator_says_how_to_install_it(here, capsys):
    exit_code, checks = await diagnosis(here, capsys)
    assert exit_code == 1
    assert checks["operator"][0]["fix"] == "kubectl apply -f manifests/install.yaml"
    assert checks["nodes"][0]["verdict"] == "failed"


def test_it_is_a_plugin_of_kubectl_and_its_help_teaches():
    code = "from hortator.cli.k8s.app import kubectl_main; kubectl_main()"
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=30, check=False
    )
    assert shown.returncode == 0
    assert "kubectl hortator" in shown.stdout
    for command in ("status", "explain", "drain", "restart", "logs", "doctor"):
        assert command in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "-c", code, "status", "--kubeconfig", "/nonexistent"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert wrong.returncode == EXIT_UNAVAILABLE
    assert wrong.stderr == "kubectl hortator: --kubeconfig /nonexistent: no such file\n"

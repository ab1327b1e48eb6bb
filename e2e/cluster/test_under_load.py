"""Real processes in pods on four nodes, a real operator, and a client that notices nothing.

The tests share one service and go through its life in order: it comes up, is scaled, moved, restarted, loses
processes, and is suspended. The engine is the modelled one; requests are few, so that two cores can take them.
"""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from cluster.fakenodes.client import running_fake_nodes
from cluster.kube import Obj, is_ready
from cluster.operators import operators_in
from cluster.processes import wait_until
from cluster.results import record
from cluster.scene import group
from cluster.served import GATEWAY_PORT, Served, condition, is_complete
from cluster.witnesses import Witness

pytestmark = pytest.mark.timeout(200)

NAME = "moe"
MAX_TOKENS = 40
DRAINS: list[Obj] = []
"""What is known of each removal, for the record."""
LOAD = {"rate": 5.0, "max_tokens": MAX_TOKENS}
SERVICE = f"""
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {{name: {NAME}}}
spec:
  model: {{uri: "hf://deepseek-ai/DeepSeek-V3", name: deepseek-v3}}
  engine: {{backend: Simulated, simulated: {{preset: deepseek-h800, timeScale: 2.0}}}}
  topology: Aggregated
  replicas: 3
  roles:
  - name: Aggregated
    nodes: 2
    gpusPerNode: 8
    parallelism: {{attentionDP: 16, expert: 16}}
  scheduler: {{replicas: 1}}
  gateway: {{replicas: 2}}
  drain: {{timeout: 60s}}
"""


@pytest.fixture(scope="module")
def served(lab, tmp_path_factory) -> Iterator[Served]:
    manifest = tmp_path_factory.mktemp("under-load") / "service.yaml"
    manifest.write_text(SERVICE)
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(lab.namespace("under-load"))
        operators = stack.enter_context(operators_in(lab, namespace))
        nodes = stack.enter_context(running_fake_nodes(lab, 4, mode="process"))
        operator = operators.start()
        began_at = time.monotonic()
        lab.kubectl("apply", "--validate=false", "-n", namespace, "-f", str(manifest))
        served = Served(lab=lab, nodes=nodes, operator=operator, namespace=namespace, name=NAME)
        try:
            served.wait(is_complete, what="three groups", timeout_s=120)
            print(f"up after {time.monotonic() - began_at:.1f} s")
            yield served
        finally:
            print(operator.process.log.read_text()[-6000:])


def assert_all_answered(witness: Witness) -> int:
    """Every request has every token once; how many requests."""
    witness.wait_until_answered()
    assert witness.told("failed") == []
    done = witness.told("done")
    assert len(done) == len(witness.told("sent"))
    assert {event["num_tokens"] for event in done} == {MAX_TOKENS}
    return len(done)


def assert_drained(served: Served, witness: Witness, group: int, uids: list[str]) -> int:
    """The pods went when nothing was in flight in their group; how much was when it was asked to drain."""
    drained = witness.drained(f"aggregated-{group}", uids=uids)
    print(
        f"{drained.worker_id}: {drained.num_in_flight} in flight when asked, idle after "
        f"{drained.idle_at - drained.asked_at:.1f} s, pods told to go {drained.deleted_at - drained.idle_at:.2f} s later"
    )
    assert drained.is_acknowledged
    assert drained.left == 0
    DRAINS.append(
        {
            "group": drained.worker_id,
            "in_flight_when_asked": drained.num_in_flight,
            "idle_after_s": round(drained.idle_at - drained.asked_at, 2),
            "deleted_after_idle_s": round(drained.deleted_at - drained.idle_at, 3),
        }
    )
    leader = next(uid for uid in uids if witness.first_words(uid)["name"].endswith("-0"))

    def words() -> list[Obj]:
        return served.logs(f"{NAME}-a-{group}-0", leader)

    def stopping() -> list[int]:
        return [line["num_live"] for line in words() if line.get("event") == "stopping"]

    wait_until(stopping, what=f"the leader of group {group} is told to stop")
    assert stopping() == [0]
    assert [line for line in words() if line.get("event") == "forced stop"] == []
    return drained.num_in_flight


def test_tokens_stream_through_the_gateways(served):
    lines = served.hortator(
        "generate", "Arma virumque cano", "--endpoint", served.front(), "--json", "--max-tokens", "16"
    )
    events = [json.loads(line) for line in lines.splitlines()]
    deltas = [event["delta"] for event in events if "delta" in event]
    assert len(deltas) > 1
    assert [d["token_index"] + len(d["token_ids"]) for d in deltas[:-1]] == [
        d["token_index"] for d in deltas[1:]
    ]
    assert events[-1]["completion"]["num_output_tokens"] == 16


def test_no_request_fails_when_groups_go_on_purpose(served):
    with served.loaded(*served.gateways(), **LOAD) as witness:
        uids = served.members(2)
        served.change({"replicas": 2})
        served.wait(is_complete, what="two groups")
        wait_until(lambda: not served.members(2), what="the third group is gone")
        assert assert_drained(served, witness, 2, uids) > 0

        a_node_is_drained(served, witness)

        uids, epoch = served.members(0), served.epoch(0)
        served.hortator("k8s", "drain", NAME, "aggregated-0", "-n", served.namespace, "--wait", "50")
        assert served.epoch(0) == epoch + 1
        assert assert_drained(served, witness, 0, uids) > 0

        uids_of = {g: served.members(g) for g in (0, 1)}
        served.hortator("k8s", "restart", NAME, "-n", served.namespace, "--wait", "90", timeout_s=100)
        for g in (0, 1):
            assert assert_drained(served, witness, g, uids_of[g]) > 0
        witness.end_load()
        num_requests = assert_all_answered(witness)
        num_failed = len(witness.told("failed"))
    record(
        "planned-removals",
        settings={"nodes": 4, "mode": "process", "rate_per_s": LOAD["rate"], "max_tokens": MAX_TOKENS},
        targets={"failed_requests": "0", "in_flight_at_deletion": "0"},
        figures={
            "requests": num_requests,
            "failed_requests": num_failed,
            "in_flight_at_deletion": 0,
            "drains": DRAINS,
        },
    )


def a_node_is_drained(served, witness):
    """By `kubectl drain`, whose evictions are refused until the operator has drained the group."""
    [node, *_] = sorted(served.nodes_of(1) - served.nodes_of(0) or served.nodes_of(1))
    moved = [g for g in (1, 0) if node in served.nodes_of(g)]  # in the order in which they have to go
    uids_of = {g: served.members(g) for g in moved}
    epochs = {g: served.epoch(g) for g in moved}
    began_at = time.monotonic()
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s"]
    options += ["--pod-selector=app.kubernetes.io/component=engine"]
    served.lab.kubectl("drain", node, *options)
    served.wait(
        lambda service: is_complete(service) and all(served.epoch(g) > epochs[g] for g in moved),
        what="the groups have moved",
        timeout_s=90,
    )
    for g in moved:
        assert node not in served.nodes_of(g)
        assert served.epoch(g) == epochs[g] + 1
        assert assert_drained(served, witness, g, uids_of[g]) > 0
    names = {witness.first_words(uid)["name"] for g in moved for uid in uids_of[g]}
    answers: dict[str, list[int]] = {}
    for one in served.lab.proxy.faults.passed(since=began_at, writes=True):
        *_, pod, last = one.target.partition("?")[0].split("/")
        if last == "eviction" and pod in names:  # (a pod of the third group may not have ended yet)
            answers.setdefault(pod, []).append(one.status)
    print(f"evictions on {node}: {answers}")
    assert len(answers) >= len(moved)
    for statuses in answers.values():
        assert statuses[0] == 429
        assert set(statuses[:-1]) == {429}
        assert statuses[-1] in {201, 404}  # accepted, or gone when kubectl asks again
    served.lab.kubectl("uncordon", node)


def test_no_request_fails_when_the_service_is_rolled_and_taken_back(served):
    """Another setting of the engine makes another revision: one group after the other, there and back again."""
    with served.loaded(served.front(), **LOAD) as witness:
        there = rolled(served, witness, lambda: served.change({"engine": {"simulated": {"timeScale": 2.5}}}))
        history = served.hortator("k8s", "rollout", "history", NAME, "-n", served.namespace)
        assert "timeScale" in history
        back = rolled(served, witness, lambda: undo(served))
        witness.end_load()
        num_requests = assert_all_answered(witness)
    assert back == there
    assert served.get()["spec"]["engine"]["simulated"]["timeScale"] == 2.0
    print(f"{num_requests} requests; the groups moved in the order {there}")


def rolled(served, witness, change) -> list[int]:
    """Change something and wait until all groups have moved, never two at a time; the order in which they did."""
    epochs, uids_of = ({g: of(g) for g in (0, 1)} for of in (served.epoch, served.members))
    moved: list[int] = []

    def is_rolled(service) -> bool:
        away = [g for g in (0, 1) if group(service, g).get("phase") != "Ready"]
        assert len(away) <= 1, f"groups {away} are away together"
        for g in (0, 1):
            if g not in moved and served.epoch(g) > epochs[g]:
                moved.append(g)
        return is_complete(service) and len(moved) == 2

    change()
    served.wait(is_rolled, what="both groups have moved", timeout_s=120)
    for g in (0, 1):
        assert served.epoch(g) == epochs[g] + 1
        assert not set(uids_of[g]) & set(served.members(g))
        assert_drained(served, witness, g, uids_of[g])
    return moved


def undo(served) -> None:
    served.hortator("k8s", "rollout", "undo", NAME, "-n", served.namespace)


def test_no_request_fails_when_processes_are_killed(served):
    [other] = [pod for pod in served.pods("gateway") if pod["metadata"]["name"] != served.gateway()]
    beside = f"{other['status']['podIP']}:{GATEWAY_PORT}"
    with served.loaded(served.front(), beside, **LOAD) as witness:
        a_member_is_killed(served, witness, group=0, ordinal=1)
        a_member_is_killed(served, witness, group=1, ordinal=0)  # where the engine runs
        the_scheduler_is_killed(served, witness)
        a_gateway_is_replaced(served, witness)
        served.nodes.signal(served.namespace, served.gateway(but=other), "SIGKILL")
        witness.wait_for_more(15, via=beside)
        witness.end_load()
        witness.wait_until_answered()
        assert witness.told("failed") == []  # clients of the gateway that died came back at another
        done = witness.told("done")
    moved = sum(event["num_replacements"] > 0 for event in done)
    assert moved > 0
    print(f"{len(done)} requests, {len(done) * MAX_TOKENS} tokens, {moved} requests placed again")


def a_member_is_killed(served, witness, *, group, ordinal):
    epochs, uids = {g: served.epoch(g) for g in (0, 1)}, served.members(group)
    killed_at = time.monotonic()
    served.nodes.signal(served.namespace, f"{NAME}-a-{group}-{ordinal}", "SIGKILL")
    served.wait(lambda service: condition(service).get("status") != "True", what="the group is missed")
    served.wait(is_complete, what="the group is back")
    back_after_s = time.monotonic() - killed_at
    assert {g: served.epoch(g) for g in (0, 1)} == epochs | {group: epochs[group] + 1}
    assert not set(uids) & set(served.members(group))
    meanwhile = [event for event in witness.told("done") if event["at"] > killed_at]
    witness.wait_until_answered()  # a request that meets two deaths would be quarantined, and rightly so
    print(
        f"member {ordinal} killed: {len(meanwhile)} answers until the group was back, after {back_after_s:.1f} s"
    )


def the_scheduler_is_killed(served, witness):
    [before] = served.pods("scheduler")
    killed_at = time.monotonic()
    served.nodes.signal(served.namespace, before["metadata"]["name"], "SIGKILL")
    served.lab.client.delete(before, grace_s=0)

    def is_back() -> bool:
        return any(
            is_ready(pod) and pod["metadata"]["uid"] != before["metadata"]["uid"]
            for pod in served.pods("scheduler")
        )

    wait_until(is_back, what="another scheduler")
    back_after_s = time.monotonic() - killed_at
    [after] = served.pods("scheduler")
    assert after["status"]["podIP"] != before["status"]["podIP"]
    meanwhile = [event for event in witness.told("first") if event["at"] > killed_at]
    witness.wait_for_more(20)
    served.wait(is_complete, what="the service is ready with the new scheduler")
    print(
        f"the scheduler killed: {len(meanwhile)} requests began without one; another after {back_after_s:.1f} s"
    )


def a_gateway_is_replaced(served, witness):
    name = served.gateway()
    [pod] = [pod for pod in served.pods("gateway") if pod["metadata"]["name"] == name]
    told_at = time.monotonic()
    served.lab.client.delete(pod)
    wait_until(
        lambda: served.lab.client.get("v1", "Pod", name, served.namespace) is None,
        what="the gateway has gone",
    )
    wait_until(lambda: len(served.gateways()) == 2, what="another gateway")
    witness.wait_for_more(10)
    print(f"a gateway replaced in {time.monotonic() - told_at:.1f} s")


def test_requests_are_answered_while_a_group_is_stalled(served):
    served.change({"restart": {"policy": "None"}})
    with served.loaded(served.front(), **LOAD) as witness:
        served.nodes.signal(served.namespace, f"{NAME}-a-1-1", "SIGKILL")
        stalled = served.wait(
            lambda service: condition(service, "Stalled").get("status") == "True", what="group 1 is stalled"
        )
        assert (group(stalled, 1)["phase"], group(stalled, 0)["phase"]) == ("Stalled", "Ready")
        assert condition(stalled)["status"] == "False"
        assert condition(stalled, "Available")["status"] == "True"
        witness.wait_until_answered()  # what was under way in the group that died, too
        witness.wait_for_more(20)
        assert group(served.get(), 1)["phase"] == "Stalled"
        served.change({"restart": {"policy": "Group", "requestedAt": "2026-01-02T03:04:05Z"}})
        served.wait(is_complete, what="the group is back", timeout_s=90)
        witness.end_load()
        assert_all_answered(witness)


def test_a_suspended_service_finishes_what_it_has_begun(served):
    with served.loaded(served.front(), **LOAD) as witness:
        uids_of = {g: served.members(g) for g in (0, 1)}
        witness.end_load()
        served.change({"suspend": True})
        served.wait(lambda service: condition(service, "Suspended").get("status") == "True", what="suspended")
        assert served.pods("engine") == []
        assert sum(assert_drained(served, witness, g, uids_of[g]) for g in (0, 1)) > 0
        num_requests = assert_all_answered(witness)
    print(f"{num_requests} requests, {num_requests * MAX_TOKENS} tokens")

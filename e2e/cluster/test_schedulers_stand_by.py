"""Two schedulers in pods: one goes on leading while the API server is away, the other leads when it goes."""

import contextlib
import itertools
import re
import time
import urllib.request
from collections.abc import Iterator

import pytest

from cluster.fakenodes.client import running_fake_nodes
from cluster.kube import Obj, is_ready
from cluster.operators import operators_in
from cluster.processes import wait_until
from cluster.served import Served, is_complete
from cluster.witnesses import Witness

pytestmark = pytest.mark.timeout(240)

NAME = "pair"
MAX_TOKENS = 40
LOAD = {"rate": 5.0, "max_tokens": MAX_TOKENS}
API_IS_AWAY_S = 60.0
ADMIN_PORT = 9090
SERVICE = f"""
apiVersion: serving.hortator.dev/v1alpha1
kind: LLMService
metadata: {{name: {NAME}}}
spec:
  model: {{uri: "hf://deepseek-ai/DeepSeek-V3", name: deepseek-v3}}
  engine: {{backend: Simulated, simulated: {{timeScale: 1.0}}}}
  topology: Aggregated
  replicas: 2
  roles:
  - name: Aggregated
    nodes: 1
    gpusPerNode: 4
    parallelism: {{attentionDP: 4, expert: 4}}
    kvBlocks: 8192
  scheduler: {{replicas: 2}}
  gateway: {{replicas: 2}}
"""


@pytest.fixture(scope="module")
def served(lab, tmp_path_factory) -> Iterator[Served]:
    manifest = tmp_path_factory.mktemp("pair") / "service.yaml"
    manifest.write_text(SERVICE)
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(lab.namespace("stand-by"))
        operators = stack.enter_context(operators_in(lab, namespace))
        nodes = stack.enter_context(running_fake_nodes(lab, 2, mode="process"))
        operator = operators.start()
        lab.kubectl("apply", "--validate=false", "-n", namespace, "-f", str(manifest))
        served = Served(lab=lab, nodes=nodes, operator=operator, namespace=namespace, name=NAME)
        served.wait(is_complete, what="two groups", timeout_s=120)
        yield served


def is_leader(pod: Obj) -> bool:
    url = f"http://{pod['status']['podIP']}:{ADMIN_PORT}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            found = re.search(r"^hortator_scheduler_is_leader (\S+)$", answer.read().decode(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and float(found[1]) == 1.0


def pair_of(served: Served) -> tuple[Obj, Obj]:
    """Leader and standby, once there is one of each."""
    pair: list[tuple[Obj, Obj]] = []

    def look() -> bool:
        pods = [pod for pod in served.pods("scheduler") if is_ready(pod)]
        leads = [is_leader(pod) for pod in pods]
        if len(pods) == 2 and leads.count(True) == 1:
            pair.append((pods[leads.index(True)], pods[leads.index(False)]))
        return bool(pair)

    wait_until(look, what="a leader and a standby", timeout_s=60)
    return pair[0]


def name_of(pod: Obj) -> str:
    return str(pod["metadata"]["name"])


def longest_silence_s(witness: Witness, since: float) -> float:
    """Between two first tokens."""
    times = [since, *(event["at"] for event in witness.told("first") if event["at"] > since)]
    return max(after - before for before, after in itertools.pairwise(times))


def assert_all_answered(witness: Witness) -> int:
    witness.end_load()
    witness.wait_until_answered()
    assert witness.told("failed") == []
    done = witness.told("done")
    assert len(done) == len(witness.told("sent"))
    assert {event["num_tokens"] for event in done} == {MAX_TOKENS}
    return len(done)


def test_no_request_fails_when_the_leader_goes(served):
    with served.loaded(*served.gateways(), **LOAD) as witness:
        for how in ("SIGKILL", "delete", "SIGSTOP"):
            leader, standby = pair_of(served)
            gone_at = time.monotonic()
            if how == "delete":
                served.lab.client.delete(leader)
            else:
                served.nodes.signal(served.namespace, name_of(leader), how)
            wait_until(lambda pod=standby: is_leader(pod), what=f"the standby leads after {how}")
            witness.wait_for_more(20)
            print(f"{how}: nothing began for {longest_silence_s(witness, gone_at):.2f} s")
            if how == "SIGSTOP":
                served.nodes.signal(served.namespace, name_of(leader), "SIGCONT")
                wait_until(
                    lambda pod=leader: not is_leader(pod), what="the one that was stopped sees who leads"
                )
                assert name_of(pair_of(served)[0]) == name_of(standby)
        print(f"{assert_all_answered(witness)} requests")


def test_no_request_fails_while_api_server_and_operator_are_away_and_the_leader_goes_too(served):
    leader, standby = pair_of(served)
    with served.loaded(*served.gateways(), **LOAD) as witness:
        served.operator.kill()
        served.lab.pause_api()
        paused_at = time.monotonic()
        try:
            witness.wait_for_more(50, timeout_s=60)
            assert is_leader(leader)
            served.nodes.signal(served.namespace, name_of(leader), "SIGKILL")
            wait_until(lambda: is_leader(standby), what="the standby leads")
            while time.monotonic() < paused_at + API_IS_AWAY_S:
                witness.wait_for_more(5)
        finally:
            served.lab.resume_api()
        print(f"nothing began for {longest_silence_s(witness, paused_at):.2f} s at most")
        print(f"{assert_all_answered(witness)} requests")

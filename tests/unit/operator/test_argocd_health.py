"""docs/how-to/gitops.md: what Argo CD is told to think of our kinds, run over what operators have written."""

import copy
import json
import textwrap
from pathlib import Path

import pytest
from lupa import LuaRuntime

from hortator.operator.status.reasons import Reason

ROOT = Path(__file__).resolve().parents[3]
BEGIN = "resource.customizations.health.serving.hortator.dev_{kind}: |\n"
RECORDED = sorted((ROOT / "tests/golden/files/clusters").glob("*.jsonl"))


def script_of(kind):
    """What follows the name of the kind, up to the next one or the end of the block."""
    page = (ROOT / "docs/how-to/gitops.md").read_text()
    begun = page.partition(BEGIN.format(kind=kind))[2].partition("```")[0]
    return textwrap.dedent(begun.partition("resource.customizations")[0])


@pytest.fixture(scope="module")
def health():
    """`health(obj)`: status and message."""
    scripts = {kind: script_of(kind) for kind in ("LLMService", "LLMServiceScaler")}
    lua = LuaRuntime()
    functions = {kind: lua.eval(f"function(obj)\n{script}\nend") for kind, script in scripts.items()}

    def judge(obj):
        found = functions[obj["kind"]](lua.table_from(obj, recursive=True))
        return found["status"], found["message"]

    return judge


@pytest.fixture
def serving():
    """An LLMService as an operator left it when all was well."""
    entries = [json.loads(line)["object"] for line in RECORDED[0].read_text().splitlines()]
    return copy.deepcopy(next(obj for obj in entries if obj["kind"] == "LLMService"))


def with_condition(obj, kind, status, **fields):
    kept = [one for one in obj["status"]["conditions"] if one["type"] != kind]
    obj["status"]["conditions"] = [*kept, {"type": kind, "status": status, **fields}]
    return obj


def test_a_service_that_serves_is_healthy(health, serving):
    status, message = health(serving)
    assert status == "Healthy"
    assert message.startswith("AllGroupsReady: ")


def test_what_the_operator_has_not_looked_at_is_on_its_way(health, serving):
    changed = copy.deepcopy(serving)
    changed["metadata"]["generation"] += 1
    assert health(changed)[0] == "Progressing"
    del serving["status"]
    assert health(serving)[0] == "Progressing"


@pytest.mark.parametrize(
    ("kind", "said", "status"),
    [
        ("Suspended", "True", "Suspended"),
        ("Stalled", "True", "Degraded"),
        ("Accepted", "False", "Degraded"),
        ("Ready", "False", "Progressing"),
    ],
)
def test_what_is_not_well_is_told(health, serving, kind, said, status):
    changed = with_condition(serving, kind, said)
    if kind != "Ready":
        changed = with_condition(changed, "Ready", "False", reason="Why", message="because")
    found, message = health(changed)
    assert found == status
    assert message == ("Why: because" if kind != "Ready" else ": ")


@pytest.mark.parametrize(
    ("said", "reason", "status"),
    [
        ("True", "RoleScaled", "Healthy"),
        ("False", "Conflict", "Degraded"),
        ("False", "RoleNotFound", "Degraded"),
        ("False", "ServiceNotFound", "Progressing"),
    ],
)
def test_a_scaler_is_what_its_condition_says(health, said, reason, status):
    assert reason in {one.value for one in Reason}
    condition = {"type": "Active", "status": said, "reason": reason, "message": "because"}
    scaler = {"kind": "LLMServiceScaler", "metadata": {"generation": 2}}
    assert health(scaler)[0] == "Progressing"
    scaler["status"] = {"observedGeneration": 2, "conditions": [condition]}
    assert health(scaler) == (status, f"{reason}: because")
    scaler["metadata"]["generation"] = 3
    assert health(scaler)[0] == "Progressing"

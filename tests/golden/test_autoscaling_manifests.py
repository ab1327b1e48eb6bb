"""The manifests for Kubernetes' own autoscaler, and a scaler: valid in every version, and made from series that exist."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from hortator.api.parse import parse_scaler
from hortator.api.v1alpha1 import API_VERSION, KIND, SCALER_KIND
from hortator.operator.names import LABEL_SERVICE
from hortator.scheduler.metrics import SchedulerMetrics

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "autoscaling"
CHART = FOLDER.parents[1] / "charts" / "hortator" / "templates" / "monitoring.yaml"


TARGETS = {"hpa.yaml": KIND, "scaler-hpa.yaml": SCALER_KIND}


@pytest.fixture(params=TARGETS)
def objects(request):
    """Those of a file, by kind."""
    found = yaml.safe_load_all((FOLDER / request.param).read_text())
    return {obj["kind"]: obj for obj in found} | {"target": TARGETS[request.param]}


@pytest.fixture
def hpa(objects):
    return objects["HorizontalPodAutoscaler"]


@pytest.fixture
def rules():
    """By the metric that they serve."""
    found = yaml.safe_load((FOLDER / "prometheus-adapter-values.yaml").read_text())["rules"]["external"]
    return {rule["name"]["as"]: rule for rule in found}


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_autoscaler_is_valid(objects, hpa, version):
    kubernetes_validate.validate(hpa, version, strict=True)
    target = hpa["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (API_VERSION, objects["target"])


def test_the_scaler_is_valid_and_the_target():
    scaler, hpa = yaml.safe_load_all((FOLDER / "scaler-hpa.yaml").read_text())
    parsed = parse_scaler(scaler)
    assert parsed.problems == ()
    assert parsed.scaler is not None
    assert parsed.scaler.spec.replicas is None  # a manifest that is applied again takes nothing from anybody
    assert hpa["spec"]["scaleTargetRef"]["name"] == scaler["metadata"]["name"]
    chosen = hpa["spec"]["metrics"][0]["external"]["metric"]["selector"]["matchLabels"]
    assert chosen["phase"] == parsed.scaler.spec.role.lower()


def test_it_reads_what_the_adapter_serves(hpa, rules):
    """By the label that the chart's PodMonitor copies from the pods."""
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]
    query = rules[metric["name"]]["metricsQuery"]
    labels = metric["selector"]["matchLabels"]
    assert re.sub(r"[^a-z]", "_", LABEL_SERVICE) in labels
    assert all(label in query for label in labels)
    assert f"- {LABEL_SERVICE}\n" in CHART.read_text().partition("podTargetLabels:")[2]


def test_the_adapter_serves_what_schedulers_export(rules):
    registry = CollectorRegistry()
    metrics = SchedulerMetrics(registry, policy="staggered")
    names = re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE)
    assert {rule["seriesQuery"].partition("{")[0] for rule in rules.values()} <= set(names)
    del metrics

"""The manifests for Kubernetes' own autoscaler: valid in every version, and made from series that exist."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from hortator.api.v1alpha1 import API_VERSION, KIND
from hortator.operator.names import LABEL_SERVICE
from hortator.scheduler.metrics import SchedulerMetrics

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "autoscaling"
CHART = FOLDER.parents[1] / "charts" / "hortator" / "templates" / "monitoring.yaml"


@pytest.fixture
def hpa():
    return yaml.safe_load((FOLDER / "hpa.yaml").read_text())


@pytest.fixture
def rule():
    (found,) = yaml.safe_load((FOLDER / "prometheus-adapter-values.yaml").read_text())["rules"]["external"]
    return found


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_autoscaler_is_valid(hpa, version):
    kubernetes_validate.validate(hpa, version, strict=True)
    target = hpa["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (API_VERSION, KIND)


def test_it_reads_what_the_adapter_serves(hpa, rule):
    """By the label that the chart's PodMonitor copies from the pods."""
    metric = hpa["spec"]["metrics"][0]["external"]["metric"]
    assert metric["name"] == rule["name"]["as"]
    (label,) = metric["selector"]["matchLabels"]
    assert label == re.sub(r"[^a-z]", "_", LABEL_SERVICE)
    assert label in rule["metricsQuery"]
    assert f"- {LABEL_SERVICE}\n" in CHART.read_text().partition("podTargetLabels:")[2]


def test_the_adapter_serves_what_schedulers_export(rule):
    registry = CollectorRegistry()
    metrics = SchedulerMetrics(registry, policy="staggered")
    names = re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE)
    assert rule["seriesQuery"].partition("{")[0] in names
    del metrics

"""What the chart tells Prometheus and Grafana."""

import json
import re
from pathlib import Path

import yaml

from hortator.api.files import load_llmservice
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "manifests/samples/llmservice-h800-16.yaml"
OPTIONS = Options(images=Images.of_version("0.0.0"))
FILES = ROOT / "charts/hortator/files"
OF_TARGETS = {"namespace", "pod", "serving_hortator_dev_name", "app_kubernetes_io_component"}
"""Labels that come with a target, whatever the metric."""
ALL_MONITORING = {
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prom"}},
        "podMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prom"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prom"}},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
}


def metrics():
    """Name in queries -> labels, from the generated reference."""
    found = {}
    for line in (ROOT / "docs/reference/metrics.md").read_text().splitlines():
        match = re.match(r"\| `(hortator_\w+)` \| (\w+) \| ([^|]*) \|", line)
        if match:
            name, kind, labels = match[1], match[2], set(re.findall(r"`(\w+)`", match[3]))
            if kind == "histogram":
                found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
            else:
                found[name] = labels
    return found


def dashboards():
    return {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}


def queries():
    """(where, expression, labels shown) of every alert and every line of a panel."""
    for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
            yield rule["alert"], rule["expr"], shown
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                yield f"{name}: {panel['title']}", target["expr"], shown


def in_words(expression):
    """Metrics, and labels that are grouped by or selected, of a query."""
    used = set(re.findall(r"\b(hortator_\w+)", expression))
    labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    selected = {
        label for one in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)[!=]", one)
    }
    return used, labels, selected


def test_every_metric_of_an_alert_or_a_dashboard_exists_with_its_labels():
    known = metrics()
    assert "hortator_gateway_ttft_seconds_bucket" in known
    checked = 0
    for where, expression, shown in queries():
        used, labels, selected = in_words(expression)
        assert used, where
        assert used <= known.keys(), where
        for metric in used:
            assert labels | selected <= known[metric] | OF_TARGETS, (where, metric)
        assert shown <= (labels or known[next(iter(used))] | OF_TARGETS), where
        checked += 1
    assert checked > 40


def test_every_component_that_has_metrics_is_on_a_dashboard():
    used = {metric.split("_")[1] for _, expression, _ in queries() for metric in in_words(expression)[0]}
    assert used == {"scheduler", "gateway", "worker", "operator"}


def test_dashboards_have_uids_of_their_own_and_panels_that_do_not_overlap():
    found = dashboards()
    assert set(found) == {"service-slo", "ranks", "groups", "operator"}
    assert len({one["uid"] for one in found.values()}) == len(found)
    for one in found.values():
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in one["panels"]]
        assert len(set(places)) == len(places)
        variables = {variable["name"] for variable in one["templating"]["list"]}
        text = json.dumps(one["panels"])
        assert {name for name in ("namespace", "service") if f"${name}" in text} <= variables


def test_nothing_of_it_is_there_unless_it_is_asked_for(render):
    kinds = {one["kind"] for one in render()}
    assert not kinds & {
        "ServiceMonitor",
        "PodMonitor",
        "PrometheusRule",
        "ConfigMap",
        "NetworkPolicy",
        "Service",
    }


def test_monitors_select_the_pods_that_have_the_metrics(render):
    found = {(one["kind"], one["metadata"]["name"]): one for one in render(ALL_MONITORING)}
    for kind in ("ServiceMonitor", "PrometheusRule"):
        assert found[kind, "hortator-operator"]["metadata"]["labels"]["release"] == "prom"
    service = found["Service", "hortator-operator"]
    operator = found["Deployment", "hortator-operator"]["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= operator.items()
    selected = found["ServiceMonitor", "hortator-operator"]["spec"]["selector"]["matchLabels"]
    assert selected.items() <= service["metadata"]["labels"].items()
    monitor = found["PodMonitor", "hortator-services"]["spec"]
    assert monitor["namespaceSelector"] == {"any": True}
    assert monitor["podMetricsEndpoints"] == [{"port": "admin", "path": "/metrics", "interval": "10s"}]
    templates = [
        (one["kind"], one["spec"]["template"])
        for one in desired(load_llmservice(SAMPLE), uid="u", options=OPTIONS).objects()
        if one["kind"] in {"Deployment", "StatefulSet"}
    ]
    assert {kind for kind, _ in templates} == {"Deployment", "StatefulSet"}
    for _, template in templates:
        labels = template["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert set(monitor["podTargetLabels"]) <= labels.keys()
        ports = [port["name"] for one in template["spec"]["containers"] for port in one["ports"]]
        assert "admin" in ports
    rules = found["PrometheusRule", "hortator-operator"]["spec"]
    assert rules == yaml.safe_load((FILES / "alerts.yaml").read_text())
    for name, dashboard in dashboards().items():
        data = found["ConfigMap", f"hortator-dashboard-{name}"]["data"]
        assert json.loads(data[f"{name}.json"]) == dashboard


def test_named_namespaces_are_the_only_ones_scraped(render):
    objects = render({"namespaces": ["team-a"], "monitoring": {"podMonitor": {"enabled": True}}})
    (monitor,) = (one for one in objects if one["kind"] == "PodMonitor")
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}


def test_promtool_finds_nothing_to_say_against_the_alerts(promtool):
    done = promtool("check", "rules", "--lint-fatal", FILES / "alerts.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    num_alerts = FILES.joinpath("alerts.yaml").read_text().count("alert: ")
    assert f"{num_alerts} rules found" in done.stdout


def test_promtool_reads_every_query_of_a_dashboard(promtool, tmp_path):
    """As recording rules, with what Grafana fills in; one that is wrong is found."""

    def checked(*expressions):
        rules = [
            {
                "record": f"dashboard:{place}",
                "expr": re.sub(r"\$\w+", "x", one.replace("$__rate_interval", "5m")),
            }
            for place, one in enumerate(expressions)
        ]
        path = tmp_path / "rules.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
        return promtool("check", "rules", path)

    found = [
        target["expr"]
        for one in dashboards().values()
        for panel in one["panels"]
        for target in panel["targets"]
    ]
    done = checked(*found)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(found)} rules found" in done.stdout
    assert checked(*found, "sum(rate(x[5m])").returncode != 0

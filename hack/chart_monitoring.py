"""Alerts and dashboards of the Helm chart, from the metrics of docs/reference/metrics.md.

hack/generate-charts writes them as files of the chart. A service's metrics carry the name of the LLMService
in the label that the chart's PodMonitor takes from the pods (`SERVICE`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hortator.operator import names

SERVICE = names.LABEL_SERVICE.replace(".", "_").replace("/", "_")
"""The label of pods that names their LLMService, as Prometheus spells it."""
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24
_OF_SERVICE = f'namespace=~"$namespace",{SERVICE}=~"$service"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule of the PrometheusRule."""

    name: str
    expr: str
    for_: str
    severity: str
    summary: str
    remedy: str

    def rule(self) -> dict[str, Any]:
        """As Prometheus has it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.for_,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.remedy},
        }


ALERTS = (
    Alert(
        name="HortatorOperatorAbsent",
        expr="absent(hortator_operator_leader == 1)",
        for_="5m",
        severity="critical",
        summary="No operator leads: services serve on, but nobody restarts a failed group.",
        remedy="kubectl --namespace NAMESPACE describe deployment hortator-operator; see its pod's log.",
    ),
    Alert(
        name="HortatorOperatorBlind",
        expr="max by (namespace) (hortator_operator_silence_seconds) > 180",
        for_="2m",
        severity="warning",
        summary="The operator in {{ $labels.namespace }} has heard nothing of the API server for minutes.",
        remedy="Check the way from the operator's pod to the API server, network policies included.",
    ),
    Alert(
        name="HortatorReconcileErrors",
        expr="sum by (error) (rate(hortator_operator_reconcile_errors_total[10m])) > 0.05",
        for_="10m",
        severity="warning",
        summary="Looks at LLMServices fail again and again: {{ $labels.error }}.",
        remedy="The operator's log names object and error; `hortator k8s doctor` checks permissions.",
    ),
    Alert(
        name="HortatorServiceNotReady",
        expr='max by (reason) (hortator_operator_services{ready!="True",reason!~"Suspended|Suspending"}) > 0',
        for_="30m",
        severity="warning",
        summary="LLMServices are not ready: {{ $labels.reason }}.",
        remedy="`hortator k8s explain NAME` says what blocks it; docs/reference/reasons.md has every reason.",
    ),
    Alert(
        name="HortatorGroupRestarts",
        expr="sum by (reason) (increase(hortator_operator_group_restarts_total[1h])) > 3",
        for_="0m",
        severity="warning",
        summary="EP groups were restarted more than three times within an hour: {{ $labels.reason }}.",
        remedy="`hortator k8s explain NAME` names pod, node and exit code of the failures.",
    ),
    Alert(
        name="HortatorWorkerLost",
        expr=f"sum by (namespace, {SERVICE}) (increase(hortator_scheduler_workers_lost_total[10m])) > 0",
        for_="0m",
        severity="warning",
        summary=f"The scheduler of {{{{ $labels.{SERVICE} }}}} gave up a worker that went silent.",
        remedy="`hortator k8s status NAME` shows its group; its requests were placed again elsewhere.",
    ),
    Alert(
        name="HortatorRequestsRefused",
        expr=f"sum by (namespace, {SERVICE}) (rate(hortator_scheduler_rejections_total[5m]))"
        f" > 0.05 * sum by (namespace, {SERVICE}) (rate(hortator_scheduler_requests_total[5m]))",
        for_="10m",
        severity="warning",
        summary=f"{{{{ $labels.{SERVICE} }}}} refuses more than 5 % of its requests.",
        remedy="It is saturated: more groups, or fewer requests; `spec.scheduler.queue` bounds what waits.",
    ),
    Alert(
        name="HortatorRequestsWait",
        expr=f"max by (namespace, {SERVICE}) (hortator_scheduler_oldest_wait_seconds) > 15",
        for_="5m",
        severity="warning",
        summary=f"The oldest request of {{{{ $labels.{SERVICE} }}}} has waited for more than 15 s.",
        remedy="No group has room: `hortator k8s status NAME`, and the dashboard of ranks.",
    ),
    Alert(
        name="HortatorCoreErrors",
        expr=f"sum by (namespace, {SERVICE}, event)"
        " (increase(hortator_scheduler_core_errors_total[10m])) > 0",
        for_="0m",
        severity="critical",
        summary=f"The scheduler of {{{{ $labels.{SERVICE} }}}} failed on {{{{ $labels.event }}}}: a bug.",
        remedy="Please report it with the scheduler's log.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One graph: (legend, expression) of every line."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


def _of_service(metric: str) -> str:
    return f"{metric}{{{_OF_SERVICE}}}"


def _quantiles(title: str, metric: str, *, by: str = "", unit: str = "s") -> Panel:
    """p50, p95 and p99 of a histogram."""
    groups, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({groups}) (rate({_of_service(f'{metric}_bucket')}[$__rate_interval]))"
    lines = tuple((f"p{int(q * 100)}{legend}", f"histogram_quantile({q}, {rate})") for q in (0.5, 0.95, 0.99))
    return Panel(title=title, unit=unit, lines=lines)


def _rate(title: str, metric: str, by: str, *, unit: str = "reqps") -> Panel:
    expr = f"sum by ({by}) (rate({_of_service(metric)}[$__rate_interval]))"
    return Panel(title=title, unit=unit, lines=((f"{{{{{by}}}}}", expr),))


def _gauge(title: str, metric: str, by: str, *, unit: str = "short") -> Panel:
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",")) if by else title
    expr = f"sum by ({by}) ({_of_service(metric)})" if by else f"sum({_of_service(metric)})"
    return Panel(title=title, unit=unit, lines=((legend, expr),))


def _operator(title: str, expr: str, legend: str, *, unit: str = "short") -> Panel:
    return Panel(title=title, unit=unit, lines=((legend, expr),))


def _mean(metric: str, by: str) -> str:
    total, count = (
        f"sum by ({by}) (rate({_of_service(f'{metric}_{part}')}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return f"{total} / {count}"


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "service-slo": (
        "Hortator: service and its latencies",
        (
            _quantiles("Time to first token", "hortator_gateway_ttft_seconds"),
            _quantiles("Time per output token", "hortator_gateway_tpot_seconds"),
            _quantiles("Accepted to last token", "hortator_gateway_e2e_seconds"),
            _quantiles("Wait for the first placement", "hortator_gateway_hold_seconds"),
            _rate("Requests that ended", "hortator_gateway_requests_total", "outcome"),
            _rate("Requests refused", "hortator_scheduler_rejections_total", "reason"),
            Panel(
                title="Tokens per second",
                unit="short",
                lines=(
                    (
                        "prompt",
                        f"sum(rate({_of_service('hortator_gateway_prompt_tokens_total')}[$__rate_interval]))",
                    ),
                    (
                        "output",
                        f"sum(rate({_of_service('hortator_gateway_output_tokens_total')}[$__rate_interval]))",
                    ),
                ),
            ),
            _rate("Requests placed again", "hortator_gateway_replacements_total", "reason"),
        ),
    ),
    "ranks": (
        "Hortator: balance of ranks and bubbles",
        (
            Panel(
                title="Balance: mean / maximum of the ranks' tokens (1: no bubble)",
                unit="percentunit",
                lines=(("{{phase}}", _mean("hortator_scheduler_balance_ratio", "phase")),),
            ),
            Panel(
                title="Chunk utilization",
                unit="percentunit",
                lines=(("{{phase}}", _mean("hortator_scheduler_chunk_utilization_ratio", "phase")),),
            ),
            _quantiles("Forward pass", "hortator_scheduler_forward_pass_seconds", by="phase"),
            _gauge(
                "Prompt tokens admitted, per rank",
                "hortator_scheduler_rank_prefill_load_tokens",
                "ep_group, dp_rank",
            ),
            _gauge("KV blocks used, per rank", "hortator_scheduler_rank_kv_blocks_used", "ep_group, dp_rank"),
            _gauge("Batch size, per rank", "hortator_scheduler_rank_batch_size", "ep_group, dp_rank"),
            _gauge("Requests waiting", "hortator_scheduler_waiting_requests", "phase"),
            _quantiles("Arrival to placement", "hortator_scheduler_hold_seconds", by="phase"),
        ),
    ),
    "groups": (
        "Hortator: life of EP groups",
        (
            _gauge("Workers by state", "hortator_scheduler_workers", "phase, state"),
            _rate("Workers given up", "hortator_scheduler_workers_lost_total", "ep_group", unit="ops"),
            _gauge("Start of a worker, by phase", "hortator_worker_startup_seconds", "pod, phase", unit="s"),
            _gauge("Members connected", "hortator_worker_group_members", "pod"),
            _rate("Placements taken back", "hortator_scheduler_aborts_total", "reason", unit="ops"),
            _operator("EP groups of all services", "max by (phase) (hortator_operator_groups)", "{{phase}}"),
            _operator(
                "Restarts of groups, of all services",
                "sum by (reason) (increase(hortator_operator_group_restarts_total[$__rate_interval]))",
                "{{reason}}",
            ),
            _quantiles("Pull of a request's KV", "hortator_worker_kv_transfer_seconds"),
        ),
    ),
    "operator": (
        "Hortator: operator",
        (
            _operator(
                "LLMServices by readiness",
                "max by (ready, reason) (hortator_operator_services)",
                "{{ready}} {{reason}}",
            ),
            _operator("Leads", "hortator_operator_leader", "{{pod}}"),
            _operator(
                "One look at a service, p99",
                "histogram_quantile(0.99, sum by (le, outcome)"
                " (rate(hortator_operator_reconcile_seconds_bucket[$__rate_interval])))",
                "{{outcome}}",
                unit="s",
            ),
            _operator(
                "Looks that failed",
                "sum by (error) (rate(hortator_operator_reconcile_errors_total[$__rate_interval]))",
                "{{error}}",
                unit="ops",
            ),
            _operator(
                "Writes",
                "sum by (action, kind) (rate(hortator_operator_actions_total[$__rate_interval]))",
                "{{action}} {{kind}}",
                unit="ops",
            ),
            _operator("Services that wait for a look", "hortator_operator_queue_length", "{{pod}}"),
            _operator("Silence of the API server", "hortator_operator_silence_seconds", "{{pod}}", unit="s"),
            _operator(
                "Statuses written",
                "sum(rate(hortator_operator_status_writes_total[$__rate_interval]))",
                "writes",
                unit="ops",
            ),
        ),
    ),
}


def rules() -> dict[str, Any]:
    """A Prometheus rule file, and the spec of a PrometheusRule."""
    return {"groups": [{"name": "hortator", "rules": [alert.rule() for alert in ALERTS]}]}


def dashboard(name: str) -> dict[str, Any]:
    """A dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables: list[dict[str, Any]] = [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
    if name != "operator":
        variables += [
            _variable("namespace", "label_values(hortator_scheduler_gateways, namespace)"),
            _variable(
                "service", f'label_values(hortator_scheduler_gateways{{namespace=~"$namespace"}}, {SERVICE})'
            ),
        ]
    return {
        "uid": f"hortator-{name}",
        "title": title,
        "tags": ["hortator"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": [
            {
                "id": place + 1,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {
                    "x": place * _WIDTH % _COLUMNS,
                    "y": place * _WIDTH // _COLUMNS * _HEIGHT,
                    "w": _WIDTH,
                    "h": _HEIGHT,
                },
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {
                        "refId": chr(ord("A") + line),
                        "expr": expr,
                        "legendFormat": legend,
                        "datasource": source,
                    }
                    for line, (legend, expr) in enumerate(panel.lines)
                ],
            }
            for place, panel in enumerate(panels)
        ],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "multi": True,
        "refresh": 2,
    }

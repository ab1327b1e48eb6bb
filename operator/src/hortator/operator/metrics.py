"""Metrics of the operator. `groups` and `leader` are set from what was last planned and who leads now."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hortator.operator.work_queue import Key

_RECONCILE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class OperatorMetrics:
    """The operator's own collectors, in the registry that it is given."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        is_leader: Callable[[], bool] = lambda: False,
        silence_s: Callable[[], float] = lambda: 0.0,
        num_due: Callable[[], int] = lambda: 0,
    ) -> None:
        """The callables are asked when the metrics are read, from another thread."""
        self.reconcile_seconds = Histogram(
            "hortator_operator_reconcile_seconds",
            "One look at an LLMService: planning and carrying out the step.",
            ["outcome"],
            buckets=_RECONCILE_BUCKETS_S,
            registry=registry,
        )
        self.errors = Counter(
            "hortator_operator_reconcile_errors",
            "Looks that failed, by kind of error.",
            ["error"],
            registry=registry,
        )
        self.actions = Counter(
            "hortator_operator_actions",
            "Writes that were planned and carried out.",
            ["action", "kind"],
            registry=registry,
        )
        self.status_writes = Counter(
            "hortator_operator_status_writes", "Statuses written because they had changed.", registry=registry
        )
        self.group_restarts = Counter(
            "hortator_operator_group_restarts",
            "EP groups restarted after a failure, by reason.",
            ["reason"],
            registry=registry,
        )
        self._groups = Gauge(
            "hortator_operator_groups",
            "EP groups of all LLMServices, by phase.",
            ["phase"],
            registry=registry,
        )
        self._services = Gauge(
            "hortator_operator_services",
            "LLMServices, by whether they are ready and why not.",
            ["ready", "reason"],
            registry=registry,
        )
        leader = Gauge(
            "hortator_operator_leader", "1 while this process may write to the cluster.", registry=registry
        )
        leader.set_function(lambda: float(is_leader()))
        silence = Gauge(
            "hortator_operator_silence_seconds",
            "Since a watch or a list last told anything; large values mean that the operator is blind.",
            registry=registry,
        )
        silence.set_function(silence_s)
        due = Gauge("hortator_operator_queue_length", "LLMServices that wait for a look.", registry=registry)
        due.set_function(lambda: float(num_due()))
        self._by_service: dict[Key, tuple[Tally[str], tuple[str, str]]] = {}

    def show(self, key: Key, *, phases: Mapping[str, int], ready: str, reason: str) -> None:
        """What the last look at a service found."""
        self._by_service[key] = (Tally(dict(phases)), (ready, reason))
        self._publish()

    def forget(self, key: Key) -> None:
        """A service is gone."""
        if self._by_service.pop(key, None) is not None:
            self._publish()

    def _publish(self) -> None:
        phases: Tally[str] = Tally()
        conditions: Tally[tuple[str, str]] = Tally()
        for groups, condition in self._by_service.values():
            phases += groups
            conditions[condition] += 1
        self._groups.clear()
        for phase, count in phases.items():
            self._groups.labels(phase=phase).set(count)
        self._services.clear()
        for (ready, reason), count in conditions.items():
            self._services.labels(ready=ready, reason=reason).set(count)

"""Operator processes as children of a test, and what they say of themselves."""

import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.controlplane import Lab
from cluster.processes import LabError, Process, Processes

Obj = dict[str, Any]
READY_TIMEOUT_S = 30
SERVICES = ("serving.hortator.dev/v1alpha1", "LLMService")
SCALERS = ("serving.hortator.dev/v1alpha1", "LLMServiceScaler")
CRDS = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
CRD = Path(__file__).resolve().parents[2] / "manifests" / "crd.yaml"
SCALER_CRD = CRD.with_name("crd-scaler.yaml")


@dataclass(slots=True, kw_only=True)
class Operator:
    """One operator process."""

    process: Process
    admin_port: int = 0

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def log(self) -> list[Obj]:
        """What it has logged."""
        lines = self.process.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 when there is none."""
        for line in self.get("/metrics").splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(
                f'{key}="{text}"' in head for key, text in labels.items()
            ):
                return float(value)
        return 0.0

    def get(self, path: str) -> str:
        """A page of the admin port, whatever its status."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # loopback
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()


@dataclass(slots=True, kw_only=True)
class Operators:
    """Starts operators for one namespace, with short times; ends what it started."""

    namespace: str
    kubeconfig: Path
    processes: Processes
    settings: dict[str, str] = field(default_factory=dict)
    started: list[Operator] = field(default_factory=list)

    def start(self, *, wait: bool = True, **settings: str) -> Operator:
        """A process; `settings` are names without the prefix."""
        name = f"operator-{len(self.started)}"
        wanted = {
            "kubeconfig": str(self.kubeconfig),
            "namespace": self.namespace,
            "admin_port": "0",
            "log_level": "INFO",
            **self.settings,
            **settings,
        }
        env = {f"HORTATOR_OPERATOR_{key.upper()}": value for key, value in wanted.items()}
        process = self.processes.start(name, [sys.executable, "-m", "hortator.operator"], env=env)
        operator = Operator(process=process)
        self.started.append(operator)
        if wait:
            self.wait_until_ready(operator)
        return operator

    def wait_until_ready(self, operator: Operator) -> None:
        """Until it has said so."""

        def is_ready() -> bool:
            for line in operator.log():
                if line.get("event") == "ready" and "admin_port" in line:
                    operator.admin_port = line["admin_port"]
            return operator.admin_port != 0

        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_ready():
            if not operator.is_alive() or time.monotonic() > deadline:
                raise LabError(f"the operator is not ready:\n{operator.process.last_lines()}")
            time.sleep(0.05)

    def end(self) -> None:
        """SIGTERM to all that still run."""
        for operator in self.started:
            if operator.is_alive():
                operator.process.end()


@contextlib.contextmanager
def operators_in(
    lab: Lab, namespace: str, *, kubeconfig: Path | None = None, **settings: str
) -> Iterator[Operators]:
    """Operators until the block ends; the CRDs are there."""
    for plural, path in (("llmservices", CRD), ("llmservicescalers", SCALER_CRD)):
        if lab.client.get(*CRDS, f"{plural}.serving.hortator.dev") is None:
            lab.apply_crd(path)
    operators = Operators(
        namespace=namespace,
        kubeconfig=kubeconfig or lab.kubeconfig,
        settings=settings,
        processes=Processes(logs=lab.folder / "logs" / namespace),
    )
    try:
        yield operators
    finally:
        operators.end()

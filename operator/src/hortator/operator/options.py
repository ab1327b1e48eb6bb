"""What is set once for all services: images, host names, and how pods listen.

Nothing here is read from a cluster. Product code asks for nothing that Kubernetes 1.29 lacks, so there is no
choice of API versions either; `manifests` lists what older servers do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hortator.api.v1alpha1 import Backend

MODELS_FOLDER = "/opt/hortator/models"
"""Where images carry the model that comes with Hortator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What pods run when the LLMService names no image."""

    serving: str
    """Scheduler and gateway."""
    workers: Mapping[Backend, str]
    """Engine pods, by backend."""

    @classmethod
    def of_version(cls, version: str, *, registry: str = "") -> Images:
        """The images that are released with a version of Hortator; `registry` ends without a slash."""
        prefix = f"{registry}/" if registry else ""
        worker = f"{prefix}hortator-worker:{version}"
        return cls(
            serving=f"{prefix}hortator-serving:{version}",
            workers={
                "Simulated": worker,
                "TorchMoE": worker,
                "TensorRTLLM": f"{prefix}hortator-worker-trtllm:{version}",
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Operator-wide settings of `desired`."""

    images: Images
    cluster_domain: str = ""
    """Appended to host names of Services; empty: `NAME.NAMESPACE.svc`, which resolves in every pod."""
    listen: str = "0.0.0.0"  # noqa: S104  # inside a pod every interface is the pod's own
    """Address that processes listen on; `PodIP`: only the pod's own, for pods that share a host."""
    builtin_tokenizer: str = f"{MODELS_FOLDER}/moe-shakespeare/tokenizer.json"
    """File in the gateway's image: the tokenizer of the builtin model."""
    log_level: str = "INFO"
    """Of every process."""
    operator_namespace: str = "hortator-system"
    """Where the operator runs, which asks schedulers; the default is that of the charts' documentation."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes that scheduler and gateway pods run on."""

    def host(self, name: str, namespace: str) -> str:
        """The DNS name of a Service."""
        suffix = f".{self.cluster_domain}" if self.cluster_domain else ""
        return f"{name}.{namespace}.svc{suffix}"

"""The Job by which one node pulls an image before a group on it is closed.

Its pod is bound to the node by name, asks for no device and hardly anything else, has the pull secrets,
tolerations and runtime class of the engines, and does nothing: that it was started is the proof. The Job's
name is a hash of its pod: for another image, or another secret, there is another Job.
"""

from __future__ import annotations

from hortator.operator import names
from hortator.operator.manifests import pods
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.observed.reading import items, mapping, text

COMMAND = ("python", "--version")
"""What every engine's image has; an image's own entrypoint may do anything."""
DEADLINE_S = 7200
"""After which Kubernetes itself ends a pull, should no operator be there to."""
ATTEMPTS = 3
"""Pods that a node may throw out or refuse."""
_AS_ENGINES = (
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
    "imagePullSecrets",
    "tolerations",
    "runtimeClassName",
)
_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}


def image_of(template: Obj) -> tuple[str, str]:
    """The image of the engine in a pod template, and its pull policy; empty where there is none."""
    container = _engine(template)
    return text(container, "image"), text(container, "imagePullPolicy")


def job(template: Obj, *, node: str, owner: Owner) -> Obj:
    """The Job by which `node` pulls the image of a pod template."""
    image, policy = image_of(template)
    engine = mapping(template, "spec")
    spec = {name: engine[name] for name in _AS_ENGINES if name in engine} | {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "affinity": _on(node),
        "containers": [
            {
                "name": "pull",
                "image": image,
                "imagePullPolicy": policy,
                "command": list(COMMAND),
                "resources": _RESOURCES,
                "securityContext": pods.confined(),
            }
        ],
    }
    labels = names.component_labels(owner.name, names.COMPONENT_PULL)
    obj = child("batch/v1", "Job", names.pull_name(owner.name, spec), owner=owner, labels=labels)
    obj["spec"] = {
        "backoffLimit": ATTEMPTS,
        "activeDeadlineSeconds": DEADLINE_S,
        "template": pods.template(labels, spec),
    }
    return obj


def _engine(template: Obj) -> Obj:
    containers = items(template, "spec", "containers")
    named = [one for one in containers if text(one, "name") == names.ENGINE_CONTAINER]
    return next(iter([*named, *containers]), {})


def _on(node: str) -> Obj:
    """As a DaemonSet binds its pods: kube-scheduler still looks at taints and room."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"nodeAffinity": required}

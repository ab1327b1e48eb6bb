"""Where the weights are kept on the cluster: the claim, and the Job that fills it.

    pvc://CLAIM/FOLDER   the claim is given; engines read FOLDER in it
    model.cache          a claim that exists or is made here; the Job downloads an hf:// model into it, or the
                         engines fill it themselves when `prefetch` is false

A Job's template cannot be changed, so the Job carries a hash of what it downloads as the label `revision`:
one with another value is to be deleted and made again. The downloader is the `hf` program of the engine's
image.
"""

from __future__ import annotations

from dataclasses import dataclass

from hortator.api import processes
from hortator.api.v1alpha1 import LLMService
from hortator.operator import names
from hortator.operator.digest import digest
from hortator.operator.manifests import accounts, environment, pods
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj
from hortator.operator.options import Options

FOLDER = processes.CACHE_FOLDER
TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105  # the name of a variable
PREFETCH_ATTEMPTS = 6
PREFETCH_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """The claim in a pod."""

    claim: str

    def as_volume(self) -> Obj:
        """Of the pod."""
        return {"name": "models", "persistentVolumeClaim": {"claimName": self.claim}}

    def as_mount(self, *, read_only: bool) -> Obj:
        """Of its container."""
        return {"name": "models", "mountPath": FOLDER, "readOnly": read_only}


def mount(service: LLMService) -> CacheMount | None:
    """The claim that engine pods mount; None when the weights come from elsewhere."""
    model = service.spec.model
    if model.uri.startswith("pvc://"):
        return CacheMount(claim=model.uri.removeprefix("pvc://").partition("/")[0])
    if model.cache is None:
        return None
    return CacheMount(claim=model.cache.claim_name or names.cache_name(service.metadata.name))


def is_filled_by_engines(service: LLMService) -> bool:
    """Whether engines write to the claim."""
    cache = service.spec.model.cache
    return cache is not None and not cache.prefetch


def token(service: LLMService) -> list[Obj]:
    """The variable that holds the token for the place that weights come from, if there is one."""
    secret = service.spec.model.auth_secret_ref
    return [environment.from_secret(TOKEN_VARIABLE, secret.name, secret.key)] if secret else []


def claim(service: LLMService, *, owner: Owner) -> Obj | None:
    """The claim that is made here; None when there is none, or it exists."""
    cache = service.spec.model.cache
    if cache is None or cache.create is None:
        return None
    labels = names.component_labels(owner.name, names.COMPONENT_CACHE)
    obj = child("v1", "PersistentVolumeClaim", names.cache_name(owner.name), owner=owner, labels=labels)
    spec: Obj = {
        "accessModes": [cache.create.access_mode],
        "resources": {"requests": {"storage": cache.create.size}},
    }
    if cache.create.storage_class_name:
        spec["storageClassName"] = cache.create.storage_class_name
    return obj | {"spec": spec}


def prefetch(service: LLMService, *, owner: Owner, options: Options) -> Obj | None:
    """The Job that fills the claim; None when nothing is to be downloaded."""
    model, engine = service.spec.model, service.spec.engine
    target, mounted = processes.cached_model(service), mount(service)
    if target is None or mounted is None or model.cache is None or not model.cache.prefetch:
        return None
    labels = names.component_labels(owner.name, names.COMPONENT_CACHE)
    command = ["hf", "download", model.uri.removeprefix("hf://"), "--local-dir", target]
    if model.revision:
        command += ["--revision", model.revision]
    container = pods.container(
        "prefetch",
        image=engine.image or options.images.workers[engine.backend],
        engine=engine,
        command=command,
        env=environment.merged(
            [{"name": "HOME", "value": pods.TMP}, *token(service)], environment.of_engine(engine)
        ),
        resources={"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
        ports={},
        mounts=[mounted.as_mount(read_only=False)],
    )
    spec = pods.pod_spec(
        account=accounts.account_name(owner),
        engine=engine,
        container=container,
        grace_s=PREFETCH_GRACE_S,
        volumes=[mounted.as_volume()],
    )
    source = digest([model.uri, model.revision, mounted.claim], length=names.REVISION_HASH_LENGTH)
    name = names.prefetch_name(owner.name)
    obj = child("batch/v1", "Job", name, owner=owner, labels=labels | {names.LABEL_REVISION: source})
    obj["spec"] = {
        "backoffLimit": PREFETCH_ATTEMPTS,
        "template": pods.template(labels, spec | {"restartPolicy": "OnFailure"}),
    }
    return obj

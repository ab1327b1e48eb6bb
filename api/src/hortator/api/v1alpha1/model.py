"""Which weights are served, and where a cluster keeps them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from hortator.api.v1alpha1.base import Model
from hortator.api.v1alpha1.text import ChildName, Quantity, Text

MODEL_URI_SCHEMES: Final = ("hf", "pvc", "oci", "s3", "file", "builtin")

ModelUri = Annotated[
    str,
    Text(
        pattern=f"({'|'.join(MODEL_URI_SCHEMES)})://.+",
        max_length=1024,
        allowed="a URI that starts with " + ", ".join(f"{scheme}://" for scheme in MODEL_URI_SCHEMES),
    ),
]
ServedName = Annotated[
    str,
    Text(
        pattern="[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?",
        max_length=128,
        allowed="at most 128 letters, digits, '-', '.', '_' and '/'",
    ),
]
Revision = Annotated[
    str,
    Text(pattern="[!-~]+", max_length=256, allowed="a commit, tag or branch without blanks"),
]
SecretKey = Annotated[
    str, Text(pattern="[-._A-Za-z0-9]+", max_length=253, allowed="letters, digits, '-', '_' and '.'")
]


class SecretKeyRef(Model):
    """One key of a Secret in the service's namespace."""

    name: ChildName
    """Of the Secret."""
    key: SecretKey = "HF_TOKEN"
    """Of the entry in it."""


class CacheClaimSpec(Model):
    """The volume claim that the operator makes."""

    size: Quantity
    """Room for the weights, for example 1Ti."""
    storage_class_name: ChildName | None = None
    """Absent: the cluster's default class."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteMany"
    """ReadWriteMany, unless all pods run on one node."""


class ModelCacheSpec(Model):
    """A volume that holds the weights, so that a restart does not download them again."""

    claim_name: ChildName | None = None
    """A claim that exists. Exactly one of claimName and create."""
    create: CacheClaimSpec | None = None
    """A claim that the operator makes; it goes with the LLMService."""
    prefetch: bool = True
    """A Job fills the cache before any EP group starts. False: the cache is full, or the engines fill it."""


class ModelSpec(Model):
    """Which weights are served, and under which name."""

    uri: ModelUri
    """hf://, pvc://, oci://, s3://, file:// or builtin:// (the small MoE that comes with Hortator)."""
    revision: Revision | None = None
    """Commit or tag of the weights; pin it in production."""
    name: ServedName | None = None
    """The name that clients ask for; metadata.name when absent."""
    auth_secret_ref: SecretKeyRef | None = None
    """Token for the place that the weights come from, given to engines and prefetch Job as HF_TOKEN."""
    cache: ModelCacheSpec | None = None
    """Absent: every engine reads the weights from where the URI says."""

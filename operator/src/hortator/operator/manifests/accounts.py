"""The service account of all pods of a service. It may do nothing, and no pod is given its token."""

from __future__ import annotations

from hortator.operator import names
from hortator.operator.manifests.metadata import Owner, child
from hortator.operator.objects import Obj


def account_name(owner: Owner) -> str:
    """Of the service account."""
    return names.account_name(owner.name)


def account(owner: Owner) -> Obj:
    """The service account."""
    labels = names.service_labels(owner.name)
    obj = child("v1", "ServiceAccount", account_name(owner), owner=owner, labels=labels)
    return obj | {"automountServiceAccountToken": False}

"""The CRD of LLMServiceScaler on a real API server: every rule is executed there, and says what `hortator.api` says.

The same table is run against the mirror alone in tests/unit/api/test_scaler_rules.py.
"""

from collections.abc import Iterator

import pytest

from cluster.cases.scaler import BASE, CASES, Case
from cluster.kube import MERGE, ApiError, Obj
from cluster.operators import SCALER_CRD

STRICT = {"fieldValidation": "Strict"}
DRY = STRICT | {"dryRun": "All"}


@pytest.fixture(scope="module")
def namespace(control_plane) -> Iterator[str]:
    """For LLMServiceScalers that nobody reconciles."""
    control_plane.apply_crd(SCALER_CRD)
    with control_plane.namespace("scaler-schema") as name:
        yield name


@pytest.fixture(scope="module")
def stored(control_plane, namespace) -> Obj:
    """The base object, created."""
    path = control_plane.client.path(BASE["apiVersion"], BASE["kind"], namespace)
    return control_plane.client.request("POST", path, BASE, query=STRICT)


def said_to(control_plane, namespace: str, stored: Obj, case: Case) -> str:
    """The server's words; empty: it accepts."""
    path = control_plane.client.path(BASE["apiVersion"], BASE["kind"], namespace)
    try:
        if case.is_change:
            obj = case.obj | {"metadata": stored["metadata"]}
            control_plane.client.request("PUT", f"{path}/{BASE['metadata']['name']}", obj, query=DRY)
        else:
            obj = case.obj | {"metadata": {"name": "another"}}
            control_plane.client.request("POST", path, obj, query=DRY)
    except ApiError as error:
        if error.status != 422:
            raise
        return error.message or str(error)
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_server_says_what_the_mirror_says(control_plane, namespace, stored, case):
    said = said_to(control_plane, namespace, stored, case)
    assert case.refused in said if case.refused else said == ""


def test_a_number_that_is_absent_can_be_written_by_the_scale_subresource(control_plane, namespace, stored):
    """So the operator fills it in; until then nobody can read a scale."""
    path = control_plane.client.path(BASE["apiVersion"], BASE["kind"], namespace, BASE["metadata"]["name"])
    with pytest.raises(ApiError, match="does not exist"):
        control_plane.client.request("GET", f"{path}/scale")
    scaled = control_plane.client.request(
        "PATCH", f"{path}/scale", {"spec": {"replicas": 2}}, content_type=MERGE, query=DRY
    )
    assert scaled["spec"]["replicas"] == 2

"""LLMServices of the samples, and what the operator makes of them."""

from pathlib import Path

import pytest

from hortator.api.files import load_llmservice
from hortator.api.v1alpha1 import LLMService
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "samples"
OPTIONS = Options(images=Images.of_version("1.2.3"))


@pytest.fixture
def changed():
    """`changed(service, {"spec.roles.0.replicas": 3})`: the service with other values, as YAML spells them."""

    def change(service, values):
        document = service.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for path, value in values.items():
            *parents, last = path.split(".")
            place = document
            for part in parents:
                place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
            place[int(last) if isinstance(place, list) else last] = value
        return LLMService.model_validate(document, by_alias=True, by_name=False)

    return change


@pytest.fixture
def sample():
    """`sample("simulated")`: the LLMService in manifests/samples."""
    return lambda name: load_llmservice(SAMPLES / f"llmservice-{name}.yaml")


@pytest.fixture
def wanted():
    """`wanted(service)`: what should be there for it."""
    return lambda service, **arguments: desired(service, **{"uid": "uid-1", "options": OPTIONS, **arguments})

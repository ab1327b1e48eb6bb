"""The kinds of others, as their projects publish them (`crds`): what one of their API servers takes."""

import functools
from pathlib import Path

import jsonschema
import yaml

CRDS = Path(__file__).parent / "crds"


def crd(name):
    """The CustomResourceDefinition in a file."""
    return yaml.safe_load((CRDS / f"{name}.yaml").read_text())


def problems(obj, name):
    """What the published schema has against an object, one line each: fields that it does not know too."""
    assert [obj["apiVersion"], obj["kind"]] == _kind(name)
    errors = jsonschema.Draft202012Validator(_schema(name)).iter_errors(obj)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def _kind(name):
    spec = crd(name)["spec"]
    return [f"{spec['group']}/{spec['versions'][0]['name']}", spec["names"]["kind"]]


@functools.cache
def _schema(name):
    return _closed(crd(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def _closed(node):
    """An API server drops what a schema does not name: here that is a problem."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {key: _closed(value) for key, value in node.items()}
    if "properties" in node and "additionalProperties" not in node:
        found["additionalProperties"] = False
    return found

"""The schemas of Kubernetes, offline and strict: a field that a version lacks is a problem.

They come with kubernetes-validate, whose own call reads a version's definitions (megabytes) for every object. Here
each schema is read once, so that every supported version can be asked.
"""

import functools
import re

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

OLDEST = 29
VERSIONS = tuple(
    version
    for version in dict.fromkeys(map(utils.major_minor, utils.all_versions()))
    if int(version.partition(".")[2]) >= OLDEST
)
"""From the oldest that is supported to the newest that is known."""


def problems(obj, version):
    """What that version has against the object, one line each."""
    name = obj["metadata"]["name"]
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", obj["apiVersion"])
    return [
        f"{version}: {obj['kind']} {name}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in _validator(f"{obj['kind'].lower()}-{group}", version).iter_errors(obj)
    ]


def unlike(objects):
    """Those that have other fields than any before: what validates one validates its like."""
    return list({frozenset(fields_of(one, one["kind"])): one for one in objects}.values())


def fields_of(node, path):
    """Every field that an object has, with the type of its value."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from fields_of(value, f"{path}.{name}")
    elif isinstance(node, list):
        for value in node:
            yield from fields_of(value, f"{path}[]")
    else:
        yield path, type(node)


@functools.cache
def _validator(name, version):
    schema = utils.schema_contents(f"{_folder(version)}/{name}.json", version)
    return jsonschema.Draft202012Validator(
        schema, registry=_definitions(version).with_resource("", _of(schema))
    )


@functools.cache
def _definitions(version):
    return _of(utils.schema_contents(f"{_folder(version)}/_definitions.json", version)) @ Registry()


def _of(contents):
    return Resource.from_contents(contents)


def _folder(version):
    return f"kubernetes-json-schema/v{version}.0-local-strict"

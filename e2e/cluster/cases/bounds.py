"""Every bound of one field, derived from the CRD: the last value inside, and the first outside.

Where a value at the bound needs company to be valid (64 nodes need 512 ranks), `COMPANY` brings it.
A new field gets its cases by itself; one whose boundary needs company makes a test fail until it is said here.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from cluster.cases.llmservice import ABSENT, BASE, PREFILL, PREFILL_DECODE, ROLE, TENSORRT_LLM, Case, Obj

CRD = Path(__file__).resolve().parents[3] / "manifests" / "crd.yaml"
_SPLIT = "spec.roles[].parallelism"


def _group(nodes: int, gpus: int, attention_dp: int, expert: int, **more: int) -> Obj:
    split = {"attentionDP": attention_dp, "expert": expert} | more
    return {
        "spec.roles[0].nodes": nodes,
        "spec.roles[0].gpusPerNode": gpus,
        "spec.roles[0].parallelism": {"tensor": 1, "pipeline": 1, "expertTensor": 1} | split,
    }


COMPANY: Mapping[str, Obj] = {
    "spec.roles[].nodes minimum": _group(1, 8, 8, 8),
    "spec.roles[].nodes maximum": _group(64, 8, 512, 512),
    "spec.roles[].gpusPerNode minimum": _group(2, 1, 2, 2),
    "spec.roles[].gpusPerNode maximum": _group(2, 72, 144, 144),
    f"{_SPLIT}.attentionDP minimum": _group(1, 1, 1, 1),
    f"{_SPLIT}.attentionDP maximum": _group(64, 16, 1024, 1024),
    f"{_SPLIT}.expert minimum": _group(1, 1, 1, 1),
    f"{_SPLIT}.expert maximum": _group(64, 16, 1024, 1024),
    f"{_SPLIT}.tensor maximum": TENSORRT_LLM | _group(8, 8, 1, 64, tensor=64),
    f"{_SPLIT}.pipeline maximum": TENSORRT_LLM | _group(8, 8, 1, 1, pipeline=64),
    f"{_SPLIT}.expertTensor maximum": TENSORRT_LLM | _group(8, 8, 64, 1, expertTensor=64),
    "spec.roles[].tensorrtLLM.cudaGraph.batchSizes[] maximum": {"spec.roles[0].maxBatchSize": 65536},
    "spec.replicas maximum": {"spec.roles[0].replicas": 1},
    "spec.engine.backend enum": {"spec.engine.simulated": {}},
    "spec.topology enum": {},
    "spec.roles minItems": {},
    "spec.roles maxItems": PREFILL_DECODE,
    "spec.roles x-kubernetes-list-type": PREFILL_DECODE,
    "spec.roles[].name enum": {},
    "spec.roles[].tolerations[].operator enum": {},
    "spec.security.clientAuth enum": {"spec.security.tls": {}},
    "spec.security.tls.hosts": {"spec.security.tls.issuer": "Operator"},
    "spec.security.tls.hosts[]": {"spec.security.tls": {"issuer": "Operator", "hosts": ["a"]}},
    "spec.placement.gang.queue": {"spec.placement.gang.provider": "Kueue"},
    "spec.placement.gang.schedulerName": {"spec.placement.gang.provider": "Coscheduling"},
    "spec.rollout.maxUnavailable minimum": {"spec.rollout.maxSurge": 1},
    "spec.restart.baseDelay": {"spec.restart.maxDelay": "24h"},
    "spec.restart.maxDelay": {"spec.restart.baseDelay": "0s"},
    "spec.model.cache.claimName": {"spec.model.cache.create": ABSENT},
}
"""By field and keyword, or by field for all its keywords."""

EDGE: Mapping[str, Any] = {
    "spec.placement.gang.provider enum": "None",
    "spec.engine.backend enum": "Simulated",
    "spec.topology enum": "Aggregated",
    "spec.roles[].name enum": "Aggregated",
    "spec.roles[].tolerations[].operator enum": "Equal",
    "spec.roles minItems": [ROLE],
    "spec.roles maxItems": PREFILL_DECODE["spec.roles"],
    "spec.roles x-kubernetes-list-type": PREFILL_DECODE["spec.roles"],
}
"""The value inside, where it does not follow from the bound."""

BEYOND: Mapping[str, Any] = {
    "spec.roles maxItems": [PREFILL, PREFILL_DECODE["spec.roles"][1], ROLE],
    "spec.roles x-kubernetes-list-type": [PREFILL, PREFILL],
}
# Durations as long as they may be.
_MINUTE = "000000h000000.000000m000060.000000s000ms"
_HALF_SECOND = "000000h000000.000000m000000.500000s000ms"


def bound_cases() -> Iterator[Case]:
    """Cases of every bound in the CRD's spec and of the object's name."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    for path, schema, parent in _fields(root, "", {}):
        if path == "metadata.name" or path.startswith("spec"):
            yield from _of(path, schema, is_required=path.rpartition(".")[2] in parent.get("required", []))


def _fields(schema: Obj, path: str, parent: Obj) -> Iterator[tuple[str, Obj, Obj]]:
    if path:
        yield path, schema, parent
    for name, inner in schema.get("properties", {}).items():
        yield from _fields(inner, f"{path}.{name}" if path else name, schema)
    if "items" in schema:
        yield from _fields(schema["items"], f"{path}[]", {})
    if "additionalProperties" in schema:
        yield from _fields(schema["additionalProperties"], f"{path}.pool", {})


def _of(path: str, schema: Obj, *, is_required: bool) -> Iterator[Case]:
    if is_required:
        yield from _pair(path, "required", ..., ABSENT, "Required value")
    if "enum" in schema:
        values = ", ".join(f'"{value}"' for value in schema["enum"])
        yield from _pair(path, "enum", schema["enum"][-1], "Other", f"supported values: {values}")
    step = 1 if schema.get("type") != "number" else 0.001
    if "minimum" in schema:
        least = schema["minimum"]
        if schema.get("exclusiveMinimum"):
            yield from _pair(path, "minimum", least + step, least, f"should be greater than {least}")
        else:
            text = f"should be greater than or equal to {least}"
            yield from _pair(path, "minimum", least, least - step, text)
    if "maximum" in schema:
        most = schema["maximum"]
        yield from _pair(path, "maximum", most, most + step, f"should be less than or equal to {most}")
    if "maxLength" in schema:
        most = schema["maxLength"]
        inside, beyond = (_text(path, schema, length) for length in (most, most + 1))
        yield from _pair(path, "maxLength", inside, beyond, f"may not be more than {most} bytes")
    if "pattern" in schema:
        beyond = "Not.this" if path == "metadata.name" else "1 Gi"
        inside = "1" if "x-kubernetes-int-or-string" in schema else "a"
        yield from _pair(path, "pattern", inside, beyond, f"should match '{schema['pattern']}'")
    yield from _of_items(path, schema)
    for rule in schema.get("x-kubernetes-validations", []):
        if rule["message"].startswith("allowed: "):
            yield from _of_text(path, rule["message"])


def _of_items(path: str, schema: Obj) -> Iterator[Case]:
    if "minItems" in schema:
        least = schema["minItems"]
        yield from _pair(path, "minItems", ..., [], f"should have at least {least} items")
    for keyword in ("maxItems", "maxProperties"):
        if keyword in schema:
            most = schema[keyword]
            inside, beyond = (_items(path, schema, number) for number in (most, most + 1))
            yield from _pair(path, keyword, inside, beyond, f"must have at most {most} items")
    if schema.get("x-kubernetes-list-type") == "map":
        item = _at(path)[0]
        yield from _pair(path, "x-kubernetes-list-type", [item], [item, item], "Duplicate value")


def _of_text(path: str, message: str) -> Iterator[Case]:
    keyword = "x-kubernetes-validations"
    durations = re.search(r"a duration from (\S+) to ([^\s,]+)", message)
    if durations is None:
        yield from _pair(path, keyword, _at(path) or "a", "not this", message)
        return
    low, high = durations.groups()
    for label, inside, beyond in (
        ("low", low, {"0s": "-1s", "1ms": "0.999ms", "10s": "9.999s", "1m": "59.999s"}[low]),
        ("high", high, f"{high}1ms"),
        ("unit", "1m" if "Auto" not in message else "Auto", "60"),
        ("order", "1m1s" if "Auto" not in message else "0.5s", "1s1m"),
    ):
        for case in _pair(path, keyword, inside, beyond, message):
            yield replace(case, name=f"{case.name} ({label})")


def _pair(path: str, keyword: str, inside: Any, beyond: Any, text: str) -> Iterator[Case]:
    covers = f"{path} {keyword}"
    company = COMPANY.get(covers, COMPANY.get(path, {}))
    where = path.replace("[]", "[0]")
    inside = EDGE.get(covers, inside)
    if inside is ...:
        inside = _at(path)
    yield Case(name=f"{covers}: inside", covers=covers, changes=company | {where: inside})
    yield Case(
        name=f"{covers}: beyond",
        covers=covers,
        changes=company | {where: BEYOND.get(covers, beyond)},
        refused=text,
        field=where,
    )


def _text(path: str, schema: Obj, length: int) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "9" * length
    message = str(schema.get("x-kubernetes-validations"))
    if "a duration" in message:
        return (_HALF_SECOND if "Auto" in message else _MINUTE).ljust(length, "0")
    if "a URI" in message:
        return "hf://".ljust(length, "a")
    if "a time" in message:
        return "2026-11-26T10:00:00.123456789+00:00".ljust(length, "0")
    return "a" * length


def _items(path: str, schema: Obj, number: int) -> Any:
    if schema["type"] == "object":
        value = 1 if schema["additionalProperties"]["type"] == "integer" else "a"
        return {f"label-{index}": value for index in range(number)}
    item = (_at(path) or ["a"])[0]
    is_named = isinstance(item, dict) and "name" in item
    return [item | {"name": f"a{index}"} if is_named else item for index in range(number)]


def _at(path: str) -> Any:
    found: Any = BASE
    for part in re.findall(r"[^.\[\]]+|\[\]", path):
        found = found[0] if part == "[]" and found else found.get(part, {})
    return found


BOUND_CASES = tuple(bound_cases())

"""Random objects: values of every kind at every place. Nothing is said of what is right: server and mirror must agree."""

import random
from collections.abc import Iterator

from cluster.cases.bounds import BOUND_CASES
from cluster.cases.llmservice import Obj, changed

PLACES = [
    *sorted({path for case in BOUND_CASES for path in case.changes if path.startswith("spec")}),
    "spec.suspend",
    "spec.model.cache",
    "spec.model.cache.create",
    "spec.model.cache.prefetch",
    "spec.model.authSecretRef",
    "spec.engine.simulated",
    "spec.roles[0]",
    "spec.roles[0].chunkedPrefill",
    "spec.roles[0].resources",
    "spec.roles[0].tolerations[0]",
    "spec.placement.gang",
    "spec.scheduler",
    "spec.scheduler.queue",
    "spec.restart",
    "spec.drain",
    "spec.disruption",
    "spec.gateway",
    "metadata.labels",
]
VALUES = [
    *(None, True, False, 0, 1, 2, 8, 16, 64, 65, -1, 1 << 31, 1 << 53, 1 << 62, 0.5, 1.5),
    *({}, [], [None], [{}], {"a": 1}, {"a": "b"}, {"a": None}),
    *("", "a", "A", "1", "0", "a\n", "\n", "é", "a é", "x" * 300, "/x", "a/b/c", "nvidia.com/gpu"),
    *("1s", "0s", "1h", "5ms", "1m30s", "1.5h", "24h", "1h1h", "1s1h", "0001s", "1e3", "Auto", "auto"),
    *("9" * 24, "1Gi", "1.5Gi", "1 Gi", "2026-11-26T10:00:00Z", "2026-11-26 10:00:00Z"),
    *("hf://x", "hf://\n", "file:///x", "builtin://m", "s3://é", "Exists", "Equal", "Required", "None"),
    *("Prefill", "Decode", "Aggregated", "PrefillDecode", "TorchMoE", "TensorRTLLM", "Simulated"),
]


def mixed_objects(*, seed: int, number: int) -> Iterator[Obj]:
    """Objects with one to three random changes, some of them at a bound."""
    chance = random.Random(seed)
    made = 0
    while made < number:
        changes: dict[str, object] = {}
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            if chance.random() < 0.3:
                changes |= chance.choice(BOUND_CASES).changes
            else:
                changes[chance.choice(PLACES)] = chance.choice(VALUES)
        try:
            obj = changed(changes)
        except (KeyError, IndexError, TypeError, AttributeError):  # one change took away the place of another
            continue
        made += 1
        yield obj

"""A cluster at rest as the operator of this version leaves it, for the versions to come.

    PYTHONPATH=tests python -m doubles.recorded_cluster tests/golden/files/clusters/<version>.jsonl

is run once per release, with the release's own code, and the file is never written again: tests/golden/test_upgrade
plans over every one of them. Services: a cache and devices with prefill and decode groups of two pods; and groups
of one pod on CPUs, one of them after a restart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from doubles.service_world import World, a_manifest

KINDS = (
    "LLMService", "StatefulSet", "Pod", "Service", "PodDisruptionBudget", "Deployment", "ServiceAccount",
    "ControllerRevision", "PersistentVolumeClaim", "Job", "NetworkPolicy", "Node", "Secret",
)  # fmt: skip
MODEL = {
    "uri": "hf://deepseek-ai/DeepSeek-V3",
    "revision": "main",
    "cache": {"create": {"size": "1Ti"}},
}


def on_devices() -> World:
    """Prefill and decode, each a group of two nodes, with a cache and a topology domain."""
    nodes = {f"n-{index}": {"gpus": 8, "labels": {"rack": f"r{index // 2}"}} for index in range(4)}
    shape = {"backend": "TensorRTLLM", "prefill": 1, "decode": 1, "nodes": 2, "gpus_per_node": 8}
    world = World(a_manifest(**shape, model=MODEL, placement={"topologyKey": "rack"}), nodes=nodes)
    world.settle()
    return world


def on_cpus() -> World:
    """Two groups of one pod, the second in its second epoch."""
    world = World(a_manifest(aggregated=2, nodes=1))
    world.settle()
    world.crash("demo-a-1-0")
    world.settle()
    return world


WORLDS = {"on devices": on_devices, "on CPUs": on_cpus}


def main() -> int:
    """Write the file named on the command line: a line per object, with the service and the time it was seen."""
    path = Path(sys.argv[1])
    if path.exists():
        sys.stderr.write(f"{path} is there already: a release is recorded once\n")
        return 1
    lines = []
    for name, make in WORLDS.items():
        world = make()
        for obj in (one for kind in KINDS for one in world.api.find(kind)):
            if obj["kind"] in {"Pod", "Node", "Secret"}:
                obj["metadata"].pop("managedFields", None)  # nobody reads who set what of these
            lines.append(json.dumps({"service": name, "now": world.clock.isoformat(), "object": obj}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

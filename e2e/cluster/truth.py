"""What must be true of a record, whatever happened: of the sample with 64 modelled GPUs, under the name `simulated`."""

from cluster.kube import Obj
from cluster.kube import is_ready as is_pod_ready
from cluster.recorder import Recorder, Seen
from cluster.scene import PREFIX, is_ready

SKEW_S = 0.5
"""Between the watches of two kinds."""


def epoch_of(labelled: Obj) -> int:
    """By the label of a pod, or of a pod template."""
    return int(labelled["metadata"]["labels"][f"{PREFIX}epoch"])


def groups_of_sample(num_role_sets: int) -> dict[str, int]:
    """The groups of so many role sets, and their members."""
    prefill = {f"simulated-p-{index}": 2 for index in range(2 * num_role_sets)}
    return prefill | {f"simulated-d-{index}": 4 for index in range(num_role_sets)}


def joined_twice(seen: Recorder) -> list[tuple[str, int, str]]:
    """(uid of the StatefulSet, epoch, pod) of pods that were there twice in one epoch."""
    uids: dict[tuple[str, int, str], set[str]] = {}
    for one in seen.all("Pod"):
        if _is_member(one.obj):
            [owner] = one.obj["metadata"]["ownerReferences"]
            key = (owner["uid"], epoch_of(one.obj), one.name)
            uids.setdefault(key, set()).add(one.obj["metadata"]["uid"])
    return [key for key, found in uids.items() if len(found) > 1]


def lies(seen: Recorder) -> list[str]:
    """Where Ready turned True although a member was missing, was not ready, or was of an old epoch."""
    found: list[str] = []
    was_ready = False
    for one in seen.all("LLMService"):
        says_ready = is_ready(one.obj)
        if says_ready and not was_ready:
            moments = [other.at for other in seen.all("Pod") if one.at - SKEW_S < other.at < one.at + SKEW_S]
            groups = groups_of_sample(one.obj["spec"].get("replicas", 1))
            if not any(_is_whole(seen, groups, at) for at in (one.at - SKEW_S, one.at, *moments)):
                found.append(f"{one.obj['status']['display']} at {one.at:.3f}")
        was_ready = says_ready
    return found


def _is_whole(seen: Recorder, groups: dict[str, int], at: float) -> bool:
    """Whether each member of each group was ready in its group's epoch then."""
    epochs = {one.name: epoch_of(one.obj["spec"]["template"]) for one in _present(seen, "StatefulSet", at)}
    ready = {
        (one.name.rpartition("-")[0], one.name)
        for one in _present(seen, "Pod", at)
        if _is_member(one.obj)
        and is_pod_ready(one.obj)
        and epoch_of(one.obj) == epochs.get(one.name.rpartition("-")[0])
    }
    return {(group, f"{group}-{number}") for group, size in groups.items() for number in range(size)} <= ready


def _present(seen: Recorder, kind: str, at: float) -> list[Seen]:
    last = {one.name: one for one in seen.all(kind) if one.at <= at}
    return [one for one in last.values() if not one.is_gone]


def _is_member(pod: Obj) -> bool:
    return f"{PREFIX}epoch" in pod["metadata"]["labels"]

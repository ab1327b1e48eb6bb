"""What the doctor makes of all members of a group together: one line where they agree, who differs where not.

A group is as good as its worst member, and one of another version is worse than none: collectives between two
versions of NCCL, or two releases of the library, hang or fail in ways that name neither. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hortator.runtime.checks import Check, Verdict

EQUAL: Mapping[str, str] = {
    "GPUs": "put the group on nodes of one kind (nodeSelector of the role)",
    "driver": "install one driver on all nodes",
    "NCCL": "run one image in all pods (kubectl get pods -o wide, imageID)",
    "RDMA": "look at the ports of the member that differs (ibstat on its node), or select nodes of one kind",
    "fabric variables": "spec.engine.env is one for all members: nodes of one kind, or beginnings of names",
    "MPI": "run one image in all pods",
    "tensorrt_llm": "run one image in all pods",
    "hortator": "run one image in all pods",
}
"""What must be the same everywhere, and what to do where it is not."""
_WORST: Sequence[Verdict] = ("failed", "warning", "skipped", "ok")


def joined(reports: Mapping[str, Sequence[Check]]) -> Iterator[Check]:
    """One line per thing looked at, from what the doctors of all members said, by host."""
    names = list(dict.fromkeys(check.name for checks in reports.values() for check in checks))
    for name in names:
        found = {host: check for host, checks in reports.items() for check in checks if check.name == name}
        without = [host for host in reports if host not in found]
        if without and name in EQUAL:
            yield Check(
                name=name, verdict="failed", found=f"not known on {', '.join(without)}", fix=EQUAL[name]
            )
        yield from _one(name, found, num_members=len(reports))


def _one(name: str, found: Mapping[str, Check], *, num_members: int) -> Iterator[Check]:
    by_words: dict[str, list[str]] = {}
    for host, check in found.items():
        by_words.setdefault(check.found, []).append(host)
    worst = min(found.values(), key=lambda check: _WORST.index(check.verdict))
    if len(by_words) == 1:
        where = f"all {len(found)} members" if len(found) == num_members else ", ".join(found)
        yield Check(name=name, verdict=worst.verdict, found=f"{worst.found} ({where})", fix=worst.fix)
        return
    if name in EQUAL:
        said = "; ".join(f"{words} on {', '.join(hosts)}" for words, hosts in by_words.items())
        fix = worst.fix if worst.verdict == "failed" else EQUAL[name]
        yield Check(name=name, verdict="failed", found=f"not the same everywhere: {said}", fix=fix)
        return
    for host, check in found.items():
        yield Check(name=f"{name} of {host}", verdict=check.verdict, found=check.found, fix=check.fix)

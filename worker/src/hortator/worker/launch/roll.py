"""The roll of a launch: which ranks have been started, what each said last, and so whom a start waits for.

    not started   nothing was heard of it: mpirun does not get through to its host
    mute          it was started and has said nothing since, while others have: it hangs before it takes part
    silent        it has said something, but not for long

Every rank says HERE before it becomes the launcher, so the first is certain. The others are what can be told
from outside: which rank a collective waits for is known to nobody, but who is hanging rarely talks. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HERE = "hortator: this rank has been started"
SHORTLY_S = 5.0
"""Whoever spoke so recently is not called silent."""
MAX_WORDS = 160
_TAGGED = re.compile(r"\[\d+,(\d+)\]<std(?:out|err)>:\s?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is known of one rank that was started."""

    started_at: float
    last_at: float
    last_words: str
    """Empty: nothing since it was started."""


class Roll:
    """Of one world; ranks fill hosts in their order."""

    def __init__(self, hosts: Sequence[str], *, gpus_per_node: int) -> None:
        self._hosts = tuple(hosts)
        self._gpus_per_node = gpus_per_node
        self._heard: list[Heard | None] = [None] * (len(hosts) * gpus_per_node)

    def hear(self, line: str, *, now: float) -> None:
        """A line of mpirun; only those that it has tagged with a rank count."""
        found = _TAGGED.match(line)
        rank = int(found[1]) if found else -1
        if found is None or not 0 <= rank < len(self._heard):
            return
        known = self._heard[rank]
        words = "" if found[2].strip() == HERE else found[2].strip()
        if known is None:
            self._heard[rank] = Heard(started_at=now, last_at=now, last_words=words)
        elif words:
            self._heard[rank] = Heard(started_at=known.started_at, last_at=now, last_words=words)

    @property
    def is_complete(self) -> bool:
        """Every rank has been started."""
        return None not in self._heard

    def waits_for(self, *, now: float) -> str:
        """Whom the start waits for, as far as can be told, for people. May be called from other threads."""
        missing = [rank for rank, heard in enumerate(self._heard) if heard is None]
        if missing:
            return f"{self._named(missing)} not been started"
        ranks = {rank: heard for rank, heard in enumerate(self._heard) if heard is not None}
        if not any(heard.last_words for heard in ranks.values()):
            since_s = now - max(heard.started_at for heard in ranks.values())
            return (
                f"none of {len(ranks)} ranks has said anything in the {since_s:.0f} s since the last started"
            )
        mute = [rank for rank, heard in ranks.items() if not heard.last_words]
        if mute:
            since_s = now - max(ranks[rank].started_at for rank in mute)
            return f"{self._named(mute)} said nothing in the {since_s:.0f} s since being started; others have"
        rank, oldest = min(ranks.items(), key=lambda item: item[1].last_at)
        silent_s = now - oldest.last_at
        if silent_s < SHORTLY_S:
            return "every rank still says something"
        words = oldest.last_words[:MAX_WORDS]
        return f"{self._named([rank])} been silent longest, {silent_s:.0f} s since it said: {words}"

    def _named(self, ranks: Sequence[int]) -> str:
        """`rank 9 on pod-1 has`, `ranks 0-3 on pod-0, 8 on pod-1 have`."""
        by_host = {
            host: [rank for rank in ranks if rank // self._gpus_per_node == index]
            for index, host in enumerate(self._hosts)
        }
        parts = [f"{','.join(_runs(mine))} on {host}" for host, mine in by_host.items() if mine]
        return f"rank {parts[0]} has" if len(ranks) == 1 else f"ranks {', '.join(parts)} have"


def _runs(ranks: Sequence[int]) -> Iterator[str]:
    """Neighbours together: `0-3`, `8`."""
    first = last = ranks[0]
    for rank in ranks[1:]:
        if rank != last + 1:
            yield str(first) if first == last else f"{first}-{last}"
            first = rank
        last = rank
    yield str(first) if first == last else f"{first}-{last}"

"""Certificates that the operator makes: asked for when something is due, before any pod that has one starts.

What is made is decided anew by whoever makes it, from what is there then (`certificate_keeper`); here is only
whether it is time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from hortator.operator.certificates import AUTHORITY, REFUSED_RETRY_S, due, next_moment
from hortator.operator.plan.actions import Item, MakeCertificates, Wake, wake
from hortator.operator.situation import Situation


def certificates(situation: Situation) -> Iterator[Item]:
    """Make what is due, and look again when time alone makes something due."""
    wanted, facts, now = situation.desired.certificates, situation.observed.certificates, situation.now
    if wanted is None or facts is None:
        return
    what, refused = due(wanted, facts, now), facts.refused
    retry_at = refused.at + timedelta(seconds=REFUSED_RETRY_S) if refused is not None else now
    if what and retry_at <= now:
        made = (*((AUTHORITY,) if what.authority else ()), *what.components)
        yield MakeCertificates(wanted=wanted, why=f"due: {', '.join(map(wanted.secret, made))}")
    elif retry_at > now:
        yield Wake(at=retry_at)
    else:
        yield from wake(now, next_moment(wanted, facts, now))

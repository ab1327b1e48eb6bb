"""`hortator doctor --group`: the machines of all members of a group, each by itself, then held together.

Run in the pod of ordinal 0 while its group starts or serves: the members are reached as ranks are started in
them. Every member runs `hortator doctor --json` of its own image; no engine is touched.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Sequence

from pydantic import TypeAdapter, ValidationError

from hortator.runtime.checks import Check
from hortator.worker.engines.trtllm.doctor.group import joined
from hortator.worker.launch.visit import SSH_CONFIG, Visit, answer_of, hosts_of, launch_folder, visit

COMMAND = (sys.executable, "-m", "hortator.cli.main", "doctor", "--json")
_CHECKS = TypeAdapter(list[Check])


async def group_checks(*, patience_s: float) -> AsyncIterator[Check]:
    """First whether every member is reached, then what they have found."""
    folder = launch_folder()
    if folder is None:
        yield Check(
            name="group",
            verdict="failed",
            found="no ranks are being started from here",
            fix="run this in the pod of ordinal 0 of a group of several pods, while it starts or serves; its "
            "/readyz says what it waits for before",
        )
        return
    own = socket.gethostname()
    visits = await asyncio.gather(
        answer_of(COMMAND, own, timeout_s=patience_s),
        *(
            visit(folder, host, shlex.join(COMMAND), timeout_s=patience_s)
            for host in hosts_of((folder / SSH_CONFIG).read_text())
        ),
    )
    reports = {}
    for one in visits:
        checks = _read(one)
        if isinstance(checks, str):
            yield Check(
                name=f"member {one.host}",
                verdict="failed",
                found=checks,
                fix="its log, lines `sshd`; a policy between pods; kubectl describe pod",
            )
            continue
        yield Check(
            name=f"member {one.host}", verdict="ok", found="here" if one.host == own else "sshd lets us in"
        )
        reports[one.host] = checks
    for check in joined(reports):
        yield check


def _read(one: Visit) -> Sequence[Check] | str:
    """What a member has found, but for the engine, which nobody asked for; or why that is not known."""
    if one.problem:
        return one.problem
    try:
        return [check for check in _CHECKS.validate_json(one.output) if check.name != "engine"]
    except ValidationError:
        last = one.output.strip().splitlines()[-1] if one.output.strip() else "nothing"
        return f"its doctor printed no checks but {last[:160]}"

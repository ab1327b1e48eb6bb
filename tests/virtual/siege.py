"""One seed of a siege: a service like that of `e2e/chaos`, and faults without a pause for a minute and a half.

A trial (`trial`) asks whether every state survives a fault or two. A siege asks whether anybody gets anywhere:
leaders are killed every six seconds, gateways and workers before they have done much, and still every client has
to get its next token within a minute.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from unittest.mock import patch

from chaos.load import Load
from chaos.service import ENGINE, GATEWAY, KV_LEASE_S, ORPHAN_KEEP_S, SCHEDULER

from hortator.worker.engines.simulated.config import SimulatedConfig
from virtual import stack as stacks
from virtual import trial
from virtual.stack import PORT, Stack, gateway, scheduler, virtual_service, worker

SECONDS = 90.0
BEGINS_AT_S = 1.5
LEADERS_DIE_EVERY_S = 6.0
FAULTS_PER_S = 3.5
NUM_CLIENTS = 16
RESTART_S = (0.6, 1.6)
"""What a real process takes."""


def run(seed: int, *, seconds: float = SECONDS) -> trial.Outcome:
    """Everything that follows from a seed."""
    rng = random.Random(seed)
    with (
        virtual_service(rng.getrandbits(32)) as stack,
        patch.object(stacks, "RESTART_S", RESTART_S),
        patch.object(trial, "HEALED_AT_S", seconds + 1.0),
    ):
        build(stack, rng)
        load = Load(stack.endpoints, seed=rng.getrandbits(32), num_clients=NUM_CLIENTS)
        siege = _Siege(stack, load, rng)
        return siege.hold(seed, seconds)


def build(stack: Stack, rng: random.Random) -> None:
    """Two of each: schedulers, prefill workers, decode workers, gateways."""
    for number in range(2):
        values = {"standby": True, "drain_timeout_s": 3.0, "core": SCHEDULER["core"]}
        stack.add(f"scheduler-{number}", "scheduler", scheduler(values))
    schedulers = {"scheduler_addresses": [f"{member.host}:{PORT}" for member in stack.of("scheduler")]}
    for name in ("prefill-0", "prefill-1", "decode-0", "decode-1"):
        role = name.partition("-")[0]
        settings: Mapping[str, object] = {
            "worker_id": name,
            "phase": role,
            "drain_timeout_s": 2.0,
            "kv_lease_s": KV_LEASE_S,
            "orphan_keep_s": ORPHAN_KEEP_S,
            "gate_max_idle_s": 0.3,
            "gate_idle_share": 0.3,
        }
        engine = SimulatedConfig(seed=rng.getrandbits(16), **ENGINE)
        stack.add(name, role, worker({**settings, **schedulers}, engine))
    for name in ("gateway-0", "gateway-1"):
        stack.add(name, "gateway", gateway({**GATEWAY, "gateway_id": name, **schedulers}))
    for name in stack.members:
        stack.start(name)


class _Siege(trial.Trial):
    def hold(self, seed: int, seconds: float) -> trial.Outcome:
        """Faults until `seconds`, then none; the end as of any trial."""
        world, rng = self._world, self._random
        world.run(until=BEGINS_AT_S - 0.2)
        client = world.start("client", "", lambda _: self._load.run())
        for act, pause_s in ((self._kill_leader, LEADERS_DIE_EVERY_S), (self._fault, 1 / FAULTS_PER_S)):
            at = BEGINS_AT_S
            while (at := at + rng.expovariate(1 / pause_s)) < seconds:
                world.at(at, act)
        world.at(seconds, self._no_more)
        world.run(until=seconds)
        return self.judge(client, seed, "a siege", by_s=seconds + 90.0)

    def _kill_leader(self) -> None:
        leader = self._stack.leader()
        if leader is not None and leader.process is not None:
            self._count("killed", "leader", leader)
            leader.process.die()

"""One seed: a service, a load, a schedule of faults, healing; and what must be true in the end.

Promises: every request ends once, with every token once, in order and right, and no error; when all is healed
and orphans and leases have had their time, nothing is held anywhere; no process has logged an error.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from chaos.faults import gateway_state, worker_state
from chaos.ledger import Ledger
from chaos.load import Load
from chaos.service import EMPTY, FIRST_TOKEN, VOCAB_SIZE

from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.worker.engines.simulated.config import SimulatedConfig
from virtual.loops import Process
from virtual.stack import PORT, RANK_LOST, Member, Stack, gateway, scheduler, virtual_service, worker

FAULTS_FROM_S, FAULTS_UNTIL_S = 1.5, 3.0
HEALED_AT_S = 5.0
END_BY_S = 40.0
KEEP_S = 2.0
EMPTY_BY_S = 30.0
LOOK_AGAIN_S = 0.3
TOKENS_PER_BLOCK = 16
LONGEST_TOKENS = 40
CHUNK_BUDGET_TOKENS = 512
STOPS_S = (0.02, 0.3, 1.0, 2.5)
LATENCIES_S = (0.0001, 0.0005, 0.005, 0.05)
PROCESS_KINDS = ("killed", "killed", "terminated", "stopped")
LINK_KINDS = ("cut", "cut", "half open", "slow", "silent")


@dataclass(kw_only=True)
class Outcome:
    """What a trial has shown."""

    seed: int
    shape: str
    num_requests: int
    num_ended: int
    num_cancelled: int
    num_tokens: int
    num_restarts: int
    ended_at: float
    recovery_s: float
    """From the last fault, or the end of it, to the end of the last request."""
    longest_wait_s: float
    """Of any client for its next token, or the first."""
    ledger: Ledger
    problems: list[str] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    """What was done when, to be read when something went wrong."""


def run(seed: int) -> Outcome:
    """Everything that follows from a seed."""
    rng = random.Random(seed)
    with virtual_service(rng.getrandbits(32)) as stack:
        shape = build(stack, rng)
        load = Load(
            stack.endpoints,
            seed=rng.getrandbits(32),
            num_clients=rng.randint(3, 6),
            longest_tokens=LONGEST_TOKENS,
        )
        trial = Trial(stack, load, rng)
        return trial.run(seed, shape)


def build(stack: Stack, rng: random.Random) -> str:
    topology = rng.choice(("aggregated", "prefill_decode", "prefill_decode"))
    if topology == "aggregated":
        roles = {"aggregated": rng.randint(2, 3)}
    else:
        roles = {"prefill": rng.randint(1, 2), "decode": rng.randint(1, 2)}
    num_schedulers, num_gateways = rng.choice((1, 2, 2, 2, 3)), rng.randint(1, 2)
    policy = rng.choice(POLICY_NAMES)
    engine: dict[str, Any] = {
        "dp_size": rng.randint(1, 2),
        "chunk_budget_tokens": CHUNK_BUDGET_TOKENS,
        "max_batch_size": rng.choice((4, 16)),
        "kv_blocks_total": rng.choice((200, 400)),
        "tokens_per_block": TOKENS_PER_BLOCK,
        "vocab_size": VOCAB_SIZE,
        "first_token_id": FIRST_TOKEN,
        "jitter": 0.1,
        "time_scale": rng.choice((0.05, 0.2)),
    }
    core = {"policy": policy, "expected_output_tokens": 32}
    for number in range(num_schedulers):
        values = {"standby": num_schedulers > 1, "drain_timeout_s": 3.0, "core": core}
        stack.add(f"scheduler-{number}", "scheduler", scheduler(values))
    schedulers = [f"{member.host}:{PORT}" for member in stack.of("scheduler")]
    for role, number in roles.items():
        for ordinal in range(number):
            name = f"{role}-{ordinal}"
            values = {
                "worker_id": name,
                "phase": role,
                "scheduler_addresses": schedulers,
                "drain_timeout_s": 2.0,
                "kv_lease_s": KEEP_S,
                "orphan_keep_s": KEEP_S,
            }
            stack.add(name, role, worker(values, SimulatedConfig(seed=rng.getrandbits(16), **engine)))
    for number in range(num_gateways):
        name = f"gateway-{number}"
        values = {
            "gateway_id": name,
            "scheduler_addresses": schedulers,
            "model": "m",
            "tokenizer": "bytes",
            "max_sequence_tokens": 3100,
            "tokens_per_block": TOKENS_PER_BLOCK,
            "chunk_budget_tokens": CHUNK_BUDGET_TOKENS,
            "drain_timeout_s": 5.0,
            "max_worker_failures": 1000,
            "max_refusals": 1000,
        }
        stack.add(name, "gateway", gateway(values))
    for name in stack.members:
        stack.start(name)
    return f"{num_schedulers} schedulers, {roles}, {num_gateways} gateways, {policy}, {engine}"


class Trial:
    """A service under faults; each seed's schedule is one."""

    def __init__(self, stack: Stack, load: Load, rng: random.Random) -> None:
        self._stack = stack
        self._world = stack.world
        self._load = load
        self._random = rng
        self._ledger = Ledger()
        self._schedule: list[str] = []
        self._acting: dict[str, str] = {}
        self._disturbed_at = 0.0
        load.on_cancel = lambda state: self._ledger.count("cancelled", "client", state)

    def run(self, seed: int, shape: str) -> Outcome:
        world, load = self._world, self._load
        world.run(until=FAULTS_FROM_S - 0.2)
        client = world.start("client", "", lambda _: load.run())
        for _ in range(self._random.randint(1, 5)):
            at = self._random.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S)
            for _ in range(self._random.choice((1, 1, 2))):
                world.at(at + self._random.choice((0.0, 0.001, 0.02, 0.3)), self._fault)
        world.at(FAULTS_UNTIL_S, self._no_more)
        world.run(until=HEALED_AT_S, done=lambda: client.is_dead and not self._acting)
        return self.judge(client, seed, shape, by_s=END_BY_S)

    def judge(self, client: Process, seed: int, shape: str, *, by_s: float) -> Outcome:
        """Let everything end, and look at what has not, and at what is left."""
        world, load = self._world, self._load
        problems = []
        if not world.run(until=by_s, done=lambda: client.is_dead):
            problems += [
                f"{asked.request_ids} has not ended: {asked.state}, {len(asked.token_ids)} of {asked.max_tokens}"
                for asked in load.live
            ]
        ended_at = world.now
        problems += load.problems
        ends_at = world.now + EMPTY_BY_S
        while True:
            world.run(until=world.now + LOOK_AGAIN_S)
            held = self._held()
            if not held or world.now >= ends_at:
                break
        problems += held
        problems += world.problems
        self._stack.is_over = True
        return Outcome(
            seed=seed,
            shape=shape,
            num_requests=load.num_requests,
            num_ended=load.num_ended,
            num_cancelled=load.num_cancelled,
            num_tokens=load.num_tokens,
            num_restarts=self._stack.num_restarts,
            ended_at=ended_at,
            recovery_s=max(ended_at - self._disturbed_at, 0.0),
            longest_wait_s=load.longest_wait_s,
            ledger=self._ledger,
            problems=problems,
            schedule=self._schedule,
        )

    def _no_more(self) -> None:
        self._load.is_over = True

    # --- faults -------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        rng = self._random
        if rng.random() < 0.35:
            self._link_fault()
            return
        what = rng.choice(("leader", "scheduler", "gateway", "worker", "worker"))
        if what == "leader":
            leader = self._stack.leader()
            if leader is None:
                return
            member = leader
        else:
            roles = ("prefill", "decode", "aggregated") if what == "worker" else (what,)
            member = rng.choice(self._stack.of(*roles))
        others = [
            one
            for one in self._stack.of("gateway")
            if one is not member and one.is_whole and f"client to {one.name}" not in self._acting
        ]
        process = member.process
        if process is None or process.is_stopped or (member.role == "gateway" and not others):
            return
        if member.role == "gateway" and any(name.startswith("gateway") for name in self._acting):
            return
        kind = rng.choice((*PROCESS_KINDS, "rank lost") if process.engine is not None else PROCESS_KINDS)
        self._count(kind, "leader" if what == "leader" else member.role, member)
        match kind:
            case "killed":
                process.die()
            case "rank lost":
                process.loop.call_soon(process.engine.fail, RANK_LOST)
            case "terminated":
                if member.drain is not None:
                    drain = member.drain
                    process.loop.call_soon(drain.request, "SIGTERM")
            case "stopped":
                process.is_stopped = True
                seconds = rng.choice(STOPS_S)
                self._act(member.name, f"{kind} {member.role}", seconds, lambda: _go_on(member))

    def _link_fault(self) -> None:
        rng, network = self._random, self._stack.network
        source, host = rng.choice(sorted(network.links))
        target = network.names[host]
        if source == "client" and any(name.startswith("client") for name in self._acting):
            return
        if source == "client" and sum(one.is_whole for one in self._stack.of("gateway")) < 2:
            return
        link = network.links[source, host]
        kind = rng.choice(LINK_KINDS)
        end = self._stack.members[target if source == "client" else source]
        source_role = end.role if source != "client" else "client"
        self._count(kind, f"link {source_role} to {self._stack.members[target].role}", end)
        seconds = rng.choice(STOPS_S)
        match kind:
            case "cut":
                link.cut(for_good=rng.random() < 0.5)
            case "half open":
                link.cut(for_good=rng.random() < 0.5, unnoticed_s=seconds)
            case "slow":
                link.latency_s = rng.choice(LATENCIES_S) * 10
            case "silent":
                link.is_silent = True

        def mend() -> None:
            link.is_open, link.latency_s = True, 0.0005
            link.speak()

        self._act(f"{source} to {target}", f"{kind} link", seconds, mend)

    def _act(self, name: str, fault: str, seconds: float, undo: Any) -> None:
        self._acting[name] = fault

        def end() -> None:
            if self._acting.pop(name, None) is not None:
                self._schedule.append(f"{self._world.now:.4f} {name} no more {fault}")
                self._disturbed_at = self._world.now
                undo()

        self._world.at(min(self._world.now + seconds, HEALED_AT_S), end)

    def _count(self, kind: str, victim: str, member: Member) -> None:
        state = self._state(member)
        self._disturbed_at = self._world.now
        self._ledger.count(kind, victim, state)
        for other in self._acting.values():
            self._ledger.note_pair(f"{kind} {victim}", other)
        self._schedule.append(f"{self._world.now:.4f} {kind} {victim} {member.name}: {state}")

    def _state(self, member: Member) -> str:
        if member.is_draining:
            return "draining"
        leader = self._stack.leader()
        if leader is None:
            return "leader change"
        metrics = member.metrics(*EMPTY[member.component])
        if metrics is None:
            return "starting"
        if member.role == "gateway":
            return gateway_state(metrics)
        if member.role != "scheduler":
            return worker_state(metrics)
        if member is not leader:
            return "standby"
        waiting = metrics.value("hortator_scheduler_waiting_requests")
        return "held" if waiting else "in flight" if self._load.live else "idle"

    # --- what is left -------------------------------------------------------------------------------------

    def _held(self) -> list[str]:
        found = []
        for member in self._stack.members.values():
            names = EMPTY[member.component]
            metrics = member.metrics(*names)
            if metrics is None:
                found.append(f"{member.name} is not there")
                continue
            found += [
                f"{member.name}: {name} is {value:g}" for name in names if (value := metrics.value(name))
            ]
        if self._stack.leader() is None:
            found.append("no scheduler leads")
        return found


def _go_on(member: Member) -> None:
    if member.process is not None:
        member.process.is_stopped = False

"""One seed of a time without schedulers: for ten seconds nobody leads, and gateways place by themselves.

Clients bring no idempotency keys (a request with one waits for a scheduler), so nothing happens to gateways and
their clients. Schedulers die, stop, or cannot be reached, all of them or some, again and again; workers die too.
The promises are those of every trial. One more: of a request at most one attempt is inside engines at a time.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

from chaos.load import Load

from hortator.client import Completion, Delta, GatewayClient
from hortator.worker.host import WorkerHost
from virtual import trial
from virtual.loops import VirtualLoop
from virtual.stack import Stack, virtual_service

BEGINS_AT_S, ENDS_AT_S = 3.5, 13.5
AWAY_S = (5.0, 10.0)
NUM_CLIENTS = (3, 8)
WAYS = ("killed", "killed", "stopped", "silent", "cut")


class KeylessLoad(Load):
    """Clients of gateways themselves; each of their calls goes to another one."""

    def _client(self) -> Any:
        return _Keyless(self._endpoints, self._random)


class _Keyless:
    def __init__(self, endpoints: list[str], rng: random.Random) -> None:
        self._clients = [GatewayClient(address) for address in endpoints]
        self._random = rng

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            await client.aclose()

    def generate(self, prompt: str, *, sampling: Any, **_: Any) -> AsyncGenerator[Delta | Completion, None]:
        return self._random.choice(self._clients).generate(prompt, sampling=sampling)


def run(seed: int) -> trial.Outcome:
    """Everything that follows from a seed."""
    rng = random.Random(seed)
    with (
        virtual_service(rng.getrandbits(32)) as stack,
        one_attempt_at_a_time(stack),
        patch.object(trial, "HEALED_AT_S", ENDS_AT_S),
    ):
        shape = trial.build(stack, rng)
        stack.restart_s["scheduler"] = AWAY_S
        load = KeylessLoad(
            stack.endpoints,
            seed=rng.getrandbits(32),
            num_clients=rng.randint(*NUM_CLIENTS),
            longest_tokens=trial.LONGEST_TOKENS,
        )
        return Unled(stack, load, rng).run(seed, shape)


def run_without_the_only_scheduler(seed: int) -> trial.Outcome:
    """It dies, and comes back after ten seconds; nothing else happens. For seeds with one scheduler."""
    rng = random.Random(seed)
    with virtual_service(rng.getrandbits(32)) as stack, one_attempt_at_a_time(stack):
        shape = trial.build(stack, rng)
        stack.restart_s["scheduler"] = (ENDS_AT_S - BEGINS_AT_S,) * 2
        load = KeylessLoad(stack.endpoints, seed=seed, num_clients=4, longest_tokens=trial.LONGEST_TOKENS)
        return Unled(stack, load, rng).without_the_only_scheduler(seed, shape)


@contextmanager
def one_attempt_at_a_time(stack: Stack) -> Iterator[None]:
    """Every submission is looked at: no other attempt of its request may live anywhere."""
    submit, hosts = WorkerHost.submit, {}

    def looked_at(host: WorkerHost, link: Any, submission: Any) -> None:
        loop = host._loop
        assert isinstance(loop, VirtualLoop)
        hosts[host] = loop.process
        request_id = submission.key[0]
        for other, process in hosts.items():
            live = other._newest.get(request_id)
            if live is not None and not (process.is_dead or other._is_over or live.is_aborted):
                stack.world.problems.append(f"{live.key} lives on {process.name}, {submission.key} begins")
        submit(host, link, submission)

    with patch.object(WorkerHost, "submit", looked_at):
        yield


class Unled(trial.Trial):
    """The same promises, without anybody who leads."""

    def run(self, seed: int, shape: str) -> trial.Outcome:
        """Schedulers go, one after the other or all at once, and come back."""
        world, rng = self._world, self._random
        world.run(until=BEGINS_AT_S - 0.7)
        client = world.start("client", "", lambda _: self._load.run())
        for member in self._stack.of("scheduler"):
            at = BEGINS_AT_S + rng.choice((0.0, 0.0, 0.1, 1.0, 3.0))
            way = rng.choice(WAYS)
            world.at(at, lambda member=member, way=way: self._take_away(member, way))
        for _ in range(rng.choice((0, 0, 1, 2, 4))):
            world.at(rng.uniform(BEGINS_AT_S, ENDS_AT_S), self._disturb)
        world.at(ENDS_AT_S + 1.0, self._no_more)
        world.run(until=ENDS_AT_S)
        return self.judge(client, seed, shape, by_s=ENDS_AT_S + trial.END_BY_S)

    def without_the_only_scheduler(self, seed: int, shape: str) -> trial.Outcome:
        """It dies once."""
        world = self._world
        world.run(until=BEGINS_AT_S - 0.5)
        (only,) = self._stack.of("scheduler")
        client = world.start("client", "", lambda _: self._load.run())
        world.at(BEGINS_AT_S, lambda: self._take_away(only, "killed"))
        world.at(ENDS_AT_S - 0.5, self._no_more)
        world.run(until=ENDS_AT_S)
        return self.judge(client, seed, shape, by_s=ENDS_AT_S + trial.END_BY_S)

    def _take_away(self, member: trial.Member, way: str) -> None:
        process, rng, its_links = member.process, self._random, f"links to {member.name}"
        if process is None or process.is_stopped or its_links in self._acting:
            return
        seconds = rng.uniform(0.2, ENDS_AT_S - self._world.now)
        self._count(way, "scheduler", member)
        links = [link for (_, host), link in self._stack.network.links.items() if host == member.host]
        if way == "killed":
            process.die()
        elif way == "stopped":
            process.is_stopped = True
            self._act(member.name, f"{way} scheduler", seconds, lambda: trial._go_on(member))
        else:
            chosen = links if rng.random() < 0.6 else rng.sample(links, rng.randint(1, len(links)))
            for link in chosen:
                if way == "cut":
                    link.cut(for_good=True)
                else:
                    link.is_silent = True

            def mend() -> None:
                for link in chosen:
                    link.is_open = True
                    link.speak()

            self._act(its_links, f"{way} links", seconds, mend)

    def _disturb(self) -> None:
        """A worker dies, or a scheduler that is back goes again."""
        rng = self._random
        if rng.random() < 0.5:
            self._take_away(rng.choice(self._stack.of("scheduler")), rng.choice(WAYS))
            return
        member = rng.choice(self._stack.of("prefill", "decode", "aggregated"))
        if member.process is not None and not member.is_draining:
            self._count("killed", member.role, member)
            member.process.die()

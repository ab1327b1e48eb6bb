"""A process per node of a network of our own: nodes that vanish without a word, links that lose and delay.

Nobody is told of anything: no RST comes and no interface goes down, so whoever waits has to notice by itself.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from group_processes import Process, processes
from live_stack import START_TIMEOUT_S, Metrics, wait_until
from wires import Wire, switched, why_not

from hortator.client import Client, Completion, Sampling
from hortator.client.gateway import PING_EVERY_S, PING_TIMEOUT_S

SCHEDULERS = ("scheduler-0", "scheduler-1")
WORKERS = ("worker-0", "worker-1", "worker-2")
GATEWAYS = ("gateway-0", "gateway-1")
ENGINE = {"dp_size": 2, "kv_blocks_total": 1000, "time_scale": 0.25, "vocab_size": 127, "first_token_id": 32}
NUM_CLIENTS = 6
NUM_TOKENS = 60
LIMIT_S = 5.0
"""Seconds that anybody waits for a next token when a node is lost."""
NOTICED_S = PING_EVERY_S + PING_TIMEOUT_S
"""A client notices that its gateway is gone."""
GATEWAY_AWAY_S = 9.0
"""Longer than any client may wait: a gateway that comes back would hide that nobody has noticed."""
MARGIN = 1.5
"""Over the limit: the machine that runs this is busy with other tests."""


@dataclass
class Service:
    """Two schedulers, three workers and two gateways, each on a node of its own."""

    wires: dict[str, Wire]
    processes: dict[str, Process]

    def metrics(self, name: str) -> Metrics:
        return Metrics(self.processes[name].metrics())

    def leaders(self) -> list[str]:
        return [name for name in SCHEDULERS if self.metrics(name).value("hortator_scheduler_is_leader") == 1]

    def leader(self) -> str:
        wait_until(lambda: len(self.leaders()) == 1, what="one leader")
        return self.leaders()[0]

    def num_ready(self) -> int:
        """Workers that may be given work, or run something, as the leader says."""
        metrics = self.metrics(self.leader())
        states = ("ready", "running")
        return int(sum(metrics.value("hortator_scheduler_workers", state=state) for state in states))

    def num_ended(self, worker: str) -> float:
        """Requests that have ended on a worker."""
        series = self.metrics(worker).samples
        return sum(one.value for one in series if one.name == "hortator_worker_ended_requests_total")

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each process."""
        pages = {
            name: int(Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1])
            for name, process in self.processes.items()
        }
        return {name: number * resource.getpagesize() for name, number in pages.items()}

    def endpoints(self) -> list[str]:
        return [self.processes[name].address() for name in GATEWAYS]

    def is_whole(self) -> bool:
        return all(process.readyz()[0] == 200 for process in self.processes.values())


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("nodes")
    with switched(*SCHEDULERS, *WORKERS, *GATEWAYS) as wires, processes(folder) as starter:
        schedulers = [f"{wires[name].address}:7070" for name in SCHEDULERS]
        started: dict[str, Process] = {}

        def start(name: str, **settings: object) -> None:
            wire = wires[name]
            component = name.partition("-")[0]
            started[name] = starter.start(component, host=wire.address, within=wire.command(), **settings)

        for name in SCHEDULERS:
            start(name, port=7070, standby=True)
        for name in WORKERS:
            start(name, worker_id=name, scheduler_addresses=schedulers, engine_options=ENGINE)
        for name in GATEWAYS:
            start(
                name,
                port=8080,
                model="m",
                max_sequence_tokens=4096,
                tokenizer="bytes",
                scheduler_addresses=schedulers,
            )
        service = Service(wires, started)
        wait_until(service.is_whole, timeout=START_TIMEOUT_S, what="all processes")
        yield service


@dataclass
class Answer:
    """One generation as its client sees it."""

    prompt: str
    asked_at: float
    times: list[float] = field(default_factory=list)
    """When something came."""
    token_ids: list[int] = field(default_factory=list)
    completion: Completion | None = None

    def longest_wait_s(self) -> float:
        """For the first token or any other."""
        times = [self.asked_at, *self.times]
        return max(later - earlier for earlier, later in pairwise(times))


class Load:
    """Clients that ask again and again until the load ends."""

    def __init__(self, endpoints: list[str]) -> None:
        self.answers: list[Answer] = []
        self._endpoints = endpoints
        self._is_over = False

    async def run(self, num_clients: int = NUM_CLIENTS) -> None:
        async with Client(self._endpoints) as client, asyncio.TaskGroup() as tasks:
            for number in range(num_clients):
                tasks.create_task(self._ask(client, number))

    def end(self) -> None:
        """Let what is asked be answered."""
        self._is_over = True

    async def _ask(self, client: Client, number: int) -> None:
        sampling = Sampling(max_tokens=NUM_TOKENS, ignore_eos=True)
        while not self._is_over:
            answer = Answer(f"client {number}", time.monotonic())
            self.answers.append(answer)
            async for event in client.generate(answer.prompt, sampling=sampling):
                answer.times.append(time.monotonic())
                if isinstance(event, Completion):
                    answer.completion = event
                    continue
                assert event.token_index == len(answer.token_ids)
                answer.token_ids += event.token_ids

    def check(self) -> None:
        """Everybody has got everything, the same as ever."""
        expected: dict[str, list[int]] = {}
        for answer in self.answers:
            assert answer.completion is not None
            assert len(answer.token_ids) == NUM_TOKENS
            assert answer.token_ids == expected.setdefault(answer.prompt, answer.token_ids)

    def shortest_s(self) -> float:
        """What an undisturbed answer takes."""
        return min(answer.times[-1] - answer.asked_at for answer in self.answers)

    def num_replacements(self) -> int:
        return sum(answer.completion.num_replacements for answer in self.answers if answer.completion)


@asynccontextmanager
async def loaded(service: Service) -> AsyncIterator[Load]:
    """Clients ask while the block runs, and each prompt was answered once before."""
    load = Load(service.endpoints())
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        while sum(answer.completion is not None for answer in load.answers) < NUM_CLIENTS:
            await asyncio.sleep(0.02)
        yield load
        load.end()
    load.check()


def longest_wait_s(answers: Iterable[Answer]) -> float:
    return max(answer.longest_wait_s() for answer in answers)


@pytest.mark.parametrize("way", ["either way", "from it"])
async def test_the_leaders_node_vanishes_and_comes_back_as_a_standby(service, way):
    """Also if it hears all others, and only nobody hears it."""
    leader = await asyncio.to_thread(service.leader)
    [other] = set(SCHEDULERS) - {leader}
    wire = service.wires[leader]
    async with loaded(service) as load:
        wire.hears, wire.is_heard = way == "from it", False
        await asyncio.sleep(3.5)
        wire.mend()
    print(f"no packet {way}: nobody waited longer than {longest_wait_s(load.answers):.2f} s")
    assert longest_wait_s(load.answers) < LIMIT_S * MARGIN
    await asyncio.to_thread(wait_until, lambda: service.leaders() == [other], what="one that stands by")


async def test_a_workers_node_vanishes_its_streams_go_on_elsewhere_and_it_is_taken_back(service):
    async with loaded(service) as load:
        service.wires["worker-0"].cut()
        await asyncio.sleep(LIMIT_S)
        service.wires["worker-0"].mend()
    print(f"nobody waited longer than {longest_wait_s(load.answers):.2f} s")
    assert longest_wait_s(load.answers) < LIMIT_S * MARGIN
    assert 0 < load.num_replacements() <= 2 * NUM_CLIENTS
    await asyncio.to_thread(wait_until, lambda: service.num_ready() == len(WORKERS), what="three workers")
    before = service.num_ended("worker-0")
    async with loaded(service) as load:
        pass
    assert service.num_ended("worker-0") > before


async def test_a_gateways_node_vanishes_and_its_clients_go_on_at_the_other(service):
    """What had ended at its worker by then, with words that never came, is generated again before it goes on."""
    async with loaded(service) as load:
        service.wires["gateway-0"].cut()
        await asyncio.sleep(GATEWAY_AWAY_S)
        service.wires["gateway-0"].mend()
    print(f"nobody waited longer than {longest_wait_s(load.answers):.2f} s")
    assert longest_wait_s(load.answers) < (NOTICED_S + load.shortest_s()) * MARGIN
    await asyncio.to_thread(wait_until, service.is_whole, what="both gateways")


async def test_clients_of_a_gateway_that_was_stopped_go_on_at_the_other(service):
    """Its kernel still answers for it: only pings tell."""
    async with loaded(service) as load:
        service.processes["gateway-1"].kill(signal.SIGSTOP)
        try:
            await asyncio.sleep(GATEWAY_AWAY_S)
        finally:
            service.processes["gateway-1"].kill(signal.SIGCONT)
    print(f"nobody waited longer than {longest_wait_s(load.answers):.2f} s")
    assert longest_wait_s(load.answers) < (NOTICED_S + load.shortest_s()) * MARGIN


async def test_a_link_that_loses_and_delays_costs_no_request_and_no_worker(service):
    """5 % of the packets are lost, each way, and the others 50 ms late."""
    leader = await asyncio.to_thread(service.leader)
    lost = service.metrics(leader).value("hortator_scheduler_workers_lost_total")
    memory = service.memory_bytes()
    before = service.num_ended("worker-1")
    wire = service.wires["worker-1"]
    wire.loss, wire.delay_s = 0.05, 0.05
    async with loaded(service) as load:
        await asyncio.sleep(3.0)
    wire.mend()
    assert service.num_ended("worker-1") > before
    print(f"nobody waited longer than {longest_wait_s(load.answers):.2f} s; {wire.num_lost} packets lost")
    assert {answer.completion.num_replacements for answer in load.answers} <= {0, 1}
    assert longest_wait_s(load.answers) < LIMIT_S
    assert service.metrics(leader).value("hortator_scheduler_workers_lost_total") == lost
    assert service.metrics(leader).value("hortator_scheduler_waiting_requests") == 0
    grown = {name: service.memory_bytes()[name] - memory[name] for name in memory}
    assert max(grown.values()) < 32 << 20, grown


def test_afterwards_nothing_is_left(service):
    """No request, no orphan, no block of KV."""
    leader = service.leader()
    for name in ("in_flight_requests", "waiting_requests", "rank_kv_blocks_used", "rank_batch_size"):
        wait_until(
            lambda name=name: service.metrics(leader).value(f"hortator_scheduler_{name}") == 0, what=name
        )
    for worker in WORKERS:
        wait_until(
            lambda name=worker: service.metrics(name).value("hortator_worker_orphans") == 0, what=worker
        )
    for gateway in GATEWAYS:
        assert service.metrics(gateway).value("hortator_gateway_in_flight") == 0

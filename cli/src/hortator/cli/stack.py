"""One stack on one machine: scheduler, one worker per EP group, gateways; started in order, stopped in order.

    start:  scheduler (or several) -> workers (together) -> gateways -> every EP group known to the scheduler
    stop:   gateways (finish what they hold) -> schedulers -> workers

A worker that dies is started again: on one machine that is what the restart of an EP group is. Its requests
are placed again by the gateway and go on after the tokens already sent. A gateway that dies is started again
under its old address; until then clients go on at another one, if there is one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hortator.api.arithmetic import num_groups
from hortator.api.v1alpha1 import LLMService
from hortator.cli import process_settings
from hortator.cli.admin.leader import leading_snapshot
from hortator.cli.errors import EXIT_FAILED, CommandError
from hortator.cli.processes import Child, ProcessChanged, ProcessSpec
from hortator.cli.running import RunningStack, write_stack
from hortator.runtime.lifecycle import Drain

START_TIMEOUT_S = 180.0
"""From the first process to the last EP group known to the scheduler."""
JOIN_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What the command line adds to an LLMService."""

    port: int = 0
    """Of the public gRPC API; 0 lets the kernel choose. Of several gateways the first has it."""
    num_gateways: int = 1
    log_level: str = "INFO"
    record_to: Path | None = None
    """Where the scheduler records its events for `hortator replay`; None: nowhere."""
    num_schedulers: int = 1
    """More than one: they find out who leads, and the others stand by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the start of a stack waits for now."""

    for_what: str


StackEvent = ProcessChanged | Waiting


class StartAbandonedError(Exception):
    """The start of a stack was given up on request."""


class Stack:
    """The processes of one LLMService. Use `running_stack`, or `start`, `watch` and `stop` in that order."""

    def __init__(
        self,
        service: LLMService,
        *,
        folder: Path,
        options: StackOptions,
        on_event: Callable[[StackEvent], None],
    ) -> None:
        self.service = service
        self._folder = folder
        self._options = options
        self._on_event = on_event
        self._is_published = False
        self.schedulers = [
            self._child(name, "hortator.scheduler", partial(self._scheduler_settings, index))
            for index, name in enumerate(scheduler_names(self._options.num_schedulers))
        ]
        self.workers = [
            self._child(name, "hortator.worker", partial(self._worker_settings, name, role))
            for name, role in group_names(service)
        ]
        names = ["gateway", *(f"gateway-{number}" for number in range(2, self._options.num_gateways + 1))]
        self.gateways = [
            self._child(name, "hortator.gateway", partial(self._gateway_settings, index))
            for index, name in enumerate(names)
        ]

    @property
    def children(self) -> list[Child]:
        """In the order of the start."""
        return [*self.schedulers, *self.workers, *self.gateways]

    @property
    def gateway(self) -> Child:
        """The first gateway."""
        return self.gateways[0]

    @property
    def scheduler(self) -> Child:
        """The first scheduler; the leader if it is the only one."""
        return self.schedulers[0]

    @property
    def scheduler_addresses(self) -> tuple[str, ...]:
        """host:port of every scheduler."""
        return tuple(child.address for child in self.schedulers)

    @property
    def endpoint(self) -> str:
        """host:port of the public gRPC API."""
        return self.gateway.address

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of every gateway."""
        return tuple(gateway.address for gateway in self.gateways)

    def running(self) -> RunningStack:
        """The stack as `stack.json` names it."""
        return RunningStack(
            name=self.service.metadata.name,
            pid=os.getpid(),
            model=self.service.model_name,
            endpoint=self.endpoint,
            endpoints=self.endpoints,
            scheduler=self.scheduler.address,
            processes=tuple(child.running() for child in self.children),
        )

    async def start(self, tasks: asyncio.TaskGroup, drain: Drain) -> None:
        """Start everything and return once requests can be served.

        Raises:
            CommandError: a process ended at its start (raised by its task, through `tasks`), or the start
            took longer than START_TIMEOUT_S. StartAbandonedError: a drain was requested before.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                starting = tasks.create_task(self._start_all(tasks))
                waiting = tasks.create_task(drain.wait())
                await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not starting.done():
                    starting.cancel()
                    raise StartAbandonedError
                await starting
        except TimeoutError:
            raise CommandError(
                f"not ready after {START_TIMEOUT_S:g} s (logs: {self._folder / 'logs'})",
                exit_code=EXIT_FAILED,
            ) from None
        self._is_published = True
        write_stack(self._folder, self.running())

    async def stop(self) -> None:
        """Drain in order; returns when no process is left."""
        self._is_published = False
        try:
            async with asyncio.TaskGroup() as tasks:
                for gateway in self.gateways:
                    tasks.create_task(gateway.stop())
            for scheduler in self.schedulers:
                await scheduler.stop()
            async with asyncio.TaskGroup() as tasks:
                for worker in self.workers:
                    tasks.create_task(worker.stop())
        finally:
            self.kill()

    def kill(self) -> None:
        """End every process now."""
        for child in self.children:
            child.kill()

    async def _start_all(self, tasks: asyncio.TaskGroup) -> None:
        for stage in (self.schedulers, self.workers, self.gateways):
            for child in stage:
                tasks.create_task(child.keep_running(), name=child.name)
            await asyncio.sleep(0)  # each says that it starts before anybody waits for it
            await self._all_ready(stage)
        await self._all_joined()

    async def _all_ready(self, children: list[Child]) -> None:
        said: list[str] = []
        for child in children:
            missing = [one.name for one in children if not one.is_ready]
            if missing not in ([], said):
                said = missing
                self._on_event(Waiting(for_what=", ".join(missing)))
            await child.wait_ready()

    async def _all_joined(self) -> None:
        """Every worker has reported to the scheduler that leads, and the gateways have found it."""
        self._on_event(Waiting(for_what="every EP group to report to the scheduler"))
        while True:
            snapshot = await leading_snapshot(self.scheduler_addresses)
            if snapshot is not None:
                reported = {group.worker_id for group in snapshot.groups if group.state != "unreported"}
                is_found = snapshot.num_gateways >= len(self.gateways)
                if is_found and reported >= {worker.name for worker in self.workers}:
                    return
            await asyncio.sleep(JOIN_POLL_S)

    def _child(self, name: str, module: str, settings: Callable[[], Mapping[str, object]]) -> Child:
        return Child(
            spec=ProcessSpec(name=name, module=module, settings=settings),
            folder=self._folder,
            on_change=self._on_change,
        )

    def _on_change(self, change: ProcessChanged) -> None:
        if self._is_published:
            write_stack(self._folder, self.running())
        self._on_event(change)

    def _scheduler_settings(self, index: int) -> Mapping[str, object]:
        record_to = self._options.record_to
        if record_to is not None and index:
            record_to = record_to.with_stem(f"{record_to.stem}-{index}")
        return process_settings.scheduler(
            self.service,
            port=_port_of(self.schedulers[index]),
            standby=len(self.schedulers) > 1,
            log_level=self._options.log_level,
            record_to=record_to,
        )

    def _worker_settings(self, name: str, role: str) -> Mapping[str, object]:
        return process_settings.worker(
            self.service,
            role_name=role,
            worker_id=name,
            scheduler_addresses=self.scheduler_addresses,
            log_level=self._options.log_level,
        )

    def _gateway_settings(self, index: int) -> Mapping[str, object]:
        return process_settings.gateway(
            self.service,
            port=_port_of(self.gateways[index]) or (0 if index else self._options.port),
            scheduler_addresses=self.scheduler_addresses,
            log_level=self._options.log_level,
        )


@asynccontextmanager
async def running_stack(
    service: LLMService,
    *,
    folder: Path,
    options: StackOptions | None = None,
    on_event: Callable[[StackEvent], None] = lambda _event: None,
    drain: Drain | None = None,
) -> AsyncIterator[Stack]:
    """A served LLMService for the length of a `with` block; nothing is left of it afterwards.

    A drain that is requested later does not end the block: the block waits for it where it can stop.

    Raises:
        CommandError: it did not start.
        StartAbandonedError: a drain was requested before it served.
    """
    stack = Stack(service, folder=folder, options=options or StackOptions(), on_event=on_event)
    try:
        async with asyncio.TaskGroup() as tasks:
            await stack.start(tasks, drain or Drain())
            try:
                yield stack
            except asyncio.CancelledError:
                stack.kill()
                raise
            except BaseException:
                await stack.stop()
                raise
            await stack.stop()
    except BaseExceptionGroup as group:
        expected = group.subgroup((CommandError, StartAbandonedError))
        if expected is None:
            raise
        raise _first(expected) from None
    finally:
        stack.kill()


def group_names(service: LLMService) -> Iterator[tuple[str, str]]:
    """(worker id, role name) of every EP group: `prefill-0`, `prefill-1`, `decode-0`."""
    for role in service.spec.roles:
        for index in range(num_groups(service, role)):
            yield f"{role.name.lower()}-{index}", role.name


def scheduler_names(num_schedulers: int) -> list[str]:
    """`scheduler`, or `scheduler-0`, `scheduler-1` when there are several."""
    if num_schedulers == 1:
        return ["scheduler"]
    return [f"scheduler-{index}" for index in range(num_schedulers)]


def with_policy(service: LLMService, policy: str | None) -> LLMService:
    """The service with another policy; None changes nothing."""
    if policy is None:
        return service
    scheduler = service.spec.scheduler.model_copy(update={"policy": policy})
    return service.model_copy(update={"spec": service.spec.model_copy(update={"scheduler": scheduler})})


def _port_of(child: Child) -> int:
    """The port of an earlier life, so that a restart keeps the address that others know."""
    return int(child.address.rpartition(":")[2]) if child.address else 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

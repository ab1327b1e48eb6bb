"""A load on a service and what happens to its pods and groups meanwhile, told by one clock: for tests of what a client sees.

One process, so that "the last request had ended when the pod was deleted" is a comparison of two numbers. It
writes a JSON line per happening, each with `at` (seconds, monotonic) and `what`:

    sent, first, done, failed   a request: sent, its first tokens, its end; `via` is the gateway it was sent to
    over                        nothing more will be sent
    workers                     the scheduler's view of every worker, whenever it has changed
    pod                         what matters of a pod, whenever that has changed

The load is open-loop: a request is sent when its time has come, whatever has become of the others. SIGUSR1 ends
it (what streams goes on), SIGTERM ends the process.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.fakenodes.api import Api
from cluster.kube import is_ready
from hortator.cli.admin.client import AdminClient
from hortator.cli.errors import CommandError
from hortator.cli.inference.client import InferenceClient
from hortator.cli.inference.options import GenerateOptions
from hortator.client import Completion, Delta

Obj = dict[str, Any]
COMPONENT, EPOCH = "app.kubernetes.io/component", "serving.hortator.dev/epoch"
SCHEDULER_PORT = 7070
SNAPSHOT_S = 0.1
AWAY_S = 1.0
"""A snapshot that takes longer is given up: the scheduler is gone, another one is asked."""


def say(what: str, **fields: object) -> None:
    """One line."""
    print(json.dumps({"at": time.monotonic(), "what": what, **fields}), flush=True)


class Load:
    """Requests at a fixed rate, one gateway after the other."""

    def __init__(self, gateways: Sequence[str], *, rate: float, max_tokens: int) -> None:
        self._gateways = gateways
        self._interval_s = 1 / rate
        self._options = GenerateOptions(max_tokens=max_tokens, ignore_eos=True)
        self.is_over = asyncio.Event()

    async def run(self) -> None:
        """Until `is_over`, and then until every request has ended."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                (address, await stack.enter_async_context(InferenceClient(address)))
                for address in self._gateways
            ]
            async with asyncio.TaskGroup() as tasks:
                for request, (address, client) in enumerate(itertools.cycle(clients)):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(next_at):
                            await self.is_over.wait()
                    if self.is_over.is_set():
                        break
                    tasks.create_task(self._one(client, request, address))
                    next_at += self._interval_s
                say("over")

    async def _one(self, client: InferenceClient, request: int, via: str) -> None:
        say("sent", request=request, via=via)
        stream = Stream()
        try:
            async for event in client.generate(f"request number {request} of the load", self._options):
                if stream.num_tokens == 0:
                    say("first", request=request)
                stream.take(event)
        except CommandError as error:
            stream.fault = stream.fault or str(error)
        ended = {"request": request, "via": via, "num_tokens": stream.num_tokens}
        problem = stream.problem(self._options.max_tokens)
        if problem:
            say("failed", **ended, error=problem)
        else:
            say("done", **ended, num_replacements=stream.num_replacements)


class Stream:
    """One answer: is every token there, once and in order?"""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.num_replacements = 0
        self.is_complete = False
        self.fault = ""
        """The first thing that was wrong with it."""

    def take(self, event: Delta | Completion) -> None:
        """What the gateway sent next."""
        match event:
            case Delta(token_index=index, token_ids=token_ids):
                if index != self.num_tokens and not self.fault:
                    self.fault = f"token {index} came instead of {self.num_tokens}"
                self.num_tokens += len(token_ids)
            case Completion(num_replacements=num_replacements):
                self.is_complete = True
                self.num_replacements = num_replacements

    def problem(self, num_wanted: int) -> str:
        """Why it is not a whole answer of so many tokens; empty: it is."""
        if self.fault:
            return self.fault
        if not self.is_complete:
            return f"no completion after {self.num_tokens} tokens"
        return "" if self.num_tokens == num_wanted else f"{self.num_tokens} tokens instead of {num_wanted}"


class Pods:
    """What is known of a namespace's pods."""

    def __init__(self) -> None:
        self._said: dict[str, Obj] = {}

    async def watch(self, api: Api, namespace: str) -> None:
        """Say every change, until cancelled."""
        async for event, obj in api.watch(f"/api/v1/namespaces/{namespace}/pods"):
            for pod in obj["items"] if event == "LISTED" else [obj]:
                self._see(pod, is_gone=event == "DELETED")

    def scheduler(self) -> str | None:
        """Where the scheduler that runs now listens."""
        for pod in self._said.values():
            is_here = pod["component"] == "scheduler" and not pod["gone"] and not pod["deleting"]
            if is_here and pod["ip"]:
                return f"{pod['ip']}:{SCHEDULER_PORT}"
        return None

    def _see(self, pod: Obj, *, is_gone: bool) -> None:
        metadata, labels = pod["metadata"], pod["metadata"].get("labels", {})
        statuses = pod.get("status", {}).get("containerStatuses", [])
        seen = {
            "name": metadata["name"],
            "uid": metadata["uid"],
            "component": labels.get(COMPONENT, ""),
            "epoch": labels.get(EPOCH, ""),
            "node": pod["spec"].get("nodeName", ""),
            "ip": pod.get("status", {}).get("podIP", ""),
            "ready": is_ready(pod),
            "deleting": "deletionTimestamp" in metadata,
            "gone": is_gone,
            "restarts": sum(status.get("restartCount", 0) for status in statuses),
        }
        if self._said.get(metadata["uid"]) != seen:
            self._said[metadata["uid"]] = seen
            say("pod", **seen)


async def watch_workers(pods: Pods) -> None:
    """Say what the scheduler knows of its workers whenever that has changed, until cancelled."""
    said: Obj | None = None
    while True:
        address = pods.scheduler()
        if address is None:
            await asyncio.sleep(SNAPSHOT_S)
            continue
        with contextlib.suppress(CommandError, TimeoutError):
            async with AdminClient(address) as client:
                while pods.scheduler() == address:
                    async with asyncio.timeout(AWAY_S):
                        snapshot = await client.snapshot()
                    seen = {
                        group.worker_id: {
                            "boot": group.boot_id,
                            "draining": group.is_draining,
                            "acknowledged": group.drain_acknowledged,
                            "in_flight": group.num_in_flight,
                        }
                        for group in snapshot.groups
                    }
                    if seen != said:
                        said = seen
                        say("workers", workers=seen)
                    await asyncio.sleep(SNAPSHOT_S)
        await asyncio.sleep(SNAPSHOT_S)


async def _run(arguments: argparse.Namespace) -> None:
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    load = Load(arguments.gateway, rate=arguments.rate, max_tokens=arguments.max_tokens)
    loop.add_signal_handler(signal.SIGUSR1, load.is_over.set)
    loop.add_signal_handler(signal.SIGTERM, me.cancel)
    pods = Pods()
    async with Api(arguments.kubeconfig) as api, asyncio.TaskGroup() as tasks:
        tasks.create_task(pods.watch(api, arguments.namespace))
        tasks.create_task(watch_workers(pods))
        tasks.create_task(load.run())
        say("ready")


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(prog="cluster.witness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--gateway", action="append", required=True, help="host:port; may be given again")
    parser.add_argument("--rate", type=float, required=True, help="requests per second, over all gateways")
    parser.add_argument("--max-tokens", type=int, required=True, help="of every request")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

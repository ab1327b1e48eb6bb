"""Runs the fake nodes until SIGTERM; says `ready` on standard output once all of them are registered."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from cluster.fakenodes import control, logs
from cluster.fakenodes.api import Api
from cluster.fakenodes.kubelet import Kubelet
from cluster.fakenodes.nodes import Heartbeats, Node, fleet
from cluster.fakenodes.player import Player
from cluster.fakenodes.process import ProcessPod
from cluster.fakenodes.scripted import ScriptedPod

Obj = dict[str, Any]


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="cluster.fakenodes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1, help="number of nodes")
    parser.add_argument("--prefix", default="node-", help="their names: PREFIX0, PREFIX1, ...")
    parser.add_argument("--first", type=int, default=0, help="the first number")
    parser.add_argument(
        "--label", action="append", default=[], help="KEY=VALUE; {i}, {i//4}: number of the node"
    )
    parser.add_argument(
        "--capacity", action="append", default=[], help="NAME=QUANTITY, e.g. nvidia.com/gpu=8"
    )
    parser.add_argument(
        "--mode", choices=["scripted", "process"], default="scripted", help="of pods without a script"
    )
    parser.add_argument("--folder", type=Path, required=True, help="control socket and logs")
    parser.add_argument("--api-port", type=int, default=6443, help="the API server as pods see it")
    parser.add_argument("--zone", default="cluster.local")
    parser.add_argument(
        "--cluster-ips", action="store_true", help="DNS answers Service addresses: kube-proxy runs"
    )
    parser.add_argument("--dns", action="store_true", help="serve DNS for pods")
    parser.add_argument("--tls", type=Path, help="NAME of NAME.crt and NAME.key: serve `kubectl logs`")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(arguments))
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    capacity = dict(entry.partition("=")[::2] for entry in arguments.capacity)
    nodes = fleet(
        count=arguments.count,
        prefix=arguments.prefix,
        labels=arguments.label,
        capacity=capacity,
        first=arguments.first,
    )

    def make(pod: Obj, node: Node, kubelet: Kubelet) -> Player:
        script = kubelet.script_of(pod)
        if script is None and arguments.mode == "process":
            folder = arguments.folder / "pods"
            port, zone = arguments.api_port, arguments.zone
            return ProcessPod(pod, node, kubelet, folder=folder, api_port=port, zone=zone)
        return ScriptedPod(pod, node, kubelet, script)

    async with Api(arguments.kubeconfig) as api:
        kubelet = Kubelet(api, {node.name: node for node in nodes}, make)
        heartbeats = Heartbeats(api, kubelet.nodes)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        server = await control.serve(control.Control(kubelet, heartbeats), arguments.folder / "control.sock")
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(server.close)
            if arguments.tls is not None:
                runner, port = await logs.serve(
                    kubelet,
                    certificate=arguments.tls.with_suffix(".crt"),
                    key=arguments.tls.with_suffix(".key"),
                )
                stack.push_async_callback(runner.cleanup)
                for node in nodes:
                    node.kubelet_port = port
            await heartbeats.register_all()
            running = [kubelet.run(), heartbeats.run()]
            print(json.dumps({"event": "ready", "nodes": list(kubelet.nodes)}), flush=True)
            tasks = [asyncio.ensure_future(work) for work in running]
            try:
                await asyncio.gather(*tasks)
            finally:
                for work in tasks:
                    work.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())

"""The lab by hand: `make lab` installs it, `make lab-shell` opens a shell in a cluster of its own."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster import installation
from cluster.controlplane import Lab, kubectl, running_lab
from cluster.fakenodes.client import running_fake_nodes
from cluster.processes import DIES_WITH_PARENT, LabError
from cluster.providers import choose
from cluster.truenode import running_true_node


def main() -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cluster", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install what is missing (asks first)")
    commands.add_parser("available", help="exit code 0: this machine can offer a cluster")
    shell = commands.add_parser(
        "shell", help="a shell with kubectl in a fresh cluster, gone when the shell ends"
    )
    shell.add_argument("--nodes", type=int, default=4, help="fake nodes with 8 GPUs each")
    shell.add_argument(
        "--mode", choices=["scripted", "process"], default="process", help="what their pods are"
    )
    shell.add_argument(
        "--true-node", action="store_true", help="one node with containerd and a kubelet as well"
    )
    shell.add_argument("--crd", type=Path, action="append", default=[], help="a file with CRDs to create")
    shell.add_argument("words", nargs=argparse.REMAINDER, help="a command instead of a shell, after --")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "install":
                return installation.install(ask=installation.may_change_this_machine)
            case "available":
                print(f"cluster: {choose().name}")
                return 0
            case _:
                return _shell(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _shell(arguments: argparse.Namespace) -> int:
    obstacle = installation.reason_it_cannot_run()
    if obstacle:
        raise LabError(f"{obstacle} (make lab)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        lab = stack.enter_context(running_lab())
        for path in arguments.crd:
            lab.apply_crd(path)
        if arguments.nodes:
            labels = ["topology.kubernetes.io/rack=rack-{i//4}"]
            nodes = running_fake_nodes(lab, arguments.nodes, mode=arguments.mode, labels=labels)
            stack.enter_context(nodes)
        if arguments.true_node:
            stack.enter_context(running_true_node(lab))
        return _run_inside(lab, [word for word in arguments.words if word != "--"])
    return 130


def _run_inside(lab: Lab, words: list[str]) -> int:
    path = f"{Path(kubectl()).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"KUBECONFIG": str(lab.kubeconfig), "PATH": path, "PS1": "lab$ "}
    if not words:
        print(f"KUBECONFIG={lab.kubeconfig}; logs in {lab.folder / 'logs'}; the cluster ends with this shell")
        words = ["bash", "--norc"]
    return subprocess.run([*DIES_WITH_PARENT, *words], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

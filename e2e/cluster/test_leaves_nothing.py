"""Whatever ends a lab, nothing of it stays on the machine: at once, or when the next lab starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.controlplane import E2E, PREFIX
from cluster.processes import wait_until
from cluster.sweep import CGROUPS, sweep

# Nobody else on this machine sleeps so long.
SLEEP = f"{5_000_000 + os.getpid()}"
# A pod on the true node and one of local processes, then the lab is left alone.
WORK = f"""
set -e
kubectl run real --image=docker.io/hortator-lab/busybox:1 --overrides='{{"spec":{{"nodeName":"true-node"}}}}' -- sleep {SLEEP}
kubectl run local --image=x --command --overrides='{{"spec":{{"nodeName":"node-0"}}}}' -- sleep {SLEEP}
kubectl wait --for=condition=Ready pod/real pod/local --timeout=120s >&2
echo "$KUBECONFIG"
exec sleep {SLEEP}
"""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shell(lab, tmp_path):  # the lab's session proves that labs can run here
    """A lab of its own with every kind of node at work; its process and its folder."""
    output = tmp_path / "output"
    command = [sys.executable, "-m", "cluster", "shell", "--nodes=1", "--true-node", "--", "sh", "-c", WORK]
    with output.open("w") as file:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(E2E)}, stdout=file, start_new_session=True
        )
    deadline = time.monotonic() + 180
    while PREFIX not in (text := output.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    line = next(line for line in text.splitlines() if PREFIX in line)
    folder = Path(line).parents[1]
    assert processes_of(folder)
    yield process, folder
    if process.poll() is None:
        process.kill()
        process.wait()


def processes_of(folder):
    """Processes that mention the folder, have it open, or are in its namespaces or cgroups."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "cgroup").read_bytes()
            except OSError:
                continue
            if folder.name.encode() in words or f"sleep\0{SLEEP}".encode() in words:
                found.append(words)
    return found


def things_of(folder):
    """What is not a process: mounts, namespaces, cgroups, files."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if folder.name in line]
    names = [path for path in Path("/run/netns").glob("*") if path.name == folder.name]
    cgroups = [path for path in [CGROUPS / folder.name, *CGROUPS.glob(f"*/{folder.name}")] if path.exists()]
    return [*mounts, *names, *cgroups, *([folder] if folder.exists() else [])]


def test_a_lab_that_is_told_to_end_leaves_nothing(shell):
    process, folder = shell
    process.send_signal(signal.SIGTERM)  # Ctrl-C takes the same way
    process.wait(40)
    wait_until(lambda: not processes_of(folder), what="its processes to be gone")
    assert things_of(folder) == []


def test_a_lab_that_is_killed_leaves_no_process_and_the_next_one_removes_the_rest(shell):
    process, folder = shell
    process.kill()
    process.wait()
    wait_until(lambda: not processes_of(folder), what="its processes to be gone")
    sweep(PREFIX)  # as the next lab does first
    assert things_of(folder) == []


def test_a_sweep_does_not_touch_a_lab_that_is_alive(lab):
    sweep(PREFIX)
    assert lab.folder.exists()
    assert lab.kubectl("get", "namespaces").stdout

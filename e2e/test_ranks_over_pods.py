"""A group of several pods whose ranks mpirun starts: two workers, sshd between them, and ranks that are processes.

TensorRT-LLM is played by its double, everything else is real. The same on pods: e2e/cluster/test_true_service.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from group_processes import Process, Starter, a_free_port, cleared
from live_stack import HORTATOR, wait_until

from doubles.trtllm import SITE, options
from hortator.cli.k8s.starting import last_words
from hortator.rpc.worker.v1 import worker_pb2 as pb
from hortator.rpc.worker.v1 import worker_pb2_grpc
from hortator.runtime.grpc_server import open_channel
from hortator.worker.launch.descendants import descendants

MISSING = [name for name in ("mpirun", "/usr/sbin/sshd", "ssh", "ssh-keygen") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here (make lab): {', '.join(MISSING)}")

EXIT_SETTINGS, EXIT_ENGINE_DEAD, EXIT_GROUP_BROKEN, EXIT_FENCED = 2, 70, 71, 72
ENGINE = options(phase="aggregated", tensor_parallel_size=4, moe_expert_parallel_size=4, gpus_per_node=2) | {
    "exit_grace_s": 20.0
}
MARK = "LAUNCH_TEST_MARK"


class Group(Starter):
    """Two pods of two GPUs; what they have started can be told from all else by a variable."""

    def __init__(self, folder: Path, mark: str) -> None:
        super().__init__(folder)
        self.mark = f"{MARK}={mark}".encode()

    def members(self, **settings: object) -> tuple[Process, Process]:
        first, second = (self.pod(ordinal, **settings) for ordinal in range(2))
        return first, second

    def pod(self, ordinal: int, **settings: object) -> Process:
        values = {
            "engine": "tensorrt_llm",
            "engine_options": ENGINE,
            "ssh_port": a_free_port(),
            "heartbeat_interval_s": 0.5,
            "heartbeat_timeout_s": 3.0,
        }
        return self.member(ordinal, **(values | settings))

    def alive(self) -> list[str]:
        """Command lines of everything that pods of this test have started and that runs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian makes it at boot; a sshd of root insists on it
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(SITE)]))
    monkeypatch.setenv("PATH", os.pathsep.join([str(SITE / "bin"), os.environ["PATH"]]))
    monkeypatch.setenv("TENSORRT_LLM_DOUBLE_TIME_SCALE", "0.01")
    # pods of one host name would take each other's shared memory for their own
    monkeypatch.setenv("OMPI_MCA_btl", "tcp,self")
    with cleared(Group(tmp_path, mark)) as starter:
        yield starter
    wait_until(lambda: not starter.alive(), timeout=20, what="nothing of the group survives")


def running(group: Group, **settings: object) -> tuple[Process, Process]:
    members = group.members(**settings)
    wait_until(
        lambda: all(one.readyz()[0] == 200 for one in members),
        timeout=30,
        what=str([m.readyz() for m in members]),
    )
    return members


def ranks_of(member: Process) -> list[int]:
    """Processes of ranks in a pod."""
    found = []
    for pid in sorted(descendants(member.popen.pid)):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if any(word.startswith("tensorrt_llm.llmapi.mgmn_") for word in words):
            found.append(pid)
    return found


def tokens(address: str, *, num: int) -> int:
    """How many come when that many are asked for."""

    async def ask() -> int:
        async with open_channel(address) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Submit()
            await call.write(pb.SubmitRequest(hello=pb.SubmitHello(gateway_id="g")))
            request = pb.SubmittedRequest(
                request_id="r1",
                mode=pb.MODE_AGGREGATED,
                dp_rank=3,
                prompt_token_ids=range(10),
                sampling=pb.Sampling(max_tokens=num, top_p=1, ignore_eos=True),
            )
            await call.write(pb.SubmitRequest(requests=[request]))
            found = 0
            async for response in call:
                found += sum(len(delta.token_ids) for delta in response.deltas)
                if response.completions:
                    break
            return found

    return asyncio.run(ask())


@contextlib.contextmanager
def a_mute_sshd() -> Iterator[int]:
    """Greets whoever comes, and that is all."""
    with socket.create_server(("127.0.0.13", 0)) as server:

        def greet() -> None:
            guests = []
            with contextlib.suppress(OSError):
                while True:
                    guests.append(server.accept()[0])
                    guests[-1].sendall(b"SSH-2.0-mute\r\n")

        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]


def test_ranks_run_in_both_pods_and_tokens_come(group):
    leader, member = running(group)
    assert len(ranks_of(leader)) == len(ranks_of(member)) == 2
    assert [line.split()[0] for line in leader.readyz()[1].splitlines()] == [
        "ok", "members_joined", "ranks_started", "engine_started", "reported",
    ]  # fmt: skip
    assert [line.split()[0] for line in member.readyz()[1].splitlines()] == [
        "ok",
        "members_joined",
        "engine_started",
    ]
    assert 'hortator_worker_startup_seconds{phase="ranks_started"}' in leader.metrics()
    assert tokens(leader.address(), num=40) == 40
    leader.kill(signal.SIGTERM)
    assert (leader.wait(), member.wait()) == (0, 0)
    wait_until(lambda: not group.alive())


def test_the_doctor_of_a_group_looks_at_all_members_and_names_who_differs(group, monkeypatch, tmp_path):
    """GPUs are played by a script in place of nvidia-smi; sshd, keys and MPI are real."""
    tools = tmp_path / "tools"
    tools.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor n in 0 1; do echo "NVIDIA H800, 81559, $A_DRIVER"; done\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), os.environ["PATH"]]))
    with tempfile.TemporaryDirectory() as folder:  # other groups of this machine have theirs elsewhere
        monkeypatch.setenv("TMPDIR", folder)
        members = []
        for ordinal, driver in enumerate(("575.57.08", "580.65.06")):
            monkeypatch.setenv("A_DRIVER", driver)
            members.append(group.pod(ordinal))
        wait_until(lambda: all(one.readyz()[0] == 200 for one in members), timeout=30)
        monkeypatch.setenv("A_DRIVER", "575.57.08")
        done = subprocess.run(
            [*HORTATOR, "doctor", "--group", "--json"],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        alive = [one.popen.poll() is None for one in members]
    assert done.returncode == 1, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    own = socket.gethostname()
    assert checks[f"member {own}"]["verdict"] == checks["member 127.0.0.11"]["verdict"] == "ok"
    assert checks["driver"]["verdict"] == "failed"
    assert checks["driver"]["found"] == (
        f"not the same everywhere: 575.57.08 on {own}; 580.65.06 on 127.0.0.11"
    )
    assert "one driver" in checks["driver"]["fix"]
    for name, words in (("GPUs", "2 x NVIDIA H800"), ("MPI", "Open MPI 4"), ("tensorrt_llm", "1.2.1")):
        assert checks[name]["verdict"] == "ok"
        assert checks[name]["found"].startswith(words)
        assert checks[name]["found"].endswith("(all 2 members)")
    assert alive == [True, True]  # nobody was disturbed


@pytest.mark.parametrize("of", [0, 1])
def test_a_killed_rank_ends_the_group_and_nothing_survives(group, of):
    members = running(group)
    os.kill(ranks_of(members[of])[-1], signal.SIGKILL)
    killed_at = time.monotonic()
    assert [one.wait() for one in members] == [EXIT_GROUP_BROKEN] * 2
    print(f"both ended {time.monotonic() - killed_at:.2f} s after the rank was killed")
    why = f"the group is broken: the ranks: rank [{2 * of}{2 * of + 1}] ended with exit code 137"
    assert re.fullmatch(why, members[0].last_words())
    assert members[1].last_words() == members[0].last_words()
    wait_until(lambda: not group.alive())


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_pod_ends_the_other_and_nothing_survives(group, victim, number):
    members = running(group)
    members[victim].kill(number)
    assert members[1 - victim].wait() == EXIT_GROUP_BROKEN
    if number is signal.SIGSTOP:
        members[victim].kill(signal.SIGKILL)
    wait_until(lambda: not group.alive(), what="nothing survives")


def test_a_member_that_is_told_to_stop_waits_until_the_ranks_have_ended(group):
    leader, member = running(group)
    member.kill(signal.SIGTERM)
    assert (leader.wait(), member.wait()) == (0, 0)


def test_a_missing_peer_is_named_and_nothing_was_started(group):
    leader = group.pod(0, startup_timeout_s=2)
    assert leader.wait() == EXIT_GROUP_BROKEN
    assert leader.last_words() == (
        "the group is broken: epoch 1: 1 of 2 members joined within 2 s (missing: 1)"
    )
    assert "starting ranks" not in leader.log.read_text()


def test_a_pod_whose_sshd_is_not_reached_is_named(group):
    leader = group.pod(0, startup_timeout_s=4)
    member = group.pod(1, ssh_host="no-such-pod.invalid")
    wait_until(lambda: "the name is not known yet" in leader.readyz()[1])
    assert (leader.wait(), member.wait()) == (EXIT_GROUP_BROKEN, EXIT_GROUP_BROKEN)
    assert "not all started within 4 s: sshd at no-such-pod.invalid:" in leader.last_words()


def test_a_host_on_which_no_rank_starts_is_named_with_its_ranks(group):
    """What answers there greets like sshd and then says no more: mpirun would wait for long."""
    with a_mute_sshd() as port:
        leader = group.pod(0, launch_timeout_s=2)
        member = group.pod(1, ssh_host="127.0.0.13", ssh_port=port)
        assert (leader.wait(), member.wait()) == (EXIT_GROUP_BROKEN, EXIT_GROUP_BROKEN)
    assert leader.last_words() == (
        "the group is broken: the ranks: not all started within 2 s: "
        f"ranks 0-1 on {socket.gethostname()}, 2-3 on 127.0.0.13 have not been started"
    )
    assert member.last_words() == leader.last_words()


def test_a_rank_that_hangs_while_starting_is_named_and_the_group_ends(group, monkeypatch):
    monkeypatch.setenv("TENSORRT_LLM_DOUBLE_FAULT", "stuck:3")
    leader, member = group.members(startup_timeout_s=10)
    wait_until(lambda: "the engine is starting: rank 3 on 127.0.0.11" in leader.readyz()[1], timeout=15)
    assert (leader.wait(), member.wait()) == (EXIT_ENGINE_DEAD, EXIT_GROUP_BROKEN)
    assert re.fullmatch(
        r"the engine died: it did not start within 10 s: rank 3 on 127\.0\.0\.11 has said nothing in the "
        r"\d s since being started; others have",
        leader.last_words(),
    )
    assert member.last_words() == f"the group is broken: {leader.last_words()}"
    assert "rank 3 on 127.0.0.11 has said nothing" in last_words(leader.log.read_text())
    wait_until(lambda: not group.alive(), timeout=15, what="nothing survives")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"tensor_parallel_size": 8, "moe_expert_parallel_size": 8},
            (
                "engine_options.tensor_parallel_size: 8 ranks, but 2 pods (GROUP_SIZE) of 2 GPUs "
                "(gpus_per_node) have 4 (allowed: 4)"
            ),
        ),
        (
            {"model": "/no/such/model"},
            "model: /no/such/model is not a folder in this container (is its volume mounted?)",
        ),
    ],
)
def test_what_does_not_fit_is_said_by_every_pod_before_anything_is_started(group, change, said):
    members = group.members(engine_options=ENGINE | change)
    assert [one.wait() for one in members] == [EXIT_SETTINGS] * 2
    assert [one.log.read_text() for one in members] == [f"{said}\n"] * 2


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "TENSORRT_LLM_DOUBLE_FAULT",
            "construct:CUDA out of memory. Tried to allocate 2.00 GiB",
            (
                "the engine died: TensorRT-LLM did not start: RuntimeError: CUDA out of memory. "
                "Tried to allocate 2.00 GiB (give the group more GPUs"
            ),
        ),
        ("TENSORRT_LLM_DOUBLE", "1.1.0", "the engine died: tensorrt_llm 1.1.0 is too old"),
    ],
)
def test_an_engine_that_cannot_start_says_why_once_and_takes_its_ranks_with_it(
    group, monkeypatch, variable, value, said
):
    monkeypatch.setenv(variable, value)
    leader, member = group.members()
    assert (leader.wait(), member.wait()) == (EXIT_ENGINE_DEAD, EXIT_GROUP_BROKEN)
    assert leader.last_words().startswith(said)
    assert member.last_words().startswith(f"the group is broken: {said}")
    wait_until(lambda: not group.alive())


def test_a_stranger_without_the_secret_of_the_group_is_refused_and_the_group_starts(group, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_text("token of the group")
    theirs.write_text("another one")
    leader = group.pod(0, identity_file=str(ours))
    stranger = group.pod(1, identity_file=str(theirs))
    assert stranger.wait() == EXIT_FENCED
    assert "does not hold the secret of this group" in stranger.last_words()
    member = group.pod(1, identity_file=str(ours))
    wait_until(lambda: leader.readyz()[0] == member.readyz()[0] == 200)


def test_a_member_lets_no_leader_in_that_does_not_hold_the_secret(group, tmp_path):
    ours = tmp_path / "ours"
    ours.write_text("token of the group")
    group.pod(0)
    member = group.pod(1, identity_file=str(ours))
    assert member.wait() == EXIT_FENCED

"""What a launch over several pods consists of: command lines, configuration files, and one line for how it ended."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from hortator.worker.group.member import GroupPlace, Member, Shell
from hortator.worker.launch import proof, script
from hortator.worker.launch.roll import HERE

FIRST = Shell(host="svc-a-0-1.svc-a-0.ns.svc", port=2222, host_key="ssh-ed25519 AAAA1")
SECOND = Shell(host="svc-a-0-2.svc-a-0.ns.svc", port=2223, host_key="ssh-ed25519 AAAA2")
FOLDER = Path("/tmp/keys")


def a_plan(*shells: Shell) -> script.WorldPlan:
    return script.WorldPlan(own_host="svc-a-0-0", shells=shells, gpus_per_node=8)


def command_of(plan: script.WorldPlan, *, is_root: bool = False) -> list[str]:
    return script.mpirun(plan, ssh_config=FOLDER / "ssh_config", is_root=is_root, command=["python", "x"])


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_ranks_fill_pods_in_the_order_of_ordinals():
    words = command_of(a_plan(FIRST, SECOND))
    assert after(words, "-np") == "24"
    assert after(words, "-H") == "svc-a-0-0:8,svc-a-0-1.svc-a-0.ns.svc:8,svc-a-0-2.svc-a-0.ns.svc:8"
    assert after(words, "--map-by") == "slot"


def test_the_launcher_stands_before_the_command_on_every_rank_and_no_word_has_a_space():
    words = command_of(a_plan(FIRST))
    assert words[words.index("trtllm-llmapi-launch") :] == ["trtllm-llmapi-launch", "python", "x"]


def test_a_rank_says_that_it_is_here_and_then_becomes_the_launcher():
    words = command_of(a_plan(FIRST))
    program = words[words.index("/bin/sh") : words.index("trtllm-llmapi-launch")]
    done = subprocess.run([*program, "printf", "%s.", "a", "b c"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{HERE}\na.b c."


@pytest.mark.parametrize("is_root", [True, False])
def test_mpirun_as_root_is_allowed_where_we_are_root(is_root):
    assert ("--allow-run-as-root" in command_of(a_plan(FIRST), is_root=is_root)) == is_root


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"host": ""}, "names a host that is none: ''"),
        (
            {"host": "a\nHost *\n  ProxyCommand x"},
            "names a host that is none: 'a\\nHost *\\n  ProxyCommand x'",
        ),
        ({"host": "-oProxyCommand=x"}, "names a host that is none: '-oProxyCommand=x'"),
        ({"host": "a,b"}, "names a host that is none: 'a,b'"),
        ({"host": "*"}, "names a host that is none: '*'"),
        ({"port": 0}, "names port 0 (allowed: 1 to 65535)"),
        ({"port": 1 << 16}, "names port 65536 (allowed: 1 to 65535)"),
        ({"host_key": "ssh-rsa AAAA"}, "sends a host key that is none: 'ssh-rsa AAAA'"),
        (
            {"host_key": "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"},
            "sends a host key that is none: 'ssh-ed25519 AAAA\\n* ssh-ed25519 BBBB'",
        ),
    ],
)
def test_what_ssh_would_read_as_more_than_one_word_is_a_fault(changes, fault):
    assert script.fault_of(dataclasses.replace(FIRST, **changes)) == fault


@pytest.mark.parametrize("host", ["svc-a-0-1.svc-a-0.ns.svc", "10.1.2.3", "fd00::1", "_a"])
def test_names_and_addresses_have_no_fault(host):
    assert script.fault_of(dataclasses.replace(FIRST, host=host)) == ""


def test_only_the_host_keys_that_members_have_sent_are_known():
    assert script.known_hosts((FIRST, SECOND)) == (
        "[svc-a-0-1.svc-a-0.ns.svc]:2222 ssh-ed25519 AAAA1\n"
        "[svc-a-0-2.svc-a-0.ns.svc]:2223 ssh-ed25519 AAAA2\n"
    )
    config = script.ssh_config(
        (FIRST, SECOND), user="hortator", key=FOLDER / "launch_key", known_hosts=FOLDER / "known_hosts"
    )
    assert "StrictHostKeyChecking yes\n" in config
    assert "GlobalKnownHostsFile /dev/null\n" in config
    assert "Host svc-a-0-2.svc-a-0.ns.svc\n  Port 2223\n" in config


def test_a_door_takes_one_key_and_runs_one_command():
    config = script.sshd_config(host="0.0.0.0", port=2222, folder=FOLDER, is_root=False)
    for line in (
        "AuthenticationMethods publickey",
        "PasswordAuthentication no",
        "PermitRootLogin no",
        "DisableForwarding yes",
        "UsePAM no",
        "ForceCommand /bin/sh /tmp/keys/session",
    ):
        assert f"{line}\n" in config


def test_a_session_has_the_environment_of_its_pod_and_then_runs_what_was_asked(tmp_path):
    environment = {
        "UCX_TLS": "rc,cuda_copy",
        "ODD": "a 'quoted' \"value\" with $HOME\nand a second line",
        "HORTATOR_WORKER_ENGINE_OPTIONS": "{}",
        "OMPI_COMM_WORLD_RANK": "3",
        "not a name": "x",
    }
    file = tmp_path / "session"
    file.write_text(script.session(environment))
    command = (
        'printf "%s|%s|%s|%s" "$UCX_TLS" "$ODD" "$HORTATOR_WORKER_ENGINE_OPTIONS" "$OMPI_COMM_WORLD_RANK"'
    )
    said = subprocess.run(
        ["/bin/sh", file],
        env={"PATH": "/usr/bin:/bin", "SSH_ORIGINAL_COMMAND": command},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == f"rc,cuda_copy|{environment['ODD']}||"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            [
                "mpirun detected that one or more processes exited with non-zero status, thus causing",
                "the job to be terminated. The first process to do so was:",
                "  Process name: [[11978,1],9]",
                "  Exit code:    137",
            ],
            "rank 9 ended with exit code 137",
        ),
        (
            ["mpirun noticed that process rank 3 with PID 0 on node n1 exited on signal 9 (Killed)."],
            "process rank 3 with PID 0 on node n1 exited on signal 9 (Killed)",
        ),
        (
            ["Host key verification failed.", "ORTE was unable to reliably start one or more daemons."],
            "Host key verification failed",
        ),
        (
            ["[1,0]<stderr>: something else", "----"],
            "mpirun ended with exit code 1: [1,0]<stderr>: something else",
        ),
        ([], "mpirun ended with exit code 1"),
    ],
)
def test_one_line_says_how_a_world_ended(lines, why):
    assert script.why_it_ended(lines, 1) == why


@pytest.mark.parametrize(
    ("said", "lines", "rest"),
    [
        (b"one\ntwo\nthr", ["one", "two"], b"thr"),
        (b" 10 %\r 20 %\r", ["10 %", "20 %"], b""),
        (b"\n\n", [], b""),
        (b"x" * 70_000, ["x" * 70_000], b""),
        (b"\xff\n", ["\ufffd"], b""),
    ],
)
def test_what_ranks_say_becomes_lines_whatever_they_say(said, lines, rest):
    assert script.complete_lines(said) == (lines, rest)


def a_member(**changes: object) -> Member:
    place = GroupPlace(worker_id="w", group_size=2, ordinal=1, epoch=3, pod_name="svc-a-0-1", incarnation="x")
    return dataclasses.replace(Member(place=place, boot_id="3-x-ab", shell=FIRST), **changes)


def test_a_proof_fits_the_same_hello_with_the_same_secret_alone():
    said = proof.of_member(b"secret", a_member())
    assert proof.fits(said, proof.of_member(b"secret", a_member()))
    for other in (
        proof.of_member(b"another", a_member()),
        proof.of_member(b"", a_member()),
        proof.of_member(b"secret", a_member(boot_id="3-x-cd")),
        proof.of_member(b"secret", a_member(shell=dataclasses.replace(FIRST, host="evil"))),
        proof.of_member(b"secret", a_member(shell=dataclasses.replace(FIRST, host_key="ssh-ed25519 EVIL"))),
    ):
        assert not proof.fits(said, other)


def test_a_leaders_proof_is_for_one_boot_and_one_key():
    said = proof.of_leader(b"secret", a_member(), "ssh-ed25519 KEY")
    assert not proof.fits(said, proof.of_leader(b"secret", a_member(), "ssh-ed25519 EVIL"))
    assert not proof.fits(said, proof.of_leader(b"secret", a_member(boot_id="3-x-cd"), "ssh-ed25519 KEY"))
    assert not proof.fits(said, proof.of_member(b"secret", a_member()))


def test_without_a_secret_nothing_is_proven():
    assert proof.of_member(b"", a_member()) == proof.of_leader(b"", a_member(), "k") == b""

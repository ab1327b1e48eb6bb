"""What the doctor says of a whole group: agreement in one line, who differs by name, with the fix."""

from hortator.runtime.checks import Check
from hortator.worker.engines.trtllm.doctor.group import EQUAL, joined


def check(name, found, verdict="ok", fix=""):
    return Check(name=name, verdict=verdict, found=found, fix=fix)


def of(reports):
    return {one.name: one for one in joined(reports)}


def test_what_all_members_say_is_one_line():
    reports = {host: [check("driver", "575.57.08"), check("GPUs", "8 x H800")] for host in ("a", "b", "c")}
    assert of(reports)["driver"] == check("driver", "575.57.08 (all 3 members)")
    assert len(of(reports)) == 2


def test_two_drivers_in_a_group_fail_although_each_is_fine():
    reports = {
        "a": [check("driver", "575.57.08")],
        "b": [check("driver", "580.65.06")],
        "c": [check("driver", "575.57.08")],
    }
    found = of(reports)["driver"]
    assert found.verdict == "failed"
    assert found.found == "not the same everywhere: 575.57.08 on a, c; 580.65.06 on b"
    assert found.fix == EQUAL["driver"]


def test_a_member_that_is_worse_keeps_its_own_fix():
    reports = {
        "a": [check("driver", "575.57.08")],
        "b": [check("driver", "535.1", "failed", "install driver 575 or newer on the node")],
    }
    assert of(reports)["driver"].fix == "install driver 575 or newer on the node"


def test_a_failure_of_all_members_is_one_failure():
    reports = {host: [check("MPI", "missing: sshd", "warning", "the image")] for host in ("a", "b")}
    assert of(reports)["MPI"] == check("MPI", "missing: sshd (all 2 members)", "warning", "the image")


def test_what_may_differ_is_a_line_per_member():
    reports = {
        "a": [check("shared memory", "64.0 GiB at /dev/shm")],
        "b": [check("shared memory", "0.1 GiB at /dev/shm", "failed", "set shmSize")],
    }
    found = of(reports)
    assert found["shared memory of a"].verdict == "ok"
    assert (found["shared memory of b"].verdict, found["shared memory of b"].fix) == ("failed", "set shmSize")


def test_a_member_that_does_not_know_what_the_others_know_is_named():
    reports = {"a": [check("NCCL", "2.28.9")], "b": []}
    first, second = joined(reports)
    assert (first.verdict, first.found) == ("failed", "not known on b")
    assert second == check("NCCL", "2.28.9 (a)")

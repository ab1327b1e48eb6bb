"""How a second process finds the members of a launch that is under way."""

import os

from hortator.worker.group.member import Shell
from hortator.worker.launch.script import ssh_config
from hortator.worker.launch.visit import hosts_of, launch_folder


def test_hosts_are_those_that_the_launch_reaches_in_the_order_of_ordinals(tmp_path):
    shells = [Shell(host=f"svc-a-0-{n}.svc", port=2222, host_key="k") for n in (1, 2)]
    text = ssh_config(shells, user="u", key=tmp_path / "key", known_hosts=tmp_path / "hosts")
    assert hosts_of(text) == ("svc-a-0-1.svc", "svc-a-0-2.svc")


def test_the_newest_launch_counts_and_a_door_is_none(tmp_path):
    assert launch_folder(tmp_path) is None
    (tmp_path / "hortator-launch-door").mkdir()
    assert launch_folder(tmp_path) is None
    for name, at in (("old", 1000), ("new", 3000), ("older", 500)):
        folder = tmp_path / f"hortator-launch-{name}"
        folder.mkdir()
        (folder / "ssh_config").write_text("")
        os.utime(folder / "ssh_config", (at, at))
    assert launch_folder(tmp_path) == tmp_path / "hortator-launch-new"

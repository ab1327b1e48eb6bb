"""Providers of clusters that are not the lab's own: a given kubeconfig, and kind.

There is no docker here, so `kind` and `docker` are stand-ins at the border of the process: the kind that they
give is the lab's cluster. What is ours is real: what is asked of kind, with what the cluster is talked to, and
that it is deleted again.
"""

import os
import shlex
from pathlib import Path

import pytest

from cluster import providers
from cluster.controlplane import ControlPlane
from cluster.processes import LabError
from cluster.providers import KindProvider, KubeconfigProvider, choose

STAND_IN = """\
#!/bin/sh
echo "$(basename "$0") $*" >> {log}
case "$1 $2" in
"create cluster")
    while [ "$1" != --kubeconfig ]; do shift; done
    cp {kubeconfig} "$2" ;;
esac
exit {code}
"""


def stand_in(folder: Path, name: str, *, kubeconfig: Path, code: int = 0) -> None:
    file = folder / name
    log = shlex.quote(str(folder / "log"))
    file.write_text(STAND_IN.format(log=log, kubeconfig=shlex.quote(str(kubeconfig)), code=code))
    file.chmod(0o755)


@pytest.fixture
def programs(tmp_path, monkeypatch, control_plane: ControlPlane):
    """A folder before all others on the path, with a docker that answers and a kind."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("docker", "kind"):
        stand_in(tmp_path, name, kubeconfig=control_plane.kubeconfig)
    return tmp_path


def asked_of(programs: Path, name: str) -> list[str]:
    lines = (programs / "log").read_text().splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def test_a_given_kubeconfig_is_used_as_it_is(control_plane: ControlPlane, monkeypatch):
    monkeypatch.setenv(providers.GIVEN, str(control_plane.kubeconfig))
    monkeypatch.setenv(providers.CHOICE, "kubeconfig")
    provider = choose()
    assert isinstance(provider, KubeconfigProvider)
    with provider.running() as found:
        assert found.version == control_plane.version
        with found.namespace("given") as name:
            assert control_plane.client.get("v1", "Namespace", name)["metadata"]["name"] == "given"


def test_a_kubeconfig_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(providers.CHOICE, "kubeconfig")
    monkeypatch.setenv(providers.GIVEN, str(tmp_path / "none"))
    with pytest.raises(LabError, match=f"kubeconfig: {providers.GIVEN}: no file {tmp_path}/none"):
        choose()


def test_kind_gives_a_cluster_for_the_session_and_it_is_deleted(programs, control_plane, monkeypatch):
    monkeypatch.setenv(providers.CHOICE, "kind")
    provider = choose()
    assert isinstance(provider, KindProvider)
    with provider.running() as found:
        assert found.provider == "kind"
        with found.namespace("in-kind") as name:
            assert control_plane.client.get("v1", "Namespace", name)["metadata"]["name"] == "in-kind"
        kubeconfig = found.kubeconfig
    created, deleted = (line.split() for line in asked_of(programs, "kind"))
    name = created[created.index("--name") + 1]
    assert created[:2] == ["create", "cluster"]
    assert deleted[:2] == ["delete", "cluster"]
    assert deleted[deleted.index("--name") + 1] == name
    assert created[created.index("--kubeconfig") + 1] == str(kubeconfig)
    assert not kubeconfig.exists()


def test_a_kind_cluster_is_deleted_after_a_failure_too(programs):
    with pytest.raises(ZeroDivisionError), KindProvider().running():
        raise ZeroDivisionError
    assert [line.split()[0] for line in asked_of(programs, "kind")] == ["create", "delete"]


def test_kind_without_docker_is_an_obstacle(programs, control_plane):
    stand_in(programs, "docker", kubeconfig=control_plane.kubeconfig, code=1)
    assert KindProvider().obstacle() == "the docker daemon does not answer"

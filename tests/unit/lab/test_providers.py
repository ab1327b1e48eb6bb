"""Which cluster the tests use, and what is said where there is none; also how the lab asks before it installs."""

import pytest

from cluster import installation, providers
from cluster.processes import LabError


def test_a_given_kubeconfig_comes_first(monkeypatch, tmp_path):
    path = tmp_path / "config"
    path.touch()
    monkeypatch.setenv(providers.GIVEN, str(path))
    monkeypatch.delenv(providers.CHOICE, raising=False)
    assert providers.choose().name == "kubeconfig"


def test_a_kubeconfig_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(providers.GIVEN, "/no/such/file")
    monkeypatch.setenv(providers.CHOICE, "kubeconfig")
    with pytest.raises(LabError, match="kubeconfig: HORTATOR_LAB_KUBECONFIG: no file /no/such/file"):
        providers.choose()


def test_an_unknown_provider_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setenv(providers.CHOICE, "minikube")
    with pytest.raises(LabError, match=r"unknown 'minikube' \(allowed: kubeconfig, lab, kind\)"):
        providers.choose()


@pytest.fixture
def step(monkeypatch):
    """One thing that is not installed, until it is."""
    done = []
    step = installation.Step(what="a thing", minutes=2, run=lambda: done.append(1))
    monkeypatch.setattr(installation, "steps", lambda: [] if done else [step])
    monkeypatch.setattr(installation, "reason_it_cannot_be_installed", lambda: None)
    return done


def test_nothing_is_installed_without_a_yes(step, capsys):
    assert installation.install(ask=lambda _: False) == 1
    assert not step
    assert "about 2 min: a thing" in capsys.readouterr().out


def test_what_is_missing_is_installed_once(step, capsys):
    assert installation.install(ask=lambda _: True) == 0
    assert installation.install(ask=lambda _: pytest.fail("asked again")) == 0
    assert len(step) == 1
    assert "complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "answer"), [("CI", "true", True), ("LAB_YES", "1", True), ("CI", "", False)]
)
def test_nobody_is_asked_where_the_environment_says_yes(monkeypatch, name, value, answer):
    for variable in ("CI", "LAB_YES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: PTH123, SIM115  # closed with the test process
    assert installation.may_change_this_machine("?") is answer

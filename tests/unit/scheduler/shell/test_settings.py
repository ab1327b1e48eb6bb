from __future__ import annotations

import dataclasses
import json

import pytest

from hortator.runtime.settings import SettingsError
from hortator.scheduler.__main__ import main
from hortator.scheduler.core.model import SchedulerSettings, TenantSettings
from hortator.scheduler.settings import CoreSettings, SchedulerProcessSettings


def a_file(tmp_path, **values):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps(values))
    return path


def test_the_defaults_of_the_core_are_the_cores_own():
    assert SchedulerProcessSettings.load_file(None).core_settings() == SchedulerSettings()


def test_every_core_setting_is_described():
    for field in dataclasses.fields(SchedulerSettings):
        assert len(CoreSettings.model_fields[field.name].description) > 10, field.name


def test_a_file_sets_process_and_core(tmp_path):
    path = a_file(
        tmp_path, port=0, core={"policy": "fixed-batch", "interval_s": 0.01, "max_waiting_requests": 5}
    )
    settings = SchedulerProcessSettings.load_file(path)
    assert settings.port == 0
    assert settings.core_settings() == SchedulerSettings(
        policy="fixed-batch", interval_s=0.01, max_waiting_requests=5
    )


def test_tenants_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    tenants = [{"name": "acme", "weight": 3}, {"name": "", "queue_share": 0.1}]
    path = a_file(tmp_path, core={"tenants": tenants})
    expected = (TenantSettings(name="acme", weight=3.0), TenantSettings(name="", queue_share=0.1))
    assert SchedulerProcessSettings.load_file(path).core_settings().tenants == expected
    monkeypatch.setenv("HORTATOR_SCHEDULER_CORE__TENANTS", json.dumps(tenants))
    assert SchedulerProcessSettings.load_file(None).core_settings().tenants == expected


def test_the_file_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HORTATOR_SCHEDULER_PORT", "1")
    monkeypatch.setenv("HORTATOR_SCHEDULER_CORE__MAX_HOLD_S", "0.5")
    settings = SchedulerProcessSettings.load_file(a_file(tmp_path, port=2))
    assert settings.port == 2
    assert settings.core_settings().max_hold_s == 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prot": 1}, ["PROT"]),
        ({"port": -1}, ["PORT", "-1"]),
        ({"core": {"policy": "best"}}, ["CORE__POLICY", "staggered-plus"]),
        ({"core": {"polcy": "x"}}, ["CORE__POLCY"]),
        ({"core": {"interval_s": 0}}, ["CORE__INTERVAL_S"]),
        ({"core": {"max_waiting_requests": 0}}, ["CORE__MAX_WAITING_REQUESTS"]),
        ({"core": {"min_fill": -0.1}}, ["CORE__MIN_FILL"]),
        ({"core": {"tenants": [{"name": "a", "weight": 0}]}}, ["CORE__TENANTS", "'a'", "weight", "above 0"]),
        (
            {"core": {"tenants": [{"name": "a", "queue_share": 2}]}},
            ["CORE__TENANTS", "queue_share", "at most 1"],
        ),
        ({"core": {"max_tenant_share": 0}}, ["CORE__MAX_TENANT_SHARE", "above 0"]),
        ({"core": {"resumed_share": 0}}, ["CORE__RESUMED_SHARE", "above 0, below 1"]),
        ({"core": {"resumed_share": 1}}, ["CORE__RESUMED_SHARE", "above 0, below 1"]),
        ({"core": {"tenants": [{"name": "a"}, {"name": "a"}]}}, ["CORE__TENANTS", "'a'", "once"]),
        ({"core": {"tenants": [{"name": "a", "wait": 1}]}}, ["CORE__TENANTS", "WAIT"]),
        ({"heartbeat_interval_s": 0}, ["HEARTBEAT_INTERVAL_S"]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_file_and_field(tmp_path, values, words):
    path = a_file(tmp_path, **values)
    with pytest.raises(SettingsError) as caught:
        SchedulerProcessSettings.load_file(path)
    (line,) = caught.value.problems
    for word in (str(path), *words):
        assert word in line


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "scheduler.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"scheduler\.json"):
        SchedulerProcessSettings.load_file(path)


def test_the_process_ends_with_code_2_and_a_line_for_bad_settings(tmp_path, capsys):
    assert main(["--settings", str(a_file(tmp_path, core={"policy": "best"}))]) == 2
    error = capsys.readouterr().err
    assert "best" in error
    assert error.count("\n") == 1


def test_the_effective_settings_are_printed_on_demand(tmp_path, capsys):
    assert main(["--settings", str(a_file(tmp_path, port=4321)), "--print-settings"]) == 0
    out = capsys.readouterr().out
    assert "HORTATOR_SCHEDULER_PORT=4321\n" in out
    assert "HORTATOR_SCHEDULER_CORE__POLICY=staggered\n" in out

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from hortator.runtime.settings import Settings, SettingsError, load_or_exit


class Queue(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    max_requests: int = Field(default=10, ge=1)
    timeout_s: float = 30.0


class DemoSettings(Settings):
    model_config = SettingsConfigDict(env_prefix="HORTATOR_DEMO_")
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on."""
    verbose: bool = False
    peers: tuple[str, ...] = ()
    token: SecretStr = SecretStr("")
    queue: Queue = Queue()


def test_defaults_apply_when_the_environment_says_nothing():
    assert DemoSettings.load().port == 8080


def test_a_variable_with_the_prefix_fills_its_field(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_PORT", "99")
    assert DemoSettings.load().port == 99


def test_two_underscores_reach_into_a_nested_model_and_keep_its_other_defaults(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_QUEUE__MAX_REQUESTS", "7")
    assert DemoSettings.load().queue == Queue(max_requests=7, timeout_s=30.0)


def test_overrides_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_PORT", "99")
    assert DemoSettings.load(port=5).port == 5


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_PROT", "99")
    with pytest.raises(SettingsError) as caught:
        DemoSettings.load()
    assert str(caught.value) == "HORTATOR_DEMO_PROT: unknown setting (did you mean HORTATOR_DEMO_PORT?)"


def test_an_unknown_nested_variable_is_refused(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_QUEUE__MAX_REQUEST", "1")
    with pytest.raises(SettingsError, match="did you mean HORTATOR_DEMO_QUEUE__MAX_REQUESTS"):
        DemoSettings.load()


def test_a_variable_of_another_component_is_none_of_our_business(monkeypatch):
    monkeypatch.setenv("HORTATOR_OTHER_PROT", "99")
    assert DemoSettings.load().port == 8080


def test_every_bad_value_is_reported_on_a_line_of_its_own(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_PORT", "70000")
    monkeypatch.setenv("HORTATOR_DEMO_QUEUE__MAX_REQUESTS", "0")
    with pytest.raises(SettingsError) as caught:
        DemoSettings.load()
    assert caught.value.problems == (
        "HORTATOR_DEMO_PORT: Input should be less than or equal to 65535, got '70000'",
        "HORTATOR_DEMO_QUEUE__MAX_REQUESTS: Input should be greater than or equal to 1, got '0'",
    )


def test_a_value_that_should_be_json_and_is_not_names_the_field(monkeypatch):
    monkeypatch.setenv("HORTATOR_DEMO_PEERS", "a,b")
    with pytest.raises(SettingsError, match="peers"):
        DemoSettings.load()


def test_settings_cannot_be_changed_after_start():
    settings = DemoSettings.load()
    with pytest.raises(ValidationError):
        settings.port = 1


def test_rendered_settings_can_be_read_back_and_hide_secrets(monkeypatch):
    text = DemoSettings.load(peers=("a:1",), verbose=True, token=SecretStr("x"), port=7).render()
    assert text.splitlines() == [
        "HORTATOR_DEMO_PORT=7",
        "HORTATOR_DEMO_VERBOSE=true",
        'HORTATOR_DEMO_PEERS=["a:1"]',
        "HORTATOR_DEMO_TOKEN=********",
        "HORTATOR_DEMO_QUEUE__MAX_REQUESTS=10",
        "HORTATOR_DEMO_QUEUE__TIMEOUT_S=30.0",
    ]
    for line in text.splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    assert DemoSettings.load().peers == ("a:1",)


def test_print_settings_prints_and_exits_zero(capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit(DemoSettings, ["--print-settings"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("HORTATOR_DEMO_PORT=8080\n")


def test_bad_settings_exit_two_with_one_line(monkeypatch, capsys):
    monkeypatch.setenv("HORTATOR_DEMO_PORT", "x")
    with pytest.raises(SystemExit) as caught:
        load_or_exit(DemoSettings, [])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_argument_exits_two(capsys):
    with pytest.raises(SystemExit) as caught:
        load_or_exit(DemoSettings, ["--prot"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "unknown argument '--prot' (allowed: --print-settings)\n"

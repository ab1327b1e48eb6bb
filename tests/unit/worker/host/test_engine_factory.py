"""Engine options come from a file or the environment, and are refused with the option's name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hortator.worker.engine_factory import build_engine, read_options
from hortator.worker.engines.simulated.engine import SimulatedEngine
from hortator.worker.errors import EngineConfigError
from hortator.worker.settings import EngineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    dp_size: int = 2
    jitter: float | None = None


def test_options_become_the_fields_of_the_configuration():
    assert read_options(Config, {"dp_size": 4, "jitter": 0.5}) == Config(dp_size=4, jitter=0.5)


def test_an_unknown_option_is_named_with_what_is_allowed():
    with pytest.raises(
        EngineConfigError, match=r"engine_options.dp_sise: unknown option \(allowed: dp_size, jitter\)"
    ):
        read_options(Config, {"dp_sise": 4})


def test_a_value_of_the_wrong_type_is_named():
    with pytest.raises(EngineConfigError, match=r"engine_options.dp_size: .*integer.*'many'"):
        read_options(Config, {"dp_size": "many"})


def test_the_simulated_engine_is_built_from_its_options():
    engine = build_engine(EngineKind.SIMULATED, {"dp_size": 2, "kv_blocks_total": 1000})
    assert isinstance(engine, SimulatedEngine)


def test_sizes_that_do_not_fit_are_an_error_of_the_options():
    with pytest.raises(EngineConfigError, match="time_scale"):
        build_engine(EngineKind.SIMULATED, {"time_scale": 0.0})

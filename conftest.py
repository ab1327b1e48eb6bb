"""What every test tier shares: `--update-golden`, Ctrl-C for children, and no PyTorch where it is missing.

Hypothesis profiles: `ci` gives the same examples on every run of a tier (it also tries constants of imported
modules, so a file that is run alone gets others), HYPOTHESIS_PROFILE=long looks further.
"""

import difflib
import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("doubles")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a run in the background of a shell ignores Ctrl-C, and so would every process that a test starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile("long", deadline=None, max_examples=3000, suppress_health_check=_SLOW_MACHINES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["tests/*/torch_moe/*", "tests/*/*/torch_moe/*"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text is what tests/golden/files/NAME says."""
    folder = Path(__file__).parent / "tests" / "golden" / "files"

    def compare(name: str, text: str) -> None:
        file = folder / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if not file.exists():
            pytest.fail(f"{file} is missing: run pytest --update-golden tests/golden")
        if text != file.read_text():
            lines = difflib.unified_diff(file.read_text().splitlines(), text.splitlines(), "committed", "now")
            pytest.fail(f"{name} changed (if that is right: pytest --update-golden):\n" + "\n".join(lines))

    return compare

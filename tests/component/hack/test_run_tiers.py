"""hack/run-tiers over tiers of its own: what it says at the end, and when it fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PASSING = "def test_{name}():\n    pass\n\n"
FAILING = "def test_{name}():\n    assert False\n\n"
SKIPPED = "import pytest\n\n@pytest.mark.skip\ndef test_{name}():\n    pass\n\n"
CURED = """
import pathlib

def test_{name}():
    seen = pathlib.Path(__file__).with_suffix(".{name}")
    if not seen.exists():
        seen.touch()
        assert False

"""
SAFETY = "import pytest\n\n@pytest.mark.safety" + CURED.replace("import pathlib\n\n", "").replace(
    "pathlib", "__import__('pathlib')"
)


class Checkout:
    """A folder with the script, tests and tiers."""

    def __init__(self, folder):
        self._folder = folder
        (folder / "hack").mkdir()
        (folder / "tests").mkdir()
        shutil.copy(ROOT / "hack/run-tiers", folder / "hack")
        (folder / "pytest.ini").write_text(
            "[pytest]\naddopts = --strict-markers\nmarkers =\n    safety: x\n    gpu: x\n"
        )
        self.without_lab_s = 560.0
        self._tiers = []

    def tier(self, name, *tests, **fields):
        """Write a test file and its tier; `tests` are bodies, named a, b, c ..."""
        text = "\n".join(
            body.replace("{name}", letter) for body, letter in zip(tests, "abcdef", strict=False)
        )
        (self._folder / "tests" / f"test_{name}.py").write_text(text)
        values = {
            "name": name,
            "paths": [f"tests/test_{name}.py"],
            "markers": "not gpu",
            "budget_s": 60,
            "min_tests": len(tests),
        }
        self._tiers.append(values | fields)

    def lab(self, *, is_there):
        """What `python -m cluster available` answers."""
        (self._folder / "e2e/cluster").mkdir(parents=True)
        (self._folder / "e2e/cluster/__init__.py").touch()
        (self._folder / "e2e/cluster/__main__.py").write_text(f"raise SystemExit({0 if is_there else 1})\n")

    def run(self, *arguments, **environment):
        """Exit code and the closing lines by their first word."""

        def text(value):
            return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

        lines = [f"[without_lab]\nbudget_s = {self.without_lab_s}\n"]
        for tier in self._tiers:
            lines.append("[[tier]]")
            lines += [f"{key} = {text(value)}" for key, value in tier.items()]
        (self._folder / "tests/tiers.toml").write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            [sys.executable, self._folder / "hack/run-tiers", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # none is needed, and loading them is what takes time
                **environment,
            },
        )
        self.output = done.stdout
        closing = [
            re.sub(r"\b\d+ s\b", "N s", line) for line in done.stdout.rsplit("\n\n", 1)[-1].splitlines()
        ]
        return done.returncode, closing


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_every_tier_has_a_closing_line_and_a_failed_one_does_not_stop_the_next(checkout):
    checkout.tier("first", PASSING, FAILING)
    checkout.tier("second", PASSING, PASSING)
    assert checkout.run() == (
        1,
        [
            "first: ran 2 in N s (budget 60), 1 FAILED",
            "second: ran 2 in N s (budget 60)",
            "without the lab: N s (budget 560)",
            "3 passed, 1 failed",
        ],
    )


BESIDE = """
import pathlib, time

def test_{name}():
    (pathlib.Path(__file__).parent / "beside").touch()
    print("beside says something")
    while not (pathlib.Path(__file__).parent / "other").exists():
        time.sleep(0.02)

"""
OTHER = """
import pathlib, time

def test_{name}():
    while not (pathlib.Path(__file__).parent / "beside").exists():
        time.sleep(0.02)
    (pathlib.Path(__file__).parent / "other").touch()

"""


def test_a_tier_beside_the_others_runs_while_they_do_and_is_shown_after_them(checkout):
    """Each waits for the other one's file; what failed runs again when both have ended."""
    checkout.tier("first", BESIDE, CURED, beside=True, retries=1)
    checkout.tier("second", OTHER, PASSING)
    assert checkout.run("--pytest", "-s") == (
        0,
        [
            "first: ran 2 in N s (budget 60); 1 passed only when run again",
            "second: ran 2 in N s (budget 60)",
            "without the lab: N s (budget 560)",
            "4 passed, 0 failed",
        ],
    )
    shown = [line for line in self_told(checkout.output) if line]
    assert shown == [
        "== first == runs beside the others",
        "== second ==",
        "== first ==",
        "beside says something",
        "again, what failed of first:",
    ]


def self_told(output):
    """The lines of the script, and of the test that prints."""
    return [line for line in output.splitlines() if line.startswith(("== ", "again", "beside"))]


WAITS = """
import os, pathlib, time

def test_{name}():
    pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(60)

"""


@pytest.mark.timeout(40)
def test_told_to_end_it_leaves_nothing_behind(checkout, tmp_path):
    checkout.tier("first", WAITS, beside=True)
    checkout.tier("second", WAITS)
    checkout.run("--collect")  # writes the tiers
    process = subprocess.Popen([sys.executable, tmp_path / "hack/run-tiers"], stdout=subprocess.DEVNULL)
    files = [tmp_path / f"tests/test_{name}.pid" for name in ("first", "second")]
    while not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_a_tier_beside_nothing_runs_as_any_other(checkout):
    checkout.tier("first", PASSING, beside=True)
    code, lines = checkout.run()
    assert (code, lines[0]) == (0, "first: ran 1 in N s (budget 60)")
    assert "runs beside" not in checkout.output


def test_only_the_tiers_that_are_named_run(checkout):
    checkout.tier("first", FAILING)
    checkout.tier("second", PASSING)
    code, lines = checkout.run("second")
    assert (code, lines[0], lines[-1]) == (0, "second: ran 1 in N s (budget 60)", "1 passed, 0 failed")
    code, _ = checkout.run("third")
    assert code == 2


def test_fewer_tests_than_the_minimum_fail_though_all_of_them_pass(checkout):
    checkout.tier("only", PASSING, PASSING, min_tests=3)
    code, lines = checkout.run()
    assert (code, lines[0]) == (
        1,
        "only: ran 2 in N s (budget 60); FAILED: ran 2 tests, at least 3 expected",
    )
    assert lines[-1] == "2 passed, 1 failed"


def test_collecting_runs_nothing_and_finds_a_tier_that_asks_for_more_than_it_has(checkout):
    checkout.tier("first", PASSING, FAILING)
    checkout.tier("second", PASSING, PASSING, min_tests=3)
    assert checkout.run("first", "--collect")[0] == 0
    code, _ = checkout.run("--collect")
    assert (code, checkout.output.splitlines()) == (
        1,
        ["first: collects 2", "second: collects 2; FAILED: at least 3 expected"],
    )


def test_a_tier_that_collects_nothing_fails(checkout):
    checkout.tier("only", "x = 1\n", min_tests=1)
    code, lines = checkout.run()
    assert (code, lines[0]) == (
        1,
        "only: ran 0 in N s (budget 60); FAILED: ran 0 tests, at least 1 expected",
    )


def test_a_skipped_test_did_not_run(checkout):
    checkout.tier("only", PASSING, SKIPPED)
    code, lines = checkout.run()
    assert (code, lines[0]) == (
        1,
        "only: ran 1 in N s (budget 60), 1 skipped; FAILED: ran 1 tests, at least 2 expected",
    )


def test_the_minimum_is_not_asked_of_a_run_that_is_narrowed(checkout):
    checkout.tier("only", PASSING, PASSING)
    assert checkout.run("only", "--pytest", "-k", "test_a")[0] == 0


def test_a_file_that_cannot_be_collected_fails(checkout):
    checkout.tier("only", PASSING, "import nothing_of_this_name\n", min_tests=0)
    code, lines = checkout.run()
    assert code == 1
    assert "FAILED: pytest exited with 2" in lines[0]


@pytest.mark.parametrize("need", ["lab", "command:no-such-program", "env:NO_SUCH_VARIABLE"])
def test_a_tier_whose_needs_are_missing_is_not_run_and_says_how_to_get_them(checkout, need):
    checkout.lab(is_there=False)
    checkout.tier("only", FAILING, needs=[need], hint="make lab installs it")
    expected = f"only: NOT RUN: needs {need}; make lab installs it"
    assert checkout.run() == (0, [expected, "0 passed, 0 failed"])
    assert checkout.run(HORTATOR_LAB="require") == (
        1,
        [f"{expected}; FAILED: HORTATOR_LAB=require", "0 passed, 1 failed"],
    )


def test_a_tier_whose_needs_are_there_runs(checkout):
    checkout.lab(is_there=True)
    checkout.tier("only", PASSING, needs=["lab", "env:GIVEN"])
    assert checkout.run(HORTATOR_LAB="require", GIVEN="1") == (
        0,
        ["only: ran 1 in N s (budget 60)", "1 passed, 0 failed"],
    )


@pytest.mark.parametrize(
    ("budget_s", "environment", "code", "said"),
    [
        pytest.param(60, {"CI": "true"}, 0, "", id="kept"),
        pytest.param(0.001, {}, 0, "; OVER BUDGET", id="far over, at a desk"),
        pytest.param(
            0.001,
            {"CI": "true"},
            1,
            "; FAILED: took more than 2 times its budget",
            id="far over, where it counts",
        ),
    ],
)
def test_a_tier_keeps_its_time_budget(checkout, budget_s, environment, code, said):
    checkout.tier("only", PASSING, budget_s=budget_s)
    done, lines = checkout.run(**environment)
    assert (done, lines[0]) == (code, f"only: ran 1 in N s (budget {budget_s:g}){said}")


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        pytest.param({}, 0, "; OVER BUDGET", id="at a desk"),
        pytest.param({"CI": "true"}, 1, "; FAILED: took more than 2 times its budget", id="where it counts"),
    ],
)
def test_the_tiers_that_need_no_lab_keep_a_budget_together(checkout, environment, code, said):
    checkout.without_lab_s = 0.001
    checkout.tier("first", PASSING)
    checkout.tier("second", PASSING)
    done, lines = checkout.run(**environment)
    assert (done, lines[2]) == (code, f"without the lab: N s (budget 0.001){said}")
    assert lines[-1] == f"2 passed, {code} failed"


def test_a_tier_that_needs_the_lab_does_not_count_for_that_budget(checkout):
    checkout.without_lab_s = 0.001
    checkout.lab(is_there=True)
    checkout.tier("only", PASSING, needs=["lab"])
    assert checkout.run(CI="true") == (0, ["only: ran 1 in N s (budget 60)", "1 passed, 0 failed"])


def test_what_failed_is_run_again_where_the_tier_has_retries_and_that_is_said(checkout):
    checkout.tier("only", CURED, FAILING, PASSING, retries=1)
    code, lines = checkout.run()
    assert (code, lines[0]) == (
        1,
        "only: ran 3 in N s (budget 60), 1 FAILED; 1 passed only when run again",
    )
    assert lines[-1] == "2 passed, 1 failed"


def test_what_passes_when_run_again_passes(checkout):
    checkout.tier("only", CURED, PASSING, retries=1)
    code, lines = checkout.run()
    assert (code, lines[0]) == (0, "only: ran 2 in N s (budget 60); 1 passed only when run again")


def test_nothing_is_run_again_where_the_tier_has_no_retries(checkout):
    checkout.tier("only", CURED, PASSING)
    code, lines = checkout.run()
    assert (code, lines[0]) == (1, "only: ran 2 in N s (budget 60), 1 FAILED")


def test_a_safety_test_that_failed_is_not_run_again(checkout):
    """It would pass the second time; that must not hide the first."""
    checkout.tier("only", CURED, SAFETY, PASSING, retries=2)
    code, lines = checkout.run()
    assert (code, lines[0]) == (
        1,
        "only: ran 3 in N s (budget 60), 1 FAILED; 1 passed only when run again",
    )


def test_the_marker_safety_is_registered():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    markers = project["tool"]["pytest"]["ini_options"]["markers"]
    assert [marker for marker in markers if marker.startswith("safety:")]


def test_the_budgets_of_the_tiers_without_the_lab_add_up_to_what_is_said():
    document = tomllib.loads((ROOT / "tests/tiers.toml").read_text())
    budgets = [tier["budget_s"] for tier in document["tier"] if "lab" not in tier.get("needs", [])]
    assert sum(budgets) == document["without_lab"]["budget_s"] == 2220

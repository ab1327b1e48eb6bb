"""Rendering a chart with helm: once per set of values in a process."""

import functools
import importlib.util
import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "hortator"
NAMESPACE = "hortator-system"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _hack(name):
    spec = importlib.util.spec_from_file_location(f"hack_{name}", ROOT / "hack" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _command(name):
    """Where a program is; a missing one is a failure in continuous integration."""
    where = _hack(name)
    command = where.find()
    if command is None and os.environ.get("CI") != "true":
        pytest.skip(where.REMEDY)
    assert command, where.REMEDY
    return command


@pytest.fixture(scope="session")
def helm_command():
    """Where helm is."""
    return _command("helm")


@pytest.fixture(scope="session")
def promtool():
    """`promtool(*arguments)` -> the finished process."""
    program = _command("promtool")
    return lambda *arguments: subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def helm(helm_command):
    """`helm(*arguments)` -> the finished process."""

    def call(*arguments):
        command = [helm_command, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return call


@pytest.fixture(scope="session")
def render(helm):
    """`render(values)` -> the objects of charts/hortator, in helm's order; the CRD only on request."""

    @functools.cache
    def text(values):
        arguments = [
            ("--set-json", f"{name}={json.dumps(value)}") for name, value in json.loads(values).items()
        ]
        done = helm("template", "hortator", CHART, "--namespace", NAMESPACE, *itertools.chain(*arguments))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(values=None):
        rendered = text(json.dumps({"crds": {"enabled": False}} | (values or {})))
        return [one for one in yaml.load_all(rendered, Loader) if one]  # the safe loader, in C

    return call

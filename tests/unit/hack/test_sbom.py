"""hack/sbom: what is verified of a list of what a release is made of."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCK = (ROOT / "requirements" / "runtime.lock").read_text()


@pytest.fixture(scope="module")
def sbom():
    loader = importlib.machinery.SourceFileLoader("hack_sbom", str(ROOT / "hack" / "sbom"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def document(sbom):
    """A list that has everything."""
    return {
        "components": [
            {
                "name": name,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": one} for one in sorted(hashes)],
            }
            for (name, version), hashes in sbom.pins_of(LOCK).items()
        ]
    }


def test_every_package_and_every_hash_of_the_lock_is_read(sbom):
    pins = sbom.pins_of(LOCK)
    assert len(pins) == len(re.findall("^[a-z].*==", LOCK, re.MULTILINE)) > 50
    assert sum(map(len, pins.values())) == LOCK.count("--hash=sha256:") > 1000
    assert all(pins.values())


def test_a_list_with_everything_is_fine(sbom, document):
    assert sbom.missing(sbom.pins_of(LOCK), document) == []


def test_what_is_missing_or_other_is_said(sbom, document):
    gone, other, less, *_ = document["components"]
    document["components"].remove(gone)
    other["hashes"][0]["content"] = "00" * 32
    less["hashes"].pop()
    document["components"].append({"name": "stranger", "version": "1"})
    assert sbom.missing(sbom.pins_of(LOCK), document) == sorted(
        [
            f"{gone['name']} {gone['version']} is not in it",
            f"{other['name']} {other['version']} has other hashes than in the lock",
            f"{less['name']} {less['version']} has other hashes than in the lock",
            "stranger 1 is not in the lock",
        ]
    )


def test_a_pin_without_a_hash_is_a_fault(sbom):
    assert sbom.missing(sbom.pins_of("a==1\n"), {"components": [{"name": "a", "version": "1"}]}) == [
        "a 1 has no hash in the lock"
    ]

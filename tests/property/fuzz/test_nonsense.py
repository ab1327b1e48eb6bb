"""Whatever comes in through a boundary, nothing but the boundary's own errors comes out (see `fuzzing.target`)."""

from __future__ import annotations

import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing.all_targets import TARGETS

CASES_CPU_S = 4.0
CASES_MEMORY_KIB = 400 * 1024

_examples = settings.default.max_examples
in_form = settings(max_examples=max(1, _examples * 4 // 10))
without_form = settings(max_examples=max(1, _examples // 10))
targets = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@targets
def test_nonsense_in_form_stays_at_the_boundary(target):
    @in_form
    @given(target.inputs)
    def any_input(data):
        target.run(data)

    any_input()


@targets
def test_bytes_without_form_stay_at_the_boundary(target):
    @without_form
    @given(st.binary(max_size=300))
    def any_input(data):
        target.run(data)

    any_input()


@targets
def test_what_was_a_bug_once_is_none(target):
    """Among them what once cost time or memory out of all proportion: minutes and gigabytes, not seconds."""
    started_at, peak_kib = time.process_time(), _peak_kib()
    for case in target.cases:
        target.run(case)
    assert time.process_time() - started_at < CASES_CPU_S
    assert _peak_kib() - peak_kib < CASES_MEMORY_KIB


@pytest.mark.parametrize(
    ("target", "bug"),
    [pytest.param(target, bug, id=f"{target.name}-{bug}") for target in TARGETS for bug in target.bugs],
)
def test_a_bug_that_has_been_mended_stays_mended(target, bug):
    target.run(target.bugs[bug])


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

"""How long something has been so, for people."""

from datetime import UTC, datetime

import pytest

from hortator.cli.k8s.status import age

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        ("2026-11-26T12:00:00Z", "0s"),
        ("2026-11-26T11:59:18Z", "42s"),
        ("2026-11-26T11:54:50Z", "5m10s"),
        ("2026-11-26T09:00:00Z", "3h"),
        ("2026-11-23T08:30:00Z", "3d3h"),
        ("2026-11-26T12:00:05Z", "0s"),
        ("", ""),
        ("yesterday", ""),
    ],
)
def test_an_age_has_its_largest_two_units(when, shown):
    assert age(when, NOW) == shown

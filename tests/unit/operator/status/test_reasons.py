"""The list of reasons is closed and complete."""

import re

import pytest

from hortator.operator.status.reasons import ENTRIES, Reason, blame, known, remedy


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_word_with_a_meaning_and_one_line_of_advice(reason):
    """As the API demands of a condition's reason, so that scripts may rely on it."""
    assert re.fullmatch(r"[A-Z][A-Za-z]{1,63}", reason)
    entry = ENTRIES[reason]
    assert entry.meaning.endswith(".")
    assert re.search(r"[.`]$", remedy(reason))
    assert "\n" not in entry.remedy


def test_nothing_is_in_the_list_that_is_no_reason():
    assert list(ENTRIES) == list(Reason)


def test_what_needs_a_person_is_told_before_what_passes_by_itself():
    order = sorted(Reason, key=blame)
    passing = [
        Reason.GROUP_RESTARTING,
        Reason.PODS_CREATING,
        Reason.WAITING_FOR_PEERS,
        Reason.LOADING_WEIGHTS,
    ]
    causes = [Reason.SECRET_NOT_FOUND, Reason.IMAGE_PULL_BACK_OFF, Reason.OOM_KILLED, Reason.NODE_LOST]
    assert max(order.index(cause) for cause in causes) < min(order.index(one) for one in passing)


def test_a_word_of_another_version_is_no_reason():
    assert known("OOMKilled", Reason.DRAINING) is Reason.OOM_KILLED
    assert known("Whatever", Reason.DRAINING) is Reason.DRAINING

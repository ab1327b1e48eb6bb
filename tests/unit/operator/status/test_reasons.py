"""The list of reasons is closed and complete."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hortator.operator.status
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


OPERATOR = Path(hortator.operator.status.__file__).parents[1]


def named_in(node: ast.AST) -> Iterator[str]:
    """The reasons that code gives: not those that it only compares with, or holds in a table of its module."""
    for child in ast.iter_child_nodes(node):
        is_table = isinstance(node, ast.Module) and isinstance(child, ast.Assign | ast.AnnAssign)
        if isinstance(child, ast.Compare) or is_table:
            continue
        if (
            isinstance(child, ast.Attribute)
            and isinstance(child.value, ast.Name)
            and child.value.id == "Reason"
        ):
            yield child.attr
        yield from named_in(child)


def test_every_reason_is_given_somewhere():
    """One that is documented and never told would be waited for in vain."""
    files = [path for path in OPERATOR.rglob("*.py") if path.name != "reasons.py"]
    given = {name for path in files for name in named_in(ast.parse(path.read_text()))}
    assert given == {reason.name for reason in Reason}

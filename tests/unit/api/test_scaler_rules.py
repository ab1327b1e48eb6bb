"""The mirror of the CRD of LLMServiceScaler: it refuses in the API server's words, and takes what that takes.

The same table is run on a real API server in e2e/cluster.
"""

import pytest

from cluster.cases.scaler import BASE, CASES
from hortator.api.parse import parse_scaler
from hortator.api.scaler_rules import SCALER_RULES, SCALER_TRANSITIONS


def said(case):
    parsed = parse_scaler(case.obj)
    problems = [*parsed.problems]
    if case.is_change:
        before = parse_scaler(BASE).scaler
        problems += [one for rule in SCALER_TRANSITIONS for one in rule.problems(before, parsed.scaler)]
    return [f"{problem.path}: {problem.message}" for problem in problems]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_mirror_says_what_the_server_says(case):
    found = said(case)
    if case.refused is None:
        assert found == []
    else:
        assert any(case.refused.lower() in line.lower() for line in found), found


def test_every_rule_has_a_refusal_and_an_acceptance():
    for is_refused in (True, False):
        covered = {case.covers for case in CASES if (case.refused is not None) is is_refused}
        assert covered - {""} == {rule.name for rule in (*SCALER_RULES, *SCALER_TRANSITIONS)}

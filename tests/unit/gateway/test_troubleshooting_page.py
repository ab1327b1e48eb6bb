"""docs/how-to/troubleshoot.md knows every refusal, and every metric that it names is there."""

import re
from pathlib import Path

from hortator.gateway.errors import ErrorKind
from hortator.gateway.service import STATUS_CODES

ROOT = Path(__file__).resolve().parents[3]
PAGES = re.compile(r"[a-z0-9/-]+\.md")
PAGE = (ROOT / "docs/how-to/troubleshoot.md").read_text()


def test_every_refusal_has_its_status_there():
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", PAGE, re.MULTILINE)
    assert {(reason, status) for status, reason in rows} == {
        (kind.value, STATUS_CODES[kind].name) for kind in ErrorKind
    }


def test_every_metric_that_it_names_is_in_the_reference():
    reference = (ROOT / "docs/reference/metrics.md").read_text()
    named = set(re.findall(r"`(hortator_[a-z_]+)`", PAGE))
    assert len(named) > 10
    assert {name for name in named if f"| `{name}` |" not in reference} == set()


def test_every_page_that_it_leads_to_is_there():
    folder = ROOT / "docs/how-to"
    linked = re.findall(r"\]\(([^)#]+)", PAGE)
    in_the_tree = PAGES.findall(PAGE.partition("## It does not come up")[2].partition("## Requests")[0])
    assert len(in_the_tree) > 3
    assert [one for one in linked if not (folder / one).exists()] == []
    assert [one for one in in_the_tree if not ((ROOT / one).exists() or (folder / one).exists())] == []

"""docs/how-to/troubleshoot.md knows every refusal, and every metric that it names is there."""

import re
from pathlib import Path

from hortator.gateway.errors import ErrorKind
from hortator.gateway.service import STATUS_CODES

ROOT = Path(__file__).resolve().parents[3]
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
    targets = re.findall(r"\]\(([^)#]+)", PAGE) + re.findall(r"\b([a-z0-9-]+\.md)\b", PAGE)
    folder = ROOT / "docs/how-to"
    missing = [
        one for one in targets if not any((base / one).exists() for base in (folder, ROOT / "docs/reference"))
    ]
    assert missing == []

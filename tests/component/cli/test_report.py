"""`hortator report` on a short run: a page, its figures as files, and what it refuses."""

import re
from pathlib import Path

import pytest

from hortator.cli import report
from hortator.cli.errors import CommandError
from hortator.cli.workload_options import WorkloadOptions

CLUSTER = Path(__file__).resolve().parents[3] / "benchmarks/sim/clusters/prefill-4xEP16.yaml"


def _run(out, **changed):
    arguments = {
        "file": CLUSTER,
        "policies": "immediate-least-tokens,staggered-plus",
        "trace": None,
        "options": WorkloadOptions(minutes=0.2),
        "loads": (0.6, 0.3),
        "prefill_only": True,
        "seed": 0,
        "window_s": 2.0,
        "out": out,
        "svg": None,
    }
    report.run(**(arguments | changed))


def test_it_writes_a_page_with_every_policy_and_figures_that_stand_alone(tmp_path):
    out = tmp_path / "report.html"
    _run(out, svg=tmp_path / "figures")
    page = out.read_text()
    assert page.count("<svg") == page.count("</svg>") == 8
    assert "immediate-least-tokens" in page
    assert len(page) < 500_000
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "balance-over-time.svg",
        "gantt-immediate-least-tokens.svg",
        "gantt-staggered-plus.svg",
        "load-mean.svg",
        "load-p99.svg",
        "mean-waits.svg",
        "queue-over-time.svg",
        "ttft-distribution.svg",
    ]
    first = out.read_bytes()
    _run(out)
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"window_s": 0.0}, "--window: got 0 (allowed: above 0, at most 120 seconds)"),
        ({"loads": (3.0,)}, "--load: got 3 (allowed: above 0, at most 2; 1 is all there is)"),
        ({"policies": "best"}, "--policy: got 'best' (allowed: all, "),
        (
            {"out": Path("/no/such/folder/x.html")},
            "--out /no/such/folder/x.html: not a file that can be written",
        ),
    ],
)
def test_a_wrong_option_is_told_in_one_line_before_anything_runs(tmp_path, changed, said):
    with pytest.raises(CommandError) as refused:
        _run(**({"out": tmp_path / "report.html"} | changed))
    assert str(refused.value).startswith(said)
    assert not list(tmp_path.iterdir())

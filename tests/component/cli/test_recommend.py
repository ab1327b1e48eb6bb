"""`hortator recommend`: which chunk budget it takes, what it says, what it refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hortator.cli.main import app
from hortator.cli.recommend import recommended

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "benchmarks/sim/clusters/prefill-4xEP16.yaml"


def figures(mean, p99, *, stable=True):
    return {"stable": stable, "ttft_s": {"mean": mean, "p99": p99}}


def test_the_least_mean_wins():
    assert recommended({1024: figures(0.5, 1.0), 2048: figures(0.4, 1.0), 4096: figures(0.6, 1.0)}) == 2048


def test_an_unstable_budget_is_never_taken():
    assert recommended({1024: figures(0.1, 0.2, stable=False), 2048: figures(0.4, 1.0)}) == 2048
    assert recommended({1024: figures(0.1, 0.2, stable=False)}) is None


def test_a_budget_whose_p99_is_far_from_the_least_is_not_taken():
    assert recommended({1024: figures(0.4, 1.2), 2048: figures(0.5, 1.0)}) == 2048
    assert recommended({1024: figures(0.4, 1.09), 2048: figures(0.5, 1.0)}) == 1024


def test_of_equal_means_the_larger_budget_is_taken():
    """It serves more."""
    assert (
        recommended({1024: figures(0.400, 1.0), 2048: figures(0.405, 1.0), 4096: figures(0.42, 1.0)}) == 2048
    )


def recommend(*options):
    return CliRunner().invoke(app, ["recommend", "-f", str(MANIFEST), "--prefill-only", *options])


def test_it_says_what_to_write_and_what_that_gains():
    """Least-delay dispatch likes short passes at half load: its mean is a third lower at 2,048."""
    done = recommend(
        "--policy", "immediate-least-delay", "--budget", "2048", "--budget", "8192", "--load", "0.5",
        "--minutes", "0.5",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Take chunkBudgetTokens: 2048: mean TTFT" in done.stdout
    assert "SHORT" in done.stdout


def test_json_has_every_budget_and_the_choice():
    done = recommend("--budget", "8192", "--minutes", "0.2", "--json", "-")
    document = json.loads(done.stdout)
    assert document["chunk_budget_tokens"] == {"now": 8192, "recommended": 8192}
    assert document["policy"] == "staggered"  # the manifest's
    assert document["budgets"]["8192"]["ttft_s"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "8"), "--budget: got 8 (allowed: 64 to 131072 tokens)"),
        (
            ("--policy", "staggered,staggered-plus"),
            "--policy: got 'staggered,staggered-plus' (allowed: one policy)",
        ),
        (("--load", "0"), "--load: got 0 (allowed: above 0, at most 2; 1 is all there is)"),
    ],
)
def test_a_wrong_option_is_one_line(options, message):
    assert str(recommend(*options).exception) == message

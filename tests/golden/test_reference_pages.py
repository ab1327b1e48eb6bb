"""The committed reference pages are what hack/generate-docs writes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, ROOT / "hack/generate-docs", folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["settings.md", "metrics.md", "llmservice.md", "limits.md"])
def test_a_page_is_up_to_date(fresh, name):
    assert (fresh / name).read_text() == (ROOT / "docs/reference" / name).read_text(), "run: make generate"


def test_every_setting_and_field_of_a_process_says_what_it_is(fresh):
    rows = [
        line.split(" | ")
        for line in (fresh / "settings.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 50
    assert not [row[0] for row in rows if not row[-1].rstrip("| ").strip()]


def test_every_metric_says_what_it_is_and_is_named_for_its_component(fresh):
    rows = [
        line.split(" | ")
        for line in (fresh / "metrics.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 40
    assert all(row[0].startswith("| `hortator_") for row in rows)
    assert not [row[0] for row in rows if not row[-1].rstrip("| ").strip()]


LABELS_OF_THE_SCHEDULER = {
    "tenant_waiting_requests": "`tenant`",
    "tenant_waiting_tokens": "`tenant`",
    "aborts_total": "`reason`",
    "attached_total": "`phase`",
    "balance_ratio": "`phase`",
    "batches_total": "`phase`",
    "chunk_utilization_ratio": "`phase`",
    "core_errors_total": "`event`",
    "events_total": "`event`",
    "forward_pass_seconds": "`phase`",
    "hold_seconds": "`phase`",
    "leader_changes_total": "`to`",
    "messages_dropped_total": "`reason`",
    "placements_total": "`policy`, `phase`",
    "predicted_ttft_seconds": "`policy`",
    "probes_total": "`ep_group`",
    "rank_batch_size": "`ep_group`, `dp_rank`",
    "rank_kv_blocks_used": "`ep_group`, `dp_rank`",
    "rank_prefill_load_tokens": "`ep_group`, `dp_rank`",
    "rejections_total": "`reason`",
    "requests_total": "`outcome`",
    "saturation_ratio": "`phase`",
    "split_batches_total": "`ep_group`",
    "split_members_total": "`ep_group`",
    "waiting_requests": "`phase`",
    "workers": "`phase`, `state`",
    "workers_lost_total": "`ep_group`, `reason`",
    "witnesses": "`led`",
}


def test_every_label_of_a_scheduler_metric_is_on_the_page(fresh):
    """Its counters and histograms are of our own kind; who writes a query needs their labels as well."""
    prefix = "| `hortator_scheduler_"
    rows = [
        line.removeprefix(prefix).split(" | ")
        for line in (fresh / "metrics.md").read_text().splitlines()
        if line.startswith(prefix)
    ]
    labels = {row[0].rstrip("`"): row[2].strip() for row in rows}
    assert {name: of for name, of in labels.items() if of} == LABELS_OF_THE_SCHEDULER

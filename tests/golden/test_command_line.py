"""What the command line looks like: tables and error lines, as committed text."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hortator.api.files import load_llmservice
from hortator.cli import plan, simulate, state
from hortator.cli.admin.snapshot import GroupSnapshot, PlacementSnapshot, RankSnapshot, Snapshot
from hortator.operator.advice import warnings
from hortator.operator.desired import desired
from hortator.operator.options import Images, Options

ROOT = Path(__file__).resolve().parents[2]


def rendered(renderable):
    console = Console(width=140, record=True, color_system=None, file=io.StringIO())
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def a_group(name, phase, group_state, loads):
    return GroupSnapshot(
        worker_id=name,
        boot_id="b",
        address="127.0.0.1:1",
        phase=phase,
        state=group_state,
        forward_pass_id=42,
        last_report_age_s=0.25,
        predicted_pass_s=0.8,
        num_in_flight=sum(batch for _, batch, _ in loads),
        ranks=tuple(
            RankSnapshot(
                dp_rank=rank,
                prefill_load_tokens=tokens,
                batch_size=batch,
                kv_blocks_used=blocks,
                kv_blocks_total=512,
                chunk_budget_tokens=8192,
            )
            for rank, (tokens, batch, blocks) in enumerate(loads)
        ),
    )


def test_the_state_of_a_busy_scheduler(golden):
    placement = PlacementSnapshot(
        request_id="gw1-7",
        attempt=1,
        phase="decode",
        worker_id="decode-0",
        dp_rank=3,
        batch_id="9-4",
        batch_size=2,
        hold_s=0.0123,
    )
    snapshot = Snapshot(
        at_s=1.0,
        epoch=9,
        policy="staggered",
        num_waiting=17,
        waiting_tokens=20_000,
        oldest_wait_s=0.4,
        num_in_flight=5,
        num_gateways=2,
        num_finished=1000,
        num_rejected={"deadline": 1, "queue_full_requests": 2},
        groups=(
            a_group("prefill-0", "prefill", "running", [(8192, 3, 128), (100, 1, 2)]),
            a_group("decode-0", "decode", "suspect", [(0, 1, 512)]),
            a_group("prefill-1", "prefill", "unreported", []),
        ),
        recent_placements=(placement,),
    )
    golden("state.txt", rendered(state.render(snapshot)))


def test_the_state_of_an_empty_scheduler(golden):
    snapshot = Snapshot(
        at_s=0.0, epoch=1, policy="staggered", num_waiting=0, waiting_tokens=0, oldest_wait_s=0.0, num_in_flight=0,
        num_gateways=0, num_finished=0, num_rejected={}, groups=(), recent_placements=(),
    )  # fmt: skip
    golden("state-empty.txt", rendered(state.render(snapshot)))


def test_the_comparison_of_policies_marks_the_best_and_the_unstable(golden):
    def figures(mean, *, stable=True, short=False):
        return {
            "completed": 10, "rejected": 1, "stable": stable, "short": short, "prefill_tokens_per_s": 123456.7,
            "chunk_utilization": 0.456, "balance_ratio": 0.7, "ttft_s": {"mean": mean, "p50": mean, "p99": 2 * mean},
        }  # fmt: skip

    golden(
        "comparison.txt",
        rendered(
            simulate.table({"slow": figures(1.5), "fast": figures(1.0), "full": figures(9.0, stable=False)})
        ),
    )
    short = {"slow": figures(1.5, short=True), "full": figures(9.0, stable=False, short=True)}
    golden("comparison-short.txt", rendered(simulate.table(short)))


@pytest.mark.parametrize("name", ["h800-64", "local"])
def test_the_plan_of_a_sample(golden, name):
    service = load_llmservice(ROOT / f"manifests/samples/llmservice-{name}.yaml")
    wanted = desired(service, uid=plan.UNKNOWN_UID, options=Options(images=Images.of_version("0.0.0")))
    golden(f"plan-{name}.txt", rendered(plan.render(service, wanted, warnings(service))))

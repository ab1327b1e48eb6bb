"""One CSV row per request of a virtual run, for whoever wants more than percentiles."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from math import isnan
from pathlib import Path

from hortator.sim.records import RequestRecord
from hortator.sim.workload import tenant_name

COLUMNS = (
    "policy",
    "request_id",
    "tenant",
    "arrived_s",
    "prompt_tokens",
    "output_tokens",
    "prefill_group",
    "dp_rank",
    "hold_s",
    "engine_queue_s",
    "ttft_s",
    "first_gap_s",
    "tpot_s",
    "e2e_s",
    "rejected",
)
"""Times in virtual seconds; empty where a request never got there."""


def write_rows(folder: Path, policy: str, records: Iterable[RequestRecord]) -> None:
    """Write the records of one policy into a file of its own, without a header."""
    with (folder / policy).open("w", newline="") as file:
        writer = csv.writer(file)
        for record in records:
            writer.writerow(
                (
                    policy,
                    record.request_id,
                    tenant_name(record.tenant),
                    _text(record.arrived_at),
                    record.num_prompt_tokens,
                    record.num_output_tokens,
                    record.prefill_group,
                    "" if record.dp_rank is None else record.dp_rank,
                    _text(record.hold_s),
                    _text(record.engine_queue_s),
                    _text(record.ttft_s),
                    _text(record.first_gap_s),
                    _text(record.tpot_s),
                    _text(record.e2e_s),
                    record.rejected,
                )
            )


def join_rows(path: Path, folder: Path, policies: Iterable[str]) -> None:
    """One file with a header from what `write_rows` wrote into the folder."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)
        for policy in policies:
            with (folder / policy).open(newline="") as rows:
                file.writelines(rows)


def _text(seconds: float) -> str:
    return "" if isnan(seconds) else f"{seconds:.6f}"

import json
import re
from pathlib import Path

from chaos import page
from chaos.ledger import Ledger

from virtual.tally import Tally


def a_document(**figures):
    machine = {"cpu": "a CPU", "num_cores": 2, "python": "3.11.7"}
    circumstances = {"commit": "0123456789abcdef", "is_modified": False, "seed": 7, "at": "2026-01-01"}
    return circumstances | {"machine": machine, "figures": figures}


def test_the_page_has_a_row_for_each_victim_and_state_and_a_column_for_each_kind():
    ledger = Ledger()
    for kind, victim, state in (
        ("killed", "decode", "decoding"),
        ("killed", "decode", "decoding"),
        ("stopped", "decode", "decoding"),
        ("killed", "leader", "held"),
        ("cut", "link gateway to decode", "does not answer"),
    ):
        ledger.count(kind, victim, state)
    ledger.note_pair("stopped decode", "killed leader")
    ledger.note_pair("killed leader", "stopped decode")
    tally = Tally(num_trials=3, num_requests=1200, ledger=ledger, broken=[5])
    lines = page.render(a_document(virtual=tally.document())).splitlines()
    assert "| victim | state | cut | killed | stopped |" in lines
    assert "| decode | decoding |  | 2 | 1 |" in lines
    assert "| leader | held |  | 1 |  |" in lines
    assert "- 1,200 requests checked" in lines
    assert "- 3 distinct faults (kind x victim x state)" in lines, "who does not answer is in no state"
    assert "- 1 distinct pairs of faults at once" in lines
    assert "- **1 broken promises**" in lines
    assert "## Real processes" not in lines


def test_the_page_says_what_else_was_measured():
    failover = {"requests": 2734, "failed_requests": 0, "broken_streams": 0}
    for way in ("killed", "terminated", "stopped"):
        failover |= {f"{way}_s": 0.25, f"worst_{way}_s": 0.5}
    minute = {
        "policy": "staggered",
        "times_the_capacity": 10.0,
        "requests": 66805,
        "refused_share": 0.902,
        "refused_late_or_otherwise": 0,
        "accepted_ttft_p99_s": 4.698,
        "most_waiting": 275,
        "recovery_s": 4.0,
    }
    flood = {
        "policy": "staggered-plus",
        "tenants": 10,
        "times_its_share": 10.0,
        "others_ttft_mean_s": 0.3375,
        "others_ttft_mean_moved_by": 0.0305,
        "others_ttft_p99_s": 1.0795,
        "others_ttft_p99_moved_by": -0.0331,
        "others_refused": 0,
    }
    in_real_time = {
        "policy": "staggered-plus",
        "times_the_capacity": 10.0,
        "seconds": 60.0,
        "capacity_rps": 8.5,
        "max_wait_s": 2.0,
        "requests": 6103,
        "refused_share": 0.877,
        "refused_after_p50_s": 0.005,
        "refused_after_p99_s": 0.054,
        "served_rps": 10.7,
        "calm_ttft_p99_s": 1.908,
        "accepted_ttft_p50_s": 2.87,
        "accepted_ttft_p99_s": 7.296,
        "recovery_s": 4.0,
        "peak_memory_mib": {"scheduler": 72.7, "gateway": 84.3},
        "memory_grew_by_mib": {"scheduler": 0.4, "gateway": 10.7},
        "problems": [],
    }
    bad_inputs = {"by_boundary": {"trace": 1100, "llmservice": 900}, "problems": []}
    text = page.render(a_document(failover=failover, overload=[minute], flood=flood, bad_inputs=bad_inputs))
    text += page.render(
        a_document(
            overload_realtime=in_real_time, flood_realtime=flood | {"seconds": 60.0, "problems": ["one"]}
        )
    )
    assert "6,103 requests, 87.7% of those in the overload refused" in text
    assert "refusals came 5 ms after the request (p99 54 ms)" in text
    assert "84.3 MiB of memory in the gateway at most, 10.7 MiB of them for the overload" in text
    assert "**1 broken promises**. A few hundred" in text
    assert "| killed | 0.25 | 0.50 |" in text
    assert "2,734 requests, 0 failed, 0 broken streams." in text
    assert "| `staggered` | 66,805 | 90.2% | 0 | 4.7 | 275 | 4 |" in text
    assert "mean 0.34 s, +3.0%; p99 1.08 s, -3.3%." in text
    assert "2,000 tried; **0 came through**." in text


RECORDED = Path(__file__).resolve().parents[3] / "benchmarks/reliability"


def test_the_recorded_page_is_what_its_figures_say_and_no_promise_was_broken():
    document = json.loads((RECORDED / "chaos.json").read_text())
    assert document["is_modified"] is False
    text = (RECORDED / "chaos.md").read_text()
    assert text == page.render(document)
    assert set(re.findall(r"\*\*(\d+) broken promises", text)) == {"0"}
    assert "; **0 came through**" in text

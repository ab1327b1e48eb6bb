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
    ledger.count_pair("stopped decode", "killed leader")
    ledger.count_pair("killed leader", "stopped decode")
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

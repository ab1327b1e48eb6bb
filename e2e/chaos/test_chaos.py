"""Whatever dies, stops, is cut or slow: every request ends once, with every token once, and nothing is left."""

import json
import os
from pathlib import Path

import pytest

from chaos import experiment

SECONDS = float(os.environ.get("HORTATOR_CHAOS_S", "25"))
SEED = int(os.environ.get("HORTATOR_CHAOS_SEED", "1"))
JSON_FILE = os.environ.get("HORTATOR_CHAOS_JSON", "")


@pytest.mark.safety
@pytest.mark.timeout(SECONDS + 400)
async def test_nothing_is_lost_whatever_dies(tmp_path):
    result = await experiment.run(tmp_path, seed=SEED, seconds=SECONDS)
    print(result.text())
    if JSON_FILE:
        Path(JSON_FILE).write_text(json.dumps(result.document(), indent=2) + "\n")
    assert not result.problems, "\n".join(result.problems)
    assert result.num_ended > SECONDS
    assert result.num_restarts > SECONDS / 5
    assert result.ledger.num_distinct >= min(SECONDS / 3, 60)

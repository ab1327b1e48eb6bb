"""The doctor over the double: nothing is wrong with a sound engine, and a sick one is told."""

import pytest

from doubles import trtllm
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.doctor.examine import engine_checks, library_checks

EXAMINED = {
    "placement on ranks",
    "a batch enters as one",
    "end of a pass",
    "statistics in long decodes",
    "abort",
    "resumed requests",
    "resumed requests with a seed",
    "stop tokens",
    "KV hand-over",
}
DECODES = {
    "statistics in long decodes",
    "abort",
    "resumed requests",
    "resumed requests with a seed",
    "stop tokens",
}
NEWER = {"LLM._check_health", "LLM.get_kv_cache_capacity", "statistics over RPC"}


async def examined(version="1.2.1", *, fault="", patience_s=10.0, **options):
    trtllm.emulate(version, fault=fault)
    config = TensorRTLLMConfig(**trtllm.options(**options))
    exits = trtllm.Exits()
    checks = {
        check.name: check async for check in engine_checks(config, patience_s=patience_s, exit_process=exits)
    }
    return checks, exits


@pytest.mark.parametrize("phase", ["prefill", "aggregated", "decode"])
@pytest.mark.parametrize("version", trtllm.VERSIONS)
async def test_a_sound_engine_fails_nothing(version, phase):
    checks, exits = await examined(version, phase=phase)
    assert checks.keys() > EXAMINED | NEWER | {"arguments", "start", "shutdown"}
    assert {name for name, check in checks.items() if check.verdict == "failed"} == set()
    warned = {name for name, check in checks.items() if check.verdict == "warning"}
    assert warned == (NEWER if version == "1.2.1" else set())
    skipped = {name for name, check in checks.items() if check.verdict == "skipped"}
    if phase == "prefill":
        assert skipped == DECODES
    else:
        assert skipped == {"KV hand-over"}
    assert exits == []


async def test_it_says_by_what_rows_placement_was_seen():
    older, _ = await examined("1.2.1")
    newer, _ = await examined("1.3.0rc20")
    assert older["placement on ranks"].found.startswith("rank 0 ran what was pinned to it and nothing else")
    assert newer["placement on ranks"].found.startswith("each of 2 ranks ran what was pinned to it")


@pytest.mark.parametrize("version", trtllm.VERSIONS)
async def test_an_engine_that_routes_by_itself_is_told(version):
    checks, _ = await examined(version, fault="misplace:0", tensor_parallel_size=4)
    placement = checks["placement on ranks"]
    assert placement.verdict == "failed"
    assert placement.found.startswith("prompts pinned to ranks 0, ")
    assert "attention_dp_config" in placement.fix


@pytest.mark.parametrize(
    ("fault", "name", "found"),
    [
        ("reseeds", "resumed requests with a seed", "go on with other tokens than without the cut"),
        ("never-stops", "stop tokens", "after 8 tokens it ended with length; expected were 5 and stop"),
    ],
)
async def test_outputs_that_are_not_what_was_assumed_are_told(fault, name, found):
    checks, _ = await examined(phase="aggregated", fault=fault)
    assert checks[name].verdict == "warning"
    assert checks[name].found.startswith(found)
    assert checks[name].fix
    assert checks["resumed requests"].verdict == "ok"


async def test_an_engine_that_does_not_start_is_told_and_nothing_else_is_asked():
    checks, _ = await examined(fault="construct:CUDA out of memory")
    assert checks["start"].verdict == "failed"
    assert "out of memory" in checks["start"].found
    assert not checks.keys() & EXAMINED


async def test_an_engine_that_hangs_is_told_by_the_examination_that_met_it():
    checks, _ = await examined(fault="hang:6", patience_s=0.3, no_progress_timeout_s=60.0)
    failed = [check for check in checks.values() if check.verdict == "failed"]
    assert failed
    assert failed[0].found == "nothing for 0.3 s"
    assert "look at its log" in failed[0].fix


async def test_an_engine_that_dies_ends_the_examination():
    checks, _ = await examined(fault="fatal:6")
    *_, last = [check for check in checks.values() if check.name != "shutdown"]
    assert last.verdict == "failed"
    assert last.found.startswith("the engine died: ")


async def test_batches_that_the_engine_splits_are_told():
    """Told to wait, it does not, and starts with one request."""
    checks, _ = await examined(fault="split")
    split = checks["a batch enters as one"]
    assert split.verdict == "failed"
    assert split.fix == "raise llm_args.batch_wait_timeout_ms (up to 10)"


def test_the_library_has_what_placement_needs():
    trtllm.emulate("1.2.1")
    checks = list(library_checks())
    assert [check.verdict for check in checks] == ["ok"] * 3
    assert checks[0].found == "1.2.1"

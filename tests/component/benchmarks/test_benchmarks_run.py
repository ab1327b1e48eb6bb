"""Each benchmark once with tiny sizes: it runs, and its figures have the names that results and targets use."""

import io
import json
import re

import pytest
from rich.console import Console

from hortator.cli.bench import core, result, service, simulator, stream


@pytest.fixture
def console():
    return Console(file=io.StringIO())


@pytest.mark.parametrize("policy", core.POLICIES)
@pytest.mark.parametrize("is_full", [False, True], ids=["prefill", "full"])
class TestCore:
    def test_a_recorded_run_can_be_handed_to_a_fresh_machine(self, policy, is_full):
        assert core.events_per_s(policy, seed=0, virtual_s=1.0, is_full=is_full) > 0

    def test_releases_place_whole_batches_from_a_long_queue(self, policy, is_full):
        """16 ranks of 8 192 tokens, prompts of about 1 155: cached heads make more fit."""
        costs = core.release_costs(policy, num_groups=2, seed=0, num_releases=4, is_full=is_full)
        assert len(costs.releases_s) == 4
        assert costs.num_placements / 4 > 90
        assert costs.us_per_placement > 0


def test_the_full_variant_reserves_decode_and_finds_cached_heads():
    settings = core._settings("staggered", is_full=True)
    assert settings.decode_reservation
    log = core.record_events(settings, seed=0, virtual_s=1.0)
    kinds = {type(event).__name__ for _, event in log}
    assert "PrefillFinished" in kinds
    arrivals = [event for _, event in log if type(event).__name__ == "RequestArrived"]
    assert all(len(event.block_hashes) == event.num_prompt_tokens // 64 for event in arrivals)
    firsts = [event.block_hashes[0] for event in arrivals if event.block_hashes]
    assert len(set(firsts)) < len(firsts)
    plain, full = (
        core.release_costs("staggered", num_groups=2, seed=0, num_releases=4, is_full=is_full)
        for is_full in (False, True)
    )
    assert full.num_placements > plain.num_placements


def test_the_simulator_is_measured_small_and_large(tmp_path):
    """63 groups in the large run; every target is a figure."""
    file = tmp_path / "simulator.json"
    simulator.run(seed=0, num_large=3000, repeats=1, json_file=file, virtual_s=2.0)
    figures = json.loads(file.read_text())["figures"]
    assert figures["large.ranks"] == 1008
    assert figures["large.requests"] == pytest.approx(3000, rel=0.1)
    assert all(value > 0 for name, value in figures.items() if "memory" not in name and "bytes" not in name)
    for target in simulator.TARGETS:
        pattern = re.escape(target).replace("<policy>", "[a-z-]+")
        assert any(re.fullmatch(pattern, name) for name in figures), target


def test_every_target_of_the_core_is_a_figure_of_it():
    """With few releases: the names are what matters."""
    names = core.figures_of("staggered", seed=0, virtual_s=0.5, num_releases=4)
    assert {f"staggered.{name}" for name in names} >= core.TARGETS.keys()


async def test_the_service_is_measured_and_the_memory_of_every_process_with_it(console):
    latency, memory = await service._with_stack(
        console, seed=0, num_repeats=1, seconds=0.25, num_requests=200
    )
    placements = await service._placements(console, seed=0, seconds=0.25)
    figures = result.medians(latency) | placements | memory["figures"]
    assert figures.keys() >= service.TARGETS.keys()
    processes = {"gateway", "scheduler", "worker_0", "worker_1"}
    assert memory["samples"][-1].keys() == {"num_requests", *(f"{name}_rss_mib" for name in processes)}
    assert all(memory["samples"][-1][f"{name}_rss_mib"] > 10 for name in processes)
    growth = {name: figures[f"{name}_memory_growth"] for name in processes}
    assert figures["memory_growth"] == max(growth["gateway"], growth["scheduler"])
    assert figures["worker_memory_growth"] == max(growth["worker_0"], growth["worker_1"])
    assert figures["placements_per_s"] > 0


async def test_a_stream_is_measured_through_the_gateway_and_straight(console):
    figures = await stream._measure(0.1, seed=0, seconds=0.5)
    assert figures.keys() >= stream.TARGETS.keys()
    assert figures["tokens_per_s"] > 0
    assert figures["added_itl_p99_ms"] == figures["gateway_itl_p99_ms"] - figures["worker_itl_p99_ms"]

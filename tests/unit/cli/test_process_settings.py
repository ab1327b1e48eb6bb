"""A manifest as the settings of processes: every value that the processes themselves accept."""

from pathlib import Path

import pytest

from hortator.api.files import parse_llmservice
from hortator.cli import process_settings
from hortator.cli.errors import CommandError
from hortator.gateway.settings import GatewaySettings
from hortator.scheduler.settings import SchedulerProcessSettings
from hortator.worker.engine_factory import read_options
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
LOCAL = (ROOT / "manifests/samples/llmservice-local.yaml").read_text()
SIMULATED = (ROOT / "manifests/samples/llmservice-simulated-64.yaml").read_text()


def service(text=LOCAL, **replacements):
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return parse_llmservice(text, source="test")


def worker_settings(of, role="Prefill"):
    return WorkerSettings.load(
        **process_settings.worker(
            of, role_name=role, worker_id="w", scheduler_addresses=["127.0.0.1:7"], log_level="INFO"
        )
    )


def test_the_scheduler_gets_policy_queue_and_hold():
    of = service(LOCAL.replace("maxHold: 2s", "maxHold: 750ms").replace("interval: Auto", "interval: 10ms"))
    settings = SchedulerProcessSettings.load(
        **process_settings.scheduler(of, port=0, log_level="INFO", record_to=Path("/tmp/events.jsonl"))
    )
    core = settings.core_settings()
    assert (core.policy, core.max_hold_s, core.interval_s) == ("staggered", 0.75, 0.01)
    assert (core.max_waiting_requests, core.max_waiting_tokens, core.queue_timeout_s) == (
        10_000,
        2_000_000,
        30.0,
    )
    assert settings.events_path == Path("/tmp/events.jsonl")


def test_a_torch_moe_worker_gets_ranks_budget_and_weights():
    settings = worker_settings(service(), role="Decode")
    assert (settings.worker_id, settings.phase.value, settings.engine.value) == ("w", "decode", "torch_moe")
    options = read_options(TorchMoEConfig, settings.engine_options)
    assert (options.dp_size, options.chunk_budget_tokens, options.max_batch_size) == (2, 256, 32)
    assert (options.kv_blocks, options.tokens_per_block) == (1024, 16)
    assert options.weights_path.is_file()


def test_a_simulated_worker_gets_the_cost_model_of_the_manifest():
    of = service(SIMULATED.replace("timeScale: 1.0", "timeScale: 0.5").replace("seed: 0", "seed: 9"))
    options = read_options(SimulatedConfig, worker_settings(of).engine_options)
    assert (options.preset, options.time_scale, options.expert_skew, options.seed) == (
        "deepseek-h800",
        0.5,
        1.367,
        9,
    )
    assert (options.dp_size, options.chunk_budget_tokens, options.model_name) == (16, 8192, "deepseek-v3")


def test_the_gateway_gets_model_tokenizer_and_limits():
    settings = GatewaySettings.load(
        **process_settings.gateway(service(), port=0, scheduler_addresses=["127.0.0.1:7"], log_level="INFO")
    )
    assert (settings.model, settings.max_sequence_tokens, settings.tokens_per_block) == (
        "moe-shakespeare",
        1024,
        16,
    )
    assert Path(settings.tokenizer).is_file()
    assert settings.chunk_budget_tokens == 256
    simulated = process_settings.gateway(
        service(SIMULATED), port=0, scheduler_addresses=["127.0.0.1:7"], log_level="INFO"
    )
    assert simulated["tokenizer"] == "bytes"


def test_the_sequence_limit_is_the_least_of_the_model_and_all_roles():
    assert process_settings.max_sequence_tokens(service()) == 1024
    assert (
        process_settings.max_sequence_tokens(service(LOCAL.replace("Tokens: 1024", "Tokens: 512", 1))) == 512
    )
    assert (
        process_settings.max_sequence_tokens(service(LOCAL.replace("Tokens: 1024", "Tokens: 9999"))) == 1024
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param("builtin://moe-shakespeare", "builtin://other", "spec.model.uri.*builtin://moe-shakespeare", id="builtin"),
        pytest.param("builtin://moe-shakespeare", "file:///nowhere", "spec.model.uri.*no model.safetensors", id="file"),
        pytest.param("kvBlocks: 512", "kvBlocks: 512\n    chunkedPrefill: false", r"spec.roles\[0\].chunkedPrefill.*allowed: true", id="chunked"),
        pytest.param("gpusPerNode: 2\n    parallelism: {attentionDP: 2, expert: 2}\n    chunkBudgetTokens: 256           #", "gpusPerNode: 5\n    parallelism: {attentionDP: 5, expert: 5}\n    chunkBudgetTokens: 256           #", r"spec.roles\[0\].parallelism.attentionDP.*allowed: 1, 2, 3, 4, 6, 12", id="experts"),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_do_is_said_before_anything_starts(old, new, words):
    assert old in LOCAL
    of = service(LOCAL.replace(old, new))
    with pytest.raises(CommandError, match=f"m.yaml: {words}") as caught:
        process_settings.check(of, source="m.yaml")
    assert caught.value.exit_code == 2

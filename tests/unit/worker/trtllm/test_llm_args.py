"""Configuration to arguments of TensorRT-LLM: what a phase decides, and what is refused with its reason."""

import pytest

from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.llm_args import arguments, check_overrides, check_world, fitting
from hortator.worker.engines.trtllm.model_facts import ModelFacts
from hortator.worker.errors import EngineConfigError

FACTS = ModelFacts(vocab_size=129280, max_seq_len=8192, end_id=1, is_mla=True)


def config(**changes):
    return TensorRTLLMConfig(
        model="hf://deepseek-ai/DeepSeek-V3",
        **({"tensor_parallel_size": 16, "moe_expert_parallel_size": 16} | changes),
    )


def test_a_group_of_16_ranks_runs_attention_dp_with_experts_over_all_of_them():
    found = arguments(config(phase="prefill", max_batch_size=64, mtp_layers=1), FACTS)
    assert found["model"] == "deepseek-ai/DeepSeek-V3"
    assert found["tensor_parallel_size"] == found["moe_expert_parallel_size"] == 16
    assert found["enable_attention_dp"]
    assert found["kv_cache_config"]["enable_block_reuse"]
    assert found["cuda_graph_config"] == {"enable_padding": True, "max_batch_size": 64}
    assert found["speculative_config"] == {"decoding_type": "MTP", "num_nextn_predict_layers": 1}
    assert not found["enable_chunked_prefill"]
    assert "moe_config" not in found  # on Hopper the library's own choice is the recommended one


def test_objects_are_merged_field_by_field():
    given = {"kv_cache_config": {"host_cache_size": 1 << 33}, "moe_config": {"max_num_tokens": 8192}}
    found = arguments(config(llm_args=given, moe_backend="CUTLASS", kv_cache_dtype="fp8"), FACTS)
    assert found["kv_cache_config"]["host_cache_size"] == 1 << 33
    assert (found["kv_cache_config"]["tokens_per_block"], found["kv_cache_config"]["dtype"]) == (32, "fp8")
    assert found["moe_config"] == {"backend": "CUTLASS", "max_num_tokens": 8192}


def test_graphs_are_recorded_for_the_sizes_that_are_named():
    found = arguments(config(cuda_graph_batch_sizes=[1, 8, 64]), FACTS)
    assert found["cuda_graph_config"] == {"enable_padding": True, "batch_sizes": [1, 8, 64]}
    assert arguments(config(cuda_graphs=False), FACTS)["cuda_graph_config"] is None


@pytest.mark.parametrize(
    ("phase", "given", "says"),
    [
        ("prefill", {"batch_wait_timeout_ms": 0}, "0 splits batches"),
        ("prefill", {"batch_wait_timeout_ms": 50}, "more is waited in every pass"),
        ("prefill", {"disable_overlap_scheduler": False}, "one pass early"),
        ("decode", {"batch_wait_timeout_ms": 3}, "stalls all decodes"),
        ("aggregated", {"batch_wait_timeout_ms": 3}, "stalls all decodes"),
        (
            "aggregated",
            {"disable_overlap_scheduler": True},
            "lead of one pass that is declared would be wrong",
        ),
        ("decode", {"batch_wait_timeout_iters": 2}, "hold back batches"),
        ("decode", {"batch_wait_max_tokens_ratio": 0.5}, "hold back batches"),
        ("prefill", {"attention_dp_config": {"enable_balance": True}}, "staggering does that outside"),
        ("prefill", {"attention_dp_config": {"enable_kv_cache_aware_routing": True}}, "leave their rank"),
        ("decode", {"scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"}}, "pauses or holds"),
        ("decode", {"stream_interval": 10}, "end of a pass is seen by its tokens"),
        ("decode", {"enable_iter_perf_stats": False}, "seen by statistics alone"),
        ("decode", {"orchestrator_type": "ray"}, "no statistics"),
        ("decode", {"max_num_tokens": 1}, "set engine_options.max_num_tokens"),
        ("decode", {"kv_cache_config": {"dtype": "fp8"}}, "set engine_options.kv_cache_dtype"),
        ("decode", {"kv_cache_config": {"tokens_per_block": 8}}, "set engine_options.tokens_per_block"),
        ("decode", {"moe_config": {"backend": "CUTLASS"}}, "set engine_options.moe_backend"),
    ],
)
def test_what_makes_the_engine_wait_or_hides_its_passes_is_refused(phase, given, says):
    with pytest.raises(EngineConfigError) as refusal:
        check_overrides(config(phase=phase, llm_args=given))
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"engine_options.llm_args.{next(iter(given))}")
    assert says in line


@pytest.mark.parametrize(
    ("phase", "given"),
    [
        ("prefill", {"batch_wait_timeout_ms": 5, "attention_dp_config": {"enable_balance": False}}),
        ("decode", {"batch_wait_timeout_ms": 0, "kv_cache_config": {"host_cache_size": 1 << 33}}),
    ],
)
def test_what_does_no_harm_is_taken(phase, given):
    check_overrides(config(phase=phase, llm_args=given))


def test_an_argument_that_a_version_lacks_is_left_out_unless_nothing_works_without_it():
    wanted = {"model": "m", "stream_interval": 1, "batch_wait_timeout_ms": 0.0}
    kept, dropped = fitting(wanted, {"model": None, "batch_wait_timeout_ms": None})
    assert (sorted(kept), dropped) == (["batch_wait_timeout_ms", "model"], ("stream_interval",))
    with pytest.raises(EngineConfigError, match="has no batch_wait_timeout_ms"):
        fitting(wanted, {"model": None, "stream_interval": None})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"moe_expert_parallel_size": 8}, "moe_expert_parallel_size 8 times moe_tensor_parallel_size 1"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size: got 2"),
        ({"free_gpu_memory_fraction": 1.5}, "free_gpu_memory_fraction"),
        ({"max_num_tokens": 0}, "max_num_tokens must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        config(**changes)


def test_more_ranks_than_a_pod_has_gpus_are_refused():
    check_world(config(tensor_parallel_size=8, moe_expert_parallel_size=8))
    with pytest.raises(EngineConfigError, match="16 ranks need 16 GPUs, and a pod has 8"):
        check_world(config())


def test_the_ranks_of_a_group_of_several_pods_are_all_their_gpus():
    check_world(config(num_pods=2))
    check_world(config(num_pods=4, gpus_per_node=4))
    with pytest.raises(
        EngineConfigError, match=r"16 ranks, but 3 pods \(GROUP_SIZE\) of 8 GPUs .* have 24 \(allowed: 24\)"
    ):
        check_world(config(num_pods=3))


def test_tensor_parallel_attention_is_one_rank():
    assert config(enable_attention_dp=False).dp_size == 1

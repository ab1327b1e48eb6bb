"""Options of TensorRT-LLM in a role reach the worker, and what the worker would refuse is refused before.

The tables of the LLMService and of the worker are written in two places, since neither imports the other: here
they are held against each other.
"""

import copy

import pytest

from hortator.api.parse import parse
from hortator.api.processes import engine
from hortator.api.v1alpha1.tensorrt_llm import ARGS_OF_FIELDS, ARGS_THAT_WAIT, EngineArg
from hortator.worker.engine_factory import read_options
from hortator.worker.engines.simulated.config import SimulatedConfig
from hortator.worker.engines.trtllm.config import TensorRTLLMConfig
from hortator.worker.engines.trtllm.llm_args import arguments, check_overrides
from hortator.worker.engines.trtllm.model_facts import ModelFacts
from hortator.worker.errors import EngineConfigError

FACTS = ModelFacts(vocab_size=129280, max_seq_len=8192, end_id=1, is_mla=True)
SERVICE = {
    "apiVersion": "serving.hortator.dev/v1alpha1",
    "kind": "LLMService",
    "metadata": {"name": "m"},
    "spec": {
        "model": {"uri": "hf://deepseek-ai/DeepSeek-V3"},
        "engine": {"backend": "TensorRTLLM"},
        "topology": "Aggregated",
        "roles": [
            {"name": "Aggregated", "nodes": 2, "parallelism": {"attentionDP": 16, "expert": 16}},
        ],
    },
}


def service(*, backend="TensorRTLLM", **options):
    obj = copy.deepcopy(SERVICE)
    obj["spec"]["engine"]["backend"] = backend
    obj["spec"]["roles"][0]["tensorrtLLM"] = options
    return parse(obj)


def config(**options):
    """What a worker of such a service is given, read as it reads it."""
    found = service(**options).service
    values = engine(found, found.spec.roles[0], model_sequence_tokens=8192, weights_path=None)
    return read_options(TensorRTLLMConfig, values["engine_options"])


def args(**values):
    return [{"name": name.replace("__", "."), "value": value} for name, value in values.items()]


def test_every_field_reaches_the_library():
    found = config(
        kvCacheDtype="fp8",
        memoryFraction=0.7,
        moeBackend="CUTLASS",
        mtpLayers=1,
        cudaGraph={"batchSizes": [64, 1, 8]},
        args=args(
            kv_cache_config__host_cache_size="8589934592", trust_remote_code="true", load_format="dummy"
        ),
    )
    check_overrides(found)
    given = arguments(found, FACTS)
    assert given["kv_cache_config"]["dtype"] == "fp8"
    assert given["kv_cache_config"]["free_gpu_memory_fraction"] == 0.7
    assert given["kv_cache_config"]["host_cache_size"] == 8589934592
    assert given["moe_config"] == {"backend": "CUTLASS"}
    assert given["speculative_config"] == {"decoding_type": "MTP", "num_nextn_predict_layers": 1}
    assert given["cuda_graph_config"] == {"enable_padding": True, "batch_sizes": [1, 8, 64]}
    assert (given["trust_remote_code"], given["load_format"]) == (True, "dummy")


def test_defaults_are_the_workers_own():
    assert config() == config(kvCacheDtype="auto", args=[])
    bare = copy.deepcopy(SERVICE)
    found = parse(bare).service
    values = engine(found, found.spec.roles[0], model_sequence_tokens=8192, weights_path=None)
    assert read_options(TensorRTLLMConfig, values["engine_options"]) == config()


def test_without_graphs_the_library_is_told_so():
    assert arguments(config(cudaGraph={"enabled": False}), FACTS)["cuda_graph_config"] is None


def test_fields_of_one_object_come_together_whatever_their_order():
    given = args(moe_config__max_num_tokens="4096", moe_config__load_balancer='{"num_slots": 288}')
    assert config(args=given[::-1]).llm_args == {
        "moe_config": {"max_num_tokens": 4096, "load_balancer": {"num_slots": 288}}
    }


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("true", True), ("CUTLASS", "CUTLASS"), ("NaN", "NaN"), ("[1]", [1])]
)
def test_a_value_is_json_or_else_text(text, value):
    assert EngineArg(name="x", value=text).parsed == value


def test_a_simulated_engine_heeds_the_data_type_of_its_kv():
    found = service(backend="Simulated", kvCacheDtype="fp8").service
    values = engine(found, found.spec.roles[0], model_sequence_tokens=8192, weights_path=None)
    assert read_options(SimulatedConfig, values["engine_options"]).pass_cost().kv_bytes_per_token == 35136


# What the worker refuses, with values that it refuses in some phase
REFUSED_BY_WORKER = {
    "attention_dp_config.enable_balance": True,
    "attention_dp_config.enable_kv_cache_aware_routing": True,
    "batch_wait_timeout_iters": 1,
    "batch_wait_max_tokens_ratio": 0.5,
    "disable_overlap_scheduler": True,
    "scheduler_config.capacity_scheduler_policy": "MAX_UTILIZATION",
    "stream_interval": 2,
    "enable_iter_perf_stats": False,
    "orchestrator_type": "ray",
    "kv_cache_config.dtype": "fp8",
    "kv_cache_config.free_gpu_memory_fraction": 0.5,
    "kv_cache_config.tokens_per_block": 8,
    "kv_cache_config.enable_block_reuse": False,
    "moe_config.backend": "CUTLASS",
    "cuda_graph_config.batch_sizes": [1],
    "speculative_config.num_nextn_predict_layers": 1,
    "model": "x",
    "revision": "x",
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "moe_expert_parallel_size": 1,
    "moe_tensor_parallel_size": 1,
    "enable_attention_dp": False,
    "gpus_per_node": 1,
    "max_num_tokens": 1,
    "max_batch_size": 1,
    "max_seq_len": 1,
    "enable_chunked_prefill": True,
}


@pytest.mark.parametrize("name", sorted(REFUSED_BY_WORKER))
def test_what_the_worker_refuses_is_refused_before_and_the_field_is_named(name):
    outer, _, inner = name.partition(".")
    value = REFUSED_BY_WORKER[name]
    llm_args = {outer: {inner: value} if inner else value}
    with pytest.raises(EngineConfigError, match=name.replace(".", r"\.")):
        check_overrides(TensorRTLLMConfig(model="m", llm_args=llm_args))
    (problem,) = service(args=[{"name": name, "value": "1"}]).problems
    assert problem.path == "spec.roles[0].tensorrtLLM.args[0].name"
    assert name in problem.message


def test_the_tables_say_no_name_twice_and_none_that_no_argument_can_have():
    assert not set(ARGS_OF_FIELDS) & set(ARGS_THAT_WAIT)
    for name in (*ARGS_OF_FIELDS, *ARGS_THAT_WAIT):
        assert EngineArg(name=name, value="1").name == name


def test_a_wait_is_refused_where_it_stalls_decodes():
    (problem,) = service(args=args(batch_wait_timeout_ms="3")).problems
    assert problem.path == "spec.roles[0].tensorrtLLM.args"
    assert problem.message.endswith("only in role Prefill, above 0 to 10 (got 3 in role Aggregated)")


def test_an_unknown_option_is_named_with_the_one_that_was_meant():
    (problem,) = service(kvCacheDType="fp8").problems
    assert str(problem) == "spec.roles[0].tensorrtLLM.kvCacheDType: unknown field, did you mean kvCacheDtype?"

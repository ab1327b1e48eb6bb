"""`LLM`: checks what the library checks before it queues a request (facts s1, s2)."""

import functools
import itertools
from pathlib import Path

from tensorrt_llm import _profile, _world
from tensorrt_llm._executor import Cancel, Executor, Submitted
from tensorrt_llm._result import GenerationResult
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.llmapi.llm_args import torch_llm_args


class GenerationExecutorProxy:
    """What `llm._executor` is on the old path."""

    def __init__(self, inner):
        self._inner = inner

    @property
    def _fatal_error(self):
        return self._inner._fatal_error

    def check_health(self):
        return self._inner._fatal_error is None


class GenerationExecutorRpcProxy(GenerationExecutorProxy):
    """The same on the RPC path."""


class _LLM:
    def __init__(self, model, **kwargs):
        setting = _profile.current
        if setting.fault.startswith("construct:"):
            raise RuntimeError(setting.fault.partition(":")[2])
        self.args = torch_llm_args(setting.profile)(model=str(model), **kwargs)
        if str(model).startswith("/") and not Path(model).exists():
            raise FileNotFoundError(f"{model} does not exist")
        if self.args.cache_transceiver_config and self.args.cache_transceiver_config.backend is None:
            raise ValueError("cache_transceiver_config.backend is not set")
        self._double = Executor(self.args, setting, self._ranks())
        proxy = GenerationExecutorRpcProxy if setting.profile.rpc_statistics else GenerationExecutorProxy
        self._executor = proxy(self._double)
        self._ids = itertools.count(1)

    def _ranks(self):
        """The link to the ranks of other processes; None: they are all played here."""
        if not _world.is_spawned():
            return None
        link = _world.connect()
        ranks, wanted = link.ask("who"), self.args.tensor_parallel_size * self.args.pipeline_parallel_size
        if len(ranks) != wanted:
            link.close()
            raise RuntimeError(f"world size {len(ranks)} is not tp * pp = {wanted}")
        return link

    def _generate(self, inputs, sampling_params, disaggregated_params, scheduling_params, cache_salt):
        double = self._double
        if double.is_shut_down:
            raise RuntimeError("LLM is shutting down")
        prompt = inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs
        if self.args.skip_tokenizer_init and sampling_params.end_id is None:
            raise ValueError("end_id must be set when skip_tokenizer_init is True")
        is_generation = disaggregated_params is not None and (
            disaggregated_params.request_type == "generation_only"
        )
        if disaggregated_params is not None and self.args.cache_transceiver_config is None:
            raise RequestError("cache_transceiver_config is needed for disaggregated requests")
        if (
            not self.args.enable_chunked_prefill
            and not is_generation
            and len(prompt) > self.args.max_num_tokens
        ):
            raise RequestError(
                f"prompt length {len(prompt)} exceeds max_num_tokens {self.args.max_num_tokens}"
            )
        request_id = next(self._ids)
        result = GenerationResult(request_id, list(prompt), lambda request_id: double.put(Cancel(request_id)))
        double.put(
            Submitted(
                request_id=request_id,
                result=result,
                prompt=tuple(prompt),
                sampling=sampling_params,
                rank=getattr(scheduling_params, "attention_dp_rank", None),
                relax=getattr(scheduling_params, "attention_dp_relax", None),
                disagg=disaggregated_params,
                cache_salt=cache_salt,
            )
        )
        return result

    def get_stats(self, timeout=2):
        return self._double.statistics.read(timeout)

    def get_stats_async(self, timeout=2):
        return self._double.statistics.aread(timeout)

    def shutdown(self):
        self._double.shutdown()


@functools.cache
def llm_class(profile):
    """Signatures differ between lines, so that they can be probed."""

    class LLM(_LLM):
        if profile.has_priority:

            def generate_async(
                self,
                inputs,
                sampling_params=None,
                lora_request=None,
                prompt_adapter_request=None,
                streaming=False,
                kv_cache_retention_config=None,
                disaggregated_params=None,
                trace_headers=None,
                _postproc_params=None,
                scheduling_params=None,
                conversation_params=None,
                cache_salt=None,
                priority=0.5,
            ):
                return self._generate(
                    inputs, sampling_params, disaggregated_params, scheduling_params, cache_salt
                )

        else:

            def generate_async(
                self,
                inputs,
                sampling_params=None,
                lora_request=None,
                prompt_adapter_request=None,
                streaming=False,
                kv_cache_retention_config=None,
                disaggregated_params=None,
                _postproc_params=None,
                scheduling_params=None,
                cache_salt=None,
            ):
                return self._generate(
                    inputs, sampling_params, disaggregated_params, scheduling_params, cache_salt
                )

        if profile.has_health:

            def _check_health(self):
                return self._executor.check_health()

        if profile.has_capacity:

            def get_kv_cache_capacity(self):
                config = self._double.model.config
                return {
                    "maxNumBlocks": config.kv_blocks_total,
                    "tokensPerBlock": config.tokens_per_block,
                    "maxNumTokens": config.kv_blocks_total * config.tokens_per_block,
                }

    return LLM

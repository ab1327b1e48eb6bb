"""What is worth a warning in an LLMService that is accepted: it will not do all that it seems to say.

`hortator plan` prints it before anything is applied; each line names the field and what helps.
"""

from __future__ import annotations

from collections.abc import Iterator

from hortator.api import processes
from hortator.api.arithmetic import Problem, num_groups
from hortator.api.v1alpha1 import LLMService
from hortator.operator.manifests.gang import PROVIDERS

MOE_BACKENDS_ON_HOPPER = ("AUTO", "CUTLASS")


def warnings(service: LLMService) -> tuple[Problem, ...]:
    """In the order of the fields; empty when there is nothing to say."""
    return (
        *_model(service),
        *_engine(service),
        *_groups(service),
        *_gang(service),
        *_roles(service),
        *_security(service),
    )


def _model(service: LLMService) -> Iterator[Problem]:
    model, backend = service.spec.model, service.spec.engine.backend
    if model.uri.startswith("hf://") and model.revision is None and backend != "Simulated":
        yield Problem(
            path="spec.model.revision",
            message="not pinned: groups that start at different times may serve different weights "
            "(set a commit or tag)",
        )
    if model.uri.startswith("file://"):
        folder = processes.model_folder(service)
        yield Problem(
            path="spec.model.uri",
            message=f"{folder} is a folder in the image of workers, and must be there",
        )
    if model.cache is not None and model.cache.prefetch and processes.cached_model(service) is None:
        yield Problem(
            path="spec.model.cache.prefetch",
            message="only hf:// models are downloaded (fill the volume yourself and set prefetch to false)",
        )


def _engine(service: LLMService) -> Iterator[Problem]:
    if service.spec.engine.backend == "TensorRTLLM":
        yield Problem(
            path="spec.engine.backend",
            message="TensorRTLLM was proven on a double, not on GPUs yet (docs/how-to/tensorrt-llm.md)",
        )
    if _is_length_assumed(service):
        yield Problem(
            path="spec.roles[0].maxSequenceTokens",
            message=f"absent: gateways take requests of up to {processes.ASSUMED_SEQUENCE_TOKENS} tokens, "
            "whatever the model can take (say it)",
        )


def _groups(service: LLMService) -> Iterator[Problem]:
    if service.spec.suspend:
        yield Problem(path="spec.suspend", message="true: everything is made, but no group is started")
    for index, role in enumerate(service.spec.roles):
        groups = num_groups(service, role)
        if groups == 0:
            yield Problem(
                path=f"spec.roles[{index}].replicas", message=f"no {role.name} group: nothing is served"
            )
        rollout = service.spec.rollout
        if groups == 1 and not rollout.max_surge and not rollout.allow_outage:
            yield Problem(
                path=f"spec.roles[{index}].replicas",
                message=f"one {role.name} group: it does not move to another image or model by itself (two "
                "groups can take turns; else set rollout.maxSurge or rollout.allowOutage)",
            )


def _gang(service: LLMService) -> Iterator[Problem]:
    provider = service.spec.placement.gang.provider
    if provider in PROVIDERS:
        yield Problem(
            path="spec.placement.gang.provider",
            message=f"{provider} is told of every group as it publishes, and was never seen to place one "
            "(docs/how-to/gang.md)",
        )


def _roles(service: LLMService) -> Iterator[Problem]:
    backend = service.spec.engine.backend
    for index, role in enumerate(service.spec.roles):
        at = f"spec.roles[{index}]"
        ranks = role.parallelism.attention_dp
        if backend == "TorchMoE" and role.nodes > 1:
            yield Problem(
                path=f"{at}.nodes",
                message=f"{role.nodes}, but TorchMoE runs all ranks in one pod: its workers refuse to start "
                "(set 1)",
            )
        if backend == "TorchMoE" and not role.chunked_prefill:
            yield Problem(
                path=f"{at}.chunkedPrefill", message="false, but TorchMoE splits prompts (set true)"
            )
        if service.spec.model.uri == processes.BUILTIN_MODEL and processes.BUILTIN_EXPERTS % ranks:
            yield Problem(
                path=f"{at}.parallelism.attentionDP",
                message=f"{ranks} does not divide the {processes.BUILTIN_EXPERTS} routed experts of the "
                "builtin model: workers refuse to start",
            )
        if backend == "TensorRTLLM" and role.nodes > 1 and not role.rdma_resources:
            yield Problem(
                path=f"{at}.rdmaResources",
                message="absent: what GPUs of different nodes say to each other goes by TCP then, if the "
                "cluster has no other way to its RDMA ports",
            )
        if backend == "TensorRTLLM" and role.chunked_prefill:
            yield Problem(
                path=f"{at}.chunkedPrefill",
                message="true, not known to work with latent attention (DeepSeek) on Hopper: workers "
                "of such a model refuse to start (set false)",
            )
        options = role.tensorrt_llm
        if options is not None and options.moe_backend not in {None, *MOE_BACKENDS_ON_HOPPER}:
            yield Problem(
                path=f"{at}.tensorrtLLM.moeBackend",
                message=f"{options.moe_backend}, listed for FP8 weights on Blackwell alone (leave it out, or "
                f"{' or '.join(MOE_BACKENDS_ON_HOPPER)}, on H800)",
            )
        if backend == "TensorRTLLM" and role.shm_size is None:
            yield Problem(
                path=f"{at}.shmSize",
                message="absent: /dev/shm has 64 MiB then, too small for NCCL (set 16Gi or more)",
            )


def _security(service: LLMService) -> Iterator[Problem]:
    security = service.spec.security
    if service.spec.engine.backend != "TensorRTLLM":
        return
    if security.tls is None:
        yield Problem(
            path="spec.security.tls",
            message="absent: prompts travel in the clear, and whoever reaches a pod may call it "
            "(docs/how-to/secure.md)",
        )
    if security.client_auth == "None" and security.api_keys_secret_ref is None:
        yield Problem(
            path="spec.security",
            message="neither clientAuth nor apiKeysSecretRef: whoever reaches a gateway may use it "
            "(docs/how-to/secure.md)",
        )


def _is_length_assumed(service: LLMService) -> bool:
    is_known = service.spec.engine.backend == "Simulated" or service.spec.model.uri == processes.BUILTIN_MODEL
    return not is_known and not any(role.max_sequence_tokens for role in service.spec.roles)

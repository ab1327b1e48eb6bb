"""Every rule of the manifest has a test here with the exact line a user reads."""

import copy
import json
from pathlib import Path
from typing import get_args

import pytest
import yaml

from hortator.api.arithmetic import num_groups, num_ranks, world_size
from hortator.api.files import ManifestError, load_llmservice, parse_llmservice, validate_llmservice
from hortator.api.v1alpha1 import LLMService, PolicyName, SimulatedPreset
from hortator.scheduler.core.policies.registry import POLICY_NAMES
from hortator.worker.engines.simulated.h800 import PRESETS

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("llmservice-*.yaml"))
CLUSTERS = sorted((ROOT / "benchmarks" / "sim" / "clusters").glob("*.yaml"))

MANIFEST = {
    "apiVersion": "serving.hortator.dev/v1alpha1",
    "kind": "LLMService",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"uri": "hf://org/model"},
        "engine": {"backend": "TensorRTLLM"},
        "topology": "PrefillDecode",
        "roles": [
            {
                "name": "Prefill",
                "replicas": 2,
                "nodes": 2,
                "gpusPerNode": 8,
                "parallelism": {"attentionDP": 16, "expert": 16},
            },
            {"name": "Decode", "nodes": 4, "parallelism": {"attentionDP": 32, "expert": 32}},
        ],
        "scheduler": {},
    },
}

DELETED = object()


def a_manifest(**changes):
    """The valid manifest with changes; keys are paths like `spec__roles__0__nodes`."""
    manifest = copy.deepcopy(MANIFEST)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        target = manifest
        for part in parents:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
        if value is DELETED:
            del target[last]
        else:
            target[last] = value
    return manifest


def lines_of(manifest):
    with pytest.raises(ManifestError) as caught:
        validate_llmservice(manifest, source="x.yaml")
    return list(caught.value.lines)


@pytest.mark.parametrize("path", SAMPLES + CLUSTERS, ids=lambda path: path.name)
def test_every_manifest_of_the_repository_is_valid(path):
    assert isinstance(load_llmservice(path), LLMService)


def test_the_samples_that_the_documentation_names_exist():
    assert {path.name for path in SAMPLES} >= {
        "llmservice-local.yaml",
        "llmservice-simulated.yaml",
        "llmservice-simulated-64.yaml",
        "llmservice-h800-16.yaml",
        "llmservice-h800-64.yaml",
    }
    assert {path.name for path in CLUSTERS} >= {"prefill-4xEP16.yaml", "h800-64.yaml"}


def test_the_simulated_flagship_has_the_groups_of_the_real_one():
    real = load_llmservice(ROOT / "manifests/samples/llmservice-h800-64.yaml")
    simulated = load_llmservice(ROOT / "benchmarks/sim/clusters/h800-64.yaml")
    assert simulated.spec.roles == tuple(
        # a model can do what Hopper may not
        role.model_copy(update={"shm_size": None, "rdma_resources": {}, "chunked_prefill": True})
        for role in real.spec.roles
    )
    assert sum(num_groups(real, role) * world_size(role) for role in real.spec.roles) == 64


def test_defaults_are_those_of_the_documentation():
    service = validate_llmservice(MANIFEST, source="x")
    role = service.role("Decode")
    scheduler = service.spec.scheduler
    assert (role.replicas, role.gpus_per_node, role.chunk_budget_tokens, role.max_batch_size) == (
        1,
        8,
        8192,
        128,
    )
    assert (role.tokens_per_block, role.kv_blocks, role.chunked_prefill, role.max_sequence_tokens) == (
        64,
        None,
        True,
        None,
    )
    assert (role.parallelism.tensor, role.parallelism.pipeline, role.parallelism.expert_tensor) == (1, 1, 1)
    assert (scheduler.policy, scheduler.interval_s, scheduler.max_hold_s, scheduler.replicas) == (
        "staggered",
        None,
        2.0,
        1,
    )
    assert (scheduler.queue.max_requests, scheduler.queue.max_tokens, scheduler.queue.timeout_s) == (
        10_000,
        20_000_000,
        30.0,
    )
    assert service.spec.gateway.replicas == 2
    assert service.spec.engine.simulated_options.preset == "deepseek-h800"


def test_the_served_name_is_the_objects_name_unless_given():
    assert validate_llmservice(MANIFEST, source="x").model_name == "demo"
    assert validate_llmservice(a_manifest(spec__model__name="org/m.1"), source="x").model_name == "org/m.1"


def test_ranks_are_counted_over_groups_and_replicas():
    service = validate_llmservice(a_manifest(spec__replicas=3), source="x")
    assert num_groups(service, service.role("Prefill")) == 6
    assert num_ranks(service) == 3 * (2 * 16 + 32)


def test_durations_and_intervals_are_seconds_in_python():
    service = validate_llmservice(
        a_manifest(
            spec__scheduler__interval="5ms",
            spec__scheduler__maxHold="1m30s",
            spec__scheduler__queue={"timeout": "10s"},
        ),
        source="x",
    )
    assert service.spec.scheduler.interval_s == pytest.approx(0.005)
    assert service.spec.scheduler.max_hold_s == 90.0
    assert service.spec.scheduler.queue.timeout_s == 10.0


@pytest.mark.parametrize("path", SAMPLES + CLUSTERS, ids=lambda path: path.name)
def test_a_service_written_as_json_reads_back_equal(path):
    service = load_llmservice(path)
    text = service.model_dump_json(by_alias=True, exclude_none=False)
    assert validate_llmservice(_without_none(json.loads(text)), source="x") == service


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # structure
        ({"spec__topology": DELETED}, "spec.topology: Required value"),
        ({"spec__roles__0__parallelism": DELETED}, "spec.roles[0].parallelism: Required value"),
        (
            {"spec__roles__0__parallelism__expert": DELETED},
            "spec.roles[0].parallelism.expert: Required value",
        ),
        ({"spec__roles__0__node": 2}, "spec.roles[0].node: unknown field, did you mean nodes?"),
        (
            {"spec__scheduler__max_hold_s": 2.0},
            "spec.scheduler.max_hold_s: unknown field, did you mean maxHold?",
        ),
        (
            {"spec__gateway": {"xyz": 1}},
            "spec.gateway.xyz: unknown field (allowed: replicas, image, resources)",
        ),
        ({"spec__engine": "Simulated"}, "spec.engine: got 'Simulated' (allowed: a mapping of fields)"),
        ({"spec__roles": "Prefill"}, "spec.roles: got 'Prefill' (allowed: a list)"),
        ({"spec__roles": []}, "spec.roles: got 0 items, should have at least 1 items (allowed: 1 to 2)"),
        # values
        (
            {"apiVersion": "serving.hortator.dev/v1"},
            "apiVersion: got 'serving.hortator.dev/v1' (allowed: serving.hortator.dev/v1alpha1)",
        ),
        (
            {"spec__engine__backend": "vLLM"},
            'spec.engine.backend: got \'vLLM\' (supported values: "TensorRTLLM", "TorchMoE", "Simulated")',
        ),
        (
            {"spec__topology": "Both"},
            'spec.topology: got \'Both\' (supported values: "PrefillDecode", "Aggregated")',
        ),
        (
            {"spec__roles__0__name": "prefill"},
            'spec.roles[0].name: got \'prefill\' (supported values: "Prefill", "Decode", "Aggregated")',
        ),
        (
            {"spec__scheduler__policy": "fifo"},
            (
                'spec.scheduler.policy: got \'fifo\' (supported values: "immediate-round-robin", "immediate-least-requests", "immediate-weighted-requests", "immediate-least-tokens", "immediate-power-of-two", "immediate-least-delay", "fixed-batch", "staggered", "staggered-plus")'
            ),
        ),
        (
            {"spec__roles__0__replicas": -1},
            "spec.roles[0].replicas: got -1, should be greater than or equal to 0 (allowed: 0 to 1024)",
        ),
        (
            {"spec__roles__0__nodes": 65},
            "spec.roles[0].nodes: got 65, should be less than or equal to 64 (allowed: 1 to 64)",
        ),
        (
            {"spec__roles__0__nodes": "2"},
            "spec.roles[0].nodes: got '2' (allowed: a whole number, not quoted)",
        ),
        (
            {"spec__roles__0__nodes": 2.5},
            "spec.roles[0].nodes: got 2.5 (allowed: a whole number, not quoted)",
        ),
        (
            {"spec__roles__0__nodes": True},
            "spec.roles[0].nodes: got True (allowed: a whole number, not quoted)",
        ),
        (
            {"spec__roles__0__kvBlocks": 0},
            "spec.roles[0].kvBlocks: got 0, should be greater than or equal to 1 (allowed: 1 to 1073741824)",
        ),
        (
            {"spec__roles__0__maxSequenceTokens": 1},
            "spec.roles[0].maxSequenceTokens: got 1, should be greater than or equal to 2 (allowed: 2 to 16777216)",
        ),
        (
            {"spec__roles__0__chunkedPrefill": "yes"},
            "spec.roles[0].chunkedPrefill: got 'yes' (allowed: true, false)",
        ),
        ({"spec__model__revision": 12}, "spec.model.revision: got 12 (allowed: text; quote it)"),
        (
            {"spec__model__uri": "ftp://x"},
            (
                "spec.model.uri: got 'ftp://x' (allowed: a URI that starts with hf://, pvc://, oci://, s3://, "
                "file://, builtin://)"
            ),
        ),
        (
            {"spec__model__name": "a b"},
            "spec.model.name: got 'a b' (allowed: at most 128 letters, digits, '-', '.', '_' and '/')",
        ),
        (
            {"metadata__name": "Demo"},
            (
                "metadata.name: got 'Demo', should match '^[a-z]([-a-z0-9]*[a-z0-9])?$' (allowed: at most 40 of a-z, 0-9 and '-', starting with a letter, not ending with '-')"
            ),
        ),
        (
            {"metadata__name": "a" * 41},
            (
                "metadata.name: got 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', may not be more than 40 bytes (allowed: at most 40 of a-z, 0-9 and '-', starting with a letter, not ending with '-')"
            ),
        ),
        (
            {"spec__scheduler__maxHold": 2},
            "spec.scheduler.maxHold: got 2 (allowed: a duration from 0s to 1h, like 5ms, 2s, 1m30s, 1h)",
        ),
        (
            {"spec__scheduler__interval": "10s"},
            "spec.scheduler.interval: got '10s' (allowed: Auto, or a duration from 1ms to 1s)",
        ),
        (
            {"spec__scheduler__interval": "auto"},
            "spec.scheduler.interval: got 'auto' (allowed: Auto, or a duration from 1ms to 1s)",
        ),
        (
            {"spec__scheduler__queue": {"timeout": "0s"}},
            "spec.scheduler.queue.timeout: got '0s' (allowed: a duration from 1ms to 24h, like 5ms, 2s, 1m30s, 1h)",
        ),
        (
            {"spec__engine": {"backend": "Simulated", "simulated": {"preset": "h100"}}},
            'spec.engine.simulated.preset: got \'h100\' (supported values: "deepseek-h800", "rtp-h800")',
        ),
        (
            {"spec__engine": {"backend": "Simulated", "simulated": {"timeScale": 0}}},
            "spec.engine.simulated.timeScale: got 0, should be greater than 0 (allowed: above 0, at most 1000)",
        ),
        (
            {"spec__engine": {"backend": "Simulated", "simulated": {"expertSkew": 0.5}}},
            "spec.engine.simulated.expertSkew: got 0.5, should be greater than or equal to 1 (allowed: 1 to 32)",
        ),
        # arithmetic
        (
            {"spec__roles__0__nodes": 3},
            (
                "spec.roles[0].parallelism.attentionDP: attentionDP x tensor x pipeline must equal nodes x gpusPerNode (got 16 x 1 x 1 = 16 and 3 x 8 = 24)"
            ),
        ),
        (
            {"spec__roles__1__parallelism__expert": 8},
            (
                "spec.roles[1].parallelism.expert: expert x expertTensor must equal attentionDP x tensor (got 8 x 1 = 8 and 32 x 1 = 32)"
            ),
        ),
        (
            {"spec__topology": "Aggregated"},
            "spec.roles: topology Aggregated needs exactly one Aggregated role, topology PrefillDecode exactly one Prefill and one Decode role (got Aggregated with Prefill, Decode)",
        ),
        (
            {"spec__roles__1": DELETED},
            "spec.roles: topology Aggregated needs exactly one Aggregated role, topology PrefillDecode exactly one Prefill and one Decode role (got PrefillDecode with Prefill)",
        ),
        (
            {"spec__roles__1__name": "Prefill"},
            "spec.roles: Duplicate value: name Prefill (allowed: each name once)",
        ),
        (
            {"spec__roles__0__parallelism": {"attentionDP": 8, "tensor": 2, "expert": 16}},
            (
                "spec.roles[0].parallelism.tensor: attention is either data-parallel or tensor-parallel in TensorRTLLM: tensor must be 1 when attentionDP is above 1 (got tensor 2 with attentionDP 8)"
            ),
        ),
        (
            {
                "spec__engine__backend": "Simulated",
                "spec__roles__0__parallelism": {"attentionDP": 8, "pipeline": 2, "expert": 8},
            },
            "spec.roles[0].parallelism.pipeline: tensor, pipeline and expertTensor must be 1 with backends TorchMoE and Simulated (got 2 with Simulated)",
        ),
        (
            {"spec__roles__1__tokensPerBlock": 32},
            (
                "spec.roles[1].tokensPerBlock: tokensPerBlock must be equal in all roles: KV blocks are handed over between them (got Prefill 64, Decode 32)"
            ),
        ),
        (
            {"spec__engine": {"backend": "TensorRTLLM", "simulated": {}}},
            "spec.engine.simulated: only with backend Simulated (got backend TensorRTLLM)",
        ),
        (
            {"spec__engine__backend": "TorchMoE"},
            "spec.model.uri: must start with builtin:// or file:// with backend TorchMoE (got hf://)",
        ),
        (
            {"spec__model__uri": "builtin://moe-shakespeare"},
            "spec.model.uri: must start with hf://, pvc://, oci://, s3:// or file:// with backend TensorRTLLM (got builtin://)",
        ),
    ],
)
def test_a_broken_rule_is_one_line_naming_file_field_and_what_is_allowed(changes, line):
    assert lines_of(a_manifest(**changes)) == [f"x.yaml: {line}"]


def test_tensor_parallel_attention_alone_is_fine_in_tensorrt_llm():
    role = {
        "name": "Aggregated",
        "nodes": 2,
        "parallelism": {"attentionDP": 1, "tensor": 16, "expert": 8, "expertTensor": 2},
    }
    validate_llmservice(a_manifest(spec__topology="Aggregated", spec__roles=[role]), source="x")


def test_all_problems_are_reported_at_once():
    assert lines_of(a_manifest(spec__topology="Both", spec__roles__0__nodes=0)) == [
        'x.yaml: spec.topology: got \'Both\' (supported values: "PrefillDecode", "Aggregated")',
        "x.yaml: spec.roles[0].nodes: got 0, should be greater than or equal to 1 (allowed: 1 to 64)",
    ]


def test_a_list_whose_items_are_all_wrong_is_not_also_too_short():
    bad = {"name": "Prefill", "parallelism": {"attentionDP": "two", "expert": 2}}
    assert lines_of(a_manifest(spec__roles=[bad, None])) == [
        "x.yaml: spec.roles[0].parallelism.attentionDP: got 'two' (allowed: a whole number, not quoted)",
        "x.yaml: spec.roles[1]: got None (allowed: a mapping of fields)",
    ]


def test_more_roles_than_any_topology_has_are_counted():
    roles = MANIFEST["spec"]["roles"]
    assert lines_of(a_manifest(spec__roles=roles + roles)) == [
        "x.yaml: spec.roles: got 4 items, must have at most 2 items (allowed: 1 to 2)"
    ]


def test_policies_and_presets_are_those_that_exist():
    """The names are written out in the types, because api imports no other component."""
    assert set(get_args(PolicyName)) == set(POLICY_NAMES)
    assert set(get_args(SimulatedPreset)) == set(PRESETS) - {"sglang-h100"}  # which is for validation only


def test_the_llmservice_is_found_among_other_documents(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text("---\nkind: Namespace\n---\n" + yaml.safe_dump(MANIFEST) + "---\n")
    assert load_llmservice(path).metadata.name == "demo"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: Pod\n", "x.yaml: kind: no LLMService in it, found Pod (allowed: LLMService)"),
        ("", "x.yaml: kind: no LLMService in it, found nothing (allowed: LLMService)"),
        ("just text\n", "x.yaml: kind: no LLMService in it, found nothing (allowed: LLMService)"),
        ("kind: LLMService\n---\nkind: LLMService\n", "x.yaml: 2 LLMService documents (allowed: 1)"),
        ("a: 1\nb: [1, 2\nc: 3\n", "x.yaml:3: not valid YAML: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "x.yaml:2: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3: not valid YAML: 'a' is given twice"),
        ("a:\n  1: 2\n", "x.yaml:2: not valid YAML: keys must be text, got 1"),
        ("a: !!python/object:os.system x\n", None),
        ("a: \x00\n", "x.yaml:1: not valid YAML: special characters are not allowed"),
        ("a: 0b_\n", "x.yaml: not valid YAML: invalid literal for int() with base 2: ''"),
    ],
)
def test_broken_yaml_names_file_and_line(text, line):
    with pytest.raises(ManifestError) as caught:
        parse_llmservice(text, source="x.yaml")
    (only,) = caught.value.lines
    if line is None:
        assert only.startswith("x.yaml:1: not valid YAML: could not determine a constructor")
    else:
        assert only == line


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ManifestError) as caught:
        load_llmservice(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"


def test_a_file_that_is_not_text_is_one_line(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_bytes(b"kind: \xff\xfe")
    with pytest.raises(ManifestError) as caught:
        load_llmservice(path)
    assert str(caught.value) == f"{path}: not UTF-8 text: byte 6"


def test_a_huge_file_is_not_a_manifest(tmp_path):
    path = tmp_path / "b.yaml"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ManifestError, match="larger than 1 MiB, not a manifest"):
        load_llmservice(path)


def test_a_loaded_service_cannot_be_changed():
    service = validate_llmservice(MANIFEST, source="x")
    with pytest.raises(ValueError, match="frozen"):
        service.spec.replicas = 2


def test_an_absent_role_is_a_key_error():
    with pytest.raises(KeyError, match="Aggregated"):
        validate_llmservice(MANIFEST, source="x").role("Aggregated")

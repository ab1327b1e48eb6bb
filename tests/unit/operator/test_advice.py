"""What is worth a warning."""

import pytest

from hortator.operator.advice import warnings


def paths(service):
    return [line.path for line in warnings(service)]


def test_a_sample_that_runs_anywhere_needs_few_words(sample):
    assert paths(sample("simulated-64")) == ["spec.roles[1].replicas"]


@pytest.mark.parametrize(
    ("name", "values", "path"),
    [
        ("simulated-64", {"spec.suspend": True}, "spec.suspend"),
        ("simulated-64", {"spec.replicas": 0}, "spec.roles[0].replicas"),
        ("h800-16", {"spec.model.revision": None}, "spec.model.revision"),
        ("h800-16", {}, "spec.engine.backend"),
        ("h800-16", {}, "spec.security"),
        ("h800-16", {}, "spec.security.tls"),
        ("h800-16", {"spec.roles.0.shmSize": None}, "spec.roles[0].shmSize"),
        ("h800-16", {"spec.roles.0.rdmaResources": {}}, "spec.roles[0].rdmaResources"),
        ("h800-16", {"spec.roles.0.maxSequenceTokens": None}, "spec.roles[0].maxSequenceTokens"),
        (
            "h800-16",
            {"spec.roles.0.tensorrtLLM": {"moeBackend": "DEEPGEMM"}},
            "spec.roles[0].tensorrtLLM.moeBackend",
        ),
        (
            "h800-16",
            {"spec.model.uri": "s3://a/b", "spec.model.cache": {"claimName": "a"}},
            "spec.model.cache.prefetch",
        ),
        ("local", {"spec.model.uri": "file:///a"}, "spec.model.uri"),
        ("local", {"spec.roles.0.nodes": 2, "spec.roles.0.gpusPerNode": 1}, "spec.roles[0].nodes"),
        ("local", {"spec.roles.0.chunkedPrefill": False}, "spec.roles[0].chunkedPrefill"),
        (
            "local",
            {"spec.roles.0.gpusPerNode": 5, "spec.roles.0.parallelism": {"attentionDP": 5, "expert": 5}},
            "spec.roles[0].parallelism.attentionDP",
        ),
    ],
)
def test_a_field_that_does_not_do_all_it_says_is_named(sample, changed, name, values, path):
    assert path in paths(changed(sample(name), values))


@pytest.mark.parametrize(
    ("name", "values", "path"),
    [
        ("simulated-64", {"spec.roles.1.replicas": 2}, "spec.roles[1].replicas"),
        ("simulated-64", {"spec.rollout": {"maxSurge": 1}}, "spec.roles[1].replicas"),
        ("simulated-64", {"spec.rollout": {"allowOutage": True}}, "spec.roles[1].replicas"),
        ("h800-16", {"spec.model.revision": "abc"}, "spec.model.revision"),
        ("h800-16", {"spec.security.tls": {}}, "spec.security.tls"),
        ("h800-16", {"spec.security.apiKeysSecretRef": {"name": "keys"}}, "spec.security"),
        ("h800-16", {"spec.roles.0.shmSize": "64Gi"}, "spec.roles[0].shmSize"),
        (
            "h800-16",
            {"spec.roles.0.tensorrtLLM": {"moeBackend": "CUTLASS"}},
            "spec.roles[0].tensorrtLLM.moeBackend",
        ),
        ("h800-16", {"spec.roles.0.maxSequenceTokens": 4096}, "spec.roles[0].maxSequenceTokens"),
        ("h800-16", {"spec.model.cache": {"claimName": "a"}}, "spec.model.cache.prefetch"),
        ("local", {}, "spec.roles[0].parallelism.attentionDP"),
    ],
)
def test_what_the_warning_asks_for_silences_it(sample, changed, name, values, path):
    assert path not in paths(changed(sample(name), values))


def test_a_group_over_several_nodes_that_has_rdma_ports_needs_no_warning_of_its_size(sample):
    assert not {"spec.roles[0].nodes", "spec.roles[0].rdmaResources"} & set(paths(sample("h800-16")))

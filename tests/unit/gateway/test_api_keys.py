"""API keys: what a key allows, what is refused, and how the file is followed."""

from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from hortator.gateway.api_keys import ApiKeyFile, ApiKeysError
from hortator.gateway.errors import ErrorKind, GatewayError


def _entry(name, key, **more):
    return {"name": name, "sha256": sha256(key.encode()).hexdigest(), **more}


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "keys.yaml"

    def write(*entries, raw=None):
        fresh = tmp_path / "fresh"
        fresh.write_text(raw if raw is not None else yaml.safe_dump({"keys": list(entries)}))
        fresh.replace(path)
        return str(path)

    return write


def _refusal(call, *arguments):
    with pytest.raises(GatewayError) as caught:
        call(*arguments)
    return caught.value.kind, caught.value.message


def test_a_key_for_any_tenant_leaves_the_tenant_as_it_is(write):
    grant = ApiKeyFile(write(_entry("all", "k1"))).current().grant("Bearer k1")
    assert (grant.name, grant.tenant_of("x"), grant.tenant_of("")) == ("all", "x", "")


def test_a_key_for_one_tenant_need_not_name_it(write):
    keys = ApiKeyFile(write(_entry("one", "k1", tenants=["ci"]))).current()
    assert keys.grant("bearer k1").tenant_of("") == "ci"
    assert keys.grant("BEARER  k1").tenant_of("ci") == "ci"
    kind, message = _refusal(keys.grant("Bearer k1").tenant_of, "prod")
    assert kind is ErrorKind.FORBIDDEN
    assert message == "tenant: API key 'one' may not be used for 'prod' (allowed: ci)"


def test_a_key_for_several_tenants_must_name_one(write):
    grant = ApiKeyFile(write(_entry("two", "k1", tenants=["a", "b"]))).current().grant("Bearer k1")
    assert grant.tenant_of("b") == "b"
    kind, message = _refusal(grant.tenant_of, "")
    assert kind is ErrorKind.FORBIDDEN
    assert message.endswith("(allowed: a, b)")


@pytest.mark.safety
@pytest.mark.parametrize(
    "authorization", ["", "k1", "Basic k1", "Bearer", "Bearer ", "Bearer k2", "Bearer k1 k1"]
)
def test_without_a_known_key_nothing_is_granted(write, authorization):
    keys = ApiKeyFile(write(_entry("all", "k1"))).current()
    kind, message = _refusal(keys.grant, authorization)
    assert kind is ErrorKind.UNAUTHENTICATED
    assert "k1" not in message


@pytest.mark.safety
def test_the_hash_of_a_key_is_not_a_key(write):
    keys = ApiKeyFile(write(_entry("all", "k1"))).current()
    kind, _ = _refusal(keys.grant, f"Bearer {sha256(b'k1').hexdigest()}")
    assert kind is ErrorKind.UNAUTHENTICATED


def test_the_file_is_read_again_when_it_changes(write):
    file = ApiKeyFile(write(_entry("all", "k1")))
    write(_entry("all", "k2"))
    assert file.current().grant("Bearer k2").name == "all"
    assert _refusal(file.current().grant, "Bearer k1")[0] is ErrorKind.UNAUTHENTICATED


def test_a_file_that_cannot_be_used_leaves_the_keys_before_it(write):
    path = write(_entry("all", "k1"))
    file = ApiKeyFile(path)
    write(raw="keys: [{name: x}]")
    assert file.current().grant("Bearer k1").name == "all"
    Path(path).unlink()
    assert file.current().grant("Bearer k1").name == "all"
    write(_entry("all", "k2"))
    assert file.current().grant("Bearer k2").name == "all"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "the file: Input should be a valid dictionary or instance of _Document"),
        ("keys: [{name: x}]", "keys.0.sha256: Field required"),
        ("keys: [{name: x, sha256: zz}]", "keys.0.sha256: String should match pattern"),
        (
            "keys: [{name: x, sha256: " + 64 * "a" + ", tenants: []}]",
            "keys.0.tenants: List should have at least 1",
        ),
        (
            "keys: [{name: x, sha256: " + 64 * "a" + ", tenant: a}]",
            "keys.0.tenant: Extra inputs are not permitted",
        ),
        ("a: b: c", "not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(write, raw, message):
    with pytest.raises(ApiKeysError) as caught:
        ApiKeyFile(write(raw=raw))
    assert message in str(caught.value)
    assert "keys.yaml: " in str(caught.value)

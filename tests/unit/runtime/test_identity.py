import pytest

from hortator.runtime.identity import Identity, IdentityError


def test_a_uri_and_its_identity_say_the_same():
    identity = Identity(namespace="prod", service="deepseek-v3", component="gateway")
    assert identity.uri == "spiffe://hortator/prod/deepseek-v3/gateway"
    assert Identity.parse(identity.uri) == identity
    assert identity.server_name == "gateway.deepseek-v3.prod.hortator"
    assert identity.of("worker").uri == "spiffe://hortator/prod/deepseek-v3/worker"
    assert str(identity) == "gateway of prod/deepseek-v3"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://hortator/",
        "spiffe://hortator/a/b",
        "spiffe://hortator/a/b/c/d",
        "spiffe://elsewhere/a/b/c",
        "https://hortator/a/b/c",
        "spiffe://hortator/a/../c",
        "spiffe://hortator/A/b/c",
        "spiffe://hortator/a/b/-c",
        "spiffe://hortator/a/b/c\n",
        "spiffe://hortator/a/b/" + 64 * "c",
    ],
)
def test_what_is_no_uri_of_ours_is_refused(uri):
    with pytest.raises(IdentityError):
        Identity.parse(uri)

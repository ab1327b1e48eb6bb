"""The bytes of a KV hand-over are refused unless they fit exactly."""

import pytest

from hortator.worker.engines.torch_moe.kv_payload import KvPayloadError, pack, unpack

TOKENS = [3, 1, 4, 1, 5]
DATA = bytes(range(40))  # 4 tokens of 10 bytes


def a_payload(**changes):
    return pack(**({"weights_digest": "w", "token_ids": TOKENS[:4], "data": DATA} | changes))


def test_a_payload_comes_back_as_it_was():
    assert unpack(a_payload(), weights_digest="w", token_ids=TOKENS, bytes_per_token=10) == (4, DATA)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        pytest.param(a_payload(weights_digest="v"), "other weights", id="other weights"),
        pytest.param(a_payload(token_ids=[3, 1, 4, 2]), "other tokens", id="other tokens"),
        pytest.param(a_payload(token_ids=TOKENS, data=bytes(50)), "covers 5 tokens of 5", id="nothing left"),
        pytest.param(a_payload()[:-1], "cut short", id="truncated data"),
        pytest.param(a_payload()[:20], "broken", id="truncated header"),
        pytest.param(a_payload(data=b"\xff" * 40), "not finite", id="not finite"),
        pytest.param(b"", "cut short", id="empty"),
        pytest.param(b"NOPE" + a_payload()[4:], "another format", id="another format"),
    ],
)
def test_what_does_not_fit_is_refused(payload, words):
    with pytest.raises(KvPayloadError, match=words):
        unpack(payload, weights_digest="w", token_ids=TOKENS, bytes_per_token=10)

"""Refusals name the field at fault in the words of the public API."""

from dataclasses import replace

import pytest

from hortator.worker.engine import EngineRequest, RequestMode, RequestRefusedError, Sampling
from hortator.worker.engines.torch_moe.admission import admit
from hortator.worker.engines.torch_moe.config import TorchMoEConfig
from hortator.worker.engines.torch_moe.kv_payload import pack
from hortator.worker.engines.torch_moe.shape import ModelShape

SHAPE = ModelShape(max_sequence_tokens=64, vocab_size=100)
CONFIG = TorchMoEConfig(dp_size=2, kv_blocks=3, tokens_per_block=16)


def admitted(request):
    return admit(request, config=CONFIG, shape=SHAPE, weights_digest="w")


def a_request(**changes):
    good = EngineRequest(
        request_id="r", dp_rank=1, prompt_token_ids=[1, 2, 3], sampling=Sampling(max_tokens=5)
    )
    return replace(good, **changes)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("dp_rank", {"dp_rank": 2}),
        ("dp_rank", {"dp_rank": -1}),
        ("prompt", {"prompt_token_ids": []}),
        ("prompt", {"prompt_token_ids": [1, 100]}),
        ("prompt", {"prompt_token_ids": [1, -1]}),
        ("prompt", {"prompt_token_ids": [1] * 64}),
        ("max_tokens", {"sampling": Sampling(max_tokens=0)}),
        ("max_tokens", {"sampling": Sampling(max_tokens=60)}),  # 62 tokens of KV, 4 blocks of 16
        ("min_tokens", {"sampling": Sampling(max_tokens=5, min_tokens=6)}),
        ("temperature", {"sampling": Sampling(max_tokens=5, temperature=-0.1)}),
        ("temperature", {"sampling": Sampling(max_tokens=5, temperature=float("nan"))}),
        ("top_p", {"sampling": Sampling(max_tokens=5, top_p=0.0)}),
        ("top_k", {"sampling": Sampling(max_tokens=5, top_k=-1)}),
        ("stop_token_ids", {"sampling": Sampling(max_tokens=5, stop_token_ids=(100,))}),
        ("prior_output_ids", {"mode": RequestMode.DECODE_ONLY, "kv_payload": b"x"}),
        ("kv_payload", {"mode": RequestMode.DECODE_ONLY, "prior_output_ids": [4]}),
        ("kv_payload", {"mode": RequestMode.DECODE_ONLY, "prior_output_ids": [4], "kv_payload": b"x"}),
    ],
)
def test_a_request_that_cannot_run_is_refused_by_field(field, changes):
    with pytest.raises(RequestRefusedError) as refused:
        admitted(a_request(**changes))
    assert refused.value.field == field
    assert refused.value.request_id == "r"


def test_a_good_request_is_admitted():
    sequence = admitted(a_request())
    assert (sequence.tokens, sequence.num_prefill_left) == ([1, 2, 3], 3)


def test_handed_over_kv_is_taken_off_the_request():
    data = bytes(3 * SHAPE.kv_bytes_per_token)
    payload = pack(weights_digest="w", token_ids=[1, 2, 3], data=data)
    sequence = admitted(
        a_request(mode=RequestMode.DECODE_ONLY, prior_output_ids=[4], kv_payload=payload),
    )
    assert sequence.is_decoding
    assert sequence.kv_data == data
    assert sequence.request.kv_payload is None

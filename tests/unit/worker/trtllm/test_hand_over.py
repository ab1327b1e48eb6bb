"""The hand-over is opaque to everybody between the engines, and refused where it does not belong."""

from dataclasses import dataclass

import pytest

from hortator.worker.engines.trtllm.hand_over import HandOverError, decode, encode


@dataclass(slots=True, kw_only=True)
class Params:
    request_type: str | None = "context_only"
    first_gen_tokens: list[int] | None = None
    opaque_state: bytes | None = None
    ctx_dp_rank: int | None = None


PROMPT, OUTPUT = (1, 2, 3), (9,)
PAYLOAD = encode(
    Params(first_gen_tokens=[9], opaque_state=b"\x00\xff", ctx_dp_rank=3),
    model_name="m",
    prompt_token_ids=PROMPT,
    output_token_ids=OUTPUT,
)


def test_every_field_comes_back_as_generation_only_whatever_the_version_has():
    values = decode(PAYLOAD, model_name="m", prompt_token_ids=PROMPT, output_token_ids=OUTPUT)
    assert values == {
        "request_type": "generation_only",
        "first_gen_tokens": [9],
        "opaque_state": b"\x00\xff",
        "ctx_dp_rank": 3,
    }


@pytest.mark.parametrize(
    ("payload", "changes", "says"),
    [
        (PAYLOAD[:-1], {}, "not all of one"),
        (b"", {}, "no KV hand-over"),
        (PAYLOAD[:8] + b"x" + PAYLOAD[9:], {}, "no KV hand-over"),
        (PAYLOAD, {"model_name": "other"}, "of model m, not other"),
        (PAYLOAD, {"prompt_token_ids": (1, 2)}, "covers 3 prompt"),
        (PAYLOAD, {"prompt_token_ids": (1, 2, 4)}, "of other tokens"),
        (PAYLOAD, {"output_token_ids": (8,)}, "of other tokens"),
    ],
)
def test_what_does_not_belong_to_the_request_is_refused(payload, changes, says):
    wanted = {"model_name": "m", "prompt_token_ids": PROMPT, "output_token_ids": OUTPUT} | changes
    with pytest.raises(HandOverError, match=says):
        decode(payload, **wanted)

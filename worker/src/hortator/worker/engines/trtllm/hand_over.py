"""KV hand-over of TensorRT-LLM: what the prefill engine says of its KV, as opaque bytes.

The KV itself travels from engine to engine when decode begins; these bytes say where it is. They also name
the model and the tokens, so that a decode engine refuses KV of another request before it reaches the
executor.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any
from zlib import crc32

_MAGIC = b"HTRT\x01"
_CRC_BYTES = 4


class HandOverError(ValueError):
    """The bytes are not KV of this request on this model."""


def encode(
    params: Any, *, model_name: str, prompt_token_ids: Sequence[int], output_token_ids: Sequence[int]
) -> bytes:
    """`output.disaggregated_params` of a context_only request, and what it belongs to."""
    values = asdict(params) if is_dataclass(params) and not isinstance(params, type) else dict(vars(params))
    body = json.dumps(
        {
            "model": model_name,
            "num_prompt_tokens": len(prompt_token_ids),
            "num_output_tokens": len(output_token_ids),
            "checksum": _checksum(prompt_token_ids, output_token_ids),
            "params": {name: _to_json(value) for name, value in values.items() if value is not None},
        }
    ).encode()
    return _MAGIC + crc32(body).to_bytes(_CRC_BYTES, "big") + body


def decode(
    payload: bytes, *, model_name: str, prompt_token_ids: Sequence[int], output_token_ids: Sequence[int]
) -> dict[str, Any]:
    """Fields of DisaggregatedParams, `request_type` set to generation_only. Raises HandOverError."""
    start = len(_MAGIC) + _CRC_BYTES
    body = payload[start:]
    if not payload.startswith(_MAGIC) or crc32(body) != int.from_bytes(payload[len(_MAGIC) : start], "big"):
        raise HandOverError(f"{len(payload)} bytes are no KV hand-over of TensorRT-LLM, or not all of one")
    values = json.loads(body)
    if values["model"] != model_name:
        raise HandOverError(f"the KV is of model {values['model']}, not {model_name}")
    num_prompt, num_output = values["num_prompt_tokens"], values["num_output_tokens"]
    if (num_prompt, num_output) != (len(prompt_token_ids), len(output_token_ids)):
        raise HandOverError(
            f"the KV covers {num_prompt} prompt and {num_output} output tokens, the request has "
            f"{len(prompt_token_ids)} and {len(output_token_ids)}"
        )
    if values["checksum"] != _checksum(prompt_token_ids, output_token_ids):
        raise HandOverError("the KV is of other tokens")
    params = {name: _from_json(value) for name, value in values["params"].items()}
    return params | {"request_type": "generation_only"}


def _checksum(prompt_token_ids: Sequence[int], output_token_ids: Sequence[int]) -> int:
    return crc32(array("q", output_token_ids).tobytes(), crc32(array("q", prompt_token_ids).tobytes()))


def _to_json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return (
        base64.b64decode(value["base64"]) if isinstance(value, dict) and set(value) == {"base64"} else value
    )

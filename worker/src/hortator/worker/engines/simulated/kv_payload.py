"""KV hand-over of the simulated engine: a small header instead of gigabytes of KV.

It names the model, says how many tokens it covers and carries a checksum of their ids, so that a decode
engine refuses KV of another request just as a real one must. It also says how long the transfer of the
real KV would take: the decode side waits that long before the request can run.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

_FORMAT = struct.Struct("<4sIIIId")
_MAGIC = b"HKV\x01"


MAX_TRANSFER_S = 3600.0
"""Longer is no transfer: the request would hold its place for good."""


class KvPayloadError(ValueError):
    """The bytes are not KV of this request on this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPayload:
    """What stands for the KV blocks of one request."""

    model_name: str
    num_prompt_tokens: int
    num_output_tokens: int
    """Output tokens known on the prefill side; the last of them has no KV yet."""
    checksum: int
    transfer_s: float
    """Modelled duration of the transfer of the real KV, seconds."""

    def encode(self) -> bytes:
        """The bytes that `export_kv` yields."""
        return _FORMAT.pack(
            _MAGIC,
            crc32(self.model_name.encode()),
            self.num_prompt_tokens,
            self.num_output_tokens,
            self.checksum,
            self.transfer_s,
        )


def checksum(prompt_token_ids: Sequence[int], output_token_ids: Sequence[int]) -> int:
    """Checksum of the tokens that the KV belongs to."""
    return crc32(array("q", output_token_ids).tobytes(), crc32(array("q", prompt_token_ids).tobytes()))


def decode(
    payload: bytes, *, model_name: str, prompt_token_ids: Sequence[int], output_token_ids: Sequence[int]
) -> KvPayload:
    """Read a payload and check that it belongs to this model and these tokens.

    Raises:
        KvPayloadError: it does not.
    """
    if len(payload) != _FORMAT.size:
        raise KvPayloadError(f"{len(payload)} bytes are no KV payload of the simulated engine")
    magic, model, num_prompt, num_output, found, transfer_s = _FORMAT.unpack(payload)
    if magic != _MAGIC:
        raise KvPayloadError("the KV payload is not from a simulated engine")
    if model != crc32(model_name.encode()):
        raise KvPayloadError(f"the KV payload is of another model than {model_name}")
    if num_prompt != len(prompt_token_ids) or not 0 < num_output <= len(output_token_ids):
        raise KvPayloadError(
            f"the KV payload covers {num_prompt} prompt and {num_output} output tokens, "
            f"the request has {len(prompt_token_ids)} and {len(output_token_ids)}"
        )
    if found != checksum(prompt_token_ids, output_token_ids[:num_output]):
        raise KvPayloadError("the KV payload is of other tokens")
    if not 0.0 <= transfer_s <= MAX_TRANSFER_S:
        raise KvPayloadError(f"the KV payload says that its transfer takes {transfer_s} s")
    return KvPayload(
        model_name=model_name,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_output,
        checksum=found,
        transfer_s=transfer_s,
    )

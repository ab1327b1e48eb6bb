"""The bytes of a KV hand-over: magic, header length, JSON header, then the KV of the first tokens.

The header names the weights and the tokens (as digests) that the KV belongs to. Importing KV of other
weights or other tokens would give wrong answers silently, so it is refused. So are values that are not
finite: they would outlive the request in its blocks and spoil the next one's attention, where 0 * nan = nan.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence

import numpy as np

_PREFIX = struct.Struct("<4sI")
_MAGIC = b"HKV1"


class KvPayloadError(ValueError):
    """These bytes are not the KV of these tokens under these weights."""


def tokens_digest(token_ids: Sequence[int]) -> str:
    """A digest of a row of token ids."""
    return hashlib.sha256(struct.pack(f"<{len(token_ids)}I", *token_ids)).hexdigest()


def pack(*, weights_digest: str, token_ids: Sequence[int], data: bytes) -> bytes:
    """`data` is the KV of exactly these tokens."""
    header = {"weights": weights_digest, "num_tokens": len(token_ids), "tokens": tokens_digest(token_ids)}
    encoded = json.dumps(header, sort_keys=True).encode()
    return _PREFIX.pack(_MAGIC, len(encoded)) + encoded + data


def unpack(
    payload: bytes, *, weights_digest: str, token_ids: Sequence[int], bytes_per_token: int
) -> tuple[int, bytes]:
    """Number of tokens whose KV this is, and the KV. It covers the first of `token_ids`, never the last.

    Raises KvPayloadError when anything does not fit.
    """
    if len(payload) < _PREFIX.size:
        raise KvPayloadError("the KV payload is cut short")
    magic, length = _PREFIX.unpack_from(payload)
    if magic != _MAGIC:
        raise KvPayloadError("the KV payload has another format")
    start = _PREFIX.size + length
    try:
        header = json.loads(payload[_PREFIX.size : start])
        num_tokens, tokens, weights = header["num_tokens"], header["tokens"], header["weights"]
    except (ValueError, KeyError, TypeError) as error:
        raise KvPayloadError("the KV payload's header is broken") from error
    if weights != weights_digest:
        raise KvPayloadError("the KV payload was computed with other weights")
    if not isinstance(num_tokens, int) or not 0 < num_tokens < len(token_ids):
        raise KvPayloadError(f"the KV payload covers {num_tokens} tokens of {len(token_ids)}")
    if tokens != tokens_digest(token_ids[:num_tokens]):
        raise KvPayloadError("the KV payload was computed from other tokens")
    if len(payload) - start != num_tokens * bytes_per_token:
        raise KvPayloadError("the KV payload is cut short")
    data = payload[start:]
    if not np.isfinite(np.frombuffer(data, dtype=np.float32)).all():
        raise KvPayloadError("the KV payload has values that are not finite")
    return num_tokens, data

"""Names of prompt blocks: the keys of prefix caches, made without showing anyone the prompt.

    h_0 = H(salt),   h_i = H(h_{i-1} || tokens of block i),   H = BLAKE2b with an 8-byte digest

- Chained: a hash names the block and everything before it.
- Salted with tenant and model: tenants never share, or learn of, each other's prefixes.
- Only full blocks have names. Token ids are packed as little-endian 32-bit words, so every gateway
  computes the same.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 8
_TOKEN_BYTES = 4


def chain_salt(*, tenant: str, model: str) -> bytes:
    """Start of the chain for one tenant and model; unambiguous whatever the names contain."""
    tenant_bytes, model_bytes = tenant.encode(), model.encode()
    packed = len(tenant_bytes).to_bytes(4, "little") + tenant_bytes + model_bytes
    return blake2b(packed, digest_size=_DIGEST_BYTES, person=b"hortator-blocks").digest()


def block_hashes(token_ids: Sequence[int], *, tokens_per_block: int, salt: bytes) -> list[int]:
    """Hashes (unsigned 64 bit) of the full blocks of `token_ids`, first block first.

    Raises:
        ValueError: `tokens_per_block` is below 1.
        OverflowError: a token id is not an unsigned 32-bit number.
    """
    if tokens_per_block < 1:
        raise ValueError(f"tokens_per_block must be at least 1, got {tokens_per_block}")
    packed = (
        token_ids if isinstance(token_ids, array) and token_ids.typecode == "I" else array("I", token_ids)
    )
    if sys.byteorder != "little":
        packed = packed[:]
        packed.byteswap()
    data = memoryview(packed).cast("B")
    block_bytes = tokens_per_block * _TOKEN_BYTES
    digest = salt
    hashes: list[int] = []
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        block = blake2b(digest, digest_size=_DIGEST_BYTES)
        block.update(data[start : start + block_bytes])
        digest = block.digest()
        hashes.append(int.from_bytes(digest, "little"))
    return hashes

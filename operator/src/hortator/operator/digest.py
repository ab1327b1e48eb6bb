"""A short hash of JSON values that can stand in names and label values.

The alphabet has no vowels and no look-alikes, as in the names that Kubernetes itself makes up.
"""

from __future__ import annotations

import hashlib
import json

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def digest(value: object, *, length: int) -> str:
    """The same text for the same value, whatever the order of its keys; about 4.75 bits per character."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest())
    out = []
    for _ in range(length):
        number, index = divmod(number, len(_ALPHABET))
        out.append(_ALPHABET[index])
    return "".join(out)

"""The files that turn text into a model's tokens, as workers hand them to gateways.

They lie beside the weights under the names that the Hugging Face hub gives them. Workers read them, gateways
ask for them; both know them by one digest, so that what is known already is not sent again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

TOKENIZER = "tokenizer.json"
"""JSON of the `tokenizers` library; without it the others are of no use."""
CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
NAMES = (TOKENIZER, CONFIG, CHAT_TEMPLATE)
MAX_BYTES = 256 * 2**20
"""Of all of them; tokenizers of large models have 5 to 35 MB."""


def tokenizer_files_in(folder: Path) -> tuple[Path, ...]:
    """Those that are there; none where there is no tokenizer."""
    found = tuple(folder / name for name in NAMES if (folder / name).is_file())
    return found if found and found[0].name == TOKENIZER else ()


def read_tokenizer_files(paths: Sequence[Path]) -> dict[str, bytes]:
    """Contents by name.

    Raises:
        OSError: one cannot be read.
    """
    return {path.name: path.read_bytes() for path in paths}


def ids_digest(content: bytes) -> bytes:
    """SHA-256 of a `tokenizer.json`: where it is equal, ids mean the same, whatever the chat template."""
    return hashlib.sha256(content).digest()


def digest_of(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over names and contents; equal for equal files, whatever order they came in."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{len(files[name])}\0".encode())
        total.update(files[name])
    return total.digest()

"""Text to token ids, and the detokenizer that goes with them.

Settings name one of:

- a path: JSON of the `tokenizers` library;
- `bytes`: the 256 bytes are the vocabulary (for simulated engines and tests);
- `workers`: the model's own, which workers have (`client.tokenizer_source` asks them);
- nothing: clients give token ids and get token ids; there is no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hortator.gateway.detokenization import ByteDetokenizer, Detokenizer, WindowDetokenizer
from hortator.gateway.errors import TokenizerError

BYTES = "bytes"
WORKERS = "workers"


class Tokenizer(Protocol):
    """What the gateway needs from a tokenizer. Thread-safe."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def encode(self, text: str, *, with_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt, and the special tokens that begin one where they are wanted."""
        ...

    def new_detokenizer(self) -> Detokenizer:
        """A detokenizer for one request."""
        ...


class ByteTokenizer:
    """Every UTF-8 byte is a token."""

    _TABLE = tuple(bytes([value]) for value in range(256))

    @property
    def vocab_size(self) -> int:
        """256."""
        return len(self._TABLE)

    def encode(self, text: str, *, with_special_tokens: bool = True) -> list[int]:  # noqa: ARG002
        """The bytes of `text`; there are no special tokens."""
        return list(text.encode())

    def new_detokenizer(self) -> Detokenizer:
        """A detokenizer for one request."""
        return ByteDetokenizer(self._TABLE)


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, content: bytes, name: str) -> None:
        """From JSON; `name` says in messages what it is.

        Raises:
            TokenizerError: not a tokenizer, or the library is missing.
        """
        try:
            import tokenizers  # noqa: PLC0415  # an extra: a gateway for token ids runs without
        except ImportError as error:
            raise TokenizerError(
                "a tokenizer file needs the package `tokenizers` (extra `gateway`)"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{name} is not a tokenizer of the `tokenizers` library: {error}") from error
        self._table = (
            _byte_table(self._tokenizer)
            if isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)
            else None
        )

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, with_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer adds. Releases the GIL."""
        return list(self._tokenizer.encode(text, add_special_tokens=with_special_tokens).ids)

    def new_detokenizer(self) -> Detokenizer:
        """A detokenizer for one request."""
        if self._table is not None:
            return ByteDetokenizer(self._table)
        return WindowDetokenizer(self._decode)

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids))


def load_tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer that settings name; None for the empty name, and while workers have not been asked.

    Raises:
        TokenizerError: it cannot be loaded; the message says why.
    """
    if name in {"", WORKERS}:
        return None
    if name == BYTES:
        return ByteTokenizer()
    path = Path(name)
    if not path.is_file():
        raise TokenizerError(f"no tokenizer file {path}")
    try:
        return JsonTokenizer(path.read_bytes(), str(path))
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from error


def _byte_table(tokenizer: object) -> Sequence[bytes]:
    """Bytes of every token of a byte-level vocabulary; empty for special tokens, which have no text."""
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)  # type: ignore[attr-defined]
    added = tokenizer.get_added_tokens_decoder()  # type: ignore[attr-defined]
    special = {token_id for token_id, token in added.items() if token.special}
    byte_of = _byte_of_character()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        if token_id not in special:
            values = [byte_of.get(character) for character in token]
            known = [value for value in values if value is not None]
            table[token_id] = bytes(known) if len(known) == len(values) else token.encode()
    return table


def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = {chr(value): value for value in printable}
    others = (value for value in range(256) if value not in set(printable))
    characters.update({chr(0x100 + index): value for index, value in enumerate(others)})
    return characters

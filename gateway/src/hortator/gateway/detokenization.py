"""Token ids to text while they come: cheap, never half a character, and never past a stop string.

What has been emitted after n tokens depends on those n tokens only, not on how they were cut into pushes:

    emitted(n) = text(n) less an incomplete last character, less an end that may begin a stop string

so a client that comes back with "I have n tokens" can be told exactly the text that follows.

Two ways to get text:

- `ByteDetokenizer`: byte-level vocabularies (most of today's models). Every token is a fixed string of
  bytes; join them, decode UTF-8 incrementally. Exact, and well under a microsecond per token.
- `WindowDetokenizer`: everything else. Decodes a small window twice and emits the difference, so that
  decoders that look at neighbours (leading spaces, byte fallback) come out right.

Bytes that can never become a character come out as U+FFFD, as `decode` of the whole would give.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_HELD_TOKENS = 16
"""More tokens than this without a character are not half of one but broken output: let them go."""


class Detokenizer(Protocol):
    """Turns one request's tokens into text."""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens make certain."""
        ...

    def finish(self) -> str:
        """What was held back; nothing follows."""
        ...

    def snapshot(self) -> object:
        """The state now, for `restore`."""
        ...

    def restore(self, snapshot: object) -> None:
        """Back to a snapshot of this detokenizer."""
        ...


class ByteDetokenizer:
    """For vocabularies whose tokens are byte strings; `table[id]` is empty for special tokens."""

    __slots__ = ("_decoder", "_table")

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_ids: Sequence[int]) -> str:
        """The complete characters so far. Ids outside the vocabulary have no text."""
        table = self._table
        try:
            data = b"".join([table[token_id] for token_id in token_ids])
        except IndexError:
            data = b"".join([table[token_id] for token_id in token_ids if token_id < len(table)])
        return self._decoder.decode(data)

    def finish(self) -> str:
        """U+FFFD if the output ended inside a character."""
        return self._decoder.decode(b"", final=True)

    def snapshot(self) -> object:
        """The state now."""
        return self._decoder.getstate()

    def restore(self, snapshot: object) -> None:
        """Back to a snapshot."""
        self._decoder.setstate(snapshot)  # type: ignore[arg-type]  # what getstate gave


class WindowDetokenizer:
    """For any tokenizer: emits how the decoded window grew."""

    __slots__ = ("_decode", "_ids", "_read", "_shown")

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        """Start empty.

        Args:
            decode: ids to text, the same way every time.
        """
        self._decode = decode
        self._ids: list[int] = []  # the window: context that was emitted, then what was not
        self._read = 0  # how many of `_ids` were emitted
        self._shown = ""  # their text

    def push(self, token_ids: Sequence[int]) -> str:
        """How the text grew up to its last complete character."""
        ids = self._ids
        ids.extend(token_ids)
        text, end = self._complete_text()
        piece = text[len(self._shown) :]
        if piece:
            self._ids = ids[self._read :]
            self._read = end - self._read
            self._shown = self._decode(self._ids[: self._read])
        return piece

    def _complete_text(self) -> tuple[str, int]:
        """Text of the longest part of the window that ends with a character, and how many ids that is."""
        ids = self._ids
        whole = text = self._decode(ids)
        end = len(ids)
        while text.endswith(REPLACEMENT):
            end -= 1
            if end <= self._read:  # nothing new is complete
                return self._shown, self._read
            if len(ids) - end > _MAX_HELD_TOKENS:
                return whole, len(ids)
            text = self._decode(ids[:end])
        return text, end

    def finish(self) -> str:
        """Everything that was held back."""
        piece = self._decode(self._ids)[len(self._shown) :]
        self._shown += piece
        return piece

    def snapshot(self) -> object:
        """The state now."""
        return list(self._ids), self._read, self._shown

    def restore(self, snapshot: object) -> None:
        """Back to a snapshot."""
        assert isinstance(snapshot, tuple)  # noqa: S101  # what snapshot gave
        ids, self._read, self._shown = snapshot
        self._ids = list(ids)


class OutputText:
    """The text of one request's output, cut before the first stop string."""

    __slots__ = ("_detokenizer", "_held", "_longest", "_stops", "num_tokens", "stopped_at")

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.num_tokens = 0
        self.stopped_at: int | None = None
        """Output tokens up to and including the one that completed a stop string; None: none did."""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that may be shown now. After a stop string: nothing more."""
        if not self._stops:
            self.num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids)
        if self.stopped_at is not None:
            return ""
        before = self._detokenizer.snapshot()
        text = self._held + self._detokenizer.push(token_ids)
        if self._find(text) < 0:
            self.num_tokens += len(token_ids)
            return self._hold_back(text)
        if len(token_ids) > 1:  # which of them was it?
            self._detokenizer.restore(before)
            return "".join([self.push(token_ids[i : i + 1]) for i in range(len(token_ids))])
        self.num_tokens += 1
        self.stopped_at = self.num_tokens
        self._held = ""
        return text[: self._find(text)]

    def finish(self) -> str:
        """What was held back."""
        if self.stopped_at is not None:
            return ""
        text = self._held + self._detokenizer.finish()
        self._held = ""
        found = self._find(text)
        if found < 0:
            return text
        self.stopped_at = self.num_tokens
        return text[:found]

    def _find(self, text: str) -> int:
        """Where the first stop string begins; -1: nowhere."""
        return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)

    def _hold_back(self, text: str) -> str:
        """Split off the longest end of `text` that may begin a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                self._held = end
                return text[:-length]
        self._held = ""
        return text

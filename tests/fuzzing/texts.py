"""Text files with nonsense in them: lines that are nearly right, put together, and then damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

ODD = (
    "", " ", "\t", "\x00", "\r", '"', "'", "{", "}", "[", "]", ",", ":", "-", "#", "&a", "*a", "!!python/object:os.system x",
    "null", "true", "NaN", "Infinity", "-Infinity", "-1", "0", "1e400", "9" * 30, "1" * 5000, "0x10", "1_0", "٣", "\ufeff",
    "\ud800", '"\\ud800"', "2001-99-99", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "x" * 20_000, "[" * 2000,
    '{"a":' * 2000, "é", "\x85", "\u2028", "<<: *a", "? a", "| \n x", "%YAML 9.9", "---", "...",
)  # fmt: skip
"""What breaks readers."""


def encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def broken(*sound: str) -> st.SearchStrategy[bytes]:
    """One of some texts, with one to four of its words replaced, taken out, doubled, or cut in two."""
    return st.builds(
        _broken,
        st.sampled_from(sound),
        st.lists(
            st.tuples(st.sampled_from("rrrrdtxl"), st.integers(0, 1 << 16), _odd), min_size=1, max_size=4
        ),
    )


# Hypothesis shows what it draws: of long things the place in the list.
_odd = st.one_of(st.integers(0, len(ODD) - 1), st.text(max_size=8))


def _broken(text: str, changes: Sequence[tuple[str, int, int | str]]) -> bytes:
    for how, where, chosen in changes:
        odd = ODD[chosen] if isinstance(chosen, int) else chosen
        words = _words(text)
        if not words:
            break
        at = where % len(words)
        match how:
            case "r":
                words[at] = odd
            case "d":
                words.insert(at, words[at])
            case "t":
                del words[at]
            case "l":
                words.insert(at, "\n")
            case _:
                del words[at:]
        text = "".join(words)
    return encoded(text)


def _words(text: str) -> list[str]:
    """Runs of letters and digits, and each other character."""
    words: list[str] = []
    is_open = False
    for character in text:
        is_word = character.isalnum()
        if is_word and is_open:
            words[-1] += character
        else:
            words.append(character)
        is_open = is_word
    return words


ODD_VALUES = (
    None, True, False, 0, 1, -1, 2, 1 << 31, 1 << 63, -(1 << 63), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"),
    -float("inf"), "", "a", "x" * 20_000, "\x00", "\ud800", "1", "1e3", "nan", "2001-01-01", [], {}, [[]], [{}], [None],
    {"": None}, {"a": {"a": {"a": 1}}}, ["a"] * 2000, [1, "a", None],
)  # fmt: skip
ODD_KEYS = ("", "a", "_a", "_env_file", "cls", "self", "x" * 20_000, "\x00", "é", "metadata", "name")


def wrong_values(*sound: Any) -> st.SearchStrategy[Any]:
    """One of some documents, with one to three of its values or keys replaced, taken out, or moved elsewhere."""
    change = st.tuples(
        st.sampled_from("ooovvvkdm"),
        st.integers(0, 1 << 16),
        st.one_of(st.integers(), st.floats(), st.text(max_size=8)),
    )
    return st.builds(_wrong, st.sampled_from(sound), st.lists(change, min_size=1, max_size=3))


def _wrong(document: Any, changes: Sequence[tuple[str, int, Any]]) -> Any:
    whole = [copy.deepcopy(document)]
    for how, where, value in changes:
        places = list(_places(whole))
        holder, at = places[where % len(places)]
        match how:
            case "o":
                holder[at] = copy.deepcopy(ODD_VALUES[where % len(ODD_VALUES)])
            case "v":
                holder[at] = value
            case "m":
                source, other = places[(where // 7) % len(places)]
                holder[at] = copy.deepcopy(source[other])
            case "d" if holder is not whole:
                del holder[at]
            case "k" if isinstance(holder, dict):
                key = value if isinstance(value, str) else ODD_KEYS[where % len(ODD_KEYS)]
                holder[key] = holder.pop(at)
    return whole[0]


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    """Each value, as what holds it and where."""
    for at in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, at
        if isinstance(holder[at], dict | list):
            yield from _places(holder[at])


def as_json(document: Any) -> bytes:
    return encoded(json.dumps(document))


def as_json_lines(documents: Any) -> bytes:
    lines = documents if isinstance(documents, list) else [documents]
    return b"".join(as_json(line) + b"\n" for line in lines)


def as_yaml(document: Any) -> bytes:
    return encoded(json.dumps(document, ensure_ascii=False))

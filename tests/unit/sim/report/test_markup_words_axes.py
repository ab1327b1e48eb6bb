"""The small parts of figures: text that is escaped, numbers as people read them, round ticks."""

import pytest

from doubles.report_data import parsed
from hortator.sim.report import words
from hortator.sim.report.axes import Scale, linear_ticks, log_ticks, top_of
from hortator.sim.report.markup import Markup, element, join


def test_what_is_not_markup_is_escaped_in_text_and_in_attributes():
    nasty = "<script>&\"'"
    made = element("p", nasty, element("b", nasty), title=nasty)
    root = parsed(made)
    assert root.text == nasty
    assert root[0].text == nasty
    assert root.get("title") == nasty
    assert "<script>" not in made


def test_an_attribute_that_is_none_is_left_out_and_names_are_those_of_svg():
    assert (
        element("rect", class_="a", stroke_width=1.5, x=0.0, y=None)
        == '<rect class="a" stroke-width="1.5" x="0"/>'
    )


def test_an_attribute_may_be_called_name():
    assert element("meta", name="viewport") == '<meta name="viewport"/>'


def test_joined_text_is_escaped_and_joined_markup_is_not():
    assert join("a<b", Markup("<br/>")) == "a&lt;b<br/>"


@pytest.mark.parametrize(
    ("value", "text"), [(0.004, "0"), (-0.001, "0"), (12.5, "12.5"), (1 / 3, "0.33"), (100.0, "100")]
)
def test_coordinates_are_short(value, text):
    assert element("a", x=value) == f'<a x="{text}"/>'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0042, "4.2 ms"), (0.4521, "452 ms"), (0.9999, "1.00 s"), (1.7, "1.70 s"), (63.46, "63.5 s"), (1200.0, "20.0 min"), (86_400.0, "24.0 h"), (float("nan"), "–")],
)  # fmt: skip
def test_a_measured_duration_has_three_digits_and_a_unit(seconds, text):
    assert words.duration(seconds).replace(words.NBSP, " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "200 ms"), (1.0, "1 s"), (1.5, "1.5 s"), (1200.0, "20 min")]
)
def test_a_chosen_duration_has_no_more_digits_than_it_needs(seconds, text):
    assert words.round_duration(seconds).replace(words.NBSP, " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(999, "999"), (1234, "1.23k"), (327_400, "327k"), (2.5e6, "2.5M"), (0.25, "0.25")]
)
def test_large_numbers_are_compact(value, text):
    assert words.compact(value) == text


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_names_are_listed(names, text):
    assert words.listed(names) == text


def test_ticks_are_round_and_within_the_scale():
    assert linear_ticks(0.0, 100.0, 5) == [0, 20, 40, 60, 80, 100]
    assert linear_ticks(60.81, 64.81, 8) == [61, 61.5, 62, 62.5, 63, 63.5, 64, 64.5]
    assert linear_ticks(3.0, 3.0, 5) == [3.0]


def test_logarithmic_ticks_are_powers_of_ten_and_their_halves_and_fifths_while_there_is_room():
    assert log_ticks(0.09, 2.5) == pytest.approx([0.1, 0.2, 0.5, 1.0, 2.0])
    assert log_ticks(0.001, 100.0) == pytest.approx([0.001, 0.01, 0.1, 1.0, 10.0, 100.0])


@pytest.mark.parametrize("is_log", [False, True])
def test_a_scale_runs_from_start_to_end_and_holds_what_is_outside(is_log):
    scale = Scale(low=1.0, high=100.0, start=50.0, end=250.0, is_log=is_log)
    assert scale(1.0) == 50.0
    assert scale(100.0) == pytest.approx(250.0)
    assert scale(1000.0) == pytest.approx(250.0)
    assert scale(0.001) == 50.0


def test_ten_is_in_the_middle_of_a_logarithmic_scale_from_one_to_a_hundred():
    assert Scale(low=1.0, high=100.0, start=0.0, end=200.0, is_log=True)(10.0) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("values", "top"),
    [
        ([2.09, 1.2], 3.0),
        ([205.0, float("nan")], 300.0),
        ([], 1.0),
        ([0.0], 1.0),
        ([0.98], 1.0),
        ([1.0], 1.5),
    ],
)
def test_an_axis_ends_at_a_round_value_above_all(values, top):
    assert top_of(values) == pytest.approx(top)

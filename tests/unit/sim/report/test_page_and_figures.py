"""The page and its figures: well-formed, offline, the same bytes for the same data, and saying who was best."""

import re

import pytest

from doubles.report_data import a_pass, a_report, a_run, an_unfinished_run, figures, parsed
from hortator.sim.report import page as pages
from hortator.sim.report.figure import inline, standalone
from hortator.sim.report.markup import SVG_NAMESPACE
from hortator.sim.report.page import headline, page
from hortator.sim.report.words import NBSP

NASTY = "a<b>&\"c'"
NUM_FIGURES = 11
"""Two of the sweep, two of TTFT, two of bars, two policies, three over time."""
REPORTS = {
    "usual": a_report(loads=(0.7, 0.85)),
    "nothing ended": a_report(an_unfinished_run("a"), an_unfinished_run("b"), loads=(0.7, 0.85)),
    "one ended": a_report(a_run("a"), an_unfinished_run("b"), loads=(0.7, 0.85)),
    "nasty names": a_report(a_run(NASTY), a_run("b"), loads=(0.7, 0.85), service=NASTY, command=NASTY, workload=NASTY),
    "one moment": a_report(a_run("a", ttft_quantiles=(0.3,) * 209), a_run("b"), loads=(0.7, 0.85), run_s=1.0),
}  # fmt: skip


def text_of(markup):
    return " ".join("".join(parsed(markup).itertext()).split()).replace(NBSP, " ")


def plain(report):
    return headline(report).replace(NBSP, " ")


@pytest.mark.parametrize("index", range(NUM_FIGURES))
@pytest.mark.parametrize("name", REPORTS)
def test_every_figure_is_well_formed_inside_the_page_and_alone_and_has_finite_places(name, index):
    drawn = pages.figures(REPORTS[name])
    assert len(drawn) == NUM_FIGURES
    for svg in (inline(drawn[index]), standalone(drawn[index])):
        assert parsed(svg).tag == f"{{{SVG_NAMESPACE}}}svg"
        assert not re.search(r'="[^"]*\b(nan|inf)\b', svg)


@pytest.mark.parametrize("index", range(NUM_FIGURES))
def test_every_figure_says_what_it_is_to_those_who_do_not_see_it(index):
    figure = pages.figures(REPORTS["usual"])[index]
    assert parsed(inline(figure)).get("aria-label").startswith(figure.title)
    alone = parsed(standalone(figure))
    assert alone.find(f"{{{SVG_NAMESPACE}}}title").text == figure.title
    assert alone.find(f"{{{SVG_NAMESPACE}}}desc").text == figure.caption


@pytest.mark.parametrize("index", range(NUM_FIGURES))
def test_every_figure_has_a_unit(index):
    figure = pages.figures(REPORTS["usual"])[index]
    text = text_of(inline(figure))
    assert re.search(r"\((s|%|minutes|share of .*)\)|requests|\d m?s\b", text), text


@pytest.mark.parametrize("index", range(NUM_FIGURES))
def test_a_figure_alone_has_its_own_style_and_needs_no_other_file(index):
    svg = standalone(pages.figures(REPORTS["usual"])[index])
    assert "prefers-color-scheme:dark" in svg
    assert svg.replace(SVG_NAMESPACE, "").count("http") == 0


def test_the_figures_of_lines_and_bars_name_every_policy():
    drawn = [figure for figure in pages.figures(REPORTS["usual"]) if not figure.name.startswith("gantt-")]
    for figure in drawn:
        said = {" ".join(text.itertext()) for text in parsed(inline(figure)).iter(f"{{{SVG_NAMESPACE}}}text")}
        assert {"immediate-least-tokens", "staggered"} <= said, figure.name


def test_names_of_figures_are_names_of_files_and_their_own():
    names = [figure.name for figure in pages.figures(REPORTS["usual"])]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_well_formed_and_asks_the_network_for_nothing(name):
    text = page(REPORTS[name])
    assert text.startswith("<!DOCTYPE html>\n")
    root = parsed(text)
    assert "http" not in text.replace(SVG_NAMESPACE, "")
    for attribute in ("src", "href", "srcset", "action"):
        assert not [part for part in root.iter() if part.get(attribute)]
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_every_pattern_that_is_used_is_there():
    text = page(REPORTS["usual"])
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_the_same_data_gives_the_same_bytes():
    assert page(a_report()) == page(a_report())


def test_names_from_outside_are_text():
    text = page(REPORTS["nasty names"])
    assert "a<b>" not in text
    assert NASTY in parsed(text).find("body/main/h1").text


def test_the_page_says_what_was_simulated():
    text = text_of(page(a_report()))
    for words in (
        "four-groups", "1 EP group × 3 DP ranks", "chunk budget 6,000 tokens", "left out", "0.7", "100", "20.0 min", "seed7",
        "poisson, conversation lengths", "hortator 1.2.3, commit cccccccccccc.", "hortator report -f FILE -o report.html",
    ):  # fmt: skip
        assert words in text, words


def test_changes_that_are_not_committed_are_said():
    assert "commit cccccccccccc with changes." in text_of(page(a_report(is_modified=True)))


def test_the_best_is_the_lowest_mean_and_marked_in_the_table():
    report = a_report(a_run("a", mean=1.0), a_run("b", mean=0.5), a_run("c", mean=0.75))
    rows = parsed(page(report)).find("body/main/div/table/tbody")
    assert [row.get("class") for row in rows] == [None, "best", None]
    cells = [list(row) for row in rows]
    assert [cell[1].get("class") for cell in cells] == [None, "top", None]
    assert [cell[4].text for cell in cells] == ["2.00 ×", "1.00 ×", "1.50 ×"]
    assert plain(report).startswith(
        "b has the lowest mean TTFT: 500 ms (p99 1.00 s). a takes 1.00 s, 2.00 times as long."
    )


def test_a_policy_that_does_not_keep_up_or_refuses_requests_is_not_the_best():
    unstable = a_run("a", figures=figures(mean=0.1, stable=False))
    refusing = a_run("b", figures=figures(mean=0.2, rejected=1234))
    report = a_report(unstable, refusing, a_run("c", mean=0.5))
    assert report.best.policy == "c"
    text = text_of(page(report))
    assert "aunstable" in text
    assert "b1,234 rejected" in text
    assert a_report(unstable, refusing).best.policy == "a"


def test_of_equals_none_is_marked_in_its_column():
    rows = parsed(page(a_report(a_run("a"), a_run("b")))).find("body/main/div/table/tbody")
    assert not [cell for row in rows for cell in row if cell.get("class") == "top"]


def test_one_policy_alone_is_not_called_best():
    report = a_report(a_run("a"))
    assert plain(report) == "a: mean TTFT 500 ms, p99 1.00 s. No scheduler can go below 200 ms here."
    assert 'class="best"' not in page(report)


def test_without_a_first_token_there_is_no_best():
    assert headline(a_report(an_unfinished_run())) == "No request got its first token."


def test_where_one_that_does_not_keep_up_is_faster_the_best_is_that_of_the_others():
    report = a_report(a_run("a", figures=figures(mean=0.1, stable=False)), a_run("b", mean=0.5))
    assert plain(report).startswith(
        "b has the lowest mean TTFT of the policies that keep up: 500 ms (p99 1.00 s). No scheduler"
    )


def test_ttft_against_load_is_there_only_for_several_loads():
    assert "TTFT against load" not in page(a_report())
    text = page(a_report(loads=(0.85, 0.5)))
    assert "TTFT against load" in text
    assert "Everything below is at load 0.85." in text


def test_a_point_of_the_sweep_that_did_not_keep_up_is_said():
    drawn = pages.figures(a_report(a_run("a", figures=figures(stable=False)), a_run("b"), loads=(0.5, 0.9)))
    assert "The queue kept growing: a at 0.5 and a at 0.9." in drawn[0].caption


def test_a_short_run_is_called_a_first_look():
    short = a_run(figures=figures(short=True))
    assert "run 20 virtual minutes or more" in page(a_report(short))
    assert "run 20 virtual minutes or more" not in page(a_report())


def test_decode_only_passes_have_a_key_of_their_own():
    run = a_run(passes=[a_pass(0, 0, 0, decode_tokens=(1, 1, 1))])
    assert "decode only" in page(a_report(run))
    assert "decode only" not in page(a_report())


def test_the_page_of_four_policies_with_full_windows_is_under_two_megabytes():
    passes = [
        a_pass(*range(1, 17), started_at=10.0 + index / 100, duration_s=0.0099, group_id="g")
        for index in range(350)
    ]
    runs = [a_run(f"policy-{index}", groups={"g": 16}, passes=passes) for index in range(4)]
    assert len(page(a_report(*runs)).encode()) < 2_000_000

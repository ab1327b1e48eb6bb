"""The page and its figures, from runs with literal numbers."""

import re
import xml.etree.ElementTree as ET

import pytest

from hortator.sim.report.gantt import ROW, gantt
from hortator.sim.report.page import Headline, figures, page
from hortator.sim.report.runs import NUM_QUANTILES, PolicyRun
from hortator.sim.timeline import PassShape, Sample, Timeline

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own text


def a_run(policy, *, load=0.7, mean_s=0.5, passes=()):
    spread = {"mean": mean_s, "p50": mean_s, "p90": mean_s, "p99": 2 * mean_s, "max": 3 * mean_s}
    return PolicyRun(
        policy=policy,
        load=load,
        figures={
            "ttft_s": spread,
            "hold_s": spread,
            "engine_queue_s": spread,
            "prefill_tokens_per_s": 12_345.0,
            "chunk_utilization": 0.5,
            "balance_ratio": 0.6,
            "bubble_ratio": 0.4,
            "stable": policy != "shaky",
        },
        ttft_quantiles_s=tuple(mean_s * (0.5 + i / NUM_QUANTILES) for i in range(NUM_QUANTILES + 1)),
        mean_waits_s=(0.1, 0.2, mean_s),
        window_s=(10.0, 14.0),
        passes=passes,
        samples=(Sample(0.0, 3, 0.5), Sample(60.0, 8, 0.7)),
    )


HEADLINE = Headline(
    service="a<b",
    workload="made up",
    seed=0,
    num_requests=1000,
    virtual_minutes=20.0,
    version="0",
    commit="c" * 40,
)
A_PASS = PassShape("prefill-0", 11.0, 2.0, (8000, 2000, 0), 0)


def test_a_bar_is_as_long_as_the_share_of_the_fullest_rank():
    """A pass of 2 of 4 s: half the width; ranks with all, a quarter and nothing."""
    root = parsed(gantt(a_run("p", passes=(A_PASS,)), "#123456"))
    (box,) = [e for e in root.iter(f"{SVG}rect") if str(e.get("fill")).startswith("url(")]
    width = float(box.get("width"))
    assert width == pytest.approx(1014 / 2)
    assert float(box.get("height")) == pytest.approx(3 * ROW)
    (path,) = [e for e in root.iter(f"{SVG}path") if e.get("fill") == "#123456"]
    bars = [float(found) for found in re.findall(r"M[\d.]+ [\d.]+h([\d.]+)v", path.get("d"))]
    assert bars == pytest.approx([width, width / 4], abs=0.1)
    assert "balance 42 %" in "".join(e.text or "" for e in root.iter(f"{SVG}title"))


def test_what_lies_outside_the_window_is_cut_off():
    early, late = PassShape("g", 9.0, 2.0, (10,), 0), PassShape("g", 13.5, 2.0, (10,), 0)
    root = parsed(gantt(a_run("p", passes=(early, late)), "#123456"))
    boxes = [e for e in root.iter(f"{SVG}rect") if str(e.get("fill")).startswith("url(")]
    spans = [(float(b.get("x")), float(b.get("x")) + float(b.get("width"))) for b in boxes]
    assert spans == [pytest.approx((86.0, 86.0 + 1014 / 4)), pytest.approx((86.0 + 1014 * 3.5 / 4, 1100.0))]


def test_a_pass_of_decodes_alone_has_a_box_and_no_bars():
    shape = PassShape("d", 11.0, 1.0, (0, 0), 64)
    root = parsed(gantt(a_run("p", passes=(shape,)), "#123456"))
    assert not [e for e in root.iter(f"{SVG}path") if e.get("fill") == "#123456"]
    assert "64 sequences decode" in "".join(e.text or "" for e in root.iter(f"{SVG}title"))


def test_every_figure_is_well_formed_and_names_every_policy():
    found = figures([a_run("one", passes=(A_PASS,)), a_run("two", passes=(A_PASS,))])
    assert list(found) == [
        "ttft-distribution",
        "mean-waits",
        "gantt-one",
        "gantt-two",
        "balance-over-time",
        "queue-over-time",
    ]
    for name, svg in found.items():
        parsed(svg)
        if not name.startswith("gantt"):
            assert "one" in svg, name
            assert "two" in svg, name


def test_several_loads_make_a_sweep_and_the_rest_is_of_the_first():
    runs = [a_run(policy, load=load) for load in (0.5, 0.9) for policy in ("one", "two")]
    found = figures(runs)
    assert {"load-mean", "load-p99"} <= found.keys()
    root = parsed(found["load-mean"])
    assert len(list(root.iter(f"{SVG}circle"))) == 4


def test_the_page_asks_for_nothing_from_elsewhere_and_is_the_same_every_time():
    runs = [a_run("one", passes=(A_PASS,)), a_run("shaky", mean_s=0.4)]
    text = page(HEADLINE, runs)
    assert text == page(HEADLINE, runs)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img|iframe)\b", text)
    assert "a&lt;b: policies compared" in text
    assert "a<b" not in text
    assert "shaky (UNSTABLE)" in text
    assert '<td class="best">400 ms</td>' in text


def test_a_timeline_keeps_passes_of_its_window_and_samples_at_its_pace():
    timeline = Timeline(window_from_s=10.0, window_to_s=12.0, sample_s=5.0)
    for at in range(20):
        shape = PassShape("g", float(at), 1.0, (4, 2), 0)
        timeline.start_pass(float(at), shape, num_waiting=at)
    assert [shape.started_at for shape in timeline.passes] == [10.0, 11.0]
    assert [(sample.at, sample.num_waiting) for sample in timeline.samples] == [
        (0, 0),
        (5, 5),
        (10, 10),
        (15, 15),
    ]
    assert {sample.balance for sample in timeline.samples} == {0.75}

"""`hortator report`: the page and the figures it writes, and what it refuses."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hortator.cli import report
from hortator.cli.errors import CommandError
from hortator.cli.workload_options import WorkloadOptions

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "benchmarks/sim/clusters/prefill-4xEP16.yaml"
POLICIES = ("immediate-least-tokens", "staggered-plus")
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def options(folder, **changed):
    values = {
        "file": CLUSTER, "policies": ",".join(POLICIES), "loads": "0.7", "workload": WorkloadOptions(minutes=0.1),
        "window": "2s", "prefill_only": True, "out": folder / "report.html",
    }  # fmt: skip
    return report.ReportOptions(**(values | changed))


def root_of(path):
    return ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314


def test_one_page_that_needs_no_network_and_the_same_figures_as_files(tmp_path, capsys):
    report.run(options(tmp_path, loads="0.7,0.3", svg=tmp_path / "figures"))
    said = capsys.readouterr()
    assert said.out.startswith("staggered-plus has the lowest mean TTFT: ")
    assert f"{tmp_path / 'report.html'}: " in said.err

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    root = root_of(tmp_path / "report.html")
    assert "http" not in page.replace(SVG_NAMESPACE, "")
    assert len(page) < 1_000_000
    rows = root.findall("body/main/div/table/tbody/tr")
    assert ["".join(row[0].itertext()) for row in rows] == ["immediate-least-tokens", "staggered-plusbest"]
    drawn = list(root.iter(f"{{{SVG_NAMESPACE}}}svg"))

    files = sorted((tmp_path / "figures").iterdir())
    assert len(files) == len(drawn) == 11
    assert {f"gantt-{policy}.svg" for policy in POLICIES} <= {file.name for file in files}
    for file in files:
        assert root_of(file).tag == f"{{{SVG_NAMESPACE}}}svg"
        assert "http" not in file.read_text(encoding="utf-8").replace(SVG_NAMESPACE, "")


def test_the_same_options_give_the_same_bytes_wherever_they_go(tmp_path):
    for name in ("a.html", "b.html"):
        report.run(options(tmp_path, policies="staggered", out=tmp_path / name))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_says_how_to_make_it_again(tmp_path):
    trace = tmp_path / "a trace.csv"
    made = report.command(
        options(
            tmp_path, trace=trace, loads="0.70, 0.9", seed=5,
            workload=WorkloadOptions(minutes=3.0, arrivals="gamma", burstiness=4.0, skip_bad=True),
        )
    )  # fmt: skip
    assert made == (
        f"hortator report -f {CLUSTER} --policy immediate-least-tokens,staggered-plus --trace '{trace}' --load 0.7,0.9 "
        "--arrivals gamma --burstiness 4.0 --minutes 3 --seed 5 --window 2s --skip-bad --prefill-only -o report.html"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loads": "0.7,much"}, "--load: got 'much' (allowed: above 0, at most 2; several with commas between them, at most 20)"),
        ({"loads": "0.7,0"}, "--load: got 0 (allowed: above 0, at most 2; several with commas between them, at most 20)"),
        ({"loads": ""}, "--load: got '' (allowed: above 0, at most 2; several with commas between them, at most 20)"),
        ({"loads": ",".join(f"0.{n}" for n in range(10, 31))}, "--load: got 21 loads (allowed: above 0, at most 2; several with commas between them, at most 20)"),
        ({"window": "4"}, "--window: got '4' (allowed: a duration like 5ms, 2s, 1m30s, 1h)"),
        ({"window": "2m"}, "--window: got 2m (allowed: 100ms to 1m)"),
        ({"file": ROOT / "e2e/manifests/aggregated.yaml"}, "--prefill-only: the topology is Aggregated (allowed with PrefillDecode)"),
        ({"workload": WorkloadOptions(minutes=0.0)}, "--minutes: got 0 (allowed: above 0, at most 10080)"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line_with_what_is_allowed(tmp_path, changed, said):
    with pytest.raises(CommandError) as refused:
        report.run(options(tmp_path, **changed))
    assert refused.value.lines == (said,)
    assert refused.value.exit_code == 2


def test_places_that_cannot_be_written_are_refused_before_anything_is_simulated(tmp_path):
    (tmp_path / "file").touch()
    for changed, said in (
        ({"out": tmp_path}, f"--out {tmp_path}: "),
        ({"out": tmp_path / "nowhere" / "a.html"}, f"--out {tmp_path / 'nowhere' / 'a.html'}: "),
        ({"svg": tmp_path / "file"}, f"--svg {tmp_path / 'file'}: File exists (allowed: a folder)"),
        (
            {"svg": tmp_path / "file" / "svg"},
            f"--svg {tmp_path / 'file' / 'svg'}: Not a directory (allowed: a folder)",
        ),
    ):
        with pytest.raises(CommandError) as refused:
            report.run(options(tmp_path, **changed))
        assert str(refused.value).startswith(said)
        assert "(allowed: a f" in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {"file"}

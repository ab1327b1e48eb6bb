"""The comparison with other routers: what is run, what a run's figures are, and what the page says of them."""

import io
import zipfile
from pathlib import Path

import pytest

from peers import page
from peers.answers import Answer, Outcome, summarize
from peers.byte_tokenizer import byte_tokenizer, byte_tokenizer_zip
from peers.contenders import CONTENDERS, STANDARD, EngineDoor, Hortator, Place, Proxy
from peers.engines import load_service
from peers.environments import ENVIRONMENTS
from peers.launch import scheduler_knobs
from peers.measurement import requests_of
from peers.plan import Plan, Run
from peers.session import Found, document


def an_answer(due_at, ttft_s=None, outcome=Outcome.ANSWERED, detail=""):
    answer = Answer(due_at=due_at, sent_at=due_at)
    if ttft_s is not None:
        answer.first_token(due_at + ttft_s)
    answer.end(outcome, detail)
    return answer


class TestAnswers:
    def test_ttft_counts_from_when_a_request_was_due_even_if_it_was_sent_late(self):
        answer = Answer(due_at=10.0, sent_at=10.4)
        answer.first_token(11.0)
        answer.first_token(12.0)
        answer.end(Outcome.ANSWERED)
        assert answer.ttft_s == 1.0

    def test_a_request_nothing_was_heard_of_has_failed(self):
        answer = Answer(due_at=1.0)
        assert (answer.outcome, answer.ttft_s) == (Outcome.FAILED, None)

    def test_figures_are_of_the_answered_and_the_others_are_counted(self):
        """TTFT 1 to 4 s, limit 3 s: three answers in 10 s count for goodput."""
        answers = [an_answer(at, ttft_s) for at, ttft_s in enumerate((1.0, 2.0, 3.0, 4.0))]
        answers += [
            an_answer(5.0, None, Outcome.REJECTED, "429"),
            an_answer(6.0, 0.5, Outcome.FAILED, "broken"),
        ]
        answers[0].sent_at += 0.25
        figures = summarize(answers, measured_s=10.0, slo_ttft_s=3.0)
        assert figures["ttft_mean_ms"] == 2500.0
        assert figures["ttft_p50_ms"] == 2500.0
        assert figures["ttft_max_ms"] == 4000.0
        assert figures["goodput_per_s"] == pytest.approx(0.3)
        assert {name: figures[name] for name in ("requests", "answered", "rejected", "failed")} == {
            "requests": 6,
            "answered": 4,
            "rejected": 1,
            "failed": 1,
        }
        assert figures["client_late_max_ms"] == pytest.approx(250.0)

    def test_a_run_without_answers_is_an_error_that_says_what_was_heard(self):
        with pytest.raises(ValueError, match=r"0 of 2 requests were answered \(503: no worker\)"):
            summarize(
                [an_answer(0.0, None, Outcome.REJECTED, "503: no worker")] * 2, measured_s=1, slo_ttft_s=1
            )


class TestPlan:
    def test_everybody_has_a_turn_at_a_load_before_the_next_and_who_begins_changes(self):
        plan = Plan(contenders=("a", "b", "c"), loads=(0.5, 0.7), repeats=2)
        turns = [(run.contender, run.load, run.repeat) for run in plan.runs()]
        assert [turn[0] for turn in turns] == ["a", "b", "c", "b", "c", "a", "b", "c", "a", "c", "a", "b"]
        assert [turn[1:] for turn in turns[::3]] == [(0.5, 0), (0.7, 0), (0.5, 1), (0.7, 1)]

    def test_the_standard_set_takes_about_half_an_hour(self):
        plan = Plan()
        assert 20 <= plan.duration_s(len(list(plan.runs()))) / 60 <= 32

    @pytest.mark.parametrize(
        ("change", "is_same"),
        [
            pytest.param({"contenders": ("vllm-router",)}, True, id="others"),
            pytest.param({"loads": (0.9,)}, True, id="other loads"),
            pytest.param({"measured_s": 5.0}, False, id="shorter"),
            pytest.param({"seed": 1}, False, id="another seed"),
            pytest.param({"chunk_budget_tokens": 2048}, False, id="other engines"),
            pytest.param({"max_machine_share": 1.0}, False, id="a busier machine"),
        ],
    )
    def test_finished_runs_are_taken_again_only_where_they_would_be_the_same(self, change, is_same):
        assert (Plan(**change).digest("commit") == Plan().digest("commit")) is is_same
        assert Plan().digest("commit") != Plan().digest("another")

    def test_requests_are_the_same_for_everybody_and_others_in_another_repeat(self):
        service = load_service(8192)
        plan = Plan(warmup_s=1.0, measured_s=2.0)
        requests = requests_of(service, plan, Run(contender="a", load=0.7, repeat=0))
        assert requests == requests_of(service, plan, Run(contender="b", load=0.7, repeat=0))
        assert requests != requests_of(service, plan, Run(contender="a", load=0.7, repeat=1))
        assert all(0 <= request.due_s < 3.0 for request in requests)

    def test_load_is_that_of_the_slowed_engines(self):
        """Two groups at 0.85 take about 160 requests of 1,155 tokens a second; three times slower, 55."""
        service = load_service(8192)
        requests = requests_of(service, Plan(), Run(contender="a", load=0.85, repeat=0))
        assert 45 <= len(requests) / 40 <= 65


class TestByteTokenizer:
    def test_every_byte_is_a_token_and_comes_back(self):
        tokenizer = byte_tokenizer()
        text = "Hello  world, 3 x 7!\n(é)"
        ids = tokenizer.encode(text).ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text

    def test_packed_it_is_the_files_of_a_model_and_always_the_same_bytes(self):
        packed = byte_tokenizer_zip()
        assert packed == byte_tokenizer_zip()
        names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
        assert names == ["tokenizer.json", "tokenizer_config.json"]


class TestContenders:
    @pytest.fixture
    def place(self, tmp_path):
        engines = tuple(
            EngineDoor(
                url=f"http://e{group}:1",
                rank_urls=(f"http://e{group}:2", f"http://e{group}:3"),
                sglang_url=f"grpc://e{group}:4",
            )
            for group in range(2)
        )
        return Place(programs=Path("bin"), port=10, metrics_port=11, engines=engines, folder=tmp_path)

    def test_the_standard_set_has_our_policy_and_peers_of_every_environment(self):
        chosen = [CONTENDERS[name] for name in STANDARD]
        needed = {contender.environment for contender in chosen if contender.environment}
        assert needed == set(ENVIRONMENTS)
        assert page.OURS in STANDARD
        assert {name for name, one in CONTENDERS.items() if isinstance(one.kind, Hortator)} == set(
            page.HORTATOR
        )

    @pytest.mark.parametrize(
        ("name", "urls", "options"),
        [
            ("smg-least-load", ["http://e0:1", "http://e1:1"], ["--dp-aware"]),
            ("smg-least-load-ports", ["http://e0:2", "http://e0:3", "http://e1:2", "http://e1:3"], []),
            ("smg-least-load-grpc", ["grpc://e0:4", "grpc://e1:4"], ["--dp-aware"]),
            ("vllm-router", ["http://e0:1", "http://e1:1"], ["--intra-node-data-parallel-size", "2"]),
        ],
    )
    def test_a_router_is_told_of_engines_or_of_every_rank(self, place, name, urls, options):
        kind = CONTENDERS[name].kind
        assert isinstance(kind, Proxy)
        command = list(kind.command(place))
        assert command[command.index("--worker-urls") + 1 :] == urls
        assert set(options) <= set(command)
        assert ("--dp-aware" in command) == ("--dp-aware" in options)

    def test_haproxy_balances_over_every_rank_by_open_connections(self, place):
        kind = CONTENDERS["haproxy"].kind
        assert isinstance(kind, Proxy)
        kind.command(place)
        text = (place.folder / "haproxy.cfg").read_text()
        assert "balance leastconn" in text
        assert [line.split()[2] for line in text.splitlines() if line.startswith("    server ")] == [
            "e0:2",
            "e0:3",
            "e1:2",
            "e1:3",
        ]

    def test_knobs_that_are_times_go_with_the_speed_of_the_engines(self):
        as_modelled, slower = scheduler_knobs(1.0), scheduler_knobs(3.0)
        assert slower["age_first_s"] == 3 * as_modelled["age_first_s"]
        assert slower["gathered_first_s"] == 3 * as_modelled["gathered_first_s"]
        assert slower["max_hold_s"] == 3 * as_modelled["max_hold_s"]
        assert slower["backlog_weight"] == as_modelled["backlog_weight"] / 3


def a_run(contender, load=0.7, repeat=0, mean=1000.0, p99=2000.0, rejected=0):
    return {
        "contender": contender,
        "load": load,
        "repeat": repeat,
        "requests": 100,
        "answered": 100 - rejected,
        "rejected": rejected,
        "failed": 0,
        "ttft_mean_ms": mean,
        "ttft_p50_ms": mean,
        "ttft_p90_ms": p99,
        "ttft_p99_ms": p99,
        "ttft_max_ms": p99,
        "goodput_per_s": 30.0,
        "client_late_max_ms": 1.0,
        "router_cpu_ms_per_request": 0.5,
        "machine_cpu_share": 0.2,
        "details": [],
    }


def a_document(*runs, **found):
    plan = Plan(contenders=("staggered-plus", "vllm-router"))
    return document(
        plan, Found(runs=list(runs), **found), versions={"smg": "smg 1.13.0"}, skipped={"haproxy": "absent"}
    )


class TestPage:
    def test_figures_are_medians_over_the_runs_of_a_point(self):
        runs = [
            a_run("staggered-plus", repeat=repeat, mean=mean)
            for repeat, mean in enumerate((900.0, 500.0, 600.0))
        ]
        results = a_document(*runs)
        assert results["figures"]["staggered-plus.0.7.ttft_mean_ms"] == 600.0
        assert results["points"][0]["runs"] == 3
        assert results["repeats"] == runs

    def test_what_one_run_lost_is_not_hidden_by_the_others(self):
        runs = [
            a_run("vllm-router", repeat=repeat, rejected=rejected)
            for repeat, rejected in enumerate((0, 5, 0))
        ]
        point = a_document(*runs)["points"][0]
        assert (point["rejected"], point["requests"], point["answered"]) == (5, 300, 295)

    def test_a_peer_that_wins_is_named_in_bold(self):
        results = a_document(
            a_run("staggered-plus", mean=900.0, p99=3000.0),
            a_run("vllm-router"),
            a_run("smg-least-load", mean=1500.0),
        )
        mean, p99 = page.verdicts(results["points"])
        assert mean == (
            "- load 0.7, mean TTFT: `staggered-plus` is ahead of all; next `vllm-router`, "
            "900 ms against 1,000 ms (0.90 of it)"
        )
        assert p99.startswith("- **load 0.7, p99 TTFT: `smg-least-load` wins**, 3,000 ms against 2,000 ms")
        assert p99 in page.render(results)

    def test_our_other_policies_are_no_peers(self):
        results = a_document(
            a_run("staggered-plus"), a_run("staggered", mean=1.0), a_run("vllm-router", mean=2000.0)
        )
        assert "next `vllm-router`" in page.verdicts(results["points"])[0]

    def test_medians_within_two_percent_are_a_tie(self):
        results = a_document(a_run("staggered-plus", mean=1010.0), a_run("vllm-router"))
        assert "a tie with `vllm-router`" in page.verdicts(results["points"])[0]

    def test_requests_that_were_not_answered_are_said_ours_in_bold(self):
        results = a_document(a_run("staggered-plus", rejected=2), a_run("vllm-router", rejected=14))
        *_, ours, theirs = page.verdicts(results["points"])
        assert ours == "- **load 0.7: staggered-plus did not answer 2 requests**"
        assert theirs == "- load 0.7: `vllm-router` did not answer 14 of 100 requests"

    def test_nothing_is_said_where_there_is_nobody_to_compare_with(self):
        assert "no comparison" in page.verdicts(a_document(a_run("vllm-router"))["points"])[0]
        assert "no comparison" in page.verdicts(a_document(a_run("staggered-plus"))["points"])[0]

    def test_the_page_says_what_was_left_out_and_why(self):
        busy = a_run("vllm-router") | {"machine_cpu_share": 0.83}
        broken = {"contender": "vllm-router", "load": 0.5, "repeat": 1, "why": "not ready after 60 s"}
        text = page.render(a_document(a_run("staggered-plus"), discarded=[busy], failed=[broken]))
        assert "- discarded: vllm-router at 0.7, repeat 1: the machine was 83% busy" in text
        assert "- failed: vllm-router at 0.5, repeat 2: not ready after 60 s" in text
        assert "- `haproxy`: not run: absent" in text

    def test_rows_are_ordered_by_mean_ttft_and_loads_have_a_table_each(self):
        text = page.render(
            a_document(
                a_run("vllm-router", mean=2000.0), a_run("staggered-plus"), a_run("staggered-plus", load=0.5)
            )
        )
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
        assert rows == ["contender", "**staggered-plus**", "contender", "**staggered-plus**", "vllm-router"]
        assert "seed 0" in text
        assert "smg 1.13.0" in text

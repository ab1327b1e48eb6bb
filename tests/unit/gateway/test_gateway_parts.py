"""Chat template, idempotency keys, histograms, settings."""

from __future__ import annotations

import json
from array import array

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hortator.gateway.__main__ import main
from hortator.gateway.chat import ChatTemplate
from hortator.gateway.client_request import ChatMessage
from hortator.gateway.generation import Generation, RequestFacts
from hortator.gateway.idempotency import KeyedGenerations
from hortator.gateway.metrics import TimeHistogram
from hortator.gateway.placement import WorkerSampling
from hortator.gateway.request import RequestMachine


def test_the_chat_template_renders_turns_and_opens_the_answer():
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hi")]
    assert ChatTemplate().render(messages) == "system: Be brief.\nuser: Hi\nassistant:"


def test_placeholders_inside_contents_stay_what_they_are():
    template = ChatTemplate(message="<{role}>{content}</{role}>", reply="")
    assert (
        template.render([ChatMessage(role="user", content="{role} {content}")])
        == "<user>{role} {content}</user>"
    )


def a_generation(key: str, tenant: str = "") -> Generation:
    facts = RequestFacts(
        request_id=f"r-{key}",
        prompt_token_ids=array("I", [1]),
        block_hashes=[],
        sampling=WorkerSampling(max_tokens=1),
        tenant=tenant,
        idempotency_key=key,
    )
    machine = RequestMachine(num_prompt_tokens=1, max_tokens=1)
    return Generation(facts=facts, machine=machine, new_output_text=None, accepted_at=0.0)


def test_a_key_names_its_generation_until_the_retention_is_over():
    keyed = KeyedGenerations(retention_s=30.0)
    generation = a_generation("k", "acme")
    keyed.add(generation)
    assert keyed.get("acme", "k", 1e9) is generation  # alive: however old
    assert keyed.get("other", "k", 0.0) is None
    keyed.ended(generation, 100.0)
    assert keyed.get("acme", "k", 129.9) is generation
    assert keyed.get("acme", "k", 130.0) is None
    assert len(keyed) == 0


def test_a_generation_that_goes_on_is_not_forgotten():
    keyed = KeyedGenerations(retention_s=30.0)
    generation = a_generation("k")
    keyed.add(generation)
    keyed.ended(generation, 0.0)
    keyed.add(generation)
    assert keyed.get("", "k", 1000.0) is generation


def test_ended_generations_are_bounded():
    keyed = KeyedGenerations(retention_s=1e9, max_ended=3)
    for number in range(10):
        generation = a_generation(str(number))
        keyed.add(generation)
        keyed.ended(generation, float(number))
    assert len(keyed) == 3
    assert keyed.get("", "9", 10.0) is not None
    assert keyed.get("", "6", 10.0) is None


def test_a_time_histogram_is_a_prometheus_histogram():
    registry = CollectorRegistry()
    histogram = TimeHistogram("x_seconds", "Doc.", (0.1, 1.0), registry)
    for seconds in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(seconds)
    histogram.observe_zeros(2)
    lines = dict(
        line.rsplit(" ", 1) for line in generate_latest(registry).decode().splitlines() if line[0] != "#"
    )
    assert lines['x_seconds_bucket{le="0.1"}'] == "4.0"  # 0.05, 0.1 and two zeros
    assert lines['x_seconds_bucket{le="1.0"}'] == "5.0"
    assert lines['x_seconds_bucket{le="+Inf"}'] == lines["x_seconds_count"] == "6.0"
    assert float(lines["x_seconds_sum"]) == pytest.approx(3.65)


GOOD = {"scheduler_addresses": ["127.0.0.1:1"], "model": "tiny", "max_sequence_tokens": 100}


def run_main(tmp_path, content, *arguments) -> int:
    path = tmp_path / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return main(["--settings", str(path), *arguments])


def test_print_settings_shows_the_effective_values(tmp_path, capsys):
    assert run_main(tmp_path, {**GOOD, "port": 7}, "--print-settings") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "HORTATOR_GATEWAY_PORT=7" in lines
    assert "HORTATOR_GATEWAY_MODEL=tiny" in lines
    assert "HORTATOR_GATEWAY_MAX_WORKER_FAILURES=2" in lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**GOOD, "port": 70000}, ["settings.json", "port:", "65535", "70000"]),
        ({**GOOD, "portt": 1}, ["settings.json", "portt:", "not permitted"]),
        ({**GOOD, "max_coalescing_window_s": 0.2}, ["max_coalescing_window_s:", "0.05"]),
        ({**GOOD, "tokenizer": "/nowhere.json"}, ["no tokenizer file /nowhere.json"]),
        ({**GOOD, "log_level": "LOUD"}, ["LOUD", "DEBUG"]),
        ("[]", ["settings.json", "JSON object"]),
        ("{\n,", ["settings.json:2:"]),
    ],
)
def test_bad_settings_name_file_and_key_on_one_line_and_exit_2(tmp_path, capsys, content, words):
    assert run_main(tmp_path, content) == 2
    [line] = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_every_missing_setting_is_reported(tmp_path, capsys):
    assert run_main(tmp_path, {}) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "HORTATOR_GATEWAY_SCHEDULER_ADDRESSES",
        "HORTATOR_GATEWAY_MODEL",
        "HORTATOR_GATEWAY_MAX_SEQUENCE_TOKENS",
    ]

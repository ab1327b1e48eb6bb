"""Every refusal names its field."""

from __future__ import annotations

import pytest

from hortator.gateway.client_request import (
    ChatMessage,
    ChatPrompt,
    ClientRequest,
    ClientSampling,
    TextPrompt,
    TokenPrompt,
)
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.gateway.validation import Limits, check_prompt, check_request, check_resume

LIMITS = Limits(model="tiny", max_sequence_tokens=100, vocab_size=50, default_max_tokens=20)


def a_request(**fields) -> ClientRequest:
    return ClientRequest(**{"prompt": TextPrompt(text="go"), **fields})


def fields_of(error: GatewayError) -> list[str]:
    return [violation.field for violation in error.violations]


@pytest.mark.parametrize(
    "request_",
    [
        a_request(),
        a_request(model="tiny", priority=-100, tenant="t", idempotency_key="k", resume_from_index=3),
        a_request(prompt=TokenPrompt(token_ids=[0, 49])),
        a_request(prompt=ChatPrompt(messages=(ChatMessage(role="user", content=""),))),
        a_request(sampling=ClientSampling(max_tokens=1, temperature=2.0, top_p=1.0, stop=("a",) * 8)),
    ],
)
def test_good_requests_pass(request_):
    check_request(request_, LIMITS)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": TextPrompt(text="")}, "prompt"),
        ({"prompt": TokenPrompt(token_ids=[])}, "prompt"),
        ({"prompt": ChatPrompt(messages=())}, "prompt"),
        ({"prompt": TokenPrompt(token_ids=[1, 50])}, "tokens.token_ids[1]"),
        ({"prompt": ChatPrompt(messages=(ChatMessage(role="king", content="x"),))}, "chat.messages[0].role"),
        ({"sampling": ClientSampling(max_tokens=0)}, "sampling.max_tokens"),
        ({"sampling": ClientSampling(max_tokens=3, min_tokens=4)}, "sampling.min_tokens"),
        ({"sampling": ClientSampling(temperature=-0.1)}, "sampling.temperature"),
        ({"sampling": ClientSampling(temperature=2.01)}, "sampling.temperature"),
        ({"sampling": ClientSampling(temperature=float("nan"))}, "sampling.temperature"),
        ({"sampling": ClientSampling(top_p=0.0)}, "sampling.top_p"),
        ({"sampling": ClientSampling(top_p=1.01)}, "sampling.top_p"),
        ({"sampling": ClientSampling(top_p=float("nan"))}, "sampling.top_p"),
        ({"sampling": ClientSampling(stop=("a",) * 9)}, "sampling.stop"),
        ({"sampling": ClientSampling(stop=("a", ""))}, "sampling.stop[1]"),
        ({"sampling": ClientSampling(stop_token_ids=tuple(range(65)))}, "sampling.stop_token_ids"),
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"tenant": "t" * 257}, "tenant"),
        ({"idempotency_key": "k" * 257}, "idempotency_key"),
        ({"resume_from_index": 1}, "resume_from_index"),
        (
            {"resume_from_index": 5, "idempotency_key": "k", "sampling": ClientSampling(max_tokens=4)},
            "resume_from_index",
        ),
        (
            {"resume_from_index": 3, "idempotency_key": "k", "prior_output_ids": [1, 2]},
            "prior_output_ids",
        ),
        ({"prior_output_ids": [1]}, "prior_output_ids"),
        (
            {"resume_from_index": 2, "idempotency_key": "k", "prior_output_ids": [1, 10**6]},
            "prior_output_ids[1]",
        ),
    ],
)
def test_bad_fields_are_named(fields, field):
    with pytest.raises(GatewayError) as caught:
        check_request(a_request(**fields), LIMITS)
    assert caught.value.kind is ErrorKind.INVALID
    assert fields_of(caught.value) == [field]
    assert field in caught.value.message


def test_all_problems_are_reported_at_once():
    request = a_request(priority=500, sampling=ClientSampling(temperature=9, top_p=9))
    with pytest.raises(GatewayError) as caught:
        check_request(request, LIMITS)
    assert fields_of(caught.value) == ["sampling.temperature", "sampling.top_p", "priority"]


def test_an_unknown_model_is_not_found():
    with pytest.raises(GatewayError, match="served: tiny") as caught:
        check_request(a_request(model="huge"), LIMITS)
    assert caught.value.kind is ErrorKind.UNKNOWN_MODEL
    assert fields_of(caught.value) == ["model"]


def test_without_a_tokenizer_only_token_ids_are_legal():
    limits = Limits(model="tiny", max_sequence_tokens=100, has_tokenizer=False)
    check_request(a_request(prompt=TokenPrompt(token_ids=[10**9])), limits)  # the vocabulary is not known
    for fields, field in [
        ({"prompt": TextPrompt(text="x")}, "prompt"),
        ({"prompt": TokenPrompt(token_ids=[1]), "sampling": ClientSampling(stop=("x",))}, "sampling.stop"),
    ]:
        with pytest.raises(GatewayError, match="no tokenizer") as caught:
            check_request(a_request(**fields), limits)
        assert fields_of(caught.value) == [field]


def test_max_tokens_is_the_clients_or_the_default_cut_to_the_room():
    assert check_prompt(10, ClientSampling(max_tokens=90), LIMITS) == 90
    assert check_prompt(10, ClientSampling(), LIMITS) == 20
    assert check_prompt(95, ClientSampling(), LIMITS) == 5


@pytest.mark.parametrize(
    ("num_prompt_tokens", "sampling", "field", "limit"),
    [
        (0, ClientSampling(), "prompt", "empty"),
        (100, ClientSampling(), "prompt", "max_sequence_tokens: 100"),
        (50, ClientSampling(max_tokens=51), "sampling.max_tokens", "at most 50"),
    ],
)
def test_lengths_over_the_limit_name_the_limit(num_prompt_tokens, sampling, field, limit):
    with pytest.raises(GatewayError, match=limit) as caught:
        check_prompt(num_prompt_tokens, sampling, LIMITS)
    assert fields_of(caught.value) == [field]


def test_without_chunked_prefill_a_prompt_must_fit_the_budget():
    tight = Limits(model="m", max_sequence_tokens=100, chunk_budget_tokens=8, chunked_prefill=False)
    assert check_prompt(8, ClientSampling(max_tokens=1), tight) == 1
    with pytest.raises(GatewayError, match="chunk_budget_tokens: 8") as caught:
        check_prompt(9, ClientSampling(), tight)
    assert fields_of(caught.value) == ["prompt"]
    chunked = Limits(model="m", max_sequence_tokens=100, chunk_budget_tokens=8, chunked_prefill=True)
    assert check_prompt(9, ClientSampling(max_tokens=1), chunked) == 1


def test_resuming_beyond_what_exists_is_refused():
    check_resume(5, 5)
    with pytest.raises(GatewayError, match="6 is beyond the 5 output tokens"):
        check_resume(6, 5)

"""Is this request one that we can run? Pure checks; every violation names its field.

Two steps: `check_request` before the prompt is tokenized, `check_prompt` after. Each reports the problems
that it sees at once. Field names are paths in the words of GenerateRequest; everything about the prompt as a
whole is `prompt`, whichever kind it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hortator.gateway.client_request import ChatPrompt, ClientRequest, ClientSampling, TextPrompt, TokenPrompt
from hortator.gateway.errors import ErrorKind, GatewayError
from hortator.runtime.rpc_errors import FieldViolation

MIN_PRIORITY, MAX_PRIORITY = -100, 100
MAX_TEMPERATURE = 2.0
MAX_STOPS = 8
MAX_STOP_TOKEN_IDS = 64
MAX_NAME_CHARS = 256
MAX_VIOLATIONS = 8
"""That are told: errors travel as metadata, of which clients take 8 KiB."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the served model and its workers can take."""

    model: str
    max_sequence_tokens: int
    """Prompt plus output tokens of one request."""
    chunk_budget_tokens: int = 0
    """Prefill tokens per DP rank per forward pass; 0: unknown, not checked."""
    chunked_prefill: bool = True
    """False: a prompt is indivisible and must fit the chunk budget."""
    vocab_size: int = 0
    """0: unknown, token ids are not checked."""
    default_max_tokens: int = 256
    has_tokenizer: bool = True


def check_request(request: ClientRequest, limits: Limits) -> None:
    """Check everything that can be checked without token ids.

    Raises:
        GatewayError: UNKNOWN_MODEL, or INVALID with every violation.
    """
    if request.model and request.model != limits.model:
        violation = FieldViolation(field="model", description=f"unknown model (served: {limits.model})")
        message = f"model: {request.model[:MAX_NAME_CHARS]!r} is not served here (served: {limits.model})"
        raise GatewayError(ErrorKind.UNKNOWN_MODEL, message, violations=(violation,))
    _raise_if_any(
        [
            *_prompt_violations(request, limits),
            *_sampling_violations(request.sampling, limits),
            *_other_violations(request),
            *_unknown_tokens("prior_output_ids", request.prior_output_ids, limits),
        ]
    )


def check_prompt(num_prompt_tokens: int, sampling: ClientSampling, limits: Limits) -> int:
    """Check lengths and return `max_tokens`: the client's, or the default cut to the room there is.

    Raises:
        GatewayError: INVALID with every violation.
    """
    if num_prompt_tokens == 0:
        _raise_if_any([FieldViolation(field="prompt", description="must not be empty")])
    room = limits.max_sequence_tokens - num_prompt_tokens
    if room < 1:
        description = (
            f"{num_prompt_tokens} tokens leave no room for output"
            f" (max_sequence_tokens: {limits.max_sequence_tokens})"
        )
        _raise_if_any([FieldViolation(field="prompt", description=description)])
    budget = limits.chunk_budget_tokens
    if budget and not limits.chunked_prefill and num_prompt_tokens > budget:
        description = (
            f"{num_prompt_tokens} tokens do not fit one forward pass and this model has no chunked prefill"
            f" (chunk_budget_tokens: {budget})"
        )
        _raise_if_any([FieldViolation(field="prompt", description=description)])
    wanted = sampling.max_tokens
    if wanted is None:
        return max(min(limits.default_max_tokens, room), 1)
    if wanted > room:
        description = (
            f"{wanted} output tokens after a prompt of {num_prompt_tokens} are over the limit"
            f" (max_sequence_tokens: {limits.max_sequence_tokens}, so at most {room})"
        )
        _raise_if_any([FieldViolation(field="sampling.max_tokens", description=description)])
    return wanted


def check_resume(resume_from_index: int, num_available: int, *, field: str = "resume_from_index") -> None:
    """Check that a client asks to continue at a token it can have seen.

    Raises:
        GatewayError: INVALID naming the field.
    """
    if resume_from_index > num_available:
        description = f"{resume_from_index} is beyond the {num_available} output tokens there are"
        _raise_if_any([FieldViolation(field=field, description=description)])


def invalid(field: str, description: str) -> GatewayError:
    """One violation as an error."""
    violation = FieldViolation(field=field, description=description)
    return GatewayError(ErrorKind.INVALID, f"{field}: {description}", violations=(violation,))


def _raise_if_any(violations: Sequence[FieldViolation]) -> None:
    if violations:
        told, more = violations[:MAX_VIOLATIONS], len(violations) - MAX_VIOLATIONS
        message = "; ".join(f"{v.field}: {v.description}" for v in told)
        if more > 0:
            message += f"; and {more} more"
        raise GatewayError(ErrorKind.INVALID, message, violations=tuple(told))


def _prompt_violations(request: ClientRequest, limits: Limits) -> Iterator[FieldViolation]:
    match request.prompt:
        case None:
            yield FieldViolation(field="prompt", description="must be given: text, chat or tokens")
        case TextPrompt(text=text):
            if not text:
                yield FieldViolation(field="prompt", description="must not be empty")
            elif not limits.has_tokenizer:
                yield FieldViolation(field="prompt", description="no tokenizer here: give token ids")
        case ChatPrompt(messages=messages):
            if not messages:
                yield FieldViolation(field="prompt", description="must not be empty")
            elif not limits.has_tokenizer:
                yield FieldViolation(field="prompt", description="no tokenizer here: give token ids")
            for index, message in enumerate(messages):
                if message.role not in ROLES:
                    allowed = ", ".join(ROLES)
                    description = f"unknown role {message.role[:32]!r} (allowed: {allowed})"
                    yield FieldViolation(field=f"chat.messages[{index}].role", description=description)
        case TokenPrompt(token_ids=token_ids):
            if not token_ids:
                yield FieldViolation(field="prompt", description="must not be empty")
            else:
                yield from _unknown_tokens("tokens.token_ids", token_ids, limits)


def _unknown_tokens(field: str, token_ids: Sequence[int], limits: Limits) -> Iterator[FieldViolation]:
    if token_ids and limits.vocab_size and max(token_ids) >= limits.vocab_size:
        index, token_id = next((i, t) for i, t in enumerate(token_ids) if t >= limits.vocab_size)
        description = f"{token_id} is not a token (vocabulary size: {limits.vocab_size})"
        yield FieldViolation(field=f"{field}[{index}]", description=description)


def _sampling_violations(sampling: ClientSampling, limits: Limits) -> Iterator[FieldViolation]:
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        yield FieldViolation(field="sampling.max_tokens", description="must be at least 1")
    elif sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        description = f"{sampling.min_tokens} is over max_tokens {sampling.max_tokens}"
        yield FieldViolation(field="sampling.min_tokens", description=description)
    if not 0 <= sampling.temperature <= MAX_TEMPERATURE:  # NaN fails, too
        description = f"must be in 0..{MAX_TEMPERATURE:g}, got {sampling.temperature:g}"
        yield FieldViolation(field="sampling.temperature", description=description)
    if sampling.top_p is not None and not (0 < sampling.top_p <= 1 and math.isfinite(sampling.top_p)):
        description = f"must be above 0 and at most 1, got {sampling.top_p:g}"
        yield FieldViolation(field="sampling.top_p", description=description)
    if len(sampling.stop) > MAX_STOPS:
        description = f"at most {MAX_STOPS} strings, got {len(sampling.stop)}"
        yield FieldViolation(field="sampling.stop", description=description)
    for index, stop in enumerate(sampling.stop):
        if not stop:
            yield FieldViolation(field=f"sampling.stop[{index}]", description="must not be empty")
        elif len(stop) > MAX_NAME_CHARS:
            description = f"at most {MAX_NAME_CHARS} characters, got {len(stop)}"
            yield FieldViolation(field=f"sampling.stop[{index}]", description=description)
    if sampling.stop and not limits.has_tokenizer:
        yield FieldViolation(field="sampling.stop", description="no tokenizer here: use stop_token_ids")
    if len(sampling.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        description = f"at most {MAX_STOP_TOKEN_IDS} ids, got {len(sampling.stop_token_ids)}"
        yield FieldViolation(field="sampling.stop_token_ids", description=description)


def _other_violations(request: ClientRequest) -> Iterator[FieldViolation]:
    if not MIN_PRIORITY <= request.priority <= MAX_PRIORITY:
        description = f"must be in {MIN_PRIORITY}..{MAX_PRIORITY}, got {request.priority}"
        yield FieldViolation(field="priority", description=description)
    for field, value in (("tenant", request.tenant), ("idempotency_key", request.idempotency_key)):
        if len(value) > MAX_NAME_CHARS:
            description = f"at most {MAX_NAME_CHARS} characters, got {len(value)}"
            yield FieldViolation(field=field, description=description)
    if request.resume_from_index and not request.idempotency_key:
        yield FieldViolation(
            field="resume_from_index", description="needs the idempotency_key of the request"
        )
    max_tokens = request.sampling.max_tokens
    if request.resume_from_index and max_tokens is not None and request.resume_from_index > max_tokens:
        description = f"{request.resume_from_index} is beyond max_tokens {max_tokens}"
        yield FieldViolation(field="resume_from_index", description=description)
    num_prior = len(request.prior_output_ids)
    if num_prior and num_prior != request.resume_from_index:
        description = (
            f"{num_prior} tokens (allowed: none, or all {request.resume_from_index} before resume_from_index)"
        )
        yield FieldViolation(field="prior_output_ids", description=description)

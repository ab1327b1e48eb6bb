"""From a client's request to a generation: checks, tokens, block hashes, and keys that name old ones.

Everything that can be refused is refused here, before the request costs anybody anything.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from hortator.gateway.block_hashes import block_hashes, chain_salt
from hortator.gateway.chat import Chat, ChatTemplate
from hortator.gateway.client_request import ChatMessage, ChatPrompt, ClientRequest, TextPrompt, TokenPrompt
from hortator.gateway.detokenization import OutputText
from hortator.gateway.driver import Driver
from hortator.gateway.errors import ChatError, ErrorKind, GatewayError
from hortator.gateway.generation import Generation, RequestFacts, Subscriber
from hortator.gateway.idempotency import KeyedGenerations, key_hash
from hortator.gateway.placement import NO_CLAIM, Claim, WorkerSampling
from hortator.gateway.request import RequestMachine
from hortator.gateway.settings import GatewaySettings
from hortator.gateway.tokenization import Tokenizer
from hortator.gateway.validation import Limits, check_prompt, check_request, check_resume, invalid

_TOKENIZER_RETRY_S = 1.0
_LONG_TEXT_CHARS = 4096
"""Longer texts are tokenized in a thread: a millisecond of everybody's stream is too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How text becomes tokens, and tokens text."""

    tokenizer: Tokenizer | None
    chat: Chat
    digest: bytes
    """By which workers say that they have the same tokenizer; empty: theirs is not known."""


class Admission:
    """Lets requests in. One per gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        gateway_id: str,
        tokenizer: Tokenizer | None,
        driver: Driver,
        keyed: KeyedGenerations,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._keyed = keyed
        self._ids = (f"{gateway_id}-{number:x}" for number in count(1))
        self._salts: dict[str, bytes] = {}
        self.use_tokenizer(tokenizer)
        self.tokenizer_pending: Callable[[], str] = lambda: ""
        """Why there is no tokenizer though one may still come; empty: none will."""
        self.is_draining = False
        """New requests are refused."""
        self.is_leaving = False
        """New requests are still taken, but none should be sent here."""
        """Nothing new is let in; who comes back for a running request still is."""

    def use_tokenizer(
        self, tokenizer: Tokenizer | None, chat: Chat | None = None, digest: bytes = b""
    ) -> None:
        """From now on; no tokenizer: only token ids are taken; no chat of the model: the plain one.

        With a digest, requests go to workers that have the same tokenizer.
        """
        settings = self._settings
        plain = ChatTemplate(message=settings.chat_message, reply=settings.chat_reply)
        self._reading = _Reading(tokenizer=tokenizer, chat=chat or plain, digest=digest)
        self.limits: Limits = settings.limits(
            tokenizer_vocab_size=None if tokenizer is None else tokenizer.vocab_size
        )

    async def admit(
        self, request: ClientRequest, *, fingerprint: bytes, accepted_at: float, deadline_at: float | None
    ) -> tuple[Generation, Subscriber]:
        """Begin a generation, or find the one that the request's key names.

        Args:
            request: as the client sent it.
            fingerprint: equal for equal requests; only used with a key.
            accepted_at: loop time at which the call began.
            deadline_at: loop time of the client's deadline, None without one.

        Raises:
            GatewayError: the request is refused.
        """
        self._check_text(request)
        check_request(request, self.limits)
        reading = self._reading  # while we wait for tokens it may be replaced
        if request.idempotency_key:
            known = self._find(request, fingerprint, deadline_at)
            if known is not None:
                return known
        self._check_room()
        token_ids = await _tokenize(request, reading)
        max_tokens = check_prompt(len(token_ids), request.sampling, self.limits)
        check_resume(request.resume_from_index, max_tokens)
        if request.idempotency_key:  # a twin may have come while we tokenized
            known = self._find(request, fingerprint, deadline_at)
            if known is not None:
                return known
        self._check_room()
        generation = self._generation(
            request, reading, token_ids, max_tokens, fingerprint, accepted_at, deadline_at
        )
        self._bring(request, generation)
        subscriber = generation.subscribe(request.resume_from_index)
        self._driver.start(generation)
        return generation, subscriber

    def _check_text(self, request: ClientRequest) -> None:
        if self._reading.tokenizer is not None or not request.needs_tokenizer:
            return
        pending = self.tokenizer_pending()
        if pending:
            message = f"the model's tokenizer is not here yet ({pending}): only token ids are taken so long"
            raise GatewayError(ErrorKind.UNAVAILABLE, message, retry_after_s=_TOKENIZER_RETRY_S)

    def _check_room(self) -> None:
        if self.is_draining:
            raise GatewayError(ErrorKind.UNAVAILABLE, "this gateway is draining", retry_after_s=0.0)
        limit = self._settings.max_requests
        if self._driver.num_in_flight >= limit:
            message = f"this gateway holds {limit} requests, its limit (max_requests)"
            raise GatewayError(ErrorKind.QUEUE_FULL, message, retry_after_s=1.0, limit="max_requests")

    def _find(
        self, request: ClientRequest, fingerprint: bytes, deadline_at: float | None
    ) -> tuple[Generation, Subscriber] | None:
        """The generation that the key names, going on if it had ended early."""
        now = asyncio.get_running_loop().time()
        generation = self._keyed.get(request.tenant, request.idempotency_key, now)
        if generation is None:
            return None
        if generation.facts.fingerprint != fingerprint:
            raise invalid("idempotency_key", "was used with another request")
        error = None if generation.end is None else generation.end.error
        goes_on = error is not None and not error.is_final
        is_over = generation.end is not None and not goes_on
        # While more is to come, the client may have got more of it at another gateway than is here.
        num_tokens = len(generation.machine.output_ids) if is_over else generation.facts.sampling.max_tokens
        check_resume(request.resume_from_index, num_tokens)
        if goes_on:
            self._check_room()
        subscriber = generation.subscribe(request.resume_from_index)
        generation.asked_at = now
        if goes_on:
            # Under another name: what had this one may have been followed by another gateway's request since.
            generation.facts = replace(generation.facts, request_id=next(self._ids))
            self._bring(request, generation)
            self._driver.resume(generation, deadline_at=deadline_at)
        return generation, subscriber

    def _bring(self, request: ClientRequest, generation: Generation) -> None:
        """Go on after the tokens that the client has, unless they are too many to prefill."""
        limits, brought = self.limits, request.prior_output_ids
        num_tokens = len(generation.facts.prompt_token_ids) + len(brought)
        if (
            limits.chunk_budget_tokens
            and not limits.chunked_prefill
            and num_tokens > limits.chunk_budget_tokens
        ):
            return
        if brought and brought[-1] in request.sampling.stop_token_ids:
            brought = brought[:-1]  # only a worker knows whether that was the end
        generation.machine.bring(brought)

    def _generation(
        self,
        request: ClientRequest,
        reading: _Reading,
        token_ids: array[int],
        max_tokens: int,
        fingerprint: bytes,
        accepted_at: float,
        deadline_at: float | None,
    ) -> Generation:
        settings, sampling, tokenizer = self._settings, request.sampling, reading.tokenizer
        hashes = block_hashes(
            token_ids, tokens_per_block=settings.tokens_per_block, salt=self._salt(request.tenant)
        )

        def new_output_text() -> OutputText:
            assert tokenizer is not None  # noqa: S101  # only used with one
            return OutputText(tokenizer.new_detokenizer(), sampling.stop)

        return Generation(
            facts=RequestFacts(
                request_id=next(self._ids),
                prompt_token_ids=token_ids,
                block_hashes=hashes,
                sampling=WorkerSampling(
                    max_tokens=max_tokens,
                    min_tokens=min(sampling.min_tokens, max_tokens),
                    temperature=sampling.temperature,
                    top_p=1.0 if sampling.top_p is None else sampling.top_p,
                    top_k=sampling.top_k,
                    seed=sampling.seed,
                    stop_token_ids=sampling.stop_token_ids,
                    ignore_eos=sampling.ignore_eos,
                ),
                priority=request.priority,
                tenant=request.tenant,
                latency_critical=request.latency_critical,
                idempotency_key=request.idempotency_key,
                fingerprint=fingerprint,
                claim=_claim(request, fingerprint),
                tokenizer=reading.digest,
            ),
            machine=RequestMachine(
                num_prompt_tokens=len(token_ids),
                max_tokens=max_tokens,
                max_worker_failures=settings.max_worker_failures,
                max_refusals=settings.max_refusals,
            ),
            new_output_text=None if tokenizer is None else new_output_text,
            accepted_at=accepted_at,
            deadline_at=deadline_at,
            resumed_from_index=request.resume_from_index,
        )

    def _salt(self, tenant: str) -> bytes:
        salt = self._salts.get(tenant)
        if salt is None:
            if len(self._salts) >= 10_000:  # tenants are names that clients choose
                self._salts.clear()
            salt = self._salts[tenant] = chain_salt(tenant=tenant, model=self._settings.model)
        return salt


async def _tokenize(request: ClientRequest, reading: _Reading) -> array[int]:
    match request.prompt:
        case TokenPrompt(token_ids=token_ids):
            return array("I", token_ids)
        case ChatPrompt(messages=messages):
            text, is_whole = _render(messages, reading.chat), not reading.chat.adds_special_tokens
        case TextPrompt(text=text):
            is_whole = False
        case None:
            raise invalid("prompt", "must be given: text, chat or tokens")
    tokenizer = reading.tokenizer
    if tokenizer is None:
        raise invalid("prompt", "no tokenizer here: give token ids")
    encode = partial(tokenizer.encode, text, with_special_tokens=not is_whole)
    return array("I", await asyncio.to_thread(encode) if len(text) > _LONG_TEXT_CHARS else encode())


def _render(messages: Sequence[ChatMessage], chat: Chat) -> str:
    try:
        return chat.render(messages)
    except ChatError as error:
        raise invalid("prompt.chat", str(error)) from None


def _claim(request: ClientRequest, fingerprint: bytes) -> Claim:
    key = request.idempotency_key
    if not key:
        return NO_CLAIM
    return Claim(key_hash=key_hash(request.tenant, key), request_hash=fingerprint)

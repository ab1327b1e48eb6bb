"""The chat template that a model brings: Jinja, as the Hugging Face hub keeps it beside the weights.

A template is a program of the model's makers. It runs in Jinja's sandbox, sees messages and the model's
special tokens, and gives the whole text, special tokens included: none is added to it when it is tokenized.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn

from hortator.gateway.client_request import ChatMessage
from hortator.gateway.errors import ChatError, TokenizerError
from hortator.runtime.tokenizer_files import CHAT_TEMPLATE, CONFIG

_DEFAULT_NAME = "default"
"""Of several templates in one configuration: the others are for tools and the like."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class ModelChatTemplate:
    """One model's template. Thread-safe."""

    adds_special_tokens: ClassVar[bool] = False

    def __init__(self, source: str, *, special_tokens: Mapping[str, str]) -> None:
        """Compile it.

        Raises:
            TokenizerError: it is no template, or Jinja is missing.
        """
        try:
            import jinja2.sandbox  # noqa: PLC0415  # an extra: a gateway without chat runs without
        except ImportError as error:
            raise TokenizerError("a chat template needs the package `jinja2` (extra `gateway`)") from error
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"the model's chat template cannot be used: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Iterable[ChatMessage]) -> str:
        """The whole conversation and the beginning of the answer.

        Raises:
            ChatError: the template refuses these messages; the message is the template's own.
        """
        said = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=said, add_generation_prompt=True, **self._special_tokens)
        except Exception as error:  # whatever a program of somebody else does
            raise ChatError(f"the model's chat template refuses them: {error}") from error


def model_chat_template(files: Mapping[str, bytes]) -> ModelChatTemplate | None:
    """From the files beside the weights; None where the model brings none.

    Raises:
        TokenizerError: there is one, and it cannot be used.
    """
    try:
        config = json.loads(files.get(CONFIG, b"{}"))
    except ValueError as error:
        raise TokenizerError(f"{CONFIG} of the model is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{CONFIG} of the model is no JSON object")
    source = files[CHAT_TEMPLATE].decode(errors="replace") if CHAT_TEMPLATE in files else _source(config)
    if source is None:
        return None
    special = {name: _text(config.get(name)) for name in _SPECIAL_TOKENS}
    return ModelChatTemplate(source, special_tokens={name: text for name, text in special.items() if text})


def _source(config: Mapping[str, Any]) -> str | None:
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get(_DEFAULT_NAME)
    return found if isinstance(found, str) else None


def _text(token: Any) -> str:
    """A special token is a text, or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _to_json(value: Any, indent: int | None = None) -> str:
    """Without the escapes for HTML that Jinja's own has."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: object) -> NoReturn:
    raise ChatError(str(message))


def _now(form: str) -> str:
    return datetime.now(UTC).strftime(form)

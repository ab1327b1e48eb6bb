"""Chat messages to one prompt: the plain template that a model without a template of its own gets.

Each message is rendered by `message`, in order, and `reply` opens the answer. With the defaults::

    system: You are brief.
    user: Who goes there?
    assistant:
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from hortator.gateway.client_request import ChatMessage

DEFAULT_MESSAGE = "{role}: {content}\n"
DEFAULT_REPLY = "assistant:"

_PLACEHOLDER = re.compile(r"\{(role|content)\}")


class Chat(Protocol):
    """Makes a conversation one text."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokenizer is to add those that begin a text."""
        ...

    def render(self, messages: Iterable[ChatMessage]) -> str:
        """The whole conversation and the beginning of the answer. Raises ChatError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """How a conversation reads as text; `{role}` and `{content}` are replaced once, never inside contents."""

    message: str = DEFAULT_MESSAGE
    reply: str = DEFAULT_REPLY
    adds_special_tokens: ClassVar[bool] = True

    def render(self, messages: Iterable[ChatMessage]) -> str:
        """The whole conversation and the beginning of the answer."""
        return "".join(self._render_one(message) for message in messages) + self.reply

    def _render_one(self, message: ChatMessage) -> str:
        values = {"role": message.role, "content": message.content}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.message)

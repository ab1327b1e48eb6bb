"""A rule of an LLMService or of an LLMServiceScaler, said once for both who check it.

It has a CEL expression, which the API server executes, and a Python function, which `hortator validate`,
`hortator up` and the operator execute: an object may come in past the API server's check (an older CRD, a
restored backup). The message is the same text; Python adds what it found. Tests run every rule in both.

CEL may read a scalar only if the CRD gives it a default or the field is required: what is absent is an
error there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hortator.api.problem import Problem

_Object = TypeVar("_Object")

Found = tuple[str, str]
"""Path of the field, and what was found there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a rule about an object and a rule about a change have in common."""

    name: str
    at: str
    """Where `self` of the expression is; `[]` stands for each item of a list."""
    field: str
    """Below `at`: what the API server names. Python may name a field inside of it."""
    cel: str
    message: str

    def problem(self, found: Found) -> Problem:
        """One violation, with the rule's message in it."""
        path, what = found
        return Problem(path=path, message=f"{self.message} (got {what})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Validation, Generic[_Object]):
    """A rule about an object as it is."""

    find: Callable[[_Object], Iterator[Found]]
    """Every violation."""

    def problems(self, obj: _Object) -> Iterator[Problem]:
        """The violations in words."""
        return map(self.problem, self.find(obj))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition(Validation, Generic[_Object]):
    """A rule about a change of an object; `oldSelf` of the expression is what was there."""

    find: Callable[[_Object, _Object], Iterator[Found]]
    """Every violation, from the old and the new object."""

    def problems(self, old: _Object, new: _Object) -> Iterator[Problem]:
        """The violations in words."""
        return map(self.problem, self.find(old, new))

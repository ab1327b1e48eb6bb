"""Settings: one frozen model per process, filled from the environment, refused when misspelt.

A component declares its settings once::

    class GatewaySettings(Settings):
        model_config = SettingsConfigDict(env_prefix="HORTATOR_GATEWAY_")

        port: int = Field(default=8080, ge=0, le=65535, description="Public gRPC port; 0 picks a free one.")

Rules:

1. Every key has a default or is required; its unit is in its name; its description is one sentence.
2. An environment variable that starts with the prefix and names no field is an error, not a silent no-op.
   Nested models are reached with two underscores (``HORTATOR_GATEWAY_QUEUE__MAX_REQUESTS``).
3. Problems are reported all at once, one line each, naming the variable: `SettingsError`.
4. ``--print-settings`` prints the effective values in a form a shell can read back; secrets are masked.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

NESTED_DELIMITER = "__"
MASK = "********"
MAX_QUOTED_CHARS = 200

_S = TypeVar("_S", bound="Settings")


class SettingsError(Exception):
    """The environment does not give valid settings. `str()` is one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Settings(BaseSettings):
    """Base of every process's settings. Subclasses set `env_prefix` in `model_config`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_nested_delimiter=NESTED_DELIMITER,
        nested_model_default_partial_update=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def load(cls, /, **overrides: object) -> Self:
        """Read the environment; `overrides` (field names) win over it.

        Raises:
            SettingsError: an unknown variable, or a value that does not fit its field.
        """
        unknown = list(_unknown_variables(cls))
        if unknown:
            raise SettingsError(unknown)
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError([_line(cls, problem) for problem in error.errors()]) from None
        except PydanticSettingsError as error:
            raise SettingsError([f"{error}: not valid JSON"]) from None

    @classmethod
    def load_file(cls, path: Path | None) -> Self:
        """Read a JSON file (None: no file) and the environment; the file wins.

        Raises:
            SettingsError: the file cannot be read, or a value does not fit; one line per problem.
        """
        if path is None:
            return cls.load()
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise SettingsError([f"{path}: {error.strerror}"]) from None
        except (ValueError, RecursionError) as error:
            raise SettingsError([f"{path}: not valid JSON: {error}"]) from None
        if not isinstance(values, dict):
            raise SettingsError([f"{path}: an object is wanted"])
        private = [name for name in values if name.startswith("_")]  # pydantic would take them for its own
        if private:
            allowed = ", ".join(cls.model_fields)
            raise SettingsError([f"{path}: {name}: unknown setting (allowed: {allowed})" for name in private])
        try:
            return cls.load(**values)
        except SettingsError as error:
            raise SettingsError([f"{path}: {problem}" for problem in error.problems]) from None

    def render(self) -> str:
        """Effective values as `NAME=value` lines, nested fields flattened, secrets masked."""
        prefix = self.model_config.get("env_prefix", "")
        return "\n".join(f"{name}={value}" for name, value in _flatten(self, prefix))


def load_or_exit(settings_type: type[_S], argv: Sequence[str] | None = None) -> _S:
    """What the `main` of a process calls: load settings, or end with one line per problem and exit code 2.

    The only argument understood is ``--print-settings``: print the effective settings, exit 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        if argument != "--print-settings":
            _exit_with(f"unknown argument {argument!r} (allowed: --print-settings)")
    try:
        settings = settings_type.load()
    except SettingsError as error:
        _exit_with(str(error))
    if arguments:
        sys.stdout.write(settings.render() + "\n")
        raise SystemExit(0)
    return settings


def _exit_with(message: str) -> NoReturn:
    sys.stderr.write(message + "\n")
    raise SystemExit(2)


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name}".upper()
        yield variable
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(field.annotation, f"{prefix}{name}{NESTED_DELIMITER}")


def _unknown_variables(settings_type: type[Settings]) -> Iterator[str]:
    prefix = settings_type.model_config.get("env_prefix", "").upper()
    if not prefix:
        return
    known = sorted(_variables(settings_type, prefix))
    for name in sorted(os.environ):
        if name.upper().startswith(prefix) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}"
            yield f"{name}: unknown setting ({hint})"


def _line(settings_type: type[Settings], problem: Any) -> str:
    prefix = settings_type.model_config.get("env_prefix", "")
    location = NESTED_DELIMITER.join(_short(str(part)) for part in problem["loc"])
    given = "" if problem["type"] == "missing" else f", got {_short(repr(problem['input']))}"
    return f"{(prefix + location).upper()}: {problem['msg']}{given}"


def _short(text: str) -> str:
    """What a file holds, in an error of one line."""
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}..."


def _flatten(model: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{name}{NESTED_DELIMITER}")
        else:
            yield f"{prefix}{name}".upper(), _shown(value)


def _shown(value: object) -> str:
    match value:
        case SecretStr() | SecretBytes():
            return MASK if value.get_secret_value() else ""
        case None:
            return ""
        case Enum():
            return str(value.value)
        case bool():
            return "true" if value else "false"
        case str() | int() | float() | Path():
            return str(value)
        case _:
            return json.dumps(value, default=str)

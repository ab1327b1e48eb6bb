"""`hortator generate`: completions from a running stack, one as a stream or many from a file.

- One prompt: its text is printed as it arrives; with `--json`, one JSON object per delta and one for the end.
- Many (several arguments, or `--file`): sent `concurrency` at a time, with a progress bar on standard
  error; answers are printed in the order of the prompts; with `--json`, one JSON object per prompt. A
  prompt that fails does not stop the others; the exit code is then that of the first failure.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hortator.cli.console import stderr
from hortator.cli.errors import CommandError
from hortator.cli.inference.client import InferenceClient
from hortator.cli.inference.options import GenerateOptions
from hortator.cli.running import find_stack
from hortator.client import Access, AccessError, Completion, Delta, read_api_key

__all__ = ["GenerateOptions", "run"]

_LINE_OPTIONS = frozenset(
    {
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "stop",
        "ignore_eos",
        "priority",
        "tenant",
        "model",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt with what its line said about sampling."""

    prompt: str
    options: GenerateOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One of many, when it is done; exactly one of `completion` and `error` is there."""

    index: int
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    completion: Completion | None = None
    error: CommandError | None = None

    def as_json(self) -> str:
        """One line."""
        line: dict[str, Any] = {"index": self.index, "prompt": self.prompt, "text": self.text}
        line["token_ids"] = list(self.token_ids)
        if self.completion is not None:
            line["completion"] = asdict(self.completion)
        if self.error is not None:
            line["error"] = str(self.error)
        return json.dumps(line)


def run(
    *,
    prompts: Sequence[str],
    file: Path | None,
    endpoint: str | None,
    name: str | None,
    options: GenerateOptions,
    tls: Path | None,
    api_key_file: Path | None,
    concurrency: int,
    as_json: bool,
) -> int:
    """Generate and print; returns the exit code.

    Raises:
        CommandError: wrong input, or (for a single prompt) the request failed.
    """
    if file is not None and prompts:
        raise CommandError("a prompt and --file: give one of them")
    if file is not None:
        asked = read_prompts(file, options)
    else:
        texts = list(prompts) or [_from_stdin()]
        asked = [Asked(prompt=text, options=options) for text in texts]
    addresses = tuple(endpoint.split(",")) if endpoint else find_stack(name).endpoints
    access = _access(tls, api_key_file)
    console = stderr()
    try:
        if len(asked) == 1 and file is None:
            asyncio.run(_stream(addresses, access, asked[0], console, as_json=as_json))
            return 0
        return asyncio.run(_many(addresses, access, asked, console, concurrency=concurrency, as_json=as_json))
    except KeyboardInterrupt:
        return 130


def _access(tls: Path | None, api_key_file: Path | None) -> Access:
    try:
        return Access(tls_folder=tls, api_key=read_api_key(api_key_file) if api_key_file else "")
    except AccessError as error:
        raise CommandError(f"--api-key-file: {error}") from None


def read_prompts(file: Path, options: GenerateOptions) -> list[Asked]:
    """One prompt per line: plain text, a JSON string, or a JSON object with `prompt` and sampling fields.

    Lines are read as JSON when the file's name ends in .jsonl; empty lines are skipped.

    Raises:
        CommandError: naming file and line.
    """
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise CommandError(f"--file {file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"--file {file}: not UTF-8 text: byte {error.start}") from None
    asked = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if file.suffix == ".jsonl":
            asked.append(_asked_in_json(line, options, where=f"{file}:{number}"))
        else:
            asked.append(Asked(prompt=line, options=options))
    if not asked:
        raise CommandError(f"--file {file}: no prompt in it")
    return asked


async def answer(client: InferenceClient, asked: Asked, *, index: int = 0) -> Answered:
    """Wait for one whole answer; a failure is in the result."""
    texts: list[str] = []
    token_ids: list[int] = []
    completion = None
    error = None
    try:
        async for event in _checked(client.generate(asked.prompt, asked.options)):
            match event:
                case Delta():
                    texts.append(event.text)
                    token_ids += event.token_ids
                case Completion():
                    completion = event
    except CommandError as failure:
        error = failure
    return Answered(
        index=index,
        prompt=asked.prompt,
        text="".join(texts),
        token_ids=tuple(token_ids),
        completion=completion,
        error=error,
    )


async def _checked(events: AsyncIterator[Delta | Completion]) -> AsyncIterator[Delta | Completion]:
    """The events of one answer, provided that it is whole: every token once, in order, then a completion."""
    num_tokens = 0
    is_complete = False
    async for event in events:
        match event:
            case Delta():
                if event.token_index != num_tokens:
                    raise CommandError(
                        f"broken stream: token {event.token_index} came instead of {num_tokens}", exit_code=1
                    )
                num_tokens += len(event.token_ids)
            case Completion():
                is_complete = True
        yield event
    if not is_complete:
        raise CommandError("broken stream: it ended without a completion", exit_code=1)


async def _stream(
    addresses: Sequence[str], access: Access, asked: Asked, console: Console, *, as_json: bool
) -> None:
    async with InferenceClient(*addresses, access=access) as client:
        async for event in _checked(client.generate(asked.prompt, asked.options)):
            if as_json:
                print(json.dumps({type(event).__name__.lower(): asdict(event)}), flush=True)
                continue
            match event:
                case Delta():
                    sys.stdout.write(event.text)
                    sys.stdout.flush()
                case Completion():
                    sys.stdout.write("\n")
                    sys.stdout.flush()
                    console.print(f"[dim]{summary(event)}[/dim]")


def summary(completion: Completion) -> str:
    """One line for people."""
    decode_s = completion.e2e_s - completion.ttft_s
    rate = f", {(completion.num_output_tokens - 1) / decode_s:.0f} tokens/s" if decode_s > 0 else ""
    moved = f", placed again {completion.num_replacements} times" if completion.num_replacements else ""
    return (
        f"{completion.num_prompt_tokens} prompt tokens ({completion.num_cached_prompt_tokens} cached), "
        f"{completion.num_output_tokens} output tokens ({completion.finish_reason}); "
        f"first token after {1000 * completion.ttft_s:.0f} ms{rate}{moved}"
    )


async def _many(
    addresses: Sequence[str],
    access: Access,
    asked: Sequence[Asked],
    console: Console,
    *,
    concurrency: int,
    as_json: bool,
) -> int:
    slots = asyncio.Semaphore(concurrency)
    columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    exit_code = 0
    async with InferenceClient(*addresses, access=access) as client, asyncio.TaskGroup() as tasks:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("", total=len(asked))

            async def one(index: int) -> Answered:
                async with slots:
                    answered = await answer(client, asked[index], index=index)
                progress.advance(bar)
                return answered

            running = [tasks.create_task(one(index)) for index in range(len(asked))]
            for task in running:
                answered = await task
                _show(answered, progress.console, as_json=as_json)
                if answered.error is not None and not exit_code:
                    exit_code = answered.error.exit_code
    return exit_code


def _show(answered: Answered, console: Console, *, as_json: bool) -> None:
    if as_json:
        print(answered.as_json(), flush=True)
        return
    if answered.error is not None:
        console.print(f"[red]hortator: prompt {answered.index + 1}: {answered.error}[/red]", markup=True)
        return
    print(f"> {answered.prompt}\n{answered.text}\n", flush=True)


def _from_stdin() -> str:
    if sys.stdin.isatty():
        raise CommandError("no prompt (give one as an argument, in --file FILE, or on standard input)")
    text = sys.stdin.read().removesuffix("\n")
    if not text:
        raise CommandError("standard input: empty (a prompt is wanted)")
    return text


def _asked_in_json(line: str, options: GenerateOptions, *, where: str) -> Asked:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise CommandError(f"{where}: not valid JSON: {error}") from None
    if isinstance(value, str):
        return Asked(prompt=value, options=options)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise CommandError(f'{where}: prompt: missing (allowed: "text" or {{"prompt": "text", ...}})')
    prompt = value.pop("prompt")
    unknown = sorted(set(value) - _LINE_OPTIONS)
    if unknown:
        raise CommandError(
            f"{where}: {unknown[0]}: unknown (allowed: prompt, {', '.join(sorted(_LINE_OPTIONS))})"
        )
    types = {field.name: type(field.default) for field in fields(GenerateOptions)}
    for key, given in value.items():
        wanted = types[key]
        if wanted is tuple and isinstance(given, list) and all(isinstance(one, str) for one in given):
            value[key] = tuple(given)
        elif wanted is float and isinstance(given, int) and not isinstance(given, bool):
            value[key] = float(given)
        elif type(given) is not wanted:
            kind = {
                tuple: "a list of texts",
                str: "text",
                int: "a whole number",
                float: "a number",
                bool: "true, false",
            }
            raise CommandError(f"{where}: {key}: got {given!r} (allowed: {kind[wanted]})")
    return Asked(prompt=prompt, options=replace(options, **value))

"""Production traces, read as downloaded.

Three families, told apart by their first line:

- Azure LLM inference (2023, 2024), CSV: ``TIMESTAMP,ContextTokens,GeneratedTokens``.
- Mooncake, JSON lines: ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``, one per
  512-token block of the prompt; equal ids mean an equal prefix up to and including that block. Timestamps of
  the published traces lie on 3 s buckets: such a trace is spread uniformly within each bucket, seeded.
- BurstGPT, CSV: ``Timestamp`` (s), ``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens``,
  ``Log Type``; later releases add columns, which are ignored.

Times become seconds since the first request; requests are sorted by them. A request without output tokens
failed when the trace was taken: it is left out and counted, not an error. Every other oddity is a bad line:
`TraceError` names file and line, or with `skip_bad` the line is skipped and counted.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from hortator.api.quoting import quoted
from hortator.sim.workload import TraceRequest

MOONCAKE_BLOCK_TOKENS = 512
MOONCAKE_BUCKET_S = 3.0
_BUCKET_SLACK_S = 0.005
"""Published timestamps miss their bucket by up to 3 ms."""
MAX_TOKENS = 1 << 24
"""A line with more tokens than this is a misread column, not a request."""


class TraceError(Exception):
    """The file is no trace, or a line of it is bad; the message begins with `file:line:`."""


class TraceFormat(StrEnum):
    """Which family a file belongs to."""

    AZURE = "azure"
    MOONCAKE = "mooncake"
    BURSTGPT = "burstgpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a file held."""

    path: str
    format: TraceFormat
    requests: tuple[TraceRequest, ...]
    """In order of arrival; the first arrives at 0."""
    num_bad_lines: int = 0
    """Lines skipped with `skip_bad`."""
    num_failed: int = 0
    """Requests without output tokens, left out."""


_Row = tuple[float, int, int, tuple[int, ...]]
"""Time in seconds on the file's own clock, prompt tokens, output tokens, prefix block ids."""


def read_trace(path: str | os.PathLike[str], *, skip_bad: bool = False, seed: int = 0) -> Trace:
    """Read a trace of any of the three families.

    Args:
        path: the file.
        skip_bad: skip and count bad lines instead of raising at the first.
        seed: of the spread within Mooncake's buckets; other formats have exact times.

    Raises:
        TraceError: the file cannot be read, is of no known family, has a bad line or no request.
    """
    name = os.fspath(path)
    reader = _Reader(name, skip_bad=skip_bad)
    try:
        trace_format = _detect(name)
        with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = reader.rows(file, trace_format)
    except _BadLineError as error:  # the first line
        raise TraceError(f"{name}:1: {error}") from None
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror}") from None
    if not rows:
        raise TraceError(f"{name}: no requests in it")
    times = np.array([row[0] for row in rows])
    if trace_format is TraceFormat.MOONCAKE:
        times = _spread_buckets(times, seed)
    times = times - times.min()
    block_tokens = MOONCAKE_BLOCK_TOKENS if trace_format is TraceFormat.MOONCAKE else 0
    requests = tuple(
        TraceRequest(
            arrived_at=float(times[index]),
            num_prompt_tokens=rows[index][1],
            num_output_tokens=rows[index][2],
            prefix_block_ids=rows[index][3],
            prefix_block_tokens=block_tokens,
        )
        for index in np.argsort(times, kind="stable")
    )
    return Trace(
        path=name,
        format=trace_format,
        requests=requests,
        num_bad_lines=reader.num_bad_lines,
        num_failed=reader.num_failed,
    )


def _detect(name: str) -> TraceFormat:
    with Path(name).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = ""
        while not first.strip():
            first = file.readline(1 << 16)
            if not first:
                raise TraceError(f"{name}:1: empty file")
    if first.lstrip().startswith("{"):
        return TraceFormat.MOONCAKE
    columns = {column.strip().strip('"') for column in first.split(",")}
    for trace_format, wanted in _COLUMNS.items():
        if columns.issuperset(wanted):
            return trace_format
    known = "; ".join(
        f"{trace_format} CSV with {', '.join(_COLUMNS[trace_format])}" for trace_format in _COLUMNS
    )
    raise TraceError(f"{name}:1: not a trace we know (allowed: {known}; mooncake JSON lines)")


class _BadLineError(Exception):
    """What is wrong with a line; the reader adds file and line number."""


class _Reader:
    """Turns lines into rows, counting what it leaves out."""

    def __init__(self, name: str, *, skip_bad: bool) -> None:
        self._name = name
        self._skip_bad = skip_bad
        self.num_bad_lines = 0
        self.num_failed = 0

    def rows(self, file: Iterator[str], trace_format: TraceFormat) -> list[_Row]:
        lines = _json_lines(file) if trace_format is TraceFormat.MOONCAKE else _csv_lines(file, trace_format)
        parse = _PARSERS[trace_format]
        found = []
        for number, line in lines:
            try:
                if isinstance(line, _BadLineError):
                    raise line
                row = parse(line)
            except _BadLineError as error:
                if not self._skip_bad:
                    raise TraceError(f"{self._name}:{number}: {error}") from None
                self.num_bad_lines += 1
                continue
            if row[2] == 0:
                self.num_failed += 1
            else:
                found.append(row)
        return found


def _json_lines(file: Iterator[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, _BadLineError(f"not JSON: {error}")
            continue
        yield number, value


def _csv_lines(file: Iterator[str], trace_format: TraceFormat) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(file)
    header: list[str] = []
    try:
        while not any(header):
            header = [column.strip() for column in next(reader)]
    except csv.Error as error:
        raise _BadLineError(f"not CSV: {error}") from None
    missing = [column for column in _COLUMNS[trace_format] if column not in header]
    if missing:  # a quote that was never closed swallows columns
        raise _BadLineError(f"not CSV: no column {', '.join(missing)}")
    places = [header.index(column) for column in _COLUMNS[trace_format]]
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, _BadLineError(f"not CSV: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield reader.line_num, _BadLineError(f"{len(cells)} columns, the first line names {len(header)}")
        else:
            yield reader.line_num, [cells[place] for place in places]


def _parse_azure(cells: Sequence[str]) -> _Row:
    stamp, prompt, output = cells
    try:
        moment = datetime.fromisoformat(stamp.strip())
    except ValueError:
        raise _BadLineError(f"TIMESTAMP {quoted(stamp)} is no date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp(), *_tokens("ContextTokens", prompt, "GeneratedTokens", output), ()


def _parse_burstgpt(cells: Sequence[str]) -> _Row:
    stamp, prompt, output = cells
    try:
        moment = float(stamp)
    except ValueError:
        moment = float("nan")
    if not abs(moment) < 1e12:
        raise _BadLineError(f"Timestamp {quoted(stamp)} is no number of seconds")
    return moment, *_tokens("Request tokens", prompt, "Response tokens", output), ()


def _parse_mooncake(value: Any) -> _Row:
    if not isinstance(value, dict):
        raise _BadLineError("not a JSON object")
    for key in ("timestamp", "input_length", "output_length"):
        if key not in value:
            raise _BadLineError(f"{key} is missing")
    stamp = value["timestamp"]
    if isinstance(stamp, bool) or not isinstance(stamp, int | float) or not abs(stamp) < 1e15:
        raise _BadLineError(f"timestamp {quoted(stamp)} is no number of milliseconds")
    prompt, output = _tokens("input_length", value["input_length"], "output_length", value["output_length"])
    ids = value.get("hash_ids", [])
    if not isinstance(ids, list) or not all(type(item) is int and item >= 0 for item in ids):
        raise _BadLineError("hash_ids is no list of whole numbers from 0 on")
    num_blocks = -(-prompt // MOONCAKE_BLOCK_TOKENS)
    if ids and len(ids) != num_blocks:
        raise _BadLineError(
            f"hash_ids has {len(ids)} entries, but {prompt} tokens are {num_blocks} blocks of "
            f"{MOONCAKE_BLOCK_TOKENS}"
        )
    return stamp / 1000.0, prompt, output, tuple(ids)


def _tokens(prompt_name: str, prompt: object, output_name: str, output: object) -> tuple[int, int]:
    num_output = _count(output_name, output, least=0)
    return _count(prompt_name, prompt, least=1 if num_output else 0), num_output


def _count(name: str, value: object, *, least: int) -> int:
    count = -1
    if type(value) is int:
        count = value
    elif isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        count = int(value) if len(value) < 20 else MAX_TOKENS + 1
    if not least <= count <= MAX_TOKENS:
        raise _BadLineError(f"{name} {quoted(value)} (allowed: {least} to {MAX_TOKENS})")
    return count


def _spread_buckets(times: np.ndarray, seed: int) -> np.ndarray:
    """Spread times that lie on 3 s buckets uniformly within them, keeping the order of the file in each."""
    buckets = np.rint(times / MOONCAKE_BUCKET_S)
    if np.abs(times - buckets * MOONCAKE_BUCKET_S).max() > _BUCKET_SLACK_S:
        return times
    offsets = np.random.default_rng(seed).uniform(0.0, MOONCAKE_BUCKET_S, size=len(times))
    spread = np.sort(buckets * MOONCAKE_BUCKET_S + offsets)
    result = np.empty_like(spread)
    result[np.argsort(buckets, kind="stable")] = spread
    return result


_COLUMNS: dict[TraceFormat, tuple[str, ...]] = {
    TraceFormat.AZURE: ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    TraceFormat.BURSTGPT: ("Timestamp", "Request tokens", "Response tokens"),
}
_PARSERS: dict[TraceFormat, Callable[[Any], _Row]] = {
    TraceFormat.AZURE: _parse_azure,
    TraceFormat.MOONCAKE: _parse_mooncake,
    TraceFormat.BURSTGPT: _parse_burstgpt,
}

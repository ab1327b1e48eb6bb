"""Logs: structlog for our own lines, the same rendering for everybody else's.

One call at process start, `configure_logging`. Afterwards `structlog.get_logger()` and the standard
library's `logging` (grpc, asyncio, third parties) write the same shape to one stream: one JSON object per
line, or coloured text for people. What is bound with `structlog.contextvars.bound_contextvars` (for
example a request id) appears on every line of that task, third-party lines included.
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import Processor


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    CONSOLE = "console"


def configure_logging(
    *,
    component: str,
    level: str = "INFO",
    log_format: LogFormat = LogFormat.JSON,
    stream: TextIO | None = None,
) -> None:
    """Route structlog and the standard library to `stream` (default stderr). May be called again.

    Args:
        component: added to every line as `component`.
        level: DEBUG, INFO, WARNING or ERROR; lines below it are dropped before they are rendered.
        log_format: JSON for machines, CONSOLE for people (coloured only on a terminal).
        stream: where lines go.

    Raises:
        ValueError: the level has no such name.
    """
    threshold = logging.getLevelNamesMapping().get(level.upper())
    if threshold is None:
        raise ValueError(f"unknown log level {level!r} (allowed: DEBUG, INFO, WARNING, ERROR)")
    output = sys.stderr if stream is None else stream

    def add_component(
        _logger: object, _name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("component", component)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        add_component,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if log_format is LogFormat.JSON
        else [structlog.dev.ConsoleRenderer(colors=output.isatty(), timestamp_key="at")]
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=False,
    )

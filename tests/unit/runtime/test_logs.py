import io
import json
import logging

import pytest
import structlog

from hortator.runtime.logs import LogFormat, configure_logging


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def _lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_are_json_with_component_level_and_time(stream):
    configure_logging(component="demo", stream=stream)
    structlog.get_logger("hortator.demo").info("started", port=7)
    (line,) = _lines(stream)
    assert line["event"] == "started"
    assert line["component"] == "demo"
    assert line["level"] == "info"
    assert line["logger"] == "hortator.demo"
    assert line["port"] == 7
    assert line["at"].endswith("Z")


def test_standard_library_lines_have_the_same_shape(stream):
    configure_logging(component="demo", stream=stream)
    logging.getLogger("some.library").warning("disk %s", "full", extra={"path": "x"})
    (line,) = _lines(stream)
    assert (line["event"], line["component"], line["level"], line["path"]) == (
        "disk full",
        "demo",
        "warning",
        "x",
    )


def test_bound_context_reaches_our_lines_and_theirs(stream):
    configure_logging(component="demo", stream=stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger().info("ours")
        logging.getLogger("x").info("theirs")
    structlog.get_logger().info("outside")
    assert [line.get("request_id") for line in _lines(stream)] == ["r1", "r1", None]


def test_lines_below_the_level_are_dropped(stream):
    configure_logging(component="demo", level="warning", stream=stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("x").info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in _lines(stream)] == ["loud"]


def test_configuring_twice_does_not_double_the_lines(stream):
    configure_logging(component="demo", stream=stream)
    configure_logging(component="demo", stream=stream)
    logging.getLogger("x").info("once")
    assert len(_lines(stream)) == 1


def test_an_exception_is_one_json_line_with_its_traceback(stream):
    configure_logging(component="demo", stream=stream)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("broke")
    (line,) = _lines(stream)
    assert "ZeroDivisionError" in line["exception"]


def test_console_lines_are_text_without_colour_off_a_terminal(stream):
    configure_logging(component="demo", log_format=LogFormat.CONSOLE, stream=stream)
    structlog.get_logger().info("started", port=7)
    assert "started" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_an_unknown_level_names_the_allowed_ones(stream):
    with pytest.raises(ValueError, match="allowed: DEBUG, INFO, WARNING, ERROR"):
        configure_logging(component="demo", level="loud", stream=stream)

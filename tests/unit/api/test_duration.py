import pytest

from hortator.api.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("2s", 2.0),
        ("5ms", 0.005),
        ("1m30s", 90.0),  # 60 + 30
        ("1h", 3600.0),
        ("1h2m3s4ms", 3723.004),  # 3600 + 120 + 3 + 0.004
        ("1.5s", 1.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_text_is_seconds(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-1s", "30s1m", "1s1s", "1d", "5sx", "x5s", 5, 0.5, None, True]
)
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="allowed: a duration like 5ms, 2s, 1m30s, 1h"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "5ms", "2s", "1m30s", "1h", "2.5s", "0.5ms", "1h1m1s", "30m"])
def test_formatting_gives_back_the_text(text):
    assert format_duration(parse_duration(text)) == text

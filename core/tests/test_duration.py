"""Durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("2d", 172800),
        ("1.5", 1.5),
        ("0", 0),
    ],
)
def test_good(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1 s", "1w", "nan", "inf", "1e3s", "٣s", "9" * 400]
)
def test_bad(text):
    with pytest.raises(ValueError, match="500ms, 30s"):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_what_is_shown_can_be_read(milliseconds):
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(duration)) == duration

"""Backoff: bounded, and never less than its formula."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from offload import constant, exponential

SECONDS = st.floats(0, 10_000).map(lambda seconds: timedelta(seconds=seconds))


@given(SECONDS, st.floats(1, 10), SECONDS, st.floats(0, 1), st.integers(1, 2000))
def test_exponential_keeps_its_bounds(first, factor, limit, jitter, attempt):
    wait = exponential(first, factor=factor, limit=limit, jitter=jitter)(attempt)
    try:
        least = min(limit, first * factor ** (attempt - 1))
    except OverflowError:
        least = limit
    tolerance = timedelta(microseconds=2)
    assert least - tolerance <= wait <= least * (1 + jitter) + tolerance


def test_the_default_doubles_from_a_second_to_an_hour():
    backoff = exponential(jitter=0)
    assert [backoff(n).total_seconds() for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert backoff(10_000) == timedelta(hours=1)


def test_constant():
    assert constant(timedelta(seconds=3))(99) == timedelta(seconds=3)

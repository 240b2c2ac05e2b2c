"""Foreign text is shown as what it is, and steers nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offload.text import plain


@given(st.text(alphabet=st.characters()))
def test_nothing_is_left_that_could_steer_a_terminal(text):
    assert plain(text).isprintable()
    assert all(c.isprintable() or c in "\n\t" for c in plain(text, lines=True))


@given(st.text(alphabet=st.characters(categories=["L", "N", "P"])))
def test_what_can_be_read_stays(text):
    assert plain(text) == text


def test_lines_stay_where_they_are_wanted():
    assert plain("a\nb\t\x1b[31m") == "a\\nb\\t\\x1b[31m"
    assert plain("a\nb\t\x1b[31m", lines=True) == "a\nb\t\\x1b[31m"

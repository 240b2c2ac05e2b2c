"""A forked child keeps nothing of its parent's open that it was told not to keep."""

from __future__ import annotations

import os
import select

import pytest

from offload.forking import close_in_child, keep_in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(look) -> int:
    """Fork, and return what `look` returns in the child, a small number."""
    child = os.fork()
    if child == 0:
        os._exit(look())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_pipe_ends_with_its_parent_though_a_child_lives():
    reading, writing = os.pipe()
    go_on_reading, go_on_writing = os.pipe()
    close_in_child(writing)
    child = os.fork()
    if child == 0:
        os.close(go_on_writing)
        os.read(go_on_reading, 1)  # until the parent lets it go
        os._exit(0)
    keep_in_child(writing)
    os.close(writing)

    readable, _, _ = select.select([reading], [], [], 10)

    assert readable
    assert os.read(reading, 1) == b""  # the end, and not what a child might have written
    for descriptor in (reading, go_on_reading, go_on_writing):
        os.close(descriptor)
    os.waitpid(child, 0)


def test_its_number_stays_taken_in_the_child():
    reading, writing = os.pipe()
    close_in_child(writing)

    def look() -> int:
        return os.write(writing, b"lost") if os.open(os.devnull, os.O_RDONLY) != writing else 99

    assert in_child(look) == 4
    keep_in_child(writing)
    os.close(writing)
    assert os.read(reading, 4) == b""
    os.close(reading)


def test_what_was_closed_is_left_alone():
    reading, writing = os.pipe()
    close_in_child(writing)
    keep_in_child(writing)

    assert in_child(lambda: os.write(writing, b"kept")) == 4
    assert os.read(reading, 4) == b"kept"
    os.close(reading)
    os.close(writing)

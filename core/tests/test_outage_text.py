"""What a server says of itself in an error is foreign text."""

from __future__ import annotations

import pytest

from offload import BackendUnavailableError
from offload.engine.outage import Outage


class NoText(BackendUnavailableError):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BackendUnavailableError("gone\nERROR forged"), "jobs wait: gone"),
        (BackendUnavailableError("gone\x1b[2J\u2028\u202e"), r"jobs wait: gone\x1b[2J\u2028\u202e"),
        (BackendUnavailableError("x" * 100_000), "jobs wait: " + "x" * 300 + "…"),
        (NoText("?"), "jobs wait: its text can't be read"),
    ],
    ids=["a second line", "escapes", "long", "none"],
)
def test_an_outage_is_one_short_line(error, expected, caplog):
    outage = Outage()
    outage.fails("jobs wait", error)
    outage.works("jobs wait")
    assert caplog.messages == [expected, "the backend is available again after 0 s"]

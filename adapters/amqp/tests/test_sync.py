"""`worker.sync` goes by an event loop in a thread, and that thread is nobody's after a fork."""

from __future__ import annotations

import asyncio
import sys

import pytest
from forks import perform_amid_forks


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no fork")
async def test_children_of_forks_amid_performs_hang_nowhere(broker, space, make):
    performed = await asyncio.to_thread(perform_amid_forks, f"{broker.url}?namespace={space}")
    assert (await make().counts())["default"].waiting == performed

"""A worker for the time of one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from offload.adapters import connect
from offload.worker import Worker

T = TypeVar("T")

url_argument = click.argument("url", envvar="OFFLOAD_URL")
"""For a command that takes nothing behind it: else the first of the others would pass for it."""


def on_backend(url: str, action: Callable[[Worker], Awaitable[T]]) -> T:
    """Carry out `action` with a worker that only performs and looks, and disconnect."""

    async def connected() -> T:
        worker = connect(url)
        try:
            return await action(worker)
        finally:
            await worker.stop()

    return asyncio.run(connected())

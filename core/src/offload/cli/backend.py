"""A worker for the time of one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from offload.adapters import connect, find_adapter
from offload.config import Address, parse_address
from offload.text import plain
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


def on_existing_backend(url: str, action: Callable[[Worker], Awaitable[T]]) -> T:
    """The same, for a command that must not make the file of a backend: a slip would leave one."""
    file = backend_file(parse_address(url))
    if file is not None:
        _check_exists(file)
    return on_backend(url, action)


def backend_file(address: Address) -> Path | None:
    """The file behind a config string, if the backend is one."""
    find = find_adapter(address.scheme).file
    return find and find(address)


def _check_exists(file: Path) -> None:
    try:
        file.stat()
    except FileNotFoundError:
        raise click.ClickException(f"{plain(str(file))} does not exist") from None
    except OSError:
        pass  # the adapter says better what is wrong

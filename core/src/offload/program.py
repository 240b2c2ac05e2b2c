"""A worker in a plain program: run it until a signal comes, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

from offload.worker import StopReport, Worker

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(
    worker: Worker,
    main: Callable[[], Awaitable[object]] | None = None,
    *,
    worker_off: bool = False,
) -> StopReport:
    """Start the worker, run `main` (or wait) until it ends or a signal comes, and drain.

    SIGTERM and SIGINT cancel `main` and start the drain; a second signal ends
    the process at once, as if it had not been caught. With `worker_off` the
    worker only performs. What start or `main` raises is raised here.
    """
    return asyncio.run(_run(worker, main, worker_off))


async def _run(
    worker: Worker, main: Callable[[], Awaitable[object]] | None, worker_off: bool
) -> StopReport:
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if signalled.is_set():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signalled.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        if not worker_off:
            await worker.start()
        try:
            await _until_signal(signalled, main)
        finally:
            report = await worker.stop()
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return report


async def _until_signal(
    signalled: asyncio.Event, main: Callable[[], Awaitable[object]] | None
) -> None:
    signal_came = asyncio.ensure_future(signalled.wait())
    if main is None:
        await signal_came
        return
    program = asyncio.ensure_future(main())
    try:
        await asyncio.wait([signal_came, program], return_when=asyncio.FIRST_COMPLETED)
        if signalled.is_set():
            program.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await program
        else:
            await program
    finally:
        signal_came.cancel()
        program.cancel()

"""A worker inside a web application: Starlette, FastAPI and their kin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from offload.worker import Worker


def lifespan(
    worker: Worker, *, worker_off: bool = False
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A `lifespan` for an application: start before it serves, drain after it has stopped serving.

        app = FastAPI(lifespan=offload.asgi.lifespan(worker))

    With `worker_off` this process only performs; others run the jobs. An error
    at start fails the boot of the server.
    """

    @asynccontextmanager
    async def run(_app: Any) -> AsyncIterator[None]:
        if not worker_off:
            await worker.start()
        try:
            yield
        finally:
            await worker.stop()

    return run

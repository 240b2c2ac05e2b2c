"""What a handler returned: nothing, or something that is to be awaited."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import types
from typing import Any

_LAZY = (
    *(types.GeneratorType, types.AsyncGeneratorType, types.FunctionType, types.MethodType),
    *(functools.partial, map, filter),
)


async def nothing_left_of(result: Any) -> None:
    """A handler returns nothing, or what is to be awaited; what can't run here is a mistake.

    Asked is what the result is, not what it makes of the name of an attribute.
    """
    if isinstance(result, concurrent.futures.Future):
        result = asyncio.wrap_future(result)
    if hasattr(type(result), "__await__"):
        await result
    elif _is_unfinished(result):
        kind = type(result).__name__
        raise TypeError(f"the handler returned a {kind}, which nobody runs; return nothing")


def _is_unfinished(result: Any) -> bool:
    """Whether it is work that would begin only now: a generator, a function, coroutines."""
    if isinstance(result, contextlib.ContextDecorator | contextlib.AsyncContextDecorator):
        result = vars(result).get("gen")  # of a function that `contextmanager` was put on
    if isinstance(result, list | tuple | set) and (left := [*filter(inspect.iscoroutine, result)]):
        for each in left:
            each.close()
        return True
    return isinstance(result, _LAZY)

"""Observers: what a worker tells of its work, as pluggy hooks.

An observer is any object, or module, with methods marked `offload.hookimpl`:

    class Metrics:
        @offload.hookimpl
        def job_succeeded(self, job):
            succeeded.inc(handler=job.handler)

    worker.observe(Metrics())

Hooks are plain functions, called on the event loop: be quick. Only `job_enqueued`
of what `worker.sync` performs may come in the thread that performs, and from
several threads at once. One that raises is logged and disturbs no job (FAIL-6). A
hook that nobody implements isn't called.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pluggy

from offload.job import JobContext

if TYPE_CHECKING:
    from offload.worker import StopReport, Worker

log = logging.getLogger("offload")

hookspec = pluggy.HookspecMarker("offload")
hookimpl = pluggy.HookimplMarker("offload")


class ObserverHooks:
    """The hooks, each with what it is told."""

    @hookspec
    def worker_started(self, worker: Worker) -> None:
        """The worker takes jobs."""

    @hookspec
    def worker_stopped(self, worker: Worker, report: StopReport) -> None:
        """The worker has drained."""

    @hookspec
    def job_enqueued(self, job: JobContext) -> None:
        """The backend has accepted a job that this worker performed."""

    @hookspec
    def job_started(self, job: JobContext) -> None:
        """A handler is about to run."""

    @hookspec
    def job_succeeded(self, job: JobContext) -> None:
        """A handler returned, and the backend has acknowledged the job."""

    @hookspec
    def job_failed(self, job: JobContext, error: BaseException) -> None:
        """A run failed; `job_retried` or `job_dead` follows when that is settled.

        Look at the traceback here: it is taken off the error afterwards, since it
        would keep alive all that the handler held.
        """

    @hookspec
    def job_retried(self, job: JobContext, delay: timedelta) -> None:
        """The backend holds the job for its next attempt, after `delay`."""

    @hookspec
    def job_dead(self, job: JobContext, error: str) -> None:
        """The backend holds the job as a dead letter."""

    @hookspec
    def job_returned(self, job: JobContext) -> None:
        """A run was given up because the worker stopped or lost its lease; the job runs again."""


class Observers:
    """The observers of one worker."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("offload")
        self._manager.add_hookspecs(ObserverHooks)
        self.wanted: frozenset[str] = frozenset()
        """The hooks that somebody implements: looked at before an event is made."""

    def add(self, observer: object) -> None:
        """Call this observer from now on.

        Raises:
            ValueError: it is an observer already, or implements no hook of ours, or an
                `async` one.
        """
        if observer is None or isinstance(observer, type):
            raise ValueError(f"{observer!r} is no observer: give an object, not a class")
        if self._manager.is_registered(observer):
            raise ValueError(f"{observer!r} is an observer already")
        callers, fault = None, "it has no method marked with offload.hookimpl"
        try:
            self._manager.register(observer)
            callers = self._manager.get_hookcallers(observer)
            self._manager.check_pending()
            for caller in callers or ():
                _check_hooks(caller, observer)
        except (pluggy.PluginValidationError, TypeError) as error:
            callers, fault = None, str(error)
        if not callers:
            if self._manager.is_registered(observer):
                self._manager.unregister(observer)
            raise ValueError(f"{observer!r} is no observer: {fault}")
        self.wanted |= {caller.name for caller in callers}

    def tell(self, hook: str, **what: Any) -> None:
        """Call a hook; what it raises is logged."""
        if hook in self.wanted:
            try:
                results = getattr(self._manager.hook, hook)(**what)
                if results:
                    _check_results(results)
            except BaseException:  # also what would end the event loop: see FAIL-6
                with contextlib.suppress(BaseException):
                    log.exception("an observer raised in %s", hook)


def _check_hooks(caller: pluggy.HookCaller, observer: object) -> None:
    for hook in caller.get_hookimpls():
        if hook.plugin is not observer:
            continue
        function = hook.function
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{caller.name} is `async`, and would never run; hooks are plain `def`")
        is_wrapper = hook.hookwrapper or getattr(hook, "wrapper", False)
        if inspect.isgeneratorfunction(function) and not is_wrapper:
            raise TypeError(f"{caller.name} has a `yield` in it, so a call of it runs nothing")


def _check_results(results: Any) -> None:
    """Tell of a hook that can't be seen to be `async`, and returned what nobody runs."""
    for result in results if isinstance(results, list) else ():
        if inspect.iscoroutine(result) or inspect.isgenerator(result):
            result.close()
            raise TypeError("it returned a coroutine or a generator, which nobody runs")

"""What each test works with: workers with puppets, a stage, a history, and the checks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import offload
from offload import DeadLetter, Job, StopReport, Worker
from offload_conformance.checks import CHECKS, broken
from offload_conformance.fixtures import Published
from offload_conformance.inquiry import Inquiry
from offload_conformance.logs import Masked
from offload_conformance.needs import Needs, adapter_of
from offload_conformance.processes import WorkerProcess
from offload_conformance.proxy import FaultProxy, moved
from offload_conformance.puppets import Troupe
from offload_conformance.stage import DEADLINE, Stage
from offload_conformance.tracing import connect
from offload_conformance.wrapping import Wrap

SOON = offload.constant(timedelta(milliseconds=60))
"""A backoff that is short enough to wait for and long enough to measure."""
FEW = 3
"""As many retries as a job has in any test, at the most."""


class RuleBrokenError(AssertionError):
    """The adapter doesn't keep the rule that is tested."""


class Lab(Needs):
    """One test's view of an adapter."""

    def __init__(self, url: str, stage: Stage, published: Published) -> None:
        super().__init__(stage.history, adapter_of(url), published)
        self.url = url
        self.stage = stage
        stage.inquire = self.inquire
        self._masked = Masked(url)
        # With a capital, since some backends fold the case of a name, and not wherever it stands.
        self.namespace = f"Kit-{secrets.token_hex(6)}"
        self._names = (f"worker-{n}" for n in itertools.count(1))
        self._calls = itertools.count(1)
        self._workers: list[tuple[Worker, Troupe]] = []

    def move_to_fresh_place(self) -> None:
        """Work where nobody has ever connected, if the author has such a place: its first use.

        Else the namespace is new, as in every test.
        """
        fresh = self._published.fresh
        if fresh is not None:
            self.url = fresh()
        self.history.add("fresh", is_place=fresh is not None)

    # -- workers ---------------------------------------------------------------

    def make_url(self, through: FaultProxy | None = None, /, **options: object) -> str:
        """The URL under test with these options, in this test's own namespace."""
        options = {"namespace": self.namespace, **options}
        url = self.url if through is None else moved(self.url, "127.0.0.1", through.port)
        joint = "&" if "?" in url else "?"
        return url + joint + "&".join(f"{name}={value}" for name, value in options.items())

    def worker(
        self,
        *wraps: Wrap,
        puppets: bool = True,
        through: FaultProxy | None = None,
        **options: object,
    ) -> Worker:
        """A new worker in this process; stopped when the test ends."""
        worker = connect(self.make_url(through, **options), *wraps)
        troupe = Troupe(self.stage.address, worker, next(self._names))
        if puppets:
            worker.register("act", troupe.act, backoff=SOON)
            worker.register("act-plain", troupe.act_plain, backoff=SOON)
        self._workers.append((worker, troupe))
        return worker

    def troupe(self, worker: Worker) -> Troupe:
        """The puppets of a worker, to be registered by other names and options."""
        return next(troupe for known, troupe in self._workers if known is worker)

    def process(
        self, *, through: FaultProxy | None = None, clock: float = 0.0, **options: object
    ) -> WorkerProcess:
        """A new worker in its own process, whose clock is wrong by `clock` seconds."""
        url = self.make_url(through, **options)
        return WorkerProcess(url, self.stage, next(self._names), clock)

    async def close(self) -> None:
        """End all that the test has left."""
        self.stage.open_all()
        for worker, troupe in self._workers:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(worker.stop(), 5)
            troupe.close()

    @property
    def lease(self) -> tuple[dict[str, Any], float]:
        """Options for a short lease, and its length in seconds.

        An adapter whose config string has a `lease` gets the shortest that it allows, but no
        shorter than a busy host can hold. Without one, `recovery` says when a lease is over.
        """
        for option in self.adapter.options:
            if option.name == "lease":
                for seconds in (1, 2, 5, 10, 30, 60):
                    with contextlib.suppress(ValueError):
                        option.parse(f"{seconds}s")
                        return {"lease": f"{seconds}s"}, float(seconds)
        return {}, self.recovery

    @property
    def recovery(self) -> float:
        """The claimed `recovery` in seconds; without one, as long as the kit waits."""
        limit = self.limits.recovery
        return DEADLINE if limit is None else limit.total_seconds()

    @property
    def reconnect(self) -> float:
        """The claimed `reconnect` in seconds; every adapter that passes `need_server` has one."""
        limit = self.limits.reconnect
        return 0.0 if limit is None else limit.total_seconds()

    async def stop(self, worker: Worker, within: float = DEADLINE) -> StopReport:
        """Stop a worker; the record has its report as `stopped`.

        It comes to the record, as `stop_called` does before it, by way of the puppets, and so
        stands in its true place among what these report.
        """
        name = f"stop-{next(self._calls)}"
        troupe = self.troupe(worker)
        troupe.report("stop_called", call=name)
        began = time.monotonic()
        stopping = asyncio.create_task(self.call(name, worker.stop()))
        await asyncio.wait([stopping], timeout=within)
        if not stopping.done():
            stopping.cancel()
            self.history.add("too_late", waited_for=f"{name} to return", seconds=within)
            raise RuleBrokenError(f"expected stop() to return within {within:g} s")
        report: StopReport = await stopping
        troupe.report(
            "stopped",
            call=name,
            seconds=time.monotonic() - began,
            finished=report.finished,
            returned=list(report.returned),
            lost=list(report.lost),
        )
        await self.caught_up(worker)
        return report

    async def begin_stop(self, worker: Worker) -> asyncio.Task[StopReport]:
        """Return when `stop` has been called; the task is the rest of it."""
        stopping = asyncio.create_task(self.stop(worker))
        for _ in range(2):  # the first turn makes the call a task, the second begins it
            await asyncio.sleep(0)
        return stopping

    async def caught_up(self, worker: Worker) -> None:
        """Return when all that the worker's puppets in this process have reported is on record."""
        number = next(self._calls)
        self.troupe(worker).report("mark", number=number)
        await self.stage.until(
            f"mark {number} to arrive",
            lambda: any(mark.what["number"] == number for mark in self.history.named("mark")),
        )

    # -- performing ------------------------------------------------------------

    async def perform(
        self,
        worker: Worker,
        tag: str,
        *,
        do: dict[str, list[list[Any]]] | None = None,
        payload: object = None,
        handler: str = "act",
        queue: str = "default",
        delay: timedelta | float | None = None,
        at: datetime | None = None,
    ) -> str:
        """Perform one job, and record the call with its answer."""
        args: dict[str, Any] = {"tag": tag}
        if do is not None:
            args["do"] = do
        if payload is not None:
            args["payload"] = payload
        job = Job(handler, args, queue)
        asked_ms = time.time_ns() / 1e6
        if delay is not None:
            call = worker.perform_in(job, delay)
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
            due_ms = asked_ms + seconds * 1000
        elif at is not None:
            call = worker.perform_at(job, at)
            due_ms = at.timestamp() * 1000
        else:
            call, due_ms = worker.perform(job), None
        answer = await self.call(f"perform {tag}", call)
        self.history.add(
            "accepted",
            call=f"perform {tag}",
            tag=tag,
            ids=[answer],
            asked_ms=asked_ms,
            due_ms=due_ms,
        )
        return str(answer)

    async def perform_many(
        self,
        worker: Worker,
        tag: str,
        count: int,
        *,
        do: dict[str, list[list[Any]]] | None = None,
        handler: str = "act",
        queue: str = "default",
    ) -> list[str]:
        """Perform so many jobs in one call, and record it with its answer."""
        args = {"tag": tag} if do is None else {"tag": tag, "do": do}
        name = f"perform_many {tag}"
        asked_ms = time.time_ns() / 1e6
        ids = await self.call(name, worker.perform_many([Job(handler, args, queue)] * count))
        self.history.add("accepted", call=name, tag=tag, ids=ids, asked_ms=asked_ms)
        return list(ids)

    async def perform_all(self, worker: Worker, tag: str, count: int, **job: Any) -> list[str]:
        """Perform so many jobs, from as many tasks at once."""
        performs = (self.perform(worker, tag, **job) for _ in range(count))
        return list(await asyncio.gather(*performs))

    async def call(self, name: str, call: Awaitable[Any]) -> Any:
        """Await a call of the adapter; what it raises is recorded and raised."""
        try:
            return await call
        except Exception as error:
            self._record_refusal(name, error)
            raise

    async def refused(self, error: type[Exception], name: str, call: Awaitable[Any]) -> None:
        """The call must raise this error, and nothing else."""
        try:
            await call
        except Exception as raised:
            self._record_refusal(name, raised)
        else:
            self.history.add("returned", call=name)
        self.check("raised", call=name, error=error.__name__)

    def _record_refusal(self, name: str, error: Exception) -> None:
        errors = [kind.__name__ for kind in type(error).__mro__ if kind is not object]
        text = str(error).encode("utf-8", "backslashreplace").decode()  # a history is valid Unicode
        self.history.add("refused", call=name, errors=errors, text=text[:500])

    # -- waiting and checking ----------------------------------------------------

    async def until_started(self, count: int, tag: str | None = None) -> None:
        """Return when so many runs have begun."""
        await self.stage.until(
            f"{count} runs{f' of {tag}' if tag else ''} to start, not {self.runs(tag)}",
            lambda: self.runs(tag) >= count,
        )

    async def until_ended(
        self, count: int, tag: str | None = None, seconds: float = DEADLINE
    ) -> None:
        """Return when so many runs have ended."""
        await self.stage.until(
            f"{count} runs{f' of {tag}' if tag else ''} to end",
            lambda: self.ends(tag) >= count,
            seconds,
        )

    def runs(self, tag: str | None = None) -> int:
        """How many runs have begun."""
        return self._count("started", tag)

    def ends(self, tag: str | None = None) -> int:
        """How many runs have ended."""
        return self._count("ended", tag)

    def _count(self, name: str, tag: str | None) -> int:
        return sum(tag is None or event.what["tag"] == tag for event in self.history.named(name))

    async def until(
        self, what: str, look: Callable[[], Awaitable[bool]], seconds: float = DEADLINE
    ) -> None:
        """Return when something that must be asked for holds: it is asked again and again."""
        deadline = time.monotonic() + seconds
        while not await look():
            if time.monotonic() > deadline:
                self.history.add("too_late", waited_for=what)
                await self.inquire()
                raise RuleBrokenError(f"expected {what} within {seconds:g} s")
            await asyncio.sleep(0.01)

    async def inquire(self) -> None:
        """Record where the jobs are, for who must find out why one never came."""
        inquiry = Inquiry(self.history, Masked(self.url))
        inquiry.note_states({troupe.name: worker for worker, troupe in self._workers})
        if self.is_shared:
            await inquiry.ask_another(lambda: offload.connect(self.make_url()))
        else:  # each worker has jobs of its own, in its memory
            for worker, _ in self._workers:
                await inquiry.ask(worker)

    async def until_dead(
        self, worker: Worker, count: int, seconds: float = DEADLINE
    ) -> list[DeadLetter]:
        """The dead letters, the oldest first, once there are so many.

        None are given where they can't be looked at; then a job has ended that was due later
        than the last of a few retries after `SOON`, each of which may be late.
        """
        if not self.claims.dead_letters:
            tag = f"fence-{next(self._calls)}"
            late = FEW * self.limits.lateness.total_seconds()
            await self.perform(worker, tag, delay=0.3 + late)
            await self.until_ended(1, tag, seconds + late)
            return []
        letters: list[DeadLetter] = []

        async def look() -> bool:
            letters[:] = await worker.dead_letters.list()
            return len(letters) >= count

        await self.until(f"{count} dead letters", look, seconds)
        return letters

    async def check_dead(
        self, letters: Iterable[DeadLetter], max_attempts: int, tag: str | None = None
    ) -> None:
        """Each of these, of jobs that were performed once, had its runs."""
        if not self.claims.dead_letters:
            return
        for worker, _ in self._workers:  # what has run tells of it by another way
            await self.caught_up(worker)
        for each in letters:
            what = (each.args or {}).get("tag")
            self.history.add("dead_letter", id=each.id, tag=what, attempts=each.attempts)
        only = {} if tag is None else {"tag": tag}
        self.check("dead_had_its_runs", max_attempts=max_attempts, **only)

    def check(self, name: str, /, **what: Any) -> None:
        """State what must hold; see `checks`. It is proved now, and again by whoever verifies.

        Raises:
            RuleBrokenError: it doesn't hold.
        """
        event = self.history.add("check", check=name, **what)
        faults = list(CHECKS[name](self.history.events[: event.number], **what))
        if faults:
            raise RuleBrokenError("; ".join(faults))

    def equal(self, what: str, expected: object, actual: object) -> None:
        """Something that was read must be equal, and of the same type."""
        self.check("equal", what=what, expected=expected, actual=actual)

    def conclude(self) -> None:
        """Prove once more everything that this history claims."""
        if faults := broken(self.history.events):
            raise RuleBrokenError("; ".join(faults))

    async def fence(self, worker: Worker, queue: str = "default") -> None:
        """Return when a job that was performed just now has ended.

        What was in front of it in the queue has had its turn: this is how it is
        proved that something did not happen.
        """
        tag = f"fence-{next(self._calls)}"
        await self.perform(worker, tag, queue=queue)
        await self.until_ended(1, tag)


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)

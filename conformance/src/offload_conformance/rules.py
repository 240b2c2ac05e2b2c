"""The rules of the contract: the one place where they are written.

`docs/contract.md` is generated from here. A rule's id never changes its
meaning; what changed in its words stands in `CHANGES`.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFETCH = 100
"""Jobs for each slot that a busy worker may have taken ahead, and keeps (CONC-4, DIST-3)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that every adapter must do, or must do if it claims to."""

    id: str
    text: str
    claim: str | None = None
    """The claim that it belongs to; None: every adapter must keep it."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Rules that belong together."""

    key: str
    title: str
    claim: str | None
    texts: tuple[str, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, numbered from 1."""
        return tuple(
            Rule(f"{self.key}-{number}", text, self.claim)
            for number, text in enumerate(self.texts, 1)
        )


CHAPTERS = (
    Chapter(
        "CONF",
        "choosing a backend",
        None,
        (
            "The scheme of one string picks the adapter; the same program runs on any adapter "
            "with no other change.",
            "For an unknown scheme, the error lists the installed ones and, for a known "
            "first-party one, the command that installs it.",
            "For an unknown option or a bad value, ConfigError names the option, the value and "
            "what is allowed, before anything connects. The value of an unknown option isn't "
            "shown, since it may be a secret with a slip in its name.",
            "Two distributions with one scheme: the error names both. A distribution that can't "
            "be loaded: the error names it and the cause. Every other scheme still works.",
            "No password is in any repr, log line, exception or report.",
        ),
    ),
    Chapter(
        "LIFE",
        "start and stop",
        None,
        (
            "A worker is new, running, stopping or stopped, and its state can be read.",
            "`start` returns when the worker takes jobs; what is performed then begins without "
            "more help.",
            "`start` while running, or while draining, raises AlreadyRunningError, and nothing "
            "changes.",
            "`start` with the backend away raises BackendUnavailableError within the time that "
            "the adapter states; the worker is as it was, and may start later.",
            "From the moment `stop` is called, perform* raises WorkerStoppedError, and nothing "
            "is enqueued.",
            "`stop` takes no new job, and returns when every running handler has ended.",
            "After the grace, async handlers are cancelled and `def` ones are left. Unfinished "
            "jobs go back to a backend that outlives the worker, or are reported as lost; their "
            "attempt doesn't count. `stop` returns within the grace and 1 s, whatever handlers do.",
            "`stop` again, at the same time, or before `start`: all return after the one drain.",
            "`start` after `stop` works: handlers stay, and what waits or is scheduled goes on.",
            "After `stop` no task, timer, thread, process, socket or file of the worker is left.",
            "`stop` inside a handler doesn't deadlock: it starts the drain, and returns an empty "
            "report.",
            "Cancelling `start` or `stop` leaves a defined state; a second `stop` finishes the "
            "job.",
            "`stop` returns a report: how many finished, which ids were returned, and which are "
            "lost unless the same worker starts again; each lost one is logged as a warning. No "
            "job vanishes in silence.",
        ),
    ),
    Chapter(
        "REG",
        "handlers",
        None,
        (
            "A name that is not `[A-Za-z0-9_.:-]{1,128}` raises ValueError.",
            "A handler that can't be called raises TypeError.",
            "A name twice raises DuplicateHandlerError; the first handler stays.",
            "Registering while the worker runs works at once.",
            "`def` and `async def` both run; a `def` handler that blocks stops neither the event "
            "loop nor other jobs.",
        ),
    ),
    Chapter(
        "PERF",
        "performing",
        None,
        (
            "`perform` returns a unique id when the backend has accepted the job: when it is "
            "safe there, if durable.",
            "Without faults each job runs once.",
            "`perform` never runs the handler itself, nor waits for it.",
            "A malformed job raises InvalidJobError, and nothing is enqueued.",
            "A job performed before `start` is kept, and runs after it.",
            "A handler that isn't registered here: an adapter that isn't distributed raises "
            "UnknownHandlerError; a distributed one accepts, since another process may have it.",
            "It works inside a handler, and from 1,000 tasks at once.",
            "It never hangs: with the backend away it raises within the time that the adapter "
            "states, and says whether the job may have been stored.",
            "An idle worker starts a job within `lateness` of its perform, time after time.",
        ),
    ),
    Chapter(
        "ARGS",
        "what arrives",
        None,
        (
            "Args arrive equal and of the same types: nested, any Unicode text, NUL, ints from "
            "-2⁶³ to 2⁶⁴-1, floats to the bit, -0.0, [] and {} apart, keys in order.",
            "They are captured at the call: a later change by the caller isn't seen.",
            "A handler's change is seen by nobody, its own retry included.",
            "Refused, by path (`args.user[2]`): keys that aren't str, NaN, infinities, bytes, "
            "tuples, sets, dates, subclasses, lone surrogates, larger ints, cycles, a depth over "
            "64.",
            "Args of `max_job_bytes`, as compact JSON in UTF-8, pass; a byte more raises "
            "JobTooLargeError.",
        ),
    ),
    Chapter(
        "QUE",
        "queues",
        None,
        (
            "Only the worker's own queues are consumed.",
            "A job in another queue waits there, untouched; an adapter that isn't distributed "
            "raises UnknownQueueError instead.",
            "No queue starves: with 1,000 jobs in one, a job in another starts within the time "
            "of a few.",
            "A queue that isn't named `[A-Za-z0-9_-]{1,120}` raises InvalidJobError.",
        ),
    ),
    Chapter(
        "TIME",
        "later",
        None,
        (
            "Never early, by the backend's clock; a worker whose clock is an hour off shifts a job "
            "by less than 50 ms.",
            "At most `lateness` late, when idle.",
            "In the past, or zero: at once.",
            "A datetime without a zone, NaN, or what is no number raises InvalidJobError, which "
            "is a ValueError.",
            "`perform_in(d)` is `perform_at(now + d)`.",
            "`max_delay` passes; more raises UnsupportedError.",
            "Due order, not the order of enqueueing: a long delay in front holds nothing back.",
            "The same instant, whatever the zone, both folds of a change of clocks included.",
            "1,000 jobs due at one instant all run.",
            "Delays are kept to the millisecond.",
        ),
    ),
    Chapter(
        "CONC",
        "running together",
        None,
        (
            "Never more than `concurrency` handlers run at once.",
            "That many do run at once.",
            "A stuck handler costs one slot.",
            "A busy worker hoards nothing: jobs beyond its slots and a bounded prefetch, of at "
            f"most {PREFETCH} for each slot, can be taken by another.",
        ),
    ),
    Chapter(
        "FAIL",
        "failing",
        None,
        (
            "A handler that raises is retried; the attempt counts from 1 to max_attempts. The "
            "worker that runs a job decides on its max_attempts and backoff, by what is "
            "registered there, not the one that performed it.",
            "The next attempt is never before its backoff.",
            "After the last, the job is a dead letter, with its error, traceback and attempts.",
            "SystemExit, KeyboardInterrupt, CancelledError or any BaseException in a handler "
            "doesn't end the worker, and counts as a failure.",
            "A timeout counts as a failure.",
            "A failing job disturbs no other; nor does an observer that raises.",
            "No handler at the consumer: retried, then dead; never dropped.",
            "Bytes that don't decode are dead-lettered as they are; no crash, no loop.",
            "Retry and Reject, raised by a handler, do as they say.",
        ),
    ),
    Chapter(
        "DUR",
        "faults",
        "durable",
        (
            "kill -9 of the worker loses nothing that was accepted: waiting, scheduled, "
            "retrying or dead.",
            "Killed inside a handler, the job runs again within `recovery`, as the next attempt.",
            "kill -9 and restart of the backend: the same, and workers come back by themselves "
            "within `reconnect`.",
            "The connection is cut while performing: what returned is stored.",
            "A half-open connection is noticed within `reconnect`.",
            "A job that kills its process every time ends as a dead letter after max_attempts.",
            "A handler that takes longer than the lease isn't run twice while its worker lives.",
            "A worker frozen past its lease and thawed can't settle a job that another has taken.",
            "When a connection that was cut has come back, an idle worker starts a job within "
            "`lateness` of its perform again.",
            "What an earlier release left in the backend is taken over: each job runs once, when "
            "it is due, as its next attempt, with equal args, and the dead letters are there.",
        ),
    ),
    Chapter(
        "DIST",
        "processes together",
        "distributed",
        (
            "Four processes, 10,000 jobs: each runs once.",
            "A process that only performs needs no handlers and no `start`.",
            "An idle process takes from a busy one's backlog, but for the prefetch of CONC-4.",
            "The bytes of every released wire version are still read.",
            "Namespaces don't see each other.",
            "An idle worker starts a job within `lateness` of its perform by another one, in this "
            "process or in another.",
            "When a worker is killed, others go on; what it was running runs again within "
            "`recovery`, as the next attempt, if that is stated.",
            "When the backend comes back, workers do so by themselves within `reconnect`.",
        ),
    ),
    Chapter(
        "FIFO",
        "in order",
        "fifo",
        (
            "The jobs of a queue start in the order of their performs: single ones and batches, "
            "mixed, and more than any fetch brings at once.",
            "So do those that were performed before the start, or by a worker that has stopped "
            "since.",
            "What a worker gives back, since it stops or has no slot for it, starts before what "
            "waited behind it.",
        ),
    ),
    Chapter(
        "DEAD",
        "dead letters",
        "dead_letters",
        (
            "They can be listed by page, each with its reason.",
            "A requeued one runs as attempt 1; the entry and the job are never both there, nor "
            "both gone.",
            "A discarded one is gone.",
            "A page begins behind a place, not behind an entry: what is requeued or discarded "
            "meanwhile neither starts the list over nor ends it.",
        ),
    ),
)

RULES: dict[str, Rule] = {rule.id: rule for chapter in CHAPTERS for rule in chapter.rules}

CHANGES = (
    "CONF-3: an unknown option is named without its value, which may be a secret.",
    "LIFE-1: `stopping` is a state of its own, between `running` and `stopped`.",
    "LIFE-3: `start` while draining is refused too; what would it do to the drain?",
    "LIFE-7, LIFE-13: what went back to a backend that is distributed and not durable had to be "
    "told as lost, though others run it. A backend that outlives the worker is one that is durable "
    "or distributed.",
    "LIFE-7: says that a stop costs no attempt. A handler that fails because it may not perform "
    "during a drain is given back likewise.",
    "LIFE-13: the lost ones are logged; what was returned is safe. `lost` are the jobs that only "
    "this process remembers. On `simple` they are kept and "
    "run if the same worker starts again (LIFE-9), so the report can say no more than that.",
    "ARGS-4: subclasses are refused, since they would arrive as another type.",
    "FIFO, PERF-9, DUR-9 and DIST-6 are new: the claim `fifo` had no rule, and a lost wake-up was "
    "hidden by the next look.",
    "DIST-7 and DIST-8 are new: of an adapter that is distributed and not durable, neither "
    "`recovery` nor `reconnect` was measured. One that runs each job at most once states no "
    "`recovery`, and needn't any more.",
    "FIFO-3 is new: that a job goes back to the head of its queue was said to authors of drivers "
    "alone. Where the backend has no way back to the head, an adapter may state it as a deviation.",
    "DEAD-4 is new: an operator who discards while paging came back to the first page for ever.",
    "ARGS-5: says what is measured: the args as compact JSON in UTF-8, the same on every backend.",
    "TIME-1: says how much a wrong clock may change. A broker without a clock that can be read "
    "leaves the last milliseconds to its workers.",
    "DUR-10 is new: that the bytes of a job are read (DIST-4) says nothing of the tables, keys or "
    "queues around them.",
    f"CONC-4, DIST-3: the bound of the prefetch has its number, {PREFETCH}, by which the kit has "
    "judged from the first.",
    "FAIL-1: says whose max_attempts and backoff count, where two workers differ.",
)

"""Background jobs behind one config string.

    worker = offload.connect("sqlite:///jobs.db")

    @worker.handler("greet")
    async def greet(args):
        print("hello", args["name"])

    async with worker:
        await worker.perform(Job("greet", {"name": "Ada"}))

Read `worker`, `job` and `driver` first; they are the contract.
"""

from offload import asgi
from offload.adapters import Adapter, connect, hookimpl
from offload.claims import Claims, Limits
from offload.driver import (
    ClaimNotes,
    Counts,
    DeadLetterStore,
    DeadLetterSweep,
    Delivery,
    Driver,
    Entry,
    Failure,
    Fetched,
    Intake,
    Leases,
    RunLimit,
    Settlement,
    StoredDeadLetter,
    Subscription,
    SyncEnqueue,
    Verdict,
)
from offload.errors import (
    AlreadyRunningError,
    BackendError,
    BackendUnavailableError,
    ConfigError,
    DuplicateHandlerError,
    InvalidJobError,
    JobTooLargeError,
    OffloadError,
    UnknownAdapterError,
    UnknownHandlerError,
    UnknownQueueError,
    UnsupportedError,
    UsageError,
    WorkerStoppedError,
)
from offload.job import Args, Handler, Job, JobContext, current_job
from offload.program import run
from offload.push_driver import PushDriver
from offload.retry import Backoff, Reject, Retry, constant, exponential
from offload.worker import DeadLetter, DeadLetters, QueueCounts, State, StopReport, Worker

__all__ = [
    "Adapter",
    "AlreadyRunningError",
    "Args",
    "BackendError",
    "BackendUnavailableError",
    "Backoff",
    "ClaimNotes",
    "Claims",
    "ConfigError",
    "Counts",
    "DeadLetter",
    "DeadLetterStore",
    "DeadLetterSweep",
    "DeadLetters",
    "Delivery",
    "Driver",
    "DuplicateHandlerError",
    "Entry",
    "Failure",
    "Fetched",
    "Handler",
    "Intake",
    "InvalidJobError",
    "Job",
    "JobContext",
    "JobTooLargeError",
    "Leases",
    "Limits",
    "OffloadError",
    "PushDriver",
    "QueueCounts",
    "Reject",
    "Retry",
    "RunLimit",
    "Settlement",
    "State",
    "StopReport",
    "StoredDeadLetter",
    "Subscription",
    "SyncEnqueue",
    "UnknownAdapterError",
    "UnknownHandlerError",
    "UnknownQueueError",
    "UnsupportedError",
    "UsageError",
    "Verdict",
    "Worker",
    "WorkerStoppedError",
    "asgi",
    "connect",
    "constant",
    "current_job",
    "exponential",
    "hookimpl",
    "run",
]

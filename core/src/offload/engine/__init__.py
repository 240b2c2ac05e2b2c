"""The one engine: makes a `Worker` of any `Driver`.

driver_worker   the worker: its life, and how it performs
states          the table of that life
stop_budget     how a stop spends its time
reach           which event loop has it, and how calls from others reach the backend
connection      a driver on one loop: opened, used, closed
elsewhere       one more, for other loops
calls           what a stop has to end
entries         from a job to what is stored
outbox          coalesces concurrent performs into batches
registry        the handlers, with their options
dispatcher      fetches, keeps the slots busy, drains
runner          from a delivery to a run, and to the verdict on it
failures        what becomes of a job that failed
settler         coalesces the verdicts into batches
lease_keeper    holds on to what runs longer than its lease
threads         where `def` handlers run
processes       what happens at a fork, and at the end
"""

from offload.engine.driver_worker import DriverWorker

__all__ = ["DriverWorker"]

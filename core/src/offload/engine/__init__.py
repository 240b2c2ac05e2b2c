"""The one engine: makes a `Worker` of any `Driver`.

driver_worker   lifecycle and performing
outbox          coalesces concurrent performs into batches
registry        the handlers, with their options
dispatcher      fetches, keeps the slots busy, drains
run             one run of one job, and the verdict on it
settler         coalesces the verdicts into batches
lease_keeper    holds on to what runs longer than its lease
threads         where `def` handlers run
"""

from offload.engine.driver_worker import DriverWorker

__all__ = ["DriverWorker"]

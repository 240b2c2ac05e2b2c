"""huey's SqliteHuey and RedisHuey, used as its documentation shows.

What the source (3.5.4) of the first promises:

- `journal_mode=wal`. `fsync=None` leaves `synchronous` at SQLite's own default, FULL:
  every commit waits for the disk. `fsync=False` is OFF: no commit ever does, and a power
  cut may damage the file.
- `dequeue` deletes the task before it runs, so a task whose process is killed is lost.
  After the run one more transaction deletes its revocation, if there is one.
- One connection for all threads, behind a lock. Args are pickled at the call.
- No `async def`: the handler is a plain function, run in a worker thread.

RedisHuey enqueues by one LPUSH of the pickled task, over redis-py's pool of connections.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huey import RedisHuey, SqliteHuey  # type: ignore[import-untyped]
from huey.consumer import Consumer  # type: ignore[import-untyped]

from benchmarks.harness import Values
from benchmarks.workload import HANDLER, in_threads, threads_measure


@contextmanager
def _database() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        yield Path(folder) / "jobs.db"


def _open(path: Path, fsync: bool | None, jobs: int) -> tuple[Any, Any, threading.Event]:
    huey = SqliteHuey(HANDLER, filename=str(path), fsync=fsync)
    left = jobs
    done = threading.Event()
    lock = threading.Lock()

    def handle(_: dict[str, float]) -> None:
        nonlocal left
        with lock:  # several threads count here
            left -= 1
            if not left:
                done.set()

    return huey, huey.task(name=HANDLER)(handle), done


def enqueue(jobs: int, threads: int, fsync: bool | None) -> Values:
    """Call the task, from so many threads at once."""
    with _database() as path:
        huey, task, _ = _open(path, fsync, jobs)

        def call(number: int) -> None:
            for _ in range(number):
                task({"x": 1.0})

        found = in_threads(threads, call, jobs)
        huey.storage.close()
    return {"25 tasks" if threads > 1 else "one at a time": found}


def enqueue_redis(url: str, jobs: int, threads: int) -> Values:
    """The same with RedisHuey."""
    huey = RedisHuey(HANDLER, url=url)
    task = huey.task(name=HANDLER)(lambda _: None)

    def call(number: int) -> None:
        for _ in range(number):
            task({"x": 1.0})

    return {threads_measure(threads): in_threads(threads, call, jobs)}


def enqueue_map(jobs: int, fsync: bool | None) -> Values:
    """`map`, its call for many: a loop over single enqueues."""
    with _database() as path:
        huey, task, _ = _open(path, fsync, jobs)
        task.map([({"x": 1.0},)] * max(jobs // 10, 100))
        began = time.perf_counter()
        task.map(({"x": 1.0},) for _ in range(jobs))
        took = time.perf_counter() - began
        huey.storage.close()
    return {"perform_many": jobs / took}


def drain(jobs: int, workers: int, fsync: bool | None) -> Values:
    """From the consumer's start to the last task, its log off (its command line logs each)."""
    with _database() as path:
        # Filled without waiting for the disk: only the drain is measured.
        filler, task, _ = _open(path, False, jobs)
        for _ in range(jobs):
            task({"x": 1.0})
        filler.storage.close()

        huey, _, done = _open(path, fsync, jobs)
        consumer = Consumer(huey, workers=workers, worker_type="thread")
        began = time.perf_counter()
        consumer.start()
        done.wait()
        took = time.perf_counter() - began
        consumer.stop(graceful=True)
        huey.storage.close()
    return {"drain": jobs / took}

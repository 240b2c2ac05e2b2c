"""Jobs and their ids."""

from __future__ import annotations

import os
import time
import uuid

import pytest

from offload import Job
from offload.job import new_job_id


def test_ids_are_unique_and_uuids_of_version_7_sorted_by_time():
    ids = [new_job_id(time.time_ns() // 1_000_000) for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    assert [i[:12] for i in ids] == sorted(i[:12] for i in ids)
    for text in ids[:100]:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, parsed.hex) == (7, uuid.RFC_4122, text)
        assert abs((parsed.int >> 80) / 1000 - time.time()) < 60


def test_a_forked_child_does_not_repeat_its_parents_ids():
    new_job_id(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, "".join(new_job_id(1)[13:] for _ in range(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        childs = pipe.read()
    assert childs != "".join(new_job_id(1)[13:] for _ in range(10))


def test_a_job_is_frozen_and_its_default_args_are_its_own():
    job = Job("a")
    with pytest.raises(AttributeError):
        job.handler = "b"  # type: ignore[misc]
    assert Job("a").args is not job.args
    assert (job.args, job.queue) == ({}, "default")

"""`offload dead …`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

PAGE = 100


def test_list_by_page(run, sqlite_url, doomed):
    ids = doomed(7)

    first = json.loads(run("dead", "list", sqlite_url, "--limit", "4", "--json").stdout)
    rest = json.loads(
        run("dead", "list", sqlite_url, "--after", first[3]["cursor"], "--json").stdout
    )

    assert [letter["id"] for letter in first + rest] == ids
    letter = first[0]
    assert letter["handler"] == "doomed"
    assert letter["args"] == {"number": 0}
    assert letter["attempts"] == 1
    assert letter["error"].endswith("Reject: no way")
    assert "Traceback" in letter["traceback"]
    assert abs((datetime.now(UTC) - datetime.fromisoformat(letter["died_at"])).total_seconds()) < 60


def test_list_as_a_table(run, sqlite_url, doomed):
    ids = doomed(3)

    told = run("dead", "list", sqlite_url, "--limit", "2")

    head, *rows = told.stdout.splitlines()
    assert head.split() == ["id", "died", "queue", "handler", "attempts", "error"]
    assert [row.split()[0] for row in rows] == ids[:2]
    assert all("Reject: no way" in row for row in rows)
    cursor = told.stderr.split("--after ")[1].strip()
    rest = run("dead", "list", sqlite_url, "--after", cursor)
    assert [row.split()[0] for row in rest.stdout.splitlines()[1:]] == ids[2:]


def test_a_page_goes_on_though_what_it_showed_is_gone(run, sqlite_url, doomed):
    ids = doomed(4)
    first = json.loads(run("dead", "list", sqlite_url, "--limit", "2", "--json").stdout)
    run("dead", "discard", sqlite_url, "--yes", *ids[:2])

    rest = run("dead", "list", sqlite_url, "--after", first[1]["cursor"], "--json")

    assert [letter["id"] for letter in json.loads(rest.stdout)] == ids[2:]


def test_an_id_is_no_place_to_begin(run, sqlite_url, doomed):
    (job_id,) = doomed(1)

    told = run("dead", "list", sqlite_url, "--after", job_id)

    assert told.exit_code == 2
    assert f"after: '{job_id}' is not the cursor of a dead letter" in told.stderr


def test_list_without_any(run, empty):
    told = run("dead", "list", empty)

    assert told.exit_code == 0
    assert told.stdout == "No dead letters.\n"


def test_list_takes_the_url_from_the_environment(run, sqlite_url, doomed):
    (job_id,) = doomed(1)

    assert job_id in run("dead", "list", env={"OFFLOAD_URL": sqlite_url}).stdout


def test_show_has_args_and_traceback(run, sqlite_url, doomed):
    ids = doomed(2)

    told = run("dead", "show", sqlite_url, ids[1])

    assert told.exit_code == 0
    assert f"id:       {ids[1]}" in told.stdout
    assert '"number": 1' in told.stdout
    assert "raise offload.Reject(reason)" in told.stdout


@pytest.mark.parametrize("command", ["list", "show"])
def test_an_error_cannot_steer_the_terminal(run, sqlite_url, doomed, command):
    (job_id,) = doomed(1, "\x1b[31mred\x1b[0m [bold]\x07")

    told = run("dead", command, sqlite_url, *([job_id] if command == "show" else []))

    assert r"\x1b[31mred\x1b[0m [bold]\x07" in told.stdout
    assert "\x1b" not in told.stdout
    assert "\x07" not in told.stdout


@pytest.mark.parametrize("verb", [["show"], ["requeue"], ["discard", "--yes"]])
def test_an_unknown_id_is_a_message(run, empty, verb):
    told = run("dead", verb[0], empty, "nobody", *verb[1:])

    assert told.exit_code == 1
    assert told.stderr == "Error: no dead letter has the id nobody\n"


def test_requeue_some(run, sqlite_url, doomed, counts):
    ids = doomed(3)

    told = run("dead", "requeue", sqlite_url, ids[0], ids[2])

    assert told.exit_code == 0
    assert told.stdout == "2 requeued\n"
    assert counts() == {"default": {"waiting": 2, "dead": 1}}


def test_requeue_what_is_there_and_name_what_is_not(run, sqlite_url, doomed, counts):
    ids = doomed(2)

    told = run("dead", "requeue", sqlite_url, ids[0], "nobody", "nor-he")

    assert told.exit_code == 1
    assert told.stdout == "1 requeued\n"
    assert told.stderr == "Error: no dead letter has the id nobody, nor-he\n"
    assert counts() == {"default": {"waiting": 1, "dead": 1}}


def test_requeue_all_page_by_page(run, sqlite_url, doomed, counts):
    doomed(2 * PAGE + 30)

    told = run("dead", "requeue", sqlite_url, "--all")

    assert told.stdout == "230 requeued\n"
    assert counts() == {"default": {"waiting": 230}}


def test_discard_asks(run, sqlite_url, doomed, counts):
    doomed(2)

    told = run("dead", "discard", sqlite_url, "--all", input="n\n")
    assert told.exit_code == 1
    assert "every dead letter" in told.stdout
    assert counts() == {"default": {"dead": 2}}

    told = run("dead", "discard", sqlite_url, "--all", input="y\n")
    assert told.exit_code == 0
    assert told.stdout.endswith("2 discarded\n")
    assert counts() == {}


def test_discard_some_without_asking(run, sqlite_url, doomed, counts):
    ids = doomed(3)

    told = run("dead", "discard", sqlite_url, ids[1], "--yes")

    assert told.stdout == "1 discarded\n"
    assert counts() == {"default": {"dead": 2}}
    assert run("dead", "show", sqlite_url, ids[1]).exit_code == 1


@pytest.mark.parametrize("ids", [[], ["some", "--all"]])
@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_ids_or_all_but_one_of_them(run, sqlite_url, doomed, counts, verb, ids):
    doomed(1)

    told = run("dead", verb, sqlite_url, *ids)

    assert told.exit_code == 2
    assert "give ids, or --all" in told.stderr
    assert counts() == {"default": {"dead": 1}}

"""`offload adapters`."""

from __future__ import annotations

import json

BROKEN = "import there_is_no_such_module"

TWIN = """
    import offload, offload_simple

    @offload.hookimpl
    def offload_adapter(scheme):
        return offload_simple.ADAPTER
"""

DEVIATES = """
    import dataclasses, offload, offload_simple

    @offload.hookimpl
    def offload_adapter(scheme):
        stated = {"TIME-10": "whole\\x1b[2J seconds"}
        return dataclasses.replace(offload_simple.ADAPTER, deviations=stated)
"""


def row(table: str, scheme: str) -> str:
    """A row of the table, with its further lines."""
    lines = table.splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith(f"{scheme}://"))
    last = first + 1
    while last < len(lines) and lines[last].startswith(" "):
        last += 1
    return "\n".join(lines[first:last])


def test_a_table_of_claims_and_limits(run):
    told = run("adapters")

    assert told.exit_code == 0
    simple, sqlite = row(told.output, "simple"), row(told.output, "sqlite")
    assert "offload-simple" in simple
    assert "durable: no" in simple
    assert "dead_letters: yes (in memory)" in simple
    assert "offload-sqlite" in sqlite
    assert "durable: yes" in sqlite
    assert "distributed: yes (one host)" in sqlite
    assert "max_job_bytes: 1,048,576" in sqlite
    assert "recovery: 5s" in sqlite
    assert "recovery" not in simple
    assert "\x1b" not in told.output


def test_json_says_the_same(run):
    told = run("adapters", "--json")

    by_scheme = {each["scheme"]: each for each in json.loads(told.stdout)}
    sqlite = by_scheme["sqlite"]
    assert sqlite["distributions"][0]["name"] == "offload-sqlite"
    assert sqlite["claims"] == {
        "fifo": True,
        "durable": True,
        "distributed": True,
        "dead_letters": True,
    }
    assert sqlite["notes"]["distributed"] == "one host"
    assert sqlite["limits"]["recovery"] == 5.0
    assert sqlite["error"] is None


def test_what_one_deviates_from_is_told_as_text(run, distribution):
    distribution("coarse", "coarse", DEVIATES)

    told = run("adapters")

    assert "deviates from TIME-10: whole" in row(told.output, "coarse")
    assert "\x1b" not in told.output
    assert "deviates" not in row(told.output, "simple")
    by_scheme = {each["scheme"]: each for each in json.loads(run("adapters", "--json").stdout)}
    assert by_scheme["coarse"]["deviations"] == {"TIME-10": "whole\x1b[2J seconds"}
    assert by_scheme["simple"]["deviations"] == {}


def test_none(run, monkeypatch):
    monkeypatch.setattr("offload.cli.adapters.installed_schemes", dict)

    assert "pip install offload" in run("adapters").stdout
    assert json.loads(run("adapters", "--json").stdout) == []


def test_one_that_cannot_be_loaded_is_a_row(run, distribution):
    distribution("broken", "broken", BROKEN)

    told = run("adapters")

    assert told.exit_code == 0
    assert "there_is_no_such_module" in row(told.output, "broken")
    assert "1.2.3" in row(told.output, "broken")
    assert "durable: yes" in row(told.output, "sqlite")


def test_one_that_is_claimed_twice_is_a_row(run, distribution):
    distribution("one", "twice", TWIN)
    distribution("other", "twice", TWIN)

    told = run("adapters")

    assert told.exit_code == 0
    assert "claimed by one and other" in row(told.output, "twice")

    by_scheme = {each["scheme"]: each for each in json.loads(run("adapters", "--json").stdout)}
    assert [each["name"] for each in by_scheme["twice"]["distributions"]] == ["one", "other"]
    assert by_scheme["twice"]["claims"] is None
    assert "claimed by one and other" in by_scheme["twice"]["error"]

"""How the demo looks: while it runs, and in the end."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from offload.cli.demo.conductor import Conductor
from offload.cli.demo.handlers import Handlers
from offload.cli.demo.ledger import Ledger
from offload.cli.demo.totals import Totals
from offload.cli.demo.walk import Walk
from offload.cli.terminal import make_table
from offload.text import plain


def live(console: Console, render: Callable[[], RenderableType]) -> AbstractContextManager[object]:
    """Show what `render` makes, time and again, where there is a screen to show it on."""
    if console.is_terminal and not console.is_dumb_terminal:
        return Live(get_renderable=render, console=console, refresh_per_second=10, transient=True)
    return contextlib.nullcontext()


def progress(ledger: Ledger, conductor: Conductor, handlers: Handlers) -> RenderableType:
    """The bar, what runs, and how fast. Called from the thread of the live screen."""
    done = ledger.planned - ledger.open
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(max(1, ledger.planned), done, width=40), f"{done:,}/{ledger.planned:,}")
    tally = conductor.tally
    numbers = (
        f"{len(tally.running)} running   {tally.files_a_second:,.0f} a second   "
        f"{tally.retried} retried"
    )
    latest = Text(plain(handlers.latest), style="dim", no_wrap=True, overflow="ellipsis")
    return Group(bar, numbers, latest)


def summary(console: Console, found: Walk, ledger: Ledger, conductor: Conductor) -> RenderableType:
    """Two tables: what is known of the folder, over all runs; and what this run did."""
    totals = Totals.of(ledger)
    return Group(
        _table(console, "The folder", _about_folder(totals, found)),
        "",
        _table(console, "This run", _about_run(ledger, conductor)),
    )


def _table(console: Console, title: str, rows: dict[str, str]) -> Table:
    table = make_table(console, title, "")
    for name, value in rows.items():
        table.add_row(name, Text(plain(value, lines=True)))
    return table


def _about_folder(totals: Totals, found: Walk) -> dict[str, str]:
    files = f"{totals.read:,} of {totals.files:,} read"
    if totals.gone:
        files += f", {totals.gone:,} gone or unreadable when their jobs ran"
    rechecks = f"{len(totals.lateness)} of {totals.rechecks}"
    if totals.lateness:
        rechecks += f", {totals.changed} found changed"
    return {
        "Files": files,
        "Skipped": f"{found.unreadable:,} unreadable",
        "Bytes": f"{totals.size:,} ({decimal(totals.size)})",
        "Words": f"{totals.words:,} in {totals.texts:,} text files",
        "Scheduled rechecks": rechecks,
        "Their lateness": _lateness_text(totals),
        "Flaky job": (
            f"succeeded at attempt {totals.flaky_attempt}" if totals.flaky_attempt else "to come"
        ),
        "Dead letters": f"{len(totals.dead)}" + "".join(f"\n{error}" for error in totals.dead),
    }


def _lateness_text(totals: Totals) -> str:
    if not totals.lateness:
        return "none has run"
    least, most = totals.lateness[0], totals.lateness[-1]
    shown = " / ".join(
        f"{seconds * 1000:.1f}" for seconds in (least, statistics.median(totals.lateness), most)
    )
    return f"{shown} ms (min / median / max)"


def _about_run(ledger: Ledger, conductor: Conductor) -> dict[str, str]:
    tally = conductor.tally
    recovered = f"{conductor.recovered:,} jobs that the backend held at the start"
    if not conductor.counts_all:
        recovered += ", and those that it can't count"
    told = {
        "Recovered": recovered,
        "Jobs started": f"{tally.started:,}",
        "Jobs a second": f"{tally.files_a_second:,.0f} (those that read files)",
        "Retries": f"{tally.retried:,}",
        "Repeats": f"{ledger.repeats:,} jobs ran twice, and were counted once",
    }
    if ledger.strangers:
        told["Strangers"] = f"{ledger.strangers:,} jobs of an earlier demo were let go"
    if conductor.vanished:
        told["Vanished"] = (
            f"{conductor.vanished:,} jobs were no longer in the backend, and performed again"
        )
    return told

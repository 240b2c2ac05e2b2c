"""`offload adapters`: what is installed, what it claims, and what it deviates from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import click

from offload.adapters import Adapter, find_adapter, installed_schemes
from offload.claims import Limits
from offload.cli.terminal import make_console, make_table
from offload.duration import format_duration
from offload.errors import UnknownAdapterError
from offload.text import plain


@dataclass(frozen=True, slots=True)
class Installed:
    """A scheme with what is behind it: an adapter, or the reason why there is none to use."""

    scheme: str
    distributions: Sequence[tuple[str, str]]
    """Names and versions; more than one is a conflict."""
    adapter: Adapter | None
    error: str | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs; durations in seconds.")
def adapters(as_json: bool) -> None:
    """List the installed adapters, with claims, limits and stated deviations."""
    installed = [_look(scheme, found) for scheme, found in sorted(installed_schemes().items())]
    if as_json:
        click.echo(json.dumps([_as_json(each) for each in installed], indent=2))
        return
    if not installed:
        click.echo("No adapter is installed. To install the first: pip install offload")
        return
    console = make_console()
    table = make_table(console, "scheme", "distribution", "version", "claims", "limits")
    for each in installed:
        names = "\n".join(name for name, _ in each.distributions)
        versions = "\n".join(version for _, version in each.distributions)
        if each.adapter is None:
            told = (plain(f"can't be used: {each.error}"), "")
        else:
            told = (_claims_text(each.adapter), _limits_text(each.adapter.limits))
        table.add_row(f"{each.scheme}://", names, versions, *told)
    console.print(table)


def _look(scheme: str, distributions: Sequence[tuple[str, str]]) -> Installed:
    try:
        return Installed(scheme, distributions, find_adapter(scheme), None)
    except UnknownAdapterError as error:
        return Installed(scheme, distributions, None, str(error))


def _claims_text(adapter: Adapter) -> str:
    claims, lines = adapter.claims, []
    for name, claimed in claims.as_dict().items():
        note = claims.notes.get(name)
        lines.append(f"{name}: {'yes' if claimed else 'no'}" + (f" ({note})" if note else ""))
    for rule, reason in adapter.deviations.items():
        lines.append(plain(f"deviates from {rule}: {reason}"))
    return "\n".join(lines)


def _limits_text(limits: Limits) -> str:
    lines = []
    for name, value in _limits(limits).items():
        if isinstance(value, timedelta):
            lines.append(f"{name}: {format_duration(value)}")
        elif value is not None:
            lines.append(f"{name}: {value:,}")
    return "\n".join(lines)


def _limits(limits: Limits) -> dict[str, Any]:
    return {field.name: getattr(limits, field.name) for field in fields(limits)}


def _as_json(installed: Installed) -> dict[str, Any]:
    adapter = installed.adapter
    return {
        "scheme": installed.scheme,
        "distributions": [
            {"name": name, "version": version} for name, version in installed.distributions
        ],
        "claims": adapter and adapter.claims.as_dict(),
        "notes": adapter and dict(adapter.claims.notes),
        "limits": adapter
        and {
            name: value.total_seconds() if isinstance(value, timedelta) else value
            for name, value in _limits(adapter.limits).items()
        },
        "deviations": adapter and dict(adapter.deviations),
        "error": installed.error,
    }

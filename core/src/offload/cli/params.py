"""Values on the command line, read as strictly as the core reads them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import click

from offload.duration import parse_duration
from offload.job import Args


def json_object(text: str) -> Args:
    """Read the args of a job."""
    try:
        args = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(args, dict):
        raise click.BadParameter('must be a JSON object, for example {"user_id": 123}')
    return args


def duration(text: str) -> timedelta:
    """Read `500ms`, `30s`, `5m`, `1h`, `2d`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"give {error}") from None


def instant(text: str) -> datetime:
    """Read a date and time of ISO 8601 with its zone."""
    example = "2027-01-01T09:30:00Z or 2027-01-01T09:30:00+01:00"
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"not a time of ISO 8601; write {example}") from None
    if when.tzinfo is None:
        raise click.BadParameter(f"it has no zone; write {example}")
    return when

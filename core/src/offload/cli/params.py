"""Values on the command line, read as strictly as the core reads them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import click

from offload.duration import parse_duration
from offload.job import Args


class JsonObject(click.ParamType):
    """Args of a job."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Args:
        if isinstance(value, dict):
            return value
        try:
            args = json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(args, dict):
            self.fail('must be a JSON object, for example {"user_id": 123}', param, ctx)
        return args


class Duration(click.ParamType):
    """`500ms`, `30s`, `5m`, `1h`, `2d`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"give {error}", param, ctx)


class Instant(click.ParamType):
    """A point in time: a date and time of ISO 8601 with its zone."""

    name = "ISO 8601"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        example = "2027-01-01T09:30:00Z or 2027-01-01T09:30:00+01:00"
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"not a time of ISO 8601; write {example}", param, ctx)
        if when.tzinfo is None:
            self.fail(f"it has no zone; write {example}", param, ctx)
        return when

"""Log lines on stderr, as text for people or as JSON for machines."""

from __future__ import annotations

import logging
import time

import click
from pythonjsonlogger.json import JsonFormatter

LEVELS = ("debug", "info", "warning", "error", "critical")
STYLES = ("text", "json")


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment: a live screen puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)


def configure(style: str, level: str) -> None:
    """Let the logger `offload` write to stderr.

    Only that logger: those of an application are its own to configure.
    """
    handler = _StderrHandler()
    handler.setFormatter(_json_formatter() if style == "json" else _text_formatter())
    logger = logging.getLogger("offload")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def _text_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S")


def _json_formatter() -> logging.Formatter:
    formatter = JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    return formatter

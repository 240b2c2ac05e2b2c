"""Log lines on stderr, as text for people or as JSON for machines."""

from __future__ import annotations

import logging
import time

import click
from pythonjsonlogger.json import JsonFormatter

from offload.text import plain

LEVELS = ("debug", "info", "warning", "error", "critical")
STYLES = ("text", "json")


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that moment: a live screen puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)


class _PlainFormatter(logging.Formatter):
    """Text for people: one line for each message, and nothing in it that steers a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as it is called
        record.message = plain(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        # What follows the first line is set in: a traceback's text can't pass for a line of ours.
        return plain(super().format(record), lines=True).replace("\n", "\n  ")


def configure(style: str, level: str) -> None:
    """Let the logger `offload` write to stderr.

    Only that logger: those of an application are its own to configure.
    """
    handler = _StderrHandler()
    handler.setFormatter(_json_formatter() if style == "json" else _PlainFormatter())
    logger = logging.getLogger("offload")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def configure_again(style: str, level: str) -> None:
    """After the application's modules were imported, whose own configuration may have silenced us.

    `logging.config.dictConfig` disables every logger that it doesn't name. An application that
    has configured the logger `offload` itself keeps what it has.
    """
    logger = logging.getLogger("offload")
    if not any(not isinstance(each, _StderrHandler) for each in logger.handlers):
        configure(style, level)
    for name in ("offload", "offload.job"):
        logging.getLogger(name).disabled = False


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

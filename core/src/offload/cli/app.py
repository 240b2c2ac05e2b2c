"""The program: its commands, and how every error of Offload becomes one line."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import click

from offload.cli.adapters import adapters
from offload.cli.dead_letters import dead
from offload.cli.demo import demo
from offload.cli.perform import perform
from offload.cli.queues import queues
from offload.cli.terminal import shown, write_anything
from offload.cli.worker import worker
from offload.errors import OffloadError, UsageError
from offload.text import plain


class RefusedError(click.ClickException):
    """What the caller has to mend: as click's own usage errors, but the text is ours."""

    exit_code = 2


GROUP = "offload.commands"
"""The entry points through which other distributions add commands of their own."""


class Commands(click.Group):
    """A group in which no error of ours ends in a traceback, and none shows a config string.

    Its commands are ours and those that other distributions bring.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        for entry_point in entry_points(group=GROUP, name=cmd_name):
            try:
                command: click.Command = entry_point.load()
            except (Exception, SystemExit) as error:  # a plugin's exit is no end of ours
                brought_by = entry_point.dist.name if entry_point.dist else entry_point.value
                return _stand_in(cmd_name, f"can't be loaded from {brought_by}: {error!r}")
            return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        write_anything()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            # Click repeats what it can't place, and that may be a URL with its password.
            raise click.UsageError(shown(error.format_message()), error.ctx) from None
        except UsageError as error:
            raise RefusedError(shown(str(error))) from error
        except click.ClickException as error:
            if type(error) is not click.ClickException:
                raise  # click's own, and those that say all in another way
            raise click.ClickException(shown(error.message)) from error
        except OffloadError as error:
            text = shown(str(error))
            if error.maybe_stored:
                text += " (what was asked for may have been done all the same)"
            raise click.ClickException(text) from error


def _stand_in(name: str, why: str) -> click.Command:
    """For a command that can't be loaded: it fails, and the help and the others don't."""
    why = plain(why)

    def fail() -> None:
        raise click.ClickException(f"command {name!r} {why}")

    return click.Command(
        name,
        callback=fail,
        short_help=f"({why})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="offload-core", prog_name="offload")
def main() -> None:
    """Background jobs behind one config string.

    A config string names a backend and its options, as in simple://, sqlite:///jobs.db
    or redis://host/0. Where a command's only argument is URL, $OFFLOAD_URL stands in for it.

    Every command exits with 0 when all is done, 1 when the backend failed or something
    was not found, and 2 when it was called wrongly.
    """


for command in (adapters, dead, demo, perform, queues, worker):
    main.add_command(command)

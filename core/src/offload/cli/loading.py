"""Finding the worker that `MODULE:WORKER` names, or saying exactly what is wrong."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType

import click

from offload.errors import OffloadError
from offload.worker import Worker


def load_worker(path: str) -> Worker:
    """Import the module and get its worker.

    Raises:
        click.BadParameter: the path, the module, the attribute or its kind is wrong.
        click.ClickException: the module itself raises; with its traceback, which shows where.
    """
    if "/" in path or "@" in path:  # a URL in the wrong place: it may hold a password
        raise click.BadParameter(
            "what was given is not of the form MODULE:WORKER, for example myapp.jobs:worker; a URL "
            "goes behind --url, "
            "and no path of a file is taken. What was given isn't shown: it may hold a secret"
        )
    module_name, colon, attribute = path.partition(":")
    if not colon or not attribute or not all(map(str.isidentifier, module_name.split("."))):
        raise click.BadParameter(
            f"{path!r} is not of the form MODULE:WORKER, for example myapp.jobs:worker "
            "(the module as in an import, no path of a file)"
        )
    found = _get(_import(module_name), attribute)
    if not isinstance(found, Worker):
        raise click.BadParameter(
            f"{path} is of type {type(found).__name__}, not a Worker as offload.connect() returns"
        )
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise click.ClickException(f"module {name!r} has ended its import by {error!r}") from error
    except OffloadError:
        raise  # of a `connect` in it: one line says it all
    except Exception as error:
        # Only the module asked for, or a package on the way to it; not what it imports.
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            missing = "" if error.name == name else f": there is no {error.name!r}"
            raise click.BadParameter(
                f"module {name!r} is not found{missing}; it is looked for in the current directory "
                "and where Python finds its packages"
            ) from None
        trace = "".join(traceback.format_exception(error))
        raise click.ClickException(f"module {name!r} can't be imported\n{trace}") from error


def _get(module: ModuleType, attribute: str) -> object:
    found: object = module
    for step in attribute.split("."):
        try:
            found = getattr(found, step)
        except AttributeError:
            workers = [name for name, value in vars(module).items() if isinstance(value, Worker)]
            hint = f"; its workers: {', '.join(workers)}" if workers else ""
            raise click.BadParameter(
                f"module {module.__name__!r} has no attribute {attribute!r}{hint}"
            ) from None
    return found

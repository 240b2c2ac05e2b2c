"""CONF: choosing a backend."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import offload
from offload import Args, ConfigError, Job, OffloadError, UnknownAdapterError, Worker
from offload.adapters import GROUP, installed_schemes
from offload_conformance.lab import Lab, now
from offload_conformance.logs import logged

pytestmark = pytest.mark.asyncio

CANARY = "c4nary-s3cret"

FIRST_PARTY = {"sqlite", "redis", "amqp"}


async def connecting(url: str | None = None) -> Worker:
    return offload.connect(url)


def url_with(lab: Lab, option: str, value: str) -> str:
    """The URL under test with an option whose name is known only now."""
    options: dict[str, Any] = {option: value}
    return lab.make_url(**options)


async def test_CONF_1_the_same_program_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_URL", lab.make_url())
    greeted = asyncio.Queue[str]()

    # The program of the README, with every way to call a worker that each adapter has.
    worker = offload.connect()

    @worker.handler("greet", max_attempts=2, timeout=timedelta(seconds=30))
    async def greet(args: Args) -> None:
        greeted.put_nowait(args["name"])

    decorated = getattr(greet, "__name__", repr(greet))
    async with worker as entered:
        entered_same = entered is worker
        await worker.perform(Job("greet", {"name": "one"}))
        await worker.perform_in(Job("greet", {"name": "two"}), timedelta(milliseconds=1))
        await worker.perform_at(Job("greet", {"name": "three"}), now())
        await worker.perform_many(Job("greet", {"name": name}) for name in ("four", "five"))
        with ThreadPoolExecutor(1) as thread:
            job = Job("greet", {"name": "six"})
            call = asyncio.get_running_loop().run_in_executor(thread, worker.sync.perform, job)
            await asyncio.wait_for(call, 15)
        names = [await asyncio.wait_for(greeted.get(), 15) for _ in range(6)]
    lab.equal("what the decorator returns", "greet", decorated)
    lab.equal("whether `async with` gives the worker", expected=True, actual=entered_same)
    lab.equal("who was greeted", ["five", "four", "one", "six", "three", "two"], sorted(names))


async def test_CONF_2_an_unknown_scheme_lists_the_installed_ones(lab: Lab) -> None:
    # By way of the distributions, so that nobody can stand between.
    installed = {
        entry_point.name
        for distribution in importlib.metadata.distributions()
        for entry_point in distribution.entry_points
        if entry_point.group == GROUP
    }
    offload.connect(lab.make_url())
    text = await told(lab, "connect to an unknown scheme", "no-such-scheme://host")
    schemes = {*installed, urlsplit(lab.url).scheme}
    missing = sorted(scheme for scheme in schemes if f"{scheme}://" not in text)
    lab.equal("installed schemes that aren't in the error", [], missing)


async def test_CONF_2_a_known_one_is_told_how_to_install(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offload.connect(lab.make_url())
    own: str = urlsplit(lab.url).scheme
    everything: Any = importlib.metadata.entry_points

    def own_alone(**params: Any) -> Any:
        """As on a host where nothing else is installed."""
        found = everything(**params)
        if params.get("group") != GROUP:
            return found
        return importlib.metadata.EntryPoints(each for each in found if each.name == own)

    monkeypatch.setattr(importlib.metadata, "entry_points", own_alone)
    monkeypatch.syspath_prepend(tmp_path)  # what was found on another path is forgotten
    for scheme in sorted(FIRST_PARTY - {own})[:3]:  # as many for an adapter of the first party
        text = await told(lab, f"connect to {scheme}", f"{scheme}://host")
        lab.check("contains", what="the error", part=f"{own}://", actual=text)
        lab.check("contains", what="the error", part=f"pip install 'offload[{scheme}", actual=text)


async def told(lab: Lab, name: str, url: str) -> str:
    """What the error says that connecting there raises."""
    await lab.refused(UnknownAdapterError, name, connecting(url))
    return str(lab.history.named("refused")[-1].what["text"])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", "0"),
        ("concurrency", "many"),
        ("concurrency", ""),
        ("max_attempts", "1.5"),
        ("grace", "soon"),
        ("queues", "a,,b"),
        ("namespace", "a.b"),
    ],
)
async def test_CONF_3_a_bad_value_is_named(lab: Lab, option: str, value: str) -> None:
    url = url_with(lab, option, value)
    await lab.refused(ConfigError, "connect", connecting(url))
    text = lab.history.named("refused")[-1].what["text"]
    lab.check("contains", what="the error", part=repr(option), actual=text)
    lab.check("contains", what="the error", part=repr(value), actual=text)


async def test_CONF_3_an_unknown_option_is_named(lab: Lab) -> None:
    await lab.refused(ConfigError, "connect", connecting(lab.make_url(concurency=CANARY)))
    text = lab.history.named("refused")[-1].what["text"]
    for part in ("'concurency'", "concurrency", "grace", *(o.name for o in lab.adapter.options)):
        lab.check("contains", what="the error", part=part, actual=text)
    lab.check("lacks", what="the error", part=CANARY, actual=text)


async def test_CONF_3_own_options_are_read_before_anything_connects(lab: Lab) -> None:
    values = ("", "nosuch", "0", "-1", "1.5", "1", "9" * 30, "0s", "1ms", "1s", "1d", "1000000d")
    lab.equal("the state of a new worker", "new", offload.connect(lab.make_url()).state.value)
    for option in lab.adapter.options:
        for value in values:
            name = f"connect with {option.name}={value}"
            try:
                offload.connect(url_with(lab, option.name, value))
            except ConfigError as error:
                lab.check("contains", what=name, part=option.name, actual=str(error))
            except Exception as error:
                lab.equal(name, "a worker or ConfigError", type(error).__name__)


LOAD_THE_OTHERS = """
import json, sys
import offload
from offload.adapters import find_adapter, installed_schemes

url, connects = sys.stdin.read().splitlines()
if connects == "True":
    offload.connect(url)
found = []
for scheme in sorted(installed_schemes().keys() - {url.partition(":")[0]}):
    try:
        find_adapter(scheme)
    except offload.UnknownAdapterError:
        continue
    found.append(scheme)
print(json.dumps(found))
"""


def load_the_others(lab: Lab, *, connects: bool) -> list[str]:
    """The other schemes that work in a fresh interpreter, where nothing has been loaded before."""
    command = (sys.executable, "-c", LOAD_THE_OTHERS)
    given = f"{lab.make_url()}\n{connects}\n"  # the URL may hold a password: it is no argument
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=30, check=False
    )
    lab.equal("its errors", "", done.stderr[-2000:] if done.returncode else "")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


async def test_CONF_4_the_other_schemes_still_work(lab: Lab) -> None:
    scheme = urlsplit(lab.url).scheme
    distributions = [name for name, _ in installed_schemes()[scheme]]
    lab.equal(f"how many distributions offer {scheme}://", 1, len(distributions))
    alone = load_the_others(lab, connects=False)
    beside = load_the_others(lab, connects=True)
    lab.equal("the other schemes that work beside it", alone, beside)


UNLOADABLE = {
    "kit_missing": "import kit_no_such_module",
    "kit_raising": "raise RuntimeError('the kit wants it so')",
}
"""Modules of adapters that can't be loaded, and what is in them."""


def install(folder: Path, distribution: str, scheme: str, module: str) -> None:
    """Make a distribution that offers an adapter for a scheme."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{scheme} = {module}\n")


async def test_CONF_4_what_is_wrong_with_others_is_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    twins = ("kit-one-of-two", "kit-other-of-two")
    for twin in twins:
        install(tmp_path, twin, "kit-twice", "offload_conformance")
    for module, content in UNLOADABLE.items():
        (tmp_path / f"{module}.py").write_text(content)
        install(tmp_path, f"kit-brings-{module}", module.replace("_", "-"), module)
    monkeypatch.syspath_prepend(tmp_path)
    offload.connect(lab.make_url())
    text = await told(lab, "connect where two offer", "kit-twice://")
    for twin in twins:
        lab.check("contains", what="the error", part=twin, actual=text)
    for module, cause in (("kit_missing", "kit_no_such_module"), ("kit_raising", "wants it so")):
        scheme = module.replace("_", "-")
        text = await told(lab, f"connect to {scheme}", f"{scheme}://")
        # A name with dashes may be told with underscores.
        named = text.replace("_", "-")
        part = f"kit-brings-{scheme}"
        lab.check("contains", what="the error", part=part, actual=named)
        lab.check("contains", what="the error", part=cause, actual=text)
    lab.equal("the state of a new worker", "new", offload.connect(lab.make_url()).state.value)


async def test_CONF_5_no_password_is_shown(lab: Lab) -> None:
    parts = urlsplit(lab.make_url())
    location = parts.netloc.rpartition("@")[2]
    url = parts._replace(netloc=f"user:{CANARY}@{location}").geturl()
    shown: list[str] = []
    with logged(logging.DEBUG) as lines:
        try:
            worker = offload.connect(url)
        except OffloadError as error:
            shown += traceback.format_exception(error)
            lab.history.add("connect", took_it=False)
        else:
            lab.history.add("connect", took_it=True)
            shown += await lived(worker)
    lab.check("lacks", what="what errors and reprs show", part=CANARY, actual="\n".join(shown))
    lab.check("lacks", what="what is logged", part=CANARY, actual="\n".join(lines))


async def lived(worker: Worker) -> list[str]:
    """What a worker shows of itself in its life, whether its backend lets it in or not."""
    shown: list[str] = []

    async def show(call: Callable[[], Awaitable[object]]) -> None:
        shown.extend((repr(worker), str(worker)))
        try:
            shown.append(repr(await call()))
        except Exception as error:
            shown.extend(traceback.format_exception(error))

    await show(lambda: worker.perform(Job("nobody")))
    await show(worker.start)
    await show(worker.start)
    await show(worker.counts)
    await show(lambda: worker.dead_letters.list())
    await show(worker.stop)
    await show(lambda: worker.perform(Job("nobody")))
    return [*shown, repr(worker)]


@pytest.mark.parametrize("how", ["unknown", "misspelt", "secret"])
async def test_CONF_5_no_secret_option_is_shown(lab: Lab, how: str) -> None:
    names = {"unknown": ["passwd"], "misspelt": ["pasword"]}.get(how)
    if names is None:
        names = [option.name for option in lab.adapter.options if option.secret]
    lab.equal("the state of a new worker", "new", offload.connect(lab.make_url()).state.value)
    for name in names:
        with logged(logging.DEBUG) as lines:
            try:
                shown = [repr(offload.connect(url_with(lab, name, CANARY)))]
            except OffloadError as error:
                shown = traceback.format_exception(error)
        lab.check("lacks", what=f"what shows of {name}", part=CANARY, actual="\n".join(shown))
        lab.check("lacks", what="what is logged", part=CANARY, actual="\n".join(lines))

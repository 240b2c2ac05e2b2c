"""CONF: choosing a backend, and what goes wrong with packages."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

import offload
from offload import ConfigError, Job, UnknownAdapterError

CANARY = "c4nary-s3cret"


async def test_conf_1_one_string_changes_the_backend(monkeypatch, url, recorder):
    monkeypatch.setenv("OFFLOAD_URL", url)
    worker = offload.connect()
    worker.register("note", recorder.note)
    async with worker:
        await worker.perform(Job("note", {"a": 1}))
        await recorder.until_started(1)


def test_conf_1_no_string_at_all(monkeypatch):
    monkeypatch.delenv("OFFLOAD_URL", raising=False)
    with pytest.raises(ConfigError, match="OFFLOAD_URL"):
        offload.connect()


def test_conf_2_an_unknown_scheme_lists_the_installed_ones():
    with pytest.raises(
        UnknownAdapterError, match=r"installed: (.*, )?simple://, sqlite://(, .*)?$"
    ):
        offload.connect("nosuch://")


@pytest.mark.usefixtures("no_adapters")
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_conf_2_a_known_one_gets_the_command(scheme):
    with pytest.raises(UnknownAdapterError, match=r"pip install 'offload\[amqp\]'"):
        offload.connect(f"{scheme}://localhost")


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("concurency=5", ["'concurency'", "did you mean 'concurrency'", "grace"]),
        ("concurrency=0", ["'concurrency'", "'0'", "1 to 10000"]),
        ("concurrency=many", ["'concurrency'", "'many'", "whole number"]),
        ("concurrency=", ["'concurrency'", "''"]),
        ("concurrency=١٢", ["'concurrency'", "whole number"]),
        ("concurrency=99999999999999999999", ["'concurrency'"]),
        ("grace=soon", ["'grace'", "'soon'", "30s"]),
        ("grace=-5s", ["'grace'", "'-5s'"]),
        ("max_attempts=1.5", ["'max_attempts'", "'1.5'"]),
        ("queues=a,,b", ["'queues'", "'a,,b'"]),
        ("queues=a b", ["'queues'"]),
        ("namespace=a/b", ["'namespace'", "'a/b'"]),
        ("grace=1s&grace=2s", ["'grace'", "twice"]),
    ],
)
def test_conf_3_names_the_option_the_value_and_what_is_allowed(query, parts):
    with pytest.raises(ConfigError) as caught:
        offload.connect(f"simple://?{query}")
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    "url", ["", "simple", "://", "simple:/x", "simple://host", "simple:///x", "simple://#x", 5]
)
def test_conf_3_malformed_strings(url, monkeypatch):
    monkeypatch.delenv("OFFLOAD_URL", raising=False)
    with pytest.raises(ConfigError):
        offload.connect(url)


@pytest.mark.parametrize(
    "url",
    [
        f"simple://user:{CANARY}@host",
        f"simple://?password={CANARY}",
        f"simple://?pasword={CANARY}",
        f"sqlite://user:{CANARY}@/jobs.db",
        f"simple://user:{CANARY}@host:port",
        f"nosuch://user:{CANARY}@host",
        f"simple:{CANARY}",
        f"simple://x#{CANARY}",
    ],
)
def test_conf_5_no_error_shows_a_secret(url):
    with pytest.raises(offload.UsageError) as caught:
        offload.connect(url)
    error: BaseException | None = caught.value
    while error:
        assert CANARY not in f"{error!s}{error!r}"
        error = error.__cause__


def test_conf_5_no_repr_shows_a_secret():
    address = offload.config.parse_address(f"redis://me:p%40{CANARY}@host:1/0?token={CANARY}")
    assert address.password == f"p@{CANARY}"
    config = offload.config.Config(address, {"token": CANARY})
    for shown in (str(address), repr(address), str(config), repr(config)):
        assert CANARY not in shown
    assert str(address) == "redis://me:***@host:1/0"


# -- packages of third parties, each made by hand with only its own pyproject ------------------

ADAPTER = """
from datetime import timedelta
import offload
from offload import Adapter, Claims, Limits, hookimpl
from offload_simple.driver import SimpleDriver

@hookimpl
def offload_adapter(scheme):
    if scheme == "parrot":
        return Adapter(
            claims=Claims(fifo=True, durable=False, distributed=False, dead_letters=True),
            limits=Limits(
                max_job_bytes=1000,
                max_delay=timedelta(days=1),
                lateness=timedelta(seconds=1),
            ),
            make=SimpleDriver,
        )
"""

BARE_WORKER = """
from datetime import timedelta
from offload import Adapter, Claims, Limits, State, StopReport, Worker, hookimpl

class Echo(Worker):
    def __init__(self):
        self._state, self.handlers = State.NEW, {}

    @property
    def state(self):
        return self._state

    async def start(self):
        self._state = State.RUNNING

    async def stop(self):
        self._state = State.STOPPED
        return StopReport()

    async def perform(self, job):
        return "an-id"

    async def perform_in(self, job, delay):
        return "an-id"

    async def perform_at(self, job, when):
        return "an-id"

    def register(self, name, handler, **options):
        self.handlers[name] = handler

@hookimpl
def offload_adapter(scheme):
    return Adapter(
        claims=Claims(fifo=False, durable=False, distributed=False, dead_letters=False),
        limits=Limits(max_job_bytes=100, max_delay=timedelta(0), lateness=timedelta(0)),
        make=lambda config: Echo(),
    )
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Site:
    """A folder of installed packages, seen by a fresh interpreter only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages = folder / "site"
        self.packages.mkdir()

    def install(self, name: str, scheme: str, code: str) -> None:
        """Build a wheel from a pyproject and a module, and unpack it."""
        source = self.folder / name
        source.mkdir()
        module = name.replace("-", "_")
        (source / f"{module}.py").write_text(code)
        (source / "pyproject.toml").write_text(
            textwrap.dedent(
                f"""
                [build-system]
                requires = ["hatchling"]
                build-backend = "hatchling.build"
                [project]
                name = "{name}"
                version = "1.2.3"
                dependencies = ["offload-core"]
                [project.entry-points."offload.adapters"]
                {scheme} = "{module}"
                [tool.hatch.build.targets.wheel]
                include = ["{module}.py"]
                """
            )
        )
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self.folder)],
            cwd=source,
            check=True,
            capture_output=True,
        )
        (wheel,) = self.folder.glob(f"{module}-*.whl")
        zipfile.ZipFile(wheel).extractall(self.packages)

    def run(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": str(self.packages)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_a_third_party_driver_is_selected_by_its_scheme(site):
    site.install("offload-parrot", "parrot", ADAPTER)
    out = site.run(
        """
        import asyncio, offload, sys
        assert "offload_parrot" not in sys.modules
        worker = offload.connect("parrot://?concurrency=2")
        done = asyncio.Event()

        @worker.handler("say")
        async def say(args):
            print(args["words"])
            done.set()

        async def main():
            async with worker:
                await worker.perform(offload.Job("say", {"words": "hello"}))
                await done.wait()

        asyncio.run(main())
        print(offload.adapters.installed_schemes()["parrot"])
        """
    )
    assert out.splitlines() == ["hello", "[('offload-parrot', '1.2.3')]"]


def test_a_third_party_worker_without_the_engine(site):
    site.install("offload-echo", "echo", BARE_WORKER)
    out = site.run(
        """
        import asyncio, offload
        worker = offload.connect("echo://")

        async def main():
            async with worker:
                print(await worker.perform_many([offload.Job("x")] * 2))
                for unsupported in (worker.counts, lambda: worker.observe(1)):
                    try:
                        await unsupported()
                    except offload.UnsupportedError as error:
                        print("unsupported")
                try:
                    worker.dead_letters
                except offload.UnsupportedError as error:
                    print("unsupported")

        asyncio.run(main())
        print(worker.sync.perform(offload.Job("x")), worker.claims.fifo)
        """
    )
    assert out.splitlines() == ["['an-id', 'an-id']", *["unsupported"] * 3, "an-id False"]


def test_conf_4_two_distributions_with_one_scheme(site):
    site.install("offload-parrot", "parrot", ADAPTER)
    site.install("other-parrot", "parrot", ADAPTER)
    out = site.run(
        """
        import offload
        try:
            offload.connect("parrot://")
        except offload.UnknownAdapterError as error:
            print(error)
        offload.connect("simple://")
        """
    )
    assert "offload-parrot and other-parrot" in out


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def offload_adapter(scheme): pass", "must implement offload_adapter"),
        (
            "import offload\n@offload.hookimpl\ndef offload_adapter(scheme): return 5",
            "must implement offload_adapter",
        ),
        (
            "import offload\n@offload.hookimpl\ndef offload_adaptor(scheme): return 5",
            "offload_adaptor",
        ),
    ],
)
def test_conf_4_a_distribution_that_can_not_be_loaded(site, code, cause):
    site.install("broken-parrot", "parrot", code)
    out = site.run(
        """
        import offload
        for _ in range(2):
            try:
                offload.connect("parrot://")
            except offload.UnknownAdapterError as error:
                print(error)
        offload.connect("simple://")
        """
    )
    first, second = out.splitlines()
    assert first == second
    assert "broken-parrot" in first
    assert cause in first


def test_importing_offload_imports_no_adapter():
    code = "import sys, offload; print([m for m in sys.modules if m.startswith('offload_')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

"""What an author publishes is used; what fails in it is told as theirs, and proves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from offload_conformance.authors import free_port

PAGE = Path(__file__).parents[2] / "docs" / "run-the-kit.md"

ADAPTER = """
from dataclasses import replace
import offload, offload_redis
from offload.config import parse_address

def make(config):
    port = config.address.port
    return offload_redis.ADAPTERS["redis"].make(
        replace(config, address=parse_address(f"redis://127.0.0.1:{port}"))
    )

@offload.hookimpl
def offload_adapter(scheme):
    return replace(offload_redis.ADAPTERS["redis"], make=make)
"""
CLIENT = """
import json
import redis.asyncio
from offload_redis.conformance import RedisStates
from offload_redis.keys import QueueKeys, queues_key

class Client(redis.asyncio.Redis):
    def __init__(self, host, port):
        super().__init__(host=host, port=port)
        self.url = f"redis://{host}:{port}"

    async def push(self, place, body):
        namespace, queue = place.split("/")
        await self.sadd(queues_key(namespace), queue)
        await self.rpush(QueueKeys(namespace, queue, "").ready, body)

    async def dump(self, namespace):
        state = await RedisStates(self.url).read(namespace=namespace)
        return json.loads(state)

    async def load(self, found):
        await RedisStates(self.url).lay(namespace="", state=json.dumps(found))
"""
SERVER = '#!/bin/sh\nexec redis-server --appendonly yes --save "" "$@" > /dev/null\n'
FIXTURES = """
import pytest
class Whole:
    address = ("127.0.0.1", 1)
    async def start(self): pass
    async def kill(self): pass
"""


@dataclass
class Author:
    """A distribution with an adapter, as it is installed."""

    folder: Path
    env: dict[str, str]
    url: str = "myqueue://"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def publish(self, text: str) -> None:
        """Install a module of fixtures beside an adapter in memory, of the claims of Redis'."""
        self.write("offload_myqueue/conformance.py", FIXTURES + text)
        self.write(
            "offload_myqueue/__init__.py",
            "from dataclasses import replace\n"
            "import offload, offload_simple, offload_redis\n"
            "claims = offload_redis.ADAPTERS['redis']\n"
            "own = replace(offload_simple.ADAPTER, claims=claims.claims, limits=claims.limits)\n"
            "@offload.hookimpl\n"
            "def offload_adapter(scheme): return own\n",
        )

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def certify(self, *rules: str, **env: str) -> subprocess.CompletedProcess[str]:
        selected = (part for rule in rules for part in ("--rule", rule))
        return self.run("offload", "certify", self.url, *selected, **env)

    def rules(self, name: str = "myqueue-selected.json") -> dict[str, tuple[str, list[str]]]:
        """The verdict of each rule that was tested, with the reasons."""
        content = json.loads((self.folder / name).read_text())
        return {each["id"]: (each["verdict"], each["reasons"]) for each in content["rules"]}


@pytest.fixture
def author(tmp_path: Path) -> Author:
    info = tmp_path / "offload_myqueue-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offload-myqueue\nVersion: 1.0\n")
    # As a build backend writes it of the lines in the docs.
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    ini = toml.replace("project.entry-points.", "").replace('"', "")
    (info / "entry_points.txt").write_text(ini)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OFFLOAD_KIT_DEADLINE": "10"}
    return Author(tmp_path, env)


@pytest.fixture
def example(author: Author) -> Author:
    """The module in the docs, and a server for it."""
    parts = r"```python\n(# (?:in )?offload_myqueue/.*?)```"
    module, states = re.findall(parts, PAGE.read_text(), re.DOTALL)
    author.write("offload_myqueue/conformance.py", module + states)
    author.write("offload_myqueue/__init__.py", ADAPTER)
    author.write("myqueue.py", CLIENT)
    program = author.write("myqueue-server", SERVER)
    program.chmod(0o755)
    author.env["MYQUEUE_SERVER"] = str(program)
    author.url = f"myqueue://127.0.0.1:{free_port()}"
    return author


def test_the_example_of_the_docs_certifies(example):
    done = example.certify("DUR-3", "FAIL-8")
    assert done.returncode == 0, done.stderr
    rules = example.rules()
    assert rules["DUR-3"] == rules["FAIL-8"] == ("pass", [])
    assert example.run("offload", "verify", "myqueue-selected.json").returncode == 0


def test_the_example_of_the_docs_records_what_a_release_leaves_and_takes_it_over(example):
    done = example.certify("DUR-10")
    _, (why,) = example.rules()["DUR-10"]
    assert done.returncode == 1
    assert why == f"no state is in {example.folder}/offload_myqueue/golden: record one"

    done = example.run("offload_conformance.record", example.url, "1.0")
    assert done.returncode == 0, done.stdout
    done = example.certify("DUR-10")
    assert done.returncode == 0, done.stderr
    assert example.rules()["DUR-10"] == ("pass", [])


def test_the_example_of_the_docs_soaks(example):
    brief = ("--jobs", "50", "--seconds", "1", "--workers", "1", "--server-kills", "1")
    done = example.run("offload", "soak", example.url, *brief)
    assert done.returncode == 0, done.stderr


SUITE = "from offload_conformance.suite import *\n"
OWN_URL = "import pytest\n@pytest.fixture\ndef offload_url(): return {url!r}\n"


def pytest_of(author: Author, *rules: str, **env: str) -> subprocess.CompletedProcess[str]:
    selected = (part for rule in rules for part in ("--rule", rule))
    return author.run("pytest", "-q", "-p", "no:cacheprovider", *selected, **env)


def test_a_suite_of_two_lines_uses_what_is_published(example):
    example.write("test_suite.py", SUITE)
    example.write("conftest.py", OWN_URL.format(url=example.url))
    done = pytest_of(example, "DUR-3", "FAIL-8")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_an_own_fixture_wins_over_a_published_one(author):
    author.publish("@pytest.fixture\ndef offload_server(): raise OSError('the published one')\n")
    author.write("test_suite.py", SUITE)
    own = "@pytest.fixture\ndef offload_server(): raise OSError('the own one')\n"
    author.write("conftest.py", OWN_URL.format(url=author.url) + own)
    done = pytest_of(author, "PERF-1")
    assert "the fixture offload_server of conftest failed: OSError: the own one" in done.stdout
    assert "the published one" not in done.stdout


def test_a_suite_without_a_server_fails_loudly(author):
    author.publish("")
    author.write("test_suite.py", SUITE)
    author.write("conftest.py", OWN_URL.format(url=author.url))
    done = pytest_of(author, "DUR-3", "FAIL-8")
    assert done.returncode == 1
    assert "DUR-3 is not verified: no server to strike was given" in done.stdout
    assert "FAIL-8 is not verified: no way to inject bytes was given" in done.stdout
    assert "2 failed" in done.stdout


def test_without_states_of_a_release_its_rule_is_unverified(author):
    author.publish("")
    done = author.certify("DUR-10")
    assert done.returncode == 1
    told = "no states that releases have left were given: the fixture offload_golden_states"
    assert author.rules()["DUR-10"] == ("unverified", [told])


def test_states_that_can_not_be_read_are_their_authors_error(author):
    author.publish(STATES.format("folder = Path(__file__).parent; beside = ()"))
    author.write("offload_myqueue/1.state", "")
    author.write("offload_myqueue/1.json", "{}")
    done = author.certify("DUR-10")
    assert done.returncode == 2
    verdict, (why,) = author.rules()["DUR-10"]
    assert verdict == "unverified"
    assert why == (
        f"the states in {author.folder}/offload_myqueue can't be read: "
        "Object missing required field `jobs`"
    )


RAISING = "@pytest.fixture\ndef offload_{0}(): raise OSError('no program')\n"
STATES = """
from pathlib import Path
class States:
    async def read(self, *, namespace): return ""
    async def lay(self, *, namespace, state): raise OSError("no disk")
    {0}
@pytest.fixture
def offload_golden_states(): return States()
"""
SESSION = """
@pytest.fixture(scope="session")
def program(): raise OSError('no program')
@pytest.fixture
def offload_server(program): return program
"""
WITHOUT_KILL = """
class Broker:
    address = ("127.0.0.1", 1)
    async def start(self): pass
@pytest.fixture
def offload_server(): return Broker()
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RAISING.format("server"), "the fixture offload_server of {0} failed: OSError: no program"),
        (RAISING.format("inject"), "the fixture offload_inject of {0} failed: OSError: no program"),
        (SESSION, "the fixture program of {0} failed: OSError: no program"),
        (WITHOUT_KILL, "{1} failed: it returned a Broker without a method kill()"),
        (
            "@pytest.fixture\ndef offload_server():\n"
            "    server = Whole(); server.address = 'here'; return server\n",
            "{1} failed: it returned a Whole whose address is 'here', not a host and a port",
        ),
        (
            "@pytest.fixture\ndef offload_fresh(): return 'x'\n",
            "the fixture offload_fresh of {0} failed: it returned 'x', which can't be called",
        ),
        (
            "@pytest.fixture\ndef offload_golden(): return ['x']\n",
            "the fixture offload_golden of {0} failed: it returned a list, not a dict of bytes",
        ),
        (
            STATES.format("folder = ''; beside = ()"),
            "{2} failed: it returned a States whose folder is no Path",
        ),
        (
            STATES.format("folder = Path()"),
            "{2} failed: it returned a States whose beside is no collection of releases",
        ),
        (
            STATES.format("lay = None"),
            "{2} failed: it returned a States without a method lay()",
        ),
    ],
)
def test_a_fixture_that_can_not_be_set_up_ends_the_run_as_its_authors_error(author, text, told):
    author.publish(text)
    done = author.certify("REG-1", "REG-2")
    module = "offload_myqueue.conformance"
    fixtures = (f"the fixture offload_{name} of {module}" for name in ("server", "golden_states"))
    told = told.format(module, *fixtures)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" in done.stderr or "FixtureError" in done.stderr
    rules = author.rules("myqueue-selected-partial.json")
    assert rules["REG-1"] == ("unverified", [told])
    assert rules["REG-2"] == ("unverified", ["no test of it has run: the run was cut short"])
    assert author.run("offload", "verify", "myqueue-selected-partial.json").returncode == 0


def test_a_fixture_module_that_can_not_be_loaded(author):
    author.publish("import nowhere")
    done = author.certify("PERF-1")
    assert done.returncode == 2
    assert "the fixtures of offload_myqueue.conformance can't be loaded" in done.stderr
    assert "No module named 'nowhere'" in done.stderr
    assert not list(author.folder.glob("*.json"))


MANIFEST = (
    '{"jobs":[{"id":"a","tag":"a","handler":"act","queue":"default","attempt":1,"due_in_ms":0,'
    '"args":{}}],"dead":[]}'
)
CALLED: dict[str, tuple[str, str]] = {
    "kill": (
        "class Broker(Whole):\n    async def kill(self): raise OSError('no pid')\n"
        "@pytest.fixture\ndef offload_server(): return Broker()\n",
        "kill() of the fixture offload_server of {0} failed: OSError: no pid",
    ),
    "sync": (
        "class Broker(Whole):\n    def kill(self): pass\n"
        "@pytest.fixture\ndef offload_server(): return Broker()\n",
        "kill() of the fixture offload_server of {0} failed: TypeError: it isn't async",
    ),
    "fresh": (
        "@pytest.fixture\ndef offload_fresh(): return lambda: 'simple://'\n",
        "the fixture offload_fresh of {0} failed: ValueError: its scheme isn't myqueue",
    ),
    "teardown": (
        "@pytest.fixture\ndef offload_server():\n    yield None\n    raise OSError('left')\n",
        "the fixture offload_server of {0} failed: OSError: left",
    ),
    "lay": (
        STATES.format("folder = Path(__file__).parent; beside = ()"),
        "lay() of the fixture offload_golden_states of {0} failed: OSError: no disk",
    ),
    "skip": (
        "@pytest.fixture\ndef offload_server(): pytest.skip('not today')\n",
        "the fixture offload_server of {0} skipped it: not today",
    ),
}


@pytest.mark.parametrize("name", CALLED)
def test_what_fails_later_leaves_its_rule_unverified(author, name):
    text, told = CALLED[name]
    author.publish(text)
    rule = {"kill": "DUR-3", "sync": "DUR-3", "lay": "DUR-10", "fresh": "LIFE-8"}.get(name, "REG-1")
    author.write("offload_myqueue/1.state", "")
    author.write("offload_myqueue/1.json", MANIFEST)
    done = author.certify(rule)
    told = told.format("offload_myqueue.conformance")
    verdict, reasons = author.rules()[rule]
    assert verdict == "unverified", (reasons, done.stderr)
    assert told in reasons
    assert done.returncode == (1 if name == "skip" else 2)
    assert author.run("offload", "verify", "myqueue-selected.json").returncode == 0

"""All checks. `nox` runs those that must pass; `nox -l` lists the rest."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "newest", "conformance", "mutants", "wheels"]
# Of the supported versions, those that aren't here are named and skipped.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"

# Thousands of processes start in a run: compiled once for all, not once for each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
ADAPTERS = ["adapters/simple", "adapters/sqlite", "adapters/redis", "adapters/amqp"]
PUBLISHED = [".", "core", *ADAPTERS, "conformance"]
MEMBERS = [*PUBLISHED, "conformance/mutants"]
RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Not the script on the path, which runs it as another user."""
SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]
LOOPS = {
    "asyncio": ["conformance/tests", "adapters/amqp", "adapters/simple", "adapters/sqlite"],
    "uvloop": ["adapters/redis", "tests"],
}
"""What `newest` tests, on which loop."""
YIELDING = ["core", "docs", "README.md"]
"""What `conformance` tests at a lower priority, while certificates wait."""
CLUSTER = "adapters/amqp/tests/test_cluster.py"
"""Three brokers that are killed in turn: minutes, for few tests."""
IN_PARALLEL = ["-n", "4"]
"""For two cores: a test waits for more than half of its time."""
SOURCES = [f"{member}/src" for member in ("core", *ADAPTERS, "conformance")]


def find_pythons() -> list[str]:
    """The supported versions that are here; those of pyenv are put on the path."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in SUPPORTED:
        # The shims on the path know only the versions that are switched on.
        for program in sorted(root.glob(f"versions/{version}.*/bin/python{version}"))[-1:]:
            os.environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return [version for version in SUPPORTED if shutil.which(f"python{version}")]


FOUND = find_pythons()
NEWEST = FOUND[-1] if FOUND else None


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


SERVERS = [f"{scheme}://127.0.0.1:{free_port()}" for scheme in ("redis", "amqp")]
"""The kit starts these, on the ports of their URLs, and kills them."""
KINDS = {
    "KeepsNoOrder": "",
    "GivesNoAccessToTheDead": "",
    "IsForOneProcess": "/{folder}/one-process.db",
    "LeasesInAnyOrder": "/{folder}/any-order.db",
    "KeepsJobsInTheMemoryOfAServer": "127.0.0.1:{port}",
    "RunsEachJobAtMostOnce": "127.0.0.1:{port}",
}
"""Benign variants that claim less than our adapters do, each with its place."""
KIT_ENV = {"OFFLOAD_REDIS_SERVER": "redis-server", "OFFLOAD_RABBITMQ_SERVER": RABBITMQ_SERVER}


def install(session: nox.Session) -> None:
    """Everything that is locked, and the workspace on top, editable."""
    session.install("--require-hashes", "-r", "requirements.lock", silent=True)
    editable = [part for member in MEMBERS for part in ("-e", f"./{member}")]
    session.install("--no-deps", "--no-build-isolation", *editable, silent=True)


def side_by_side(
    session: nox.Session,
    commands: Mapping[str, Sequence[str]],
    env: Mapping[str, str] = {},
    *,
    at_once: int | None = None,
) -> None:
    """Run commands at once, each line of output behind its command's name; all must succeed."""
    path = os.pathsep.join([*(session.bin_paths or ()), os.environ["PATH"]])

    def run(name: str) -> int:
        with subprocess.Popen(
            commands[name],
            env={**os.environ, **env, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            for line in process.stdout or ():
                sys.stdout.write(f"{name:<12}| {line}")
                sys.stdout.flush()
        return process.returncode

    with ThreadPoolExecutor(at_once) as pool:
        statuses = dict(zip(commands, pool.map(run, commands), strict=True))
    if failed := [name for name, status in statuses.items() if status]:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
def lint(session: nox.Session) -> None:
    """Lint, and check the format."""
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types: all packages, the benchmarks, and programs that use the public API."""
    install(session)
    session.run("mypy", *SOURCES, "benchmarks", "noxfile.py", "core/typing_tests")


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """Test everything, on this Python. Arguments go to pytest."""
    install(session)
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Test RabbitMQ as a cluster of three, whose nodes are killed in turn."""
    install(session)
    session.run("pytest", CLUSTER)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Show which lines no test reaches."""
    install(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *IN_PARALLEL)
    session.run("coverage", "combine", "--quiet", silent=True)
    session.run("coverage", "report")


@nox.session(python=NEWEST)
def newest(session: nox.Session) -> None:
    """Test the kit and the adapters, on the newest Python here, and partly on uvloop.

    With `conformance` and `cluster` each test runs once; `nox -s matrix` runs all of them on each
    Python and loop.
    """
    install(session)
    for loop, folders in LOOPS.items():
        tests = [*folders, f"--ignore={CLUSTER}"]
        session.run("pytest", *IN_PARALLEL, *tests, env={"OFFLOAD_TEST_LOOP": loop})


@nox.session(python=SUPPORTED, default=False)
@nox.parametrize("loop", ["asyncio", "uvloop"])
def matrix(session: nox.Session, loop: str) -> None:
    """Test everything on each supported Python and each loop. Arguments go to pytest."""
    install(session)
    session.run("pytest", *IN_PARALLEL, *session.posargs, env={"OFFLOAD_TEST_LOOP": loop})


@nox.session
def conformance(session: nox.Session) -> None:
    """Certify every adapter, and one that hands its jobs over, verify what that wrote, and soak.

    Certificates leave the processor idle for more than half of their time. Meanwhile the tests of
    the engine and of the docs run, at a lower priority.
    """
    install(session)
    beside = ["nice", "-n", "10", "pytest", "-n", "2", *YIELDING]
    for certificate in certify_all(session, tests=beside):
        session.run("offload", "verify", str(certificate))
    brief = ["--jobs", "10000", "--seconds", "10", "--server-kills", "1"]
    soaks = {f"soak {url[:5]}": ["offload", "soak", url, *brief] for url in SERVERS}
    side_by_side(session, soaks, KIT_ENV)


@nox.session(default=False)
def evidence(session: nox.Session) -> None:
    """After a change of its tests: make the kit's table of what they must have on record."""
    install(session)
    certificates = map(str, [*certify_all(session), *certify_kinds(session)])
    session.run("python", "-m", "offload_conformance.evidence", *certificates)


def certify_kinds(session: nox.Session) -> list[Path]:
    """Certify right adapters of kinds that none of ours is of; the certificates."""
    folder = Path(session.create_tmp()).resolve() / "kinds"
    shutil.rmtree(folder, ignore_errors=True)
    for variant, place in KINDS.items():
        url = "mutant://" + place.format(folder=folder, port=free_port())
        env = {"OFFLOAD_MUTANT": variant}
        session.run("offload", "certify", url, "--out", str(folder / variant), env=env)
    return [folder / variant / "mutant.json" for variant in KINDS]


def certify_all(session: nox.Session, **beside: Sequence[str]) -> list[Path]:
    """Certify every adapter, beside other commands; the certificates."""
    folder = Path(session.create_tmp()).resolve() / "certificates"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Those that take longest begin.
    urls = (
        *reversed(SERVERS),
        f"sqlite:///{folder}/jobs.db",
        "bare://",
        "simple://",
        "redis+fake://",
    )
    names = {url.partition(":")[0]: url for url in urls}
    certify = ["offload", "certify", "--out", str(folder)]
    certifying = {name: [*certify, url] for name, url in names.items()}
    side_by_side(session, {**beside, **certifying}, KIT_ENV, at_once=3 + len(beside))
    return [folder / f"{name}.json" for name in names]


@nox.session
def mutants(session: nox.Session) -> None:
    """Prove the kit: every broken adapter is killed by its own rule, and no right one fails.

    With `--full` every one is tried by every rule, and may fell no unrelated one.
    """
    install(session)
    session.run("python", "-m", "offload_mutants.matrix", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every wheel, install them into an empty environment, and use them there."""
    built = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(built, ignore_errors=True)
    session.install("--require-hashes", "-r", "requirements.lock", silent=True)
    for member in PUBLISHED:
        with session.chdir(ROOT / member):
            session.run("hatchling", "build", "-t", "wheel", "-d", str(built), silent=True)
    empty = built.parent / "empty"
    session.run("python", "-m", "venv", "--clear", str(empty))
    python = str(empty / "bin" / "python")
    offload = str(empty / "bin" / "offload")

    def pip_install(*packages: str) -> None:
        session.run(
            *(python, "-m", "pip", "install", "--quiet", "--find-links", str(built), *packages),
            external=True,
        )

    pip_install("offload")
    session.run(python, "-I", "tests/import_time.py", external=True)
    session.run(offload, "adapters", external=True)
    folder = str(ROOT / "core")
    session.run(offload, "demo", folder, external=True)
    pip_install("offload[sqlite]")
    database = built.parent / "demo.db"
    database.unlink(missing_ok=True)
    session.run(offload, "demo", folder, "--url", f"sqlite:///{database}", external=True)


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Measure, side by side with the peers. Arguments go to `python -m benchmarks`."""
    install(session)
    session.run("python", "-m", "benchmarks", *(session.posargs or ["all"]))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Lock the newest versions of all dependencies anew."""
    session.install("uv")
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--upgrade"),
        *("--no-emit-index-url", "--no-annotate", "--no-header", "--python-version", "3.11"),
        *(
            "--group",
            "dev",
            "--group",
            "bench",
            "core/pyproject.toml",
            "adapters/redis/pyproject.toml",
            "adapters/amqp/pyproject.toml",
        ),
        *("--extra", "cli", "--no-emit-package", "offload-core"),
        *("--output-file", "requirements.lock"),
        env={"UV_CUSTOM_COMPILE_COMMAND": "nox -s lock", **os.environ},
    )

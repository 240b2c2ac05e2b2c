"""Config strings, credentials, and what a worker finds out of its server."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import traceback
from datetime import timedelta
from urllib.parse import quote

import pytest
from redis.exceptions import ResponseError
from support import DEADLINE

import offload
from offload import BackendError, BackendUnavailableError, ConfigError, Job
from offload.config import parse_address, read_config
from offload_conformance.authors import free_port
from offload_redis.durability import _facts, _warnings, check_server
from offload_redis.errors import translate
from offload_redis.keeper import Keeper
from offload_redis.keys import QueueKeys
from offload_redis.options import COMMON, TLS
from offload_redis.servers import server_of
from offload_redis.session import Session

# -- config strings --------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://localhost/jobs", "database must be"),
        ("redis://localhost/-1", "database must be"),
        ("redis://localhost/1/2", "database must be"),
        ("redis://localhost/٣", "database must be"),
        ("unix://", "path of a socket"),
        ("unix:///", "path of a socket"),
        ("unix://run/redis.sock", "path of a socket"),
        ("redis://localhost?db=1", "'db'"),
        ("redis://a,b", "takes one host"),
        ("redis://localhost?leas=1s", "did you mean 'lease'"),
        ("redis://localhost?ssl_cert_reqs=none", "'ssl_cert_reqs'"),
        ("rediss://localhost?ssl_cert_reqs=maybe", "one of required, optional, none"),
        ("redis://localhost?lease=999ms", "lease"),
        ("redis://localhost?lease=25h", "lease"),
        ("redis://localhost?timeout=99ms", "timeout"),
        ("redis://localhost?timeout=0s", "timeout"),
        ("redis://localhost?wait_replicas=-1", "wait_replicas"),
        ("redis://localhost?wait_replicas=x", "wait_replicas"),
        ("redis://localhost:x", "host or port"),
        ("redis://localhost/" + "9" * 5000, "database must be"),
    ],
)
def test_conf_3_what_a_config_string_may_not_say(url, says):
    with pytest.raises(ConfigError) as caught:
        offload.connect(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://", "redis://localhost", "redis://[::1]:7/15", "rediss://a"]
)
def test_what_a_config_string_may_say(url):
    assert offload.connect(url).state is offload.State.NEW


async def test_a_database_that_does_not_exist(make, server):
    for call in (make(f"{server.url}/16").perform(Job("note")), make(f"{server.url}/16").start()):
        with pytest.raises(BackendError, match="out of range"):
            await call


async def test_databases_and_namespaces_share_nothing(make, server, recorder):
    workers = [make(server.url), make(f"{server.url}/1"), make(namespace="test-other")]
    for worker in workers:
        worker.register("note", recorder.note)
    await workers[1].start()
    await workers[2].start()
    ids = [await worker.perform(Job("note")) for worker in workers]
    await recorder.until_started(2)
    assert {job.id for job in recorder.started} == set(ids[1:])
    assert (await workers[0].counts())["default"].waiting == 1


async def test_a_socket_file(make, start_server, tmp_path, recorder):
    await start_server("--unixsocket", f"{tmp_path}/a b.sock")
    worker = make(f"unix://{tmp_path}/a%20b.sock", db=1, lease="1s")
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_life_4_nobody_listens(make):
    worker = make("redis://127.0.0.1:1", timeout="300ms")
    for call in (worker.start(), worker.perform(Job("note")), worker.counts()):
        with pytest.raises(BackendUnavailableError, match="is away") as caught:
            await call
        assert not caught.value.maybe_stored


@pytest.fixture
async def tls(start_server, tmp_path):
    """A server with TLS: itself, its `rediss` URL, and the certificate to trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    plain = await start_server(
        *("--tls-port", str(port := free_port()), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
    )
    return plain, f"rediss://localhost:{port}", certificate


async def test_tls(make, tls, clients, keys, until_extended, recorder):
    plain, url, certificate = tls
    with pytest.raises(BackendUnavailableError, match="certificate"):
        await make(url).perform(Job("note"))
    worker = make(url, ssl_ca_certs=certificate, lease="1s")
    worker.register("hold", recorder.hold)
    await worker.start()
    await worker.perform(Job("hold"))
    await recorder.until_started(1)
    await until_extended(clients(plain.port), keys)
    recorder.gate.set()


async def test_threads_perform_over_tls(make, tls):
    _, url, certificate = tls
    with pytest.raises(BackendUnavailableError, match="certificate") as caught:
        await asyncio.to_thread(make(url).sync.perform, Job("note"))
    assert not caught.value.maybe_stored
    worker = make(url, ssl_ca_certs=certificate)
    for _ in range(20):
        await asyncio.to_thread(worker.sync.perform, Job("note", {"text": "x" * 100_000}))
    assert (await worker.counts())["default"].waiting == 20


async def test_dur_7_leases_are_extended_over_tls(tls):
    """The thread's own connection: TLS 1.3 sends tickets of its own before any answer."""
    _, url, certificate = tls
    address = parse_address(f"{url}?ssl_ca_certs={certificate}")
    server = server_of(read_config(address, (*COMMON, *TLS)))
    keeper = Keeper(server, 5.0)
    extend = Session(QueueKeys("tls", "default", ""), timedelta(seconds=1)).extend()
    for _ in range(20):
        assert await asyncio.to_thread(keeper.run, [extend]) == [0]


# -- credentials -----------------------------------------------------------------

PASSWORD = "c4n4ry/p@ss:wörd%41?&"


def shown_nowhere(texts):
    texts = "\n".join(texts)
    assert texts
    secrets_ = {PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), repr(PASSWORD)[1:-1], "c4n4ry"}
    assert not [secret for secret in secrets_ if secret in texts]


@pytest.fixture
async def guarded(start_server, clients):
    """A server that wants a password, and its URL with it."""
    server = await start_server()
    client = clients(server.port)
    client.acl_setuser(
        "jobs", enabled=True, passwords=[f"+{PASSWORD}"], keys="*", categories=["+@all"]
    )
    client.acl_setuser(
        "poor",
        enabled=True,
        passwords=[f"+{PASSWORD}"],
        keys="*",
        categories=["+@all"],
        commands=["-info", "-config"],
    )
    client.acl_setuser("none", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+ping"])
    client.config_set("requirepass", PASSWORD)
    return server, lambda user="": server.url.replace("//", f"//{user}:{quote(PASSWORD, safe='')}@")


@pytest.mark.parametrize("user", ["", "jobs", "poor"])
async def test_conf_5_a_password_opens_and_is_never_shown(
    make, idle, guarded, recorder, caplog, capfd, user
):
    caplog.set_level(logging.DEBUG)
    server, url = guarded
    worker = make(url(user), lease="1s", timeout="300ms")
    worker.register("fail", recorder.failing(1), max_attempts=1)
    texts = [repr(worker), str(worker)]
    await worker.start()
    await worker.perform(Job("fail"))
    await recorder.until_started(1)
    await idle(worker, dead=1)
    await server.kill()
    with pytest.raises(BackendUnavailableError):
        await worker.perform(Job("fail"))
    with pytest.raises(BackendUnavailableError) as caught:
        await worker.perform(Job("fail"))
    texts += traceback.format_exception(caught.value)
    await worker.stop()
    shown_nowhere([*texts, caplog.text, *capfd.readouterr()])
    assert "***" in repr(worker)


@pytest.mark.parametrize("user", ["", "jobs", "nobody"])
async def test_conf_5_a_wrong_password(make, guarded, caplog, user):
    caplog.set_level(logging.DEBUG)
    server, _ = guarded
    texts = []
    password = quote(PASSWORD + "c4n4ry", safe="")
    for call in ("start", "perform", "counts"):
        worker = make(server.url.replace("//", f"//{user}:{password}@"))
        with pytest.raises(BackendError, match="does not accept") as caught:
            await (worker.perform(Job("note")) if call == "perform" else getattr(worker, call)())
        texts += [repr(worker), *traceback.format_exception(caught.value)]
    shown_nowhere([*texts, caplog.text])


async def test_conf_5_a_password_is_not_shown_to_threads(make, guarded, caplog):
    server, url = guarded
    worker = make(url("jobs"), timeout="300ms")
    await asyncio.to_thread(worker.sync.perform, Job("note"))
    driver = worker._driver
    texts = [caplog.text, repr(vars(driver)), repr(vars(driver._way_in.driver._link))]
    wrong = make(server.url.replace("//", f"//jobs:{quote(PASSWORD + 'x', safe='')}@"))
    with pytest.raises(BackendError, match="does not accept") as caught:
        await asyncio.to_thread(wrong.sync.perform, Job("note"))
    texts += traceback.format_exception(caught.value)
    await server.kill()
    with pytest.raises(BackendUnavailableError) as caught:
        await asyncio.to_thread(worker.sync.perform, Job("note"))
    shown_nowhere([*texts, *traceback.format_exception(caught.value), caplog.text])


async def test_no_password_where_one_is_wanted(make, guarded):
    server, _ = guarded
    with pytest.raises(BackendError, match="does not accept"):
        await make(server.url).perform(Job("note"))


async def test_a_user_who_may_do_nothing(make, guarded):
    _, url = guarded
    for call in (make(url("none")).perform(Job("note")), make(url("none")).start()):
        with pytest.raises(BackendError, match="lacks a permission") as caught:
            await call
        assert not isinstance(caught.value, BackendUnavailableError)
        shown_nowhere(traceback.format_exception(caught.value))


@pytest.mark.parametrize("option", [f"timeout={quote(PASSWORD)}", f"passwrod={quote(PASSWORD)}x"])
def test_conf_5_an_option_with_a_slip_does_not_show_a_password(option):
    url = f"redis://u:{quote(PASSWORD, safe='')}@localhost?lease=0s"
    with pytest.raises(ConfigError) as caught:
        offload.connect(url)
    shown_nowhere([str(caught.value)])


# -- what it finds out -----------------------------------------------------------


def warnings_of(caplog):
    return [each.message for each in caplog.records if "can lose jobs" in each.message]


async def test_no_warning_of_a_server_that_keeps_everything(make, server, caplog):
    await make().start()
    assert not warnings_of(caplog)


async def test_a_warning_of_a_server_without_an_append_only_file(make, start_server, caplog):
    server = await start_server("--appendonly", "no")
    await make(server.url).start()
    (warning,) = warnings_of(caplog)
    assert "append-only" in warning and "appendonly yes" in warning


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_warning_of_a_server_that_evicts(make, start_server, caplog, policy):
    server = await start_server("--maxmemory", "100mb", "--maxmemory-policy", policy)
    await make(server.url).start()
    (warning,) = warnings_of(caplog)
    assert policy in warning and "noeviction" in warning


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        ({}, 0),
        ({"aof_enabled": "1", "maxmemory": "9", "maxmemory_policy": "noeviction"}, 0),
        ({"aof_enabled": "1", "maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, 1),
        ({"aof_enabled": "0", "maxmemory": "9", "maxmemory_policy": "allkeys-lru"}, 2),
    ],
)
def test_warnings(facts, count):
    assert len(_warnings(facts)) == count


class Says:
    """A link to a server that says this of itself."""

    def __init__(self, info):
        self._info = info

    async def execute(self, commands):
        return [b"PONG", self._info, [b"appendfsync", b"everysec"]]


@pytest.mark.parametrize("version", ["2.8.19", "5.0.14", "6.0.16"])
async def test_a_server_that_is_too_old(version):
    info = f"# Server\r\nredis_version:{version}\r\naof_enabled:1\r\n".encode()
    with pytest.raises(BackendError, match=rf"{version}; 6\.2 or later is needed"):
        await check_server(Says(info), "redis://host")


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "8.2.1", "255.255.255", "", "valkey", "10"])
async def test_a_server_that_is_new_enough(version):
    await check_server(Says(f"redis_version:{version}\r\n".encode()), "redis://host")


def test_facts():
    facts = _facts(
        b"# Server\r\nredis_version:7.0.15\r\nexecutable:/a:b\r\n\r\nnoise\r\n\xff:1\r\n"
    )
    assert facts["redis_version"] == "7.0.15" and facts["executable"] == "/a:b"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "out of memory"),
        ("READONLY You can't write against a read only replica.", "read-only replica"),
        ("MISCONF Redis is configured to save RDB snapshots", "can't save"),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas"),
    ],
)
def test_perf_8_a_refusal_inside_a_script_of_redis_6(text, says):
    """Before 7.0 the code stands behind the place in the script, and all is an ERR."""
    error = ResponseError(
        "Error running script (call to f_197b804ffcec3106d834b5b48a41e5e7c7429189): "
        f"@user_script:25: @user_script: 25: -{text} "
    )
    translated = translate(error, "redis://host", maybe_stored=False)
    assert isinstance(translated, BackendUnavailableError)
    assert says in str(translated)


@pytest.mark.parametrize("user", ["jobs", "poor"])
async def test_how_far_durable_reaches_is_found_out(make, guarded, user):
    _, url = guarded
    worker = make(url(user))
    await worker.start()
    note = worker.claims.notes["durable"]
    assert ("and power loss" in note) if user == "jobs" else note.startswith("unknown")


# -- processes and loops ---------------------------------------------------------

FORK = """
import asyncio, os, sys, offload

worker = offload.connect(sys.argv[1])  # before the fork, as a pre-forking server does
for _ in range(3):
    if os.fork() == 0:
        print(asyncio.run(worker.perform(offload.Job("note"))), flush=True)
        os._exit(0)
    os.wait()
"""


async def test_perf_1_a_worker_that_is_made_before_a_fork(make, server, space):
    """Every child performs by the same object: no job of one is taken for that of another."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, f"{server.url}?namespace={space}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert len(set(done.stdout.split())) == 3
    assert (await make().counts())["default"].waiting == 3


LOOPS = textwrap.dedent(
    """
    import asyncio, sys, offload

    worker = offload.connect(sys.argv[1])

    @worker.handler("note")
    async def note(args):
        print("ran", flush=True)

    async def perform():
        await worker.perform(offload.Job("note", queue="other"))

    async def start():
        await worker.start()
        await worker.perform(offload.Job("note", queue="other"))

    async def stop():
        print((await worker.counts())["other"].waiting, flush=True)
        await worker.stop()

    for main in (perform, perform, start, start, stop):
        asyncio.run(main())
    """
)


def test_life_9_a_worker_outlives_its_loop(server, space):
    """Without a word: a program that calls `asyncio.run` twice does nothing wrong."""
    command = [sys.executable, "-c", LOOPS, f"{server.url}?namespace={space}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0
    assert done.stdout == "4\n"
    assert "Traceback" not in done.stderr


async def test_cancelled_performs_leave_the_worker_usable(make, idle, recorder):
    """What was cancelled may be stored or not; what came back is."""
    worker = make()
    worker.register("note", recorder.note)
    accepted = []
    await worker.perform(Job("note"))
    for turns in range(40):
        performing = asyncio.create_task(worker.perform(Job("note")))
        for _ in range(turns % 8):
            await asyncio.sleep(0)
        performing.cancel()
        await asyncio.wait([performing])
        accepted.append(await worker.perform(Job("note")))
    await worker.start()
    await recorder.until(lambda: {job.id for job in recorder.started} >= set(accepted))
    await idle(worker)
    runs = [job.id for job in recorder.started]
    assert len(runs) == len(set(runs)) <= 81

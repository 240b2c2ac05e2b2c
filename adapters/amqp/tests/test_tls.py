"""`amqps://`: whom a worker trusts, and what it shows of itself."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import offload
from offload import BackendUnavailableError, ConfigError, Job
from offload_conformance.authors import free_port

pytestmark = pytest.mark.xdist_group("brokers with TLS")  # one process, so that it starts once


@dataclass(frozen=True)
class Certificate:
    """A certificate, and its key."""

    file: Path
    key: Path


def certify(folder: Path, name: str, by: Certificate | None = None) -> Certificate:
    """Certify that somebody has this name; without another one, by oneself."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    # What Python asks for since 3.13 (VERIFY_X509_STRICT).
    if by is None:
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    else:
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
    extensions += ["subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid:always"]
    subject += [word for each in extensions for word in ("-addext", each)]
    files = ["-keyout", str(made.key), "-out", str(made.file)]
    signer = [] if by is None else ["-CA", str(by.file), "-CAkey", str(by.key)]
    command_line = [*command.split(), *subject, *files, *signer]
    subprocess.run(command_line, check=True, capture_output=True)
    return made


@dataclass(frozen=True)
class Certificates:
    """Who is who in these tests."""

    authority: Certificate
    stranger: Certificate
    """Another authority."""
    broker: Certificate
    client: Certificate


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = certify(folder, "authority"), certify(folder, "stranger")
    broker, client = certify(folder, "localhost", authority), certify(folder, "client", authority)
    return Certificates(authority, stranger, broker, client)


@contextlib.contextmanager
def listening(run_broker, certificates: Certificates, demands: str) -> Iterator[str]:
    port = free_port()
    settings = (
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {certificates.authority.file}\n"
        f"ssl_options.certfile = {certificates.broker.file}\n"
        f"ssl_options.keyfile = {certificates.broker.key}\n"
        "ssl_options.verify = verify_peer\n"
        f"ssl_options.fail_if_no_peer_cert = {demands}\n"
    )
    with run_broker(settings):
        yield f"amqps://localhost:{port}"


@pytest.fixture(scope="module")
def guarded(run_broker, certificates) -> Iterator[str]:
    """The URL of a broker that shows a certificate, and needs none of ours."""
    with listening(run_broker, certificates, demands="false") as url:
        yield url


@pytest.fixture(scope="module")
def demanding(run_broker, certificates) -> Iterator[str]:
    """The URL of one that demands ours."""
    with listening(run_broker, certificates, demands="true") as url:
        yield url


def shown(certificate: Certificate) -> dict[str, Path]:
    """The options with which a worker shows this one."""
    return {"ssl_certfile": certificate.file, "ssl_keyfile": certificate.key}


# -- the broker's certificate ------------------------------------------------------


async def test_a_trusted_authority(make_at, guarded, certificates, recorder):
    worker = make_at(guarded, ssl_ca_certs=certificates.authority.file)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await worker.perform_in(Job("note"), 0.1)
    await recorder.until_started(2)


@pytest.mark.parametrize("does", ["start", "perform"])
async def test_an_unknown_authority_is_refused(make_at, guarded, certificates, does):
    for options in ({}, {"ssl_ca_certs": certificates.stranger.file}):
        worker = make_at(guarded, **options)
        call = worker.start() if does == "start" else worker.perform(Job("note"))
        says = "its certificate is not to be trusted: self.signed certificate in certificate chain"
        with pytest.raises(BackendUnavailableError, match=says) as caught:
            await call
        assert not caught.value.maybe_stored


@pytest.mark.parametrize("checked", ["required", "optional"])
async def test_another_host_name_is_refused(make_at, guarded, certificates, checked):
    url = guarded.replace("localhost", "127.0.0.1")
    worker = make_at(url, ssl_ca_certs=certificates.authority.file, ssl_cert_reqs=checked)
    says = "not to be trusted: IP address mismatch, certificate is not valid for '127.0.0.1'"
    with pytest.raises(BackendUnavailableError, match=says):
        await worker.perform(Job("note"))


async def test_nothing_is_checked_by_request(make_at, guarded):
    url = guarded.replace("localhost", "127.0.0.1")
    await make_at(url, ssl_cert_reqs="none").perform(Job("note"))


async def test_a_broker_without_tls_is_named(make_at, broker):
    with pytest.raises(BackendUnavailableError, match="TLS failed"):
        await make_at(broker.url.replace("amqp:", "amqps:")).perform(Job("note"))


# -- ours --------------------------------------------------------------------------


async def test_a_certificate_that_is_demanded(make_at, demanding, certificates, recorder):
    options = shown(certificates.client) | {"ssl_ca_certs": certificates.authority.file}
    worker = make_at(demanding, **options)
    worker.register("note", recorder.note)
    await worker.start()
    await worker.perform(Job("note"))
    await recorder.until_started(1)


async def test_a_certificate_that_is_demanded_and_not_given(make_at, demanding, certificates):
    worker = make_at(demanding, ssl_ca_certs=certificates.authority.file)
    for call in (worker.perform(Job("note")), worker.start()):
        with pytest.raises(BackendUnavailableError, match=r"ssl_certfile|CERTIFICATE"):
            await call


async def test_a_certificate_that_the_broker_does_not_trust(make_at, demanding, certificates):
    options = shown(certificates.stranger) | {"ssl_ca_certs": certificates.authority.file}
    with pytest.raises(BackendUnavailableError, match=r"refuses the cert|TLS failed"):
        await make_at(demanding, **options).perform(Job("note"))


# -- config strings ----------------------------------------------------------------


def test_conf_3_a_file_that_can_t_be_used(certificates, tmp_path):
    """Nothing connects, and the option is named."""
    (broken := tmp_path / "broken.pem").write_text("nothing")
    given, key = certificates.client, certificates.stranger.key
    for query, says in {
        f"ssl_ca_certs={tmp_path}/none.pem": "file of ssl_ca_certs can't be used: No such file",
        f"ssl_ca_certs={broken}": "file of ssl_ca_certs can't be used",
        f"ssl_certfile={broken}": "file of ssl_certfile or ssl_keyfile can't be used",
        f"ssl_certfile={given.file}": "file of ssl_certfile or ssl_keyfile can't be used",
        f"ssl_certfile={given.file}&ssl_keyfile={key}": "can't be used: .*KEY_VALUES_MISMATCH",
        f"ssl_keyfile={key}": "'ssl_keyfile' is of no use without 'ssl_certfile'",
        "ssl_cert_reqs=maybe": "one of required, optional, none",
        "ssl_ca_certs=": "some text",
    }.items():
        with pytest.raises(ConfigError, match=says):
            offload.connect(f"amqps://localhost?{query}")


def test_a_key_with_a_password_asks_nobody_for_it(certificates, tmp_path):
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", str(certificates.client.key), "-out", str(locked)]
    cipher = ["-aes256", "-passout", "pass:secret"]
    subprocess.run([*command, *cipher], check=True, capture_output=True)
    query = f"ssl_certfile={certificates.client.file}&ssl_keyfile={locked}"
    with pytest.raises(ConfigError, match="can't be used"):
        offload.connect(f"amqps://localhost?{query}")


def test_conf_3_without_tls_there_are_no_such_options():
    with pytest.raises(ConfigError, match="'ssl_cert_reqs'"):
        offload.connect("amqp://localhost?ssl_cert_reqs=none")


# -- secrets -----------------------------------------------------------------------


async def test_conf_5_no_password_is_shown(make_at, guarded, caplog):
    caplog.set_level(logging.DEBUG)
    worker = make_at(guarded.replace("//", "//guest:c4n4ry@"))
    with pytest.raises(BackendUnavailableError, match="certificate") as caught:
        await worker.perform(Job("note"))
    text = "".join(traceback.format_exception(caught.value))
    assert "guest" in text
    assert "c4n4ry" not in text + caplog.text + repr(worker) + str(vars(worker))

"""A signature tells who answers for a certificate, and fits that one alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from offload_conformance.certificate import digest_of
from offload_conformance.commands import sign, verify

pytestmark = pytest.mark.xdist_group("a whole certificate")


def run(command, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def write_key(path: Path, key) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_suffix(".pub").write_bytes(public + b" someone@somewhere\n")
    return path


@pytest.fixture
def key(tmp_path) -> Path:
    return write_key(tmp_path / "key", Ed25519PrivateKey.generate())


@pytest.fixture
def signed(tmp_path, genuine, key) -> Path:
    path = tmp_path / "simple.json"
    path.write_text(json.dumps(genuine))
    assert run(sign, path, key)[0] == 0
    return path


def test_without_a_signature_it_is_a_claim(tmp_path, genuine, key):
    path = tmp_path / "simple.json"
    path.write_text(json.dumps(genuine))
    code, output = run(verify, path)
    assert code == 0 and "unsigned: it is only a claim" in output
    code, output = run(verify, path, "--signer", key.with_suffix(".pub"))
    assert code == 1 and "it is signed by nobody" in output


def test_a_signature_is_told_and_may_be_asked_for(signed, key, tmp_path):
    code, output = run(verify, signed)
    assert code == 0 and "signed by SHA256:" in output
    assert run(verify, signed, "--signer", key.with_suffix(".pub"))[0] == 0
    other = write_key(tmp_path / "other", Ed25519PrivateKey.generate()).with_suffix(".pub")
    code, output = run(verify, signed, "--signer", other)
    assert code == 1 and "not by a key in" in output
    other.write_text(f"# known\n\n{other.read_text()}{key.with_suffix('.pub').read_text()}")
    assert run(verify, signed, "--signer", other)[0] == 0


@pytest.mark.parametrize("what", ["content", "value", "key", "another's"])
def test_a_signature_fits_one_certificate_alone(what, signed, tmp_path):
    content = json.loads(signed.read_text())
    if what == "content":
        content["adapter"]["version"] = "9.9.9"
        content["digest"] = digest_of(content)
    elif what == "value":
        content["signature"]["value"] = "AAAA"
    elif what == "key":
        content["signature"]["key"] = "ssh-ed25519 what"
    else:
        other = write_key(tmp_path / "other", Ed25519PrivateKey.generate())
        content["signature"]["key"] = other.with_suffix(".pub").read_text()
    signed.write_text(json.dumps(content))
    code, output = run(verify, signed)
    assert code == 1 and "its signature doesn't fit" in output


def test_what_is_not_verified_is_not_signed(tmp_path, genuine, key):
    path = tmp_path / "simple.json"
    path.write_text(json.dumps({**genuine, "certified": not genuine["certified"]}))
    code, output = run(sign, path, key)
    assert code == 1 and "digest" in output
    assert json.loads(path.read_text())["signature"] is None


@pytest.mark.parametrize("kind", ["RSA", "no key"])
def test_a_key_that_can_not_be_used_is_named(kind, tmp_path, genuine):
    path = tmp_path / "simple.json"
    path.write_text(json.dumps(genuine))
    key = tmp_path / "key"
    if kind == "RSA":
        write_key(key, generate_private_key(65537, 2048))
    else:
        key.write_text("sesame")
    code, output = run(sign, path, key)
    assert code == 1 and str(key) in output and "sesame" not in output

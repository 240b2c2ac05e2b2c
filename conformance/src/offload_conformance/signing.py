"""Who answers for a certificate: a signature by an SSH key, which people have and others know.

It covers the digest, and so all that the file says. Ed25519 only: one algorithm is enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

import click

from offload_conformance.certificate import Certificate, Signature

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
except ImportError:  # pragma: no cover - the extra isn't installed
    is_possible = False
else:
    is_possible = True

_CONTEXT = b"offload certificate "
"""So that no signature given for anything else fits."""


def sign(certificate: Certificate, key_file: Path) -> None:
    """Put a signature into the certificate, by the private key in a file.

    Raises:
        click.ClickException: that is no such key, or it asks for a password.
    """
    _need_cryptography()
    try:
        key = serialization.load_ssh_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.ClickException(f"{key_file} can't be used: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise click.ClickException(f"{key_file} is no Ed25519 key: ssh-keygen -t ed25519 makes one")
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    value = base64.b64encode(key.sign(_signed(certificate))).decode()
    certificate.signature = Signature(public.decode(), value)


def fingerprint_of(certificate: Certificate) -> str | None:
    """The fingerprint of the key that has signed it; None if the signature doesn't fit.

    Raises:
        click.ClickException: without the extra `sign` no signature can be checked.
    """
    _need_cryptography()
    signature = certificate.signature
    if signature is None:
        return None
    try:
        key = serialization.load_ssh_public_key(signature.key.encode())
        if not isinstance(key, Ed25519PublicKey):
            return None
        key.verify(base64.b64decode(signature.value, validate=True), _signed(certificate))
    except (ValueError, binascii.Error, InvalidSignature, UnsupportedAlgorithm):
        return None
    return fingerprint(signature.key)


def fingerprint(public_key: str) -> str:
    """Of a public key, as `ssh-keygen -l` shows it; empty if that is no key."""
    try:
        blob = base64.b64decode(public_key.split()[1], validate=True)
    except (IndexError, ValueError):
        return ""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _signed(certificate: Certificate) -> bytes:
    return _CONTEXT + certificate.digest.encode()


def _need_cryptography() -> None:
    if not is_possible:
        raise click.ClickException("signatures need: pip install 'offload-conformance[sign]'")

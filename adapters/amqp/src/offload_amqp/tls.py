"""TLS: what is trusted, and what we show, by the config string."""

from __future__ import annotations

import ssl

from offload import ConfigError
from offload.config import Config
from offload_amqp.options import SSL_CA_CERTS, SSL_CERT_REQS, SSL_CERTFILE, SSL_KEYFILE
from offload_amqp.wire import LostError


def ssl_context(config: Config) -> ssl.SSLContext | None:
    """The context for `amqps://`; None for `amqp://`.

    Raises:
        ConfigError: naming the option whose file can't be used.
    """
    if config.address.scheme != "amqps":
        return None
    context = ssl.create_default_context()
    if config[SSL_CERT_REQS] == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    authorities = config[SSL_CA_CERTS]
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except OSError as error:
            raise _unusable(SSL_CA_CERTS.name, error) from None
    certificate, key = config[SSL_CERTFILE], config[SSL_KEYFILE]
    if certificate is not None:
        try:
            # With no password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise _unusable(f"{SSL_CERTFILE.name} or {SSL_KEYFILE.name}", error) from None
    elif key is not None:
        raise ConfigError(f"option {SSL_KEYFILE.name!r} is of no use without {SSL_CERTFILE.name!r}")
    return context


def _unusable(option: str, error: OSError) -> ConfigError:
    return ConfigError(f"the file of {option} can't be used: {error.strerror or error}")


def explanation(config: Config, error: BaseException) -> str | None:
    """Why this error ended a connection that was not yet open, if TLS has to do with it."""
    if config.address.scheme != "amqps":
        return None
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    if isinstance(cause, (ConnectionResetError, LostError)):
        # With TLS 1.3 it looks at our certificate late, and what it says of it seldom arrives.
        if config[SSL_CERTFILE] is None:
            return "it hung up at once; if it demands a certificate, give ssl_certfile"
        return "it hung up at once; perhaps it refuses the certificate of ssl_certfile"
    return None

"""Passwords, kept where no repr and no list of local variables shows them."""

from __future__ import annotations

from redis.credentials import CredentialProvider


class Credentials(CredentialProvider):
    """What the client is given in place of a user and a password."""

    __slots__ = ("_password", "_username")

    def __init__(self, username: str | None, password: str | None) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password or ""
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def credentials_of(username: str | None, password: str | None) -> Credentials | None:
    """None, if there are none."""
    return Credentials(username, password) if username or password else None

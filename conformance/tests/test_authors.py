"""What helps an author with their fixtures."""

from __future__ import annotations

import asyncio
import socket

import pytest

from offload_conformance.authors import AddressInUseError, free_port, require_free
from offload_redis.conformance import PrivateServer


def test_where_nothing_listens_a_server_may_start():
    require_free(("127.0.0.1", free_port()))


def test_where_something_listens_none_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = f"something already listens at 127.0.0.1:{port}"
        with pytest.raises(AddressInUseError, match=told):
            require_free(("127.0.0.1", port))
        started = tmp_path / "started"
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\ntouch {started}\n")
        program.chmod(0o755)
        server = PrivateServer(str(program), port, tmp_path)
        with pytest.raises(AddressInUseError, match=told):
            asyncio.run(server.start())
        server.end()
        assert not started.exists()

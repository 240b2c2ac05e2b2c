"""A certificate, as it is made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

RULES_OF_SERVERS = ("LIFE-4", "PERF-8", "FAIL-3", "FAIL-7", "DUR-2", "DUR-3", "DIST-6")
"""Those that tell a durable adapter with a server from one in memory."""


@pytest.fixture(scope="session")
def genuine_of_server(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of an adapter that is durable and distributed, with a server, for some of the rules."""
    folder = tmp_path_factory.mktemp("genuine_of_server")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"mutant://127.0.0.1:{listening.getsockname()[1]}"
    rules = [part for rule in RULES_OF_SERVERS for part in ("--rule", rule)]
    command = (sys.executable, "-m", "offload", "certify", url, "--out", str(folder), *rules)
    env = {**os.environ, "OFFLOAD_MUTANT": "KeepsJobsOnAServer"}
    subprocess.run(command, check=True, capture_output=True, timeout=110, env=env)
    content: dict[str, Any] = json.loads((folder / "mutant-selected.json").read_bytes())
    return content


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of an adapter that keeps every rule."""
    folder = tmp_path_factory.mktemp("genuine")
    command = (sys.executable, "-m", "offload", "certify", "simple://", "--out", str(folder))
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    content: dict[str, Any] = json.loads((folder / "simple.json").read_bytes())
    return content

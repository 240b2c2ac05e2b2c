"""A certificate, as it is made."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of an adapter that keeps every rule."""
    folder = tmp_path_factory.mktemp("genuine")
    command = (sys.executable, "-m", "offload", "certify", "simple://", "--out", str(folder))
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    content: dict[str, Any] = json.loads((folder / "simple.json").read_bytes())
    return content

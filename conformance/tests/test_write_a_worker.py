"""The page on libraries with a loop of their own shows the adapter that is certified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from offload_mutants import bare_worker

PAGE = Path(__file__).parents[2] / "docs" / "write-a-worker.md"
RULES = ("LIFE-6", "LIFE-11", "LIFE-12", "PERF-5", "TIME-2", "CONC-1", "FAIL-2", "FAIL-5", "FIFO-1")


def test_the_page_shows_it_whole():
    assert f"```python\n{Path(bare_worker.__file__).read_text()}```\n" in PAGE.read_text()


def test_it_is_certified_and_the_certificate_says_how_long_the_kit_waited(tmp_path):
    rules = [part for rule in RULES for part in ("--rule", rule)]
    subprocess.run(
        [sys.executable, "-m", "offload", "certify", "bare://", "--out", str(tmp_path), *rules],
        env={**os.environ, "OFFLOAD_KIT_DEADLINE": "60"},
        check=True,
        capture_output=True,
        timeout=110,
    )
    certificate = json.loads((tmp_path / "bare-selected.json").read_bytes())
    verdicts = {rule["id"]: rule["verdict"] for rule in certificate["rules"] if rule["tests"]}
    assert verdicts == dict.fromkeys(RULES, "pass")
    assert certificate["environment"]["deadline"] == "1m"
    assert certificate["limits"]["lateness"] == "50ms"

"""The matrix: every variant against every rule. `python -m offload_mutants.matrix [NAME …]`.

Prints a row for each: whether its own rule killed it, and which other rules fell. Exits with 1
unless every mutant is killed by the rule it names, nothing unrelated fell, and every benign
variant passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from offload_conformance.certificate import Certificate
from offload_conformance.rules import RULES
from offload_conformance.verdicts import Verdict
from offload_mutants import VARIANTS
from offload_mutants.registry import Variant

AT_ONCE = 2
TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Row:
    """What the kit said of a variant."""

    variant: Variant
    fallen: tuple[str, ...]
    """The rules that failed."""
    open: tuple[str, ...]
    """The rules that are neither passed, nor failed, nor unclaimed."""

    @property
    def is_right(self) -> bool:
        """Whether the kit judged it as it should."""
        if self.variant.breaks is None:
            return not self.fallen and not self.open
        allowed = {self.variant.breaks, *self.variant.also}
        return self.variant.breaks in self.fallen and set(self.fallen) <= allowed

    def __str__(self) -> str:
        kind = self.variant.breaks or "benign"
        if self.variant.breaks is None:
            verdict = "passed" if self.is_right else "FALSE ALARM"
        else:
            verdict = "killed" if self.variant.breaks in self.fallen else "SURVIVED"
        others = [rule for rule in self.fallen if rule != self.variant.breaks]
        strays = [rule for rule in others if rule not in self.variant.also]
        text = f"{kind:<8} {verdict:<12} {self.variant.name:<44}"
        if others:
            text += f" also: {', '.join(others)}"
        if strays and self.variant.breaks:
            text += f"  UNRELATED: {', '.join(strays)}"
        return text


def judge(variant: Variant) -> Row:
    """Let the kit certify a variant, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"/{folder}/jobs.db" if variant.base == "sqlite" else ""
        command = [sys.executable, "-m", "offload_conformance", "certify", f"mutant://{path}"]
        command += ["--out", folder, *(["--quick"] if variant.quick else [])]
        subprocess.run(
            command,
            env={
                **os.environ,
                "OFFLOAD_MUTANT": variant.name,
                "PYTEST_PLUGINS": "offload_mutants.author",
            },
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        (file,) = Path(folder).glob("mutant*.json")
        certificate = msgspec.json.decode(file.read_bytes(), type=Certificate)
    fine = (Verdict.PASS, Verdict.NOT_CLAIMED, Verdict.FAIL)
    return Row(
        variant,
        tuple(rule.id for rule in certificate.rules if rule.verdict == Verdict.FAIL),
        tuple(
            rule.id
            for rule in certificate.rules
            # In the quick profile some rules have no test.
            if rule.verdict not in fine and (rule.tests or not variant.quick)
        ),
    )


def main(names: list[str]) -> int:
    """Judge these variants, or all."""
    chosen = [VARIANTS[name] for name in names] or list(VARIANTS.values())
    rows: list[Row] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for row in pool.map(judge, chosen):
            print(row, flush=True)
            rows.append(row)
    wrong = [row for row in rows if not row.is_right]
    covered = {row.variant.breaks for row in rows if row.variant.breaks and row.is_right}
    mutants = [row for row in rows if row.variant.breaks]
    print(
        f"\n{len(mutants)} mutants, {len(mutants) - sum(r in wrong for r in mutants)} killed by "
        f"their own rule alone; {len(rows) - len(mutants)} benign variants, "
        f"{sum(not row.variant.breaks for row in wrong)} false alarms"
    )
    if not names and (bare := [rule for rule in RULES if rule not in covered]):
        print(f"rules without a mutant: {', '.join(bare)}")
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

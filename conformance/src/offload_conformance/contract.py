"""Writes the contract as a page: `python -m offload_conformance.contract > docs/contract.md`."""

from __future__ import annotations

import sys

from offload_conformance.rules import CHANGES, CHAPTERS

INTRODUCTION = """\
# The contract

What every adapter of Offload must do. This page is generated from the registry of rules in
`offload_conformance/rules.py`. A rule's id never changes its meaning.

Every rule is a MUST. Those of a chapter that names a claim bind the adapters that claim it; an
adapter that doesn't must raise `UnsupportedError`, with no side effect. "Nothing enqueued" is
checked by looking. What a backend makes impossible an adapter may state as a
[deviation](run-the-kit.md#deviations), which is told with every verdict; not from the rules at the
heart. The API is described in [Using Offload](using.md).

Claims: `fifo` (jobs of a queue start in the order in which they were performed), `durable`,
`distributed`, `dead_letters`. Limits, each with a number: `max_job_bytes`, `max_delay`, `lateness`
(idle), `recovery` (crash to second run), `reconnect`. `offload adapters` shows those of each
adapter that is installed. [What proves each rule](proofs.md) is a page of its own.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [INTRODUCTION]
    for chapter in CHAPTERS:
        claim = f" (claim: `{chapter.claim}`)" if chapter.claim else ""
        parts.append(f"\n## {chapter.key}: {chapter.title}{claim}\n\n")
        parts.extend(f"- **{rule.id}** {rule.text}\n" for rule in chapter.rules)
    parts.append("\n## Changes\n\nAgainst the first draft:\n\n")
    parts.extend(f"- {change}\n" for change in CHANGES)
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())

"""The matrix: every variant against the rules. `python -m offload_mutants.matrix [--full] […]`.

A mutant is tried by the rule that it names, a benign variant by those of the chapters that it
stretches; with `--full` every variant by all. Prints a row for each: whether its own rule killed
it, and which other rules fell; and at the end, for each rule, how many mutants it has killed.

Exits with 1 unless every mutant is killed by the rule that it names, and takes no rule along but
those that it says may fall with it; every benign variant passed; and, when all variants are
tried, every rule has killed at least `LEAST` mutants of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from offload.text import plain
from offload_conformance import suite
from offload_conformance.authors import free_port
from offload_conformance.certificate import FULL as FULL_PROFILE
from offload_conformance.certificate import Certificate
from offload_conformance.rules import CHAPTERS, RULES
from offload_conformance.verdicts import Verdict
from offload_mutants.registry import VARIANTS, Variant

RIGHT_AT_ONCE, WRONG_AT_ONCE = 4, 10
"""For two cores: the run of a mutant is idle for nine tenths of its time."""
DEADLINE = "8"
"""Seconds that the kit waits for what must happen: a mutant lets it wait again and again."""
TIMEOUT = 300
LEAST = 2
"""Mutants that each rule must have killed: who writes one test for one mutant is blind to more."""
FULL = "--full"
"""The option that tries every variant by every rule."""

CHAPTER = {chapter.key: chapter for chapter in CHAPTERS}

running: set[int] = set()
"""The process groups of the runs that are under way."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the kit said of a variant."""

    variant: Variant
    fallen: Sequence[str] = ()
    """The rules that failed."""
    open: Sequence[str] = ()
    """The rules that are neither passed, nor failed, nor unclaimed."""
    reasons: Sequence[str] = ()
    """Why these rules failed or are open."""
    trouble: str = ""
    """Why the kit said nothing."""
    seconds: float = 0.0
    """How long that took."""

    @property
    def is_killed(self) -> bool:
        """Whether it broke the rule that it names."""
        return self.variant.breaks in self.fallen

    @property
    def strays(self) -> list[str]:
        """The rules that fell, and must not have."""
        allowed = (self.variant.breaks, *self.variant.also)
        return [rule for rule in self.fallen if rule not in allowed]

    @property
    def is_right(self) -> bool:
        """Whether the kit judged it as it should."""
        if self.trouble:
            return False
        if self.variant.breaks:
            return self.is_killed and not self.strays
        return not (self.fallen or self.open)

    @property
    def verdict(self) -> str:
        """What became of it, in a word or two."""
        if self.trouble:
            return self.trouble.partition(":")[0]
        if self.variant.breaks:
            return "SURVIVED" if not self.is_killed else "STRAYED" if self.strays else "killed"
        return "passed" if self.is_right else "FALSE ALARM"

    def __str__(self) -> str:
        text = f"{self.variant.breaks or 'benign':<8} {self.verdict:<12} {self.seconds:4.0f} s  "
        text += f"{self.variant.name:<44}"
        why = (self.trouble.partition(": ")[2], *self.reasons)
        told = {
            "also": [rule for rule in self.fallen if rule != self.variant.breaks],
            "UNRELATED": self.strays if self.variant.breaks else [],
            "OPEN": [] if self.variant.breaks else self.open,
            "why": [each for each in why if each and not self.is_right],
        }
        return text + "".join(f"  {name}: {', '.join(what)}" for name, what in told.items() if what)


def runs() -> ForkServerContext:
    """Where the runs come from: a process that has loaded all that each of them needs."""
    context = multiprocessing.get_context("forkserver")
    tests = pkgutil.iter_modules(suite.__path__, f"{suite.__name__}.")
    plugins = (plugin.module for plugin in entry_points(group="pytest11"))
    loaded = ("offload_conformance.commands", "offload_mutants", *plugins)
    context.set_forkserver_preload([*loaded, *(test.name for test in tests)])
    return context


def judge_all(*groups: tuple[Sequence[Variant], int], full: bool) -> list[Row]:
    """Let the kit try each group of variants, with its limit of runs at once; print each row."""
    context, rows = runs(), list[Row]()
    pools = [ThreadPoolExecutor(at_once) for _, at_once in groups]
    judging = [
        pool.submit(judge, variant, context, full=full)
        for (variants, _), pool in zip(groups, pools, strict=True)
        for variant in variants
    ]
    try:
        for done in as_completed(judging):
            rows.append(done.result())
            print(rows[-1], flush=True)
    except BaseException:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for group in running.copy():
            os.killpg(group, signal.SIGKILL)
        raise
    return rows


def judge(variant: Variant, context: ForkServerContext, *, full: bool) -> Row:
    """Let the kit try a variant, and take the time."""
    began = time.monotonic()
    row = judge_in_process(variant, context, full=full)
    return replace(row, seconds=time.monotonic() - began)


def judge_in_process(variant: Variant, context: ForkServerContext, *, full: bool) -> Row:
    """Let the kit try a variant, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [url_of(variant, folder), "--out", folder]
        arguments += ["--quick"] if variant.quick else []
        if not full:
            arguments += [part for rule in rules_for(variant) for part in ("--rule", rule)]
        errors = Path(folder, "errors")
        trouble = end_of(context.Process(target=certify, args=(variant.name, arguments, errors)))
        for file in Path(folder).glob("mutant*.json"):
            return read(variant, msgspec.json.decode(file.read_bytes(), type=Certificate))
        last = errors.read_text().strip().splitlines()[-1:] if errors.exists() else []
    return Row(variant, trouble=": ".join([trouble, *last]))


def rules_for(variant: Variant) -> list[str]:
    """The rules that try it, unless all do."""
    if variant.breaks:
        return [variant.breaks]
    return [rule.id for key in variant.chapters for rule in CHAPTER[key].rules]


def certify(name: str, arguments: list[str], errors: Path) -> None:
    """Have the certificate of a variant written; for the process that is its own."""
    from offload_conformance.commands import certify

    os.setsid()  # it is ended with the workers that it has started
    os.environ["OFFLOAD_MUTANT"] = name
    if VARIANTS[name].breaks and "--rule" in arguments:  # the first failure is enough
        os.environ["PYTEST_ADDOPTS"] = "--exitfirst"
    for stream, path in ((1, Path(os.devnull)), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    certify(arguments)


def end_of(process: BaseProcess) -> str:
    """Start a run and wait for its end; the answer is how that was."""
    process.start()
    group = process.pid or 0
    running.add(group)
    try:
        process.join(TIMEOUT)
        if process.is_alive():
            os.killpg(group, signal.SIGKILL)
            return f"TIMED OUT: {TIMEOUT} s"
    finally:
        running.discard(group)
        process.join()
    return f"CRASHED: exit code {process.exitcode}"


def url_of(variant: Variant, folder: str) -> str:
    """A config string for a backend of its own."""
    if variant.base in ("sqlite", "sql"):
        return f"mutant:///{folder}/jobs.db"
    return f"mutant://127.0.0.1:{free_port()}" if variant.base == "net" else "mutant://"


def read(variant: Variant, certificate: Certificate) -> Row:
    """What the certificate says of a variant."""
    fallen = [rule for rule in certificate.rules if rule.verdict == Verdict.FAIL]
    left = [
        rule
        for rule in certificate.rules
        # In a shorter profile some rules have no test.
        if rule.verdict not in (Verdict.PASS, Verdict.NOT_CLAIMED, Verdict.FAIL)
        and (rule.tests or certificate.profile == FULL_PROFILE)
    ]
    return Row(
        variant,
        [rule.id for rule in fallen],
        [rule.id for rule in left],
        [plain(reason) for rule in (*fallen, *left) for reason in rule.reasons],
    )


def main(arguments: list[str]) -> int:
    """Judge the variants that are named, or all."""
    full = FULL in arguments
    names = [argument for argument in arguments if argument != FULL]
    chosen = [VARIANTS[name] for name in names] or list(VARIANTS.values())
    os.environ["OFFLOAD_KIT_DEADLINE"] = DEADLINE
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once for all, not once for each
    # Those that take longest begin.
    right = sorted((v for v in chosen if not v.breaks), key=lambda variant: variant.quick)
    wrong = [variant for variant in chosen if variant.breaks]
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        rows = judge_all((right, RIGHT_AT_ONCE), (wrong, WRONG_AT_ONCE), full=full)
    show(rows)
    bare = [] if names else too_few(rows)
    if bare:
        print(f"rules that have killed fewer than {LEAST} mutants: {', '.join(bare)}")
    return 0 if not bare and all(row.is_right for row in rows) else 1


def too_few(rows: list[Row]) -> list[str]:
    """The rules that have killed too few mutants of their own."""
    killed = Counter(row.variant.breaks for row in rows if row.is_killed)
    return [rule for rule in RULES if killed[rule] < LEAST]


def show(rows: list[Row]) -> None:
    """How many mutants each rule has killed, and how many variants were judged rightly."""
    own = Counter(row.variant.breaks for row in rows if row.is_killed)
    every = Counter(rule for row in rows if row.variant.breaks for rule in row.fallen)
    print("\nmutants killed by each rule: its own + others that fell with it")
    for chapter in CHAPTERS:
        counts = (
            f"{rule.id.partition('-')[2]}: {own[rule.id]}+{every[rule.id] - own[rule.id]}"
            for rule in chapter.rules
        )
        print(f"{chapter.key:<5}" + "".join(f"{count:<10}" for count in counts).rstrip())
    mutants = [row for row in rows if row.variant.breaks]
    right = [row for row in rows if not row.variant.breaks]
    print(
        f"{len(mutants)} mutants, "
        f"{sum(row.is_killed for row in mutants)} killed by their own rule, "
        f"{sum(bool(row.strays) for row in mutants)} with an unrelated one; "
        f"{len(right)} benign variants, {sum(not row.is_right for row in right)} not passed"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The command: `python -m benchmarks`, from the checkout."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import growth, latency, observers, profile, simple, sqlite
from benchmarks.report import Report, environment


def _redis(given: argparse.Namespace) -> Report:
    from benchmarks import redis_suite  # its peers are many, and nobody else needs them

    return redis_suite.suite(given.rounds, given.jobs, given.sizes, given.top)


def _amqp(given: argparse.Namespace) -> Report:
    from benchmarks import amqp_suite  # for the same reason

    return amqp_suite.suite(given.rounds, given.jobs)


def _sync(given: argparse.Namespace) -> Report:
    from benchmarks import sync  # likewise

    return sync.suite(given.rounds, given.jobs)


def main() -> None:
    """Run the suites that were asked for, and print their tables."""
    suites: dict[str, Callable[[argparse.Namespace], Report]] = {
        "simple": lambda given: simple.suite(given.rounds, given.jobs),
        "sqlite": lambda given: sqlite.suite(given.rounds, given.jobs),
        "redis": _redis,
        "amqp": _amqp,
        "sync": _sync,
        "growth": lambda given: growth.suite(given.rounds, given.sizes),
        "latency": lambda given: latency.suite(given.rounds),
        "profile": lambda given: profile.suite(given.rounds, given.jobs, given.top),
        "observers": lambda given: observers.suite(given.rounds, given.jobs),
    }
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="?", default="all", choices=[*suites, "all"])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs a run (default: 20000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(size) for size in text.split(",")],
        default=growth.SIZES,
        metavar="N,N",
        help="growth, redis: how many jobs wait (default: 1000,100000,1000000)",
    )
    parser.add_argument(
        "--top", type=int, default=0, metavar="N", help="profile, redis: add N lines of cProfile"
    )
    given = parser.parse_args()

    chosen = list(suites) if given.suite == "all" else [given.suite]
    machine = environment()
    print("; ".join(f"{name}: {value}" for name, value in machine.items()))
    found: dict[str, object] = {"environment": machine}
    for name in chosen:
        report = suites[name](given)
        print(f"\n{report}", flush=True)
        found[name] = {"samples": report.samples.as_dict(), "targets": report.verdicts}
    if given.json:
        given.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

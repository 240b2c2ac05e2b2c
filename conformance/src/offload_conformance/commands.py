"""The commands `offload certify`, `offload verify` and `offload sign`."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from offload import Worker
from offload.adapters import find_adapter
from offload.config import parse_address, read_config
from offload.text import plain
from offload_conformance.certificate import (
    FULL,
    SELECTED,
    Certificate,
    make_certificate,
    write,
    write_to,
)
from offload_conformance.deviations import faults_of, told
from offload_conformance.needs import misfits
from offload_conformance.recorder import Recorder
from offload_conformance.rules import RULES
from offload_conformance.tracing import TRACE
from offload_conformance.verdicts import Verdict
from offload_conformance.verification import MalformedError, differences, read

UNUSED = ("cacheprovider", "terminal", "logging", "unraisableexception")
"""Plugins of pytest whose work nobody would see."""

MOST_SHOWN = 50
"""How many differences are told."""
_ENDS = {
    pytest.ExitCode.INTERRUPTED: "interrupted",
    pytest.ExitCode.INTERNAL_ERROR: "pytest failed",
    pytest.ExitCode.NO_TESTS_COLLECTED: "no test was found",
}
COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.NOT_CLAIMED: "dim"}


@click.command()
@click.argument("url", envvar="OFFLOAD_URL")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the certificate; the current one, if not given.",
)
@click.option("--quick", is_flag=True, help="Leave out what takes long; certifies nothing.")
@click.option("--rule", "rules", multiple=True, help="Test this rule only; repeatable.")
@click.option(
    "--trace-driver",
    "trace",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append every call to the driver to this file, a line of JSON each.",
)
def certify(url: str, out: Path, quick: bool, rules: tuple[str, ...], trace: Path | None) -> None:
    """Prove, rule by rule, that the adapter behind URL keeps the contract.

    Writes the certificate, one JSON file, and exits with 0 only when every claimed rule passed.
    """
    _check(url, rules)  # a slip is told before anything runs
    if trace is not None:
        _check_traceable(url)
        os.environ[TRACE] = str(trace.absolute())
    recorder = Recorder(Console(stderr=True))
    arguments = ["--pyargs", "offload_conformance.suite", "--offload-url", url]
    arguments += ["-c", str(Path(__file__).with_name("pytest.ini")), "-o", "addopts="]
    # What would only take time: no rule is stated as an assert, and nothing of pytest is shown.
    arguments += ["--assert=plain", *(part for name in UNUSED for part in ("-p", f"no:{name}"))]
    arguments += ["--quick"] if quick else []
    arguments += [part for rule in rules for part in ("--rule", rule)]
    with recorder, _sigterm_as_ctrl_c():
        status = pytest.main(arguments, plugins=[recorder])
    if status == pytest.ExitCode.USAGE_ERROR:  # pytest has said which
        raise click.UsageError("the suite can't be run")
    if recorder.errors:
        errors = plain("; ".join(recorder.errors), lines=True)
        raise click.ClickException(f"the suite can't be run: {errors}")
    complete = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not recorder.cut
    profile = SELECTED if rules else "quick" if quick else FULL
    certificate = make_certificate(url, recorder.tests, profile=profile, complete=complete)
    path = write(certificate, out)
    _show(certificate)
    click.echo(f"{path}")
    for fault in recorder.faults.values():
        click.echo(plain(fault, lines=True), err=True)
    if recorder.faults:
        faults = plain("; ".join(recorder.faults), lines=True)
        raise click.UsageError(f"{faults}: an author's error, which proves nothing of the adapter")
    if not complete:
        raise click.ClickException(
            f"{_ENDS.get(pytest.ExitCode(status), 'cut short')}: the certificate is partial"
        )
    raise SystemExit(0 if _all_fine(certificate) else 1)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that the partial certificate is written."""
    former = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _check(url: str, rules: tuple[str, ...]) -> None:
    address = parse_address(url)
    adapter = find_adapter(address.scheme)
    # Not `connect`: what an adapter does when it is made belongs into the tests.
    read_config(address, adapter.options)
    claims = adapter.claims.as_dict()
    faults = [
        *faults_of(adapter.deviations, claims),
        *misfits(claims, states_recovery=adapter.limits.recovery is not None),
    ]
    if faults:
        raise click.ClickException(plain(f"{address.scheme}://: {'; '.join(faults)}"))
    for rule in rules:
        if rule not in RULES:
            close = difflib.get_close_matches(rule.upper(), RULES, n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ": see docs/contract.md"
            raise click.BadParameter(f"there is no rule {plain(rule)}{hint}", param_hint="--rule")


def _check_traceable(url: str) -> None:
    address = parse_address(url)
    adapter = find_adapter(address.scheme)
    if isinstance(adapter.make(read_config(address, adapter.options)), Worker):
        why = f"the adapter for {address.scheme}:// is a worker, and has no driver to trace"
        raise click.BadParameter(why, param_hint="--trace-driver")


def _all_fine(certificate: Certificate) -> bool:
    """Certified; of a shorter profile, that nothing which was tested is amiss."""
    if certificate.profile == FULL:
        return certificate.certified
    tested = [rule for rule in certificate.rules if rule.tests]
    return all(rule.verdict in (Verdict.PASS, Verdict.NOT_CLAIMED) for rule in tested)


def _show(certificate: Certificate) -> None:
    console = Console()
    table = Table("rule", "verdict", "why", box=None, pad_edge=False)
    # Of a few selected rules, nobody asks about all the others.
    shown = [r for r in certificate.rules if r.tests or certificate.profile != SELECTED]
    for rule in shown:
        verdict = Verdict(rule.verdict)
        if verdict is not Verdict.PASS:
            colour = COLOURS.get(verdict, "yellow")
            why = "; ".join(rule.reasons)
            table.add_row(rule.id, Text(verdict, style=colour), Text(plain(why[:300])))
    passed = sum(rule.verdict == Verdict.PASS for rule in shown)
    console.print(table)
    console.print(f"{passed} of {len(shown)} rules passed ({certificate.profile})")
    if certificate.certified:
        click.echo(plain(f"certified{_except_for(certificate)}"))
    elif certificate.deviations:
        click.echo(plain(f"it deviates from {told(certificate.deviations)}"))


def _except_for(certificate: Certificate) -> str:
    return f" except for {told(certificate.deviations)}" if certificate.deviations else ""


_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.command()
@_file
@click.option(
    "--signer",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A public key, or several, a line each: one of them must have signed it.",
)
def verify(file: Path, signer: Path | None) -> None:
    """Draw every verdict of a certificate again from its histories.

    Needs no adapter. Exits with 1 if anything differs from what the file says, and with 2 if it
    is no certificate at all.

    That the histories are true, no file can prove: a certificate is a claim of its maker. A
    signature tells who that is.
    """
    from offload_conformance.signing import fingerprint, fingerprint_of  # takes long to load

    certificate, content = _read(file)
    found = differences(certificate, content)
    by = None
    if certificate.signature is not None or signer is not None:
        by = fingerprint_of(certificate)
        if by is None and certificate.signature is not None:
            found.append("its signature doesn't fit")
        elif signer is not None and by not in set(map(fingerprint, _lines(signer))):
            found.append(f"it is signed by {by or 'nobody'}, not by a key in {signer}")
    for difference in found[:MOST_SHOWN]:
        click.echo(plain(f"{file}: {difference}"), err=True)
    if len(found) > MOST_SHOWN:
        click.echo(f"{file}: and {len(found) - MOST_SHOWN} more", err=True)
    if found:
        raise SystemExit(1)
    click.echo(f"{file}: every verdict follows from its history")
    deadline, lateness = certificate.environment["deadline"], certificate.limits["lateness"]
    click.echo(f"the kit waited up to {deadline}; a job may start {lateness} late")
    if certificate.certified:
        claimed = ", ".join(name for name, value in certificate.claims.items() if value)
        click.echo(plain(f"its adapter is certified{_except_for(certificate)}"))
        click.echo(f"it claims {claimed or 'nothing'}")
    else:
        click.echo("it certifies nothing")
    click.echo(f"signed by {by}" if by else "unsigned: it is only a claim of its maker")


@click.command()
@_file
@click.argument("key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def sign(file: Path, key: Path) -> None:
    """Sign a certificate with an SSH key.

    KEY is the file of an Ed25519 private key without a password. The signature becomes part of
    FILE; those who know the public key see by it who answers for the certificate.
    """
    from offload_conformance import signing  # takes long to load

    certificate, content = _read(file)
    if found := differences(certificate, content):
        raise click.ClickException(plain(f"{file}: {found[0]}"))
    signing.sign(certificate, key)
    write_to(file, certificate)
    click.echo(f"{file}: signed by {signing.fingerprint_of(certificate)}")


def _read(file: Path) -> tuple[Certificate, dict[str, Any]]:
    try:
        return read(file)
    except MalformedError as error:
        click.echo(plain(f"{file}: not a certificate: {error}"), err=True)
        raise SystemExit(2) from None


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines()

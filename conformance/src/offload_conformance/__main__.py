"""`python -m offload_conformance certify|verify`: the commands without the `offload` program."""

from __future__ import annotations

import click

from offload_conformance.commands import certify, verify

main = click.Group("offload_conformance", commands=[certify, verify])

if __name__ == "__main__":
    main()

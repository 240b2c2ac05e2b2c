"""The command `offload amqp`: what has to be on a broker, for those who run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click

from offload import ConfigError
from offload.config import NAMESPACE, QUEUES, Config, parse_address
from offload.text import plain
from offload_amqp.connection import DEFAULT_PORTS, Broker, Line, vhost_of
from offload_amqp.names import LEVELS, Names, check_names
from offload_amqp.options import QUEUE_TYPE, config_of
from offload_amqp.publisher import Publisher
from offload_amqp.topology import Binding, Exchange, Part, Queue, Topology


@click.group()
def amqp() -> None:
    """For those who run a RabbitMQ broker."""


@amqp.command()
@click.argument("url", envvar="OFFLOAD_URL")
@click.option(
    "--json", "as_json", is_flag=True, help="As definitions, for rabbitmqctl import_definitions."
)
@click.option("--declare", is_flag=True, help="Declare it on the broker.")
def topology(url: str, as_json: bool, declare: bool) -> None:
    """Print what a worker with this URL needs on the broker; nothing is asked of it.

    Those are the exchanges, queues and bindings of the queues that URL names, as in
    ?queues=default,mail, and of all delays. Where a user who may declare them does so once,
    workers with declare=false in their URL need no right to configure anything.
    """
    if as_json and declare:
        raise click.UsageError("--json and --declare exclude each other")
    config = _read(url)
    needed = Topology(Names(config[NAMESPACE]), config[QUEUE_TYPE])
    queues = config[QUEUES]
    parts = _parts(needed, queues)
    if as_json:
        click.echo(json.dumps(_definitions(parts, vhost_of(config.address)), indent=2))
    elif declare:
        asyncio.run(_declare(config, needed))
        click.echo(f"{len(parts)} exchanges, queues and bindings are declared on {config}")
    else:
        click.echo(f"vhost {plain(vhost_of(config.address))}")
        for line in _lines(parts):
            click.echo(plain(line))


def _read(url: str) -> Config:
    address = parse_address(url)
    if address.scheme not in DEFAULT_PORTS:
        raise ConfigError(
            f"{address.scheme}:// is not the scheme of a RabbitMQ broker; give amqp://"
        )
    config = config_of(address)
    check_names(config)
    return config


def _parts(needed: Topology, queues: Sequence[str]) -> list[Part]:
    """In an order in which they can be declared, each once."""
    parts = [part for queue in queues for part in needed.of_queue(queue)]
    parts += (part for level in range(LEVELS) for part in needed.of_level(level))
    unique = {str(part): part for part in parts}  # several queues share an exchange
    return list(unique.values())


async def _declare(config: Config, needed: Topology) -> None:
    publisher = Publisher(Line(Broker(config), confirms=False), needed)
    try:
        for queue in config[QUEUES]:
            await publisher.ensure(queue, LEVELS - 1)
    finally:
        await publisher.close()


def _definitions(parts: Sequence[Part], vhost: str) -> dict[str, list[dict[str, Any]]]:
    """In the form of RabbitMQ's files of definitions."""
    definitions: dict[str, list[dict[str, Any]]] = {"exchanges": [], "queues": [], "bindings": []}
    kept = {"vhost": vhost, "durable": True, "auto_delete": False}
    for part in parts:
        if isinstance(part, Exchange):
            exchange = {"name": part.name, **kept, "type": "topic", "internal": False}
            definitions["exchanges"].append({**exchange, "arguments": {}})
        elif isinstance(part, Queue):
            definitions["queues"].append({"name": part.name, **kept, "arguments": part.arguments})
        elif isinstance(part, Binding):
            binding: dict[str, Any] = {
                "source": part.exchange,
                "vhost": vhost,
                "destination": part.to,
                "destination_type": "exchange" if part.to_exchange else "queue",
                "routing_key": part.key,
                "arguments": {},
            }
            definitions["bindings"].append(binding)
    return definitions


def _lines(parts: Sequence[Part]) -> list[str]:
    """For people."""
    exchanges = [f"  {part.name}" for part in parts if isinstance(part, Exchange)]
    queues: list[str] = []
    for part in parts:
        if isinstance(part, Queue):
            queues.append(f"  {part.name}")
            queues += (f"    {name}: {value!r}" for name, value in part.arguments.items())
    bindings = [
        f"  {part.exchange} --{part.key}--> {'exchange' if part.to_exchange else 'queue'} {part.to}"
        for part in parts
        if isinstance(part, Binding)
    ]
    return [
        *("", "topic exchanges, durable:", *exchanges),
        *("", "queues, durable, with their arguments:", *queues),
        *("", "bindings, from an exchange:", *bindings),
    ]

"""What releases have left on a broker, as its management plugin tells it; for the kit alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

Ask = Callable[[str, str, Any], Any]
"""Asks the plugin: method, path, and what is sent with it."""
MOST = 1000
"""Messages that are read of one queue."""
HOLD, ROUGHLY_MS = "offload-hold", 100
REQUEUE = "reject_requeue_true"


class AmqpStates:
    """The exchanges, queues, bindings and messages of a namespace, as JSON.

    They are read and laid without a line of the adapter's: it might read and write them in
    another way than the release did.
    """

    folder = Path(__file__).with_name("golden")
    beside = ("wire-1",)

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def read(self, *, namespace: str) -> str:
        start = f"{namespace}."
        exchanges = self._named("exchanges", "name", start)
        queues = self._named("queues?disable_stats=true", "name", start)
        bindings = self._named("bindings", "source", start)
        state = {
            "exchanges": [_of(each, "name", "type", "durable", "arguments") for each in exchanges],
            "queues": [_of(each, "name", "durable", "arguments") for each in queues],
            "bindings": [
                _of(each, "source", "destination", "destination_type", "routing_key", "arguments")
                for each in bindings
            ],
            "messages": [each for queue in queues for each in self._messages(queue["name"])],
        }
        return json.dumps(state, ensure_ascii=False, indent=1) + "\n"

    def _named(self, path: str, field: str, start: str) -> list[dict[str, Any]]:
        kind, _, query = path.partition("?")
        found = self._ask("GET", f"{kind}/%2F?{query}", None)
        own = [each for each in found if each[field].startswith(start)]
        return sorted(own, key=lambda each: (each[field], each.get("destination", "")))

    def _messages(self, queue: str) -> Iterator[dict[str, Any]]:
        given = {"count": MOST, "ackmode": REQUEUE, "encoding": "auto"}
        for message in self._ask("POST", f"queues/%2F/{_quoted(queue)}/get", given):
            properties = message["properties"]
            # Not the publisher's. How often a dead letter was looked at is a matter of chance.
            headers = properties["headers"]
            is_redelivered = bool(headers.pop("x-delivery-count", 0))
            if HOLD in headers:  # longer by what it took to publish it
                headers[HOLD] = math.ceil(headers[HOLD] / ROUGHLY_MS) * ROUGHLY_MS
            yield {
                "queue": queue,
                **_of(message, "exchange", "routing_key"),
                "redelivered": is_redelivered,
                "properties": properties,
                "body": message["payload"],
            }

    async def lay(self, *, namespace: str, state: str) -> None:
        given = json.loads(state)
        for each in given["exchanges"]:
            self._ask("PUT", f"exchanges/%2F/{_quoted(each.pop('name'))}", each)
        for each in given["queues"]:
            settings = _of(each, "durable", "arguments")
            self._ask("PUT", f"queues/%2F/{_quoted(each['name'])}", settings)
        for each in given["bindings"]:
            kind = each.pop("destination_type")[0]
            source, destination = _quoted(each.pop("source")), _quoted(each.pop("destination"))
            self._ask("POST", f"bindings/%2F/e/{source}/{kind}/{destination}", each)
        for queue in given["queues"]:
            messages = [each for each in given["messages"] if each["queue"] == queue["name"]]
            before = [each for each in messages if each["redelivered"]]
            self._publish(before)
            if before:
                content = {"count": len(before), "ackmode": REQUEUE, "encoding": "auto"}
                self._ask("POST", f"queues/%2F/{_quoted(queue['name'])}/get", content)
            # They are at the heads of their queues, where they went back to.
            self._publish([each for each in messages if not each["redelivered"]])

    def _publish(self, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            # By the way that it came, or it would go another when a delay is over.
            exchange = _quoted(message["exchange"] or "amq.default")
            content = {
                "properties": message["properties"],
                "routing_key": message["routing_key"],
                "payload": message["body"],
                "payload_encoding": "string",
            }
            answer = self._ask("POST", f"exchanges/%2F/{exchange}/publish", content)
            if not answer["routed"]:
                raise ValueError(f"no queue takes the message for {message['queue']}")


def _of(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _quoted(name: str) -> str:
    return quote(name, safe="")

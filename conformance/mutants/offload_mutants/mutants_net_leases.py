"""DUR: slips with leases that show when a connection fails and its worker lives."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection, Sequence

import msgspec

from offload import Delivery, Fetched, Settlement
from offload_mutants import net_wire as wire
from offload_mutants.net_driver import NetDriver, NetSubscription
from offload_mutants.registry import mutant


class _OverItsOwnConnection(NetSubscription):
    _connection: socket.socket | None = None
    _has_failed = False

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        if self._has_failed:
            return []
        request = wire.Extend(self._driver.namespace, [each.receipt for each in deliveries])
        try:
            lost = set(self._ask(request))
        except OSError:
            self._has_failed = True
            return []
        return [each for each in deliveries if each.receipt in lost]

    def _ask(self, request: wire.AnyRequest) -> list[int]:
        if self._connection is None:
            address, timeout = self._driver.address, self._driver.timeout
            self._connection = socket.create_connection(address, timeout)
        receipts: list[int] = wire.ask_over(self._connection, request)
        return receipts

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@mutant("DUR-7", base="net", quick=False)
class ExtendsOverAConnectionOfItsOwn(NetDriver):
    """Has a connection for its leases alone, and forgot that it may fail like any other."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _OverItsOwnConnection(self, queues)


class _ByJob(NetSubscription):
    def __init__(self, driver: NetDriver, queues: Sequence[str]) -> None:
        super().__init__(driver, queues)
        self._receipts: dict[str, int] = {}

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        self._receipts.update((each.id, each.receipt) for each in fetched.deliveries)
        return fetched

    async def settle(self, settlements: Sequence[Settlement]) -> Collection[Delivery]:
        lost = await super().settle([self._of_job(each) for each in settlements])
        ids = {each.id for each in lost}
        return [each.delivery for each in settlements if each.delivery.id in ids]

    def _of_job(self, settlement: Settlement) -> Settlement:
        receipt = self._receipts[settlement.delivery.id]
        delivery = msgspec.structs.replace(settlement.delivery, receipt=receipt)
        return msgspec.structs.replace(settlement, delivery=delivery)


@mutant("DUR-8", base="net", quick=False)
class KeepsReceiptsByJob(NetDriver):
    """Has a table of what it has taken, by the ids of the jobs: its own two runs are one there."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _ByJob(self, queues)


class _ExtendsAllOfItsOwn(NetSubscription):
    def __init__(self, driver: NetDriver, queues: Sequence[str]) -> None:
        super().__init__(driver, queues)
        self._worker = secrets.token_hex(4)

    async def fetch(self, limit: int) -> Fetched:
        request = wire.Fetch(self._driver.namespace, self._queues, limit, self._worker)
        fetched: Fetched = await self._driver.call(request)
        return fetched

    def extend(self, deliveries: Collection[Delivery]) -> Collection[Delivery]:
        receipts = [each.receipt for each in deliveries]
        request = wire.Extend(self._driver.namespace, receipts, self._worker)
        lost = set(wire.ask(self._driver.address, request, self._driver.timeout))
        return [each for each in deliveries if each.receipt in lost]


@mutant("DUR-5", base="net", quick=False)
class ExtendsAllOfItsOwn(NetDriver):
    """`UPDATE … WHERE worker = me`: also what it was given in an answer that never came."""

    async def subscribe(self, queues: Sequence[str]) -> NetSubscription:
        return _ExtendsAllOfItsOwn(self, queues)

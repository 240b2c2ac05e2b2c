"""One try to open a driver is the answer to all who wait for it."""

from __future__ import annotations

from offload.driver import Driver
from offload.errors import BackendUnavailableError
from offload.system_limits import limits_told


class Opening:
    """Opens a driver for several callers, of which one at a time may try.

    Those who waited while a try failed share its failure. Were each to try in turn, the last of
    many would wait for all the others (LIFE-4, PERF-8).
    """

    def __init__(self) -> None:
        self.failures = 0
        """How many tries found the backend unavailable; look before you wait for your turn."""
        self._reason = ""

    async def open(self, driver: Driver, failed_before: int) -> None:
        """Open the driver, unless a try has failed since there were `failed_before` failures."""
        if self.failures != failed_before:
            raise BackendUnavailableError(self._reason)
        try:
            with limits_told():
                await driver.open()
        except BackendUnavailableError as error:
            self.failures += 1
            self._reason = str(error)
            raise

"""How a stop spends its time: it is over within the grace and 1 s, whatever anybody does (LIFE-7).

                  from the stop        after the grace
    fetch         0.3 s                                    one that is under way may end
    handlers                           0.3 s               those that were cancelled may end
    calls                              0.6 s               verdicts and performs are stored
    cancelled                          0.65 s              calls that outlasted that may end
    leases                             0.7 s               an extension that is under way may end
    subscription                       0.8 s               it is closed
    driver                             0.9 s               it is closed

The tenth of a second that is left is for a machine that is busy.
"""

from __future__ import annotations

import asyncio

FETCH_SECONDS = 0.3
HANDLERS_SECONDS = 0.3
CALLS_SECONDS = 0.6
CANCELLED_SECONDS = 0.65
LEASES_SECONDS = 0.7
SUBSCRIPTION_SECONDS = 0.8
DRIVER_SECONDS = 0.9


class StopBudget:
    """Until when each part of one stop may take: times of the loop on which it was made."""

    def __init__(self, grace: float) -> None:
        """`grace` is how many seconds handlers have from now on; less than 0 if it is over."""
        now = asyncio.get_running_loop().time()
        self.fetch = now + FETCH_SECONDS
        self.grace = now + grace
        self.handlers = self.grace + HANDLERS_SECONDS
        self.calls = self.grace + CALLS_SECONDS
        self.cancelled = self.grace + CANCELLED_SECONDS
        self.leases = self.grace + LEASES_SECONDS
        self.subscription = self.grace + SUBSCRIPTION_SECONDS
        self.driver = self.grace + DRIVER_SECONDS

    @property
    def grace_left(self) -> float:
        """The same number as it is by now: for a budget on another loop."""
        return self.grace - asyncio.get_running_loop().time()

    def left(self, until: float) -> float:
        """How many seconds are left until one of these times; none if it is past."""
        return max(0.0, until - asyncio.get_running_loop().time())

"""Service: what does the service manager hear of us?

One datagram for each thing that systemd should know: that the first tick is over, that another
one is, that we stop.  Where nobody listens nothing is sent.  Nothing here waits, fails, decides or
reads the clock: how long a tick may take is systemd's to measure.
"""

import socket
from decimal import Decimal

from perps_bot.process import one_line

# Every call to the venue ends at its own deadline, 10 s at most; a tick makes several, and one
# whose venue does not answer ends with the first.
TICK_SECONDS_MAX = 60
WATCHDOG_TICKS, WATCHDOG_SECONDS_MIN = 3, 30
STATUS_LENGTH_MAX = 200


class Service:
    """Speaks to `address`, systemd's NOTIFY_SOCKET; empty: to nobody.

    interval  seconds between ticks
    """

    def __init__(self, address: str = "", interval: Decimal = Decimal(0)) -> None:
        # A name that begins with @ is one without a file.
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds(interval)
        self._is_ready = False

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def tick_ended(self, status: str) -> None:
        """A tick is over, whether or not the venue answered: one that hangs is never over.

        The first makes us ready: whatever refuses a start has refused it by then, and a venue
        that cannot be reached is waited for by the ticks, not by the start.
        """
        if self._is_ready:
            self._send("WATCHDOG=1", status)
        else:
            usec = int(self._watchdog_seconds * 1_000_000)
            self._is_ready = self._send(f"READY=1\nWATCHDOG_USEC={usec}", status)

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1\nWATCHDOG=1", status)

    def _send(self, words: str, status: str) -> bool:
        """Whether it was taken; a manager that takes nothing now must not hold up a tick."""
        if not self._address:
            return False
        text = f"{words}\nSTATUS={one_line(status)[:STATUS_LENGTH_MAX]}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto(text.encode("utf-8", "backslashreplace"), self._address)
        except (OSError, ValueError):  # ValueError: no address
            return False
        return True


def watchdog_seconds(interval: Decimal) -> Decimal:
    """After so long without the end of a tick the process hangs, and systemd starts it anew."""
    return max(Decimal(WATCHDOG_SECONDS_MIN), WATCHDOG_TICKS * (interval + TICK_SECONDS_MAX))

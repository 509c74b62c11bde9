"""Clock: what time is it, and what ends a wait?

The loop's time and its signals.  A handler only puts its number on a queue; the main thread acts.
Nothing here knows what the bot does with its time.
"""

import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic

# After what the feed tells, a tick comes early, but never sooner than this after the last one.
TICK_SECONDS_MIN = Decimal("0.5")
# How often a wait looks whether the owner has asked for something.
ASKED_EVERY_SECONDS = 0.5


class StopRequest:
    """The signals that the loop obeys, one at a time, in the order in which they came.

    is_heeded  the loop is stopping: nothing more needs to be interrupted for it
    is_asked   whether the owner asks for something; None: nobody looks
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    WAKE = 0  # no signal: something worth a tick has happened

    def __init__(self) -> None:
        # SimpleQueue.put is safe inside a signal handler; Event.set can deadlock there.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_woken = self._is_told = self.is_heeded = False
        self.is_asked: Callable[[], bool] | None = None

    def install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._take)

    def wake(self) -> None:
        """End the next wait early; may be called from any thread."""
        self._signals.put(self.WAKE)

    def interrupts(self) -> bool:
        """Whether a call to the venue should be given up, because the loop shall stop."""
        return self._is_told and not self.is_heeded

    def wait(self, seconds: Decimal, until_woken: bool = False) -> int | None:
        """Return the next signal, or None after `seconds`, once woken or once the owner asks."""
        ends_at = monotonic() + max(int(seconds * 1000), 0) / 1000
        while not (until_woken and (self._is_woken or self.is_asked and self.is_asked())):
            left = max(ends_at - monotonic(), 0)
            part = min(left, ASKED_EVERY_SECONDS) if self.is_asked else left
            try:
                number = self._signals.get(timeout=part)
            except queue.Empty:
                if part == left:
                    return None
                continue
            if number != self.WAKE:
                return number
            self._is_woken = True
        self._is_woken = False
        return None

    def _take(self, number: int, _frame: object) -> None:
        self._is_told |= number != signal.SIGUSR1
        self._signals.put(number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C for afterwards; processes and threads that are started meanwhile never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SystemClock:
    """The time, and waits that a signal ends.

    now  the venue's time where it is known, else the machine's
    """

    def __init__(
        self, stop_request: StopRequest | None = None, now: Callable[[], datetime] | None = None
    ) -> None:
        self.stop_request = stop_request or StopRequest()
        self._now = now or (lambda: datetime.now(UTC))
        self._asked_at = monotonic()

    def now(self) -> datetime:
        self._asked_at = monotonic()
        return self._now()

    def elapsed(self) -> Decimal:
        """Seconds since `now` was last asked, by the monotonic clock."""
        return Decimal(str(monotonic() - self._asked_at))

    def wait(self, seconds: Decimal) -> int | None:
        # Counted from the last `now`, so that ticks keep their distance however long one took.
        least = min(seconds, TICK_SECONDS_MIN)
        number = self.stop_request.wait(least - self.elapsed())
        if number is None:
            number = self.stop_request.wait(seconds - self.elapsed(), until_woken=True)
        return number

    def wall(self) -> datetime:
        """The machine's time, which its other processes know as well."""
        return datetime.now(UTC)

    def heed(self) -> None:
        """From now on, nothing is interrupted: the loop stops."""
        self.stop_request.is_heeded = True

    def is_over(self) -> bool:
        return False

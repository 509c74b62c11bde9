"""Pace: how long did it take, on a machine that does other things as well?

A bound in seconds is a claim about the program.  What the machine withholds from every process, for
it is busy or was stopped for a while, is none of it: a thread that wants to beat every hundredth of
a second tells when that was.
"""

import threading
import time

BEAT_SECONDS = 0.01
# A beat that is no later than this shows no more than another thread's turn.
LATE_SECONDS = 0.01


class Stopwatch:
    """Runs from `with` to its end, and may be read before and after that.

    real     seconds on the clock: for what must not be over sooner
    seconds  the same without those that the machine withheld: for what must not take longer
    """

    def __enter__(self):
        self.begun = self._beat = time.monotonic()
        self._ended, self._gaps = None, []
        self._lock, self._done = threading.Lock(), threading.Event()
        threading.Thread(target=self._listen, name="stopwatch", daemon=True).start()
        return self

    def __exit__(self, *_):
        self._look(time.monotonic())
        self._ended = time.monotonic()
        self._done.set()

    @property
    def real(self):
        return (self._ended or time.monotonic()) - self.begun

    @property
    def seconds(self):
        return self.until(self._ended or time.monotonic())

    @property
    def lost(self):
        return self.real - self.seconds

    def until(self, moment):
        """What it said, or will say, at that moment of time.monotonic()."""
        if not self._ended:
            self._look(moment)
        return moment - self.begun - sum(
            max(0.0, min(end, moment) - start) for start, end in list(self._gaps))

    def _listen(self):
        while not self._done.wait(BEAT_SECONDS):
            self._look(time.monotonic())

    def _look(self, now):
        """Note the time since the beat that should have been, if it is overdue."""
        with self._lock:
            due = self._beat + BEAT_SECONDS
            if now - due > LATE_SECONDS:
                self._gaps.append((due, now))
            self._beat = max(now, self._beat)

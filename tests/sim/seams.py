"""Seams: what stands in the place of the machine's clock, disk, signals and dice?

Everything here is driven by the schedule of one seed; nothing waits, and nothing is random that
the seed does not say.  `wired` puts the seams into the bot's rooms and takes them out again.
"""

import heapq
import os
import queue
import random
from contextlib import contextmanager
from datetime import timedelta
from errno import EIO, ENOSPC, EROFS
from pathlib import Path
from types import SimpleNamespace

from perps_bot import clock as clock_room
from perps_bot import feed as feed_room
from perps_bot import ops as ops_room
from perps_bot import rest as rest_room
from perps_bot import store as store_room
from perps_bot import transport as transport_room

PID = 4242
AGENDA_MAX = 10_000
SHORT_WRITE_BYTES = 536  # what a full tmpfs took of 1,000 bytes


class Killed(BaseException):
    """The process ended here: nothing of it runs any more."""


class Time:
    """Virtual time, and what is due in it.

    mono   seconds of the monotonic clock
    leapt  seconds by which the machine's wall clock is wrong
    """

    def __init__(self, begin):
        self.begin, self.mono, self.leapt = begin, 1000.0, 0.0
        self._agenda, self._count = [], 0
        self.signalled = False

    def monotonic(self):
        return self.mono

    def venue(self):
        return self.begin + timedelta(seconds=self.mono - 1000.0)

    def wall(self):
        return self.venue() + timedelta(seconds=self.leapt)

    def at(self, seconds, do, *arguments):
        """Have something done so many seconds from now."""
        self._count += 1
        heapq.heappush(self._agenda, (self.mono + seconds, self._count, do, arguments))
        if len(self._agenda) > AGENDA_MAX:
            raise RuntimeError("the agenda has no end")

    def next_due(self):
        return self._agenda[0][0] if self._agenda else float("inf")

    def advance(self, seconds):
        """Let time pass and everything happen that is due.  A signal does not end it."""
        until = self.mono + seconds
        while self._agenda and self._agenda[0][0] <= until:
            due, _, do, arguments = heapq.heappop(self._agenda)
            self.mono = max(self.mono, due)
            do(*arguments)
        self.mono = max(self.mono, until)

    def pass_until(self, until):
        """As `advance` to a moment, but a signal that comes ends it: whether it did not."""
        self.signalled = False
        while self._agenda and self._agenda[0][0] <= until:
            self.advance(self._agenda[0][0] - self.mono)
            if self.signalled:
                return False
        self.mono = max(self.mono, until)
        return True


class SignalQueue:
    """What the loop waits on, without waiting."""

    def __init__(self, time):
        self._time, self._items = time, []

    def put(self, item):
        self._items.append(item)
        self._time.signalled = True

    def get(self, timeout):
        until = self._time.mono + timeout
        while not self._items:
            if self._time.pass_until(until) and not self._items:
                raise queue.Empty
        return self._items.pop(0)


class Disk:
    """The disk of the bot's folder: real files in memory, and what of them would survive.

    refuses  errno of every write, or 0; `spares` bytes are still taken first
    step     called before, inside and after each operation; it may raise Killed
    note     called with every byte that was acknowledged
    """

    def __init__(self, step, note):
        self.step, self.note = step, note
        self.refuses = self.fails_sync = self.refuses_open = 0
        self.is_short = self.is_dead = False
        self.struck = self.cuts = self.lines = 0
        self._paths, self._durable, self._fresh, self._replaced = {}, {}, set(), {}

    # What the store calls

    def open(self, path, flags):
        self._alive()
        if self.refuses_open and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            self.struck += 1
            raise OSError(self.refuses_open, os.strerror(self.refuses_open))
        is_new = flags & os.O_CREAT and not os.path.lexists(path)
        fd = self._open(path, flags)
        self._paths[fd] = str(path)
        if is_new:
            self._fresh.add(str(path))
        return fd

    def write(self, fd, data):
        self._alive()
        path = self._paths.get(fd, "")
        self.step("disk write")
        if self.refuses:
            self.struck += 1
            self.lines += 1
            if self.is_short and len(data) > SHORT_WRITE_BYTES:
                return os.write(fd, data[:SHORT_WRITE_BYTES])
            raise OSError(self.refuses, os.strerror(self.refuses))
        try:
            self.step("disk inside", len(data))
        except Killed as killed:
            self.lines += 1
            os.write(fd, data[:killed.args[0] if killed.args else 0])
            raise
        written = os.write(fd, data)
        if path.endswith(".jsonl"):
            self.lines += 1
            self._durable.setdefault(path, 0)
            self.note(b"line", data)
        self.step("disk written")
        return written

    def fsync(self, fd):
        self._alive()
        self.step("disk fsync")
        if self.fails_sync:
            self.struck += 1
            raise OSError(self.fails_sync, os.strerror(self.fails_sync))
        path = self._paths.get(fd, "")
        if os.path.isdir(path):
            self._fresh = {name for name in self._fresh if os.path.dirname(name) != path}
        elif path:
            self._durable[path] = os.fstat(fd).st_size
        self.step("disk synced")

    def truncate(self, fd, size):
        self._alive()
        self.step("disk truncate")
        if self.refuses == EIO:
            self.struck += 1
            raise OSError(EIO, os.strerror(EIO))
        os.ftruncate(fd, size)
        self.cuts += 1

    def replace(self, source, target):
        self._alive()
        self.step("disk rename")
        if self.refuses_open:
            self.struck += 1
            raise OSError(self.refuses_open, os.strerror(self.refuses_open))
        os.replace(source, target)
        self._replaced[str(target)] = True
        self.note(os.path.basename(target).encode(), target)

    def _alive(self):
        if self.is_dead:
            raise Killed

    # What the schedule does to it

    def die(self):
        """The process is gone: no finally clause of it may touch a file any more."""
        self.is_dead = True

    def revive(self):
        self.is_dead = False
        self._paths.clear()

    def lose_power(self, dice):
        """Leave an image that a power cut may legally leave."""
        for path in sorted(self._durable):
            if not os.path.exists(path):
                continue
            size, durable = os.path.getsize(path), self._durable[path]
            if path in self._fresh and not durable and dice.random() < 0.5:
                os.remove(path)
                continue
            if size > durable:
                tail = dice.choice((0, size - durable, dice.randrange(size - durable + 1)))
                os.truncate(path, durable + tail)
                if dice.random() < 0.2:  # the length reached the disk before the data did
                    with open(path, "ab") as file:
                        file.write(bytes(dice.randrange(1, 40)))
        for path in sorted(self._replaced):
            if os.path.exists(path) and dice.random() < 0.4:
                size = os.path.getsize(path)
                os.truncate(path, dice.choice((0, dice.randrange(size + 1))))
        self._fresh.clear()

    def stamp(self, folder, seconds):
        """Give all files one time: their names must not depend on when the test ran."""
        for path in sorted(Path(folder).rglob("*")):
            os.utime(path, (seconds, seconds))


class Signer:
    """Signs nothing: the token says when it was made, which is what the venue checks here."""

    def __init__(self, name="organizations/sim/apiKeys/canary-7Q"):
        self.name = name

    def rest_token(self, method, host, path, now):
        return f"{now.timestamp():.3f}"

    websocket_token = None


class _Os:
    """The module `os`, of a process that always has the same number."""

    getpid = staticmethod(lambda: PID)

    def __getattr__(self, name):
        return getattr(os, name)


@contextmanager
def wired(time, disk, lane, signals_of, more=()):
    """Put the seams into the rooms.

    lane  makes the line to the venue
    more  seams that this seed alone has
    """
    disk._open = store_room._open
    clock_queue = SimpleNamespace(SimpleQueue=signals_of, Empty=queue.Empty)
    seams = [
        # room             name            what stands there
        (rest_room,        "monotonic",    time.monotonic),
        (rest_room,        "Lane",         lane),
        (transport_room,   "monotonic",    time.monotonic),
        (transport_room,   "sleep",        time.advance),
        (clock_room,       "monotonic",    time.monotonic),
        (clock_room,       "queue",        clock_queue),
        (feed_room,        "time",         SimpleNamespace(monotonic=time.monotonic)),
        (feed_room,        "random",       random.Random(1)),
        (store_room,       "_write",       disk.write),
        (store_room,       "_fsync",       disk.fsync),
        (store_room,       "_truncate",    disk.truncate),
        (store_room,       "_replace",     disk.replace),
        (store_room,       "_open",        disk.open),
        (ops_room,         "os",           _Os()),
        *more,
    ]
    kept = [(room, name, getattr(room, name)) for room, name, _ in seams]
    try:
        for room, name, seam in seams:
            setattr(room, name, seam)
        yield
    finally:
        for room, name, real in kept:
            setattr(room, name, real)


ERRNO = {"ENOSPC": ENOSPC, "EIO": EIO, "EROFS": EROFS}

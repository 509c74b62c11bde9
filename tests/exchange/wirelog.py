"""Wire log: what crossed the wire, byte for byte, and what was asked?

Every line is one JSON object, written by one system call before the bytes are sent or right after
they arrived, so the log is whole up to the moment at which the bot, or this process, died.  Bytes
stand as text, one character for each byte (latin-1).  The tests' own control calls are not in it.
"""

import json
import os
import threading
import time
from collections import Counter

HOSTILE = "filler"  # bytes that only a fault sends: counted here, not written down


class WireLog:
    """Lines of: at (venue time), clock (seconds, monotonic), connection, kind and its own keys.

    kind     open, in, out, filler, close; request (decoded, with the status of the answer, None
             where there is none); upgrade (to a WebSocket), heard (what its client said)
    """

    def __init__(self, path, venue_time):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._venue_time = venue_time
        self._lock = threading.Lock()
        self._counts = Counter()

    def record(self, connection, kind, **row):
        row = {"at": self._venue_time().isoformat(), "clock": round(time.monotonic(), 6),
               "connection": connection, "kind": kind, **row}
        line = json.dumps(row, default=str).encode() + b"\n"
        with self._lock:
            if self._file is not None:
                os.write(self._file, line)
                self._counts[kind] += 1

    def data(self, connection, kind, data):
        self.record(connection, kind, data=data.decode("latin-1"))

    def filler(self, connection, count):
        self.record(connection, HOSTILE, count=count)

    def counts(self):
        """Say how many lines of each kind there are."""
        with self._lock:
            return dict(self._counts)

    def close(self):
        with self._lock:
            os.close(self._file)
            self._file = None

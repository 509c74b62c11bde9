"""Network faults: in what way does the answer to a request go wrong?

A fault is a row: which requests it hits, how often, and its own numbers.  Whether the exchange is
asked before things go wrong is told by the table, or by `accept` in the row: an order that was
booked and an order that was not look the same from outside.  What the exchange books is not
decided here.
"""

import gzip
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from .connection import FILLER, encoded_answer, encoded_json

HTML = b"<html><head><title>%d</title></head><body><h1>error code: %d</h1></body></html>"
API = "/api/v3/brokerage"
ON_DEMAND = {"error_details": "refused on demand", "message": "refused on demand"}
JSON_STATUS = {400: {"error": "INVALID_ARGUMENT", **ON_DEMAND},
               403: {"error": "PERMISSION_DENIED", **ON_DEMAND},
               404: {"error": "unknown", "error_details": "Not Found", "message": "Not Found"},
               408: {"error": "unknown", **ON_DEMAND},
               409: {"error": "unknown", **ON_DEMAND},
               429: {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}}
HUGE_BYTES = 1_000_000_000
ENDLESS_CHUNKS_MAX = 200_000
BOMB_BYTES = 64_000_000
HOLD_SECONDS_MAX = 300


class Faults:
    """The faults in force, first come first served; each hit uses up one of its `times`."""

    def __init__(self):
        self._rows, self._lock = [], threading.Lock()

    def add(self, name, match="", times=1, after=0, **numbers):
        """Put a fault in force for requests whose "METHOD path" contains `match`.

        match    "POST /orders" means all below it too, "POST /orders$" this path alone
        times    how many requests are hit; None for all until "clear"
        after    how many matching requests pass unharmed first
        accept   whether the exchange is asked first; by the table when not given
        """
        with self._lock:
            if name == "clear":
                self._rows.clear()
                return
            if name not in ACTS:
                raise ValueError(f"no network fault {name!r}; there are {sorted(ACTS)}")
            row = {"name": name, "match": match, "times": times, "after": after, **numbers}
            self._rows.append(row)

    def hitting(self, request, served):
        """Return the row that hits this request, or None; `served` counts earlier answers."""
        with self._lock:
            for row in self._rows:
                if matches(row, request, served) and not spared(row):
                    if row["times"] is not None:
                        row["times"] -= 1
                        self._rows = [kept for kept in self._rows if kept["times"] != 0]
                    return row
        return None


def matches(row, request, served):
    if row["name"] == "close_keepalive" and not served:
        return False
    short = request.name.replace(API, "", 1)
    return row["match"] in f"{request.name}$" or row["match"] in f"{short}$"


def spared(row):
    row["after"] -= 1
    return row["after"] >= 0


def asks_first(row):
    return row.get("accept", ACTS[row["name"]][1])


def act(row, connection, status, body, kind):
    """Answer wrongly; say whether the connection can be used again."""
    return ACTS[row["name"]][0](row, connection, status, body, kind)


def wrong_status(row, connection, *_):
    status = row.get("status", 500)
    if status == 401:
        return connection.answer(401, b"Unauthorized", "text/plain")
    headers = [("Retry-After", row["retry_after"])] if "retry_after" in row else []
    if status in JSON_STATUS:
        return connection.answer(status, encoded_json(JSON_STATUS[status]), headers=headers)
    return connection.answer(status, HTML % (status, status), "text/html", headers)


def silence(row, connection, *_):
    connection.wait_for_the_peer_to_leave()
    return False


def reset(row, connection, *_):
    connection.reset()
    return False


def hang_up(row, connection, *_):
    return False


def truncated(row, connection, status, body, kind):
    return connection.answer(status, body[:len(body) // 2], kind)


def wrong_length(row, connection, status, body, kind):
    whole = encoded_answer(status, body, kind)
    connection.send(whole.replace(b"Content-Length: %d" % len(body),
                                  b"Content-Length: %d" % (len(body) + 1000)))
    return False


def drip(row, connection, status, body, kind):
    whole = encoded_answer(status, body, kind)
    return connection.send(whole[:len(whole) - len(body)]) and dripped(row, connection, body)


def drip_headers(row, connection, status, body, kind):
    return dripped(row, connection, encoded_answer(status, body, kind))


def dripped(row, connection, data):
    pause = 1 / row.get("bytes_per_second", 10)
    for index in range(len(data)):
        if connection.stopping.wait(pause) or not connection.send(data[index:index + 1]):
            return False
    return True


def endless(row, connection, *_):
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"%x\r\n%s\r\n" % (len(FILLER), FILLER)
    connection.filler(chunk, ENDLESS_CHUNKS_MAX, row.get("pause_seconds", 0))
    return False


def huge(row, connection, *_):
    size = row.get("bytes", HUGE_BYTES)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % size)
    connection.filler(FILLER, size // len(FILLER) + 1)
    return False


def bomb(row, connection, *_):
    body = gzip.compress(b" " * row.get("bytes", BOMB_BYTES), compresslevel=1)
    return connection.answer(200, body, headers=[("Content-Encoding", "gzip")])


def redirect(row, connection, *_):
    return connection.answer(row.get("status", 307), b"", headers=[("Location", row["to"])])


def any_answer(row, connection, *_):
    """Answer with the very body of the row: NaN, doubled keys, deep nesting, whatever it says."""
    return connection.answer(row.get("status", 200), row["body"].encode("utf-8", "surrogatepass"),
                             row.get("kind", "application/json"))


def html_200(row, connection, *_):
    return connection.answer(200, HTML % (200, 200), "text/html")


def empty_200(row, connection, *_):
    return connection.answer(200)


def wrong_type(row, connection, *_):
    return connection.answer(200, b"[]")


def killed(row, connection, status, body, kind):
    """The client, `pid`, dies now, if `name_of_it` stands in its command line; `bytes` of the
    answer have reached it, all where none is named.
    """
    if row.get("bytes") != 0:
        connection.send(encoded_answer(status or 200, body, kind)[:row.get("bytes")])
    with suppress(OSError):  # it is gone already, and its number may be somebody else's
        if row["name_of_it"].encode() in Path(f"/proc/{row['pid']}/cmdline").read_bytes():
            os.kill(row["pid"], signal.SIGKILL)
    return False


def delayed(row, connection, status, body, kind):
    connection.stopping.wait(min(row.get("seconds", 1), HOLD_SECONDS_MAX))
    return connection.answer(status, body, kind)


ACTS = {
    # name                   what is done    is the exchange asked first?
    "status":                (wrong_status,  False),
    "hang":                  (silence,       False),
    "timeout_after_accept":  (silence,       True),
    "reset_before":          (reset,         False),
    "reset_after_accept":    (reset,         True),
    "close_keepalive":       (hang_up,       False),
    "close_after_accept":    (hang_up,       True),
    "truncate":              (truncated,     True),
    "wrong_length":          (wrong_length,  True),
    "drip":                  (drip,          True),
    "drip_headers":          (drip_headers,  True),
    "endless":               (endless,       True),
    "huge":                  (huge,          True),
    "gzip":                  (bomb,          True),
    "redirect":              (redirect,      False),
    "answer":                (any_answer,    True),
    "html_200":              (html_200,      True),
    "empty_200":             (empty_200,     True),
    "wrong_type":            (wrong_type,    True),
    "delay":                 (delayed,       True),
    "kill":                  (killed,        True),
}

"""Journal: what do the bot's files say, read by somebody who shares no code with it?

The events are followed line by line, each crc and number checked, and folded into what the
checks ask for.  Imports nothing from perps_bot.
"""

import json
import os
import zlib
from datetime import datetime
from decimal import Decimal

CRC_BYTES = len(',"crc":"00000000"}\n')
LINE_BYTES_MAX = 8192
TAG = "pb-"
TERMINAL = ("filled", "cancelled", "expired", "rejected", "lost")


class Unsound(Exception):
    """The file does not hold what an event file must."""


class Journal:
    """The events, folded.

    intents   by client order id: the fields of its order.intended
    status    by client order id: what the events say of it last
    filled    by client order id: the largest filled_quantity so far
    holds     by kind: REDUCING or HALTED
    fills     how often each fill id is there
    held      by symbol: what the last trade there left
    levels    by symbol: where the stop of the position was last
    wants     by symbol: what was decided there last
    lost      USD lost today by the trades and payments alone; None while that is not all
    """

    def __init__(self, folder):
        self.folder = folder
        self.forget()

    def forget(self):
        """Read everything anew at the next look."""
        self.seq, self._crc, self._path, self._offset = 0, None, None, 0
        self.intents, self.status, self.filled, self.holds = {}, {}, {}, {}
        self.fills, self.days, self.news = {}, {}, []
        self.kinds, self.changed_at = {}, ""
        self.held, self.levels, self.lost, self._booked_at = {}, {}, None, ""
        self.wants, self._told = {}, set()

    def follow(self):
        """Read what was added; the new events are also kept in `news`."""
        while True:
            self._read()
            following = [path for path in self._files()
                         if path > (self._path or "") and _has_a_line(path)]
            if not following:
                return
            self._path, self._offset, self._crc = following[0], 0, None

    def _files(self):
        try:
            return sorted(os.path.join(self.folder, name) for name in os.listdir(self.folder)
                          if name.endswith(".jsonl"))
        except FileNotFoundError:
            return []

    def _read(self):
        try:
            if self._path is None or os.stat(self._path).st_size <= self._offset:
                return
        except FileNotFoundError:
            return
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines(keepends=True):
            self._take(line)
        self._offset += end

    def _take(self, line):
        where = f"{os.path.basename(self._path)} after seq {self.seq}"
        if not line.isascii() or not line[:-1].decode("ascii").isprintable():
            raise Unsound(f"I-45 {where}: a line that is not printable")
        event = json.loads(line)
        if event["type"] != "day.opened" and len(line) > LINE_BYTES_MAX:
            raise Unsound(f"I-45 {where}: a line of {len(line)} bytes")
        if self._crc is None:
            self._crc = int(event["chain"], 16)
        self._crc = zlib.crc32(line[:-CRC_BYTES], self._crc)
        if event["crc"] != f"{self._crc:08x}":
            raise Unsound(f"I-17 {where}: the crc does not fit")
        if self.seq and event["seq"] != self.seq + 1:
            raise Unsound(f"I-17 {where}: seq {event['seq']}")
        self.seq = event["seq"]
        self._fold(event)
        self.news.append(event)

    def _fold(self, event):
        kind = event["type"]
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        fold = FOLDS.get(kind)
        if fold is not None:
            fold(self, event)

    def _intended(self, event):
        identity = event["client_order_id"]
        self.intents[identity] = event
        self.status.setdefault(identity, "intended")

    def _updated(self, event):
        identity, status = event["client_order_id"], event["status"]
        filled = Decimal(event["filled_quantity"])
        if filled < self.filled.get(identity, 0):
            raise Unsound(f"I-24 {identity}: filled fell to {filled}")
        before = self.status.get(identity)
        if before in TERMINAL and before != "lost" and status not in TERMINAL:
            raise Unsound(f"I-24 {identity}: was {before}, is {status}")
        self.status[identity], self.filled[identity] = status, filled

    def _unknown(self, event):
        self.status[event["client_order_id"]] = "unknown"

    def _lost(self, event):
        self.status[event["client_order_id"]] = "lost"

    def _traded(self, event):
        self.fills[event["fill_id"]] = self.fills.get(event["fill_id"], 0) + 1
        self._booked_at = event["ts"]
        self.held[event["symbol"]] = Decimal(event["position_quantity"])
        if not self.held[event["symbol"]]:
            self.levels.pop(event["symbol"], None)
        if self.lost is not None:
            self.lost += Decimal(event["fee"]) - Decimal(event["realized_pnl"])

    def _paid(self, event):
        self._booked_at = event["ts"]
        if self.lost is not None:
            self.lost += Decimal(event["amount"])

    def _adopted(self, event):
        self.held[event["symbol"]] = Decimal(event["venue"])
        self.levels.pop(event["symbol"], None)
        self.lost = None

    def _stopped(self, event):
        """A stop only ever comes nearer to the price; one that was in doubt is told again."""
        if event["client_order_id"] in self._told:
            return
        self._told.add(event["client_order_id"])
        symbol, level = event["symbol"], Decimal(event["stop_price"])
        held, last = self.held.get(symbol, 0), self.levels.get(symbol, level)
        if (level - last) * held < 0:
            if not event["client_order_id"].startswith(TAG):
                return  # the venue brought it along, and ours will replace it
            raise Unsound(f"ratchet {symbol}: {held} held, the stop goes from {last} to {level}")
        self.levels[symbol] = level

    def _signalled(self, event):
        """While nothing is held the day's loss is what its trades and payments cost.

        The account was read when the tick began: what the tick itself booked is not in it.
        """
        self.wants[event["symbol"]] = event["action"]
        if self.lost is None or any(self.held.values()) or self._booked_at == event["ts"]:
            return
        if Decimal(event["daily_loss"]) != self.lost:
            raise Unsound(f"I-34 seq {event['seq']}: {event['daily_loss']} USD lost today, by the "
                          f"trades {self.lost}")

    def _changed(self, event):
        self.changed_at = event["ts"]
        if event.get("clears_loss"):
            self.lost = None if any(self.held.values()) else Decimal(0)
        if event["state"] == "TRADING":
            self.holds.pop(event["kind"], None)
        else:
            self.holds[event["kind"]] = event["state"]

    def _opened(self, event):
        day = event["day"]
        if day in self.days:
            raise Unsound(f"I-34: the day {day} was opened twice")
        self.days[day] = event.get("equity")
        self.lost = None if any(self.held.values()) else Decimal(0)
        said = event["snapshot"].get("risk", {}).get("holds", {})
        self.holds = {kind: hold["state"] for kind, hold in said.items()}

    def _answered(self, event):
        """Whoever was told that it is halted can rely on it; nobody resumes meanwhile."""
        if event["exit_code"] == 0 and event["command"] != "resume" and not self.halted:
            raise Unsound(f"I-12 seq {event['seq']}: a {event['command']} was answered with 0, "
                          f"and the events know of no halt")

    @property
    def halted(self):
        return any(state == "HALTED" for state in self.holds.values())

    @staticmethod
    def at(event):
        return datetime.fromisoformat(event["ts"])


def _has_a_line(path):
    """Else its first write was torn, and the day before may still go on."""
    with open(path, "rb") as file:
        return file.readline().endswith(b"\n")


FOLDS = {
    "order.intended": Journal._intended,
    "order.updated": Journal._updated,
    "order.unknown": Journal._unknown,
    "order.lost": Journal._lost,
    "trade.executed": Journal._traded,
    "funding.paid": Journal._paid,
    "position.adopted": Journal._adopted,
    "reconcile.mismatch": Journal._adopted,
    "stop.placed": Journal._stopped,
    "stop.moved": Journal._stopped,
    "strategy.signal": Journal._signalled,
    "state.changed": Journal._changed,
    "day.opened": Journal._opened,
    "control.answered": Journal._answered,
}

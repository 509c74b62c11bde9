"""Judge: what must hold after a crash, beside what the checks of the simulation hold?

Imports nothing from perps_bot, as the checks do not.
"""

import json
import os
from collections import Counter
from datetime import datetime
from decimal import Decimal

from sim.checks import Broken, Checks
from sim.world import IDS

from .disk import EVENTS

ZERO = Decimal(0)
LOSS_SLACK = Decimal(25)  # USD: the books value at the mark, the venue at its own
HEALTH_VALID_SECONDS = 16  # three ticks, see the runbook
ADOPTIONS = ("position.adopted", "reconcile.mismatch")
MUST_BE_SYNCED = (
    "order.intended", "order.updated", "order.unknown", "order.lost", "trade.executed",
    "funding.paid", "stop.placed", "stop.moved", "position.adopted", "state.changed", "day.opened",
    "bot.started", "bot.stopped")
SIGN = {"buy": 1, "sell": -1}


class Judge(Checks):
    """The checks of the simulation, and those of the disk."""

    def __init__(self, sim):
        super().__init__(sim)
        self.written = {}

    def process_ended(self, how):
        super().process_ended(how)
        self.written = {}
        for name in _day_files():
            with open(f"{EVENTS}/{name}", "rb") as file:
                self.written[name] = file.read()
        if self.sim.disk.inflight:
            path, data = self.sim.disk.inflight
            name = os.path.basename(path)
            self.written[name] = self.written.get(name, b"") + data

    def files_changed(self):
        """What is not sure may be anything: the events are looked at when a start has read them."""
        self.i16_acknowledged_events_survive()
        self.journal.forget()
        self._lines = None

    def i16_what_must_be_synced_is(self):
        """Nothing is asked or sent while an order, money or a halt is not safely on the disk."""
        for name in _day_files()[-1:]:
            path, durable = f"{EVENTS}/{name}", self.sim.disk._durable.get(f"{EVENTS}/{name}", 0)
            if self.sim.disk.struck or os.path.getsize(path) <= durable:
                continue
            with open(path, "rb") as file:
                file.seek(durable)
                for line in file:
                    if (kind := json.loads(line)["type"]) in MUST_BE_SYNCED:
                        self.fail("I-16", f"{kind} is not synced, and the bot goes on")

    def before_request(self, asked):
        self.i16_what_must_be_synced_is()
        if asked.method == "POST" and asked.body and "client_order_id" in asked.body and (
                self._is_entry(asked) and self.sim.disk.failed_sync):
            self.fail("I-23", f"an entry after a failed fsync: {asked}")
        super().before_request(asked)

    def recovered(self, image, found, kept):
        """What a recovery made of the day files: by name, and what it kept of what it cut."""
        for name, data in image.items():
            cut = data[len(found.get(name, b"")):]
            if cut and not any(cut in each for each in kept):
                self.fail("A7", f"{name}: {len(cut)} bytes were cut and are kept nowhere")
        for name, data in found.items():
            if not (self.written.get(name, b"") + b"\n").startswith(data) or (
                    data and not data.endswith(b"\n")):
                self.fail("I-17", f"{name}: what came back is not a prefix of what was written")
        for path, data in self.acked.items():
            if not found.get(os.path.basename(path), b"").startswith(data):
                self.fail("I-16", f"{path}: a recovery cut what was synced")

    def i19_the_fills_add_up(self):
        """Fills and adoptions in the events are the venue's position."""
        held = folded()
        alone = self._left_alone()
        for symbol in self.settings.symbols:
            truth = self.held(IDS[symbol]) * self.engine.contract_size(IDS[symbol])
            if held[symbol] != truth and f"{symbol} is left alone" not in alone:
                self.fail("I-19", f"{symbol}: the events add up to {held[symbol]}, the venue "
                                  f"holds {truth}")

    def i34_the_loss_is_the_days(self):
        """What the books lost today is what the account lost since the day was opened."""
        state = self._file("last_state.json")
        begun = next(reversed(self.journal.days.values()), None)
        if state is None or begun is None or self.engine.deposits:
            return
        lost = Decimal(begun) - self.engine.equity()
        said = Decimal(state["daily_loss"]["loss"])
        if abs(lost - said) > LOSS_SLACK and "alert" not in self.journal.kinds:
            self.fail("I-34", f"the books lost {said} today, the account {lost}")

    def truth(self):
        """What the exchange holds, and what health says of it."""
        health = self._file("health.json") or {}
        return {"held": {s: self.held(IDS[s]) for s in self.settings.symbols},
                "entries": sum(len(self.live(IDS[s], "entry")) for s in self.settings.symbols),
                "ok": bool(health.get("ok")), "lives": (self.sim.processes, len(self.signals))}

    def while_broken(self, well):
        """The disk refused something, and may do so still.  `well`: the truth without that."""
        disk, now = self.sim.disk, self.truth()
        health = self._file("health.json")
        refuses = disk.error is not None and (
            self.time.mono - disk.struck_since > HEALTH_VALID_SECONDS)
        is_told = health is None or not health["ok"] or (
            datetime.fromisoformat(health["valid_until"]) < self.time.venue())
        if (refuses or disk.failed_sync) and not is_told:
            self.fail("I-41", f"health is ok, and the disk refuses: {health}")
        if now["lives"] != well["lives"]:
            return  # where none ran, none could act
        for symbol, held in well["held"].items():
            if not held and now["held"][symbol]:
                self.fail("I-14", f"{symbol}: {now['held'][symbol]} contracts are still held, "
                                  f"which a disk that works saw closed")
        if now["entries"] > well["entries"]:
            self.fail("I-14", f"{now['entries']} entries still rest")
        if disk.error is None and not disk.failed_sync and well["ok"] and not now["ok"]:
            self.fail("A10", f"the disk is well again, and health is not: {health}")

    def nothing_is_open(self):
        unknown = [cid for cid, status in self.journal.status.items()
                   if status in ("unknown", "intended")]
        if unknown:
            self.fail("I-30", f"still unknown: {unknown}")
        bare = [symbol for counts in (self.bare, self.orphan) for symbol in counts
                if counts[symbol]]
        if bare:
            self.fail("stop", f"{bare}: stops and position differ")

    def is_settled(self):
        """Whether all that must be true in the end is true already."""
        super().at_the_end()
        self.nothing_is_open()
        self.i19_the_fills_add_up()

    def at_the_end(self):
        super().at_the_end()
        self.nothing_is_open()
        self.i19_the_fills_add_up()
        self.i34_the_loss_is_the_days()


def _day_files():
    if not os.path.isdir(EVENTS):
        return []
    return sorted(name for name in os.listdir(EVENTS) if name.endswith(".jsonl"))


def folded():
    """What the events add up to, by symbol: every fill, and every position that was taken over."""
    held = Counter()
    for name in _day_files():
        with open(f"{EVENTS}/{name}", "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    continue
                event = json.loads(line)
                if event["type"] == "trade.executed":
                    held[event["symbol"]] += Decimal(event["quantity"]) * SIGN[event["side"]]
                elif event["type"] in ADOPTIONS:
                    held[event["symbol"]] = Decimal(event["venue"])
    return held


__all__ = ("Broken", "Judge", "folded")

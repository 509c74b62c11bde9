"""Judge: after a death, is anything lost, sent twice, or not as the exchange has it?

Read are the wire log, the exchange's books and the event files, and nothing of perps_bot is
imported.  It remembers what it saw: what was once on disk must be there for ever.
"""

import json
from collections import Counter, defaultdict
from datetime import datetime
from decimal import Decimal

from exchange.forms import SIGN
from live import BTC, ETH, IDS, SOL, XRP
from sim.journal import TERMINAL, Journal, Unsound

API = "/api/v3/brokerage"
CREATES = (f"{API}/orders", f"{API}/orders/close_position")
CANCELS = f"{API}/orders/batch_cancel"
ENTRY_KINDS = ("market_market_ioc", "sor_limit_ioc", "limit_limit_gtc", "limit_limit_gtd")
# Base units of one contract.
SIZES = {BTC: Decimal("0.01"), ETH: Decimal("0.1"), SOL: Decimal(5), XRP: Decimal(500)}
SYMBOL_OF = {product_id: symbol for symbol, product_id in IDS.items()}
# How long an order that never arrived is looked for, and what a loaded machine adds to it: so
# long it counts as live, and an exit as one that will close what no stop covers meanwhile.
ABSENT_SECONDS_MAX = {"entry": 60 + 90, "exit": 10 + 90, "stop": 10 + 90}
# Nobody but the bot acts here, so its books may never have to give way to the venue's.
NEVER = ("reconcile.mismatch", "position.adopted")
HOLDS_OF_PEOPLE = ("signal", "operator")


class Broken(Exception):
    """What must hold does not."""


class Wire:
    """The requests that reached the exchange, each line of its log read once."""

    def __init__(self, path):
        self._path, self._offset = path, 0
        self.posts = []

    def follow(self):
        """Take in what was added; return the new requests that could move money."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[:data.rfind(b"\n") + 1]
        self._offset += len(data)
        new = [json.loads(line) for line in data.splitlines()
               if b'"kind": "request"' in line and b'"method": "POST"' in line]
        self.posts += new
        return new

    def since(self, clock):
        """The requests since a moment of time.monotonic(), which all processes share."""
        self.follow()
        return [row for row in self.posts if row["clock"] >= clock]


class Judge:
    """What was seen of one account so far.

    held  by symbol, base units, signed: the position that the events tell
    """

    def __init__(self, wire_log, events):
        self.wire, self.journal = Wire(wire_log), Journal(events)
        self.held = defaultdict(Decimal)
        self._events, self._seen = events, {}
        self._creates = set()

    def look(self):
        """What must hold at every moment; Broken says what does not."""
        creates = [row for row in self.wire.follow() if row["path"] in CREATES]
        self._nothing_acknowledged_is_lost()
        try:
            self.journal.follow()
        except Unsound as unsound:
            raise Broken(str(unsound)) from None
        for event in self.journal.news:
            self._fold(event)
        self.journal.news.clear()
        for row in creates:
            self._sent_once_and_written_before(row["body"])
        if twice := [fill for fill, count in self.journal.fills.items() if count > 1]:
            raise Broken(f"I-18: fills booked twice: {twice}")

    def _nothing_acknowledged_is_lost(self):
        """I-16, I-17: what was on disk before is an exact prefix of what is there now."""
        for path in sorted(self._events.glob("*.jsonl")):
            now = path.read_bytes()
            if not now.startswith(self._seen.get(path, b"")):
                raise Broken(f"I-16: {path.name} lost what it had acknowledged")
            self._seen[path] = now[:now.rfind(b"\n") + 1]
        if gone := [path.name for path in self._seen if not path.exists()]:
            raise Broken(f"I-16: {gone} are gone")

    def _sent_once_and_written_before(self, body):
        """I-1, I-3: one request an id, and on disk it is the very same order."""
        identity = body["client_order_id"]
        if identity in self._creates:
            raise Broken(f"I-1: {identity} was sent twice")
        self._creates.add(identity)
        intent = self.journal.intents.get(identity)
        if intent is None:
            raise Broken(f"I-3: {identity} was sent and is not on disk")
        if (said := written(intent)) != (sent := requested(body)):
            raise Broken(f"I-3: on disk {said}, on the wire {sent}")

    def _fold(self, event):
        kind = event["type"]
        if kind in NEVER:
            raise Broken(f"E2: {event}")
        if kind == "state.changed" and event["kind"] not in HOLDS_OF_PEOPLE:
            raise Broken(f"a hold that nobody caused: {event}")
        if kind == "trade.executed":
            self.held[event["symbol"]] = Decimal(event["position_quantity"])

    # Against the exchange

    def books(self, truth):
        """What must hold of the exchange's books at every moment."""
        ids = Counter(order["client_order_id"] for order in truth["orders"])
        if twice := [identity for identity, count in ids.items() if count > 1]:
            raise Broken(f"I-1: placed twice: {twice}")
        held, opened_by = defaultdict(Decimal), {}
        for fill in truth["fills"]:
            product_id = fill["product_id"]
            before = held[product_id]
            held[product_id] += SIGN[fill["side"]] * Decimal(fill["size"])
            if not before:
                opened_by[product_id] = fill["order_id"]
            elif held[product_id] * before < 0:
                raise Broken(f"D11: {product_id} went from {before} to {held[product_id]}")
            elif abs(held[product_id]) > abs(before) and opened_by[product_id] != fill["order_id"]:
                raise Broken(f"a second entry in {product_id}: {before} became {held[product_id]}")

    def differs(self, truth, lived=0):
        """In what way the bot's books are not the exchange's, or ""; I-30."""
        ours = {symbol: quantity for symbol, quantity in self.held.items() if quantity}
        if ours != (theirs := positions(truth)):
            return f"we hold {ours}, the exchange says {theirs}"
        placed = {order["client_order_id"]: order for order in truth["orders"]}
        open_there = {identity for identity, order in placed.items()
                      if order["status"] in ("OPEN", "PENDING", "QUEUED")}
        open_here = {identity for identity, status in self.journal.status.items()
                     if status not in TERMINAL and not self._never_arrived(identity, placed)}
        if open_here != open_there:
            return f"orders differ: only here {open_here - open_there}, only there " \
                   f"{open_there - open_here}"
        unknown = self.unknown(truth, lived)
        missing = {self.journal.intents[identity]["symbol"] for identity in unknown}
        for symbol, quantity in theirs.items():
            if symbol not in missing and guarded(truth, symbol) != abs(quantity):
                return f"{symbol} {quantity} has stops for {guarded(truth, symbol)}"
        return ""

    def unknown(self, truth, lived=0):
        """The ids of orders that never arrived and are still looked for; D4.

        lived  seconds that this process had for it: each looks anew
        """
        placed = {order["client_order_id"] for order in truth["orders"]}
        found = [identity for identity in self.journal.status
                 if self._never_arrived(identity, placed)]
        for intent in map(self.journal.intents.get, found):
            age = datetime.fromisoformat(truth["now"]) - Journal.at(intent)
            if min(age.total_seconds(), lived) > ABSENT_SECONDS_MAX[intent["purpose"]]:
                raise Broken(f"D4: still unknown after {age}: {intent}")
        return found

    def _never_arrived(self, identity, placed):
        """A2: that an order is absent takes a minute to prove, and until then it counts as live."""
        return (self.journal.status[identity] in ("unknown", "intended")
                and identity not in placed)

    def entries_since(self, clock):
        """What was sent since that moment and could raise exposure."""
        return [row["body"] for row in self.wire.since(clock)
                if row["path"] == f"{API}/orders" and is_entry(row["body"])]


def is_entry(body):
    ((kind, _),) = body["order_configuration"].items()
    return kind in ENTRY_KINDS


def requested(body):
    """What a request asks for, in contracts."""
    if "order_configuration" not in body:
        return {"product_id": body["product_id"], "size": Decimal(body["size"])}
    ((_, members),) = body["order_configuration"].items()
    prices = {name: Decimal(members[name])
              for name in ("limit_price", "stop_price", "stop_trigger_price") if name in members}
    if "stop_trigger_price" in prices:
        prices["stop_price"] = prices.pop("stop_trigger_price")
    return {"product_id": body["product_id"], "side": body["side"],
            "size": Decimal(members["base_size"]), **prices}


def written(intent):
    """What an order.intended says, in the words of a request."""
    said = {"product_id": IDS[intent["symbol"]],
            "size": Decimal(intent["quantity"]) / SIZES[intent["symbol"]]}
    if intent["purpose"] == "exit":
        return said
    prices = {name: Decimal(intent[name]) for name in ("limit_price", "stop_price")
              if intent[name] is not None}
    return {**said, "side": intent["side"].upper(), **prices}


def positions(truth):
    """By symbol, base units, signed."""
    return {SYMBOL_OF[product_id]: Decimal(row["contracts"]) * Decimal(row["contract_size"])
            for product_id, row in truth["positions"].items()}


def guarded(truth, symbol):
    """Base units that resting stops cover."""
    return SIZES[symbol] * sum(
        (Decimal(order["size"]) - Decimal(order["filled_size"]) for order in truth["orders"]
         if order["product_id"] == IDS[symbol] and order["status"] == "OPEN"
         and order["order_type"] in ("BRACKET", "STOP_LIMIT")), Decimal(0))

"""Checks: does everything hold that must hold?

The ground truth is the exchange's books; beside them there are the wire and the bot's files.
Nothing of perps_bot is imported, nothing of a bot's memory is looked at.  A check is a method
named by its invariant of the fault map; the tables at the end say when each is asked.
"""

import json
import os
import stat
from collections import Counter, deque
from decimal import Decimal

from exchange.forms import SIGN

from .journal import TERMINAL, Journal, Unsound
from .world import IDS, SYMBOLS

ROOT = "/api/v3/brokerage"
CREATES = (f"{ROOT}/orders", f"{ROOT}/orders/close_position")
CANCELS = f"{ROOT}/orders/batch_cancel"
ENTRY_KINDS = ("market_market_ioc", "market_market_fok", "sor_limit_ioc", "limit_limit_gtc",
               "limit_limit_gtd", "limit_limit_fok")
# Ticks without any disturbance within which a position has its stop, and a stop a position.
BARE_TICKS, TICK_SECONDS = 6, 5
# An order that is lost where the position has moved is looked for a minute; then the books follow.
BOOKS_TICKS = 18
# The venue's row may be so old when an order is sent.
PRODUCT_SECONDS = 70
ENTRIES_A_MINUTE = 6
# What the bot grants itself: so many a second, and twice as many more in the two seconds after a
# cancel, for what follows it.
REQUESTS_A_MINUTE, REQUESTS_AFTER_A_CANCEL = 610, 40
GTD_SECONDS_MAX = 620
# Reads of ten seconds at most, one after the other; then one tick is over.
TICK_SECONDS_MAX = 200
# Prices move between the read and the order, and reads lag.
SLACK = Decimal("1.03")
EXCUSED_SECONDS = 90
# Our books follow what others traded a minute after the last doubt about an order of ours; each
# death of the process begins that minute anew.
FOLLOWED_SECONDS = 600
# What others trade while an order of ours is in doubt is understood only once that is proved
# absent, a minute after each start, and the books have then differed for ten seconds.
DOUBT_SECONDS = 40
HEALTH_TICKS = 3
PUBLISH_SECONDS = 24  # the longest between two of them, see `run`
READ_FIRST = ("/time", "/key_permissions", "/products", "/orders/historical/batch",
              "/orders/historical/fills", "/cfm/positions", "/cfm/balance_summary")
SEVERITY = ("TRADING", "REDUCING", "HALTED")
CANARY = b"canary-7Q"
ZERO = Decimal(0)


class Broken(Exception):
    """An invariant does not hold."""


class Checks:
    """What was seen so far, and what must hold of it."""

    def __init__(self, sim):
        self.sim, self.time, self.engine = sim, sim.time, sim.world.engine
        self.settings = sim.settings
        self.profile = sim.folder / "profile"
        self.journal = Journal(self.profile / "events")
        self.creates, self.bodies, self.entries_at = {}, {}, {}
        self.requests_at, self.cancels_at = deque(), deque()
        self.entries_this_tick, self.read_ok = [], set()
        self.bare, self.orphan, self.stuck = Counter(), Counter(), Counter()
        self.fills_seen, self.position = 0, Counter()
        self.served, self.doubts = {}, {}
        self.signals, self.stopping = [], False
        self.flagged_at, self.steps_at = {}, -1e9
        self.disk_at, self.slept_at = -1e9, 0.0
        self.acked = {}
        self.calm_ticks = self.longest_tick = 0
        self._seen, self._calm_since, self._is_counted = (0, 0), 0.0, False
        self._cuts = self._others_seen = 0
        self._lines = None
        self._files = {}  # as they stood when this look began

    def fail(self, name, text):
        raise Broken(f"{name}: {text}")

    # What the schedule tells

    def flagged(self, product_id):
        self.flagged_at.setdefault(product_id, self.time.mono)

    def unflagged(self, product_id):
        self.flagged_at.pop(product_id, None)

    def steps_changed(self):
        self.steps_at = self.time.mono

    def disk_failed(self):
        self.disk_at = self.time.mono

    def slept(self, seconds):
        self.slept_at += seconds

    def quoted(self, tickers):
        """The stream said this, and it arrived."""
        for row in tickers:
            if row["best_bid"] and row["best_ask"]:
                self.served[row["product_id"]] = (Decimal(row["best_bid"]),
                                                  Decimal(row["best_ask"]))

    def signalled(self, name):
        if name != "SIGUSR1":
            self.look()
            self.signals.append((name, self.sim.processes, self.journal.seq))

    # Life of the processes

    def process_starts(self):
        self.read_ok, self.entries_this_tick = set(), []
        self._seen = (0, 0)

    def process_ended(self, how):
        """Before the disk changes: what was acknowledged must be there later."""
        self.acked = {}
        for path, size in self.sim.disk._durable.items():
            if os.path.exists(path):
                with open(path, "rb") as file:
                    self.acked[path] = file.read(size)

    def files_changed(self):
        self.i16_acknowledged_events_survive()
        self.journal.forget()
        self._lines = None
        self.look()

    def process_stopped(self, code):
        """The loop ended by itself."""
        self.look()
        self.i49_the_exit_code_is_true(code)
        self.i12_a_halt_outlives_the_process()
        if code and self.calm_ticks > BARE_TICKS:
            self.fail("I-13", f"exit code {code}, although nothing had gone wrong for a while")

    def look(self):
        if self.sim.disk.cuts != self._cuts:  # a line that could not be synced is taken back
            self._cuts = self.sim.disk.cuts
            self.journal.forget()
            self._lines = None
        if self._lines == self.sim.disk.lines:
            return  # nothing was written since the last look
        self._lines = self.sim.disk.lines
        try:
            self.journal.follow()
        except Unsound as unsound:
            self.fail("journal", str(unsound))

    # Steps

    def before_request(self, asked):
        self.requests_at.append(asked.at)
        if asked.path == CANCELS:
            self.cancels_at.append(asked.at)
            self.e1_what_is_the_owners_is_left_alone(asked)
        if asked.method == "POST" and asked.path in CREATES:
            self.look()
            self._note_others_fills()
            for check in AT_A_CREATE:
                check(self, asked)
            if self._is_entry(asked):
                for check in AT_AN_ENTRY:
                    check(self, asked)
                self.entries_this_tick.append(asked)
                self.entries_at.setdefault(asked.body["product_id"], deque()).append(asked.at)
            self.creates.setdefault(asked.body["client_order_id"], asked)

    def answered(self, asked):
        """The exchange has answered; whether that arrives is another matter."""

    def after_request(self, asked):
        if asked.delivered and asked.status == 200:
            path = asked.path.removeprefix(ROOT)
            self.read_ok.add(path)
            if path == "/best_bid_ask":
                for book in asked.answer["pricebooks"]:
                    if book.get("bids") and book.get("asks"):
                        self.served[book["product_id"]] = (
                            Decimal(book["bids"][0]["price"]), Decimal(book["asks"][0]["price"]))

    def tick_begins(self):
        self.entries_this_tick = []

    def tick_ended(self, seconds):
        self._files.clear()
        self.look()
        self._note_doubts()
        self._count_calm()
        self._note_others_fills()
        self.longest_tick = max(self.longest_tick, seconds)
        for check in AT_A_TICK:
            check(self, seconds)
        self.journal.news.clear()
        self.slept_at = 0.0

    def at_the_end(self):
        self._files.clear()
        self.look()
        for check in AT_THE_END:
            check(self)

    def are_settled(self):
        """Whether the end would find nothing, and nothing is out of order that is still excused."""
        if self.bare or self.orphan or "left alone" in self._left_alone() or (
                {"unknown", "intended"} & {*self.journal.status.values()}):
            return False
        try:
            self.at_the_end()
        except Broken:
            return False
        return True

    def _note_others_fills(self):
        for fill in self.engine.fills[self._others_seen:]:
            if not self._kind_of(fill.order):
                self.sim.world.note_outside(fill.order.product_id)
        self._others_seen = len(self.engine.fills)

    def _count_calm(self):
        struck = self.sim.wire.struck, self.sim.processes
        is_calm = struck == self._seen and self.time.mono >= self.sim.disturbed_until
        self._seen = struck
        if not is_calm:
            self.calm_ticks, self._calm_since = 0, self.time.mono
        elif self.time.mono - self._calm_since >= TICK_SECONDS * (self.calm_ticks + 1) or (
                not self.calm_ticks):
            self.calm_ticks += 1  # a loop that is woken often counts by its time
            self._is_counted = True
            return
        self._is_counted = False

    # Words

    @staticmethod
    def _variant(asked):
        return next(iter(asked.body.get("order_configuration", {"close": None})))

    def _is_entry(self, asked):
        return self._variant(asked) in ENTRY_KINDS

    def held(self, product_id):
        return self.engine.account.contracts(product_id)

    def _kind_of(self, order):
        """entry, exit or stop; "" for somebody else's."""
        if order.by == "owner" or order.kind == "LIQUIDATION":
            return ""
        if order.originating_order_id or order.kind in ("BRACKET", "STOP_LIMIT"):
            return "stop"
        asked = self.creates.get(order.client_order_id)
        if asked is None:
            return ""
        return "entry" if self._is_entry(asked) else "exit"

    def live(self, product_id, *kinds):
        return [order for order in self.engine.live.values()
                if order.product_id == product_id and self._kind_of(order) in kinds]

    def _left_alone(self):
        """What the bot says that it leaves alone: a stated hold."""
        return (self._file("health.json") or {}).get("message", "")

    def _file(self, name):
        if name not in self._files:
            self._files[name] = _read(os.path.join(self.profile, name))
        return self._files[name]

    def _outside(self, product_id, seconds=EXCUSED_SECONDS):
        """Whether somebody else moved something there lately."""
        return self.time.mono - self.sim.world.outside.get(product_id, -1e9) < seconds

    def _note_doubts(self):
        """Since when, and until when last, an order of ours was in doubt."""
        now = self.time.mono
        for cid, status in self.journal.status.items():
            if status in ("unknown", "intended") and cid in self.journal.intents:
                product_id = IDS[self.journal.intents[cid]["symbol"]]
                since, until = self.doubts.get(product_id, (now, now))
                self.doubts[product_id] = (since if now - until < DOUBT_SECONDS else now), now

    def _others_are_in_doubt(self, product_id):
        """Whether somebody else traded while an order of ours was in doubt, or shortly before."""
        since, until = self.doubts.get(product_id, (0.0, -1e9))
        return (self.time.mono - until < DOUBT_SECONDS
                and self.sim.world.outside.get(product_id, -1e9) > since - DOUBT_SECONDS)

    def _disk_failed_lately(self, seconds=180):
        return self.time.mono - self.disk_at < seconds

    # At every create

    def i1_i2_one_order_for_each_id(self, asked):
        identity = asked.body["client_order_id"]
        if identity in self.creates:
            self.fail("I-1", f"{identity} was sent twice")

    def i3_the_intent_is_on_disk(self, asked):
        identity, intent = asked.body["client_order_id"], None
        intent = self.journal.intents.get(identity)
        if intent is None:
            if self._is_entry(asked) or not (
                    self._disk_failed_lately(600) or self.sim.disk.struck):
                self.fail("I-3", f"{identity} is sent and its intent is not written")
            return
        if SYMBOLS[asked.body["product_id"]] != intent["symbol"] or (
                "side" in asked.body and asked.body["side"].lower() != intent["side"]):
            self.fail("I-3", f"{identity}: the intent says {intent}")
        members = next(iter(asked.body.get("order_configuration", {"": {}}).values()))
        contracts = Decimal(str(members.get("base_size", asked.body.get("size"))))
        size = self.engine.contract_size(asked.body["product_id"])
        if contracts * size != Decimal(intent["quantity"]) and self.steps_at < 0:
            self.fail("I-3", f"{identity}: {contracts} contracts, the intent says {intent}")
        if self._is_entry(asked) and not self._is_durable(intent):
            self.fail("I-3", f"{identity}: its intent is not synced")

    def _is_durable(self, intent):
        path = self.journal._path
        return self.sim.disk._durable.get(str(path), 0) >= self.journal._offset or (
            self.journal.seq > intent["seq"])

    def i7_increments_and_bounds(self, asked):
        if self.steps_at > 0 and not self._is_entry(asked):
            return  # where the products cannot be read the old steps stand, for reductions
        if self.time.mono - self.steps_at < PRODUCT_SECONDS + EXCUSED_SECONDS:
            return
        market, body = self.engine.markets[asked.body["product_id"]], asked.body
        for members in body.get("order_configuration", {"": {"base_size": body.get("size")}}
                                ).values():
            size = Decimal(str(members["base_size"]))
            if size < 1 or size != int(size):
                self.fail("I-7", f"size {size}")
            for name in ("limit_price", "stop_price", "stop_trigger_price"):
                if name in members and Decimal(members[name]) % market.tick:
                    self.fail("I-7", f"{name} {members[name]} is off the tick {market.tick}")

    def i11_a_reduction_opposes_the_position(self, asked):
        """A stop or exit beyond what is held could open the other way."""
        if self._is_entry(asked):
            return
        product_id, body = asked.body["product_id"], asked.body
        held = self.held(product_id)
        # A bracket cannot open: the venue refuses one that does not close.
        is_excused = self._outside(product_id) or (
            "bracket" in self._variant(asked) and self._outside(product_id, FOLLOWED_SECONDS))
        if "side" in body and held and SIGN[body["side"]] * held > 0 and not is_excused and (
                self.calm_ticks > 1):
            self.fail("I-11", f"a {self._variant(asked)} {body['side']} on {held}")

    def i32_requests_have_a_budget(self, asked):
        for kept in (self.requests_at, self.cancels_at):
            while kept and kept[0] < asked.at - 60:
                kept.popleft()
        most = REQUESTS_A_MINUTE + REQUESTS_AFTER_A_CANCEL * len(self.cancels_at)
        if len(self.requests_at) > most:
            self.fail("I-32", f"{len(self.requests_at)} requests within a minute")

    # At a cancel

    def e1_what_is_the_owners_is_left_alone(self, asked):
        for identity in asked.body["order_ids"]:
            order = self.engine.orders.get(identity)
            is_meant = "close-all asked" in self.sim.kinds
            if order is not None and order.by == "owner" and not is_meant:
                self.fail("E1", f"the owner's {identity} is to be cancelled")

    # At an entry

    def i6_shorts_only_where_they_are_allowed(self, asked):
        if asked.body["side"] == "SELL" and not self.settings.enable_shorts:
            self.fail("I-6", f"a short: {asked}")

    def i5_one_increase_a_tick(self, asked):
        sent = [a for a in self.entries_this_tick
                if self.journal.status.get(a.body["client_order_id"]) != "rejected"]
        if sent:
            self.fail("I-5", f"a second entry in one tick: {sent[0]}, now {asked}")

    def i6_within_the_limits(self, asked):
        product_id, settings = asked.body["product_id"], self.settings
        if product_id not in self.served:
            self.fail("I-6", f"an entry without any quote: {asked}")
        if any(self._outside(each) for each in IDS.values()) or (
                self.time.mono - self.steps_at < PRODUCT_SECONDS):
            return
        members = next(iter(asked.body["order_configuration"].values()))
        side = SIGN[asked.body["side"]]
        size = self.engine.contract_size(product_id)
        open_entries = sum((order.remaining for order in self.live(product_id, "entry")
                            if order.side == asked.body["side"]), ZERO)
        contracts = (self.held(product_id) * side + open_entries
                     + Decimal(str(members["base_size"])))
        # What REST said last, or what the stream may have said since: the smaller binds us here.
        price = min(max(self.served[product_id]), max(self._quote_now(product_id)))
        notional = contracts * size * price
        equity = self.engine.equity()
        rate = self.engine.markets[product_id].margin_rate(side)
        leverage = min(settings.target_leverage, settings.max_leverage,
                       settings.leverage_max_global, 1 / rate)
        allowed = min(settings.max_position,
                      equity * settings.max_position_pct_per_symbol * leverage)
        if not self._margin_is_known():
            allowed = settings.max_position
        if notional > allowed * SLACK:
            self.fail("I-6", f"{notional:.2f} USD in {product_id}, allowed {allowed:.2f}: {asked}")
        if self.held(product_id) * side < 0:
            self.fail("I-6", f"an entry against a position of {self.held(product_id)}: {asked}")

    def _quote_now(self, product_id):
        market = self.engine.markets[product_id]
        return market.bid or market.last, market.ask or market.last

    def _margin_is_known(self):
        kinds = self.sim.kinds
        return not {"margin step", "deposit", "balance lag", "steps change", "flash crash",
                    "price gap", "positions lag"} & {*kinds}

    def i7_the_product_takes_orders(self, asked):
        since = self.flagged_at.get(asked.body["product_id"], self.time.mono)
        if self.time.mono - since > PRODUCT_SECONDS + 15:
            self.fail("I-7", f"the product has been flagged for {self.time.mono - since:.0f} s")

    def i8_throttled(self, asked):
        times = self.entries_at.get(asked.body["product_id"], ())
        if sum(asked.at - at < 60 for at in times) > ENTRIES_A_MINUTE:
            self.fail("I-8", f"more than {ENTRIES_A_MINUTE} entries within a minute")

    def i9_nothing_unknown_stands_in_between(self, asked):
        symbol, own = SYMBOLS[asked.body["product_id"]], asked.body["client_order_id"]
        open_ones = [cid for cid, status in self.journal.status.items()
                     if status in ("unknown", "intended") and cid != own
                     and self.journal.intents.get(cid, {}).get("symbol") == symbol]
        if open_ones:
            self.fail("I-9", f"an entry while {open_ones} are unknown")
        # Where the truth is that an earlier order may still fill, its answer was never understood.
        live = [o.client_order_id for o in self.live(asked.body["product_id"], "entry", "exit")
                if not self._may_be_late(o)]
        if live:
            self.fail("I-9", f"an entry while {live} may still fill: {asked}")

    def _may_be_late(self, order):
        return self.journal.status.get(order.client_order_id) == "lost"

    def i10_no_increase_while_held(self, asked):
        if self.journal.holds:
            self.fail("I-10", f"an entry although {self.journal.holds}: {asked}")

    def i10_no_increase_after_a_signal(self, asked):
        for name, process, _ in self.signals:
            if process == self.sim.processes:
                self.fail("I-10", f"an entry after {name}: {asked}")

    def i29_everything_was_read(self, asked):
        if missing := [path for path in READ_FIRST if path not in self.read_ok]:
            self.fail("I-29", f"an entry before {missing} were read")

    def i50_resting_entries_expire(self, asked):
        ((variant, members),) = asked.body["order_configuration"].items()
        if variant == "limit_limit_gtd":
            ends = members["end_time"]
            if ends > self.sim.world.later(GTD_SECONDS_MAX).strftime("%Y-%m-%dT%H:%M:%SZ"):
                self.fail("I-50", f"rests until {ends}")
        elif variant.startswith("limit"):
            self.fail("I-50", f"an entry that rests without an end: {variant}")

    # At every tick

    def i40_a_tick_ends(self, seconds):
        if seconds - self.slept_at > TICK_SECONDS_MAX:
            self.fail("I-40", f"a tick took {seconds:.0f} s")

    def i11_no_fill_flips(self, _):
        """Only an entry may make a position larger, and nothing turns one over."""
        for fill in self.engine.fills[self.fills_seen:]:
            product_id, order = fill.order.product_id, fill.order
            before = self.position[product_id]
            self.position[product_id] = before + SIGN[order.side] * fill.contracts
            kind = self._kind_of(order)
            if kind in ("stop", "exit") and not self._outside(product_id) and (
                    before * SIGN[order.side] >= 0 or fill.contracts > abs(before)):
                if not self._may_overshoot(order):
                    self.fail("I-11", f"a {kind} ({order.kind}) of {fill.contracts} "
                                      f"{order.side} filled on {before}")
            if kind == "entry" and before * SIGN[order.side] < 0 and not self._outside(product_id):
                self.fail("I-11", f"an entry {order.side} filled on {before}")
        self.fills_seen = len(self.engine.fills)

    def _may_overshoot(self, order):
        """Two reducers may only then be out where the venue denied one of them."""
        return {"late arrival", "cancel then fill", "bracket left behind"} & {*self.sim.kinds}

    def position_truth(self, _):
        """After calm ticks the books are the venue's."""
        if self.calm_ticks < BOOKS_TICKS:
            return
        state = self._file("last_state.json")
        if state is None or self._disk_failed_lately():
            return
        if self._age(state) > 20:
            return
        self._compare_books(state)

    def _age(self, state):
        from datetime import datetime
        return (self.time.venue() - datetime.fromisoformat(state["timestamp"])).total_seconds()

    def _compare_books(self, state):
        said = {row["symbol"]: Decimal(row["quantity"]) for row in state["positions"]}
        alone = self._left_alone()
        for symbol in self.settings.symbols:
            truth = self.held(IDS[symbol]) * self.engine.contract_size(IDS[symbol])
            if said.get(symbol, ZERO) != truth and f"{symbol} is left alone" not in alone and (
                    not self._moved_lately(IDS[symbol])):
                self.fail("I-30", f"{symbol}: the books say {said.get(symbol, ZERO)}, "
                                  f"the venue {truth}")

    def _moved_lately(self, product_id):
        """Whether a fill is so young that the last tick may not have seen it."""
        return any((self.time.venue() - fill.at).total_seconds() < 30
                   for fill in self.engine.fills[-5:] if fill.order.product_id == product_id)

    def a_position_has_its_stop(self, _):
        """Covered by stops, or on its way out."""
        alone = self._left_alone()
        for symbol in self.settings.symbols:
            product_id = IDS[symbol]
            held, market = self.held(product_id), self.engine.markets[product_id]
            out = [o for o in self.live(product_id, "stop", "exit")
                   if SIGN[o.side] * held < 0]
            covered = sum((o.remaining for o in out), ZERO)
            can_be_stopped = abs(held) >= Decimal(market.row.get("base_min_size") or 1)
            is_bare = covered < abs(held) and market.matches and can_be_stopped and (
                f"{symbol} is left alone" not in alone) and (
                "observe" not in self.journal.holds) and not self._others_are_in_doubt(product_id)
            self._count(self.bare, symbol, is_bare)
            if self.bare[symbol] > BARE_TICKS:
                self.fail("stop", f"{symbol}: {held} contracts, {covered} covered, for "
                                  f"{self.bare[symbol]} calm ticks")

    def what_shall_be_closed_is_closed(self, _):
        """A halt leaves that to the owner."""
        for symbol in self.settings.symbols:
            product_id, holds = IDS[symbol], self.journal.holds
            is_stuck = (self.held(product_id) and self.journal.wants.get(symbol) == "close"
                        and self.engine.markets[product_id].matches
                        and "HALTED" not in holds.values()
                        and f"{symbol} is left alone" not in self._left_alone())
            self._count(self.stuck, symbol, is_stuck)
            if self.stuck[symbol] > 2 * BARE_TICKS:
                self.fail("exit", f"{symbol}: to be closed for {self.stuck[symbol]} calm ticks")

    def _count(self, counts, symbol, is_wrong):
        """In how many calm ticks after each other something was out of order."""
        if not (is_wrong and self.calm_ticks):
            del counts[symbol]
        elif self._is_counted:
            counts[symbol] += 1

    def no_stop_is_left_behind(self, _):
        for symbol in self.settings.symbols:
            held = self.held(IDS[symbol])
            over = sum((o.remaining for o in self.live(IDS[symbol], "stop", "exit")
                        if SIGN[o.side] * held <= 0), ZERO) - abs(held)
            wrong = [o for o in self.live(IDS[symbol], "stop") if SIGN[o.side] * held > 0]
            is_over = (over > 0 or wrong) and (
                f"{symbol} is left alone" not in self._left_alone())
            self._count(self.orphan, symbol, is_over)
            if self.orphan[symbol] > BARE_TICKS:
                self.fail("I-11", f"{symbol}: stops for {over} more than the position {held}")

    def i26_nothing_ends_by_an_error(self, _):
        """What the events call finished is finished at the venue."""
        for event in self.journal.news:
            if event["type"] not in ("order.updated", "order.lost"):
                continue
            cid = event["client_order_id"]
            status = event.get("status", "lost")
            order = self.engine.by_client_id.get(cid)
            if status in TERMINAL and order is not None and order.live:
                if status == "lost" and "late arrival" in self.sim.kinds:
                    continue
                self.fail("I-26", f"{cid} is {status} in the events and {order.status} at the "
                                  f"venue")

    def i18_i37_a_fill_is_booked_once_and_as_it_was(self, _):
        for event in self.journal.news:
            if event["type"] != "trade.executed":
                continue
            if self.journal.fills[event["fill_id"]] > 1:
                self.fail("I-18", f"fill {event['fill_id']} is booked twice")
            fill = next((f for f in reversed(self.engine.fills)
                         if f.entry_id == event["fill_id"]), None)
            if fill is None:
                self.fail("I-18", f"fill {event['fill_id']} is none of the venue's")
            if fill.order.kind != "LIQUIDATION" and self.steps_at < 0 and (
                    Decimal(event["price"]) != fill.price
                    or event["side"] != fill.order.side.lower()
                    or Decimal(event["quantity"]) != fill.contracts * self.engine.contract_size(
                        fill.order.product_id)):
                self.fail("I-37", f"fill {event['fill_id']} of {fill.contracts} at {fill.price} is "
                                  f"booked as {event['quantity']} at {event['price']}")

    def i41_health_is_true(self, _):
        health = self._file("health.json")
        if health is None or not health.get("ok") or self._age(health) > 1:
            return
        # It is published at most so often: one from before the change cannot know of it.
        is_older = health["timestamp"] <= self.journal.changed_at
        if self.journal.holds and not is_older and not self._disk_failed_lately():
            self.fail("I-41", f"health is ok although {self.journal.holds}")
        if any(count >= HEALTH_TICKS for count in self.bare.values()):
            self.fail("I-41", f"health is ok although bare for {dict(self.bare)} ticks")

    def i12_the_state_is_in_the_events(self, _):
        health = self._file("health.json")
        is_stopping = any(process == self.sim.processes for _, process, _ in self.signals)
        if health is None or self._age(health) > 1 or is_stopping or (
                self._disk_failed_lately(600)) or health["timestamp"] <= self.journal.changed_at:
            return
        said = max(self.journal.holds.values(), key=SEVERITY.index, default="TRADING")
        if health["trading_state"] != said:
            self.fail("I-12", f"health says {health['trading_state']}, the events {said}")

    def i46_no_canary(self, _):
        for event in self.journal.news:
            if CANARY in json.dumps(event).encode():
                self.fail("I-46", f"the key's name is in {event}")

    def _is_new(self, event):
        """Else it was read anew after a restart."""
        return (self.time.venue() - Journal.at(event)).total_seconds() < 20 and (
            "operator" in self.journal.holds)

    def i49_flat_is_flat(self, _):
        """Whoever reads `flat` looks no further."""
        for event in self.journal.news:
            if (event["type"], event.get("command"), event.get("exit_code")) == (
                    "control.answered", "close-all", 0) and self._is_new(event):
                for symbol in self.settings.symbols:
                    if self.held(IDS[symbol]) and not self._outside(IDS[symbol]):
                        self.fail("I-49", f"said to be flat, and {symbol} is held")

    # At the end of a process, and of the run

    def i16_acknowledged_events_survive(self):
        for path, data in self.acked.items():
            found = b""
            if os.path.exists(path):
                with open(path, "rb") as file:
                    found = file.read(len(data))
            if found != data:
                self.fail("I-16", f"{os.path.basename(path)}: synced events are gone")

    def i49_the_exit_code_is_true(self, code):
        if code != 0:
            return
        for symbol in self.settings.symbols:
            left = [o for o in self.live(IDS[symbol], "entry") if not self._may_be_late(o)]
            if left:
                self.fail("I-49", f"exit code 0, and {left[0].client_order_id} is "
                                  f"{left[0].status}")

    def i12_a_halt_outlives_the_process(self):
        interrupted = [name for name, process, seq in self.signals if name == "SIGINT"
                       and process == self.sim.processes and seq < self.journal.seq]
        if interrupted and not self.journal.halted and not self._disk_failed_lately(600):
            self.fail("I-12", "an exit after SIGINT, and the events know of no halt")

    def i13_i30_it_converges(self):
        unknown = [cid for cid, status in self.journal.status.items()
                   if status in ("unknown", "intended")]
        if unknown and not self._is_recent(unknown[-1]):
            self.fail("I-30", f"still unknown after the quiet phase: {unknown}")

    def _is_recent(self, cid):
        age = self.time.venue() - Journal.at(self.journal.intents[cid])
        return age.total_seconds() < 30

    def i18_every_fill_is_booked(self):
        adopted = {"reconcile.mismatch", "position.adopted"} & {*self.journal.kinds}
        if adopted or self._left_alone().find("left alone") >= 0 or self.sim.disk.fails_sync:
            return
        for fill in self.engine.fills:
            own = self._kind_of(fill.order)
            young = (self.time.venue() - fill.at).total_seconds() < 30
            if own and not young and fill.entry_id not in self.journal.fills and (
                    not self._closed_what_was_never_told(fill)):
                self.fail("I-18", f"a fill of {fill.order.client_order_id} ({own}) is not booked")

    def _closed_what_was_never_told(self, fill):
        """Whether the disk refused both the position of somebody else's and the order to close it.

        To book that fill alone would make a position out of none.
        """
        order = fill.order
        return (order.client_order_id not in self.journal.intents
                and self._kind_of(order) == "exit"
                and any(not self._kind_of(each.order) for each in self.engine.fills
                        if each.order.product_id == order.product_id and each.at <= fill.at))

    def i20_own_orders_are_known(self):
        for order in self.engine.orders.values():
            cid = order.client_order_id
            if order.live and self._kind_of(order) == "entry" and cid not in self.journal.intents:
                self.fail("I-20", f"{cid} is open and not in the events")

    def i30_the_books_agree(self):
        state = self._file("last_state.json")
        if state is None:
            self.fail("I-30", "no last_state.json after the quiet phase")
        self._compare_books(state)
        self._compare_orders(state)

    def _compare_orders(self, state):
        """What the bot calls under way is under way at the venue, but for the youngest."""
        for row in state["orders"]:
            order = self.engine.by_client_id.get(row["client_order_id"])
            if (order is None or not order.live) and not self._is_recent(row["client_order_id"]):
                self.fail("I-30", f"{row} is under way, and at the venue "
                                  f"{order.status if order else 'unknown'}")

    def i41_health_is_ok_or_says_why(self):
        health = self._file("health.json")
        if health is None:
            self.fail("I-41", "no health.json")
        if not health["ok"] and not (health["message"] or health["error"]
                                     or health["trading_state"] != "TRADING"):
            self.fail("I-41", f"health is not ok and says nothing: {health}")
        if self._age(health) > 2 * PUBLISH_SECONDS + 20:
            self.fail("I-41", f"health is {self._age(health):.0f} s old")

    def i48_files_are_private(self):
        for path in self.profile.rglob("*"):
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if mode & 0o077 or path.is_symlink():
                self.fail("I-48", f"{path.name} has mode {mode:o}")


def _read(path):
    """What a state file says, or None."""
    try:
        with open(path, "rb", 0) as file:
            found = json.loads(file.read())
    except (OSError, ValueError):
        return None
    # What a fault of the seed put there is no word of the bot's.
    return found if isinstance(found, dict) and "timestamp" in found else None


AT_A_CREATE = (
    Checks.i1_i2_one_order_for_each_id,
    Checks.i3_the_intent_is_on_disk,
    Checks.i7_increments_and_bounds,
    Checks.i11_a_reduction_opposes_the_position,
    Checks.i32_requests_have_a_budget,
)
AT_AN_ENTRY = (
    Checks.i5_one_increase_a_tick,
    Checks.i6_shorts_only_where_they_are_allowed,
    Checks.i6_within_the_limits,
    Checks.i7_the_product_takes_orders,
    Checks.i8_throttled,
    Checks.i9_nothing_unknown_stands_in_between,
    Checks.i10_no_increase_while_held,
    Checks.i10_no_increase_after_a_signal,
    Checks.i29_everything_was_read,
    Checks.i50_resting_entries_expire,
)
AT_A_TICK = (
    Checks.i40_a_tick_ends,
    Checks.i11_no_fill_flips,
    Checks.position_truth,
    Checks.a_position_has_its_stop,
    Checks.what_shall_be_closed_is_closed,
    Checks.no_stop_is_left_behind,
    Checks.i26_nothing_ends_by_an_error,
    Checks.i18_i37_a_fill_is_booked_once_and_as_it_was,
    Checks.i41_health_is_true,
    Checks.i12_the_state_is_in_the_events,
    Checks.i46_no_canary,
    Checks.i49_flat_is_flat,
)
AT_THE_END = (
    Checks.i13_i30_it_converges,
    Checks.i18_every_fill_is_booked,
    Checks.i20_own_orders_are_known,
    Checks.i30_the_books_agree,
    Checks.i41_health_is_ok_or_says_why,
    Checks.i48_files_are_private,
)

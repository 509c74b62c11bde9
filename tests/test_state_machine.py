"""Random schedules over the whole loop: prices, faults, lags, kills, restarts, holds, midnights.

Each seed is one schedule; PERPS_TEST_SCHEDULES says how many.  A venue that knows the truth is
asked after every step, and before every order; what is checked is computed from its books and
from the events, by code that shares nothing with the bot.  A failure names its seed and tick.
"""

import logging
import os
import random
from collections import Counter, defaultdict
from datetime import timedelta
from decimal import Decimal

import pytest
from helpers import BTC, ETH, LIVE, NOON, STOPS, Rig, ScriptedVenue, WildMarket, repeated

from perps_bot import store as disk
from perps_bot.errors import OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.model import OrderStatus, OrderType, Purpose, Side, TimeInForce, TradingState
from perps_bot.ops import Surfaces
from perps_bot.paper import PaperBroker

SCHEDULES = int(os.environ.get("PERPS_TEST_SCHEDULES", "48"))
TICKS, SECONDS = 50, 5
# Quiet ticks after which nothing may be out of order any more: two waits (a lost order is looked
# for a minute, an exit goes unfilled for ten seconds), and a tick before, between and after them.
QUIET_TICKS = 17
# With no exit wanted, a stop is back within ten seconds and two ticks.
BARE_TICKS = 4
ZERO = Decimal(0)


class Killed(BaseException):
    """The process ended here."""


class Faults:
    """When a call fails, and how.  Quiet, it never does."""

    def __init__(self, dice):
        self.dice, self.quiet, self.rate, self.happened = dice, True, 0, 0

    def strikes(self, rate):
        struck = not self.quiet and self.dice.random() < rate * self.rate
        self.happened += struck
        return struck

    def read(self, name):
        if self.strikes(0.02):
            raise VenueUnavailable(f"{name}: the line is dead")
        if self.strikes(0.004):
            raise Killed

    def change(self, name, do):
        """Do it, or not, and tell the truth about that, or not."""
        if self.strikes(0.06):
            raise VenueUnavailable(f"{name}: never sent")
        arrives = not self.strikes(0.04)
        answer = do() if arrives else None
        if not arrives or self.strikes(0.05):
            raise OutcomeUnknown(f"{name}: no answer came")
        if self.strikes(0.02):
            raise Killed
        return answer


class PaperWorld(PaperBroker):
    """The paper broker, on a line that breaks.  It lives in the bot's process and dies with it."""

    revision = None  # what it says is not what it holds

    def __init__(self, market, faults):
        super().__init__(market)
        self._faults, self._depth, self.watch = faults, 0, lambda order: None

    def _asked(self, name, do, changes=False):
        if self._depth or name == "closed":
            return do()
        if not changes:
            self._faults.read(name)
        self._depth += 1
        try:
            return self._faults.change(name, do) if changes else do()
        finally:
            self._depth -= 1

    def equity(self):
        return self._asked("equity", super().equity)

    def positions(self):
        return self._asked("positions", super().positions)

    def marks(self, symbols, now):
        return self._asked("marks", lambda: PaperBroker.marks(self, symbols, now))

    def orders(self, since, known=()):
        return self._asked("orders", lambda: PaperBroker.orders(self, since, known))

    def fills(self, since):
        return self._asked("fills", lambda: PaperBroker.fills(self, since))

    def place(self, order, now):
        if not self._depth:
            self.watch(order)
        return self._asked("place", lambda: PaperBroker.place(self, order, now), changes=True)

    def close(self, order, now):
        self.watch(order)
        return self._asked("close", lambda: PaperBroker.close(self, order, now), changes=True)

    def cancel(self, orders, now):
        return self._asked("cancel", lambda: PaperBroker.cancel(self, orders, now), changes=True)

    def candles(self, symbol, seconds, count, now):
        return self._asked("candles", lambda: self.market.candles(symbol, seconds, count, now))


class ScriptedWorld(ScriptedVenue):
    """A venue that lags and refuses, whose market goes on between any two calls."""

    def __init__(self, faults, *symbols):
        super().__init__(*symbols)
        self._faults, self.hidden = faults, set()
        self.history = {symbol: [] for symbol in self.prices}
        self.candle_seconds = SECONDS

    def marks(self, symbols, now):
        return super().marks([s for s in symbols if s not in self.hidden], now)

    def place(self, order, now):
        if self._faults.strikes(0.05):
            self.answers.append(self._faults.dice.choice((
                "rest", "rest", "reject INSUFFICIENT_FUNDS", "reject INVALID_BRACKET_LIMIT_PRICE",
                "reject ATTACHED_ORDER_NOT_ALLOWED", "reject TRADING_DISABLED")))
        return self._faults.change("place", lambda: self._take(order, now))

    def close(self, order, now):
        """It can only shrink the position, and not what a resting stop reserves."""
        reserved = sum(o.remaining for o in self.live(order.symbol) if o.side is order.side)
        free = -order.side.sign * self.held(order.symbol) - reserved
        if order.quantity > free:
            raise OrderRejected("PREVIEW_CLOSE_ONLY_FAILURE", f"{free} can be closed")
        return self.place(order, now)

    def cancel(self, orders, now):
        self.cancels = "at once"
        if self._faults.strikes(0.15):
            self.cancels = self._faults.dice.choice(("queue", "queue", "fill"))
        return self._faults.change("cancel", lambda: ScriptedVenue.cancel(self, orders, now))

    def fill(self, identity, quantity=None, price=None):
        """A bracket cannot exceed the position."""
        order = self.order(identity)
        if order.intent.order_type is OrderType.BRACKET:
            quantity = min(quantity or order.remaining, abs(self.held(order.symbol)))
        if quantity != 0:
            super().fill(identity, quantity, price)

    def traded(self):
        return [(fill.symbol, fill.side.sign * fill.quantity) for fill in self._fills]

    def passes(self, faults):
        """What the market does between two ticks."""
        for symbol in self.prices:
            for order in self.live(symbol):
                if order.status is OrderStatus.CANCEL_QUEUED and faults.dice.random() < 0.5:
                    self.end(order.id)
                elif order.intent.expires_at and order.intent.expires_at <= self.now:
                    self.end(order.id, OrderStatus.EXPIRED)
                elif self._is_due(order, faults):
                    whole = faults.quiet or faults.dice.random() < 0.8 or order.remaining == 1
                    self.fill(order.id, None if whole else Decimal(1))

    def _is_due(self, order, faults):
        price, intent = self.prices[order.symbol], order.intent
        if intent.order_type in STOPS:
            return (price - intent.stop_price) * order.side.sign >= 0
        return faults.quiet or faults.dice.random() < 0.3

    def _take(self, order, now):
        answer = super().place(order, now)
        if order.intent.time_in_force is TimeInForce.IOC and answer.status in LIVE:
            if order.intent.order_type is OrderType.LIMIT:
                self.fill(order.id, self._faults.dice.choice((order.quantity, Decimal(1))))
                if self.order(order.id).status in LIVE:
                    self.end(order.id)
        return self.order(order.id)

    def _answer(self, name):
        super()._answer(name)
        self._faults.read(name)


class Schedule:
    """One seed: a world, a bot that dies and comes back, and what must hold after each step."""

    def __init__(self, folder, seed, is_paper):
        self.dice = dice = random.Random(f"{seed} {is_paper}")
        self.faults, self.is_paper, self.seed = Faults(dice), is_paper, seed
        self.symbols = dice.choice(((BTC,), (BTC, ETH)))
        self.name, self.number = f"seed {seed} {'paper' if is_paper else 'scripted'}", 0
        now = NOON + timedelta(hours=11, minutes=57) if dice.random() < 0.5 else NOON
        self.market = WildMarket(seed, *self.symbols, begin=now - timedelta(minutes=10),
                                 seconds=1200)
        self.venue = self._paper() if is_paper else ScriptedWorld(self.faults, *self.symbols)
        self.drift, self.seen = {symbol: 0 for symbol in self.symbols}, {}
        self.entries_now, self.orders = [], {}
        self.crosses, self.bare, self.orphan = {}, Counter(), Counter()
        self.quiet_for = 0
        self.folds = Folds()
        self.rig = Rig(
            self.venue, folder, now, symbols=self.symbols, bar=SECONDS, short_ma_period=2,
            long_ma_period=10, interval=Decimal(SECONDS), enable_shorts=dice.random() < 0.7,
            order_type=dice.choice((OrderType.MARKET, OrderType.LIMIT)),
            time_in_force=dice.choice((TimeInForce.GTD, TimeInForce.IOC)), entry_gtd_seconds=30,
            trailing_stop_pct=Decimal(dice.choice(("0.01", "0.03"))),
            bracket_profit_pct=Decimal(dice.choice(("0.01", "0.2"))),
            max_position=Decimal(dice.choice((1_500, 50_000))), max_daily_loss_pct=Decimal(1),
            max_exposure_pct=Decimal(dice.choice(("0.25", "0.8"))),
        )
        self._attend()

    # What happens.

    def run(self):
        try:
            for self.number in range(TICKS):
                self.step()
            self.faults.quiet = True
            for self.number in range(TICKS, TICKS + QUIET_TICKS + 1):
                self.step()
            self.check_end()
        except (AssertionError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            error.add_note(f"{self.name}, tick {self.number}, {self.rig.now}")
            raise
        finally:
            self.rig.bot.store.close()

    def step(self):
        dice, faults = self.dice, self.faults
        if self.number < TICKS and self.number % 10 == 0:
            faults.quiet = dice.random() < 0.3
            faults.rate = dice.choice((0.3, 1, 3))
        if not self.is_paper:
            self._move()
        before, self.entries_now = faults.happened, []
        died = self._tick()
        if died or faults.strikes(0.03):
            self._restart()
        self._owner()
        calm = faults.happened == before and faults.quiet
        self.quiet_for = self.quiet_for + 1 if calm else 0
        self.check()

    def _tick(self):
        try:
            self.rig.tick(SECONDS)
        except Killed:
            return True
        return False

    def _move(self):
        dice, venue = self.dice, self.venue
        for symbol, price in venue.prices.items():
            venue.history[symbol] = [*venue.history[symbol], price][-30:]
            if dice.random() < 0.15:
                self.drift[symbol] = dice.choice((-2, -1, 1, 2))
            step = dice.choice((0, 0, 1, -1, 2, -2, 6, -6)) + self.drift[symbol]
            venue.prices[symbol] = max(price + Decimal(step) / 2, Decimal(50))
            if symbol not in venue.hidden:
                self.seen[symbol] = price  # what the last tick was shown
        noisy = not self.faults.quiet
        venue.hidden = {s for s in self.symbols if noisy and dice.random() < 0.05}
        for name in ("listing_lag", "fill_lag", "position_lag"):
            setattr(venue, name, dice.choice((0, 0, 3, 8)) if noisy else 0)
        venue.passes(self.faults)

    def _restart(self):
        self.rig.bot.store.close()
        if self.is_paper:
            self.venue = self.rig.venue = self._paper()
        self.folds = Folds()
        self._quietly(self.rig.start)
        self._attend()

    def _paper(self):
        return PaperWorld(self.market, self.faults)

    def _owner(self):
        """Holds that come and go."""
        risk, store = self.rig.bot.risk, self.rig.bot.store
        if self.dice.random() < 0.03:
            risk.hold("operator", self.dice.choice([*TradingState][1:]), "the owner says so")
        elif risk.holds and self.dice.random() < 0.3:
            risk.resume("looked at it", store.now.date(), clear_daily_loss=True)

    def _attend(self):
        self.venue.watch = self.watch
        store = self.rig.bot.store
        if self.rig.folder and (self.rig.folder / "events").exists():
            for event in store.read():
                self.folds.apply(event)
        store.subscribe(self.folds.apply)

    def _quietly(self, do, *arguments):
        """Ask without any fault: this is the test's own look."""
        quiet, self.faults.quiet = self.faults.quiet, True
        try:
            return do(*arguments)
        finally:
            self.faults.quiet = quiet

    # The truth.

    def held(self, symbol):
        if not self.is_paper:
            return self.venue.held(symbol)
        position = self._quietly(self.venue.positions).get(symbol)
        return position.quantity if position else ZERO

    def live(self, symbol):
        if not self.is_paper:
            return self.venue.live(symbol)
        return [o for o in self._quietly(self.venue.orders, NOON) if o.status in LIVE
                and o.symbol == symbol]

    def price(self, symbol):
        if not self.is_paper:
            hidden = symbol in self.venue.hidden
            return self.seen[symbol] if hidden else self.venue.prices[symbol]
        mark = self.market.marks([symbol], self.rig.bot.store.now)[symbol]
        return max(mark.bid, mark.ask, mark.price)

    # What must hold before every order.

    def watch(self, order):
        where = f"{self.name}, tick {self.number}: {order}"
        assert order.id not in self.orders, f"sent twice: {where}"
        self.orders[order.id] = order
        held = self.held(order.symbol) * order.side.sign
        if order.purpose is not Purpose.ENTRY:
            return
        again = [i for i in self.entries_now if self.folds.status.get(i) != OrderStatus.REJECTED]
        assert not again, f"a second entry in one tick: {where}"
        self.entries_now.append(order.id)
        assert held >= 0, f"an entry against the position: {where}"
        assert self.folds.state() is TradingState.TRADING, where
        out = [o.id for o in self.live(order.symbol) if o.id != order.id]
        assert not out, f"an entry while {out} may still fill: {where}"
        self._within_limits(order, where)
        self._once_per_cross(order, where)

    def _within_limits(self, order, where):
        settings, product = self.rig.settings, self.rig.bot.catalog.get(order.symbol)
        equity = self._quietly(self.venue.equity)
        notional = {symbol: self._worst(symbol, order) for symbol in self.symbols}
        total, own = sum(notional.values()), notional[order.symbol]
        cap = min(settings.max_leverage, settings.leverage_max_global)
        rate = product.long_margin_rate if order.side is Side.BUY else product.short_margin_rate
        margin = min(settings.target_leverage, cap, 1 / rate)
        assert total <= equity * cap, f"leverage: {where}"
        assert own <= equity * margin * settings.max_position_pct_per_symbol, f"share: {where}"
        assert total <= equity * margin * settings.max_exposure_pct, f"exposure: {where}"
        assert own <= settings.max_position, f"position: {where}"
        assert order.side is Side.BUY or settings.enable_shorts, f"a short: {where}"

    def _worst(self, symbol, order):
        """USD if everything on the worse side had filled, the new order included."""
        held, price, sides = self.held(symbol), self.price(symbol), {}
        live = [*self.live(symbol), *([order] if order.symbol == symbol else [])]
        for side in Side:
            filled = sum(o.remaining * max(price, o.intent.limit_price or ZERO)
                         for o in live if o.side is side)
            sides[side] = abs(held * price + filled * side.sign)
        return max(sides.values())

    def _once_per_cross(self, order, where):
        """A cross that was entered is used up; one whose order came to nothing is not."""
        signal = self.folds.signals[order.symbol]
        age = timedelta(seconds=SECONDS * signal["memory"]["pending_bars"])
        cross = order.symbol, order.side, signal["memory"]["bar_at"] - age
        before = self.crosses.setdefault(cross, [])
        for identity in before:
            assert not self.folds.filled[identity], f"a cross entered twice: {where}"
            ended = OrderStatus(self.folds.status[identity]).is_terminal
            assert ended, f"{identity} may still fill: {where}"
        before.append(order.id)

    # What must hold after every step.

    def check(self):
        where = f"{self.name}, tick {self.number}"
        self._check_books(where)
        assert not repeated(self.folds.intended), where
        assert not repeated(self.folds.fills), where
        if not self.is_paper:
            assert self.venue.overcommitted == [], where
            assert not flips(self.venue.traded()), where
        assert not flips(self.folds.trades), where
        for symbol in self.symbols:
            self._check_stop(symbol, f"{where}: {symbol}")

    def _check_books(self, where):
        """Tracker, venue and a plain sum of money that came and went: to the last digit."""
        books, folds = self.rig.bot.tracker, self.folds
        marks = {symbol: books.get_position(symbol).mark_price for symbol in self.symbols}
        for symbol in self.symbols:
            assert books.get_position(symbol).quantity == folds.held[symbol], where
        if books.start_equity is None:
            return
        value = sum((folds.held[s] * marks[s] for s in self.symbols), ZERO)
        assert books.equity() == books.start_equity + folds.cash + value, where
        if self.is_paper and not self.rig.bot.trouble and self.quiet_for:
            assert books.equity() == self._quietly(self.venue.equity), where

    def _check_stop(self, symbol, where):
        held, live = self.held(symbol), self.live(symbol)
        stops = sum((o.remaining for o in live if o.purpose is Purpose.STOP), ZERO)
        closing = [o for o in live if o.purpose is Purpose.EXIT]
        bare = abs(held) > stops and not closing
        signal = self.folds.signals.get(symbol, {})
        wanted = signal.get("action") == "close"
        calm = self.quiet_for > 0
        self.bare[symbol] = self.bare[symbol] + 1 if bare and calm else 0
        self.orphan[symbol] = self.orphan[symbol] + 1 if stops and not held and calm else 0
        limit = QUIET_TICKS if wanted else BARE_TICKS
        assert self.bare[symbol] <= limit, f"{held} without a stop: {where}"
        assert self.orphan[symbol] <= QUIET_TICKS, f"a stop without a position: {where}"

    def check_end(self):
        where, bot = f"{self.name}, at the end", self.rig.bot
        assert bot.trouble == "", where
        assert bot.untraded == set(), where
        assert self.folds.count["reconcile.mismatch"] == 0, where
        for symbol in self.symbols:
            assert self.held(symbol) == self.rig.held(symbol), f"{where}: {symbol}"
            stale = [o for o in bot.engine.outstanding(symbol)
                     if o.status is not OrderStatus.OPEN
                     and bot.store.now - o.created_at > timedelta(seconds=20)]
            assert stale == [], where


class Folds:
    """The events, folded by hand."""

    def __init__(self):
        self.cash, self.held, self.filled = ZERO, defaultdict(Decimal), defaultdict(Decimal)
        self.intended, self.fills, self.trades, self.signals = [], [], [], {}
        self.status = {}
        self.count, self._states = Counter(), {}

    def state(self):
        return max((TradingState(s) for s in self._states.values()), default=TradingState.TRADING,
                   key=[*TradingState].index)

    def apply(self, event):
        data = event.data
        self.count[event.type] += 1
        if event.type == "order.intended":
            self.intended.append(data["client_order_id"])
        elif event.type in ("order.updated", "order.unknown", "order.lost"):
            status = data.get("status") or event.type.removeprefix("order.")
            self.status[data["client_order_id"]] = status
        elif event.type == "state.changed":
            self._states[data["kind"]] = data["state"]
        elif event.type == "funding.paid":
            self.cash -= Decimal(data["amount"])
        elif event.type == "strategy.signal":
            self.signals[data["symbol"]] = data
        elif event.type == "trade.executed":
            self._trade(data)

    def _trade(self, data):
        signed = Decimal(data["quantity"]) * Side(data["side"]).sign
        self.fills.append(data["fill_id"])
        self.trades.append((data["symbol"], signed))
        self.held[data["symbol"]] += signed
        self.filled[data["client_order_id"]] += abs(signed)
        self.cash -= signed * Decimal(data["price"]) + Decimal(data["fee"])


def flips(trades):
    """The trades that took a position through flat, of (symbol, signed quantity)."""
    held, found = defaultdict(Decimal), []
    for symbol, signed in trades:
        before = held[symbol]
        held[symbol] += signed
        if before * held[symbol] < 0:
            found.append((symbol, before, signed))
    return found


@pytest.fixture
def quick(monkeypatch):
    """No disk that turns, no log, and of the state files only the one that a restart reads."""
    def write(surfaces, name, value):
        if name == "marks.json":
            write_all(surfaces, name, value)

    write_all = Surfaces._write
    monkeypatch.setattr(Surfaces, "_write", write)
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)
    monkeypatch.setattr(logging.getLogger("perps_bot"), "disabled", True)


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("world", ["paper", "scripted"])
def test_no_schedule_of_faults_breaks_what_must_hold(tmp_path, quick, world, part):
    for seed in range(part, SCHEDULES, 8):
        Schedule(tmp_path / str(seed), seed, world == "paper").run()

"""Intents: does the gate refuse exactly what is past a limit, order after order?

Each `_Books` is one account with limits of its own.  It keeps whole numbers and lists that forget
nothing, reckons from them anew which limits an order is past, and asks the gate the same.  Orders,
prices, losses and waits are drawn at the edges: the last that passes, one step less, one more.

    python -P tests/intents.py 1000000 1      so many intents, with this seed
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from perps_bot import risk  # noqa: E402
from perps_bot.model import (  # noqa: E402
    Account, Event, Margin, Mark, Order, OrderIntent, OrderStatus, OrderType, Position, Product,
    Purpose, Side,
)
from words import replace  # noqa: E402

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
BTC, ETH, SOL = SYMBOLS = "BTC-PERP", "ETH-PERP", "SOL-PERP"
ALLOWED = BTC, ETH
# Prices are in cents, quantities in thousandths of a base unit, money is their product; fractions
# are in ten-thousandths, time is in microseconds.
TICK, LOT, CONTRACT, SHARE = 10, 10, 100, 10_000
CENT = 1000  # of money
SECOND, MINUTE, HOUR, DAY = 10**6, 60 * 10**6, 3600 * 10**6, 86_400 * 10**6
PAUSE, CLOSING, EXPIRY = 5 * MINUTE, 15 * MINUTE, 7 * DAY
VENUE_CONTRACTS = 20_000
RATES = {Side.BUY: 2000, Side.SELL: 2500}
PRODUCTS = {symbol: Product(
    symbol, "", contract_size=Decimal("0.1"), quantity_increment=Decimal("0.01"),
    price_increment=Decimal("0.1"), min_quantity=Decimal("0.01"), max_quantity=Decimal(2000),
    min_notional=Decimal(0), long_margin_rate=Decimal("0.2"), short_margin_rate=Decimal("0.25"))
    for symbol in SYMBOLS}
# What a setting's whole number is divided by; the others are numbers of something.
UNITS = {"max_position": 100, "max_order_notional": 100, **dict.fromkeys(
    ("price_collar_pct", "max_spread_pct", "max_top_of_book_pct", "max_mark_move_pct",
     "max_drawdown_pct", "max_daily_loss_pct", "max_position_pct_per_symbol", "max_exposure_pct",
     "trailing_stop_pct"), SHARE)}
DRAWN = {
    # setting: what it may be; None is no limit
    "max_position": [None, 50_000, 300_000, 2_000_000],
    "max_order_notional": [None, 40_000, 900_000],
    "max_order_qty": [None, 3, 60],
    "max_position_pct_per_symbol": [2000, 10_000],
    "max_exposure_pct": [3000, 8000, 10_000],
    "leverage_max_global": [1, 5],
    "max_leverage": [1, 3, 5],
    "target_leverage": [2, 5],
    "trailing_stop_pct": [100, 500],
    "price_collar_pct": [50, 200],
    "max_spread_pct": [100, 200],
    "max_top_of_book_pct": [5000, 10_000, 1_000_000],
    "max_mark_move_pct": [500, 1000, 10_000],
    "mark_staleness_seconds_max": [7, 10],
    "quote_staleness_seconds_max": [5, 12],
    "duplicate_window_seconds": [10, 40],
    "max_orders_per_minute_per_symbol": [2, 6, 60],
    "max_orders_per_minute": [3, 20, 100],
    "max_messages_per_second": [1, 2, 5, 50],
    "max_entries_per_hour": [3, 12, 200, 900],
    "max_open_orders": [1, 3, 20],
    "max_unknown_orders": [1, 2],
    "max_daily_turnover": [2, 200],
    "max_drawdown_pct": [1500, 10_000],
    "max_daily_loss_pct": [500, 5000],
    "max_losses_in_a_row": [None, 2, 4],
    "enable_shorts": [True, True, False],
    "no_self_cross": [True, True, False],
}
ROUND_PRICES = [8000, 10_000, 12_500, 16_000]
INTENTS_EACH = 250  # of one account
WRONG_MAX = 5


@dataclass
class Counts:
    """What came of so many intents.

    refused  by code
    edges    by code and step: -1 and 0 are the last two that pass, 1 is the first that does not
    wrong    what the gate judged otherwise than it should, in words; empty is what must be
    """

    intents: int = 0
    passed: int = 0
    reductions: int = 0
    refused: Counter = field(default_factory=Counter)
    edges: Counter = field(default_factory=Counter)
    wrong: list = field(default_factory=list)

    def take(self, other: "Counts"):
        """Add what came of others."""
        for name in ("intents", "passed", "reductions", "refused", "edges", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self):
        said = [f"{self.intents} intents: {self.passed} passed, {self.reductions} reductions, "
                f"{len(self.wrong)} judged wrongly"]
        said += [f"  {code:26} refused {count:8}, at the edge " + " ".join(
            f"{step:+d}: {self.edges[code, step]}" for step in (-1, 0, 1))
                 for code, count in sorted(self.refused.items())]
        return "\n".join(said + self.wrong)


def hold(count: int, seed: int, gate: ModuleType = risk) -> Counts:
    """Ask `gate` about `count` intents; it ends early where WRONG_MAX were judged wrongly."""
    dice, counts = random.Random(seed), Counts()
    while counts.intents < count and len(counts.wrong) < WRONG_MAX:
        books = _Books(dice, gate)
        for _ in range(min(INTENTS_EACH, count - counts.intents)):
            books.pass_time()
            _judge(books, counts)
            if len(counts.wrong) == WRONG_MAX:
                break
    return counts


def _judge(books, counts):
    symbol, side, quantity, limit = wanted = books.wanted()
    intent, account, product = books.intent(*wanted), books.account(), books.product(symbol)
    verdict = books.gate.pre_trade(intent, account, product)
    found = {breach.code for breach in verdict.breaches}
    counts.intents += 1
    if books.reduces(symbol, side, quantity):
        counts.reductions += 1
        past = set()
    else:
        books.look()
        steps = books.steps_past(*wanted)
        past = {code for code, step in steps if step > 0}
        counts.edges.update((code, step) for code, step in steps if -1 <= step <= 1)
        counts.refused.update(past)
        if not past:
            counts.passed += 1
            books.send(intent, *wanted)
        else:
            books.refuse(symbol, found)
    if found != past:
        counts.wrong.append(
            f"intent {counts.intents}: {' '.join(map(str, wanted))}: wrongly refused: "
            f"{sorted(found - past)}, wrongly passed: {sorted(past - found)}; {verdict.reason}; "
            f"{books.limits}")


def _beyond(over, step):
    """How many steps past a limit that may be reached; 0 is the last that passes."""
    return -(-over // step)


def _reached(over, step):
    """The same for a limit that may not be reached."""
    return over // step + 1


@dataclass
class _Entry:
    """An entry that was sent."""

    order: Order
    at: int
    symbol: str
    side: Side
    quantity: int
    limit: int | None
    is_open: bool = True
    is_unknown: bool = False
    came_of_it: bool = True
    is_over: bool = False


class _Books:
    """One account, and what it remembers of itself."""

    def __init__(self, dice, gate):
        self.dice, self.now, self.number, self.events = dice, 0, 0, []
        self.limits = {name: dice.choice(values) for name, values in DRAWN.items()}
        config = {name: value if value is None or isinstance(value, bool)
                  else Decimal(value) / UNITS.get(name, 1) for name, value in self.limits.items()}
        config = gate.RiskConfig(**config, symbols=ALLOWED)
        self.new_gate = lambda: gate.LiveRiskManager(config)
        self.gate = self.new_gate()
        self.start = dice.choice([500_000, 1_000_000, 10_000_000])  # cents
        self.equity = self.start * dice.choice([1, 1, 2])
        self.loss, self.base, self.level, self.peak = 0, Fraction(1), Fraction(1), Fraction(1)
        self.streak, self.drawdown_step = 0, -SHARE
        self.margin = dice.choice([None, None, (0, 10**9), (self.start // 10, self.start // 2)])
        self.most_at_stop = {side: self.before_liquidation(side) for side in Side}
        self.held, self.trips = dict.fromkeys(SYMBOLS, 0), dict.fromkeys(SYMBOLS, 0)
        self.traded = dict.fromkeys(SYMBOLS, 0)
        self.entries, self.messages = [], []
        self.mids, self.spreads, self.depths, self.quoted_at = {}, {}, {}, {}
        self.marks, self.unseen, self.seen = {}, set(), {s: [] for s in SYMBOLS}
        # When a symbol's mark jumped; what of that the day's snapshot and its refusals tell.
        self.jumped, self.jumped_before, self.told = {}, {}, []
        self.symbol = BTC
        self.ends = 0, 0  # until the market closes, until the contract's end; 0 is never
        self.tell("day.opened", snapshot={}, equity=Decimal(self.start) / 100)
        for symbol in SYMBOLS:
            self.quote(symbol)

    def at(self, moment):
        return NOON + timedelta(microseconds=moment)

    def tell(self, kind, **data):
        self.number += 1
        event = Event(self.number, self.at(self.now), kind, data)
        self.events.append(event)
        self.gate.apply(event)

    # What happens between two orders

    def pass_time(self):
        dice = self.dice
        self.symbol = dice.choice([BTC, BTC, BTC, BTC, ETH, ETH, SOL])
        self.now += self.wait()
        for entry in filter(lambda e: e.is_open, self.entries):
            draw = dice.random()
            if draw < 0.4:
                self.finish(entry)
            elif draw < 0.5:  # the answer to a cancel is lost
                entry.is_unknown = True
                entry.order = replace(entry.order, status=OrderStatus.UNKNOWN)
        draw = dice.random()
        if draw < 0.03:
            self.lose()
        elif draw < 0.04:
            self.restart()
        elif draw < 0.045:
            self.midnight()
        self.quote(self.symbol)
        self.ends = 0, 0
        if draw > 0.95:
            self.ends = (CLOSING + dice.choice([-1, 0, 1, 2]), EXPIRY + dice.choice([-1, 0, 1, 2]))

    def wait(self):
        """A while, or just until something is so old that it ceases to count."""
        dice, limits = self.dice, self.limits
        if dice.random() < 0.6 or not self.entries:
            return dice.choice([0, 0, 0, 1, 200_000, SECOND, 7 * SECOND, 40 * SECOND, 20 * MINUTE])
        here = [e for e in self.entries if e.symbol == self.symbol]
        moments, window, most = dice.choice([
            (self.messages, SECOND, limits["max_messages_per_second"]),
            ([e.at for e in here], MINUTE, limits["max_orders_per_minute_per_symbol"]),
            ([e.at for e in self.entries], MINUTE, limits["max_orders_per_minute"]),
            ([e.at for e in here if e.came_of_it], HOUR, limits["max_entries_per_hour"]),
            ([e.at for e in here], limits["duplicate_window_seconds"] * SECOND, 1),
            ([*self.jumped.values()], PAUSE, 1),
            ([at for at, _ in self.extremes(self.symbol)], MINUTE, 1),
        ])
        if len(moments) < most:
            return 0
        return max(0, moments[-most] + window + dice.choice([-1, 0, 1]) - self.now)

    def quote(self, symbol):
        dice, limits = self.dice, self.limits
        mid, move = self.mids.get(symbol, 10_000), SHARE + limits["max_mark_move_pct"]
        way = dice.random()
        if way < 0.4:
            mid = dice.choice(ROUND_PRICES) if way < 0.01 else min(
                ROUND_PRICES, key=lambda price: abs(price - mid))
        elif way < 0.88:
            mid += TICK * dice.randrange(-2, 3)
        elif way < 0.93 and self.seen[symbol]:
            (_, lowest), (_, highest) = self.extremes(symbol)
            edge = dice.choice([lowest * move // SHARE, highest * SHARE // move])
            mid = edge // TICK * TICK + TICK * dice.choice([-1, 0, 1])
        self.mids[symbol] = mid = min(max(mid, 5000), 30_000)
        widest = limits["max_spread_pct"] * mid // SHARE // TICK * TICK
        self.spreads[symbol] = TICK * dice.choice([0, 0, 0, 1, 2, 2, 3])
        if dice.random() < 0.2:
            self.spreads[symbol] = widest + TICK * dice.choice([-1, 0, 1])
        self.depths[symbol] = dice.choice([40, 400, 9000, 100_000])
        # Quotes of one source come in the order of their times.
        age = dice.choice([0] * 12 + [limits["quote_staleness_seconds_max"] * SECOND] * 2
                          + [limits["mark_staleness_seconds_max"] * SECOND] * 2)
        age = max(0, age + dice.choice([-1, 0, 1])) if age else 0
        at = self.quoted_at[symbol] = max(self.quoted_at.get(symbol, 0), self.now - age)
        bid, ask = (Decimal(2 * mid + sign * self.spreads[symbol]) / 200 for sign in (-1, 1))
        size = Decimal(self.depths[symbol]) / 1000
        self.marks[symbol] = Mark(symbol, Decimal(mid) / 100, bid, ask, self.at(at), size, size)
        self.unseen.add(symbol)

    def extremes(self, symbol):
        """The lowest and the highest mark that was seen lately, and when; none before the first."""
        seen = [(at, price) for price, at in sorted((p, at) for at, p in self.seen[symbol])]
        return [seen[0], seen[-1]] if seen else []

    def finish(self, entry):
        dice, symbol = self.dice, entry.symbol
        entry.is_open = entry.is_unknown = False
        entry.came_of_it = dice.random() < 0.7
        filled = entry.quantity if entry.came_of_it else 0
        if filled:
            # What an entry costs is part of its round trip, which may outlast the day.
            self.trade(symbol, entry.side, filled, entry.limit or self.mids[symbol], 0,
                       fee=dice.choice([0, 1]))
        self.tell("order.updated", client_order_id=entry.order.id, symbol=symbol,
                  purpose=Purpose.ENTRY, answer="", asked=True,
                  filled_quantity=Decimal(filled) / 1000,
                  status=OrderStatus.FILLED if filled else OrderStatus.CANCELLED)
        if filled and dice.random() < 0.5:
            self.close(symbol)

    def close(self, symbol):
        """An exit is sent and fills; the entries before it are over."""
        held = self.held[symbol]
        if not held:
            return
        side = Side.SELL if held > 0 else Side.BUY
        self.messages.append(self.now)
        self.tell("order.intended", purpose=Purpose.EXIT, symbol=symbol, side=side,
                  quantity=Decimal(abs(held)) / 1000, client_order_id="exit")
        self.trade(symbol, side, abs(held), self.mids[symbol], self.dice.choice([-1, -1, 0, 1]))

    def trade(self, symbol, side, quantity, price, earned, fee=0):
        self.traded[symbol] += quantity * price
        self.held[symbol] += side.sign * quantity
        self.trips[symbol] += earned - fee
        self.tell("trade.executed", symbol=symbol, quantity=Decimal(quantity) / 1000,
                  price=Decimal(price) / 100, realized_pnl=Decimal(earned), fee=Decimal(fee),
                  position_quantity=Decimal(self.held[symbol]) / 1000)
        if not self.held[symbol]:
            self.streak = self.streak + 1 if self.trips[symbol] < 0 else 0
            self.trips[symbol] = 0
            for entry in self.entries:
                entry.is_over |= entry.symbol == symbol

    def lose(self):
        """Come to some loss of the day, or to the edge of a limit on losses."""
        dice, limits = self.dice, self.limits
        allowed = self.start * limits["max_daily_loss_pct"] // SHARE
        floor = self.peak * (SHARE - limits["max_drawdown_pct"]) / SHARE
        down = int(self.start * (1 - floor / self.base))
        edge = dice.choice([allowed, allowed, down, down])
        loss = dice.choice([0, 0, -self.start // 20, edge + dice.choice([-2, -1, 0, 1])])
        self.loss = min(loss, self.start * 9 // 10)  # something is left
        self.level = self.base * (1 - Fraction(self.loss, self.start))
        self.peak = max(self.peak, self.level)
        # A step of the drawdown is a cent of today's equity.
        lost = (self.peak - self.level) * SHARE - limits["max_drawdown_pct"] * self.peak
        self.drawdown_step = _reached(lost, SHARE * self.base / self.start)
        self.tell("strategy.signal", daily_loss=Decimal(self.loss) / 100)

    def midnight(self):
        self.now += self.dice.choice([0, 40 * SECOND, DAY])
        self.base, self.loss = self.level, 0
        self.traded = dict.fromkeys(SYMBOLS, 0)
        snapshot = {"risk": self.gate.snapshot()}
        self.events.clear()
        self.told.clear()
        self.jumped_before = dict(self.jumped)
        self.tell("day.opened", snapshot=snapshot, equity=Decimal(self.start) / 100)

    def restart(self):
        """A new process reads the day's events; of marks it knows what a refusal has told."""
        self.now += SECOND
        self.gate = self.new_gate()
        for event in self.events:
            self.gate.apply(event)
        self.seen, self.unseen = {s: [] for s in SYMBOLS}, set(SYMBOLS)
        self.jumped = dict(self.jumped_before)
        for symbol, at in self.told:
            if symbol not in self.jumped or at - self.jumped[symbol] >= PAUSE:
                self.jumped[symbol] = at

    # What the bot would have

    def account(self):
        outstanding = tuple(e.order for e in self.entries if e.is_open)
        positions = {s: Position(s, Decimal(held) / 1000, self.marks[s].price, self.marks[s].price)
                     for s, held in self.held.items() if held}
        margin = self.margin and Margin(*(Decimal(cents) / 100 for cents in self.margin),
                                        Decimal(0))
        return Account(self.at(self.now), Decimal(self.equity) / 100, positions, self.marks,
                       outstanding, Decimal(self.start) / 100, Decimal(self.loss) / 100, margin)

    def product(self, symbol):
        if not self.ends[0]:
            return PRODUCTS[symbol]
        closes_at, expires_at = (self.at(self.now + span) for span in self.ends)
        return replace(PRODUCTS[symbol], closes_at=closes_at, expires_at=expires_at)

    def intent(self, symbol, side, quantity, limit):
        kind = OrderType.MARKET if limit is None else OrderType.LIMIT
        return OrderIntent(symbol, side, Decimal(quantity) / 1000, kind,
                           limit_price=None if limit is None else Decimal(limit) / 100)

    def send(self, intent, symbol, side, quantity, limit):
        name = f"pb-{self.number}"
        is_unknown = self.dice.random() < 0.15
        status = OrderStatus.UNKNOWN if is_unknown else OrderStatus.OPEN
        order = Order(name, intent, NOON, status)
        self.entries.append(_Entry(order, self.now, symbol, side, quantity, limit,
                                   is_unknown=is_unknown))
        self.messages.append(self.now)
        self.tell("order.intended", purpose=Purpose.ENTRY, symbol=symbol, side=side,
                  quantity=intent.quantity, client_order_id=name)

    def refuse(self, symbol, codes):
        if "MARK_MOVED" in codes:
            self.told.append((symbol, self.now))
        self.tell("risk.rejected", symbol=symbol, codes=sorted(codes))

    # What is wanted

    def wanted(self):
        """An order near the edge of some limit: the largest that passes, or one step beside it."""
        dice, symbol, limits = self.dice, self.symbol, self.limits
        side = dice.choice([*Side, Side.BUY if self.held[symbol] >= 0 else Side.SELL])
        limit = self.wanted_limit(symbol, side)
        way = dice.random()
        again = [e for e in self.entries[-8:] if e.symbol == symbol and not e.is_over]
        if again and way < 0.25:
            return symbol, again[0].side, again[0].quantity, limit
        if way < 0.5:
            return symbol, side, dice.choice([LOT, 50, 100]), limit
        price, depth = self.cost(symbol, 1, limit), self.depths[symbol]
        shift = side.sign * self.held[symbol] * self.ask(symbol) + sum(
            self.cost(symbol, e.quantity, e.limit) for e in self.live(symbol) if e.side is side)
        others = sum(self.worst(s) for s in SYMBOLS if s != symbol)
        rooms = [allowed - shift for allowed in self.allowed_of_symbol(side).values()]
        rooms += [allowed - others - shift for allowed in self.allowed_of_all(side).values()]
        if limits["max_position"]:
            rooms.append(self.turnover_left(symbol))
        if self.order_cents():
            rooms.append(self.order_cents() * CENT)
        edges = [room // price for room in rooms]
        edges += [CONTRACT * self.most(), limits["max_top_of_book_pct"] * depth // SHARE]
        edge = int(dice.choice(edges)) // LOT * LOT + dice.choice([-LOT, 0, LOT])
        return symbol, side, min(max(edge, LOT), 10**7), limit

    def wanted_limit(self, symbol, side):
        dice, mid = self.dice, self.mids[symbol]
        against = [e.limit for e in self.live(symbol) if e.side is not side and e.limit]
        way = dice.random()
        if way < 0.5:
            return None
        if against and way < 0.8:
            return dice.choice(against) + dice.choice([-2, -1, 0, 1, 2])
        if way < 0.85:
            return dice.choice([mid, self.ask(symbol), 2 * mid - self.ask(symbol)])
        return mid + side.sign * (mid * self.limits["price_collar_pct"] // SHARE
                                  + dice.choice([-1, 0, 1]))

    # What is allowed, in whole numbers

    def ask(self, symbol):
        return self.mids[symbol] + self.spreads[symbol] // 2

    def live(self, symbol):
        return [e for e in self.entries if e.is_open and e.symbol == symbol]

    def cost(self, symbol, quantity, limit):
        return quantity * max(self.ask(symbol), limit or 0)

    def reduces(self, symbol, side, quantity):
        under_way = sum(e.quantity for e in self.live(symbol) if e.side is side)
        return quantity <= -side.sign * self.held[symbol] - under_way

    def worst(self, symbol, side=None, more=0):
        """Money in a symbol if all orders of one side fill, of the worse side."""
        sides = dict.fromkeys(Side, 0)
        for e in self.live(symbol):
            sides[e.side] += self.cost(symbol, e.quantity, e.limit)
        if side:
            sides[side] += more
        held = self.held[symbol] * self.ask(symbol)
        return max(abs(held + sides[Side.BUY]), abs(held - sides[Side.SELL]))

    def allowed_of_symbol(self, side):
        """Money that one symbol may come to, by code."""
        limits, allowed = self.limits, {}
        margin = self.equity * CENT * self.leverage(side)
        allowed["POSITION_SHARE_EXCEEDED"] = margin * limits["max_position_pct_per_symbol"] // SHARE
        if limits["max_position"]:
            allowed["POSITION_VALUE_EXCEEDED"] = limits["max_position"] * CENT
        if self.margin:
            allowed["STOP_BEYOND_LIQUIDATION"] = self.most_at_stop[side]
        return allowed

    def before_liquidation(self, side):
        """Money that a symbol may come to and still leave 1.5 times the margin at its stop."""
        initial, available = self.margin or (0, 0)
        stop = Fraction(self.limits["trailing_stop_pct"], SHARE)
        at_stop = Fraction(RATES[side], SHARE) * (1 - stop * side.sign)
        left = min(self.equity, available) - Fraction(3, 2) * initial
        return left * CENT // (stop + Fraction(3, 2) * at_stop)

    def allowed_of_all(self, side):
        """Money that all symbols may come to, by code."""
        limits, equity = self.limits, self.equity * CENT
        return {"EXPOSURE_EXCEEDED":
                equity * self.leverage(side) * limits["max_exposure_pct"] // SHARE,
                "LEVERAGE_EXCEEDED": equity * self.most_leverage()}

    def most_leverage(self):
        return min(self.limits["leverage_max_global"], self.limits["max_leverage"])

    def leverage(self, side):
        return min(self.limits["target_leverage"], self.most_leverage(), SHARE // RATES[side])

    def order_cents(self):
        return self.limits["max_order_notional"] or self.limits["max_position"]

    def most(self):
        return min(self.limits["max_order_qty"] or VENUE_CONTRACTS, VENUE_CONTRACTS)

    def turnover_left(self, symbol):
        under_way = sum(self.cost(symbol, e.quantity, e.limit) for e in self.live(symbol))
        allowed = self.limits["max_daily_turnover"] * self.limits["max_position"] * CENT
        return allowed - self.traded[symbol] - under_way

    def steps_past(self, symbol, side, quantity, limit):
        """Every limit's code, and how many steps past it this order is; below 1 it passes."""
        return [*self.size_steps(symbol, side, quantity, limit),
                *self.price_steps(symbol, side, quantity, limit),
                *self.flow_steps(symbol, side, quantity), *self.loss_steps(),
                *self.order_steps(symbol, side, limit)]

    def size_steps(self, symbol, side, quantity, limit):
        cost = self.cost(symbol, quantity, limit)
        step, own = cost * LOT // quantity, self.worst(symbol, side, cost)
        everything = own + sum(self.worst(s) for s in SYMBOLS if s != symbol)
        for code, allowed in self.allowed_of_symbol(side).items():
            yield code, _beyond(own - allowed, step)
        for code, allowed in self.allowed_of_all(side).items():
            yield code, _beyond(everything - allowed, step)
        if self.order_cents():
            yield "ORDER_VALUE_EXCEEDED", _beyond(cost - self.order_cents() * CENT, step)
        if self.limits["max_position"]:
            yield "TURNOVER_EXCEEDED", _beyond(cost - self.turnover_left(symbol), step)
        yield "ORDER_SIZE_EXCEEDED", _beyond(quantity - CONTRACT * self.most(), LOT)

    def price_steps(self, symbol, side, quantity, limit):
        limits, mid, spread = self.limits, self.mids[symbol], self.spreads[symbol]
        age = self.now - self.quoted_at[symbol]
        yield "STALE_MARK", age - limits["mark_staleness_seconds_max"] * SECOND
        if limit is not None:
            beyond = (limit - mid) * side.sign * SHARE - limits["price_collar_pct"] * mid
            yield "PRICE_COLLAR_EXCEEDED", _beyond(beyond, SHARE)
            return
        yield "STALE_QUOTE", age - limits["quote_staleness_seconds_max"] * SECOND
        widest = max(limits["max_spread_pct"] * mid, 2 * TICK * SHARE)
        yield "SPREAD_TOO_WIDE", _beyond(spread * SHARE - widest, TICK * SHARE)
        if spread:  # one price and no book limits nothing
            taken = quantity * SHARE - limits["max_top_of_book_pct"] * self.depths[symbol]
            yield "TOP_OF_BOOK_EXCEEDED", _beyond(taken, LOT * SHARE)

    def flow_steps(self, symbol, side, quantity):
        limits, now = self.limits, self.now
        here = [e for e in self.entries if e.symbol == symbol]
        minute, second = sum(now - e.at < MINUTE for e in self.entries), now - SECOND
        yield "ORDER_THROTTLED", (sum(now - e.at < MINUTE for e in here) + 1
                                  - limits["max_orders_per_minute_per_symbol"])
        yield "ORDERS_THROTTLED", minute + 1 - limits["max_orders_per_minute"]
        yield "MESSAGES_THROTTLED", (sum(at > second for at in self.messages) + 1
                                     - limits["max_messages_per_second"])
        yield "ENTRIES_EXCEEDED", (sum(now - e.at < HOUR and e.came_of_it for e in here) + 1
                                   - limits["max_entries_per_hour"])
        same = [now - e.at for e in here if (e.side, e.quantity) == (side, quantity)
                and e.came_of_it and not e.is_over]
        if same:
            yield "DUPLICATE_ORDER", limits["duplicate_window_seconds"] * SECOND - min(same)
        if symbol in self.jumped:
            yield "MARK_MOVED", PAUSE - (now - self.jumped[symbol])

    def loss_steps(self):
        limits = self.limits
        loss = self.loss * SHARE - limits["max_daily_loss_pct"] * self.start
        yield "DAILY_LOSS_EXCEEDED", _reached(loss, SHARE)
        yield "DRAWDOWN_EXCEEDED", self.drawdown_step
        if limits["max_losses_in_a_row"]:
            yield "LOSING_STREAK", _reached(self.streak - limits["max_losses_in_a_row"], 1)

    def order_steps(self, symbol, side, limit):
        limits, live = self.limits, self.live(symbol)
        unknown = [e for e in self.entries if e.is_unknown]
        yield "OPEN_ORDERS_EXCEEDED", len(live) + 1 - limits["max_open_orders"]
        yield "UNKNOWN_ORDERS_EXCEEDED", len(unknown) - limits["max_unknown_orders"]
        yield "OUTCOME_UNKNOWN", sum(e.symbol == symbol for e in unknown)
        yield "SYMBOL_NOT_ALLOWED", int(symbol not in ALLOWED)
        yield "POSITION_OPPOSED", int(self.held[symbol] * side.sign < 0)
        yield "SHORTS_DISABLED", int(side is Side.SELL and not limits["enable_shorts"])
        if self.ends[0]:
            yield "CLOSING_SOON", _reached(CLOSING - self.ends[0], 1)
            yield "EXPIRING_SOON", _reached(EXPIRY - self.ends[1], 1)
        price = limit or self.mids[symbol] + side.sign * self.spreads[symbol] // 2
        crossed = [_reached((price - e.limit) * side.sign, 1) if e.limit else 1
                   for e in live if e.side is not side]
        if crossed and limits["no_self_cross"]:
            yield "SELF_CROSS", max(crossed)

    def look(self):
        """Remember the newest marks; one that moved too far from another of its minute pauses."""
        most = SHARE + self.limits["max_mark_move_pct"]
        for symbol in self.unseen:
            at, mid = self.quoted_at[symbol], self.mids[symbol]
            seen = self.seen[symbol] = [
                (when, price) for when, price in self.seen[symbol] if at - when <= MINUTE]
            seen.append((at, mid))
            prices = [price for _, price in seen]
            if max(prices) * SHARE > min(prices) * most:
                self.jumped[symbol] = at
        self.unseen = set()


if __name__ == "__main__":
    asked = hold(*map(int, sys.argv[1:]))
    print(asked)
    sys.exit(bool(asked.wrong))

"""What must hold whatever the prices, fills, settings and orders are.

Hypothesis draws them; each check is arithmetic of its own.
"""

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from functools import partial

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perps_bot.catalog import quantity_for, quantize_price, quantize_quantity, quantize_stop
from perps_bot.errors import BelowMinimum
from perps_bot.model import (
    Account,
    Fill,
    FundingPayment,
    Mark,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Purpose,
    Side,
    TradingState,
)
from perps_bot.risk import LiveRiskManager, RiskConfig, headroom, worst_price
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker
from words import NOON, a_product, replace

# The same examples in every run, however slow the machine is.
steady = partial(settings, deadline=None, derandomize=True)

ZERO = Decimal(0)
SYMBOLS = ("BTC-PERP", "ETH-PERP", "SOL-PERP")
sides, symbols = st.sampled_from(list(Side)), st.sampled_from(SYMBOLS)
prices = st.decimals("0.01", "150000", places=2)
steps = st.sampled_from(["0.001", "0.01", "0.1", "5", "500"])


def decimals(low, high, places):
    return st.decimals(low, high, places=places)


# Catalog


products = st.builds(
    a_product, quantity_increment=steps, price_increment=st.sampled_from(["0.01", "0.5", "5"]),
    min_quantity=steps, min_notional=st.sampled_from(["0", "10", "1000"]),
    max_quantity=st.sampled_from(["1", "77.7", "100000"]),
)


@steady(max_examples=200)
@given(products, decimals("-10", "200000", 6), prices)
def test_quantising_never_raises_a_quantity_nor_leaves_the_steps(product, asked, price):
    try:
        tradable = quantize_quantity(product, asked, price)
    except BelowMinimum:
        return
    assert 0 < tradable <= asked
    assert tradable % product.quantity_increment == 0
    assert product.min_quantity <= tradable <= product.max_quantity
    assert tradable * price >= product.min_notional


@steady(max_examples=200)
@given(products, decimals("5", "150000", 4), sides)
def test_quantising_a_price_gives_nothing_away(product, asked, side):
    limit, stop = quantize_price(product, asked, side), quantize_stop(product, asked, side)
    worse = (limit - asked) * side.sign, (asked - stop) * side.sign
    for moved, price in zip(worse, (limit, stop)):
        assert -product.price_increment < moved <= 0
        assert price % product.price_increment == 0


@steady(max_examples=200)
@given(products, decimals("0", "1000000", 8), prices)
def test_what_a_notional_buys_costs_no_more_and_nearly_as_much(product, notional, price):
    quantity = quantity_for(product, notional, price)
    assert quantity * price <= notional < (quantity + product.quantity_increment) * price


# Tracker


class Ledger:
    """Cash and contents, kept the plain way: what was paid, what is held, what it is worth."""

    def __init__(self, start):
        self.cash, self.held, self.marks = start, defaultdict(Decimal), {}

    def equity(self):
        return self.cash + sum(q * self.marks[s] for s, q in self.held.items() if q)


fills = st.tuples(st.just("fill"), symbols, sides, decimals("0.001", "50", 3),
                  decimals("0.01", "150000", 2), decimals("-1", "60", 6))
payments = st.tuples(st.just("pay"), symbols, decimals("-20", "20", 9))
marks = st.tuples(st.just("mark"), symbols, prices)
days = st.tuples(st.just("day"))
restarts = st.tuples(st.just("restart"))


class Life:
    """A tracker over the events of one account, and the ledger beside it."""

    def __init__(self, folder, start):
        self.folder, self.now, self.ledger = folder, NOON, Ledger(start)
        self._begin()
        self.store.open_day(NOON.date(), {}, equity=start)

    def _begin(self):
        self.store = EventStore(self.folder, self.now)
        self.books = PositionTracker(self.store)
        self.store.recover()
        self.store.now = self.now

    def step(self, kind, *words):
        self.now += timedelta(seconds=1)
        self.store.now = self.now
        getattr(self, kind)(*words)

    def fill(self, symbol, side, quantity, price, fee):
        for _ in range(2):  # every read comes twice
            self.books.apply_fill(Fill(f"{self.now}", "", symbol, side, quantity, price, fee,
                                       self.now), Purpose.ENTRY, "", None)
        self.ledger.cash -= side.sign * quantity * price + fee
        if not self.ledger.held[symbol]:
            self.ledger.marks[symbol] = price
        self.ledger.held[symbol] += side.sign * quantity

    def pay(self, symbol, amount):
        for _ in range(2):
            self.books.apply_funding(
                FundingPayment(f"{self.now}", symbol, amount, ZERO, self.now))
        self.ledger.cash -= amount

    def mark(self, symbol, price):
        self.books.last_equity = Decimal(1)
        self.books.mark(symbol, price)
        self.store.append("strategy.signal", symbol=symbol, mark_price=price, equity=Decimal(1))
        self.ledger.marks[symbol] = price

    def day(self):
        self.now += timedelta(days=1)
        self.store.now = self.now
        self.store.open_day(self.now.date(), {"tracker": self.books.snapshot()}, equity=Decimal(1))

    def restart(self):
        before = self.state()
        self.store.close()
        self._begin()
        assert self.state() == before

    def state(self):
        return self.books.snapshot(), self.books.equity(), self.books.daily_loss()


@steady(max_examples=100)
@given(steps=st.lists(st.one_of(fills, fills, fills, payments, marks, days, restarts),
                      min_size=3, max_size=30), start=decimals("0", "1000000", 2))
def test_the_books_are_the_cash_to_the_last_digit_after_every_event(
        steps, start, tmp_path_factory):
    life = Life(tmp_path_factory.mktemp("life") / "events", start)
    for step in [*steps, ("restart",)]:
        life.step(*step)
        books, parts = life.books, ("realized_pnl", "unrealized_pnl", "fees", "funding")
        realized, unrealized, fees, funding = map(books.total, parts)
        assert books.equity() == start + realized + unrealized - fees - funding
        assert books.equity() == life.ledger.equity()
        assert {s: p.quantity for s, p in books.positions().items()} == {
            s: q for s, q in life.ledger.held.items() if q}
    life.store.close()


# Risk


near = decimals("50", "150", 2)  # prices that make small and large of what is drawn below


@st.composite
def quotes(draw, symbol):
    bid = draw(near)
    ask = bid + draw(decimals("0", "30", 2))
    return Mark(symbol, (bid + ask) / 2, bid, ask, NOON, Decimal(10_000), Decimal(10_000))


@st.composite
def orders(draw, symbol):
    quantity, limit = draw(decimals("0.01", "9", 2)), draw(st.none() | near)
    intent = OrderIntent(symbol, draw(sides), quantity,
                         OrderType.LIMIT if limit else OrderType.MARKET,
                         draw(st.sampled_from(list(Purpose))), limit)
    return Order(draw(st.uuids()).hex, intent, NOON, draw(st.sampled_from(list(OrderStatus))),
                 filled_quantity=draw(decimals("0", quantity, 2)))


@st.composite
def accounts(draw, least_equity="-5000", least_held=0):
    held = draw(st.lists(st.tuples(symbols, decimals("-20", "20", 2).filter(bool), near),
                         min_size=least_held, max_size=3))
    marks = {s: draw(quotes(s)) for s in SYMBOLS}
    if draw(st.integers(0, 9)) == 0:
        del marks[draw(symbols)]
    open_orders = [draw(orders(s)) for s in draw(st.lists(symbols, max_size=4))]
    return Account(NOON, draw(decimals(least_equity, "20000", 2)),
                   {s: Position(s, q, p, p) for s, q, p in held}, marks, tuple(open_orders),
                   Decimal(10000), draw(decimals("-500", "499", 2)))


limits = st.builds(
    RiskConfig, leverage_max_global=decimals("0.5", "5", 1), max_leverage=decimals("0.5", "5", 1),
    target_leverage=decimals("0.5", "5", 2), max_exposure_pct=decimals("0.01", "1", 2),
    max_position_pct_per_symbol=decimals("0.01", "1", 3),
    max_position=st.none() | decimals("10", "20000", 2),
)
traded = st.builds(
    a_product, quantity_increment=st.sampled_from(["0.0001", "0.001", "0.01"]),
    long_margin_rate=st.sampled_from(["0.1", "0.246", "0.3", "0.7"]),
    short_margin_rate=st.sampled_from(["0.1", "0.306", "0.6", "1"]),
)


def worst_case(account, symbol, intent=None):
    """USD of one symbol after the fills that hurt most, summed order by order."""
    mark, held = account.marks.get(symbol), account.positions.get(symbol, Position(symbol))
    price = max(mark.price, mark.bid, mark.ask) if mark else held.mark_price
    exposures = []
    for side in Side:
        fills = [(o.quantity - o.filled_quantity, o.intent.limit_price)
                 for o in account.outstanding if (o.symbol, o.side) == (symbol, side)
                 and o.status.value in ("intended", "unknown", "open", "cancel_queued")]
        if intent and intent.symbol == symbol and intent.side is side:
            fills.append((intent.quantity, intent.limit_price))
        added = sum((q * max(price, limit or ZERO) for q, limit in fills), ZERO)
        exposures.append(abs(held.quantity * price + side.sign * added))
        if (held.quantity or any(q for q, _ in fills)) and not price:
            return Decimal("Infinity")
    return max(exposures)


def within(account, intent, product, config):
    """Whether the account, with the order and all others filled, keeps every limit on size."""
    own = worst_case(account, intent.symbol, intent)
    total = own + sum((worst_case(account, s) for s in SYMBOLS if s != intent.symbol), ZERO)
    cap = min(config.leverage_max_global, config.max_leverage)
    rate = product.margin_rate(intent.side)
    leverage = min(cap, config.target_leverage, 1 / rate)
    return (total <= cap * account.equity
            and own <= config.max_position_pct_per_symbol * leverage * account.equity
            and total <= config.max_exposure_pct * leverage * account.equity
            and (config.max_position is None or own <= config.max_position))


intents = st.builds(
    lambda symbol, side, quantity, limit: OrderIntent(
        symbol, side, quantity, OrderType.LIMIT if limit else OrderType.MARKET,
        limit_price=limit),
    symbols, sides, decimals("0.01", "9", 2), st.none() | near)


@steady(max_examples=300)
@given(accounts(), intents, traded, limits)
def test_no_order_that_passes_exceeds_a_limit(account, intent, product, config):
    product = replace(product, symbol=intent.symbol)
    if LiveRiskManager(config).pre_trade(intent, account, product).approved:
        assert account.reduces(intent) or within(account, intent, product, config)


@steady(max_examples=300)
@given(accounts("100"), symbols, sides, traded, limits, st.booleans())
def test_an_entry_of_the_size_that_there_is_room_for_always_passes(
        account, symbol, side, product, config, rests):
    held = account.position(symbol).quantity
    side = side if not held else Side.BUY if held > 0 else Side.SELL
    account = replace(account, outstanding=tuple(
        o for o in account.outstanding if o.status is not OrderStatus.UNKNOWN))
    assume(symbol in account.marks)
    product, mark = replace(product, symbol=symbol), account.marks[symbol]
    assume(rests or mark.ask - mark.bid <= 10)  # a market order meets no wide spread
    sized = OrderIntent(symbol, side, ZERO)
    room = headroom(symbol, side, account, product, config)
    quantity = quantity_for(product, room, worst_price(sized, mark))
    assume(quantity)
    limit = (mark.bid if side is Side.BUY else mark.ask) if rests else None
    intent = replace(sized, quantity=quantity, limit_price=limit,
                     order_type=OrderType.LIMIT if rests else OrderType.MARKET)
    # How many orders there are, and at which prices, is no matter of size.
    config = replace(config, no_self_cross=False, max_open_orders=1000)
    verdict = LiveRiskManager(config).pre_trade(intent, account, product)
    assert verdict.approved, verdict.reason
    assert within(account, intent, product, config)


@steady(max_examples=200)
@given(accounts(least_held=1), decimals("0.01", "1", 2), traded, limits,
       st.sampled_from(list(Purpose)), st.sampled_from(list(TradingState)), st.booleans())
def test_no_reduction_is_ever_refused_and_none_can_flip_the_position(
        account, share, product, config, purpose, state, is_tradable):
    symbol = next(iter(account.positions))
    held = account.position(symbol).quantity
    side = Side.SELL if held > 0 else Side.BUY
    under_way = sum((o.remaining for o in account.outstanding
                     if o.symbol == symbol and o.side is side), ZERO)
    free = abs(held) - under_way
    assume(free > 0)
    manager = LiveRiskManager(config)
    manager.hold("test", state, "whatever the state")
    product = replace(product, symbol=symbol, tradable=is_tradable)
    fits = OrderIntent(symbol, side, free * share, purpose=purpose)
    assert manager.pre_trade(fits, account, product).approved
    too_much = replace(fits, quantity=free + product.quantity_increment, purpose=Purpose.EXIT)
    assert not manager.pre_trade(too_much, account, product).approved


@steady(max_examples=200)
@given(accounts(least_held=1), st.lists(intents, min_size=4, max_size=12), traded, limits)
def test_no_sequence_of_reductions_adds_up_to_more_than_the_position(
        account, wanted, product, config):
    manager = LiveRiskManager(config)
    manager.activate_kill_switch("only reductions from here")
    for number, intent in enumerate(wanted):
        product = replace(product, symbol=intent.symbol)
        if manager.pre_trade(intent, account, product).approved:
            order = Order(f"pb-{number}", intent, NOON, OrderStatus.UNKNOWN)
            account = replace(account, outstanding=(*account.outstanding, order))
            position = account.position(intent.symbol).quantity
            filled = sum((o.remaining for o in account.outstanding
                          if o.symbol == intent.symbol and o.side is intent.side), ZERO)
            assert filled <= position * -intent.side.sign

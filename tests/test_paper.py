"""Specification of `perps_bot.paper`: what the venue would have done."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perps_bot import paper
from perps_bot.errors import OrderRejected, VenueUnavailable
from perps_bot.model import (
    Candle,
    FundingRate,
    Mark,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Product,
    Purpose,
    Side,
    TimeInForce,
)
from perps_bot.paper import PaperBroker
from words import replace

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
EVER = datetime(2000, 1, 1, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"
OPEN, FILLED, CANCELLED, EXPIRED = (
    OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED)


def at(clock, day=1):
    """The first of May at `clock`, as 12:00:05; or another day of that month."""
    return datetime.fromisoformat(f"2025-05-{day:02}T{clock}Z")


def a_product(symbol=BTC, **changes):
    """Steps of 0.1 (one contract) and of 0.5 USD; 20 % margin to be long, 25 % to be short."""
    step = Decimal("0.1")
    return replace(
        Product(symbol, f"{symbol}-ID", contract_size=step, quantity_increment=step,
                price_increment=Decimal("0.5"), min_quantity=step, max_quantity=Decimal(1000),
                min_notional=Decimal(0), long_margin_rate=Decimal("0.20"),
                short_margin_rate=Decimal("0.25")), **changes)


def a_quote(text, symbol=BTC, now=NOON):
    """Read `99/101`, with sizes as `99/101 x 0.4/0.3`; a single price is a trade."""
    prices, _, sizes = text.partition(" x ")
    bid, ask = map(Decimal, (prices if "/" in prices else f"{prices}/{prices}").split("/"))
    bid_size, ask_size = map(Decimal, sizes.split("/")) if sizes else (None, None)
    return Mark(symbol, (bid + ask) / 2, bid, ask, now, bid_size, ask_size)


def a_candle(text, opened_at):
    """Read `100 105 95 101`: open, high, low, close."""
    return Candle(opened_at, *map(Decimal, text.split()))


def an_order(text, identity, now, symbol=BTC):
    """Read `BUY 1`, `SELL 1 @ 100 as GTD until 600`, `SELL 1 stop 95 profit 120`, ….

    @ limit, as time in force, until seconds from now, stop with limit (a stop-limit) or with
    profit (a bracket), carrying an attached stop
    """
    side, quantity, *rest = text.split()
    said = dict(zip(rest[::2], rest[1::2]))
    kind = (OrderType.BRACKET if "profit" in said else OrderType.STOP_LIMIT if "stop" in said
            else OrderType.LIMIT if "@" in said else OrderType.MARKET)
    prices = {name: Decimal(said[name]) for name in ("@", "limit", "profit", "stop", "carrying")
              if name in said}
    ends_at = now + timedelta(seconds=int(said["until"])) if "until" in said else None
    return Order(identity, OrderIntent(
        symbol, Side[side], Decimal(quantity), kind,
        Purpose.STOP if "stop" in said else Purpose.ENTRY,
        prices.get("@", prices.get("limit", prices.get("profit"))), prices.get("stop"),
        TimeInForce[said.get("as", "IOC")], ends_at, prices.get("carrying")), now)


def plain(number):
    return f"{number.normalize():f}"


def said(fill):
    return f"{fill.side.name} {plain(fill.quantity)} @ {plain(fill.price)}"


class Market:
    """Quotes, candles and rates that a test has written down."""

    def __init__(self, *products):
        self.listing = products
        self.quotes, self.history, self.rates = {}, {}, []
        self.asked, self.down = [], set()

    def products(self):
        return self.listing

    def marks(self, symbols, now):
        self._answer("marks")
        return {symbol: self.quotes[symbol] for symbol in symbols if symbol in self.quotes}

    def candles(self, symbol, seconds, count, now):
        self._answer("candles")
        self.asked.append((symbol, seconds, count, now))
        known = [c for c in self.history.get((symbol, seconds), ())
                 if c.opened_at + timedelta(seconds=seconds) <= now]
        return known[-count:] if count else []

    def funding(self, symbol, now):
        self._answer("funding")
        known = [rate for rate in self.rates if rate.symbol == symbol and rate.at <= now]
        return known[-1] if known else None

    def _answer(self, name):
        if name in self.down:
            raise VenueUnavailable(name)


class Desk:
    """A paper venue without fees, its market, and the time."""

    def __init__(self, equity="10000", market=None, **broker):
        self.market = market or Market(a_product(BTC), a_product(ETH))
        free = {"fee_rate": Decimal(0), "fee_per_contract": Decimal(0)}
        self.venue = PaperBroker(self.market, Decimal(equity), **{**free, **broker})
        self.now, self.number = NOON, 0

    def see(self, now=None, *symbols):
        """Move the venue to `now` with the quotes that the market has."""
        self.now = now or self.now
        return self.venue.marks(symbols or (BTC, ETH), self.now)

    def quote(self, text, symbol=BTC, seconds=1):
        """A new quote, some seconds later."""
        self.now += timedelta(seconds=seconds)
        self.market.quotes[symbol] = a_quote(text, symbol, self.now)
        self.see()
        return self

    def candle(self, text, symbol=BTC):
        """One more minute of a recording."""
        candle = a_candle(text, self.now)
        self.now += timedelta(minutes=1)
        close = candle.close
        self.market.quotes[symbol] = Mark(symbol, close, close, close, self.now, candle=candle)
        self.see()
        return self

    def order(self, text, symbol=BTC):
        self.number += 1
        return an_order(text, f"o{self.number}", self.now, symbol)

    def place(self, text, symbol=BTC):
        return self.venue.place(self.order(text, symbol), self.now)

    def close(self, text, symbol=BTC):
        order = self.order(text, symbol)
        order = replace(order, intent=replace(order.intent, purpose=Purpose.EXIT))
        return self.venue.close(order, self.now)

    def hold(self, quantity, price="100", symbol=BTC):
        """A position, opened at `price`; zero opens none."""
        self.quote(price, symbol)
        if quantity := Decimal(quantity):
            self.place(f"{'BUY' if quantity > 0 else 'SELL'} {abs(quantity)}", symbol)
        return self

    def cancel(self, *orders):
        self.venue.cancel(orders, self.now)

    def order_of(self, order):
        return next(o for o in self.venue.orders(EVER) if o.id == order.id)

    def status(self, order):
        return self.order_of(order).status

    def fills(self, since=EVER):
        return [said(fill) for fill in self.venue.fills(since)]

    def held(self, symbol=BTC):
        position = self.venue.positions().get(symbol)
        return plain(position.quantity) if position else "flat"

    def stops(self):
        """The open stops in words: `SELL 1 at 95`."""
        return [f"{o.side.name} {plain(o.remaining)} at {plain(o.intent.stop_price)}"
                for o in self.venue.orders(EVER) if o.status is OPEN and o.intent.stop_price]

    def restarted(self, **broker):
        """A new venue that takes up the books of the old one, in the same market."""
        old = self.venue
        balance = old.equity() - sum(
            (p.unrealized_pnl for p in old.positions().values()), Decimal(0))
        desk = Desk(market=self.market, **broker)
        desk.now, desk.number = self.now, self.number + 100
        live = [o for o in old.orders(EVER) if not o.status.is_terminal]
        desk.venue.restore(balance, old.positions().values(), live, self.now)
        return desk


def refused(call, *arguments):
    """The venue's reason for not taking an order."""
    with pytest.raises(OrderRejected) as refusal:
        call(*arguments)
    assert str(refusal.value).startswith(f"{refusal.value.code}: ")
    return refusal.value.code


# --- orders that take --------------------------------------------------------------------------


@pytest.mark.parametrize("quote, order, fills, status", [
    ("99/101",           "BUY 1",                ["BUY 1 @ 101"],                       FILLED),
    ("99/101",           "SELL 1",               ["SELL 1 @ 99"],                       FILLED),
    ("100",              "BUY 1",                ["BUY 1 @ 100"],                       FILLED),
    # The size at the touch, and as much again on each level a tick further.
    ("99/101 x 9/0.4",   "BUY 1",                ["BUY 0.4 @ 101", "BUY 0.4 @ 101.5",
                                                  "BUY 0.2 @ 102"],                     FILLED),
    ("99/101 x 0.4/9",   "SELL 1",               ["SELL 0.4 @ 99", "SELL 0.4 @ 98.5",
                                                  "SELL 0.2 @ 98"],                     FILLED),
    ("99/101 x 9/0.19",  "BUY 0.2",              ["BUY 0.1 @ 101", "BUY 0.1 @ 101.5"],  FILLED),
    ("99/101 x 9/0.09",  "BUY 0.1",              [],                                    CANCELLED),
    ("99/101 x 9/0.09",  "BUY 0.1 as GTC",       [],                                    CANCELLED),
    # Within the limit.
    ("99/101",           "BUY 1 @ 100.5 as IOC", [],                                    CANCELLED),
    ("99/101",           "BUY 1 @ 101 as IOC",   ["BUY 1 @ 101"],                       FILLED),
    ("99/101",           "BUY 1 @ 105 as IOC",   ["BUY 1 @ 101"],                       FILLED),
    ("99/101",           "SELL 1 @ 99.5 as IOC", [],                                    CANCELLED),
    ("99/101",           "SELL 1 @ 90 as IOC",   ["SELL 1 @ 99"],                       FILLED),
    ("99/101 x 9/0.4",   "BUY 1 @ 101.5 as IOC", ["BUY 0.4 @ 101", "BUY 0.4 @ 101.5"],  CANCELLED),
    # All or nothing, counted in whole steps.
    ("99/101 x 9/0.4",   "BUY 1 @ 101.5 as FOK", [],                                    CANCELLED),
    ("99/101 x 9/0.59",  "BUY 1 @ 101.5 as FOK", ["BUY 0.5 @ 101", "BUY 0.5 @ 101.5"],  FILLED),
    ("99/101 x 9/0.59",  "BUY 1.1 @ 101.5 as FOK", [],                                  CANCELLED),
    ("99/101 x 9/0.19",  "BUY 1.1 as FOK",       [],                                    CANCELLED),
    ("99/101",           "BUY 1 as FOK",         ["BUY 1 @ 101"],                       FILLED),
    # What rests takes first, and never waits for what it could have.
    ("99/101",           "BUY 1 @ 100 as GTC",   [],                                    OPEN),
    ("99/101 x 9/0.4",   "BUY 1 @ 101 as GTC",   ["BUY 0.4 @ 101"],                     OPEN),
    ("99/101 x 9/0.4",   "BUY 1 @ 101 as GTD until 9", ["BUY 0.4 @ 101"],               OPEN),
    ("99/101 x 0.4/9",   "SELL 1 @ 99 as GTC",   ["SELL 0.4 @ 99"],                     OPEN),
    ("99/101",           "SELL 1 @ 98 as GTC",   ["SELL 1 @ 99"],                       FILLED),
])
def test_an_order_takes_what_its_limit_and_the_book_allow(quote, order, fills, status):
    desk = Desk().quote(quote)
    placed = desk.place(order)
    assert desk.fills() == fills
    assert placed.status is status
    assert desk.order_of(placed) == placed


def test_a_market_order_walks_ten_levels_and_no_further():
    desk = Desk().quote("99/101 x 9/0.3")
    placed = desk.place("BUY 5")
    assert desk.fills()[9:] == ["BUY 0.3 @ 105.5"]
    assert placed.status is CANCELLED and placed.filled_quantity == 3


def test_an_order_knows_its_filled_part_and_the_average_of_what_it_paid():
    desk = Desk().quote("99/101 x 9/0.4")
    placed = desk.place("BUY 1")
    assert (placed.filled_quantity, placed.remaining) == (1, 0)
    assert placed.average_price == Decimal("0.4") * 101 + Decimal("0.4") * Decimal("101.5") \
        + Decimal("0.2") * 102


def test_a_placed_order_carries_our_intent_and_an_id_of_the_venue():
    desk = Desk().quote("99/101")
    order = desk.order("BUY 1 @ 100 as GTC")
    placed = desk.venue.place(order, desk.now)
    assert placed.venue_order_id
    assert replace(placed, status=order.status, venue_order_id="") == order


def test_every_fill_costs_a_fee_of_its_notional_and_of_its_contracts():
    desk = Desk(fee_rate=Decimal("0.001"), fee_per_contract=Decimal("0.15"))
    desk.quote("99/101 x 9/0.4").place("BUY 0.7")
    fees = [fill.fee for fill in desk.venue.fills(EVER)]
    assert fees == [Decimal("0.0404") + Decimal("0.60"), Decimal("0.03045") + Decimal("0.45")]
    assert desk.quote("101").venue.equity() == 10_000 - sum(fees) - Decimal("0.15")


def test_the_fees_are_a_thousandth_and_fifteen_cents_a_contract_unless_said():
    market = Market(a_product())
    market.quotes[BTC] = a_quote("100")
    venue = PaperBroker(market)
    venue.place(an_order("BUY 1", "a", NOON), NOON)
    assert [fill.fee for fill in venue.fills(EVER)] == [Decimal("0.1") + Decimal("1.50")]
    assert venue.equity() == 10_000 - Decimal("1.60")


@pytest.mark.parametrize("quote, order, fills", [
    ("99/101",         "BUY 1",                 ["BUY 1 @ 102.01"]),
    ("99/101",         "SELL 1",                ["SELL 1 @ 98.01"]),
    ("99/101 x 9/0.5", "BUY 1",                 ["BUY 0.5 @ 102.01", "BUY 0.5 @ 102.515"]),
    ("99/101",         "BUY 1 @ 102 as IOC",    []),
    ("99/101",         "BUY 1 @ 102.5 as IOC",  ["BUY 1 @ 102.01"]),
    ("99/101",         "SELL 1 @ 98.5 as IOC",  []),
])
def test_slippage_worsens_whatever_takes_but_never_beyond_its_limit(quote, order, fills):
    desk = Desk(slippage_bps=Decimal(100)).quote(quote)
    desk.place(order)
    assert desk.fills() == fills


def test_a_fresh_position_is_valued_at_the_mark_not_at_its_price():
    desk = Desk().quote("99/101")
    desk.place("BUY 1")
    assert desk.venue.positions()[BTC].mark_price == 100
    assert desk.venue.equity() == 9_999


# --- orders that rest --------------------------------------------------------------------------


@pytest.mark.parametrize("order, quotes, fills, status", [
    ("BUY 1 @ 98 as GTC",  ["98/98.5"],                     [],                        OPEN),
    ("BUY 1 @ 98 as GTC",  ["97/98"],                       ["BUY 1 @ 98"],            FILLED),
    ("BUY 1 @ 98 as GTC",  ["90/91"],                       ["BUY 1 @ 98"],            FILLED),
    ("BUY 1 @ 98 as GTC",  ["90/91 x 9/0.49", "99/101", "97/98 x 9/9"],
                                             ["BUY 0.4 @ 98", "BUY 0.6 @ 98"],         FILLED),
    ("BUY 1 @ 98 as GTC",  ["90/91 x 9/0.09"],              [],                        OPEN),
    ("SELL 1 @ 102 as GTC", ["101.5/102"],                  [],                        OPEN),
    ("SELL 1 @ 102 as GTC", ["109/110"],                    ["SELL 1 @ 102"],          FILLED),
    ("BUY 1 @ 98 as GTD until 2", ["99/101", "97/98"],      [],                        EXPIRED),
    ("BUY 1 @ 98 as GTD until 2", ["97/98"],                ["BUY 1 @ 98"],            FILLED),
    ("BUY 1 @ 98 as GTD until 2", ["97/98 x 9/0.3", "97/98"], ["BUY 0.3 @ 98"],        EXPIRED),
])
def test_a_resting_limit_fills_at_its_own_price_up_to_the_size_that_meets_it(
    order, quotes, fills, status
):
    desk = Desk(slippage_bps=Decimal(100)).quote("99/101")
    placed = desk.place(order)
    for quote in quotes:
        desk.quote(quote)
    assert desk.fills() == fills
    assert desk.status(placed) is status


def test_an_order_expires_on_time_though_its_symbol_has_no_new_quote():
    desk = Desk().quote("99/101")
    placed = desk.place("BUY 1 @ 98 as GTD until 600")
    desk.see(desk.now + timedelta(seconds=599))
    assert desk.status(placed) is OPEN
    del desk.market.quotes[BTC]
    desk.see(desk.now + timedelta(seconds=1))
    assert desk.status(placed) is EXPIRED


def test_one_quote_meets_a_resting_order_once():
    desk = Desk().quote("99/101")
    placed = desk.place("BUY 1 @ 98 as GTC")
    desk.quote("97/98 x 9/0.3")
    desk.market.quotes[BTC] = Mark(*desk.market.quotes[BTC])  # told again
    desk.see(desk.now + timedelta(seconds=1))
    assert desk.order_of(placed).filled_quantity == Decimal("0.3")


def test_a_cancelled_order_keeps_its_filled_part_and_never_fills_again():
    desk = Desk().quote("99/101 x 9/0.4")
    placed = desk.place("BUY 1 @ 101 as GTC")
    desk.cancel(placed)
    desk.cancel(placed, desk.order("BUY 1"))  # nor is a cancel of nothing an error
    desk.quote("90/91")
    assert desk.status(placed) is CANCELLED
    assert (desk.held(), desk.order_of(placed).remaining) == ("0.4", 0)


# --- stops and brackets ------------------------------------------------------------------------


@pytest.mark.parametrize("held, stop, quotes, fills", [
    # A stop fires when the mark reaches it and takes what the book has.
    ("1",  "SELL 1 stop 95 limit 90",   ["95/96"],              []),
    ("1",  "SELL 1 stop 95 limit 90",   ["94.5/95.5"],          ["SELL 1 @ 94.5"]),
    ("-1", "BUY 1 stop 105 limit 110",  ["104.5/105"],          []),
    ("-1", "BUY 1 stop 105 limit 110",  ["104.5/105.5"],        ["BUY 1 @ 105.5"]),
    ("1",  "SELL 1 stop 95 limit 94",   ["93.5/95 x 9/9", "94/95 x 0.4/9", "99/101 x 0.3/9"],
     ["SELL 0.4 @ 94", "SELL 0.3 @ 99", "SELL 0.3 @ 98.5"]),
    # A bracket's stop leg reaches five percent beyond its stop.
    ("1",  "SELL 1 stop 100 profit 120", ["94.5/95.5"],         []),
    ("1",  "SELL 1 stop 100 profit 120", ["95/95.5"],           ["SELL 1 @ 95"]),
    ("-1", "BUY 1 stop 100 profit 80",   ["104.5/105.5"],       []),
    ("-1", "BUY 1 stop 100 profit 80",   ["104.5/105"],         ["BUY 1 @ 105"]),
    # Its profit leg rests.
    ("1",  "SELL 1 stop 95 profit 120",  ["119.5/120.5", "121/122 x 0.4/9", "125/126"],
     ["SELL 0.4 @ 120", "SELL 0.6 @ 120"]),
    ("-1", "BUY 1 stop 105 profit 80",   ["78/79"],             ["BUY 1 @ 80"]),
    # One that fired forgets its profit leg, and stays a limit order when the price is back.
    ("1",  "SELL 1 stop 95 profit 120",  ["90/91", "121/122"],  ["SELL 1 @ 121"]),
    ("-1", "BUY 1 stop 105 profit 80",   ["111/112", "78/79"],  ["BUY 1 @ 79"]),
])
def test_a_stop_fires_and_a_bracket_has_two_legs(held, stop, quotes, fills):
    desk = Desk().hold(held, "101" if "stop 100" in stop and held == "1" else
                       "99" if "stop 100" in stop else "100")
    entry = desk.fills()
    desk.place(stop)
    for quote in quotes:
        desk.quote(quote)
    assert desk.fills() == entry + fills


def test_a_fired_stop_says_so_in_its_state_and_is_still_fired_after_a_restart():
    desk = Desk().hold(1)
    stop = desk.place("SELL 1 stop 95 limit 94")
    desk.quote("90/91")
    assert desk.order_of(stop).reason == "STOP_TRIGGERED"
    again = desk.restarted()
    again.quote("96/97")
    assert again.fills() == ["SELL 1 @ 96"]


def test_a_stop_slips():
    desk = Desk(slippage_bps=Decimal(100)).quote("100/100 x 9/9")
    desk.place("BUY 1")
    desk.place("SELL 1 stop 95 profit 120")
    desk.quote("95")
    assert desk.fills()[-1] == "SELL 1 @ 94.05"


def test_a_bracket_reserves_the_position_until_it_is_cancelled():
    desk = Desk().hold(1)
    stop = desk.place("SELL 1 stop 95 profit 120")
    for call, order in ((desk.close, "SELL 1"), (desk.place, "SELL 0.5"),
                        (desk.place, "SELL 0.5 @ 110 as GTC")):
        assert refused(call, order) == "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION"
    desk.cancel(stop)
    desk.close("SELL 1")
    assert desk.held() == "flat"


def test_only_the_reserved_part_is_reserved():
    desk = Desk().hold(3)
    desk.place("SELL 1 stop 95 profit 120")
    desk.place("SELL 1 stop 94 limit 90")
    assert refused(desk.place, "SELL 1.1 stop 93 profit 120") == (
        "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION")
    desk.place("BUY 1")
    assert refused(desk.close, "SELL 2.1") == "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION"
    desk.close("SELL 2")
    assert desk.held() == "2"


def test_a_fired_stop_that_is_partly_filled_reserves_what_is_left_of_it():
    desk = Desk().hold(3)
    desk.place("SELL 2 stop 95 limit 94.5")
    desk.quote("94.5/95 x 0.5/9")
    assert desk.held() == "2.5"
    assert refused(desk.close, "SELL 1.1") == "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION"
    desk.close("SELL 1")


def test_what_will_close_the_position_can_neither_be_closed_nor_bracketed_again():
    desk = Desk().candle("100 100 100 100")
    desk.place("BUY 2")
    desk.candle("100 100 100 100")
    desk.close("SELL 1.5")
    assert refused(desk.close, "SELL 0.6") == "PREVIEW_CLOSE_ONLY_FAILURE"
    assert refused(desk.place, "SELL 0.6 stop 95 profit 120") == (
        "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION")
    desk.place("SELL 0.5 stop 95 profit 120")
    desk.candle("100 100 90 100")
    assert desk.held() == "flat"


@pytest.mark.parametrize("stop, quotes, held, status", [
    ("SELL 1 stop 95 profit 120",  ["94"],       "flat", CANCELLED),
    # Coinbase's stop-limit knows no position: left behind, it opens one.
    ("SELL 1 stop 95 limit 90",    ["95"],       "-1",   FILLED),
])
def test_a_stop_without_its_position(stop, quotes, held, status):
    desk = Desk().quote("100")
    order = replace(desk.order(stop), status=OPEN, venue_order_id="v")
    desk.venue.restore(Decimal(10_000), [], [order], desk.now)
    for quote in quotes:
        desk.quote(quote)
    assert (desk.held(), desk.status(order)) == (held, status)


def test_a_stop_without_its_position_reserves_nothing():
    desk = Desk().quote("100")
    order = replace(desk.order("SELL 1 stop 95 limit 90"), status=OPEN, venue_order_id="v")
    desk.venue.restore(Decimal(10_000), [], [order], desk.now)
    desk.place("SELL 1")
    assert desk.held() == "-1"


def test_a_bracket_closes_no_more_than_is_held():
    desk = Desk().quote("100")
    order = replace(desk.order("SELL 2 stop 95 profit 120"), status=OPEN, venue_order_id="v")
    held = Position(BTC, Decimal("0.5"), Decimal(100), Decimal(100))
    desk.venue.restore(Decimal(10_000), [held], [order], desk.now)
    desk.quote("95").quote("94")
    assert desk.fills() == ["SELL 0.5 @ 95"]
    assert desk.status(order) is CANCELLED


# --- attached brackets -------------------------------------------------------------------------


def test_every_fill_of_a_resting_entry_brings_its_bracket():
    desk = Desk().quote("99/101")
    entry = desk.place("BUY 1 @ 98 as GTC carrying 95")
    desk.quote("97/98 x 9/0.4").quote("97/98 x 9/9")
    brackets = [o for o in desk.venue.orders(EVER) if o.originating_order_id]
    assert desk.stops() == ["SELL 0.4 at 95", "SELL 0.6 at 95"]
    for bracket in brackets:
        assert bracket.originating_order_id == entry.venue_order_id
        assert bracket.intent.order_type is OrderType.BRACKET
        assert bracket.intent.time_in_force is TimeInForce.GTC
        assert (bracket.purpose, bracket.intent.reason) == (Purpose.STOP, "attached to its entry")
        assert bracket.intent.limit_price == Decimal("117.5")  # 20 % up, on the tick
    desk.quote("95")
    assert desk.held() == "flat"


def test_a_short_entry_brings_a_buying_bracket():
    desk = Desk().quote("99/101")
    desk.place("SELL 1 @ 102 as GTC carrying 105")
    desk.quote("103/104")
    assert desk.stops() == ["BUY 1 at 105"]
    desk.quote("80")
    assert desk.fills()[-1] == "BUY 1 @ 81.5"


def test_an_entry_through_flat_brackets_only_what_it_opened():
    desk = Desk().hold(-1)
    desk.place("BUY 3 @ 98 as GTC carrying 95")
    desk.quote("97/98")
    assert (desk.held(), desk.stops()) == ("2", ["SELL 2 at 95"])


def test_a_reduction_brings_no_bracket():
    desk = Desk().hold(-3)
    desk.place("BUY 1 @ 98 as GTC carrying 95")
    desk.quote("97/98")
    assert (desk.held(), desk.stops()) == ("-2", [])


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("held, order, code", [
    ("0",  "BUY 0.05",                    "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"),
    ("0",  "BUY 0",                       "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"),
    ("0",  "BUY 1000.1",                  "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE"),
    ("0",  "BUY 1.05",                    "INVALID_SIZE_PRECISION"),
    ("0",  "BUY 1 @ 100.1 as GTC",        "INVALID_PRICE_PRECISION"),
    ("0",  "BUY 1 @ 0 as GTC",            "INVALID_PRICE_PRECISION"),
    ("0",  "BUY 1 @ -1 as GTC",           "INVALID_PRICE_PRECISION"),
    ("0",  "BUY 1 @ 100 as GTC carrying 95.1", "INVALID_PRICE_PRECISION"),
    ("1",  "SELL 1 stop 95.1 profit 120", "INVALID_PRICE_PRECISION"),
    ("0",  "BUY 1 @ 100 as GTD",          "GTD_ORDERS_MUST_HAVE_END_TIME"),
    ("0",  "BUY 1 @ 100 as GTD until 0",  "END_TIME_IS_IN_THE_PAST"),
    ("0",  "BUY 1 @ 100 as GTC carrying 100", "INVALID_ATTACHED_STOP_LOSS_PRICE"),
    ("0",  "SELL 1 @ 100 as GTC carrying 100", "INVALID_ATTACHED_STOP_LOSS_PRICE"),
    ("0",  "BUY 1 @ 98 as GTC carrying 99", "INVALID_ATTACHED_STOP_LOSS_PRICE"),
    ("0",  "BUY 1 carrying 101",          "INVALID_ATTACHED_STOP_LOSS_PRICE"),
    ("0",  "SELL 1 stop 95 profit 120",   "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"),
    ("-1", "SELL 1 stop 95 profit 120",   "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"),
    ("1",  "SELL 1.1 stop 95 profit 120", "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"),
    ("1",  "SELL 1.1 stop 95 limit 90",   "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"),
    ("1",  "SELL 1 stop 100 profit 120",  "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE"),
    ("-1", "BUY 1 stop 100 profit 80",    "PREVIEW_STOP_PRICE_BELOW_LAST_TRADE_PRICE"),
    ("1",  "SELL 1 stop 100 limit 90",    "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE"),
    ("1",  "SELL 1 stop 95 limit 95.5",   "PREVIEW_STOP_PRICE_BELOW_LIMIT_PRICE"),
    ("-1", "BUY 1 stop 105 limit 104.5",  "PREVIEW_STOP_PRICE_ABOVE_LIMIT_PRICE"),
    ("1",  "SELL 1 stop 95 profit 100",   "INVALID_BRACKET_PRICES"),
    ("-1", "BUY 1 stop 105 profit 100",   "INVALID_BRACKET_PRICES"),
    ("0",  "BUY 501",                     "INSUFFICIENT_FUNDS"),
])
def test_an_order_is_refused_in_the_venues_words_and_does_not_exist(held, order, code):
    desk = Desk().hold(held)
    before = desk.venue.orders(EVER)
    assert refused(desk.place, order) == code
    assert desk.venue.orders(EVER) == before


@pytest.mark.parametrize("order", [
    "BUY 0.1", "BUY 500", "SELL 400", "BUY 1 @ 0.5 as GTC", "BUY 1 @ 100 as GTC carrying 99.5",
    "SELL 1 @ 100 as GTC carrying 100.5", "BUY 1 @ 98 as GTD until 1"])
def test_an_order_on_the_very_edge_is_taken(order):
    assert not Desk().quote("100").place(order).status is OrderStatus.REJECTED


@pytest.mark.parametrize("held, order", [
    ("1", "SELL 1 stop 99.5 profit 100.5"), ("1", "SELL 1 stop 95 limit 95"),
    ("-1", "BUY 1 stop 100.5 profit 99.5"), ("-1", "BUY 1 stop 105 limit 105")])
def test_a_stop_on_the_very_edge_is_taken(held, order):
    assert Desk().hold(held).place(order).status is OPEN


@pytest.mark.parametrize("order, changes, code", [
    ("BUY 1 @ 100 as GTC",        {"limit_price": None}, "INVALID_LIMIT_PRICE"),
    ("SELL 1 stop 95 profit 120", {"limit_price": None}, "INVALID_BRACKET_PRICES"),
    ("SELL 1 stop 95 profit 120", {"stop_price": None},  "INVALID_BRACKET_PRICES"),
    ("SELL 1 stop 95 limit 90",   {"limit_price": None}, "INVALID_BRACKET_PRICES"),
    ("BUY 1",          {"limit_price": Decimal(100)}, "PRICE_NOT_ALLOWED_FOR_MARKET_ORDERS"),
    ("BUY 1",                     {"symbol": "DOGE-PERP"}, "INVALID_PRODUCT_ID"),
    ("BUY 1",                     {"symbol": ETH},       "INVALID_NO_LIQUIDITY"),
])
def test_an_order_that_makes_no_sense_is_refused(order, changes, code):
    desk = Desk().hold(1)
    order = desk.order(order)
    order = replace(order, intent=replace(order.intent, **changes))
    assert refused(desk.venue.place, order, desk.now) == code


@pytest.mark.parametrize("held, order, code", [
    ("0",  "SELL 1",   "CANNOT_CLOSE_ZERO_POSITION"),
    ("1",  "BUY 1",    "CANNOT_CLOSE_ZERO_POSITION"),
    ("1",  "SELL 1.1", "PREVIEW_CLOSE_ONLY_FAILURE"),
    ("-1", "BUY 1.1",  "PREVIEW_CLOSE_ONLY_FAILURE"),
])
def test_a_close_that_would_do_more_than_close_is_refused(held, order, code):
    desk = Desk().hold(held)
    assert refused(desk.close, order) == code
    assert desk.held() in (held, "flat")


def test_the_refusal_of_a_close_says_how_much_would_be_taken():
    desk = Desk().hold(1)
    for order, free in (("SELL 1.1", "1"), ("BUY 1", "0")):
        with pytest.raises(OrderRejected, match=f": {free} can be closed"):
            desk.close(order)


def test_a_close_is_refused_like_any_order_that_is_malformed():
    assert refused(Desk().hold(1).close, "SELL 0.05") == "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"


def test_nothing_is_taken_while_the_product_is_closed_and_the_rules_are_those_of_today():
    desk = Desk().hold(1)
    desk.market.listing = [a_product(tradable=False)]
    desk.venue.products()
    for call, order in ((desk.place, "BUY 1"), (desk.close, "SELL 1")):
        assert refused(call, order) == "TRADING_DISABLED"
    desk.market.listing = [a_product(min_quantity=Decimal(2), max_quantity=Decimal(3))]
    desk.venue.products()
    assert refused(desk.place, "BUY 1.9") == "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL"
    assert refused(desk.place, "BUY 3.1") == "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE"
    for size in (2, 3):
        desk.place(f"BUY {size}")


def test_an_order_needs_a_quote_that_is_not_old_but_a_stop_does_not():
    desk = Desk().hold(1)
    desk.now += timedelta(seconds=60)
    desk.place("BUY 0.1")
    desk.now += timedelta(seconds=1)
    for call, order in ((desk.place, "BUY 1"), (desk.place, "BUY 1 @ 90 as GTC"),
                        (desk.close, "SELL 1")):
        assert refused(call, order) == "INVALID_NO_LIQUIDITY"
    assert desk.place("SELL 1 stop 95 profit 120").status is OPEN


def test_in_a_recording_of_candles_an_order_waits_however_old_the_last_one_is():
    desk = Desk().candle("100 100 100 100")
    desk.now += timedelta(hours=1)
    assert desk.place("BUY 1").status is OPEN


def test_an_order_that_comes_before_the_first_tick_is_an_order_like_any_other():
    desk = Desk()
    desk.market.quotes[BTC] = a_quote("100", now=desk.now)
    desk.market.rates = rates("12:00:00 0.5", "13:00:00 0.001")
    desk.place("BUY 1")
    desk.quote("100", seconds=3600)
    assert (desk.held(), paid(desk)) == ("1", [("13:00", "0.1")])


def test_an_order_between_two_ticks_loses_nothing_of_the_time_between_them():
    desk = Desk().hold(1)
    desk.market.rates = rates("13:00:00 0.001", "14:00:00 0.002")
    desk.now = at("14:00:10")
    desk.market.quotes[BTC] = a_quote("100", now=desk.now)
    desk.place("BUY 1 @ 90 as GTC")
    desk.see(at("14:00:15"))
    assert paid(desk) == [("13:00", "0.1"), ("14:00", "0.2")]


def test_an_order_meets_the_quote_of_its_moment_not_that_of_the_last_tick():
    desk = Desk().quote("100")
    desk.market.quotes[BTC] = a_quote("107", now=desk.now)
    desk.place("BUY 1")
    assert desk.fills() == ["BUY 1 @ 107"]


def test_no_more_orders_are_open_than_the_venue_allows(monkeypatch):
    monkeypatch.setattr(paper, "ORDERS_MAX", 2)
    desk = Desk().quote("100")
    first, _ = desk.place("BUY 1 @ 98 as GTC"), desk.place("BUY 1 @ 98 as GTC")
    assert refused(desk.place, "BUY 1 @ 98 as GTC") == "TOO_MANY_OPEN_ORDERS"
    desk.cancel(first)
    desk.place("BUY 1 @ 98 as GTC")


@pytest.mark.parametrize("ends", [False, True])
def test_a_repeated_id_returns_the_first_order_and_places_nothing(ends):
    desk = Desk().hold(1)
    first = desk.order("SELL 1" if ends else "SELL 1 @ 110 as GTC")
    answer = desk.venue.place(first, desk.now)
    again = replace(first, intent=replace(first.intent, side=Side.BUY, quantity=Decimal(5)))
    assert desk.venue.place(again, desk.now) == answer
    assert desk.venue.close(again, desk.now) == answer
    assert len(desk.fills()) == 1 + ends


# --- margin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("held, resting, order, fits", [
    # 1,000 USD at 20 % for longs and 25 % for shorts, at 100: 50 or 40 base units.
    ("0",   [],                       "BUY 50",               True),
    ("0",   [],                       "BUY 50.1",             False),
    ("0",   [],                       "SELL 40",              True),
    ("0",   [],                       "SELL 40.1",            False),
    ("30",  [],                       "BUY 20",               True),
    ("30",  [],                       "BUY 20.1",             False),
    # An order through flat needs the margin of what it leaves, not of both sides.
    ("50",  [],                       "SELL 90",              True),
    ("50",  [],                       "SELL 90.1",            False),
    ("-40", [],                       "BUY 90",               True),
    ("-40", [],                       "BUY 90.1",             False),
    # What rests counts as filled; what only reduces never needs margin.
    ("0",   ["BUY 30 @ 90 as GTC"],   "BUY 20",               True),
    ("0",   ["BUY 30 @ 90 as GTC"],   "BUY 20.1",             False),
    ("0",   ["BUY 50 @ 90 as GTC"],   "SELL 40",              True),
    ("10",  ["SELL 10 @ 110 as GTC"], "SELL 40",              True),
    ("10",  ["SELL 10 @ 110 as GTC"], "SELL 40.1",            False),
    ("50",  ["SELL 20 @ 110 as GTC"], "SELL 30",              True),
])
def test_an_increase_needs_its_margin_with_everything_that_rests_filled(
    held, resting, order, fits
):
    desk = Desk(equity="1000").hold(held)
    for other in resting:
        desk.place(other)
    if fits:
        desk.place(order)
    else:
        assert refused(desk.place, order) == "INSUFFICIENT_FUNDS"


def test_the_margin_of_other_symbols_is_taken():
    desk = Desk(equity="1000").hold(20).hold(0, symbol=ETH)
    desk.place("SELL 16 @ 110 as GTC", ETH)
    assert refused(desk.place, "BUY 10.1") == "INSUFFICIENT_FUNDS"
    desk.place("BUY 10")


def test_losses_take_margin_but_a_reduction_always_passes():
    desk = Desk(equity="1000").hold(50).quote("99.5")
    assert refused(desk.place, "BUY 0.1") == "INSUFFICIENT_FUNDS"
    desk.place("SELL 50")
    assert (desk.held(), desk.venue.equity()) == ("flat", 975)


# --- liquidation -------------------------------------------------------------------------------


@pytest.mark.parametrize("held, quote, fill", [
    # Equity 1,000 - 4,000 d against 0.88 x 20 % of what 40 are worth: the limit lies at 91.0194.
    ("40",  "91.5",        None),
    ("40",  "90.5/91.5",   "SELL 40 @ 90.5"),
    # 1,000 - 40 d against 0.88 x 25 %: at 102.4590.
    ("-40", "102",         None),
    ("-40", "102.5/103.5", "BUY 40 @ 103.5"),
])
def test_a_position_that_its_margin_does_not_carry_is_closed_at_the_touch(held, quote, fill):
    desk = Desk(equity="1000").hold(held).quote(quote)
    assert desk.fills()[1:] == ([fill] if fill else [])


@pytest.mark.parametrize("quote, held", [("95.5", "50"), ("95", "flat")])
def test_margin_at_the_threshold_is_too_little(quote, held):
    # At 95 the equity is 1,086 - 250, and 0.88 x 20 % of 50 x 95 is 836 as well.
    assert Desk(equity="1086").hold(50).quote(quote).held() == held


def test_a_liquidation_is_the_venues_own_fill_with_a_fee_and_takes_the_orders_along():
    desk = Desk(equity="1000", fee_rate=Decimal("0.001"), fee_per_contract=Decimal(0)).hold(40)
    orders = [desk.place("SELL 40 stop 80 profit 120"), desk.place("BUY 0.1 @ 90 as GTC")]
    desk.quote("90.5")
    [fill] = desk.venue.fills(EVER)[1:]
    assert fill.is_liquidation and fill.client_order_id == "" and fill.at == desk.now
    assert fill.fee == Decimal("3.62")
    assert [desk.status(order) for order in orders] == [CANCELLED, CANCELLED]
    assert desk.venue.equity() == 1000 - 4 - 380 - Decimal("3.62")


@pytest.mark.parametrize("held, candle, fill", [
    ("40",  "100 101 91.5 100",   None),
    ("40",  "100 101 90 100",     "SELL 40 @ 90"),
    ("-40", "100 102 99 100",     None),
    ("-40", "100 103 99 100",     "BUY 40 @ 103"),
])
def test_a_candle_liquidates_at_its_adverse_extreme(held, candle, fill):
    desk = Desk(equity="1000").hold(held).candle(candle)
    assert desk.fills()[1:] == ([fill] if fill else [])
    assert desk.held() == ("flat" if fill else held)


def test_a_stop_inside_the_candle_comes_before_the_liquidation():
    desk = Desk(equity="1000").hold(40)
    desk.place("SELL 40 stop 95 profit 120")
    desk.candle("100 101 80 90")
    assert desk.fills()[1:] == ["SELL 40 @ 95"]


def test_only_the_symbol_that_falls_is_liquidated_while_the_rest_carries_itself():
    desk = Desk(equity="1000").hold(20).hold(20, symbol=ETH)
    stop = desk.place("SELL 20 stop 80 profit 120", ETH)
    desk.quote("81")
    assert (desk.held(), desk.held(ETH), desk.status(stop)) == ("flat", "20", OPEN)
    assert desk.venue.equity() == 620
    desk.quote("71", ETH)
    assert desk.held(ETH) == "flat"


def test_the_margin_of_all_symbols_decides():
    desk = Desk(equity="1000").hold(20).hold(-16, symbol=ETH).quote("96")
    assert desk.held() == "20"
    desk.quote("95.5", ETH).quote("80")
    assert (desk.held(), desk.held(ETH)) == ("20", "-16")


# --- funding -----------------------------------------------------------------------------------


def rates(*rows, symbol=BTC):
    """Read `13:00:00 0.001`: a rate and its moment."""
    return [FundingRate(symbol, Decimal(rate), at(clock))
            for clock, rate in (row.split() for row in rows)]


def paid(desk, since=EVER):
    return [(f"{p.at:%H:%M}", plain(p.amount)) for p in desk.venue.funding_payments(since)]


@pytest.mark.parametrize("held, rate, amount", [
    ("2", "0.001", "0.22"), ("2", "-0.001", "-0.22"),
    ("-2", "0.001", "-0.22"), ("-2", "-0.001", "0.22"),
])
def test_longs_pay_a_positive_rate_on_the_notional_at_the_last_mark(held, rate, amount):
    desk = Desk().hold(held).quote("110")
    desk.market.rates = rates(f"13:00:00 {rate}")
    equity = desk.venue.equity()
    desk.quote("120", seconds=3600)
    [payment] = desk.venue.funding_payments(EVER)
    assert (payment.symbol, payment.rate, payment.at) == (BTC, Decimal(rate), at("13:00:00"))
    assert plain(payment.amount) == amount
    assert desk.venue.equity() == equity + 10 * Decimal(held) - Decimal(amount)


def test_funding_is_charged_once_an_hour_however_often_the_market_is_asked():
    desk = Desk().hold(1)
    desk.market.rates = rates("12:00:00 0.5", "13:00:00 0.001", "14:00:00 0.002")
    for second in range(0, 8000, 50):
        desk.see(at("12:00:02") + timedelta(seconds=second))
    assert paid(desk) == [("13:00", "0.1"), ("14:00", "0.2")]
    assert len({payment.payment_id for payment in desk.venue.funding_payments(EVER)}) == 2


def test_a_rate_every_eight_hours_some_milliseconds_late_is_charged_every_eight_hours():
    desk = Desk().hold(1)
    desk.market.rates = rates("16:00:00.005 0.001", "23:59:59.999 0.002")
    for hours in range(1, 13):
        desk.see(NOON + timedelta(hours=hours, microseconds=3000))
    assert paid(desk) == [("16:00", "0.1"), ("23:59", "0.2")]


def test_a_gap_of_hours_is_charged_hour_by_hour():
    desk = Desk().hold(1).hold(-1, symbol=ETH)
    desk.market.rates = [*rates("13:00:00 0.001", "14:00:00 0.002", "15:00:00 0.003"),
                         *rates("14:00:00 0.004", symbol=ETH)]
    desk.see(at("14:30:00"))
    assert [(p.symbol, plain(p.amount)) for p in desk.venue.funding_payments(EVER)] == [
        (BTC, "0.1"), (BTC, "0.2"), (ETH, "-0.4")]


def test_a_rate_that_becomes_known_late_is_still_charged_once():
    desk = Desk().hold(1)
    desk.see(at("13:00:05"))
    desk.market.rates = rates("13:00:00 0.001")
    desk.see(at("13:00:10"))
    desk.see(at("13:00:15"))
    assert paid(desk) == [("13:00", "0.1")]


def test_what_was_booked_late_is_told_to_whoever_asks_since_then():
    desk = Desk().hold(1)
    desk.see(at("13:30:00"))
    desk.market.rates = rates("13:00:00 0.001")
    desk.see(at("13:30:10"))
    [payment] = desk.venue.funding_payments(at("13:30:05"))
    assert payment.at == at("13:00:00")
    assert desk.venue.funding_payments(at("13:30:15")) == []


def test_a_rate_is_charged_on_what_was_held_before_the_fills_of_its_moment():
    desk = Desk().hold(1)
    desk.place("SELL 1 @ 110 as GTC")
    desk.market.rates = rates("13:00:00 0.001")
    desk.market.quotes[BTC] = a_quote("110", now=at("13:00:00"))
    desk.see(at("13:00:00"))
    assert (desk.held(), paid(desk)) == ("flat", [("13:00", "0.1")])
    desk.market.rates += rates("14:00:00 0.001")
    desk.see(at("14:00:00"))
    assert len(paid(desk)) == 1


def test_a_position_that_grows_still_pays_what_was_not_known_yet():
    desk = Desk().hold("0.5").quote("100", seconds=3600)
    desk.place("BUY 0.5")
    desk.market.rates = rates("13:00:00 0.001")
    desk.quote("100")
    assert paid(desk) == [("13:00", "0.1")]


def test_a_position_does_not_pay_for_the_time_before_it_was_opened():
    desk = Desk().hold(-1)
    desk.now = at("13:00:05")
    desk.quote("100", seconds=0)
    desk.place("BUY 2")
    desk.market.rates = rates("13:00:00 0.001")  # known late
    desk.see(at("13:00:10"))
    assert paid(desk) == []
    desk.market.rates += rates("14:00:00 0.001")
    desk.see(at("14:00:00"))
    assert paid(desk) == [("14:00", "0.1")]


def test_a_failed_read_of_a_rate_charges_nothing_twice_and_forgets_nothing():
    desk = Desk().hold(1).hold(1, symbol=ETH)
    desk.market.rates = [*rates("13:00:00 0.001"), *rates("13:00:00 0.002", symbol=ETH)]
    answer = desk.market.funding

    def funding(symbol, now):
        desk.market.down = {"funding"} if symbol == ETH else set()
        return answer(symbol, now)

    desk.venue.funding, desk.market.funding = None, funding
    with pytest.raises(VenueUnavailable):
        desk.see(at("13:30:00"))
    desk.market.funding, desk.market.down = answer, set()
    desk.see(at("13:30:05"))
    assert paid(desk) == [("13:00", "0.1"), ("13:00", "0.2")]


# --- candles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("held, orders, candle, fills", [
    # What waits fills at the open.
    ("0",  ["BUY 1"],                      "101 105 95 99",  ["BUY 1 @ 101"]),
    ("0",  ["SELL 1"],                     "101 105 95 99",  ["SELL 1 @ 101"]),
    ("0",  ["BUY 1 as FOK"],               "101 105 95 99",  ["BUY 1 @ 101"]),
    ("0",  ["BUY 1 @ 101 as IOC"],         "101 105 95 99",  ["BUY 1 @ 101"]),
    ("0",  ["BUY 1 @ 105 as IOC"],         "101 105 95 99",  ["BUY 1 @ 101"]),
    ("0",  ["BUY 1 @ 100.5 as IOC"],       "101 105 95 99",  []),
    ("0",  ["SELL 1 @ 101.5 as IOC"],      "101 105 95 99",  []),
    # A limit is met by the extreme and is never better than its price.
    ("0",  ["BUY 1 @ 95 as GTC"],          "101 105 95 99",  ["BUY 1 @ 95"]),
    ("0",  ["BUY 1 @ 94.5 as GTC"],        "101 105 95 99",  []),
    ("0",  ["BUY 1 @ 103 as GTC"],         "101 105 95 99",  ["BUY 1 @ 103"]),
    ("0",  ["SELL 1 @ 105 as GTC"],        "101 105 95 99",  ["SELL 1 @ 105"]),
    ("0",  ["SELL 1 @ 105.5 as GTC"],      "101 105 95 99",  []),
    ("0",  ["SELL 1 @ 99 as GTC"],         "101 105 95 99",  ["SELL 1 @ 99"]),
    # A stop fills at the worse of its level and the open.
    ("1",  ["SELL 1 stop 95 profit 120"],  "101 105 95 99",  ["SELL 1 @ 95"]),
    ("1",  ["SELL 1 stop 94.5 profit 120"], "101 105 95 99", []),
    ("1",  ["SELL 1 stop 98 profit 120"],  "96 105 95 99",   ["SELL 1 @ 96"]),
    ("1",  ["SELL 1 stop 98 limit 97"],    "90 105 85 99",   ["SELL 1 @ 90"]),
    ("-1", ["BUY 1 stop 105 profit 80"],   "101 105 95 99",  ["BUY 1 @ 105"]),
    ("-1", ["BUY 1 stop 105.5 profit 80"], "101 105 95 99",  []),
    ("-1", ["BUY 1 stop 102 limit 103"],   "104 105 95 99",  ["BUY 1 @ 104"]),
    # The adverse extreme comes first, then the profit leg.
    ("1",  ["SELL 1 stop 95 profit 105"],  "101 105 95 99",  ["SELL 1 @ 95"]),
    ("1",  ["SELL 1 stop 94 profit 105"],  "101 105 95 99",  ["SELL 1 @ 105"]),
    ("1",  ["SELL 1 stop 94 profit 105.5"], "101 105 95 99", []),
    ("-1", ["BUY 1 stop 105 profit 95"],   "101 105 95 99",  ["BUY 1 @ 105"]),
    ("-1", ["BUY 1 stop 106 profit 95"],   "101 105 95 99",  ["BUY 1 @ 95"]),
    ("1",  ["SELL 1 stop 94 limit 90"],    "101 105 95 99",  []),
    # A limit that fills on the way down is stopped out in the same candle,
    ("0",  ["BUY 1 @ 98 as GTC carrying 95.5"], "101 105 95 99",
     ["BUY 1 @ 98", "SELL 1 @ 95.5"]),
    # but what came after it in the candle is not known, so it takes no profit there.
    ("0",  ["BUY 1 @ 98 as GTC carrying 90"], "101 130 95 99", ["BUY 1 @ 98"]),
    # Exits wait for the open like all others.
    ("1",  ["SELL 1"],                     "101 105 95 99",  ["SELL 1 @ 101"]),
])
def test_one_candle_meets_what_waits_what_rests_and_what_protects(held, orders, candle, fills):
    desk = Desk().candle("100 100 100 100")
    if held != "0":
        desk.place(f"{'BUY' if held == '1' else 'SELL'} 1")
        desk.candle("100 100 100 100")
    before = len(desk.fills())
    for order in orders:
        assert desk.place(order).status is OPEN
    desk.candle(candle)
    assert desk.fills()[before:] == fills


def test_an_order_without_its_fill_at_the_open_is_gone():
    desk = Desk().candle("100 100 100 100")
    placed = desk.place("BUY 1 @ 99 as IOC")
    desk.candle("101 105 95 99").candle("90 90 90 90")
    assert (desk.status(placed), desk.held()) == (CANCELLED, "flat")


def test_the_close_is_the_mark():
    desk = Desk().candle("100 100 100 100")
    desk.place("BUY 1")
    desk.candle("101 105 95 99")
    assert desk.venue.positions()[BTC].mark_price == 99
    assert desk.venue.equity() == 9_998


def test_slippage_in_candles_is_that_of_takers_and_stops_alone():
    desk = Desk(slippage_bps=Decimal(100)).candle("100 100 100 100")
    desk.place("BUY 1")
    desk.place("BUY 1 @ 100.5 as IOC")
    desk.place("BUY 1 @ 99 as GTC")
    desk.candle("100 100 99 100")
    desk.place("SELL 1 stop 95 profit 120")
    desk.place("SELL 1 stop 90 profit 104")
    desk.candle("100 105 95 100")
    assert desk.fills() == ["BUY 1 @ 101", "BUY 1 @ 99", "SELL 1 @ 94.05", "SELL 1 @ 104"]


def test_an_order_that_came_inside_a_candle_waits_for_the_next_open():
    desk = Desk().candle("100 100 100 100")
    opened_at = desk.now
    desk.now += timedelta(seconds=30)
    desk.place("BUY 1")
    desk.now = opened_at
    desk.candle("90 90 90 90")
    assert desk.fills() == []
    desk.candle("101 101 101 101")
    assert desk.fills() == ["BUY 1 @ 101"]


def test_a_candle_still_meets_an_order_whose_time_ends_inside_it():
    desk = Desk().candle("100 100 100 100")
    inside, before = desk.place("BUY 1 @ 98 as GTD until 30"), desk.place(
        "BUY 1 @ 98 as GTD until 60")
    desk.candle("100 100 99 100")
    assert (desk.status(inside), desk.status(before)) == (EXPIRED, EXPIRED)
    met, late = desk.place("BUY 1 @ 98 as GTD until 30"), desk.place("BUY 1 @ 98 as GTD until 30")
    desk.candle("100 100 98 100")
    assert (desk.status(met), desk.status(late)) == (FILLED, FILLED)
    gone = desk.place("BUY 1 @ 98 as GTD until 30")
    desk.now += timedelta(seconds=60)  # a minute without a row
    desk.candle("90 90 90 90")
    assert desk.status(gone) is EXPIRED and desk.held() == "2"


def test_a_recording_without_news_of_a_symbol_moves_nothing_there():
    desk = Desk().candle("100 100 100 100").candle("100 100 100 100", ETH)
    desk.place("BUY 1")
    desk.candle("50 50 50 50", ETH)
    assert desk.fills() == []
    desk.candle("101 101 101 101")
    assert desk.fills() == ["BUY 1 @ 101"]


# --- the same marks, the same fills ------------------------------------------------------------


ORDERS = ("BUY 1", "SELL 1", "BUY 0.7 as FOK", "SELL 2.3", "BUY 7", "SELL 6", "BUY 1 @ 99 as GTC",
          "SELL 1 @ 101 as GTC", "BUY 1 @ 101 as IOC", "SELL 1 @ 99 as GTD until 90",
          "BUY 2 @ 99.5 as GTC carrying 97",
          "SELL 2 @ 100.5 as GTC carrying 103", "SELL 1 stop 97 profit 104",
          "BUY 1 stop 103 profit 96", "SELL 0.5 stop 98 limit 96", "BUY 0.5 stop 102 limit 104")
A_PRICE = st.integers(170, 230).map(lambda ticks: Decimal(ticks) / 2)
A_SIZE = st.integers(1, 40).map(lambda steps: Decimal(steps) / 16)
A_STEP = st.one_of(
    st.tuples(st.just("order"), st.sampled_from(ORDERS), st.sampled_from((BTC, ETH))),
    st.tuples(st.just("close"), st.sampled_from(("BUY", "SELL")), st.sampled_from((BTC, ETH))),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("quote"), A_PRICE, A_SIZE, st.sampled_from((BTC, ETH)),
              st.sampled_from((1, 61, 3600))),
    st.tuples(st.just("candle"), st.tuples(A_PRICE, A_PRICE, A_PRICE, A_PRICE),
              st.sampled_from((BTC, ETH))),
)
SCRIPTS = st.lists(A_STEP, min_size=15, max_size=40)


def acted(steps, equity="200"):
    """A desk that went through `steps`, refusals included, with fees, slippage and funding."""
    desk = Desk(equity, fee_rate=Decimal("0.00095"), fee_per_contract=Decimal("0.11"),
                slippage_bps=Decimal("1.5"))
    desk.market.rates = [FundingRate(symbol, Decimal(hour % 7 - 3) / 10_000_000 * 977,
                                     NOON + timedelta(hours=hour, milliseconds=hour))
                         for symbol in (BTC, ETH) for hour in range(50)]
    for symbol in (BTC, ETH):
        desk.quote("99.5/100.5 x 3/3", symbol)
    for step in steps:
        try:
            act(desk, *step)
        except OrderRejected:
            pass
    return desk


def act(desk, kind, *rest):
    if kind == "order":
        desk.place(*rest)
    elif kind == "close":
        side, symbol = rest
        held = desk.venue.positions().get(symbol)
        desk.close(f"{side} {plain(abs(held.quantity)) if held else 1}", symbol)
    elif kind == "cancel":
        desk.cancel(*desk.venue.orders(EVER)[rest[0]:rest[0] + 1])
    elif kind == "quote":
        price, size, symbol, seconds = rest
        desk.quote(f"{price}/{price + 1} x {size}/{size + Decimal('0.1')}", symbol, seconds)
    else:
        (opened, high, low, close), symbol = rest
        least, *_, most = sorted((opened, high, low, close))
        desk.candle(f"{opened} {most} {least} {close}", symbol)


@given(SCRIPTS)
@settings(max_examples=60, deadline=None)
def test_the_same_marks_and_orders_give_the_same_fills(steps):
    one, other = acted(steps), acted(steps)
    assert one.venue.fills(EVER) == other.venue.fills(EVER)
    assert one.venue.orders(EVER) == other.venue.orders(EVER)
    assert one.venue.equity() == other.venue.equity()


@given(SCRIPTS)
@settings(max_examples=120, deadline=None)
def test_equity_is_the_cash_that_flowed_and_what_is_held_to_the_last_digit(steps):
    desk = acted(steps)
    fills, cash = desk.venue.fills(EVER), Decimal(200)
    for fill in fills:
        cash -= fill.quantity * fill.price * fill.side.sign + fill.fee
    cash -= sum((payment.amount for payment in desk.venue.funding_payments(EVER)), Decimal(0))
    held = {symbol: sum((f.quantity * f.side.sign for f in fills if f.symbol == symbol), Decimal(0))
            for symbol in (BTC, ETH)}
    worth = sum((held[s] * desk.market.quotes[s].price for s in held), Decimal(0))
    assert desk.venue.equity() == cash + worth
    assert {s: p.quantity for s, p in desk.venue.positions().items()} == {
        s: quantity for s, quantity in held.items() if quantity}


@given(SCRIPTS)
@settings(max_examples=120, deadline=None)
def test_whatever_happens_orders_and_fills_agree_and_limits_hold(steps):
    desk = acted(steps)
    fills = desk.venue.fills(EVER)
    assert [fill.at for fill in fills] == sorted(fill.at for fill in fills)
    assert len({fill.fill_id for fill in fills}) == len(fills)
    for order in desk.venue.orders(EVER):
        mine = [fill for fill in fills if fill.client_order_id == order.id]
        assert sum((fill.quantity for fill in mine), Decimal(0)) == order.filled_quantity
        assert (order.status is FILLED) == (order.filled_quantity == order.quantity)
        for fill in mine:
            assert fill.quantity % Decimal("0.1") == 0
            limit = order.intent.limit_price
            if order.intent.order_type is OrderType.LIMIT:
                assert (limit - fill.price) * order.side.sign >= 0
    brackets = {order.id for order in desk.venue.orders(EVER)
                if order.intent.order_type is OrderType.BRACKET}
    held = dict.fromkeys((BTC, ETH), Decimal(0))
    for fill in fills:
        if fill.client_order_id in brackets or fill.is_liquidation:
            assert fill.quantity <= -held[fill.symbol] * fill.side.sign
        held[fill.symbol] += fill.quantity * fill.side.sign


# --- absence -----------------------------------------------------------------------------------


def history(desk, seconds, rows, symbol=BTC):
    """Rows as `12:30:00 100 105 95 101`, each the candle that opened then; `2 12:30:00 …` is the
    second of May."""
    candles = []
    for row in rows:
        words = row.split()
        day = int(words.pop(0)) if ":" not in words[0] else 1
        candles.append(a_candle(" ".join(words[1:]), at(words[0], day)))
    desk.market.history[symbol, seconds] = candles


def test_a_stop_fires_from_the_candles_of_an_absence_though_the_price_is_back():
    desk = Desk().hold(1)
    stop = desk.place("SELL 1 stop 95 profit 120")
    history(desk, 60, ["12:10:00 100 100 94 100", "12:11:00 100 130 100 100"])
    desk.quote("100", seconds=3600)
    [fill] = desk.venue.fills(EVER)[1:]
    assert (said(fill), fill.at) == ("SELL 1 @ 95", at("12:11:00"))
    assert desk.status(stop) is FILLED
    desk.quote("100", seconds=3600)
    assert len(desk.fills()) == 2


@pytest.mark.parametrize("row", [
    "11:59:00 100 100 80 100",  # ended before
    "12:00:00 100 100 80 100",  # began before the last mark
    "12:30:00 100 100 80 100",  # has not ended
])
def test_only_whole_candles_of_the_absence_count(row):
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    history(desk, 60, [row])
    desk.see(at("12:30:30"))
    assert desk.fills() == ["BUY 1 @ 100"]


def test_the_first_candle_that_counts_opens_with_the_absence():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    desk.see(at("12:05:00"))
    history(desk, 60, ["12:05:00 100 100 94 100"])
    desk.see(at("12:10:00"))
    assert desk.fills()[1:] == ["SELL 1 @ 95"]


def test_a_stop_that_had_fired_before_the_absence_fills_though_no_candle_reaches_it():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 limit 94")
    desk.quote("93")
    assert desk.held() == "1"
    history(desk, 60, ["12:10:00 99 100 98 99"])
    desk.quote("99", seconds=3600)
    assert desk.fills()[1:] == ["SELL 1 @ 95"]


def test_a_short_pause_is_no_absence():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    history(desk, 60, ["12:01:00 100 100 80 100"])
    desk.see(at("12:02:01"))
    assert (desk.held(), desk.market.asked) == ("1", [])
    desk.see(at("12:04:02"))
    assert desk.market.asked == [(BTC, 60, 2, at("12:04:02"))]


def test_an_order_does_not_meet_what_was_before_it():
    desk = Desk().hold(1)
    desk.close("SELL 1")
    desk.quote("100").quote("100", seconds=3600)
    desk.place("BUY 1 @ 98 as GTC")
    history(desk, 60, ["12:30:00 100 100 90 100"])
    desk.quote("100", seconds=5)
    assert desk.held() == "flat"


@pytest.mark.parametrize("hours, minutes, fill, filled_at", [
    (["2 13:00:00 100 100 94 100"], ["2 13:30:00 90 90 90 90"], "SELL 1 @ 95", at("14:00:00", 2)),
    (["2 13:00:00 100 100 96 100"], ["2 13:30:00 90 90 90 90", "3 12:45:00 100 100 94 100"],
     "SELL 1 @ 95", at("12:46:00", 3)),
    (["3 12:00:00 90 90 90 90"], ["4 12:45:00 100 100 94 100"], "SELL 1 @ 95", at("12:46:00", 4)),
])
def test_days_are_made_up_for_by_hours_and_the_last_day_by_minutes(
    hours, minutes, fill, filled_at
):
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    history(desk, 3600, hours)
    history(desk, 60, minutes)
    desk.see(at("12:50:00", 4))
    [found] = desk.venue.fills(EVER)[1:]
    assert (said(found), found.at) == (fill, filled_at)


def test_hours_end_a_day_ago_so_that_none_is_met_twice():
    desk = Desk().hold(1).quote("100")
    entry = desk.place("BUY 1 @ 95 as GTC")
    history(desk, 3600, ["2 12:00:00 100 100 94 100", "2 13:00:00 100 100 90 100"])
    history(desk, 60, ["2 12:59:00 100 100 90 100"])
    desk.see(at("13:00:30", 3))
    assert desk.venue.fills(EVER)[-1].at == at("13:00:00", 2)
    assert desk.order_of(entry).filled_quantity == 1
    assert [(seconds, now) for _, seconds, _, now in desk.market.asked] == [
        (3600, at("13:00:30", 2)), (60, at("13:00:30", 3))]


def test_no_absence_is_longer_than_fifteen_hundred_candles():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    history(desk, 3600, ["13:00:00 90 90 90 90"])
    hours = []
    desk.market.funding = lambda symbol, now: hours.append(now)
    desk.see(NOON + timedelta(days=3650))
    assert desk.fills() == ["BUY 1 @ 100"]
    assert [count for _, _, count, _ in desk.market.asked] == [1476, 1500]
    assert len(hours) == 1500


def test_an_absence_pays_its_funding_until_the_stop_fired_and_not_longer():
    desk = Desk().hold(2)
    desk.place("SELL 2 stop 95 profit 120")
    desk.market.rates = rates("13:00:00 0.001", "14:00:00 0.002", "15:00:00 0.003")
    history(desk, 60, ["12:30:00 100 110 100 110", "13:59:00 110 110 110 110",
                       "14:10:00 100 100 94 100"])
    desk.quote("100", seconds=4 * 3600)
    assert paid(desk) == [("13:00", "0.22"), ("14:00", "0.44")]
    assert desk.venue.equity() == 10_000 - 10 - Decimal("0.66")


def test_an_entry_that_fills_in_an_absence_pays_from_then_on_and_is_protected():
    desk = Desk().quote("100")
    desk.place("BUY 1 @ 98 as GTC carrying 90")
    desk.market.rates = rates("13:00:00 0.001", "14:00:00 0.002")
    history(desk, 60, ["13:10:00 100 100 97 99"])
    desk.quote("100", seconds=3 * 3600)
    assert (desk.held(), desk.stops(), paid(desk)) == (
        "1", ["SELL 1 at 90"], [("14:00", "0.198")])


def test_an_entry_whose_time_ended_in_the_absence_does_not_fill_later():
    desk = Desk().quote("100")
    entry = desk.place("BUY 1 @ 98 as GTD until 600")
    history(desk, 60, ["12:20:00 100 100 90 100"])
    desk.quote("90", seconds=3600)
    assert (desk.status(entry), desk.held()) == (EXPIRED, "flat")


def test_the_candles_of_all_symbols_pass_in_the_order_of_time():
    desk = Desk().hold(1).hold(1, symbol=ETH)
    desk.place("SELL 1 stop 95 profit 120")
    desk.place("SELL 1 stop 95 profit 120", ETH)
    history(desk, 60, ["14:00:00 90 90 90 90"])
    history(desk, 60, ["13:00:00 90 90 90 90"], ETH)
    desk.see(at("15:00:00"))
    assert [f.symbol for f in desk.venue.fills(EVER)[2:]] == [ETH, BTC]
    assert [f.symbol for f in desk.venue.fills(at("14:00:00"))] == [BTC]


def test_a_failed_read_of_the_candles_loses_nothing_of_the_absence():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    history(desk, 60, ["12:10:00 100 100 94 100"])
    desk.market.quotes[BTC] = a_quote("100", now=at("13:00:00"))
    desk.market.down = {"candles"}
    with pytest.raises(VenueUnavailable):
        desk.see(at("13:00:00"))
    desk.market.down = set()
    desk.see(at("13:00:05"))
    assert desk.fills()[1:] == ["SELL 1 @ 95"]


def test_a_position_is_met_though_nobody_asks_for_its_symbol_any_more():
    desk = Desk().hold(1)
    desk.place("SELL 1 stop 95 profit 120")
    desk.market.quotes[BTC] = a_quote("94", now=desk.now)
    assert set(desk.see(desk.now + timedelta(seconds=5), ETH)) == {BTC}
    assert desk.held() == "flat"


# --- restart -----------------------------------------------------------------------------------


def test_a_restored_venue_goes_on_where_the_old_one_stopped():
    desk = Desk().hold(2)
    bracket = desk.place("SELL 1 stop 95 profit 120")
    entry = desk.place("BUY 1 @ 98 as GTD until 600")
    again = desk.restarted()
    assert again.venue.equity() == desk.venue.equity()
    assert again.venue.positions() == desk.venue.positions()
    assert again.venue.orders(EVER) == [bracket, entry]
    again.quote("97.5")
    assert again.status(entry) is FILLED
    again.quote("95")
    assert (again.status(bracket), again.held()) == (FILLED, "2")


def test_a_restored_venue_makes_up_for_its_absence():
    desk = Desk().hold(1).hold(1, symbol=ETH)
    stop = desk.place("SELL 1 stop 95 profit 120")
    entry = desk.place("BUY 1 @ 90 as GTD until 600")
    desk.market.rates = [*rates("12:00:00 0.9", "13:00:00 0.001", "14:00:00 0.002"),
                         *rates("14:00:00 0.001", symbol=ETH)]
    again = desk.restarted()
    history(again, 60, ["13:05:00 100 100 89 89"])
    again.quote("100", seconds=2 * 3600)
    assert again.fills() == ["SELL 1 @ 95"]
    assert paid(again) == [("13:00", "0.1"), ("14:00", "0.1")]
    assert (again.status(stop), again.status(entry)) == (FILLED, EXPIRED)
    assert again.venue.equity() == 10_000 - 5 - Decimal("0.2")


def test_a_partly_filled_order_is_restored_with_what_is_left_of_it():
    desk = Desk().quote("99/101 x 9/0.4")
    desk.place("BUY 1 @ 101 as GTC")
    again = desk.restarted()
    again.quote("100")
    assert again.fills() == ["BUY 0.6 @ 101"]
    assert again.held() == "1"
    assert {f.fill_id for f in again.venue.fills(EVER)}.isdisjoint(
        f.fill_id for f in desk.venue.fills(EVER))


# --- reading back ------------------------------------------------------------------------------


def test_orders_are_those_that_are_open_and_those_made_since():
    desk = Desk().quote("100")
    old_open, old_done = desk.place("BUY 1 @ 98 as GTC"), desk.place("BUY 1")
    ended_late = desk.place("BUY 1 @ 97 as GTC")
    desk.quote("100", seconds=60)
    since = desk.now
    new_done, new_open = desk.place("BUY 1"), desk.place("BUY 1 @ 98 as GTC")
    desk.cancel(ended_late)
    assert {o.id for o in desk.venue.orders(since)} == {old_open.id, new_done.id, new_open.id}
    assert {o.id for o in desk.venue.orders(EVER)} >= {old_done.id, ended_late.id}


def test_an_order_that_ends_later_than_the_last_mark_is_listed_from_its_own_time():
    desk = Desk().quote("100")
    desk.now += timedelta(seconds=20)
    order = desk.place("BUY 1")
    assert [o.id for o in desk.venue.orders(desk.now)] == [order.id]


def test_fills_and_payments_are_read_from_a_moment_on_oldest_first():
    desk = Desk().hold(1)
    desk.market.rates = rates("13:00:00 0.001", "14:00:00 0.001")
    desk.quote("101", seconds=3600)
    moment = desk.now
    desk.place("BUY 2")
    desk.quote("102", seconds=3600)
    desk.place("BUY 3")
    assert desk.fills(moment) == ["BUY 2 @ 101", "BUY 3 @ 102"]
    assert desk.fills(desk.now + timedelta(seconds=1)) == []
    assert paid(desk, at("13:00:00")) == [("13:00", "0.1"), ("14:00", "0.303")]
    assert paid(desk, at("13:00:01")) == [("14:00", "0.303")]


def test_what_can_be_read_back_is_bounded(monkeypatch):
    monkeypatch.setattr(paper, "HISTORY_MAX", 5)
    desk = Desk().quote("100")
    desk.market.rates = [FundingRate(BTC, Decimal(1) / 1000, NOON + timedelta(hours=h))
                         for h in range(40)]
    for number in range(30):
        desk.quote("100", seconds=3600)
        last = desk.place("BUY 0.1")
    assert [o.id for o in desk.venue.orders(EVER)][0] == last.id
    assert len(desk.venue.orders(EVER)) == 5
    assert len(desk.venue.fills(EVER)) == len(desk.venue.funding_payments(EVER)) == 5
    assert desk.fills()[-1] == "BUY 0.1 @ 100"


def test_the_answers_about_the_market_are_the_markets_own():
    desk = Desk().quote("99/101")
    desk.market.rates = rates("12:00:00 0.001")
    history(desk, 60, ["11:58:00 1 1 1 1", "11:59:00 2 2 2 2"])
    assert desk.venue.products() == desk.market.listing
    assert desk.see()[BTC] is desk.market.quotes[BTC]
    assert [c.close for c in desk.venue.candles(BTC, 60, 1, NOON)] == [2]
    assert desk.venue.funding(BTC, NOON).rate == Decimal("0.001")


def test_the_products_are_read_once_until_somebody_asks_for_them(monkeypatch):
    desk, reads = Desk(), []
    monkeypatch.setattr(desk.market, "products", lambda: reads.append(1) or desk.market.listing)
    desk.hold(1).quote("101").place("SELL 1 stop 95 profit 120")
    assert len(reads) == 1
    desk.venue.products()
    assert len(reads) == 2


def test_a_market_that_cannot_be_reached_is_no_error_before_it_is_needed():
    class Unreachable(Market):
        def products(self):
            raise VenueUnavailable("products")

    venue = PaperBroker(Unreachable())
    assert venue.equity() == 10_000
    with pytest.raises(VenueUnavailable):
        venue.products()

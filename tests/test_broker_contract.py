"""The contract of `perps_bot.broker`: what every venue must do, whoever implements it.

Nothing here knows how a venue works inside.  Each implementer brings a rig with its own market:

    symbol, other         two perpetual products; the test trades the first
    client                both protocols
    quote(bid, ask)       makes this the market of `symbol`, some seconds later; plenty on each side
    silence()             takes every quote of `symbol` away, some seconds later
    now                   the venue's time
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from types import SimpleNamespace

import pytest
from exchange.harness import Simulator

from perps_bot import rest
from perps_bot.broker import Broker, MarketData
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.errors import OrderRejected
from perps_bot.keys import load_credentials
from perps_bot.model import (
    Candle,
    FundingRate,
    Mark,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Product,
    Purpose,
    Side,
    TimeInForce,
)
from perps_bot.paper import PaperBroker
from perps_bot.rest import Rest, VenueClock
from words import replace

# Reads may lag and a cancel is a request: so many looks, each some seconds later, must do.
LOOKS_MAX = 20
STEP, TICK = Decimal("0.01"), Decimal(5)
CENT = Decimal("0.01")
BID, ASK = Decimal(60_000), Decimal(60_010)


class PaperRig:
    """The paper broker over a market in memory."""

    symbol, other = "BTC-PERP", "ETH-PERP"

    def __init__(self):
        self.now = datetime(2025, 5, 1, 12, tzinfo=UTC)
        self._quotes = {}
        self.client = PaperBroker(self, equity=Decimal(10_000))

    def quote(self, bid, ask):
        self.now += timedelta(seconds=5)
        bid, ask = Decimal(bid), Decimal(ask)
        plenty = Decimal(100)
        self._quotes[self.symbol] = Mark(
            self.symbol, (bid + ask) / 2, bid, ask, self.now, plenty, plenty)
        self.client.marks([self.symbol], self.now)

    def silence(self):
        self.now += timedelta(seconds=5)
        self._quotes.clear()
        self.client.marks([self.symbol], self.now)

    def end(self):
        pass

    def products(self):
        return [Product(symbol, f"{symbol}-ID", STEP, STEP, TICK, STEP, STEP * 5000, Decimal(0),
                        Decimal("0.21"), Decimal("0.26")) for symbol in (self.symbol, self.other)]

    def marks(self, symbols, now):
        return {symbol: self._quotes[symbol] for symbol in symbols if symbol in self._quotes}

    def candles(self, symbol, seconds, count, now):
        if seconds not in (60, 3600):
            return []
        end = now - (now - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=seconds)
        starts = (end - timedelta(seconds=seconds * number) for number in range(count, 0, -1))
        return [Candle(start, BID, ASK, BID, ASK) for start in starts]

    def funding(self, symbol, now):
        return FundingRate(symbol, Decimal("0.00001"), now.replace(minute=0, second=0))


class CoinbaseRig:
    """The real client, over HTTP, against the exchange of the tests in a process of its own."""

    symbol, other, product_id = "BTC-PERP", "ETH-PERP", "BIP-20DEC30-CDE"
    scenario = {}

    def __init__(self):
        self.now = datetime(2026, 11, 23, 12, tzinfo=UTC)
        self._exchange = Simulator({"now": self.now.isoformat(), **self.scenario}, clock="manual")
        self._exchange.start()
        begun, minute = self.now, int(self.now.timestamp())
        self._exchange.call("candles_from", product_id=self.product_id, rows=[
            [minute - 60 * ago, str(BID), str(ASK), str(BID), str(ASK), "3"] for ago in range(10)])
        keys = self._exchange.keys
        settings = SimpleNamespace(
            api_key=keys.name, api_secret=keys.secret, api_key_file=None)
        # The exchange's time stands still between the steps of a test, and so does the client's.
        clock = VenueClock(lambda: self.now, lambda: (self.now - begun).total_seconds())
        self._rest = Rest(self._exchange.url, load_credentials(settings, {}), clock)
        self.client = CoinbasePerpetualsClient(self._rest, symbols=(self.symbol, self.other))
        self.client.connect()

    def quote(self, bid, ask):
        self._pass_time()
        self._exchange.price(self.product_id, bid, ask)

    def silence(self):
        self._pass_time()
        self._exchange.price(self.product_id, 0, 0)

    def end(self):
        self._rest.close()
        broken = self._exchange.stop()
        assert not broken, f"the exchange broke:\n{broken}"

    def _pass_time(self):
        self.now += timedelta(seconds=5)
        self._exchange.advance(self.now)


class LateCoinbaseRig(CoinbaseRig):
    """The same, with reads that lag behind and cancels that take their time."""

    scenario = {"lag": {"fills": 7, "positions": 7, "balance": 7, "cancel_reads": 2}}


@pytest.fixture(params=[PaperRig, CoinbaseRig, LateCoinbaseRig], ids=["paper", "coinbase", "late"])
def venue(request, monkeypatch):
    # Time stands still between the steps of a test: there is nothing to go easy on.
    monkeypatch.setattr(rest, "REQUESTS_PER_SECOND_MAX", 1000)
    rig = request.param()
    rig.quote(BID, ASK)
    yield Seen(rig)
    rig.end()


class Seen:
    """A rig, and the ways in which these tests look at it."""

    def __init__(self, rig):
        self.rig, self.client, self.symbol = rig, rig.client, rig.symbol
        self._numbers = count(1)
        self.begun = rig.now

    @property
    def now(self):
        return self.rig.now

    @property
    def product(self):
        return next(p for p in self.client.products() if p.symbol == self.symbol)

    def order(self, side, steps, limit=None, **intent):
        """An order of so many steps of quantity; with a limit it rests unless told otherwise."""
        kind = OrderType.MARKET if limit is None else OrderType.LIMIT
        force = TimeInForce.IOC if limit is None else TimeInForce.GTC
        fields = {"order_type": kind, "time_in_force": force,
                  "limit_price": None if limit is None else Decimal(limit), **intent}
        quantity = self.product.quantity_increment * Decimal(steps)
        return Order(f"contract-{next(self._numbers):06d}",
                     OrderIntent(self.symbol, side, quantity, **fields), self.now)

    def bracket(self, side, steps, stop, profit):
        return self.order(side, steps, profit, order_type=OrderType.BRACKET, purpose=Purpose.STOP,
                          stop_price=Decimal(stop))

    def place(self, *order, **intent):
        return self.client.place(self.order(*order, **intent), self.now)

    def close(self, side, steps):
        order = self.order(side, steps, purpose=Purpose.EXIT)
        return self.client.close(order, self.now)

    def look(self, order):
        """The order as the venue lists it, or None."""
        listed = self.client.orders(self.begun)
        return next((found for found in listed if found.id == order.id), None)

    def eventually(self, read):
        """The first answer of `read` that is true; time passes between the looks."""
        for _ in range(LOOKS_MAX):
            if answer := read():
                return answer
            mark = self.client.marks([self.symbol], self.now)[self.symbol]
            self.rig.quote(mark.bid, mark.ask)
        raise AssertionError(f"not even after {LOOKS_MAX} looks")

    def ended(self, order):
        """The order when it is finished and its fills are all told."""
        found = self.eventually(lambda: (o := self.look(order)) and o.status.is_terminal and o)
        self.eventually(lambda: self.filled(order) == found.filled_quantity or None)
        return found

    def fills(self, order):
        return [f for f in self.client.fills(self.begun) if f.client_order_id == order.id]

    def filled(self, order):
        return sum((fill.quantity for fill in self.fills(order)), Decimal(0))

    def held(self):
        position = self.client.positions().get(self.symbol)
        return position.quantity if position else Decimal(0)

    def hold(self, side, steps):
        order = self.place(side, steps)
        self.ended(order)
        self.eventually(self.held)
        return order


def refusal(call, *arguments):
    with pytest.raises(OrderRejected) as refused:
        call(*arguments)
    assert refused.value.code in str(refused.value)
    return refused.value.code


# --- the market --------------------------------------------------------------------------------


def test_a_client_has_every_call_of_both_protocols(venue):
    for protocol in (MarketData, Broker):
        for name in (name for name in vars(protocol) if not name.startswith("_")):
            assert callable(getattr(venue.client, name))


def test_products_have_steps_and_margin_rates_and_one_name_each(venue):
    products = venue.client.products()
    assert {venue.rig.symbol, venue.rig.other} <= {product.symbol for product in products}
    assert len({product.symbol for product in products}) == len(products)
    for product in products:
        for step in (product.contract_size, product.quantity_increment, product.price_increment):
            assert isinstance(step, Decimal) and step > 0
        assert product.quantity_increment <= product.min_quantity <= product.max_quantity
        assert product.min_quantity % product.quantity_increment == 0
        assert 0 < product.long_margin_rate <= 1 and 0 < product.short_margin_rate <= 1
        assert product.is_perpetual


def test_a_mark_lies_within_its_quote(venue):
    mark = venue.client.marks([venue.symbol], venue.now)[venue.symbol]
    assert (mark.symbol, mark.bid, mark.ask) == (venue.symbol, BID, ASK)
    assert mark.bid <= mark.price <= mark.ask
    assert mark.at.utcoffset() == timedelta(0) and mark.at <= venue.now


def test_a_symbol_without_a_quote_has_no_mark(venue):
    venue.rig.silence()
    assert venue.symbol not in venue.client.marks([venue.symbol], venue.now)


def test_candles_are_closed_and_come_oldest_first(venue):
    candles = venue.client.candles(venue.symbol, 60, 5, venue.now)
    assert 0 < len(candles) <= 5
    opened = [candle.opened_at for candle in candles]
    assert opened == sorted(set(opened))
    assert opened[-1] + timedelta(seconds=60) <= venue.now
    for candle in candles:
        assert candle.low <= min(candle.open, candle.close)
        assert candle.high >= max(candle.open, candle.close)


def test_a_length_that_the_venue_does_not_have_gives_no_candles(venue):
    assert list(venue.client.candles(venue.symbol, 61, 5, venue.now)) == []


def test_a_funding_rate_is_of_an_hour_that_has_ended(venue):
    rate = venue.client.funding(venue.symbol, venue.now)
    assert rate.symbol == venue.symbol and isinstance(rate.rate, Decimal)
    assert rate.at <= venue.now


# --- an account that does nothing --------------------------------------------------------------


def test_a_new_account_has_money_and_nothing_else(venue):
    client = venue.client
    assert client.equity() > 0
    assert (dict(client.positions()), list(client.orders(venue.begun)),
            list(client.fills(venue.begun)), list(client.funding_payments(venue.begun))) == (
                {}, [], [], [])


def test_a_revision_moves_with_the_account_and_not_with_prices(venue):
    client = venue.client
    if client.revision is None:
        return  # it cannot say, and is read every time
    seen = [client.revision]
    for step in (
            lambda: venue.eventually(lambda: venue.rig.quote(BID, ASK) or True),
            lambda: venue.place(Side.BUY, 1, BID - 50),
            lambda: client.cancel(client.orders(venue.begun), venue.now),
            lambda: venue.hold(Side.BUY, 1),
            lambda: venue.place(Side.BUY, 1, BID - 50, time_in_force=TimeInForce.GTD,
                                expires_at=venue.now + timedelta(seconds=4)),
            lambda: venue.rig.quote(BID, ASK) or client.marks([venue.symbol], venue.now)):
        step()
        seen.append(client.revision)
    assert seen[0] == seen[1] and len({*seen[1:]}) == len(seen[1:])


# --- market orders -----------------------------------------------------------------------------


@pytest.mark.parametrize("side, price", [(Side.BUY, ASK), (Side.SELL, BID)])
def test_a_market_order_fills_at_the_touch_and_moves_the_position(venue, side, price):
    order = venue.place(side, 3)
    ended, quantity = venue.ended(order), 3 * venue.product.quantity_increment
    assert (ended.status, ended.filled_quantity, ended.remaining) == (
        OrderStatus.FILLED, quantity, 0)
    assert ended.average_price == price
    assert venue.eventually(venue.held) == quantity * side.sign
    position = venue.client.positions()[venue.symbol]
    assert (position.side, position.entry_price) == (side, price)


def test_a_fill_tells_what_happened(venue):
    order = venue.hold(Side.BUY, 2)
    for fill in venue.fills(order):
        assert (fill.symbol, fill.side, fill.price) == (venue.symbol, Side.BUY, ASK)
        assert fill.quantity % venue.product.quantity_increment == 0
        assert isinstance(fill.fee, Decimal) and fill.fee >= 0
        assert fill.at.utcoffset() == timedelta(0)
        assert fill.fill_id and not fill.is_liquidation


def test_fills_are_read_oldest_first_and_keep_their_names(venue):
    orders = [venue.hold(Side.BUY, steps) for steps in (1, 2, 3)]
    read = venue.client.fills(venue.begun)
    assert [fill.at for fill in read] == sorted(fill.at for fill in read)
    assert list(dict.fromkeys(fill.client_order_id for fill in read)) == [o.id for o in orders]
    assert len({fill.fill_id for fill in read}) == len(read)
    assert list(venue.client.fills(venue.begun)) == list(read)


def test_fills_are_read_from_a_moment_on_that_moment_included(venue):
    venue.hold(Side.BUY, 1)
    venue.rig.quote(BID, ASK)
    order = venue.hold(Side.BUY, 2)
    since = venue.fills(order)[0].at
    read = {fill.fill_id: fill.at for fill in venue.client.fills(since)}
    assert set(read) >= {fill.fill_id for fill in venue.fills(order)}
    assert min(read.values()) >= since


def test_an_order_comes_back_as_it_was_sent(venue):
    order = venue.order(Side.BUY, 1, BID - 50)
    answer = venue.client.place(order, venue.now)
    for found in (answer, venue.eventually(lambda: venue.look(order))):
        # Why it was sent is for our books alone.
        intent = replace(found.intent, reason=order.intent.reason)
        assert (found.id, intent) == (order.id, order.intent)
        assert found.venue_order_id == answer.venue_order_id != ""


def test_a_repeated_id_returns_the_first_order_and_places_nothing(venue):
    order = venue.order(Side.BUY, 1)
    first = venue.client.place(order, venue.now)
    venue.ended(order)
    again = venue.client.place(order, venue.now)
    assert (again.id, again.venue_order_id) == (first.id, first.venue_order_id)
    venue.rig.quote(BID, ASK)
    assert venue.filled(order) == order.quantity == venue.held()


def test_what_was_paid_is_missing_from_the_equity(venue):
    begun = venue.client.equity()
    orders = [venue.hold(Side.BUY, 5)]
    venue.rig.quote(BID + 1000, ASK + 1000)
    orders.append(venue.close(Side.SELL, 5))
    venue.ended(orders[-1])
    flow = sum((-fill.side.sign * fill.quantity * fill.price - fill.fee
                for order in orders for fill in venue.fills(order)), Decimal(0))
    assert venue.eventually(lambda: abs(venue.client.equity() - begun - flow) <= CENT)


def test_an_open_position_counts_at_its_mark(venue):
    begun = venue.client.equity()
    order = venue.hold(Side.BUY, 5)
    venue.rig.quote(BID + 1000, ASK + 1000)
    [position] = venue.client.positions().values()
    spent = sum((fill.quantity * fill.price + fill.fee for fill in venue.fills(order)), Decimal(0))
    worth = position.quantity * (BID + ASK + 2000) / 2
    assert venue.eventually(lambda: abs(venue.client.equity() - begun - worth + spent) <= CENT)


# --- limits ------------------------------------------------------------------------------------


def test_a_limit_rests_until_the_market_comes_to_it(venue):
    order = venue.place(Side.BUY, 2, BID - 50)
    resting = venue.eventually(lambda: venue.look(order))
    assert (resting.status, resting.filled_quantity) == (OrderStatus.OPEN, 0)
    venue.rig.quote(BID - 100, BID - 60)
    ended = venue.ended(order)
    assert ended.status is OrderStatus.FILLED
    assert {fill.price for fill in venue.fills(order)} == {BID - 50}


@pytest.mark.parametrize("force", [TimeInForce.IOC, TimeInForce.FOK])
def test_a_limit_that_may_not_rest_ends_without_a_fill(venue, force):
    order = venue.place(Side.BUY, 2, BID - 50, time_in_force=force)
    ended = venue.ended(order)
    assert ended.status is not OrderStatus.FILLED
    assert (ended.filled_quantity, venue.held()) == (0, 0)


def test_an_order_with_an_end_expires(venue):
    order = venue.place(Side.BUY, 2, BID - 50, time_in_force=TimeInForce.GTD,
                        expires_at=venue.now + timedelta(seconds=12))
    assert venue.ended(order).status is OrderStatus.EXPIRED
    assert venue.now >= order.intent.expires_at


def test_a_cancelled_order_ends_and_never_fills(venue):
    order = venue.place(Side.BUY, 2, BID - 50)
    venue.eventually(lambda: venue.look(order))
    venue.client.cancel([order], venue.now)
    assert venue.ended(order).status is OrderStatus.CANCELLED
    venue.rig.quote(BID - 100, BID - 60)
    assert (venue.filled(order), venue.held()) == (0, 0)


def test_a_cancel_of_what_has_ended_is_no_error_and_changes_nothing(venue):
    order = venue.hold(Side.BUY, 1)
    venue.client.cancel([order], venue.now)
    assert venue.ended(order).status is OrderStatus.FILLED


def test_open_orders_are_listed_however_old_they_are(venue):
    order = venue.place(Side.BUY, 1, BID - 50)
    done = venue.hold(Side.BUY, 1)
    venue.rig.quote(BID, ASK)
    listed = {found.id for found in venue.client.orders(venue.now)}
    assert order.id in listed and done.id not in listed
    assert {order.id, done.id} <= {found.id for found in venue.client.orders(venue.begun)}


# --- closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", list(Side))
def test_a_close_shrinks_the_position_and_the_last_one_leaves_nothing(venue, side):
    venue.hold(side, 3)
    step = venue.product.quantity_increment
    venue.ended(venue.close(side.opposite, 1))
    venue.eventually(lambda: venue.held() == 2 * step * side.sign)
    venue.ended(venue.close(side.opposite, 2))
    venue.eventually(lambda: venue.symbol not in venue.client.positions())


@pytest.mark.parametrize("side", list(Side))
def test_nothing_is_closed_while_flat(venue, side):
    assert refusal(venue.close, side, 1) == "CANNOT_CLOSE_ZERO_POSITION"


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, limit", [
    ("0.5", None), ("1.5", None), ("10000000", None), ("1", BID - 50 + Decimal("0.01"))])
def test_an_order_off_the_steps_is_refused_and_does_not_exist(venue, steps, limit):
    order = venue.order(Side.BUY, steps, limit)
    refusal(venue.client.place, order, venue.now)
    venue.rig.quote(BID, ASK)
    assert venue.look(order) is None
    assert venue.held() == 0


def test_more_than_the_money_allows_is_refused(venue):
    step = venue.product.quantity_increment
    steps = int(venue.client.equity() / ASK / venue.product.long_margin_rate / step) + 5
    assert "INSUFFICIENT_FUND" in refusal(venue.place, Side.BUY, steps)


# --- stops -------------------------------------------------------------------------------------


STOPS = pytest.mark.parametrize("side, stop, profit, beyond, back", [
    (Side.BUY,  BID - 500, BID + 5000, (BID - 505, BID - 500), (BID + 5000, BID + 5010)),
    (Side.SELL, ASK + 500, ASK - 5000, (ASK + 500, ASK + 505), (ASK - 5010, ASK - 5000)),
])


@STOPS
def test_a_bracket_rests_until_its_stop_is_reached_and_then_closes(
    venue, side, stop, profit, beyond, back
):
    venue.hold(side, 2)
    order = venue.client.place(venue.bracket(side.opposite, 2, stop, profit), venue.now)
    venue.rig.quote(BID, ASK)
    assert venue.eventually(lambda: venue.look(order)).status is OrderStatus.OPEN
    venue.rig.quote(*beyond)
    assert venue.ended(order).status is OrderStatus.FILLED
    venue.eventually(lambda: venue.held() == 0)


@STOPS
def test_a_bracket_takes_its_profit_at_its_limit(venue, side, stop, profit, beyond, back):
    venue.hold(side, 2)
    order = venue.client.place(venue.bracket(side.opposite, 2, stop, profit), venue.now)
    venue.rig.quote(*back)
    assert venue.ended(order).status is OrderStatus.FILLED
    assert {fill.price for fill in venue.fills(order)} == {profit}
    venue.eventually(lambda: venue.held() == 0)


@STOPS
def test_a_bracket_reserves_the_position_until_it_is_gone(
    venue, side, stop, profit, beyond, back
):
    venue.hold(side, 2)
    bracket = venue.client.place(venue.bracket(side.opposite, 2, stop, profit), venue.now)
    venue.eventually(lambda: venue.look(bracket))
    assert refusal(venue.close, side.opposite, 1).endswith("EXCEEDS_BRACKETED_POSITION")
    assert refusal(venue.place, side.opposite, 1).endswith("EXCEEDS_BRACKETED_POSITION")
    another = venue.bracket(side.opposite, 1, stop, profit)
    assert refusal(venue.client.place, another, venue.now).endswith("SIZE_EXCEEDS_POSITION")
    venue.client.cancel([bracket], venue.now)
    venue.ended(bracket)
    venue.ended(venue.close(side.opposite, 2))
    venue.eventually(lambda: venue.held() == 0)


@STOPS
def test_a_bracket_needs_a_position(venue, side, stop, profit, beyond, back):
    order = venue.bracket(side.opposite, 1, stop, profit)
    assert refusal(venue.client.place, order, venue.now).endswith(
        ("SIZE_EXCEEDS_POSITION", "INVALID_BRACKET_ORDER_SIDE"))


@STOPS
def test_a_stop_that_the_price_has_passed_is_refused(venue, side, stop, profit, beyond, back):
    venue.hold(side, 1)
    wrong = {Side.BUY: ASK + 5, Side.SELL: BID - 5}[side]
    where = {Side.BUY: "ABOVE", Side.SELL: "BELOW"}[side]
    order = venue.bracket(side.opposite, 1, wrong, profit)
    assert refusal(venue.client.place, order, venue.now).endswith(
        f"STOP_PRICE_{where}_LAST_TRADE_PRICE")


@STOPS
def test_a_resting_entry_brings_the_stop_that_it_carries(venue, side, stop, profit, beyond, back):
    limit = {Side.BUY: BID - 50, Side.SELL: ASK + 50}[side]
    entry = venue.order(side, 2, limit, attached_stop_price=stop)
    answer = venue.client.place(entry, venue.now)
    venue.rig.quote(limit - 10 * side.sign - 5, limit - 10 * side.sign + 5)
    venue.ended(entry)

    def attached():
        return [o for o in venue.client.orders(venue.begun)
                if o.originating_order_id == answer.venue_order_id]

    venue.eventually(attached)
    assert {(o.side, o.intent.order_type, o.intent.stop_price, o.purpose) for o in attached()} == {
        (side.opposite, OrderType.BRACKET, stop, Purpose.STOP)}
    assert sum(o.remaining for o in attached()) == entry.quantity
    venue.rig.quote(*beyond)
    venue.eventually(lambda: venue.held() == 0)

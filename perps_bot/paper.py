"""Paper: what would the venue have done?

A venue that keeps its own books over any `MarketData`.  It answers as Coinbase does (contracts in
whole steps, prices on the tick, stops that reserve the position, the venue's own reasons), so no
room above can tell.  It never reads a clock, never draws at random and never looks ahead: its
world moves only when `marks` is asked, and the same marks give the same fills.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import takewhile

from perps_bot.broker import MarketData
from perps_bot.errors import OrderRejected
from perps_bot.model import (
    ZERO,
    Candle,
    Fill,
    FundingPayment,
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
from perps_bot.tracker import apply_fill

HOUR = timedelta(hours=1)
# A triggered stop's limit lies this far beyond its trigger (coinbase.md 3.4).
STOP_LIMIT_BEYOND_PCT = Decimal("0.05")
# Available margin at or below this share of initial margin liquidates (coinbase.md 3.13).
LIQUIDATION_SHARE = Decimal("0.88")
# How many price levels, one tick apart, a market order may walk through.
BOOK_LEVELS_MAX = 10
# Finished orders, fills and payments that reads can still see.
HISTORY_MAX = 2_000
# The longest absence that is made up for candle by candle, after each candle length in seconds.
CATCH_UP = ((60, timedelta(days=1)), (3600, timedelta(days=60)))
_STOPS = (OrderType.STOP_LIMIT, OrderType.BRACKET)


class PaperBroker:
    """Both protocols over one market.

    equity            USD at the beginning
    fee_rate          fraction of notional; fee_per_contract is USD
    slippage_bps      basis points by which market orders and stops fill worse
    """

    def __init__(
        self,
        market: MarketData,
        equity: Decimal = Decimal(10_000),
        fee_rate: Decimal = Decimal("0.001"),
        fee_per_contract: Decimal = Decimal("0.15"),
        slippage_bps: Decimal = ZERO,
    ) -> None:
        self._market = market
        self._products = {p.symbol: p for p in market.products()}
        self._balance = equity
        self._fee_rate = fee_rate
        self._fee_per_contract = fee_per_contract
        self._slippage = slippage_bps / 10_000
        self._positions: dict[str, Position] = {}
        self._marks: dict[str, Mark] = {}
        self._live: dict[str, Order] = {}
        self._ended: dict[str, tuple[datetime, Order]] = {}  # with the moment of the end
        self._triggered: set[str] = set()
        self._fills: list[Fill] = []
        self._payments: list[FundingPayment] = []
        self._seen_at: datetime | None = None

    def restore(
        self,
        balance: Decimal,
        positions: Iterable[Position],
        orders: Iterable[Order],
        seen_at: datetime,
    ) -> None:
        """Take up the books again, as of `seen_at`; what happened since comes from candles.

        balance  USD: equity less the open positions' unrealized profit and loss
        """
        self._balance = balance
        self._positions = {p.symbol: p for p in positions}
        self._live = {o.id: o for o in orders}
        self._seen_at = seen_at

    # The market, and the passing of its time.

    def products(self) -> Sequence[Product]:
        return self._market.products()

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> Sequence[Candle]:
        return self._market.candles(symbol, seconds, count, now)

    def funding(self, symbol: str, now: datetime) -> FundingRate | None:
        return self._market.funding(symbol, now)

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        """Move the world to `now` and return its marks."""
        marks = self._market.marks(symbols, now)
        since, self._seen_at = self._seen_at, now
        if self._live or self._positions:
            if since is not None:
                self._catch_up(since, now)
                self._charge_funding(since, now)
            for symbol, mark in marks.items():
                if mark is not self._marks.get(symbol):
                    self._meet(mark, now)
        self._marks = dict(marks)
        return marks

    # The account.

    def equity(self) -> Decimal:
        return self._balance + sum((p.unrealized_pnl for p in self._positions.values()), ZERO)

    def positions(self) -> Mapping[str, Position]:
        return dict(self._positions)

    def orders(self, since: datetime) -> Sequence[Order]:
        ended = takewhile(lambda row: row[0] >= since, reversed(self._ended.values()))
        return [*self._live.values(), *(order for _, order in ended)]

    def fills(self, since: datetime) -> Sequence[Fill]:
        return _since(self._fills, since)

    def funding_payments(self, since: datetime) -> Sequence[FundingPayment]:
        return _since(self._payments, since)

    def place(self, order: Order, now: datetime) -> Order:
        if order.id in self._live or order.id in self._ended:
            return self._known(order.id)
        self._seen_at = self._seen_at or now
        intent = order.intent
        self._refuse_if(self._malformed(intent, now))
        self._refuse_if(self._not_covered(intent))
        order = replace(order, status=OrderStatus.OPEN, venue_order_id=f"paper-{order.id}")
        self._live[order.id] = order
        self._match_new(order, now)
        return self._known(order.id)

    def close(self, order: Order, now: datetime) -> Order:
        held = self._held(order.symbol) * -order.side.sign
        if order.id not in self._live and order.id not in self._ended:
            if held <= 0:
                self._refuse_if(("CANNOT_CLOSE_ZERO_POSITION", "there is no position to close"))
            if order.quantity > held:
                self._refuse_if(("PREVIEW_CLOSE_ONLY_FAILURE", f"only {held:f} can be closed"))
        return self.place(order, now)

    def cancel(self, orders: Sequence[Order], now: datetime) -> None:
        for order in orders:
            if order.id in self._live:
                self._end(order.id, OrderStatus.CANCELLED)

    # What a new order meets.

    @staticmethod
    def _refuse_if(refusal: tuple[str, str] | None) -> None:
        if refusal:
            raise OrderRejected(refusal[0], f"{refusal[0]}: {refusal[1]}")

    def _malformed(self, intent: OrderIntent, now: datetime) -> tuple[str, str] | None:
        product = self._products.get(intent.symbol)
        if product is None:
            return "INVALID_PRODUCT_ID", intent.symbol
        if intent.symbol not in self._marks:
            self._marks.update(self._market.marks([intent.symbol], now))
        prices = (intent.limit_price, intent.stop_price, intent.attached_stop_price)
        rows = (
            (not product.tradable, "TRADING_DISABLED", intent.symbol),
            (intent.symbol not in self._marks, "INVALID_NO_LIQUIDITY", "no quote"),
            (intent.quantity < product.min_quantity, "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL",
             f"{intent.quantity:f} is below {product.min_quantity:f}"),
            (intent.quantity > product.max_quantity, "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE",
             f"{intent.quantity:f} is above {product.max_quantity:f}"),
            (intent.quantity % product.quantity_increment, "INVALID_SIZE_PRECISION",
             f"{intent.quantity:f} is no multiple of {product.quantity_increment:f}"),
            (any(p is not None and (p <= 0 or p % product.price_increment) for p in prices),
             "INVALID_PRICE_PRECISION", f"prices go in steps of {product.price_increment:f}"),
            (intent.order_type is OrderType.LIMIT and intent.limit_price is None,
             "INVALID_LIMIT_PRICE", "a limit order needs a limit price"),
            (intent.time_in_force is TimeInForce.GTD and intent.expires_at is None,
             "GTD_ORDERS_MUST_HAVE_END_TIME", "no end time"),
            (intent.expires_at is not None and intent.expires_at <= now,
             "END_TIME_IS_IN_THE_PAST", str(intent.expires_at)),
        )
        return next(((code, text) for refused, code, text in rows if refused), None)

    def _not_covered(self, intent: OrderIntent) -> tuple[str, str] | None:
        """What position, reservations and margin do not allow."""
        held = self._held(intent.symbol) * -intent.side.sign
        reserved = sum(
            (o.remaining for o in self._live.values()
             if o.symbol == intent.symbol and o.intent.order_type in _STOPS), ZERO
        )
        if intent.order_type in _STOPS:
            if intent.quantity > held - reserved:
                return "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION", f"{held - reserved:f} is free"
            return self._misplaced_stop(intent)
        if held > 0 and intent.quantity > held - reserved and reserved:
            return ("PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION",
                    f"{reserved:f} of the position is reserved by a resting stop")
        opened = max(intent.quantity - max(held, ZERO), ZERO)
        price = intent.limit_price or self._marks[intent.symbol].price
        rate = self._products[intent.symbol].margin_rate(intent.side)
        needed, free = opened * price * rate, self.equity() - self._initial_margin()
        if opened and needed > free:
            return "INSUFFICIENT_FUNDS", f"{needed:.2f} USD margin needed, {free:.2f} available"
        return None

    def _misplaced_stop(self, intent: OrderIntent) -> tuple[str, str] | None:
        price, stop, profit = (
            self._marks[intent.symbol].price, intent.stop_price, intent.limit_price
        )
        if stop is None or profit is None:
            return "INVALID_BRACKET_PRICES", "a stop needs its trigger and its limit"
        if intent.side is Side.SELL and stop >= price:
            return "PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE", f"{stop:f} is not below {price:f}"
        if intent.side is Side.BUY and stop <= price:
            return "PREVIEW_STOP_PRICE_BELOW_LAST_TRADE_PRICE", f"{stop:f} is not above {price:f}"
        if intent.order_type is OrderType.BRACKET and (profit - price) * intent.side.sign >= 0:
            return "INVALID_BRACKET_PRICES", f"the profit leg {profit:f} is on the wrong side"
        return None

    def _match_new(self, order: Order, now: datetime) -> None:
        mark = self._marks[order.symbol]
        if order.intent.order_type in _STOPS or mark.candle is not None:
            return  # a recording of candles knows the next price only at the next open
        self._take(order, mark, now)
        order = self._live.get(order.id)
        if order is not None and not _rests(order.intent):
            self._end(order.id, OrderStatus.CANCELLED)

    # What time does to orders, positions and funding.

    def _catch_up(self, since: datetime, now: datetime) -> None:
        """Meet the candles of an absence, so that stops and limits fire as they would have."""
        if now - since <= timedelta(seconds=CATCH_UP[0][0] * 2):
            return
        seconds = next((s for s, longest in CATCH_UP if now - since <= longest), CATCH_UP[-1][0])
        count = int(min(now - since, CATCH_UP[-1][1]) / timedelta(seconds=seconds))
        for symbol in dict.fromkeys((*self._positions, *(o.symbol for o in self._live.values()))):
            for candle in self._market.candles(symbol, seconds, count, now):
                end = candle.opened_at + timedelta(seconds=seconds)
                if since <= candle.opened_at and end <= now:
                    price = candle.close
                    self._meet(Mark(symbol, price, price, price, end, candle=candle), end)

    def _charge_funding(self, since: datetime, now: datetime) -> None:
        """Book what fell due in (since, now] on the positions held before this moment's fills."""
        for symbol, position in self._positions.items():
            moment = since
            while moment < now:
                moment = min(now, moment.replace(minute=0, second=0, microsecond=0) + HOUR)
                rate = self._market.funding(symbol, moment)
                if rate is None or not since < rate.at <= now or self._charged(symbol, rate.at):
                    continue
                amount = position.quantity * position.mark_price * rate.rate
                self._balance -= amount
                _keep(self._payments, FundingPayment(
                    f"funding-{symbol}-{rate.at.isoformat()}", symbol, amount, rate.rate, rate.at
                ))

    def _charged(self, symbol: str, at: datetime) -> bool:
        return any(p.symbol == symbol and p.at == at for p in reversed(self._payments[-64:]))

    def _meet(self, mark: Mark, now: datetime) -> None:
        """Let one symbol's new mark act on its orders and its position."""
        symbol, candle = mark.symbol, mark.candle
        starts_at = candle.opened_at if candle else now
        for order in self._of(symbol):
            expires_at = order.intent.expires_at
            if expires_at is not None and expires_at <= starts_at:
                self._end(order.id, OrderStatus.EXPIRED)
        if candle is not None:
            self._meet_candle(symbol, candle, now)
        else:
            for order in self._of(symbol):
                self._meet_quote(order, mark, now)
        self._value(symbol, mark.price)
        self._liquidate_if_due(symbol, mark, now)

    def _meet_candle(self, symbol: str, candle: Candle, now: datetime) -> None:
        """The open fills what waited for it; then the adverse extreme; then the profit legs."""
        for order in self._of(symbol):
            if not _rests(order.intent):
                self._fill_at_open(order, candle.open, now)
        for leg in (_limit_leg, _stop_leg, _profit_leg):
            for order in self._of(symbol):
                price = leg(order, candle)
                if price is not None:
                    worse = leg is _stop_leg
                    self._fill(order, order.remaining,
                               self._slipped(price, order.side) if worse else price, now)

    def _fill_at_open(self, order: Order, price: Decimal, now: datetime) -> None:
        limit = order.intent.limit_price
        if limit is not None and (price - limit) * order.side.sign > 0:
            self._end(order.id, OrderStatus.CANCELLED)
            return
        slipped = self._slipped(price, order.side) if limit is None else price
        self._fill(order, order.remaining, slipped, now)

    def _meet_quote(self, order: Order, mark: Mark, now: datetime) -> None:
        intent = order.intent
        if intent.order_type not in _STOPS:
            self._rest(order, intent.limit_price, mark, now)
            return
        reached = (mark.price - intent.stop_price) * intent.side.sign >= 0
        if order.id in self._triggered or reached:
            self._triggered.add(order.id)
            self._take(order, mark, now)
        elif intent.order_type is OrderType.BRACKET:
            self._rest(order, intent.limit_price, mark, now)

    def _rest(self, order: Order, limit: Decimal, mark: Mark, now: datetime) -> None:
        """A resting limit fills at its own price, up to the size that came to meet it."""
        buying = order.side is Side.BUY
        touch, size = (mark.ask, mark.ask_size) if buying else (mark.bid, mark.bid_size)
        if (limit - touch) * order.side.sign >= 0:
            self._fill(order, order.remaining if size is None else min(order.remaining, size),
                       limit, now)

    def _take(self, order: Order, mark: Mark, now: datetime) -> None:
        """Take what rests on the other side, level by level, within the order's limit."""
        limit = _taker_limit(order.intent)
        levels = [
            (price, size) for price, size in self._levels(order, mark)
            if limit is None or (limit - price) * order.side.sign >= 0
        ]
        if order.intent.time_in_force is TimeInForce.FOK:
            if sum((size for _, size in levels), ZERO) < order.quantity:
                return
        for price, size in levels:
            order = self._live.get(order.id)
            if order is None:
                return
            self._fill(order, min(order.remaining, size), price, now)

    def _levels(self, order: Order, mark: Mark) -> Iterator[tuple[Decimal, Decimal]]:
        buying = order.side is Side.BUY
        price, size = (mark.ask, mark.ask_size) if buying else (mark.bid, mark.bid_size)
        tick = self._products[order.symbol].price_increment * order.side.sign
        price = self._slipped(price, order.side)
        if size is None:
            yield price, order.remaining
            return
        for level in range(BOOK_LEVELS_MAX):
            yield price + tick * level, size

    def _fill(self, order: Order, quantity: Decimal, price: Decimal, now: datetime) -> None:
        step = self._products[order.symbol].quantity_increment
        quantity = quantity // step * step
        if quantity <= 0:
            return
        filled = order.filled_quantity + quantity
        self._book(Fill(f"{order.id}:{filled:f}", order.id, order.symbol, order.side, quantity,
                        price, self._fee(order.symbol, quantity, price), now))
        paid = (order.average_price or ZERO) * order.filled_quantity + price * quantity
        order = replace(order, filled_quantity=filled, average_price=paid / filled)
        self._live[order.id] = order
        if filled == order.quantity:
            self._end(order.id, OrderStatus.FILLED)
        if order.intent.attached_stop_price is not None:
            self._attach(order, quantity, price, now)

    def _fee(self, symbol: str, quantity: Decimal, price: Decimal) -> Decimal:
        contracts = quantity / self._products[symbol].contract_size
        return quantity * price * self._fee_rate + contracts * self._fee_per_contract

    def _book(self, fill: Fill) -> None:
        before = self._positions.get(fill.symbol) or Position(fill.symbol)
        after = apply_fill(before, fill)
        self._balance += after.realized_pnl - before.realized_pnl - fill.fee
        if not before.mark_price:
            after = replace(after, mark_price=fill.price)
        if after.quantity:
            self._positions[fill.symbol] = after
        else:
            self._positions.pop(fill.symbol, None)
        _keep(self._fills, fill)

    def _attach(self, entry: Order, quantity: Decimal, price: Decimal, now: datetime) -> None:
        """Rest the bracket that came with an entry on what has just been filled of it."""
        tick = self._products[entry.symbol].price_increment
        profit = price * (1 + Decimal("0.2") * entry.side.sign) // tick * tick
        intent = OrderIntent(
            entry.symbol, entry.side.opposite, quantity, OrderType.BRACKET, Purpose.STOP,
            limit_price=profit, stop_price=entry.intent.attached_stop_price,
            time_in_force=TimeInForce.GTC, reason="attached to its entry",
        )
        identity = f"{entry.id}-stop-{entry.filled_quantity:f}"
        self._live[identity] = Order(
            identity, intent, now, OrderStatus.OPEN, f"paper-{identity}",
            originating_order_id=entry.venue_order_id,
        )

    def _liquidate_if_due(self, symbol: str, mark: Mark, now: datetime) -> None:
        """Close what the margin no longer carries, at the bar's adverse extreme."""
        position = self._positions.get(symbol)
        if position is None:
            return
        price = mark.price
        if mark.candle is not None:
            price = mark.candle.low if position.quantity > 0 else mark.candle.high
        drop = (mark.price - price) * position.quantity
        if self.equity() - drop > LIQUIDATION_SHARE * self._initial_margin():
            return
        for order in self._of(symbol):
            self._end(order.id, OrderStatus.CANCELLED)
        quantity = abs(position.quantity)
        self._book(Fill(f"liquidation-{symbol}-{now.isoformat()}", "", symbol,
                        position.side.opposite, quantity, price,
                        self._fee(symbol, quantity, price), now, is_liquidation=True))

    def _end(self, identity: str, status: OrderStatus) -> None:
        order = replace(self._live.pop(identity), status=status)
        self._triggered.discard(identity)
        self._ended[identity] = self._seen_at, order
        if len(self._ended) > HISTORY_MAX:
            del self._ended[next(iter(self._ended))]

    def _known(self, identity: str) -> Order:
        return self._live[identity] if identity in self._live else self._ended[identity][1]

    def _of(self, symbol: str) -> list[Order]:
        return [order for order in self._live.values() if order.symbol == symbol]

    def _held(self, symbol: str) -> Decimal:
        position = self._positions.get(symbol)
        return position.quantity if position else ZERO

    def _value(self, symbol: str, price: Decimal) -> None:
        position = self._positions.get(symbol)
        if position is not None:
            self._positions[symbol] = replace(position, mark_price=price)

    def _initial_margin(self) -> Decimal:
        return sum(
            (p.notional * self._products[p.symbol].margin_rate(p.side)
             for p in self._positions.values()), ZERO
        )

    def _slipped(self, price: Decimal, side: Side) -> Decimal:
        return price * (1 + self._slippage * side.sign) if self._slippage else price


def _rests(intent: OrderIntent) -> bool:
    """Whether what is not filled at once stays in the book."""
    if intent.order_type in _STOPS:
        return True
    return (intent.order_type is OrderType.LIMIT
            and intent.time_in_force in (TimeInForce.GTC, TimeInForce.GTD))


def _taker_limit(intent: OrderIntent) -> Decimal | None:
    if intent.order_type in _STOPS:
        return intent.stop_price * (1 + STOP_LIMIT_BEYOND_PCT * intent.side.sign)
    return intent.limit_price


def _limit_leg(order: Order, candle: Candle) -> Decimal | None:
    """Where a resting limit fills inside the candle: at its own price, never better."""
    if order.intent.order_type is not OrderType.LIMIT:
        return None
    limit = order.intent.limit_price
    reached = candle.low <= limit if order.side is Side.BUY else candle.high >= limit
    return limit if reached else None


def _stop_leg(order: Order, candle: Candle) -> Decimal | None:
    """Where a stop fills inside the candle: the worse of its level and the open."""
    if order.intent.order_type not in _STOPS:
        return None
    stop = order.intent.stop_price
    if order.side is Side.SELL:
        return min(stop, candle.open) if candle.low <= stop else None
    return max(stop, candle.open) if candle.high >= stop else None


def _profit_leg(order: Order, candle: Candle) -> Decimal | None:
    if order.intent.order_type is not OrderType.BRACKET:
        return None
    limit = order.intent.limit_price
    reached = candle.high >= limit if order.side is Side.SELL else candle.low <= limit
    return limit if reached else None


def _since(history: list, since: datetime) -> list:
    """The newest part of a history, oldest first; found from its end, however long it is."""
    newest = list(takewhile(lambda item: item.at >= since, reversed(history)))
    newest.reverse()
    return newest


def _keep(history: list, item: object) -> None:
    history.append(item)
    if len(history) > 2 * HISTORY_MAX:
        del history[:HISTORY_MAX]

"""Paper: what would the venue have done?

A venue that keeps its own books over any `MarketData`.  It answers as Coinbase does (contracts in
whole steps, prices on the tick, stops that reserve the position, the venue's own reasons), so no
room above can tell.  It never reads a clock, never draws at random and never looks ahead: its
world moves only when `marks` is asked, and the same marks give the same fills.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter

from perps_bot.broker import MarketData
from perps_bot.catalog import floor_to
from perps_bot.errors import OrderRejected
from perps_bot.model import (
    ZERO, Candle, Fill, FundingPayment, Margin, Mark, Order, OrderIntent, OrderStatus,
    Position, Product, Purpose, Side, TimeInForce,
)
from perps_bot.refusals import (
    BRACKET, LIMIT, STOP_LIMIT, STOPS, first, incomplete, misplaced, refusal,
)
from perps_bot.tracker import INFINITY, apply_fill

# How far a fired bracket's limit lies beyond its stop (coinbase.md 3.4), and an attached one's
# profit leg from the entry's fill.
STOP_LIMIT_BEYOND_PCT, ATTACHED_PROFIT_PCT = Decimal("0.05"), Decimal("0.20")
# Available margin at or below this share of initial margin liquidates (coinbase.md 3.13).
LIQUIDATION_SHARE = Decimal("0.88")
# How many price levels, one tick apart, an order may walk through, and of how old a quote.
BOOK_LEVELS_MAX, QUOTE_AGE_MAX = 10, timedelta(minutes=1)
# Orders that may be open at once; ended ones, fills and payments to read: reads go back minutes.
ORDERS_MAX, HISTORY_MAX = 500, 1_000
# A longer absence than this is made up for by candles, so many of each length at most; each row
# has their seconds, and how long before now they end.
ABSENCE_MIN, CANDLES_MAX = timedelta(minutes=2), 1_500
CATCH_UP = ((3600, timedelta(days=1)), (60, timedelta()))
HOUR, LAST_MOMENT = timedelta(hours=1), datetime.max.replace(tzinfo=UTC)
# The venue's word for a stop that has become a limit order; it stays with the order's state.
TRIGGERED = "STOP_TRIGGERED"


class PaperBroker:
    """Both protocols over one market.

    equity            USD at the beginning
    fee_rate          fraction of notional; fee_per_contract is USD
    slippage_bps      basis points by which whatever takes liquidity fills worse
    """

    def __init__(
        self, market: MarketData, equity: Decimal = Decimal(10_000),
        fee_rate: Decimal = Decimal("0.001"), fee_per_contract: Decimal = Decimal("0.15"),
        slippage_bps: Decimal = ZERO,
    ) -> None:
        self.market, self.candles, self.funding = market, market.candles, market.funding
        self._products: dict[str, Product] = {}
        self._listing: Sequence[Product] = ()  # as the market told it last
        self._balance = equity
        self._fee_rate, self._fee_per_contract = fee_rate, fee_per_contract
        self._slippage = slippage_bps / 10_000
        self._positions: dict[str, Position] = {}
        self._funded: dict[str, datetime] = {}  # until when a position's funding is booked
        self._marks: dict[str, Mark] = {}  # the last of every symbol, to value things at
        self._live: dict[str, Order] = {}
        self._ended: dict[str, tuple[datetime, Order]] = {}  # with the moment of the end
        # Each with the moment at which it was booked: a rate may become known late.
        self._fills: deque[tuple[datetime, Fill]] = deque(maxlen=HISTORY_MAX)
        self._payments: deque[tuple[datetime, FundingPayment]] = deque(maxlen=HISTORY_MAX)
        self._seen_at: datetime | None = None
        self._changes = 0
        # Between which prices nothing happens, by symbol, and until when: as of that revision.
        self._bounds: dict[str, tuple[Decimal, Decimal]] = {}
        self._followed, self._wanted = (), {}  # whose marks are asked for, and what is held besides
        self._expires_at, self._bounded_at = LAST_MOMENT, -1

    def restore(
        self, balance: Decimal, positions: Iterable[Position], orders: Iterable[Order],
        seen_at: datetime,
    ) -> None:
        """Take up the books again, as of `seen_at`; what happened since comes from candles.

        balance  USD: equity less the open positions' unrealized profit and loss
        orders   those that are open, filled as far as the positions show
        """
        self._changes += 1
        self._balance, self._seen_at = balance, seen_at
        self._positions = {p.symbol: p for p in positions}
        self._funded = dict.fromkeys(self._positions, seen_at)
        self._live = {o.id: o for o in orders}

    # The market, and the passing of its time.

    def connect(self, traded: Iterable[str] = ()) -> str:
        self.market.connect(traded)  # that it cannot send matters not: this venue takes orders
        return ""

    def products(self) -> Sequence[Product]:
        products = self.market.products()
        if products is not self._listing:
            self._listing, self._bounded_at = products, -1  # other margins, other bounds
            self._products.update((product.symbol, product) for product in products)
        return products

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        """Move the world to `now` and return its marks, those of what is held included."""
        if self._live or self._positions:
            if self._bounded_at != self._changes or self._followed != tuple(symbols):
                self._followed = tuple(symbols)
                self._find_bounds()
            marks = self.market.marks(self._wanted, now)
            if now - self._seen_at > ABSENCE_MIN:
                for missed in self._missed(now):
                    self._charge_funding(missed.at)
                    self._meet(missed, missed.at)
            self._charge_funding(now)
            self._pass(marks, now)
        else:
            marks = self.market.marks(symbols, now)
        self._seen_at = now
        self._marks.update(marks)
        return marks

    # The account.

    @property
    def revision(self) -> int:
        return self._changes

    def equity(self) -> Decimal:
        equity = self._balance
        for held in self._positions.values():
            equity += (held.mark_price - held.entry_price) * held.quantity
        return equity

    def margin(self) -> Margin | None:
        initial = self._initial()
        return Margin(initial, self.equity(), LIQUIDATION_SHARE * initial)

    def positions(self) -> Mapping[str, Position]:
        return dict(self._positions)

    def orders(self, since: datetime, known: Iterable[Order] = ()) -> Sequence[Order]:
        found = [*self._live.values()]
        for ended_at, order in reversed(self._ended.values()):
            if ended_at < since:
                break
            if order.created_at >= since:
                found.append(order)
        ended = [self._ended[order.id][1] for order in known if order.id in self._ended]
        return found + [order for order in ended if order.created_at < since]

    def fills(self, since: datetime) -> Sequence[Fill]:
        return _since(self._fills, since)

    def funding_payments(self, since: datetime) -> Sequence[FundingPayment]:
        return _since(self._payments, since)

    def place(self, order: Order, now: datetime) -> Order:
        if known := self._known(order.id):
            return known
        self._seen_at = self._seen_at or now
        mark = self.market.marks([order.symbol], now).get(order.symbol)
        refused = (self._malformed(order, mark, now) or incomplete(order.intent, now)
                   or self._not_covered(order, mark) or misplaced(order.intent, mark.price))
        if refused:
            raise refused
        order = order._replace(status=OrderStatus.OPEN, venue_order_id=f"paper-{order.id}")
        self._live[order.id] = order
        self._changes += 1
        # A recording of candles knows the next price only at the next open.
        if not _is_stop(order) and mark.candle is None:
            self._execute(order, mark, now)
        return self._known(order.id)

    def close(self, order: Order, now: datetime) -> Order:
        held = self._closable(order)
        free = held - _remaining(self._live.values(), order.symbol, order.side)
        if not self._known(order.id) and order.quantity > free:
            code = "PREVIEW_CLOSE_ONLY_FAILURE" if held > 0 else "CANNOT_CLOSE_ZERO_POSITION"
            raise refusal(code, f"{max(free, ZERO):f} can be closed")
        return self.place(order, now)

    def cancel(self, orders: Sequence[Order], now: datetime) -> None:
        for order in orders:
            if order.id in self._live:
                self._end(order.id, OrderStatus.CANCELLED, now)

    # What a new order meets.

    def _malformed(self, order: Order, mark: Mark | None, now: datetime) -> OrderRejected | None:
        intent, product = order.intent, self._product(order.symbol)
        if product is None:
            return refusal("INVALID_PRODUCT_ID", intent.symbol)
        size, tick = intent.quantity, product.price_increment
        least, most, step = product.min_quantity, product.max_quantity, product.quantity_increment
        prices = (intent.limit_price, intent.stop_price, intent.attached_stop_price)
        # A stop needs no quote, and a candle's orders wait for the next open.
        waits = _is_stop(order) or mark is None or mark.candle is not None
        return first(
            (not product.tradable, "TRADING_DISABLED", lambda: intent.symbol),
            (mark is None or not waits and now - mark.at > QUOTE_AGE_MAX,
             "INVALID_NO_LIQUIDITY", lambda: f"no fresh quote of {intent.symbol}"),
            (len(self._live) >= ORDERS_MAX, "TOO_MANY_OPEN_ORDERS",
             lambda: f"{ORDERS_MAX} are open"),
            (size < least, "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL",
             lambda: f"{size:f} is below {least:f}"),
            (size > most, "PREVIEW_INVALID_BASE_SIZE_TOO_LARGE",
             lambda: f"{size:f} is above {most:f}"),
            (size % step, "INVALID_SIZE_PRECISION", lambda: f"{size:f} is no multiple of {step:f}"),
            ([p for p in prices if p is not None and (p <= 0 or p % tick)],
             "INVALID_PRICE_PRECISION", lambda: f"prices go in steps of {tick:f}"),
        )

    def _not_covered(self, order: Order, mark: Mark) -> OrderRejected | None:
        """What position, reservations and margin do not allow."""
        self._marks.setdefault(order.symbol, mark)
        live, size = self._live.values(), order.quantity
        held, promised = self._closable(order), _remaining(live, order.symbol, order.side)
        reserved = _remaining(live, order.symbol, order.side, stops=True)
        free = held - reserved - promised
        return first(
            (_is_stop(order) and size > free, "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION",
             lambda: f"{free:f} is free"),
            (held > 0 and reserved and size > held - reserved,
             "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION",
             lambda: f"{reserved:f} of the position is reserved by a resting stop"),
            # What only shrinks the position needs no margin.
            (size > held - promised and self._initial((*live, order)) > self.equity(),
             "INSUFFICIENT_FUNDS", lambda: f"{self._initial((*live, order)):.2f} USD of initial "
             f"margin in all, {self.equity():.2f} USD of equity"),
        )

    def _execute(self, order: Order, mark: Mark, now: datetime) -> None:
        """Take level by level what the limit allows; what then does not rest ends here."""
        limit, side = _taker_limit(order.intent), order.side
        levels = [(self._slipped(price, side), size) for price, size in self._levels(order, mark)]
        if limit is not None:
            levels = [row for row in levels if (limit - row[0]) * side.sign >= 0]
        if order.intent.time_in_force is TimeInForce.FOK:
            offered = sum([size for _, size in levels], ZERO)
            levels = levels if offered >= order.quantity else []
        for price, size in levels:
            if order.id in self._live:
                order = self._live[order.id]
                self._fill(order, min(order.remaining, size), price, now)
        if order.id in self._live and not _rests(order):
            self._end(order.id, OrderStatus.CANCELLED, now)

    # What time does to orders, positions and funding.

    def _missed(self, now: datetime) -> list[Mark]:
        """The candles of an absence, oldest first, so that stops fire as they would have."""
        self._seen_at = max(self._seen_at, now - CANDLES_MAX * timedelta(hours=1))
        marks = [mark for symbol in self._symbols() for mark in self._missed_of(symbol, now)]
        return sorted(marks, key=attrgetter("at"))

    def _missed_of(self, symbol: str, now: datetime) -> Iterator[Mark]:
        begin = self._seen_at
        for seconds, before in CATCH_UP:
            length, end = timedelta(seconds=seconds), now - before
            count = min((end - begin) // length, CANDLES_MAX)
            candles = self.market.candles(symbol, seconds, count, end) if count > 0 else ()
            for candle in candles:
                if candle.opened_at >= begin:
                    begin, price = candle.opened_at + length, candle.close
                    yield Mark(symbol, price, price, price, begin, candle=candle)

    def _charge_funding(self, until: datetime) -> None:
        """Book what fell due by `until` on the positions held before that moment's fills."""
        seen = self._seen_at
        while seen < until:
            moment = until
            if until.hour != seen.hour or until - seen >= HOUR:
                moment = min(seen.replace(minute=0, second=0, microsecond=0) + HOUR, until)
            for symbol, position in self._positions.items():
                rate = self.market.funding(symbol, moment)
                # A rate may become known late; it is booked once, whenever that is.
                if rate is not None and self._funded[symbol] < rate.at <= moment:
                    self._funded[symbol] = rate.at
                    amount = position.quantity * position.mark_price * rate.rate
                    self._balance -= amount
                    name = f"funding-{symbol}-{rate.at.isoformat()}"
                    payment = FundingPayment(name, symbol, amount, rate.rate, rate.at)
                    self._payments.append((moment, payment))
                    self._changes += 1
            seen = self._seen_at = moment

    def _pass(self, marks: Mapping[str, Mark], now: datetime) -> None:
        """Let the new marks act; between the bounds of its symbol a mark only values."""
        for symbol, mark in marks.items():
            if self._bounded_at != self._changes:
                self._find_bounds()
            bounds, position = self._bounds.get(symbol), self._positions.get(symbol)
            if bounds is None or mark == self._marks.get(symbol):
                continue
            (below, above), candle = bounds, mark.candle
            lowest, highest = (candle.low, candle.high) if candle else (
                min(mark.bid, mark.price), max(mark.ask, mark.price))
            if not (below < lowest and highest < above) or now >= self._expires_at:
                self._meet(mark, now)
            elif position is not None:
                self._positions[symbol] = position.valued(mark.price)
        if now >= self._expires_at:
            self._expire(self._live.values(), now, now)

    def _find_bounds(self) -> None:
        # Of what all positions together may still lose, to each its share.
        room = self._margin_left() / len(self._positions) if self._positions else ZERO
        self._bounds = {symbol: self._bounds_of(symbol, room) for symbol in self._symbols()}
        self._wanted = {**dict.fromkeys(self._followed), **self._bounds}
        ends = (order.intent.expires_at for order in self._live.values())
        self._expires_at = min((at for at in ends if at is not None), default=LAST_MOMENT)
        self._bounded_at = self._changes

    def _bounds_of(self, symbol: str, room: Decimal) -> tuple[Decimal, Decimal]:
        """The prices between which no order of `symbol` can fill or fire, and nothing liquidate.

        room  USD that its position may lose
        """
        below, above, position = [ZERO], [INFINITY], self._positions.get(symbol)
        for order in self._of(symbol):
            intent = order.intent
            if order.reason == TRIGGERED or not _rests(order):
                return INFINITY, ZERO  # whatever comes fills it
            limit = intent.limit_price if intent.order_type is not STOP_LIMIT else None
            for price, bought_at, sold_at in (
                    (limit, below, above), (intent.stop_price, above, below)):
                if price is not None:
                    (bought_at if intent.side is Side.BUY else sold_at).append(price)
        if position is not None:
            held = position.quantity
            if held > 0:
                below.append(position.mark_price - room / held)
            else:  # a short's margin grows with the price
                grows = 1 + self._product(symbol).short_margin_rate
                above.append(position.mark_price - room / (held * grows))
        return max(below), min(above)

    def _meet(self, mark: Mark, now: datetime) -> None:
        """Let one symbol's new mark act on its orders and its position."""
        symbol, candle, self._bounded_at = mark.symbol, mark.candle, -1  # it may lie beyond them
        self._expire(self._of(symbol), candle.opened_at if candle else now, now)
        if candle is not None:
            self._meet_candle(symbol, candle, now)
        else:
            for order in self._of(symbol):
                self._meet_quote(order, mark, now)
        if symbol in self._positions:
            self._liquidate_if_due(mark, now)

    def _expire(self, orders: Iterable[Order], at: datetime, now: datetime) -> None:
        for order in tuple(orders):
            if order.intent.expires_at is not None and order.intent.expires_at <= at:
                self._end(order.id, OrderStatus.EXPIRED, now)

    def _meet_candle(self, symbol: str, candle: Candle, now: datetime) -> None:
        """The open fills what waited for it; then the adverse extreme; then the profit legs."""
        for order in self._of(symbol):
            if not _rests(order) and order.created_at <= candle.opened_at:
                opened = Mark(symbol, candle.open, candle.open, candle.open, now)
                self._execute(order, opened, now)
        if not self._of(symbol):
            return
        # As a quote: a resting buy meets the low, a resting sell the high.
        extremes = Mark(symbol, candle.close, candle.high, candle.low, now)
        for order in self._of(symbol):
            if _rests(order) and not _is_stop(order):
                self._rest(order, extremes, now)
        for order in filter(_is_stop, self._of(symbol)):
            self._fire(order, candle, now)
        for order in self._of(symbol):
            # A bracket that came with a fill inside this candle has to wait for the next.
            if order.intent.order_type is BRACKET and order.created_at <= candle.opened_at:
                self._rest(order, extremes, now)

    def _fire(self, order: Order, candle: Candle, now: datetime) -> None:
        """Fill a stop that the candle reaches: at the worse of its level and the open."""
        stop, buying = order.intent.stop_price, order.side is Side.BUY
        if order.reason == TRIGGERED or (candle.high >= stop if buying else candle.low <= stop):
            worse = max(stop, candle.open) if buying else min(stop, candle.open)
            self._fill(order, order.remaining, self._slipped(worse, order.side), now)

    def _meet_quote(self, order: Order, mark: Mark, now: datetime) -> None:
        intent = order.intent
        if _is_stop(order) and (mark.price - intent.stop_price) * intent.side.sign >= 0:
            order = self._live[order.id] = order._replace(reason=TRIGGERED)
            self._changes += 1
        if order.reason == TRIGGERED or not _rests(order):
            self._execute(order, mark, now)
        elif intent.order_type is not STOP_LIMIT:
            self._rest(order, mark, now)

    def _rest(self, order: Order, mark: Mark, now: datetime) -> None:
        """A resting limit fills at its own price, up to the size that came to meet it."""
        limit = order.intent.limit_price
        for price, size in self._levels(order, mark)[:1]:
            if (limit - price) * order.side.sign >= 0:
                self._fill(order, min(order.remaining, size), limit, now)

    def _levels(self, order: Order, mark: Mark) -> list[tuple[Decimal, Decimal]]:
        """What the order meets, best first: USD per base unit, base units in whole steps."""
        price, size = _opposite(mark, order.side)
        if size is None:
            return [(price, order.remaining)]
        product = self._product(order.symbol)
        size = floor_to(size, product.quantity_increment)
        step = product.price_increment * order.side.sign
        return [(price + step * level, size) for level in range(BOOK_LEVELS_MAX) if size]

    def _fill(self, order: Order, quantity: Decimal, price: Decimal, now: datetime) -> None:
        if order.intent.order_type is BRACKET:  # it cannot exceed the position
            quantity = min(quantity, self._closable(order))
        if quantity <= 0:
            self._end(order.id, OrderStatus.CANCELLED, now)
            return
        filled = order.filled_quantity + quantity
        self._book(Fill(f"{order.id}:{filled:f}", order.id, order.symbol, order.side, quantity,
                        price, self._fee(order.symbol, quantity, price), now))
        paid = (order.average_price or ZERO) * order.filled_quantity + price * quantity
        order = order._replace(filled_quantity=filled, average_price=paid / filled)
        self._live[order.id] = order
        if filled == order.quantity:
            self._end(order.id, OrderStatus.FILLED, now)
        if order.intent.attached_stop_price is not None:
            self._attach(order, quantity, price, now)

    def _fee(self, symbol: str, quantity: Decimal, price: Decimal) -> Decimal:
        contracts = quantity / self._product(symbol).contract_size
        return quantity * price * self._fee_rate + contracts * self._fee_per_contract

    def _book(self, fill: Fill) -> None:
        before = self._position(fill.symbol)
        after = apply_fill(before, fill)
        self._changes += 1
        self._balance += after.realized_pnl - before.realized_pnl - fill.fee
        if before.quantity * after.quantity <= 0:
            self._funded[fill.symbol] = fill.at
        self._positions[fill.symbol] = after
        if not after.quantity:
            del self._positions[fill.symbol]
        self._fills.append((fill.at, fill))

    def _attach(self, entry: Order, quantity: Decimal, price: Decimal, now: datetime) -> None:
        """Rest the bracket that came with an entry on what has just been filled of it."""
        tick, sign = self._product(entry.symbol).price_increment, entry.side.sign
        profit = floor_to(price * (1 + ATTACHED_PROFIT_PCT * sign), tick)
        intent = OrderIntent(
            entry.symbol, entry.side.opposite, min(quantity, -self._closable(entry)), BRACKET,
            Purpose.STOP, profit, entry.intent.attached_stop_price, TimeInForce.GTC,
            reason="attached to its entry",
        )
        name = f"{entry.id}-stop-{entry.filled_quantity:f}"
        if intent.quantity > 0:
            self._live[name] = Order(name, intent, now, OrderStatus.OPEN, f"paper-{name}",
                                     originating_order_id=entry.venue_order_id)

    def _liquidate_if_due(self, mark: Mark, now: datetime) -> None:
        """Value the position; close what the margin no longer carries, at the bar's worst."""
        symbol, position, candle = mark.symbol, self._positions[mark.symbol], mark.candle
        side, quantity = position.side.opposite, abs(position.quantity)
        worst, price = mark.price, _opposite(mark, side)[0]
        if candle is not None:
            worst = price = candle.low if side is Side.SELL else candle.high
        self._value(symbol, worst)
        is_due = self._margin_left() <= 0
        self._value(symbol, mark.price)
        if is_due:
            self.cancel(self._of(symbol), now)
            self._book(Fill(f"liquidation-{symbol}-{now.isoformat()}", "", symbol, side, quantity,
                            price, self._fee(symbol, quantity, price), now, is_liquidation=True))

    def _initial(self, orders: Sequence[Order] = ()) -> Decimal:
        """USD of initial margin in all, with those `orders` filled."""
        symbols = dict.fromkeys([*self._positions, *[order.symbol for order in orders]])
        return sum([self._margin(symbol, orders) for symbol in symbols], ZERO)

    def _margin_left(self) -> Decimal:
        """USD of equity above what liquidates."""
        return self.equity() - LIQUIDATION_SHARE * self._initial()

    def _value(self, symbol: str, price: Decimal) -> None:
        self._positions[symbol] = self._positions[symbol].valued(price)

    def _margin(self, symbol: str, orders: Sequence[Order] = ()) -> Decimal:
        """USD of initial margin in `symbol`, with those `orders` filled that may open there."""
        product, position = self._product(symbol), self._position(symbol)
        bought = sold = ZERO
        if orders:
            bought, sold = (_remaining(orders, symbol, side) for side in Side)
        return position.mark_price * max(
            (position.quantity + bought) * product.long_margin_rate,
            (sold - position.quantity) * product.short_margin_rate,
        )

    def _end(self, identity: str, status: OrderStatus, now: datetime) -> None:
        self._changes += 1
        self._ended[identity] = now, self._live.pop(identity)._replace(status=status)
        if len(self._ended) > HISTORY_MAX:
            del self._ended[next(iter(self._ended))]

    def _known(self, identity: str) -> Order | None:
        return self._live.get(identity) or self._ended.get(identity, (None, None))[1]

    def _product(self, symbol: str) -> Product | None:
        if symbol not in self._products:
            self.products()
        return self._products.get(symbol)

    def _symbols(self) -> dict[str, None]:
        """Where anything is held or open."""
        return dict.fromkeys([*self._positions, *[o.symbol for o in self._live.values()]])

    def _of(self, symbol: str) -> list[Order]:
        return [order for order in self._live.values() if order.symbol == symbol]

    def _position(self, symbol: str) -> Position:
        """What is held, or nothing, valued at the last price."""
        held = self._positions.get(symbol)
        if held is None:
            last = self._marks.get(symbol)
            held = Position(symbol, mark_price=last.price if last else ZERO)
        return held

    def _closable(self, order: Order) -> Decimal:
        """Base units of the position that `order` could close; nothing or less when none."""
        held = self._positions.get(order.symbol)
        return (held.quantity if held else ZERO) * -order.side.sign

    def _slipped(self, price: Decimal, side: Side) -> Decimal:
        return price * (1 + self._slippage * side.sign) if self._slippage else price


def _is_stop(order: Order) -> bool:
    return order.intent.order_type in STOPS


def _rests(order: Order) -> bool:
    """Whether what is not filled at once stays in the book."""
    intent = order.intent
    return intent.order_type in STOPS or (
        intent.order_type is LIMIT and intent.time_in_force in (TimeInForce.GTC, TimeInForce.GTD))


def _remaining(orders: Iterable[Order], symbol: str, side: Side, stops: bool = False) -> Decimal:
    """Base units on one side of one symbol that may still fill, of the stops or of the others."""
    return sum([o.remaining for o in orders if o.side is side and o.symbol == symbol
                and _is_stop(o) is stops], ZERO)


def _taker_limit(intent: OrderIntent) -> Decimal | None:
    if intent.order_type is BRACKET:
        return intent.stop_price * (1 + STOP_LIMIT_BEYOND_PCT * intent.side.sign)
    return intent.limit_price


def _opposite(mark: Mark, side: Side) -> tuple[Decimal, Decimal | None]:
    """What an order on `side` meets: USD per base unit, and base units where they are known."""
    return (mark.ask, mark.ask_size) if side is Side.BUY else (mark.bid, mark.bid_size)


def _since(history: deque, since: datetime) -> list:
    """The newest part of a history, oldest first; found from its end, however long it is."""
    found = []
    for booked_at, item in reversed(history):
        if booked_at < since:
            break
        found.append(item)
    return found[::-1]

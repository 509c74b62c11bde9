"""Client: how does Coinbase say it?

Both protocols over Coinbase Advanced Trade, for the perpetual-style futures of its US venue
(docs/COINBASE.md).  It asks, pages, and translates; what a body means is `wire`'s, what came of
a request is `rest`'s.  It decides nothing, keeps no books and never sends anything twice.  A list
that is not known to be complete is a failed read.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from perps_bot import wire
from perps_bot.catalog import quantize_price
from perps_bot.errors import ConfigError, OutcomeUnknown, VenueUnavailable
from perps_bot.model import (
    Candle, Fill, FundingPayment, FundingRate, Margin, Mark, Order, OrderStatus, Position, Product,
    Purpose,
)

log = logging.getLogger("perps_bot")

GRANULARITIES = {
    60: "ONE_MINUTE", 300: "FIVE_MINUTE", 900: "FIFTEEN_MINUTE", 1800: "THIRTY_MINUTE",
    3600: "ONE_HOUR", 7200: "TWO_HOUR", 14400: "FOUR_HOUR", 21600: "SIX_HOUR", 86400: "ONE_DAY",
}
# Rows asked for in one page, pages of one list, ids in one cancel.
PAGE_ROWS, PAGES_MAX, CANCELS_MAX = 100, 50, 100
CANDLES_A_PAGE = 300
OPEN = ("order_status", "OPEN")
# Everything listed is read anew after this long; in between, only the rows of what is traded.
LISTING_AGE_MAX = timedelta(hours=1)
# How often the feed's quotes are compared with REST's, and how far they may be apart.
COMPARE_EVERY, QUOTES_APART_MAX = timedelta(seconds=30), Decimal("0.01")
# The profit leg of the bracket that a resting entry carries, of its limit price.
ATTACHED_PROFIT_PCT = Decimal("0.20")
# Seconds between the venue's clock and ours: used, and said; beyond the second, nobody is believed.
CLOCKS_APART_WARN, CLOCKS_APART_MAX = 2, 60
# Orders whose owner is remembered, to know whose a fill is; and accrued hours of funding.
OWNERS_MAX = 5000
PAYMENTS_MAX = 500
FILLS_OVERLAP, LOOK_UPS_MAX = timedelta(seconds=10), 5
ORDERS_OVERLAP = timedelta(minutes=10)  # an order is dated by the venue, and by us
# Markets that trade around the clock close on Fridays at 16:00 in Chicago.
EXCHANGE_ZONE, FRIDAY, CLOSING_HOUR = "America/Chicago", 4, 16
WITHOUT_TRANSFER = (
    "this API key can transfer money out of the account: make a new one at Coinbase with View "
    "and Trade only, bound to this portfolio, and delete this one"
)


class CoinbasePerpetualsClient:
    """The account and the market.

    rest     the only way to the venue; without a key it reads what is public
    feed     the newest quotes; None asks REST for each
    symbols  what the operator trades; a product named there by its venue id keeps that name
    """

    revision = None

    def __init__(self, rest: Any, feed: Any = None, symbols: Iterable[str] = ()) -> None:
        self.rest, self.feed = rest, feed
        self._symbols = tuple(symbols)
        self._listed: dict[str, Product] = {}  # by the venue's id, perpetuals only
        self._traded_before: frozenset[str] = frozenset()  # venue ids
        self._sizes: dict[str, Decimal] = {}  # base units a contract, of every listed future
        self._unreadable: set[str] = set()  # perpetuals whose row could not be read
        self._rates: dict[str, FundingRate] = {}  # by symbol
        self._listed_at: datetime | None = None
        self._summary: Mapping | None = None
        self._held: Mapping[str, Position] = {}
        self._held_at = datetime.min.replace(tzinfo=UTC)
        self._filled: Sequence[Fill] = ()  # the last answer of `fills`
        self._due: list[tuple[FundingRate, Decimal | None]] = []  # hours to accrue, at which mark
        self._marks: dict[str, Mark] = {}
        self._payments: dict[str, FundingPayment] = {}
        self._owners: dict[str, tuple[str, bool]] = {}  # venue order id: client id, liquidation
        self._look_ups = 0  # how many orders may still be asked for by name
        self._corrections: dict[str, str] = {}  # what was said already, by entry id
        self._compared_at: datetime | None = None
        self._distrusted: set[str] = set()

    # The market

    def connect(self, traded: Iterable[str] = ()) -> str:
        self._traded_before = frozenset(traded)
        ahead = self.rest.measure_clock()
        if abs(ahead) > CLOCKS_APART_MAX:
            raise VenueUnavailable(f"the venue's clock and this machine's are {ahead:.1f} s apart, "
                                   f"more than {CLOCKS_APART_MAX}: set this machine's clock")
        if abs(ahead) > CLOCKS_APART_WARN:
            log.warning("the venue's clock is %.1f s ahead; its time is used", ahead)
        if self.rest.signer is not None:
            with self._reading("key permissions"):
                granted = self.rest.get("/key_permissions")
                view, trade, transfer = (
                    wire.flag(granted.get(f"can_{right}"), f"can_{right}")
                    for right in ("view", "trade", "transfer"))
            if transfer:
                raise ConfigError(WITHOUT_TRANSFER)
            if not view:
                raise ConfigError("this API key cannot view the account: give it View and Trade")
            if not trade:
                self.rest.read_only = "this API key can only view: it observes and sends nothing"
        return self.rest.read_only

    def products(self) -> Sequence[Product]:
        now, traded = self.rest.clock.now(), self._traded()
        is_recent = self._listed_at is not None and now - self._listed_at < LISTING_AGE_MAX
        wanted = [("product_ids", product.product_id) for product in traded if is_recent]
        rows = list(self._product_rows(wanted))
        if not (rows or wanted):  # believed, it would end a bot that only has to ask again
            raise VenueUnavailable("the products: the listing is empty")
        found = self._choose(rows, now)
        # What is traded and no longer listed keeps its sizes, so that it can be read and closed.
        gone = {product.product_id: replace(product, tradable=False, note="no longer listed",
                                            is_session_open=True)
                for product in traded if product.product_id not in found}
        if not wanted:
            self._listed, self._listed_at = {}, now
        self._listed.update({**gone, **found})
        return tuple(self._listed.values())

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        self._know_products()
        traded = {product.symbol: product for product in self._traded(symbols)}
        told: Mapping[str, Mark] = {}
        if self.feed is not None:
            self.feed.follow(traded.values())
            told = self.feed.marks(traded)
        is_due = self._compared_at is None or now - self._compared_at >= COMPARE_EVERY
        wanted = traded.keys() if is_due else traded.keys() - told.keys() | self._distrusted
        asked = self._ask([traded[symbol] for symbol in traded if symbol in wanted], told)
        if is_due:
            self._compared_at = now
            self._compare(told, asked)
        trusted = {s: mark for s, mark in told.items() if s not in self._distrusted}
        self._marks |= trusted | asked
        return trusted | asked

    def _compare(self, told: Mapping[str, Mark], asked: Mapping[str, Mark]) -> None:
        """Trust or distrust the feed, symbol by symbol; what was not asked stays as it was."""
        self._distrusted -= asked.keys()
        self._distrusted |= {s for s in asked if s in told and _apart(told[s], asked[s])}

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> Sequence[Candle]:
        if seconds not in GRANULARITIES:
            return ()
        product, found = self._product(symbol), {}
        last = int(now.timestamp()) // seconds * seconds
        for begin in range(last - count * seconds, last, CANDLES_A_PAGE * seconds):
            # One second short, so that nobody has to know whether the end counts.
            end = min(begin + CANDLES_A_PAGE * seconds, last) - 1
            query = [("start", str(begin)), ("end", str(end)), ("limit", str(CANDLES_A_PAGE)),
                     ("granularity", GRANULARITIES[seconds])]
            with self._reading(f"candles of {symbol}"):
                body = self._open(f"/products/{product.product_id}/candles", query)
                read = [wire.candle(row, product) for row in wire.rows(body, "candles")]
            found.update((candle.opened_at, candle) for candle in read)
        ended = datetime.fromtimestamp(last - seconds, UTC)
        return [found[opened_at] for opened_at in sorted(found) if opened_at <= ended][-count:]

    def funding(self, symbol: str, now: datetime) -> FundingRate | None:
        self._know_products()
        rate = self._rates.get(symbol)
        return rate if rate is not None and rate.at <= now else None

    # The account

    def equity(self) -> Decimal:
        with self._reading("the balance"):
            self._summary = None
            body = self.rest.get("/cfm/balance_summary")
            value = wire.equity(body)
        self._summary = body
        return value

    def margin(self) -> Margin | None:
        with self._reading("the margin"):
            return None if self._summary is None else wire.margin(self._summary)

    def positions(self) -> Mapping[str, Position]:
        self._know_products()
        with self._reading("the positions"):
            body = self.rest.get("/cfm/positions")
            read = [self._position(row) for row in wire.rows(body, "positions")]
            found = [position for position in read if position is not None]
            if len({position.symbol for position in found}) != len(found):
                raise wire.Malformed("a product is listed twice")
        self._held = {position.symbol: position for position in found}
        self._held_at = self.rest.clock.now()
        return self._held

    def orders(self, since: datetime, known: Iterable[Order] = ()) -> Sequence[Order]:
        """Every open perpetual order of the account, all begun at or after `since`, and `known`."""
        self._know_products()
        found: dict[str, Order] = {}
        # The filter by status misses what is pending or queued; the one by date, what is older.
        for query in ([OPEN], [("start_date", _stamp(since))]):
            self._list_orders(query, found)
        # The owner's, placed in the simple app; ours are told without them.
        with suppress(VenueUnavailable):
            self._list_orders([OPEN, ("order_placement_source", "RETAIL_SIMPLE")], found)
        self._list_known([order for order in known if order.venue_order_id], found)
        return sorted(found.values(), key=lambda order: order.created_at)

    def fills(self, since: datetime) -> Sequence[Fill]:
        self._know_products()
        since = self._reach(since)
        # The venue filters by one of two times of a fill, which differ by milliseconds.
        query = [("start_sequence_timestamp", _stamp(since - FILLS_OVERLAP))]
        found: dict[str, Fill] = {}
        self._look_ups = LOOK_UPS_MAX
        for row in self._pages("/orders/historical/fills", "fills", query):
            with self._reading("the fills"):
                product = self._product_of(row)
                if product is not None and self._is_fill(row, product):
                    fill = wire.fill(row, product, *self._owner_of(row))
                    found[fill.fill_id] = fill
        # The venue lists the newest first; where two are of one moment, its order counts.
        self._filled = sorted((fill for fill in reversed(found.values()) if fill.at >= since),
                              key=lambda fill: fill.at)
        return self._filled

    def funding_payments(self, since: datetime) -> Sequence[FundingPayment]:
        """What each hour's rate costs, accrued: the venue books it twice a day and lists nothing.

        Hours that ended before this process first saw a rate are not known.
        """
        since = self._reach(since)
        for rate, price in self._due:
            self._accrue(rate, price)
        self._due.clear()
        return [payment for payment in self._payments.values() if payment.at >= since]

    def _reach(self, since: datetime) -> datetime:
        """`since`, or the end of the oldest hour still to accrue: who traded after it counts."""
        return min([since, *(rate.at for rate, _ in self._due)])

    # Orders

    def place(self, order: Order, now: datetime) -> Order:
        product, profit = self._product(order.symbol), None
        if order.intent.attached_stop_price is not None:
            leg = order.intent.limit_price * (1 + ATTACHED_PROFIT_PCT * order.side.sign)
            profit = quantize_price(product, leg, order.side.opposite)
        return self._send("/orders", order, wire.create_body(order, product, profit))

    def close(self, order: Order, now: datetime) -> Order:
        body = wire.close_body(order, self._product(order.symbol))
        return self._send("/orders/close_position", order, body)

    def cancel(self, orders: Sequence[Order], now: datetime) -> None:
        identities = [order.venue_order_id for order in orders if order.venue_order_id]
        failure = None
        for begin in range(0, len(identities), CANCELS_MAX):
            try:
                self._cancel(identities[begin:begin + CANCELS_MAX])
            except (VenueUnavailable, OutcomeUnknown) as error:  # the others must not wait for it
                failure = error
        if failure is not None:
            raise failure

    def _cancel(self, batch: list[str]) -> None:
        try:
            answers = wire.cancel_answers(self.rest.cancel({"order_ids": batch}))
        except wire.Malformed as error:
            raise OutcomeUnknown(f"the answer to a cancel: {error}") from error
        for identity in batch:
            if reason := answers.get(identity, "no answer for it"):
                log.warning("cancel of %s not taken: %s", identity, reason)

    def _send(self, path: str, order: Order, body: dict) -> Order:
        answer = self.rest.send(path, body, opens=order.purpose is Purpose.ENTRY)
        identity = wire.accepted(answer, {**body, "side": order.side.value.upper()})
        if self._owners.get(identity, (order.id,))[0] != order.id:
            raise OutcomeUnknown(f"the answer speaks of an older order, {identity}")
        self._own(identity, order.id, False)
        return order._replace(status=OrderStatus.OPEN, venue_order_id=identity)

    # Reading

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What cannot be understood was not read."""
        try:
            yield
        except wire.Malformed as error:
            raise VenueUnavailable(f"{what}: {error}") from error

    def _open(self, path: str, query: Sequence[tuple[str, str]]) -> dict:
        """Read what is public: with a key fresh, without one from the venue's cache."""
        if self.rest.signer is None:
            return self.rest.get(f"/market{path}", query, public=True)
        return self.rest.get(path, query)

    def _product(self, symbol: str) -> Product:
        self._know_products()
        found = self._traded([symbol])
        if len(found) != 1:
            raise VenueUnavailable(f"{symbol}: {len(found)} products are listed now, not one")
        return found[0]

    def _traded(self, symbols: Iterable[str] | None = None) -> list[Product]:
        """The listed products of `symbols`, all of the operator's by default."""
        wanted = set(self._symbols if symbols is None else symbols)
        return [product for product in self._listed.values() if product.symbol in wanted]

    def _product_rows(self, wanted: list[tuple[str, str]]) -> Iterator[dict]:
        """Every row of the listing, or those that are wanted."""
        seen: set[str] = set()
        for _ in range(PAGES_MAX):
            query = [*wanted, ("product_type", "FUTURE"), ("limit", str(PAGE_ROWS)),
                     ("offset", str(len(seen)))]
            with self._reading("the products"):
                body = self._open("/products", query)
                rows, more = wire.rows(body, "products"), wire.more_products(body)
                identities = {wire.text(row.get("product_id"), "product_id") for row in rows}
                if len(identities) < len(rows) or identities & seen or more and not rows:
                    raise wire.Malformed("the pages repeat themselves or end too early")
            yield from rows
            seen |= identities
            if not more and len(rows) < PAGE_ROWS:
                return
        raise VenueUnavailable(f"the products: more than {PAGES_MAX} pages")

    def _choose(self, rows: Iterable[dict], now: datetime) -> dict[str, Product]:
        """The perpetuals of `rows` by the venue's id.

        Of several with one symbol, the one that was chosen before or the only one that trades;
        else all, for the catalog to refuse.  None where one of them cannot be read.
        """
        found: dict[str, list[Product]] = {}
        unreadable, weekly_close = set(), _next_weekly_close(now)
        for row in rows:
            symbol, identity = wire.symbol_of(row), row["product_id"]
            symbol = identity if symbol and identity in self._symbols else symbol
            self._unreadable.discard(identity)
            try:
                self._note_size(row)
                if symbol is not None:
                    product = replace(wire.product(row, now, weekly_close), symbol=symbol)
                    found.setdefault(symbol, []).append(product)
                    self._take_rate(wire.funding_rate(row), symbol)
            except wire.Malformed as error:
                log.warning("%s left out: %s", identity, error)
                if symbol is not None:
                    self._unreadable.add(identity)
                    unreadable.add(symbol)
        known = {product.symbol for product in self._listed.values()}
        if doubtful := sorted(unreadable.intersection(self._symbols) - known):
            # Not "no such product", which would be the operator's to correct.
            raise VenueUnavailable(f"{' '.join(doubtful)}: listed in a way that cannot be read")
        return {product.product_id: product for symbol in found if symbol not in unreadable
                for product in self._the_one(found[symbol])}

    def _the_one(self, candidates: list[Product]) -> list[Product]:
        known = {*self._listed, *self._traded_before}
        for chosen in ([product for product in candidates if product.product_id in known],
                       [product for product in candidates if product.tradable]):
            if len(chosen) == 1:
                return chosen
        return candidates

    def _note_size(self, row: Mapping) -> None:
        self._sizes.pop(row["product_id"], None)
        size = wire.contract_size(row)
        if size is not None:
            self._sizes[row["product_id"]] = size

    def _ask(self, products: list[Product], found: Mapping[str, Mark]) -> dict[str, Mark]:
        """Quotes by REST; that it fails matters only where the feed has nothing either."""
        if not products:
            return {}
        try:
            books = list(self._books(products))
        except VenueUnavailable:
            if not found:
                raise
            return {}
        asked = {}
        for book in books:
            product = self._listed.get(wire.word(book.get("product_id")))
            try:
                mark = product and wire.quote(book, product)
            except wire.Malformed as error:
                log.warning("a quote of %s left out: %s", product.symbol, error)
                continue
            if mark and product in products:
                asked[mark.symbol] = mark
        return asked

    def _books(self, products: list[Product]) -> Iterator[dict]:
        with self._reading("the quotes"):
            if self.rest.signer is not None:
                query = [("product_ids", product.product_id) for product in products]
                yield from wire.rows(self.rest.get("/best_bid_ask", query), "pricebooks")
                return
            for product in products:
                query = [("product_id", product.product_id), ("limit", "1")]
                body = self.rest.get("/market/product_book", query, public=True)
                yield wire.part(body, "pricebook")

    def _know_products(self) -> None:
        """Without the listing, everything would look like somebody else's."""
        if self._listed_at is None:
            self.products()

    def _product_of(self, row: Mapping) -> Product | None:
        """The perpetual that a row speaks of; None for anything else that the account trades."""
        identity = wire.text(row.get("product_id"), "product_id")
        if identity in self._unreadable and identity not in self._listed:
            raise wire.Malformed(f"{identity} is listed in a way that cannot be read")
        return self._listed.get(identity)

    def _position(self, row: Mapping) -> Position | None:
        """One position; what has no symbol goes by the venue's id."""
        product, identity = self._product_of(row), row["product_id"]
        size = product.contract_size if product else self._sizes.get(identity)
        symbol = product.symbol if product else identity
        try:
            return wire.position(row, symbol, size)
        except wire.Malformed:
            if symbol in self._symbols:
                raise
            # Somebody else's, and unreadable: exposure without a bound, and no reason to stop all.
            return Position(symbol, Decimal(1), mark_price=Decimal("Infinity"))

    def _is_fill(self, row: Mapping, product: Product) -> bool:
        kind, identity = row.get("trade_type"), wire.text(row.get("entry_id"), "entry_id")
        if kind != "FILL" and identity not in self._corrections:
            _keep(self._corrections, identity, wire.words(kind), OWNERS_MAX)
            log.error("%s: the venue lists a %s, which is not booked: see 'Corrections' in "
                      "docs/RUNBOOK_PERPS.md", product.symbol, wire.words(kind) or "nameless entry")
        return kind == "FILL"

    def _list_orders(self, query: list[tuple[str, str]], found: dict[str, Order]) -> None:
        # A spot bot of the owner's may have made thousands that are none of our business.
        query = [*query, ("product_type", "FUTURE")]
        for row in self._pages("/orders/historical/batch", "orders", query):
            with self._reading("the orders"):
                self._take_order(row, found)

    def _list_known(self, known: list[Order], found: dict[str, Order]) -> None:
        """What is old and no longer open has ended, or waits for a session to begin."""
        if left := [order for order in known if order.venue_order_id not in found]:
            with suppress(VenueUnavailable):  # nobody promises that names go with other filters
                self._list_orders([("order_ids", order.venue_order_id)
                                   for order in left[:PAGE_ROWS]], found)
        if begun := [o.created_at for o in left if o.venue_order_id not in found]:
            self._list_orders([("start_date", _stamp(min(begun) - ORDERS_OVERLAP))], found)

    def _owner_of(self, row: Mapping) -> tuple[str, bool]:
        """Whose order it was, and whether it liquidated; ("", False) where nobody says.

        The list leaves out what was not placed through this API, the venue's own orders perhaps:
        those are asked for by name.
        """
        identity = wire.text(row.get("order_id"), "order_id")
        # A name that would make another address of it is nobody's.
        if identity not in (".", "..", *self._owners) and self._look_ups > 0:
            self._look_ups -= 1
            with suppress(VenueUnavailable), self._reading("an order"):  # the next read asks again
                answer = self.rest.get(f"/orders/historical/{quote(identity, safe='')}")
                order = wire.part(answer, "order")
                client_order_id = wire.word(order.get("client_order_id"))
                self._own(identity, client_order_id, wire.is_liquidation(order))
        return self._owners.get(identity, ("", False))

    def _take_order(self, row: dict, found: dict[str, Order]) -> None:
        product = self._product_of(row)
        if product is not None:
            order = wire.order(row, product)
            found[order.venue_order_id] = order
            self._own(order.venue_order_id, order.id, wire.is_liquidation(row))

    def _own(self, venue_order_id: str, client_order_id: str, liquidates: bool) -> None:
        """Remember whose an order is; a liquidation is the venue's own."""
        owner = "" if liquidates else client_order_id, liquidates
        _keep(self._owners, venue_order_id, owner, OWNERS_MAX)

    def _take_rate(self, rate: FundingRate | None, symbol: str) -> None:
        """Note an hour's rate; one that is new falls due on what was held at the hour's end."""
        known, mark = self._rates.get(symbol), self._marks.get(symbol)
        if rate is None or known is not None and rate.at <= known.at:
            return
        self._rates[symbol] = rate = replace(rate, symbol=symbol)
        if known is not None:
            self._due.append((rate, mark.price if mark else None))

    def _accrue(self, rate: FundingRate, price: Decimal | None) -> None:
        position, end = self._held.get(rate.symbol) or Position(rate.symbol), rate.at
        held, price = position.quantity, price or position.mark_price
        for fill in self._filled:
            if fill.symbol == rate.symbol:
                # The positions were read at another moment than the hour's end.
                is_late = end < fill.at <= self._held_at
                is_early = self._held_at < fill.at <= end
                held += (is_early - is_late) * fill.side.sign * fill.quantity
        if held:
            identity = f"{rate.symbol}@{_stamp(end)}"
            cost = held * price * rate.rate
            payment = FundingPayment(identity, rate.symbol, cost, rate.rate, end, held)
            _keep(self._payments, identity, payment, PAYMENTS_MAX)

    def _pages(self, path: str, name: str, query: list[tuple[str, str]]) -> Iterator[dict]:
        """Every row of a list that is paged by cursor, or VenueUnavailable."""
        cursor, cursors = "", set()
        for _ in range(PAGES_MAX):
            asked = [*query, ("limit", str(PAGE_ROWS)), *([("cursor", cursor)] if cursor else [])]
            with self._reading(f"the {name}"):
                body = self.rest.get(path, asked)
                rows = wire.rows(body, name)
                cursor = wire.next_cursor(body, len(rows))
            yield from rows
            if not cursor:
                return
            if cursor in cursors:
                raise VenueUnavailable(f"the {name}: the pages go in a circle")
            cursors.add(cursor)
        raise VenueUnavailable(f"the {name}: more than {PAGES_MAX} pages")


def _keep(kept: dict, key: str, value: object, count_max: int) -> None:
    """Remember the newest `count_max`."""
    kept[key] = value
    if len(kept) > count_max:
        del kept[next(iter(kept))]


def _apart(first: Mark, second: Mark) -> bool:
    return abs(first.price - second.price) > second.price * QUOTES_APART_MAX


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _next_weekly_close(now: datetime) -> datetime:
    """The next Friday's closing hour; in UTC it moves with daylight saving there."""
    local = now.astimezone(ZoneInfo(EXCHANGE_ZONE))
    day = local.date() + timedelta(days=(FRIDAY - local.weekday()) % 7)
    closes = datetime.combine(day, time(CLOSING_HOUR), local.tzinfo)
    if closes <= local:
        closes = datetime.combine(day + timedelta(days=7), time(CLOSING_HOUR), local.tzinfo)
    return closes.astimezone(UTC)

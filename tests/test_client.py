"""The client over a venue in memory that answers as it is told.

Rows of `faults.md` shown here: D1, D9, D10, D11 (orders), E1, E3, E4, E5, E8, E10, E12, E13
(account, products), F2, F6 (quotes), L4 (nothing is sent that must not be).
"""

import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from bodies import (
    BIP, ETP, NOW, a_book, a_candle, a_dated_row, a_fill_row, a_page, a_position_row, a_refusal,
    a_row, a_sparse_row, a_summary, an_answer, an_ended_row, an_order, an_order_row, encoded, usd,
)

from perps_bot import client as room
from perps_bot import wire
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.errors import ConfigError, OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.model import Mark, OrderStatus, OrderType, Purpose, Side, TimeInForce

BTC, ETH = "BTC-PERP", "ETH-PERP"
DECOYS = (an_ended_row("BTC"), a_dated_row(), a_dated_row("BIT-24APR26-CDE"), a_sparse_row(),
          a_dated_row("ET-25DEC26-CDE", "ETH", "0.1"))
ETH_ROW = a_row(ETP, "ETH", "0.1", "0.5")
LISTING = (*DECOYS, a_row(), ETH_ROW)
MINUTES = timedelta(minutes=1)
DOWN = VenueUnavailable("down")


class Venue:
    """Answers by path: a body, a function of the query, an error, or a list of those to use up.

    asked, sent, cancelled  what came: (path, query), (path, body), lists of ids
    """

    def __init__(self, signer="a key", **answers):
        self.signer, self.clock, self.read_only = signer, self, ""
        self.time = NOW
        self.asked, self.sent, self.cancelled, self.opened = [], [], [], []
        self.answers = {
            "/products": a_page(*LISTING),
            "/key_permissions": {"can_view": True, "can_trade": True, "can_transfer": False},
            "/best_bid_ask": {"pricebooks": [a_book(), a_book("2480", "2480.5", ETP)]},
            "/cfm/balance_summary": a_summary(), "/cfm/positions": {"positions": []},
            "/orders/historical/batch": {"orders": [], "has_next": False, "cursor": ""},
            "/orders/historical/fills": {"fills": [], "cursor": ""},
        } | {f"/{path.replace('__', '/')}": answer for path, answer in answers.items()}

    clock_ahead = Decimal(0)  # seconds

    def now(self):
        return self.time

    def measure_clock(self):
        self.asked.append(("/time", ()))
        return self.clock_ahead

    def get(self, path, query=(), public=False):
        self.asked.append((("public " if public else "") + path, tuple(query)))
        return self._answer(path, dict(query))

    def send(self, path, body, opens=False):
        self.sent.append((path, body))
        self.opened.append(opens)
        return self._answer(path, body)

    def cancel(self, body):
        self.cancelled.append(body["order_ids"])
        return self._answer("cancel", body)

    def _answer(self, path, given):
        answer = self.answers.get(path, DOWN)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if callable(answer):
            answer = answer(given)
        if isinstance(answer, Exception):
            raise answer
        return wire.decoded(encoded(answer))

    def queries(self, path):
        return [dict(query) for asked, query in self.asked if asked == path]


class Feed:
    """Tells the marks that it was given; notes what it follows."""

    def __init__(self, *marks):
        self.told, self.followed = {mark.symbol: mark for mark in marks}, None

    def follow(self, products):
        self.followed = [product.product_id for product in products]

    def marks(self, symbols):
        return {symbol: self.told[symbol] for symbol in symbols if symbol in self.told}


def a_mark(price, symbol=BTC, at=NOW):
    price = Decimal(price)
    return Mark(symbol, price, price - 1, price + 1, at)


def a_client(venue=None, feed=None, symbols=(BTC, ETH)):
    client = CoinbasePerpetualsClient(venue or Venue(), feed, symbols)
    client.products()
    client.rest.asked.clear()
    return client


def failing(read, *arguments):
    with pytest.raises(VenueUnavailable) as failure:
        read(*arguments)
    return str(failure.value)


# Which key


def test_a_key_that_views_and_trades_may_do_everything():
    venue = Venue()
    assert CoinbasePerpetualsClient(venue).connect() == ""
    assert [path for path, _ in venue.asked] == ["/time", "/key_permissions"]


def test_without_a_key_only_the_clock_is_asked():
    venue = Venue(signer=None)
    venue.read_only = "dry run"
    assert CoinbasePerpetualsClient(venue).connect() == "dry run"
    assert [path for path, _ in venue.asked] == ["/time"]


@pytest.mark.parametrize("granted, said", [
    ({"can_view": True, "can_trade": True, "can_transfer": True}, "can transfer"),
    ({"can_view": True, "can_trade": False, "can_transfer": True}, "can transfer"),
    ({"can_view": False, "can_trade": True, "can_transfer": False}, "cannot view"),
])
def test_a_key_that_must_not_be_used_is_refused(granted, said):
    """E13"""
    with pytest.raises(ConfigError, match=said):
        CoinbasePerpetualsClient(Venue(key_permissions=granted)).connect()


def test_a_key_that_can_only_view_observes():
    """E13"""
    venue = Venue(key_permissions={"can_view": True, "can_trade": False, "can_transfer": False})
    assert "only view" in CoinbasePerpetualsClient(venue).connect() == venue.read_only


@pytest.mark.parametrize("ahead, is_believed", [("59.9", True), ("-59.9", True), ("60.1", False),
                                                ("-3600", False)])
def test_a_clock_too_far_from_the_venues_is_not_believed(ahead, is_believed):
    rest = Venue()
    rest.clock_ahead = Decimal(ahead)
    if is_believed:
        assert CoinbasePerpetualsClient(rest).connect() == ""
    else:
        with pytest.raises(VenueUnavailable, match="set this machine's clock"):
            CoinbasePerpetualsClient(rest).connect()


@pytest.mark.parametrize("granted", [
    {}, {"can_view": True, "can_trade": True}, DOWN,
    {"can_view": True, "can_trade": True, "can_transfer": None},
    {"can_view": True, "can_trade": "true", "can_transfer": False},
])
def test_rights_that_are_not_known_are_not_assumed(granted):
    failing(CoinbasePerpetualsClient(Venue(key_permissions=granted)).connect)


# Which products


def found(*rows, symbols=(BTC, ETH)):
    client = CoinbasePerpetualsClient(Venue(products=a_page(*rows)), symbols=symbols)
    return [(product.symbol, product.product_id) for product in client.products()]


def test_the_perpetuals_are_found_among_the_decoys():
    assert sorted(found(*LISTING)) == [(BTC, BIP), (ETH, ETP)]


@pytest.mark.parametrize("rows, listed", [
    (DECOYS, []),
    ((a_row(), a_row("BIX-20DEC30-CDE", trading_disabled=True)), [BIP]),
    ((a_row("BIX-20DEC30-CDE", trading_disabled=True), a_row()), [BIP]),
    ((a_row(), a_row("BIX-20DEC30-CDE")), [BIP, "BIX-20DEC30-CDE"]),
    ((a_row(trading_disabled=True), a_row("BIX-20DEC30-CDE", view_only=True)),
     [BIP, "BIX-20DEC30-CDE"]),
    ((a_row(trading_disabled=True),), [BIP]),
])
def test_one_candidate_is_taken_and_several_are_told(rows, listed):
    """Several that trade are for the catalog to refuse."""
    assert sorted(identity for _, identity in found(*rows)) == listed


@pytest.mark.parametrize("rows", [
    (), (a_row(size=""),), (a_row(), a_row("BIX-20DEC30-CDE", size=""))])
def test_a_listing_that_hides_what_is_traded_is_a_failed_read_and_no_missing_product_C5(rows):
    """E12: "no such product" would end the process for good; one row spoils all of its symbol."""
    with pytest.raises(VenueUnavailable, match="listing is empty|cannot be read"):
        found(*rows)
    assert found(*rows, a_row("ETP-20DEC30-CDE", "ETH"), symbols=(ETH,)) == [(ETH, ETP)]


def test_a_row_that_becomes_unreadable_leaves_what_is_known_of_its_product():
    venue = Venue()
    client = a_client(venue, symbols=(BTC,))
    venue.answers["/products"] = a_page(a_row(size=""))
    assert (BIP, False) in [(p.product_id, p.tradable) for p in client.products()]


def test_a_product_that_is_named_by_its_venue_id_keeps_that_name():
    assert (BIP, BIP) in found(*LISTING, symbols=(BIP,))
    assert found(*LISTING, symbols=("BIT-25DEC26-CDE",)) == found(*LISTING, symbols=())


def test_what_was_chosen_stays_chosen_while_it_is_listed():
    venue = Venue()
    client = a_client(venue, symbols=(BTC,))
    venue.answers["/products"] = a_page(a_row(trading_disabled=True), a_row("BIX-20DEC30-CDE"))
    venue.time += timedelta(hours=2)
    assert [(p.product_id, p.tradable) for p in client.products()] == [(BIP, False)]


@pytest.mark.parametrize("traded, listed", [
    ((BIP,), [BIP]), (("BIX-20DEC30-CDE",), ["BIX-20DEC30-CDE"]),
    ((), [BIP, "BIX-20DEC30-CDE"]), (("BIY-20DEC30-CDE",), [BIP, "BIX-20DEC30-CDE"]),
])
def test_what_was_traded_before_a_restart_keeps_its_name_when_a_second_one_is_listed(
    traded, listed
):
    client = CoinbasePerpetualsClient(
        Venue(products=a_page(a_row(), a_row("BIX-20DEC30-CDE"))), symbols=(BTC,))
    client.connect(traded)
    assert sorted(product.product_id for product in client.products()) == listed


def test_within_the_hour_only_what_is_traded_is_read_again():
    """E11: sizes at least hourly, flags whenever they are asked for."""
    venue = Venue()
    client = a_client(venue)
    for minutes, count in ((1, 2), (59, 2), (60, 0), (61, 2)):
        venue.time, venue.asked = NOW + minutes * MINUTES, []
        client.products()
        [(path, query)] = venue.asked
        assert sum(name == "product_ids" for name, _ in query) == count
        assert query[count:] == (("product_type", "FUTURE"), ("limit", "100"), ("offset", "0"))


def test_a_product_that_is_gone_keeps_its_sizes_and_is_not_tradable():
    """E10"""
    venue = Venue()
    client = a_client(venue, symbols=(BTC,))
    venue.answers["/products"] = a_page(ETH_ROW)
    for minutes in (1, 70, 140):
        venue.time = NOW + minutes * MINUTES
        gone = next(p for p in client.products() if p.symbol == BTC)
        assert (gone.tradable, gone.note, gone.contract_size) == (
            False, "no longer listed", Decimal("0.01"))


def test_a_listing_without_a_key_is_the_public_one():
    venue = Venue(signer=None)
    venue.answers["/market/products"] = a_page(*LISTING)
    assert len(CoinbasePerpetualsClient(venue).products()) == 2
    assert {path for path, _ in venue.asked} == {"public /market/products"}


def many(count, begin=0):
    return [a_dated_row(f"X{number:03d}-25DEC26-CDE") for number in range(begin, begin + count)]


def paged(*pages):
    """The rows of the page that the offset falls on."""
    def answer(query):
        begin, offset = 0, int(query["offset"])
        for rows, more in pages:
            if begin == offset:
                return a_page(*rows, pagination={"has_next": more})
            begin += len(rows)
        return a_page(pagination={"has_next": False})
    return answer


@pytest.mark.parametrize("pages", [
    ((many(100), True), ([a_row()], False)),
    ((many(50), True), (many(50, 50), True), ([a_row()], False)),
    ((many(100), False), ([a_row()], False)),
])
def test_the_listing_is_read_to_its_end(pages):
    """D10: by what was read, not by what was asked for; a full page is not believed to be all."""
    client = CoinbasePerpetualsClient(Venue(products=paged(*pages)))
    assert [product.product_id for product in client.products()] == [BIP]


@pytest.mark.parametrize("answer", [
    a_page(a_row(), a_row()), a_page(pagination={"has_next": True}),
    [a_page(*many(100)), a_page(*many(100))],
    lambda query: a_page(*many(1, int(query["offset"])), pagination={"has_next": True}),
    a_page({"product_venue": "FCM"}), {"products": None}, {"products": [1]}, {}, DOWN,
    [a_page(*many(100)), DOWN], a_page(pagination={"has_next": "true"}),
])
def test_a_listing_in_doubt_is_a_failed_read(answer):
    """D10: repeated, without end, empty with more to come, nameless, broken."""
    failing(CoinbasePerpetualsClient(Venue(products=answer)).products)


def test_a_failed_listing_leaves_the_old_one():
    venue = Venue()
    client = a_client(venue)
    venue.answers["/products"], venue.time = DOWN, NOW + timedelta(hours=2)
    failing(client.products)
    venue.answers["/orders"] = an_answer(an_order())
    assert client.place(an_order(), NOW)


@pytest.mark.parametrize("read", ["positions", "orders", "fills"])
def test_without_a_listing_nothing_is_read_as_somebody_elses(read):
    """E3: an account looks empty to whoever does not know the products."""
    venue = Venue(products=DOWN, cfm__positions={"positions": [a_position_row()]},
                  orders__historical__batch={"orders": [an_order_row()]},
                  orders__historical__fills={"fills": [a_fill_row()]})
    client = CoinbasePerpetualsClient(venue)
    arguments = () if read == "positions" else (NOW - timedelta(hours=1),)
    failing(getattr(client, read), *arguments)
    venue.answers["/products"] = a_page(*LISTING)
    assert len(getattr(client, read)(*arguments)) == 1


@pytest.mark.parametrize("read", ["positions", "orders", "fills"])
def test_a_row_of_a_perpetual_that_cannot_be_read_fails_the_read(read):
    venue = Venue(products=a_page(a_row(size="")), cfm__positions={"positions": [a_position_row()]},
                  orders__historical__batch={"orders": [an_order_row()]},
                  orders__historical__fills={"fills": [a_fill_row()]})
    arguments = () if read == "positions" else (NOW - timedelta(hours=1),)
    client = CoinbasePerpetualsClient(venue)
    assert "cannot be read" in failing(getattr(client, read), *arguments)
    venue.answers["/products"], venue.time = a_page(a_dated_row()), NOW + timedelta(hours=1)
    client.products()
    assert "cannot be read" in failing(getattr(client, read), *arguments)
    venue.answers["/products"] = a_page(a_dated_row(BIP))
    client.products()
    assert len(getattr(client, read)(*arguments)) == (read == "positions")


@pytest.mark.parametrize("now, closes_at", [
    # Chicago: UTC-5 in summer, UTC-6 in winter; the clocks change on Sundays.
    ("2026-10-09T20:59", "2026-10-09T21:00"), ("2026-10-09T21:00", "2026-10-16T21:00"),
    ("2026-10-31T12:00", "2026-11-06T22:00"), ("2026-11-06T21:59", "2026-11-06T22:00"),
    ("2026-11-06T22:00", "2026-11-13T22:00"), ("2027-03-12T22:00", "2027-03-19T21:00"),
    ("2026-12-31T12:00", "2027-01-01T22:00"),
])
def test_the_weekly_close_moves_with_daylight_saving_in_chicago(now, closes_at):
    """E9"""
    venue = Venue()
    venue.time = datetime.fromisoformat(now).replace(tzinfo=UTC)
    [product] = [p for p in CoinbasePerpetualsClient(venue).products() if p.symbol == BTC]
    assert product.closes_at == datetime.fromisoformat(closes_at).replace(tzinfo=UTC)


# Marks


def test_without_a_feed_rest_is_asked_for_every_mark():
    client = a_client()
    for minutes in (0, 0, 1):
        marks = client.marks([BTC, ETH], NOW + minutes * MINUTES)
        assert {s: m.price for s, m in marks.items()} == {
            BTC: Decimal("82567.5"), ETH: Decimal("2480.25")}
    assert len(client.rest.queries("/best_bid_ask")) == 3


def test_without_a_key_each_book_is_asked_for():
    venue = Venue(signer=None)
    venue.answers["/market/products"] = a_page(*LISTING)
    venue.answers["/market/product_book"] = lambda query: {
        "pricebook": a_book(product_id=query["product_id"])}
    client = CoinbasePerpetualsClient(venue, symbols=(BTC, ETH))
    assert set(client.marks([BTC, ETH], NOW)) == {BTC, ETH}
    assert {path.split()[0] for path, _ in venue.asked} == {"public"}


def test_what_the_feed_has_is_not_asked_for_until_it_is_compared():
    """F2: every 30 s."""
    feed = Feed(a_mark("82600"), a_mark("2481", ETH))
    client = a_client(feed=feed)
    seen = []
    for seconds in (0, 5, 29, 30, 35, 60):
        client.marks([BTC, ETH], NOW + timedelta(seconds=seconds))
        seen.append(len(client.rest.queries("/best_bid_ask")))
    assert seen == [1, 1, 1, 2, 2, 3]
    assert feed.followed == [BIP, ETP]


def test_rest_is_asked_for_what_the_feed_does_not_have():
    client = a_client(feed=Feed(a_mark("82600")))
    client.marks([BTC, ETH], NOW)
    marks = client.marks([BTC, ETH], NOW + timedelta(seconds=5))
    assert (marks[BTC].price, marks[ETH].price) == (82600, Decimal("2480.25"))
    [_, (_, query)] = [a for a in client.rest.asked if a[0] == "/best_bid_ask"]
    assert query == (("product_ids", ETP),)


def test_that_rest_fails_matters_only_where_the_feed_has_nothing():
    feed = Feed(a_mark("82600"))
    client = a_client(Venue(best_bid_ask=DOWN), feed)
    assert set(client.marks([BTC, ETH], NOW)) == {BTC}
    feed.told.clear()
    failing(client.marks, [BTC, ETH], NOW + MINUTES)


@pytest.mark.parametrize("price, trusted", [
    ("82567.5", True), ("83390", True), ("83400", False), ("81750", True), ("81700", False),
    ("825675", False)])
def test_a_feed_that_is_far_from_rest_is_not_trusted(price, trusted):
    """F2, F6"""
    client = a_client(feed=Feed(a_mark(price)))
    client.marks([BTC], NOW)
    mark = client.marks([BTC], NOW + timedelta(seconds=5))[BTC]
    assert mark.price == Decimal(price if trusted else "82567.5")


def test_distrust_lasts_until_a_comparison_that_fits():
    """F2: what cannot be compared is not trusted again for that."""
    feed, venue = Feed(a_mark("90000")), Venue()
    client = a_client(venue, feed)
    client.marks([BTC], NOW)
    books, venue.answers["/best_bid_ask"] = venue.answers["/best_bid_ask"], DOWN
    for seconds in (5, 31, 36):
        assert client.marks([BTC], NOW + timedelta(seconds=seconds)) == {}
    venue.answers["/best_bid_ask"] = books
    feed.told[BTC] = a_mark("82570")
    prices = [client.marks([BTC], NOW + timedelta(seconds=s))[BTC].price for s in (40, 62, 66)]
    assert prices == [Decimal("82567.5"), Decimal("82567.5"), Decimal("82570")]


@pytest.mark.parametrize("book", [
    a_book(None, None), a_book(bid=None), a_book(ask=None), a_book("82570", "82565"),
    a_book("NaN"), a_book(at=None), {"product_id": BIP}])
def test_a_book_that_is_no_market_gives_no_mark_and_spoils_no_other(book):
    """F6, E9: as in a closed session."""
    books = {"pricebooks": [book, a_book("2480", "2480.5", ETP), a_book(product_id="BTC-USD")]}
    assert set(a_client(Venue(best_bid_ask=books)).marks([BTC, ETH], NOW)) == {ETH}


@pytest.mark.parametrize("body", [{}, {"pricebooks": None}, {"pricebooks": [7]}])
def test_an_answer_without_books_is_a_failed_read(body):
    failing(a_client(Venue(best_bid_ask=body)).marks, [BTC], NOW)


def test_a_symbol_that_is_not_listed_has_no_mark():
    client = a_client()
    assert client.marks(["DOGE-PERP"], NOW) == {}
    assert client.rest.asked == []


def test_a_closed_session_is_said_and_has_no_mark():
    """E9"""
    closed = a_row(session={"is_session_open": False})
    client = a_client(Venue(products=a_page(closed),
                            best_bid_ask={"pricebooks": [a_book(None, None)]}))
    assert client.marks([BTC], NOW) == {}
    assert not client.products()[0].is_session_open


# Candles and funding


MINUTE = 60
LAST = int(NOW.timestamp()) // MINUTE * MINUTE


def candle_venue(rows):
    return Venue(**{f"products__{BIP}__candles": {"candles": rows}})


def test_candles_come_oldest_first_once_and_closed():
    """Trap 30"""
    rows = [a_candle(LAST), a_candle(LAST - 60, "82501"), a_candle(LAST - 60, "82501"),
            a_candle(LAST - 180, "82503"), a_candle(LAST - 120, "82502")]
    candles = a_client(candle_venue(rows)).candles(BTC, MINUTE, 5, NOW + timedelta(seconds=30))
    assert [candle.close for candle in candles] == [82503, 82502, 82501]
    assert candles[0].volume == Decimal("0.07")


def test_candles_are_asked_for_in_pages_that_no_limit_cuts():
    def page(query):
        begin, end = int(query["start"]), int(query["end"])
        starts = range(-begin // MINUTE * -MINUTE, end + 1, MINUTE)
        assert len(starts) <= 300 == int(query["limit"])
        return {"candles": [a_candle(start) for start in starts][::-1]}

    client = a_client(Venue(**{f"products__{BIP}__candles": page}))
    candles = client.candles(BTC, MINUTE, 700, NOW + timedelta(seconds=30))
    starts = [int(candle.opened_at.timestamp()) for candle in candles]
    assert starts == list(range(LAST - 700 * MINUTE, LAST, MINUTE))
    queries = client.rest.queries(f"/products/{BIP}/candles")
    assert len(queries) == 3 and {q["granularity"] for q in queries} == {"ONE_MINUTE"}
    assert max(int(query["end"]) for query in queries) < LAST


def test_no_more_candles_come_back_than_were_asked_for():
    rows = [a_candle(LAST - 60 * number) for number in range(1, 10)]
    candles = a_client(candle_venue(rows)).candles(BTC, MINUTE, 3, NOW)
    assert [int(c.opened_at.timestamp()) for c in candles] == [LAST - 180, LAST - 120, LAST - 60]


@pytest.mark.parametrize("seconds, granularity", [
    (60, "ONE_MINUTE"), (300, "FIVE_MINUTE"), (900, "FIFTEEN_MINUTE"), (1800, "THIRTY_MINUTE"),
    (3600, "ONE_HOUR"), (7200, "TWO_HOUR"), (14400, "FOUR_HOUR"), (21600, "SIX_HOUR"),
    (86400, "ONE_DAY")])
def test_a_length_has_the_venues_name(seconds, granularity):
    client = CoinbasePerpetualsClient(candle_venue([]), symbols=(BTC,))
    assert client.candles(BTC, seconds, 2, NOW) == []
    [query] = client.rest.queries(f"/products/{BIP}/candles")
    end = int(NOW.timestamp()) // seconds * seconds
    assert query == {"granularity": granularity, "limit": "300", "start": str(end - 2 * seconds),
                     "end": str(end - 1)}


def test_a_length_that_the_venue_does_not_have_is_not_asked_for():
    client = a_client()
    assert client.candles(BTC, 61, 5, NOW) == () and client.rest.asked == []


@pytest.mark.parametrize("body", [{}, {"candles": None}, {"candles": [{}]}, DOWN,
                                  {"candles": [a_candle(LAST - 60), a_candle("x")]}])
def test_candles_that_cannot_be_read_are_a_failed_read(body):
    client = a_client(Venue(**{f"products__{BIP}__candles": body}))
    failing(client.candles, BTC, MINUTE, 5, NOW)


def test_a_symbol_that_is_not_listed_has_no_candles():
    assert "DOGE-PERP: 0 products" in failing(a_client().candles, "DOGE-PERP", 60, 5, NOW)


def test_the_rate_is_of_an_hour_that_has_ended():
    client = a_client()
    rate = client.funding(BTC, NOW)
    assert (rate.symbol, rate.rate, rate.at) == (
        BTC, Decimal("0.000009"), NOW.replace(minute=0))
    assert client.funding(BTC, NOW - timedelta(hours=1)) is None
    assert client.funding("DOGE-PERP", NOW) is None


def hourly(rate, hour):
    at = f"2026-10-10T{hour:02d}:00:00Z"
    return a_page(a_row(details={"funding_rate": rate, "funding_time": at}))


@pytest.mark.parametrize("side, rate, pays", [
    ("LONG", "0.0001", "0.2475"), ("SHORT", "0.0001", "-0.2475"), ("LONG", "-0.0001", "-0.2475"),
    ("SHORT", "-0.0001", "0.2475")])
def test_each_hour_is_accrued_once_by_what_was_held(side, rate, pays):
    """E4: a positive rate is paid by longs; 0.03 BTC at the venue's own price."""
    venue = Venue(cfm__positions={"positions": [a_position_row(side)]})
    client = a_client(venue, symbols=(BTC,))
    client.positions()
    assert client.funding_payments(NOW - timedelta(days=1)) == []
    venue.answers["/products"] = hourly(rate, 0)
    for minutes in (46, 47, 48):
        venue.time = NOW + minutes * MINUTES
        client.products()
    [payment] = client.funding_payments(NOW)
    assert (payment.symbol, payment.amount, payment.rate) == (BTC, Decimal(pays), Decimal(rate))
    assert payment.at == datetime(2026, 10, 10, tzinfo=UTC)
    assert payment.held == Decimal("0.03") * (1 if side == "LONG" else -1)
    venue.answers["/products"] = hourly(rate, 1)
    client.products()
    assert len(client.funding_payments(NOW)) == 2
    assert len({payment.payment_id for payment in client.funding_payments(NOW)}) == 2
    assert len(client.funding_payments(payment.at)) == 2
    assert client.funding_payments(payment.at + MINUTES) == client.funding_payments(NOW)[1:]


@pytest.mark.parametrize("read_at, filled_at, held", [
    ("00:00:30", "23:59:50", "0.03"),  # before the hour's end, and in the positions
    ("00:00:30", "00:00:10", "0.01"),  # after the end, and in the positions: taken out again
    ("23:59:30", "23:59:50", "0.05"),  # before the end, and not in the positions: added
    ("23:59:30", "00:00:10", "0.03"),  # after both
])
def test_an_hour_costs_what_was_held_at_its_end_whenever_the_positions_were_read(
        read_at, filled_at, held):
    """E4: 0.03 BTC were read at one moment, 0.02 of another product count nothing."""
    def at(clock):
        day = "2026-10-10" if clock.startswith("00") else "2026-10-09"
        return f"{day}T{clock}Z"

    venue = Venue(
        cfm__positions={"positions": [a_position_row()]},
        orders__historical__fills={"cursor": "", "fills": [
            a_fill_row(at=at(filled_at)), a_fill_row("e2", product_id=ETP, at=at(filled_at))]})
    client = a_client(venue)
    client.fills(NOW - timedelta(days=1))
    venue.time = datetime.fromisoformat(at(read_at))
    client.positions()
    venue.answers["/products"], venue.time = hourly("0.0001", 0), NOW + 47 * MINUTES
    client.products()
    [payment] = client.funding_payments(NOW)
    assert payment.amount == Decimal(held) * 82500 * Decimal("0.0001")


def test_who_traded_since_an_hour_that_is_told_late_is_read_before_it_accrues():
    venue = Venue(cfm__positions={"positions": [a_position_row()]},
                  orders__historical__fills={"cursor": "", "fills": [
                      a_fill_row(at="2026-10-10T00:20:00Z")]})
    client = a_client(venue)
    venue.answers["/products"], venue.time = hourly("0.0001", 0), NOW + 107 * MINUTES
    client.products()
    client.positions()
    client.fills(venue.time - 10 * MINUTES)
    [payment] = client.funding_payments(NOW)
    assert payment.held == Decimal("0.01")  # 0.02 of what is held now came after the hour
    assert len(client.fills(venue.time - 10 * MINUTES)) == 0


def test_an_hour_without_a_position_or_without_a_rate_costs_nothing():
    venue = Venue(cfm__positions={"positions": [a_position_row(product_id=ETP)]})
    client = a_client(venue)
    client.positions()
    for page in (hourly("0.0001", 0), hourly("", 1), hourly("0.0001", 0)):
        venue.answers["/products"], venue.time = page, venue.time + timedelta(hours=1)
        client.products()
    assert client.funding_payments(NOW) == []
    assert client.funding(BTC, venue.time).at == datetime(2026, 10, 10, tzinfo=UTC)


# The account


def test_equity_and_margin_are_of_one_answer():
    client = a_client()
    assert client.margin() is None
    assert client.equity() == Decimal("496.80")
    assert (client.margin().initial, client.margin().unbooked_funding) == (
        Decimal("75.20"), Decimal("-0.04"))
    assert len(client.rest.asked) == 1


@pytest.mark.parametrize("body", [
    {"balance_summary": None}, {}, a_summary(unrealized_pnl=None), DOWN,
    a_summary(total_usd_balance=usd("1e400"))])
def test_no_balance_is_a_failed_read_and_takes_the_margin_with_it(body):
    """E3, E6, trap 25"""
    venue = Venue()
    client = a_client(venue)
    client.equity()
    venue.answers["/cfm/balance_summary"] = body
    failing(client.equity)
    assert client.margin() is None


def test_a_margin_that_nobody_says_is_none_and_one_that_is_wrong_is_a_failed_read():
    client = a_client(Venue(cfm__balance_summary=[
        a_summary(available_margin=None), a_summary(available_margin=usd("NaN"))]))
    assert client.equity() and client.margin() is None
    assert client.equity()
    failing(client.margin)


def held(*rows):
    client = a_client(Venue(cfm__positions={"positions": list(rows)}))
    return {symbol: position.quantity for symbol, position in client.positions().items()}


@pytest.mark.parametrize("rows, quantities", [
    ((), {}), ((a_position_row(contracts="0"),), {}),
    ((a_position_row("UNKNOWN", "0"), a_position_row("SHORT", "2", ETP)), {ETH: "-0.2"}),
    ((a_position_row(), a_position_row("SHORT", "1", ETP)), {BTC: "0.03", ETH: "-0.1"}),
])
def test_positions_are_signed_base_units_by_symbol(rows, quantities):
    assert held(*rows) == {symbol: Decimal(said) for symbol, said in quantities.items()}


@pytest.mark.parametrize("body", [
    {}, {"positions": None}, {"positions": {}}, {"positions": [None]}, DOWN,
    {"positions": [a_position_row("UNKNOWN")]}, {"positions": [a_position_row(contracts="")]},
    {"positions": [a_position_row(), a_position_row("UNKNOWN", "1", ETP)]},
    {"positions": [a_position_row(), a_position_row()]},
    {"positions": [a_position_row(product_id=None)]},
])
def test_a_read_that_failed_is_never_flat(body):
    """E3"""
    failing(a_client(Venue(cfm__positions=body)).positions)


def test_the_owners_other_futures_count_with_their_own_size():
    """E1"""
    rows = (a_position_row("SHORT", "4", "ET-25DEC26-CDE", mark="2500"),)
    client = a_client(Venue(cfm__positions={"positions": list(rows)}))
    [position] = client.positions().values()
    assert (position.symbol, position.quantity, position.notional) == (
        "ET-25DEC26-CDE", Decimal("-0.4"), 1000)


def test_a_future_whose_size_nobody_says_counts_without_bound():
    """E1"""
    client = a_client(Venue(cfm__positions={"positions": [a_position_row(product_id="NEW-CDE")]}))
    [position] = client.positions().values()
    assert (position.symbol, position.notional) == ("NEW-CDE", Decimal("Infinity"))


@pytest.mark.parametrize("harm", [
    {"entry": ""}, {"mark": "0"}, {"side": "UP"}, {"contracts": "1.5"}])
def test_an_unreadable_position_of_ours_is_a_failed_read_and_anothers_is_without_bound(harm):
    """E2, E3: what we trade must be known; what somebody else trades must not stop all."""
    rows = {"positions": [a_position_row(**harm)]}
    assert failing(a_client(Venue(cfm__positions=rows)).positions).startswith("the positions")
    [position] = a_client(Venue(cfm__positions=rows), symbols=(ETH,)).positions().values()
    assert (position.symbol, position.notional) == (BTC, Decimal("Infinity"))


def test_a_dated_future_whose_size_cannot_be_read_is_left_out_and_counts_without_bound(caplog):
    """E1, E12: it hides no perpetual."""
    venue = Venue(products=a_page(*LISTING, a_dated_row("BIX-25DEC26-CDE", size="x")),
                  cfm__positions={"positions": [a_position_row(product_id="BIX-25DEC26-CDE")]})
    client = a_client(venue)
    assert sorted(product.symbol for product in client.products()) == [BTC, ETH]
    assert "BIX-25DEC26-CDE left out: contract_size is not a number" in caplog.text
    assert client.positions()["BIX-25DEC26-CDE"].notional == Decimal("Infinity")


# Orders that are read


def listed(*rows, **venue):
    client = a_client(Venue(orders__historical__batch={"orders": list(rows), "has_next": False},
                            **venue))
    return client.orders(NOW - timedelta(hours=1))


def test_orders_are_asked_for_by_date_and_open_ones_whatever_their_age():
    client = a_client()
    client.orders(NOW)
    assert client.rest.queries("/orders/historical/batch") == [
        {**query, "product_type": "FUTURE", "limit": "100"} for query in (
            {"order_status": "OPEN"}, {"start_date": "2026-10-09T23:14:00Z"},
            {"order_status": "OPEN", "order_placement_source": "RETAIL_SIMPLE"})]


@pytest.mark.parametrize("app, orders", [
    ({"orders": [an_order_row("", venue_id="v7")], "has_next": False}, ["pb-1-000001", "venue-v7"]),
    (DOWN, ["pb-1-000001"]), ({"orders": None}, ["pb-1-000001"])])
def test_orders_of_the_simple_app_are_listed_where_the_venue_tells_them(app, orders):
    """E1, trap 15: they concern only the owner, so a refusal hides none of ours."""
    def by_source(query):
        ours = {"orders": [an_order_row()], "has_next": False}
        return app if "order_placement_source" in query else ours

    client = a_client(Venue(orders__historical__batch=by_source))
    assert [order.id for order in client.orders(NOW)] == orders


@pytest.mark.parametrize("said, status", [
    ("PENDING", "open"), ("QUEUED", "open"), ("OPEN", "open"), ("CANCEL_QUEUED", "cancel_queued"),
    ("SOMETHING_NEW", "unknown"), ("FILLED", "filled"), ("FAILED", "rejected")])
def test_an_order_is_listed_in_every_state(said, status):
    """D9, E12, trap 14: also what the filter for open ones leaves out."""
    def by_filter(query):
        is_shown = "start_date" in query or said == "OPEN"
        return {"orders": [an_order_row(status=said)] * is_shown, "has_next": False, "cursor": ""}

    client = a_client(Venue(orders__historical__batch=by_filter))
    [order] = client.orders(NOW - timedelta(hours=1))
    assert (order.id, order.status, order.symbol) == ("pb-1-000001", OrderStatus(status), BTC)


def test_foreign_orders_are_listed_and_those_of_other_products_are_not():
    """E1"""
    orders = listed(an_order_row("pb-1-000001"), an_order_row("", venue_id="v2"),
                    an_order_row("x", venue_id="v3", product_id="BTC-USD", filled_size="0.001"),
                    an_order_row("y", venue_id="v4", configuration={"twap_limit_gtd": {}}))
    assert [(order.id, order.quantity) for order in orders] == [
        ("pb-1-000001", Decimal("0.02")), ("venue-v2", Decimal("0.02")), ("y", 0)]


def test_orders_come_oldest_first():
    rows = [an_order_row(f"pb-{n}", venue_id=f"v{n}", created_time=f"2026-10-09T23:0{n}:00Z")
            for n in (3, 1, 2)]
    assert [order.id for order in listed(*rows)] == ["pb-1", "pb-2", "pb-3"]


def pages(name, *bodies):
    """Bodies by the cursor that asks for them; the first has none."""
    return lambda query: bodies[int(query.get("cursor", 0))] | {"sequence": "0", name: [
        an_order_row(f"pb-{number}", venue_id=f"v{number}") if name == "orders"
        else a_fill_row(f"e{number}") for number in bodies[int(query.get("cursor", 0))][name]]}


@pytest.mark.parametrize("answer, count", [
    (pages("orders", {"orders": [1, 2], "has_next": True, "cursor": "1"},
           {"orders": [3], "has_next": False, "cursor": ""}), 3),
    (pages("orders", {"orders": [1, 2], "has_next": True, "cursor": "1"},
           {"orders": [2, 3], "has_next": False, "cursor": "9"}), 3),
    (pages("orders", {"orders": [], "has_next": False, "cursor": ""}), 0),
])
def test_orders_are_read_to_the_last_page(answer, count):
    """D10"""
    client = a_client(Venue(orders__historical__batch=answer))
    assert len(client.orders(NOW)) == count


@pytest.mark.parametrize("answer", [
    pages("orders", {"orders": [1], "has_next": True, "cursor": "0"}),
    pages("orders", {"orders": [1], "has_next": True, "cursor": ""}),
    pages("orders", {"orders": [], "has_next": True, "cursor": "0"}),
    pages("orders", {"orders": [1], "has_next": True, "cursor": "1"},
          {"orders": [2], "has_next": True, "cursor": "1"}),
    lambda query: {"orders": [an_order_row()], "has_next": True,
                   "cursor": str(int(query.get("cursor", 0)) + 1)},
    {"orders": None, "has_next": False}, {"has_next": False}, {"orders": ["x"]}, DOWN,
    [{"orders": [], "has_next": False}, DOWN],
    {"orders": [an_order_row(venue_id="")]}, {"orders": [an_order_row(product_id=None)]},
    {"orders": [an_order_row(), an_order_row(created_time="yesterday")]},
])
def test_a_list_of_orders_in_doubt_is_a_failed_read(answer):
    """D10: in circles, without end, more than it tells, or with one row that cannot be read."""
    failing(a_client(Venue(orders__historical__batch=answer)).orders, NOW)


# Fills


def told(client, hours=1):
    return [(fill.fill_id, fill.client_order_id, fill.is_liquidation)
            for fill in client.fills(NOW - timedelta(hours=hours))]


def a_client_with_fills(*rows, orders=()):
    """The rows are the oldest first here; the venue lists the newest first."""
    return a_client(Venue(
        orders__historical__batch={"orders": list(orders), "has_next": False},
        orders__historical__fills={"fills": list(rows[::-1]), "cursor": ""}))


def test_a_fill_belongs_to_whoever_placed_its_order():
    client = a_client_with_fills(
        a_fill_row("e1", "v1"), a_fill_row("e2", "v2"), a_fill_row("e3", "v3"),
        orders=[an_order_row("pb-1-000001", venue_id="v1"), an_order_row("", venue_id="v2")])
    assert told(client) == [("e1", "", False), ("e2", "", False), ("e3", "", False)]
    client.orders(NOW)
    assert told(client) == [
        ("e1", "pb-1-000001", False), ("e2", "venue-v2", False), ("e3", "", False)]


def test_an_order_that_was_just_sent_owns_its_fills():
    client = a_client_with_fills(a_fill_row())
    client.rest.answers["/orders"] = an_answer(an_order())
    client.place(an_order(), NOW)
    assert told(client) == [("e1", "pb-1-000001", False)]


@pytest.mark.parametrize("fields", [{"is_liquidation": True}, {"order_type": "LIQUIDATION"}])
def test_a_fill_of_a_liquidation_belongs_to_nobody(fields):
    """E5"""
    client = a_client_with_fills(a_fill_row(), orders=[an_order_row("some-id", **fields)])
    client.orders(NOW)
    assert told(client) == [("e1", "", True)]


@pytest.mark.parametrize("fields, owner", [
    ({"client_order_id": ""}, ("", False)), ({"client_order_id": "app-7"}, ("app-7", False)),
    ({"client_order_id": "x", "is_liquidation": True}, ("", True)),
    ({"client_order_id": "x", "order_type": "LIQUIDATION"}, ("", True)),
])
def test_an_order_that_no_list_shows_is_asked_for_once_by_name(fields, owner):
    """E1, E5, trap 15"""
    client = a_client_with_fills(a_fill_row("e1", "a/b"), a_fill_row("e2", "a/b"))
    path = "/orders/historical/a%2Fb"
    client.rest.answers[path] = {"order": an_order_row(venue_id="a/b") | fields}
    for _ in range(2):
        assert told(client) == [("e1", *owner), ("e2", *owner)]
    assert len(client.rest.queries(path)) == 1


@pytest.mark.parametrize("answer", [DOWN, {}, {"order": None}])
def test_an_order_that_is_not_found_yet_is_asked_for_again_and_only_so_often(answer):
    """Trap 3: a new order may be missing for a while."""
    client = a_client_with_fills(*(a_fill_row(f"e{n}", f"v{n}") for n in range(9)))
    client.rest.answers["/orders/historical/v8"] = answer
    assert told(client) == [(f"e{n}", "", False) for n in range(9)]
    asked = [path for path, _ in client.rest.asked if path.startswith("/orders/historical/v")]
    assert len(asked) == room.LOOK_UPS_MAX
    client.rest.answers["/orders/historical/v8"] = {"order": an_order_row("pb-8")}
    assert told(client)[-1] == ("e8", "pb-8", False)


@pytest.mark.parametrize("name", [".", ".."])
def test_an_order_whose_name_would_change_the_address_is_not_asked_for_J4(name):
    client = a_client_with_fills(a_fill_row("e1", name))
    assert told(client) == [("e1", "", False)]
    assert not [path for path, _ in client.rest.asked if path == f"/orders/historical/{name}"]


def test_owners_are_forgotten_only_when_there_are_very_many(monkeypatch):
    monkeypatch.setattr(room, "OWNERS_MAX", 2)
    client = a_client_with_fills(
        *(a_fill_row(f"e{n}", f"v{n}") for n in (1, 2, 3)),
        orders=[an_order_row(f"pb-{n}", venue_id=f"v{n}") for n in (1, 2, 3)])
    client.orders(NOW)
    assert told(client) == [("e1", "", False), ("e2", "pb-2", False), ("e3", "pb-3", False)]


def test_fills_come_oldest_first_once_and_from_their_moment_on():
    rows = [a_fill_row("e3", at="2026-10-09T23:12:00Z"), a_fill_row("e2"), a_fill_row("e2"),
            a_fill_row("e0", at="2026-10-09T23:09:59.999999Z"),
            a_fill_row("e1", at="2026-10-09T23:10:00Z"),
            a_fill_row("spot", product_id="BTC-USD", size="0.001")]
    client = a_client_with_fills(*rows)
    since = NOW.replace(minute=10)
    assert [fill.fill_id for fill in client.fills(since)] == ["e1", "e2", "e3"]
    [query] = client.rest.queries("/orders/historical/fills")
    assert query == {"start_sequence_timestamp": "2026-10-09T23:09:50Z", "limit": "100"}


@pytest.mark.parametrize("kind", ["REVERSAL", "CORRECTION", "SYNTHETIC", "SOMETHING_NEW", None])
def test_what_is_no_fill_is_said_once_and_not_booked(kind, caplog):
    client = a_client_with_fills(a_fill_row("c1", trade_type=kind), a_fill_row("e1"))
    with caplog.at_level(logging.ERROR):
        assert [told(client) for _ in range(3)] == [[("e1", "", False)]] * 3
    [record] = caplog.records
    assert BTC in record.getMessage() and (kind or "nameless") in record.getMessage()


def test_fills_are_read_to_the_last_page_which_may_carry_a_cursor():
    """Trap 22"""
    answer = pages("fills", {"fills": [1, 2], "cursor": "1"}, {"fills": [3], "cursor": "2"},
                   {"fills": [], "cursor": "2"})
    client = a_client(Venue(orders__historical__fills=answer))
    assert len(client.fills(NOW - timedelta(hours=1))) == 3


@pytest.mark.parametrize("answer", [
    pages("fills", {"fills": [1], "cursor": "0"}), {"fills": None}, {}, DOWN,
    {"fills": [a_fill_row()], "cursor": 5}, {"fills": [a_fill_row(size_in_quote=True)]},
    {"fills": [a_fill_row(product_id=None)]}, {"fills": [a_fill_row(venue_id="")]},
    {"fills": [a_fill_row(future_legs=[{"x": "y"}])]}, {"fills": [a_fill_row(entry_id=None)]},
    {"fills": [a_fill_row(), a_fill_row("e2", price="NaN")]},
])
def test_fills_in_doubt_are_a_failed_read(answer):
    """D10, E3"""
    failing(a_client(Venue(orders__historical__fills=answer)).fills, NOW)


# Orders that are sent


RESTS = {"order_type": OrderType.LIMIT, "time_in_force": TimeInForce.GTC,
         "limit_price": Decimal("82000")}


def test_an_order_is_sent_once_and_comes_back_with_the_venues_id():
    order = an_order(**RESTS)
    client = a_client(Venue(orders=an_answer(order)))
    answer = client.place(order, NOW)
    assert (answer.id, answer.intent, answer.status, answer.venue_order_id) == (
        order.id, order.intent, OrderStatus.OPEN, "v1")
    [(path, body)] = client.rest.sent
    assert path == "/orders" and body["order_configuration"]["limit_limit_gtc"]["base_size"] == "2"


def test_a_repeated_id_is_answered_with_the_first_order():
    """Section 3.4: an answer to a replay looks like the first one."""
    client = a_client(Venue(orders=an_answer(an_order())))
    first, again = (client.place(an_order(), NOW) for _ in range(2))
    assert first == again


def test_an_answer_that_speaks_of_an_older_order_is_an_unknown_outcome():
    """D1"""
    second = an_order(identity="pb-1-000002")
    client = a_client(Venue(orders=[an_answer(an_order()), an_answer(second)]))
    client.place(an_order(), NOW)
    with pytest.raises(OutcomeUnknown, match="older order"):
        client.place(second, NOW)


def test_an_answer_with_the_id_of_a_listed_order_is_an_unknown_outcome():
    """D1"""
    client = a_client(Venue(orders=an_answer(an_order()), orders__historical__batch={
        "orders": [an_order_row("somebody-else")], "has_next": False}))
    client.orders(NOW)
    with pytest.raises(OutcomeUnknown, match="older order"):
        client.place(an_order(), NOW)


@pytest.mark.parametrize("answer, error", [
    (a_refusal(error="INSUFFICIENT_FUND"), OrderRejected), (DOWN, VenueUnavailable),
    (OutcomeUnknown("broke off"), OutcomeUnknown), ({}, OutcomeUnknown),
    (an_answer(an_order(), product_id=ETP), OutcomeUnknown),
    (an_answer(an_order(Side.SELL)), OutcomeUnknown),
    (a_refusal(error="DUPLICATE_CLIENT_ORDER_ID"), OutcomeUnknown),
    (a_refusal(error="NOT_A_DUPLICATE_CLIENT_ORDER_ID_2"), OutcomeUnknown),
])
@pytest.mark.parametrize("call, path", [("place", "/orders"), ("close", "/orders/close_position")])
def test_what_came_of_an_order_is_said_and_it_is_sent_once(call, path, answer, error):
    """D1, D2, D3"""
    venue = Venue()
    venue.answers[path] = answer
    client = a_client(venue)
    with pytest.raises(error):
        getattr(client, call)(an_order(), NOW)
    assert len(venue.sent) == 1
    assert told(client) == []  # and nothing is known as its fills' owner
    assert client._owners == {}


def test_a_close_names_its_contracts_and_the_echo_must_be_its_side():
    """D11: never without a size, which would close what is not ours."""
    order = an_order(Side.SELL, "0.03")
    client = a_client(Venue(orders__close_position=an_answer(order)))
    assert client.close(order, NOW).venue_order_id == "v1"
    assert client.rest.sent == [("/orders/close_position", {
        "client_order_id": order.id, "product_id": BIP, "size": "3"})]


@pytest.mark.parametrize("purpose, opens", [
    (Purpose.ENTRY, True), (Purpose.STOP, False), (Purpose.EXIT, False)])
def test_only_an_entry_is_sent_as_one_that_opens(purpose, opens):
    order = an_order(purpose=purpose)
    client = a_client(Venue(orders=an_answer(order)))
    client.place(order, NOW)
    assert client.rest.opened == [opens]


@pytest.mark.parametrize("side, limit, profit", [
    (Side.BUY, "82000", "98400"), (Side.BUY, "82005", "98410"), (Side.SELL, "82000", "65600"),
    (Side.SELL, "82005", "65600")])
def test_the_profit_leg_of_a_resting_entry_lies_on_the_tick(side, limit, profit):
    """Trap 37: 20 % from the limit, rounded so that it is no worse for us."""
    stop = Decimal(81_000 if side is Side.BUY else 83_000)
    order = an_order(side, **RESTS | {"limit_price": Decimal(limit)}, attached_stop_price=stop)
    client = a_client(Venue(orders=an_answer(order)))
    client.place(order, NOW)
    assert client.rest.sent[0][1]["attached_order_configuration"] == {"trigger_bracket_gtc": {
        "limit_price": profit, "stop_trigger_price": f"{stop:f}"}}


def test_a_part_of_a_contract_or_an_unlisted_symbol_is_never_sent():
    client = a_client()
    for call in (client.place, client.close):
        with pytest.raises(OrderRejected, match="whole number"):
            call(an_order(quantity="0.015"), NOW)
        failing(call, an_order(symbol="DOGE-PERP"), NOW)
    assert client.rest.sent == []


# Cancels


def to_cancel(count):
    return [an_order(identity=f"pb-{n}")._replace(venue_order_id=f"v{n}")
            for n in range(count)]


def taken(body):
    return {"results": [{"order_id": identity, "success": True, "failure_reason": ""}
                        for identity in body["order_ids"]]}


@pytest.mark.parametrize("count, batches", [(0, []), (1, [1]), (100, [100]), (250, [100, 100, 50])])
def test_cancels_go_by_hundreds(count, batches):
    """D9, trap 32"""
    client = a_client(Venue())
    client.rest.answers["cancel"] = taken
    client.cancel([*to_cancel(count), an_order(identity="never-answered")], NOW)
    assert [len(batch) for batch in client.rest.cancelled] == batches
    assert len({identity for batch in client.rest.cancelled for identity in batch}) == count


@pytest.mark.parametrize("answer, error", [
    (DOWN, VenueUnavailable), (OutcomeUnknown("broke off"), OutcomeUnknown),
    ({"results": None}, OutcomeUnknown)])
def test_a_batch_that_fails_does_not_hold_up_the_others(answer, error):
    """D9"""
    client = a_client(Venue())
    client.rest.answers["cancel"] = [answer, taken, taken]
    with pytest.raises(error):
        client.cancel(to_cancel(250), NOW)
    assert [len(batch) for batch in client.rest.cancelled] == [100, 100, 50]


def test_each_cancel_that_was_not_taken_is_said(caplog):
    """D9: no error, as only a listing tells what became of an order."""
    client = a_client(Venue())
    client.rest.answers["cancel"] = {"results": [
        {"order_id": "v1", "success": False, "failure_reason": "UNKNOWN_CANCEL_ORDER"},
        {"order_id": "v0", "success": True, "failure_reason": "UNKNOWN_CANCEL_FAILURE_REASON"},
        {"order_id": "v9", "success": True, "failure_reason": ""}]}
    with caplog.at_level(logging.WARNING):
        client.cancel(to_cancel(3), NOW)
    assert [record.getMessage() for record in caplog.records] == [
        "cancel of v1 not taken: UNKNOWN_CANCEL_ORDER", "cancel of v2 not taken: no answer for it"]

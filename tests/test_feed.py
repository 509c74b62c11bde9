"""What the feed tells, and what it tells when the venue's end of the wire misbehaves."""

import gc
import json
import logging
import queue
import re
import socket
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
import ws_server
from exchange.harness import Simulator
from ws_server import Authority, Server, frame, greeting

from perps_bot import feed as room
from perps_bot.errors import ConfigError
from perps_bot.feed import MarkFeed
from perps_bot.keys import load_credentials
from perps_bot.model import Mark, Product

PAYLOADS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "payloads"
PATIENCE = ws_server.PATIENCE
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"


def a_product(symbol=BTC, size="0.01"):
    step = Decimal(size)
    return Product(symbol, f"{symbol}-ID", step, step, Decimal(5), step, step * 1000, Decimal(0),
                   Decimal("0.2"), Decimal("0.25"))


def stamp(at=NOON):
    return at.isoformat().replace("+00:00", "Z")


def a_row(bid="100", ask="101", symbol=BTC, **more):
    return {"type": "ticker", "product_id": f"{symbol}-ID", "price": bid, "best_bid": bid,
            "best_bid_quantity": "3", "best_ask": ask, "best_ask_quantity": "4", **more}


def until(condition):
    """Poll for what must come; the deadline is there for the day that it does not."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        threading.Event().wait(0.005)
    return found


class Desk:
    """A feed between two servers, and what it woke for.

    market, user  the servers; `now` is the venue's time
    """

    def __init__(self, greet=greeting, private=True, **options):
        self.market, self.user = Server(greet), Server()
        self.now, self.woken, self.tokens = NOON, queue.SimpleQueue(), 0
        self.seen = []
        self.feed = MarkFeed(
            options.get("url", self.market.url), options.get("user_url", self.user.url),
            self.token if private else None, lambda: self.now, lambda: self.woken.put(1),
            options.get("ca_file"))

    def token(self):
        self.tokens += 1
        return f"token-{self.tokens}"

    def follow(self, *symbols):
        self.feed.follow([a_product(symbol) for symbol in symbols or (BTC,)])
        return self

    def subscribed(self, patience=PATIENCE):
        """The next client of the market server, once it has subscribed."""
        peer = self.market.peer(patience)
        peer.subscriptions = [peer.said(), peer.said()]
        return peer

    def quote(self, peer, *rows, kind="update", at=None, **more):
        peer.say("ticker", {"type": kind, "tickers": list(rows or (a_row(),))},
                 at=stamp(at or self.now), **more)

    def beat(self, peer, **more):
        peer.say("heartbeats", {"current_time": "x", "heartbeat_counter": "1"},
                 at=stamp(self.now), **more)

    def mark(self, symbol=BTC):
        return self.feed.marks([symbol]).get(symbol)

    def changes(self):
        self.seen += self.feed.changes()
        return self.seen

    def told(self, name, connection="market"):
        """Wait for an event; return its reason."""
        return until(lambda: [data["reason"] for found, data in self.changes()
                              if found == f"feed.{name}" and data["connection"] == connection])[-1]

    def figure(self, name, connection="market"):
        return self.feed.figures()[connection][name]

    def heard(self, peer):
        """Wait until everything that was sent to the feed has been taken."""
        peer.raw(frame(b"all", ws_server.PING))
        assert peer.pongs.get(timeout=PATIENCE) == b"all"

    def close(self):
        self.feed.stop()
        self.market.close()
        self.user.close()


@pytest.fixture(autouse=True)
def haste(monkeypatch):
    """Waits of the feed that a test would otherwise sit through."""
    monkeypatch.setattr(room, "BACKOFF_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(room, "CONNECTS_MAX", 100)
    monkeypatch.setattr(room, "SOCKET_SECONDS_MAX", 0.02)


@pytest.fixture
def desks():
    made = []

    def desk(**options):
        made.append(Desk(**options))
        return made[-1]

    yield desk
    for desk_ in made:
        desk_.close()


@pytest.fixture
def desk(desks):
    return desks().follow()


# What it tells


def test_a_quote_becomes_a_mark_in_base_units(desk):
    peer = desk.subscribed()
    desk.quote(peer, a_row("100", "103"), kind="snapshot")
    mark = until(desk.mark)
    assert mark == Mark(BTC, Decimal("101.5"), Decimal(100), Decimal(103), NOON,
                        Decimal("0.03"), Decimal("0.04"))


def test_the_first_words_are_heartbeats_and_the_followed_products(desks):
    desk = desks().follow(BTC, ETH)
    peer, user = desk.market.peer(), desk.user.peer()
    assert [peer.said() for _ in range(2)] == [
        {"type": "subscribe", "channel": "heartbeats"},
        {"type": "subscribe", "channel": "ticker", "product_ids": [f"{BTC}-ID", f"{ETH}-ID"]}]
    said = [user.said() for _ in range(3)]
    assert [(m["type"], m["channel"]) for m in said] == [
        ("subscribe", "heartbeats"), ("subscribe", "user"),
        ("subscribe", "futures_balance_summary")]
    assert not any("product_ids" in message for message in said)  # absent: all products


def test_every_private_message_has_a_fresh_token_and_public_ones_have_none(desk):
    """F4."""
    peer, user = desk.subscribed(), desk.user.peer()
    assert not any("jwt" in message for message in peer.subscriptions)
    tokens = [user.said()["jwt"] for _ in range(3)]
    user.close()
    tokens += [desk.user.peer().said()["jwt"]]
    assert tokens == ["token-1", "token-2", "token-3", "token-4"]


def test_without_a_token_there_is_no_user_connection(desks):
    desk = desks(private=False, user_url="").follow()
    desk.subscribed()
    assert desk.user.accepted == 0 and set(desk.feed.figures()) == {"market"}


def test_nothing_is_connected_before_the_first_follow(desks):
    desk = desks()
    assert desk.feed.marks([BTC]) == {} and desk.feed.changes() == []
    assert desk.market.accepted == 0


def test_without_products_no_ticker_is_asked_for(desks):
    desk = desks(private=False)
    desk.feed.follow([])  # a ticker without product ids would be that of every product
    peer = desk.market.peer()
    assert peer.said()["channel"] == "heartbeats"
    desk.beat(peer)
    desk.heard(peer)
    assert peer.heard.empty()


def test_other_products_are_subscribed_in_place_of_the_old_ones(desk):
    peer = desk.subscribed()
    desk.follow(ETH)
    desk.beat(peer)
    assert [peer.said() for _ in range(2)] == [
        {"type": "unsubscribe", "channel": "ticker", "product_ids": [f"{BTC}-ID"]},
        {"type": "subscribe", "channel": "ticker", "product_ids": [f"{ETH}-ID"]}]
    desk.quote(peer, a_row(symbol=BTC), a_row(symbol=ETH))
    until(lambda: desk.mark(ETH))
    assert desk.mark(BTC) is None and desk.market.accepted == 1


def test_following_the_same_products_again_says_nothing_in_whatever_order(desks):
    desk = desks().follow(BTC, ETH)
    peer = desk.subscribed()
    desk.follow(ETH, BTC).follow(BTC, ETH).follow(ETH, BTC)
    desk.quote(peer)
    desk.heard(peer)
    assert peer.heard.empty()


@pytest.mark.parametrize("channel, event", [
    ("user", {"type": "snapshot", "orders": []}),
    ("user", {"type": "update", "orders": [{"order_id": "x", "status": "FILLED"}]}),
])
def test_news_of_orders_wake_and_do_no_more(desk, channel, event):
    user = desk.user.peer()
    user.say(channel, event, at=stamp())
    assert desk.woken.get(timeout=PATIENCE)
    assert desk.feed.marks([BTC]) == {}


def test_heartbeats_marks_and_the_balance_do_not_wake(desk):
    peer, user = desk.subscribed(), desk.user.peer()
    desk.beat(user)
    user.say("futures_balance_summary", {"type": "update", "fcm_balance_summary": {}}, at=stamp())
    desk.quote(peer)
    until(desk.mark)
    desk.heard(user)
    assert desk.woken.empty()


# Levels


def at_prices(desk, peer, *prices):
    for price in prices:
        desk.quote(peer, a_row(str(Decimal(price) - 1), str(Decimal(price) + 1)))
    desk.heard(peer)
    return desk.woken.qsize()


@pytest.mark.parametrize("levels, prices, woken", [
    (("99", "101"),  "100 100.5 99.5",     0),
    (("99", "101"),  "100 99",             1),
    (("99", "101"),  "100 98",             1),
    (("99", "101"),  "100 101",            1),
    (("99", None),   "100 102 99",         1),
    ((None, "101"),  "100 98 101",         1),
    ((None, None),   "100 98 102",         0),
    (("99", "101"),  "100 99 98 97.5 98",  1),  # once
    (("99", "101"),  "100 99 100 99",      2),  # once each time it goes there
])
def test_a_mark_that_goes_to_a_level_wakes_once(desks, levels, prices, woken):
    desk = desks(private=False).follow()
    desk.feed.watch({BTC: tuple(level and Decimal(level) for level in levels)})
    assert at_prices(desk, desk.subscribed(), *prices.split()) == woken


def test_setting_the_same_levels_again_does_not_wake_again_and_others_do(desks):
    desk = desks(private=False).follow()
    peer = desk.subscribed()
    desk.feed.watch({BTC: (Decimal(99), None)})
    assert at_prices(desk, peer, 100, 98) == 1
    desk.feed.watch({BTC: (Decimal(99), None)})
    assert at_prices(desk, peer, 98) == 1
    desk.feed.watch({BTC: (Decimal("98.5"), None)})
    assert at_prices(desk, peer, 98) == 2
    desk.feed.watch({})
    assert at_prices(desk, peer, 97) == 2


# Prices that are none (F6)


@pytest.mark.parametrize("row", [
    a_row("0", "101"), a_row("-1", "101"), a_row("NaN", "101"), a_row("Infinity", "101"),
    a_row("1e400", "101"), a_row("1e2", "101"), a_row("100", "1" * 16), a_row("102", "101"),
    a_row(None, "101"), a_row("100", None), a_row(["100"], "101"), a_row(True, "101"),
    a_row("100 ", "101"), a_row("１００", "101"), a_row("100", "101", best_bid_quantity="-3"),
    a_row("100", "101", best_bid_quantity="NaN"), a_row("100", "101", best_ask_quantity="0"),
    a_row("", ""), a_row("100", ""), {"type": "ticker", "product_id": f"{BTC}-ID"},
], ids=lambda row: json.dumps([row.get(f"best_{k}") for k in ("bid", "ask", "bid_quantity")]))
def test_what_is_no_price_is_dropped_and_counted(desks, row):
    """F6."""
    desk = desks(private=False).follow()
    peer = desk.subscribed()
    desk.quote(peer, row)
    desk.heard(peer)
    assert desk.mark() is None and desk.figure("unusable") == 1
    desk.quote(peer, a_row("200", "201"))
    assert until(desk.mark).bid == 200  # nothing of it stuck
    assert desk.changes() == [] and desk.market.accepted == 1


@pytest.mark.parametrize("row", [a_row("0", "101"), a_row("102", "101"), a_row("x", "101")])
def test_a_price_that_is_none_leaves_the_last_mark_alone(desk, row):
    """F6."""
    peer = desk.subscribed()
    desk.quote(peer)
    desk.quote(peer, row)
    desk.heard(peer)
    assert desk.mark().bid == 100


def test_a_closed_market_takes_the_mark_away_and_alarms_nobody(desk):
    """F6: empty quotes arrive while heartbeats go on."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    desk.quote(peer, a_row("", ""))
    desk.heard(peer)
    assert desk.mark() is None
    desk.beat(peer)
    desk.heard(peer)
    assert desk.changes() == [] and desk.figure("stale") is False


def test_a_jump_is_not_taken_until_a_second_message_agrees(desk, monkeypatch):
    """F6: more than 5 % within a second; meanwhile the old price does not count either."""
    monkeypatch.setattr(room, "JUMP_SECONDS", PATIENCE)
    peer = desk.subscribed()
    at_prices(desk, peer, 100, 1000)
    assert desk.mark() is None
    at_prices(desk, peer, 500)
    assert desk.mark() is None  # it disagrees with 1000 as well
    at_prices(desk, peer, 501)
    assert desk.mark().price == 501 and desk.figure("unusable") == 2


def test_a_jump_is_not_confirmed_by_its_own_message(desk, monkeypatch):
    """F6."""
    monkeypatch.setattr(room, "JUMP_SECONDS", PATIENCE)
    peer = desk.subscribed()
    desk.quote(peer, a_row("100", "101"))
    desk.quote(peer, a_row("1000", "1001"), a_row("1000", "1001"))
    desk.heard(peer)
    assert desk.mark() is None


def test_a_doubt_ends_with_an_ordinary_price(desk, monkeypatch):
    """F6: and a later jump to the same price is doubted anew."""
    monkeypatch.setattr(room, "JUMP_SECONDS", PATIENCE)
    peer = desk.subscribed()
    at_prices(desk, peer, 100, 1000, 101)
    assert desk.mark().price == 101
    at_prices(desk, peer, 1000)
    assert desk.mark() is None


def test_a_doubtful_price_wakes_nobody(desk, monkeypatch):
    """F6: a single wrong print must not fire a stop."""
    monkeypatch.setattr(room, "JUMP_SECONDS", PATIENCE)
    desk.feed.watch({BTC: (Decimal(50), Decimal(200))})
    assert at_prices(desk, desk.subscribed(), 100, 10, 1000, 100) == 0


@pytest.mark.parametrize("price", [105, 96])
def test_five_percent_are_no_jump(desk, monkeypatch, price):
    """F6."""
    monkeypatch.setattr(room, "JUMP_SECONDS", PATIENCE)
    at_prices(desk, desk.subscribed(), 100, price)
    assert desk.mark().price == price


def test_a_jump_after_a_while_is_a_price(desk, monkeypatch):
    """F6."""
    monkeypatch.setattr(room, "JUMP_SECONDS", 0)
    at_prices(desk, desk.subscribed(), 100, 1000)
    assert desk.mark().price == 1000


# Age (F2, F7)


def test_a_mark_that_was_received_long_ago_is_absent_while_heartbeats_go_on(desk, monkeypatch):
    """F2, F7."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    monkeypatch.setattr(room, "QUOTE_SECONDS_MAX", 0.2)
    until(lambda: desk.mark() is None)
    desk.beat(peer)
    desk.heard(peer)
    assert desk.mark() is None and desk.changes() == [] and desk.figure("stale") is False


@pytest.mark.parametrize("seconds, is_there", [(-6, False), (-5, True), (0, True), (5, True),
                                               (6, False)])
def test_a_mark_counts_near_its_venue_time_only(desk, seconds, is_there):
    """F2, F7: a replayed ticker with an old stamp, or one from the future."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    desk.now = NOON + timedelta(seconds=seconds)
    assert bool(desk.mark()) is is_there


def test_each_symbol_has_its_own_age(desks):
    """F2."""
    desk = desks(private=False).follow(BTC, ETH)
    peer = desk.subscribed()
    desk.quote(peer, a_row(symbol=BTC), at=NOON - timedelta(seconds=6))
    desk.quote(peer, a_row(symbol=ETH))
    until(lambda: desk.mark(ETH))
    assert set(desk.feed.marks([BTC, ETH, "SOL-PERP"])) == {ETH}


@pytest.mark.parametrize("at", ["", "yesterday", "2026-11-23T12:00:00", "2026-13-23T12:00:00Z",
                                None, 5])
def test_a_quote_without_a_time_is_no_mark(desk, at):
    peer = desk.subscribed()
    peer.say("ticker", {"type": "update", "tickers": [a_row()]}, at=at)
    desk.heard(peer)
    assert desk.mark() is None and desk.figure("unusable") == 1


# Silence (F1) and reconnecting (F4)


def test_a_silent_connection_is_closed_and_opened_anew(desk, monkeypatch):
    """F1."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.3)
    desk.beat(peer)
    assert desk.told("stale") == "no message for 0.3 s"
    assert desk.mark() is None and peer.gone.wait(PATIENCE)
    peer = desk.subscribed()
    desk.quote(peer, a_row("102", "103"))
    assert until(desk.mark).bid == 102
    assert desk.told("recovered")


@pytest.mark.parametrize("noise", [
    [frame(b"x", ws_server.PING)] * 2000, [frame(b"x", ws_server.PONG)] * 2000,
    [bytes([byte]) for byte in frame(b"x" * 2000)], [frame(b"x")[:1]],
    [frame(b"", fin=False), *[frame(b"", ws_server.CONT, fin=False)] * 2000],
], ids=["pings", "pongs", "a dripping frame", "half a header", "empty fragments"])
def test_noise_is_no_message(desks, monkeypatch, noise):
    """F1: half-open, dripping, or answering pings only; the old numbers again are in F3."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.5)
    desk = desks(private=False).follow()
    peer = desk.subscribed()
    for piece in noise:
        peer.raw(piece)
        if peer.gone.wait(0.02):
            break
    assert desk.told("stale") == "no message for 0.5 s"


def test_a_greeting_that_drips_or_never_comes_is_given_up(desks, monkeypatch):
    """F1: nothing waits for longer than the silence that is allowed."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.3)
    desk = desks(private=False, greet=lambda key: b"HTTP/1.1 101 Sw").follow()
    assert desk.told("stale") == "no message for 0.3 s"
    until(lambda: desk.market.accepted >= 2)


@pytest.mark.parametrize("answer", [
    lambda key: b"",
    lambda key: b"\r\n\r\n",
    lambda key: b"\x00\xff\xfe garbage\r\n\r\n",
    lambda key: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    lambda key: b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
    lambda key: b"HTTP/1.1 403 Forbidden\r\n\r\n",
    lambda key: b"HTTP/1.1 503 No\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 50_000,
    lambda key: b"HTTP/1.1 101 S\r\n" + b"X: " + b"a" * 50_000,
    lambda key: b"HTTP/1.1 101 S\r\n" + b"X: a\r\n" * 50_000,
    lambda key: greeting("another key"),
    lambda key: greeting(key).replace(b"Upgrade: websocket\r\n", b""),
    lambda key: greeting(key, "Set-Cookie: a/b=c\r\n"),
    lambda key: b"HTTP/1.1 101 " + b"9" * 9_000 + b"\r\n\r\n",
    lambda key: b"HTTP/1.1 " + b"9" * 9_000 + b" x\r\n\r\n",
], ids=["nothing", "blank", "garbage", "200", "a wrong length", "403", "a huge body",
        "a long header", "many headers", "wrong key", "no upgrade", "a hostile cookie",
        "a long word", "a long status"])
def test_a_wrong_greeting_is_a_loss_like_any_other(desks, monkeypatch, answer):
    """C5, F4: the next attempt follows, and the next good greeting is taken."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 2)
    answers = iter([answer])
    desk = desks(private=False, greet=lambda key: next(answers, greeting)(key)).follow()
    if answer(b"".decode()) == b"":
        desk.market.peer().close()
    deadline = time.monotonic() + PATIENCE
    while desk.market.accepted < 2:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert desk.told("stale")
    desk.follow()
    peer = next(p for p in iter(desk.market.peer, None) if not p.gone.wait(0.2))
    desk.quote(peer)
    until(desk.mark)
    assert desk.told("recovered")


def test_an_endless_greeting_is_cut_off(desks):
    """F5."""
    desk = desks(private=False, greet=lambda key: b"HTTP/1.1 101 S\r\n" + b"X: a\r\n" * 50_000)
    assert desk.follow().told("stale") == "a message without end"


def test_a_redirect_is_not_followed(desks):
    """C6."""
    elsewhere = Server()
    desk = desks(private=False, greet=lambda key: (
        f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}/\r\n\r\n".encode())).follow()
    assert desk.told("stale") == "WebSocketException"
    until(lambda: desk.market.accepted >= 3)
    assert elsewhere.accepted == 0
    elsewhere.close()


def test_a_venue_that_refuses_the_connection_is_asked_again(desks):
    """C2, F4."""
    desk = desks(private=False)
    desk.market.close()
    desk.follow()
    assert desk.told("stale") == "ConnectionRefusedError"
    until(lambda: desk.figure("connects") >= 3)
    assert desk.mark() is None


@pytest.mark.parametrize("end, reason", [("close", "closed without a word"),
                                         ("reset", "ConnectionResetError"),
                                         ("goodbye", "closed by the venue")])
def test_a_connection_that_the_venue_ends_is_opened_anew(desk, end, reason):
    """C2."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    {"close": peer.close, "reset": peer.reset,
     "goodbye": lambda: peer.raw(frame(b"\x03\xe8", ws_server.CLOSE))}[end]()
    assert desk.told("stale") == reason
    peer = desk.subscribed()
    assert desk.mark() is None  # what the old connection said is not trusted on the new one
    desk.quote(peer)
    assert until(desk.mark)


class Pauses:
    """The back-off without its waiting: attempts that fail, and a clock to move."""

    def __init__(self, monkeypatch):
        self.now, self.lasts = 1000.0, 0
        self.connection = MarkFeed("ws://127.0.0.1:1", "", None, None, None)._connections[0]
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(room.socket, "create_connection", self._fail)

    def attempt(self, seconds=0):
        """One connection that is lost after so long; return the pause that follows."""
        self.lasts = seconds
        self.connection._visit()
        return self.connection._pause()

    def _fail(self, *_):
        self.now += self.lasts
        raise ConnectionRefusedError


def test_the_pause_grows_from_a_quarter_of_a_second_to_thirty_with_jitter(monkeypatch):
    """F4."""
    monkeypatch.setattr(room, "BACKOFF_SECONDS", (0.25, 30))
    pauses = Pauses(monkeypatch)
    assert pauses.connection._pause() == 0
    for top in (0.5, 1, 2, 4, 8, 16, 30, 30, 30):
        first = pauses.attempt()
        found = {first, *(pauses.connection._pause() for _ in range(50))}
        assert len(found) > 10 and top / 2 <= min(found) and max(found) <= top
    pauses.attempt(seconds=31)  # it held, so the next one is not to blame
    assert 0.25 <= pauses.connection._pause() <= 0.5


def test_no_more_than_six_connections_a_minute(monkeypatch):
    """F4: whatever the back-off says."""
    monkeypatch.undo()
    monkeypatch.setattr(room, "BACKOFF_SECONDS", (0.25, 0.25))
    pauses, began = Pauses(monkeypatch), []
    for _ in range(40):
        began.append(pauses.now)
        pauses.now += max(pauses.attempt(), 0)
    assert began[5] - began[0] < 2
    assert all(later - first > 59.99 for first, later in zip(began, began[6:], strict=False))


def test_the_bounds_are_what_was_decided(monkeypatch):
    monkeypatch.undo()
    assert room.QUOTE_SECONDS_MAX == 5
    assert room.SILENCE_SECONDS_MAX + room.SOCKET_SECONDS_MAX == 5  # noticed by then
    assert room.SOCKET_SECONDS_MAX <= 1 and room.CONNECT_SECONDS_MAX <= 1
    assert room.BACKOFF_SECONDS == (0.25, 30)
    assert (room.CONNECTS_MAX, room.CONNECTS_SECONDS) == (6, 60)
    assert (room.FRAME_BYTES_MAX, room.MESSAGE_BYTES_MAX) == (2**20, 2**21)
    assert (room.JUMP_PCT, room.JUMP_SECONDS) == (Decimal("0.05"), 1)


# Sequence (F3)


def test_a_gap_distrusts_at_once_and_is_mended_by_new_subscriptions(desk):
    """F3, I-31."""
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    desk.quote(peer, a_row("100", "101"), sequence=peer.sequence + 1)
    assert [peer.said() for _ in range(2)] == [
        {"type": "unsubscribe", "channel": "ticker", "product_ids": [f"{BTC}-ID"]},
        {"type": "subscribe", "channel": "ticker", "product_ids": [f"{BTC}-ID"]}]
    assert desk.told("stale") == "a message was lost" and desk.mark() is None
    desk.quote(peer)  # an update of the old subscription is not what was asked for
    desk.heard(peer)
    assert desk.mark() is None
    desk.quote(peer, kind="snapshot")
    assert until(desk.mark) and desk.told("recovered")
    assert desk.market.accepted == 1 and desk.figure("gaps") == 1


def test_a_gap_on_the_user_connection_wakes_and_leaves_the_marks_alone(desk):
    """F3."""
    peer, user = desk.subscribed(), desk.user.peer()
    [user.said() for _ in range(3)]
    desk.quote(peer)
    until(desk.mark)
    desk.beat(user)
    desk.beat(user, sequence=5)
    assert desk.woken.get(timeout=PATIENCE)
    said = [user.said() for _ in range(4)]
    assert [m["type"] for m in said] == ["unsubscribe"] * 2 + ["subscribe"] * 2
    assert len({m["jwt"] for m in said}) == 4 and {m["channel"] for m in said} == {
        "user", "futures_balance_summary"}
    assert desk.told("stale", "user") and desk.mark()
    user.say("user", {"type": "snapshot", "orders": []}, at=stamp())
    assert desk.told("recovered", "user")


def test_a_second_gap_at_once_connects_anew_instead_of_asking_forever(desk):
    """F3, F4."""
    peer = desk.subscribed()
    for sequence in (0, 10, 20):
        desk.beat(peer, sequence=sequence)
    desk.subscribed()
    assert peer.gone.wait(PATIENCE) and desk.figure("gaps") == 2
    assert [peer.said()["type"] for _ in range(2)] == ["unsubscribe", "subscribe"]
    assert peer.heard.empty()  # not a word more on the old connection


def test_a_gap_without_a_snapshot_afterwards_connects_anew(desk, monkeypatch):
    """F3."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.5)
    peer = desk.subscribed()
    desk.beat(peer)
    desk.beat(peer, sequence=10)
    until(lambda: desk.beat(peer) or peer.gone.wait(0.05))
    assert desk.market.peer() and peer.sequence > 13


@pytest.mark.parametrize("sequence", [5, 4, 0])
def test_an_equal_or_lower_number_is_dropped(desk, sequence):
    """F3: doubled, late or reordered messages."""
    peer = desk.subscribed()
    desk.quote(peer, sequence=5)
    desk.quote(peer, a_row("102", "103"), sequence=sequence)
    desk.heard(peer)
    assert desk.mark().bid == 100 and desk.figure("repeats") == 1
    desk.quote(peer, a_row("104", "105"), sequence=6)
    assert until(lambda: desk.mark().bid == 104) and desk.changes() == []


def test_messages_in_the_wrong_order_are_a_gap_and_a_late_one(desk):
    """F3."""
    peer = desk.subscribed()
    for sequence, bid in ((0, "100"), (2, "102"), (1, "101")):
        desk.quote(peer, a_row(bid, "103"), sequence=sequence)
    desk.heard(peer)
    assert desk.mark() is None and (desk.figure("gaps"), desk.figure("repeats")) == (1, 1)
    [peer.said() for _ in range(2)]
    assert peer.heard.empty()  # asked once, however many late ones follow


def test_old_numbers_for_ever_are_silence(desk, monkeypatch):
    """F1, F3."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.3)
    peer = desk.subscribed()
    desk.beat(peer, sequence=7)
    until(lambda: desk.beat(peer, sequence=7) or peer.gone.wait(0.02))
    assert desk.told("stale")


def test_numbers_start_anew_with_each_connection(desk):
    """F3."""
    peer = desk.subscribed()
    desk.quote(peer, sequence=500)
    until(desk.mark)
    peer.close()
    peer = desk.subscribed()
    desk.quote(peer, sequence=0)
    until(desk.mark)
    assert desk.figure("gaps") == desk.figure("repeats") == 0


# Errors and garbage


@pytest.mark.parametrize("text, reason", [
    ("authentication failure", "authentication failure"),
    ("secret-canary", "an error message"), (None, "an error message"),
])
def test_an_error_message_is_logged_counted_and_ends_the_connection(desk, caplog, text, reason):
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    peer.raw(frame(json.dumps({"type": "error", "message": text}).encode()))
    assert desk.told("stale") == reason and desk.mark() is None
    assert desk.figure("errors") == 1 and "feed.error connection=market" in caplog.text
    assert "canary" not in caplog.text
    desk.subscribed()


@pytest.mark.parametrize("payload", [
    b"", b"\xff\xfe", b"not json", b"[]", b"5", b'"x"', b"null", b"{", b"{}",
    b'{"channel":"heartbeats"}', b'{"channel":"heartbeats","sequence_num":"x"}',
    b'{"channel":"heartbeats","sequence_num":NaN}', b'{"channel":5,"sequence_num":1}',
    b'{"channel":"ticker","sequence_num":1}', b'{"channel":"ticker","sequence_num":1,"events":5}',
    b'{"channel":"ticker","sequence_num":1,"events":[5]}',
    b'{"channel":"ticker","sequence_num":1,"events":[{"type":"update"}]}',
    b'{"channel":"ticker","sequence_num":1,"events":[{"tickers":[5]}]}',
    b'{"a":1,"a":2}', b"[" * 100_000, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
])
def test_garbage_ends_the_connection_and_never_the_thread(desk, caplog, payload):
    caplog.set_level(logging.DEBUG)
    peer = desk.subscribed()
    peer.raw(frame(payload))
    assert desk.told("stale") == "Malformed"
    desk.quote(desk.subscribed())
    until(desk.mark)
    assert desk.told("recovered")


@pytest.mark.parametrize("event", [
    {"type": ["snapshot"], "tickers": [a_row()]}, {"type": None, "tickers": []},
    {"tickers": [{}]}, {"tickers": [a_row(product_id=None)]}, {"tickers": [a_row(product_id={})]},
    {"tickers": [a_row(symbol="SOL-PERP")]},
])
def test_rows_that_mean_nothing_to_us_do_nothing(desk, event):
    peer = desk.subscribed()
    peer.say("ticker", event, at=stamp())
    peer.say("a_new_channel", event, at=stamp())
    desk.heard(peer)
    assert desk.changes() == [] and desk.market.accepted == 1


@pytest.mark.parametrize("raw", [
    frame(b"x", opcode=3), frame(b"x", rsv=4), frame(b"x", ws_server.CONT),
    frame(b"a", fin=False) + frame(b"b"), frame(b"x", ws_server.PING, fin=False),
    frame(b"x" * 126, ws_server.PING), frame(b"x", ws_server.CLOSE),
    frame(b"\x00\x01", ws_server.CLOSE), bytes(64), b"\xff" * 64,
], ids=range(10))
def test_frames_against_the_protocol_end_the_connection(desk, raw):
    peer = desk.subscribed()
    peer.raw(raw)
    assert desk.told("stale") and desk.subscribed()


def test_fragments_are_put_together_with_a_ping_between_them(desk):
    peer = desk.subscribed()
    body = json.dumps({"channel": "ticker", "timestamp": stamp(), "sequence_num": 0, "events": [
        {"type": "snapshot", "tickers": [a_row()]}]}).encode()
    peer.raw(frame(body[:50], fin=False) + frame(b"are you there", ws_server.PING)
             + frame(body[50:99], ws_server.CONT, fin=False) + frame(body[99:], ws_server.CONT))
    assert until(desk.mark)
    assert peer.pongs.get(timeout=PATIENCE) == b"are you there"


def test_no_message_and_no_token_reaches_a_log(desk, caplog):
    caplog.set_level(logging.DEBUG)
    peer = desk.subscribed()
    desk.quote(peer, a_row(note="canary-1"))
    peer.say("ticker", {"type": "canary-2", "tickers": [a_row()]}, at=stamp(), x="canary-3")
    until(desk.mark)
    peer.raw(frame(b'{"type":"error","message":"canary-4"}'))
    peer = desk.subscribed()
    peer.raw(frame(b'{"channel": "canary-5'))
    peer = desk.subscribed()
    assert "feed.message connection=market channel='ticker'" in caplog.text
    assert "canary" not in caplog.text and "token-" not in caplog.text


# Sizes (F5)


def rss():
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.mark.parametrize("head", [
    frame(length=2**20 + 1), frame(length=2**31), frame(length=2**63 - 1), frame(length=2**64 - 1),
    frame(length=2**40, opcode=ws_server.PING), frame(length=2**40, opcode=ws_server.CLOSE),
])
def test_a_huge_frame_is_refused_by_its_header(desk, head):
    """F5."""
    peer = desk.subscribed()
    peer.raw(head)  # not one byte of the payload is sent, so none can have been waited for
    assert desk.told("stale") == "a message too long"
    desk.subscribed()


def test_a_frame_of_exactly_the_bound_is_read(desk):
    """F5."""
    peer = desk.subscribed()
    body = json.dumps({"channel": "heartbeats", "sequence_num": 0}).encode()
    peer.raw(frame(body + b" " * (2**20 - len(body))))
    until(lambda: desk.figure("stale") is False)


@pytest.mark.parametrize("size", [2**20, 2**16, 100])
def test_endless_fragments_end_the_connection_and_memory_stays_bounded(desk, size):
    """F5."""
    peer = desk.subscribed()
    gc.collect()
    before, sent = rss(), 0
    pieces = frame(b"x" * size, ws_server.CONT, fin=False) * (2**20 // size)
    assert peer.raw(frame(b"x", fin=False))
    while peer.raw(pieces):
        sent += len(pieces)
        assert sent < 2**28
    assert re.match("a message|no message|Conn|Broken", desk.told("stale"))
    assert rss() - before < 60 * 2**20
    desk.subscribed()


def test_the_sum_of_the_fragments_is_judged_before_the_payload(desk):
    """F5."""
    peer = desk.subscribed()
    for opcode in (ws_server.TEXT, 0, 0):
        peer.raw(frame(b"x" * 2**20, opcode, fin=False))
    peer.raw(frame(length=2**20, opcode=0))
    assert desk.told("stale") == "a message too long"


def test_message_after_message_of_full_size_is_no_leak(desk):
    """F5: the bound is one message's, not the connection's."""
    peer = desk.subscribed()
    for sequence in range(6):
        body = json.dumps({"channel": "heartbeats", "sequence_num": sequence}).encode()
        peer.raw(frame(body + b" " * (2**20 - len(body))))
    until(lambda: desk.feed._connections[0]._sequence == 5)
    assert desk.changes() == []


# Who answers (C11, C12)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


def secure_desk(desks, context, authority):
    server = Server(context=context)
    desk = desks(private=False, url=server.url, ca_file=str(authority.path))
    desk.market.close()
    desk.market = server
    return desk.follow()


def test_a_verified_venue_is_heard(desks, authority):
    """C12."""
    desk = secure_desk(desks, authority.context(), authority)
    desk.quote(desk.subscribed())
    assert until(desk.mark)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("wrong, reason", [
    ({"self_signed": True},                  "SSLCertVerificationError"),
    ({"host": "other.invalid"},              "SSLCertVerificationError"),
    ({"host": "127.0.0.2"},                  "SSLCertVerificationError"),
    ({"days": -1},                           "SSLCertVerificationError"),
    ({"version": ssl.TLSVersion.TLSv1_1},    "SSLError"),
])
def test_nobody_else_is(desks, authority, wrong, reason):
    """C12: not one byte is said to them."""
    desk = secure_desk(desks, authority.context(**wrong), authority)
    assert desk.told("stale") in (reason, "ConnectionResetError")
    until(lambda: desk.market.accepted >= 2)
    with pytest.raises(queue.Empty):
        desk.market.peer(patience=0.05)


def test_the_usual_authorities_do_not_vouch_for_a_stranger(desks, authority):
    """C12."""
    server = Server(context=authority.context())
    desk = desks(private=False, url=server.url).follow()
    assert desk.told("stale") == "SSLCertVerificationError"
    server.close()


def test_the_environment_has_no_say(desks, authority, monkeypatch, tmp_path):
    """C11."""
    proxy, keys = Server(), tmp_path / "keys"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    for name in ("WEBSOCKET_CLIENT_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.path))
    desk = secure_desk(desks, authority.context(), authority)
    desk.quote(desk.subscribed())
    assert until(desk.mark) and proxy.accepted == 0 and not keys.exists()
    stranger = desks(private=False, url=desk.market.url).follow()  # trusts the usual ones only
    assert stranger.told("stale") == "SSLCertVerificationError"
    proxy.close()


@pytest.mark.parametrize("url", [
    "ws://venue.invalid", "ws://127.evil.invalid", "ws://localhost.invalid", "ws://10.0.0.1",
    "http://127.0.0.1", "https://venue.invalid", "wss://", "", "venue.invalid", "ws:127.0.0.1",
])
def test_only_a_loopback_address_is_reached_without_tls(url):
    """C12: refused before any socket."""
    with pytest.raises(ConfigError, match="wss"):
        MarkFeed(url, url, None, None, None)
    with pytest.raises(ConfigError, match="wss"):
        MarkFeed("wss://venue.invalid", url, str, None, None)


@pytest.mark.parametrize("url", ["ws://localhost:1", "ws://127.0.0.1", "ws://127.1.2.3:5",
                                 "ws://[::1]:5", "wss://venue.invalid"])
def test_these_addresses_may_be_tried(url):
    assert MarkFeed(url, url, str, None, None).marks is not None


def test_certificates_that_cannot_be_read_are_a_setting_to_change(tmp_path):
    (tmp_path / "empty").write_text("")
    for name in ("absent", "empty"):
        with pytest.raises(ConfigError, match=name):
            MarkFeed("wss://venue.invalid", "", None, None, None, str(tmp_path / name))


# The end, and bugs


def test_stop_closes_both_connections_and_ends_the_threads(desk):
    peer, user = desk.subscribed(), desk.user.peer()
    desk.quote(peer)
    until(desk.mark)
    began = time.monotonic()
    desk.feed.stop()
    assert time.monotonic() - began < 2.5
    assert peer.gone.wait(PATIENCE) and user.gone.wait(PATIENCE)
    assert not any(c.thread.is_alive() for c in desk.feed._connections)
    assert desk.mark() is None and desk.changes() == []


def test_stop_is_quick_between_attempts_and_before_the_first_and_twice(desks, monkeypatch):
    monkeypatch.setattr(room, "BACKOFF_SECONDS", (1000, 1000))
    desk = desks(private=False)
    desk.feed.stop()
    desk = desks(private=False)
    desk.market.close()
    desk.follow()
    assert desk.told("stale")
    began = time.monotonic()
    desk.feed.stop()
    desk.feed.stop()
    assert time.monotonic() - began < 1.5
    desk.follow()
    until(lambda: not desk.feed._connections[0].thread.is_alive())


def test_stop_leaves_a_thread_that_hangs_behind(desks, monkeypatch):
    """C1: a resolver that does not answer."""
    hanging, asked = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo",
                        lambda *_: asked.set() or hanging.wait(PATIENCE) and [])
    desk = desks(private=False, url="wss://venue.invalid").follow()
    assert asked.wait(PATIENCE)
    began = time.monotonic()
    desk.feed.stop()
    assert 1 < time.monotonic() - began < 10
    hanging.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_leaves_no_mark_and_is_told(desks):
    desk = desks()
    desk.feed._wake = lambda: 1 / 0
    desk.follow()
    peer = desk.subscribed()
    desk.quote(peer)
    until(desk.mark)
    desk.feed.watch({BTC: (Decimal(1000), None)})
    desk.quote(peer)
    assert desk.told("stale") == "its thread ended"
    assert desk.mark() is None and desk.figure("stale") is True
    until(lambda: not desk.feed._connections[0].thread.is_alive())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_is_told_even_of_a_connection_that_was_stale_already(desk):
    user = desk.user.peer()
    [user.said() for _ in range(3)]
    desk.feed._connections[1]._token = lambda: 1 / 0
    user.close()
    until(lambda: desk.told("stale", "user") == "its thread ended")


def test_a_thread_that_hangs_is_told_by_the_age_of_its_last_message(desks, monkeypatch):
    desk, hanging = desks(private=False), threading.Event()
    desk.feed._wake = lambda: hanging.wait(PATIENCE)
    desk.feed.watch({BTC: (Decimal(1000), None)})
    desk.follow()
    desk.quote(desk.subscribed())
    until(desk.mark)
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 0.1)
    monkeypatch.setattr(room, "QUOTE_SECONDS_MAX", 0.1)
    assert desk.told("stale") == "its thread hangs"
    assert desk.mark() is None and desk.figure("age_seconds") == 0
    hanging.set()


def test_changes_are_bounded_and_told_once(desks, monkeypatch):
    monkeypatch.setattr(room, "BACKOFF_SECONDS", (0, 0))
    desk = desks(private=False)
    connection = desk.feed._connections[0]
    for _ in range(300):
        connection._turn("x")
        connection._turn("")
    changes = desk.feed.changes()
    assert len(changes) == room.CHANGES_MAX and desk.feed.changes() == []
    assert changes[-1] == ("feed.recovered", {"connection": "market", "reason": "messages arrive"})


def test_a_good_beginning_is_no_news_and_a_bad_one_is(desks):
    desk = desks(private=False).follow()
    peer = desk.subscribed()
    assert desk.figure("stale") is True and desk.figure("age_seconds") is None
    desk.beat(peer)
    until(lambda: desk.figure("stale") is False)
    assert desk.changes() == []


def test_the_library_tells_nothing_by_itself():
    assert "enableTrace" not in Path(room.__file__).read_text()


# Against the exchange


BIP = "BIP-20DEC30-CDE"


class Lived:
    """A feed that listens to the exchange simulator."""

    def __init__(self, exchange):
        self.exchange, self.woken = exchange, queue.SimpleQueue()
        signer = load_credentials(SimpleNamespace(
            api_key=exchange.keys.name, api_secret=exchange.keys.secret, api_key_file=None), {})
        self.feed = MarkFeed(exchange.ws_url, exchange.ws_url,
                             lambda: signer.websocket_token(self.now()), self.now,
                             lambda: self.woken.put(1))
        product = a_product()
        self.feed.follow([replace(product, product_id=BIP)])
        until(lambda: not any(data["stale"] for data in self.feed.figures().values()))

    def now(self):
        return datetime.now(UTC)

    def goes_to(self, bid):
        """Wait until the feed tells of this price, said again and again as in a live market."""
        def told():
            self.exchange.price(BIP, bid, bid + 5)
            mark = self.feed.marks([BTC]).get(BTC)
            return mark and mark.bid == bid
        until(told)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    with Simulator(folder=tmp_path_factory.mktemp("exchange")) as simulator:
        yield simulator


@pytest.fixture
def lived(exchange):
    found = Lived(exchange)
    yield found
    exchange.network("ws_clear")
    found.feed.stop()


def test_the_feed_and_the_exchange_understand_each_other(lived):
    lived.goes_to(60_000)
    subscribed = {name for one in lived.exchange.sockets() for name in one["subscriptions"]}
    assert subscribed == {"heartbeats", "ticker", "user", "futures_balance_summary"}
    mark = lived.feed.marks([BTC])[BTC]
    assert (mark.price, mark.ask, mark.bid_size) == (Decimal("60002.5"), 60_005, Decimal("0.5"))
    assert lived.woken.get(timeout=PATIENCE)  # the snapshots of orders and balance
    assert lived.feed.changes() == []


@pytest.mark.parametrize("fault, is_lost", [
    ("ws_gap", True), ("ws_duplicate", False), ("ws_reorder", True), ("ws_error", True),
    ("ws_garbage", True), ("ws_drop", True), ("ws_huge_frame", True),
    ("ws_endless_fragments", True),
])
def test_what_goes_wrong_at_the_exchange_is_told_and_mended(lived, fault, is_lost):
    """F1, F3, F5."""
    lived.goes_to(60_000)
    lived.exchange.network(fault)
    seen = []

    def mended():
        lived.exchange.price(BIP, 60_100, 60_105)
        seen.extend(lived.feed.changes())
        counts = lived.feed.figures()["market"]
        return counts["repeats"] and not is_lost or ("feed.recovered", "market") in [
            (name, data["connection"]) for name, data in seen]

    until(mended)
    assert bool(seen) is is_lost
    lived.goes_to(60_200)


def test_an_exchange_that_falls_silent_is_told_and_heard_again(lived, monkeypatch):
    """F1."""
    monkeypatch.setattr(room, "SILENCE_SECONDS_MAX", 2)
    lived.goes_to(60_000)
    lived.exchange.network("ws_silence")
    until(lambda: lived.feed.figures()["market"]["stale"])
    assert lived.feed.marks([BTC]) == {}
    lived.exchange.network("ws_clear")
    lived.goes_to(60_100)


def test_a_ticker_that_freezes_at_the_exchange_is_absent(lived, monkeypatch):
    """F2."""
    lived.goes_to(60_000)
    lived.exchange.network("ws_freeze_ticker")
    monkeypatch.setattr(room, "QUOTE_SECONDS_MAX", 1)
    until(lambda: lived.feed.marks([BTC]) == {})
    assert lived.feed.changes() == [] and lived.feed.figures()["market"]["stale"] is False


def test_empty_quotes_at_the_exchange_are_no_mark_and_no_alarm(lived):
    """F6."""
    lived.goes_to(60_000)
    lived.exchange.network("ws_empty_quotes")
    lived.exchange.price(BIP, 60_100, 60_105)
    until(lambda: lived.feed.marks([BTC]) == {})
    assert lived.feed.changes() == []


# Real bodies


def payload(name):
    path = PAYLOADS / name
    if not path.exists():
        pytest.skip("the reference payloads are not here")
    return json.loads(path.read_text())


def test_a_real_ticker_is_a_mark(desks):
    body = payload("ws_ticker__btc_usd.json")
    desk = desks(private=False)
    desk.now = datetime(2026, 4, 7, 14, 30, 3, tzinfo=UTC)
    desk.feed.follow([replace(a_product("BTC-USD", "1"), product_id="BTC-USD")])
    desk.market.peer().raw(frame(json.dumps(body).encode()))
    mark = until(lambda: desk.mark("BTC-USD"))
    assert (mark.bid, mark.ask, mark.bid_size) == (68900, 68901, Decimal("1.5"))


@pytest.mark.parametrize("name, woken", [
    ("ws_heartbeats__counter_number.json", 0), ("ws_heartbeats__counter_string.json", 0),
    ("ws_user__doc_full_with_positions.json", 1), ("ws_user__snapshot_open.json", 1),
    ("ws_futures_balance_summary__snapshot.json", 0), ("ws_subscriptions__level2_trades.json", 0),
    ("ws_status__one_product.json", 0), ("ws_ticker_batch__no_bid_ask.json", 0),
    ("ws_candles__update.json", 0), ("ws_market_trades__update.json", 0),
    ("ws_level2__update_with_delete.json", 0),
])
def test_a_real_message_on_the_user_connection_wakes_or_does_nothing(desk, name, woken):
    user = desk.user.peer()
    user.raw(frame(json.dumps(payload(name)).encode()))
    until(lambda: desk.figure("age_seconds", "user") is not None)
    desk.heard(user)
    assert desk.woken.qsize() == woken and desk.changes() == []


def test_a_real_refusal_is_told(desk):
    body = payload("ws_error__authentication_failure.json")
    desk.user.peer().raw(frame(json.dumps(body).encode()))
    assert desk.told("stale", "user") == "authentication failure"

"""The wire side of the exchange simulator, against an exchange that only repeats what it is told.

What is shown here is transport: tokens, the log, the sockets, and that every fault of the wire
really looks as its name says, so that a test of the bot which survives it has survived something.
"""

import gzip
import http.client
import json
import re
import secrets
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import websocket
from exchange.certificates import a_certificate
from exchange.harness import API, Keys, Simulator, SteeringFailed, wait_until
from exchange.server import Server

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BTC, ETH = "BIP-20DEC30-CDE", "ETP-20DEC30-CDE"
DEADLINE_SECONDS = 60
QUIET_SECONDS = 0.2  # how long nothing must come before it counts as silence
KEYS = {kind: Keys(kind) for kind in ("es256", "ed25519")}


class Echo:
    """An exchange that answers with what it was asked, and remembers it."""

    def __init__(self):
        self.now, self.asked, self.events = NOON, [], []

    def advance(self, to):
        self.now = to
        self.events.append(a_ticker(BTC, str(int(to.timestamp()))))

    def request(self, method, path, query, body, authenticated):
        self.asked.append((method, path, query, body, authenticated))
        if path.endswith("/text"):
            return 404, "order with this orderID was not found"
        return 200, {"path": path, "query": query, "body": body, "authenticated": authenticated}

    def take_events(self):
        taken, self.events = self.events, []
        return taken

    def snapshot(self, channel, product_ids):
        sizes = {"user": (50, 50, 3)}.get(channel, ())
        return [{"type": "snapshot", "orders": [an_order(BTC)] * size} for size in sizes]

    def deposit(self, usd):
        self.events.append({"channel": "futures_balance_summary", "events": [
            {"type": "update", "fcm_balance_summary": {"total_usd_balance": usd}}]})
        return usd

    def price(self, product_id, bid, ask):
        self.events.append(a_ticker(product_id, bid))

    def trade_by_owner(self, product_id, side, contracts):
        self.events.append({"channel": "user", "events": [
            {"type": "update", "orders": [an_order(product_id)]}]})


def a_ticker(product_id, price):
    row = {"type": "ticker", "product_id": product_id, "price": price, "best_bid": price,
           "best_bid_quantity": "1", "best_ask": price, "best_ask_quantity": "1"}
    return {"channel": "ticker", "events": [{"type": "update", "tickers": [row]}]}


def an_order(product_id):
    return {"order_id": "a", "product_id": product_id, "status": "OPEN"}


class Desk:
    """A server in this process, its exchange, and clients that end with the test."""

    def __init__(self, folder, clock="manual", keys=KEYS["es256"], tls=None, **scenario):
        self.exchange, self.keys, self.log_file = Echo(), keys, folder / "wire.jsonl"
        scenario = {"key_name": keys.name, "public_key_pem": keys.public_pem, **scenario}
        self.server = Server(self.exchange, scenario, self.log_file, clock, tls).start()
        self.host = f"127.0.0.1:{self.server.port}"
        self._open = []

    def close(self):
        for client in self._open:
            client.close()
        self.server.stop()

    def link(self):
        link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE_SECONDS)
        self._open.append(link)
        return link

    def ask(self, method, path, body=None, link=None, **claims):
        """Return (status, body) of a signed request."""
        link = link or self.link()
        headers = {"Authorization": f"Bearer {self.token(method, path, **claims)}"}
        link.request(method, f"{API}{path}", None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        return answer.status, answer.read()

    def token(self, method=None, path=None, keys=None, header=(), **claims):
        keys, now = keys or self.keys, int(self.exchange.now.timestamp())
        content = {"sub": keys.name, "iss": "cdp", "nbf": now, "exp": now + 120, **claims}
        if method:
            uri = f"{method} {self.host}{API}{path.partition('?')[0]}"
            content = {"uri": uri, **content}
        secret = keys.secret
        if not secret.startswith("-----"):
            secret = ed25519_pem(secret)
        header = {"kid": keys.name, "nonce": secrets.token_hex(16), **dict(header)}
        algorithm = "ES256" if keys.secret.startswith("-----") else "EdDSA"
        return jwt.encode(content, secret, algorithm, {k: v for k, v in header.items() if v})

    def call(self, call, /, **arguments):
        link = self.link()
        link.request("POST", f"/control/{self.server.control}",
                     json.dumps({"call": call, "args": arguments}))
        return json.loads(link.getresponse().read())

    def listen(self, *channels, product_ids=(), **claims):
        """Return an open WebSocket that has subscribed, its first messages unread."""
        client = websocket.create_connection(f"ws://{self.host}", timeout=DEADLINE_SECONDS)
        self._open.append(client)
        for channel in channels:
            self.subscribe(client, channel, product_ids=list(product_ids), jwt=self.token(**claims))
        return client

    def subscribe(self, client, channel, **more):
        client.send(json.dumps({"type": "subscribe", "channel": channel, **more}))

    def rows(self, kind):
        lines = self.log_file.read_text("utf-8").splitlines()
        return [row for row in map(json.loads, lines) if row["kind"] == kind]


def ed25519_pem(secret):
    import base64

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret)[:32])
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                 serialization.NoEncryption()).decode()


@pytest.fixture
def desks(tmp_path):
    opened = []

    def make(**options):
        opened.append(Desk(tmp_path, **options))
        return opened[-1]
    yield make
    for one in opened:
        one.close()


@pytest.fixture
def desk(desks):
    return desks()


def heard(client):
    return json.loads(client.recv())


def heard_until(client, channel):
    """Return the first message of `channel`; the deadline is the socket's own."""
    while True:
        message = heard(client)
        if message.get("channel") == channel:
            return message


# Requests and tokens


def test_a_signed_request_reaches_the_exchange_as_it_was_sent(desk):
    body = {"client_order_id": "a", "side": "BUY"}
    status, answer = desk.ask("POST", "/orders?a=1&a=2&b=", body)
    assert status == 200
    assert json.loads(answer) == {"path": f"{API}/orders", "body": body, "authenticated": True,
                                  "query": [["a", "1"], ["a", "2"], ["b", ""]]}


def test_one_connection_serves_many_requests(desk):
    link = desk.link()
    for _ in range(5):
        assert desk.ask("GET", "/orders/historical/batch?limit=1", link=link)[0] == 200
    assert {row["connection"] for row in desk.rows("request")} == {1}


def test_text_of_the_exchange_stays_text(desk):
    assert desk.ask("GET", "/text") == (404, b"order with this orderID was not found")


def test_an_ed25519_key_is_as_good(desks):
    assert desks(keys=KEYS["ed25519"]).ask("GET", "/accounts")[0] == 200


@pytest.mark.parametrize("path", ["/time", "/market/products"])
def test_public_paths_need_no_token_but_take_no_bad_one(desk, path):
    link = desk.link()
    link.request("GET", f"{API}{path}")
    answer = link.getresponse()
    assert json.loads(answer.read())["authenticated"] is False
    assert desk.ask("GET", path, keys=Keys()) == (401, b"Unauthorized")


@pytest.mark.parametrize("header", ["", "Basic YTpi", "Bearer", "Token {token}", "{token}"])
def test_private_paths_need_a_bearer_of_a_token(desk, header):
    link = desk.link()
    header = header.format(token=desk.token("GET", "/accounts"))
    link.request("GET", f"{API}/accounts", headers={"Authorization": header} if header else {})
    answer = link.getresponse()
    assert (answer.status, answer.read()) == (401, b"Unauthorized")
    assert desk.exchange.asked == []


def test_a_client_that_asks_for_the_end_of_the_connection_gets_it(desk):
    with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as client:
        client.sendall(f"GET {API}/time HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        got, ending = drained(client)
    assert got.startswith(b"HTTP/1.1 200") and ending == "end"


NOW = int(NOON.timestamp())


@pytest.mark.parametrize("wrong", [
    {"iss": "coinbase-cloud"},
    {"sub": "somebody"},
    {"header": {"kid": "somebody"}},
    {"header": {"nonce": None}},
    {"header": {"nonce": "short"}},
    {"nbf": NOW + 6, "exp": NOW + 60},
    {"nbf": NOW - 1, "exp": NOW + 120},
    {"nbf": NOW - 60, "exp": NOW},
    {"nbf": None},
    {"exp": str(NOW + 100)},
    {"uri": f"GET api.coinbase.com{API}/accounts"},
    {"uri": None},
    {"keys": Keys()},
    {"keys": Keys("ed25519")},
])
def test_a_token_with_one_thing_wrong_is_unauthorized(desk, wrong):
    assert desk.ask("GET", "/accounts", **wrong) == (401, b"Unauthorized")
    assert desk.exchange.asked == []
    assert desk.rows("request")[0]["refusal"]


def test_the_query_does_not_belong_into_the_uri(desk):
    uri = f"GET {desk.host}{API}/accounts?limit=1"
    assert desk.ask("GET", "/accounts?limit=1", uri=uri)[0] == 401


def test_a_nonce_serves_once(desk):
    assert desk.ask("GET", "/accounts", header={"nonce": "a" * 16})[0] == 200
    assert desk.ask("GET", "/accounts", header={"nonce": "a" * 16})[0] == 401


def test_five_seconds_early_and_one_before_the_end_are_in_time(desk):
    assert desk.ask("GET", "/accounts", nbf=NOW + 5, exp=NOW + 125)[0] == 200
    assert desk.ask("GET", "/accounts", nbf=NOW - 119, exp=NOW + 1)[0] == 200


@pytest.mark.parametrize("sent", ["[]", "{", "nonsense"])
def test_a_body_that_is_no_json_object_is_a_400(desk, sent):
    link = desk.link()
    link.request("POST", f"{API}/orders", sent,
                 {"Authorization": f"Bearer {desk.token('POST', '/orders')}"})
    answer = link.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]) == (400, "unknown")
    assert desk.exchange.asked == []


@pytest.mark.parametrize("sent", [
    b"nonsense\r\n\r\n",
    b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /x HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    b"GET /x HTTP/1.1\r\nX: " + b"x" * 70_000,
])
def test_what_is_no_request_is_answered_400_and_hung_up_on(desk, sent):
    with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as client:
        client.sendall(sent)
        assert client.recv(100).startswith(b"HTTP/1.1 400")


# The log


def test_the_log_holds_every_byte_and_every_request(desk):
    link = desk.link()
    status, answer = desk.ask("POST", "/orders?x=é".replace("é", "%C3%A9"), {"a": "\u00e9"}, link)
    sent = b"".join(row["data"].encode("latin-1") for row in desk.rows("in"))
    got = b"".join(row["data"].encode("latin-1") for row in desk.rows("out"))
    assert sent.startswith(b"POST /api/v3/brokerage/orders?x=%C3%A9 HTTP/1.1\r\n")
    assert sent.endswith(rb'{"a": "\u00e9"}')
    assert got.endswith(b"\r\n\r\n" + answer)
    row = desk.rows("request")[0]
    assert [row[name] for name in ("method", "path", "query", "body", "status")] == [
        "POST", f"{API}/orders", [["x", "é"]], {"a": "é"}, 200]
    assert row["at"] == NOON.isoformat()


def test_half_a_request_is_in_the_log_too(desk):
    with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as client:
        client.sendall(b"POST /half")
    rows = wait_until(lambda: desk.rows("in"))
    assert rows[0]["data"] == "POST /half"


def test_the_log_tells_what_a_socket_said_and_when_it_came_and_went(desk):
    client = desk.listen("ticker", product_ids=[BTC])
    heard(client)
    client.close()
    row = wait_until(lambda: desk.rows("close"))[0]
    said, = desk.rows("heard")
    assert json.loads(said["text"])["product_ids"] == [BTC]
    kinds = [one["kind"] for kind in ("open", "upgrade", "heard", "close")
             for one in desk.rows(kind) if one["connection"] == row["connection"]]
    assert kinds == ["open", "upgrade", "heard", "close"]


def test_control_calls_are_not_in_the_log(desk):
    assert desk.call("now") == {"result": NOON.isoformat()}
    assert desk.log_file.read_text("utf-8") == ""


@pytest.mark.parametrize("call, arguments", [
    ("dance", {}), ("price", {"nonsense": 1}), ("network", {"name": "nonsense"}),
    ("network", {"name": "ws_nonsense"}), ("request", {}),
])
def test_a_control_call_that_cannot_be_says_so(desk, call, arguments):
    assert "error" in desk.call(call, **arguments)


def test_control_needs_the_word(desk):
    link = desk.link()
    link.request("POST", "/control/guess", json.dumps({"call": "now"}))
    assert link.getresponse().status == 403


# Faults of the wire: each looks as its name says


def bytes_after_an_order(desk, ending, status):
    """Send an order and return all bytes until the server stops sending, and how it ended."""
    head = (f"POST {API}/orders HTTP/1.1\r\nHost: {desk.host}\r\nContent-Length: 2\r\n"
            f"Authorization: Bearer {desk.token('POST', '/orders')}\r\n\r\n{{}}")
    with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as client:
        client.sendall(head.encode())
        if ending == "silence" and status is None:
            client.settimeout(QUIET_SECONDS)
        return drained(client, quiet_after_data=ending == "silence")


def drained(client, receive=socket.socket.recv, quiet_after_data=False, bytes_max=3_000_000):
    got = b""
    while len(got) < bytes_max:
        try:
            data = receive(client, 1 << 20)
        except TimeoutError:
            return got, "silence"
        except ConnectionResetError:
            return got, "reset"
        if not data:
            return got, "end"
        got += data
        if quiet_after_data:
            client.settimeout(QUIET_SECONDS)
    return got, "more"


@pytest.mark.parametrize("fault, numbers, booked, status, ending", [
    ("hang",                 {},                    False, None, "silence"),
    ("timeout_after_accept", {},                    True,  None, "silence"),   # C9
    ("reset_before",         {},                    False, None, "reset"),     # C2
    ("reset_after_accept",   {},                    True,  None, "reset"),     # C2
    ("close_after_accept",   {},                    True,  None, "end"),
    ("status",               {"status": 401},       False, 401,  "silence"),   # C7
    ("status",               {"status": 429},       False, 429,  "silence"),   # C8
    ("status",               {"status": 502},       False, 502,  "silence"),   # C9
    ("status",               {"status": 502, "accept": True}, True, 502, "silence"),
    ("redirect",             {"status": 307, "to": "http://redirected.invalid/"},
                                                    False, 307,  "silence"),   # C6
    ("huge",                 {},                    True,  200,  "more"),      # C4
    ("endless",              {},                    True,  200,  "more"),      # C4
    ("html_200",             {},                    True,  200,  "silence"),   # C5
])
def test_a_fault_of_the_wire_looks_as_its_name_says(desk, fault, numbers, booked, status, ending):
    """C2, C4, C5, C6, C7, C8, C9: what the bot is to survive is really what it meets."""
    desk.call("network", name=fault, match="POST", **numbers)
    got, end = bytes_after_an_order(desk, ending, status)
    assert end == ending
    assert bool(desk.exchange.asked) is booked
    assert got.startswith(f"HTTP/1.1 {status} ".encode()) if status else got == b""
    assert desk.rows("request")[0]["fault"] == fault


@pytest.mark.parametrize("fault, numbers, body", [
    ("truncate",   {}, rb'\{"path":.*[^}]'),
    ("empty_200",  {}, b""),
    ("wrong_type", {}, rb"\[\]"),
    ("answer",     {"body": '{"a": NaN, "a": 1}'}, rb'\{"a": NaN, "a": 1\}'),
])
def test_a_body_can_be_wrong_in_a_whole_answer(desk, fault, numbers, body):
    """C5."""
    desk.call("network", name=fault, **numbers)
    status, got = desk.ask("GET", "/accounts")
    assert status == 200 and re.fullmatch(body, got)


def test_a_wrong_length_promises_more_than_comes(desk):
    """C4."""
    desk.call("network", name="wrong_length")
    with pytest.raises(http.client.IncompleteRead):
        desk.ask("GET", "/accounts")


def test_a_bomb_unpacks_to_what_was_asked_for(desk):
    """C4."""
    desk.call("network", name="gzip", bytes=5_000_000)
    status, body = desk.ask("GET", "/accounts")
    assert len(body) < 50_000 and len(gzip.decompress(body)) == 5_000_000


@pytest.mark.parametrize("fault", ["drip", "drip_headers"])
def test_a_drip_takes_its_time_however_short_each_wait_is(desk, fault):
    """C3."""
    desk.call("network", name=fault, bytes_per_second=200)
    began = time.monotonic()
    assert desk.ask("GET", "/accounts")[0] == 200
    assert time.monotonic() - began > 0.3


def test_a_delay_holds_the_answer_back(desk):
    desk.call("network", name="delay", seconds=0.3)
    began = time.monotonic()
    assert desk.ask("GET", "/accounts")[0] == 200
    assert time.monotonic() - began >= 0.3


def test_a_kept_connection_is_closed_under_the_second_request(desk):
    """C10."""
    desk.call("network", name="close_keepalive")
    link = desk.link()
    assert desk.ask("GET", "/accounts", link=link)[0] == 200
    with pytest.raises(http.client.RemoteDisconnected):
        desk.ask("GET", "/accounts", link=link)
    assert len(desk.exchange.asked) == 1


def test_a_fault_hits_what_it_matches_as_often_as_it_says(desk):
    desk.call("network", name="status", status=500, match="GET /acc", times=2, after=1)
    asked = ["/time", "/accounts", "/accounts", "/accounts/a", "/accounts"]
    assert [desk.ask("GET", path)[0] for path in asked] == [200, 200, 500, 500, 200]


@pytest.mark.parametrize("match", ["GET /orders$", f"GET {API}/orders$", "orders$"])
def test_a_fault_can_mean_one_path_alone(desk, match):
    desk.call("network", name="status", status=500, match=match)
    asked = ["/orders/historical/batch", "/orders"]
    assert [desk.ask("GET", path)[0] for path in asked] == [200, 500]


def test_a_fault_without_a_number_lasts_until_it_is_cleared(desk):
    desk.call("network", name="status", status=503, times=None)
    assert [desk.ask("GET", "/accounts")[0] for _ in range(3)] == [503] * 3
    desk.call("network", name="clear")
    assert desk.ask("GET", "/accounts")[0] == 200


# WebSocket


def test_a_subscription_is_confirmed_then_comes_the_snapshot_in_batches_of_fifty(desk):
    client = desk.listen("user")
    assert heard(client)["events"] == [{"subscriptions": {"user": []}}]
    assert [len(heard(client)["events"][0]["orders"]) for _ in range(3)] == [50, 50, 3]


def test_one_counter_runs_through_all_channels_of_a_connection(desk):
    client, other = (desk.listen("heartbeats", "ticker", "user") for _ in range(2))
    for one in (client, other):
        assert [heard(one)["sequence_num"] for _ in range(7)] == list(range(7))
    desk.call("price", product_id=BTC, bid="60000", ask="60005")
    desk.call("trade_by_owner", product_id=BTC, side="BUY", contracts=1)
    for one in (client, other):
        messages = [heard(one) for _ in range(2)]
        assert [(m["channel"], m["sequence_num"]) for m in messages] == [("ticker", 7), ("user", 8)]


def test_only_what_was_subscribed_to_is_heard(desk):
    client = desk.listen("ticker", product_ids=[ETH])
    heard_until(client, "subscriptions")
    desk.call("price", product_id=BTC, bid="60000", ask="60005")
    desk.call("deposit", usd="5")
    desk.call("price", product_id=ETH, bid="3000", ask="3001")
    message = heard(client)
    assert message["sequence_num"] == 1
    assert [row["product_id"] for row in message["events"][0]["tickers"]] == [ETH]


def test_an_unsubscribed_channel_is_silent(desk):
    client = desk.listen("ticker", "user")
    client.send(json.dumps({"type": "unsubscribe", "channel": "ticker"}))
    wait_until(lambda: list(desk.call("sockets")["result"][0]["subscriptions"]) == ["user"])
    desk.call("price", product_id=BTC, bid="60000", ask="60005")
    desk.call("trade_by_owner", product_id=BTC, side="BUY", contracts=1)
    tickers = 0
    while (message := heard(client))["sequence_num"] < desk.call(
            "sockets")["result"][0]["sequence_num"]:
        tickers += message["channel"] == "ticker"
    assert (tickers, message["channel"]) == (0, "user")


@pytest.mark.parametrize("channel, token", [
    ("user", None), ("user", "nonsense"), ("futures_balance_summary", None), ("nonsense", None),
    ("ticker", "nonsense"),
])
def test_a_refused_subscription_is_an_authentication_failure(desk, channel, token):
    client = desk.listen()
    desk.subscribe(client, channel, **({"jwt": token} if token else {}))
    assert heard(client) == {"type": "error", "message": "authentication failure"}


def test_a_token_for_a_request_opens_no_channel(desk):
    client = desk.listen("user", uri=f"GET {desk.host}/")
    assert heard(client)["message"] == "authentication failure"


def test_public_channels_need_no_token(desk):
    client = desk.listen()
    desk.subscribe(client, "ticker", product_ids=[BTC])
    assert heard(client)["channel"] == "subscriptions"


def test_a_client_that_does_not_subscribe_is_closed(desks):
    client = desks(subscribe_seconds=0.3).listen()
    client.settimeout(3)  # by itself it would be closed after five
    assert client.recv_frame().opcode == websocket.ABNF.OPCODE_CLOSE


def test_a_connection_without_news_is_closed(desks):
    """F1: the venue closes quiet channels."""
    client = desks(idle_seconds=0.5).listen("ticker")
    heard(client)
    assert client.recv_frame().opcode == websocket.ABNF.OPCODE_CLOSE


def test_each_advance_of_a_manual_clock_beats_once_in_venue_time(desk):
    client = desk.listen("heartbeats")
    assert [heard(client)["channel"] for _ in range(2)] == ["subscriptions", "heartbeats"]
    for seconds in (1, 3600):
        to = desk.exchange.now + timedelta(seconds=seconds)
        assert desk.call("advance", to=to.isoformat()) == {"result": to.isoformat()}
        message = heard(client)
        assert message["timestamp"] == to.strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    assert message["events"][0]["heartbeat_counter"] == "3"
    assert desk.call("sockets")["result"][0]["sequence_num"] == message["sequence_num"]


def test_a_real_clock_runs_and_beats_by_itself(desks):
    desk = desks(clock="real")
    client = desk.listen("heartbeats", "ticker")
    beats = [heard_until(client, "heartbeats") for _ in range(3)]
    assert [beat["events"][0]["heartbeat_counter"] for beat in beats] == ["1", "2", "3"]
    assert desk.exchange.now > NOON + timedelta(seconds=1)
    assert "error" in desk.call("advance", to=60)


def test_pings_are_answered_and_a_close_is_returned(desk):
    client = desk.listen("ticker")
    heard(client)
    client.ping("here")
    frame = client.recv_frame()
    assert (frame.opcode, frame.data) == (websocket.ABNF.OPCODE_PONG, b"here")
    client.send_close()
    assert client.recv_frame().opcode == websocket.ABNF.OPCODE_CLOSE
    wait_until(lambda: desk.call("sockets") == {"result": []})


@pytest.mark.parametrize("count", [1, 20, 10_000])
def test_messages_of_every_length_are_read(desk, count):
    client = desk.listen()
    desk.subscribe(client, "ticker", product_ids=[f"{n:08}" for n in range(count)])
    assert len(heard(client)["events"][0]["subscriptions"]["ticker"]) == count


def test_a_message_in_fragments_is_read_whole(desk):
    client = desk.listen()
    client.send_frame(websocket.ABNF.create_frame('{"type":"subscribe",', 1, 0))
    client.ping("between")
    client.send_frame(websocket.ABNF.create_frame('"channel":"ticker"}', 0, 1))
    opcodes = [client.recv_frame().opcode for _ in range(2)]
    assert opcodes == [websocket.ABNF.OPCODE_PONG, websocket.ABNF.OPCODE_TEXT]


@pytest.mark.parametrize("sent", [
    b"\x81\x02{}",                              # not masked
    b"\x81\xff" + b"\xff" * 8 + b"mask" * 10,  # too long
])
def test_a_frame_that_breaks_the_protocol_ends_the_connection(desk, sent):
    client = desk.listen()
    client.sock.sendall(sent)
    with pytest.raises((websocket.WebSocketConnectionClosedException, ConnectionResetError)):
        client.recv()


# Faults of the stream


def prices(desk, *bids):
    for bid in bids:
        desk.call("price", product_id=BTC, bid=str(bid), ask=str(bid))


def on_the_ticker(desk):
    client = desk.listen("ticker", "heartbeats")
    while heard(client)["channel"] != "heartbeats":
        pass
    return client


@pytest.mark.parametrize("fault, steps", [
    ("ws_gap",       [2, 1, 1]),
    ("ws_duplicate", [1, 0, 1]),
    ("ws_reorder",   [2, -1, 2]),
])
def test_sequence_numbers_can_skip_repeat_and_swap(desk, fault, steps):
    """F3."""
    client = on_the_ticker(desk)
    last = desk.call("sockets")["result"][0]["sequence_num"]
    assert desk.call("network", name=fault) == {"result": 1}
    prices(desk, 1, 2, 3)
    numbers = [last, *(heard(client)["sequence_num"] for _ in range(3))]
    assert [b - a for a, b in zip(numbers, numbers[1:])] == steps


def test_silence_is_silence_and_leaves_a_gap(desk):
    """F1."""
    client = on_the_ticker(desk)
    desk.call("network", name="ws_silence")
    prices(desk, 1, 2)
    desk.call("advance", to=1)
    client.settimeout(QUIET_SECONDS)
    with pytest.raises(websocket.WebSocketTimeoutException):
        client.recv()
    desk.call("network", name="ws_clear")
    prices(desk, 3)
    assert heard(client)["sequence_num"] == 3 + 4


def test_a_frozen_ticker_beats_on(desk):
    """F2."""
    client = on_the_ticker(desk)
    desk.call("network", name="ws_freeze_ticker")
    desk.call("advance", to=1)
    message = heard(client)
    assert (message["channel"], message["sequence_num"]) == ("heartbeats", 3)


def test_quotes_can_be_empty_while_the_price_goes_on(desk):
    client = on_the_ticker(desk)
    desk.call("network", name="ws_empty_quotes")
    prices(desk, 7)
    row = heard(client)["events"][0]["tickers"][0]
    assert (row["price"], row["best_bid"], row["best_ask"]) == ("7", "", "")


@pytest.mark.parametrize("fault, numbers, text", [
    ("ws_error", {"message": "go away"}, '{"type":"error","message":"go away"}'),
    ("ws_garbage", {}, "<html>not JSON</html>"),
])
def test_the_stream_can_say_something_else(desk, fault, numbers, text):
    client = on_the_ticker(desk)
    desk.call("network", name=fault, **numbers)
    assert client.recv() == text


@pytest.mark.parametrize("how, error", [
    ("drop", websocket.WebSocketConnectionClosedException),
    ("reset", ConnectionResetError),
])
def test_a_connection_can_be_dropped_or_reset(desk, how, error):
    client = on_the_ticker(desk)
    desk.call("network", name="ws_drop", how=how)
    with pytest.raises((error, websocket.WebSocketConnectionClosedException)):
        client.recv()
    wait_until(lambda: desk.call("sockets") == {"result": []})


def test_a_fault_can_choose_the_channel(desk):
    ticker, user = on_the_ticker(desk), desk.listen("user")
    heard_until(user, "user")
    assert desk.call("network", name="ws_drop", channel="user") == {"result": 1}
    prices(desk, 1)
    assert heard(ticker)["channel"] == "ticker"


def test_a_frame_can_promise_a_terabyte(desk):
    """F5."""
    client = on_the_ticker(desk)
    desk.call("network", name="ws_huge_frame", sent=1_000_000)
    head = client.sock.recv(10)
    assert head[:2] == b"\x81\x7f" and int.from_bytes(head[2:], "big") == 1 << 40


def test_fragments_can_go_on_and_on(desk):
    """F5."""
    client = on_the_ticker(desk)
    desk.call("network", name="ws_endless_fragments")
    frames = [client.frame_buffer.recv_frame() for _ in range(50)]
    assert [frame.fin for frame in frames] == [0] * 50


def test_an_upgrade_can_be_refused(desk):
    desk.call("network", name="ws_no_upgrade", times=1)
    with pytest.raises(websocket.WebSocketBadStatusException):
        desk.listen()
    assert heard(desk.listen("ticker"))["channel"] == "subscriptions"


def test_the_user_channel_can_replay_what_it_said_before(desk):
    desk.call("trade_by_owner", product_id=BTC, side="BUY", contracts=1)
    desk.call("network", name="ws_replay")
    client = desk.listen("user")
    kinds = [heard(client)["events"][0].get("type") for _ in range(5)]
    assert kinds == [None, "snapshot", "snapshot", "snapshot", "update"]


# TLS


def shaken(desk, client):
    """Shake hands over TLS with `client`'s context and return the version, or the refusal."""
    try:
        with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as plain, \
                client.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            return secured.version()
    except ssl.SSLError as error:
        return getattr(error, "verify_message", "") or "refused"


@pytest.mark.parametrize("flaw, answer", [
    ({},                             "TLSv1.3"),
    ({"expired": True},              "certificate has expired"),
    ({"names": ("other.invalid",)},  "IP address mismatch, certificate is not valid for "
                                     "'127.0.0.1'."),
    ({"self_signed": True},          "self-signed certificate"),
])
def test_a_certificate_has_the_flaw_that_was_asked_for(desks, tmp_path, flaw, answer):
    """C12."""
    made = a_certificate(tmp_path, **flaw)
    assert shaken(desks(tls=made.pair), ssl.create_default_context(cafile=made.authority)) == answer


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_a_server_of_old_tls_is_reached_by_old_clients_only(desks, tmp_path):
    """C12."""
    made = a_certificate(tmp_path)
    desk = desks(tls=made.pair, tls_version="TLSv1_1")
    client = ssl.create_default_context(cafile=made.authority)
    assert shaken(desk, client) == "refused"
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    assert shaken(desk, client) == "TLSv1.1"


@pytest.mark.parametrize("fault, receive, ending", [
    # Python's TLS reads a reset as an end, so the reset is looked for below it.
    ("reset_after_accept", socket.socket.recv, "reset"),
    ("close_after_accept", ssl.SSLSocket.recv, "end"),
    ("endless",            ssl.SSLSocket.recv, "more"),
])
def test_faults_reach_through_tls(desks, tmp_path, fault, receive, ending):
    made = a_certificate(tmp_path)
    desk = desks(tls=made.pair)
    client = ssl.create_default_context(cafile=made.authority)
    desk.server.faults.add(fault)
    with socket.create_connection(("127.0.0.1", desk.server.port), DEADLINE_SECONDS) as plain, \
            client.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        secured.sendall(f"GET {API}/time HTTP/1.1\r\n\r\n".encode())
        assert drained(secured, receive)[1] == ending


# The process and its harness


def test_the_exchange_runs_as_a_process_and_is_steered_from_a_test(tmp_path):
    with Simulator({"cash": "10000"}, clock="manual", folder=tmp_path) as simulator:
        link = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=DEADLINE_SECONDS)
        link.request("GET", f"{API}/time")
        began = datetime.fromisoformat(json.loads(link.getresponse().read())["iso"])
        simulator.price(BTC, 60000, 60005)
        simulator.advance(60)
        link.request("GET", f"{API}/time")
        later = datetime.fromisoformat(json.loads(link.getresponse().read())["iso"])
        link.close()
        assert later - began == timedelta(seconds=60)
        assert [row["path"] for row in simulator.requests("GET", "/time")] == [f"{API}/time"] * 2
        assert simulator.requests("POST") == []
        assert simulator.bytes_of("in").count(b"GET /api/v3/brokerage/time") == 2
        assert simulator.truth()["positions"] in ([], {})
        assert simulator.environment["COINBASE_API_URL"] == simulator.url
        with pytest.raises(SteeringFailed, match="dance"):
            simulator.call("dance")
        process = simulator.process
    assert process.returncode == 0


def test_the_process_ends_with_the_test_that_began_it(tmp_path):
    simulator = Simulator(folder=tmp_path).start()
    simulator.process.stdin.close()  # what the kernel does when the test process is killed
    assert simulator.process.wait(DEADLINE_SECONDS) == 0
    simulator.process.stdout.close()


def test_the_log_outlives_a_killed_exchange(tmp_path):
    simulator = Simulator(folder=tmp_path).start()
    link = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=DEADLINE_SECONDS)
    link.request("GET", f"{API}/time")
    told = datetime.fromisoformat(json.loads(link.getresponse().read())["iso"])
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=30)  # a real clock begins with ours
    link.close()
    simulator.process.kill()
    simulator.process.wait()
    simulator.stop()
    assert len(simulator.requests("GET", "/time")) == 1


def test_an_outage_refuses_connections_until_it_is_over(tmp_path):
    """C2."""
    with Simulator(folder=tmp_path) as simulator:
        client = websocket.create_connection(simulator.ws_url, timeout=DEADLINE_SECONDS)
        simulator.network("outage")
        with pytest.raises((ConnectionResetError, websocket.WebSocketConnectionClosedException)):
            client.recv()
        client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_SECONDS)
        simulator.network("clear")
        socket.create_connection(("127.0.0.1", simulator.port), DEADLINE_SECONDS).close()


def test_a_broken_exchange_fails_the_test_that_used_it(tmp_path):
    with pytest.raises(AssertionError, match=r"broke:\nTraceback"):
        with Simulator(folder=tmp_path):
            (tmp_path / "exchange.stderr").write_text("Traceback")


def test_a_scenario_that_cannot_be_fails_loudly(tmp_path):
    with pytest.raises(AssertionError, match="did not start"):
        Simulator({"now": "nonsense"}, folder=tmp_path).start()


# The end


def test_a_stop_is_quick_whatever_hangs_and_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    desk = Desk(tmp_path)
    on_the_ticker(desk)
    desk.call("network", name="ws_endless_fragments")
    for fault in ("hang", "drip"):
        desk.call("network", name=fault)
        link = desk.link()
        link.request("GET", f"{API}/time")
    wait_until(lambda: len(desk.rows("request")) == 2)
    began = time.monotonic()
    desk.server.stop()
    assert time.monotonic() - began < 2
    wait_until(lambda: set(threading.enumerate()) <= before)
    desk._open.clear()

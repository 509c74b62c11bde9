"""Answers: what do REST bodies become?

Every parser of `wire` by itself, and the client over the real `Rest` with another line: what a
body may turn into is a sound value or a typed error, and nothing it says sends an order.
"""

import json
import re
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from time import monotonic
from types import SimpleNamespace

from bodies import BIP, CLOSE, NOW, a_product, an_order

from perps_bot import rest as rest_room
from perps_bot import wire
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.errors import OrderRejected, OutcomeUnknown, PerpsBotError
from perps_bot.model import OrderStatus, OrderType, Purpose, Side, TimeInForce
from perps_bot.rest import Rest, VenueClock
from perps_bot.transport import Answer

from . import mutate, seeds
from .judge import Broken, require, sound, sound_error, sound_text

BTC = a_product()
DEPTH_MAX, NUMBER_LENGTH_MAX = 32, 40
BYTE_COPIES = [mutate.written(tree) for trees in seeds.bodies().values() for tree in trees]


def a_body(dice, kind):
    """A body of this kind, mutated."""
    tree = dice.choice(seeds.bodies()[kind])
    return mutate.json_bytes(dice, tree, seeds.words(), BYTE_COPIES)


# Each parser by itself


def make_body(dice):
    """One in ten goes to the parser of another kind."""
    kind = dice.choice(tuple(PARSERS))
    told = kind if dice.random() < 0.9 else dice.choice(tuple(PARSERS))
    return kind, a_body(dice, told)


def check_body(given):
    kind, data = given
    try:
        body = wire.decoded(data)
    except wire.Malformed as error:
        sound_text(str(error))
        return
    _check_decoded(body, data)
    for parse in PARSERS[kind]:
        try:
            parse(body)
        except wire.Malformed as error:
            sound_text(str(error))


def _check_decoded(value, data, depth=0):
    require(depth <= DEPTH_MAX, f"nested {depth} deep")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_decoded(each, data, depth + 1)
    elif isinstance(value, Decimal):
        require(value.is_finite() and len(f"{value:f}") <= NUMBER_LENGTH_MAX, f"a number {value}")
    elif isinstance(value, str):
        value.encode()  # half a character would raise
    else:
        require(value is None or isinstance(value, bool), f"a {type(value).__name__}")


def _each(name, *parsers):
    """Apply parsers to every row of a list; what is wrong with one row stops no other."""
    def parse(body):
        for row in wire.rows(body, name):
            for each in parsers:
                with suppress(wire.Malformed):
                    each(row)
    return parse


def _product(row):
    sound(wire.contract_size(row), "contract_size")
    if wire.symbol_of(row) is not None:
        sound(wire.product(row, NOW, CLOSE))
        sound(wire.funding_rate(row))


def _quote(book):
    mark = wire.quote(book, BTC)
    if mark is not None:
        sound(mark)
        require(mark.bid < mark.price < mark.ask, "the price is not between bid and ask")


def _candle(row):
    sound(wire.candle(row, BTC))


def _position(row):
    for size in (None, Decimal("0.01")):
        sound(wire.position(row, "BTC-PERP", size), infinite_mark=size is None)


def _order(row):
    order = wire.order(row, BTC)
    sound(order)
    require(order.quantity >= 0, "an order of less than nothing")
    require(isinstance(wire.is_liquidation(row), bool), "a liquidation or not")


def _fill(row):
    fill = wire.fill(row, BTC, "pb-1-000001", False)
    sound(fill)
    require(fill.quantity > 0, "a fill of nothing")


def _page(name):
    def parse(body):
        sound(wire.next_cursor(body, len(wire.rows(body, name))))
    return parse


def _cancel(body):
    sound(wire.cancel_answers(body))


def _words(body):
    sound_text(rest_room._words(body))


def _time(body):
    sound(rest_room._time_said(body))


def _rights(body):
    for right in ("view", "trade", "transfer"):
        require(wire.flag(body.get(f"can_{right}"), "x") in (True, False), "a right or not")


PARSERS = {
    "products": (_each("products", _product), lambda body: sound(wire.more_products(body))),
    "quotes": (_each("pricebooks", _quote),),
    "book": (lambda body: _quote(wire.part(body, "pricebook")),),
    "candles": (_each("candles", _candle),),
    "summary": (lambda body: sound(wire.equity(body)), lambda body: sound(wire.margin(body))),
    "positions": (_each("positions", _position),),
    "orders": (_each("orders", _order), _page("orders")),
    "order": (lambda body: _order(wire.part(body, "order")),),
    "fills": (_each("fills", _fill), _page("fills")),
    "cancel": (_cancel,),
    "rights": (_rights,),
    "time": (_time,),
    "error": (_words,),
}


# The answer to an order

LONGER = an_order(quantity="0.03")
CLOSING = an_order(Side.SELL, "0.02", purpose=Purpose.EXIT)
RESTING = an_order(order_type=OrderType.LIMIT, time_in_force=TimeInForce.GTC,
                   limit_price=Decimal(82000))
ORDERS = (an_order(), LONGER, CLOSING, RESTING)
FILLERS = re.compile(r"UNKNOWN_.*|.*_UNSPECIFIED|", re.DOTALL)
REASONS = ("error", "new_order_failure_reason", "preview_failure_reason")
HOLLOW = (None, "", {}, [])


def make_create(dice):
    """An answer to one of our orders, told the truth about which order that was in most cases."""
    order = dice.randrange(len(ORDERS))
    tree = mutate.copied(dice.choice(seeds.bodies()["create"]))
    said = tree.get("success_response")
    if isinstance(said, dict) and dice.random() < 0.95:
        said |= {"product_id": BIP, "side": ORDERS[order].side.value.upper(),
                 "client_order_id": ORDERS[order].id}
        if isinstance(tree.get("order_configuration"), dict) and dice.random() < 0.9:
            tree["order_configuration"] = None
    for _ in range(dice.randint(0, 3)):
        dice.choice(CONTRADICTIONS)(dice, tree)
    if dice.random() < 0.5:
        return order, mutate.json_bytes(dice, tree, seeds.words())
    return order, mutate.written(tree)


def _odd(dice):
    return mutate.value(dice, "v1", ("v1", "v2", "", None, 1, 0, "INSUFFICIENT_FUND"))


def _inner(tree, name):
    if not isinstance(tree.get(name), dict):
        tree[name] = {}
    return tree[name]


CONTRADICTIONS = (
    lambda dice, tree: tree.update(success=dice.choice((True, False, None, "true", 1, 0))),
    lambda dice, tree: tree.update(order_id=_odd(dice)),
    lambda dice, tree: tree.update(failure_reason=_odd(dice)),
    lambda dice, tree: _inner(tree, "success_response").update(order_id=_odd(dice)),
    lambda dice, tree: tree.update(success_response=dice.choice((None, {}, [], "v1", ["v1"]))),
    lambda dice, tree: _inner(tree, "error_response").update({dice.choice(REASONS): _odd(dice)}),
    lambda dice, tree: _inner(tree, "error_response").update(
        {dice.choice(REASONS): "DUPLICATE_CLIENT_ORDER_ID"}),
    lambda dice, tree: tree.update(error_response=dice.choice((None, {}, "INVALID_SIDE", []))),
    lambda dice, tree: tree.update(order_configuration={dice.choice(tuple(wire.SHAPES)): {
        "base_size": mutate.value(dice, "2", ("2", "3", 2))}}),
)


def check_create(given):
    """Through `wire` alone: accepted, refused and unknown, each only where the bytes say it."""
    number, data = given
    order = ORDERS[number]
    sent = wire.create_body(order, BTC, None) if order.purpose is not Purpose.EXIT else (
        wire.close_body(order, BTC) | {"side": "SELL"})
    try:
        answer = wire.decoded(data)
    except wire.Malformed:
        return
    try:
        identity = wire.accepted(answer, sent)
    except OrderRejected as error:
        sound_error(error)
        sound_text(error.code)
        require(not _why_no_refusal(answer), f"refused, but {_why_no_refusal(answer)}")
    except OutcomeUnknown as error:
        sound_error(error)
    else:
        sound_text(identity)
        require(identity, "an order without an id")
        require(not _why_no_accept(answer, sent), f"accepted, but {_why_no_accept(answer, sent)}")


def _identities(answer):
    """Whatever the answer gives as the id of an order."""
    said = answer.get("success_response")
    places = (said.get("order_id") if isinstance(said, dict) else None, answer.get("order_id"))
    return [each for each in places if each not in HOLLOW]


def _why_no_accept(answer, sent):
    said = answer.get("success_response")
    if answer.get("success") is not True:
        return "it is no success"
    identities = _identities(answer)
    if not identities or any(each != identities[0] for each in identities):
        return f"its ids are {identities}"
    if not isinstance(said, dict) or any(
            said.get(name) != sent[name] for name in ("product_id", "side", "client_order_id")):
        return "it speaks of another order"
    error = answer.get("error_response")
    reasons = [error.get(name) for name in REASONS] if isinstance(error, dict) else [error]
    for reason in (*reasons, answer.get("failure_reason")):
        if reason not in HOLLOW and not (isinstance(reason, str) and FILLERS.fullmatch(reason)):
            return f"it gives a reason against it, {reason!a:.80}"
    echo = answer.get("order_configuration")
    return "the echo has another size" if echo and not _has_size(echo, sent) else ""


def _has_size(echo, sent):
    configured = sent.get("order_configuration", {})
    kind = next(iter(configured), "market_market_ioc")
    size = configured[kind]["base_size"] if configured else sent["size"]
    inner = echo.get(kind) if isinstance(echo, dict) else None
    with suppress(ArithmeticError, ValueError, TypeError):
        return isinstance(inner, dict) and Decimal(inner.get("base_size")) == Decimal(size)
    return False


def _why_no_refusal(answer):
    if answer.get("success") is not False:
        return "it does not say no"
    error = answer.get("error_response")
    reasons = [error.get(name) for name in REASONS] if isinstance(error, dict) else []
    if any(isinstance(each, str) and "DUPLICATE_CLIENT_ORDER_ID" in each for each in reasons):
        return "it says that the order is there"
    return f"it names an order, {_identities(answer)!a:.80}" if _identities(answer) else ""


# The client, over the real `Rest`

PATHS = (
    # what is asked                                                      which kind answers
    (re.compile(r"GET /(market/)?time"),                                 "time"),
    (re.compile(r"GET /key_permissions"),                                "rights"),
    (re.compile(r"GET (/market)?/products"),                             "products"),
    (re.compile(r"GET /best_bid_ask"),                                   "quotes"),
    (re.compile(r"GET /market/product_book"),                            "book"),
    (re.compile(r"GET (/market)?/products/[A-Z0-9]+(-[A-Z0-9]+)*/candles"), "candles"),
    (re.compile(r"GET /cfm/balance_summary"),                            "summary"),
    (re.compile(r"GET /cfm/positions"),                                  "positions"),
    (re.compile(r"GET /orders/historical/batch"),                        "orders"),
    (re.compile(r"GET /orders/historical/fills"),                        "fills"),
    (re.compile(r"GET /orders/historical/(?!\.{1,2}$)[A-Za-z0-9_.~%-]+"), "order"),
    (re.compile(r"POST /orders"),                                        "create"),
    (re.compile(r"POST /orders/close_position"),                         "create"),
    (re.compile(r"POST /orders/batch_cancel"),                           "cancel"),
)  # fmt: skip
KINDS = tuple(dict.fromkeys(kind for _, kind in PATHS))
STATUSES = (200,) * 30 + (0, 201, 204, 301, 307, 400, 401, 403, 404, 408, 409, 418, 422, 429, 500,
                          502, 503, 599, 999)
REQUESTS_MAX = 400
# With a key or without.
WAYS = (*["with a key"] * 16, *["without"] * 4)
PLAIN_BODIES = {kind: mutate.written(seeds.bodies()[kind][0]) for kind in KINDS}
SIGNER = SimpleNamespace(name="organizations/1/apiKeys/2", rest_token=lambda *_: "token")
JITTER = SimpleNamespace(random=lambda: 0.0)


def make_session(dice):
    """By kind, the status and the bytes of its answer; what is not named is answered well."""
    spoiled = dice.sample(KINDS, dice.choice((1, 1, 1, 2, 3)))
    answers = {}
    for kind in spoiled:
        status = dice.choice(STATUSES)
        told = kind if status == 200 or dice.random() < 0.5 else "error"
        # A body that is as it should be, under a status that is not, is worth a look, too.
        is_plain = status != 200 and dice.random() < 0.4
        answers[kind] = status, PLAIN_BODIES[kind] if is_plain else a_body(dice, told)
        if dice.random() < 0.3 and kind in ODD:
            answers[kind] = 200, ODD[kind](dice)
    return dice.choice(WAYS), answers


def _renamed(dice):
    """The listing, with one product by another name: it becomes part of addresses."""
    tree = mutate.copied(seeds.bodies()["products"][0])
    dice.choice(tree["products"])["product_id"] = mutate.text(dice)
    return mutate.written(tree)


ODD = {"products": _renamed, "time": lambda dice: mutate.written({"iso": mutate.time(dice)})}


class Line:
    """What `Rest` asks through: it answers from a table, and keeps what was sent."""

    def __init__(self, answers):
        self._answers, self.posts, self.asked, self.used_at = answers, [], 0, monotonic()

    def ask(self, request, until, meanwhile):
        if meanwhile:
            meanwhile()
        self.asked += 1
        require(self.asked <= REQUESTS_MAX, "requests without end")
        path = request.target.partition("?")[0].removeprefix(rest_room.ROOT)
        asked = f"{request.method} {path}"
        sound_text(asked, "a path")
        kind = next((kind for form, kind in PATHS if form.fullmatch(asked)), None)
        require(kind, f"nobody may ask {asked!a:.200}")
        if request.method == "POST":
            self.posts.append((path, json.loads(request.body)))
        status, data = self._answers.get(kind, (200, PLAIN_BODIES[kind]))
        return Answer(status, data, None, "" if status else "ConnectionResetError: reset")

    def close(self):
        pass


def a_client(line, with_key=True):
    rest = Rest("http://127.0.0.1:1", SIGNER if with_key else None,
                VenueClock(lambda: NOW, lambda: 0.0), jitter=JITTER)
    rest._trading = rest._cancels = line
    return CoinbasePerpetualsClient(rest, None, ("BTC-PERP", "ETH-PERP"))


def check_session(given):
    """No read may send, no order goes out twice, all comes out sound."""
    whose, answers = given
    line = Line(answers)
    _ask_for_everything(a_client(line, "with a" in whose), line, answers)


def _ask_for_everything(client, line, answers):
    """Whatever the spoiled answers are for, once, and some of it again."""
    since = NOW - timedelta(days=1)
    reads = [("time rights", lambda: client.connect(["BIP-20DEC30-CDE"])),
             ("products", client.products),
             ("quotes book", lambda: client.marks(["BTC-PERP", "ETH-PERP"], NOW)),
             ("candles products", lambda: client.candles("BTC-PERP", 60, 5, NOW)),
             ("products", lambda: client.funding("BTC-PERP", NOW))]
    if client.rest.signer is not None:
        reads += [("summary", client.equity), ("summary", client.margin),
                  ("positions", client.positions), ("orders", lambda: client.orders(since)),
                  ("fills order", lambda: client.fills(since)), ("products time", client.products),
                  ("positions fills", lambda: client.funding_payments(since))]
    reads = [read for kinds, read in reads if any(kind in kinds.split() for kind in answers)]
    for read in reads:
        found = _typed(read)
        # A mark without bound stands for what is not ours and cannot be read: it blocks.
        sound(found if not hasattr(found, "values") else dict(found), infinite_mark=True)
    require(not line.posts, "a read sent something")
    if client.rest.signer is not None and answers.keys() & {"create", "cancel", "products"}:
        _check_orders(client, line, answers)


def _typed(call):
    try:
        return call()
    except Broken:
        raise
    except PerpsBotError as error:
        sound_error(error)
        return None


def _check_orders(client, line, answers):
    order, closing = ORDERS[0], ORDERS[2]
    for send, asked in ((client.place, order), (client.close, closing)):
        before = len(line.posts)
        sent = _typed(lambda send=send, asked=asked: send(asked, NOW))
        posts = line.posts[before:]
        require(len(posts) <= 1, "an order was sent twice")
        if sent is None:
            continue
        require(sent.status is OrderStatus.OPEN and sent.venue_order_id, "accepted without an id")
        status, data = answers.get("create", (200, PLAIN_BODIES["create"]))
        require(status // 100 == 2, f"accepted by status {status}")
        body = posts[0][1] | {"side": asked.side.value.upper()}
        why = _why_no_accept(json.loads(data), body)
        require(not why, f"accepted, but {why}")
    before = len(line.posts)
    cancelled = [order, closing]
    for number, each in enumerate(cancelled):
        cancelled[number] = SimpleNamespace(venue_order_id=f"v{number + 1}", id=each.id)
    _typed(lambda: client.cancel(cancelled, NOW))
    require({path for path, _ in line.posts[before:]} <= {rest_room.CANCEL}, "a cancel sends more")

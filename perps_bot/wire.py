"""Wire: what do Coinbase's words mean?

Bytes become nouns here, and orders become bodies; no socket, no clock, no state.  Whatever does
not say what it must is `Malformed`: a failed read, never a zero, never an empty list.  Keys that
are not known are ignored, as the venue adds some at any time; words that are not known take the
careful branch.  Sizes on the wire are whole contracts; quantities leave here in base units.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from perps_bot.errors import OrderRejected, OutcomeUnknown
from perps_bot.model import (
    ZERO, Candle, Fill, FundingRate, Margin, Mark, Order, OrderIntent, OrderStatus, OrderType,
    Position, Product, Purpose, Side, TimeInForce,
)

DEPTH_MAX = 32
WORDS_MAX = 200  # characters of the venue's own text that are passed on
NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,18})?")
HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair, whether or not the other is there
NEVER = "0001-01-01T00:00:00Z"
MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?Z")


class Malformed(ValueError):
    """The venue's bytes do not say what they must; the message names the field."""


# Bytes and words


def decoded(body: bytes) -> dict:
    """Return the JSON object in `body`.  Raises Malformed for anything else.

    Stricter than `json`: UTF-8 only, half characters included, no NaN, no repeated key, no depth.
    A number of another form than ours stays text, and is refused only where a number is needed.
    """
    try:
        value = _strictly.decode(body.decode("utf-8"))
        if HALF.search(body):  # whoever writes or sends half a character later would fail
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not the JSON that was expected ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    # With so few brackets nothing can be so deep, and most bodies need no further look.
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX and _is_deeper(value, DEPTH_MAX):
        raise Malformed(f"nested deeper than {DEPTH_MAX}")
    return value


def number(value: object, name: str) -> Decimal:
    """Return a decimal that came as text, or as a JSON number.  Raises Malformed."""
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        raise Malformed(f"{name} is not a number")
    return Decimal(value)


def moment(value: object, name: str) -> datetime:
    """Return an RFC 3339 UTC time, to the microsecond.  Raises Malformed."""
    found = MOMENT.fullmatch(value) if isinstance(value, str) else None
    try:
        whole, fraction = found.groups(default=".0")
        return datetime.fromisoformat(f"{whole}{fraction[:7]:0<7}+00:00")
    except (AttributeError, ValueError):  # no match, or no such day
        raise Malformed(f"{name} is not a time") from None


def flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{name} is neither true nor false")
    return value


def text(value: object, name: str) -> str:
    if not word(value):
        raise Malformed(f"{name} is missing, or no plain text")
    return value


def part(body: Mapping, name: str) -> dict:
    found = body.get(name)
    if not isinstance(found, dict):
        raise Malformed(f"{name} is not an object")
    return found


def rows(body: Mapping, name: str) -> list[dict]:
    """Return the list of objects called `name`; an absent list is no empty one."""
    found = body.get(name)
    if not isinstance(found, list) or not {*map(type, found)} <= {dict}:
        raise Malformed(f"{name} is not a list of objects")
    return found


def word(value: object) -> str:
    """A name or word of the venue's, to be looked up; what is no plain text is no word."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= WORDS_MAX
    return value if plain else ""


def words(*values: object) -> str:
    """The first text that says something, fit for one line."""
    said = next((v for v in values if isinstance(v, str) and v and not _is_filler(v)), "")
    return "".join(c if c.isprintable() else "?" for c in said[:WORDS_MAX])


def _is_filler(said: str) -> bool:
    return said.startswith("UNKNOWN_") or said.endswith("_UNSPECIFIED")


def _json_number(text: str) -> Decimal | str:
    return Decimal(text) if NUMBER.fullmatch(text) else text


def _refused(constant: str) -> None:
    raise ValueError("no number")


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated key")
    return found


_strictly = json.JSONDecoder(parse_float=_json_number, parse_int=_json_number,
                             parse_constant=_refused, object_pairs_hook=_object)


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _usd(body: Mapping, name: str) -> object:
    """What stands for an amount: plain text, or the value of {value, currency}."""
    value = body.get(name)
    if not isinstance(value, dict):
        return value
    if value.get("currency", "USD") != "USD":
        raise Malformed(f"{name} is not in USD")
    return value.get("value")


def _money(body: Mapping, name: str) -> Decimal:
    return number(_usd(body, name), name)


def _positive(value: object, name: str) -> Decimal:
    found = number(value, name)
    if found <= 0:
        raise Malformed(f"{name} is not above zero")
    return found


def _not_negative(value: object, name: str) -> Decimal:
    found = number(value, name)
    if found < 0:
        raise Malformed(f"{name} is below zero")
    return found


def _count(value: object, name: str) -> Decimal:
    """A number of contracts: whole, and not below zero."""
    found = _not_negative(value, name)
    if found % 1:
        raise Malformed(f"{name} is no number of contracts")
    return found


def _maybe(read: Callable, value: object, name: str):
    """Read what may be absent: null, an empty text or the year 1 mean that nobody says."""
    return None if value is None or value in ("", NEVER) else read(value, name)


# Products and prices


PRODUCT_ID = re.compile(r"[A-Z0-9]+(-[A-Z0-9]+)*")
SYMBOL_ROOT = re.compile(r"[A-Z0-9]{1,12}")
# Every one of these must be there and false; any other boolean that is true restricts as well,
# but for those that are known to mean nothing.
FLAGS = ("is_disabled", "trading_disabled", "cancel_only", "limit_only", "post_only", "view_only",
         "auction_mode")
HARMLESS = ("watched", "new", "is_alpha_testing", "hidden_from_discovery")
SESSION_OPEN = "FCM_TRADING_SESSION_STATE_OPEN"
# With one of these, no order is taken at all, as in a closed market.
NOTHING_TAKEN = ("is_disabled", "trading_disabled", "view_only", "cancel_only")


def symbol_of(row: Mapping) -> str | None:
    """Return `BTC-PERP` for a perpetual of the US futures venue; None for anything else.

    Not by expiry type, date, display name or prefix: those also fit what cannot be traded.  Its
    id becomes part of addresses, so that it must not be able to change one.
    """
    details = row.get("future_product_details")
    if row.get("product_venue") != "FCM" or not isinstance(details, dict):
        return None
    root, identity = word(details.get("contract_root_unit")), word(row.get("product_id"))
    is_named = SYMBOL_ROOT.fullmatch(root) and PRODUCT_ID.fullmatch(identity)
    if not word(details.get("funding_interval")) or not is_named:
        return None
    return f"{root}-PERP"


def contract_size(row: Mapping) -> Decimal | None:
    """Base units in one contract of any future of that venue; None where the row has none."""
    details = row.get("future_product_details")
    if row.get("product_venue") != "FCM" or not isinstance(details, dict):
        return None
    return _positive(details.get("contract_size"), "contract_size")


def product(row: Mapping, now: datetime, weekly_close: datetime) -> Product:
    """Return the product of a listing's row.  Raises Malformed where a size or step is missing.

    weekly_close  when the markets that trade around the clock close next after `now`
    """
    details, session = row["future_product_details"], row.get("fcm_trading_session_details")
    size, step = contract_size(row), _count(row.get("base_increment"), "base_increment")
    rates, restrictions = _margin_rates(details), _restrictions(row)
    return Product(
        symbol=symbol_of(row), product_id=text(row.get("product_id"), "product_id"),
        contract_size=size, quantity_increment=size * _positive(step, "base_increment"),
        price_increment=_positive(row.get("price_increment"), "price_increment"),
        min_quantity=size * _positive(row.get("base_min_size"), "base_min_size"),
        max_quantity=size * _positive(row.get("base_max_size"), "base_max_size"),
        min_notional=_maybe(_not_negative, row.get("quote_min_size"), "quote_min_size") or ZERO,
        long_margin_rate=rates[0], short_margin_rate=rates[1],
        tradable=not restrictions, note=", ".join(restrictions),
        is_session_open=isinstance(session, dict) and session.get("is_session_open") is True
        and not any(row.get(name) is True for name in NOTHING_TAKEN),
        closes_at=_closes_at(details, session, now, weekly_close),
        expires_at=_maybe(moment, details.get("contract_expiry"), "contract_expiry"),
    )


def _margin_rates(details: Mapping) -> tuple[Decimal, Decimal]:
    """The overnight rates, long and short; zeros, and a restriction, where the row has none."""
    rates = details.get("overnight_margin_rate")
    if not isinstance(rates, dict):
        return ZERO, ZERO
    return tuple(_positive(rates.get(f"{side}_margin_rate"), f"{side}_margin_rate")
                 for side in ("long", "short"))


def _restrictions(row: Mapping) -> list[str]:
    """Everything in a row that stands against a new entry."""
    found = [name for name in FLAGS if row.get(name) is not False]
    found += [name for name, value in row.items()
              if value is True and name not in (*FLAGS, *HARMLESS)]
    if not_open := _why_not_open(row.get("fcm_trading_session_details")):
        found.append(not_open)
    if not isinstance(row["future_product_details"].get("overnight_margin_rate"), dict):
        found.append("no overnight margin rate")
    return found


def _why_not_open(session: object) -> str:
    if not isinstance(session, dict):
        return "session unknown"
    if session.get("is_session_open") is not True:
        return f"session closed: {words(session.get('closed_reason')) or 'no reason given'}"
    if session.get("session_state") != SESSION_OPEN:
        return f"session state {words(session.get('session_state')) or 'unknown'}"
    return ""


def _closes_at(
    details: Mapping, session: object, now: datetime, weekly_close: datetime
) -> datetime | None:
    """The next planned close.  Around the clock, `close_time` is only the roll of the day."""
    session = session if isinstance(session, dict) else {}
    known = [weekly_close]
    if details.get("twenty_four_by_seven") is not True:
        known = [_maybe(moment, session.get("close_time"), "close_time")]
    if isinstance(window := session.get("maintenance"), dict):
        starts, ends = (_maybe(moment, window.get(f"{name}_time"), "maintenance")
                        for name in ("start", "end"))
        known.append(starts if ends is None or now < ends else None)
    return min((at for at in known if at is not None), default=None)


def funding_rate(row: Mapping) -> FundingRate | None:
    """The rate of the hour that ended last; the inner pair of `perpetual_details` is empty."""
    details = row["future_product_details"]
    rate = _maybe(number, details.get("funding_rate"), "funding_rate")
    at = _maybe(moment, details.get("funding_time"), "funding_time")
    return None if rate is None or at is None else FundingRate(symbol_of(row), rate, at)

def quote(book: Mapping, product: Product) -> Mark | None:
    """Return the mark of one price book; None where it is not two-sided, or crossed."""
    bids, asks = rows(book, "bids"), rows(book, "asks")
    levels = [level.get(name) for level in (*bids[:1], *asks[:1]) for name in ("price", "size")]
    return best(product, book.get("time"), *levels) if bids and asks else None


def best(product: Product, at: object, *levels: object) -> Mark | None:
    """Return the mark of the best bid and its size, the best ask and its size, as `quote`."""
    bid, bid_size, ask, ask_size = map(number, levels, ("price", "size") * 2)
    if not (0 < bid < ask and bid_size > 0 and ask_size > 0):
        return None
    size, at = product.contract_size, moment(at, "time")
    return Mark(product.symbol, (bid + ask) / 2, bid, ask, at, bid_size * size, ask_size * size)


def candle(row: Mapping, product: Product) -> Candle:
    start = number(row.get("start"), "start")
    if start % 1 or not 0 < start < 10**11:
        raise Malformed("start is not a time")
    prices = [_positive(row.get(name), name) for name in ("open", "high", "low", "close")]
    volume = number(row.get("volume"), "volume") * product.contract_size
    return Candle(datetime.fromtimestamp(int(start), UTC), *prices, volume)


# The account


def equity(body: Mapping) -> Decimal:
    """Cash of both accounts plus unrealized profit and loss, USD.  Malformed when nobody says."""
    summary = _summary(body)
    if summary.get("total_usd_balance") is not None:
        cash = _money(summary, "total_usd_balance")
    else:
        cash = _money(summary, "cbi_usd_balance") + _money(summary, "cfm_usd_balance")
    return cash + _money(summary, "unrealized_pnl")


def margin(body: Mapping) -> Margin | None:
    """The venue's margin numbers by the stricter window; None where one of them is missing."""
    summary = _summary(body)
    initial, available, threshold, unbooked = (
        _maybe(number, _usd(summary, name), name) for name in
        ("initial_margin", "available_margin", "liquidation_threshold", "funding_pnl"))
    if initial is None or available is None or threshold is None:
        return None
    overnight = summary.get("overnight_margin_window_measure")
    overnight = overnight if isinstance(overnight, dict) else {}
    stricter = _maybe(number, _usd(overnight, "initial_margin"), "overnight initial_margin")
    return Margin(max(initial, stricter or initial), available, threshold, unbooked)


def _summary(body: Mapping) -> dict:
    if "balance_summary" in body and body["balance_summary"] is None:
        raise Malformed("the balance is null: the account has no futures application")
    return part(body, "balance_summary")


def position(row: Mapping, symbol: str, size: Decimal | None) -> Position | None:
    """Return one position; None for a row of zero contracts, which lingers after a close.

    size  base units in one contract; None where nobody says: then its mark is without bound
    """
    count = _count(row.get("number_of_contracts"), "number_of_contracts")
    if not count:
        return None
    sign = {"LONG": 1, "SHORT": -1}.get(word(row.get("side")))
    if sign is None:
        raise Malformed(f"{symbol}: the position's side is unknown")
    entry, mark = (_positive(_usd(row, name), name)
                   for name in ("avg_entry_price", "current_price"))
    if size is None:
        return Position(symbol, sign * count, entry, Decimal("Infinity"))
    return Position(symbol, sign * count * size, entry, mark)


# Orders, and pages of them


# The venue's word          ours; every other one is an unknown outcome
STATUSES = {
    "PENDING":              OrderStatus.OPEN,
    "QUEUED":               OrderStatus.OPEN,
    "OPEN":                 OrderStatus.OPEN,
    "EDIT_QUEUED":          OrderStatus.OPEN,
    "CANCEL_QUEUED":        OrderStatus.CANCEL_QUEUED,
    "FILLED":               OrderStatus.FILLED,
    "CANCELLED":            OrderStatus.CANCELLED,
    "EXPIRED":              OrderStatus.EXPIRED,
    "FAILED":               OrderStatus.REJECTED,
}  # fmt: skip
SHAPES = {
    # the venue's key             type                   time in force     its stop price
    "market_market_ioc":         (OrderType.MARKET,      TimeInForce.IOC,  None),
    "sor_limit_ioc":             (OrderType.LIMIT,       TimeInForce.IOC,  None),
    "limit_limit_gtc":           (OrderType.LIMIT,       TimeInForce.GTC,  None),
    "limit_limit_gtd":           (OrderType.LIMIT,       TimeInForce.GTD,  None),
    "limit_limit_fok":           (OrderType.LIMIT,       TimeInForce.FOK,  None),
    "stop_limit_stop_limit_gtc": (OrderType.STOP_LIMIT,  TimeInForce.GTC,  "stop_price"),
    "stop_limit_stop_limit_gtd": (OrderType.STOP_LIMIT,  TimeInForce.GTD,  "stop_price"),
    "trigger_bracket_gtc":       (OrderType.BRACKET,     TimeInForce.GTC,  "stop_trigger_price"),
    "trigger_bracket_gtd":       (OrderType.BRACKET,     TimeInForce.GTD,  "stop_trigger_price"),
}  # fmt: skip
_KEYS = {(kind, force): key for key, (kind, force, _) in SHAPES.items()}


def order(row: Mapping, product: Product) -> Order:
    """Return one listed order.

    A configuration that we never send has no quantity here: it is somebody else's, and that it
    exists is all that matters of it.
    """
    size, created = product.contract_size, moment(row.get("created_time"), "created_time")
    status = STATUSES.get(word(row.get("status")), OrderStatus.UNKNOWN)
    if row.get("pending_cancel") is True and not status.is_terminal:
        status = OrderStatus.CANCEL_QUEUED
    average = _maybe(_not_negative, row.get("average_filled_price"), "average_filled_price")
    filled = _count(row.get("filled_size"), "filled_size")
    venue_id = text(row.get("order_id"), "order_id")
    # An order made in the app may have no id of its owner's.
    identity = word(row.get("client_order_id")) or f"venue-{venue_id}"
    return Order(
        identity, _intent(row, product), created, status, venue_id, size * filled, average or None,
        words(row.get("reject_reason"), row.get("reject_message"), row.get("cancel_message")),
        word(row.get("originating_order_id")))


def is_liquidation(row: Mapping) -> bool:
    return row.get("is_liquidation") is True or row.get("order_type") == "LIQUIDATION"


def _intent(row: Mapping, product: Product) -> OrderIntent:
    side, configuration = _side(row), row.get("order_configuration")
    key = next(iter(configuration), None) if isinstance(configuration, dict) else None
    foreign = OrderIntent(product.symbol, side, ZERO, reason="of a kind that we never send")
    if key not in SHAPES or len(configuration) > 1:
        return foreign
    (kind, force, stop), purpose = SHAPES[key], Purpose.STOP if SHAPES[key][2] else Purpose.ENTRY
    try:
        body = part(configuration, key)
        quantity = product.contract_size * _count(body.get("base_size"), "base_size")
        return OrderIntent(
            product.symbol, side, quantity, kind, purpose,
            _maybe(_positive, body.get("limit_price"), "limit_price"),
            _positive(body.get(stop), stop) if stop else None, force,
            _maybe(moment, body.get("end_time"), "end_time"), reason="found at the venue")
    except Malformed:  # of one of ours, the books know the intent; else that it exists is enough
        return foreign


def _side(row: Mapping) -> Side:
    side = {"BUY": Side.BUY, "SELL": Side.SELL}.get(word(row.get("side")))
    if side is None:
        raise Malformed("side is neither BUY nor SELL")
    return side


def fill(row: Mapping, product: Product, client_order_id: str, liquidates: bool) -> Fill:
    """Return one execution.  Raises Malformed for what is no plain fill in contracts."""
    is_plain = row.get("size_in_quote", False) is False
    if not is_plain or row.get("future_legs") or row.get("option_legs"):
        raise Malformed("the fill is not in contracts of one product")
    return Fill(
        text(row.get("entry_id"), "entry_id"), client_order_id, product.symbol, _side(row),
        product.contract_size * _positive(_count(row.get("size"), "size"), "size"),
        _positive(row.get("price"), "price"), number(row.get("commission"), "commission"),
        moment(row.get("trade_time"), "trade_time"), liquidates)


def create_body(order: Order, product: Product, attached_profit: Decimal | None) -> dict:
    """Return the body of a new order.

    attached_profit  the profit leg of the bracket that a resting entry carries, USD per base unit
    """
    intent = order.intent
    key = _KEYS[intent.order_type, intent.time_in_force]
    values = {"base_size": contracts(intent.quantity, product)}
    if intent.limit_price is not None:
        values["limit_price"] = f"{intent.limit_price:f}"
    if stop := SHAPES[key][2]:
        values[stop] = f"{intent.stop_price:f}"
    if intent.order_type is OrderType.STOP_LIMIT:
        up = "UP" if intent.side is Side.BUY else "DOWN"
        values["stop_direction"] = f"STOP_DIRECTION_STOP_{up}"
    if intent.time_in_force is TimeInForce.GTD:
        values["end_time"] = f"{intent.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    body = {"client_order_id": order.id, "product_id": product.product_id,
            "side": intent.side.value.upper(), "order_configuration": {key: values}}
    if intent.attached_stop_price is not None:
        body["attached_order_configuration"] = {"trigger_bracket_gtc": {
            "limit_price": f"{attached_profit:f}",
            "stop_trigger_price": f"{intent.attached_stop_price:f}"}}
    return body


def close_body(order: Order, product: Product) -> dict:
    return {"client_order_id": order.id, "product_id": product.product_id,
            "size": contracts(order.quantity, product)}


def contracts(quantity: Decimal, product: Product) -> str:
    """The only place where base units become contracts.  A part of one is refused here."""
    count, rest = divmod(quantity, product.contract_size)
    if rest or count < 1:
        code = "INVALID_SIZE_PRECISION"
        raise OrderRejected(code, f"{code}: {quantity:f} {product.symbol} is no whole number of "
                                  f"contracts of {product.contract_size:f}")
    return f"{count:f}"


# What an answer repeats of the order; the kind of order that closes a position; where a refusal
# gives its reason; the refusals that say that the order is there.
ECHOED = ("product_id", "side", "client_order_id")
CLOSES_AS = "market_market_ioc"
REASONS = ("new_order_failure_reason", "error", "preview_failure_reason")
DUPLICATE = "DUPLICATE_CLIENT_ORDER_ID"  # or a word that contains it


def accepted(answer: Mapping, sent: Mapping) -> str:
    """Return the venue's id of the order that the body `sent`, with its side, asked for.

    Raises OrderRejected (it said no) or OutcomeUnknown (it contradicts itself, or speaks of
    another order).
    """
    identity, (reasons, message) = _order_id(answer), _refusal(answer)
    if answer.get("success") is True and identity and not reasons:
        if _is_echo(answer, sent):
            return identity
        raise OutcomeUnknown(f"the answer speaks of another order, {identity}")
    if answer.get("success") is not False or identity:
        raise OutcomeUnknown("the answer contradicts itself")
    code = words(*reasons) or "NO_REASON_GIVEN"
    if any(isinstance(each, str) and DUPLICATE in each for each in reasons):
        raise OutcomeUnknown(f"{code}: an order with this id exists")
    raise OrderRejected(code, f"{code}: {message or 'the venue gave no words'}")


def _order_id(answer: Mapping) -> str:
    """The one order that the answer names; "" where it names none."""
    said = answer.get("success_response")
    inner = said.get("order_id") if isinstance(said, dict) else None
    named = [each for each in (inner, answer.get("order_id")) if each not in (None, "")]
    # A number, or a text that cannot be looked up, names an order all the same.
    if any(each != named[0] or not word(each) for each in named):
        raise OutcomeUnknown("the answer contradicts itself")
    return named[0] if named else ""


def _is_echo(answer: Mapping, sent: Mapping) -> bool:
    """Whether it repeats our order, and where it gives them, its kind and its size."""
    said, echo = answer.get("success_response"), answer.get("order_configuration")
    if not isinstance(said, dict) or any(said.get(name) != sent[name] for name in ECHOED):
        return False
    if not echo:
        return True
    (key, asked), = sent.get("order_configuration", {CLOSES_AS: sent}).items()
    try:
        size = number(part(part({"echo": echo}, "echo"), key).get("base_size"), "base_size")
    except Malformed:
        return False
    return size == Decimal(asked["size" if asked is sent else "base_size"])


def _refusal(answer: Mapping) -> tuple[list, str]:
    """What it gives as reasons, the one that says most first, and the venue's words."""
    error = answer.get("error_response")
    error = error if isinstance(error, dict) else {"error": error}
    given = [*(error.get(name) for name in REASONS), answer.get("failure_reason")]
    reasons = [each for each in given if each not in (None, "")
               and not (isinstance(each, str) and _is_filler(each))]
    return reasons, words(error.get("message"), error.get("error_details"))


def cancel_answers(body: Mapping) -> dict[str, str]:
    """Why the venue did not take a cancel, by its order id; "" where it did."""
    return {
        text(row.get("order_id"), "order_id"):
            "" if flag(row.get("success"), "success") else word(row.get("failure_reason")) or "?"
        for row in rows(body, "results")}

def next_cursor(body: Mapping, row_count: int) -> str:
    """Return where a list goes on; "" at its end.  Raises Malformed for an end that is none.

    Orders say whether there is more; fills do not, and their last page may carry a cursor.
    """
    cursor = body.get("cursor") or ""
    if cursor != "":
        cursor = text(cursor, "cursor")
    more = flag(body.get("has_next", bool(cursor and row_count)), "has_next")
    if more and (not cursor or not row_count):
        raise Malformed("a page that claims more than it tells")
    return cursor if more else ""


def more_products(body: Mapping) -> bool:
    """Whether the listing says that it goes on."""
    paging = body.get("pagination")
    return isinstance(paging, dict) and flag(paging.get("has_next", False), "has_next")

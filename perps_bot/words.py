"""Words: how is an event, or a number, told to a person?

One table: a sentence for each type of event, in plain words with units.  What is missing or is
not what it should be becomes "?", never a number; what a venue or a person wrote stays on its
line.  This room is pure, and never raises over what stands in a file: it may be anybody's.

    told(event)                  "bought 0.02 BTC-PERP at 70001 USD (entry), fee 14.00 USD; ..."
    number(value)                the Decimal in a JSON value, None where there is none
    usd, signed, percent, plain, rough  numbers as people read them, "?" for None
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from perps_bot.event import Event

UNKNOWN = "?"
# Digits before or after the point, and characters of one text: more is not ours.
MAGNITUDE_MAX, TEXT_LENGTH_MAX = 100, 500


def number(value: object) -> Decimal | None:
    """The finite number that `value` is or spells; None for everything else."""
    if isinstance(value, str) and len(value) <= 2 * MAGNITUDE_MAX and value.isascii():
        try:
            value = Decimal(value)
        except ArithmeticError:
            return None
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        return None
    value = Decimal(value)
    is_ours = value.is_finite() and abs(value.adjusted()) <= MAGNITUDE_MAX
    return value if is_ours and len(value.as_tuple().digits) <= 2 * MAGNITUDE_MAX else None


def text(value: object) -> str:
    """Foreign text of any kind, on one line; "?" where there is none."""
    if isinstance(value, dict | list) or value is None or value == "":
        return UNKNOWN
    said = value.isoformat() if isinstance(value, datetime) else str(value)[:TEXT_LENGTH_MAX]
    return said if said.isprintable() else ascii(said)[1:-1]


def plain(value: object) -> str:
    """All digits, without zeros at the end."""
    value = number(value)
    if value is None:
        return UNKNOWN
    said = f"{value:f}"
    return (said.rstrip("0").rstrip(".") if "." in said else said) or "0"


def rough(value: object, places: int = 2) -> str:
    """A measure rounded for people, without zeros at the end."""
    value = number(value)
    return UNKNOWN if value is None else plain(f"{value:.{places}f}")


def usd(value: object, form: str = ",") -> str:
    value = number(value)
    return UNKNOWN if value is None else f"{value:{form}.2f} USD"


def signed(value: object) -> str:
    """USD with its sign: what was gained, or moved."""
    return usd(value, "+,")


def percent(value: object, places: int = 2) -> str:
    value = number(value)
    return UNKNOWN if value is None else f"{value * 100:,.{places}f} %"


def fields_line(data: Mapping[str, object]) -> str:
    """One event's fields on one line, the nested ones left out."""
    said = []
    for name, value in data.items():
        if not isinstance(value, dict | list) and value not in (None, ""):
            each = value.isoformat() if isinstance(value, datetime) else str(value)
            # What a venue or a person wrote must not look like a line of its own.
            said.append(f"{name}={each if each.isprintable() else ascii(each)}")
    return " ".join(said)


def told(event: Event) -> str:
    """The event in one sentence; of a type that is not known here, its fields."""
    form = SENTENCES.get(event.type)
    if form is None:
        return text(f"{event.type}: {fields_line(event.data)}")
    if callable(form):
        return form(event.data)
    return form.format_map(_Fields(event.data))


class _Fields(dict):
    """An event's fields for a format: what is missing is "?"."""

    def __getitem__(self, name: str) -> "_Field":
        return _Field(self.get(name))


class _Field:
    """One field; the format says what it is: usd, signed, percent, plain, or by default text."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __format__(self, form: str) -> str:
        return FORMS[form](self._value)


FORMS = {"": text, "n": plain, "usd": usd, "signed": signed, "percent": percent,
         "rate": lambda value: percent(value, 4), "words": lambda value: _list(value)}


def _list(value: object) -> str:
    items = value if isinstance(value, list | tuple) else ()
    return ", ".join(map(text, items)) or "none"


def _say(form: str, data: Mapping) -> str:
    return form.format_map(_Fields(data))


def _held(data: Mapping, quantity: str = "position_quantity") -> str:
    held = number(data.get(quantity))
    if held is not None and not held:
        return "flat"
    side = UNKNOWN if held is None else "long" if held > 0 else "short"
    size = None if held is None else abs(held)
    return f"{side} {plain(size)} at {plain(data.get('entry_price'))}"


def _is_zero(value: object) -> bool:
    return number(value) == 0


def _signal(data: Mapping) -> str:
    wants = {"hold": "holds", "buy": "wants to buy", "sell": "wants to sell short",
             "close": "wants to close"}.get(text(data.get("action")), "decides ?")
    return _say("{symbol}: ", data) + wants + _say(" at {mark_price:n} USD: {reason}", data)


def _intended(data: Mapping) -> str:
    prices = "".join(f", {name} {plain(data[key])}" for key, name in (
        ("limit_price", "limit"), ("stop_price", "stop"), ("attached_stop_price", "with a stop"))
        if data.get(key) is not None)
    return _say("will send {purpose} order {client_order_id}: {side} {quantity:n} {symbol}, "
                "{order_type}", data) + prices + _say(": {reason}", data)


def _updated(data: Mapping) -> str:
    filled = "" if _is_zero(data.get("filled_quantity")) else _say(
        ", {filled_quantity:n} of {quantity:n} filled at {average_price:n}", data)
    answer = _say(": {answer}", data) if data.get("answer") else ""
    return _say("{symbol} {purpose} order {client_order_id} is {status}", data) + filled + answer


def _trade(data: Mapping) -> str:
    verb = {"buy": "bought", "sell": "sold"}.get(text(data.get("side")), UNKNOWN)
    who = "LIQUIDATED by the venue: " if data.get("is_liquidation") is True else ""
    earned = "" if _is_zero(data.get("realized_pnl")) else _say(
        ", realized {realized_pnl:signed}", data)
    return (f"{who}{verb} " + _say("{quantity:n} {symbol} at {price:n} USD ({purpose}), fee "
                                   "{fee:usd}", data) + f"{earned}; now {_held(data)}")


def _position(data: Mapping) -> str:
    held = _held(data, "quantity")
    gain = "" if held == "flat" else _say(", unrealized {unrealized_pnl:signed}", data)
    return _say("{symbol}: ", data) + held + gain


def _funding(data: Mapping) -> str:
    amount = number(data.get("amount"))
    verb = UNKNOWN if amount is None else "received" if amount < 0 else "paid"
    size = None if amount is None else abs(amount)
    return f"{verb} {usd(size)} of funding" + _say(" for {symbol} (rate {rate:rate})", data)


def _tied_out(data: Mapping) -> str:
    verdict = "explained" if data.get("explained") is True else "NOT explained"
    return _say("the day's account changed by {venue_change:signed}, our ledger by "
                "{ledger_change:signed}: ", data) + verdict + _say(
                    " (difference {difference:signed}, tolerance {tolerance:usd})", data)


def _refused(data: Mapping) -> str:
    rows = data.get("breaches")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    why = "; ".join(breach_words(row) for row in rows) or text(data.get("message"))
    return _say("not sent: {side} {quantity:n} {symbol} ({purpose}): ", data) + why


def breach_words(row: Mapping) -> str:
    """One broken limit: its code, what was measured and what is allowed."""
    said = _say("{code} measured {measured}, allowed {allowed}", row)
    return f"{said} {text(row['unit'])}" if row.get("unit") else said


def _state(data: Mapping) -> str:
    if data.get("state") == "TRADING":
        return _say("{kind} no longer holds trading back: {reason}", data)
    return _say("{state} because of {kind}: {reason} (was {before})", data)


def _stopped(data: Mapping) -> str:
    kept, stops = data.get("positions"), data.get("stops")
    kept, stops = (each if isinstance(each, dict) else {} for each in (kept, stops))
    said = ", ".join(f"{text(symbol)} {plain(held)} with its stop at "
                     f"{plain(stops.get(symbol)) if stops.get(symbol) is not None else 'NONE'}"
                     for symbol, held in kept.items()) or "none"
    left = _say("; orders NOT confirmed gone: {orders_left:words}", data) if data.get(
        "orders_left") else ""
    return _say("stopped: {reason} (exit code {exit_code})", data) + f"; positions: {said}{left}"


def _asked(data: Mapping) -> str:
    args = data.get("args")
    reason = args.get("reason") if isinstance(args, dict) else None
    return _say("the owner asked: {command}", data) + (f": {text(reason)}" if reason else "")


def _answered(data: Mapping) -> str:
    first = str(data.get("text") or UNKNOWN).partition("\n")[0]
    return _say("{command} was answered (exit code {exit_code}): ", data) + text(first)


def _warmed(data: Mapping) -> str:
    closes = data.get("closes")
    count = len(closes) if isinstance(closes, list) else UNKNOWN
    return _say("{symbol}: the averages were filled from ", data) + f"{count} candles"


def _alert(data: Mapping) -> str:
    about = _say(" ({about})", data) if data.get("about") else ""
    return _say("ALERT {code}", data) + about + _say(": {message}", data)


def _cleared(data: Mapping) -> str:
    about = _say(" ({about})", data) if data.get("about") else ""
    return _say("over: {code}", data) + about


SENTENCES = {
    # type               a form with the event's fields, or what makes the sentence of them
    "day.opened":          "a new day, {day}: equity {equity:usd}",
    "bot.started":         "started: version {version}, profile {profile}, broker {broker}, "
                           "{symbols:words}; equity {equity:usd}",
    "bot.stopped":         _stopped,
    "strategy.warmed":     _warmed,
    "strategy.signal":     _signal,
    "order.intended":      _intended,
    "order.updated":       _updated,
    "order.unknown":       "nobody knows whether {symbol} order {client_order_id} arrived: "
                           "{reason}; it is being looked up",
    "order.lost":          "{symbol} order {client_order_id} never reached the venue: {reason}",
    "trade.executed":      _trade,
    "position.updated":    _position,
    "funding.paid":        _funding,
    "funding.rate":        "funding rate of {symbol}: {rate:rate} for the hour to {ended_at}",
    "account.tied_out":    _tied_out,
    "stop.placed":         "stop for {quantity:n} {symbol} rests at the venue at {stop_price:n} "
                           "({seconds_unprotected:n} s without one)",
    "stop.moved":          "stop for {quantity:n} {symbol} moved to {stop_price:n} "
                           "({seconds_unprotected:n} s without one)",
    "stop.triggered":      "the stop of {symbol} at {stop_price:n} was filled at {price:n}",
    "risk.rejected":       _refused,
    "state.changed":       _state,
    "control.requested":   _asked,
    "control.answered":    _answered,
    "position.adopted":    "took over {symbol}: the venue holds {venue:n}, our events explained "
                           "{ours:n}",
    "reconcile.mismatch":  "{symbol}: our books said {ours:n}, the venue {venue:n}; the venue's "
                           "was taken over",
    "feed.stale":          "the {connection} feed cannot be trusted: {reason}; REST answers "
                           "instead",
    "feed.recovered":      "the {connection} feed can be trusted again: {reason}",
    "alert":               _alert,
    "alert.cleared":       _cleared,
    "alert.sent":          "the alert {code} was posted",
    "alert.failed":        "the alert {code} could not be posted: {reason}",
}  # fmt: skip

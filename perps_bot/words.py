"""Words: how is an event, or a number, told to a person?

One table: a sentence for each type of event, in plain words with units.  What is missing or is
not what it should be becomes "?", never a number; what a venue or a person wrote stays on its
line.  This room is pure, and never raises over what stands in a file: it may be anybody's.

    told(event)                  "bought 0.02 BTC-PERP at 70001 USD (entry), fee 14.00 USD; ..."
    number(value)                the Decimal in a JSON value, None where there is none
    usd, signed, percent, plain, rough  numbers as people read them, "?" for None
"""

from collections.abc import Callable, Mapping
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
    fields = _Fields(event.data)
    return form.format_map(fields) if isinstance(form, str) else form(fields)


def breach_words(row: Mapping) -> str:
    """One broken limit: its code, what was measured and what is allowed."""
    return "{code} measured {measured}, allowed {allowed}{unit:space}".format_map(_Fields(row))


def alert_words(row: Mapping) -> str:
    return "{code}{about:brackets}: {message}".format_map(_Fields(row))


class _Fields:
    """An event's fields, each as a format says it: {fee:usd}; what is missing is "?"."""

    def __init__(self, data: Mapping) -> None:
        self.data = data

    def __getitem__(self, name: str) -> "_Field":
        return _Field(self.data.get(name))


class _Field:
    def __init__(self, value: object) -> None:
        self._value = value

    def __format__(self, form: str) -> str:
        return FORMS[form](self._value)


def _list(value: object) -> str:
    return ", ".join(map(text, value if isinstance(value, list | tuple) else ())) or "none"


def _count(value: object) -> str:
    return str(len(value)) if isinstance(value, list | tuple) else UNKNOWN


def _paid(value: object) -> str:
    amount = number(value)
    if amount is None:
        return f"{UNKNOWN} {UNKNOWN}"
    return f"{'received' if amount < 0 else 'paid'} {usd(abs(amount))}"


def _chosen(**words: str) -> Callable[[object], str]:
    return lambda value: words.get(text(value), words["otherwise"])


def _if_any(form: str) -> Callable[[object], str]:
    """`form` with the text; nothing where there is none."""
    return lambda value: form.format(text(value)) if value else ""


FORMS = {
    "": text, "n": plain, "usd": usd, "signed": signed, "percent": percent,
    "rate": lambda value: percent(value, 4), "words": _list, "count": _count, "paid": _paid,
    # only where there is any
    "colon": _if_any(": {}"), "brackets": _if_any(" ({})"), "space": _if_any(" {}"),
    "gain": lambda value: "" if number(value) == 0 else f", realized {signed(value)}",
    # one word for another
    "wants": _chosen(hold="holds", buy="wants to buy", sell="wants to sell short",
                     close="wants to close", otherwise="decides ?"),
    "did": _chosen(buy="bought", sell="sold", otherwise=UNKNOWN),
    "whose": lambda value: "LIQUIDATED by the venue: " if value is True else "",
    "verdict": lambda value: "explained" if value is True else "NOT explained",
}


def held(quantity: object, entry_price: object) -> str:
    """What is held, as "long 0.02 at 70000"."""
    size = number(quantity)
    if size is None:
        return f"{UNKNOWN} {UNKNOWN} at {plain(entry_price)}"
    side = "long" if size > 0 else "short"
    return f"{side} {plain(abs(size))} at {plain(entry_price)}" if size else "flat"


def _intended(f: _Fields) -> str:
    prices = "".join(f", {name} {f[key]:n}" for key, name in (
        ("limit_price", "limit"), ("stop_price", "stop"), ("attached_stop_price", "with a stop"))
        if f.data.get(key) is not None)
    return (f"will send {f['purpose']} order {f['client_order_id']}: {f['side']} "
            f"{f['quantity']:n} {f['symbol']}, {f['order_type']}{prices}: {f['reason']}")


def _updated(f: _Fields) -> str:
    filled = "" if number(f.data.get("filled_quantity")) == 0 else (
        f", {f['filled_quantity']:n} of {f['quantity']:n} filled at {f['average_price']:n}")
    return (f"{f['symbol']} {f['purpose']} order {f['client_order_id']} is {f['status']}{filled}"
            f"{f['answer']:colon}")


def _trade(f: _Fields) -> str:
    now = held(f.data.get("position_quantity"), f.data.get("entry_price"))
    return (f"{f['is_liquidation']:whose}{f['side']:did} {f['quantity']:n} {f['symbol']} at "
            f"{f['price']:n} USD ({f['purpose']}), fee {f['fee']:usd}{f['realized_pnl']:gain}; "
            f"now {now}")


def _position(f: _Fields) -> str:
    now = held(f.data.get("quantity"), f.data.get("entry_price"))
    gain = "" if now == "flat" else f", unrealized {f['unrealized_pnl']:signed}"
    return f"{f['symbol']}: {now}{gain}"


def _refused(f: _Fields) -> str:
    rows = f.data.get("breaches")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    why = "; ".join(map(breach_words, rows)) or f"{f['message']}"
    return f"not sent: {f['side']} {f['quantity']:n} {f['symbol']} ({f['purpose']}): {why}"


def _state(f: _Fields) -> str:
    if f.data.get("state") == "TRADING":
        return f"{f['kind']} no longer holds trading back: {f['reason']}"
    return f"{f['state']} because of {f['kind']}: {f['reason']} (was {f['before']})"


def _stopped(f: _Fields) -> str:
    kept, stops = (value if isinstance(value, dict) else {}
                   for value in map(f.data.get, ("positions", "stops")))
    said = ", ".join(f"{text(symbol)} {plain(size)} with its stop at "
                     f"{'NONE' if stops.get(symbol) is None else plain(stops[symbol])}"
                     for symbol, size in kept.items()) or "none"
    left = f"; orders NOT confirmed gone: {f['orders_left']:words}"
    return (f"stopped: {f['reason']} (exit code {f['exit_code']}); positions: {said}"
            f"{left if f.data.get('orders_left') else ''}")


def _asked(f: _Fields) -> str:
    args = f.data.get("args")
    reason = args.get("reason") if isinstance(args, dict) else None
    return f"the owner asked: {f['command']}{FORMS['colon'](reason)}"


def _answered(f: _Fields) -> str:
    first = str(f.data.get("text") or UNKNOWN).partition("\n")[0]
    return f"{f['command']} was answered (exit code {f['exit_code']}): {text(first)}"


SENTENCES = {
    # type               the sentence with the event's fields, or what makes it of them
    "day.opened":          "a new day, {day}: equity {equity:usd}",
    "bot.started":         "started: version {version}, profile {profile}, broker {broker}, "
                           "{symbols:words}; equity {equity:usd}",
    "bot.stopped":         _stopped,
    "strategy.warmed":     "{symbol}: the averages were filled from {closes:count} candles",
    "strategy.signal":     "{symbol}: {action:wants} at {mark_price:n} USD: {reason}",
    "order.intended":      _intended,
    "order.updated":       _updated,
    "order.unknown":       "nobody knows whether {symbol} order {client_order_id} arrived: "
                           "{reason}; it is being looked up",
    "order.lost":          "{symbol} order {client_order_id} never reached the venue: {reason}",
    "trade.executed":      _trade,
    "position.updated":    _position,
    "funding.paid":        "{amount:paid} of funding for {symbol} (rate {rate:rate})",
    "funding.rate":        "funding rate of {symbol}: {rate:rate} for the hour to {ended_at}",
    "account.tied_out":    "the day's account changed by {venue_change:signed}, our ledger by "
                           "{ledger_change:signed}: {explained:verdict} (difference "
                           "{difference:signed}, tolerance {tolerance:usd})",
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
    "alert":               "ALERT {code}{about:brackets}: {message}",
    "alert.cleared":       "over: {code}{about:brackets}",
    "alert.sent":          "the alert {code} was posted",
    "alert.failed":        "the alert {code} could not be posted: {reason}",
}  # fmt: skip

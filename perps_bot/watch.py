"""Watch: how is the owner shown his bot?

What `sight` found of a bot, as lines for a terminal or as one object; nothing is read here but
keys.  What is old says so; what is not known is "?", and never a number; a file may hold anything,
and is only believed word by word.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal

from perps_bot.event import Event
from perps_bot.sight import (
    EVENTS_SCANNED_MAX, NOT_VERIFIED, OK, ROWS_SHOWN_MAX, Sight, ago, at_path, moment, rows_of,
)
from perps_bot.terminal import Screen, Terminal
from perps_bot.words import (
    UNKNOWN, held, number, percent, plain, rough, signed, text, told, usd,
)

# A picture stays for a second; signals are looked for more often.
LOOK_EVERY_SECONDS, LOOKS_PER_PICTURE = Decimal("0.2"), 5
HELP_LINES = [
    "q      quit", "space  the next page", "h      this help, and back", "",
    "as of    when the figures were written; it says so when they are not of now",
    "?        not known", "[##..]   how much of a limit is used", "",
    "The exit code of status, without --watch: 0 shown and well, 1 not well or not running,",
    "3 not known.",
]
LIMIT_NAMES = {
    "leverage_limit": "leverage", "max_exposure_pct": "margin of equity",
    "max_daily_loss_pct": "daily loss", "max_drawdown_pct": "drawdown",
    "max_orders_per_minute": "entries a minute", "max_messages_per_second": "orders a second",
    "max_position_pct_per_symbol": "margin of equity",
    "max_daily_turnover": "turnover, positions", "max_entries_per_hour": "entries an hour",
    "max_orders_per_minute_per_symbol": "entries a minute", "max_spread_pct": "bid to ask",
    "mark_staleness_seconds_max": "age of the mark", "max_mark_move_pct": "move in a minute",
    "quote_staleness_seconds_max": "age of the quote", "max_order_notional": "value",
    "max_order_qty": "size", "price_collar_pct": "limit beyond the mark",
    "max_top_of_book_pct": "of the best price's size", "duplicate_window_seconds": "repeats after",
}


def as_json(sight: Sight) -> dict[str, object]:
    """Everything in one object: last_state.json, with health, what it is worth, and events."""
    code, why = sight.verdict()
    events, trouble = sight.events
    return {
        **(sight.state or {}), "health": sight.health, "is_current": sight.is_current(),
        "is_running": sight.holder is not None, "exit_code": code, "why": why,
        "troubles": [*sight.troubles, *filter(None, [trouble])],
        "last_events": [{"seq": event.seq, "ts": event.at, "type": event.type, "text": told(event)}
                        for event in events],
    }


def status_code(sight: Sight) -> int:
    """What `status` exits with: something that cannot be read is never a yes."""
    is_whole = sight.is_current() and not sight.troubles and not sight.events[1]
    return sight.verdict()[0] or (OK if is_whole else NOT_VERIFIED)


def redraw(screen: Screen, lines: Callable[[], list[str]], is_over: Callable[[], bool]) -> None:
    """Show `lines` anew every second until q; space turns the page, h says what words mean."""
    page, shows_help = 0, False
    while True:
        screen.show(HELP_LINES if shows_help else lines(), 0 if shows_help else page)
        for _ in range(LOOKS_PER_PICTURE):
            key = screen.key(LOOK_EVERY_SECONDS)
            if key == "q" or is_over():
                return
            if key:
                page += key == " " and not shows_help
                shows_help = key == "h" and not shows_help
                break


# What is shown


def status_lines(sight: Sight, terminal: Terminal) -> list[str]:
    """All of it, for a person; the most urgent comes first."""
    events, trouble = sight.events
    lines = [*_head(sight, terminal), *_since(sight, terminal, events)]
    for title, rows_of_it, draw in (
        ("Alerts", _alerts(sight), terminal.rows), ("Account", _account(sight), terminal.rows),
        ("Positions", _positions(sight), terminal.rows), ("Orders", _orders(sight), terminal.rows),
        *((title, gauges, terminal.gauges) for title, gauges in _limits(sight)),
        ("Limits of each order", _order_limits(sight), terminal.rows),
        ("Today", _today(sight), terminal.rows), ("Market", _market(sight), terminal.rows),
    ):
        if rows := list(rows_of_it):
            lines += [terminal.heading(title), *draw(rows)]
    lines.append(terminal.heading("Last events, UTC"))
    lines += [line for event in events
              for line in terminal.wrapped(f"  {event.at:%H:%M:%S} {told(event)}", 4)]
    none = trouble or ("" if events else f"none among the newest {EVENTS_SCANNED_MAX}")
    return lines + [f"  {none}"] * bool(none)


Rows = Iterator[tuple[str, ...]]


def _head(sight: Sight, terminal: Terminal) -> Iterator[str]:
    code, why = sight.verdict()
    at, current = moment(at_path(sight.state, "timestamp")), sight.is_current()
    said = sight.health or sight.state
    profile, broker, state = (text(at_path(said, name))
                              for name in ("profile", "broker", "trading_state"))
    was = "was " * bool(said and not current)
    yield from terminal.wrapped(f"perps-bot {profile} ({broker}): {was}{state}", 2, "bold")
    yield from terminal.wrapped(why, 2, "good" if code == OK else "bad")
    age = UNKNOWN if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC, {ago(sight.now - at)} ago"
    yield from terminal.wrapped(
        f"as of {age}" if current else f"as of {age}: NOTHING BELOW IS CURRENT", 2,
        "plain" if current else "bad")
    for trouble in sight.troubles:
        yield from terminal.wrapped(trouble, 2, "bad")
    holds = at_path(sight.state, "holds")
    for kind, hold in holds.items() if isinstance(holds, Mapping) else ():
        yield from terminal.wrapped(f"{text(at_path(hold, 'state'))} because of {text(kind)}: "
                                    f"{text(at_path(hold, 'reason'))}", 2, "warn")


def _since(sight: Sight, terminal: Terminal, events: Iterable[Event]) -> Iterator[str]:
    """What became of the trading state after the figures: a dead bot's halt is in the events."""
    at = moment(at_path(sight.state, "timestamp"))
    for event in () if sight.is_current() else events:
        if event.type == "state.changed" and (at is None or event.at > at):
            yield from terminal.wrapped(f"since then: {told(event)}", 2, "warn")


def _alerts(sight: Sight) -> Rows:
    for row in rows_of(at_path(sight.health, "alerts")):
        about = f" {text(row['about'])}" if row.get("about") else ""
        yield (f"{text(row.get('code'))}{about}",
               f"{text(row.get('message'))} (since {text(row.get('since'))[:19]})", "bad")
    delivery = at_path(sight.health, "delivery")
    for name, row in delivery.items() if isinstance(delivery, Mapping) else ():
        if isinstance(row, Mapping) and row.get("ok") is not True:
            yield f"{text(name)} fails", text(row.get("error")), "bad"


def _account(sight: Sight) -> Rows:
    row, day = at_path(sight.state, "account"), at_path(sight.state, "daily_loss")
    loss = number(at_path(day, "loss"))
    yield "equity", f"{usd(at_path(row, 'equity'))}, venue {usd(at_path(row, 'venue_equity'))}"
    yield "today", f"{signed(None if loss is None else -loss)}", _tone(loss)
    for name in ("realized", "unrealized"):
        yield name, signed(at_path(row, f"{name}_pnl"))
    yield "fees", f"{usd(at_path(row, 'fees'))} paid"
    yield "funding", f"{usd(at_path(row, 'funding'))} paid"
    margin, is_armed = at_path(sight.state, "margin"), at_path(sight.health, "liquidation_guard")
    if isinstance(margin, Mapping):
        yield "margin", (f"{usd(margin.get('available'))} available, liquidates at "
                         f"{usd(margin.get('threshold'))}")
    if is_armed != "armed":
        yield "liquidation guard", text(is_armed), "warn"


def _positions(sight: Sight) -> Rows:
    rows = rows_of(at_path(sight.state, "positions"))
    for row in rows:
        gain = number(row.get("unrealized_pnl"))
        yield (text(row.get("symbol")), f"{held(row.get('quantity'), row.get('entry_price'))}, "
               f"mark {plain(row.get('mark_price'))}")
        yield "  P&L", f"{signed(gain)}, realized {signed(row.get('realized_pnl'))}", _tone(
            None if gain is None else -gain)
        yield "  costs", f"fees {usd(row.get('fees'))}, funding {usd(row.get('funding'))}"
        yield _stop(row)
        yield "  liquidation", _distance(row)
    if not rows:
        is_known = isinstance(at_path(sight.state, "positions"), list)
        yield "none", "flat" if is_known else UNKNOWN


def _stop(row: Mapping) -> tuple[str, ...]:
    orders = row.get("stop_orders")
    names = ", ".join(map(text, orders[:ROWS_SHOWN_MAX])) if isinstance(orders, list) else UNKNOWN
    if row.get("is_protected") is not True:
        return "  stop", "NONE that covers it at the venue", "bad"
    return "  stop", (f"{plain(row.get('stop_price'))} for {plain(row.get('stop_quantity'))} at "
                      f"the venue, order {names or UNKNOWN}")


def _distance(row: Mapping) -> str:
    distance = number(row.get("liquidation_distance_pct"))
    if distance is None:
        return f"{UNKNOWN} (the venue gives no margin figures)"
    return "100 % away or more" if distance >= 1 else f"at least {percent(distance)} away"


def _orders(sight: Sight) -> Rows:
    for row in rows_of(at_path(sight.state, "orders")):
        if row.get("purpose") != "stop" or row.get("status") != "open":
            yield text(row.get("client_order_id")), (
                f"{text(row.get('symbol'))} {text(row.get('purpose'))} {text(row.get('side'))} "
                f"{plain(row.get('remaining'))}: {text(row.get('status'))}")


def _limits(sight: Sight) -> Iterator[tuple[str, list[tuple]]]:
    """Limits by what they are of: the account first, then each symbol."""
    groups: dict[str, list[tuple]] = {}
    for row in rows_of(at_path(sight.state, "limits")):
        if row.get("is_per_order") is not True:
            used, allowed = number(row.get("used")), number(row.get("allowed"))
            symbol = f"Limits of {text(row['symbol'])}" if row.get("symbol") else "Limits"
            groups.setdefault(symbol, []).append((
                _limit_name(row), used, allowed,
                f"{_amount(used, row)} of {_amount(allowed, row)}{_unit(row)}"))
    yield from groups.items()


def _order_limits(sight: Sight) -> Rows:
    said = [f"{_limit_name(row)} {_amount(number(row.get('allowed')), row)}{_unit(row)}"
            for row in rows_of(at_path(sight.state, "limits")) if row.get("is_per_order") is True]
    if said:
        yield "at most", ", ".join(said)


def _limit_name(row: Mapping) -> str:
    name = text(row.get("limit"))
    return LIMIT_NAMES.get(name) or name.removeprefix("max_").replace("_", " ")


def _amount(value: Decimal | None, row: Mapping) -> str:
    if value is not None and text(row.get("unit")).startswith("of "):
        return f"{rough(value * 100)} %"
    return f"{value:,.2f}" if value is not None and row.get("unit") == "USD" else rough(value)


def _unit(row: Mapping) -> str:
    return {"USD": " USD", "s": " s", "x equity": "x", "contracts": " contracts"}.get(
        text(row.get("unit")), "")


def _today(sight: Sight) -> Rows:
    for label, part, whole, what, rate in (
        ("signals", "signals", "decisions", "decisions", "signal_rate"),
        ("orders", "accepted", "sent", "accepted", "order_success_rate"),
    ):
        part, whole = (plain(at_path(sight.state, "today", name)) for name in (part, whole))
        share = number(at_path(sight.state, rate))
        said = "no rate" if share is None else percent(share)
        yield label, f"{part} of {whole} {what}, {said}"


def _market(sight: Sight) -> Rows:
    symbols, decisions = (at_path(sight.state, name) for name in ("symbols", "last_decisions"))
    for symbol, row in symbols.items() if isinstance(symbols, Mapping) else ():
        price, age = plain(at_path(row, "mark_price")), rough(at_path(row, "mark_age_seconds"), 1)
        is_open = at_path(row, "is_session_open")
        session = "open" if is_open is True else "CLOSED" if is_open is False else UNKNOWN
        yield text(symbol), (f"mark {price}, {age} s old at the tick; session {session}; decision "
                             f"{text(at_path(decisions, symbol))}")
    feed = at_path(sight.health, "feed")
    for name, row in feed.items() if isinstance(feed, Mapping) else ():
        is_stale = at_path(row, "stale") is not False
        yield (f"feed {text(name)}", f"{'STALE' if is_stale else 'fresh'}, last message "
               f"{plain(at_path(row, 'age_seconds'))} s before the tick", "warn" if is_stale
               else "plain")


def _tone(loss: Decimal | None) -> str:
    return "plain" if not loss else "bad" if loss > 0 else "good"

"""Metrics: how does a monitor read the figures?

The figures of last_state.json and health.json as Prometheus text for node exporter's textfile
collector: units in the names, one profile in the labels, a figure that is not known left out.
This room is pure and computes nothing: what stands in the files is what it says.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PREFIX = "perps_bot_"
STATES = ("TRADING", "REDUCING", "HALTED")

ACCOUNT = (
    # where in last_state.json               metric                             what it is
    ("timestamp",                            "state_timestamp_seconds",         "of the tick"),
    ("account equity",                       "equity_usd",                      "by our books"),
    ("account venue_equity",                 "venue_equity_usd",                "as last read"),
    ("account start_equity",                 "start_equity_usd",                "as books began"),
    ("account realized_pnl",                 "realized_pnl_usd",                "since they began"),
    ("account unrealized_pnl",               "unrealized_pnl_usd",              "at the marks"),
    ("account fees",                         "fees_paid_usd",                   "since they began"),
    ("account funding",                      "funding_paid_usd",                "since they began"),
    ("margin initial",                       "margin_initial_usd",              "the venue's"),
    ("margin available",                     "margin_available_usd",            "the venue's"),
    ("margin threshold",                     "margin_threshold_usd",            "liquidates there"),
    ("margin ratio",                         "margin_ratio",      "available over the threshold"),
    ("daily_loss loss",                      "daily_loss_usd",    "since midnight UTC"),
    ("daily_loss limit",                     "daily_loss_limit_usd",            "stops entries"),
    ("daily_loss day_start_equity",          "day_start_equity_usd",            "at midnight UTC"),
    ("leverage used",                        "leverage_ratio",    "notional over equity"),
    ("leverage limit",                       "leverage_limit_ratio",            "the strictest"),
    ("signal_rate",                          "signals_ratio",     "of today's decisions"),
    ("order_success_rate",                   "orders_accepted_ratio", "of today's orders"),
    ("today decisions",                      "today_decisions",   "since midnight UTC"),
    ("today signals",                        "today_signals",     "decisions other than hold"),
    ("today sent",                           "today_orders_sent", "since midnight UTC"),
    ("today accepted",                       "today_orders_accepted", "since midnight UTC"),
)  # fmt: skip
POSITION = (
    # in a row of positions       metric                                   what it is
    ("entry_price",               "position_entry_price_usd",              "average"),
    ("mark_price",                "position_mark_price_usd",               "of its value"),
    ("notional",                  "position_notional_usd",                 "at the mark"),
    ("unrealized_pnl",            "position_unrealized_pnl_usd",           "at the mark"),
    ("realized_pnl",              "position_realized_pnl_usd",             "since books began"),
    ("fees",                      "position_fees_paid_usd",                "since books began"),
    ("funding",                   "position_funding_paid_usd",             "since books began"),
    ("stop_price",                "position_stop_price_usd",               "rests at the venue"),
    ("stop_quantity",             "position_stop_quantity_base_units",     "of its open stops"),
    ("is_protected",              "position_is_protected",                 "do stops cover it"),
    ("liquidation_distance_pct",  "position_liquidation_distance_ratio",   "of the mark, at least"),
)  # fmt: skip
SYMBOL = (
    # in a row of symbols         metric                                   what it is
    ("position_quantity",         "position_quantity_base_units",          "above zero is long"),
    ("mark_price",                "mark_price_usd",                        "the newest"),
    ("bid",                       "bid_price_usd",                         "the newest"),
    ("ask",                       "ask_price_usd",                         "the newest"),
    ("mark_age_seconds",          "mark_age_seconds",                      "at the last tick"),
    ("is_session_open",           "session_is_open",                       "at the venue"),
    ("is_tradable",               "is_tradable",                           "at the venue"),
)  # fmt: skip
FEED = (
    # in a connection             metric                                   what it is
    ("age_seconds",               "feed_age_seconds",                      "of the last message"),
    ("stale",                     "feed_is_stale",                         "whether REST answers"),
    ("connects",                  "feed_connects_total",                   "attempts"),
    ("gaps",                      "feed_gaps_total",                       "messages lost"),
    ("repeats",                   "feed_repeats_total",                    "messages told again"),
    ("errors",                    "feed_errors_total",                     "error messages"),
    ("unusable",                  "feed_unusable_total",                   "not understood"),
)  # fmt: skip
DELIVERY = (
    ("ok",                        "delivery_is_ok",                        "the last was taken"),
    ("waiting",                   "delivery_waiting_posts",                "in the queue"),
    ("sent",                      "delivery_sent_total",                   "taken"),
    ("failed",                    "delivery_failed_total",                 "not taken"),
    ("dropped",                   "delivery_dropped_total",                "queue full"),
)  # fmt: skip
HEALTH = (
    ("ok",                        "health_is_ok",                          "as health.json says"),
    ("valid_until",               "health_valid_until_timestamp_seconds",  "after it, it expired"),
)  # fmt: skip
# The unit of a limit, and how a metric's name says it.
UNITS = {"USD": "usd", "s": "seconds", "contracts": "contracts", "a minute": "orders",
         "a second": "orders", "an hour": "orders", "orders": "orders", "in a row": "round_trips"}

Sample = tuple[str, str, str, object]  # metric, what it is, labels as they are written, value
NAMES_MAX = 200  # of limits, that are remembered


def exposition(state: Mapping, health: Mapping) -> str:
    """The text of metrics.prom; what is None, or no number, is left out."""
    families: dict[tuple[str, str], list[str]] = {}
    first = _labels(profile=state["profile"]).removeprefix(",")
    for name, what, labels, value in _samples(state, health):
        if (said := _value(value)) is not None:
            lines = families.setdefault((name, what), [])
            lines.append(f"{PREFIX}{name}{{{first}{labels}}} {said}\n")
    return "".join(_head(name, what) + "".join(lines) for (name, what), lines in families.items())


def _head(name: str, what: str) -> str:
    kind = "counter" if name.endswith("_total") else "gauge"
    return f"# HELP {PREFIX}{name} {what}\n# TYPE {PREFIX}{name} {kind}\n"


def _labels(**labels: object) -> str:
    return "".join([f',{key}="{_escaped(str(each))}"' for key, each in labels.items()])


@lru_cache(maxsize=NAMES_MAX)
def limit_metric(limit: str, unit: str) -> tuple[str, str]:
    """A limit's name without its unit, and the unit as names end with it."""
    for words in ("_pct", "_seconds_max", "_seconds"):
        limit = limit.removesuffix(words)
    return limit.removeprefix("max_"), UNITS.get(unit, "ratio")


def _samples(state: Mapping, health: Mapping) -> Iterator[Sample]:
    yield from _figures(ACCOUNT, state, "")
    for row in state["positions"]:
        yield from _figures(POSITION, row, _labels(symbol=row["symbol"]))
    for symbol, row in state["symbols"].items():
        yield from _figures(SYMBOL, row, _labels(symbol=symbol))
    yield from _limits(state["limits"])
    for connection, row in (health["feed"] or {}).items():
        yield from _figures(FEED, row, _labels(connection=connection))
    for address, row in (health["delivery"] or {}).items():
        yield from _figures(DELIVERY, row or {}, _labels(address=address))
    yield from _figures(HEALTH, health, "")
    yield from _states(state, health)


def _figures(table: tuple, row: Mapping, labels: str) -> Iterator[Sample]:
    for path, name, what in table:
        value: object = row
        for key in path.split():
            value = value.get(key) if isinstance(value, dict) else None
        yield name, what, labels, value


def _limits(rows: list[Mapping]) -> Iterator[Sample]:
    for row in rows:
        name, unit = limit_metric(row["limit"], row["unit"])
        labels = _labels(symbol=row["symbol"]) if row["symbol"] else ""
        for key in ("used", "allowed"):
            yield f"limit_{name}_{key}_{unit}", f"of {row['limit']}", labels, row[key]


def _states(state: Mapping, health: Mapping) -> Iterator[Sample]:
    """What is one of several words: 1 for the one that it is."""
    for each in STATES:
        yield ("trading_state", "what the bot may do", _labels(state=each),
               each == state["trading_state"])
    for kind, hold in state["holds"].items():
        yield "hold", "why trading is held", _labels(kind=kind, state=hold["state"]), True
    for symbol, action in state["last_decisions"].items():
        yield "last_decision", "of the strategy", _labels(symbol=symbol, action=action), True
    for alert in health["alerts"]:
        labels = _labels(code=alert["code"], about=alert["about"])
        yield "alert", "stands now", labels, True
    counts: dict[tuple, int] = {}
    for order in state["orders"]:
        key = tuple(str(order[name]) for name in ("symbol", "purpose", "status"))
        counts[key] = counts.get(key, 0) + 1
    for (symbol, purpose, status), count in counts.items():
        labels = _labels(symbol=symbol, purpose=purpose, status=status)
        yield "outstanding_orders", "that are not finished", labels, count
    labels = {name: health[name] for name in ("version", "broker", "settings_hash")}
    yield "info", "what runs", _labels(**labels), True


def _value(value: object) -> str | None:
    if isinstance(value, datetime):
        value = Decimal((value - EPOCH) // timedelta(milliseconds=1)) / 1000
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(int(value)) if isinstance(value, int) else None


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

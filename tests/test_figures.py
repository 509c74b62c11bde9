"""What the owner and a monitor see: `perps_bot/figures.py` and `metrics.py`."""

import json
import re
from datetime import datetime
from decimal import Decimal

import pytest
from test_ops import BTC, ETH, SECOND, ADesk

from perps_bot.figures import figures
from perps_bot.market import SyntheticMarket
from perps_bot.metrics import exposition, limit_metric
from perps_bot.model import Account, Margin, OrderStatus, Purpose, TradingState
from perps_bot.paper import PaperBroker
from perps_bot.settings import resolve
from perps_bot.figures import PER_ORDER, Use
from perps_bot.words import number
from words import replace


@pytest.fixture
def desk(tmp_path):
    return ADesk(tmp_path, symbols=[BTC, ETH]).tick()


@pytest.fixture
def held(desk):
    """A long of 0.01 BTC behind its stop."""
    desk.bot.strategy._memory(BTC).side = None
    desk.buy("0.01")
    return desk.tick()


def limits(state, symbol=""):
    return {row["limit"]: row for row in state["limits"] if row["symbol"] == symbol}


# The figures


def test_before_the_venue_was_read_nothing_is_known_and_nothing_is_zero(tmp_path):
    desk = ADesk(tmp_path, symbols=[BTC])
    state = figures(desk.bot, desk.now, desk.surfaces._counts)
    assert state["account"]["equity"] is state["account"]["venue_equity"] is None
    assert state["daily_loss"]["limit"] is state["daily_loss"]["day_start_equity"] is None
    assert state["margin"] is state["symbols"][BTC]["mark_price"] is None
    assert {row["used"] for row in limits(state).values() if "of " in row["unit"]} <= {
        None, Decimal(0)}
    assert limits(state)["leverage_limit"]["used"] is None


def test_a_position_shows_its_stop_at_the_venue_and_how_far_liquidation_is(held):
    (row,) = held.state()["positions"]
    (stop,) = [o for o in held.bot.engine.outstanding(BTC) if o.purpose is Purpose.STOP]
    assert (row["stop_quantity"], row["is_protected"]) == ("0.01", True)
    assert row["stop_orders"] == [stop.venue_order_id or stop.id]
    notional = Decimal("0.01") * Decimal(row["mark_price"])
    assert Decimal(row["notional"]) == notional
    margin = {name: Decimal(value) for name, value in held.state()["margin"].items()}
    distance = Decimal(row["liquidation_distance_pct"])
    # A fall by so much leaves the venue's threshold unreached, by its own figures.
    assert margin["available"] - notional * distance >= margin["threshold"] * (1 - distance)
    assert 0 < distance <= (margin["available"] - margin["threshold"]) / notional


@pytest.mark.parametrize("margin", [None, Margin(Decimal(0), Decimal(5), Decimal(0))])
def test_without_the_venues_margin_no_distance_is_shown(held, margin):
    held.bot.engine.margin = margin
    state = figures(held.bot, held.now, held.surfaces._counts)
    assert state["positions"][0]["liquidation_distance_pct"] is None


def test_a_stop_that_is_gone_is_shown_as_gone(held):
    stops = [o for o in held.bot.engine.outstanding(BTC) if o.purpose is Purpose.STOP]
    held.bot.engine.cancel(stops)
    row = figures(held.bot, held.now, held.surfaces._counts)["positions"][0]
    assert (row["stop_price"], row["stop_quantity"], row["stop_orders"], row["is_protected"]) == (
        None, 0, [], False)


def test_a_hold_says_what_it_allows_why_and_since_when(desk):
    desk.bot.risk.hold("operator", TradingState.REDUCING, "dinner")
    assert desk.tick().state()["holds"] == {"operator": {
        "state": "REDUCING", "reason": "dinner", "since": (desk.now - SECOND).isoformat()}}


@pytest.mark.parametrize("initial, available, threshold", [
    ("1", "10000", "-1000000000"),
    ("1", "100000000000000", "0.000000000000000001"),
    ("1", "-100000000000000", "0.000000000000000001"),
    ("-1", "-1", "999999999999999"),
])
@pytest.mark.parametrize("equity", ["0.000000000000000001", "0", "-5", "999999999999999"])
def test_no_figure_of_the_venues_ends_a_bot_that_holds_a_position(
    held, initial, available, threshold, equity
):
    """The venue's words are numbers of up to 15 digits before the point and 18 after it."""
    venue = held.bot.venue
    venue.margin = lambda: Margin(Decimal(initial), Decimal(available), Decimal(threshold))
    venue.equity = lambda: Decimal(equity)
    held.bot.engine.picture()
    held.surfaces.publish(held.bot, held.now + 2 * SECOND)
    assert held.state()["margin"]["available"] == available
    assert held.state()["timestamp"] == (held.now + 2 * SECOND).isoformat()


# How much of each limit is used


def test_every_limit_in_force_has_its_row_and_one_that_is_not_set_has_none(desk):
    state, config = desk.state(), desk.bot.risk.config
    shown = {row["limit"] for row in state["limits"]}
    known = {name for name, value in vars(config).items()
             if name.startswith(("max_", "price_", "quote_", "mark_", "duplicate_"))
             and value is not None and name not in ("max_leverage",)}
    assert shown == known | {"leverage_limit"}
    assert "max_losses_in_a_row" not in shown
    assert {row["symbol"] for row in state["limits"]} == {"", BTC, ETH}
    assert {row["limit"] for row in state["limits"] if row["used"] is None} == {
        row["limit"] for row in state["limits"] if row["is_per_order"]} <= {
        name for name, *_ in PER_ORDER}


def test_what_is_used_is_measured_as_the_gate_does(held):
    state = held.state()
    mark = held.bot.engine.marks[BTC]
    equity, worst = Decimal(state["account"]["equity"]), Decimal("0.01") * mark.ask
    leverage = held.bot.risk.config.leverage_in_force(
        held.bot.catalog.get(BTC), held.bot.tracker.get_position(BTC).side)
    used = {name: row["used"] for name, row in limits(state).items()}
    own = {name: row["used"] for name, row in limits(state, BTC).items()}
    for measured, expected in (
            (used["leverage_limit"], worst / equity),
            (used["max_exposure_pct"], worst / leverage / equity),
            (own["max_position_pct_per_symbol"], worst / leverage / equity),
            (used["max_daily_loss_pct"], Decimal(state["daily_loss"]["loss"]) / equity)):
        assert abs(Decimal(measured) - expected) < Decimal("0.0002")
    assert Decimal(own["max_position"]) == worst
    assert max(len(each.partition(".")[2]) for each in used.values() if each) <= 10
    assert (own["max_open_orders"], own["max_entries_per_hour"]) == ("1", "1")
    assert (used["max_orders_per_minute"], used["max_unknown_orders"]) == ("1", "0")
    assert Decimal(own["max_daily_turnover"]) > 0
    assert limits(state, ETH)["max_position"]["used"] == "0"


def test_an_order_of_unknown_outcome_counts_and_what_has_no_price_is_unknown(held):
    engine = held.bot.engine
    order = engine.outstanding(BTC)[0]
    account = replace(engine.books(), outstanding=(replace(order, status=OrderStatus.UNKNOWN),),
                      marks={}, foreign_notional=Decimal("Infinity"))
    risk = held.bot.risk
    rows = {row["limit"]: row["used"] for row in Use(account, risk.config, risk.flow, {}).rows(())}
    assert rows["max_unknown_orders"] == 1
    assert rows["leverage_limit"] is rows["max_exposure_pct"] is None
    account = replace(account, positions={})
    rows = {row["limit"]: row["used"]
            for row in Use(account, risk.config, risk.flow, {}).rows((BTC,))}
    assert rows["max_position"] is rows["max_position_pct_per_symbol"] is None


def test_use_of_an_account_without_equity_is_unknown():
    config = resolve({}, {})
    desk = PaperBroker(SyntheticMarket())
    assert desk.equity() == config.paper_equity
    account = Account(datetime.now().astimezone(), Decimal(0))
    assert Use(account, None, None, {}).loss("") is None


# metrics.prom

SAMPLE = re.compile(r'([a-z_][a-z0-9_]*)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (-?[0-9.]+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def parsed(text):
    """{(name, labels): value}; refuses what a scraper would."""
    assert text.endswith("\n")
    samples, kinds, helped, last = {}, {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, what = line.split(" ", 3)
            assert what and name not in helped
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds and name in helped and kind in ("gauge", "counter")
            assert (kind == "counter") == name.endswith("_total")
            kinds[name], last = kind, name
        else:
            name, inside, value = SAMPLE.fullmatch(line).groups()
            assert name == last, "a family's samples stand together"
            unescaped = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
            labels = {key: re.sub(r"\\.", lambda found: unescaped[found[0]], each)
                      for key, each in LABEL.findall(inside)}
            key = name, frozenset(labels.items())
            assert key not in samples
            samples[key] = Decimal(value)
    return samples


def metrics(desk):
    samples = parsed((desk.folder / "metrics.prom").read_text())
    assert {dict(labels)["profile"] for _, labels in samples} == {"dev"}
    return {(name.removeprefix("perps_bot_"),
             *(v for k, v in sorted(labels) if k != "profile")): value
            for (name, labels), value in samples.items()}


def leaves(value, *path):
    """Every figure of a state file: (path, number), times and yes or no as numbers."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, *path, key)
    elif isinstance(value, list):
        for each in value:
            name = each.get("limit", "") if isinstance(each, dict) else ""
            symbol = each["symbol"] if isinstance(each, dict) else ""
            yield from leaves(each, *path, name, symbol)
    elif isinstance(value, bool):
        yield path, Decimal(value)
    elif number(value) is not None:
        yield path, number(value)
    elif isinstance(value, str) and re.match(r"20\d\d-\d\d-\d\dT", value):
        yield path, Decimal(str(datetime.fromisoformat(value).timestamp()))


def test_every_figure_of_the_state_is_in_the_metrics_and_none_else(held):
    held.bot.risk.hold("operator", TradingState.REDUCING, "dinner")
    state, seen = held.tick().state(), metrics(held)
    left = dict(seen)
    for path, value in leaves({k: v for k, v in state.items() if k not in ("orders", "holds")}):
        if path[-1] == "is_per_order":
            continue
        if path[0] == "positions" and path[-1] in ("quantity", "symbol") or path[-1] == "mark_at":
            continue  # the same stands in symbols, the time as its age
        symbol = next((part for part in path if part in (BTC, ETH)), None)
        if path[0] == "limits":
            (row,) = [r for r in state["limits"] if (r["limit"], r["symbol"]) == path[1:3]]
            name, unit = limit_metric(row["limit"], row["unit"])
            key = f"limit_{name}_{path[3]}_{unit}"
        else:
            key = next((name for name, *labels in left if labels == ([symbol] if symbol else [])
                        and left[(name, *labels)] == value and not name.startswith("limit_")), None)
        key = (key, symbol) if symbol else (key,)
        assert left.pop(key, None) == value, (path, value)
    health = held.health()
    assert left.pop(("health_is_ok",)) == health["ok"] == 0
    assert left.pop(("health_valid_until_timestamp_seconds",)) == Decimal(
        str(datetime.fromisoformat(health["valid_until"]).timestamp()))
    assert left == {
        ("trading_state", "TRADING"): 0, ("trading_state", "REDUCING"): 1,
        ("trading_state", "HALTED"): 0, ("hold", "operator", "REDUCING"): 1,
        ("last_decision", state["last_decisions"][BTC], BTC): 1, ("alert", "", "OPERATOR"): 1,
        ("last_decision", state["last_decisions"][ETH], ETH): 1,
        ("outstanding_orders", "stop", "open", BTC): 1,
        ("info", "paper-synthetic", health["settings_hash"], health["version"]): 1}


def test_the_names_carry_their_units(held):
    units = re.compile(r"_(usd|ratio|seconds|total|orders|contracts|base_units|round_trips|posts"
                       r"|decisions|signals|sent|accepted|state|decision|hold|alert|info)$|_is_")
    assert [name for name, *_ in metrics(held) if not units.search(f"_{name}")] == []


def test_what_is_not_known_is_absent_and_what_is_written_by_others_is_escaped(desk):
    desk.market.silent = (ETH,)
    state, health = desk.tick().state(), desk.health()
    assert (("mark_price_usd", ETH) in metrics(desk), ("mark_price_usd", BTC) in metrics(desk)) == (
        False, True)
    health["alerts"] = [{"code": "X", "about": 'a"b\\c\nd', "message": ""}]
    health["feed"] = {"market": {"age_seconds": None, "stale": True, "connects": 3}}
    health["delivery"] = {"webhook": {"ok": False, "sent": 2}, "heartbeat": None}
    samples = parsed(exposition(state, health))
    assert samples["perps_bot_alert", frozenset({("profile", "dev"), ("code", "X"),
                                                 ("about", 'a"b\\c\nd')})] == 1
    names = {name.removeprefix("perps_bot_") for name, _ in samples}
    assert {"feed_is_stale", "feed_connects_total", "delivery_sent_total"} <= names
    assert not {"feed_age_seconds", "feed_gaps_total"} & names


def test_the_metrics_are_renamed_into_place_like_the_others(desk):
    path = desk.folder / "metrics.prom"
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_ino
    desk.bot.last_decisions["ÄTH"] = "hold\ud800"  # as nobody should call anything
    desk.tick()
    assert parsed(path.read_text("utf-8"))[
        "perps_bot_last_decision", frozenset({("profile", "dev"), ("symbol", "ÄTH"),
                                              ("action", "hold?")})] == 1
    assert path.stat().st_ino != before
    assert json.loads((desk.folder / "last_state.json").read_text())

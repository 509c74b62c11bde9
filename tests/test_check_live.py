"""The specification of `check`, `products` and `symbol` against a venue: the exchange of the tests,
in a process of its own, asked by the program as its owner would."""

import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from exchange.harness import Simulator

from perps_bot.courier import post
from perps_bot.model import Position
from perps_bot.secret import Secret
from perps_bot.settings import FOREIGN_VARIABLES
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
BTC, HOUR = "BIP-20DEC30-CDE", 3600
STRANGE = ("PERPS_", "COINBASE_", "EVENT_STORE_ROOT", "LOG_LEVEL", *FOREIGN_VARIABLES)
NOBODY = {"COINBASE_API_URL": "http://127.0.0.1:1", "COINBASE_WS_URL": "ws://127.0.0.1:1",
          "COINBASE_WS_USER_URL": "ws://127.0.0.1:1"}


class AnOwner:
    """Runs command lines in an empty folder, and watches that no secret is ever printed."""

    def __init__(self, folder, simulator):
        self.folder, self.simulator = folder, simulator
        kept = {name: value for name, value in os.environ.items() if not name.startswith(STRANGE)}
        self.environ = {**kept, **simulator.environment, "PYTHONPATH": str(ROOT)}

    def says(self, line, **environ):
        run = subprocess.run(
            [sys.executable, "-m", "perps_bot", *shlex.split(line)], cwd=self.folder, text=True,
            env={n: v for n, v in {**self.environ, **environ}.items() if v is not None},
            capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        self.keeps_secrets(run.stdout + run.stderr)
        assert "Traceback" not in run.stderr
        return SimpleNamespace(code=run.returncode, out=run.stdout, err=run.stderr)

    def keeps_secrets(self, text):
        name, secret = self.simulator.keys.name, self.simulator.keys.secret
        parts = [name, name.rpartition("/")[2], *(p for p in secret.split() if len(p) > 16)]
        assert not [part for part in parts if part in text]

    def checks(self, flags="--profile prod", **environ):
        """Return the exit code and {name: (ok, text)} of `check`."""
        answer = self.says(f"check --json {flags}", **environ)
        rows = json.loads(answer.out)["checks"]
        assert json.loads(answer.out)["ok"] is (answer.code == 0)
        assert (answer.code == 1) is any(row["ok"] is False for row in rows)
        return answer.code, {row["name"]: (row["ok"], row["text"]) for row in rows}


def hours(prices, price_of=str):
    """Candles of one hour each, the last of which has just ended, as the exchange loads them."""
    last = int(time.time()) // HOUR * HOUR
    prices = list(prices)
    return [[last - HOUR * (len(prices) - n), *[price_of(price)] * 4, "3"]
            for n, price in enumerate(prices)]


@pytest.fixture
def owner(tmp_path, request):
    scenario = getattr(request, "param", {})
    with Simulator(scenario, folder=tmp_path) as simulator:
        simulator.call("candles_from", product_id=BTC, rows=hours(
            82_000 + 100 * (n % 80 - 40) * (1 if n % 80 > 40 else -1) for n in range(330)))
        folder = tmp_path / "owner"
        folder.mkdir()
        yield AnOwner(folder, simulator)
        assert [row for row in simulator.requests("POST")] == []


def test_all_is_well(owner):
    code, rows = owner.checks()
    assert code == 0, rows
    assert {name for name, (ok, _) in rows.items() if ok} == {
        "REST", "clock", "credentials", "permissions", "derivatives", "BTC-PERP product",
        "BTC-PERP session", "WebSocket market", "WebSocket user", "account", "equity",
        "liquidation guard", "limits", "BTC-PERP long", "BTC-PERP short", "fees", "BTC-PERP stop",
        "holdings", "folder", "environment"}
    assert {name for name, (ok, _) in rows.items() if ok is None} == {"backup", "alerts"}
    assert rows["equity"][1] == "10000.00 USD"
    assert BTC in rows["BTC-PERP product"][1]
    assert os.listdir(owner.folder) == []


KEYLESS = {"COINBASE_API_KEY": None, "COINBASE_API_SECRET": None,
           "COINBASE_ENABLE_DERIVATIVES": None}


def test_a_dry_run_needs_no_key_and_check_does_not_ask_for_one(owner):
    code, rows = owner.checks("--profile prod --dry-run", **KEYLESS)
    assert code == 0, rows
    assert {name for name, (ok, _) in rows.items() if ok is None} >= {
        "credentials", "permissions", "derivatives", "WebSocket user", "account", "holdings"}
    assert rows["credentials"][1] == "not asked: a dry run needs no key"
    code, rows = owner.checks("--profile prod", **KEYLESS)
    assert code == 1 and rows["credentials"][0] is rows["derivatives"][0] is False


def test_a_key_that_is_wrong_is_a_fault_of_a_dry_run_too(owner):
    code, rows = owner.checks("--profile prod --dry-run", COINBASE_API_SECRET="swordfish")
    assert code == 1 and rows["credentials"][0] is False


def test_the_first_hour_from_nothing_to_a_dry_run_on_live_prices(owner):
    first = owner.says("init --profile prod", **KEYLESS)
    assert first.code == 0 and "none: a dry run needs none" in first.out
    check, drill, run = [line.strip().partition("bin/perps-bot ")[2]
                         for line in first.out.partition("next:")[2].strip().splitlines()]
    assert owner.says(check, **KEYLESS).code == 0
    assert "7 of 7 passed" in owner.says(f"{drill} --out drills", **KEYLESS).out
    cycle = owner.says(f"{run} --dev-fast", **KEYLESS)
    assert cycle.code == 0
    assert "broker=paper-live" in cycle.out and "20 of 20 bars" in cycle.out


def test_the_same_in_lines(owner):
    answer = owner.says("check --profile prod")
    lines = answer.out.splitlines()
    assert answer.code == 0
    assert "ok  permissions: view and trade, no transfer" in lines
    assert "--  backup: take one, best each day: perps-bot backup DEST --profile prod" in lines
    assert lines[-1].endswith("was asked; nothing was sent.")


@pytest.mark.parametrize("owner, name, ok, words", [
    ({"permissions": {"can_view": True, "can_trade": True, "can_transfer": True}},
     "permissions", False, "can transfer money"),
    ({"permissions": {"can_view": True, "can_trade": False, "can_transfer": False}},
     "permissions", None, "view only"),
    ({"onboarded": False}, "account", False, "no futures application"),
    ({"cash": "0"}, "equity", False, "add funds"),
    ({"cash": "500"}, "BTC-PERP long", False, "set the account's equity to"),
], indirect=["owner"])
def test_what_the_account_lacks_is_one_no(owner, name, ok, words):
    code, rows = owner.checks()
    assert rows[name][0] is ok and words in rows[name][1]
    assert code == (ok is False)


@pytest.mark.parametrize("environ, name, words", [
    ({"COINBASE_API_KEY": None, "COINBASE_API_SECRET": None}, "credentials",
     "set COINBASE_API_KEY and COINBASE_API_SECRET"),
    ({"COINBASE_API_SECRET": "nonsense"}, "credentials", "not a secret that Coinbase takes"),
    ({"COINBASE_ENABLE_DERIVATIVES": None}, "derivatives", "set COINBASE_ENABLE_DERIVATIVES=1"),
    ({"SSLKEYLOGFILE": "keys.log"}, "environment", "SSLKEYLOGFILE"),
    ({"COINBASE_WS_URL": NOBODY["COINBASE_WS_URL"]}, "WebSocket market", "no message within 5 s"),
    ({"COINBASE_API_URL": NOBODY["COINBASE_API_URL"]}, "REST", "refused"),
])
def test_what_the_surroundings_lack_is_one_no(environ, name, words, owner):
    code, rows = owner.checks(**environ)
    assert code == 1
    assert rows[name][0] is False and words in rows[name][1]


def test_without_a_key_everything_public_is_asked_all_the_same(owner):
    code, rows = owner.checks("--profile demo --max-position 2000",
                              COINBASE_API_KEY=None, COINBASE_API_SECRET=None)
    needs_key = {"credentials", "permissions", "account", "holdings", "WebSocket user"}
    assert (code, {name for name, (ok, _) in rows.items() if ok is False}) == (1, needs_key)
    assert all("set COINBASE_API_KEY" in rows[name][1] for name in needs_key)
    assert rows["BTC-PERP long"][0] and rows["fees"][0]


def test_a_venue_that_does_not_answer_is_said_and_the_rest_is_checked(owner):
    _, rows = owner.checks(**NOBODY)
    assert "not asked" in rows["account"][1] and "not asked" in rows["products"][1]
    assert rows["credentials"][0] and rows["folder"][0] and rows["environment"][0]


def test_one_answer_that_fails_is_one_no(owner):
    owner.simulator.fault("summary_null")
    code, rows = owner.checks()
    assert (code, [name for name, (ok, _) in rows.items() if ok is False]) == (1, ["account"])


def test_unknown_margin_figures_leave_the_guard_unarmed(owner):
    owner.simulator.fault("fields_missing", path="balance_summary.liquidation_threshold")
    code, rows = owner.checks()
    assert rows["liquidation guard"][0] is None and "UNARMED" in rows["liquidation guard"][1]


def test_a_closed_market_is_no_failure(owner):
    owner.simulator.call("set_session", product_id="*", is_open=False)
    code, rows = owner.checks()
    assert code == 0, rows
    for name in ("BTC-PERP session", "BTC-PERP long", "BTC-PERP short"):
        assert rows[name][0] is None and "closed" in rows[name][1]
    assert "closed" in owner.says("products --profile prod").out


def test_a_product_that_takes_no_orders_is_one(owner):
    owner.simulator.call("set_product", product_id=BTC, cancel_only=True)
    code, rows = owner.checks()
    assert code == 1 and rows["BTC-PERP session"] == (False, "restricted: cancel_only")


def test_a_symbol_that_is_not_listed_is_said_with_what_is(owner):
    code, rows = owner.checks("--profile prod --symbols BTC-PERP DOGE-PERP")
    assert code == 1
    assert "the venue lists BTC-PERP" in rows["DOGE-PERP product"][1]
    assert rows["BTC-PERP long"][0]


def test_fees_above_half_a_percent_a_day_are_refused_with_the_number_to_change(owner):
    owner.simulator.call("candles_from", product_id=BTC, rows=hours(
        82_000 + 400 * (n // 12 % 2) for n in range(330)))
    code, rows = owner.checks("--profile prod --fee-rate 0.01")
    ok, text = rows["fees"]
    assert (code, ok) == (1, False), text
    # The averages cross once in each twelve of the 300 hours after the window was full.
    assert "25 round trips in 12.5 days" in text
    assert "set --bar" in text
    longer = text.partition("set --bar ")[2].partition(",")[0]
    assert int(longer) > HOUR and int(longer) % HOUR == 0


def test_a_stop_that_costs_less_than_the_trip_is_refused(owner):
    code, rows = owner.checks("--profile prod --trailing-stop-pct 0.005 --fee-rate 0.003")
    assert code == 1 and not rows["BTC-PERP stop"][0]
    assert "widen --trailing-stop-pct" in rows["BTC-PERP stop"][1]


# What the account holds


def test_what_our_events_do_not_explain_is_named_with_the_way_to_adopt_it(owner):
    owner.simulator.call("trade_by_owner", product_id=BTC, side="BUY", contracts=1)
    code, rows = owner.checks()
    assert code == 1
    assert rows["BTC-PERP holding"] == (False, "the account holds 0.01, our events explain 0: take "
                                        "it over with --adopt BTC-PERP, or close it at the venue")
    code, rows = owner.checks("--profile prod --adopt BTC-PERP")
    assert code == 0 and rows["BTC-PERP holding"][0]


def test_an_order_of_the_owners_is_named(owner):
    owner.simulator.call("order_by_owner", product_id=BTC, side="BUY", contracts=1,
                         limit_price="70000", client_order_id="mine")
    _, rows = owner.checks()
    assert "has an order that is not ours, mine" in rows["BTC-PERP holding"][1]


def test_what_is_held_beside_our_symbols_is_said_and_no_failure(owner):
    owner.simulator.call("trade_by_owner", product_id="ETP-20DEC30-CDE", side="BUY", contracts=1)
    code, rows = owner.checks()
    assert code == 0
    assert rows["beside"][0] is None and "ETH-PERP holds 0.1" in rows["beside"][1]


def test_what_our_events_explain_is_ours(owner):
    owner.simulator.call("trade_by_owner", product_id=BTC, side="BUY", contracts=1)
    at = datetime.now(UTC) - timedelta(minutes=1)
    store = EventStore(owner.folder / "data/perps_bot/prod/events", at)
    held = Position("BTC-PERP", Decimal("0.01"), Decimal(82_575), Decimal(82_575))
    PositionTracker(store).adopt("position.adopted", held)
    store.close()
    before = {path: path.read_bytes() for path in owner.folder.rglob("*.jsonl")}
    code, rows = owner.checks()
    assert (code, rows["holdings"][0]) == (0, True), rows
    assert {path: path.read_bytes() for path in owner.folder.rglob("*.jsonl")} == before
    owner.simulator.call("trade_by_owner", product_id=BTC, side="SELL", contracts=1)
    _, rows = owner.checks()
    assert "the account holds 0, our events explain 0.01" in rows["BTC-PERP holding"][1]


@pytest.mark.parametrize("mode, words", [(0o755, "chmod 700"), (0o777, "others may write it"),
                                         (0o500, "cannot be written")])
def test_a_folder_that_others_can_use_is_refused(mode, words, owner):
    if mode == 0o500 and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = owner.folder / "data/perps_bot/prod"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    code, rows = owner.checks()
    assert code == 1 and words in rows["folder"][1]
    folder.chmod(0o700)
    assert owner.checks()[1]["folder"] == (True, "data/perps_bot/prod: ours alone, writable")


# Products and symbols at the venue


def test_products_and_symbol_need_no_key_and_use_none(owner):
    answer = owner.says("products --profile prod --json")
    rows = {row["symbol"]: row for row in json.loads(answer.out)["products"]}
    assert list(rows) == ["BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP"]
    assert rows["BTC-PERP"] | {"funding_at": "", "closes_at": "", "session": ""} == {
        "symbol": "BTC-PERP", "product_id": BTC, "contract_size": "0.01", "tick": "5",
        "margin_long": "0.21025", "margin_short": "0.256625", "max_leverage_long": "4.75",
        "max_leverage_short": "3.89", "funding_rate": "0.000009", "funding_at": "",
        "session": "", "closes_at": "", "smallest_order_usd": "825.75"}
    assert rows["BTC-PERP"]["session"].startswith("open until ")
    report = json.loads(owner.says("symbol BTC-PERP --profile demo --json").out)
    assert (report["bid"], report["ask"]) == ("82565", "82575")
    assert report["last_candle_age_seconds"] < HOUR
    assert "set --max-position" in report["orders"]["BTC-PERP long"]["why"]
    sent = owner.simulator.bytes_of("in").lower()
    assert b"get /api/" in sent and b"authorization" not in sent
    unknown = owner.says("symbol DOGE-PERP --profile demo")
    assert unknown.code == 1 and "the venue lists BTC-PERP" in unknown.err


# Alerts


@pytest.fixture
def hook():
    """An address that takes alerts, its path being the secret; `status` is what it answers."""
    class Taker(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers["Content-Length"])
            server.taken.append((self.path, json.loads(self.rfile.read(size))))
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    server.taken, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}/swordfish"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_alert_route_is_tried_only_when_asked(owner, hook):
    said = owner.says("check --profile prod", PERPS_ALERT_WEBHOOK_URL=hook.url)
    assert "--  alerts: a route is set" in said.out and hook.taken == []
    said = owner.says("check --profile prod --send-test-alert", PERPS_ALERT_WEBHOOK_URL=hook.url)
    assert said.code == 0 and "ok  alerts: the test alert was taken" in said.out
    assert hook.taken == [("/swordfish", {"text": "perps-bot: test alert of profile prod"})]
    assert "swordfish" not in said.out + said.err


def test_a_test_alert_needs_a_route(owner):
    code, rows = owner.checks("--profile prod --send-test-alert")
    assert code == 1 and rows["alerts"] == (False, "no route: set PERPS_ALERT_WEBHOOK_URL")


@pytest.mark.parametrize("status, words", [(500, "HTTP 500"), (302, "HTTP 302"), (200, "")])
def test_an_alert_is_delivered_where_it_was_sent_or_not_at_all(status, words, hook):
    hook.status = status
    assert post(Secret(hook.url), {"text": "x"}) == words
    assert [path for path, _ in hook.taken] == ["/swordfish"]


def test_an_alert_that_nobody_takes_does_not_tell_the_address():
    assert post(Secret("http://127.0.0.1:1/swordfish"), {"text": "x"}) == (
        "not delivered: ConnectionRefusedError")


# Time


@pytest.mark.parametrize("seconds, ok, advised", [(0, True, False), (5, True, True),
                                                  (30, False, True), (-30, False, True)])
def test_a_clock_that_is_off_is_said_and_far_off_refused(seconds, ok, advised, tmp_path):
    with Simulator({"ahead_seconds": seconds}, folder=tmp_path) as simulator:
        simulator.call("candles_from", product_id=BTC, rows=hours([82_000] * 330))
        _, rows = AnOwner(tmp_path, simulator).checks()
    assert rows["clock"][0] is ok
    assert ("set it by a time server" in rows["clock"][1]) is advised

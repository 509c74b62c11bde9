"""What the owner's runbook shows, done as a stranger would do it, and the words to search for."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import iscoroutine
from pathlib import Path

import pytest

from perps_bot.catalog import ProductCatalog, enforce_perp_rules
from perps_bot.cli import main
from perps_bot.errors import ConfigError, OrderRejected
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.market import SyntheticMarket
from perps_bot.model import OrderStatus, TradingState
from perps_bot.paper import PaperBroker
from perps_bot.risk import LiveRiskManager, RiskConfig
from perps_bot.store import EventStore, read_events
from perps_bot.strategy import BaselinePerpsStrategy, StrategyConfig
from perps_bot.tracker import PositionTracker

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
MAY = datetime(2025, 5, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def a_folder_of_its_own(no_settings_of_the_tester, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client():
    return PaperBroker(SyntheticMarket())


@pytest.fixture(params=["in memory", "on disk"])
def event_store(request, tmp_path):
    return EventStore() if request.param == "in memory" else EventStore(tmp_path / "events")


# The Python samples


def test_the_catalog_loads_and_quantises(client):
    catalog = ProductCatalog()
    assert not iscoroutine(catalog.load_from_brokerage(client))
    perps = catalog.get_perpetual_products()
    assert {product.symbol for product in perps} >= {"BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP"}
    for product in perps:
        price = Decimal("50000")
        qty, limit = enforce_perp_rules(product, qty=Decimal("1234.567"), price=price)
        assert 0 < qty <= Decimal("1234.567") and qty % product.quantity_increment == 0
        assert limit == price
    qty, price = enforce_perp_rules(catalog.get("BTC-PERP"), qty=Decimal("1.234"),
                                    price=Decimal("50000"))
    assert (qty, price) == (Decimal("1.23"), Decimal("50000"))


def test_the_engine_places_and_cancels(event_store):
    exec_config = ExecutionConfig()
    engine = ExecutionEngine(config=exec_config, event_store=event_store)
    order = engine.place_order(
        symbol="BTC-PERP",
        side="buy",
        qty=Decimal("0.1"),
        order_type="market"
    )
    assert (order.status, order.filled_quantity) == (OrderStatus.FILLED, Decimal("0.1"))
    assert engine.cancel_order(order.id) == order
    assert engine.tracker.get_position("BTC-PERP").quantity == Decimal("0.1")


def test_the_engine_rests_modifies_and_cancels_a_limit(event_store, client):
    engine = ExecutionEngine(config=ExecutionConfig(), event_store=event_store, broker=client)
    order = engine.place_order(symbol="BTC-PERP", side="buy", qty=Decimal("0.1"),
                               order_type="limit", limit_price=Decimal("70000"))
    assert order.status is OrderStatus.OPEN
    moved = engine.modify_order(order.id, limit_price=Decimal("71000"))
    assert moved.id != order.id and moved.intent.limit_price == Decimal("71000")
    assert engine.order(order.id).status is OrderStatus.CANCELLED
    assert engine.cancel_order(moved.id).status is OrderStatus.CANCELLED
    assert engine.outstanding() == ()


def test_what_the_engine_did_is_in_the_events(tmp_path):
    engine = ExecutionEngine(config=ExecutionConfig(), event_store=EventStore(tmp_path / "e"))
    engine.place_order(symbol="ETH-PERP", side="sell", qty=Decimal("0.5"), order_type="market")
    kinds = [event.type for event in read_events(tmp_path / "e")]
    assert kinds[0] == "day.opened"
    assert {"order.intended", "order.updated", "trade.executed", "position.updated"} <= set(kinds)


@pytest.mark.parametrize("wrong, error", [
    ({"qty": 0.1}, TypeError), ({"qty": "0.1"}, TypeError), ({"qty": Decimal("NaN")}, ValueError),
    ({"side": "up"}, ValueError), ({"order_type": "stop"}, ValueError),
    ({"symbol": "DOGE-PERP"}, ConfigError),
    ({"qty": Decimal("0.0001")}, OrderRejected),
])
def test_the_engine_refuses_what_is_no_order(wrong, error):
    engine = ExecutionEngine(config=ExecutionConfig(), event_store=EventStore())
    asked = {"symbol": "BTC-PERP", "side": "buy", "qty": Decimal("0.1"), "order_type": "market"}
    with pytest.raises(error):
        engine.place_order(**asked | wrong)
    assert engine.outstanding() == ()


def test_the_tracker_follows_a_position(event_store):
    tracker = PositionTracker(event_store=event_store)
    tracker.update_position(symbol="BTC-PERP", qty=Decimal("0.1"), price=Decimal("50000"))
    position = tracker.get_position("BTC-PERP")
    assert (position.quantity, position.entry_price) == (Decimal("0.1"), Decimal("50000"))
    assert f"Unrealized P&L: {position.unrealized_pnl}".startswith("Unrealized P&L: 0")
    tracker.mark("BTC-PERP", Decimal("51000"))
    assert tracker.get_position("BTC-PERP").unrealized_pnl == 100
    tracker.update_position(symbol="BTC-PERP", qty=Decimal("-0.1"), price=Decimal("52000"))
    closed = tracker.get_position("BTC-PERP")
    assert (closed.quantity, closed.realized_pnl, closed.unrealized_pnl) == (0, 200, 0)


def test_the_risk_configuration_reads_floats_by_their_text():
    risk_config = RiskConfig(
        leverage_max_global=5,
        max_daily_loss_pct=0.05,
        max_exposure_pct=0.8,
        reduce_only_mode=False,
        kill_switch_enabled=False
    )
    assert (risk_config.max_daily_loss_pct, risk_config.max_exposure_pct) == (Decimal("0.05"),
                                                                              Decimal("0.8"))
    assert risk_config.max_position_pct_per_symbol == Decimal("0.2")


def test_the_strategy_configuration_reads_floats_by_their_text():
    strategy_config = StrategyConfig(
        short_ma_period=5,
        long_ma_period=20,
        target_leverage=2,
        trailing_stop_pct=0.01,
        enable_shorts=False
    )
    assert strategy_config.trailing_stop_pct == Decimal("0.01")
    assert BaselinePerpsStrategy(strategy_config).config is strategy_config


@pytest.mark.parametrize("with_store", [True, False])
def test_the_kill_switch_stops_increases_and_lets_reductions_pass(with_store, client):
    event_store = EventStore() if with_store else None
    risk_manager = LiveRiskManager(RiskConfig(), event_store=event_store)
    engine = ExecutionEngine(config=ExecutionConfig(), event_store=event_store, broker=client,
                             risk=risk_manager)
    engine.place_order(symbol="BTC-PERP", side="buy", qty=Decimal("0.1"), order_type="market")
    risk_manager.activate_kill_switch("Manual intervention required")
    assert risk_manager.state is TradingState.HALTED
    with pytest.raises(OrderRejected, match="Manual intervention required"):
        engine.place_order(symbol="BTC-PERP", side="buy", qty=Decimal("0.1"))
    sold = engine.place_order(symbol="BTC-PERP", side="sell", qty=Decimal("0.1"))
    assert sold.status is OrderStatus.FILLED


# The commands


def module(*argv, **environ):
    return subprocess.Popen(
        [sys.executable, "-m", "perps_bot", *argv], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **environ})


@pytest.mark.parametrize("line, environ, profile", [
    ("perps --profile dev --dev-fast",                         {}, "dev"),
    ("perps --profile demo --order-type limit --tif GTC --dev-fast", {"PERPS_FORCE_MOCK": "1"},
     "demo"),
    ("--profile dev --dry-run --dev-fast --symbols BTC-PERP",  {"PERPS_FORCE_MOCK": "1"}, "dev"),
    ("--profile demo --dev-fast", {"COINBASE_SANDBOX": "1", "PERPS_FORCE_MOCK": "1"}, "demo"),
    ("--profile prod --dev-fast --dry-run",                    {"PERPS_FORCE_MOCK": "1"}, "prod"),
    ("--profile dev --dev-fast",                               {"PERPS_FORCE_MOCK": "0"}, "dev"),
])
def test_one_cycle_runs_without_keys_and_leaves_its_health(line, environ, profile):
    run = module(*line.split(), **environ)
    _, err = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, err
    health = json.loads(Path(f"data/perps_bot/{profile}/health.json").read_text())
    assert (health["ok"], health["profile"], health["error"]) == (True, profile, "")
    state = json.loads(Path(f"data/perps_bot/{profile}/last_state.json").read_text())
    assert state["broker"] == "paper-synthetic"


def test_prod_on_paper_runs_on_until_it_is_stopped_and_pgrep_finds_it():
    bot = module("--profile", "prod", PERPS_FORCE_MOCK="1")
    try:
        assert "profile=prod" in bot.stdout.readline()
        if shutil.which("pgrep"):
            found = subprocess.run(["pgrep", "-af", "perps_bot"], text=True, check=True,
                                   capture_output=True).stdout
            (row,) = [row for row in found.splitlines() if row.startswith(f"{bot.pid} ")]
            assert "--profile prod" in row
        bot.send_signal(signal.SIGTERM)
        bot.communicate(timeout=PATIENCE_SECONDS)
        assert bot.returncode == 0
    finally:
        bot.kill()


def test_state_lives_elsewhere_when_it_is_told_to():
    run = module("--profile", "dev", "--dev-fast", EVENT_STORE_ROOT="some where/else",
                 LOG_LEVEL="DEBUG", PERPS_LOG_DIR="diary")
    _, err = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 0, err
    assert sorted(os.listdir()) == ["diary", "some where"]
    folder = Path("some where/else/perps_bot/dev")
    assert {"events", "health.json", "last_state.json", "risk_events.json"} <= {
        path.name for path in folder.iterdir()}


def test_the_package_can_be_imported_from_anywhere():
    run = subprocess.run([sys.executable, "-c", "import perps_bot; print('OK')"], text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         check=True)
    assert run.stdout == "OK\n"


# The words to search for, each from the program itself, with numbers and the way out


def candles(name, prices, begin=MAY):
    rows = [f"{begin + timedelta(minutes=n):%Y-%m-%dT%H:%M:%SZ},{p},{p},{p},{p}\n"
            for n, p in enumerate(prices)]
    Path(name).write_text("time,open,high,low,close\n" + "".join(rows))
    return name


def lines_with(words, text):
    return [line for line in text.splitlines() if words in line]


def test_no_mark_price_for_symbol(capsys):
    early = candles("btc.csv", [80000] * 30)
    late = candles("eth.csv", [3000] * 30, MAY + timedelta(days=2))
    main(["replay", early, late, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP",
          "--to", "2025-05-02"])
    (line,) = lines_with("No mark price for symbol", capsys.readouterr().out)
    assert "No mark price for symbol ETH-PERP: check" in line


def test_risk_check_failed_leverage_exceeds_limit(capsys):
    """All of the equity went into one symbol, and its fee: nothing is left for the other."""
    Path("all-in.toml").write_text("leverage_max_global = 1\nmax_position_pct_per_symbol = 1\n"
                                   "max_exposure_pct = 1\n")
    rising = [10000 + 10 * abs(n - 25) for n in range(60)]
    main(["replay", candles("btc.csv", rising), candles("eth.csv", [1000, *rising[:-1]]),
          "--symbol", "BTC-PERP", "--symbol", "ETH-PERP", "--config", "all-in.toml",
          "--events", "events"])
    refused = [e.data for e in read_events("events") if e.type == "risk.rejected"]
    message = refused[0]["message"]
    assert message.startswith("Risk check failed: Leverage exceeds limit (lower --leverage, ")
    assert re.search(r"leverage_max_global measured 1\.\d+ allowed 1 x equity", message)
    assert "LEVERAGE_EXCEEDED" in refused[0]["codes"]
    assert "LEVERAGE_EXCEEDED" in capsys.readouterr().out


def test_quantization_failed_below_minimum(capsys, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    assert main(["check", "--profile", "demo"]) == 1
    (line,) = lines_with("Quantization failed: Below minimum", capsys.readouterr().out)
    assert "100.00 USD" in line and "set --max-position" in line
    rising = candles("btc.csv", [80000 + 10 * abs(n - 25) for n in range(60)])
    main(["replay", rising, "--max-position", "100", "--events", "events"])
    refused = [e.data for e in read_events("events") if e.type == "risk.rejected"]
    assert refused[0]["message"].startswith("Quantization failed: Below minimum: BTC-PERP ")
    assert "raise --max-position" in refused[0]["message"]


def test_strategy_generates_no_signals(capsys):
    main(["replay", candles("btc.csv", [80000] * 12)])
    (line,) = lines_with("Strategy generates no signals", capsys.readouterr().out)
    assert "BTC-PERP has 12 of 20 bars; wait 8 bars" in line


@pytest.mark.parametrize("words, symbols, starve", [
    ("No mark price for symbol", "BTC-PERP ETH-PERP",
     lambda marks: lambda self, symbols, now: {
         s: m for s, m in marks(self, symbols, now).items() if s != "ETH-PERP"}),
    ("Strategy generates no signals", "BTC-PERP", None),
])
def test_a_running_bot_says_so_in_its_health_its_log_and_at_the_terminal(
    words, symbols, starve, monkeypatch, capsys
):
    if starve is None:
        monkeypatch.setattr(SyntheticMarket, "candles", lambda *_: ())
    else:
        monkeypatch.setattr(SyntheticMarket, "marks", starve(SyntheticMarket.marks))
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
                                                 signal.SIGUSR1)}
    try:
        main(["--profile", "dev", "--dev-fast", "--symbols", *symbols.split()])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    health = json.loads(Path("data/perps_bot/dev/health.json").read_text())
    assert words in health["message"]
    assert lines_with(words, Path("logs/perps_bot.log").read_text())
    assert lines_with(words, capsys.readouterr().out)

"""Against the exchange as a separate process: `perps-bot --profile prod`, run as an owner runs it.

Real processes, real sockets, scripted prices.  Venue time runs like ours from a moment that the
test chooses, so that a bar can end when it is wanted.  Each test of trading ends with the bot's
books equal to the exchange's, and with the requests that could move money counted one by one.
Every process runs with LOG_LEVEL=DEBUG, and whatever it left behind is searched for secrets.
"""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from exchange.harness import Simulator, wait_until
from helpers import verified
from live import BTC, ETH, IDS, SOL, TICKS, XRP

REPO = Path(__file__).resolve().parents[1]
BARS = 40
END_SECONDS_MAX = 90
FIRST = "enter_on_start = true\n"
PRICES = {BTC: "60000", ETH: "2400", SOL: "110", XRP: "1.2"}


class Live:
    """One account at one exchange, and the bot's processes that it lives through.

    bar_ends_in  whole seconds of venue time from now to the end of a minute; None: venue time is
                 ours, and a bar ends when it ends
    behind       how many seconds the machine's clock is ahead of the venue's
    """

    def __init__(self, folder, scenario=None, bar_ends_in=None, behind=0):
        self.folder, self.process, self.started = folder, None, 0
        (folder / "exchange").mkdir()
        now = datetime.now(UTC) - timedelta(seconds=behind)
        if bar_ends_in is not None:
            # The nearest such moment: two clocks half a minute apart are still believed.
            early = now - timedelta(seconds=30)
            now = early + timedelta(
                seconds=(60 - bar_ends_in - early.second) % 60, microseconds=-early.microsecond)
        self.now = now
        self.sim = Simulator({"now": now.isoformat(), "cash": "10000", **(scenario or {})},
                             folder=folder / "exchange").start()
        self.data = folder / "data" / "perps_bot" / "prod"
        self.output = folder / "output"

    # The exchange

    def market(self, step, symbol=BTC):
        """Closed candles that rise by `step` ticks a minute, and the market where they end."""
        end, tick = int(self.now.timestamp()) // 60, TICKS[symbol]
        last = Decimal(PRICES[symbol])
        rows = [[(end - n) * 60, *[str(last - tick * step * n)] * 4, "5"]
                for n in range(BARS, 0, -1)]
        self.sim.call("candles_from", product_id=IDS[symbol], rows=rows)
        self.price(last, symbol)
        return self

    def price(self, bid, symbol=BTC):
        """A book one tick wide from `bid` on, and a trade there."""
        bid = Decimal(bid)
        self.sim.price(IDS[symbol], bid, bid + TICKS[symbol], last=str(bid))

    def truth(self):
        return self.sim.truth()

    def held(self, symbol=BTC):
        """Signed contracts by the exchange's own books."""
        return Decimal(self.truth()["positions"].get(IDS[symbol], {}).get("contracts", 0))

    def resting(self, kind, symbol=BTC):
        """The exchange's open orders of a kind."""
        return [order for order in self.truth()["orders"] if order["order_type"] == kind
                and order["product_id"] == IDS[symbol] and order["status"] == "OPEN"]

    def protected(self, symbol=BTC):
        """The one bracket over the whole position, once there is one."""
        brackets, held = self.resting("BRACKET", symbol), abs(self.held(symbol))
        sizes = [Decimal(bracket["size"]) for bracket in brackets]
        return held and sizes == [held] and brackets[0]

    def posts(self):
        """Every request that could move money: (path, body), in order."""
        return [(row["path"].rpartition("/")[2], row["body"])
                for row in self.sim.requests() if row["method"] != "GET"]

    def sent(self):
        return [path for path, _ in self.posts()]

    # The bot

    def environment(self, **changes):
        variables = {**self.sim.environment, "PATH": os.environ["PATH"],
                     "HOME": str(self.folder), "PYTHONPATH": str(REPO), "LOG_LEVEL": "DEBUG",
                     **changes}
        return {name: value for name, value in variables.items() if value is not None}

    def command(self, *flags, config=FIRST):
        (self.folder / "bot.toml").write_text(config)
        base = () if flags[:1] == ("resume",) else ("--bar", "60", "--interval", "1")
        return [sys.executable, "-m", "perps_bot", *flags, "--profile", "prod", *base,
                "--config", "bot.toml"]

    def start(self, *flags, config=FIRST, **environ):
        """A new process over the same files."""
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                self.command(*flags, config=config), cwd=self.folder, stdout=output,
                stderr=subprocess.STDOUT, env=self.environment(**environ))
        return self

    def run(self, *flags, folder=None, **environ):
        """A process that ends by itself."""
        done = subprocess.run(
            self.command(*flags), cwd=folder or self.folder, env=self.environment(**environ),
            capture_output=True, text=True, timeout=END_SECONDS_MAX, check=False)
        with open(self.output, "a", encoding="utf-8") as output:
            output.write(done.stdout + done.stderr)
        return done

    def until(self, holds, what):
        """Wait; a process that ended meanwhile ends the test."""
        def looked():
            assert self.process.poll() is None, self.said()[-3000:]
            return holds()

        return wait_until(looked, what)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS_MAX)

    def said(self):
        return self.output.read_text("utf-8") if self.output.exists() else ""

    def file(self, name):
        return json.loads((self.data / name).read_text("utf-8"))

    def healthy(self):
        """health.json, while it says that all is well."""
        health = self.data / "health.json"
        return health.exists() and self.file("health.json")["ok"]

    def events(self, *types, folder="events"):
        """What is on disk, every line checked."""
        found = verified(self.data / folder)
        return [event for event in found if not types or event["type"] in types]

    # The end of a test

    def balanced(self):
        """Compare every book of the stopped bot with the exchange's; return its orders."""
        truth, state = self.truth(), self.file("last_state.json")
        account = {name: value and Decimal(value) for name, value in state["account"].items()}
        funding = Decimal(truth["funding_booked"]) + Decimal(truth["funding_accrued"])
        theirs = {"equity": truth["equity"], "realized_pnl": truth["realized_pnl"],
                  "unrealized_pnl": truth["unrealized_pnl"], "fees": truth["fees"],
                  "funding": funding, "start_equity": truth["deposited"]}
        assert {name: account[name] for name in theirs} == {
            name: Decimal(value) for name, value in theirs.items()}
        held = {row["symbol"]: Decimal(row["quantity"]) for row in state["positions"]}
        assert held == {
            symbol: Decimal(position["contracts"]) * Decimal(position["contract_size"])
            for symbol in IDS for position in [truth["positions"].get(IDS[symbol])] if position}
        trades = self.events("trade.executed")
        assert sum(Decimal(trade["fee"]) for trade in trades) == Decimal(truth["fees"])
        assert len(trades) == len(truth["fills"]) == len({trade["fill_id"] for trade in trades})
        assert "Traceback" not in self.said()

    def leaks(self):
        """What the bot let anybody read: its output, its log and all its files."""
        keys = self.sim.keys
        pem = [line for line in keys.secret.splitlines() if line and "-----" not in line]
        secrets = [keys.name, keys.name.rpartition("/")[2], *pem, "eyJ"]
        files = [path for path in self.folder.rglob("*") if path.is_file()
                 and self.folder / "exchange" not in path.parents]
        return [(path.name, secret) for path in files for secret in secrets
                if secret.encode() in path.read_bytes()]


@pytest.fixture
def live(tmp_path):
    """Make `Live`s in the test's folder; at the end nothing of them runs, and nothing leaked."""
    made = []

    def make(scenario=None, **more):
        made.append(Live(tmp_path, scenario, **more))
        return made[-1]

    yield make
    for one in made:
        if one.process and one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        broken = one.sim.stop()
        assert not broken, f"the exchange broke:\n{broken}"
        assert one.leaks() == []


def shape(post):
    """An order's body in words: `BUY 6 market_market_ioc`."""
    path, body = post
    if "order_ids" in body:
        return f"{path} {len(body['order_ids'])}"
    ((kind, members),) = body.get("order_configuration", {"-": body}).items()
    said = members.get("base_size") or members.get("size")
    return " ".join(filter(None, (path, body.get("side"), said, kind)))


# Trading.


def test_it_finds_the_perpetual_among_its_decoys_enters_at_once_and_protects_in_the_same_tick(live):
    bot = live().market(step=2)
    bot.start("--interval", "5")
    stop = bot.until(bot.protected, "a protected position")
    assert bot.end() == 0
    assert [shape(post) for post in bot.posts()] == [
        "orders BUY 6 market_market_ioc", "orders SELL 6 trigger_bracket_gtc"]
    entry, bracket = bot.sim.requests("POST", "/orders")
    assert bracket["clock"] - entry["clock"] < 5, "the stop came a tick later than the fill"
    # Only this product was ever asked about by name, though four others are called BTC.
    assert {row["body"]["product_id"] for row in (entry, bracket)} == {IDS[BTC]}
    named = {value for row in bot.sim.requests() for name, value in row["query"]
             if name in ("product_ids", "product_id")}
    assert named <= {IDS[BTC]}
    first = bot.events("strategy.signal")[0]
    assert (first["action"], first["bars"]) == ("buy", 20), "the windows came from candles"
    assert Decimal(stop["stop_price"]) == 59400  # 1 % below 60005, on the tick
    assert bot.file("last_state.json")["positions"][0]["stop_price"] == "59400"
    bot.balanced()


@pytest.mark.parametrize(("step", "quantity", "through"), [(2, 6, "59300"), (-2, -6, "60700")])
def test_a_price_through_the_stop_ends_a_long_and_a_short_at_the_venue(
    live, step, quantity, through
):
    bot = live().market(step)
    bot.start()
    stop = bot.until(bot.protected, "a protected position")
    assert bot.held() == quantity
    assert stop["side"] == ("SELL" if quantity > 0 else "BUY")
    assert (Decimal(stop["stop_price"]) < 60000) == (quantity > 0)
    bot.price(through)
    assert bot.held() == 0, "the venue's own trigger fires without us"
    bot.until(lambda: bot.events("stop.triggered"), "the fill of the stop")
    assert bot.end() == 0
    # A stop that fired between two reads may be cancelled in vain; nothing is closed once more.
    assert [path for path in bot.sent() if path != "batch_cancel"] == ["orders", "orders"]
    assert bot.resting("BRACKET") == []
    assert bot.file("last_state.json")["positions"] == []
    assert Decimal(bot.truth()["realized_pnl"]) < -30
    bot.balanced()


def test_a_bar_that_turns_the_averages_closes_the_long_and_opens_a_short(live):
    bot = live(bar_ends_in=8).market(step=Decimal("0.2"))
    bot.start()
    bot.until(bot.protected, "a protected long")
    assert bot.held() > 0
    bot.price("59700")  # above the stop, and below every average
    bot.until(lambda: bot.held() < 0 and bot.protected(), "a protected short")
    bot.until(bot.healthy, "health")
    assert bot.end() == 0
    (exit_order,) = [o for o in bot.events("order.intended") if o["purpose"] == "exit"]
    assert exit_order["reason"] == "averages turned against the position"
    words = [shape(post) for post in bot.posts()]
    sides = [word.split()[1] for word in words[4:]]
    assert words[:4] == ["orders BUY 6 market_market_ioc", "orders SELL 6 trigger_bracket_gtc",
                         "batch_cancel 1", "close_position 6 -"]
    assert sides == ["SELL", "BUY"]  # the short and its stop
    bot.balanced()


def test_the_stop_follows_a_rising_price_at_the_end_of_a_bar(live):
    bot = live(bar_ends_in=7).market(step=2)
    bot.start()
    low = bot.until(bot.protected, "a protected position")
    bot.price("60400")
    high = bot.until(lambda: (now := bot.protected()) and now["order_id"] != low["order_id"]
                     and now, "a new stop")
    bot.until(lambda: bot.events("stop.moved"), "its record")
    assert bot.end() == 0
    assert Decimal(high["stop_price"]) == 59795  # 1 % below 60402.5
    assert [shape(post) for post in bot.posts()][1:] == [
        "orders SELL 6 trigger_bracket_gtc", "batch_cancel 1", "orders SELL 6 trigger_bracket_gtc"]
    bot.balanced()


def test_four_symbols_are_entered_one_a_tick_and_each_is_protected(live):
    bot = live()
    for symbol in IDS:
        bot.market(2, symbol)
    bot.start("--symbols", *IDS)
    bot.until(lambda: all(bot.protected(symbol) for symbol in IDS), "four protected positions")
    bot.until(bot.healthy, "health")
    assert bot.end() == 0
    bodies = [body["product_id"] for path, body in bot.posts() if path == "orders"]
    assert bodies == [product for symbol in IDS for product in [IDS[symbol]] * 2]
    assert len(bot.posts()) == 8
    bot.balanced()


# Ends and starts.


def test_the_first_tick_already_keeps_the_venues_time(live):
    bot = live(behind=40).market(2)
    bot.start()
    bot.until(bot.protected, "a protected position")
    assert bot.end() == 0
    stamps = [datetime.fromisoformat(event["ts"]) for event in bot.events()]
    assert stamps == sorted(stamps)
    assert stamps[0] - bot.now < timedelta(seconds=20), "stamped by the machine's clock"
    bot.balanced()


def test_kill_int_takes_back_the_resting_entry_keeps_the_stop_and_halts_until_resume(live):
    bot = live().market(2).market(2, ETH)
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: bot.resting("LIMIT") and bot.resting("LIMIT", ETH), "two resting entries")
    bot.price("59990")  # fills the first one, which brings its own stop
    bot.until(lambda: bot.protected() and bot.events("trade.executed"), "a protected position")
    assert bot.end(signal.SIGINT) == 0
    assert bot.resting("LIMIT", ETH) == []
    assert bot.protected()
    assert bot.sent().count("batch_cancel") == 1
    assert "position kept: BTC-PERP" in bot.said()
    assert "HALTED until: perps-bot resume" in bot.said()
    sent = len(bot.posts())
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: len(bot.events("bot.started")) == 2 and bot.file("health.json")["pid"]
              == bot.process.pid, "the second process")
    assert bot.file("health.json")["trading_state"] == "HALTED"
    assert bot.end() == 0
    assert len(bot.posts()) == sent, "a halted bot sent something"
    assert bot.run("resume", "--reason", "looked at it").returncode == 0
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: len(bot.events("bot.started")) == 3 and bot.healthy(), "trading again")
    assert bot.end() == 0
    assert bot.protected()
    bot.balanced()


def test_a_second_process_is_refused_in_the_same_folder_and_with_the_same_key_elsewhere(live):
    bot = live().market(2)
    bot.start()
    bot.until(bot.protected, "a protected position")
    sent = len(bot.sim.requests())
    other = bot.folder / "elsewhere"
    other.mkdir()
    (other / "bot.toml").write_text("")
    for folder, words in ((bot.folder, "in use by pid"), (other, "trades with this API key")):
        refused = bot.run(folder=folder)
        assert refused.returncode == 75
        assert refused.stderr.count("\n") == 1
        assert words in refused.stderr
    assert bot.process.poll() is None
    assert bot.end() == 0
    assert len(bot.posts()) == 2
    assert len(bot.sim.requests()) >= sent
    bot.balanced()


def test_a_dry_run_needs_no_key_trades_on_paper_and_sends_nothing(live):
    bot = live().market(2)
    bot.start("--dry-run", COINBASE_API_KEY=None, COINBASE_API_SECRET=None,
              COINBASE_ENABLE_DERIVATIVES=None)
    bot.until(lambda: (bot.data / "paper-events").exists()
              and bot.events("stop.placed", folder="paper-events"), "a stop on paper")
    assert bot.end() == 0
    assert bot.posts() == []
    assert bot.truth()["orders"] == []
    assert not (bot.data / "events").exists()
    (trade,) = bot.events("trade.executed", folder="paper-events")
    assert Decimal(trade["price"]) == 60005, "filled at the venue's ask"
    assert bot.file("last_state.json")["broker"] == "paper-live"
    seen = {row["path"] for row in bot.sim.requests()}
    assert seen, "prices came from the exchange"
    assert not [path for path in seen if "/cfm/" in path or "/orders" in path]


@pytest.mark.parametrize(("lacks", "scenario", "words"), [
    ({"COINBASE_API_KEY": None, "COINBASE_API_SECRET": None}, {}, "needs an API key"),
    ({"COINBASE_API_SECRET": None}, {}, "COINBASE_API_SECRET"),
    ({"COINBASE_ENABLE_DERIVATIVES": None}, {}, "COINBASE_ENABLE_DERIVATIVES=1"),
    ({}, {"permissions": {"can_view": True, "can_trade": True, "can_transfer": True}},
     "can transfer money"),
    ({}, {"permissions": {"can_view": False, "can_trade": True, "can_transfer": False}},
     "cannot view"),
])
def test_prod_that_may_not_trade_ends_with_2_and_one_line(live, lacks, scenario, words):
    bot = live(scenario).market(2)
    refused = bot.run(**lacks)
    assert refused.returncode == 2
    assert words in refused.stderr.splitlines()[-1]
    assert refused.stderr.count("perps-bot: ") == 1
    assert "Traceback" not in refused.stderr
    assert bot.posts() == []
    if lacks:
        assert refused.stderr.count("\n") == 1
        assert bot.sim.requests() == []
        assert not (bot.folder / "data").exists()
    else:
        assert not list((bot.data / "events").glob("*.jsonl"))


def test_a_key_that_can_only_view_observes_and_sends_nothing(live):
    bot = live({"permissions": {"can_view": True, "can_trade": False, "can_transfer": False}})
    bot.market(2).start()
    bot.until(lambda: (bot.data / "last_state.json").exists()
              and bot.file("last_state.json")["last_decisions"].get(BTC), "a decision")
    state = bot.file("last_state.json")
    assert (state["trading_state"], state["last_decisions"]) == ("HALTED", {BTC: "buy"})
    assert "can only view" in state["holds"]["observe"]["reason"]
    assert bot.end() == 0
    assert bot.posts() == []
    bot.balanced()


# A venue that does not answer.


def test_an_exchange_that_is_away_at_the_start_is_waited_for(live):
    bot = live().market(2)
    bot.sim.network("outage")
    bot.start()
    bot.until(lambda: (bot.data / "health.json").exists(), "health")
    health = bot.file("health.json")
    assert not health["ok"]
    assert "VenueUnavailable" in health["error"]
    bot.sim.network("clear")
    bot.until(bot.protected, "a protected position")
    bot.until(bot.healthy, "health")
    assert bot.end() == 0
    assert len(bot.posts()) == 2
    bot.balanced()


def test_one_cycle_without_a_venue_ends_with_1(live):
    bot = live()
    bot.sim.network("outage")
    done = bot.run("--dev-fast")
    assert done.returncode == 1
    assert "one cycle FAILED: VenueUnavailable" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert bot.posts() == []


@pytest.mark.parametrize(("fault", "code", "held"), [
    ("timeout_after_accept", 0, 6),  # it is found, and what it opened is protected
    ("hang", 3, 0),                  # that it never arrived is not proved so soon
])
def test_kill_int_while_an_entry_hangs_sends_no_second_one_and_says_what_it_knows(
    live, fault, code, held
):
    bot = live().market(2)
    bot.sim.network(fault, match="POST /orders$", times=1)
    bot.start()
    wait_until(lambda: bot.sim.requests("POST", "/orders"), "the entry")
    assert bot.end(signal.SIGINT) == code
    entries = [body for path, body in bot.posts() if path == "orders" and body["side"] == "BUY"]
    assert len(entries) == 1 and bot.held() == held
    assert bool(bot.protected()) == bool(held)
    assert ("NOT confirmed: pb-" in bot.said()) == (code == 3)
    bot.balanced()


# Secrets.


@pytest.mark.parametrize(("fault", "match"), [
    ("status", "GET /cfm/"),
    ("reset_after_accept", "POST /orders$"),
    ("truncate", "GET "),
])
def test_no_part_of_the_key_reaches_output_log_or_files_when_things_go_wrong(live, fault, match):
    bot = live().market(2)
    bot.sim.network(fault, match=match, times=2, status=401)
    bot.start()
    bot.until(lambda: bot.healthy() and bot.protected(), "a protected position")
    assert bot.end() == 0
    tokens = [line for line in bot.sim.bytes_of("in").splitlines() if b"Bearer eyJ" in line]
    assert tokens, "the secrets that are searched for were used"
    assert bot.leaks() == []
    assert (bot.folder / "logs" / "perps_bot.log").stat().st_size > 0
    (bot.folder / "canary").write_text(f"Bearer {tokens[0].split()[-1].decode()}")
    assert bot.leaks() == [("canary", "eyJ")], "the search would have found one"
    (bot.folder / "canary").unlink()
    bot.balanced()

"""The emergencies with real processes: halt, resume and close-all, the bot alive, hung or dead.

`perps-bot --profile prod` against the exchange as a separate process, and the owner's commands as
processes of their own.  What a command said is compared with the exchange's own books.
"""

import resource
import signal
import subprocess
from datetime import UTC, datetime

import pytest
from helpers import rechained
from live import BTC, ETH, IDS, SOL
from test_live_trading import END_SECONDS_MAX, FIRST, Live

from perps_bot.mailbox import Request, put
from perps_bot.store import prepare_folder


class Owner(Live):
    """The account, the bot, and the owner's commands."""

    def command(self, *flags, config=FIRST):
        command = super().command(*flags, config=config)
        if flags and flags[0] in ("halt", "close-all"):
            for flag, count in (("--bar", 2), ("--interval", 2)):
                at = command.index(flag)
                del command[at:at + count]
        return command

    def begin(self, *flags, **environ):
        """A bot that holds a protected position in BTC."""
        self.start(*flags, **environ)
        self.until(lambda: self.protected() and self.healthy(), "a protected position")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(END_SECONDS_MAX)
        return self

    def asks(self, *flags, **environ):
        return subprocess.Popen(
            self.command(*flags), cwd=self.folder, env=self.environment(**environ), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def owner_trades(self, symbol, side, contracts):
        self.sim.call("trade_by_owner", product_id=IDS[symbol], side=side, contracts=contracts)

    def owner_rests(self, symbol, side, contracts, price):
        self.sim.call("order_by_owner", product_id=IDS[symbol], side=side, contracts=contracts,
                      limit_price=price)

    def open_orders(self, symbol=BTC):
        return [order["order_id"] for order in self.truth()["orders"]
                if order["product_id"] == IDS[symbol] and order["status"] == "OPEN"]

    def state(self):
        return self.file("health.json")["trading_state"]

    def waiting(self):
        return sorted(path.name for path in (self.data / "control").glob("*.json"))


@pytest.fixture
def live(tmp_path):
    made = []

    def make(scenario=None, **more):
        made.append(Owner(tmp_path, scenario, **more))
        return made[0]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        broken = one.sim.stop()
        assert not broken, broken


def last(done):
    """The last two lines of an answer: what came of it, and until when it lasts."""
    return done.stdout.strip().split("\n")[-2:]


UNTIL = "HALTED until: perps-bot resume --profile prod --reason '...'"
FLAT = f"flat: the venue shows no position and no order in {BTC} {ETH}"


def test_a_living_bot_halts_closes_everything_of_its_symbols_and_resumes(live):
    bot = live().market(2).market(2, ETH).market(0, SOL)
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: bot.resting("LIMIT") and bot.resting("LIMIT", ETH), "two resting entries")
    bot.price("59990")  # fills the first one, which brings its own stop
    bot.until(lambda: bot.protected() and bot.events("trade.executed"), "a protected position")

    done = bot.run("halt", "the news", "--reduce-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last(done) == ["halted: every entry confirmed gone", UNTIL.replace("HALTED", "REDUCING")]
    assert f"{ETH} entry " in done.stdout and ": cancelled\n" in done.stdout
    assert f"{BTC} position: 0." in done.stdout and ", stop at 59" in done.stdout
    assert bot.open_orders(ETH) == [] and bot.protected()

    # By hand: more of BTC, a short in ETH with an order beside it, and something else.
    bot.owner_trades(BTC, "BUY", "2")
    bot.owner_trades(ETH, "SELL", "3")
    bot.owner_rests(ETH, "BUY", "1", "2000")
    bot.owner_trades(SOL, "BUY", "1")
    done = bot.run("close-all", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last(done) == [FLAT, UNTIL]
    assert ", not ours, buy: gone\n" in done.stdout
    assert f"{SOL} position: 5, NO stop of ours, not covered\n" in done.stdout
    assert (bot.held(), bot.held(ETH), bot.held(SOL)) == (0, 0, 1)
    assert bot.open_orders() == bot.open_orders(ETH) == []
    sent = len(bot.posts())
    seen = bot.file("health.json")["timestamp"]
    bot.until(lambda: bot.file("health.json")["timestamp"] > seen and bot.state() == "HALTED",
              "another tick")
    assert len(bot.posts()) == sent, "a halted bot sent something"

    done = bot.run("resume", "--reason", "all is well")
    assert (done.returncode, done.stdout) == (0, "resumed: operator; state TRADING\n")
    bot.until(lambda: bot.state() == "TRADING", "the end of the halt")
    assert bot.end() == 0
    assert bot.waiting() == ["answer.json"]
    assert not {"reconcile.mismatch"} & {event["type"] for event in bot.events()}
    assert "Traceback" not in bot.said()


def test_a_halt_of_a_bot_that_hangs_in_a_call_is_obeyed_by_the_next_start_before_anything(live):
    bot = live().market(2).market(2, ETH)
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: bot.resting("LIMIT") and bot.resting("LIMIT", ETH), "two resting entries")
    bot.sim.network("hang", match="GET", times=None)
    done = bot.run("halt", "no answer")
    assert done.returncode == 3
    assert "has not answered within 10 s; the halt is obeyed as soon as that can be" in done.stderr
    bot.kill()
    assert bot.waiting() in (["request.json"], ["taken.json"]), "the halt waits"
    bot.sim.network("clear")
    sent = len(bot.posts())
    bot.start("--symbols", BTC, ETH, "--order-type", "limit")
    bot.until(lambda: len(bot.events("bot.started")) == 2 and bot.state() == "HALTED", "the halt")
    assert bot.open_orders() == bot.open_orders(ETH) == []
    assert [path for path, _ in bot.posts()[sent:]] == ["batch_cancel"]
    assert bot.waiting() == ["answer.json"]
    assert bot.end() == 0


def test_a_bot_that_stands_still_is_ended_where_that_is_said_and_then_all_is_closed(live):
    bot = live().market(2).begin()
    bot.process.send_signal(signal.SIGSTOP)
    done = bot.run("close-all", "--yes", "--kill")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last(done)[0] == FLAT.replace(f" {ETH}", "")
    assert bot.process.wait(END_SECONDS_MAX) == -signal.SIGKILL
    assert bot.held() == 0 and bot.open_orders() == []


def test_where_the_bot_is_dead_the_command_closes_what_is_ours_and_what_is_not(live):
    """The close is accepted and answered with 500; the next start finds books that agree."""
    bot = live().market(2).market(0, ETH)
    bot.begin("--symbols", BTC, ETH).kill()
    bot.owner_trades(BTC, "BUY", "2")
    bot.owner_trades(ETH, "BUY", "1")
    bot.owner_rests(ETH, "BUY", "1", "2000")
    bot.sim.network("status", match="POST /orders/close_position", status=500, accept=True)
    done = bot.run("close-all", "--yes")  # that it traded ETH too, its files say
    assert done.returncode == 0, done.stdout + done.stderr
    assert last(done) == [FLAT, UNTIL]
    assert (bot.held(), bot.held(ETH)) == (0, 0)
    assert bot.open_orders() == bot.open_orders(ETH) == []
    assert bot.sent().count("close_position") == 2, "sent once, and then looked up"
    sent = len(bot.posts())
    bot.start("--symbols", BTC, ETH)
    bot.until(lambda: len(bot.events("bot.started")) == 2 and bot.state() == "HALTED", "a start")
    assert bot.end() == 0
    assert len(bot.posts()) == sent
    assert bot.file("last_state.json")["positions"] == []
    bot.run("resume", "--reason", "flat")
    assert bot.events("state.changed")[-1]["state"] == "TRADING"


def test_two_that_close_everything_at_once_close_it_once_even_where_one_is_killed_over_it(live):
    bot = live().market(2).begin().kill()
    bot.sim.network("timeout_after_accept", match="POST /orders/close_position")
    first = bot.asks("close-all", "--yes")
    bot.process = first
    bot.until(lambda: "close_position" in bot.sent(), "the close on the wire")
    first.kill()  # it never hears of what it sent
    first.communicate()
    both = [bot.asks("close-all", "--yes") for _ in range(2)]
    said = [each.communicate(timeout=END_SECONDS_MAX)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert all(FLAT.replace(f" {ETH}", "") in each for each in said), said
    assert bot.sent().count("close_position") == 1
    assert bot.held() == 0 and bot.open_orders() == []


def test_on_a_full_disk_everything_is_closed_and_the_halt_outlives_it_all_the_same(live):
    bot = live().market(2).begin()
    (path,) = (bot.data / "events").glob("*.jsonl")
    limit = resource.RLIMIT_FSIZE
    resource.prlimit(bot.process.pid, limit, (path.stat().st_size, resource.RLIM_INFINITY))
    done = bot.run("close-all", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last(done)[0] == FLAT.replace(f" {ETH}", "")
    assert "the halt is NOT in the events: " in done.stdout
    assert bot.held() == 0 and bot.open_orders() == []
    bot.kill()
    assert "kept.json" in bot.waiting()
    assert not bot.events("state.changed")
    bot.start()
    bot.until(lambda: bot.healthy() or bot.state() == "HALTED", "the second process")
    assert bot.state() == "HALTED"
    bot.until(lambda: len(bot.events("bot.started")) == 2, "its first tick")
    assert bot.end() == 0
    assert bot.waiting() == ["answer.json"]
    assert bot.held() == 0
    assert [body["client_order_id"] for path, body in bot.posts() if "market_market_ioc" in
            body.get("order_configuration", ())] == [bot.posts()[0][1]["client_order_id"]]


def test_events_that_this_version_cannot_read_keep_nothing_open(live):
    bot = live().market(2).begin().kill()
    (path,) = (bot.data / "events").glob("*.jsonl")
    whole = path.read_bytes()
    rechained(path, b'"schema":1', b'"schema":9')
    done = bot.run("close-all", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert FLAT.replace(f" {ETH}", "") in done.stdout
    assert "\ndone without the events, and not in them: " in done.stdout
    assert bot.held() == 0 and bot.open_orders() == []
    path.write_bytes(whole)
    bot.start()
    bot.until(lambda: len(bot.events("bot.started")) == 2 and bot.state() == "HALTED", "the halt")
    assert bot.end() == 0 and bot.held() == 0


def test_an_interrupt_over_an_older_request_ends_the_command_and_leaves_its_own_to_the_next(live):
    bot = live().market(2).begin().kill()
    args = {"reason": "nobody was there", "reduce_only": False}
    prepare_folder(bot.data / "control")
    put(bot.data / "control", Request("0" * 31 + "1", "halt", args, datetime.now(UTC)))
    (bot.data / "control" / "request.json").rename(bot.data / "control" / "taken.json")
    bot.sim.network("hang", match="GET /orders", times=None)
    bot.process = asked = bot.asks("close-all", "--yes")
    bot.until(lambda: "request.json" in bot.waiting(), "its request beside the older one")
    asked.send_signal(signal.SIGINT)
    said = asked.communicate(timeout=END_SECONDS_MAX)[0]
    assert asked.returncode == 3, said
    assert "NOT verified: signal 2 came over an earlier request; ask again" in said
    assert "request.json" in bot.waiting() and bot.held()


def test_what_cannot_be_read_is_said_to_be_unknown(live):
    bot = live().market(2).begin()
    bot.sim.network("status", match="GET /orders/historical/batch", status=503, times=None)
    done = bot.run("halt", "the venue is down")
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"{BTC} position: unknown; by our books 0." in done.stdout
    assert last(done)[0].startswith("NOT verified: GET /orders/historical/batch: HTTP 503")
    bot.kill()
    done = bot.run("close-all", "--yes", COINBASE_API_KEY=None, COINBASE_API_SECRET=None)
    assert done.returncode == 4
    assert "NOT flat: the venue was not asked: profile prod needs an API key" in done.stdout
    assert bot.held()

"""Account: one account at one exchange, and the processes of a bot that it outlives.

Bars of a second, averages of two and ten of them, and a market that leaps: an order of some kind is
nearly always under way.  The limits are wide enough to stand in nobody's way, for what is asked
here is not what they ask.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from exchange.harness import wait_until
from live import IDS, TICKS
from test_live_trading import PRICES, Live

from perps_bot.market import window_row

from .judge import Broken, Judge, positions

INTERVAL_SECONDS = 1
# From the first complete look at the venue: one tick, and two seconds more.
CONVERGED_SECONDS = INTERVAL_SECONDS + 2
# A machine that does other things as well: what is late only there is no fault.
PATIENCE_SECONDS = 120
POLL_SECONDS = 0.1
REMEMBER_SECONDS = 0.1
STILL_SECONDS = 15
BARS = 10
STEP = Decimal("0.004")
STEPS_MAX = 4
CONFIG = """\
enter_on_start = true
short_ma_period = 2
long_ma_period = 10
trailing_stop_pct = 0.005
stop_move_min_pct = 0
max_position = 2000
max_mark_move_pct = 1
max_drawdown_pct = 1
max_daily_loss_pct = 1
max_daily_turnover = 10000
duplicate_window_seconds = 1
max_orders_per_minute_per_symbol = 1000
max_orders_per_minute = 1000
max_messages_per_second = 1000
max_entries_per_hour = 1000
max_open_orders = 1000
"""


class Account(Live):
    """`Live`, judged after every death.

    order_type  of entries: market, or limit, which rest and carry their stops
    lives       processes so far
    """

    def __init__(self, folder, symbols=tuple(IDS), order_type="market", scenario=None):
        super().__init__(folder, {"cash": "1000000", **(scenario or {})})
        self.symbols, self.order_type, self.lives = symbols, order_type, 0
        self.steps = dict.fromkeys(symbols, 0)
        self.judge = Judge(self.sim.log_file, self.data / "events")
        for symbol in symbols:
            self.quote(symbol)
        self.data.mkdir(parents=True)
        for folder in (self.data, *self.data.parents[:2]):
            folder.chmod(0o700)
        self._ahead = datetime.fromisoformat(self.sim.call("now")) - datetime.now(UTC)
        self.remember(dict.fromkeys(symbols, 1))

    # The market

    def remember(self, directions):
        """The closes that the next life begins with: up (1) or down (-1) to where the price is.

        They are a cache, which the bot takes only while it is fresh.  So every life has something
        to decide: the events say on which side of its averages the last one saw the market.
        """
        self._closes = {symbol: [self.level(symbol) * (1 - direction * STEP * n / BARS)
                                 for n in range(BARS, 0, -1)]
                        for symbol, direction in directions.items()}

    def _keep_it_fresh(self, process):
        """Until the bot begins, however long its start takes: later is in its future."""
        while process.poll() is None and self._lock() != str(process.pid):
            bar_at = (datetime.now(UTC) + self._ahead).replace(microsecond=0)
            fresh = self.data / ".remembered"
            fresh.write_text(json.dumps({
                symbol: window_row(symbol, bar_at, 1, closes)
                for symbol, closes in self._closes.items()}), "utf-8")
            fresh.rename(self.data / "marks.json")
            time.sleep(REMEMBER_SECONDS)

    def _lock(self):
        lock = self.data / "lock"
        return lock.read_text("utf-8").strip() if lock.exists() else ""

    def event_file(self):
        """Where today's events are, or will be."""
        return self.data / "events" / f"{self.sim.call('now')[:10]}.jsonl"

    def level(self, symbol):
        return Decimal(PRICES[symbol]) * (1 + STEP * self.steps[symbol])

    def quote(self, symbol):
        tick = TICKS[symbol]
        self.price(self.level(symbol) // tick * tick, symbol)

    def leap(self, dice):
        """A symbol goes some steps up or down: beyond its averages, and often through its stop."""
        symbol = dice.choice(self.symbols)
        self.steps[symbol] = dice.choice(
            [n for n in range(-STEPS_MAX, STEPS_MAX + 1) if n != self.steps[symbol]])
        self.quote(symbol)

    # The bot

    def command(self, *flags, config=CONFIG):
        (self.folder / "bot.toml").write_text(config)
        base = () if flags[:1] == ("resume",) else (
            "--bar", "1", "--interval", str(INTERVAL_SECONDS), "--order-type", self.order_type,
            "--symbols", *self.symbols)
        return [sys.executable, "-m", "perps_bot", *flags, "--profile", "prod", *base,
                "--config", "bot.toml"]

    def begin(self, *wrapper, **environ):
        """A new process over the same files, perhaps within another program."""
        self.lives += 1
        self.starts = self.judge.journal.kinds.get("bot.started", 0)
        self.intended = len(self.judge.journal.intents)
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                [*wrapper, *self.command()], cwd=self.folder, stdout=output,
                stderr=subprocess.STDOUT, env=self.environment(**environ))
        # Whom strace could not take hold of within three seconds ends itself.
        self.may_end_by = -signal.SIGALRM if wrapper[:1] == ("strace",) else None
        self.began = time.monotonic()
        threading.Thread(target=self._keep_it_fresh, args=(self.process,), daemon=True).start()
        return self

    def kill(self):
        """`kill -9`; then what must hold of what it left."""
        self.process.kill()
        code = self.process.wait(PATIENCE_SECONDS)
        if code not in (-signal.SIGKILL, self.may_end_by):
            raise Broken(f"it ended with {code} by itself: {self.said()[-3000:]}")
        self.judge.look()
        self.judge.books(self.truth())
        return self

    def converge(self, seconds=PATIENCE_SECONDS):
        """Wait until its books are the exchange's; return the seconds that took.

        They are counted from the moment at which it has looked at the venue as a whole.
        """
        looked_at, differs = None, "it did not start"
        while looked_at is None or time.monotonic() - looked_at < seconds:
            if self.process.poll() is not None:
                raise Broken(f"it ended with {self.process.returncode}: {self.said()[-3000:]}")
            if looked_at is None and time.monotonic() - self.began > PATIENCE_SECONDS:
                break
            truth = self.truth()
            self.judge.look()
            if looked_at is None and self.judge.journal.kinds.get("bot.started", 0) > self.starts:
                looked_at = time.monotonic()
            differs = self.judge.differs(truth, time.monotonic() - self.began)
            if looked_at is not None and not differs:
                self.judge.books(truth)
                return time.monotonic() - looked_at
            time.sleep(POLL_SECONDS)
        raise Broken(f"not converged: {differs or self.said()[-3000:]}")

    def _has_seen_everything(self):
        """Else what it holds is shown at earlier prices, perhaps of the life before."""
        if not (self.healthy() and self.file("health.json")["pid"] == self.process.pid):
            return False
        if not (self.data / "last_state.json").exists():
            return False  # its very first tick writes that a moment later
        shown = self.file("last_state.json")["account"]["unrealized_pnl"]
        return shown and Decimal(shown) == Decimal(self.truth()["unrealized_pnl"])

    def put_the_output_aside(self):
        """What Python says by itself before any code of ours runs is no fault of the bot."""
        self.output.rename(self.folder / f"output-{self.lives}")

    def acts(self):
        """Wait until it has intended something in this life."""
        def has_acted():
            self.judge.look()
            return len(self.judge.journal.intents) > self.intended

        return self._wait_for(has_acted, "an intent")

    def holds_something(self):
        """Wait until it does."""
        return self._wait_for(lambda: positions(self.truth()), "a position")

    def _wait_for(self, holds, what):
        """Wait; where the remembered closes were too old for a bot that began slowly, it learns
        new ones, and only a market that moves gives it something to decide."""
        dice, still_until = random.Random(self.lives), time.monotonic() + STILL_SECONDS

        def looked():
            time.sleep(POLL_SECONDS)
            if (found := holds()) or time.monotonic() < still_until:
                return found
            self.leap(dice)
            return None

        wait_until(looked, what, PATIENCE_SECONDS)
        return self

    def finish(self):
        """End it in good order; every book of it must be the exchange's."""
        self.converge()
        if self.judge.unknown(self.truth()):
            return self.kill()  # it would look for that order for twenty seconds, and not find it
        self.until(self._has_seen_everything, "its first whole tick")
        if code := self.end():
            raise Broken(f"exit code {code}: {self.said()[-3000:]}")
        self.judge.look()
        if differs := self.judge.differs(self.truth()):
            raise Broken(f"after its end: {differs}")
        self.balanced()
        return self

    def close(self):
        """End what runs; nothing may have broken, and nothing may have leaked."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if broken := self.sim.stop():
            raise Broken(f"the exchange broke: {broken}")
        if leaks := self.leaks():
            raise Broken(f"I-46: {leaks}")


@contextmanager
def account(**more):
    """An account in a folder of its own, which is gone afterwards."""
    with TemporaryDirectory(prefix="proc-") as folder:
        made = Account(Path(folder), **more)
        try:
            yield made
        finally:
            made.close()

"""Peers: the same job by other engines, each in an environment of its own.

This file also runs inside those environments, as a script, and so imports nothing of ours: the
5/20 crossover on the close, long only, one unit, 0.06 % commission, a 1 % trailing stop on the
highest close since the fill.  Measured is reading the file and the run, without the import.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time

RELEASES = {
    "backtrader": ("backtrader==1.9.78.123",),
    "backtesting": ("backtesting==0.6.6",),
    "basana": ("basana==1.11",),
}
INSTALL_SECONDS_MAX, RUN_SECONDS_MAX = 600, 900
SHORT, LONG, FEE, TRAIL = 5, 20, 0.0006, 0.99


class Unavailable(Exception):
    """The engine could not be installed or run; the message says why."""


def run(name, cache, path):
    """Run one engine's job, installing it first if need be; return what it said."""
    if name not in RELEASES:
        raise Unavailable(f"no such peer; there are {' '.join(RELEASES)}")
    python = _environment(name, Path(cache) / f"peer-{name}")
    done = _call([python, "-P", __file__, name, path], RUN_SECONDS_MAX)
    return json.loads(done.splitlines()[-1])


def _environment(name, folder):
    """The Python of the engine's own packages."""
    python, complete = folder / "bin" / "python", folder / " ".join(RELEASES[name])
    if not complete.exists():
        _call([sys.executable, "-m", "venv", "--clear", folder], INSTALL_SECONDS_MAX)
        _call([python, "-m", "pip", "install", "--quiet", "--no-input", *RELEASES[name]],
              INSTALL_SECONDS_MAX)
        complete.touch()
    return python


def _call(argv, seconds):
    try:
        done = subprocess.run([str(each) for each in argv], capture_output=True, text=True,
                              timeout=seconds, check=False,
                              env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{argv[1]} took more than {seconds} s") from None
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return done.stdout


# Inside the engine's own environment


def backtrader():
    import backtrader as bt

    class Crossover(bt.Strategy):
        def __init__(self):
            fast, slow = (bt.ind.SMA(period=bars) for bars in (SHORT, LONG))
            self.cross, self.best, self.trips = bt.ind.CrossOver(fast, slow), 0, 0

        def next(self):
            close = self.data.close[0]
            if not self.position:
                if self.cross[0] > 0:
                    self.buy(size=1)
                    self.best = 0
                return
            self.best = max(self.best, close)
            if self.cross[0] < 0 or close <= self.best * TRAIL:
                self.close()

        def notify_trade(self, trade):
            self.trips += trade.isclosed

    def job(path):
        engine = bt.Cerebro(stdstats=False)
        engine.broker.setcash(1e8)
        engine.broker.setcommission(commission=FEE)
        engine.adddata(bt.feeds.GenericCSVData(
            dataname=path, dtformat="%Y-%m-%dT%H:%M:%SZ", timeframe=bt.TimeFrame.Minutes,
            volume=-1, openinterest=-1))
        engine.addstrategy(Crossover)
        return engine.run()[0].trips

    return job


def backtesting():
    import pandas
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover

    def average(closes, bars):
        return pandas.Series(closes).rolling(bars).mean()

    class Crossover(Strategy):
        def init(self):
            self.fast, self.slow = (self.I(average, self.data.Close, bars)
                                    for bars in (SHORT, LONG))
            self.best = 0

        def next(self):
            close = self.data.Close[-1]
            if not self.position:
                if crossover(self.fast, self.slow):
                    self.buy(size=1)
                    self.best = 0
                return
            self.best = max(self.best, close)
            if crossover(self.slow, self.fast) or close <= self.best * TRAIL:
                self.position.close()

    def job(path):
        rows = pandas.read_csv(path, index_col="time", parse_dates=True)
        rows.columns = ["Open", "High", "Low", "Close"]
        result = Backtest(rows, Crossover, cash=1e8, commission=FEE).run()
        return int(result["# Trades"])

    return job


def basana():
    import asyncio
    import csv
    from collections import deque
    from datetime import datetime, timedelta
    from decimal import Decimal

    import basana as bs
    from basana.backtesting import exchange, fees

    pair, minute, trail = bs.Pair("BTC", "USD"), timedelta(minutes=1), Decimal(str(TRAIL))

    class Bars(bs.FifoQueueEventSource):
        def __init__(self, path):
            with open(path, newline="", encoding="utf-8") as file:
                rows = csv.reader(file)
                next(rows)
                super().__init__(events=[self.event(row) for row in rows])

        def event(self, row):
            at, (opened, high, low, close) = datetime.fromisoformat(row[0]), map(Decimal, row[1:5])
            return bs.BarEvent(at + minute, bs.Bar(
                at, pair, opened, high, low, close, Decimal(1000), minute))

    class Crossover:
        def __init__(self, venue):
            self.venue, self.side, self.held, self.best, self.trips = venue, 0, False, 0, 0
            self.windows = [deque(maxlen=bars) for bars in (SHORT, LONG)]
            self.sums = [Decimal(0), Decimal(0)]

        def push(self, close):
            for place, window in enumerate(self.windows):
                if len(window) == window.maxlen:
                    self.sums[place] -= window[0]
                window.append(close)
                self.sums[place] += close
            return len(window) == LONG

        async def on_bar(self, event):
            close = event.bar.close
            if not self.push(close):
                return
            difference = self.sums[0] * LONG - self.sums[1] * SHORT
            lean = (difference > 0) - (difference < 0) or self.side
            side, self.side = self.side, lean
            if self.held:
                self.best = max(self.best, close)
                if lean < 0 or close <= self.best * trail:
                    await self.order(bs.OrderOperation.SELL)
                    self.held, self.trips = False, self.trips + 1
            elif lean > 0 > side:
                await self.order(bs.OrderOperation.BUY)
                self.held, self.best = True, close

        async def order(self, operation):
            await self.venue.create_market_order(operation, pair, Decimal(1))

    def job(path):
        async def run():
            dispatcher = bs.backtesting_dispatcher()
            venue = exchange.Exchange(
                dispatcher, initial_balances={"USD": Decimal(10**8), "BTC": Decimal(0)},
                fee_strategy=fees.Percentage(percentage=Decimal("0.06")))
            venue.set_pair_info(pair, bs.PairInfo(8, 2))
            venue.add_bar_source(Bars(path))
            strategy = Crossover(venue)
            venue.subscribe_to_bar_events(pair, strategy.on_bar)
            await dispatcher.run()
            return strategy.trips

        return asyncio.run(run())

    return job


def main(name, path):
    job = {"backtrader": backtrader, "backtesting": backtesting, "basana": basana}[name]()
    wall, cpu = perf_counter(), process_time()
    trades = job(path)
    took = {"wall": perf_counter() - wall, "cpu": process_time() - cpu}
    with open("/proc/self/status", encoding="ascii") as lines:
        peak = next(int(each.split()[1]) for each in lines if each.startswith("VmHWM")) / 1024
    print(json.dumps({"trades": trades, **took, "peak_mib": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Month: are the bot's books the exchange's, to the last digit, after a recorded month of BTC?

A real prod bot trades against the exchange process over HTTP and WebSocket, with time in our hands
as in recorded_day.py.  The market closes on Fridays, funding comes hour by hour at recorded rates,
and of each day six answers to orders are lost.  The books are compared at every midnight; at the
end once more, and after a restart.  Nothing else in here decides what is right: the exchange's
own books do.
"""

import csv
import gzip
import os
import tempfile
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

from helpers import repeated
from live import BTC, IDS, LiveRig, at_once
from recorded_day import DATA, WARM_UP, Played, differences, played, recorded, sent_while_in_doubt

from perps_bot import store as disk
from perps_bot.store import read_events

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MONTHS = {
    # name     prices, the whole days in them, funding rates, and the hours that one of these covers
    "2025-05": ("btcusdt-perp-binance-1m-2025-05.csv.gz", date(2025, 5, 5), date(2025, 6, 2),
                "btcusdt-perp-binance-funding-2025.csv", 8),
    "2022-01": ("btc-perp-1m-2022-01.csv.gz", date(2022, 1, 1), date(2022, 1, 31),
                "btcusd-perp-dydx-funding-2022-2023.csv.gz", 1),
}
# The hours of each day after which the answer to the next order is lost, though it was taken.
LOST_ANSWERS = (1, 3, 5, 11, 17, 21)
# So much that a month of fees does not end the trading before the month ends.
CASH = "1000000"
# Ticks, a second apart, that the outcome of an order may still take when a day is over.
SETTLING_TICKS_MAX = 60
# What no event may say on a day on which nothing but answers was lost.
BAD_NEWS = ("reconcile.mismatch", "order.lost", "alert", "feed.stale", "state.changed")
NOT_RUN = 2  # the exit code where nothing was compared
COLUMNS = ("day", "ticks", "trades", "stops", "accruals", "lost", "equity", "books", "seconds")
FORM = "{:<10} {:>6} {:>6} {:>6} {:>9} {:>5} {:>13} {:>7} {:>7}"


def month(days=None, start_day=None, name="2025-05", out=print):
    """Play `days` days of a month from `start_day`; return 0 when all was right, 1 when not."""
    prices, first, last, rates, _ = MONTHS[name]
    missing = [str(DATA / each) for each in (prices, rates) if not (DATA / each).exists()]
    if missing:
        out(f"the recorded month is not here: {' '.join(missing)}")
        return NOT_RUN
    begin = start_day or first
    count = min(days or 31, (last - begin).days + 1)
    if not first <= begin <= last:
        out(f"{begin} is no whole day of {prices}: name one of {first} to {last}")
        return NOT_RUN
    begun = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        failures = _play(Path(folder), name, datetime(*begin.timetuple()[:3], tzinfo=UTC), count,
                         out)
    out(f"{count} days in {monotonic() - begun:.0f} s; "
        + ("the books are equal to the last digit" if not failures else
           f"{len(failures)} things are wrong:"))
    for line in failures:
        out(f"  {line}")
    return 1 if failures else 0


def _play(folder, name, begin, count, out):
    """Play the days; return what is wrong, a line each."""
    at_once(SimpleNamespace(setattr=setattr))
    disk._fsync = lambda fd: None  # no power cut comes in here: the disk need not turn
    with LiveRig(folder, {"friday_close": True, "cash": CASH}, now=begin, with_feed=True,
                 enable_shorts=True, trailing_stop_pct=Decimal("0.005"),
                 max_daily_loss_pct=Decimal(1)) as rig:
        run = _Month(rig, name, out)
        run.begin()
        for number in range(count):
            run.day(begin + number * DAY)
        run.end(count)
        return run.failures


class _Month:
    """One run, and what was wrong in it."""

    def __init__(self, rig, name, out):
        prices, _, _, rates, hours = MONTHS[name]
        self.rig, self.out, self.failures = rig, out, []
        self._prices, self._rates = DATA / prices, list(_hourly(DATA / rates, hours))
        self._counts, self._sums = Counter(), Counter()
        self._played = Played(rig)

    def begin(self):
        rig, begin = self.rig, self.rig.now
        closes = [row[-1] for row in recorded(begin - WARM_UP, begin, self._prices)]
        rig.history(closes)
        rig.price(closes[-1])
        rig.start()
        rig.bot.store.subscribe(self._count)
        self.out(FORM.format(*COLUMNS))

    def day(self, begin):
        """Play one day, hour by hour, and compare the books at its end."""
        started, rig, end, played_day = monotonic(), self.rig, begin + DAY, self._played
        self._counts.clear()
        ticks, accruals = played_day.ticks, len(rig.truth()["accruals"])
        played_day.lost_at.extend(begin + hour * HOUR for hour in LOST_ANSWERS)
        rows = played(recorded(begin, end, self._prices))
        rig.sim.call("path", product_id=IDS[BTC], rows=list(rows))
        for hour in range(24):
            self._fund(begin + hour * HOUR)
            played_day.play(begin + (hour + 1) * HOUR)
        self._settle()
        wrong, known = differences(rig), len(self.failures)
        self._note(begin, wrong)
        lost, trades = self._counts["order.unknown"], self._counts["trade.executed"]
        accruals = len(rig.truth()["accruals"]) - accruals
        self._sums.update(ticks=played_day.ticks - ticks, trades=trades, lost=lost,
                          stops=self._counts["stop.triggered"], accruals=accruals)
        self.out(FORM.format(
            f"{begin:%Y-%m-%d}", played_day.ticks - ticks, trades, self._counts["stop.triggered"],
            accruals, lost, f"{rig.bot.tracker.equity():,.2f}", "DIFFER" if wrong else "equal",
            f"{monotonic() - started:.1f}"))
        for line in self.failures[known:]:
            self.out(f"  {line}")
        rig.events.clear()
        os.truncate(rig.sim.log_file, 0)  # both ends write on at its end: a month of it is 3 GB

    def end(self, count):
        """Compare the whole: trade by trade, order by order, and after a restart."""
        rig, truth = self.rig, self.rig.truth()
        figures = rig.feed.figures()["market"]
        events = [(event.type, event.data.get("client_order_id"), event.data.get("explained"))
                  for event in read_events(rig.folder / "events")]
        trades = sum(kind == "trade.executed" for kind, *_ in events)
        checks = (
            # what must be empty or false                            and what is said of it
            (trades != len(truth["fills"]),
             f"{trades} trades in our events, {len(truth['fills'])} at the exchange"),
            (repeated(order["client_order_id"] for order in truth["orders"]),
             "client order ids were used twice"),
            (sent_while_in_doubt(row[:2] for row in events), "orders were sent in doubt"),
            ([row for row in events if row[0] == "account.tied_out" and not row[2]],
             "a daily tie-out did not tie out"),
            (figures["gaps"] or figures["repeats"] or figures["errors"], f"the feed: {figures}"),
        )
        self.failures += [f"{said}: {found}" for found, said in checks if found]
        rig.start()
        rig.tick(0)
        self.failures += [f"after a restart {what} is {ours:f}, at the exchange {theirs:f}"
                          for what, ours, theirs in differences(rig)]
        sums = self._sums
        self.out(f"{count} days: {sums['ticks']:,} ticks, {sums['trades']:,} trades, "
                 f"{sums['stops']:,} stops fired, {sums['accruals']:,} accruals, "
                 f"{sums['lost']:,} lost answers, {len(events):,} events")

    def _fund(self, hour):
        """The hour that now runs is charged at its end, at the rate that was recorded then."""
        rate = next((rate for at, rate in self._rates if at == hour + HOUR), None)
        if rate is not None:
            self.rig.sim.call("set_product", product_id=IDS[BTC], funding_rate=rate)

    def _settle(self):
        """Let the last order's outcome be learnt: books are compared when nothing is awaited."""
        for _ in range(SETTLING_TICKS_MAX):
            if not self._played.is_awaited():
                return
            self._played.play(self.rig.now + timedelta(seconds=1))

    def _note(self, begin, wrong):
        """Take down what this day did that it should not have done."""
        day, found = f"{begin:%Y-%m-%d}", self._played
        self.failures += [f"{day}: {what} is {ours:f}, at the exchange {theirs:f}"
                          for what, ours, theirs in wrong]
        self.failures += [f"{at:%Y-%m-%d %H:%M:%S}: {held:f} held, {covered:f} under a stop"
                          for at, held, covered in found.bare]
        self.failures += [f"{at:%Y-%m-%d %H:%M:%S}: {why}" for at, why in found.unfinished]
        self.failures += [f"{day}: {self._counts[kind]} times {kind}" for kind in BAD_NEWS
                          if self._counts[kind]]
        found.bare.clear()
        found.unfinished.clear()

    def _count(self, event):
        self._counts[event.type] += 1


def _hourly(path, hours):
    """(end of an hour, its rate as text) from rates that each cover `hours` of them."""
    read = gzip.open if path.suffix == ".gz" else open
    with read(path, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["time"]).replace(minute=0, second=0, microsecond=0)
            rate = Decimal(row["funding_rate"]) / hours
            yield from ((at - ago * HOUR, f"{rate:f}") for ago in range(hours))

"""Replay: what would it have done?

The same loop as in life, on recorded prices and in virtual time.  This room drives the clock and
keeps the score; it contains no rule of trading, fills nothing and decides nothing.  It reads no
clock: the speed of a run is measured by its caller.
"""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.loop import Bot, assemble, run
from perps_bot.market import RecordedMarket
from perps_bot.model import (
    Event, Fill, FundingPayment, OrderStatus, Side, TradingState, moment,
)
from perps_bot.paper import PaperBroker
from perps_bot.risk import RISK_KINDS
from perps_bot.settings import Settings
from perps_bot.stats import EquityCurve, TripSummary, sharpe, sortino
from perps_bot.store import EventStore

TRADE_COLUMNS = ("time", "symbol", "side", "quantity", "price", "fee", "order_id", "reason")
# Ticks between two calls of the progress function.
PROGRESS_EVERY = 2_000
REPORT = (
    # what                Result field        form      unit and meaning
    ("start equity",      "start_equity",     "z,.2f",  "USD"),
    ("end equity",        "end_equity",       "z,.2f",  "USD"),
    ("return",            "return_pct",       "z.2%",   ""),
    ("realized P&L",      "realized_pnl",     "z,.2f",  "USD, before fees and funding"),
    ("unrealized P&L",    "unrealized_pnl",   "z,.2f",  "USD"),
    ("fees",              "fees",             "z,.2f",  "USD"),
    ("funding",           "funding",          "z,.2f",  "USD; above zero we paid"),
    ("trades",            "trades",           ",",      "closed round trips"),
    ("win rate",          "win_rate",         "z.2%",   "of them, after their costs"),
    ("profit factor",     "profit_factor",    "z,.2f",  "net gains over net losses"),
    ("Sharpe",            "sharpe",           "z,.2f",  "a year, from daily returns"),
    ("Sortino",           "sortino",          "z,.2f",  "a year, from daily returns"),
    ("max drawdown",      "max_drawdown_pct", "z.2%",   "of the highest equity before it"),
    ("exposure",          "exposure",         "z.2%",   "of the time"),
    ("halts",             "halts",            ",",      "by a risk limit, until midnight UTC"),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """One run.  Money in USD; `..._pct` and rates are fractions; None where not defined.

    trades    closed round trips; bars  rows of prices that were read
    refusals  refused orders by code; halts  times that a risk limit
              stopped entries; the next UTC midnight lifts that
    exposure  fraction of the time in which something was held
    message   what stood in the way at the end; empty if nothing
    """

    symbols: tuple[str, ...]
    start: datetime
    end: datetime
    start_equity: Decimal
    end_equity: Decimal
    return_pct: Decimal
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    fees: Decimal
    funding: Decimal
    trades: int
    win_rate: Decimal | None
    profit_factor: Decimal | None
    sharpe: Decimal | None
    sortino: Decimal | None
    max_drawdown_pct: Decimal | None
    exposure: Decimal | None
    bars: int
    bad_rows: int
    refusals: dict[str, int]
    halts: int
    message: str


def replay(
    market: RecordedMarket,
    settings: Settings,
    events: Path | None = None,
    trades: Path | None = None,
    equity_curve: Path | None = None,
    progress: Callable[[Decimal], None] | None = None,
) -> Result:
    """Run `market` to its end and return the score.

    events, trades, equity_curve  where to write the events (a folder) and the two CSV files;
              nothing stands there before the run has ended well
    progress  called now and then with the fraction that was read
    Raises ConfigError for a row that cannot be used, naming file and line, and for an output
    that cannot be written.
    """
    outputs = (events, trades, equity_curve)
    try:
        with ExitStack() as kept:
            parts = [kept.enter_context(_kept_when_done(path)) for path in outputs]
            return _replay(market, settings, progress, *parts)
    except OSError as failure:
        named = " or ".join(str(path) for path in outputs if path)
        raise ConfigError(f"{named} could not be written: {failure.strerror}: nothing was kept; "
                          f"name another place") from failure


def report_lines(result: Result) -> Iterator[str]:
    """Say `result` for people, rounded for reading."""
    span = f"{result.start:%Y-%m-%d %H:%M} to {result.end:%Y-%m-%d %H:%M} UTC"
    skipped = f", {result.bad_rows:,} bad rows skipped" * bool(result.bad_rows)
    yield f"{' '.join(result.symbols)}, {span}, {result.bars:,} bars{skipped}"
    for what, field, form, meaning in REPORT:
        value = getattr(result, field)
        shown = "not defined" if value is None else format(value, form)
        yield f"{what:<16}{shown:>14}  {meaning}".rstrip()
    for code, count in (result.refusals or {"": "none"}).items():
        yield f"{'refused orders':<16}{count:>14}  {code}".rstrip()
    if result.message:
        yield f"at the end: {result.message}"


def _replay(
    market: RecordedMarket, settings: Settings, progress: Callable[[Decimal], None] | None,
    events: Path | None, trades: Path | None, equity_curve: Path | None,
) -> Result:
    with ExitStack() as open_files:
        score = _Score(
            market, progress, open_files.enter_context(_table(trades, TRADE_COLUMNS)),
            open_files.enter_context(_table(equity_curve, ("time", "equity"))),
        )
        store = EventStore(events, sync=False)
        venue = PaperBroker(market, settings.paper_equity, settings.fee_rate,
                            settings.fee_per_contract, settings.slippage_bps)
        bot = assemble(settings, venue, store, "replay")
        bot.surfaces, bot.lifts_risk_holds_at_midnight = score, True
        store.subscribe(score.apply)
        clock = _ReplayClock(market)
        if clock.is_over():
            raise ConfigError("no row lies between --from and --to: widen them")
        run(bot, clock)
        store.close()
        return score.result(bot)


class _ReplayClock:
    """Virtual time: the recording's own moments, one after the other."""

    def __init__(self, market: RecordedMarket) -> None:
        self._market = market
        self._now = market.advance()

    def now(self) -> datetime:
        return self._now

    def wait(self, seconds: Decimal) -> None:
        self._now = self._market.advance()

    def is_over(self) -> bool:
        return self._now is None


class _Score:
    """Watches one run; keeps sums, never the history."""

    def __init__(self, market, progress, trades, equity_curve) -> None:
        self._market, self._progress = market, progress
        self._trades, self._curve_file = trades, equity_curve
        self._curve, self._trips = EquityCurve(), TripSummary()
        self._refusals: Counter = Counter()
        self._start: datetime | None = None
        self._end: datetime | None = None
        self._held = timedelta()
        self._is_holding = False
        self._ticks = self._halts = 0

    def publish(self, bot: Bot, now: datetime, error: str = "") -> None:
        if bot.trouble:
            raise ConfigError(f"{bot.trouble}: nothing was kept; name another place")
        if self._start is None:
            self._start = self._end = now
        if self._is_holding:
            self._held += now - self._end
        self._is_holding, self._end = bool(bot.tracker.positions()), now
        equity = bot.tracker.equity()
        self._curve.observe(now, equity)
        if self._curve_file is not None:
            self._curve_file.writerow((now.isoformat(), f"{equity:f}"))
        self._ticks += 1
        if self._progress is not None and self._ticks % PROGRESS_EVERY == 0:
            self._progress(self._market.progress())

    def snapshot(self) -> dict[str, object]:
        return {}

    def apply(self, event: Event) -> None:
        data = event.data
        if event.type == "trade.executed":
            self._count_trade(data)
        elif event.type == "funding.paid":
            self._trips.charge(FundingPayment(data["payment_id"], data["symbol"], data["amount"],
                                              data["rate"], data["paid_at"]))
        elif event.type == "risk.rejected":
            self._refusals.update(data["codes"])
        elif event.type == "order.updated" and data["status"] is OrderStatus.REJECTED:
            self._refusals[data["answer"].partition(":")[0]] += 1
        elif event.type == "state.changed" and data["kind"] in RISK_KINDS:
            self._halts += data["state"] != TradingState.TRADING

    def result(self, bot: Bot) -> Result:
        books, returns = bot.tracker, self._curve.daily_returns
        begun, ended = books.start_equity, books.equity()
        columns = ("realized_pnl", "unrealized_pnl", "fees", "funding")
        return Result(
            symbols=bot.symbols, start=self._start, end=self._end,
            start_equity=begun, end_equity=ended, return_pct=(ended - begun) / begun,
            **{name: books.total(name) for name in columns},
            trades=self._trips.trips, win_rate=self._trips.win_rate,
            profit_factor=self._trips.profit_factor, sharpe=sharpe(returns),
            sortino=sortino(returns), max_drawdown_pct=self._curve.max_drawdown_pct,
            exposure=_share(self._held, self._end - self._start),
            bars=self._market.rows, bad_rows=self._market.bad_rows,
            refusals=dict(sorted(self._refusals.items())), halts=self._halts, message=bot.message,
        )

    def _count_trade(self, data: Mapping) -> None:
        fill = Fill(data["fill_id"], data["client_order_id"], data["symbol"], Side(data["side"]),
                    data["quantity"], data["price"], data["fee"], moment(data["filled_at"]))
        self._trips.fill(fill)
        if self._trades is not None:
            self._trades.writerow((
                fill.at.isoformat(), fill.symbol, fill.side.value, f"{fill.quantity:f}",
                f"{fill.price:f}", f"{fill.fee:f}", fill.client_order_id, data["reason"],
            ))


@contextmanager
def _kept_when_done(path: Path | None) -> Iterator[Path | None]:
    """Yield where to write what gets the name `path` only when all went well."""
    if path is None:
        yield None
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink()


@contextmanager
def _table(path: Path | None, columns: tuple[str, ...]) -> Iterator:
    """Yield what writes rows of a CSV file, or None where no path was given."""
    if path is None:
        yield None
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def _share(part: timedelta, whole: timedelta) -> Decimal | None:
    step = timedelta(microseconds=1)
    return Decimal(part // step) / (whole // step) if whole else None

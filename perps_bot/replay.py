"""Replay: what would it have done?

The same loop as in life, on recorded prices and in virtual time.  This room drives the clock and
keeps the score; it contains no rule of trading, fills nothing and decides nothing.  It reads no
clock: the speed of a run is measured by its caller.
"""

import csv
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from perps_bot.loop import Bot, assemble, run
from perps_bot.market import RecordedMarket
from perps_bot.model import ZERO, Event, Fill, FundingPayment, Side, TradingState, moment
from perps_bot.paper import PaperBroker
from perps_bot.risk import RISK_KINDS
from perps_bot.settings import Settings
from perps_bot.stats import EquityCurve, TripSummary, sharpe, sortino
from perps_bot.store import EventStore

TRADE_COLUMNS = ("time", "symbol", "side", "quantity", "price", "fee", "order_id", "reason")
# Ticks between two calls of the progress function.
PROGRESS_EVERY = 2_000


@dataclass(frozen=True)
class Result:
    """One run.  Money in USD; `..._pct` and rates are fractions; None where not defined.

    trades    closed round trips; bars  rows of prices that were read
    refusals  refused orders by code; halts  times that a risk limit
              stopped entries; the next UTC midnight lifts that
    exposure  fraction of the time in which something was held
    """

    start: datetime | None
    end: datetime | None
    start_equity: Decimal
    end_equity: Decimal
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    fees: Decimal
    funding: Decimal
    trades: int
    bars: int
    bad_rows: int
    return_pct: Decimal
    win_rate: Decimal | None
    profit_factor: Decimal | None
    sharpe: Decimal | None
    sortino: Decimal | None
    max_drawdown_pct: Decimal | None
    exposure: Decimal | None
    refusals: dict[str, int]
    halts: int


def replay(
    market: RecordedMarket,
    settings: Settings,
    events: Path | None = None,
    trades: Path | None = None,
    equity_curve: Path | None = None,
    progress: Callable[[Decimal], None] | None = None,
) -> Result:
    """Run `market` to its end and return the score.

    events, trades, equity_curve  where to write the events (a folder) and the two CSV files
    progress  called now and then with the fraction that was read
    Raises ConfigError for a row that cannot be used, naming file and line.
    """
    with ExitStack() as open_files:
        score = _Score(
            market, progress,
            open_files.enter_context(_table(trades, TRADE_COLUMNS)),
            open_files.enter_context(_table(equity_curve, ("time", "equity"))),
        )
        store = EventStore(events)
        venue = PaperBroker(market, settings.paper_equity, settings.fee_rate,
                            settings.fee_per_contract, settings.slippage_bps)
        bot = assemble(settings, venue, store, "replay")
        bot.surfaces, bot.lifts_risk_holds_at_midnight = score, True
        store.subscribe(score.apply)
        run(bot, _ReplayClock(market))
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
        if self._start is None:
            self._start = self._end = now
        if self._is_holding:
            self._held += now - self._end
        self._is_holding, self._end = bool(bot.tracker.positions()), now
        equity = bot.tracker.last_equity
        if equity is not None:
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
            fill = Fill(data["fill_id"], data["client_order_id"], data["symbol"],
                        Side(data["side"]), data["quantity"], data["price"], data["fee"],
                        moment(data["filled_at"]))
            self._trips.fill(fill)
            if self._trades is not None:
                self._trades.writerow((
                    fill.at.isoformat(), fill.symbol, fill.side.value, f"{fill.quantity:f}",
                    f"{fill.price:f}", f"{fill.fee:f}", fill.client_order_id, data["reason"],
                ))
        elif event.type == "funding.paid":
            self._trips.charge(FundingPayment(data["payment_id"], data["symbol"], data["amount"],
                                              data["rate"], data["paid_at"]))
        elif event.type == "risk.rejected":
            self._refusals.update(data["codes"])
        elif event.type == "state.changed" and data["kind"] in RISK_KINDS:
            self._halts += data["state"] != TradingState.TRADING

    def result(self, bot: Bot) -> Result:
        books, returns = bot.tracker, self._curve.daily_returns
        begun, ended = books.start_equity, books.equity()
        span = self._end - self._start if self._start else timedelta()
        return Result(
            start=self._start, end=self._end, start_equity=begun, end_equity=ended,
            realized_pnl=books.total("realized_pnl"), unrealized_pnl=books.total("unrealized_pnl"),
            fees=books.total("fees"), funding=books.total("funding"),
            trades=self._trips.trips, bars=self._market.rows, bad_rows=self._market.bad_rows,
            return_pct=(ended - begun) / begun if begun else ZERO,
            win_rate=self._trips.win_rate, profit_factor=self._trips.profit_factor,
            sharpe=sharpe(returns), sortino=sortino(returns),
            max_drawdown_pct=self._curve.max_drawdown_pct,
            exposure=_share(self._held, span),
            refusals=dict(sorted(self._refusals.items())), halts=self._halts,
        )


class _table:
    """A CSV file that is being written, or nothing where no path was given."""

    def __init__(self, path: Path | None, columns: tuple[str, ...]) -> None:
        self._file = None if path is None else open(path, "w", newline="", encoding="utf-8")
        self._columns = columns

    def __enter__(self):
        if self._file is None:
            return None
        writer = csv.writer(self._file, lineterminator="\n")
        writer.writerow(self._columns)
        return writer

    def __exit__(self, *_error) -> None:
        if self._file is not None:
            self._file.close()


def _share(part: timedelta, whole: timedelta) -> Decimal | None:
    step = timedelta(microseconds=1)
    return Decimal(part // step) / (whole // step) if whole else None

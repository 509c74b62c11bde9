"""Replay: what would it have done?

The same loop as in life, on recorded prices and in virtual time.  This room drives the clock and
keeps the score; it contains no rule of trading, fills nothing and decides nothing.  It reads no
clock: the speed of a run is measured by its caller.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.bot import Bot, assemble
from perps_bot.loop import run
from perps_bot.market import RecordedMarket
from perps_bot.model import ZERO, Event
from perps_bot.outputs import kept_when_done, table
from perps_bot.paper import PaperBroker
from perps_bot.score import MONEY, SCORED, Figures, Score, figure_lines
from perps_bot.settings import Settings
from perps_bot.store import EventStore
from perps_bot.tracker import fill_of

TRADE_COLUMNS = ("time", "symbol", "side", "quantity", "price", "fee", "order_id", "reason")
# Ticks between two calls of the progress function.
PROGRESS_EVERY = 2_000


@dataclass(frozen=True)
class Result(Figures):
    """One run, as Figures has it; here the next UTC midnight lifts a halt by a risk limit.

    bars     rows of prices that were read; bad_rows  rows that were skipped
    message  what stood in the way at the end; empty if nothing
    """

    bars: int
    bad_rows: int
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
            parts = [kept.enter_context(kept_when_done(path)) for path in outputs]
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
    yield from figure_lines(result)
    if result.message:
        yield f"at the end: {result.message}"


def _replay(
    market: RecordedMarket, settings: Settings, progress: Callable[[Decimal], None] | None,
    events: Path | None, trades: Path | None, equity_curve: Path | None,
) -> Result:
    with ExitStack() as open_files:
        watch = _Watch(
            market, progress, open_files.enter_context(table(trades, TRADE_COLUMNS)),
            open_files.enter_context(table(equity_curve, ("time", "equity"))),
        )
        store = EventStore(events, sync=False)
        venue = PaperBroker(market, settings.paper_equity, settings.fee_rate,
                            settings.fee_per_contract, settings.slippage_bps)
        bot = assemble(settings, venue, store, "replay")
        bot.surfaces, bot.lifts_risk_holds_at_midnight = watch, True
        store.subscribe(watch.apply, SCORED)
        clock = _ReplayClock(market)
        if clock.is_over():
            raise ConfigError("no row lies between --from and --to: widen them")
        run(bot, clock)
        store.close()
        return watch.result(bot)


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


class _Watch:
    """Keeps the score of one run, and writes its rows."""

    def __init__(self, market, progress, trades, equity_curve) -> None:
        self._market, self._progress = market, progress
        self._trades, self._curve_file = trades, equity_curve
        self._score = Score()
        self._ticks = 0

    def publish(self, bot: Bot, now: datetime, error: str = "") -> None:
        if bot.trouble:
            raise ConfigError(f"{bot.trouble}: nothing was kept; name another place")
        self._score.observe(now, bot.tracker)
        if self._curve_file is not None:
            self._curve_file((now, bot.tracker.equity()))
        self._ticks += 1
        if self._progress is not None and self._ticks % PROGRESS_EVERY == 0:
            self._progress(self._market.progress())

    def snapshot(self) -> dict[str, object]:
        return {}

    def apply(self, event: Event) -> None:
        self._score.apply(event)
        if self._trades is not None and event.type == "trade.executed":
            fill = fill_of(event.data)
            self._trades((fill.at, fill.symbol, fill.side.value, fill.quantity, fill.price,
                          fill.fee, fill.client_order_id, event.data["reason"]))

    def result(self, bot: Bot) -> Result:
        begun = {"equity": bot.tracker.start_equity, **dict.fromkeys(MONEY, ZERO)}
        return Result(**self._score.figures(bot.symbols, bot.tracker, begun),
                      bars=self._market.rows, bad_rows=self._market.bad_rows, message=bot.message)

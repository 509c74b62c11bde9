"""Bars: which closes do the averages get, and when?

One price of each bar, sampled at its end; what was missed comes from the venue's candles.  What
the strategy is given is an event, so that its windows can be followed.  Nothing is decided here.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from perps_bot.market import bar_closes, bar_start, cached_closes
from perps_bot.model import Mark
from perps_bot.settings import Settings
from perps_bot.store import EPOCH, EventStore, read_state
from perps_bot.strategy import CROSS_AGE_BARS_MAX, BaselinePerpsStrategy

# Bars that may be missed before the windows start again from nothing.
GAP_BARS_MAX = 2


@dataclass
class Bars:
    """The clock of bars of one process.  folder has the cache of closes; None: there is none."""

    settings: Settings
    venue: Any
    store: EventStore
    strategy: BaselinePerpsStrategy
    folder: Path | None = None
    _next: dict[str, datetime] = field(default_factory=dict)

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=int(self.settings.bar))

    def is_due(self, symbol: str, now: datetime) -> bool:
        return now >= self._next.get(symbol, now + self.length)

    def take(self, mark: Mark, now: datetime) -> tuple[bool, list[datetime]]:
        """Whether a bar ended since the last tick, and the ends that the strategy was given now."""
        symbol, bar = mark.symbol, self.length
        if mark.candle is not None:
            self.strategy.observe(symbol, mark.price, now)
            return True, [now]
        due = self._next.setdefault(symbol, bar_start(now, bar) + bar)
        if now < due:
            return False, []
        missed, ends = (now - due) // bar, []
        last = due + missed * bar
        if missed and self.warm(symbol, self.closes(symbol, now)):
            due = last  # the newest bar's candle may not be out yet
        elif missed > GAP_BARS_MAX:
            self.warm(symbol, [], anew=True)
            due = last
        while due <= last:
            if due > (self.strategy.bar_at(symbol) or EPOCH):
                self.strategy.observe(symbol, mark.price, due)
                ends.append(due)
            due += bar
        self._next[symbol] = last + bar
        return True, ends

    def warm(
        self, symbol: str, closes: list[tuple[datetime, Decimal]], anew: bool = False
    ) -> bool:
        """Fill the strategy's windows with `closes`; without any, only where they begin anew."""
        if closes or anew:
            self.strategy.warm(symbol, closes)
            self.store.append("strategy.warmed", symbol=symbol, closes=closes)
        return bool(closes)

    def closes(
        self, symbol: str, now: datetime, cached: bool = False
    ) -> list[tuple[datetime, Decimal]]:
        """Bars that have ended, from the venue's candles, at a start else from the cache."""
        bar, count = self.length, self.settings.long_ma_period + CROSS_AGE_BARS_MAX + 1
        closes = bar_closes(self.venue, symbol, bar, count, now)
        if cached and not closes and self.folder is not None:
            cache = read_state(self.folder / "marks.json")
            closes = cached_closes(cache, symbol, bar, now - (GAP_BARS_MAX + 1) * bar, now)
        return closes

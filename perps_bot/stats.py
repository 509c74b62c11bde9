"""Stats: how good was it?

Fills, funding and equity go in as they pass, oldest first; what is worth keeping stays.  No
clock, no I/O, no logging, no opinion: what is not defined (no trips, no losses, one return) is
None, never a made-up number.  Only the Decimal context's 28 digits round.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from itertools import pairwise

from perps_bot.model import ZERO, Fill, FundingPayment, Side

DAYS_A_YEAR = Decimal(365)  # the market's own year: crypto has no weekends


@dataclass(slots=True)
class RoundTrip:
    """One position from flat to flat; it grows until nothing is held.

    side           which side opened it: BUY for a long
    quantity       base units entered in all; held is what has not left yet
    entered, left  USD for which they did
    fees, funding  USD; what we paid is positive
    closed_at      when something left last
    """

    symbol: str
    side: Side
    opened_at: datetime
    closed_at: datetime
    quantity: Decimal = ZERO
    held: Decimal = ZERO
    entered: Decimal = ZERO
    left: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO

    @property
    def realized_pnl(self) -> Decimal:
        """USD of a finished trip, before fees and funding; a gain is positive."""
        return (self.left - self.entered) * self.side.sign

    @property
    def net_pnl(self) -> Decimal:
        return self.realized_pnl - self.fees - self.funding


class TripSummary:
    """Round trips while they pass; it remembers two of each symbol, and sums.

    trips, wins  finished round trips, and those with a net gain
    won, lost    USD, net gains and net losses; both positive
    on_finish    called with each trip that closes
    """

    def __init__(self, on_finish: Callable[[RoundTrip], None] = lambda trip: None) -> None:
        self.trips = self.wins = 0
        self.won = self.lost = ZERO
        self._on_finish = on_finish
        self._latest: dict[str, list[RoundTrip]] = {}

    def fill(self, fill: Fill) -> None:
        """Take the next fill: a partial exit belongs to the trip that it shrinks.

        One that flips the position closes a trip and opens the next, its fee split by quantity.
        """
        latest = self._latest.setdefault(fill.symbol, [])
        quantity, fee = fill.quantity, fill.fee
        held = latest[-1].held if latest else ZERO
        if held and latest[-1].side is not fill.side:
            leaving = min(quantity, held)
            share = fee if leaving == quantity else fee * leaving / quantity
            self._leave(latest[-1], fill, leaving, share)
            quantity, fee, held = quantity - leaving, fee - share, held - leaving
        if quantity:
            if not held:
                latest[:] = [*latest[-1:], RoundTrip(fill.symbol, fill.side, fill.at, fill.at)]
            trip = latest[-1]
            trip.quantity += quantity
            trip.held += quantity
            trip.entered += quantity * fill.price
            trip.fees += fee

    def newest(self, symbol: str) -> RoundTrip | None:
        """Return the trip of `symbol` that began last, open or finished."""
        latest = self._latest.get(symbol)
        return latest[-1] if latest else None

    def charge(self, payment: FundingPayment) -> None:
        """Take a payment of the trip that was open just before it, else of the last one begun.

        What was paid before all of them belongs to none.
        """
        begun = [t for t in self._latest.get(payment.symbol, ()) if t.opened_at <= payment.at]
        payers = [t for t in begun if t.opened_at < payment.at <= t.closed_at] or begun[-1:]
        for trip in payers:
            self._count(trip, -1)
            trip.funding += payment.amount
            self._count(trip, 1)

    @property
    def win_rate(self) -> Decimal | None:
        """The share of trips with a net gain, a fraction."""
        return Decimal(self.wins) / self.trips if self.trips else None

    @property
    def profit_factor(self) -> Decimal | None:
        """Net gains over net losses; None without a loss."""
        return self.won / self.lost if self.lost else None

    def _leave(self, trip: RoundTrip, fill: Fill, quantity: Decimal, fee: Decimal) -> None:
        trip.held -= quantity
        trip.left += quantity * fill.price
        trip.fees += fee
        trip.closed_at = fill.at
        self._count(trip, 1)
        if not trip.held:
            self._on_finish(trip)

    def _count(self, trip: RoundTrip, times: int) -> None:
        """Count a finished trip, or with -1 take it back."""
        if not trip.held:
            net = trip.net_pnl
            self.trips += times
            self.wins += times * (net > 0)
            self.won += times * max(net, ZERO)
            self.lost -= times * min(net, ZERO)


class EquityCurve:
    """What is worth keeping of an equity curve while it passes: one number a day.

    equity, peak      USD, the last and the highest; None before the first point
    drawdown          the fall from the peak to the last, a fraction; zero until a peak above zero
    max_drawdown_pct  the deepest fall, a fraction of the peak that it fell from; zero when it
                      never fell, None until a peak above zero
    daily_returns     each UTC day's gain over the day seen before it, a fraction, by last
                      equities; a day that begins at or below zero has none
    """

    def __init__(self) -> None:
        self.equity: Decimal | None = None
        self.peak: Decimal | None = None
        self._deepest = ZERO  # the drawdown so far
        self._lowest = ZERO  # since the peak
        self._days: list[Decimal] = []
        self._day_ends: datetime | None = None

    def observe(self, at: datetime, equity: Decimal) -> None:
        """Take the next point; `at` is in UTC and not before the last one."""
        if self._day_ends is None or at > self._day_ends:
            self._day_ends = datetime.combine(at, time.max, at.tzinfo)
            self._days.append(equity)
        self._days[-1] = self.equity = equity
        if self.peak is None or equity > self.peak:
            self.peak = self._lowest = equity
        elif equity < self._lowest:
            self._lowest = equity
            if self.peak > 0:
                self._deepest = max(self._deepest, (self.peak - equity) / self.peak)

    @property
    def drawdown(self) -> Decimal:
        """The fraction of the peak that is lost now; zero until a peak above zero."""
        return (self.peak - self.equity) / self.peak if self.peak and self.peak > 0 else ZERO

    @property
    def max_drawdown_pct(self) -> Decimal | None:
        return self._deepest if self.peak and self.peak > 0 else None

    @property
    def daily_returns(self) -> list[Decimal]:
        return [(day - before) / before for before, day in pairwise(self._days) if before > 0]


def sharpe(returns: Sequence[Decimal]) -> Decimal | None:
    """Return mean over sample standard deviation of daily returns, a year's worth."""
    if len(set(returns)) < 2:  # equal returns have no deviation, whatever rounding leaves of it
        return None
    mean = sum(returns, ZERO) / len(returns)
    return _annualised(mean, [r - mean for r in returns])


def sortino(returns: Sequence[Decimal]) -> Decimal | None:
    """Return the same over the deviation of the losses alone, measured from zero."""
    if len(returns) < 2 or min(returns) >= 0:
        return None
    return _annualised(sum(returns, ZERO) / len(returns), [min(r, ZERO) for r in returns])


def _annualised(mean: Decimal, deviations: Sequence[Decimal]) -> Decimal:
    variance = sum((d * d for d in deviations), ZERO) / (len(deviations) - 1)
    return mean / variance.sqrt() * DAYS_A_YEAR.sqrt()

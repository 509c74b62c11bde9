"""Stats: how good was it?

Pure functions of fills, funding and an equity curve.  No clock, no I/O, no logging, no opinion:
what is not defined (no trips, no losses, one return) is None, never a made-up number.  Only the
Decimal context's 28 digits round.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from perps_bot.model import ZERO, Fill, FundingPayment, Side

DAYS_A_YEAR = Decimal(365)  # the market's own year: crypto has no weekends

Curve = Iterable[tuple[datetime, Decimal]]  # equity in USD, oldest first


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One position from flat to flat.

    side          which side opened it: BUY for a long
    quantity      base units entered in all, and so left in all; positive
    entry_price   average of the entering fills, USD per base unit; exit_price likewise
    realized_pnl  USD, before fees and funding; a gain is positive
    fees          USD; what we paid is positive; funding likewise
    """

    symbol: str
    side: Side
    quantity: Decimal
    entry_price: Decimal
    exit_price: Decimal
    opened_at: datetime
    closed_at: datetime
    realized_pnl: Decimal
    fees: Decimal
    funding: Decimal

    @property
    def net_pnl(self) -> Decimal:
        return self.realized_pnl - self.fees - self.funding


def round_trips(
    fills: Iterable[Fill], funding_payments: Iterable[FundingPayment] = ()
) -> list[RoundTrip]:
    """Return the finished trips in the order of their closing.  `fills` come oldest first.

    Partial exits belong to the trip that they shrink.  A fill that flips the position closes one
    trip and opens the next, its fee split by quantity.  Funding goes to the trip that was open
    just before it, else to one opened at that moment, else to the symbol's last one.
    """
    tallies: dict[str, list[_Tally]] = {}
    for fill in fills:
        _book(tallies.setdefault(fill.symbol, []), fill)
    for payment in funding_payments:
        _charge(tallies.get(payment.symbol, []), payment)
    trips = [
        _finished(symbol, tally)
        for symbol, of_symbol in tallies.items()
        for tally in of_symbol
        if not tally.held
    ]
    return sorted(trips, key=lambda trip: trip.closed_at)


def win_rate(trips: Sequence[RoundTrip]) -> Decimal | None:
    """Return the share of trips with a net gain, a fraction."""
    return _share(Decimal(sum(trip.net_pnl > 0 for trip in trips)), len(trips))


def profit_factor(trips: Iterable[RoundTrip]) -> Decimal | None:
    """Return net gains over net losses; None without a loss."""
    won = lost = ZERO
    for trip in trips:
        won += max(trip.net_pnl, ZERO)
        lost -= min(trip.net_pnl, ZERO)
    return _share(won, lost)


def exposure(trips: Iterable[RoundTrip], start: datetime, end: datetime) -> Decimal | None:
    """Return the fraction of `start` to `end` that at least one of `trips` was open."""
    held, reached = timedelta(), start
    for trip in sorted(trips, key=lambda trip: trip.opened_at):
        upto = min(trip.closed_at, end)
        held += max(upto - max(trip.opened_at, reached), timedelta())
        reached = max(reached, upto)
    return _share(_microseconds(held), _microseconds(end - start))


def total_return(curve: Curve) -> Decimal | None:
    """Return the gain from first to last, a fraction of the first equity."""
    return _observed(curve).total_return


def max_drawdown_pct(curve: Curve) -> Decimal | None:
    """Return the deepest fall from a peak, a fraction of that peak; zero when it never fell."""
    return _observed(curve).max_drawdown_pct


def daily_returns(curve: Curve) -> list[Decimal]:
    """Return each UTC day's gain over the day seen before it, a fraction, by last equities."""
    return _observed(curve).daily_returns


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
    mean = sum(returns, ZERO) / len(returns)
    return _annualised(mean, [min(r, ZERO) for r in returns])


class EquityCurve:
    """What is worth keeping of an equity curve while it passes: one number a day.

    first, last, peak  USD; None before the first point
    total_return       a fraction of the first equity
    max_drawdown_pct   a fraction of the peak that it fell from; None until a peak above zero
    """

    def __init__(self) -> None:
        self.first: Decimal | None = None
        self.last: Decimal | None = None
        self.peak: Decimal | None = None
        self._trough = ZERO  # USD, the lowest since the peak
        self._deepest = ZERO  # the drawdown so far
        self._days: dict[date, Decimal] = {}

    def observe(self, at: datetime, equity: Decimal) -> None:
        """Take the next point; `at` is in UTC and not before the last one."""
        self.last = self._days[at.date()] = equity
        if self.peak is None:
            self.first = self.peak = self._trough = equity
        elif equity > self.peak:
            self.peak = self._trough = equity
        elif equity < self._trough:  # only then can it be the deepest fall
            self._trough = equity
            self._deepest = max(self._deepest, _share(self.peak - equity, self.peak) or ZERO)

    @property
    def total_return(self) -> Decimal | None:
        return None if self.first is None else _share(self.last - self.first, self.first)

    @property
    def max_drawdown_pct(self) -> Decimal | None:
        return self._deepest if self.peak and self.peak > 0 else None

    @property
    def daily_returns(self) -> list[Decimal]:
        """As the function of that name; a day that begins at or below zero has none."""
        days = list(self._days.values())
        return [(day - before) / before for before, day in zip(days, days[1:]) if before > 0]


class TripSummary:
    """What is worth keeping of round trips while they pass: counts and sums.

    trips, wins  finished round trips, and those with a net gain
    won, lost    USD, net gains and net losses; both positive
    """

    def __init__(self) -> None:
        self.trips = self.wins = 0
        self.won = self.lost = ZERO
        self._open: dict[str, list[_Tally]] = {}

    def fill(self, fill: Fill) -> None:
        """Take the next fill, oldest first."""
        tallies = self._open.setdefault(fill.symbol, [])
        _book(tallies, fill)
        while tallies and not tallies[0].held:
            self._close(_finished(fill.symbol, tallies.pop(0)))

    def charge(self, payment: FundingPayment) -> None:
        """Take a payment of the trip that is open now; without one it belongs to none."""
        for tally in self._open.get(payment.symbol, []):
            tally.funding += payment.amount

    @property
    def win_rate(self) -> Decimal | None:
        return Decimal(self.wins) / self.trips if self.trips else None

    @property
    def profit_factor(self) -> Decimal | None:
        return self.won / self.lost if self.lost else None

    def _close(self, trip: RoundTrip) -> None:
        self.trips += 1
        self.wins += trip.net_pnl > 0
        self.won += max(trip.net_pnl, ZERO)
        self.lost -= min(trip.net_pnl, ZERO)


def _observed(curve: Curve) -> EquityCurve:
    seen = EquityCurve()
    for at, equity in curve:
        seen.observe(at, equity)
    return seen


def _annualised(mean: Decimal, deviations: Sequence[Decimal]) -> Decimal:
    variance = sum((d * d for d in deviations), ZERO) / (len(deviations) - 1)
    return mean / variance.sqrt() * DAYS_A_YEAR.sqrt()


def _share(part: Decimal, whole: Decimal | int) -> Decimal | None:
    return part / whole if whole > 0 else None


def _microseconds(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1))


@dataclass(slots=True)
class _Tally:
    """Sums of one trip: base units in and still held, USD in and out, USD of costs."""

    side: Side
    opened_at: datetime
    closed_at: datetime
    quantity: Decimal = ZERO
    held: Decimal = ZERO
    entered: Decimal = ZERO
    left: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO

    def enter(self, quantity: Decimal, price: Decimal, fee: Decimal) -> None:
        self.quantity += quantity
        self.held += quantity
        self.entered += quantity * price
        self.fees += fee

    def leave(self, quantity: Decimal, price: Decimal, fee: Decimal, at: datetime) -> None:
        self.held -= quantity
        self.left += quantity * price
        self.fees += fee
        self.closed_at = at


def _book(tallies: list[_Tally], fill: Fill) -> None:
    """Add one fill to a symbol's trips; what goes through flat opens the next one."""
    quantity, fee = fill.quantity, fill.fee
    held = tallies[-1].held if tallies else ZERO
    if held and tallies[-1].side is not fill.side:
        leaving = min(quantity, held)
        share = fee if leaving == quantity else fee * leaving / quantity
        tallies[-1].leave(leaving, fill.price, share, fill.at)
        quantity, fee, held = quantity - leaving, fee - share, held - leaving
    if quantity:
        if not held:
            tallies.append(_Tally(fill.side, fill.at, fill.at))
        tallies[-1].enter(quantity, fill.price, fee)


def _charge(tallies: list[_Tally], payment: FundingPayment) -> None:
    """Add one payment to the trip that it was paid for; where none explains it, to none."""
    at = bisect_left(tallies, payment.at, key=lambda tally: tally.opened_at)
    before = tallies[at - 1] if at else None
    held_until_then = before and before.closed_at >= payment.at
    opened_then = at < len(tallies) and tallies[at].opened_at == payment.at
    payer = tallies[at] if opened_then and not held_until_then else before
    if payer:
        payer.funding += payment.amount


def _finished(symbol: str, tally: _Tally) -> RoundTrip:
    return RoundTrip(
        symbol=symbol,
        side=tally.side,
        quantity=tally.quantity,
        entry_price=tally.entered / tally.quantity,
        exit_price=tally.left / tally.quantity,
        opened_at=tally.opened_at,
        closed_at=tally.closed_at,
        realized_pnl=(tally.left - tally.entered) * tally.side.sign,
        fees=tally.fees,
        funding=tally.funding,
    )

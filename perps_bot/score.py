"""Score: how did a run do, as it went?

Events and equities go in as they pass, oldest first; sums stay, never the history.  `replay` and
`report` count here, so that both say the same of the same run.  The formulas are in `stats`, the
money in the tracker's books.  No clock, no I/O, and nothing is decided here.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot.model import Event, FundingPayment, OrderStatus, TradingState, moment
from perps_bot.risk import RISK_KINDS
from perps_bot.stats import EquityCurve, RoundTrip, TripSummary, sharpe, sortino
from perps_bot.tracker import PositionTracker, fill_of

ROWS = (
    # what                Figures field       form      unit and meaning
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
    ("halts",             "halts",            ",",      "by a risk limit"),
)  # fmt: skip
# Columns of the books that count from a beginning.
MONEY = ("realized_pnl", "unrealized_pnl", "fees", "funding")
# The events that count.
SCORED = ("trade.executed", "funding.paid", "risk.rejected", "order.updated", "state.changed")


@dataclass(frozen=True)
class Figures:
    """How it did.  Money in USD; `..._pct` and rates are fractions; None where not defined.

    unrealized_pnl  its change since the start
    trades    closed round trips
    exposure  fraction of the time in which something was held
    halts     times that a risk limit stopped entries
    refusals  refused orders by code
    """

    symbols: tuple[str, ...]
    start: datetime
    end: datetime
    start_equity: Decimal
    end_equity: Decimal
    return_pct: Decimal | None
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
    halts: int
    refusals: dict[str, int]


class Score:
    """Watches one run."""

    def __init__(self, on_finish: Callable[[RoundTrip], None] = lambda trip: None) -> None:
        self.curve, self.trips = EquityCurve(), TripSummary(on_finish)
        self.refusals: Counter = Counter()
        self.halts = 0
        self.start: datetime | None = None
        self.end: datetime | None = None
        self._held = timedelta()  # until what is held now
        self._holds_since: datetime | None = None

    def observe(self, now: datetime, books: PositionTracker) -> None:
        """Take what the books say at `now`, which is not before the last time."""
        self.hold(now, bool(books.positions()))
        self.curve.observe(now, books.equity())

    def hold(self, now: datetime, is_holding: bool) -> None:
        """From `now` on something is held, or nothing."""
        if self.start is None:
            self.start = now
        self.end = now
        if self._holds_since is None:
            self._holds_since = now if is_holding else None
        elif not is_holding:
            self._held, self._holds_since = self._holding(), None

    def apply(self, event: Event) -> None:
        """Count one event."""
        data = event.data
        if event.type == "trade.executed":
            self.trips.fill(fill_of(data))
        elif event.type == "funding.paid":
            self.trips.charge(FundingPayment(
                data["payment_id"], data["symbol"], Decimal(data["amount"]),
                Decimal(data["rate"]), moment(data["paid_at"])))
        elif event.type == "risk.rejected":
            self.refusals.update(data["codes"])
        elif event.type == "order.updated" and data["status"] == OrderStatus.REJECTED:
            self.refusals[data["answer"].partition(":")[0]] += 1
        elif event.type == "state.changed" and data["kind"] in RISK_KINDS:
            self.halts += data["state"] != TradingState.TRADING

    def figures(self, symbols: tuple[str, ...], books: PositionTracker,
                begun: Mapping[str, Decimal]) -> dict[str, object]:
        """Return the fields of Figures; `begun` is what `standing` was at the start."""
        now, trips, returns = standing(books), self.trips, self.curve.daily_returns
        gain, before = now["equity"] - begun["equity"], begun["equity"]
        return dict(
            symbols=symbols, start=self.start, end=self.end,
            start_equity=before, end_equity=now["equity"],
            return_pct=gain / before if before > 0 else None,
            **{name: now[name] - begun[name] for name in MONEY},
            trades=trips.trips, win_rate=trips.win_rate, profit_factor=trips.profit_factor,
            sharpe=sharpe(returns), sortino=sortino(returns),
            max_drawdown_pct=self.curve.max_drawdown_pct,
            exposure=_share(self._holding(), self.end - self.start), halts=self.halts,
            refusals=dict(sorted(self.refusals.items())),
        )

    def _holding(self) -> timedelta:
        return self._held + (self.end - (self._holds_since or self.end))


def standing(books: PositionTracker) -> dict[str, Decimal]:
    """What the books say now: equity, and the sum of each column of money."""
    return {"equity": books.equity(), **{name: books.total(name) for name in MONEY}}


def figure_lines(figures: Figures) -> Iterator[str]:
    """Say them for people, rounded for reading."""
    for what, field, form, meaning in ROWS:
        value = getattr(figures, field)
        shown = "not defined" if value is None else format(value, form)
        yield f"{what:<16}{shown:>14}  {meaning}".rstrip()
    for code, count in (figures.refusals or {"": "none"}).items():
        yield f"{'refused orders':<16}{count:>14}  {code}".rstrip()


def _share(part: timedelta, whole: timedelta) -> Decimal | None:
    step = timedelta(microseconds=1)
    return Decimal(part // step) / (whole // step) if whole else None

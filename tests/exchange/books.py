"""Books: what does the account hold, and what has it gained and paid?

Pure.  All sums are exact decimals.  A position keeps the cost of its open contracts instead of an
average, and a reduction releases a part of that cost rounded to eight decimals, so that cash and
open gains always add up to what was deposited, gained and paid, to the last digit.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from .forms import MONEY_STEP, SIGN, ZERO, cents, plain, ratio

CLEARING_FEE = Decimal("0.01")
PICTURE_SECONDS_MAX = 900  # the longest lag that the pictures of the past can serve


@dataclass
class Position:
    """What is held in one product: signed contracts and their cost (price times contracts)."""

    contract_size: Decimal
    contracts: Decimal = ZERO
    cost: Decimal = ZERO
    paid: Decimal = ZERO  # as `cost`, but untouched by settlements: the entry price is shown by it
    realized_today: Decimal = ZERO
    closed_at: datetime | None = None

    @property
    def side(self) -> str:
        return "LONG" if self.contracts > 0 else "SHORT" if self.contracts < 0 else ""

    @property
    def entry_price(self) -> Decimal:
        return ratio(self.paid, self.contracts) if self.contracts else ZERO

    def unrealized(self, mark: Decimal) -> Decimal:
        return (self.contracts * mark - self.cost) * self.contract_size

    def trade(self, side: str, contracts: Decimal, price: Decimal) -> Decimal:
        """Move by a fill; return the gain that it realizes, before fees."""
        signed = SIGN[side] * contracts
        realized = ZERO
        if self.contracts * signed < 0:
            closing = min(contracts, abs(self.contracts))
            released = self._part(self.cost, closing)
            self.paid -= self._part(self.paid, closing)
            closed = closing.copy_sign(self.contracts)
            realized = (closed * price - released) * self.contract_size
            self.contracts -= closed
            self.cost -= released
            signed += closed
        self.contracts += signed
        self.cost += signed * price
        self.paid += signed * price
        self.realized_today += realized
        return realized

    def _part(self, cost: Decimal, closing: Decimal) -> Decimal:
        if closing == abs(self.contracts):
            return cost
        return (cost * closing / abs(self.contracts)).quantize(MONEY_STEP)


@dataclass(frozen=True)
class Fee:
    """What a fill costs: a rate on the notional, and a fixed sum a contract."""

    rate_part: Decimal
    fixed_part: Decimal
    contracts: Decimal

    @property
    def total(self) -> Decimal:
        return self.rate_part + self.fixed_part

    def __add__(self, other: "Fee") -> "Fee":
        return Fee(self.rate_part + other.rate_part, self.fixed_part + other.fixed_part,
                   self.contracts + other.contracts)

    def detail(self) -> dict:
        """The split as the venue shows it: its total is rounded to cents, its parts are not."""
        clearing = min(CLEARING_FEE * self.contracts, self.fixed_part)
        return {
            "total_commission": cents(self.total),
            "gst_commission": "",
            "withholding_commission": "",
            "client_commission": plain(self.rate_part),
            "venue_commission": plain(self.fixed_part - clearing),
            "regulatory_commission": "0",
            "clearing_commission": plain(clearing),
        }


NO_FEE = Fee(ZERO, ZERO, ZERO)


@dataclass(frozen=True)
class Picture:
    """The account as it was, for readers who are shown the past."""

    at: datetime
    cash: Decimal
    accrued: Decimal
    positions: dict


@dataclass
class Account:
    """Cash and what moved it; what we pay is positive in `fees` and `funding`.

    accrued  funding since the last booking, not yet in cash; positive is what we owe
    """

    cash: Decimal
    deposits: Decimal
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding_booked: Decimal = ZERO
    accrued: Decimal = ZERO
    positions: dict[str, Position] = field(default_factory=dict)
    pictures: deque[Picture] = field(default_factory=deque)

    def trade(self, product_id, contract_size, side, contracts, price, fee) -> Decimal:
        position = self.positions.get(product_id)
        if position is None or not position.contracts:
            today = position.realized_today if position else ZERO
            position = Position(contract_size, realized_today=today)
            self.positions[product_id] = position
        realized = position.trade(side, contracts, price)
        self.realized += realized
        self.fees += fee.total
        self.cash += realized - fee.total
        return realized

    def deposit(self, amount: Decimal) -> None:
        self.deposits += amount
        self.cash += amount

    def settle(self, product_id: str, mark: Decimal) -> None:
        """Move the open gain of a position into the cash; from here on it gains from `mark`."""
        position = self.positions[product_id]
        gained = position.unrealized(mark)
        position.cost = position.contracts * mark
        self.realized += gained
        self.cash += gained

    def book_funding(self) -> Decimal:
        booked, self.accrued = self.accrued, ZERO
        self.funding_booked += booked
        self.cash -= booked
        return booked

    def contracts(self, product_id: str) -> Decimal:
        position = self.positions.get(product_id)
        return position.contracts if position else ZERO

    def keep_picture(self, now: datetime) -> None:
        held = {name: replace(position) for name, position in self.positions.items()}
        self.pictures.append(Picture(now, self.cash, self.accrued, held))
        oldest = now - timedelta(seconds=PICTURE_SECONDS_MAX)
        while len(self.pictures) > 1 and self.pictures[1].at <= oldest:
            self.pictures.popleft()

    def picture(self, at: datetime) -> Picture:
        """The newest picture not younger than `at`; the first one when all are younger."""
        for picture in reversed(self.pictures):
            if picture.at <= at:
                return picture
        return self.pictures[0]

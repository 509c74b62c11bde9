"""Broker: what must a venue do for us?

The two protocols, and nothing else.  Coinbase, the recorded and the synthetic market implement
`MarketData`; Coinbase and the paper broker implement both.  `now` is an argument of every call
that depends on time, so that a recording and a live venue answer alike.

Every read is complete or raises VenueUnavailable: an empty answer means that there is nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from perps_bot.model import (
    Candle, Fill, FundingPayment, FundingRate, Margin, Mark, Order, Position, Product,
)


class MarketData(Protocol):
    """Prices and rules.  Reads may be repeated; nothing here changes the venue."""

    def connect(self, traded: Iterable[str] = ()) -> str:
        """Get ready to be asked; return why nothing can be sent, or "" where orders can.

        traded  the venue's ids of what was traded before: each keeps its symbol
        Raises ConfigError for credentials that must not be used; may be called again.
        """

    def products(self) -> Sequence[Product]:
        """Return every perpetual product that the account could trade.

        The same object as the last time says that nothing in it has changed.
        """

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        """Return the newest mark by symbol; a symbol without a usable quote is absent."""

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> Sequence[Candle]:
        """Return up to `count` closed candles of `seconds` length, oldest first.

        The last one ended at or before `now`.  Empty where the venue has none of that length.
        """

    def funding(self, symbol: str, now: datetime) -> FundingRate | None:
        """Return the rate of the last funding hour that ended at or before `now`."""


class Broker(Protocol):
    """The account.  An order is sent once; what became of it is read.

    revision  moves whenever orders, fills, funding or positions do, prices alone never move it;
              None where the venue cannot say, and then it has to be read every time
    """

    revision: int | None

    def equity(self) -> Decimal:
        """Return cash balance plus unrealized profit and loss, USD."""

    def margin(self) -> Margin | None:
        """Return the margin as of the last `equity`; None where the venue did not say."""

    def positions(self) -> Mapping[str, Position]:
        """Return every open position by symbol; flat symbols are absent."""

    def orders(self, since: datetime, known: Iterable[Order] = ()) -> Sequence[Order]:
        """Return the orders that are open or were created at or after `since`.

        known  orders that are told, too, however old they are and whatever became of them
        """

    def fills(self, since: datetime) -> Sequence[Fill]:
        """Return fills at or after `since`, oldest first.  Readers drop repeats by `fill_id`."""

    def funding_payments(self, since: datetime) -> Sequence[FundingPayment]:
        """Return funding booked at or after `since`, oldest first."""

    def place(self, order: Order, now: datetime) -> Order:
        """Send `order` once and return what the venue said of it.

        A repeated id returns the first order and places nothing.  Raises OrderRejected (it does
        not exist), OutcomeUnknown (look it up) or VenueUnavailable (it was not sent).
        """

    def close(self, order: Order, now: datetime) -> Order:
        """Send `order`, a market order that can only shrink the position; raises as `place`."""

    def cancel(self, orders: Sequence[Order], now: datetime) -> None:
        """Ask the venue to cancel; it may still fill.  `orders` tells what became of each."""

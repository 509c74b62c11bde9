"""Reconcile: do our books and the venue's agree?

After the venue was read, and before anything is decided: positions, foreign orders, contract
sizes, funding, the day's cash.  Where they differ the venue wins, once its answer has stood for
longer than its reads may lag; until then nothing is opened there.  What our events do not explain
is left alone.  Nothing here sends or cancels an order.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from perps_bot.errors import ConfigError
from perps_bot.model import ZERO, Event, Position, Product, Purpose, Side, TradingState
from perps_bot.store import EPOCH

log = logging.getLogger("perps_bot")

# Differences between our books and the venue's, tick after tick, before the venue's are taken.
MISMATCHES_MAX = 3
# How long the venue's positions may lag behind its fills.
READS_LAG_MAX = timedelta(seconds=10)
# How long a position must be gone when no fill tells why: a row may be missing from a list.
GONE_UNEXPLAINED = timedelta(minutes=1)
# What the day's cash may differ from the ledger: the venue values open positions at its own price.
TIE_OUT_PCT, TIE_OUT_USD = Decimal("0.001"), Decimal(1)
HOUR = timedelta(hours=1)
CHANGES_MAX = 500  # of one symbol's books, that are remembered
# What `apply` folds.
BOOK_EVENTS = ("bot.started", "funding.rate", "trade.executed", "position.adopted",
               "reconcile.mismatch")


@dataclass
class Reconciler:
    """What one process remembers of the differences.

    untraded  symbols in which something stands that our events do not explain
    """

    store: Any
    engine: Any
    symbols: tuple[str, ...]
    adopt: tuple[str, ...] = ()
    untraded: set[str] = field(default_factory=set)
    _unexplained: dict[str, datetime] = field(default_factory=dict)
    _differs: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    _contracts: dict[str, tuple[Decimal, Decimal, str]] = field(default_factory=dict)
    _rates_at: dict[str, datetime] = field(default_factory=dict)
    _restricted: dict[str, str] = field(default_factory=dict)
    _was_held: dict[str, deque[tuple[datetime, Decimal]]] = field(default_factory=dict)
    _closed_at: dict[str, datetime] = field(default_factory=dict)
    _adopted_at: dict[str, datetime] = field(default_factory=dict)

    @property
    def restricted(self) -> dict[str, str]:
        """What we hold and the venue lists no longer, or does not let trade freely, and why."""
        return {symbol: why for symbol, why in self._restricted.items()
                if self.engine.tracker.get_position(symbol).quantity}

    @property
    def agrees(self) -> bool:
        """Whether the last comparison has left nothing open."""
        return not (self.untraded or self._differs or self._unexplained)

    def begin(self, now: datetime) -> None:
        """At a start: adopt what the operator said, leave alone what nothing explains."""
        for symbol, position in self._differing():
            more = position.quantity - self.engine.tracker.get_position(symbol).quantity
            if symbol in self.adopt:
                self.engine.tracker.adopt("position.adopted", position)
            # Where an order of ours moves it that way, the reads may only lag behind.
            elif not any(o.side.sign * more > 0 for o in self.engine.outstanding(symbol)):
                self._unexplained[symbol] = now
        for symbol in {order.symbol for order in self.engine.foreign} - {*self.adopt}:
            self._leave_alone(symbol, "orders rest there that are not ours")

    def compare(self) -> set[str]:
        """Return the symbols in which nothing may be opened now."""
        differing, told = dict(self._differing()), self.engine.orders.are_told
        self._differs = {s: seen for s, seen in self._differs.items()
                         if s in differing and told(s)}
        self._unexplained = {s: at for s, at in self._unexplained.items() if s in differing}
        for symbol, position in differing.items():
            if symbol in self._unexplained:
                self._wait_for_an_explanation(symbol, position)
            elif symbol not in self.untraded and told(symbol):
                self._count_difference(symbol, position)
        return {*differing, *(order.symbol for order in self.engine.foreign)}

    def may_be_old(self, theirs: Position) -> bool:
        """Whether the venue may only lag: to believe it could open what is gone, or close it again.

        Behind what our books held before or, with what others did, behind what was closed just
        now.  Not where what others did, and our books lack, is exactly the difference.
        """
        symbol, now = theirs.symbol, self.store.now
        moved = self.moved(symbol)
        if moved and theirs.quantity - self.engine.tracker.get_position(symbol).quantity == moved:
            return False
        held = self._was_held.get(symbol, ())
        times = [at for at, quantity in held if quantity == theirs.quantity]
        times.append(self._closed_at.get(symbol, EPOCH))
        return any(abs(now - at) < GONE_UNEXPLAINED for at in times)

    def moved(self, symbol: str, within: timedelta = timedelta.max) -> Decimal:
        """What others' fills have added to the position and our books have not; base units."""
        since = self._adopted_at.get(symbol, EPOCH)
        return sum((fill.quantity * fill.side.sign
                    for fill in self.engine.moved_by_others.get(symbol, ())
                    if fill.at > since and self.store.now - fill.at < within), ZERO)

    def check_contracts(self, products: Mapping[str, Product]) -> None:
        """Stop opening where a held contract is no longer what it was."""
        for symbol, product in products.items():
            now = product.contract_size, product.price_increment, product.product_id
            known = self._contracts.get(symbol, now)
            if now != known and self.engine.tracker.get_position(symbol).quantity:
                were, are = ("{:f}, {:f} and {}".format(*each) for each in (known, now))
                said = f"{symbol}: contract size, tick and product were {were}, now {are}"
                self.engine.risk.hold("contract", TradingState.REDUCING, said)
            self._contracts[symbol] = now

    def check_listing(self, listed: Any) -> str:
        """Look for every symbol in the catalog `listed`; return what is missing or in doubt there.

        A closed session restricts nothing: it was planned.
        """
        doubts, flagged = {}, {}
        for symbol in self.symbols:
            try:
                product = listed.get(symbol)
            except ConfigError as doubt:
                doubts[symbol] = str(doubt)
                continue
            if not product.tradable and "session" not in product.note:
                flagged[symbol] = product.note
        self._restricted = {**doubts, **flagged}
        return "; ".join(doubts.values())

    def note_funding(self, venue: Any, now: datetime) -> None:
        """Write each hour's rate down: the venue keeps no history of them."""
        for symbol in self.symbols:
            at = self._rates_at.get(symbol)
            if at is not None and now - at < HOUR:
                continue
            rate = venue.funding(symbol, now)
            if rate is not None and rate.at != at:
                self._rates_at[symbol] = rate.at
                self.store.append("funding.rate", symbol=symbol, rate=rate.rate, ended_at=rate.at)

    def tie_out(self, equity: Decimal) -> None:
        """At the end of a day: does the ledger explain how the account's equity changed?

        Funding that has accrued and is not booked yet may stand on either side.
        """
        books, margin = self.engine.tracker, self.engine.margin
        if not books.day_start_equity:
            return
        change, ledger = equity - books.day_start_equity, -books.daily_loss()
        unbooked = margin.unbooked_funding if margin else None
        tolerance = max(TIE_OUT_USD, abs(equity) * TIE_OUT_PCT)
        difference = change - ledger
        is_explained = min(abs(difference), abs(difference + (unbooked or 0))) <= tolerance
        self.store.append(
            "account.tied_out", venue_change=change, ledger_change=ledger, difference=difference,
            unbooked_funding=unbooked, tolerance=tolerance, explained=is_explained)
        if not is_explained:
            self.store.append("alert", code="TIE_OUT", about="", message=(
                f"the account changed by {change:.2f} USD, our ledger by {ledger:.2f}: a transfer, "
                f"or something that we do not know of: see 'The daily tie-out' in the runbook"))

    def apply(self, event: Event) -> None:
        """Remember over a restart contracts, hours written, and what was held before a change."""
        if event.type == "bot.started":
            for symbol, facts in event.data["contracts"].items():
                size, tick, product_id = facts
                self._contracts[symbol] = Decimal(size), Decimal(tick), product_id
        elif event.type == "trade.executed":
            traded = Decimal(event.data["quantity"]) * Side(event.data["side"]).sign
            self._note(event, Decimal(event.data["position_quantity"]) - traded)
            if event.data["purpose"] != Purpose.ENTRY:
                self._closed_at[event.data["symbol"]] = event.at
        elif event.type in ("position.adopted", "reconcile.mismatch"):
            self._note(event, Decimal(event.data["ours"]))
            self._adopted_at[event.data["symbol"]] = event.at
        elif event.type == "funding.rate":
            self._rates_at[event.data["symbol"]] = datetime.fromisoformat(
                str(event.data["ended_at"]))

    def _note(self, event: Event, before: Decimal) -> None:
        held = self._was_held.setdefault(event.data["symbol"], deque(maxlen=CHANGES_MAX))
        held.append((event.at, before))

    def contracts(self) -> dict[str, list[object]]:
        return {symbol: list(facts) for symbol, facts in self._contracts.items()}

    def traded(self) -> list[str]:
        """The venue's ids of what was traded, in this run or in one before."""
        return [product_id for _, _, product_id in self._contracts.values()]

    def _differing(self) -> Iterator[tuple[str, Position]]:
        for symbol in self.symbols:
            theirs = self.engine.venue_positions.get(symbol) or Position(symbol)
            if theirs.quantity != self.engine.tracker.get_position(symbol).quantity:
                yield symbol, theirs

    def _count_difference(self, symbol: str, theirs: Position) -> None:
        """The venue wins, once its answer has stood for long enough."""
        margin = self.engine.margin
        if not self.engine.venue_positions and margin is not None and margin.initial > 0:
            return  # the balance says that something is held: one of the two reads is wrong
        since, ticks = self._differs.get(symbol, (self.store.now, 0))
        self._differs[symbol] = since, ticks + 1
        is_told = theirs.quantity or symbol in self.engine.moved_by_others
        is_told = is_told and not self.may_be_old(theirs)
        stands_for = READS_LAG_MAX if is_told else GONE_UNEXPLAINED
        if ticks + 1 >= MISMATCHES_MAX and self.store.now - since >= stands_for:
            ours = self.engine.tracker.get_position(symbol).quantity
            self.engine.tracker.adopt("reconcile.mismatch", theirs)
            self.engine.risk.hold("mismatch", TradingState.REDUCING,
                                  f"{symbol}: our books say {ours:f}, the venue "
                                  f"{theirs.quantity:f}")

    def _wait_for_an_explanation(self, symbol: str, position: Position) -> None:
        """What was there before us and stays unexplained is not ours to touch."""
        stands_for = READS_LAG_MAX if position.quantity else GONE_UNEXPLAINED
        if self.store.now - self._unexplained[symbol] >= stands_for:
            ours = self.engine.tracker.get_position(symbol).quantity
            self._leave_alone(symbol, f"the venue holds {position.quantity:f}, our events explain "
                                      f"{ours:f}")

    def _leave_alone(self, symbol: str, why: str) -> None:
        if symbol not in self.untraded:
            self.untraded.add(symbol)
            log.error("%s: %s: untouched until --adopt %s", symbol, why, symbol)


def obstacles(bot: Any, symbol: str) -> Iterator[str]:
    """What stands in the way in one symbol, for people."""
    bars, needed = bot.strategy.bars(symbol), bot.settings.long_ma_period
    product = bot.catalog.get(symbol)
    if symbol in bot.books.restricted:
        yield f"{symbol} is held, and the venue says: {bot.books.restricted[symbol]}"
    elif not product.tradable:
        open_said = "the venue takes no new orders"
        said = open_said if product.is_session_open else "the market is closed"
        yield f"{symbol}: {said}: {product.note}"
    elif symbol not in bot.engine.marks:
        yield f"No mark price for symbol {symbol}: check the venue and the spelling"
    if bars < needed:
        yield (f"Strategy generates no signals: {symbol} has {bars} of {needed} bars; wait "
               f"{needed - bars} bars of {bot.settings.bar} s, check mark updates and MA periods")
    if symbol in bot._refused:
        yield bot._refused[symbol]
    if symbol in bot.untraded:
        yield f"{symbol} is left alone, with or without a stop: see the log, and --adopt {symbol}"
    elif bot.engine.orders.awaits_fills(symbol):
        yield f"{symbol}: the venue has not told all fills of an order yet"
    if not bot.protector.is_protected(symbol):
        yield f"{symbol} has no stop at the venue: see order.updated for the venue's reason"

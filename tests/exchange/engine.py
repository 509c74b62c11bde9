"""Engine: what happens at the exchange, and when?

Virtual time, no sockets and no clock: `advance` plays what is due in order of time, `place` and
`cancel` act now.  The engine moves orders, fills and the account; it writes no wire format except
the events that the WebSocket carries, which it puts on a bounded queue.
"""

from collections import deque
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

from . import rules
from .books import Account, Fee, Picture
from .forms import (OPPOSITE, SIGN, ZERO, decimal, entry_identity, identity, iso, moment, plain)
from .markets import CLOSE, OPEN, Market, next_roll
from .mishaps import Mishaps
from .orders import TERMINAL, Fill, Order, Ticket
from .products import default_products
from .summary import Margin, margin_of, needed, stream_summary

START = "2026-11-23T12:00:00Z"
EVENTS_MAX = 200_000
BRACKET_SLIP = Decimal("0.05")  # how far beyond its trigger the limit of a stop leg lies
BOOKED_AT_UTC_HOURS = (16, 21)
PLAYS_AT_ONE_TIME_MAX = 100
TAKING = ("IMMEDIATE_OR_CANCEL", "FILL_OR_KILL")


class Engine:
    """The exchange in virtual time."""

    def __init__(self, scenario: dict):
        self.now = moment(scenario.get("now", START))
        self.taker_rate = decimal(scenario.get("taker_rate", "0.001"))
        self.maker_rate = decimal(scenario.get("maker_rate", "0.00095"))
        self.fee_per_contract = decimal(scenario.get("fee_per_contract", "0.15"))
        self.onboarded = scenario.get("onboarded", True)
        self.funding_step = int(scenario.get("funding_every_seconds", 3600))
        self.booking_hours = tuple(scenario.get("funding_booked_at_utc_hours",
                                                BOOKED_AT_UTC_HOURS))
        self.lag = dict(scenario.get("lag") or {})
        self.settles_variation = bool(scenario.get("settles_variation"))
        self.friday_close = bool(scenario.get("friday_close"))
        self.mishaps = Mishaps()
        rows = scenario.get("products", "default")
        rows = default_products() if rows == "default" else rows
        self.markets = {row["product_id"]: Market(row, self.now, self.friday_close)
                        for row in rows}
        cash = decimal(scenario.get("cash", "10000"))
        self.account = Account(cash, cash)
        self.account.keep_picture(self.now)
        self.orders: dict[str, Order] = {}
        self.live: dict[str, Order] = {}
        self.by_client_id: dict[str, Order] = {}
        self.fills: list[Fill] = []
        self.liquidations: list[dict] = []
        self.bookings: list[dict] = []
        self.accruals: list[dict] = []
        self.deposits: list[dict] = []
        self.events: deque = deque(maxlen=EVENTS_MAX)
        self.roll_at = next_roll(self.now)
        self.funding_at = self._next_funding()
        self.session_at = self._next_session()

    # Time

    def advance(self, to: datetime) -> None:
        to = moment(to)
        if to < self.now:
            raise ValueError(f"time goes forward: {iso(to)} is before {iso(self.now)}")
        standing = 0
        while (due := self._next_due()) <= to:
            standing = standing + 1 if due <= self.now else 0
            if standing > PLAYS_AT_ONE_TIME_MAX:
                raise RuntimeError(f"time stands still at {iso(self.now)}")
            self.now = max(self.now, due)
            self._play()
        self.now = to

    def _next_due(self) -> datetime:
        times = [self.roll_at, self.funding_at]
        if self.session_at:
            times.append(self.session_at)
        times += [market.path[0][0] for market in self.markets.values() if market.path]
        for order in self.live.values():
            times += [at for at in (order.end_time, order.executes_at) if at]
            if order.status == "CANCEL_QUEUED" and self._cancel_by_time(order):
                times.append(order.cancel_at or self.now)
        return min(times)

    def _play(self) -> None:
        """Everything that is due now, in the order in which a venue would do it."""
        if self.session_at and self.session_at <= self.now:
            self.refresh_sessions()
        for market in self.markets.values():
            while market.path and market.path[0][0] <= self.now:
                bid, ask, last = market.read_path_row(market.path.popleft())
                self.quote(market, bid, ask, last)
        for order in list(self.live.values()):
            self._play_order(order)
        if self.funding_at <= self.now:
            self._fund()
        if self.roll_at <= self.now:
            self._settle()
            self.account.keep_picture(self.now)
            self.roll_at = next_roll(self.now)

    def _play_order(self, order: Order) -> None:
        if order.executes_at and order.executes_at <= self.now:
            order.executes_at = None
            if self._matches(order.product_id):
                self._execute(order)
        if order.live and order.status == "CANCEL_QUEUED" and self._cancel_by_time(order):
            if order.cancel_at is None or order.cancel_at <= self.now:
                self.finish_cancel(order)
        if order.live and order.end_time and order.end_time <= self.now:
            self._move(order, "EXPIRED", "end time reached")

    def _settle(self) -> None:
        """The trade date ends: daily gains restart, and where the scenario says so open gains
        move into the cash."""
        for name, position in self.account.positions.items():
            if self.settles_variation and position.contracts:
                self.account.settle(name, self.markets[name].mark)
            position.realized_today = ZERO

    # Prices

    def quote(self, market: Market, bid: Decimal, ask: Decimal, last: Decimal | None) -> None:
        """A new book: triggers, fills and liquidations follow from it."""
        if market.phase != OPEN:
            market.waiting_row = (bid, ask, last)
            return
        market.quote(bid, ask, last, self.now)
        if last is not None:
            self.events.append({"channel": "ticker", "events": [
                {"type": "update", "tickers": [self.ticker(market)]}]})
        if self.live:
            self.match(market)
        if self.account.contracts(market.product_id):
            self.tell_balance()
            self.check_margin()

    def match(self, market: Market) -> None:
        if not self._matches(market.product_id):
            return
        for order in list(self.live.values()):
            if order.product_id == market.product_id and order.live:
                self._work(order, market)

    def _matches(self, product_id: str) -> bool:
        return (self.markets[product_id].matches
                and not self.mishaps.get("halt", product_id=product_id))

    def ticker(self, market: Market) -> dict:
        (bid, bid_size), (ask, ask_size) = (
            map(plain, quotes[0]) if (quotes := market.quotes(taker)) else ("", "")
            for taker in ("SELL", "BUY"))
        told = self.mishaps.get("ticker_fields", product_id=market.product_id) or {}
        return {
            "type": "ticker", "product_id": market.product_id, "price": plain(market.last),
            "volume_24_h": "326350", "low_24_h": str(market.row.get("low_24h", "")),
            "high_24_h": str(market.row.get("high_24h", "")), "low_52_w": "1",
            "high_52_w": "1000000", "price_percent_chg_24_h": "0.96600635852287",
            "best_bid": bid, "best_bid_quantity": bid_size,
            "best_ask": ask, "best_ask_quantity": ask_size,
            **told.get("values", {}),
        }

    # Sessions

    def refresh_sessions(self) -> None:
        """Bring every market into the phase of this moment."""
        for market in self.markets.values():
            before, market.phase = market.phase, market.phase_at(self.now)
            if before == market.phase:
                continue
            if market.phase != CLOSE:
                self._release_cancels(market)
            if market.phase == OPEN:
                self._open(market)
            self.events.append({"channel": "ticker", "events": [
                {"type": "update", "tickers": [self.ticker(market)]}]})
        self.session_at = self._next_session()

    def _release_cancels(self, market: Market) -> None:
        for order in list(self.live.values()):
            if order.product_id == market.product_id and order.cancel_waits_for_session:
                order.cancel_waits_for_session = False
                if self._cancel_by_time(order) and order.cancel_at is None:
                    self.finish_cancel(order)

    def _open(self, market: Market) -> None:
        market.open_in_hour = True
        for order in list(self.live.values()):
            if order.product_id == market.product_id and order.status == "QUEUED":
                self._move(order, "OPEN")
        if market.waiting_row:
            row, market.waiting_row = market.waiting_row, None
            self.quote(market, *row)
        else:
            self.match(market)

    def _next_session(self) -> datetime | None:
        changes = (market.next_change(self.now) for market in self.markets.values())
        return min((at for at in changes if at), default=None)

    # Orders

    def place(self, ticket: Ticket, by: str = "key") -> Order:
        """Place the order or raise Refused.  The client's id has been looked up already."""
        rules.approve(self, ticket)
        order = self._new_order(ticket, by)
        market = self.markets[ticket.product_id]
        if market.phase != OPEN:
            self._move(order, "QUEUED")
            return order
        self._move(order, "OPEN", quiet=order.time_in_force in TAKING)
        about = {"product_id": order.product_id, "kind": order.kind}
        if self.mishaps.use("accepted_then_cancelled", **about):
            self._move(order, "CANCELLED", "cancelled on entry")
            return order
        held = self.mishaps.use("no_fill_yet", **about)
        if held:
            order.executes_at = self.now + timedelta(seconds=held["seconds"])
        elif self._matches(order.product_id):
            self._execute(order)
        elif order.time_in_force in TAKING:
            self._move(order, "CANCELLED", "no execution")
        return order

    def _new_order(self, ticket: Ticket, by: str) -> Order:
        number = len(self.orders) + 1
        order = Order(
            number, identity("order", number), ticket.client_order_id, ticket.product_id,
            ticket.side, ticket.kind, ticket.time_in_force, ticket.variant, ticket.configuration,
            ticket.size, self.now, limit=ticket.limit, stop=ticket.stop,
            post_only=ticket.post_only, attached=ticket.attached, by=by,
            end_time=ticket.end_time if ticket.variant.endswith("gtd") else None)
        return self._enter(order)

    def _enter(self, order: Order) -> Order:
        self.orders[order.order_id] = self.live[order.order_id] = order
        self.by_client_id.setdefault(order.client_order_id, order)
        fault = self.mishaps.use("order_404") or {}
        order.hidden_reads = max(int(self.lag.get("orders", 0)), int(fault.get("reads", 0)))
        order.listed_at = self.now + timedelta(seconds=self.mishaps.seconds("lag_orders"))
        order.history.append([iso(self.now), "PENDING"])
        return order

    def _move(self, order: Order, status: str, message: str = "", quiet: bool = False) -> None:
        order.status = status
        order.history.append([iso(self.now), status])
        if message:
            order.cancel_message = message
        if status in TERMINAL:
            self.live.pop(order.order_id, None)
        self._hold(order)
        if not quiet:
            self.tell_order(order)

    def _hold(self, order: Order) -> None:
        order.hold = ZERO
        if order.live:
            order.hold = needed(self, order.product_id, order.side, order.kind, order.remaining,
                                order.limit)

    # Matching

    def _execute(self, order: Order) -> None:
        """A new order meets the book; a stop only waits."""
        market = self.markets[order.product_id]
        if order.kind in ("STOP_LIMIT", "BRACKET"):
            return
        if order.time_in_force == "FILL_OR_KILL" and self._reachable(order) < order.remaining:
            self._move(order, "CANCELLED", "could not be filled at once")
            return
        self._take(order, market, order.limit)
        if order.live and order.time_in_force in TAKING:
            filled = order.filled and self.mishaps.use("partial_ends_filled")
            self._move(order, "FILLED" if filled else "CANCELLED", "remainder cancelled")
        self.check_margin()

    def _reachable(self, order: Order) -> Decimal:
        levels = self.markets[order.product_id].levels(order.side)
        return sum((size for price, size in levels if self._within(order, price)), ZERO)

    @staticmethod
    def _within(order: Order, price: Decimal, limit: Decimal | None = None) -> bool:
        limit = order.limit if limit is None else limit
        return limit is None or SIGN[order.side] * (limit - price) >= 0

    def _take(self, order: Order, market: Market, limit: Decimal | None) -> None:
        """Walk the book up to the limit."""
        wanted = order.remaining
        part = self.mishaps.use("partial_fill", product_id=order.product_id, kind=order.kind)
        if part:
            wanted = (wanted * decimal(part["fraction"])).quantize(Decimal(1), ROUND_DOWN)
        for price, size in market.levels(order.side):
            if wanted <= 0 or not order.live or not self._within(order, price, limit):
                return
            contracts = min(wanted, size)
            wanted -= contracts
            self.fill(order, contracts, price, "TAKER")

    def _work(self, order: Order, market: Market) -> None:
        """A resting order after a change of price."""
        if order.status not in ("OPEN", "CANCEL_QUEUED") or order.executes_at:
            return
        if order.kind in ("STOP_LIMIT", "BRACKET") and not order.triggered:
            if SIGN["BUY" if order.stop_up else "SELL"] * (market.last - order.stop) >= 0:
                order.triggered = True
                self.tell_order(order)
                self._take(order, market, self._stop_limit(order, market))
                return
            if order.waits_for_stop:
                return
        if order.triggered:
            self._take(order, market, self._stop_limit(order, market))
            return
        depth = self._reachable(order)
        if depth:
            self.fill(order, min(depth, order.remaining), order.limit, "MAKER")

    @staticmethod
    def _stop_limit(order: Order, market: Market) -> Decimal:
        if order.kind == "STOP_LIMIT":
            return order.limit
        beyond = order.stop * (1 + SIGN[order.side] * BRACKET_SLIP)
        return market.on_tick(beyond, ROUND_CEILING if order.side == "BUY" else ROUND_FLOOR)

    def fill(self, order: Order, contracts: Decimal, price: Decimal, liquidity: str) -> None:
        market = self.markets[order.product_id]
        size = self.contract_size(order.product_id)
        value = contracts * size * price
        rate = self.maker_rate if liquidity == "MAKER" else self.taker_rate
        fee = Fee(value * rate, contracts * self.fee_per_contract, contracts)
        number = len(self.fills) + 1
        # The two stamps of a fill differ by milliseconds, and either may be the earlier one.
        skew = timedelta(milliseconds=10 if number % 2 else -10)
        realized = self.account.trade(order.product_id, size, order.side, contracts, price, fee)
        filled = Fill(number, entry_identity(number), identity("trade", number), order, self.now,
                      self.now + skew, price, contracts, liquidity, fee, value, realized)
        self.fills.append(filled)
        order.fills.append(filled)
        position = self.account.positions[order.product_id]
        position.closed_at = None if position.contracts else self.now
        self.account.keep_picture(self.now)
        if order.remaining <= 0:
            self._move(order, "FILLED")
        else:
            order.history.append([iso(self.now), f"{order.status} {plain(order.filled)} filled"])
            self.tell_order(order)
        self._grow_attached(order, contracts)
        self.fit_brackets(market)
        for other in self.live.values():
            self._hold(other)
        self.tell_balance()

    def contract_size(self, product_id: str) -> Decimal:
        position = self.account.positions.get(product_id)
        if position and position.contracts:
            return position.contract_size
        return self.markets[product_id].contract_size

    # Brackets

    def reserved(self, product_id: str) -> Decimal:
        """How many contracts of the position resting brackets hold."""
        kinds = ("BRACKET", "STOP_LIMIT") if self.mishaps.get("stops_reserve") else ("BRACKET",)
        held = self.account.contracts(product_id)
        return sum((order.remaining for order in self.live.values()
                    if order.product_id == product_id and order.kind in kinds
                    and held * SIGN[order.side] < 0), ZERO)

    def fit_brackets(self, market: Market) -> None:
        """No bracket is larger than the position that is left: shrink it or cancel it."""
        if self.mishaps.get("bracket_left_behind", product_id=market.product_id):
            return
        held = self.account.contracts(market.product_id)
        room = {"SELL": max(held, ZERO), "BUY": max(-held, ZERO)}
        for order in list(self.live.values()):
            if order.kind != "BRACKET" or order.product_id != market.product_id:
                continue
            fitting = min(order.remaining, room[order.side])
            room[order.side] -= fitting
            if not fitting:
                self._move(order, "CANCELLED", "the position is gone")
            elif fitting < order.remaining:
                order.size = order.filled + fitting
                self.tell_order(order)

    def _grow_attached(self, entry: Order, contracts: Decimal) -> None:
        """An entry that fills makes its bracket, or makes it larger."""
        if not entry.attached:
            return
        bracket = self.orders.get(entry.attached_order_id)
        if bracket is not None and bracket.live:
            bracket.size += contracts
            self.tell_order(bracket)
            return
        if bracket is not None:
            return
        ((variant, members),) = entry.attached.items()
        number = len(self.orders) + 1
        exit_ticket = Ticket(entry.product_id, OPPOSITE[entry.side], variant,
                             {"base_size": plain(contracts), **members},
                             client_order_id=identity("attached", number))
        refusal = self.mishaps.use("attached_refused", product_id=entry.product_id)
        made = self._new_order(exit_ticket, "venue")
        made.originating_order_id = entry.order_id
        entry.attached_order_id = made.order_id
        self._move(made, "FAILED" if refusal else "OPEN")

    # Cancels

    def cancel(self, order_id: str) -> str:
        """Ask for a cancel; return the reason of the refusal, "" when it is accepted."""
        order = self.orders.get(order_id)
        refusal = rules.cancel_refusal(self, order)
        if refusal:
            return refusal
        if order.status == "QUEUED":
            self._move(order, "CANCELLED", "User requested cancel")
            return ""
        if self.mishaps.use("cancel_lost", product_id=order.product_id, kind=order.kind):
            return ""
        slow = self.mishaps.use("cancel_slow", product_id=order.product_id, kind=order.kind) or {}
        fills = self.mishaps.use("cancel_fills", product_id=order.product_id, kind=order.kind)
        order.cancel_will_fill = fills is not None
        order.cancel_reads = max(int(self.lag.get("cancel_reads", 0)), int(slow.get("reads", 0)))
        seconds = slow.get("seconds", 0)
        order.cancel_at = self.now + timedelta(seconds=seconds) if seconds else None
        if fills and not seconds:
            order.cancel_reads = max(order.cancel_reads, 1)
        order.cancel_waits_for_session = self.markets[order.product_id].phase == CLOSE
        self._move(order, "CANCEL_QUEUED")
        if self._cancel_by_time(order) and order.cancel_at is None:
            self.finish_cancel(order)
        return ""

    @staticmethod
    def _cancel_by_time(order: Order) -> bool:
        """Does only time, not the number of reads or the session, hold this cancel up?"""
        return not order.cancel_waits_for_session and order.cancel_reads <= 0

    def seen(self, order: Order) -> None:
        """Somebody read the order: a cancel that settles after a number of reads comes closer."""
        if order.status != "CANCEL_QUEUED" or order.cancel_waits_for_session:
            return
        if order.cancel_reads > 0:
            order.cancel_reads -= 1
            order.cancel_reads_shown += 1
            if order.cancel_reads == 0 and (order.cancel_at or self.now) <= self.now:
                self.finish_cancel(order)

    def finish_cancel(self, order: Order) -> None:
        order.cancel_at = None
        market = self.markets[order.product_id]
        levels = market.levels(order.side)
        if order.cancel_will_fill and levels:
            at_market = order.kind in ("BRACKET", "MARKET") or (
                order.kind == "STOP_LIMIT" and self._within(order, levels[0][0]))
            resting = not at_market
            price = order.limit if resting else levels[0][0]
            self.fill(order, order.remaining, price, "MAKER" if resting else "TAKER")
            return
        self._move(order, "CANCELLED", "User requested cancel")

    # Margin

    def unrealized(self) -> Decimal:
        return sum((position.unrealized(self.markets[name].mark)
                    for name, position in self.account.positions.items()), ZERO)

    def margin(self) -> Margin:
        return margin_of(self, self.picture())

    def picture(self) -> Picture:
        account = self.account
        return Picture(self.now, account.cash, account.accrued, account.positions)

    def equity(self) -> Decimal:
        return self.account.cash + self.unrealized() - self.account.accrued

    def check_margin(self) -> None:
        margin = self.margin()
        if margin.initial and margin.available <= margin.threshold:
            self.liquidate("available margin at the liquidation threshold")

    def liquidate(self, reason: str, forced: bool = False) -> None:
        """Cancel every order; if that does not help, close every position at the market."""
        for order in list(self.live.values()):
            self._move(order, "CANCELLED", "account in liquidation")
        margin = self.margin()
        if not forced and margin.available > margin.threshold:
            return
        for name, position in list(self.account.positions.items()):
            side = "SELL" if position.contracts > 0 else "BUY"
            if position.contracts and self.markets[name].levels(side):
                self._close_by_force(name, position.contracts, reason)

    def _close_by_force(self, name: str, contracts: Decimal, reason: str) -> None:
        side = "SELL" if contracts > 0 else "BUY"
        order = self.market_order(name, side, abs(contracts), "venue", "LIQUIDATION")
        self.liquidations.append({
            "at": iso(self.now), "product_id": name, "order_id": order.order_id, "side": side,
            "contracts": plain(abs(contracts)), "reason": reason})

    def market_order(self, product_id, side, contracts, by, kind="MARKET",
                     source="RETAIL_ADVANCED") -> Order:
        """An order that fills completely and asks nobody: the owner's or a liquidation."""
        levels = self.markets[product_id].levels(side)
        if not levels:
            raise ValueError(f"{product_id} has no quotes to trade on")
        number = len(self.orders) + 1
        order = self._enter(Order(
            number, identity("order", number), identity("client", number), product_id, side, kind,
            "IMMEDIATE_OR_CANCEL", "market_market_ioc", {"base_size": plain(contracts)},
            contracts, self.now, by=by, source=source))
        for level, (price, size) in enumerate(levels, 1):
            if not order.remaining:
                break
            last_one = level == len(levels)
            self.fill(order, order.remaining if last_one else min(order.remaining, size), price,
                      "TAKER")
        return order

    # Funding

    def _next_funding(self) -> datetime:
        seconds = int(self.now.timestamp()) // self.funding_step + 1
        return moment(seconds * self.funding_step)

    def _fund(self) -> None:
        """The hour that just ended is charged; twice a day the charges move the cash."""
        at, self.funding_at = self.funding_at, self._next_funding()
        for market in self.markets.values():
            if not market.perpetual:
                continue
            traded, market.open_in_hour = market.open_in_hour, market.phase == OPEN
            if market.next_funding_rate is not None:
                market.funding_rate, market.next_funding_rate = market.next_funding_rate, None
            position = self.account.positions.get(market.product_id)
            if not position or not position.contracts or not traded:
                continue
            paid = (position.contracts * position.contract_size * market.mark
                    * market.funding_rate)
            self.account.accrued += paid
            self.accruals.append({
                "at": iso(at), "product_id": market.product_id, "paid": plain(paid),
                "rate": plain(market.funding_rate), "mark": plain(market.mark),
                "contracts": plain(position.contracts)})
        if at.hour in self.booking_hours and at.minute == at.second == 0:
            booked = self.account.book_funding()
            self.bookings.append({"at": iso(at), "paid": plain(booked)})
        self.account.keep_picture(self.now)
        self.check_margin()

    # Events

    def tell_order(self, order: Order) -> None:
        self.events.append({"channel": "user", "events": [
            {"type": "update", "orders": [order.user_row()]}]})

    def tell_balance(self) -> None:
        self.events.append({"channel": "futures_balance_summary", "events": [
            {"type": "update", "fcm_balance_summary": stream_summary(self, self.picture())}]})

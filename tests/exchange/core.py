"""Core: the exchange as its server and its tests use it.

Deterministic and in virtual time: no sockets, no clock, no threads.  `request` answers like the
venue, the steering methods move the world, `truth` tells what really happened.  Arguments of the
steering methods are plain JSON.
"""

from datetime import datetime

from .answers import trade_row
from .endpoints import Endpoints
from .engine import Engine
from .forms import decimal, iso, plain
from .markets import CLOSE, OPEN, STATE, Market
from .orders import Refused, Ticket
from .summary import stream_summary

USER_BATCH = 50
SNAPSHOT_CANDLES = 100
FIVE_MINUTES = 300
TICKER_QUOTES = ("best_bid", "best_bid_quantity", "best_ask", "best_ask_quantity")


class Exchange:
    """One account at one exchange."""

    def __init__(self, scenario: dict):
        self.engine = Engine(scenario)
        self.endpoints = Endpoints(self.engine, scenario.get("permissions"))

    @property
    def now(self) -> datetime:
        return self.engine.now

    def advance(self, to) -> None:
        self.engine.advance(to)

    def request(self, method: str, path: str, query: list, body: dict | None,
                authenticated: bool) -> tuple[int, dict | str]:
        return self.endpoints.answer(method, path, query, body, authenticated)

    # The WebSocket

    def take_events(self) -> list[dict]:
        """What happened since the last call, as {"channel", "events"}."""
        taken = list(self.engine.events)
        self.engine.events.clear()
        return taken

    def snapshot(self, channel: str, product_ids: list[str]) -> list[dict]:
        """The events that a new subscription gets first, one a message."""
        if channel == "user":
            return self._user_snapshot()
        if channel == "futures_balance_summary":
            return [{"type": "snapshot", "fcm_balance_summary": self._summary()}]
        make = SNAPSHOTS.get(channel)
        names = product_ids or list(self.engine.markets)
        markets = [self.engine.markets[name] for name in names if name in self.engine.markets]
        return [make(self, market) for market in markets if make and market.tradable]

    def _user_snapshot(self) -> list[dict]:
        """Open orders in batches of fifty; a batch of fewer, even of none, is the last one."""
        rows = [order.user_row() for order in self.engine.live.values() if order.status == "OPEN"]
        batches = [rows[first:first + USER_BATCH] for first in range(0, len(rows) + 1, USER_BATCH)]
        return [{"type": "snapshot", "orders": batch, "positions": {
            "perpetual_futures_positions": [], "expiring_futures_positions": []}}
            for batch in batches]

    def _summary(self) -> dict:
        return stream_summary(self.engine, self.engine.picture())

    def _ticker_snapshot(self, market: Market) -> dict:
        return {"type": "snapshot", "tickers": [self.engine.ticker(market)]}

    def _batch_snapshot(self, market: Market) -> dict:
        row = self.engine.ticker(market)
        return {"type": "snapshot", "tickers": [
            {key: value for key, value in row.items() if key not in TICKER_QUOTES}]}

    def _level2_snapshot(self, market: Market) -> dict:
        updates = [{"side": side, "event_time": "1970-01-01T00:00:00Z",
                    "price_level": plain(price), "new_quantity": plain(size)}
                   for side, taker in (("bid", "SELL"), ("offer", "BUY"))
                   for price, size in market.quotes(taker)]
        return {"type": "snapshot", "product_id": market.product_id, "updates": updates}

    def _trades_snapshot(self, market: Market) -> dict:
        names = ("trade_id", "product_id", "price", "size", "side", "time")
        rows = [trade_row(market, trade) for trade in market.trades]
        return {"type": "snapshot", "trades": [{key: row[key] for key in names} for row in rows]}

    def _candles_snapshot(self, market: Market) -> dict:
        end = int(self.now.timestamp())
        rows = market.candles(end - SNAPSHOT_CANDLES * FIVE_MINUTES, end, FIVE_MINUTES, self.now)
        names = ("start", "low", "high", "open", "close", "volume")
        return {"type": "snapshot", "candles": [
            {**dict(zip(names, (str(row[0]), *map(plain, row[1:])))),
             "product_id": market.product_id} for row in rows]}

    def _status_snapshot(self, market: Market) -> dict:
        row = market.row
        return {"type": "snapshot", "products": [{
            "product_type": row.get("product_type"), "id": market.product_id,
            "base_currency": row.get("base_currency_id", ""),
            "quote_currency": row.get("quote_currency_id", ""),
            "base_increment": row.get("base_increment", ""),
            "quote_increment": row.get("quote_increment", ""),
            "display_name": row.get("display_name", ""), "status": "", "status_message": "",
            "min_market_funds": "0"}]}

    # Steering

    def price(self, product_id, bid, ask, last=None, bid_size="50", ask_size="50") -> None:
        """Set the book now.  `last` is the price of a trade; "" means that only quotes moved."""
        market = self.engine.markets[product_id]
        bid, ask = decimal(bid or 0), decimal(ask or 0)
        market.bid_size, market.ask_size = decimal(bid_size), decimal(ask_size)
        if last is None:
            last = market.on_tick((bid + ask) / 2) if bid and ask else None
        self.engine.quote(market, bid, ask, None if last in (None, "") else decimal(last))

    def path(self, product_id, rows) -> None:
        self.engine.markets[product_id].play(rows)

    def candles_from(self, product_id, rows) -> None:
        self.engine.markets[product_id].load_candles(rows)

    def trade_by_owner(self, product_id, side, contracts, source="RETAIL_SIMPLE") -> str:
        """A manual trade in the app; returns the order's id."""
        order = self.engine.market_order(product_id, side, decimal(contracts), "owner",
                                         source=source)
        self.engine.check_margin()
        return order.order_id

    def order_by_owner(self, product_id, side, contracts, limit_price,
                       client_order_id="") -> str:
        number = len(self.engine.orders) + 1
        ticket = Ticket(product_id, side, "limit_limit_gtc",
                        {"base_size": str(contracts), "limit_price": str(limit_price),
                         "post_only": False},
                        client_order_id=client_order_id or f"owner-{number}")
        try:
            return self.engine.place(ticket, by="owner").order_id
        except Refused as refused:
            raise ValueError(f"the venue refused the owner's order: {refused.reason}") from None

    def deposit(self, usd) -> None:
        self.engine.account.deposit(decimal(usd))
        self.engine.deposits.append({"at": iso(self.now), "usd": plain(decimal(usd))})
        self.engine.account.keep_picture(self.now)
        self.engine.tell_balance()

    def set_product(self, product_id, **changes) -> None:
        """Change a product's row.

        `add` a whole row, `remove` True, `unset` a list of keys, `extra` new keys, `halted`,
        `long_margin_rate` and `short_margin_rate`.  `funding_rate` is that of the hour that is
        running: it is shown and charged at its end; `funding_rate_shown` changes what is shown at
        once.  Other names are keys of the row, of its future details or of its session details.
        """
        if changes.pop("remove", False):
            self.engine.markets[product_id].listed = False
            return
        if "add" in changes:
            self.engine.markets[product_id] = Market(
                changes.pop("add"), self.now, self.engine.friday_close)
        market = self.engine.markets[product_id]
        for name, value in changes.items():
            SPECIAL.get(name, change_row)(market, name, value)
        held = self.engine.account.contracts(product_id)
        details = market.row.get("future_product_details") or {}
        if not held and details.get("contract_size"):
            market.contract_size = decimal(details["contract_size"])
        if market.row.get("price_increment"):
            market.tick = decimal(market.row["price_increment"])
        self.engine.check_margin()

    def set_session(self, product_id, is_open, state=None, reason=None, maintenance=None) -> None:
        """Open or close a product now, "*" means all; `is_open` None goes back to the calendar.

        `maintenance` announces a window {"start_time", "end_time"}, in which it closes by itself.
        """
        for market in list(self.engine.markets.values()):
            if product_id not in ("*", market.product_id) or not market.tradable:
                continue
            if is_open is None:
                market.forced = None
            else:
                phase = (state or (OPEN if is_open else CLOSE)).removeprefix(STATE)
                market.forced = phase
            market.reason = reason or ""
            if maintenance is not None:
                market.announce(maintenance)
        self.engine.refresh_sessions()

    def fault(self, name, **arguments) -> None:
        """Switch a fault of mishaps.MISHAPS on; "clear" ends all, or the one called `name`."""
        if name == "clear":
            self.engine.mishaps.clear(arguments.get("only", ""))
        elif name == "liquidate":
            self.engine.liquidate("forced by the test", forced=True)
        elif name == "margin_step":
            self._margin_step(**arguments)
        else:
            self.engine.mishaps.set(name, **arguments)

    def _margin_step(self, long=None, short=None, product_id=None) -> None:
        for name, market in self.engine.markets.items():
            if market.tradable and product_id in (None, name):
                for key, value in (("long_margin_rate", long), ("short_margin_rate", short)):
                    if value is not None:
                        set_margin_rate(market, key, value)
        self.engine.check_margin()

    # The truth

    def truth(self) -> dict:
        engine, account = self.engine, self.engine.account
        return {
            "now": iso(engine.now),
            "cash": plain(account.cash),
            "equity": plain(engine.equity()),
            "unrealized_pnl": plain(engine.unrealized()),
            "realized_pnl": plain(account.realized),
            "fees": plain(account.fees),
            "funding_booked": plain(account.funding_booked),
            "funding_accrued": plain(account.accrued),
            "deposited": plain(account.deposits),
            "positions": {
                name: {"contracts": plain(position.contracts),
                       "entry_price": plain(position.entry_price),
                       "contract_size": plain(position.contract_size),
                       "mark": plain(engine.markets[name].mark)}
                for name, position in account.positions.items() if position.contracts},
            "orders": [order.truth() for order in engine.orders.values()],
            "fills": [{**fill.row(), "by": fill.order.by, "realized": plain(fill.realized)}
                      for fill in engine.fills],
            "liquidations": list(engine.liquidations),
            "deposits": list(engine.deposits),
            "accruals": list(engine.accruals),
            "bookings": list(engine.bookings),
            "prices": {name: {"bid": plain(market.bid), "ask": plain(market.ask),
                              "last": plain(market.last), "phase": market.phase}
                       for name, market in engine.markets.items() if market.tradable},
            "faults": engine.mishaps.names(),
        }


def change_row(market: Market, name: str, value) -> None:
    for part in (market.row, market.row.get("future_product_details") or {},
                 market.row.get("fcm_trading_session_details") or {}):
        if name in part:
            part[name] = value
            return
    raise ValueError(f"{market.product_id} has no {name}")


def unset(market: Market, _name: str, keys: list) -> None:
    for key in keys:
        for part in (market.row, market.row.get("future_product_details") or {},
                     market.row.get("fcm_trading_session_details") or {}):
            part.pop(key, None)


def add_keys(market: Market, _name: str, keys: dict) -> None:
    market.row.update(keys)


def set_halted(market: Market, _name: str, value) -> None:
    market.halted = bool(value)


def set_margin_rate(market: Market, name: str, value) -> None:
    details = market.row.get("future_product_details")
    if details and details.get("overnight_margin_rate"):
        details["overnight_margin_rate"][name] = str(value)


def set_funding_rate(market: Market, name: str, value) -> None:
    if name == "funding_rate_shown":
        market.funding_rate = decimal(value)
    else:
        market.next_funding_rate = decimal(value)


SPECIAL = {
    # what `set_product` calls it   what it does
    "unset":              unset,
    "extra":              add_keys,
    "halted":             set_halted,
    "long_margin_rate":   set_margin_rate,
    "short_margin_rate":  set_margin_rate,
    "funding_rate":       set_funding_rate,
    "funding_rate_shown": set_funding_rate,
}
SNAPSHOTS = {
    # channel         its first event for one product
    "ticker":         Exchange._ticker_snapshot,
    "ticker_batch":   Exchange._batch_snapshot,
    "level2":         Exchange._level2_snapshot,
    "market_trades":  Exchange._trades_snapshot,
    "candles":        Exchange._candles_snapshot,
    "status":         Exchange._status_snapshot,
}

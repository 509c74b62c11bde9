"""Endpoints: what does the venue answer to this request?

A table of routes, and a function for each that turns the engine's books into a body.  Bodies have
the keys and types of the recorded ones.  Lags and lies about reads happen here: the books behind
them stay true.
"""

from datetime import timedelta
from operator import attrgetter

from . import orders as forms_of
from . import rules
from .answers import (Problem, Query, damage, failure, is_identity, paged, preview_body, retired,
                      stranger, success, trade_row)
from .engine import Engine
from .forms import ZERO, epoch, identity, iso, money, plain, ratio, short_iso
from .orders import BadBody, Order, Refused, Ticket, checked
from .summary import rest_summary

BASE = "/api/v3/brokerage"
PAGE_MAX = 1000
FILLS_PAGE = 100
CANDLES_MAX = 350
CANCELS_MAX = 100
ACCOUNTS_PAGE = 49
BOOK_PAGE = 50
GRANULARITIES = {
    "ONE_MINUTE": 60, "FIVE_MINUTE": 300, "FIFTEEN_MINUTE": 900, "THIRTY_MINUTE": 1800,
    "ONE_HOUR": 3600, "TWO_HOUR": 7200, "FOUR_HOUR": 14400, "SIX_HOUR": 21600, "ONE_DAY": 86400,
}
STATUSES = ("PENDING", "OPEN", "FILLED", "CANCELLED", "EXPIRED", "FAILED", "UNKNOWN_ORDER_STATUS",
            "QUEUED", "CANCEL_QUEUED", "EDIT_QUEUED")
PORTFOLIO = "11111111-1111-4111-8111-111111111111"
PERMISSIONS = {"can_view": True, "can_trade": True, "can_transfer": False, "can_receive": False,
               "portfolio_uuid": PORTFOLIO, "portfolio_type": "DEFAULT"}

ORDER_FILTERS = (
    ("order_ids", attrgetter("order_id")), ("product_ids", attrgetter("product_id")),
    ("order_status", attrgetter("status")), ("time_in_forces", attrgetter("time_in_force")),
    ("order_types", attrgetter("kind")), ("order_side", attrgetter("side")),
)
FILL_FILTERS = (
    ("order_ids", attrgetter("order.order_id")), ("trade_ids", attrgetter("trade_id")),
    ("product_ids", attrgetter("order.product_id")), ("order_side", attrgetter("order.side")),
)


class Endpoints:
    """The REST interface of one engine."""

    def __init__(self, engine: Engine, permissions: dict | None = None):
        self.engine = engine
        self.permissions = {**PERMISSIONS, **(permissions or {})}
        self.margin_setting = "INTRADAY_MARGIN_SETTING_STANDARD"
        self.sweeps: list[dict] = []
        self.previews = 0

    def answer(self, method, path, pairs, body, authenticated) -> tuple[int, dict | str]:
        parts = path.removeprefix(BASE).strip("/").split("/")
        try:
            handler, found = self._route(method, path, parts)
            if not authenticated and handler not in PUBLIC and parts[0] != "market":
                return 401, "Unauthorized"
            if method != "GET" and not self.permissions["can_trade"] and parts[-1] != "preview":
                raise Problem(403, "PERMISSION_DENIED", "the key may not trade")
            if method == "GET" and self.engine.mishaps.get("transient_403"):
                fault = self.engine.mishaps.get("transient_403")
                if fault.get("match", "") in path:
                    self.engine.mishaps.use("transient_403")
                    raise Problem(403, "PERMISSION_DENIED", "User does not have access")
            answer = handler(self, *found, **({"body": body} if method == "POST"
                                              else {"query": Query(pairs)}))
        except Problem as problem:
            return problem.status, problem.body
        except BadBody as bad:
            return 400, {"error": "unknown", "error_details": str(bad), "message": str(bad)}
        return 200, self._damaged(answer, path)

    @staticmethod
    def _route(method, path, parts):
        if path.startswith(BASE + "/intx/"):
            raise retired()
        if path.startswith(BASE):
            for wanted, pattern, handler in ROUTES:
                names = pattern.split("/")
                if wanted == method and len(names) == len(parts) and all(
                        name in ("*", part) for name, part in zip(names, parts)):
                    return handler, [part for name, part in zip(names, parts) if name == "*"]
        raise Problem(404, "unknown", "Not Found")

    def _damaged(self, answer: dict, path: str) -> dict:
        for fault in self.engine.mishaps.all("fields_missing"):
            if fault.get("match", "") in path:
                names = fault["path"].split(".")
                if damage(answer, names, fault) and "times" in fault:
                    fault["times"] -= 1
        return answer

    # Time, products, prices

    def time(self, query):
        now = self.engine.now
        return {"iso": short_iso(now), "epochSeconds": str(epoch(now)),
                "epochMillis": str(int(now.timestamp() * 1000))}

    def permissions_of_the_key(self, query):
        return dict(self.permissions)

    def products(self, query):
        wanted, kind = query.all("product_ids"), query.one("product_type")
        expiry = query.one("contract_expiry_type")
        rows = [market.shown(self.engine.now) for market in self.engine.markets.values()
                if market.listed]
        rows = [row for row in rows
                if (not wanted or row["product_id"] in wanted)
                and (not kind or row.get("product_type") == kind)
                and (not expiry or expiry == (row.get("future_product_details") or {}).get(
                    "contract_expiry_type"))]
        limit = query.count("limit")
        offset = query.count("cursor", query.count("offset", 0))
        page = rows[offset:offset + limit] if limit else rows[offset:]
        more = offset + len(page) < len(rows)
        pagination = None
        if limit:
            pagination = {"prev_cursor": "", "next_cursor": str(offset + len(page)) if more else "",
                          "has_next": more, "has_prev": offset > 0}
            page, pagination = self._lied(page, pagination, "next_cursor", "products")
        return {"products": page, "num_products": len(page), "pagination": pagination}

    def product(self, product_id, query):
        return self._market(product_id).shown(self.engine.now)

    def _market(self, product_id):
        market = self.engine.markets.get(product_id)
        if market is None or not market.listed:
            raise Problem(404, "NOT_FOUND", f"product {product_id} was not found", "")
        return market

    def candles(self, product_id, query):
        market = self._market(product_id)
        step = GRANULARITIES.get(query.one("granularity"))
        start, end = query.count("start"), query.count("end")
        if step is None or start is None or end is None:
            raise Problem(400, "INVALID_ARGUMENT", "start, end and granularity are required")
        if end < start or end // step - -(-start // step) + 1 > CANDLES_MAX:
            raise Problem(400, "INVALID_ARGUMENT", "number of candles requested should be less "
                                                   f"than {CANDLES_MAX}")
        if end > epoch(self.engine.now) and self.engine.mishaps.get("future_end_refused"):
            raise Problem(400, "INVALID_ARGUMENT", "end must not be in the future")
        rows = market.candles(start, end, step, self.engine.now)
        rows = rows[:min(query.count("limit", CANDLES_MAX), CANDLES_MAX)]
        names = ("start", "low", "high", "open", "close", "volume")
        return {"candles": [
            dict(zip(names, (str(row[0]), *map(plain, row[1:])))) for row in rows]}

    def best_bid_ask(self, query):
        wanted = query.all("product_ids") or list(self.engine.markets)
        markets = [self.engine.markets[name] for name in wanted if name in self.engine.markets]
        return {"pricebooks": [self._book(market, 1) for market in markets
                               if market.row.get("price") and market.tradable
                               and market.listed]}

    def _book(self, market, levels):
        def side(taker):
            return [{"price": plain(price), "size": plain(size)}
                    for price, size in market.quotes(taker)[:levels]]
        return {"product_id": market.product_id, "bids": side("SELL"), "asks": side("BUY"),
                "time": iso(self.engine.now)}

    def product_book(self, query):
        market = self._market(query.one("product_id"))
        book = self._book(market, query.count("limit", BOOK_PAGE))
        spread = market.ask - market.bid
        quoted = bool(book["bids"] and book["asks"])
        return {
            "pricebook": book, "last": plain(market.last),
            "mid_market": plain(market.mid) if quoted else "",
            "spread_bps": plain(ratio(spread * 10000, market.mid)) if quoted else "",
            "spread_absolute": plain(spread) if quoted else ""}

    def ticker(self, product_id, query):
        market = self._market(product_id)
        limit = query.count("limit")
        if limit is None:
            raise Problem(400, "INVALID_ARGUMENT", "limit is required")
        bids, asks = market.quotes("SELL"), market.quotes("BUY")
        return {"trades": [trade_row(market, trade) for trade in list(market.trades)[:limit]],
                "best_bid": plain(bids[0][0]) if bids else "",
                "best_ask": plain(asks[0][0]) if asks else ""}

    # Creating

    def create(self, body):
        body = checked(body, forms_of.CREATE)
        ticket = forms_of.ticket(body)
        return self._submit(ticket)

    def close_position(self, body):
        body = checked(body, forms_of.CLOSE)
        if not body.get("product_id"):
            raise BadBody("product_id is required")
        name = body["product_id"]
        held = self.engine.account.contracts(name)
        size = str(body.get("size") or plain(abs(held)))
        ticket = Ticket(name, "SELL" if held > 0 else "BUY", "market_market_ioc",
                        {"base_size": size}, client_order_id=body.get("client_order_id", ""),
                        closing=True)
        return self._submit(ticket)

    def _submit(self, ticket):
        client_id = ticket.client_order_id
        if not client_id or len(client_id) > rules.CLIENT_ID_CHARACTERS_MAX:
            raise Problem(400, "INVALID_ARGUMENT", "client_order_id is missing or too long")
        if ticket.product_id.endswith("-INTX"):
            raise retired()
        mishaps = self.engine.mishaps
        first = self.engine.by_client_id.get(client_id)
        if first is not None and not self._forgotten(first):
            if mishaps.use("duplicate_error"):
                return failure(ticket, Refused("DUPLICATE_CLIENT_ORDER_ID"))
            return success(first, ticket.closing)
        liar = mishaps.use("echo_other_order") or mishaps.use("contradiction")
        if liar is not None:
            return self._contradicted(ticket, liar)
        try:
            return success(self._placed(ticket), ticket.closing)
        except Refused as refused:
            return failure(ticket, refused)

    def _forgotten(self, first):
        fault = self.engine.mishaps.get("no_dedup")
        return fault is not None and (
            self.engine.now - first.created >= timedelta(seconds=fault.get("after", 0)))

    def _placed(self, ticket):
        if ticket.closing:
            held = self.engine.account.contracts(ticket.product_id)
            if not held:
                raise Refused("CANNOT_CLOSE_ZERO_POSITION")
            if ticket.size is not None and ticket.size > abs(held):
                allowed = self.engine.mishaps.use("close_oversize", product_id=ticket.product_id)
                if not allowed:
                    raise Refused("PREVIEW_INVALID_BASE_SIZE_TOO_LARGE")
                if allowed.get("mode") != "flip":
                    ticket.configuration["base_size"] = plain(abs(held))
        return self.engine.place(ticket)

    def _contradicted(self, ticket, liar):
        """Answer with another order, or with a yes and a no at once."""
        order = next(iter(self.engine.orders.values()), None)
        try:
            placed = self._placed(ticket) if liar.get("placed") else None
        except Refused:
            placed = None
        if liar["fault"] == "echo_other_order":
            other = order or stranger(ticket)
            return success(other, ticket.closing)
        if liar.get("shape") == "success_without_id":
            answer = success(placed or stranger(ticket), ticket.closing)
            answer["success_response"]["order_id"] = ""
            return answer
        answer = failure(ticket, Refused(liar.get("reason", "UNKNOWN_FAILURE_REASON")))
        answer["order_id"] = (placed or stranger(ticket)).order_id
        return answer

    def preview(self, body):
        body = checked(body, forms_of.PREVIEW)
        ticket = forms_of.ticket(body)
        engine = self.engine
        if not engine.onboarded:
            raise Problem(403, "PERMISSION_DENIED",
                          "FCM preview orders are only enabled for onboarded users")
        errors = []
        try:
            rules.approve(engine, ticket)
        except Refused as refused:
            reason = refused.reason
            errors = [reason if reason.startswith("PREVIEW_") else f"PREVIEW_{reason}"]
        self.previews += 1
        return preview_body(engine, ticket, errors, identity("preview", self.previews))

    def edit(self, body):
        body = checked(body, forms_of.EDIT)
        known = body.get("order_id") in self.engine.orders
        reason = "CANNOT_EDIT_FUTURES_ORDER" if known else "ORDER_NOT_FOUND"
        return {"success": False, "errors": [{
            "edit_failure_reason": reason,
            "preview_failure_reason": "UNKNOWN_PREVIEW_FAILURE_REASON"}]}

    def edit_preview(self, body):
        answer = self.edit(body)
        return {"errors": answer["errors"], "slippage": "", "order_total": "",
                "commission_total": "", "quote_size": "", "base_size": "", "best_bid": "",
                "best_ask": "", "average_filled_price": "", "order_margin_total": "",
                "commission_detail_total": None, "pnl_configuration": None}

    def cancel(self, body):
        wanted = checked(body, forms_of.CANCEL).get("order_ids", [])
        if len(wanted) > CANCELS_MAX:
            raise Problem(400, "InvalidArgument", f"at most {CANCELS_MAX} orders in one request")
        if not wanted or not all(is_identity(one) for one in wanted):
            raise Problem(400, "INVALID_ARGUMENT", "order_ids must be UUIDs")
        results = []
        for one in wanted:
            reason = self.engine.cancel(one)
            results.append({"success": not reason, "order_id": one,
                            "failure_reason": reason or "UNKNOWN_CANCEL_FAILURE_REASON"})
        # The order of the results is not promised.
        return {"results": results[::-1] if len(results) > 1 else results}

    # Reading orders

    def order(self, order_id, query):
        order = self.engine.orders.get(order_id)
        if order is None or order.hidden_reads > 0:
            if order:
                order.hidden_reads -= 1
            raise Problem(404, "NOT_FOUND", "order with this orderID was not found")
        return {"order": self._shown(order)}

    def _shown(self, order: Order) -> dict:
        status = order.status
        if order.status == "CANCEL_QUEUED" and order.cancel_reads > 1 and (
                not order.cancel_reads_shown):
            status = "OPEN"
        if self._unknown_status(order):
            status = "UNKNOWN_ORDER_STATUS"
        row = order.row(status)
        self.engine.seen(order)
        return row

    def _unknown_status(self, order):
        fault = self.engine.mishaps.get("status_unknown", product_id=order.product_id)
        if fault is None or fault.setdefault("reads", 1) <= 0:
            return False
        fault["reads"] -= 1
        return True

    def list_orders(self, query):
        statuses = query.all("order_status")
        if any(status not in STATUSES for status in statuses):
            raise Problem(400, "INVALID_ARGUMENT", "unknown order_status")
        if "OPEN" in statuses and len(statuses) > 1:
            raise Problem(400, "INVALID_ARGUMENT", "OPEN cannot be combined with other statuses")
        narrowed = self._narrowed(query, ORDER_FILTERS)
        start, end = query.time("start_date"), query.time("end_date")
        chosen = [order for order in self.engine.orders.values()
                  if self._listed(order, query, narrowed, start, end)]
        page, cursor, more = paged(chosen, query, PAGE_MAX, lambda order: order.number)
        rows = [self._shown(order) for order in page]
        flags = {"cursor": cursor, "has_next": more}
        rows, flags = self._lied(rows, flags, "cursor", "orders", query.one("cursor"))
        return {"orders": rows, "sequence": "0", **flags}

    @staticmethod
    def _narrowed(query, filters):
        """The filters that the query names, each with its values."""
        return [(value_of, query.all(name)) for name, value_of in filters if query.all(name)]

    def _listed(self, order, query, narrowed, start, end):
        return ((order.listed_at is None or order.listed_at <= self.engine.now)
                and all(value_of(order) in values for value_of, values in narrowed)
                and query.one("product_type", "FUTURE") == "FUTURE"
                and query.one("order_placement_source", "RETAIL_ADVANCED") == order.source
                and (start is None or order.created >= start)
                and (end is None or order.created < end))

    def list_fills(self, query):
        by_order = query.all("order_ids")
        others = ("trade_ids", "product_ids", "start_sequence_timestamp", "end_sequence_timestamp",
                  "order_types", "order_side", "product_types")
        if by_order and any(query.all(name) for name in others):
            raise Problem(400, "INVALID_ARGUMENT", "cannot pass order_ids with other filters")
        narrowed = self._narrowed(query, FILL_FILTERS)
        start = query.time("start_sequence_timestamp")
        end = query.time("end_sequence_timestamp")
        now = self.engine.now - timedelta(seconds=self._lag("fills"))
        chosen = [fill for fill in self.engine.fills if fill.at <= now
                  and all(value_of(fill) in values for value_of, values in narrowed)
                  and (start is None or fill.at >= start) and (end is None or fill.at < end)]
        page, cursor, more = paged(chosen, query, FILLS_PAGE, lambda fill: fill.number)
        if page and not more and self.engine.mishaps.get("last_page_cursor"):
            cursor = str(page[-1].number)
        rows, flags = self._lied([fill.row() for fill in page],
                                 {"cursor": cursor, "has_next": more}, "cursor", "fills",
                                 query.one("cursor"))
        return {"fills": rows, "cursor": flags["cursor"]}

    def _lag(self, name):
        return max(self.engine.lag.get(name, 0), self.engine.mishaps.seconds(f"lag_{name}"))

    def _lied(self, rows, flags, cursor_key, listing, asked_cursor=""):
        """Cut a page and lie about what follows, when told to."""
        broken = self.engine.mishaps.get("partial_page")
        if broken and broken.get("listing") in (None, listing):
            self.engine.mishaps.use("partial_page")
            repeated = broken.get("cursor") == "repeated"
            return rows[:len(rows) // 2], {
                **flags, "has_next": True,
                cursor_key: (asked_cursor or "repeated") if repeated else ""}
        lie = self.engine.mishaps.get("has_next_lies")
        if lie and lie.get("listing") in (None, listing):
            self.engine.mishaps.use("has_next_lies")
            return rows[:len(rows) // 2], {**flags, "has_next": False, cursor_key: ""}
        return rows, flags

    # The account

    def accounts(self, query):
        limit = query.count("limit", ACCOUNTS_PAGE)
        rows = [self._wallet(1, "USD"), self._wallet(2, "BTC"), self._wallet(3, "USDC")]
        first = query.count("cursor", 0)
        page = rows[first:first + limit]
        more = first + len(page) < len(rows)
        return {"accounts": page, "has_next": more, "size": len(page),
                "cursor": str(first + len(page)) if more else ""}

    def account(self, name, query):
        for number, currency in enumerate(("USD", "BTC", "USDC"), 1):
            if identity("wallet", number) == name:
                return {"account": self._wallet(number, currency)}
        raise Problem(404, "NOT_FOUND", "account not found")

    def _wallet(self, number, currency):
        spot = self._summary()["cbi_usd_balance"]["value"] if currency == "USD" else "0"
        return {
            "uuid": identity("wallet", number), "name": f"{currency} Wallet", "currency": currency,
            "available_balance": {"value": spot, "currency": currency}, "default": number == 1,
            "active": True, "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z", "deleted_at": None,
            "type": "ACCOUNT_TYPE_CRYPTO" if currency != "USD" else "ACCOUNT_TYPE_FIAT",
            "ready": True, "hold": {"value": "0", "currency": currency},
            "retail_portfolio_id": PORTFOLIO, "platform": "ACCOUNT_PLATFORM_CONSUMER"}

    def transaction_summary(self, query):
        engine = self.engine
        return {
            "total_fees": int(engine.account.fees),
            "fee_tier": {
                "pricing_tier": "Intro 1", "usd_from": "", "usd_to": "",
                "taker_fee_rate": plain(engine.taker_rate),
                "maker_fee_rate": plain(engine.maker_rate), "aop_from": "0", "aop_to": "1000000",
                "perps_vol_from": "", "perps_vol_to": "", "futures_vol_from": "",
                "futures_vol_to": "", "volume_types_and_range": [{
                    "volume_types": ["VOLUME_TYPE_SPOT", "VOLUME_TYPE_US_DERIVATIVES"],
                    "vol_from": "0", "vol_to": "10000"}]},
            "margin_rate": None, "goods_and_services_tax": None, "advanced_trade_only_volume": 0,
            "advanced_trade_only_fees": 0, "coinbase_pro_volume": 0, "coinbase_pro_fees": 0,
            "total_balance": money(engine.account.cash), "has_promo_fee": False,
            "volume_breakdown": [{"volume_type": "VOLUME_TYPE_SPOT", "volume": 0},
                                 {"volume_type": "VOLUME_TYPE_US_DERIVATIVES", "volume": 0}],
            "has_cost_plus_commission": False}

    def balance_summary(self, query):
        if not self.engine.onboarded or self.engine.mishaps.use("summary_null"):
            return {"balance_summary": None}
        return {"balance_summary": self._summary()}

    def _summary(self):
        engine = self.engine
        then = engine.account.picture(engine.now - timedelta(seconds=self._lag("balance")))
        return rest_summary(engine, then, bool(engine.mishaps.get("funding_hidden")))

    def positions(self, query):
        if self.engine.mishaps.use("empty_positions"):
            return {"positions": []}
        then = self.engine.account.picture(
            self.engine.now - timedelta(seconds=self._lag("positions")))
        lingering = self.engine.mishaps.seconds("zero_rows_linger")
        return {"positions": [
            self._position(name, position) for name, position in then.positions.items()
            if position.contracts or (position.closed_at and self.engine.now
                                      < position.closed_at + timedelta(seconds=lingering))]}

    def _position(self, name, position):
        market = self.engine.markets[name]
        details = market.row.get("future_product_details") or {}
        return {
            "product_id": name, "expiration_time": details.get("contract_expiry"),
            "side": position.side or "UNKNOWN",
            "number_of_contracts": plain(abs(position.contracts)),
            "current_price": plain(market.mark), "avg_entry_price": plain(position.entry_price),
            "unrealized_pnl": money(position.unrealized(market.mark)),
            "daily_realized_pnl": money(position.realized_today)}

    def position(self, product_id, query):
        rows = self.positions(query)["positions"]
        for row in rows:
            if row["product_id"] == product_id:
                return {"position": row}
        if self.engine.mishaps.get("flat_position_empty"):
            return {}
        raise Problem(404, "NOT_FOUND", "position not found")

    def read_margin_setting(self, query):
        return {"setting": self.margin_setting}

    def write_margin_setting(self, body):
        self.margin_setting = checked(body, {"setting": forms_of.TEXT})["setting"]
        return {}

    def margin_window(self, query):
        return {"margin_window": {"margin_window_type": "MARGIN_WINDOW_TYPE_OVERNIGHT",
                                  "end_time": short_iso(self.engine.roll_at)},
                "is_intraday_margin_killswitch_enabled": False,
                "is_intraday_margin_enrollment_killswitch_enabled": False}

    def list_sweeps(self, query):
        return {"sweeps": list(self.sweeps)}

    def schedule_sweep(self, body):
        self._must_transfer()
        amount = checked(body, {"usd_amount": forms_of.TEXT}).get("usd_amount", "")
        self.sweeps.append({
            "id": f"sweep-{len(self.sweeps) + 1}", "should_sweep_all": not amount,
            "requested_amount": {"value": amount or "0", "currency": "USD"},
            "status": "PENDING", "scheduled_time": short_iso(self.engine.roll_at)})
        return {"success": True}

    def cancel_sweeps(self, query):
        self._must_transfer()
        self.sweeps.clear()
        return {"success": True}

    def _must_transfer(self):
        if not self.permissions["can_transfer"]:
            raise Problem(403, "PERMISSION_DENIED", "the key may not transfer")

    def portfolios(self, query):
        return {"portfolios": [{"name": "Default", "uuid": PORTFOLIO, "type": "DEFAULT",
                                "deleted": False}]}

    def portfolio(self, name, query):
        def usd(value):
            return {"value": money(value), "currency": "USD"}
        engine = self.engine
        unrealized = engine.unrealized()
        return {"breakdown": {
            "portfolio": self.portfolios(query)["portfolios"][0],
            "portfolio_balances": {
                "total_balance": usd(engine.equity()),
                "total_futures_balance": usd(engine.margin().initial),
                "total_cash_equivalent_balance": usd(engine.account.cash),
                "total_crypto_balance": usd(ZERO), "futures_unrealized_pnl": usd(unrealized),
                "perp_unrealized_pnl": usd(ZERO)},
            "spot_positions": [], "perp_positions": [], "futures_positions": []}}


PUBLIC = (Endpoints.time,)
ROUTES = (
    # method  path under the base                    what answers it
    ("GET",    "time",                               Endpoints.time),
    ("GET",    "key_permissions",                    Endpoints.permissions_of_the_key),
    ("GET",    "products",                           Endpoints.products),
    ("GET",    "market/products",                    Endpoints.products),
    ("GET",    "products/*",                         Endpoints.product),
    ("GET",    "market/products/*",                  Endpoints.product),
    ("GET",    "products/*/candles",                 Endpoints.candles),
    ("GET",    "market/products/*/candles",          Endpoints.candles),
    ("GET",    "products/*/ticker",                  Endpoints.ticker),
    ("GET",    "market/products/*/ticker",           Endpoints.ticker),
    ("GET",    "best_bid_ask",                       Endpoints.best_bid_ask),
    ("GET",    "product_book",                       Endpoints.product_book),
    ("GET",    "market/product_book",                Endpoints.product_book),
    ("POST",   "orders",                             Endpoints.create),
    ("POST",   "orders/preview",                     Endpoints.preview),
    ("POST",   "orders/edit",                        Endpoints.edit),
    ("POST",   "orders/edit_preview",                Endpoints.edit_preview),
    ("POST",   "orders/batch_cancel",                Endpoints.cancel),
    ("POST",   "orders/close_position",              Endpoints.close_position),
    ("GET",    "orders/historical/batch",            Endpoints.list_orders),
    ("GET",    "orders/historical/fills",            Endpoints.list_fills),
    ("GET",    "orders/historical/*",                Endpoints.order),
    ("GET",    "accounts",                           Endpoints.accounts),
    ("GET",    "accounts/*",                         Endpoints.account),
    ("GET",    "transaction_summary",                Endpoints.transaction_summary),
    ("GET",    "cfm/balance_summary",                Endpoints.balance_summary),
    ("GET",    "cfm/positions",                      Endpoints.positions),
    ("GET",    "cfm/positions/*",                    Endpoints.position),
    ("GET",    "cfm/intraday/margin_setting",        Endpoints.read_margin_setting),
    ("POST",   "cfm/intraday/margin_setting",        Endpoints.write_margin_setting),
    ("GET",    "cfm/intraday/current_margin_window", Endpoints.margin_window),
    ("GET",    "cfm/sweeps",                         Endpoints.list_sweeps),
    ("POST",   "cfm/sweeps/schedule",                Endpoints.schedule_sweep),
    ("DELETE", "cfm/sweeps",                         Endpoints.cancel_sweeps),
    ("GET",    "portfolios",                         Endpoints.portfolios),
    ("GET",    "portfolios/*",                       Endpoints.portfolio),
)

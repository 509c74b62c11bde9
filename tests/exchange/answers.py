"""Answers: how are the venue's bodies, errors and pages put together?

Pure.  Small functions over orders, tickets and markets; the endpoints decide which one is sent.
"""

from decimal import Decimal

from .books import CLEARING_FEE
from .forms import OPPOSITE, ZERO, decimal, identity, iso, moment, plain
from .orders import Order, Refused


class Problem(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, error: str, message: str, details: str | None = None):
        super().__init__(message)
        self.status = status
        self.body = {"error": error, "error_details": message if details is None else details,
                     "message": message}


class Query:
    """The query of a request: repeated keys make lists, unknown keys are ignored."""

    def __init__(self, pairs):
        self._firsts: dict[str, str] = {}
        self._lists: dict[str, list[str]] = {}
        for key, value in pairs:
            self._firsts.setdefault(str(key), str(value))
            self._lists.setdefault(str(key).removesuffix("[]"), []).append(str(value))

    def one(self, name: str, default: str = "") -> str:
        return self._firsts.get(name, default)

    def all(self, name: str) -> list[str]:
        return self._lists.get(name, [])

    def count(self, name: str, default: int | None = None) -> int | None:
        text = self.one(name)
        if not text:
            return default
        if not text.isdigit():
            raise Problem(400, "INVALID_ARGUMENT", f"{name} is not a number")
        return int(text)

    def time(self, name: str):
        text = self.one(name)
        try:
            return moment(text) if text else None
        except (ValueError, OverflowError):
            raise Problem(400, "INVALID_ARGUMENT", f"{name} is not a time") from None


def retired() -> Problem:
    problem = Problem(404, "NOT_FOUND", "endpoint unavailable")
    del problem.body["error_details"]
    return problem


def is_identity(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        set(part.lower()) <= set("0123456789abcdef") for part in parts)


def damage(body, names: list[str], fault: dict) -> bool:
    """Remove or replace the member at `names`; every row of a list on the way is walked."""
    if isinstance(body, list):
        rows = body if names[0] == "*" or not names[0].isdigit() else body[int(names[0]):][:1]
        rest = names[1:] if names[0] == "*" or names[0].isdigit() else names
        return any([damage(row, rest, fault) for row in rows])
    if not isinstance(body, dict) or names[0] not in body:
        return False
    if len(names) > 1:
        return damage(body[names[0]], names[1:], fault)
    if "value" in fault:
        body[names[0]] = fault["value"]
    else:
        del body[names[0]]
    return True


def paged(rows, query, page_max, number):
    """Newest first; the cursor is the number of the last row shown, so new rows do not shift it."""
    limit = min(query.count("limit") or page_max, page_max)
    before = query.count("cursor")
    rows = sorted((row for row in rows if before is None or number(row) < before),
                  key=number, reverse=True)
    page, more = rows[:limit], len(rows) > limit
    return page, str(number(page[-1])) if more else "", more


def success(order, closing=False) -> dict:
    response = {"order_id": order.order_id, "product_id": order.product_id, "side": order.side,
                "client_order_id": order.client_order_id}
    if closing:
        return {"success": True, "success_response": response}
    return {
        "success": True,
        "success_response": {**response, "attached_order_id": order.attached_order_id},
        "order_configuration": {order.variant: {
            **order.configuration, "rfq_disabled": False, "reduce_only": False}}}


def failure(ticket, refused: Refused) -> dict:
    preview = refused.reason.startswith("PREVIEW_")
    error = {
        "error": "UNKNOWN_FAILURE_REASON" if preview else refused.reason,
        "message": refused.message, "error_details": "",
        "preview_failure_reason": refused.reason if preview else "UNKNOWN_PREVIEW_FAILURE_REASON"}
    if not preview:
        error["new_order_failure_reason"] = refused.reason
    return {"success": False, "error_response": error,
            "order_configuration": {ticket.variant: ticket.configuration}}


def stranger(ticket) -> Order:
    """An order that the books do not have, for answers that lie."""
    return Order(0, identity("stranger", 1), ticket.client_order_id, ticket.product_id,
                 ticket.side, ticket.kind, ticket.time_in_force, ticket.variant,
                 ticket.configuration, ZERO, None)


def trade_row(market, trade) -> dict:
    number, price, at, side = trade
    return {"trade_id": str(number), "product_id": market.product_id, "price": plain(price),
            "size": "1", "time": iso(at), "side": side, "bid": "", "ask": "",
            "exchange": "coinbase"}


def preview_body(engine, ticket, errors, preview_id) -> dict:
    market = engine.markets.get(ticket.product_id)
    size = ticket.size or ZERO
    levels = market.levels(ticket.side) if market else []
    other = market.levels(OPPOSITE[ticket.side]) if market else []
    price = ticket.limit or (levels[0][0] if levels else ZERO)
    value = size * (market.contract_size if market else ZERO) * price
    rate, fixed = value * engine.taker_rate, size * engine.fee_per_contract
    clearing = min(CLEARING_FEE * size, fixed)
    asks, bids = (levels, other) if ticket.side == "BUY" else (other, levels)
    margin = value * market.margin_rate(Decimal(1 if ticket.side == "BUY" else -1)) if market else 0
    return {
        "order_total": two(value + rate + fixed), "commission_total": two(rate + fixed),
        "errs": errors, "warning": [], "quote_size": plain(value), "base_size": plain(size),
        "best_bid": plain(bids[0][0]) if bids else "",
        "best_ask": plain(asks[0][0]) if asks else "", "is_max": False,
        "order_margin_total": two(margin), "leverage": "1", "long_leverage": "",
        "short_leverage": "", "slippage": "0", "preview_id": preview_id,
        "current_liquidation_buffer": "", "projected_liquidation_buffer": "", "max_leverage": "",
        "pnl_configuration": None,
        "margin_ratio_data": {"current_margin_ratio": "", "projected_margin_ratio": "6.4"},
        "commission_detail_total": {
            "total_commission": two(rate + fixed), "gst_commission": "0",
            "withholding_commission": "0", "client_commission": plain(rate),
            "venue_commission": plain(fixed - clearing), "regulatory_commission": "0",
            "clearing_commission": plain(clearing)},
        "est_average_filled_price": plain(price), "predicted_liquidation_price": ""}


def two(value) -> str:
    return format(decimal(value).quantize(decimal("0.01")), "f")

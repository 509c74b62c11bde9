"""Rules: may this order be placed, and with which of the venue's words is it refused?

No order is placed here.  Every rule is a function of the engine and the ticket that raises
`Refused` or returns; RULES is their order, and the first refusal is the answer.
"""

from decimal import Decimal

from .forms import OPPOSITE, SIGN, decimal
from .markets import NO_CANCEL, OPEN
from .orders import Refused, Ticket
from .summary import needed

FUNDS = "PREVIEW_INSUFFICIENT_FUNDS_FOR_FUTURES"
BRACKETED = "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION"
OVERSIZE_BRACKET = "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"
CLIENT_ID_CHARACTERS_MAX = 128
UNBOUNDED = 10**9
FLAGGED = (
    # flag on the product     which order types it refuses       the reason
    ("trading_disabled",      "MARKET LIMIT STOP_LIMIT BRACKET", "TRADING_DISABLED"),
    ("is_disabled",           "MARKET LIMIT STOP_LIMIT BRACKET", "TRADING_DISABLED"),
    ("view_only",             "MARKET LIMIT STOP_LIMIT BRACKET", "UNTRADABLE_PRODUCT"),
    ("cancel_only",           "MARKET LIMIT STOP_LIMIT BRACKET", "ORDER_ENTRY_DISABLED"),
    ("limit_only",            "MARKET STOP_LIMIT BRACKET", "PREVIEW_NOT_ALLOWED_BY_MARKET_STATE"),
    ("auction_mode",          "MARKET", "PREVIEW_NOT_ALLOWED_BY_MARKET_STATE"),
)


def approve(engine, ticket: Ticket) -> None:
    for rule in RULES:
        rule(engine, ticket)


def known_product(engine, ticket):
    market = engine.markets.get(ticket.product_id)
    if market is None or not market.listed:
        raise Refused("INVALID_PRODUCT_ID")
    if not engine.onboarded:
        raise Refused("PREVIEW_UNTRADABLE_FCM_ACCOUNT_STATUS")
    if not market.tradable:
        raise Refused("UNTRADABLE_PRODUCT")


def ordered_to_refuse(engine, ticket):
    about = {"product_id": ticket.product_id, "kind": ticket.kind, "side": ticket.side}
    for name, concerns in (("reject", True), ("bracket_refused", ticket.kind == "BRACKET"),
                           ("stop_refused", ticket.kind == "STOP_LIMIT"),
                           ("close_refused", ticket.closing),
                           ("attached_refused", bool(ticket.attached))):
        fault = engine.mishaps.get(name, **about) if concerns else None
        if fault and not fault.get("late"):
            engine.mishaps.use(name, **about)
            raise Refused(fault.get("reason", "UNSUPPORTED_ORDER_CONFIGURATION"))


def supported(engine, ticket):
    if not ticket.kind:
        raise Refused("UNSUPPORTED_ORDER_CONFIGURATION", "source is not enabled for trading")
    if ticket.configuration.get("quote_size"):
        raise Refused("UNSUPPORTED_ORDER_CONFIGURATION", "futures are sized in contracts")
    if ticket.configuration.get("reduce_only"):
        raise Refused("REDUCE_ONLY_NOT_ALLOWED_ON_VENUE")


def flags(engine, ticket):
    market = engine.markets[ticket.product_id]
    for flag, kinds, reason in FLAGGED:
        if market.flag(flag) and ticket.kind in kinds.split():
            raise Refused(reason)
    if market.flag("post_only") and not ticket.post_only:
        raise Refused("PREVIEW_NOT_ALLOWED_BY_MARKET_STATE")


def session(engine, ticket):
    market = engine.markets[ticket.product_id]
    if market.phase == OPEN:
        if (market.halted or engine.mishaps.get("halt", product_id=market.product_id)) and (
                ticket.kind == "MARKET"):
            raise Refused("PRODUCT_TRADING_HALTED")
        return
    details = market.row.get("fcm_trading_session_details") or {}
    if ticket.kind == "MARKET" or details.get("after_hours_order_entry_disabled"):
        raise Refused("INVALID_FCM_TRADING_SESSION",
                      "orders are not accepted for this product at this time")
    if ticket.kind == "BRACKET":
        raise Refused("FUTURES_AFTER_HOUR_INVALID_ORDER_TYPE")
    if ticket.time_in_force in ("IMMEDIATE_OR_CANCEL", "FILL_OR_KILL"):
        raise Refused("FUTURES_AFTER_HOUR_INVALID_TIME_IN_FORCE")


def sizes(engine, ticket):
    row = engine.markets[ticket.product_id].row
    if "base_size" not in ticket.configuration:
        raise Refused("INVALID_REQUEST", "orders cannot be placed with empty order sizes")
    if ticket.size is None:
        raise Refused("PREVIEW_NON_NUMERIC_ORDER_SIZE")
    if ticket.size < decimal(row.get("base_min_size") or 1):
        raise Refused("PREVIEW_INVALID_BASE_SIZE_TOO_SMALL")
    if ticket.size > decimal(row.get("base_max_size") or UNBOUNDED):
        raise Refused("PREVIEW_INVALID_BASE_SIZE_TOO_LARGE")
    if ticket.size % decimal(row.get("base_increment") or 1):
        raise Refused("INVALID_SIZE_PRECISION")


def prices(engine, ticket):
    market = engine.markets[ticket.product_id]
    tick = market.tick
    if "limit_price" in ticket.configuration:
        if ticket.limit is None or ticket.limit <= 0:
            raise Refused("INVALID_LIMIT_PRICE")
        if ticket.limit % tick:
            raise Refused("INVALID_PRICE_PRECISION")
    if ticket.kind in ("STOP_LIMIT", "BRACKET"):
        if ticket.stop is None or ticket.stop <= 0 or ticket.stop % tick:
            raise Refused("PREVIEW_INVALID_STOP_PRICE_PRECISION")
    band = engine.mishaps.get("price_band", product_id=ticket.product_id)
    if band and ticket.limit is not None and (
            abs(ticket.limit - market.last) > decimal(band["ticks"]) * tick):
        raise Refused(f"LIMIT_ORDER_PRICE_EXCEEDS_PRICE_BAND_ON_{ticket.side}")


def end_time(engine, ticket):
    if ticket.time_in_force != "GOOD_UNTIL_DATE_TIME":
        return
    if ticket.end_time is None:
        raise Refused("GTD_ORDERS_MUST_HAVE_END_TIME")
    if ticket.end_time <= engine.now:
        raise Refused("END_TIME_IS_IN_THE_PAST")


def post_only(engine, ticket):
    market = engine.markets[ticket.product_id]
    levels = market.levels(ticket.side) if market.matches else []
    if ticket.post_only and levels and SIGN[ticket.side] * (ticket.limit - levels[0][0]) >= 0:
        raise Refused("INVALID_LIMIT_PRICE_POST_ONLY")


def stops(engine, ticket):
    if ticket.kind != "STOP_LIMIT":
        return
    last = engine.markets[ticket.product_id].last
    up = ticket.configuration["stop_direction"].endswith("UP")
    refuse_passed_stop(last, ticket.stop, up)
    beyond = SIGN[ticket.side] * (ticket.limit - ticket.stop)
    if beyond < 0 and up == (ticket.side == "BUY"):
        raise Refused("PREVIEW_STOP_PRICE_ABOVE_LIMIT_PRICE" if ticket.side == "BUY"
                      else "PREVIEW_STOP_PRICE_BELOW_LIMIT_PRICE")


def refuse_passed_stop(last, stop, up):
    if stop == last:
        raise Refused("STOP_ALREADY_TRIGGERED")
    if up != (stop > last):
        raise Refused(f"PREVIEW_STOP_PRICE_{'BELOW' if up else 'ABOVE'}_LAST_TRADE_PRICE")


def brackets(engine, ticket):
    if ticket.kind != "BRACKET":
        return
    market = engine.markets[ticket.product_id]
    held = engine.account.contracts(ticket.product_id)
    if held * SIGN[ticket.side] >= 0:
        raise Refused("PREVIEW_INVALID_BRACKET_ORDER_SIDE")
    if ticket.size > abs(held) - engine.reserved(ticket.product_id):
        raise Refused(OVERSIZE_BRACKET)
    if SIGN[ticket.side] * (ticket.limit - ticket.stop) >= 0:
        raise Refused("INVALID_BRACKET_PRICES")
    refuse_passed_stop(market.last, ticket.stop, ticket.side == "BUY")
    refuse_far_profit(engine, ticket.product_id, ticket.limit, "BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS")


def refuse_far_profit(engine, product_id, limit, reason):
    bounds = engine.mishaps.get("profit_out_of_bounds", product_id=product_id)
    last = engine.markets[product_id].last
    # A share or a percentage: nobody means a bound of one times the price and more.
    if bounds and abs(limit - last) > last * share(bounds["pct"]):
        raise Refused(reason)


def share(pct) -> Decimal:
    return decimal(pct) / 100 if decimal(pct) >= 1 else decimal(pct)


def reservation(engine, ticket):
    """A bracket reserves the position: what is left over may be traded away, no more."""
    held = engine.account.contracts(ticket.product_id)
    reserved = engine.reserved(ticket.product_id)
    ignored = ticket.closing and engine.mishaps.get("close_ignores_brackets")
    if ticket.kind == "BRACKET" or held * SIGN[ticket.side] >= 0 or not reserved or ignored:
        return
    if ticket.size > abs(held) - reserved:
        raise Refused(BRACKETED)


def attached(engine, ticket):
    if not ticket.attached:
        return
    ((variant, members),) = ticket.attached.items()
    if variant != "trigger_bracket_gtc" or ticket.kind not in ("LIMIT", "MARKET"):
        raise Refused("UNSUPPORTED_ORDER_CONFIGURATION")
    if "base_size" in members or "quote_size" in members:
        raise Refused("ATTACHED_ORDER_SIZE_MUST_BE_NIL")
    market = engine.markets[ticket.product_id]
    exit_ticket = Ticket(ticket.product_id, OPPOSITE[ticket.side], variant, members)
    way, base = SIGN[ticket.side], ticket.limit or market.last
    for price, distance, name in ((exit_ticket.limit, way, "TAKE_PROFIT"),
                                  (exit_ticket.stop, -way, "STOP_LOSS")):
        if price is None or distance * (price - base) <= 0:
            raise Refused(f"INVALID_ATTACHED_{name}_PRICE")
        if price % market.tick:
            raise Refused(f"INVALID_ATTACHED_{name}_PRICE_PRECISION")
    refuse_far_profit(engine, ticket.product_id, exit_ticket.limit,
                      "INVALID_ATTACHED_TAKE_PROFIT_PRICE_OUT_OF_BOUNDS")


def liquidity(engine, ticket):
    market = engine.markets[ticket.product_id]
    if ticket.kind == "MARKET" and market.matches and not market.levels(ticket.side):
        raise Refused("INVALID_NO_LIQUIDITY")


def funds(engine, ticket):
    if needed(engine, ticket.product_id, ticket.side, ticket.kind, ticket.size,
              ticket.limit) > engine.margin().buying_power:
        raise Refused(FUNDS)


RULES = (known_product, ordered_to_refuse, supported, flags, session, sizes, prices, end_time,
         post_only, stops, brackets, reservation, attached, liquidity, funds)


def cancel_refusal(engine, order) -> str:
    """Why this order cannot be cancelled now, "" when it can."""
    if order is None:
        return "UNKNOWN_CANCEL_ORDER"
    if not order.live:
        filled = order.status == "FILLED" and not engine.mishaps.get("old_cancel_reasons")
        return "ORDER_IS_FULLY_FILLED" if filled else "UNKNOWN_CANCEL_ORDER"
    if order.status == "CANCEL_QUEUED":
        return "DUPLICATE_CANCEL_REQUEST"
    fault = engine.mishaps.use("cancel_refused", product_id=order.product_id, kind=order.kind)
    if fault:
        return fault.get("reason", "COMMANDER_REJECTED_CANCEL_ORDER")
    phase = engine.markets[order.product_id].phase
    closed = phase != OPEN and order.status != "QUEUED"
    if phase == NO_CANCEL or (closed and engine.mishaps.get("cancel_session_refused")):
        return "INVALID_CANCEL_FCM_TRADING_SESSION"
    return ""

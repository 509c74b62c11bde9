"""Seeds: what do real bytes look like, before anything is done to them?

The small bodies of `bodies` always, the recorded payloads of ../shared where they are here.  Long
lists are cut short: a mutation finds the tenth row no sooner than the second.
"""

import json
from functools import lru_cache

from bodies import (
    ETP, PAYLOADS, a_book, a_candle, a_dated_row, a_fill_row, a_page, a_position_row, a_refusal,
    a_row, a_sparse_row, a_summary, an_answer, an_ended_row, an_order, an_order_row, usd,
)

from .mutate import vocabulary

ROWS_MAX = 3
SMALL = {
    # kind: bodies as a whole
    "products": [a_page(a_row(), a_row(ETP, "ETH", "0.1", "0.5"), a_dated_row()),
                 a_page(an_ended_row(), a_sparse_row(), pagination={"has_next": False})],
    "quotes": [{"pricebooks": [a_book()]}, {"pricebooks": [a_book(None), a_book("1", "2", ETP)]}],
    "book": [{"pricebook": a_book()}],
    "candles": [{"candles": [a_candle(1791587580), a_candle(1791587520)]}],
    "summary": [a_summary(), a_summary(total_usd_balance=None), a_summary(margin=usd("1"))],
    "positions": [{"positions": [a_position_row(), a_position_row("SHORT", "1", ETP)]},
                  {"positions": []}],
    "orders": [{"orders": [an_order_row(), an_order_row("x", "FILLED", "v2", filled_size="2")],
                "has_next": False, "cursor": ""},
               {"orders": [an_order_row(configuration={"trigger_bracket_gtc": {
                   "base_size": "1", "limit_price": "90000", "stop_trigger_price": "80000"}})],
                "has_next": False}],
    "order": [{"order": an_order_row()}, {"order": an_order_row(is_liquidation=True)}],
    "fills": [{"fills": [a_fill_row(), a_fill_row("e2", "v9")], "cursor": ""}],
    "create": [an_answer(an_order()), a_refusal(error="INSUFFICIENT_FUND", message="no money"),
               an_answer(an_order(), order_configuration={"market_market_ioc": {"base_size": "2"}}),
               an_answer(an_order(), order_id="v1", failure_reason="UNKNOWN_FAILURE_REASON"),
               {"success": False, "failure_reason": "INVALID_SIDE", "order_id": ""}],
    "cancel": [{"results": [{"success": True, "failure_reason": "UNKNOWN_CANCEL_FAILURE_REASON",
                             "order_id": "v1"},
                            {"success": False, "failure_reason": "UNKNOWN_CANCEL_ORDER",
                             "order_id": "v2"}]}],
    "rights": [{"can_view": True, "can_trade": True, "can_transfer": False,
                "portfolio_uuid": "1", "portfolio_type": "DEFAULT"}],
    "time": [{"iso": "2026-10-09T23:14:00Z", "epochSeconds": "1791587640",
              "epochMillis": "1791587640000"}, {"iso": "2026-10-09T23:14:00Z"}],
    "error": [{"error": "INVALID_ARGUMENT", "error_details": "", "message": "no such field"},
              {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]}],
    "message": [
        {"channel": "ticker", "timestamp": "2026-10-09T23:14:00Z", "sequence_num": 1, "events": [
            {"type": "snapshot", "tickers": [
                {"type": "ticker", "product_id": "BIP-20DEC30-CDE", "price": "82565",
                 "best_bid": "82565", "best_bid_quantity": "3", "best_ask": "82570",
                 "best_ask_quantity": "4"}]}]},
        {"channel": "heartbeats", "timestamp": "2026-10-09T23:14:01Z", "sequence_num": 2,
         "events": [{"current_time": "2026-10-09 23:14:01", "heartbeat_counter": "3"}]},
        {"channel": "subscriptions", "timestamp": "2026-10-09T23:14:01Z", "sequence_num": 3,
         "events": [{"subscriptions": {"ticker": ["BIP-20DEC30-CDE"]}}]},
        {"type": "error", "message": "authentication failure"}],
}
RECORDED = {
    # kind: how the names of its recorded payloads begin
    "products": "products_list", "quotes": "best_bid_ask", "book": "product_book",
    "candles": "candles", "summary": "cfm_balance_summary", "positions": "cfm_positions",
    "orders": "orders_list", "order": "order_get", "fills": "fills_list",
    "create": ("order_create", "close_position"), "cancel": "order_cancel",
    "rights": "key_permissions", "time": "server_time", "message": "ws_",
    "error": "http_error",
}


@lru_cache(1)
def bodies():
    """By kind, the JSON trees of whole bodies."""
    return {kind: [json.loads(json.dumps(each)) for each in SMALL[kind]] + _recorded(starts)
            for kind, starts in RECORDED.items()}


@lru_cache(1)
def words():
    """The values of all bodies by their key, to be put into one another."""
    return vocabulary([each for trees in bodies().values() for each in trees])


def _recorded(starts):
    found = []
    for path in sorted(PAYLOADS.glob("*.json")):
        if path.name.startswith(starts):
            tree = _short(json.loads(path.read_bytes()))
            if isinstance(tree, dict):
                found.append(tree.get("body", tree))
    return [each for each in found if isinstance(each, dict)]


def _short(tree):
    if isinstance(tree, dict):
        return {key: _short(each) for key, each in tree.items()}
    return [_short(each) for each in tree[:ROWS_MAX]] if isinstance(tree, list) else tree

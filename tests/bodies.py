"""Bodies as Coinbase sends them, small; what a test changes goes by name."""

import copy
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.model import Order, OrderIntent, Product, Side

PAYLOADS = Path(__file__).resolve().parents[2] / "shared" / "reference" / "payloads"
NEEDS_PAYLOADS = pytest.mark.skipif(
    not PAYLOADS.is_dir(), reason="the recorded payloads of ../shared are not here")

NOW = datetime(2026, 10, 9, 23, 14, tzinfo=UTC)
CLOSE = datetime(2026, 10, 16, 21, tzinfo=UTC)  # the next Friday's
BIP, ETP = "BIP-20DEC30-CDE", "ETP-20DEC30-CDE"


def payload(name):
    return (PAYLOADS / name).read_bytes()


def encoded(body):
    return json.dumps(body, default=str).encode()


def a_row(product_id=BIP, root="BTC", size="0.01", tick="5", details=None, session=None, **fields):
    """A perpetual's row of the listing; `details` and `session` change the inner objects."""
    return copy.deepcopy({
        "product_id": product_id, "product_venue": "FCM", "base_increment": "1",
        "base_min_size": "1", "base_max_size": "5000", "quote_min_size": "0",
        "quote_increment": "0.01", "price_increment": tick,
        "is_disabled": False, "trading_disabled": False, "cancel_only": False,
        "limit_only": False, "post_only": False, "view_only": False, "auction_mode": False,
        "watched": False, "new": False,
        "fcm_trading_session_details": {
            "is_session_open": True, "close_time": "2026-10-12T21:00:00Z",
            "session_state": "FCM_TRADING_SESSION_STATE_OPEN", "maintenance": None,
        } | (session or {}),
        "future_product_details": {
            "contract_size": size, "contract_root_unit": root, "funding_interval": "3600s",
            "contract_expiry": "2089-12-30T16:00:00Z", "contract_expiry_type": "EXPIRING",
            "twenty_four_by_seven": True, "funding_rate": "0.000009",
            "funding_time": "2026-10-09T23:00:00Z",
            "perpetual_details": {"funding_rate": "", "funding_time": None},
            "overnight_margin_rate": {"long_margin_rate": "0.21", "short_margin_rate": "0.26"},
        } | (details or {}),
    } | fields)


def a_dated_row(product_id="BIT-25DEC26-CDE", root="BTC", size="0.01", **details):
    return a_row(product_id, root, size, details={
        "funding_interval": None, "funding_rate": "", "funding_time": None,
        "contract_expiry": "2026-12-25T16:00:00Z"} | details)


def an_ended_row(root="BTC"):
    """A perpetual of the venue that ended: the only kind whose expiry type says so."""
    return a_row(f"{root}-PERP-INTX", "", "1", product_venue="INTX", trading_disabled=True,
                 details={"contract_expiry_type": "PERPETUAL", "contract_root_unit": "",
                          "funding_interval": None})


def a_sparse_row(product_id="BIT-28JUN24-CDE"):
    """What such a row said in 2024: most keys did not exist."""
    return {"product_id": product_id, "product_venue": "FCM", "price_increment": "5",
            "fcm_trading_session_details": {"is_session_open": True, "open_time": "",
                                            "close_time": ""},
            "future_product_details": {"contract_size": "0.01", "contract_root_unit": "BTC"}}


def a_page(*rows, **fields):
    return {"products": list(rows), "num_products": len(rows), "pagination": None} | fields


def a_book(bid="82565", ask="82570", product_id=BIP, at="2026-10-09T23:14:00Z", sizes=("3", "4")):
    """`None` leaves a side empty."""
    return {"product_id": product_id, "time": at,
            "bids": [{"price": bid, "size": sizes[0]}] if bid else [],
            "asks": [{"price": ask, "size": sizes[1]}] if ask else []}


def a_candle(start, close="82500", volume="7"):
    return {"start": str(start), "low": "82000", "high": "83000", "open": "82400", "close": close,
            "volume": volume}


def usd(value):
    return {"value": value, "currency": "USD"}


def a_summary(**fields):
    return {"balance_summary": {
        "total_usd_balance": usd("500.00"), "cbi_usd_balance": usd("425.00"),
        "cfm_usd_balance": usd("75.00"), "unrealized_pnl": usd("-3.20"),
        "initial_margin": usd("75.10"), "available_margin": usd("421.70"),
        "liquidation_threshold": usd("37.55"), "funding_pnl": usd("-0.04"),
        "overnight_margin_window_measure": {"initial_margin": "75.20"},
    } | fields}


def a_position_row(side="LONG", contracts="3", product_id=BIP, entry="82000", mark="82500"):
    return {"product_id": product_id, "side": side, "number_of_contracts": contracts,
            "avg_entry_price": entry, "current_price": mark, "unrealized_pnl": "15"}


def an_order_row(client_id="pb-1-000001", status="OPEN", venue_id="v1", product_id=BIP,
                 configuration=None, **fields):
    return {
        "order_id": venue_id, "client_order_id": client_id, "product_id": product_id,
        "order_configuration": configuration or {
            "limit_limit_gtc": {"base_size": "2", "limit_price": "82000", "post_only": False}},
        "side": "BUY", "status": status, "created_time": "2026-10-09T23:00:00.5Z",
        "filled_size": "0", "average_filled_price": "0", "pending_cancel": False,
        "reject_reason": "REJECT_REASON_UNSPECIFIED", "reject_message": "", "cancel_message": "",
        "is_liquidation": False, "order_type": "LIMIT", "originating_order_id": "",
    } | fields


def a_fill_row(entry_id="e1", venue_id="v1", product_id=BIP, at="2026-10-09T23:10:00.25Z",
               **fields):
    return {
        "entry_id": entry_id, "order_id": venue_id, "product_id": product_id, "side": "BUY",
        "trade_type": "FILL", "trade_time": at, "sequence_timestamp": at, "price": "82000",
        "size": "2", "commission": "1.75", "size_in_quote": False, "future_legs": [],
        "option_legs": [],
    } | fields


def a_product(symbol="BTC-PERP", product_id=BIP, size="0.01", tick="5"):
    size = Decimal(size)
    return Product(symbol, product_id, size, size, Decimal(tick), size, size * 5000, Decimal(0),
                   Decimal("0.21"), Decimal("0.26"))


def an_order(side=Side.BUY, quantity="0.02", symbol="BTC-PERP", identity="pb-1-000001", **intent):
    return Order(identity, OrderIntent(symbol, side, Decimal(quantity), **intent), NOW)


def an_answer(order, venue_id="v1", product_id=BIP, **fields):
    """The venue takes `order`."""
    return {"success": True, "success_response": {
        "order_id": venue_id, "product_id": product_id, "side": order.side.value.upper(),
        "client_order_id": order.id}} | fields


def a_refusal(**reasons):
    return {"success": False, "error_response": reasons, "order_configuration": {}}

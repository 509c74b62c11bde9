"""Products: what does the venue list when nobody says otherwise?

Pure.  Four perp-style futures, and around them the decoys of the real listing: dated siblings on
the same underlying, perpetuals of a venue that has ended, rows of an older shape, a spot pair.
"""

import copy
from decimal import Decimal

PERPETUALS = (
    # code  root   size    tick      price     base max  margin rate by side       funding     name
    ("BIP", "BTC", "0.01", "5",      "82570",  "5000", ("0.21025", "0.256625"), "0.000009",
     "Bitcoin"),
    ("ETP", "ETH", "0.1",  "0.5",    "2485",   "5000", ("0.24125", "0.303625"), "0.000014",
     "Ethereum"),
    ("SLP", "SOL", "5",    "0.01",   "109.04", "1000", ("0.366", "0.55975"),    "0.000006",
     "Solana"),
    ("XPP", "XRP", "500",  "0.0005", "1.2345", "1000", ("0.3312", "0.4475"),    "-0.000004",
     "XRP"),
)
DATED = (
    # id                name            root   size    tick      price
    ("BIT-24APR26-CDE", "BTC 24 APR 26", "BTC", "0.01", "5",      "82800"),
    ("BIT-25DEC26-CDE", "BTC 25 DEC 26", "BTC", "0.01", "5",      "83400"),
    ("ET-25DEC26-CDE",  "ETH 25 DEC 26", "ETH", "0.1",  "0.5",    "2512"),
    ("SOL-25DEC26-CDE", "SOL 25 DEC 26", "SOL", "5",    "0.01",   "110.1"),
    ("XRP-25DEC26-CDE", "XRP 25 DEC 26", "XRP", "500",  "0.0005", "1.25"),
)
ENDED = ("BTC", "ETH", "SOL", "XRP")
FLAGS = ("is_disabled", "trading_disabled", "cancel_only", "limit_only", "post_only", "view_only",
         "auction_mode")


def default_products() -> list[dict]:
    """Every row of the listing; the decoys stand first, so taking the first match is a bug."""
    return copy.deepcopy([
        *(ended_row(root) for root in ENDED),
        *(dated_row(*row) for row in DATED),
        sparse_row(),
        *(perpetual_row(*row) for row in PERPETUALS),
        spot_row(),
    ])


def perpetual_row(code, root, size, tick, price, most, rates, funding, name) -> dict:
    row = future_row(f"{code}-20DEC30-CDE", f"{root} PERP", root, size, tick, price)
    row["base_max_size"] = most
    row["new_at"] = "2025-07-18T13:00:00Z"
    row["future_product_details"] |= {
        "contract_expiry": "2089-12-30T16:00:00Z",
        "group_description": f"nano {root} Perp Futures",
        "group_short_description": f"nano {root} Perp",
        "contract_expiry_name": "2030-12",
        "funding_interval": "3600s",
        "funding_rate": funding,
        "funding_time": None,
        "display_name": f"{name} Perpetual",
        "overnight_margin_rate": {"long_margin_rate": rates[0], "short_margin_rate": rates[1]},
        "index_price": price,
    }
    return row


def dated_row(product_id, name, root, size, tick, price) -> dict:
    return future_row(product_id, name, root, size, tick, price)


def future_row(product_id, name, root, size, tick, price) -> dict:
    """The newest shape of a row of the futures exchange (October 2026)."""
    return common_row(product_id, name, tick, price) | {
        "product_type": "FUTURE",
        "quote_currency_id": "USD",
        "base_currency_id": "",
        "fcm_trading_session_details": {
            "is_session_open": True,
            "open_time": None,
            "close_time": None,
            "session_state": "FCM_TRADING_SESSION_STATE_OPEN",
            "after_hours_order_entry_disabled": False,
            "closed_reason": "FCM_TRADING_SESSION_CLOSED_REASON_UNDEFINED",
            "maintenance": None,
        },
        "future_product_details": future_details(product_id, name, root, size, price),
    }


def future_details(product_id, name, root, size, price) -> dict:
    return {
        "venue": "cde",
        "contract_code": product_id.split("-")[0],
        "contract_expiry": "2026-12-25T16:00:00Z",
        "contract_size": size,
        "contract_root_unit": root,
        "group_description": f"nano {root} Futures",
        "contract_expiry_timezone": "Europe/London",
        "group_short_description": f"nano {root}",
        "risk_managed_by": "MANAGED_BY_FCM",
        "contract_expiry_type": "EXPIRING",
        "perpetual_details": {
            "open_interest": "169607", "funding_rate": "", "funding_time": None,
            "max_leverage": "", "base_asset_uuid": "", "underlying_type": "",
        },
        "contract_display_name": name,
        "time_to_expiry_ms": "1995209122306",
        "non_crypto": False,
        "contract_expiry_name": "2026-12",
        "twenty_four_by_seven": True,
        "funding_interval": None,
        "open_interest": "169607",
        "funding_rate": "",
        "funding_time": None,
        "display_name": name,
        "region_enabled": {},
        "intraday_margin_rate": {
            "long_margin_rate": "0.100079", "short_margin_rate": "0.0999811"},
        "overnight_margin_rate": {
            "long_margin_rate": "0.234375", "short_margin_rate": "0.289"},
        "settlement_price": price,
        "futures_asset_type": "FUTURES_ASSET_TYPE_CRYPTO",
        "index_price": "",
        "contract_code_display_name": "",
        "product_group_cbrn": "",
        "futures_asset_types": ["FUTURES_ASSET_TYPE_CRYPTO"],
        "trading_hours_type": "TRADING_HOURS_TYPE_UNSPECIFIED",
        "deribit_product_details": None,
    }


def common_row(product_id, name, tick, price) -> dict:
    return {
        "product_id": product_id,
        "price": price,
        "price_percentage_change_24h": "0.96600635852287",
        "volume_24h": "326350",
        "volume_percentage_change_24h": "-49.08069076134782",
        "base_increment": "1",
        "quote_increment": "0.01",
        "quote_min_size": "0",
        "quote_max_size": "100000000",
        "base_min_size": "1",
        "base_max_size": "5000",
        "base_name": "",
        "quote_name": "US Dollar",
        "watched": False,
        **dict.fromkeys(FLAGS, False),
        "new": False,
        "status": "",
        "mid_market_price": price,
        "alias": "",
        "alias_to": [],
        "base_display_symbol": "",
        "quote_display_symbol": "USD",
        "price_increment": tick,
        "display_name": name,
        "product_venue": "FCM",
        "approximate_quote_24h_volume": "269467195",
        "new_at": None,
        "market_cap": "",
        "base_cbrn": "", "quote_cbrn": "", "product_cbrn": "",
        "icon_color": "", "icon_url": "",
        "display_name_overwrite": "",
        "is_alpha_testing": False,
        "about_description": "",
        "best_bid_price": "", "best_ask_price": "",
        "high_24h": plain_times(price, "1.01"), "low_24h": plain_times(price, "0.99"),
        "hidden_from_discovery": False,
    }


def ended_row(root: str) -> dict:
    """A perpetual of the venue that ended: still listed, and the only PERPETUAL kind there is."""
    return common_row(f"{root}-PERP-INTX", f"{root} PERP", "0.1", "82570") | {
        "base_increment": "0.0001", "base_min_size": "0.0001", "quote_increment": "0.1",
        "quote_name": "USDC", "quote_display_symbol": "USDC", "quote_currency_id": "USDC",
        "base_currency_id": "", "status": "STANDARD", "trading_disabled": True,
        "product_type": "FUTURE", "product_venue": "INTX",
        "fcm_trading_session_details": dict.fromkeys((
            "is_session_open", "open_time", "close_time", "session_state",
            "after_hours_order_entry_disabled", "closed_reason", "maintenance")),
        "future_product_details": {
            "venue": "neptune", "contract_code": root, "contract_expiry": None,
            "contract_size": "1", "contract_root_unit": root, "group_description": "",
            "contract_expiry_timezone": "", "group_short_description": "",
            "risk_managed_by": "MANAGED_BY_VENUE", "contract_expiry_type": "PERPETUAL",
            "perpetual_details": {
                "open_interest": "0", "funding_rate": "-0.000003",
                "funding_time": "2026-10-01T00:00:00Z", "max_leverage": "20",
                "base_asset_uuid": "", "underlying_type": "SPOT"},
            "contract_display_name": f"{root} PERPETUAL", "time_to_expiry_ms": "0",
            "non_crypto": False, "contract_expiry_name": "", "twenty_four_by_seven": False,
            "funding_interval": None, "overnight_margin_rate": None,
            "intraday_margin_rate": None,
        },
    }


def sparse_row() -> dict:
    """A row of the shape of 2024: most keys are missing and three session keys are all."""
    return {
        "product_id": "BIT-26APR24-CDE", "price": "", "base_increment": "1",
        "quote_increment": "0.01", "base_min_size": "1", "base_max_size": "5000",
        "quote_min_size": None, "status": "", "product_type": "FUTURE",
        "quote_currency_id": "USD", "product_venue": "FCM", "price_increment": "5",
        "display_name": "BTC 26 APR 24",
        "fcm_trading_session_details": {
            "is_session_open": False, "open_time": None, "close_time": None},
        "future_product_details": {
            "venue": "cde", "contract_code": "BIT", "contract_expiry": "2024-04-26T15:00:00Z",
            "contract_size": "0.01", "contract_root_unit": "BTC", "contract_expiry_type": None},
    }


def spot_row() -> dict:
    return common_row("BTC-USD", "BTC-USD", "0.01", "82560.8") | {
        "product_type": "SPOT", "product_venue": "CBE", "base_currency_id": "BTC",
        "quote_currency_id": "USD", "base_name": "Bitcoin", "status": "online",
        "base_increment": "0.00000001", "base_min_size": "0.00000001",
        "base_display_symbol": "BTC", "alias_to": ["BTC-USDC"],
        "fcm_trading_session_details": None,
    }


def plain_times(price: str, factor: str) -> str:
    return format((Decimal(price) * Decimal(factor)).quantize(Decimal("0.01")), "f")

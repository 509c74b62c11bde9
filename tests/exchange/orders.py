"""Orders: what was asked for, what became of it, and how does the venue write it down?

Pure.  Here is the strict reading of an order's body, the order itself with the history of its
states, and its rows: in the listing, in the fills, in the user channel.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from .books import NO_FEE, Fee
from .forms import SIGN, ZERO, iso, moment, plain, ratio

VARIANTS = {
    # name                        type          time in force            members beside the size
    "market_market_ioc":         ("MARKET",     "IMMEDIATE_OR_CANCEL",   ()),
    "market_market_fok":         ("",           "FILL_OR_KILL",          ()),
    "sor_limit_ioc":             ("LIMIT",      "IMMEDIATE_OR_CANCEL",   ("limit_price",)),
    "limit_limit_gtc":           ("LIMIT",      "GOOD_UNTIL_CANCELLED",  ("limit_price",)),
    "limit_limit_gtd":           ("LIMIT",      "GOOD_UNTIL_DATE_TIME",  ("limit_price",)),
    "limit_limit_fok":           ("LIMIT",      "FILL_OR_KILL",          ("limit_price",)),
    "stop_limit_stop_limit_gtc": ("STOP_LIMIT", "GOOD_UNTIL_CANCELLED",
                                  ("limit_price", "stop_price", "stop_direction")),
    "stop_limit_stop_limit_gtd": ("STOP_LIMIT", "GOOD_UNTIL_DATE_TIME",
                                  ("limit_price", "stop_price", "stop_direction")),
    "trigger_bracket_gtc":       ("BRACKET",    "GOOD_UNTIL_CANCELLED",
                                  ("limit_price", "stop_trigger_price")),
    "trigger_bracket_gtd":       ("BRACKET",    "GOOD_UNTIL_DATE_TIME",
                                  ("limit_price", "stop_trigger_price")),
    "twap_limit_gtd":            ("",           "GOOD_UNTIL_DATE_TIME",  ("limit_price",)),
    "scaled_limit_gtc":          ("",           "GOOD_UNTIL_CANCELLED",  ()),
}
DIRECTIONS = ("STOP_DIRECTION_STOP_UP", "STOP_DIRECTION_STOP_DOWN")
TEXT, TRUTH, OBJECT, LIST, SIDE, DIRECTION, SIZE = (
    "string", "bool", "object", "list", "enum side", "enum direction", "string or number")
CONFIGURATION = {
    "base_size": TEXT, "quote_size": TEXT, "limit_price": TEXT, "stop_price": TEXT,
    "stop_trigger_price": TEXT, "stop_direction": DIRECTION, "end_time": TEXT,
    "post_only": TRUTH, "rfq_disabled": TRUTH, "rfq_enabled": TRUTH, "reduce_only": TRUTH,
}
CREATE = {
    "client_order_id": TEXT, "product_id": TEXT, "side": SIDE,
    "order_configuration": dict.fromkeys(VARIANTS, CONFIGURATION),
    "attached_order_configuration": dict.fromkeys(VARIANTS, CONFIGURATION),
    "leverage": TEXT, "margin_type": TEXT, "preview_id": TEXT, "retail_portfolio_id": TEXT,
    "self_trade_prevention_id": TEXT, "sor_preference": TEXT, "cost_basis_method": TEXT,
}
PREVIEW = CREATE
CLOSE = {"client_order_id": TEXT, "product_id": TEXT, "size": SIZE}
CANCEL = {"order_ids": LIST}
EDIT = {"order_id": TEXT, "price": TEXT, "size": TEXT, "stop_price": TEXT,
        "attached_order_configuration": OBJECT, "cancel_attached_order": TRUTH,
        "average_entry_price": TEXT}
TERMINAL = ("FILLED", "CANCELLED", "EXPIRED", "FAILED")
SPOKEN = {"LIMIT": "Limit", "MARKET": "Market", "STOP_LIMIT": "Stop Limit", "BRACKET": "Bracket",
          "LIQUIDATION": "Liquidation"}
NEVER = "0001-01-01T00:00:00Z"
KINDS = {
    # what the field is    is this a legal value?
    TEXT:      lambda value: isinstance(value, str),
    TRUTH:     lambda value: isinstance(value, bool),
    OBJECT:    lambda value: isinstance(value, dict),
    LIST:      lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value),
    SIDE:      lambda value: value in ("BUY", "SELL"),
    DIRECTION: lambda value: value in DIRECTIONS,
    SIZE:      lambda value: isinstance(value, (str, int)) and not isinstance(value, bool),
}


class BadBody(ValueError):
    """The body is not a legal message: HTTP 400 with this text."""


class Refused(Exception):
    """The venue said no to the order: HTTP 200, success false, with this reason."""

    def __init__(self, reason: str, message: str = ""):
        super().__init__(reason)
        self.reason, self.message = reason, message


def checked(body: dict, schema: dict) -> dict:
    """Return `body` in snake_case; unknown keys and wrong types are refused as protobuf does."""
    if not isinstance(body, dict):
        raise BadBody("proto: syntax error (line 1:1): unexpected token")
    read = {}
    for written, value in body.items():
        key = re.sub(r"([A-Z])", lambda letter: "_" + letter[1].lower(), written)
        if key not in schema:
            raise BadBody(f'proto: (line 1:2): unknown field "{written}"')
        if value is None:
            continue
        kind = schema[key]
        if isinstance(kind, dict):
            read[key] = checked(value, kind)
        elif not KINDS[kind](value):
            raise BadBody(f"proto: (line 1:2): invalid value for {kind} field {written}: {value!r}")
        else:
            read[key] = value
    return read


@dataclass
class Ticket:
    """An order as it was asked for.  Numbers that do not parse are None, and later refused."""

    product_id: str
    side: str
    variant: str
    configuration: dict
    attached: dict | None = None
    client_order_id: str = ""
    closing: bool = False

    @property
    def kind(self) -> str:
        return VARIANTS[self.variant][0]

    @property
    def time_in_force(self) -> str:
        return VARIANTS[self.variant][1]

    @property
    def size(self) -> Decimal | None:
        return number(self.configuration.get("base_size"))

    @property
    def limit(self) -> Decimal | None:
        return number(self.configuration.get("limit_price"))

    @property
    def stop(self) -> Decimal | None:
        return number(self.configuration.get("stop_price")
                      or self.configuration.get("stop_trigger_price"))

    @property
    def post_only(self) -> bool:
        return bool(self.configuration.get("post_only"))

    @property
    def end_time(self) -> datetime | None:
        try:
            return moment(self.configuration["end_time"])
        except (KeyError, ValueError, OverflowError):
            return None


def ticket(body: dict) -> Ticket:
    """Read the body of a create or a preview that `checked` has passed."""
    for key in ("product_id", "side", "order_configuration"):
        if not body.get(key):
            raise BadBody(f"{key} is required")
    attached = body.get("attached_order_configuration")
    for configuration in (body["order_configuration"], attached or {"": {}}):
        if len(configuration) != 1:
            raise BadBody("exactly one order configuration is required")
    ((variant, members),) = body["order_configuration"].items()
    missing = [name for name in VARIANTS[variant][2] if name not in members]
    if missing:
        raise BadBody(f"{variant}: {', '.join(missing)} is required")
    return Ticket(body["product_id"], body["side"], variant, dict(members), attached,
                  body.get("client_order_id", ""))


def number(text: object) -> Decimal | None:
    """A decimal of at most fifteen digits and twelve decimals; None when it is none."""
    read = re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,12})?", str(text), re.ASCII)
    return Decimal(read[0]) if read else None


@dataclass
class Fill:
    """One execution of an order."""

    number: int
    entry_id: str
    trade_id: str
    order: "Order"
    at: datetime
    sequence_at: datetime
    price: Decimal
    contracts: Decimal
    liquidity: str
    fee: Fee
    value: Decimal
    realized: Decimal

    def row(self) -> dict:
        return {
            "entry_id": self.entry_id,
            "trade_id": self.trade_id,
            "order_id": self.order.order_id,
            "trade_time": iso(self.at),
            "trade_type": "FILL",
            "price": plain(self.price),
            "size": plain(self.contracts),
            "commission": plain(self.fee.total),
            "product_id": self.order.product_id,
            "sequence_timestamp": iso(self.sequence_at),
            "liquidity_indicator": self.liquidity,
            "size_in_quote": False,
            "side": self.order.side,
            "fillSource": "FILL_SOURCE_CLOB",
            "commission_detail_total": self.fee.detail(),
            "option_legs": [],
            "order_data_source": "ORDER_DATA_SOURCE_TRADING_PROXY",
            "future_legs": [],
            "realized_pl": "",
            "product_type": "FUTURE",
            "is_rebalance": False,
            "session_realized_pl": "",
        }


@dataclass
class Order:
    """An order of the account, whoever sent it."""

    number: int
    order_id: str
    client_order_id: str
    product_id: str
    side: str
    kind: str
    time_in_force: str
    variant: str
    configuration: dict
    size: Decimal
    created: datetime
    limit: Decimal | None = None
    stop: Decimal | None = None
    post_only: bool = False
    end_time: datetime | None = None
    attached: dict | None = None
    source: str = "RETAIL_ADVANCED"
    by: str = "key"
    originating_order_id: str = ""
    attached_order_id: str = ""
    status: str = "PENDING"
    history: list = field(default_factory=list)
    fills: list = field(default_factory=list)
    triggered: bool = False
    cancel_message: str = ""
    reject_reason: str = "REJECT_REASON_UNSPECIFIED"
    hold: Decimal = ZERO
    # How the venue is slow about it: reads that find nothing, a held execution, a queued cancel.
    hidden_reads: int = 0
    listed_at: datetime | None = None
    executes_at: datetime | None = None
    cancel_at: datetime | None = None
    cancel_reads: int = 0
    cancel_reads_shown: int = 0
    cancel_waits_for_session: bool = False
    cancel_will_fill: bool = False

    @property
    def filled(self) -> Decimal:
        return sum((fill.contracts for fill in self.fills), ZERO)

    @property
    def remaining(self) -> Decimal:
        return self.size - self.filled

    @property
    def live(self) -> bool:
        return self.status not in TERMINAL

    @property
    def stop_up(self) -> bool:
        """Does the stop fire when the price rises?  A bracket's stop lies against its side."""
        direction = self.configuration.get("stop_direction")
        return direction == DIRECTIONS[0] if direction else self.side == "BUY"

    @property
    def waits_for_stop(self) -> bool:
        return self.kind == "STOP_LIMIT" and not self.triggered

    @property
    def fee(self) -> Fee:
        return sum((fill.fee for fill in self.fills), NO_FEE)

    @property
    def filled_value(self) -> Decimal:
        return sum((fill.value for fill in self.fills), ZERO)

    @property
    def average(self) -> Decimal:
        if not self.fills:
            return ZERO
        return ratio(sum((fill.price * fill.contracts for fill in self.fills), ZERO), self.filled)

    @property
    def trigger_status(self) -> str:
        if self.kind not in ("STOP_LIMIT", "BRACKET"):
            return "INVALID_ORDER_TYPE"
        return "STOP_TRIGGERED" if self.triggered else "STOP_PENDING"

    @property
    def percentage(self) -> str:
        done = self.filled / self.size * 100 if self.size else ZERO
        return "100.00" if done == 100 else plain(done.quantize(Decimal("0.01")))

    @property
    def value_after_fees(self) -> Decimal:
        return self.filled_value + SIGN[self.side] * self.fee.total

    def row(self, shown_status: str = "") -> dict:
        """As the listing shows it."""
        status = shown_status or self.status
        return {
            "order_id": self.order_id,
            "product_id": self.product_id,
            "order_configuration": {self.variant: self._echo()},
            "side": self.side,
            "client_order_id": self.client_order_id,
            "status": status,
            "time_in_force": self.time_in_force,
            "created_time": iso(self.created),
            "completion_percentage": self.percentage,
            "filled_size": plain(self.filled),
            "average_filled_price": plain(self.average),
            "fee": "",
            "number_of_fills": str(len(self.fills)),
            "filled_value": plain(self.filled_value),
            "pending_cancel": self.status == "CANCEL_QUEUED",
            "size_in_quote": False,
            "total_fees": plain(self.fee.total),
            "size_inclusive_of_fees": False,
            "total_value_after_fees": plain(self.value_after_fees),
            "trigger_status": self.trigger_status,
            "order_type": self.kind,
            "reject_reason": self.reject_reason,
            "settled": self.status == "FILLED",
            "product_type": "FUTURE",
            "reject_message": "",
            "cancel_message": self.cancel_message,
            "order_placement_source": self.source,
            "outstanding_hold_amount": plain(self.hold),
            "is_liquidation": self.kind == "LIQUIDATION",
            "last_fill_time": iso(self.fills[-1].at) if self.fills else None,
            "edit_history": [],
            "leverage": "",
            "margin_type": "UNKNOWN_MARGIN_TYPE",
            "originating_order_id": self.originating_order_id,
            "attached_order_id": self.attached_order_id,
            "attached_order_configuration": self.attached,
            "current_pending_replace": None,
            "commission_detail_total": self.fee.detail(),
        }

    def _echo(self) -> dict:
        more = {"rfq_enabled": False, "rfq_disabled": False, "reduce_only": False}
        if self.kind in ("MARKET", "LIQUIDATION"):
            more |= {"currency_size": None, "oco_ref": ""}
        return {**self.configuration, "base_size": plain(self.size), **more}

    def user_row(self) -> dict:
        """As the user channel shows it."""
        return {
            "avg_price": plain(self.average),
            "cancel_reason": self.cancel_message,
            "client_order_id": self.client_order_id,
            "completion_percentage": self.percentage,
            "contract_expiry_type": "EXPIRING",
            "cumulative_quantity": plain(self.filled),
            "filled_value": plain(self.filled_value),
            "leaves_quantity": plain(self.remaining) if self.live else "0",
            "limit_price": plain(self.limit) if self.limit else "",
            "number_of_fills": str(len(self.fills)),
            "order_id": self.order_id,
            "order_side": self.side,
            "order_type": SPOKEN[self.kind],
            "outstanding_hold_amount": plain(self.hold),
            "post_only": "true" if self.post_only else "false",
            "product_id": self.product_id,
            "product_type": "FUTURE",
            "reject_reason": "",
            "retail_portfolio_id": "",
            "risk_managed_by": "MANAGED_BY_FCM",
            "status": self.status,
            "stop_price": plain(self.stop) if self.stop else "",
            "time_in_force": self.time_in_force,
            "total_fees": plain(self.fee.total),
            "total_value_after_fees": plain(self.value_after_fees),
            "trigger_status": self.trigger_status,
            "creation_time": iso(self.created),
            "end_time": iso(self.end_time) if self.end_time else NEVER,
            "start_time": NEVER,
        }

    def truth(self) -> dict:
        return {
            "order_id": self.order_id, "client_order_id": self.client_order_id,
            "product_id": self.product_id, "side": self.side, "order_type": self.kind,
            "variant": self.variant, "configuration": dict(self.configuration),
            "size": plain(self.size), "filled_size": plain(self.filled),
            "average_filled_price": plain(self.average), "status": self.status,
            "history": [list(step) for step in self.history], "by": self.by,
            "created_time": iso(self.created), "triggered": self.triggered,
            "limit_price": plain(self.limit) if self.limit is not None else "",
            "stop_price": plain(self.stop) if self.stop is not None else "",
            "originating_order_id": self.originating_order_id,
            "attached_order_id": self.attached_order_id,
            "is_liquidation": self.kind == "LIQUIDATION",
            "total_fees": plain(self.fee.total), "cancel_message": self.cancel_message,
        }

"""Summary: how does the account stand against its margin, and how is that written?

Pure functions of the engine.  The REST answer and the WebSocket event are the same amounts in two
spellings, so they are computed once.
"""

from dataclasses import dataclass
from decimal import Decimal

from .books import Picture
from .forms import SIGN, ZERO, money, plain

LIQUIDATION_SHARE = Decimal("0.88")
FLAT_PERCENTAGE = "1000"
WINDOW = ("initial_margin", "maintenance_margin", "total_hold", "futures_buying_power")


@dataclass(frozen=True)
class Margin:
    """The account against its margin, in USD."""

    unrealized: Decimal
    initial: Decimal
    holds: Decimal
    available: Decimal

    @property
    def threshold(self) -> Decimal:
        """Available margin at or below this is liquidated."""
        return self.initial * LIQUIDATION_SHARE

    @property
    def buying_power(self) -> Decimal:
        return max(ZERO, self.available - self.initial)

    @property
    def buffer(self) -> Decimal:
        return self.available - self.threshold

    @property
    def buffer_percentage(self) -> str:
        """In percent of the threshold; a flat account shows the cap."""
        if not self.threshold:
            return FLAT_PERCENTAGE
        return plain((self.buffer / self.threshold * 100).quantize(Decimal("0.01")))


def margin_of(engine, then: Picture) -> Margin:
    """The margin of a picture of the account, at the prices and with the orders of now."""
    unrealized, initial = ZERO, ZERO
    for name, position in then.positions.items():
        market = engine.markets[name]
        unrealized += position.unrealized(market.mark)
        notional = abs(position.contracts) * position.contract_size * market.mark
        initial += notional * market.margin_rate(position.contracts)
    holds = sum((order.hold for order in engine.live.values()), ZERO)
    available = then.cash + unrealized - then.accrued - holds
    return Margin(unrealized, initial, holds, available)


def needed(engine, product_id, side, kind, contracts, limit) -> Decimal:
    """The margin and the fee of what an order would add to the position."""
    held = engine.account.contracts(product_id)
    opening = max(ZERO, contracts - max(ZERO, -held * SIGN[side]))
    if not opening or kind == "BRACKET":
        return ZERO
    market = engine.markets[product_id]
    value = opening * engine.contract_size(product_id) * worst_price(market, side, kind, limit)
    return (value * market.margin_rate(SIGN[side]) + value * engine.taker_rate
            + opening * engine.fee_per_contract)


def worst_price(market, side, kind, limit) -> Decimal:
    """The price at which the margin of an order is held."""
    if limit is not None and kind != "MARKET":
        return limit
    levels = market.levels(side)
    return levels[0][0] if levels else market.mark


def rest_summary(engine, then: Picture, funding_hidden: bool) -> dict:
    margin = margin_of(engine, then)

    def usd(value):
        return {"value": money(value), "currency": "USD", "cbrn": ""}

    return {
        **{name: usd(value) for name, value in amounts(then, margin).items()},
        "liquidation_buffer_percentage": margin.buffer_percentage,
        "intraday_margin_window_measure": window("UNSPECIFIED", None, "liquidation_buffer"),
        "overnight_margin_window_measure": window("OVERNIGHT", margin, "liquidation_buffer"),
        # One source saw the margin shown as a pending transfer for as long as a position was held.
        "total_pending_transfers_amount": usd(moved(then, margin)),
        "funding_pnl": usd(ZERO if funding_hidden else -then.accrued),
    }


def stream_summary(engine, now: Picture) -> dict:
    margin, name = margin_of(engine, now), "liquidation_buffer_percentage"
    return {
        **{key: money(value) for key, value in amounts(now, margin).items()},
        name: margin.buffer_percentage,
        "intraday_margin_window_measure": window("UNSPECIFIED", None, name),
        "overnight_margin_window_measure": window("OVERNIGHT", margin, name),
    }


def amounts(then: Picture, margin: Margin) -> dict[str, Decimal]:
    return {
        "futures_buying_power": margin.buying_power,
        "total_usd_balance": then.cash,
        "cbi_usd_balance": then.cash - moved(then, margin),
        "cfm_usd_balance": moved(then, margin),
        "total_open_orders_hold_amount": margin.holds,
        "unrealized_pnl": margin.unrealized,
        "daily_realized_pnl": sum(
            (position.realized_today for position in then.positions.values()), ZERO),
        "initial_margin": margin.initial,
        "available_margin": margin.available,
        "liquidation_threshold": margin.threshold,
        "liquidation_buffer_amount": margin.buffer,
    }


def moved(then: Picture, margin: Margin) -> Decimal:
    """The part of the cash that lies in the futures account: the margin of what is held."""
    return min(margin.initial, max(then.cash, ZERO))


def window(name: str, margin: Margin | None, buffer_name: str) -> dict:
    """Plain strings, empty while flat."""
    held = margin is not None and margin.initial
    kind, level = (name, "BASE") if held else ("UNSPECIFIED", "UNSPECIFIED")
    shown = dict.fromkeys(WINDOW, "")
    buffer = ""
    if held:
        shown = dict(zip(WINDOW, map(money, (margin.initial, margin.threshold, margin.holds,
                                             margin.buying_power))))
        percent = buffer_name.endswith("percentage")
        buffer = margin.buffer_percentage if percent else money(margin.buffer)
    return {"margin_window_type": f"FCM_MARGIN_WINDOW_TYPE_{kind}",
            "margin_level": f"MARGIN_LEVEL_TYPE_{level}", **shown, buffer_name: buffer}

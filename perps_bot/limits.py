"""Limits: how much is allowed, and how much would this be?

This room is pure.  It holds the values of the limits and the measures that the gate and the
sizing share, so that what is asked for is what is let through.  It judges nothing and remembers
nothing.  What has no price counts as infinite: missing data never becomes a number.
"""

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot.errors import ConfigError
from perps_bot.model import (
    ZERO, Account, Mark, OrderIntent, OrderType, Product, Side, TradingState, fraction,
)

INFINITY = Decimal("Infinity")
# Bid and ask that are no more ticks apart are the grain of the market, whatever their price.
SPREAD_TICKS = 2


@dataclass(frozen=True)
class RiskConfig:
    """The limits.  Fractions are of equity unless said otherwise; floats are read by their text.

    leverage_max_global          total notional over equity
    max_leverage                 the same, from the profile; the stricter of the two holds
    target_leverage              what the strategy asks for; exposure is measured at it
    max_daily_loss_pct           of day-start equity
    max_drawdown_pct             lost since the highest point of 30 days; 1 is no limit
    max_exposure_pct             initial margin of all symbols
    max_position_pct_per_symbol  initial margin of one symbol
    max_position                 USD notional of one symbol; None where only fractions bind
    max_order_notional           USD of one order; None: max_position
    max_order_qty                contracts in one order; None: the venue's maximum
    price_collar_pct             of the mark, from there to a limit that pays more
    max_spread_pct               of the mark, from bid to ask, for a market order
    max_top_of_book_pct          of the size at the best price, for a market order
    max_mark_move_pct            of the price, within a minute
    quote_staleness_seconds_max  the oldest quote that a market order may rest on
    duplicate_window_seconds     how long the same order is not sent again
    max_losses_in_a_row          round trips; None is no limit
    max_daily_turnover           x max_position traded in one symbol and one UTC day
    symbols                      what may be opened; None is everything that is listed
    trailing_stop_pct            an entry's stop from its worst price, a fraction of that price
    mark_staleness_seconds_max   the oldest mark that an entry may rest on
    reduce_only_mode             REDUCING while it is set
    kill_switch_enabled          HALTED while it is set
    """

    leverage_max_global: Decimal = Decimal(5)
    max_daily_loss_pct: Decimal = Decimal("0.05")
    max_exposure_pct: Decimal = Decimal("0.8")
    reduce_only_mode: bool = False
    kill_switch_enabled: bool = False
    max_position_pct_per_symbol: Decimal = Decimal("0.2")
    max_leverage: Decimal = Decimal(5)
    target_leverage: Decimal = Decimal(5)
    max_position: Decimal | None = None
    enable_shorts: bool = True
    trailing_stop_pct: Decimal = Decimal("0.01")
    mark_staleness_seconds_max: Decimal = Decimal(10)
    max_order_qty: Decimal | None = None
    max_order_notional: Decimal | None = None
    price_collar_pct: Decimal = Decimal("0.02")
    max_spread_pct: Decimal = Decimal("0.005")
    max_top_of_book_pct: Decimal = Decimal("0.5")
    quote_staleness_seconds_max: Decimal = Decimal(5)
    max_mark_move_pct: Decimal = Decimal("0.05")
    duplicate_window_seconds: Decimal = Decimal(10)
    max_orders_per_minute_per_symbol: Decimal = Decimal(6)
    max_orders_per_minute: Decimal = Decimal(20)
    max_messages_per_second: Decimal = Decimal(5)
    max_entries_per_hour: Decimal = Decimal(12)
    max_losses_in_a_row: Decimal | None = None
    max_open_orders: Decimal = Decimal(4)
    max_unknown_orders: Decimal = Decimal(1)
    no_self_cross: bool = True
    max_daily_turnover: Decimal = Decimal(200)
    max_drawdown_pct: Decimal = Decimal("0.15")
    symbols: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            if each.type is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{name}: {value!r} is neither True nor False")
            elif name != "symbols" and (value is not None or each.default is not None):
                number = fraction(name, value)
                if number <= 0:
                    raise ConfigError(f"{name}: {number} must be above 0")
                object.__setattr__(self, name, number)

    @property
    def state(self) -> TradingState:
        """What the settings alone allow."""
        if self.kill_switch_enabled:
            return TradingState.HALTED
        return TradingState.REDUCING if self.reduce_only_mode else TradingState.TRADING

    @property
    def leverage_limit(self) -> Decimal:
        return min(self.leverage_max_global, self.max_leverage)

    def leverage_in_force(self, product: Product, side: Side) -> Decimal:
        """The strictest of target, profile, global cap and the side's margin rate."""
        wanted = min(self.target_leverage, self.leverage_limit)
        rate = product.margin_rate(side)
        return min(wanted, 1 / rate) if rate > 0 else wanted

    def most_contracts(self, product: Product) -> Decimal:
        """Contracts that one order may have: the stricter of the setting and the venue."""
        venue = product.max_quantity / product.contract_size
        return venue if self.max_order_qty is None else min(venue, self.max_order_qty)


def largest_order(intent: OrderIntent, mark: Mark, product: Product, limits: RiskConfig) -> Decimal:
    """Base units that one order such as `intent` may have, whatever the account still allows."""
    most = limits.most_contracts(product) * product.contract_size
    if intent.order_type is OrderType.MARKET:
        most = min(most, limits.max_top_of_book_pct * depth(intent, mark))
    return most


def depth(intent: OrderIntent, mark: Mark) -> Decimal:
    """Base units at the best price that `intent` would take from; unknown is nothing.

    Recordings of trades and candles have one price and no book, so nothing limits paper there.
    """
    if mark.bid == mark.ask:
        return INFINITY
    return (mark.ask_size if intent.side is Side.BUY else mark.bid_size) or ZERO


def reach(intent: OrderIntent, mark: Mark) -> Decimal:
    """The price up to which (down to which, for a sale) `intent` trades, USD per base unit."""
    return intent.limit_price or (mark.ask if intent.side is Side.BUY else mark.bid)


def crossed(intent: OrderIntent, account: Account) -> list[str]:
    """Ids of our own live orders that `intent` could trade with.

    The stop leg of a bracket, and a stop, are in no book before they fire.
    """
    mark = account.marks.get(intent.symbol)
    against = [o for o in account.outstanding if o.symbol == intent.symbol
               and o.side is not intent.side and o.remaining
               and o.intent.order_type is not OrderType.STOP_LIMIT]
    return [o.id for o in against if mark is None or o.intent.limit_price is None
            or (reach(intent, mark) - o.intent.limit_price) * intent.side.sign >= 0]


def worst_price(intent: OrderIntent, mark: Mark) -> Decimal:
    """The price at which `intent` counts, the highest in sight, USD per base unit."""
    return max(_highest(mark), intent.limit_price or ZERO)


def worst_notional(account: Account, symbol: str, more: OrderIntent | None = None) -> Decimal:
    """USD of one symbol if its outstanding orders, and `more`, had filled the worse way."""
    position, mark = account.position(symbol), account.marks.get(symbol)
    orders = [(order.intent, order.remaining) for order in account.outstanding
              if order.symbol == symbol and order.remaining]
    if more is not None:
        orders.append((more, more.quantity))
    if not orders and not position.quantity:
        return ZERO
    price = _highest(mark) if mark else position.mark_price
    if not price:
        return INFINITY
    filled = {Side.BUY: ZERO, Side.SELL: ZERO}
    for intent, quantity in orders:
        filled[intent.side] += quantity * max(price, intent.limit_price or ZERO)
    held = position.quantity * price
    return max(abs(held + filled[Side.BUY]), abs(held - filled[Side.SELL]))


def notional_of_others(account: Account, symbol: str) -> Decimal:
    """USD that all other symbols count for, and what is held beside our books."""
    symbols = {*account.positions, *(order.symbol for order in account.outstanding)} - {symbol}
    return sum((worst_notional(account, s) for s in sorted(symbols)), account.foreign_notional)


def turnover_with(traded: Decimal, intent: OrderIntent, account: Account) -> Decimal:
    """USD traded in the symbol so far, with its outstanding orders and `intent` filled."""
    mark = account.marks[intent.symbol]
    return traded + intent.quantity * worst_price(intent, mark) + sum(
        order.remaining * worst_price(order.intent, mark) for order in account.outstanding
        if order.symbol == intent.symbol)


def age_seconds(mark: Mark | None, now: datetime) -> Decimal:
    """How far a mark's time is from `now`, either way: with a wrong clock no mark is fresh."""
    return ZERO if mark is None else seconds_of(abs(now - mark.at))


def seconds_of(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1)) / 1_000_000


def _highest(mark: Mark) -> Decimal:
    return max(mark.price, mark.bid, mark.ask)

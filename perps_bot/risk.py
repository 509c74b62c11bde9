"""Risk: may this order be sent, and must we stop?

This room is pure.  No clock, no I/O, no logging, no order sizing: every number arrives as an
argument and the answer leaves as a RiskVerdict.  Risk says yes or no; it never edits an order,
so what was approved is exactly what is sent.  A reduction always passes.  The trading state is a
fold over events, so a halt survives any restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal

from perps_bot.errors import ConfigError
from perps_bot.model import (
    ZERO, Account, Breach, Event, Mark, OrderIntent, OrderStatus, Product, Purpose, RiskVerdict,
    Side, TradingState, fraction, moment,
)

# So many entries refused by the venue in a row, with none accepted between them, and it is us.
REJECTS_IN_A_ROW_MAX = 3
# The holds that a replay lifts at the next midnight.
RISK_KINDS = ("daily_loss", "rejects", "liquidation", "mismatch")
INFINITY = Decimal("Infinity")
FAILED = "Risk check failed: "


@dataclass(frozen=True)
class RiskConfig:
    """The limits.  Fractions are of equity unless said otherwise; floats are read by their text.

    leverage_max_global          total notional over equity
    max_leverage                 the same, from the profile; the stricter of the two holds
    target_leverage              what the strategy asks for; exposure is measured at it
    max_daily_loss_pct           of day-start equity
    max_exposure_pct             initial margin of all symbols
    max_position_pct_per_symbol  initial margin of one symbol
    max_position                 USD notional of one symbol; None where only fractions bind
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
    mark_staleness_seconds_max: Decimal = Decimal(10)

    def __post_init__(self) -> None:
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            if each.type is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{name}: {value!r} is neither True nor False")
            elif value is not None or each.default is not None:
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


@dataclass(frozen=True, slots=True)
class Cap:
    """One limit on notional, measured as if everything outstanding had filled.

    limit    the setting's value, in `unit`
    worth    USD of notional that one of `unit` allows
    overall  whether all symbols count together
    """

    code: str
    setting: str
    limit: Decimal
    worth: Decimal
    overall: bool
    unit: str
    message: str

    def room(self, own: Decimal, others: Decimal) -> Decimal:
        """USD of notional left; below zero is a breach."""
        return self.limit * self.worth - own - (others if self.overall else ZERO)

    def breach(self, own: Decimal, others: Decimal) -> Breach:
        notional = own + others if self.overall else own
        measured = notional / self.worth if self.worth > 0 else INFINITY
        return _breach(self.code, self.setting, measured, self.limit, f"{FAILED}{self.message}",
                       self.unit)


def caps(account: Account, product: Product, side: Side, limits: RiskConfig) -> tuple[Cap, ...]:
    """The table of limits on notional for an entry on `side`."""
    equity, of_margin = account.equity, "of equity, as initial margin"
    margin = equity * limits.leverage_in_force(product, side)
    strictest = min(("leverage_max_global", "max_leverage"), key=lambda n: getattr(limits, n))
    table = (
        # code, setting, its value, USD that one of its unit allows, overall?, unit, message
        Cap("LEVERAGE_EXCEEDED", strictest, limits.leverage_limit, equity, True, "x equity",
            "Leverage exceeds limit (lower --leverage, add equity, check positions)"),
        Cap("POSITION_SHARE_EXCEEDED", "max_position_pct_per_symbol",
            limits.max_position_pct_per_symbol, margin, False, of_margin,
            "Position share exceeds limit (reduce the size)"),
        Cap("EXPOSURE_EXCEEDED", "max_exposure_pct", limits.max_exposure_pct, margin, True,
            of_margin, "Exposure exceeds limit (close something or trade fewer symbols)"),
        Cap("POSITION_VALUE_EXCEEDED", "max_position", limits.max_position, Decimal(1), False,
            "USD", "Position value exceeds limit (reduce the size or set --max-position)"),
    )
    return table if limits.max_position is not None else table[:-1]


def headroom(
    symbol: str, side: Side, account: Account, product: Product, limits: RiskConfig
) -> Decimal:
    """Return the USD notional that an entry may still add under every cap; no mark, no room.

    The sizing's only source, so that what it asks for, counted at `worst_price`, is what the
    gate lets through.
    """
    if symbol not in account.marks:
        return ZERO
    own, others = worst_notional(account, symbol), _others(account, symbol)
    room = min(cap.room(own, others) for cap in caps(account, product, side, limits))
    return max(room, ZERO)


def worst_price(intent: OrderIntent, mark: Mark) -> Decimal:
    """The price at which `intent` counts, the highest in sight, USD per base unit."""
    return max(_highest(mark), intent.limit_price or ZERO)


def worst_notional(account: Account, symbol: str, more: OrderIntent | None = None) -> Decimal:
    """USD of one symbol if its outstanding orders, and `more`, had filled the worse way.

    What has no price counts as infinite: missing data never becomes a number.
    """
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


def age_seconds(mark: Mark | None, now: datetime) -> Decimal:
    """How far a mark's time is from `now`, either way: with a wrong clock no mark is fresh."""
    if mark is None:
        return ZERO
    return Decimal(abs(now - mark.at) // timedelta(microseconds=1)) / 1_000_000


@dataclass(frozen=True)
class Hold:
    """One reason not to trade freely, kept until it is lifted.  at is None without a store."""

    state: TradingState
    reason: str
    at: datetime | None


class LiveRiskManager:
    """The gate and the trading state.  Holds are kept by kind; the strictest one rules."""

    def __init__(self, config: RiskConfig | None = None, event_store=None) -> None:
        self.config = config or RiskConfig()
        self._store = event_store
        self._holds: dict[str, Hold] = {}
        self._rejects_in_a_row = 0
        if event_store is not None:
            event_store.subscribe(self.apply)

    @property
    def state(self) -> TradingState:
        states = [self.config.state, *(hold.state for hold in self._holds.values())]
        return max(states, key=lambda state: state.severity)

    @property
    def holds(self) -> Mapping[str, Hold]:
        return self._holds

    def pre_trade(self, intent: OrderIntent, account: Account, product: Product) -> RiskVerdict:
        """Say whether `intent` may be sent, naming every limit that it would break."""
        if account.reduces(intent):
            return RiskVerdict(intent)  # getting out must always be possible
        breaches = self._refusals(intent, account, product)
        if intent.symbol in account.marks:
            own = worst_notional(account, intent.symbol, intent)
            others = _others(account, intent.symbol)
            breaches += [cap.breach(own, others)
                         for cap in caps(account, product, intent.side, self.config)
                         if cap.room(own, others) < 0]
        return RiskVerdict(intent, tuple(breaches))

    def post_trade(self, account: Account) -> list[Breach]:
        """Check what we already hold; a breach turns the trading state and is an event."""
        found = {}
        if breach := _daily_loss_breach(account, self.config):
            found["daily_loss"] = breach
        if self._rejects_in_a_row >= REJECTS_IN_A_ROW_MAX:
            found["rejects"] = _breach(
                "REPEATED_REJECTS", "", self._rejects_in_a_row, REJECTS_IN_A_ROW_MAX - 1,
                f"{FAILED}Repeated rejects of entries by the venue", "in a row")
        for kind, breach in found.items():
            self.hold(kind, TradingState.REDUCING, str(breach))
        return list(found.values())

    def activate_kill_switch(self, reason: str) -> None:
        """Halt until `perps-bot resume`: no increase of exposure, whatever happens."""
        self.hold("kill_switch", TradingState.HALTED, reason)

    def hold(self, kind: str, state: TradingState, reason: str) -> None:
        """Take one more reason not to trade freely; one that is already held changes nothing."""
        held = self._holds.get(kind)
        if held is None or held.state.severity < state.severity:
            self._change(kind, state, reason)

    def lift(self, kind: str, reason: str) -> bool:
        """Drop one hold; False when it was not held."""
        if kind not in self._holds:
            return False
        self._change(kind, TradingState.TRADING, reason)
        return True

    def resume(self, reason: str, today: date, clear_daily_loss: bool = False) -> list[str]:
        """Lift every hold and return their kinds.

        Raises ConfigError without a reason, or while today's daily loss holds and nobody said
        that it may be cleared; cleared, it counts from now on.
        """
        if not reason.strip():
            raise ConfigError("resume needs a reason: perps-bot resume --reason 'what was checked'")
        loss = self._holds.get("daily_loss")
        if loss and (loss.at is None or loss.at.date() >= today) and not clear_daily_loss:
            raise ConfigError(
                f"the daily loss limit was hit today ({loss.reason}): "
                f"wait for the next UTC day or add --clear-daily-loss"
            )
        kinds = list(self._holds)
        for kind in kinds:
            self._change(kind, TradingState.TRADING, f"resumed: {reason}",
                         clears_loss=kind == "daily_loss" and clear_daily_loss)
        return kinds

    def apply(self, event: Event) -> None:
        """Fold one event into the trading state."""
        data = event.data
        if event.type == "state.changed":
            self._fold_change(event.at, data)
        elif event.type == "order.updated" and data.get("purpose") == Purpose.ENTRY:
            if data["status"] == OrderStatus.REJECTED:
                self._rejects_in_a_row += 1
            elif data["status"] != OrderStatus.LOST:  # never arrived, so nobody judged it
                self._rejects_in_a_row = 0
        elif event.type == "day.opened" and "risk" in data["snapshot"]:
            self._restore(data["snapshot"]["risk"])

    def snapshot(self) -> dict[str, object]:
        holds = {kind: {"state": h.state, "reason": h.reason, "at": h.at}
                 for kind, h in self._holds.items()}
        return {"rejects_in_a_row": self._rejects_in_a_row, "holds": holds}

    def _refusals(self, intent: OrderIntent, account: Account, product: Product) -> list[Breach]:
        """What stands against an increase, whatever its size."""
        limits, state, symbol = self.config, self.state, intent.symbol
        opposed = account.position(symbol).quantity * intent.side.sign < 0
        unknown = [o.id for o in account.outstanding
                   if o.symbol == symbol and o.status is OrderStatus.UNKNOWN]
        age = age_seconds(account.marks.get(symbol), account.at)
        age_max = limits.mark_staleness_seconds_max
        held = [f"{kind} ({hold.reason})" for kind, hold in self._holds.items()]
        rows = (
            # refused when, code, setting, measured, allowed, message, unit
            (intent.purpose is not Purpose.ENTRY, "NOT_REDUCING", "", "an increase",
             "a reduction", f"{FAILED}A stop or exit may only shrink the position"),
            (intent.quantity <= 0, "QUANTITY_NOT_POSITIVE", "", intent.quantity, "above 0",
             f"{FAILED}The order has no size"),
            (state is not TradingState.TRADING, f"STATE_{state}", "trading state", state,
             "TRADING", f"{FAILED}Trading is {state} because of "
             f"{', '.join(held) or 'the settings'}; perps-bot resume --reason lifts it"),
            (intent.side is Side.SELL and not limits.enable_shorts, "SHORTS_DISABLED",
             "enable_shorts", "a short", "longs", f"{FAILED}Shorts are not enabled"),
            (opposed, "POSITION_OPPOSED", "", "an order through flat", "an exit first",
             f"{FAILED}One order must not flip a position"),
            (symbol not in account.marks, "NO_MARK", "", "none", "a fresh mark",
             f"No mark price for symbol {symbol}: check the venue, the spelling, the mark cache"),
            (account.equity <= 0, "EQUITY_NOT_POSITIVE", "", account.equity, "above 0",
             f"{FAILED}No equity to trade with", "USD"),
            (not product.tradable, "PRODUCT_NOT_TRADABLE", "", "closed or restricted", "open",
             f"{FAILED}The venue takes no orders in {symbol} now"),
            (unknown, "OUTCOME_UNKNOWN", "", " ".join(unknown), "none",
             f"{FAILED}An order in {symbol} has an unknown outcome"),
            (age > age_max, "STALE_MARK", "mark_staleness_seconds_max", age, age_max,
             f"{FAILED}Mark price is stale (check the market data and the clock)", "s"),
        )
        breaches = [_breach(*row) for refused, *row in rows if refused]
        loss = _daily_loss_breach(account, limits)
        return [*breaches, loss] if loss else breaches

    def _change(self, kind: str, state: TradingState, reason: str, **more: object) -> None:
        data = {"kind": kind, "state": state, "reason": reason, **more}
        if self._store is None:
            self._fold_change(None, data)
        else:
            self._store.append("state.changed", before=self.state, **data)

    def _fold_change(self, at: datetime | None, data: Mapping) -> None:
        kind, state = data["kind"], TradingState(data["state"])
        if state is TradingState.TRADING:
            self._holds.pop(kind, None)
        else:
            self._holds[kind] = Hold(state, data["reason"], at)
        if kind == "rejects":
            self._rejects_in_a_row = 0

    def _restore(self, data: Mapping) -> None:
        self._rejects_in_a_row = data["rejects_in_a_row"]
        self._holds = {
            kind: Hold(TradingState(h["state"]), h["reason"], moment(h["at"]))
            for kind, h in data["holds"].items()
        }


def _others(account: Account, symbol: str) -> Decimal:
    """USD that all other symbols count for."""
    symbols = {*account.positions, *(order.symbol for order in account.outstanding)} - {symbol}
    return sum((worst_notional(account, other) for other in sorted(symbols)), ZERO)


def _highest(mark: Mark) -> Decimal:
    return max(mark.price, mark.bid, mark.ask)


def _daily_loss_breach(account: Account, limits: RiskConfig) -> Breach | None:
    """With nothing to measure it against, any loss counts as all of it."""
    loss, base, allowed = account.daily_loss, account.day_start_equity, limits.max_daily_loss_pct
    share = loss / base if base > 0 else Decimal(loss > 0)
    if share < allowed:
        return None
    return _breach("DAILY_LOSS_EXCEEDED", "max_daily_loss_pct", share, allowed,
                   f"{FAILED}Daily loss exceeds limit (wait for the next UTC day, then resume)",
                   "of day-start equity")


def _breach(
    code: str, setting: str, measured: object, allowed: object, message: str, unit: str = ""
) -> Breach:
    return Breach(code, setting, _text(measured), _text(allowed), unit, message)


def _text(value: object) -> str:
    if not isinstance(value, Decimal):
        return str(value)
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

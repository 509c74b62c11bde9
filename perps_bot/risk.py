"""Risk: may this order be sent, and must we stop?

This room is pure.  No clock, no I/O, no logging, no order sizing: every number arrives as an
argument and the answer leaves as a RiskVerdict.  Risk says yes or no; it never edits an order,
so what was approved is exactly what is sent.  A reduction always passes.  The trading state is a
fold over events, so a halt survives any restart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from perps_bot.errors import ConfigError
from perps_bot.model import (
    ZERO,
    Account,
    Breach,
    Event,
    Mark,
    OrderIntent,
    OrderStatus,
    Product,
    Purpose,
    RiskVerdict,
    Side,
    TradingState,
    fraction,
    moment,
)

# So many entries refused by the venue in a row, with none accepted between them, and it is us.
REJECTS_IN_A_ROW_MAX = 3


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
    reduce_only_mode             start REDUCING
    kill_switch_enabled          start HALTED
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
        for name, value in vars(self).items():
            if isinstance(value, bool) or value is None:
                continue
            number = fraction(name, value)
            if number <= 0:
                raise ConfigError(f"{name}: {number} must be above 0")
            object.__setattr__(self, name, number)

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
        return _breach(self.code, self.setting, measured, self.limit, self.unit, self.message)


def caps(account: Account, product: Product, side: Side, limits: RiskConfig) -> tuple[Cap, ...]:
    """The table of limits on notional for an entry on `side`."""
    equity, of_margin = account.equity, "of equity, as initial margin"
    margin = equity * limits.leverage_in_force(product, side)
    most = INFINITY if limits.max_position is None else limits.max_position
    strictest = min(("max_leverage", "leverage_max_global"), key=lambda n: getattr(limits, n))
    return (
        # code, setting, its value, USD that one of its unit allows, overall?, unit, message
        Cap("LEVERAGE_EXCEEDED", strictest, limits.leverage_limit, equity, True, "x equity",
            "Leverage exceeds limit (lower --leverage, add equity, check positions)"),
        Cap("POSITION_SHARE_EXCEEDED", "max_position_pct_per_symbol",
            limits.max_position_pct_per_symbol, margin, False, of_margin,
            "Position share exceeds limit (reduce the size)"),
        Cap("EXPOSURE_EXCEEDED", "max_exposure_pct", limits.max_exposure_pct, margin, True,
            of_margin, "Exposure exceeds limit (close something or trade fewer symbols)"),
        Cap("POSITION_VALUE_EXCEEDED", "max_position", most, Decimal(1), False, "USD",
            "Position value exceeds limit (reduce the size or set --max-position)"),
    )


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
    """The highest price at which `intent` may count, USD per base unit."""
    return max(mark.price, mark.bid, mark.ask, intent.limit_price or ZERO)


def worst_notional(account: Account, symbol: str, more: OrderIntent | None = None) -> Decimal:
    """USD of one symbol if its outstanding entries, and `more`, had filled the worse way.

    What has no price counts as infinite: missing data never becomes a number.
    """
    position, mark = account.position(symbol), account.marks.get(symbol)
    entries = [(order.intent, order.remaining) for order in account.outstanding
               if order.symbol == symbol and order.purpose is Purpose.ENTRY and order.remaining]
    if more is not None:
        entries.append((more, more.quantity))
    if not entries and not position.quantity:
        return ZERO
    price = worst_price(_AT_MARKET, mark) if mark else position.mark_price
    if not price:
        return INFINITY
    filled = {Side.BUY: ZERO, Side.SELL: ZERO}
    for intent, quantity in entries:
        filled[intent.side] += quantity * max(price, intent.limit_price or ZERO)
    held = position.quantity * price
    return max(abs(held + filled[Side.BUY]), abs(held - filled[Side.SELL]))


def daily_loss_share(account: Account) -> Decimal:
    """Today's loss as a fraction of day-start equity; a gain is negative.

    With nothing to divide by, any loss counts as all of it.
    """
    if account.day_start_equity > 0:
        return account.daily_loss / account.day_start_equity
    return Decimal(1) if account.daily_loss > 0 else ZERO


@dataclass(frozen=True)
class Hold:
    """One reason not to trade freely, kept until it is lifted."""

    state: TradingState
    reason: str
    at: datetime


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
        return max(
            (hold.state for hold in self._holds.values()),
            key=lambda state: state.severity,
            default=TradingState.TRADING,
        )

    @property
    def holds(self) -> Mapping[str, Hold]:
        return self._holds

    def pre_trade(self, intent: OrderIntent, account: Account, product: Product) -> RiskVerdict:
        """Say whether `intent` may be sent, naming every limit that it would break."""
        if account.reduces(intent):
            return RiskVerdict(intent)  # getting out must always be possible
        breaches = self._permissions(intent, account, product)
        mark = account.marks.get(intent.symbol)
        if mark is not None and account.equity > 0:
            breaches += _measure(intent, account, product, self.config, mark)
        return RiskVerdict(intent, tuple(breaches))

    def post_trade(self, account: Account) -> list[Breach]:
        """Check what we already hold; a breach turns the trading state and is an event."""
        breaches = []
        share, allowed = daily_loss_share(account), self.config.max_daily_loss_pct
        if share >= allowed:
            breaches.append(_breach(
                "DAILY_LOSS_EXCEEDED", "max_daily_loss_pct", share, allowed, "of day-start equity",
                "Risk check failed: Daily loss exceeds limit",
            ))
        if self._rejects_in_a_row >= REJECTS_IN_A_ROW_MAX:
            breaches.append(_breach(
                "REPEATED_REJECTS", "", self._rejects_in_a_row, REJECTS_IN_A_ROW_MAX - 1,
                "entries refused by the venue in a row", "Risk check failed: Repeated rejects",
            ))
        for breach in breaches:
            self.hold(_KIND_OF[breach.code], TradingState.REDUCING, _said(breach))
        return breaches

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
        that it may be cleared.
        """
        if not reason.strip():
            raise ConfigError("resume needs a reason: perps-bot resume --reason 'what was checked'")
        loss = self._holds.get("daily_loss")
        if loss and loss.at.date() >= today and not clear_daily_loss:
            raise ConfigError(
                f"the daily loss limit was hit today ({loss.reason}): "
                f"wait for the next UTC day or add --clear-daily-loss"
            )
        return [kind for kind in tuple(self._holds) if self.lift(kind, f"resumed: {reason}")]

    def apply(self, event: Event) -> None:
        """Fold one event into the trading state."""
        data = event.data
        if event.type == "state.changed":
            self._fold_change(event.at, data)
        elif event.type == "order.updated" and data.get("purpose") == Purpose.ENTRY:
            rejected = data["status"] == OrderStatus.REJECTED
            self._rejects_in_a_row = self._rejects_in_a_row + 1 if rejected else 0
        elif event.type == "day.opened" and "risk" in data["snapshot"]:
            self._restore(data["snapshot"]["risk"])

    def snapshot(self) -> dict[str, object]:
        return {
            "rejects_in_a_row": self._rejects_in_a_row,
            "holds": {
                kind: {"state": h.state, "reason": h.reason, "at": h.at}
                for kind, h in self._holds.items()
            },
        }

    def _permissions(
        self, intent: OrderIntent, account: Account, product: Product
    ) -> list[Breach]:
        """The refusals that no number can heal."""
        state, symbol = self.state, intent.symbol
        opposed = account.position(symbol).quantity * intent.side.sign < 0
        unknown = [o for o in account.outstanding
                   if o.symbol == symbol and o.status is OrderStatus.UNKNOWN]
        rows = (
            # refused when            code                   setting        measured  allowed
            (intent.purpose is not Purpose.ENTRY, "NOT_REDUCING", "", "an increase", "a reduction",
             "Risk check failed: A stop or exit may only shrink the position"),
            (state is not TradingState.TRADING, f"STATE_{state}", "trading state", state, "TRADING",
             f"Risk check failed: {self._why()}"),
            (intent.side is Side.SELL and not self.config.enable_shorts, "SHORTS_DISABLED",
             "enable_shorts", "a short", "longs", "Risk check failed: Shorts are not enabled"),
            (opposed, "POSITION_OPPOSED", "", "an order through flat", "an exit first",
             "Risk check failed: One order must not flip a position"),
            (symbol not in account.marks, "NO_MARK", "", "none", "a fresh mark",
             f"No mark price for symbol {symbol}: check the venue, the spelling, the mark cache"),
            (account.equity <= 0, "EQUITY_NOT_POSITIVE", "", f"{account.equity:f}", "above 0",
             "Risk check failed: No equity to trade with"),
            (not product.tradable, "PRODUCT_NOT_TRADABLE", "", "closed or restricted", "open",
             f"Risk check failed: The venue takes no orders in {symbol} now"),
            (unknown, "OUTCOME_UNKNOWN", "", len(unknown), "0",
             f"Risk check failed: An order in {symbol} has an unknown outcome"),
        )
        return [_breach(code, setting, measured, allowed, "", message)
                for refused, code, setting, measured, allowed, message in rows if refused]

    def _why(self) -> str:
        held = [f"{kind} ({h.reason})" for kind, h in self._holds.items()]
        return f"Trading is {self.state.value} because of {', '.join(held)}"

    def _change(self, kind: str, state: TradingState, reason: str) -> None:
        now = getattr(self._store, "now", None)
        data = {"kind": kind, "state": state, "reason": reason}
        if self._store is None:
            self._fold_change(now, data)
        else:
            self._store.append("state.changed", before=self.state, **data)

    def _fold_change(self, at: datetime, data: Mapping) -> None:
        state = TradingState(data["state"])
        if state is TradingState.TRADING:
            self._holds.pop(data["kind"], None)
            if data["kind"] == "rejects":
                self._rejects_in_a_row = 0
        else:
            self._holds[data["kind"]] = Hold(state, data["reason"], at)

    def _restore(self, data: Mapping) -> None:
        self._rejects_in_a_row = data["rejects_in_a_row"]
        self._holds = {
            kind: Hold(TradingState(h["state"]), h["reason"], moment(h["at"]))
            for kind, h in data["holds"].items()
        }


# Which hold a post-trade breach takes; a replay lifts these kinds at the next midnight.
_KIND_OF = {"DAILY_LOSS_EXCEEDED": "daily_loss", "REPEATED_REJECTS": "rejects"}
RISK_KINDS = (*_KIND_OF.values(), "liquidation", "mismatch")


def _measure(
    intent: OrderIntent, account: Account, product: Product, limits: RiskConfig, mark: Mark
) -> list[Breach]:
    price = worst_price(intent, mark)
    others = sum(
        (worst_notional(account, s) for s in _symbols(account) if s != intent.symbol), ZERO
    )
    notional = worst_notional(account, intent.symbol, intent, price)
    case = _Case(intent, account, product, limits, mark, price, notional, others)
    breaches = []
    for row in LIMITS:
        measured, allowed = row.measured(case), row.allowed(case)
        if measured > allowed:
            breaches.append(
                _breach(row.code, row.setting, measured, allowed, row.unit, row.message)
            )
    return breaches


def _symbols(account: Account, *more: str) -> dict[str, None]:
    return dict.fromkeys((*account.positions, *(o.symbol for o in account.outstanding), *more))


def _breach(
    code: str, setting: str, measured: object, allowed: object, unit: str, message: str
) -> Breach:
    return Breach(code, setting, _text(measured), _text(allowed), unit, message)


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:.6f}".rstrip("0").rstrip(".") if value % 1 else f"{value:f}"
    return str(value)


def _said(breach: Breach) -> str:
    return (f"{breach.message}: {breach.limit} measured {breach.measured} "
            f"allowed {breach.allowed} {breach.unit}")

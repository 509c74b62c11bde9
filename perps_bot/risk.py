"""Risk: may this order be sent, and must we stop?

This room is pure.  No clock, no I/O, no logging, no order sizing: every number arrives as an
argument and the answer leaves as a RiskVerdict.  Risk says yes or no; it never edits an order,
so what was approved is exactly what is sent.  A reduction always passes.  The trading state is a
fold over events, so a halt survives any restart.
"""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from perps_bot.errors import ConfigError
from perps_bot.model import (
    ZERO, Account, Breach, Event, Mark, OrderIntent, OrderStatus, OrderType, Product, Purpose,
    RiskVerdict, Side, TradingState, fraction, moment,
)

# So many entries refused by the venue in a row, with none accepted between them, and it is us.
REJECTS_IN_A_ROW_MAX = 3
# Entries that may be sent in one symbol within a minute.
ORDERS_PER_MINUTE_MAX = 6
# How long nothing is opened in a symbol after the venue refused an entry there.
PAUSE_MINUTES = 10
# Nothing is opened so shortly before a close, or before the contract's end.
CLOSING_MINUTES, EXPIRY_DAYS = 15, 7
# Beyond this fraction of the price, and more than so many ticks apart, bid and ask are no market.
SPREAD_PCT_MAX, SPREAD_TICKS = Decimal("0.005"), 2
# The least that available margin may be of what the venue liquidates at: an entry must leave it
# so even at its stop; where it is less, entries end; further down, positions shrink.
MARGIN_RATIO_MIN = Decimal("1.5")
REDUCTIONS = (
    # below this margin ratio    keep so much of every position
    (Decimal("1.1"),             ZERO),
    (Decimal("1.25"),            Decimal("0.5")),
)  # fmt: skip
# The holds that a replay lifts at the next midnight.
RISK_KINDS = (
    "daily_loss", "rejects", "refusal", "liquidation", "liquidation_distance", "mismatch")
INFINITY = Decimal("Infinity")


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

    limit    the setting's value, in `unit`; a row without one does not bind
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
        return _breach(self.code, measured, self.limit, self.message, self.unit, self.setting)


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
        Cap("STOP_BEYOND_LIQUIDATION", "trailing_stop_pct",
            _liquidation_limit(account, product, side, limits), Decimal(1), False, "USD",
            "The stop lies beyond liquidation or too near it (reduce the size, add funds)"),
    )
    return tuple(cap for cap in table if cap.limit is not None)


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


def is_armed(account: Account) -> bool:
    """Whether anything guards against liquidation: without the venue's numbers nobody guesses."""
    return account.margin is not None


def reduction(account: Account) -> Decimal | None:
    """Return the share of every position that should be kept; None while all of it may."""
    ratio = _margin_ratio(account)
    return next((kept for below, kept in REDUCTIONS if ratio < below), None)


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
    return ZERO if mark is None else _seconds(abs(now - mark.at))


class Remedy(StrEnum):
    """What to do after a refusal by the venue."""

    DROP = "drop"  # this order only
    REFRESH = "refresh"  # the product's rules have changed: read them anew
    PAUSE = "pause"  # no entry in the symbol for PAUSE_MINUTES
    HALT = "halt"  # the account itself is refused: no entry anywhere until a person looked


REMEDIES = (
    # what to do    after which reasons, without PREVIEW_: patterns, and the first that fits
    (Remedy.HALT, r"""GEOFENCING_RESTRICTION ORDER_ENTRY_DISABLED IN_LIQUIDATION HTTP_40[13]
        BREACHED_(RISK|ACCOUNT_POSITION)_LIMIT UNTRADABLE_FCM_ACCOUNT_STATUS
        INVALID_MARGIN_HEALTH"""),
    (Remedy.REFRESH, r"INVALID_.*_PRECISION INVALID_BASE_SIZE_TOO_(SMALL|LARGE)"),
    # An entry that may not carry its stop is sent anew without it: no pause may forbid that.
    (Remedy.DROP, r".*ATTACHED_.*"),
    (Remedy.DROP, r"""INSUFFICIENT_FUNDS?(_FOR_FUTURES)? INVALID_LEDGER_BALANCE
        INVALID_NO_LIQUIDITY INVALID_LIMIT_PRICE(_POST_ONLY)? LIMIT_PRICE_TOO_FAR_FROM_MARKET
        INVALID_END_TIME END_TIME_(IS_IN_THE_PAST|TOO_FAR_IN_FUTURE) DUPLICATE_CLIENT_ORDER_ID
        STOP_(ALREADY_)?TRIGGERED (STOP_(LOSS_|TRIGGER_)?|TAKE_PROFIT_|BRACKET_LIMIT_)PRICE_.*
        INVALID_BRACKET_.* OPEN_BRACKET_ORDERS (BRACKET_)?ORDER_SIZE_EXCEEDS_.*POSITION
        CANNOT_CLOSE_ZERO_POSITION CLOSE_ONLY_FAILURE TOO_MANY_PENDING_REPLACES
        MODIFY_POSITION_WORKFLOW_ALREADY_RUNNING UNKNOWN_CANCEL_ORDER DUPLICATE_CANCEL_REQUEST
        ORDER_IS_(PENDING_CANCEL|FULLY_FILLED|BEING_REPLACED)"""),
)  # fmt: skip


def remedy(code: str) -> Remedy:
    """Say what to do after the venue refused an order or a cancel with `code`.

    Sessions, halts, price bands, our own mistakes and whatever is not known pause the symbol.
    """
    reason = code.removeprefix("PREVIEW_")
    return next((what for what, patterns in REMEDIES
                 if any(re.fullmatch(each, reason) for each in patterns.split())), Remedy.PAUSE)


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
        # By symbol, "" for the whole account: the venue's reason to refuse, and since when.
        self._refused: dict[str, tuple[str, datetime]] = {}
        self._sent_at: dict[str, deque[datetime]] = {}  # by symbol: the newest entries
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
        rejects, (reason, _) = self._rejects_in_a_row, self._refused.get("", ("", None))
        ratio, loss = _margin_ratio(account), _daily_loss_breach(account, self.config)
        rows = (
            # kind of hold, turned when, code, measured, allowed, message, unit
            ("rejects", rejects >= REJECTS_IN_A_ROW_MAX, "REPEATED_REJECTS", rejects,
             REJECTS_IN_A_ROW_MAX - 1, "Repeated rejects of entries by the venue", "in a row"),
            ("refusal", reason, "ACCOUNT_REFUSED", reason, "none",
             "The venue refuses the account (look there, then resume)"),
            ("liquidation_distance", ratio < MARGIN_RATIO_MIN, "LIQUIDATION_NEAR", ratio,
             MARGIN_RATIO_MIN, "Margin nears liquidation (add funds or close something)",
             "x the liquidation threshold"),
        )
        found = {"daily_loss": loss} if loss else {}
        found |= {kind: _breach(*row) for kind, turned, *row in rows if turned}
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
        elif event.type == "order.intended" and data["purpose"] == Purpose.ENTRY:
            sent = self._sent_at.setdefault(data["symbol"], deque(maxlen=ORDERS_PER_MINUTE_MAX))
            sent.append(moment(data.get("placed_at", event.at)))
        elif event.type == "order.updated":
            self._fold_answer(event.at, data)
        elif event.type == "day.opened" and "risk" in data["snapshot"]:
            self._restore(data["snapshot"]["risk"])

    def snapshot(self) -> dict[str, object]:
        holds = {kind: {"state": h.state, "reason": h.reason, "at": h.at}
                 for kind, h in self._holds.items()}
        return {"rejects_in_a_row": self._rejects_in_a_row, "holds": holds,
                "refused": dict(self._refused)}

    def _refusals(self, intent: OrderIntent, account: Account, product: Product) -> list[Breach]:
        """What stands against an increase, whatever its size."""
        limits, state, symbol, now = self.config, self.state, intent.symbol, account.at
        unknown = [o.id for o in account.outstanding
                   if o.symbol == symbol and o.status is OrderStatus.UNKNOWN]
        sent = sum(abs(now - at) < timedelta(minutes=1) for at in self._sent_at.get(symbol, ()))
        reason, since = self._refused.get("") or self._refused.get(symbol, ("", now))
        held = [f"{kind} ({hold.reason})" for kind, hold in self._holds.items()]
        rows = (
            # refused when, code, measured, allowed, message, unit, setting
            (intent.purpose is not Purpose.ENTRY, "NOT_REDUCING", "an increase", "a reduction",
             "A stop or exit may only shrink the position"),
            (intent.quantity <= 0, "QUANTITY_NOT_POSITIVE", intent.quantity, "above 0",
             "The order has no size"),
            (state is not TradingState.TRADING, f"STATE_{state}", state, "TRADING",
             f"Trading is {state} because of {', '.join(held) or 'the settings'}; "
             "perps-bot resume --reason lifts it", "", "trading state"),
            (reason and abs(now - since) < timedelta(minutes=PAUSE_MINUTES), "SYMBOL_PAUSED",
             reason, "none", f"The venue refused {symbol} at {since:%H:%M:%S} UTC; "
             f"entries pause for {PAUSE_MINUTES} minutes"),
            (sent >= ORDERS_PER_MINUTE_MAX, "ORDER_THROTTLED", sent + 1, ORDERS_PER_MINUTE_MAX,
             f"Too many entries in {symbol}", "a minute"),
            (unknown, "OUTCOME_UNKNOWN", " ".join(unknown), "none",
             f"An order in {symbol} has an unknown outcome"),
            *_market_rows(intent, account, product, limits),
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
        elif kind == "refusal":
            self._refused.pop("", None)

    def _fold_answer(self, at: datetime, data: Mapping) -> None:
        """Count the entries that were refused; what a refusal calls for is kept by symbol."""
        is_entry = data.get("purpose") == Purpose.ENTRY
        if data["status"] == OrderStatus.REJECTED:
            self._rejects_in_a_row += is_entry
            first_word = re.match(r"\w*", data["answer"])[0]
            reason = data.get("code") or first_word or "no reason"
            what = remedy(reason)
            if what is Remedy.HALT or what is Remedy.PAUSE and is_entry:
                self._refused["" if what is Remedy.HALT else data["symbol"]] = reason, at
        elif is_entry and data["status"] != OrderStatus.LOST:  # never arrived: nobody judged it
            self._rejects_in_a_row = 0

    def _restore(self, data: Mapping) -> None:
        self._rejects_in_a_row = data["rejects_in_a_row"]
        self._holds = {
            kind: Hold(TradingState(h["state"]), h["reason"], moment(h["at"]))
            for kind, h in data["holds"].items()
        }
        refused = data.get("refused", {}).items()
        self._refused = {symbol: (why, moment(at)) for symbol, (why, at) in refused}


def _market_rows(
    intent: OrderIntent, account: Account, product: Product, limits: RiskConfig
) -> tuple[tuple, ...]:
    """What position, mark, session and contract have against an increase, refused or not."""
    symbol, mark = intent.symbol, account.marks.get(intent.symbol)
    age, age_max = age_seconds(mark, account.at), limits.mark_staleness_seconds_max
    apart = mark.ask - mark.bid if mark and intent.order_type is OrderType.MARKET else ZERO
    apart_max = max(SPREAD_PCT_MAX * (mark.price if mark else ZERO),
                    SPREAD_TICKS * product.price_increment)
    ends = product.closes_at, product.expires_at
    closes_in, expires_in = (_seconds(end - account.at) if end else INFINITY for end in ends)
    minutes, days = closes_in / 60, expires_in / 86_400
    return (
        # refused when, code, measured, allowed, message, unit, setting
        (intent.side is Side.SELL and not limits.enable_shorts, "SHORTS_DISABLED", "a short",
         "longs", "Shorts are not enabled", "", "enable_shorts"),
        (account.position(symbol).quantity * intent.side.sign < 0, "POSITION_OPPOSED",
         "an order through flat", "an exit first", "One order must not flip a position"),
        (mark is None, "NO_MARK", "none", "a fresh mark",
         f"No mark price for symbol {symbol}: check the venue, the spelling, the mark cache"),
        (account.equity <= 0, "EQUITY_NOT_POSITIVE", account.equity, "above 0",
         "No equity to trade with", "USD"),
        (not (product.tradable and product.is_session_open), "PRODUCT_NOT_TRADABLE",
         "closed or restricted", "open",
         f"The venue takes no orders in {symbol} now{product.note and f' ({product.note})'}"),
        (minutes <= CLOSING_MINUTES, "CLOSING_SOON", minutes, f"above {CLOSING_MINUTES}",
         f"The market of {symbol} closes soon", "minutes"),
        (days <= EXPIRY_DAYS, "EXPIRING_SOON", days, f"above {EXPIRY_DAYS}",
         f"The contract of {symbol} expires soon", "days"),
        (age > age_max, "STALE_MARK", age, age_max, "Mark price is stale (check the market data "
         "and the clock)", "s", "mark_staleness_seconds_max"),
        (apart > apart_max, "SPREAD_TOO_WIDE", apart, apart_max,
         f"Bid and ask of {symbol} are too far apart for a market order", "USD"),
    )


def _liquidation_limit(
    account: Account, product: Product, side: Side, limits: RiskConfig
) -> Decimal | None:
    """USD of one symbol that may go to its stop and still leave MARGIN_RATIO_MIN; None: unarmed.

    Initial margin stands for the threshold, and what is held counts in the symbol and in the
    venue's sum: both err on the safe side.
    """
    if account.margin is None:
        return None
    left, stop = min(account.equity, account.margin.available), limits.trailing_stop_pct
    at_stop = product.margin_rate(side) * (1 - stop * side.sign)
    return (left - MARGIN_RATIO_MIN * account.margin.initial) / (stop + MARGIN_RATIO_MIN * at_stop)


def _margin_ratio(account: Account) -> Decimal:
    """Infinite when flat, and where the venue did not say."""
    ratio = account.margin.ratio if account.margin else None
    return INFINITY if ratio is None else ratio


def _others(account: Account, symbol: str) -> Decimal:
    """USD that all other symbols count for, and what is held beside our books."""
    symbols = {*account.positions, *(order.symbol for order in account.outstanding)} - {symbol}
    return sum((worst_notional(account, s) for s in sorted(symbols)), account.foreign_notional)


def _seconds(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1)) / 1_000_000


def _highest(mark: Mark) -> Decimal:
    return max(mark.price, mark.bid, mark.ask)


def _daily_loss_breach(account: Account, limits: RiskConfig) -> Breach | None:
    """With nothing to measure it against, any loss counts as all of it."""
    loss, base, allowed = account.daily_loss, account.day_start_equity, limits.max_daily_loss_pct
    share = loss / base if base > 0 else Decimal(loss > 0)
    if share < allowed:
        return None
    return _breach("DAILY_LOSS_EXCEEDED", share, allowed,
                   "Daily loss exceeds limit (wait for the next UTC day, then resume)",
                   "of day-start equity", "max_daily_loss_pct")


def _breach(
    code: str, measured: object, allowed: object, message: str, unit: str = "", setting: str = ""
) -> Breach:
    said = f"Risk check failed: {message}"
    return Breach(code, setting, _text(measured), _text(allowed), unit, said)


def _text(value: object) -> str:
    if not isinstance(value, Decimal):
        return str(value)
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

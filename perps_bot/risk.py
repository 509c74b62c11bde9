"""Risk: may this order be sent, and must we stop?

This room is pure.  No clock, no I/O, no logging, no order sizing: every number arrives as an
argument and the answer leaves as a RiskVerdict.  Risk says yes or no; it never edits an order,
so what was approved is exactly what is sent.  A reduction always passes.  The trading state is a
fold over events, so a halt survives any restart.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from perps_bot.errors import ConfigError
from perps_bot.flow import FLOW_EVENTS, Flow
from perps_bot.limits import (
    INFINITY, SPREAD_TICKS, RiskConfig, age_seconds, crossed, depth, notional_of_others, reach,
    seconds_of, turnover_with, worst_notional, worst_price,
)
from perps_bot.model import (
    ZERO, Account, Breach, Event, Mark, OrderIntent, OrderStatus, OrderType, Product, Purpose,
    RiskVerdict, Side, TradingState, moment,
)

# So many entries refused by the venue in a row, with none accepted between them, and it is us.
REJECTS_IN_A_ROW_MAX = 3
# So many entries in a row that a symbol accepts and takes back unfilled are as good as a refusal.
TAKEN_BACK_MAX = 3
# How long nothing is opened in a symbol after the venue refused an entry there.
PAUSE_MINUTES = 10
# Nothing is opened so shortly before a close, or before the contract's end.
CLOSING_MINUTES, EXPIRY_DAYS = 15, 7
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
    "daily_loss", "drawdown", "losses", "entries", "rejects", "refusal", "liquidation",
    "liquidation_distance", "mismatch")
AS_SET = ("settings", "observe")  # as long as a setting or the key says so, whoever resumes


class Cap(NamedTuple):
    """One limit on notional, measured as if everything outstanding had filled.

    limit   the setting's value, in `unit`; a row without one does not bind
    worth   USD of notional that one of `unit` allows
    counts  what counts together: one "order", one "symbol" or "all" symbols
    """

    code: str
    setting: str
    limit: Decimal
    worth: Decimal
    counts: str
    unit: str
    message: str

    def room(self, notional: Mapping[str, Decimal]) -> Decimal:
        """USD of notional left; below zero is a breach.  notional is what `counted` returns."""
        return self.limit * self.worth - notional[self.counts]

    def breach(self, notional: Mapping[str, Decimal]) -> Breach:
        measured = notional[self.counts] / self.worth if self.worth > 0 else INFINITY
        return _breach(self.code, measured, self.limit, self.message, self.unit, self.setting)


def caps(account: Account, product: Product, side: Side, limits: RiskConfig) -> tuple[Cap, ...]:
    """The table of limits on notional for an entry on `side`."""
    equity, of_margin = account.equity, "of equity, as initial margin"
    margin = equity * limits.leverage_in_force(product, side)
    is_global = limits.leverage_max_global <= limits.max_leverage
    most = limits.max_position if limits.max_order_notional is None else limits.max_order_notional
    table = (
        # code, setting, its value, USD that one of its unit allows, counts, unit, message
        Cap("LEVERAGE_EXCEEDED", "leverage_max_global" if is_global else "max_leverage",
            limits.leverage_limit, equity, "all", "x equity",
            "Leverage exceeds limit (lower --leverage, add equity, check positions)"),
        Cap("POSITION_SHARE_EXCEEDED", "max_position_pct_per_symbol",
            limits.max_position_pct_per_symbol, margin, "symbol", of_margin,
            "Position share exceeds limit (reduce the size)"),
        Cap("EXPOSURE_EXCEEDED", "max_exposure_pct", limits.max_exposure_pct, margin, "all",
            of_margin, "Exposure exceeds limit (close something or trade fewer symbols)"),
        Cap("POSITION_VALUE_EXCEEDED", "max_position", limits.max_position, Decimal(1), "symbol",
            "USD", "Position value exceeds limit (reduce the size or set --max-position)"),
        Cap("ORDER_VALUE_EXCEEDED", "max_order_notional", most, Decimal(1), "order", "USD",
            "Order value exceeds limit (reduce the size or set max_order_notional)"),
        Cap("STOP_BEYOND_LIQUIDATION", "trailing_stop_pct",
            _liquidation_limit(account, product, side, limits), Decimal(1), "symbol", "USD",
            "The stop lies beyond liquidation or too near it (reduce the size, add funds)"),
    )
    return tuple([cap for cap in table if cap.limit is not None])


def headroom(
    symbol: str, side: Side, account: Account, product: Product, limits: RiskConfig
) -> Decimal:
    """Return the USD notional that an entry may still add under every cap; no mark, no room.

    The sizing's only source, so that what it asks for, counted at `worst_price`, is what the
    gate lets through.
    """
    if symbol not in account.marks:
        return ZERO
    has = counted(worst_notional(account, symbol), notional_of_others(account, symbol), ZERO)
    return max(ZERO, min([cap.room(has) for cap in caps(account, product, side, limits)]))


def counted(own: Decimal, others: Decimal, order: Decimal) -> dict[str, Decimal]:
    """USD of notional by what a cap counts."""
    return {"symbol": own, "all": own + others, "order": order}


def is_armed(account: Account) -> bool:
    """Whether anything guards against liquidation: without the venue's numbers nobody guesses."""
    return account.margin is not None


def reduction(account: Account) -> Decimal | None:
    """Return the share of every position that should be kept; None while all of it may."""
    ratio = _margin_ratio(account)
    return next((kept for below, kept in REDUCTIONS if ratio < below), None)


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
    """The gate and the trading state.  Holds are kept by kind; the strictest one rules.

    state  what they, and the settings, leave
    """

    def __init__(self, config: RiskConfig | None = None, event_store=None) -> None:
        self.config = config or RiskConfig()
        self._store = event_store
        self._holds: dict[str, Hold] = {}
        self._rejects_in_a_row = 0
        self._taken_back: Counter[str] = Counter()  # entries in a row, by symbol
        self.flow = Flow(self.config)
        # By symbol, "" for the whole account: the venue's reason to refuse, and since when.
        self._refused: dict[str, tuple[str, datetime]] = {}
        self._cleared_at = ""  # when a day's loss was last cleared, as ISO 8601 writes it
        self.state = self.config.state
        if event_store is not None:
            event_store.subscribe(self.apply, {*FLOW_EVENTS, *_FOLDS}, ("strategy.signal",))

    @property
    def holds(self) -> Mapping[str, Hold]:
        return self._holds

    def pre_trade(self, intent: OrderIntent, account: Account, product: Product) -> RiskVerdict:
        """Say whether `intent` may be sent, naming every limit that it would break."""
        if account.reduces(intent):
            return RiskVerdict(intent)  # getting out must always be possible
        self.flow.see(account.marks.values())
        rows = (*self._standing_rows(intent, account), *_order_rows(intent, account, self.config),
                *_market_rows(intent, account, product, self.config),
                *self._flow_rows(intent, account))
        breaches = [_breach(*row[1:], symbol=intent.symbol) for row in rows if row[0]]
        breaches += self._losses(account).values()
        if mark := account.marks.get(intent.symbol):
            would = counted(worst_notional(account, intent.symbol, intent),
                            notional_of_others(account, intent.symbol),
                            intent.quantity * worst_price(intent, mark))
            table = caps(account, product, intent.side, self.config)
            breaches += [cap.breach(would) for cap in table if cap.room(would) < 0]
        return RiskVerdict(intent, tuple(breaches))

    def post_trade(self, account: Account) -> list[Breach]:
        """Check what we already hold; a breach turns the trading state and is an event."""
        rejects, (reason, _) = self._rejects_in_a_row, self._refused.get("", ("", None))
        ratio, runaway = _margin_ratio(account), self.flow.runaway
        self.flow.see(account.marks.values())
        rows = (
            # kind of hold, turned when, code, measured, allowed, message, unit
            ("rejects", rejects >= REJECTS_IN_A_ROW_MAX, "REPEATED_REJECTS", rejects,
             REJECTS_IN_A_ROW_MAX - 1, "Repeated rejects of entries by the venue", "in a row"),
            ("refusal", reason, "ACCOUNT_REFUSED", reason, "none",
             "The venue refuses the account (look there, then resume)"),
            ("entries", runaway, "ENTRIES_EXCEEDED", lambda: f"one more in {runaway}", "none",
             "Too many entries within an hour (look why, then resume)", "",
             "max_entries_per_hour"),
            ("liquidation_distance", ratio < MARGIN_RATIO_MIN, "LIQUIDATION_NEAR", ratio,
             MARGIN_RATIO_MIN, "Margin nears liquidation (add funds or close something)",
             "x the liquidation threshold"),
        )
        found = self._losses(account)
        found |= {row[0]: _breach(*row[2:]) for row in rows if row[1]}
        for kind, breach in found.items():
            self.hold(kind, TradingState.REDUCING, str(breach), daily_loss=account.daily_loss,
                      margin=account.margin and account.margin.figures)
        return list(found.values())

    def activate_kill_switch(self, reason: str) -> None:
        """Halt until `perps-bot resume`: no increase of exposure, whatever happens."""
        self.hold("kill_switch", TradingState.HALTED, reason)

    def hold(self, kind: str, state: TradingState, reason: str, **measured: object) -> None:
        """Take one more reason not to trade freely; one that is already held changes nothing."""
        held = self._holds.get(kind)
        if held is None or held.state.severity < state.severity:
            self._change(kind, state, reason, **measured)

    def lift(self, kind: str, reason: str) -> bool:
        """Drop one hold; False when it was not held."""
        if kind not in self._holds:
            return False
        self._change(kind, TradingState.TRADING, reason)
        return True

    def resume(self, reason: str, today: date, clear_daily_loss: bool = False,
               pnl: Decimal | None = None) -> list[str]:
        """Lift every hold but those of the settings; return their kinds.

        Raises ConfigError without a reason, or while today's daily loss holds and nobody said
        that it may be cleared, which is possible once a day; cleared, it counts from `pnl` on,
        the ledger's P&L of now.
        """
        if not reason.strip():
            raise ConfigError("resume needs a reason: perps-bot resume --reason 'what was checked'")
        self._refuse_within_the_day(today, clear_daily_loss)
        kinds = [kind for kind in self._holds if kind not in AS_SET]
        for kind in kinds:
            clears = kind == "daily_loss" and clear_daily_loss
            self._change(kind, TradingState.TRADING, f"resumed: {reason}", clears_loss=clears,
                         **({"pnl": pnl} if clears else {}))
        return kinds

    def _refuse_within_the_day(self, today: date, clears: bool) -> None:
        loss, cleared = self._holds.get("daily_loss"), self._cleared_at
        if not loss or loss.at is not None and loss.at.date() < today:
            return
        if cleared[:10] >= today.isoformat():
            way_out = f"; --clear-daily-loss was used today already, at {cleared[11:19]} UTC"
        elif clears:
            return
        else:
            way_out = " or add --clear-daily-loss"
        raise ConfigError(f"the daily loss limit was hit today ({loss.reason}): wait for the next "
                          f"UTC day{way_out}")

    def apply(self, event: Event) -> None:
        """Fold one event into the trading state."""
        self.flow.apply(event)
        if fold := _FOLDS.get(event.type):
            fold(self, event.at, event.data)

    def snapshot(self) -> dict[str, object]:
        holds = {kind: {"state": h.state, "reason": h.reason, "at": h.at}
                 for kind, h in self._holds.items()}
        return {"rejects_in_a_row": self._rejects_in_a_row, "holds": holds,
                "refused": dict(self._refused), "taken_back": dict(self._taken_back),
                "flow": self.flow.snapshot(), "cleared_at": self._cleared_at}

    # The table of what is refused, in four parts.  Each row:
    # refused when, code, measured, allowed, message, unit, setting
    # What has to be put together is a function, or names the {symbol}: hardly a row is told.

    def _standing_rows(self, intent: OrderIntent, account: Account) -> tuple[tuple, ...]:
        """What stands against an increase, whatever it is."""
        state, symbol, now = self.state, intent.symbol, account.at
        allowed = self.config.symbols
        reason, since = self._refused.get("") or self._refused.get(symbol, ("", now))
        return (
            (intent.purpose is not Purpose.ENTRY, "NOT_REDUCING", "an increase", "a reduction",
             "A stop or exit may only shrink the position"),
            (state is not TradingState.TRADING, f"STATE_{state}", state, "TRADING",
             self._why_held, "", "trading state"),
            (allowed is not None and symbol not in allowed, "SYMBOL_NOT_ALLOWED", symbol,
             lambda: " ".join(allowed), "The symbol is not among those to trade", "", "symbols"),
            (reason and abs(now - since) < timedelta(minutes=PAUSE_MINUTES), "SYMBOL_PAUSED",
             reason, "none", lambda: f"The venue refused {symbol} at {since:%H:%M:%S} UTC; "
             f"entries pause for {PAUSE_MINUTES} minutes"),
        )

    def _why_held(self) -> str:
        held = ", ".join(f"{kind} ({hold.reason})" for kind, hold in self._holds.items())
        return (f"Trading is {self.state} because of {held or 'the settings'}; "
                "perps-bot resume --reason lifts it")

    def _flow_rows(self, intent: OrderIntent, account: Account) -> tuple[tuple, ...]:
        """What was sent and traded lately; each count includes this order."""
        limits, flow, symbol, now = self.config, self.flow, intent.symbol, account.at
        in_symbol, in_all = (flow.orders_in_minute(now, s) + 1 for s in (symbol, None))
        messages, entries = flow.messages_in_second(now) + 1, flow.entries_in_hour(symbol, now) + 1
        moved, repeated = flow.moved(symbol, now), flow.repeats(intent, now)
        turnover, base = ZERO, limits.max_position or INFINITY
        if symbol in account.marks:
            turnover = turnover_with(flow.traded(symbol), intent, account)
        minute, second, hour = (limits.max_orders_per_minute_per_symbol,
                                limits.max_messages_per_second, limits.max_entries_per_hour)
        return (
            (in_symbol > minute, "ORDER_THROTTLED", in_symbol, minute,
             "Too many entries in {symbol}", "a minute", "max_orders_per_minute_per_symbol"),
            (in_all > limits.max_orders_per_minute, "ORDERS_THROTTLED", in_all,
             limits.max_orders_per_minute, "Too many entries", "a minute",
             "max_orders_per_minute"),
            (messages > second, "MESSAGES_THROTTLED", messages, second,
             "Too many orders at once", "a second", "max_messages_per_second"),
            (entries > hour, "ENTRIES_EXCEEDED", entries, hour,
             "Too many entries in {symbol} within an hour", "an hour", "max_entries_per_hour"),
            (repeated < limits.duplicate_window_seconds, "DUPLICATE_ORDER", repeated,
             lambda: f"from {limits.duplicate_window_seconds:f}", "The same order was just sent",
             "s ago", "duplicate_window_seconds"),
            (moved, "MARK_MOVED", moved, limits.max_mark_move_pct,
             "The mark of {symbol} jumped; entries pause for 5 minutes",
             "of the price within a minute", "max_mark_move_pct"),
            (turnover > limits.max_daily_turnover * base, "TURNOVER_EXCEEDED", turnover / base,
             limits.max_daily_turnover, "Too much traded in {symbol} today", "x max_position",
             "max_daily_turnover"),
        )

    def _losses(self, account: Account) -> dict[str, Breach]:
        """The losses that end entries, by kind of hold."""
        limits, flow = self.config, self.flow
        loss, base = account.daily_loss, account.day_start_equity
        # With nothing to measure it against, any loss counts as all of it.
        share = loss / base if base > 0 else Decimal(loss > 0)
        flow.curve.see(loss)
        drawdown, streak = flow.curve.drawdown, limits.max_losses_in_a_row or INFINITY
        rows = (
            ("daily_loss", share >= limits.max_daily_loss_pct, "DAILY_LOSS_EXCEEDED", share,
             limits.max_daily_loss_pct,
             "Daily loss exceeds limit (wait for the next UTC day, then resume)",
             "of day-start equity", "max_daily_loss_pct"),
            ("drawdown", drawdown >= limits.max_drawdown_pct, "DRAWDOWN_EXCEEDED", drawdown,
             limits.max_drawdown_pct, "Drawdown exceeds limit (look why, then resume)",
             "of the highest equity of 30 days", "max_drawdown_pct"),
            ("losses", flow.losses >= streak, "LOSING_STREAK", flow.losses, streak,
             "Losing round trips in a row reach the limit (look why, then resume)", "in a row",
             "max_losses_in_a_row"),
        )
        return {row[0]: _breach(*row[2:]) for row in rows if row[1]}

    def _change(self, kind: str, state: TradingState, reason: str, **more: object) -> None:
        data = {"kind": kind, "state": state, "reason": reason, **more}
        if self._store is None:
            self._fold_change(None, data)
        else:
            self._store.append("state.changed", before=self.state, **data)

    def _fold_change(self, at: datetime | None, data: Mapping) -> None:
        kind, state = data["kind"], TradingState(data["state"])
        if at and data.get("clears_loss"):
            self._cleared_at = at.isoformat()
        if state is TradingState.TRADING:
            self._holds.pop(kind, None)
        else:
            self._holds[kind] = Hold(state, data["reason"], at)
        if state is TradingState.TRADING:
            self.flow.forgive(kind)
        self._sum_up()
        if kind == "rejects":
            self._rejects_in_a_row = 0
        elif kind == "refusal":
            self._refused.pop("", None)

    def _sum_up(self) -> None:
        states = (self.config.state, *(hold.state for hold in self._holds.values()))
        self.state = max(states, key=attrgetter("severity"))

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
            self._count_taken_back(at, data)

    def _count_taken_back(self, at: datetime, data: Mapping) -> None:
        """An entry that ended unfilled, and not because we asked for it, counts until one fills."""
        symbol = data["symbol"]
        if Decimal(data["filled_quantity"]):
            del self._taken_back[symbol]
        elif data["status"] == OrderStatus.CANCELLED and not data.get("asked"):
            self._taken_back[symbol] += 1
            if self._taken_back[symbol] >= TAKEN_BACK_MAX:
                self._refused[symbol] = "entries taken back", at

    def _fold_day(self, _: datetime, data: Mapping) -> None:
        if "risk" in data["snapshot"]:
            self._restore(data["snapshot"]["risk"])

    def _restore(self, data: Mapping) -> None:
        self._rejects_in_a_row = data["rejects_in_a_row"]
        self._holds = {
            kind: Hold(TradingState(h["state"]), h["reason"], moment(h["at"]))
            for kind, h in data["holds"].items()
        }
        self._sum_up()
        self._taken_back = Counter(data.get("taken_back", {}))
        self._cleared_at = data.get("cleared_at", "")
        refused = data.get("refused", {}).items()
        self._refused = {symbol: (why, moment(at)) for symbol, (why, at) in refused}


_FOLDS = {
    "state.changed": LiveRiskManager._fold_change,
    "order.updated": LiveRiskManager._fold_answer,
    "day.opened": LiveRiskManager._fold_day,
}


def _order_rows(
    intent: OrderIntent, account: Account, limits: RiskConfig
) -> tuple[tuple, ...]:
    """What position and orders have against an increase; rows as in LiveRiskManager."""
    symbol = intent.symbol
    ours = [order for order in account.outstanding if order.symbol == symbol]
    unknown = [o for o in account.outstanding if o.status is OrderStatus.UNKNOWN]
    unknown_here = [order.id for order in unknown if order.symbol == symbol]
    crossing = crossed(intent, account) if limits.no_self_cross else []
    return (
        (intent.quantity <= 0, "QUANTITY_NOT_POSITIVE", intent.quantity, "above 0",
         "The order has no size"),
        (intent.side is Side.SELL and not limits.enable_shorts, "SHORTS_DISABLED", "a short",
         "longs", "Shorts are not enabled", "", "enable_shorts"),
        (account.position(symbol).quantity * intent.side.sign < 0, "POSITION_OPPOSED",
         "an order through flat", "an exit first", "One order must not flip a position"),
        (account.equity <= 0, "EQUITY_NOT_POSITIVE", account.equity, "above 0",
         "No equity to trade with", "USD"),
        (unknown_here, "OUTCOME_UNKNOWN", lambda: " ".join(unknown_here), "none",
         "An order in {symbol} has an unknown outcome"),
        (len(unknown) > limits.max_unknown_orders, "UNKNOWN_ORDERS_EXCEEDED", len(unknown),
         limits.max_unknown_orders, "Too many orders have an unknown outcome", "orders",
         "max_unknown_orders"),
        (len(ours) >= limits.max_open_orders, "OPEN_ORDERS_EXCEEDED", len(ours) + 1,
         limits.max_open_orders, "Too many open orders in {symbol}", "orders",
         "max_open_orders"),
        (crossing, "SELF_CROSS", lambda: " ".join(crossing), "none",
         "The order could trade with one of our own", "", "no_self_cross"),
    )


def _market_rows(
    intent: OrderIntent, account: Account, product: Product, limits: RiskConfig
) -> tuple[tuple, ...]:
    """What mark, session and contract have against an increase; rows as in LiveRiskManager."""
    symbol, mark = intent.symbol, account.marks.get(intent.symbol)
    ends = product.closes_at, product.expires_at
    closes_in, expires_in = (seconds_of(end - account.at) if end else INFINITY for end in ends)
    minutes, days = closes_in / 60, expires_in / 86_400
    contracts, most = intent.quantity / product.contract_size, limits.most_contracts(product)
    rows = (
        (not (product.tradable and product.is_session_open), "PRODUCT_NOT_TRADABLE",
         "closed or restricted", "open",
         f"The venue takes no orders in {symbol} now{product.note and f' ({product.note})'}"),
        (minutes <= CLOSING_MINUTES, "CLOSING_SOON", minutes, f"above {CLOSING_MINUTES}",
         "The market of {symbol} closes soon", "minutes"),
        (days <= EXPIRY_DAYS, "EXPIRING_SOON", days, f"above {EXPIRY_DAYS}",
         "The contract of {symbol} expires soon", "days"),
        (contracts > most, "ORDER_SIZE_EXCEEDED", contracts, most,
         "Order size exceeds limit (reduce the size or set max_order_qty)", "contracts",
         "max_order_qty"),
        (mark is None, "NO_MARK", "none", "a fresh mark",
         "No mark price for symbol {symbol}: check the venue, the spelling, the mark cache"),
    )
    return rows + (_price_rows(intent, mark, account.at, product, limits) if mark else ())


def _price_rows(
    intent: OrderIntent, mark: Mark, now: datetime, product: Product, limits: RiskConfig
) -> tuple[tuple, ...]:
    """What the quote has against an increase; rows as in LiveRiskManager."""
    is_market = intent.order_type is OrderType.MARKET
    age, old, older = (age_seconds(mark, now), limits.mark_staleness_seconds_max,
                       limits.quote_staleness_seconds_max)
    # A market order's price is bounded by the spread; a limit that waits far away hurts nobody.
    away = ZERO if is_market else (reach(intent, mark) - mark.price) * intent.side.sign
    apart = mark.ask - mark.bid
    apart_max = max(limits.max_spread_pct * mark.price, SPREAD_TICKS * product.price_increment)
    takes, there = limits.max_top_of_book_pct, depth(intent, mark)
    return (
        (age > old, "STALE_MARK", age, old, "Mark price is stale (check the market data "
         "and the clock)", "s", "mark_staleness_seconds_max"),
        (is_market and age > older, "STALE_QUOTE", age, older,
         "The quote is too old for a market order", "s", "quote_staleness_seconds_max"),
        (is_market and apart > apart_max, "SPREAD_TOO_WIDE", apart, apart_max,
         "Bid and ask of {symbol} are too far apart for a market order", "USD",
         "max_spread_pct"),
        (away > limits.price_collar_pct * mark.price, "PRICE_COLLAR_EXCEEDED",
         lambda: away / mark.price, limits.price_collar_pct,
         "The order's price lies too far beyond the mark", "of the mark", "price_collar_pct"),
        (is_market and intent.quantity > takes * there, "TOP_OF_BOOK_EXCEEDED",
         lambda: intent.quantity / there if there else INFINITY, takes,
         "Too little is offered in {symbol} at the best price (lower --max-position)",
         "of the size there", "max_top_of_book_pct"),
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
    margin = account.margin
    ratio = None if margin is None else margin.ratio
    return INFINITY if ratio is None else ratio


def _breach(
    code: str, measured: object, allowed: object, message: object, unit: str = "",
    setting: str = "", symbol: str = "",
) -> Breach:
    said = f"Risk check failed: {_text(message).replace('{symbol}', symbol)}"
    return Breach(code, setting, _text(measured), _text(allowed), unit, said)


def _text(value: object) -> str:
    value = value() if callable(value) else value
    if not isinstance(value, Decimal):
        return str(value)
    text = f"{value:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""The rig of the controls: a hundred thousand intents, and limits that are off by one."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import intents
from test_controls import GATE

PACKAGE = Path(__file__).resolve().parent.parent / "perps_bot"
INTENTS = 100_000
EDGE_MIN = 20  # how often each step beside each limit is met, at least
# What is no limit on a number, and what only the account as a whole can be past.
ELSEWHERE = {"ACCOUNT_REFUSED", "EQUITY_NOT_POSITIVE", "LIQUIDATION_NEAR", "NOT_REDUCING",
             "NO_MARK", "PRODUCT_NOT_TRADABLE", "QUANTITY_NOT_POSITIVE", "REPEATED_REJECTS",
             "STATE_HALTED", "STATE_REDUCING", "SYMBOL_PAUSED"}
# These have a yes and a no.
SWITCHES = {"OUTCOME_UNKNOWN", "POSITION_OPPOSED", "SHORTS_DISABLED", "SYMBOL_NOT_ALLOWED"}


def test_a_hundred_thousand_intents_are_judged_exactly():
    """I-6 to I-9, with every limit at one step below, at it, and one step past it."""
    counts = intents.hold(INTENTS, 1)
    assert counts.wrong == []
    assert counts.intents == INTENTS and counts.passed > INTENTS // 20
    assert counts.reductions > INTENTS // 100
    assert set(counts.refused) == GATE - ELSEWHERE
    for code in counts.refused:
        for step in (0, 1) if code in SWITCHES else (-1, 0, 1):
            assert counts.edges[code, step] >= EDGE_MIN, (code, step)


# A limit that is off by one

CAPS = ("POSITION_VALUE_EXCEEDED ORDER_VALUE_EXCEEDED POSITION_SHARE_EXCEEDED EXPOSURE_EXCEEDED "
        "LEVERAGE_EXCEEDED STOP_BEYOND_LIQUIDATION")
MUTANTS = [
    # room, what stands there, what is planted, the code whose limit it is
    ("risk", "in_symbol, in_all = (flow.orders_in_minute(now, s) + 1 ",
     "in_symbol, in_all = (flow.orders_in_minute(now, s) ", "ORDER_THROTTLED ORDERS_THROTTLED"),
    ("risk", "(in_symbol > minute,", "(in_symbol >= minute,", "ORDER_THROTTLED"),
    ("risk", "(in_all > limits.max_orders_per_minute,", "(in_all >= limits.max_orders_per_minute,",
     "ORDERS_THROTTLED"),
    ("risk", "flow.messages_in_second(now) + 1", "flow.messages_in_second(now)",
     "MESSAGES_THROTTLED"),
    ("risk", "(messages > second,", "(messages >= second,", "MESSAGES_THROTTLED"),
    ("risk", "flow.entries_in_hour(symbol, now) + 1", "flow.entries_in_hour(symbol, now)",
     "ENTRIES_EXCEEDED"),
    ("risk", "(entries > hour,", "(entries >= hour,", "ENTRIES_EXCEEDED"),
    ("risk", "(repeated < limits.duplicate_window_seconds,",
     "(repeated <= limits.duplicate_window_seconds,", "DUPLICATE_ORDER"),
    ("risk", "(turnover > limits.max_daily_turnover * base,",
     "(turnover >= limits.max_daily_turnover * base,", "TURNOVER_EXCEEDED"),
    ("risk", "share >= limits.max_daily_loss_pct,", "share > limits.max_daily_loss_pct,",
     "DAILY_LOSS_EXCEEDED"),
    ("risk", "drawdown >= limits.max_drawdown_pct,", "drawdown > limits.max_drawdown_pct,",
     "DRAWDOWN_EXCEEDED"),
    ("risk", "flow.losses >= streak,", "flow.losses > streak,", "LOSING_STREAK"),
    ("risk", "len(unknown) > limits.max_unknown_orders",
     "len(unknown) >= limits.max_unknown_orders", "UNKNOWN_ORDERS_EXCEEDED"),
    ("risk", "len(ours) >= limits.max_open_orders", "len(ours) > limits.max_open_orders",
     "OPEN_ORDERS_EXCEEDED"),
    ("risk", "(minutes <= CLOSING_MINUTES,", "(minutes < CLOSING_MINUTES,", "CLOSING_SOON"),
    ("risk", "(days <= EXPIRY_DAYS,", "(days < EXPIRY_DAYS,", "EXPIRING_SOON"),
    ("risk", "(contracts > most,", "(contracts >= most,", "ORDER_SIZE_EXCEEDED"),
    ("risk", "(age > old,", "(age >= old,", "STALE_MARK"),
    ("risk", "(is_market and age > older,", "(is_market and age >= older,", "STALE_QUOTE"),
    ("risk", "(is_market and apart > apart_max,", "(is_market and apart >= apart_max,",
     "SPREAD_TOO_WIDE"),
    ("risk", "(away > limits.price_collar_pct", "(away >= limits.price_collar_pct",
     "PRICE_COLLAR_EXCEEDED"),
    ("risk", "intent.quantity > takes * there", "intent.quantity >= takes * there",
     "TOP_OF_BOOK_EXCEEDED"),
    ("risk", "if cap.room(would) < 0]", "if cap.room(would) <= 0]",
     CAPS),
    ("risk", "(account.position(symbol).quantity * intent.side.sign < 0,",
     "(account.position(symbol).quantity * intent.side.sign <= 0,", "POSITION_OPPOSED"),
    ("limits", "o.intent.limit_price) * intent.side.sign >= 0]",
     "o.intent.limit_price) * intent.side.sign > 0]", "SELF_CROSS"),
    ("limits", "return traded + intent.quantity * worst_price(intent, mark) + sum(",
     "return traded + sum(", "TURNOVER_EXCEEDED"),
    ("limits", "max(abs(held + filled[Side.BUY]), abs(held - filled[Side.SELL]))",
     "abs(held + filled[Side.BUY] - filled[Side.SELL])", CAPS),
    ("limits", "return max(mark.price, mark.bid, mark.ask)", "return mark.price",
     CAPS),
    ("flow", "if highest > lowest * (1 +", "if highest >= lowest * (1 +", "MARK_MOVED"),
    ("flow", "abs(mark.at - kept[0].at) > MINUTE", "abs(mark.at - kept[0].at) >= MINUTE",
     "MARK_MOVED"),
    ("flow", "if abs(now - at) < MOVE_PAUSE", "if abs(now - at) <= MOVE_PAUSE", "MARK_MOVED"),
    ("flow", "abs(now - at) < SECOND", "abs(now - at) <= SECOND", "MESSAGES_THROTTLED"),
    ("flow", "abs(now - entry.at) < HOUR", "abs(now - entry.at) <= HOUR", "ENTRIES_EXCEEDED"),
    ("flow", "abs(now - entry.at) < span", "abs(now - entry.at) <= span",
     "ORDER_THROTTLED ORDERS_THROTTLED"),
    ("flow", "and not entry.is_over", "", "DUPLICATE_ORDER"),
    ("flow", '"entries": entries, ', '"entries": {}, ',
     "DUPLICATE_ORDER ENTRIES_EXCEEDED ORDER_THROTTLED ORDERS_THROTTLED"),
    ("flow", '"order.intended": Flow._fold_intent,', "", "ORDER_THROTTLED MESSAGES_THROTTLED"),
    ("flow", '"risk.rejected": Flow._fold_refusal,', "", "MARK_MOVED"),
    ("flow", '"strategy.signal": Flow._fold_signal,', "", "DRAWDOWN_EXCEEDED"),
    ("flow", 'Decimal(data["level"])', "Decimal(1)", "DRAWDOWN_EXCEEDED"),
    ("flow", 'self.runaway, self.losses = data["runaway"], data["losses"]',
     'self.runaway, self.losses = data["runaway"], 0', "LOSING_STREAK"),
    ("flow", "self._trips.pop(symbol) < 0", "self._trips.pop(symbol) <= 0", "LOSING_STREAK"),
    ("flow", '"trips": dict(self._trips), ', '"trips": {}, ', "LOSING_STREAK"),
    ("flow", ' - Decimal(data["fee"])', "", "LOSING_STREAK"),
    ("flow", "self._traded = {}\n        equity", "equity", "TURNOVER_EXCEEDED"),
    ("flow", "self._base, self._loss, self._start = self.level, ZERO, start",
     "self._base, self._loss, self._start = Decimal(1), ZERO, start", "DRAWDOWN_EXCEEDED"),
]
# So many intents are asked about at most until a planted mistake must have been found.
MUTANT_INTENTS = 25_000


@pytest.mark.parametrize("room, old, new, codes", MUTANTS)
def test_a_limit_that_is_off_by_one_is_found(room, old, new, codes):
    counts = intents.hold(MUTANT_INTENTS, 3, mutated(room, old, new))
    assert counts.wrong, f"{counts.intents} intents found nothing"
    assert any(code in line for line in counts.wrong for code in codes.split())


def mutated(room, old, new):
    """The gate with one change in one of its rooms; nobody else sees it."""
    kept, names = {}, ("limits", "flow", "risk")  # each is written in those before it
    for name in names:
        source = (PACKAGE / f"{name}.py").read_text("utf-8")
        if name == room:
            assert source.count(old) == 1, old
            source = source.replace(old, new)
        full = f"perps_bot.{name}"
        kept[full] = sys.modules[full]
        module = sys.modules[full] = ModuleType(full)
        exec(compile(source, f"{name} with {new}", "exec"), module.__dict__)
    sys.modules.update(kept)
    return module


def test_the_rows_with_a_number_have_all_been_planted():
    planted = {code for *_, codes in MUTANTS for code in codes.split()}
    assert planted >= GATE - ELSEWHERE - SWITCHES

"""Shutdown: how does a run end?

A signal ends it in good order: entries are cancelled and seen gone, exits and stops finished,
positions kept behind their stops, and what is left is reported.  Nothing is opened here, and
nothing is called gone that the venue did not show to be gone.
"""

import signal
from datetime import timedelta
from decimal import Decimal
from typing import Any

from perps_bot.confirmed import order_lines
from perps_bot.errors import PerpsBotError
from perps_bot.model import ZERO, Order, OrderStatus, Purpose, TradingState
from perps_bot.settings import same_run

# How often, how many times and for how long it looks whether its cancels are confirmed.
LOOK_EVERY_SECONDS, STOP_LOOKS_MAX = Decimal("0.5"), 40
STOP_FOR = timedelta(seconds=20)
# Three interrupts within so many looks end the process at once.
IMPATIENT_LOOKS_MAX = 20


def stop(bot: Any, clock: Any, number: int | None) -> int:
    """End in good order: entries cancelled and confirmed, stops left, the truth reported."""
    name, interrupts = signal.Signals(number).name, 0
    clock.heed()
    ends_at = clock.now() + STOP_FOR
    bot.service.stopping(f"{name}: cancelling entries, keeping protective stops")
    bot.say(f"{name}: cancelling entries, keeping protective stops")
    entries = [order.id for order in bot.engine.entries()]
    for look in range(STOP_LOOKS_MAX):
        bot.store.now = clock.now()
        interrupts += _halts(bot, number)
        left, bare = _wind_down(bot)
        is_impatient = interrupts >= 3 and look < IMPATIENT_LOOKS_MAX
        if not (left or bare) or is_impatient or clock.now() >= ends_at:
            break
        number = clock.wait(LOOK_EVERY_SECONDS)
    _heed_late(bot, clock)  # what came during the last look
    code = 3 if left or bare else 0
    record_end(bot, name, code, left)
    _heed_late(bot, clock)  # and while that was written, which a slow disk makes seconds
    for line in order_lines(bot.engine, entries):
        bot.say(line)
    _report_stop(bot, left, bare, code)
    bot.message, bot.is_over = f"stopped by {name}", True
    bot.publish(bot.store.now)
    return code


def record_end(bot: Any, reason: str, code: int, left: list[Order]) -> None:
    """Write down how a run ended, and with what behind it."""
    if bot.is_started:
        positions = {s: p.quantity for s, p in bot.tracker.positions().items()}
        bot.store.append(
            "bot.stopped", reason=reason, exit_code=code, orders_left=[o.id for o in left],
            positions=positions, stops={s: bot.protector.stop_price(s) for s in positions})


def _halts(bot: Any, number: int | None) -> bool:
    """Heed a signal that came while a stop is under way; True for an interrupt."""
    if number == signal.SIGINT and bot.settings.profile != "dev":
        bot.risk.hold("signal", TradingState.HALTED, "kill -INT")
    return number == signal.SIGINT


def _heed_late(bot: Any, clock: Any) -> None:
    for _ in range(STOP_LOOKS_MAX):
        if (number := clock.wait(ZERO)) is None:
            return
        _halts(bot, number)


def _wind_down(bot: Any) -> tuple[list[Order], list[str]]:
    """Cancel entries, finish exits and stops; return the orders and the symbols not done with."""
    engine, traded = bot.engine, [s for s in bot.symbols if s not in bot.untraded]
    try:
        if engine.entries():  # what is known to rest goes at once, before anything is asked
            engine.cancel_all()
        else:
            engine.settle()
        if bot.is_started and (failures := bot.work(bot.symbols)):
            raise failures[0]
    except PerpsBotError as failure:
        bot.trouble = str(failure)
        return list(engine.outstanding()), traded
    left = [o for o in engine.outstanding() if _is_unfinished(o, traded)]
    return left, [s for s in traded if not bot.protector.is_protected(s)]


def _is_unfinished(order: Order, traded: list[str]) -> bool:
    """Whether a stop of the process must wait for `order`: entries of any symbol count."""
    rests_as_it_should = order.purpose is Purpose.STOP and order.status is OrderStatus.OPEN
    return order.purpose is Purpose.ENTRY or order.symbol in traded and not rests_as_it_should


def _report_stop(bot: Any, left: list[Order], bare: list[str], code: int) -> None:
    for order in left:
        bot.say(f"NOT confirmed: {order.id} {order.symbol} {order.purpose} is {order.status}")
    for symbol in bare:
        bot.say(f"NOT confirmed: a stop at the venue for {symbol}")
    for symbol, position in bot.tracker.positions().items():
        stop_price = bot.protector.stop_price(symbol) or "NONE"
        bot.say(f"position kept: {symbol} {position.quantity:f}, stop at {stop_price}")
    if bot.risk.state is TradingState.HALTED:
        bot.say(f"HALTED until: perps-bot resume {same_run(bot.settings)} --reason '...'")
    bot.say("stopped: " + ("every entry confirmed gone" if code == 0 else "NOT verified"))

"""Confirmed: what did the venue say of each order and position?

Lines for the owner, after an emergency.  What was not read is said to be unknown, and what our
books say of it is said to be theirs.  Nothing is asked here and nothing is decided.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from perps_bot.mailbox import Answer
from perps_bot.settings import same_run

DONE, REFUSED, NOT_VERIFIED, UNKNOWN = 0, 2, 3, 4


def answer_of(task: Any, is_done: bool, last: str) -> Answer:
    """What came of a task of `control`: a line for each thing, and the exit code that says so."""
    bot = task.bot
    if not is_done:
        last = f"{last}: {'; '.join(_troubles(task)) or 'not confirmed in the time there is'}"
    lines = [f"{bot.risk.state}: {task.request.args['reason']}",
             *order_lines(bot.engine, bot.control.touched), *_foreign_lines(task),
             *_position_lines(task)]
    if not bot.store.writable:
        trouble = bot.store.trouble.replace(f"{bot.folder}/", "")  # an answer is an event, too
        lines.append(f"the halt is NOT in the events: {trouble}")
    lines.append(last)
    if bot.folder is not None:
        lines.append(f"{bot.risk.state} until: perps-bot resume {same_run(bot.settings)} "
                     f"--reason '...'")
    code = UNKNOWN if not task.is_read else DONE if is_done else NOT_VERIFIED
    return Answer(code, "\n".join(lines))


def order_lines(engine: Any, identities: Iterable[str]) -> Iterator[str]:
    """What became of each order of ours, as the venue told it last."""
    for order in filter(None, map(engine.orders.get, identities)):
        price = f" at {order.average_price:f}" if order.average_price else ""
        filled = f", {order.filled_quantity:f} filled{price}" if order.filled_quantity else ""
        yield (f"{order.symbol} {order.purpose} {order.id} {order.side} {order.quantity:f}: "
               f"{order.status}{filled}")


def _troubles(task: Any) -> Iterator[str]:
    if task.trouble:
        yield task.trouble
    for symbol in task.symbols if task.bot.is_settled else ():
        if symbol in task.theirs and not task.bot.catalog.get(symbol).is_session_open:
            yield f"the market of {symbol} is closed"


def _foreign_lines(task: Any) -> Iterator[str]:
    """What became of the orders that are not ours."""
    left = {order.venue_order_id for order in task.bot.engine.foreign}
    for identity, order in task.foreign.items():
        said = "gone" if task.is_read and identity not in left else "NOT confirmed gone"
        yield f"{order.symbol} order {identity}, not ours, {order.side}: {said}"


def _position_lines(task: Any) -> Iterator[str]:
    """What is held and what rests beside it; what was not read is not known."""
    bot, books, covered = task.bot, task.bot.tracker, task.symbols
    for symbol in dict.fromkeys((*covered, *books.positions(), *task.theirs)):
        ours, theirs = books.get_position(symbol).quantity, task.theirs.get(symbol)
        stop_price = bot.protector.stop_price(symbol)
        stop = f", stop at {stop_price:f}" if stop_price else ", NO stop of ours"
        if not task.is_read:
            yield f"{symbol} position: unknown; by our books {ours:f}{stop if ours else ''}"
        elif theirs is None:
            yield f"{symbol} position: none"
        else:
            beside = "" if symbol in covered else ", not covered"
            yield f"{symbol} position: {theirs.quantity:f}{stop}{beside}"
    for order in bot.engine.foreign if task.is_read else ():
        if order.symbol not in covered:
            yield f"{order.symbol} order {order.venue_order_id}, not ours: not covered"

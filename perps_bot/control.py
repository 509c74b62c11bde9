"""Control: what is done about what the owner asks, and what came of it?

`halt`, `resume` and `close-all`, between two ticks: each request is done once and answered with
what the venue confirmed.  A halt holds before anything else is tried, whether or not the venue or
the disk can be reached.  Nothing is opened here, and nothing is called gone or flat that a read
did not show to be.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from perps_bot.confirmed import DONE, NOT_VERIFIED, REFUSED, answer_of
from perps_bot.errors import ConfigError, OutcomeUnknown, PerpsBotError, VenueUnavailable
from perps_bot.mailbox import Answer, Mailbox, Request
from perps_bot.model import Event, Order, Position, TradingState
from perps_bot.reconcile import GONE_UNEXPLAINED

# How long a request is good for; of one that halts, the halt stays good.
REQUEST_AGE_MAX = timedelta(seconds=60)
# How often and how long the venue is looked at; alone: where no loop goes on with it.
LOOK_SECONDS, LOOKS_MAX = Decimal("0.5"), 200
LOOK_FOR, LOOK_FOR_ALONE = timedelta(seconds=8), timedelta(seconds=80)
QUEUED_AGE_MAX = timedelta(days=5)  # a weekend with a holiday on either side
ANSWERS_MAX, ORDERS_MAX = 100, 500  # that are remembered, and that one answer tells of


class Control:
    """What was asked of one bot, as a fold over its events, and what is asked now.

    mailbox   None where requests come by no file
    look_for  how long one request may look at the venue
    answers   by the request's id; None while it is being done
    touched   ids of our orders to which something has happened since the request
    """

    def __init__(self, store: Any, mailbox: Mailbox | None = None, look_for=LOOK_FOR) -> None:
        self.mailbox, self.look_for = mailbox, look_for
        self.answers: dict[str, Answer | None] = {}
        self.touched: dict[str, None] = {}
        store.subscribe(self.apply)

    def obey(self, bot: Any, clock: Any) -> int | None:
        """Do what is asked, if anything is, and answer; return a signal that came meanwhile."""
        if bot.store.writable:
            self.mailbox.forget_what_was_kept()
        request, number = self.mailbox.take(), None
        if request is None:
            return None
        if self.answers.get(request.id) is None:
            number = self.perform(bot, clock, request)
            bot.publish(bot.store.now)
        self.mailbox.give(request, self.answers[request.id], bot.store.writable)
        return number

    def perform(self, bot: Any, clock: Any, request: Request) -> int | None:
        """Do one request and note its answer; return a signal that came meanwhile."""
        bot.store.now = now = clock.now()
        symbols = tuple(request.args.get("symbols", ())) or bot.symbols
        task = _Task(bot, clock, request, symbols, now + self.look_for,
                     is_late=abs(clock.wall() - request.at) > REQUEST_AGE_MAX,
                     was_begun=request.id in self.answers)
        self.touched = dict.fromkeys(order.id for order in bot.engine.entries())
        try:
            bot.store.append("control.requested", required=not request.halts, id=request.id,
                             command=request.command, args=dict(request.args), asked_at=request.at)
            answer = _DO[request.command](task)
        except ConfigError as refusal:
            answer = Answer(REFUSED, str(refusal))
        except PerpsBotError as failure:
            answer = Answer(NOT_VERIFIED, f"not {request.command}d: {failure}")
        bot.store.append("control.answered", id=request.id, command=request.command,
                         exit_code=answer.exit_code, text=answer.text)
        return task.number

    def apply(self, event: Event) -> None:
        data = event.data
        if event.type == "control.requested":
            self.answers.setdefault(data["id"], None)
        elif event.type == "control.answered":
            self.answers[data["id"]] = Answer(data["exit_code"], data["text"])
        elif event.type.startswith("order."):
            self.touched[data["client_order_id"]] = None
        for kept, count_max in ((self.answers, ANSWERS_MAX), (self.touched, ORDERS_MAX)):
            if len(kept) > count_max:
                del kept[next(iter(kept))]


@dataclass
class _Task:
    """One request under way, and what it covers.

    is_late    whether it is older than REQUEST_AGE_MAX
    was_begun  whether an earlier process ended over it
    theirs     the venue's positions as last read
    less_since by symbol, when the venue first showed less than our books hold
    foreign    orders that are not ours, and that were asked to go
    is_read    whether the last look could read orders and positions
    trouble    why the last look did not come to its end
    number     a signal that came
    """

    bot: Any
    clock: Any
    request: Request
    symbols: tuple[str, ...]
    ends_at: datetime
    is_late: bool
    was_begun: bool
    theirs: Mapping[str, Position] = field(default_factory=dict)
    less_since: dict[str, datetime] = field(default_factory=dict)
    foreign: dict[str, Order] = field(default_factory=dict)
    is_read: bool = False
    trouble: str = ""
    number: int | None = None

    def until(self, is_done: Callable[["_Task"], bool]) -> bool:
        """Look until `is_done`; False when the time is over, a signal comes or none can help."""
        for _ in range(LOOKS_MAX):
            self.bot.store.now = self.clock.now()
            self.trouble, self.is_read = "", False
            try:
                if is_done(self):
                    return True
            except PerpsBotError as failure:
                self.trouble = str(failure)
                if isinstance(failure, ConfigError):
                    return False
            if self.clock.now() >= self.ends_at:
                return False
            self.number = self.clock.wait(LOOK_SECONDS)
            if self.number is not None:
                self.trouble = f"interrupted by signal {self.number}"
                return False
        return False

    def look(self) -> bool:
        """Cancel what is known to rest, then read all anew; whether no entry is left."""
        engine = self.bot.engine
        with suppress(VenueUnavailable):  # what is read afterwards says what came of it
            engine.cancel(engine.entries())
        self.bot.make_ready(self.bot.store.now)
        engine.settle()
        self.theirs = engine.broker.positions()
        self.is_read = True
        return not engine.entries()

    def is_flat(self) -> bool:
        """Whether neither the venue nor our books have anything left in what is covered."""
        engine = self.bot.engine
        left = {*self.theirs, *engine.tracker.positions(),
                *(order.symbol for order in (*engine.outstanding(), *engine.foreign))}
        return not (left.intersection(self.symbols) or engine.entries()
                    or any(self.bot.books.moved(s, GONE_UNEXPLAINED) for s in self.symbols)
                    or not self.theirs and self.margin_in_use())

    def strangers(self, also_queued: bool) -> dict[str, Order]:
        """Orders of others in what is covered, by the venue's id.

        also_queued  those, too, that wait for a session: no list of what is open has them
        """
        engine, found = self.bot.engine, list(self.bot.engine.foreign)
        if also_queued:
            found += [order for order in engine.broker.orders(self.bot.store.now - QUEUED_AGE_MAX)
                      if not order.status.is_terminal and engine.orders.find(order.id) is None]
        return {order.venue_order_id: order for order in found if order.symbol in self.symbols}

    def margin_in_use(self) -> Decimal | None:
        """USD that the balance shows: an empty list of positions is believed only beside zero."""
        with suppress(VenueUnavailable):
            self.bot.venue.equity()
            return getattr(self.bot.venue.margin(), "initial", None)
        return None


def _halt(task: _Task) -> Answer:
    """Hold, take back what could open, and say what is left."""
    state = TradingState.REDUCING if task.request.args["reduce_only"] else TradingState.HALTED
    task.bot.risk.hold("operator", state, task.request.args["reason"])
    is_done = task.until(_Task.look)
    return answer_of(task, is_done and task.bot.store.writable,
                     "halted: every entry confirmed gone" if is_done else "NOT verified")


def _resume(task: _Task) -> Answer:
    """Lift what holds; late, or begun by a process that ended over it, it is not done."""
    if task.is_late or task.was_begun:
        why = "a restart came between" if task.was_begun else "it is more than a minute old"
        return Answer(NOT_VERIFIED, f"not resumed: {why}; look at the state and ask again")
    bot, clears = task.bot, task.request.args["clear_daily_loss"]
    cleared = (f"\nthe day's loss was {bot.tracker.daily_loss():.2f} USD of "
               f"{bot.tracker.day_start_equity:.2f} USD, and counts from zero now")
    lifted = bot.risk.resume(task.request.args["reason"], bot.store.now.date(), clears,
                             bot.tracker.pnl())
    if not bot.store.writable:
        return Answer(NOT_VERIFIED, f"not resumed: {bot.store.trouble}")
    if not (clears and "daily_loss" in lifted):
        cleared = "\nno daily loss was held: nothing was cleared" if clears else ""
    said = ", ".join(lifted) or "nothing was held"
    return Answer(DONE, f"resumed: {said}; state {bot.risk.state}{cleared}")


def _close_all(task: _Task) -> Answer:
    """Halt, cancel and close everything in the symbols; late, only the halt is left of it."""
    task.bot.risk.hold("operator", TradingState.HALTED, task.request.args["reason"])
    if task.is_late:
        return Answer(NOT_VERIFIED, "HALTED; nothing was closed: asked over a minute ago")
    if unknown := " ".join(sorted({*task.symbols} - {*task.bot.symbols})):
        return Answer(REFUSED, f"HALTED; nothing was closed: {unknown} is not traded here")
    is_flat, names = task.until(_everything_is_closed), " ".join(task.symbols)
    return answer_of(task, is_flat, f"flat: the venue shows no position and no order in {names}"
                     if is_flat else "NOT flat")


_DO = {"halt": _halt, "resume": _resume, "close-all": _close_all}


def _everything_is_closed(task: _Task) -> bool:
    """One look and, where something is left, one more step: orders first, then positions."""
    bot, engine = task.bot, task.bot.engine
    task.look()
    listed = [s for s in task.symbols if bot.catalog.lists(s)]
    is_flat = task.is_flat()
    strangers = task.strangers(also_queued=is_flat)
    if is_flat and not strangers:
        for symbol in task.symbols:
            bot.catalog.get(symbol)  # what is not listed could not be looked for by its name
        return True
    if bot._observes:
        raise ConfigError(bot._observes)  # no further look can help
    if strangers:
        task.foreign |= strangers
        with suppress(OutcomeUnknown, VenueUnavailable):  # the next look tells
            engine.broker.cancel(list(strangers.values()), bot.store.now)
    for symbol in task.symbols:
        bot.untraded.discard(symbol)
        _take_over(task, symbol)
        if engine.tracker.get_position(symbol).quantity:
            bot.protector.exit(symbol, task.request.args["reason"])
    if failures := bot.work(listed):  # one name that is not holds up no other
        raise failures[0]
    return False


def _take_over(task: _Task, symbol: str) -> None:
    """Bring our books to what the venue holds, so that it is closed whoever opened it."""
    engine = task.bot.engine
    ours, theirs = engine.tracker.get_position(symbol), task.theirs.get(symbol) or Position(symbol)
    is_less = abs(theirs.quantity) < abs(ours.quantity)
    if not is_less:
        task.less_since.pop(symbol, None)
    if ours.quantity == theirs.quantity or not theirs.mark_price.is_finite():
        return
    if not engine.orders.are_told(symbol) or task.bot.books.may_be_old(theirs):
        task.trouble = f"{symbol}: the venue may not show all fills yet: ask again in a minute"
    elif not is_less or _is_gone(task, ours):
        engine.tracker.adopt("position.adopted", theirs)


def _is_gone(task: _Task, ours: Position) -> bool:
    """Whether others' fills, the balance or a minute say so, and no order of ours may tell why."""
    engine, symbol, now = task.bot.engine, ours.symbol, task.bot.store.now
    in_use = task.margin_in_use()
    stands_for = now - task.less_since.setdefault(symbol, now)
    is_missing = stands_for < GONE_UNEXPLAINED or not task.theirs and in_use
    if symbol not in engine.moved_by_others and in_use != 0 and is_missing:
        return False
    engine.cancel(list(engine.outstanding(symbol)))
    return not engine.outstanding(symbol) and engine.tracker.get_position(symbol) == ours

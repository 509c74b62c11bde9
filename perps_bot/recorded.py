"""Recorded: would today's code decide as the bot did on a day that is past?

The events of the day are played, in their order, to the rooms of today.  Before each decision its
room is asked anew, from what was recorded, and both answers are compared field by field; then the
recorded one is folded.  Nothing is sent or written, no rule of trading stands here, and what was
not recorded is counted, never guessed.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from perps_bot import __version__
from perps_bot.bot import assemble
from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.execution import BY_HAND, MODIFIED
from perps_bot.loop import entry_quantity
from perps_bot.model import (
    Account, Action, Candle, Event, Fill, Margin, Mark, Order, OrderIntent, OrderType, Position,
    Product, Purpose, Side, maybe_decimal, maybe_moment, moment,
)
from perps_bot.settings import Settings, recorded_settings, resolve
from perps_bot.store import EventStore, read_events
from perps_bot.tracker import apply_fill

# What is compared of an order that would be sent, and of one that would be refused.
COMPARED = {
    "order.intended": ("symbol", "side", "quantity", "order_type", "purpose", "limit_price",
                       "stop_price", "time_in_force", "expires_at", "attached_stop_price",
                       "reason", "mark_price"),
    "risk.rejected": ("symbol", "side", "quantity", "order_type", "purpose", "limit_price",
                      "reason", "codes", "breaches"),
}
BOOKS = ("quantity", "entry_price", "realized_pnl", "fees", "funding")
# After these, within their tick, the picture that a decision saw may be older than the books.
MOVES = ("trade.executed", "funding.paid", "order.updated", "risk.rejected", "position.adopted",
         "reconcile.mismatch")
WIDTH_MAX = 60  # characters of one side in a line for people


@dataclass(frozen=True)
class Difference:
    """The first decision that differs: by field, what was recorded and what today's code says."""

    seq: int
    at: datetime
    type: str
    symbol: str
    sides: Mapping[str, tuple[object, object]]


@dataclass
class Outcome:
    """What came of one day.

    versions      of the programs that recorded it, where they said so
    reproduced    decisions by kind; not_recorded  those that could not be asked, by what is missing
    """

    path: Path
    profile: str = ""
    events: int = 0
    versions: list[str] = field(default_factory=list)
    reproduced: Counter = field(default_factory=Counter)
    not_recorded: Counter = field(default_factory=Counter)
    difference: Difference | None = None


def find_day(said: str, folder: str | Path | None) -> Path:
    """The file of a day such as 2026-11-23 in `folder`; without one, `said` is the day's file."""
    path = Path(said) if folder is None else Path(folder, f"{said}.jsonl")
    try:
        date.fromisoformat(path.stem)
    except ValueError:
        raise ConfigError(f"--recorded {said}: neither a day such as 2026-11-23 nor a day's file "
                          f"such as data/perps_bot/prod/events/2026-11-23.jsonl") from None
    if not path.is_file():
        days = sorted(each.stem for each in path.parent.glob("????-??-??.jsonl"))
        there = f"there are {days[0]} to {days[-1]}" if days else "there are none"
        raise ConfigError(f"{path}: no events of that day: {there}; see --profile, --dry-run and "
                          f"EVENT_STORE_ROOT")
    return path


def replay_day(path: Path) -> Outcome:
    """Play one day's file, up to its end or to the first decision that differs.

    Raises ConfigError for a file that is damaged, or that this version cannot read.
    """
    outcome, today = Outcome(path), None
    try:
        with closing(_events(path)) as events:
            for event in events:
                outcome.events += 1
                if today is None or event.type == "bot.started":
                    today = _process(path, event)
                _note(outcome, event)
                outcome.difference = _judge(today, event, outcome)
                if outcome.difference:
                    break
                today.play(event)
    except StoreDamaged as damage:
        raise ConfigError(f"{damage}: restore the day from a backup") from damage
    except (KeyError, ArithmeticError) as odd:
        raise ConfigError(f"{path} line {outcome.events}: this version cannot read it "
                          f"({type(odd).__name__} {odd}): use the one that wrote it") from odd
    if today is None:
        raise ConfigError(f"{path}: holds no events yet")
    return outcome


def lines(outcome: Outcome) -> Iterator[str]:
    """Say it for people."""
    versions = " and ".join(outcome.versions) or "a version that is not said"
    yield (f"{outcome.path.stem}, profile {outcome.profile or 'not said'}, {outcome.events:,} "
           f"events, recorded by {versions}, replayed by {__version__}")
    for kind, (what, _) in JUDGES.items():
        if outcome.reproduced[kind]:
            yield f"{'reproduced':<14}{outcome.reproduced[kind]:>9,}  {what}"
    for what, count in outcome.not_recorded.items():
        yield f"{'not recorded':<14}{count:>9,}  {what}"
    found = outcome.difference
    if found is None:
        is_whole = not outcome.not_recorded
        yield f"every decision {'' if is_whole else 'that could be asked '}was reproduced"
        return
    yield (f"the first that differs: seq {found.seq}, {found.at.isoformat()}, {found.type}"
           f"{found.symbol and f' of {found.symbol}'}")
    yield f"  {'field':<20}{'recorded':<{WIDTH_MAX}}  today"
    for name, sides in found.sides.items():
        recorded, today = (_shown(side) for side in sides)
        yield f"  {name:<20}{recorded:<{WIDTH_MAX}}  {today}"


def values(outcome: Outcome) -> dict[str, object]:
    """The same for a script."""
    found = outcome.difference
    return {
        "day": outcome.path.stem, "file": str(outcome.path), "profile": outcome.profile,
        "events": outcome.events, "recorded_by": outcome.versions, "replayed_by": __version__,
        "reproduced": {kind: outcome.reproduced[kind] for kind in JUDGES},
        "not_recorded": dict(outcome.not_recorded),
        "difference": found and {
            "seq": found.seq, "at": found.at, "type": found.type, "symbol": found.symbol,
            "fields": {name: {"recorded": recorded, "today": today}
                       for name, (recorded, today) in found.sides.items()}},
    }


class _Missing(Exception):
    """What a decision rested on, and its event does not carry."""


class _Said(Exception):
    """Today's code would write this event now, and send or refuse an order with it."""

    def __init__(self, type: str, data: Mapping) -> None:
        super().__init__(type)
        self.type, self.data = type, data


class _Tape(EventStore):
    """Plays what was recorded; what today's code would write is only heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Mapping] = []

    def play(self, event: Event) -> None:
        self.now = event.at
        self._dispatch(event, self._recovers)

    def wants(self, type: str) -> bool:
        return True

    def append(self, type: str, required=False, noun: object = None, **data: object) -> Event:
        if type in COMPARED:
            raise _Said(type, data)  # before anything can be sent
        self.heard.append(data)
        return Event(0, self.now, type, data)


class _Readings:
    """The venue's answers, as one event carries them."""

    revision = None

    def __init__(self) -> None:
        self._saw: Mapping = {}
        self._products: dict[str, Product] = {}

    def take(self, symbol: str, saw: Mapping) -> dict[str, Mark]:
        self._saw, self._products[symbol] = saw, _restored(Product, saw["product"])
        return {symbol: _restored(Mark, mark) for symbol, mark in saw["marks"].items()}

    def products(self) -> list[Product]:
        return list(self._products.values())

    def product(self, symbol: str) -> Product | None:
        return self._products.get(symbol)

    def marks(self, symbols, now: datetime) -> dict[str, Mark]:
        return {}  # what was asked once more had no answer, or it would be among what was seen

    def equity(self) -> Decimal:
        return Decimal(self._saw["equity"])

    def margin(self) -> Margin | None:
        return _margin(self._saw["margin"])

    def positions(self) -> dict[str, Position]:
        return {symbol: Position(symbol, Decimal(quantity), mark_price=Decimal(price))
                for symbol, (quantity, price) in self._saw["positions"].items()}


class _Today:
    """One process of that day: its settings, its events so far, and the rooms of today."""

    def __init__(self, settings: Settings | None) -> None:
        self.is_set, self.tape, self.venue = settings is not None, _Tape(), _Readings()
        self.bot = assemble(settings or resolve({}, {}), self.venue, self.tape, "recorded")
        self._wants: dict[str, tuple[Side | None, str]] = {}
        self._moved_at = self._without_stop_at = None
        self._booked = ""  # the symbol of the fill that the last event told of
        self._loss_is_known = True

    def play(self, event: Event) -> None:
        """Fold what was recorded, and give the averages the closes that they were given."""
        data, strategy = event.data, self.bot.strategy
        for symbol, closes in data.get("closes", {}).items() if event.type == "day.opened" else ():
            strategy.warm(symbol, [(event.at, Decimal(close)) for close in closes])
        if event.type == "strategy.warmed":
            strategy.warm(data["symbol"], [(moment(at), Decimal(c)) for at, c in data["closes"]])
        elif event.type in MOVES:
            self._moved_at = event.at
        if "ATTACHED" in (data.get("code") or ""):
            self._without_stop_at = event.at
        self._loss_is_known &= not data.get("clears_loss")
        self._booked = data["symbol"] if event.type == "trade.executed" else ""
        self.tape.play(event)

    def signal(self, event: Event) -> tuple[Mapping, Mapping]:
        """The strategy's decision and memory, the trading state, and what must stop us."""
        data, bot, symbol = self._known(event.data, "bars_ended"), self.bot, event.data["symbol"]
        mark = Mark(symbol, *(Decimal(data[name]) for name in ("mark_price", "bid", "ask")),
                    at=moment(data["mark_at"]))
        for end in data["bars_ended"]:
            bot.strategy.observe(symbol, mark.price, moment(end))
        position = bot.tracker.get_position(symbol)
        bot.strategy.watch(mark, position)
        stop = bot.protector.stop_price(symbol) or bot.strategy.trailing_stop(position)
        decision = bot.strategy.decide(mark, position, stop)
        inputs = bot.strategy.inputs(mark, position, stop)
        sides = {Action.BUY: Side.BUY, Action.SELL: Side.SELL}
        self._wants[symbol] = sides.get(decision.action), decision.reason
        now = {"action": decision.action, "reason": decision.reason, **inputs,
               "memory": bot.strategy.memory(symbol), "trading_state": bot.risk.state}
        if self._moved_at != event.at:
            now |= self._loss(mark, data)
        return {**data, "must_stop": []}, now

    def _loss(self, mark: Mark, data: Mapping) -> dict[str, object]:
        """Today's loss by the books, and the holds that it would take beyond those recorded."""
        tracker, found = self.bot.tracker, self._holds(data)
        tracker.mark(mark.symbol, mark.price)
        others = tracker.positions().keys() - {mark.symbol}  # their marks are not in this event
        known = {} if others or not self._loss_is_known else {"daily_loss": tracker.daily_loss()}
        return {**known, "must_stop": [each["reason"] for each in found]}

    def _holds(self, data: Mapping) -> list[Mapping]:
        """What `post_trade` would write, seeing what was recorded."""
        self.tape.heard.clear()
        self.bot.risk.post_trade(Account(
            self.tape.now, Decimal(data.get("equity", 0)), daily_loss=Decimal(data["daily_loss"]),
            day_start_equity=self.bot.tracker.day_start_equity, margin=_margin(data["margin"])))
        return list(self.tape.heard)

    def hold(self, event: Event) -> tuple[Mapping, Mapping] | None:
        """A limit on what we already hold; any other change of state is somebody's word."""
        if "daily_loss" not in event.data:
            return None
        data, kind = self._known(event.data), event.data["kind"]
        names = ("before", "kind", "state", "reason")
        found = next((each for each in self._holds(data) if each["kind"] == kind), {})
        if kind == "drawdown" and found.get("reason") != data["reason"]:
            raise _Missing("the highest equity between two signals, for a drawdown")
        return data, {name: found.get(name) for name in names}

    def sent(self, event: Event) -> tuple[Mapping, Mapping] | None:
        """An order that was sent: its size, its price and the gate's verdict."""
        data = event.data
        if data["originating_order_id"] or moment(data["placed_at"]) != event.at:
            return None  # it was found at the venue: nothing was decided
        intent = Order.from_data(data, event.at).intent
        if "saw" in data and data["saw"] is None:
            return self._reduction(intent)
        return self._increase(event, intent)

    def refused(self, event: Event) -> tuple[Mapping, Mapping]:
        """The same of one that the gate refused."""
        data = self._known(event.data, "saw")
        if "MARK_MOVED" in data["codes"]:
            raise _Missing("every mark of a minute, for MARK_MOVED")
        return self._increase(event, OrderIntent(
            data["symbol"], Side(data["side"]), Decimal(data["quantity"]),
            OrderType(data["order_type"]), Purpose(data["purpose"]),
            maybe_decimal(data["limit_price"]), reason=data["reason"]))

    def _increase(self, event: Event, intent: OrderIntent) -> tuple[Mapping, Mapping]:
        data, send = self._known(event.data, "saw"), self._enter
        if intent.purpose is not Purpose.ENTRY or (
                intent.reason.startswith(BY_HAND) or intent.reason.endswith(MODIFIED)):
            send = self.bot.engine.send
        elif (wanted := self._wants.get(intent.symbol)) != (intent.side, intent.reason):
            return data, dict(zip(("side", "reason"), wanted or (None, "no decision")))
        said = self._said(send, intent, data["saw"])
        if said.type == event.type:
            return data, {name: said.data[name] for name in COMPARED[event.type]}
        verdicts = {"event": event.type, "codes": [], "breaches": [], **data}
        now = {"event": said.type, "codes": [], "breaches": [], **said.data}
        return verdicts, {name: now[name] for name in ("event", "quantity", "codes", "breaches")}

    def _said(self, send: Callable, intent: OrderIntent, saw: Mapping) -> _Said:
        """What today's code would write where it is to `send`, seeing what was seen then."""
        marks = self.venue.take(intent.symbol, saw)
        self.bot.catalog.load_from_brokerage(self.venue)
        self.bot.engine.see(marks)
        try:
            send(intent)
        except _Said as said:
            return said
        raise AssertionError("an order is either written down or refused")

    def _enter(self, intent: OrderIntent) -> None:
        engine, symbol, side = self.bot.engine, intent.symbol, intent.side
        if self._without_stop_at == self.tape.now:
            engine.send(intent)  # once more, without the stop that the venue refused with it
        else:
            account = engine.picture()
            quantity = entry_quantity(self.bot, symbol, side, account)
            engine.enter(symbol, side, quantity, intent.reason, account)

    def _reduction(self, intent: OrderIntent) -> tuple[Mapping, Mapping]:
        """An order that only shrinks the position passes every limit."""
        books = self.bot.engine.books()
        if not books.reduces(intent):
            return {"reduces": True}, {"reduces": False}
        verdict = self.bot.risk.pre_trade(intent, books, self.venue.product(intent.symbol))
        return {"codes": []}, {"codes": [breach.code for breach in verdict.breaches]}

    def fill(self, event: Event) -> tuple[Mapping, Mapping]:
        """What a fill made of the position."""
        data = event.data
        before = self.bot.tracker.get_position(data["symbol"])
        after = apply_fill(before, Fill(
            data["fill_id"], data["client_order_id"], data["symbol"], Side(data["side"]),
            *(Decimal(data[name]) for name in ("quantity", "price", "fee")),
            at=moment(data["filled_at"])))
        return data, {"realized_pnl": after.realized_pnl - before.realized_pnl,
                      "position_quantity": after.quantity, "entry_price": after.entry_price}

    def position(self, event: Event) -> tuple[Mapping, Mapping] | None:
        """The books after a fill; one that was set by hand follows from nothing."""
        if self._booked != event.data["symbol"]:
            return None
        books = self.bot.tracker.get_position(event.data["symbol"])
        return event.data, {name: getattr(books, name) for name in BOOKS}

    def _known(self, data: Mapping, name: str = "") -> Mapping:
        """`data`, where the settings and the field `name` were recorded."""
        if not self.is_set:
            raise _Missing("the settings, before the day's first start")
        if name and name not in data:
            raise _Missing(f"{name} of {data['symbol']}: an older version wrote the day")
        return data


JUDGES = {
    "strategy.signal": ("decisions of the strategy", _Today.signal),
    "order.intended": ("orders sent", _Today.sent),
    "risk.rejected": ("orders refused", _Today.refused),
    "state.changed": ("limits that stopped entries", _Today.hold),
    "trade.executed": ("fills booked", _Today.fill),
    "position.updated": ("positions after a fill", _Today.position),
}


def _judge(today: _Today, event: Event, outcome: Outcome) -> Difference | None:
    """Ask for one decision anew; count it, or return how it differs."""
    if event.type not in JUDGES:
        return None
    today.tape.now = event.at
    try:
        both = JUDGES[event.type][1](today, event)
    except _Missing as missing:
        outcome.not_recorded[str(missing)] += 1
        return None
    if both and (sides := dict(_differing(*both))):
        return Difference(event.seq, event.at, event.type, event.data.get("symbol", ""), sides)
    outcome.reproduced[event.type] += both is not None
    return None


def _process(path: Path, first: Event) -> _Today:
    """What a process knew when `first` was written: as at every start, the day's events so far."""
    words = first.data.get("settings")
    try:
        today = _Today(words and recorded_settings(words))
    except ConfigError as refusal:
        raise ConfigError(f"{path}: {str(refusal).partition(';')[0]}: use the version that wrote "
                          f"it") from refusal
    with closing(_events(path)) as events:
        for event in events:
            if event.seq >= first.seq:
                break
            today.tape.play(event)
    return today


def _note(outcome: Outcome, event: Event) -> None:
    """Whose day it is, and which programs recorded it."""
    if event.type in ("day.opened", "bot.started"):
        version, settings = event.data.get("version"), event.data.get("settings", {})
        outcome.profile = settings.get("profile", outcome.profile)
        if version and version not in outcome.versions:
            outcome.versions.append(version)


def _events(path: Path) -> Iterator[Event]:
    return read_events(path.parent, date.fromisoformat(path.stem))


def _margin(figures: list[str] | None) -> Margin | None:
    return figures and Margin(*map(Decimal, figures))


def _restored(kind: type, data: Mapping) -> object:
    """The frozen value whose fields were written by name; one that is new has its default."""
    return kind(**{name: READ_AS[type](data[name]) for name, type in kind.__annotations__.items()
                   if name in data})


READ_AS = {
    str: str, bool: bool, Decimal: Decimal, datetime: moment, Decimal | None: maybe_decimal,
    datetime | None: maybe_moment, Candle | None: lambda data: data and _restored(Candle, data),
}


def _differing(recorded: Mapping, today: Mapping, within: str = "") -> Iterator[tuple]:
    """Yield each field that differs, with both sides; one within another by both names."""
    for name, said in today.items():
        other = recorded.get(name)
        if isinstance(said, Mapping) and isinstance(other, Mapping):
            yield from _differing(other, said, f"{within}{name}.")
        elif not _same(other, said):
            yield f"{within}{name}", (other, said)


def _same(recorded: object, today: object) -> bool:
    """Whether text of an event says the value that today's code has."""
    match today:
        case Decimal():
            return isinstance(recorded, str) and Decimal(recorded) == today
        case datetime():
            return isinstance(recorded, str) and moment(recorded) == today
        case Mapping():
            return isinstance(recorded, Mapping) and not [*_differing(recorded, today)]
        case list() | tuple():
            return isinstance(recorded, list) and len(recorded) == len(today) and all(
                map(_same, recorded, today))
    return recorded == today


def _shown(side: object) -> str:
    if isinstance(side, Decimal):
        return f"{side:f}"
    return side if isinstance(side, str) else json.dumps(side, default=_plain)


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else value.isoformat()

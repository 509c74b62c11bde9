"""Ledger: why did it not trade, and what happened?

Reads the events: the last decisions on one symbol with what became of each, and events told one
by one, as they come if need be.  Nothing is changed, nobody is asked, and nothing is guessed:
where a tick decided nothing it left no event, and where an event does not say why, so it says.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby, islice
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.journal import end_of, newest, news
from perps_bot.event import Event
from perps_bot.terminal import Terminal
from perps_bot.words import SENTENCES, breach_words, text, told

# How far back is looked for decisions on a symbol, and how often for what is new.
EVENTS_SCANNED_MAX = 200_000
FOLLOW_EVERY_SECONDS = Decimal("0.5")
AROUND = frozenset({"state.changed", "feed.stale", "feed.recovered", "bot.started", "bot.stopped"})
WANTED = {"buy": ("entry",), "sell": ("entry",), "close": ("exit",)}
ENDED_STATUSES = ("rejected", "cancelled", "expired", "lost", "filled")
NO_WORD = ("no event says why", "an order from before, books that differ, or products that could "
                                "not be read")
UNDER_WAY = ("order under way", "its end is not written yet")


@dataclass
class Answer:
    """What became of one decision: whether it traded, the gate that it met first, its numbers."""

    event: Event
    did_trade: bool = False
    gate: str = ""
    numbers: str = ""

    @property
    def action(self) -> str:
        return text(self.event.data.get("action"))

    def wants(self, purpose: object) -> bool:
        """Whether an order of this purpose is what the decision asked for."""
        return purpose in WANTED.get(self.action, ())

    def as_row(self) -> dict[str, object]:
        data = self.event.data
        return {"ts": self.event.at, "action": data.get("action"), "reason": data.get("reason"),
                "mark_price": data.get("mark_price"), "did_trade": self.did_trade,
                "gate": self.gate, "numbers": self.numbers}


@dataclass
class Ledger:
    """The last decisions on one symbol, oldest first, and what changed around them.

    around  events that hold everything up, or that end it: states, feeds, starts and stops
    now     what stands in the way as of now; a closed market, for one, is no event
    """

    symbol: str
    now: str = ""
    answers: list[Answer] = field(default_factory=list)
    around: list[Event] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        return Counter(answer.gate for answer in self.answers if not answer.did_trade)

    def as_json(self) -> dict[str, object]:
        return {"symbol": self.symbol, "now": self.now, "counts": dict(self.counts().most_common()),
                "traded": sum(answer.did_trade for answer in self.answers),
                "decisions": [answer.as_row() for answer in self.answers],
                "around": [_row(event) for event in self.around]}


def why(folder: Path, symbol: str, ticks: int) -> Ledger:
    """Look `ticks` decisions back.  Raises ConfigError where there is none on `symbol`."""
    kept, decided, seen = [], 0, set()
    for event in islice(newest(folder), EVENTS_SCANNED_MAX):
        if event.type == "strategy.signal":
            seen.add(text(event.data.get("symbol")))
        if event.data.get("symbol") == symbol or event.type in AROUND:
            kept.append(event)
            decided += event.type == "strategy.signal"
        if decided == ticks:
            break
    if not decided:
        there = f"there are {' '.join(sorted(seen))}" if seen else "there is none on any symbol"
        raise ConfigError(f"no decision on {text(symbol)} in {folder}: {there}")
    return _judged(symbol, kept[::-1])


def _judged(symbol: str, events: list[Event]) -> Ledger:
    ledger, fold = Ledger(symbol), _Fold()
    for event in events:
        if event.type == "strategy.signal":
            ledger.answers.append(fold.decide(event))
        elif not ledger.answers:
            continue  # what came before the first decision is another one's
        elif event.type in AROUND:
            ledger.around.append(event)
        else:
            fold.take(event)
    return ledger


class _Fold:
    """What is known while the events of one symbol go by."""

    def __init__(self) -> None:
        self._current: Answer | None = None
        self._orders: dict[str, Answer] = {}  # whose decision each order was
        self._live: set[str] = set()
        # One that only repeats itself is not written again.
        self._refusal: Event | None = None

    def decide(self, event: Event) -> Answer:
        """The decision, with what is known before anything follows."""
        reason, refusal = event.data.get("reason"), self._refusal
        gate, numbers = NO_WORD
        if event.data.get("action") == "hold":
            gate, numbers = f"strategy: {_kind(text(reason))}", text(reason)
        elif refusal is not None and refusal.data.get("reason") == reason:
            gate, numbers = _refusal(refusal.data)
            numbers += f" (since {refusal.at:%H:%M:%S})"
        elif self._live:
            gate, numbers = UNDER_WAY
        self._current = Answer(event, False, gate, numbers)
        return self._current

    def take(self, event: Event) -> None:
        """One event after a decision, for the decision that it belongs to."""
        data, identity = event.data, text(event.data.get("client_order_id"))
        if event.type == "order.intended":
            self._orders[identity] = self._current
            self._live.add(identity)
            self._refusal = None
            self._answer(self._current, *UNDER_WAY)
        elif event.type == "trade.executed":
            owner = self._orders.get(identity)
            if owner and owner.wants(data.get("purpose")):
                owner.did_trade, owner.gate, owner.numbers = True, "", ""
        elif event.type == "risk.rejected":
            self._refusal = event
            if self._current.wants(data.get("purpose")):
                self._answer(self._current, *_refusal(data))
        elif ended := _ended(event):
            if event.type != "order.unknown":
                self._live.discard(identity)
            self._answer(self._orders.get(identity), *ended)

    def _answer(self, answer: Answer | None, gate: str, numbers: str) -> None:
        """The first gate counts; that nothing was said yet is none."""
        if answer and answer.action != "hold" and answer.gate in (NO_WORD[0], UNDER_WAY[0]):
            answer.gate, answer.numbers = gate, numbers


def _refusal(data: Mapping) -> tuple[str, str]:
    rows = data.get("breaches")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    more = f", and {len(rows) - 1} more" if first and len(rows) > 1 else ""
    said = breach_words(first).partition(" measured ")[2] if first else text(data.get("message"))
    # Some gates are words and have no number.
    numbers = f"measured {said}{more}" if first and first.get("measured") else text(
        data.get("message"))
    return f"risk: {text(first.get('code'))}", numbers


def _ended(event: Event) -> tuple[str, str] | None:
    """The gate at which its order ended, if it did, and the venue's word for it."""
    data, status = event.data, text(event.data.get("status"))
    if event.type == "order.updated" and status in ENDED_STATUSES:
        return f"venue: {status}", text(data.get("code") or data.get("answer"))
    if event.type in ("order.unknown", "order.lost"):
        return f"venue: {event.type.removeprefix('order.')}", text(data.get("reason"))
    return None


def _kind(reason: str) -> str:
    """The reason without its numbers, so that it can be counted."""
    return " ".join(word for word in reason.partition(":")[0].split() if not word.isdigit())


def why_lines(ledger: Ledger, terminal: Terminal) -> Iterator[str]:
    """The ledger for a person: the counts first, then each decision, the newest last."""
    answers = ledger.answers
    first, last = (f"{answers[n].event.at:%Y-%m-%d %H:%M:%S}" for n in (0, -1))
    traded = sum(answer.did_trade for answer in answers)
    yield from terminal.wrapped(f"{ledger.symbol}: the last {len(answers)} decisions, {first} to "
                                f"{last} UTC: {traded} traded", 2, "bold")
    yield from terminal.rows((f"{count} x", gate) for gate, count in ledger.counts().most_common())
    rows = [(answer.event.seq, answer.event.at, _sentence(answer)) for answer in answers]
    rows += [(event.seq, event.at, f"-- {told(event)}") for event in ledger.around]
    for said, same in groupby(sorted(rows), key=lambda row: row[2]):
        times = [at for _, at, _ in same]
        form = "%H:%M:%S" if times[0].date() == times[-1].date() else "%m-%d %H:%M:%S"
        span = f" to {times[-1]:{form}}, {len(times)} times" if times[1:] else ""
        yield from terminal.wrapped(f"{times[0]:%m-%d %H:%M:%S}{span} {said}", 4)
    yield from terminal.wrapped(f"now: {ledger.now}", 4) if ledger.now else ()
    yield from terminal.wrapped(
        "A decision is written when a bar ends, a best price is beaten or it changes; the other "
        "ticks decided the same, or nothing, and left no event.", 2, "dim")


def _sentence(answer: Answer) -> str:
    data = answer.event.data
    if answer.did_trade:
        return f"{answer.action}: traded ({text(data.get('reason'))})"
    if answer.action == "hold":
        return f"hold: {answer.numbers}"
    return f"{answer.action} ({text(data.get('reason'))}): {answer.gate}: {answer.numbers}"


# Events, one by one


def tail(folder: Path, count: int, types: Iterable[str], wait: Callable[[], bool] | None
         ) -> Iterator[Event]:
    """Yield the last `count` events of these types (of all, without any), and then what comes.

    wait  returns True when it is enough; without it nothing is waited for
    """
    wanted = _wanted(types)
    place = end_of(folder)
    found = (event for event in newest(folder, place) if wanted(event.type))
    yield from list(islice(found, count))[::-1]
    while wait is not None and not wait():
        yield from (event for event in news(folder, place) if wanted(event.type))


def tail_line(event: Event) -> str:
    return f"{event.at:%Y-%m-%d %H:%M:%S}Z {told(event)}"


def _row(event: Event) -> dict[str, object]:
    return {"seq": event.seq, "ts": event.at, "type": event.type, "text": told(event)}


def tail_row(event: Event) -> dict[str, object]:
    """The event as it was written, with its sentence."""
    return {"seq": event.seq, "ts": event.at, "type": event.type, **event.data, "text": told(event)}


def _wanted(types: Iterable[str]) -> Callable[[str], bool]:
    """Types by their name, or all of a family by what stands before the dot."""
    names = set(types)
    families = {name.partition(".")[0] for name in SENTENCES}
    for name in names - SENTENCES.keys() - families:
        raise ConfigError(f"--type {text(name)}: no such events; there are "
                          f"{' '.join(sorted({*SENTENCES, *families}))}")
    return lambda type: not names or type in names or type.partition(".")[0] in names

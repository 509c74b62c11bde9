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
from perps_bot.model import Event
from perps_bot.terminal import Terminal
from perps_bot.words import SENTENCES, breach_words, text, told

# How far back is looked for decisions on a symbol, and how often for what is new.
EVENTS_SCANNED_MAX = 200_000
FOLLOW_EVERY_SECONDS = Decimal("0.5")
# What an order of ours can come to without a trade.
UNTRADED = ("rejected", "cancelled", "expired", "lost", "unknown")


@dataclass
class Answer:
    """What became of one decision: whether it traded, the gate that it met first, its numbers."""

    event: Event
    did_trade: bool = False
    gate: str = ""
    numbers: str = ""

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
    ledger, standing = Ledger(symbol), None
    starts = [n for n, event in enumerate(events) if event.type == "strategy.signal"]
    for begin, end in zip(starts, [*starts[1:], len(events)], strict=True):
        followed = [e for e in events[begin + 1:end] if e.type not in AROUND]
        answer = _answer(events[begin], followed, standing)
        ledger.answers.append(answer)
        for event in followed:
            standing = event if event.type == "risk.rejected" else (
                None if event.type == "order.intended" else standing)
    ledger.around = [event for event in events[starts[0]:] if event.type in AROUND]
    return ledger


def _answer(decision: Event, followed: list[Event], standing: Event | None) -> Answer:
    """The first gate that `decision` met.

    standing  the refusal that was written last, and has not been answered by an order since: one
              that only repeats itself is not written again
    """
    action, reason = (decision.data.get(name) for name in ("action", "reason"))
    if any(e.type == "trade.executed" and e.data.get("purpose") != "stop" for e in followed):
        return Answer(decision, True)
    if action == "hold":
        return Answer(decision, gate=f"strategy: {_kind(text(reason))}", numbers=text(reason))
    gate, numbers = _first_gate(followed, "entry" if action in ("buy", "sell") else "exit")
    if not gate:
        gate, numbers = _without_a_gate(followed, reason, standing)
    return Answer(decision, False, gate, numbers)


def _without_a_gate(
    followed: list[Event], reason: object, standing: Event | None
) -> tuple[str, str]:
    if standing is not None and standing.data.get("reason") == reason:
        gate, numbers = _refusal(standing.data)
        return gate, f"{numbers} (since {standing.at:%H:%M:%S})"
    if any(event.type == "order.intended" for event in followed):
        return "order under way", "its end is not written yet"
    return "no event says why", (
        "an order under way, books that differ, or products that could not be read")


def _first_gate(followed: list[Event], purpose: str) -> tuple[str, str]:
    """The first event that says what stopped an order of this purpose; empty without one."""
    for event in followed:
        if event.data.get("purpose") in (None, purpose) and (read := GATES.get(event.type)):
            gate, numbers = read(event.data)
            if gate:
                return gate, numbers
    return "", ""


def _refusal(data: Mapping) -> tuple[str, str]:
    rows = data.get("breaches")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    more = f", and {len(rows) - 1} more" if first and len(rows) > 1 else ""
    said = breach_words(first).partition(" measured ")[2] if first else text(data.get("message"))
    # Some gates are words and have no number.
    numbers = f"measured {said}{more}" if first and first.get("measured") else text(
        data.get("message"))
    return f"risk: {text(first.get('code'))}", numbers


def _verdict(data: Mapping) -> tuple[str, str]:
    status = text(data.get("status"))
    if status not in UNTRADED:
        return "", ""
    code = text(data.get("code") or data.get("answer"))
    return f"venue: {status}", code


def _kind(reason: str) -> str:
    """The reason without its numbers, so that it can be counted."""
    return " ".join(word for word in reason.partition(":")[0].split() if not word.isdigit())


AROUND = frozenset({"state.changed", "feed.stale", "feed.recovered", "bot.started", "bot.stopped"})
GATES: Mapping[str, Callable[[Mapping], tuple[str, str]]] = {
    "risk.rejected": _refusal,
    "order.updated": _verdict,
    "order.unknown": lambda data: ("venue: unknown", text(data.get("reason"))),
    "order.lost": lambda data: ("venue: lost", text(data.get("reason"))),
}


def why_lines(ledger: Ledger, terminal: Terminal) -> Iterator[str]:
    """The ledger for a person: the counts first, then each decision, the newest last."""
    answers = ledger.answers
    first, last = (f"{answers[n].event.at:%Y-%m-%d %H:%M:%S}" for n in (0, -1))
    traded = sum(answer.did_trade for answer in answers)
    yield from terminal.wrapped(f"{ledger.symbol}: the last {len(answers)} decisions, {first} to "
                                f"{last} UTC: {traded} traded", 2, "bold")
    yield from terminal.rows((f"{count} x", gate) for gate, count in
                             ledger.counts().most_common())
    rows = [(answer.event.seq, answer.event.at, _sentence(answer)) for answer in answers]
    rows += [(event.seq, event.at, f"-- {told(event)}") for event in ledger.around]
    for said, same in groupby(sorted(rows), key=lambda row: row[2]):
        times = [at for _, at, _ in same]
        span = f" to {times[-1]:%H:%M:%S}, {len(times)} times" if times[1:] else ""
        yield from terminal.wrapped(f"{times[0]:%m-%d %H:%M:%S}{span} {said}", 4)
    yield from terminal.wrapped(f"now: {ledger.now}", 4) if ledger.now else ()
    yield from terminal.wrapped(
        "A decision is written when a bar ends, a best price is beaten or it changes; the other "
        "ticks decided the same, or nothing, and left no event.", 2, "dim")


def _sentence(answer: Answer) -> str:
    data = answer.event.data
    action = text(data.get("action"))
    if answer.did_trade:
        return f"{action}: traded ({text(data.get('reason'))})"
    if action == "hold":
        return f"hold: {answer.numbers}"
    return f"{action} ({text(data.get('reason'))}): {answer.gate}: {answer.numbers}"


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
    return f"{event.at:%Y-%m-%d %H:%M:%S} {told(event)}"


def _row(event: Event) -> dict[str, object]:
    return {"seq": event.seq, "ts": event.at, "type": event.type, "text": told(event)}


def tail_row(event: Event) -> dict[str, object]:
    """The event as it was written, with its sentence."""
    return {"seq": event.seq, "ts": event.at, "type": event.type, **event.data,
            "text": told(event)}


def _wanted(types: Iterable[str]) -> Callable[[str], bool]:
    """Types by their name, or all of a family by what stands before the dot."""
    names = set(types)
    families = {name.partition(".")[0] for name in SENTENCES}
    for name in names - SENTENCES.keys() - families:
        raise ConfigError(f"--type {text(name)}: no such events; there are "
                          f"{' '.join(sorted({*SENTENCES, *families}))}")
    return lambda type: not names or type in names or type.partition(".")[0] in names

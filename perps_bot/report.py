"""Report: how did it do?

Reads the events of a profile or of a replay, has `history` fold them, and says it as text, JSON
or CSV (`page` makes the HTML).  It only reads: not a byte of what it reads is changed, and what
cannot be read is said in the report and never skipped in silence.
"""

import fnmatch
import json
import os
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from perps_bot.drift import drift_lines, measure
from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.event import DAY_FILES
from perps_bot.history import (
    FOREIGN, TRIP_COLUMNS, TRIPS_MAX, History, fold, not_understood,
)
from perps_bot.lines import brief, unparsed
from perps_bot.model import Event
from perps_bot.outputs import kept_when_done, new_file, table
from perps_bot.score import Figures, figure_lines
from perps_bot.store import read_events
from perps_bot.words import plain

# What the text shows of a long table: its newest rows.
ROWS_SHOWN = 14
COLUMNS = 80
LIVE, PAPER = "events", "paper-events"


def report(arguments: Namespace, source: "Source", reading: "Reading") -> dict[str, object]:
    """Return everything by name; the files that were asked for are written."""
    outputs = [("html", arguments.html), ("trades", arguments.csv)]
    paths = [(kind, new_file("--csv" if kind == "trades" else "--html", name, arguments.force))
             for kind, name in outputs if name]
    if arguments.html:
        from perps_bot.page import library, write_page

        script = library()  # where it is missing, it is said before anything is read
    is_told = bool(arguments.json or arguments.html)
    history = told(reading, [pair for pair in paths if pair[0] != "html"], is_told)
    said = summary(source, reading, history, is_told)
    if arguments.html:
        _written(paths[0][1], lambda part: write_page(part, said, script))
    return {"written": [str(path) for _, path in paths], **said}


def export(arguments: Namespace, reading: "Reading") -> list[str]:
    """Write the tables that were asked for, in one pass; return what to say."""
    paths = []
    for kind, name in arguments.csv:
        if kind not in TABLES:
            raise ConfigError(f"--csv {kind}: is no table; there are {' '.join(TABLES)}")
        paths.append((kind, new_file(f"--csv {kind}", name, arguments.force)))
    if len({path for _, path in paths}) < len(paths):
        raise ConfigError("--csv: two tables cannot go into one file: name another")
    told(reading, paths, is_told=False)
    return [f"written: {kind} to {path}" for kind, path in paths]


def opened(arguments: Namespace, span: tuple, place: tuple, progress) -> tuple:
    """The events that the arguments name, not read yet; `place` is of `source_of`."""
    source = source_of(arguments.folder, *place)
    reading = Reading(source.folder, *span)
    reading.progress = progress or reading.progress
    return source, reading


@dataclass
class Reading:
    """The events of one folder within a range, and afterwards what could not be read of them.

    begin, end  from the first on, and before the second; None: from or to where they are
    notes       what a reader of the report must know
    is_whole    False after damage: what came later is missing
    """

    folder: Path
    begin: datetime | None = None
    end: datetime | None = None
    notes: list[str] = field(default_factory=list)
    is_whole: bool = True
    progress: Callable[[Decimal], None] = lambda share: None
    read: Callable[[bytes], Event] = brief

    def __iter__(self) -> Iterator[Event]:
        days = self.days()
        if not days:
            raise ConfigError(f"{self.folder}: holds no events of that range: {self.way_out()}")
        done, event = 0, None
        try:
            for event in read_events(self.folder, since=days[0], until=days[-1],
                                     read=self.read):
                if event.type == "day.opened":
                    self.progress(Decimal(done) / len(days))
                    done += 1
                if self.end is None or event.at < self.end:
                    yield event
        except StoreDamaged as damage:
            if event is None:
                raise ConfigError(f"{damage}: nothing before it can be read: take --from the day "
                                  f"after, or the copy of a backup") from damage
            self.is_whole = False
            rest = "".join(f"; --from {day} shows the rest" for day in days[done:done + 1])
            self.notes.append(f"DAMAGED: {damage}. Only what stands before that line is in here"
                              f"{rest}")
        self._note_the_rest(days)

    def has(self, event: Event) -> bool:
        return self.begin is None or event.at >= self.begin

    def days(self) -> list[date]:
        """The days of the range that have a file."""
        first = self.begin and self.begin.astimezone(UTC).date()
        last = self.end and (self.end.astimezone(UTC) - timedelta(microseconds=1)).date()
        return [day for day in days_in(self.folder)
                if (first is None or day >= first) and (last is None or day <= last)]

    def way_out(self) -> str:
        there = days_in(self.folder)
        if not there:
            return "name another --profile, or the folder of a replay's --events"
        return f"there are {there[0]} to {there[-1]}: widen --from and --to"

    def _note_the_rest(self, days: Sequence[date]) -> None:
        for day in days:
            for kept in sorted(self.folder.glob(f"quarantine/{day}.jsonl.*")):
                self.notes.append(f"{day} was damaged once: what its start could not use is in "
                                  f"{kept.name} of quarantine, and not in here")
            if torn := _torn(self.folder / f"{day}.jsonl"):
                self.notes.append(f"{day}.jsonl ends in {torn} bytes of an unfinished line, which "
                                  f"are not in here: a bot is writing, or cuts them as it starts")


def days_in(folder: Path) -> list[date]:
    """Every day that has a file, oldest first; none where there is no folder."""
    try:
        names = fnmatch.filter(os.listdir(folder), DAY_FILES)
        return sorted(date.fromisoformat(name.removesuffix(".jsonl")) for name in names)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}: run as its owner, or name another "
                          f"place") from error
    except ValueError as error:
        raise ConfigError(f"{folder}: {error}: take what is no day's file away") from error


@dataclass(frozen=True)
class Source:
    """Whose events: a folder, beside which the other kind's may lie."""

    folder: Path
    other: Path | None
    note: str = ""


def source_of(folder: str | None, profile_folder: Path, is_paper: bool, profile: str) -> Source:
    """Choose the events: a folder that was named, else the profile's, real before paper."""
    if folder is not None:
        path = Path(folder)
        if not path.is_dir():
            raise ConfigError(f"{folder}: is no folder of events: name what replay --events made, "
                              f"or leave it out and name a --profile")
        return Source(path, None)
    kinds = (PAPER, LIVE) if is_paper and profile != "dev" else (LIVE, PAPER)
    wanted, other = (profile_folder / kind for kind in kinds)
    if days_in(wanted):
        way = "leave --dry-run out" if wanted.name == PAPER else "take --dry-run"
        note = f"{wanted.name} were taken; there are {other.name} too: {way} for them"
        return Source(wanted, other, note) if days_in(other) else Source(wanted, None)
    if not is_paper and days_in(other):
        return Source(other, None, f"there are no real orders: {PAPER} were taken")
    raise ConfigError(f"{wanted}: holds no events: start the bot, or name another --profile or "
                      f"a folder of events; to begin: perps-bot init, perps-bot run")


def told(reading: Reading, outputs: Sequence[tuple[str, Path]] = (),
         is_told: bool = True) -> History:
    """Fold what is read, and write the tables; nothing stands there before all went well.

    Raises ConfigError where nothing can be said, or an event is not ours.
    """
    try:
        with ExitStack() as files:
            parts = [(kind, files.enter_context(kept_when_done(path))) for kind, path in outputs]
            return _told(reading, parts, is_told)
    except OSError as failure:
        names = " or ".join(str(path) for _, path in outputs) or reading.folder
        raise ConfigError(f"{names}: {failure.strerror}: nothing was kept; name another "
                          f"place") from failure


def _told(reading: Reading, parts: Sequence[tuple[str, Path]], is_told: bool) -> History:
    with ExitStack() as files:
        write = {kind: files.enter_context(table(part, TABLES[kind][0])) for kind, part in parts}
        put_trip, put_point = write.get("trades"), write.get("equity")
        history = History(reading.begin, put_trip and (lambda trip: put_trip(trip.row().values())),
                          put_point and (lambda at, equity: put_point((at, equity))), is_told)
        rows = [partial(_put_row, reading, put, TABLES[kind][1])
                for kind, put in write.items() if TABLES[kind][1]]
        reading.read = unparsed if "events" in write else brief
        fold(reading, reading.folder, history.apply, *rows)
        history.close()
    if history.figures() is None:
        raise ConfigError(f"{reading.folder}: no event of that range, or none that names the "
                          f"equity: {reading.way_out()}")
    return history


def _put_row(reading: Reading, put: Callable, row_of: Callable, event: Event) -> None:
    row = row_of(event) if reading.has(event) else None
    if row is not None:
        put(row)


def _written(path: Path, write: Callable[[Path], None]) -> None:
    try:
        with kept_when_done(path) as part:
            write(part)
    except OSError as failure:
        raise ConfigError(f"{path}: {failure.strerror}: nothing was kept; name another "
                          f"place") from failure


def _fill_row(event: Event) -> tuple | None:
    if event.type != "trade.executed":
        return None
    data = event.data
    numbers = ("quantity", "price", "fee", "realized_pnl", "mark_price", "position_quantity")
    exact = {name: None if data[name] is None else Decimal(data[name]) for name in numbers}
    return tuple({**data, **exact}[name] for name in FILL_COLUMNS)


def _funding_row(event: Event) -> tuple | None:
    if event.type != "funding.paid":
        return None
    data = event.data
    return (data["paid_at"], data["symbol"], Decimal(data["amount"]), Decimal(data["rate"]),
            data["payment_id"])


def _event_row(event: Event) -> tuple:
    data = {name: value for name, value in event.data.items() if name != "symbol"}
    return (event.seq, event.at, event.type, event.data.get("symbol"),
            json.dumps(data, separators=(",", ":"), default=str))


FILL_COLUMNS = ("filled_at", "symbol", "side", "quantity", "price", "fee", "realized_pnl",
                "mark_price", "position_quantity", "purpose", "reason", "is_liquidation",
                "client_order_id", "fill_id")
TABLES: Mapping[str, tuple] = {
    # kind      its columns, and the row of an event; None: the fold makes the rows
    "trades":   (TRIP_COLUMNS, None),
    "fills":    (FILL_COLUMNS, _fill_row),
    "equity":   (("time", "equity"), None),
    "events":   (("seq", "time", "type", "symbol", "data"), _event_row),
    "funding":  (("paid_at", "symbol", "amount", "rate", "payment_id"), _funding_row),
}  # fmt: skip


def summary(source: Source, reading: Reading, history: History,
            with_stories: bool = True) -> dict[str, object]:
    """Everything, by name: what --json prints and the page shows; the text has no stories."""
    figures = history.figures()
    trips = [trip.row() for trip in history.trips]
    if with_stories:
        try:
            trips = [{**row, "stops": trip.stops, "story": trip.story()}
                     for row, trip in zip(trips, history.trips)]
        except FOREIGN as error:
            raise not_understood(source.folder, "a trade's story", error) from error
    return {
        "profile": history.profile, "broker": history.broker, "folder": str(source.folder),
        "notes": [*filter(None, [source.note]), *reading.notes], "whole": reading.is_whole,
        "events": history.events, "figures": asdict(figures), "by_symbol": history.by_symbol(),
        "by_day": [{"day": str(day), **row} for day, row in sorted(history.days.items())],
        "by_hour": [{"hour": hour, "pnl": history.hours.get(hour)} for hour in range(24)],
        "slippage": [{"purpose": name, **asdict(row)} for name, row in history.slippage.items()],
        "drift": measure(source.folder, source.other, reading.days(),
                         source.folder.name == PAPER),
        "trips_begun": history.trips_begun, "trips": trips,
        "equity": history.equity.points(), "drawdown": history.drawdown.points(),
        "prices": {symbol: curve.points() for symbol, curve in sorted(history.prices.items())},
    }


def text_lines(told: Mapping) -> Iterator[str]:
    """Say it for people, within 80 columns."""
    figures = Figures(**told["figures"])
    # A part of a day may say neither: they stand in what opened it.
    yield from filter(None, [" ".join(filter(None, (told["profile"], told["broker"])))])
    yield f"events of {told['folder']}"
    yield f"{figures.start:%Y-%m-%d %H:%M} to {figures.end:%Y-%m-%d %H:%M} UTC, " \
          f"{told['events']:,} events"
    for note in told["notes"]:
        yield from textwrap.wrap(f"! {note}", COLUMNS, subsequent_indent="  ")
    yield ""
    yield from figure_lines(figures)
    for title, columns, rows in _tables(told):
        yield ""
        hidden = len(rows) - ROWS_SHOWN
        yield title + (f", the newest {ROWS_SHOWN} of {len(rows)}" if hidden > 0 else "")
        yield from _in_columns(columns, rows[-ROWS_SHOWN:])
    yield ""
    for line in drift_lines(told["drift"]):
        yield from textwrap.wrap(line, COLUMNS, subsequent_indent="    ")


TRIP_TABLE = (
    # head        from a trip's row
    ("opened",    lambda row: f"{row['opened_at']:%m-%d %H:%M}"),
    ("symbol",    lambda row: row["symbol"]),
    ("side",      lambda row: row["side"]),
    ("quantity",  lambda row: plain(row["quantity"])),
    ("entry",     lambda row: _price(row["entry_price"])),
    ("exit",      lambda row: _price(row["exit_price"])),
    ("net",       lambda row: _money(row["net_pnl"])),
    ("for",       lambda row: _duration(row["seconds"])),
)  # fmt: skip


def _tables(told: Mapping) -> Iterator[tuple[str, Sequence[str], list]]:
    """Yield title, heads and rows of each."""
    yield ("P&L by symbol, USD", ("symbol", "realized", "unrealized", "fees", "funding", "net"), [
        (row["symbol"], *(_money(row[name]) for name in (
            "realized_pnl", "unrealized_pnl", "fees", "funding", "net_pnl")))
        for row in told["by_symbol"]])
    yield ("P&L by day, USD", ("day", "net", "fees", "funding", "trades", "equity"), [
        (row["day"], _money(row["pnl"]), _money(row["fees"]), _money(row["funding"]),
         str(row["trades"]), _money(row["equity"])) for row in told["by_day"]])
    hours = [(f"{row['hour']:02}:00", _money(row["pnl"])) for row in told["by_hour"]]
    yield ("P&L by hour of the day (UTC), USD", ("from", "net") * 3,
           [early + midday + late for early, midday, late in zip(
               hours[:8], hours[8:16], hours[16:])])
    yield ("slippage against the decision's mark (stops: their level); positive: a cost",
           ("", "fills", "measured", "USD", "bps"), list(map(_slippage_row, told["slippage"])))
    trips = told["trips"]
    kept = f", the newest {TRIPS_MAX} of them kept" if told["trips_begun"] > len(trips) else ""
    yield (f"trades: {told['trips_begun']} round trips{kept}", [head for head, _ in TRIP_TABLE],
           [tuple(show(row) for _, show in TRIP_TABLE) for row in trips])


def _slippage_row(row: Mapping) -> tuple[str, ...]:
    measured = row["measured"]
    bps = f"{row['cost'] / row['notional'] * 10_000:z.2f}" if measured else "not measured"
    return (row["purpose"], str(row["fills"]), str(measured),
            _money(row["cost"] if measured else None), bps)


def _in_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of cells, the first to the left and the others to the right."""
    if not rows:
        yield "  none"
        return
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    for row in (heads, *rows):
        first = row[0].ljust(widths[0])
        yield "  ".join(["", first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip()


def _money(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:z,.2f}"


def _price(value: Decimal | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value >= 100 else f"{value:,.5f}"


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "open"
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours // 24}d {hours % 24}h" if hours >= 48 else f"{hours}h{minutes:02}"


def _torn(path: Path) -> int:
    """Bytes after the last line's end."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        size = file.tell()
        back = min(size, 1 << 16)
        file.seek(size - back)
        tail = file.read(back)
    return len(tail) - (tail.rfind(b"\n") + 1)

"""Store: what happened, in order?

The events are the truth from which all state is rebuilt: one JSON object a line, each line's crc
chained to the line before, one file a day, opened by a snapshot.  The bot's state is a fold over
them, live or recovered.  State files are caches; the lock keeps the writer alone.

This room never reads the clock (the loop sets `store.now`), decides nothing about trading, never
edits a line that it acknowledged and never skips one that it cannot read.  Whatever changes the
disk goes through "The disk" at the end, so that the crash rigs can replace it.
"""

import errno
import fcntl
import json
import logging
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path

from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.model import Event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = 1
BACKLOG_LINES_MAX = 10_000  # lines that wait in memory for a disk that refuses them
STRING_LENGTH_MAX = 2_000  # characters of one string in an event, day.opened excepted
DECIMAL_MAGNITUDE_MAX = 100  # digits before or after the point; a longer number is a bug
FILE_BYTES_MAX = 2 << 30
STATE_BYTES_MAX = 1 << 20
COPY_BYTES = 1 << 20
SPARE_NAMES_MAX = 100  # files put aside under one name
LOCK_ATTEMPTS_MAX = 100

# What is fsynced before append returns: orders, money, halts, and what frames them.
SYNCED = frozenset(
    """order.intended order.updated order.unknown order.lost trade.executed funding.paid stop.placed
    stop.moved position.adopted state.changed day.opened bot.started bot.stopped""".split()
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """What `recover` found.

    events      how many were dispatched
    torn_bytes  cut from last writes that did not finish; kept in `events/torn`
    damage      file, line and what is wrong; empty if nothing.  The caller starts REDUCING and
                records that first: until something is recorded, every recovery says it again
    day         the day that is open now, if any
    """

    events: int = 0
    torn_bytes: int = 0
    damage: str = ""
    day: date | None = None


class EventStore:
    """The events of one profile; without a folder they are numbered and dispatched, no more.

    now       the moment that the next events carry; the loop sets it
    day       the day that is open; None before the first
    trouble   why a line is not safely on disk, in one line; empty while all are
    poisoned  an fsync failed or lines were lost: in this process no required append succeeds again
    """

    def __init__(self, folder: str | Path | None = None, now: datetime = EPOCH):
        self.now = now
        self.day: date | None = None
        self.trouble = ""
        self.poisoned = False
        self._folder = self._path = None if folder is None else prepare_folder(folder)
        self._subscribers: list[Callable[[Event], None]] = []
        self._seq = self._crc = 0  # of the last event
        self._fd, self._fd_day = -1, None  # the open file, and its day
        self._offset = 0  # where its last good line ends
        self._backlog: deque[tuple[date, bytes, bool]] = deque()
        self._sealed = False  # a line was lost, so none may follow it

    @property
    def writable(self) -> bool:
        """Whether the last line went to disk; while it is False, increase nothing."""
        return not self.trouble

    def subscribe(self, apply: Callable[[Event], None]) -> None:
        """Have `apply` called with every event, appended or recovered; it must not append."""
        self._subscribers.append(apply)

    def append(self, type: str, required: bool = False, **data: object) -> Event:
        """Record that `type` happened now, then dispatch it.

        A line that the disk refuses waits in memory and its event is dispatched all the same.
        With `required` it raises StoreDamaged instead, and the event never happened.
        """
        if self.day is None and self._folder is not None:
            self.open_day(self.now.astimezone(UTC).date(), {})
        return self._happen(type, data, self.day, required)

    def open_day(self, day: date, snapshot: Mapping[str, object], **data: object) -> Event:
        """Start the file of `day`; `snapshot` is all that recovery needs of the days before."""
        if self.day is not None and day <= self.day:
            raise ValueError(f"day {day} cannot be opened: {self.day} already is")
        chain = f"{self._crc:08x}"  # with the last line's crc, one file can be verified alone
        data = dict(schema=SCHEMA, day=day, **data, chain=chain, snapshot=snapshot)
        return self._happen("day.opened", data, day, required=False)

    def recover(self) -> Recovery:
        """Dispatch the newest day's events and make the files fit to go on; once, at the start.

        What cannot be repaired leaves the store poisoned: closing still works, opening does not.
        """
        if self._seq:
            raise ValueError("recover comes once, before the first append")
        files = list(self._dispatch_newest())
        if not files:
            return Recovery()
        last = files[-1]
        self._seq, self._crc, self.day = last.seq, last.crc, last.day
        damage = [file.problem for file in files if file.problem and not file.torn]
        # Said again if the last process died before it could record what it had repaired.
        damage += sorted(map(str, (self._folder / "quarantine").glob(f"*.jsonl.{self._seq}-*")))
        try:
            for file in files:
                if file.problem:
                    self._repair(file)
            if self.day:
                self._hold(last.path, last.day, _open(last.path, APPENDING), last.offset)
                # The last process may have died between its write and its fsync.
                _fsync(self._fd)
                _fsync_folder(self._folder)
        except OSError as error:
            self._seal(error)
        torn_bytes = sum(file.size - file.offset for file in files if file.torn)
        return Recovery(last.events, torn_bytes, "; ".join(damage), self.day)

    def read(self, day: date | None = None) -> Iterator[Event]:
        """See `read_events`."""
        return iter(()) if self._folder is None else read_events(self._folder, day)

    def close(self) -> None:
        if self._fd_day:
            os.close(self._fd)
        self._fd_day = None

    def _happen(self, type: str, data: dict, day: date | None, required: bool) -> Event:
        event = Event(self._seq + 1, self.now, type, data)
        if self._folder is not None:
            self._record(event, day, required)
        self._seq, self.day = event.seq, day
        for apply in self._subscribers:
            apply(event)
        return event

    def _record(self, event: Event, day: date, required: bool) -> None:
        """Bring the event's line to disk after those that wait; else keep it or raise."""
        line, crc = _encode(event, self._crc)
        if required and self.poisoned:
            raise StoreDamaged(self.trouble)
        entry = day, line, required or event.type in SYNCED
        try:
            while self._backlog:
                self._put(*self._backlog[0])
                self._backlog.popleft()
            if not self._sealed:
                self._put(*entry)
        except OSError as error:
            self._fail(error)
            if required:
                raise StoreDamaged(self.trouble) from error
            self._keep(entry, error)
        else:
            self.trouble = self.trouble if self.poisoned else ""
        self._crc = crc

    def _keep(self, entry: tuple[date, bytes, bool], error: OSError) -> None:
        if not self._sealed and len(self._backlog) < BACKLOG_LINES_MAX:
            self._backlog.append(entry)
        else:
            self._seal(error)  # what is kept stays an exact prefix of what happened

    def _seal(self, error: OSError) -> None:
        self._sealed = self.poisoned = True
        self._fail(error)

    def _fail(self, error: OSError) -> None:
        way_out = "; no longer trusted: mend the disk, then restart" if self.poisoned else ""
        self.trouble = f"{_said(error, self._path)}{way_out}"

    def _put(self, day: date, line: bytes, synced: bool) -> None:
        """Leave the file one line longer; on OSError as it was, or soon so."""
        if day != self._fd_day:
            self._start(day)
        self._check_end()
        end = self._offset + len(line)
        try:
            _write_all(self._fd, line)
            if synced:
                self._sync(_fsync, self._fd)
            if not self._offset:
                self._sync(_fsync_folder, self._folder)
        except OSError:
            with suppress(OSError):  # else _check_end does it, before the next line
                _truncate(self._fd, self._offset)
            raise
        self._offset = end

    def _start(self, day: date) -> None:
        if self._fd_day:
            self._sync(_fsync, self._fd)  # else the new day could outlive the old one's end
        path = self._folder / f"{day}.jsonl"
        fd = _open(path, APPENDING)
        if _stat(fd).st_size:
            os.close(fd)
            raise FileExistsError(errno.EEXIST, "holds events that were not recovered", str(path))
        self._hold(path, day, fd, 0)

    def _hold(self, path: Path, day: date, fd: int, offset: int) -> None:
        self.close()
        self._path, self._fd_day, self._fd, self._offset = path, day, fd, offset

    def _check_end(self) -> None:
        found = _stat(self._fd)
        if not found.st_nlink or found.st_size < self._offset:
            raise OSError(errno.ESTALE, "deleted or cut by somebody else")
        if found.st_size > self._offset:
            _truncate(self._fd, self._offset)

    def _sync(self, sync: Callable, target: int | Path) -> None:
        try:
            sync(target)
        except OSError:
            # The kernel forgets a failed fsync: later ones prove nothing, so they undo nothing.
            if not self.poisoned:
                self.poisoned = True
                raise

    def _dispatch_newest(self) -> "Iterator[_DayFile]":
        """Read back to the newest file whose opening is intact, yielding each that was read."""
        for path in reversed(_day_files(self._folder) if self._folder else []):
            file = _DayFile(path)
            for event in file:
                for apply in self._subscribers:
                    apply(event)
            yield file
            if file.events:
                return

    def _repair(self, file: "_DayFile") -> None:
        """Leave only the good lines of `file`; the others are kept aside before that."""
        aside = self._folder / ("torn" if file.torn else "quarantine")
        kept = _spare_name(aside / f"{file.path.name}.{self._seq}")
        _make_folder(aside)
        if file.torn:
            _copy(file.path, kept, file.offset, file.size)
            _fsync_folder(aside)
            with open(file.path, "r+b", 0, opener=_open) as torn:
                _truncate(torn.fileno(), file.offset)
                _fsync(torn.fileno())
        else:
            _link(file.path, kept)
            _fsync_folder(aside)
            repaired = file.path.with_suffix(".tmp")
            _copy(file.path, repaired, 0, file.offset)
            _replace(repaired, file.path)
            _fsync_folder(self._folder)


def read_events(folder: str | Path, day: date | None = None) -> Iterator[Event]:
    """Read one day's events, or all in order, verifying the chain; nothing is changed.

    A torn last line ends it silently, for a writer may be at work; damage raises StoreDamaged.
    """
    before = None
    for path in _day_files(Path(folder)):
        if day is not None and path.stem != day.isoformat():
            continue
        file = _DayFile(path)
        for event in file:
            if before and file.events == 1 and (event.data["chain"], event.seq) != before:
                raise StoreDamaged(f"{path} line 1: does not follow the end of the day before it")
            yield event
        if file.problem and not file.torn:
            raise StoreDamaged(file.problem)
        if file.events:
            before = f"{file.crc:08x}", file.seq + 1


def write_state(path: str | Path, value: object) -> None:
    """Replace a state file as a whole, unsynced: it is a cache.  Raises OSError."""
    path = Path(path)
    # With the pid, two commands cannot write into each other's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(_plain(value), indent=2) + "\n"
    with open(temporary, "wb", 0, opener=_open) as file:
        _write_all(file.fileno(), text.encode("ascii"))
    _replace(temporary, path)


def read_state(path: str | Path, size_max: int = STATE_BYTES_MAX) -> dict | None:
    """Return a state file's JSON object; None if absent, or unusable and therefore moved away."""
    path = Path(path)
    try:
        with open(path, "rb", opener=_open) as file:
            text = file.read(size_max + 1) or b""
        value = _from_json(text.decode()) if len(text) <= size_max else None
        if not isinstance(value, dict):
            raise ValueError(f"no JSON object within {size_max} bytes")
        return value
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        bad = _spare_name(path.with_name(f"{path.name}.bad"))
        with suppress(OSError):
            _replace(path, bad)
        log.warning("state.ignored path=%s moved_to=%s because=%s", path, bad, error)
        return None


class InstanceLock:
    """The right to be the only writer, held until this process ends, however it ends.

    The file is never removed: who had opened it before would then hold another lock than we.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._fd: int | None = None

    def acquire(self) -> int | None:
        """Take the lock and return None, or return its holder's pid, 0 where unreadable."""
        fd = _open(self._path, os.O_RDWR | os.O_CREAT)
        for _ in range(LOCK_ATTEMPTS_MAX):
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._fd = fd
                with suppress(OSError):  # the lock counts; a full disk must not stop a close-all
                    _truncate(fd, 0)
                    _write(fd, b"%d\n" % os.getpid())
                return None
            # Nobody: a `holder` elsewhere was only asking, which shares the lock for a moment.
            if (pid := self.holder()) is not None:
                break
        os.close(fd)
        return pid or 0

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def holder(self) -> int | None:
        """Return the living holder's pid, 0 where unreadable; None while nobody holds it."""
        with suppress(FileNotFoundError), open(self._path, "rb", 0, opener=_open) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read(32).strip()
                return int(text) if text.isdigit() else 0
        return None


FOLDER_REFUSALS = (
    # what is wrong                                   in words               the way out
    (Path.is_symlink,                                 "is a symlink",        "name its target"),
    (lambda path: not path.is_dir(),                  "is not a folder",     "move it away"),
    (lambda path: path.stat().st_uid != os.geteuid(), "is another user's",   "run as its owner"),
    (lambda path: path.stat().st_mode & 0o022,        "others may write it", "chmod 700 {path}"),
    (lambda path: not os.access(path, os.W_OK),       "is not writable",     "chmod 700 {path}"),
)  # fmt: skip


def prepare_folder(path: str | Path) -> Path:
    """Make the folder if need be, 0700, and return it; ConfigError if it cannot be trusted."""
    path = Path(path)
    if ".." in path.parts or not str(path).isprintable():
        raise ConfigError(f"{str(path)!r} is no plain path: name it without .. and line breaks")
    try:
        if not os.path.lexists(path):
            _make_folder(path)
        for is_wrong, words, way_out in FOLDER_REFUSALS:
            if is_wrong(path):
                raise ConfigError(f"{path}: {words}: {way_out.format(path=path)}")
        os.chmod(path, 0o700)
    except OSError as error:
        raise ConfigError(f"{_said(error, path)}: choose another EVENT_STORE_ROOT") from error
    return path


class _DayFile:
    """One day's file, read line by line; afterwards it says how far it is good, and why.

    seq, crc, offset  of the last good line, and where it ends
    problem           what is wrong with the line after the last good one; empty if there is none
    torn              the problem is a last write that did not finish, and not damage
    """

    def __init__(self, path: Path):
        self.path = path
        self.seq = self.crc = self.offset = self.size = self.events = 0
        self.day, self.problem, self.torn = None, "", False

    def __iter__(self) -> Iterator[Event]:
        try:
            with open(self.path, "rb", opener=_open) as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size > FILE_BYTES_MAX:
                    raise ConfigError(f"{self.path}: above {FILE_BYTES_MAX} bytes: move it away")
                # Bounded by the size now: what a living writer adds is not ours to judge.
                lines = iter(lambda: file.readline(self.size - file.tell()), b"")
                yield from self._events(lines)
        except OSError as error:
            raise ConfigError(f"{_said(error, self.path)}: the events cannot be read") from error

    def _events(self, lines: Iterator[bytes]) -> Iterator[Event]:
        for line in lines:
            try:
                event = self._accept(line)
            except UNREADABLE as error:
                self.problem = f"{self.path} line {self.events + 1}: {error}"
                self.torn = not self._goes_on(line, lines)
                return
            yield event

    def _accept(self, line: bytes) -> Event:
        event, crc = _decode(line, self.crc if self.events else None)
        if not self.events:
            self._check_head(event.data)
        elif event.seq != self.seq + 1:
            raise ValueError(f"seq {event.seq} follows {self.seq}")
        self.seq, self.crc = event.seq, crc
        self.offset += len(line)
        self.events += 1
        return event

    def _check_head(self, data: Mapping[str, object]) -> None:
        for name, due in (("schema", SCHEMA), ("day", self.path.stem)):
            if (found := data.get(name)) != due:
                said = f"{self.path}: its {name} is {found!r}, not {due!r}"
                raise ConfigError(f"{said}: undo the renaming, or use the version that wrote it")
        self.day = date.fromisoformat(self.path.stem)

    def _goes_on(self, line: bytes, rest: Iterable[bytes]) -> bool:
        """Whether a whole line stands at or after the bad one that is not itself the one due."""
        own = WHOLE_LINE.match(line)
        if own and self.events and int(own[1]) != self.seq + 1:
            return True
        return bool(WHOLE_LINE.search(line, 1)) or any(map(WHOLE_LINE.search, rest))


def _day_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"))


# What decoding raises on text that is not ours: bad UTF-8 or JSON, 1e99999999999999999999, [[[[
UNREADABLE = (ValueError, ArithmeticError, RecursionError)
CRC_FORM = b',"crc":"%08x"}\n'
CRC_LENGTH = len(CRC_FORM % 0)
WHOLE_LINE = re.compile(rb'\{"seq":(\d{1,18}),"ts":"[^\n]*?,"crc":"[0-9a-f]{8}"\}')
RESERVED = frozenset(("seq", "ts", "type", "crc"))


def _encode(event: Event, chain: int) -> tuple[bytes, int]:
    """Return the event's line and its crc; `chain` is the crc of the line before."""
    if not RESERVED.isdisjoint(event.data):
        raise ValueError(f"{event.type}: {sorted(RESERVED)} are the line's own fields")
    fields = {"seq": event.seq, "ts": event.at, "type": event.type, **event.data}
    fields = _plain(fields, None if event.type == "day.opened" else STRING_LENGTH_MAX)
    body = _to_json(fields)[:-1].encode("ascii")
    crc = zlib.crc32(body, chain)
    return body + CRC_FORM % crc, crc


def _decode(line: bytes, chain: int | None) -> tuple[Event, int]:
    """Return the line's event and its crc; with no `chain` it must bring its own, as day.opened."""
    match _from_json(line.decode()):
        case {"seq": int(seq), "ts": str(ts), "type": str(type), "crc": str(), **data}:
            event = Event(seq, datetime.fromisoformat(ts), type, data)
        case _:
            raise ValueError("a field is missing")
    chain = int(str(data.get("chain")), 16) if chain is None else chain
    crc = zlib.crc32(line[:-CRC_LENGTH], chain)
    if line[-CRC_LENGTH:] != CRC_FORM % crc:
        raise ValueError("the crc does not fit")
    return event, crc


def _plain(value: object, length_max: int | None = None) -> object:
    """Return `value` as JSON carries it, strings cut at `length_max`."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        text = value[:length_max]
        return text if len(text) == len(value) else f"{text}…"
    if isinstance(value, int | None):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, length_max) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, length_max) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: object) -> str:
    if isinstance(value, Decimal):
        if value.is_finite() and abs(value.adjusted()) <= DECIMAL_MAGNITUDE_MAX:
            return format(value, "f")
    elif isinstance(value, datetime):
        if value.utcoffset() is not None:
            return value.astimezone(UTC).isoformat()
    elif isinstance(value, date):
        return value.isoformat()
    # Above all no float: it would not come back as the number that was meant.
    raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be recorded exactly")


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key stands twice")
    return fields


_to_json = json.JSONEncoder(separators=(",", ":")).encode
_from_json = json.JSONDecoder(
    parse_float=Decimal,
    parse_constant=int,  # refuses them: NaN and Infinity are none
    object_pairs_hook=_refuse_duplicates,
).decode


def _said(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror or error}"


# The disk
APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT
_write, _fsync, _truncate, _stat = os.write, os.fsync, os.ftruncate, os.fstat
_replace, _link = os.replace, os.link


def _open(path: Path, flags: int) -> int:
    """Open without following a link or waiting for a pipe; what may be created is 0600."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if flags & os.O_CREAT:
        os.fchmod(fd, 0o600)  # whatever the umask
    return fd


def _make_folder(path: Path) -> None:
    """Make the folder and what is missing above it, each 0700 whatever the umask."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return  # another profile's bot was quicker, or it is no folder, which the next call says
    os.chmod(path, 0o700)
    _fsync_folder(path.parent)


def _fsync_folder(path: Path) -> None:
    fd = _open(path, os.O_RDONLY)
    try:
        _fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    count = _write(fd, data)
    if count != len(data):
        raise OSError(errno.ENOSPC, f"only {count} of {len(data)} bytes were written")


def _copy(source: Path, target: Path, start: int, end: int) -> None:
    """Copy the bytes from `start` to `end`, synced."""
    with open(source, "rb") as origin, open(target, "wb", 0, opener=_open) as copy:
        origin.seek(start)
        for at in range(start, end, COPY_BYTES):
            _write_all(copy.fileno(), origin.read(min(COPY_BYTES, end - at)))
        _fsync(copy.fileno())


def _spare_name(path: Path) -> Path:
    """Return the first `path-n` that is free, or the last there may be."""
    names = [path.with_name(f"{path.name}-{n}") for n in range(1, SPARE_NAMES_MAX + 1)]
    return next((name for name in names if not os.path.lexists(name)), names[-1])

"""Store: what happened, in order?

The events are the truth from which all state is rebuilt: one JSON object a line, each line's crc
chained to the line before, one file a day, opened by a snapshot.  The bot's state is a fold over
them, live or recovered.  State files are caches; the lock keeps the writer alone.

This room never reads the clock (the loop sets `store.now`), decides nothing about trading, never
edits a line that it acknowledged and never skips one that it cannot read.  Whatever changes the
disk goes through "The disk" at the end, so that the crash rigs can replace it.
"""

import fcntl
import logging
import os
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.event import (
    CRC_FORM, CRC_LENGTH, DAY_FILES, SCHEMA, UNREADABLE, Event, decoded, from_json,
)
from perps_bot.exact import Form
from perps_bot.lines import said as _said
from perps_bot.reading import holder
from perps_bot.secret import redacted

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BACKLOG_LINES_MAX = 10_000  # lines that wait in memory for a disk that refuses them
STRING_LENGTH_MAX = 2_000  # characters of one string in an event, day.opened excepted
STATE_BYTES_MAX = COPY_BYTES = 1 << 20
STATE_LEVELS = 2  # of a state file, that have a line for each value
READ_BYTES = 1 << 18
LOCK_ATTEMPTS_MAX = 100
NEWLINE = ord("\n")

# What is fsynced before append returns: orders, money, halts, and what frames them.
SYNCED = frozenset(
    """order.intended order.updated order.unknown order.lost trade.executed funding.paid stop.placed
    stop.moved position.adopted state.changed day.opened bot.started bot.stopped
    control.requested control.answered""".split()
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recovery:
    """What `recover` found.

    events      how many were dispatched
    torn_bytes  cut from last writes that did not finish; kept in `events/torn`
    damage      file, line and what is wrong; empty if nothing.  The caller starts REDUCING and
                records that first: until something is recorded, every recovery says it again
    """

    events: int = 0
    torn_bytes: int = 0
    damage: str = ""


class EventStore:
    """The events of one profile; without a folder they are numbered and dispatched, no more.

    sync      False for a replay, whose events need not survive a power cut: no line is fsynced
    now       the moment that the next events carry: the last one's at first, then the loop sets it
    seq       the number of the last event
    profile   whose events these are; a file that says another is refused.  Empty: not asked
    day       the day that is open; None before the first
    trouble   why a line is not safely on disk, in one line; empty while all are
    poisoned  an fsync failed, lines were lost or the file is not where it was: in this process no
              required append succeeds again
    """

    def __init__(self, folder: str | Path | None = None, now: datetime = EPOCH, sync: bool = True,
                 profile: str = ""):
        self.now, self.profile = now, profile
        self.day: date | None = None
        self.trouble, self.poisoned = "", False
        self._folder = self._path = None if folder is None else prepare_folder(folder)
        self._syncs = sync
        # By type, "" for all: who is told as it happens, and who at a restart.
        self._tells, self._recovers = defaultdict(list), defaultdict(list)
        self.seq = self._crc = 0  # of the last event
        self._fd, self._offset = -1, 0  # the open file, and where its last good line ends
        self._owed: deque[Callable[[], None]] = deque()  # what must reach the disk, in order
        self._sealed = False  # a line was lost, so none may follow it

    @property
    def writable(self) -> bool:
        """Whether the last line went to disk; while it is False, increase nothing."""
        return not self.trouble

    def subscribe(self, apply: Callable[[Event], None], types: Iterable[str] = ("",),
                  recovered: Collection[str] = ()) -> None:
        """Have `apply` called with the events of `types`, "" for all; it must not append.

        recovered  those of them that only a restart needs: they are not told as they happen
        """
        for type in types:
            self._recovers[type].append(apply)
            if type not in recovered:
                self._tells[type].append(apply)

    def wants(self, type: str) -> bool:
        """Whether anybody reads or stores such an event as it happens; else it need not be made."""
        return self._folder is not None or bool(self._tells[type] or self._tells[""])

    def append(self, type: str, required=False, noun: object = None, **data: object) -> Event:
        """Record that `type` happened now, then dispatch it with the `noun` that it tells of.

        A line that the disk refuses waits in memory and its event is dispatched all the same.
        With `required` it raises StoreDamaged instead, and the event never happened.
        """
        if self.day is None and self._folder is not None:
            self.open_day(self.now.astimezone(UTC).date(), {})
        return self._happen(type, data, self.day, required, noun)

    def open_day(self, day: date, snapshot: Mapping[str, object], **data: object) -> Event:
        """Start the file of `day`; `snapshot` is all that recovery needs of the days before."""
        if self.day is not None and day <= self.day:
            raise ValueError(f"day {day} cannot be opened: {self.day} already is")
        chain = f"{self._crc:08x}"  # with the last line's crc, one file can be verified alone
        owner = {"profile": self.profile} if self.profile else {}
        data = dict(schema=SCHEMA, day=day, **owner, **data, chain=chain, snapshot=snapshot)
        return self._happen("day.opened", data, day, required=False)

    def recover(self) -> Recovery:
        """Dispatch the newest day's events and make the files fit to go on; once, at the start.

        While the disk refuses the repair every line waits: closing works, opening does not.
        """
        if self.seq:
            raise ValueError("recover comes once, before the first append")
        files: list[_DayFile] = []  # back to the newest whose opening is intact
        for path in reversed(_files(self._folder, DAY_FILES)):
            files.append(file := _DayFile(path, profile=self.profile))
            for event in file:
                self._dispatch(event, self._recovers)
                self.now = event.at
            if file.last:
                (self.seq, self._crc), self.day = file.last, date.fromisoformat(path.stem)
                break
        damage = [file.damage for file in files if file.damage]
        # Said again if the last process died before it could record what it had repaired.
        damage += map(str, _files(self._folder, f"quarantine/*.jsonl.{self.seq}-*"))
        self._owed += [partial(self._repair, file, self.seq) for file in files]
        if self.day:
            self._owed.append(partial(self._turn_to, self.day, file.offset))
        self._settle()
        events, torn = sum(file.events for file in files), sum(file.torn for file in files)
        return Recovery(events, torn, "; ".join(damage))

    def read(self, day: date | None = None) -> Iterator[Event]:
        """See `read_events`."""
        return read_events(self._folder, day)

    def look_for_the_file(self) -> None:
        """Notice that the file, or a folder above it, was renamed: who starts next finds nothing.

        What happens is still written, to where the file went; nothing is increased any more.
        """
        if self._fd < 0 or self.poisoned:
            return
        try:
            is_there = os.path.samestat(os.stat(self._path), _stat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError:  # the next line that is written will say it
            return
        if not is_there:
            self.poisoned = True
            self.trouble = f"{self._path}: was moved away while in use: put it back and restart"

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _happen(self, type: str, data: dict, day: date | None, required: bool, noun=None) -> Event:
        seq = self.seq + 1
        event = tuple.__new__(Event, (seq, self.now, type, data, noun))
        if self._folder is not None:
            self._record(event, day, required)
        self.seq, self.day = seq, day
        self._dispatch(event, self._tells)
        return event

    def _dispatch(self, event: Event, readers: Mapping[str, list[Callable]]) -> None:
        for apply in readers[event.type]:
            apply(event)
        for apply in readers[""]:
            apply(event)

    def _record(self, event: Event, day: date, required: bool) -> None:
        """Bring the event's line to disk after all that is owed; else let it wait, or raise."""
        line, crc = _encode(event, self._crc)
        if required and self.poisoned:
            raise StoreDamaged(self.trouble)
        if not self._sealed:
            if day != self.day:
                self._owed.append(partial(self._turn_to, day, 0))
            self._owed.append(partial(self._put, line, required or event.type in SYNCED))
        self._settle()
        if self._owed and required:
            self._owed.pop()
            raise StoreDamaged(self.trouble)
        if len(self._owed) > BACKLOG_LINES_MAX:
            self._owed.pop()  # what is kept stays an exact prefix of what happened
            self._sealed = self.poisoned = True
        self._crc = crc

    def _settle(self) -> None:
        """Do what is owed, in order, until the disk refuses."""
        try:
            while self._owed:
                self._owed[0]()
                self._owed.popleft()
            self.trouble = self.trouble if self.poisoned else ""
        except OSError as error:
            self.trouble = f"{self._path}: {error}: mend the disk; restart if this stays"

    def _put(self, line: bytes, synced: bool) -> None:
        """Leave the file one line longer; else it is owed to cut what was written of it."""
        found = _stat(self._fd)
        if not found.st_nlink or found.st_size != self._offset:
            raise OSError("holds events not recovered, or was changed by others")
        try:
            _write_all(self._fd, line)
            if synced:
                self._sync(_fsync, self._fd)
        except OSError:
            self._owed.appendleft(lambda: _truncate(self._fd, self._offset))
            raise
        self._offset += len(line)

    def _turn_to(self, day: date, end: int) -> None:
        """Go on in the file of `day`, whose good lines end at `end`."""
        if self._fd >= 0:
            self._sync(_fsync, self._fd)  # else the new day could outlive the old one's end
        self.close()
        self._path, self._offset = self._folder / f"{day}.jsonl", end
        self._fd = _open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._sync(_fsync, self._fd)  # the last process may have died before it did
        self._sync(_fsync_folder, self._folder)

    def _sync(self, sync: Callable, target: int | Path) -> None:
        try:
            if self._syncs:
                sync(target)
        except OSError:
            # The kernel forgets a failed fsync: later ones prove nothing, so none is tried.
            self._syncs, self.poisoned = False, True
            raise

    def _repair(self, file: "_DayFile", seq: int) -> None:
        """Cut `file` after its good lines; the torn end, or all that was damaged, is kept first."""
        if not file.torn and not file.damage:
            return
        aside = self._folder / ("torn" if file.torn else "quarantine")
        _make_folder(aside)
        # Named by its last change: one copy however often a repair is begun, one for each mishap.
        kept = aside / f"{file.path.name}.{seq}-{file.stat.st_mtime_ns}"
        with open(file.path, "r+b", opener=_open) as bad, open(kept, "wb", 0, opener=_open) as copy:
            bad.seek(file.offset if file.torn else 0)
            for part in iter(lambda: bad.read(COPY_BYTES), b""):
                _write_all(copy.fileno(), part)
            self._sync(_fsync, copy.fileno())
            self._sync(_fsync_folder, aside)
            _truncate(bad.fileno(), file.offset)


def read_events(
    folder: str | Path | None, day: date | None = None, since: date | None = None,
    until: date | None = None, read: Callable[[bytes], Event] = decoded,
) -> Iterator[Event]:
    """Read one day's events, or all in order, verifying the chain; nothing is changed.

    since, until  the first and the last day of those that are read; None for all
    read          with those of `lines` every line is verified, but few are parsed
    A torn last line ends it silently, for a writer may be at work; damage raises StoreDamaged.
    """
    last = None
    for path in _files(folder, f"{day}.jsonl" if day else DAY_FILES):
        if since and path.stem < str(since) or until and path.stem > str(until):
            continue
        file = _DayFile(path, last, read=read)
        yield from file
        last = file.last
        if file.damage:
            raise StoreDamaged(file.damage)


def verified_days(folder: str | Path, profile: str = "") -> Iterator["_DayFile"]:
    """Verify the whole chain, day by day, and yield what each file holds; nothing is changed.

    Raises StoreDamaged with file and line; a torn last line is counted in `torn`.
    """
    last = None
    for path in _files(folder, DAY_FILES):
        file = _DayFile(path, last, profile)
        deque(file, maxlen=0)
        if file.damage:
            raise StoreDamaged(file.damage)
        last = file.last or last
        yield file


def write_state(path: str | Path, value: object) -> None:
    """Replace a state file, unsynced; only one process at a time may write it.  Raises OSError.

    A text is written as it is, everything else as JSON.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    text = value if isinstance(value, str) else _SHOWN.spread(value, STATE_LEVELS) + "\n"
    fd = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _write_all(fd, redacted(text).encode("utf-8", "replace"))
    finally:
        os.close(fd)
    _replace(temporary, path)


def write_new(path: str | Path, text: str) -> None:
    """Write a file that is not there yet, for its owner alone.  Raises OSError."""
    fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        _write_all(fd, text.encode())
    except OSError:
        os.unlink(path)  # half of it would be taken for the whole
        raise
    finally:
        os.close(fd)


def read_state(path: str | Path, size_max: int = STATE_BYTES_MAX) -> dict | None:
    """Return a state file's JSON object; None if absent, or unusable and therefore moved away."""
    path = Path(path)
    try:
        with open(path, "rb", opener=_open) as file:
            text = file.read(size_max + 1) or b""
        value = from_json(text.decode()) if len(text) <= size_max else None
        if not isinstance(value, dict):
            raise ValueError(f"no JSON object within {size_max} bytes")
        return value
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        bad = path.with_name(f"{path.name}.bad")
        with suppress(OSError):
            _replace(path, bad)
        log.warning("state.ignored path=%s moved_to=%s because=%s", path, bad, _said(error))
        return None


class InstanceLock:
    """The right to be the only writer, held until this process ends, however it ends.

    The file is never removed: who had opened it before would then hold another lock than we.
    """

    def __init__(self, path: str | Path):
        self._path, self._fd = Path(path), -1

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
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def holder(self) -> int | None:
        """Return the living holder's pid, 0 where unreadable; None while nobody holds it."""
        return holder(self._path)


FOLDER_REFUSALS = (
    # what is wrong                                   in words               the way out
    (Path.is_symlink,                                 "is a symlink",        "name its target"),
    (lambda path: path.stat().st_uid != os.geteuid(), "is another user's",
     "run as its owner, with sudo -u {owner} before the command"),
    (lambda path: path.stat().st_mode & 0o022,        "others may write it", "chmod 700 {path}"),
)  # fmt: skip


def account_lock(name: str):
    """Hold the name of an account on this host until closed; None where somebody holds it.

    An abstract Unix socket: it leaves no file behind, and the kernel frees it at any death.
    """
    import hashlib
    import socket

    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0perps-bot-{digest}")
    except OSError:
        held.close()
        return None
    return held


def prepare_folder(path: str | Path) -> Path:
    """Make the folder if need be, 0700, and return it; ConfigError if it cannot be trusted."""
    path = Path(path)
    refuse_denied(path)
    try:
        _make_folder(path)
        if why := distrust(path):
            raise ConfigError(f"{path}: {why}")
        os.chmod(path, 0o700)
    except OSError as error:
        raise ConfigError(f"{path}: {error}: choose another folder") from error
    return path


def distrust(path: Path) -> str:
    """Why a folder cannot be trusted, and the way out; empty where it can.  Raises OSError."""
    for is_wrong, words, way_out in FOLDER_REFUSALS:
        if is_wrong(path):
            return f"{words}: {way_out.format(path=path, owner=_owner(path))}"
    return ""


def refuse_denied(path: Path) -> None:
    """ConfigError where we may not look: that we see nothing there would say nothing."""
    try:
        os.listdir(path)
    except PermissionError as error:
        seen = filter(os.path.lexists, (path.absolute(), *path.absolute().parents))
        raise ConfigError(f"{path}: {distrust(next(seen)) or error.strerror}") from None
    except OSError:  # it is missing, or no folder: that can be said
        return


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # nobody has that number here
        return f"'#{path.stat().st_uid}'"


class _DayFile:
    """One day's file, read line by line; afterwards it says how far it is good, and why.

    last    seq and crc of the last good line, which the next must follow; None before the first
    offset  where it ends
    torn    bytes after it that have no end: a write did not finish, which is no damage
    damage  what else is wrong with the line after it; empty if nothing
    """

    def __init__(self, path: Path, last: tuple[int, int] | None = None, profile: str = "",
                 read: Callable[[bytes], Event] = decoded):
        self.path, self.last, self._profile, self._read = path, last, profile, read
        self.offset = self.events = self.torn = 0
        self.damage = ""

    def __iter__(self) -> Iterator[Event]:
        try:
            with open(self.path, "rb", READ_BYTES, opener=_open) as file:
                self.stat = os.fstat(file.fileno())
                yield from self._verified(file)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error}: the events cannot be read") from error
        except UNREADABLE as error:
            self.damage = f"{self.path} line {self.events + 1}: {_said(error)}"

    def _verified(self, lines: Iterable[bytes]) -> Iterator[Event]:
        """The event of each line that follows; raises one of UNREADABLE at one that does not."""
        size, offset, events, read = self.stat.st_size, 0, 0, decoded
        try:
            for line in lines:
                # Bounded by the size then: what a living writer adds is not ours to judge.
                if offset + len(line) > size or line[-1] != NEWLINE:
                    self.torn = min(len(line), size - offset)
                    return
                event = read(line)
                if not events:  # the first line that is read says itself what it follows
                    seq, crc = self.last or (event.seq - 1, int(str(event.data.get("chain")), 16))
                found = zlib.crc32(line[:-CRC_LENGTH], crc)
                if line[-CRC_LENGTH:] != CRC_FORM % found or event.seq != seq + 1:
                    raise ValueError("does not follow the line before")
                if not events:
                    self._refuse_foreign(event.data)
                    read = self._read
                seq, crc = event.seq, found
                offset += len(line)
                events += 1
                yield event
        finally:
            self.offset, self.events = offset, events
            self.last = (seq, crc) if events else self.last

    def _refuse_foreign(self, data: Mapping) -> None:
        """What the first line of a day's file must say."""
        if (data.get("schema"), data.get("day")) != (SCHEMA, self.path.stem):
            raise ConfigError(f"{self.path}: holds schema {_said(data.get('schema'))} of "
                              f"{_said(data.get('day'))}: undo the renaming, or use the version "
                              f"that wrote it")
        owner = data.get("profile")
        if self._profile and owner not in (None, self._profile):
            raise ConfigError(f"{self.path}: holds events of profile {_said(owner):.40}, not of "
                              f"{self._profile}: put them back into their own folder")


def _files(folder: str | Path | None, pattern: str) -> list[Path]:
    return sorted(Path(folder).glob(pattern)) if folder is not None else []


def _encode(event: Event, chain: int) -> tuple[bytes, int]:
    """Return the event's line and its crc; `chain` is the crc of the line before."""
    # As keywords: data that would replace one of the line's own fields is a TypeError.
    fields = dict(seq=event.seq, ts=event.at, type=event.type, **event.data, crc="")
    form = _WHOLE if event.type == "day.opened" else _LINE
    body = redacted(form.text(fields)).removesuffix(',"crc":""}').encode("ascii")
    crc = zlib.crc32(body, chain)
    return body + CRC_FORM % crc, crc


_LINE, _WHOLE, _SHOWN = Form(STRING_LENGTH_MAX), Form(), Form(comma=", ", colon=": ")


# The disk
_write, _fsync, _truncate, _stat = os.write, os.fsync, os.ftruncate, os.fstat
_replace = os.replace


def _open(path: Path, flags: int) -> int:
    """Open without following a link or waiting for a pipe; what may be created is 0600."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if flags & os.O_CREAT:
        os.fchmod(fd, 0o600)  # whatever the umask
    return fd


def _make_folder(path: Path) -> None:
    """Make the folder and what is missing above it, each 0700 whatever the umask."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(0o700, exist_ok=True)  # another profile's bot may have been quicker
        os.chmod(path, 0o700)
    # Also where it is there: who made it may have died before its name was on the disk.
    if os.access(path.parent, os.R_OK | os.W_OK):  # else it was not us
        _fsync_folder(path.parent)


def _fsync_folder(path: Path) -> None:
    fd = _open(path, os.O_RDONLY)
    try:
        _fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    if _write(fd, data) != len(data):
        raise OSError("not all bytes were written")

"""Journal: what happened lately?

Reads the events from the newest back, and follows them as they are written, over midnight and
over a last line that is not finished.  It reads no more than it needs: not the day, let alone the
year.  Nothing is ever changed here, and a line that does not follow from the one before it is
refused, not skipped.
"""

import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice

from perps_bot.errors import ConfigError
from perps_bot.event import (
    CRC_FORM, CRC_LENGTH, DAY_FILE, SCHEMA, UNREADABLE, Event, decoded,
)
from perps_bot.reading import opened, unreadable

BLOCK_BYTES = 1 << 16
# A day's snapshot is the longest line there is; what is longer is not ours.
LINE_BYTES_MAX = 1 << 25


class Place:
    """How far the events were read: a day's file, the bytes read of it, the crc of the last line.

    path  None where there are no events at all
    crc   None before a file's first line, which says itself what it follows
    """

    def __init__(self, path: str | None = None, offset: int = 0, crc: int | None = None) -> None:
        self.path, self.offset, self.crc = path, offset, crc


def newest(folder: str | os.PathLike, place: Place | None = None,
           wants: Callable[[bytes], bool] = bool, lines_max: int | None = None) -> Iterator[Event]:
    """Yield the events that were complete at `place`, or are now, the newest first.

    wants      asked with a line whether it is read: every line's crc is verified, to know what
               stands there is dearer
    lines_max  how many lines are looked at; None for all
    """
    for line, chain, path in islice(_lines_before(folder, place or end_of(folder)), lines_max):
        if wants(line):
            yield _event(line, chain, path)
        elif chain is not None:
            _follow(line, chain, path)


def end_of(folder: str | os.PathLike) -> Place:
    """Where the last complete line ends."""
    for path in reversed(_days(folder)):
        with opened(path) as file:
            end = _last_end(file)
            line = next(_backwards(file, end, path), None)
            return Place(path, end, None if line is None else _crc_of(line, path))
    return Place()


def news(folder: str | os.PathLike, place: Place) -> Iterator[Event]:
    """Yield what was written since `place`, in order, and move `place` on."""
    days = _days(folder)  # looked for first: what is written meanwhile is read before we move on
    if place.path is None and days:
        place.path = days[0]
    while place.path is not None:
        yield from _rest(place)
        later = [path for path in days if path > place.path]
        if not later:
            return
        place.path, place.offset, place.crc = later[0], 0, None


def _lines_before(folder, place: Place) -> Iterator[tuple[bytes, int | None, str]]:
    """Yield each line before `place`, the crc of the line before it, and its file."""
    for path in reversed(_days(folder)):
        if place.path is None or path > place.path:
            continue
        with opened(path) as file:
            _refuse_foreign(file, path)  # with which the file's first line is verified
            end = place.offset if path == place.path else _last_end(file)
            lines = _backwards(file, end, path)
            line = next(lines, None)
            while line is not None:
                before = next(lines, None)
                yield line, None if before is None else _crc_of(before, path), path
                line = before


def _days(folder: str | os.PathLike) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if re.fullmatch(DAY_FILE, name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from None
    return [os.path.join(folder, name) for name in names]


def _rest(place: Place) -> Iterator[Event]:
    with opened(place.path) as file:
        if os.fstat(file.fileno()).st_size < place.offset:
            raise ConfigError(f"{place.path}: is shorter than it was: a start has repaired it; "
                              f"begin anew")
        _refuse_foreign(file, place.path)
        file.seek(place.offset)
        while (line := file.readline(LINE_BYTES_MAX)).endswith(b"\n"):
            event = _event(line, place.crc, place.path)
            place.offset += len(line)
            place.crc = _crc_of(line, place.path)
            yield event


def _last_end(file: io.BufferedReader) -> int:
    """Where the last complete line ends; what stands behind it is still being written, or torn."""
    end = os.fstat(file.fileno()).st_size
    while end > 0:
        start = max(end - BLOCK_BYTES, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _backwards(file: io.BufferedReader, end: int, path: str) -> Iterator[bytes]:
    """Yield the lines before `end`, which ends one, the last first."""
    parts: list[bytes] = []  # of the line that is being put together, the last first
    length = 0
    while end > 0:
        start = max(end - BLOCK_BYTES, 0)
        file.seek(start)
        *lines, last = file.read(end - start).split(b"\n")
        end = start
        for piece in reversed(lines):
            parts.append(last)
            if line := b"".join(reversed(parts)):
                yield line + b"\n"
            parts, length, last = [], 0, piece
        parts.append(last)
        length += len(last)
        if length > LINE_BYTES_MAX:
            raise _damaged(path, f"a line of more than {LINE_BYTES_MAX} bytes")
    if line := b"".join(reversed(parts)):
        yield line + b"\n"


def _event(line: bytes, chain: int | None, path: str) -> Event:
    """Read one line; `chain` is the crc of the line before, None for a file's first."""
    try:
        event = decoded(line)
        _follow(line, int(str(event.data.get("chain")), 16) if chain is None else chain, path)
        if event.at.utcoffset() is None:
            raise ValueError("a time without its offset")
    except UNREADABLE as error:
        raise _damaged(path, str(error)) from None
    return event


def _follow(line: bytes, chain: int, path: str) -> None:
    """Verify that a line follows from the one before it."""
    if line[-CRC_LENGTH:] != CRC_FORM % zlib.crc32(line[:-CRC_LENGTH], chain):
        raise _damaged(path, "a line does not follow the line before")


def _crc_of(line: bytes, path: str) -> int:
    try:
        return int(line[-CRC_LENGTH:].decode()[8:16], 16)
    except ValueError:
        raise _damaged(path, "a line without its crc") from None


def _refuse_foreign(file: io.BufferedReader, path: str) -> None:
    """Refuse a file that another version wrote, or that was renamed."""
    file.seek(0)
    line = file.readline(LINE_BYTES_MAX)
    if not line.endswith(b"\n"):
        return  # the day is just being opened
    data, day = _event(line, None, path).data, os.path.basename(path).removesuffix(".jsonl")
    if (data.get("schema"), data.get("day")) != (SCHEMA, day):
        raise ConfigError(f"{path}: is not of this version, or was renamed: use the version that "
                          f"wrote it, or undo the renaming")


def _damaged(path: str, why: str) -> ConfigError:
    why = ascii(why[:200])[1:-1]
    return ConfigError(f"{path}: damaged: {why}: see 'Damaged events' in docs/RUNBOOK_PERPS.md")

"""Outputs: where does what the owner asked for go?

Files of the owner's choice: 0600, there only when complete, never in place of another without a
word; and CSV that a spreadsheet takes for data.  What stands in them is decided elsewhere.
"""

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from perps_bot.errors import ConfigError

# With these a spreadsheet takes a cell for a formula.
FORMULA = ("=", "+", "-", "@")


def new_file(flag: str, name: str, replaces: bool = False) -> Path:
    """Return where to write; refuses now what would fail at the end, or destroy something."""
    path = Path(os.path.realpath(name))
    if path.exists() and not (replaces and path.is_file()):
        way = "name a new one, or add --force" if path.is_file() else "name a file"
        raise ConfigError(f"{flag} {name}: is there already: {way}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        raise ConfigError(f"{flag} {name}: its folder is not there or not writable: make it first")
    return path


@contextmanager
def kept_when_done(path: Path | None) -> Iterator[Path | None]:
    """Yield where to write what gets the name `path` only when all went well."""
    if path is None:
        yield None
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink()


@contextmanager
def table(path: Path | None, columns: Sequence[str]) -> Iterator[Callable | None]:
    """Yield what writes a row of a CSV file, or None where no path was given."""
    if path is None:
        yield None
        return
    with open(path, "w", newline="", encoding="utf-8", opener=private) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield lambda row: writer.writerow(map(cell, row))


def cell(value: object) -> str:
    """Return a value as it stands in CSV: numbers exact; a text is one line and no formula."""
    match value:
        case None:
            return ""
        case Decimal():
            return f"{value:f}"
        case datetime():
            return value.isoformat()
        case str():
            text = value if value.isprintable() else ascii(value)[1:-1]
            return f"'{text}" if text.startswith(FORMULA) else text
    return str(value)


def private(path: str, flags: int) -> int:
    """For `open`: what is made is its owner's alone, whatever the umask."""
    return os.open(path, flags, 0o600)

"""Mailbox: what has the owner asked for, and what was answered?

One folder of small files between a command and the bot: the command renames a request into place,
the bot takes it to where no other can take its place, and renames the answer.  No file that stands
there can raise: what is not ours, torn, huge or a link is moved aside, with one line.  Nothing is
done about a request here, and nothing is sent.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from perps_bot import store
from perps_bot.errors import ConfigError
from perps_bot.store import InstanceLock, prepare_folder, read_state, write_state

log = logging.getLogger("perps_bot")

REASON_LENGTH_MAX = 500
IDENTITY = re.compile(r"[0-9a-f]{32}")
YEAR_MIN, YEAR_MAX = 1, 9999  # in these two not every time can be told in UTC
# The files of the folder: what waits, what is being done, what a full disk could not record.
REQUEST, TAKEN, KEPT, ANSWER = "request.json", "taken.json", "kept.json", "answer.json"
ARGUMENTS = {
    "halt": {"reason": str, "reduce_only": bool},
    "resume": {"reason": str, "clear_daily_loss": bool},
    "close-all": {"reason": str, "symbols": list},
}


@dataclass(frozen=True)
class Request:
    """What is asked for.  at is the time of the machine, not the venue's."""

    id: str
    command: str
    args: Mapping[str, Any]
    at: datetime

    @property
    def rank(self) -> int:
        """One that waits gives way to none of a lower rank: no halt is lost to a resume."""
        return {"resume": 0, "halt": 2 - self.args.get("reduce_only", 0), "close-all": 3}[
            self.command]

    @property
    def halts(self) -> bool:
        return self.command != "resume"


@dataclass(frozen=True)
class Answer:
    """What came of it: the command's exit code, and lines for people."""

    exit_code: int
    text: str


def request_of(value: Mapping) -> Request:
    """Return the request that a file holds.  Raises ValueError for one that we did not write."""
    match value:
        case {"id": str(identity), "command": str(command), "args": dict(args), "at": str(at)}:
            moment = datetime.fromisoformat(at)
        case _:
            raise ValueError("not the fields of a request")
    reason, symbols = args.get("reason"), args.get("symbols")
    names = symbols if isinstance(symbols, list) else []
    troubles = (
        # what is wrong, when
        ("no id of ours", not IDENTITY.fullmatch(identity)),
        ("not a command with its arguments",
         {name: type(given) for name, given in args.items()} != ARGUMENTS.get(command)),
        ("no reason, or too long a one",
         not isinstance(reason, str) or not 0 < len(reason.strip()) <= REASON_LENGTH_MAX),
        ("symbols that are no names", not all(isinstance(each, str) for each in names)),
        ("a time without its offset", moment.utcoffset() is None),
        ("a time in no other zone", not YEAR_MIN < moment.year < YEAR_MAX),
    )
    for trouble, is_so in troubles:
        if is_so:
            raise ValueError(trouble)
    return Request(identity, command, args, moment)


class Mailbox:
    """The folder, from the side of the one who answers.

    trouble  why what waits cannot be taken, or an answer not written; empty while all can
    """

    def __init__(self, folder: Path) -> None:
        self.trouble = ""
        self._folder = folder
        self._left = [TAKEN, KEPT]  # by an earlier process
        self._kept_rank = 0  # of the request that is kept; 0: none is

    def is_asked(self) -> bool:
        """Whether a request waits that can be taken."""
        return not self.trouble and os.path.lexists(self._folder / REQUEST)

    def take(self) -> Request | None:
        """Return the next request; what an earlier process took and did not finish comes first."""
        while self._left and not os.path.lexists(self._folder / self._left[0]):
            self._left.pop(0)
        name = self._left[0] if self._left else REQUEST
        if not os.path.lexists(self._folder / name):
            self.trouble = ""
            return None
        try:
            prepare_folder(self._folder)
            os.replace(self._folder / name, self._folder / TAKEN)
        except (OSError, ConfigError) as failure:
            self._complain(f"{self._folder / name} cannot be taken: {failure}")
            return None
        self.trouble, self._left = "", self._left[1:]
        return _read(self._folder / TAKEN)

    def give(self, request: Request, answer: Answer, is_recorded: bool) -> None:
        """Answer, and let go of the request; a halt that is in no event yet is kept as a file."""
        said = {"id": request.id, "exit_code": answer.exit_code, "text": answer.text}
        try:
            write_state(self._folder / ANSWER, said)
        except OSError as failure:
            self._complain(f"{self._folder / ANSWER} was not written: {failure.strerror}")
        if is_recorded or request.rank <= self._kept_rank:  # a resume is never kept
            self._remove(TAKEN)
        else:
            self._kept_rank = request.rank
            with suppress(OSError):
                os.replace(self._folder / TAKEN, self._folder / KEPT)

    def forget_what_was_kept(self) -> None:
        """The events have it now."""
        if self._kept_rank:
            self._kept_rank = 0
            self._remove(KEPT)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(self._folder / name)

    def _complain(self, trouble: str) -> None:
        """Say it once, not at every look."""
        if trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble


# From the side of the one who asks


@contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Be the only command that asks: one after the other; False while another one does."""
    prepare_folder(folder)
    lock = InstanceLock(folder / "lock")
    try:
        yield lock.acquire() is None
    finally:
        lock.release()


def put(folder: Path, request: Request) -> Request | None:
    """Leave a request; return the one that waits there, where that must not give way.

    Raises OSError where the disk does not take it.
    """
    waiting = _read(folder / REQUEST) if os.path.lexists(folder / REQUEST) else None
    if waiting is not None and waiting.rank > request.rank:
        return waiting
    write_state(folder / REQUEST, vars(request))
    for path in (folder / REQUEST, folder):  # no power cut takes back what a person was told
        store._fsync_folder(path)
    return None


def answer_to(folder: Path, request: Request) -> Answer | None:
    match read_state(folder / ANSWER):
        case {"id": request.id, "exit_code": int(code), "text": str(text)}:
            return Answer(code, text)
    return None


def _read(path: Path) -> Request | None:
    """The request in a file; what is none of ours is moved aside, with one line."""
    value = read_state(path)
    try:
        return None if value is None else request_of(value)
    except ValueError as refusal:
        bad = path.with_name(f"{path.name}.bad")
        with suppress(OSError):
            os.replace(path, bad)
        log.warning("control.refused moved_to=%s because=%s", bad, refusal)
        return None

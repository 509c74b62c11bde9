"""Diary: what did the bot do, line by line?

The log that the operator reads, on stderr and in a file that is rotated here.  It holds nothing
up and fails nothing: where a line cannot be written, it is missing, and the bot goes on.
"""

import fcntl
import logging
import os
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler

from perps_bot.errors import ConfigError
from perps_bot.process import one_line, takes, traceback_lines
from perps_bot.store import prepare_folder

# The file's size, and how many older ones are kept.
LOG_BYTES_MAX, LOG_FILES = 5_000_000, 5


def log_to(settings) -> None:
    """Send the diary to stderr and to the rotated file; nothing else may print there."""
    path = prepare_folder(settings.log_dir) / "perps_bot.log"
    try:
        file = _PrivateLog(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: mend it or set PERPS_LOG_DIR") from error
    form = Line("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    log = logging.getLogger("perps_bot")
    # A full disk must not make the logging module print tracebacks over the operator's screen.
    logging.raiseExceptions = False
    log.handlers = [Diary(), file]
    for handler in log.handlers:
        handler.setFormatter(form)
    log.setLevel(settings.log_level)


class Line(logging.Formatter):
    """A line of the diary.  A traceback has lines of its own, which look like no other."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei) -> str:
        return traceback_lines(*ei)


class Diary(logging.StreamHandler):
    """The diary on stderr, which must not hold up the bot when nobody reads it."""

    def emit(self, record: logging.LogRecord) -> None:
        if takes(self.stream):
            super().emit(record)


class _PrivateLog(RotatingFileHandler):
    """The log file, for its owner's eyes, after every rotation too.

    The bots of several profiles may share it: one of them rotates, and the others follow.
    """

    def shouldRollover(self, record):
        with suppress(OSError):  # where nothing more can be opened, the old file has to do
            if not self._is_in_place():  # rotated by another bot, or removed by a person
                fresh = self._open()
                self.stream.close()
                self.stream = fresh
        return super().shouldRollover(record)

    def doRollover(self):
        held = os.dup(self.stream.fileno())
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_in_place():
                super().doRollover()
        except BlockingIOError:
            pass  # another bot is at it; the next line follows
        finally:
            os.close(held)

    def _is_in_place(self):
        try:
            return os.path.samestat(os.stat(self.baseFilename), os.fstat(self.stream.fileno()))
        except FileNotFoundError:
            return False

    def _open(self):
        return open(self.baseFilename, self.mode, encoding=self.encoding,
                    opener=lambda path, flags: os.open(path, flags, 0o600))

"""Reading: what stands there, and who works there?

How files that may be anybody's are looked at while a bot works on them: no link is followed, no
pipe waited for, nothing is made, moved or written.  What a file means is asked elsewhere.
"""

import fcntl
import io
import os
import stat

from perps_bot.errors import ConfigError

# What a lock's file may hold: a process id.
PID_BYTES_MAX = 32


def opened(path: str | os.PathLike) -> io.BufferedReader:
    """Open a file for reading; ConfigError says why that cannot be."""
    try:
        return open(path, "rb", opener=_untouched)
    except OSError as error:
        raise unreadable(path, error) from None


def refuse_without(folder: str | os.PathLike) -> None:
    """Refuse a folder that is not there, or that is somebody else's."""
    try:
        is_there = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as error:
        raise unreadable(folder, error) from None
    if not is_there:
        raise ConfigError(f"{folder} does not exist: nothing was written there; name the --profile "
                          f"that ran, --dry-run if it ran so, or set EVENT_STORE_ROOT; to "
                          f"begin: perps-bot init, perps-bot run")


def holder(lock: str | os.PathLike) -> int | None:
    """Return the pid of who holds a lock, 0 where unreadable; None while nobody does."""
    try:
        file = open(lock, "rb", 0, opener=_untouched)
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read(PID_BYTES_MAX).strip()
            return int(text) if text.isdigit() else 0
    return None


def unreadable(path: str | os.PathLike, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be read ({error.strerror}): run as its owner, as with "
                       f"sudo -u, and put back what was moved")


def _untouched(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

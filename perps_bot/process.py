"""Process: what does this process show, and what does it leave behind?

What people read at the terminal and in the diary goes through here: one line is one line, no
secret is in it, and where nothing can be written nothing else fails.  Nothing is decided here:
the exit code says what was done, whether or not anybody could read about it.
"""

import io
import os
import re
import resource
import sys

from perps_bot.secret import redacted

LINE_LENGTH_MAX = 4000  # a pipe that takes anything takes so much at once
# How long a terminal that takes nothing (Ctrl-S, a reader that sleeps) may hold up the bot.
PATIENCE_MILLISECONDS = 100
PR_SET_DUMPABLE = 4
# The only codes that a line of ours may carry to a terminal: none moves the cursor.
CODES = tuple(f"\x1b[{number}m" for number in (0, 1, 2, 31, 32, 33))
_CODE = re.compile("(" + "|".join(map(re.escape, CODES)) + ")")


def begin() -> None:
    """Make the process fit for secrets and for months; comes before everything else."""
    # A file that is opened while one of the first three is closed would be taken for it.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # print would take stdout for it
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # no text is refused for its letters
    _write_no_core()
    sys.excepthook = _tell_of_a_bug


def begin_work() -> None:
    """The rest, for whatever does more than look once: no other process may look into this one,
    and what happens in another thread is told like everything else."""
    import threading

    leave_no_core()
    threading.excepthook = lambda bug: _tell_of_a_bug(bug.exc_type, bug.exc_value,
                                                      bug.exc_traceback)


def end() -> None:
    """Forget what nobody took, so that it cannot change the exit code when the process ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            _forget(stream)


def leave(code: int) -> None:
    """End now, all being said: to take the interpreter apart would take as long as the answer."""
    os._exit(code)


def leave_no_core() -> None:
    """Keep memory, which holds the key, out of core files and from other processes."""
    _write_no_core()
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (ImportError, OSError, AttributeError, MemoryError):
        pass  # then what comes without it has to do


def answer(text: str) -> bool:
    """Print what was asked for; False, with the reason on stderr, where it could not be."""
    return _answered(shown(text))


def draw(text: str) -> bool:
    """Like `answer`, for lines that `terminal` coloured."""
    return _answered("\n".join(map(painted, text.split("\n"))))


def say(text: str) -> None:
    """Tell the operator one line, on stderr where stdout takes none; never waits or fails."""
    for stream in (sys.stdout, sys.stderr):
        if takes(stream) and _put(stream, one_line(text)) is None:
            return


def complain(text: str) -> None:
    """One line on stderr, whatever text it repeats."""
    _put(sys.stderr, f"perps-bot: {one_line(text)}")


def one_line(text: str) -> str:
    """Return foreign text, fit for one line of a terminal or a log, without secrets."""
    return _printable(redacted(text))[:LINE_LENGTH_MAX]


def shown(text: str) -> str:
    """Return lines of ours, of any length, whatever stands in them."""
    return "\n".join(map(_printable, redacted(text).split("\n")))


def painted(line: str) -> str:
    """Return one line of ours with its colours, and of foreign text only what can be printed."""
    return "".join(part if part in CODES else _printable(part)
                   for part in _CODE.split(redacted(line)))


def takes(stream: io.TextIOBase | None) -> bool:
    """Whether the stream would take a line now."""
    import select

    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):  # no file behind it, as in a test
        return stream is not None
    return bool(poll.poll(PATIENCE_MILLISECONDS))


def _write_no_core() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A core that is piped to a program heeds no limit, but holds only what this says: nothing.
        with open("/proc/self/coredump_filter", "w") as parts:
            parts.write("0")
    except (OSError, ValueError):
        pass  # a sandbox may forbid it, and then has done it itself


def _answered(text: str) -> bool:
    failure = _put(sys.stdout, text)
    if failure and not isinstance(failure, BrokenPipeError):  # that reader went away himself
        complain(f"the answer could not be written: {failure}")
    return failure is None


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _tell_of_a_bug(kind: type, error: BaseException, trace: object) -> None:
    if takes(sys.stderr):
        _put(sys.stderr, traceback_lines(kind, error, trace))


def traceback_lines(kind: type, error: BaseException, trace: object) -> str:
    """Return a traceback of which each line looks like no other of ours."""
    import traceback

    text = "".join(traceback.format_exception(kind, error, trace))
    return "\n".join(f"  | {one_line(line)}" for line in text.rstrip("\n").split("\n"))


def _put(stream: io.TextIOBase | None, text: str) -> Exception | None:
    """Write it all at once; return why it could not be, and then none of it comes later."""
    if stream is None:
        return OSError("the stream is closed")
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except (OSError, ValueError) as failure:  # ValueError: it was closed under us
        _forget(stream)
        return failure
    return None


def _forget(stream: io.TextIOBase) -> None:
    """Let go of what waits in the stream's buffer; the stream stays as it was."""
    try:
        number = stream.fileno()
        kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        stream.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)
    except (OSError, ValueError):
        pass

"""Terminal: how does text fit on this terminal?

Width, colour and bars for what a person reads, from a phone over ssh to a wide screen, and a
screen that redraws and takes keys.  Nothing is cut: what does not fit is wrapped.  Nothing here
knows what the text says, and foreign text gets no colour or cursor of its own through it.

    terminal = terminal_of(sys.stdout, os.environ)
    process.draw("\\n".join([terminal.heading("Account"),
                            *terminal.rows([("equity", "10000 USD"), ("loss", "-2 USD", "bad")]),
                            terminal.bar(used, allowed)]))

A style is one of STYLES; a row is (label, text) or (label, text, style).  Colour reaches the
terminal through `process.draw` alone, which lets pass only these styles' own codes.
"""

import io
import os
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import partial

from perps_bot.process import CODES, painted

STYLES = dict(zip(("plain", "bold", "dim", "bad", "good", "warn"), CODES, strict=True))
# Where nobody says how wide it is, and the least that is laid out for.
WIDTH_UNKNOWN, WIDTH_MIN, WIDTH_MAX = 80, 20, 120
BAR_CELLS, BAR_CELLS_NARROW, NARROW = 20, 10, 60
FULL_SHARE, HIGH_SHARE = Decimal(1), Decimal("0.8")
KEY_BYTES_MAX = 32
# How long a terminal that takes nothing holds up a picture; it is left out then.
PATIENCE_SECONDS = 0.1


class Terminal(namedtuple("Terminal", "width has_colour has_blocks",
                          defaults=(WIDTH_UNKNOWN, False, False))):
    """width in columns; whether it shows colours, and blocks beyond ASCII."""

    __slots__ = ()

    @property
    def cells(self) -> int:
        """Of a bar."""
        return BAR_CELLS_NARROW if self.width < NARROW else BAR_CELLS

    def paint(self, text: str, style: str = "plain") -> str:
        code = STYLES[style]
        return f"{code}{text}{STYLES['plain']}" if self.has_colour and style != "plain" else text

    def heading(self, text: str) -> str:
        return self.paint(text, "bold")

    def wrapped(self, text: str, indent: int = 0, style: str = "plain") -> list[str]:
        """Lines within the width, those after the first indented; a long word is broken."""
        lines = _wrapped(text, self.width, " " * indent) or [""]
        return [self.paint(line, style) for line in lines]

    def rows(self, rows: Iterable[tuple]) -> list[str]:
        """Labels, and beside them, or below where it is narrow, their texts."""
        rows = [(*row, "plain")[:3] for row in rows]
        column = 4 + max((len(label) for label, _, _ in rows), default=0)
        form = self._stacked if column > self.width // 2 else partial(self._beside, column)
        return [line for row in rows for line in form(*row)]

    def gauges(self, rows: Iterable[tuple]) -> Iterator[str]:
        """For each (label, used, allowed, words): the label, its bar, and the words behind it."""
        rows = list(rows)
        column = max((len(label) for label, *_ in rows), default=0)
        longest = max((len(words) for *_, words in rows), default=0)
        fits = column + self.cells + longest + 8 <= self.width
        for label, used, allowed, words in rows:
            bar = self.bar(used, allowed)
            if fits:
                yield f"  {label:{column}}  {bar}  {words}"
                continue
            yield from (f"  {line}" for line in _wrapped(label, self.width - 2))
            first, *rest = _wrapped(words, self.width - self.cells - 7) or [""]
            yield f"    {bar} {first}"
            yield from (f"    {'':{self.cells + 2}} {line}" for line in rest)

    def bar(self, used: Decimal | None, allowed: Decimal | None) -> str:
        """How much of what is allowed is used; unknown is shown as such, never as empty."""
        cells = self.cells
        if used is None or allowed is None or allowed <= 0:
            return f"[{'?'.center(cells)}]"
        share = min(max(used / allowed, Decimal(0)), FULL_SHARE)
        # Any use shows, and only a limit that is reached looks full.
        full = int((share * cells).to_integral_value(ROUND_CEILING))
        full = min(full, cells - (share < FULL_SHARE))
        block, rest = "█░" if self.has_blocks else "#."
        style = "bad" if share >= FULL_SHARE else "warn" if share >= HIGH_SHARE else "good"
        return f"[{self.paint(block * full, style)}{rest * (cells - full)}]"

    def _beside(self, column: int, label: str, text: str, style: str) -> Iterator[str]:
        head = f"  {label:{column - 2}}"
        for line in _wrapped(text, self.width - column) or [""]:
            yield head + self.paint(line, style)
            head = " " * column

    def _stacked(self, label: str, text: str, style: str) -> Iterator[str]:
        room = self.width - 2
        if len(label) + 1 + len(text) <= room:
            yield f"  {label} {self.paint(text, style)}"
            return
        yield from (f"  {line}" for line in _wrapped(label, room))
        yield from (f"    {self.paint(line, style)}" for line in _wrapped(text, room - 2))


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """The lines of a text; most texts fit, and need no more than to be looked at."""
    if len(text) <= width and text.isprintable():
        return [text.rstrip()] if text.strip() else []
    import textwrap

    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def terminal_of(stream: io.TextIOBase | None, environ: Mapping[str, str]) -> Terminal:
    """What `stream` can show: colour only on a terminal that nobody asked to stay plain."""
    is_terminal = stream is not None and stream.isatty()
    is_plain = bool(environ.get("NO_COLOR")) or environ.get("TERM", "dumb") == "dumb"
    blocks = "utf" in (getattr(stream, "encoding", "") or "").lower()
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and len(given) < 6 and int(given):
        width = int(given)
    else:
        width = os.get_terminal_size(stream.fileno()).columns if is_terminal else 0
    width = min(max(width or WIDTH_UNKNOWN, WIDTH_MIN), WIDTH_MAX)
    return Terminal(width, is_terminal and not is_plain, blocks)


def can_redraw(keys: io.TextIOBase | None, shows: io.TextIOBase | None,
               environ: Mapping[str, str]) -> bool:
    is_terminal = all(each is not None and each.isatty() for each in (keys, shows))
    return is_terminal and environ.get("TERM", "dumb") != "dumb"


class Screen:
    """The whole terminal, redrawn in place, with single keys; given back whatever happens."""

    def __init__(self, keys: io.TextIOBase, shows: io.TextIOBase) -> None:
        import select

        self._select = select.select
        self._keys, self._shows = keys.fileno(), shows.fileno()

    def __enter__(self) -> "Screen":
        import signal
        import termios
        import tty

        self._before = termios.tcgetattr(self._keys)
        # A process that sleeps would leave the terminal without echo and cursor.
        self._on_pause = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        tty.setcbreak(self._keys, termios.TCSANOW)
        self._put("\x1b[?1049h\x1b[?25l")
        return self

    def __exit__(self, *_: object) -> None:
        import signal
        import termios

        try:
            self._put("\x1b[?25h\x1b[?1049l")
        finally:
            # At once: a terminal that is held never drains, and one that is gone has no settings.
            try:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)
            except termios.error:
                pass
            signal.signal(signal.SIGTSTP, self._on_pause)

    def show(self, lines: list[str], page: int = 0) -> None:
        """Draw one page of the lines; the last row says which, and how to turn it."""
        rows = max((os.get_terminal_size(self._shows).lines or len(lines) + 1) - 1, 1)
        pages = max(-(-len(lines) // rows), 1)
        first = page % pages * rows
        foot = f"page {page % pages + 1} of {pages}: space next, q quit, h help"
        text = "\x1b[K\n".join(map(painted, [*lines[first:first + rows], foot]))
        self._put(f"\x1b[H{text}\x1b[K\x1b[J")

    def key(self, seconds_max: Decimal) -> str:
        """The key that was pressed within so many seconds; empty without one, q at the end."""
        milliseconds = int(seconds_max * 1000)
        ready, _, _ = self._select([self._keys], [], [], milliseconds / 1000)
        try:
            pressed = os.read(self._keys, KEY_BYTES_MAX) if ready else None
        except OSError:  # the terminal is gone
            pressed = b""
        return "" if pressed is None else pressed.decode("ascii", "replace")[:1] or "q"

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data and self._select([], [self._shows], [], PATIENCE_SECONDS)[1]:
                data = data[os.write(self._shows, data):]
        except OSError:
            pass  # the terminal is gone, and the next key says so

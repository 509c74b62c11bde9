"""The specification of `perps_bot/terminal.py`: what fits, in which colours, and keys."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest

from perps_bot.process import painted
from perps_bot.terminal import Screen, Terminal, terminal_of

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
CODE = re.compile(r"\x1b\[\d+m")


def bare(lines):
    return [CODE.sub("", line) for line in lines]


@pytest.fixture
def line():
    """Both ends of a terminal: what the owner has, and what a program opens."""
    owner, program = pty.openpty()
    with os.fdopen(program, "r+b", 0) as stream:
        yield owner, stream
    os.close(owner)


# What there is


@pytest.mark.parametrize("environ, has_colour", [
    ({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({}, False),
])
def test_a_terminal_has_colour_unless_somebody_asked_for_none(line, environ, has_colour):
    assert terminal_of(line[1], environ).has_colour is has_colour


@pytest.mark.parametrize("stream", [None, StringIO()])
def test_what_is_no_terminal_has_no_colour_and_a_common_width(stream):
    assert terminal_of(stream, {"TERM": "xterm"}) == Terminal(80, False, False)


@pytest.mark.parametrize("columns, width", [
    ("40", 40), ("5", 20), ("9999", 120), ("0", 80), ("x", 80), ("", 80), ("²", 80),
    ("9" * 5000, 80)])
def test_the_width_is_what_it_is_said_to_be_within_reason(columns, width):
    assert terminal_of(StringIO(), {"COLUMNS": columns}).width == width


def test_the_width_is_the_terminals_own(line):
    termios.tcsetwinsize(line[1], (24, 43))
    assert terminal_of(line[1], {}).width == 43


# Layout

ROWS = [("equity", "10,000.00 USD"), ("why", "because " * 20 + "x" * 60, "bad"), ("none", "")]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("has_colour", [True, False])
def test_rows_fit_and_nothing_of_them_is_cut(width, has_colour):
    lines = bare(Terminal(width, has_colour).rows(ROWS))
    assert max(map(len, lines)) <= width
    said = "".join("".join(lines).split())
    assert said == "".join("".join(label + text for label, text, *_ in ROWS).split())


def test_the_texts_of_rows_stand_below_each_other():
    assert Terminal(40).rows([("a", "1 2"), ("long", "3")]) == ["  a     1 2", "  long  3"]


def test_where_it_is_narrow_a_long_text_stands_below_its_label():
    assert Terminal(22).rows([("realized", "+1.00 USD and so on"), ("x", "1")]) == [
        "  realized", "    +1.00 USD and so", "    on", "  x 1"]


def test_colour_wraps_whole_lines_and_ends_on_them():
    lines = Terminal(20, True).wrapped("one two three four five", 2, "bad")
    assert lines == ["\x1b[31mone two three four\x1b[0m", "\x1b[31m  five\x1b[0m"]


@pytest.mark.parametrize("used, allowed, shown", [
    ("0", "10", "[..........]"), ("0.001", "10", "[#.........]"), ("5", "10", "[#####.....]"),
    ("9.999", "10", "[#########.]"), ("10", "10", "[##########]"), ("99", "10", "[##########]"),
    ("-5", "10", "[..........]"), (None, "10", "[    ?     ]"), ("1", None, "[    ?     ]"),
    ("1", "0", "[    ?     ]"),
])
def test_a_bar_is_full_only_when_the_limit_is_reached(used, allowed, shown):
    values = (each and Decimal(each) for each in (used, allowed))
    assert Terminal(40).bar(*values) == shown


@pytest.mark.parametrize("used, code", [("0.7", 32), ("0.8", 33), ("1", 31)])
def test_a_bar_turns_red_at_its_limit(used, code):
    assert f"\x1b[{code}m" in Terminal(40, True).bar(Decimal(used), Decimal(1))


def test_foreign_text_brings_no_code_that_moves_the_cursor():
    assert painted("\x1b[31mred\x1b[0m \x1b[2J\x07\x1b]0;t\x07") == (
        "\x1b[31mred\x1b[0m \\x1b[2J\\x07\\x1b]0;t\\x07")


# The screen


def read(owner, until):
    seen = b""
    while until not in seen:
        assert select.select([owner], [], [], PATIENCE_SECONDS)[0], seen
        seen += os.read(owner, 65536)
    return seen


def test_a_screen_takes_keys_and_gives_the_terminal_back(line):
    owner, stream = line
    before = termios.tcgetattr(stream)
    with pytest.raises(ZeroDivisionError), Screen(stream, stream) as screen:
        assert not termios.tcgetattr(stream)[3] & termios.ECHO
        os.write(owner, b"h")
        assert screen.key(Decimal(60)) == "h"
        assert screen.key(Decimal(0)) == ""
        screen.show(["one", "two\x1b[2J"])
        assert (b"one\x1b[K\ntwo\\x1b[2J\x1b[K\npage 1 of 1: space next, q quit, h help"
                b"\x1b[K\x1b[J") in read(owner, b"\x1b[J").replace(b"\r", b"")
        raise ZeroDivisionError
    assert termios.tcgetattr(stream) == before
    assert b"\x1b[?25h\x1b[?1049l" in read(owner, b"1049l")
    assert signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL


@pytest.mark.parametrize("page, shown", [
    (0, [b"one", b"two", b"page 1 of 3"]), (2, [b"five", b"page 3 of 3"]),
    (3, [b"one", b"two", b"page 1 of 3"])])
def test_what_a_low_screen_has_no_room_for_stands_on_the_next_page(line, page, shown):
    owner, stream = line
    termios.tcsetwinsize(stream, (3, 80))
    with Screen(stream, stream) as screen:
        screen.show(["one", "two", "three", "four", "five"], page)
        seen = read(owner, b"\x1b[J").partition(b"\x1b[H")[2].split(b"\n")
    assert [row.partition(b"\x1b")[0].partition(b":")[0] for row in seen] == shown


def test_no_module_of_a_terminal_is_loaded_before_there_is_a_screen():
    program = ("import sys, perps_bot.terminal; "
               "print({'termios', 'tty', 'requests'} & {*sys.modules})")
    run = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True,
                         check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.stdout == "set()\n"

"""Secret: what must never be seen?

A text that leaves only through `reveal`, for the one call that needs it.  Nothing here reads or
writes.  As a second net `redacted` takes what is known to be secret out of a text that is about
to be seen; the first net is that no such text is ever made.
"""

import re
from collections import deque

SHOWN = "[secret]"
# What is shorter could be a word; more than so many pieces no process is given.
PIECE_LENGTH_MIN, PIECES_MAX = 12, 64
TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}[A-Za-z0-9_.-]*")  # every JSON Web Token begins so
# What copying adds, and what a PEM has between its lines.
BETWEEN = re.compile(r"[\s'\"]+|\\[rn]")

_pieces: deque[str] = deque(maxlen=PIECES_MAX)


class Secret:
    """A text that shows itself to nobody who does not ask for it by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        conceal(text)

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, form: str) -> str:
        return SHOWN

    def __eq__(self, other: object) -> bool:
        raise TypeError("a secret is not compared: what compares shows both sides when it fails")

    def __reduce_ex__(self, protocol: int):
        raise TypeError("a secret is not copied and not written down")


def revealed(value: object) -> object:
    """Return what a Secret holds; anything else as it is."""
    return value.reveal() if isinstance(value, Secret) else value


def conceal(text: str) -> None:
    """Have `redacted` know it from now on, line by line."""
    _pieces.extend(piece for piece in BETWEEN.split(text)
                   if len(piece) >= PIECE_LENGTH_MIN and piece not in _pieces)


def redacted(text: str) -> str:
    """Return `text` without the secrets of this process, and without any token."""
    for piece in _pieces:
        text = text.replace(piece, SHOWN)
    return TOKEN.sub(SHOWN, text) if "eyJ" in text else text

"""Mutate: what may bytes look like that nobody meant to send?

Three ways: bytes are changed as a broken line changes them; a JSON tree is changed as a venue
changes its mind; a text is made from the grammar of what usually hides there: numbers, times,
words.  The dice decide everything.
"""

import json
import re

NUMBERS = (
    "0", "-0", "0.0", "-1", "1", "5", "0.5", "100", "NaN", "sNaN", "Infinity", "-Infinity", "inf",
    "1E5", "1e-5", "1E400", "1E400000", "1E-400000", "1E2000011", "9" * 15, "9" * 16, "9" * 5000,
    "-" + "9" * 15 + "." + "9" * 18, "0." + "0" * 17 + "1", "0." + "0" * 30 + "1", "1_000",
    "١٢٣", "０", " 5 ", "+5", "5.", ".5", "0x10", "1,000", "--5", "5-", "", "1/0", "00005",
    "999999999999999.999999999999999999", "1.0000000000000000001", "2.5", "1e", "٣.٣", "5\n"
)
TEXTS = (
    "", " ", "\n", "\x00", "\x1b[2J\x1b[31m", "a\nERROR kill switch cleared", "a\r\nb",
    "\u202eevil",
    "\u2028", "\x7f", "\ud800", "\udfff\ud800", "é", "𝕏" * 3, "%s%s%n%d", "{0.__class__}", "{}",
    "../../etc/passwd", "..", ".", "/", "a/b", "?x=1", "a#b", "a b", "a" * 201, "b" * 5000,
    "c" * 70_000, "true", "false", "null", "[]", "UNKNOWN_FAILURE_REASON", "X_UNSPECIFIED",
    "\ufeff",
    "\x85", "\u0600", "\U000e0001", "BTC-PERP", "-----BEGIN", "eyJhbGciOiJFUzI1NiJ9.e30.x", "٣",
    "<html><body>502</body></html>", "$(reboot)", "\\", '"', "'", "`", ";", "=", "-", "--x", "#",
)
TIMES = (
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z",
    "2026-02-30T00:00:00Z", "2026-10-09T24:00:00Z", "2026-10-09T23:59:60Z", "2026-10-09",
    "2026-10-09T23:14:00+02:00", "2026-10-09T23:14:00", "2026-10-09T23:14:00.1Z",
    "2026-10-09T23:14:00.1234567891Z", "２０２６-10-09T23:14:00Z", "0000-00-00T00:00:00Z",
    "now",
    "1970-01-01T00:00:00Z", "2026-10-09t23:14:00z", "2026-W41-5T00:00:00Z", "20261009T231400Z",
)
LITERALS = (  # what a JSON value may be that no Python value is written as
    "NaN", "Infinity", "-Infinity", "1E400000", "1e-400000", "-0", "-0.0", "1E5", "9" * 5000,
    "1.50", "0.1e1", "1" + "0" * 400, "0." + "1" * 400, "[" * 40 + "]" * 40, "01", "+1", "'x'",
    "[" * 60_000, '{"a":' * 300 + "1" + "}" * 300, '"\\ud800"', '"\\u0000"', "undefined", "tru",
)
CHUNKS = (
    b"", b"\x00", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\n",
    b"\r\n", b"\r\n\r\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"{}", b"[]", b"null",
    b"NaN", b"1E999999", b"true", b'"\\ud83d"', b"\xef\xbb\xbf", b" " * 300, b"[" * 3000,
    b"0" * 700,
    b'{"a":' * 60, b"-", b"=", b"#", b"\x1b[0m", b"\xe2\x80\xae", b"\x1f\x8b\x08\x00",
)
NUMERAL = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?")
LIKE_NUMBER = re.compile(r"-?[0-9.]+")
LIKE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")
OPERATIONS_MAX = 4
NODES_MAX = 400  # of one tree, that are looked at


class Literal:
    """A piece of JSON text that is written as it stands."""

    def __init__(self, text):
        self.text = text


# Bytes


def _flip(dice, data):
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1:]


def _cut(dice, data):
    begin, end = sorted((dice.randrange(len(data)), dice.randrange(len(data))))
    return data[:begin] + data[min(end, begin + dice.choice((1, 2, 40, 1 << 20))):]


def _end(dice, data):
    return data[:dice.randrange(len(data))]


def _insert(dice, data):
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(CHUNKS) + data[at:]


def _again(dice, data):
    begin = dice.randrange(len(data))
    piece = data[begin:begin + dice.choice((1, 8, 100, 1000))]
    return data[:begin] + piece * dice.choice((1, 2, 10)) + data[begin:]


def _noise(dice, data):
    at = dice.randrange(len(data))
    return data[:at] + dice.randbytes(dice.choice((1, 2, 8, 64))) + data[at + 1:]


def _numeral(dice, data):
    found = [each.span() for each in NUMERAL.finditer(data[:5000])]
    if not found:
        return _flip(dice, data)
    begin, end = dice.choice(found)
    return data[:begin] + dice.choice(NUMBERS).encode() + data[end:]


def _swap(dice, data):
    one, two, three = sorted(dice.randrange(len(data) + 1) for _ in range(3))
    return data[:one] + data[two:three] + data[one:two] + data[three:]


BYTE_OPERATIONS = (_flip, _flip, _cut, _end, _insert, _again, _noise, _numeral, _swap)


def spoiled(dice, data, others=()):
    """Return bytes that were `data` once."""
    for _ in range(dice.randint(1, OPERATIONS_MAX)):
        if not data:
            return dice.choice(CHUNKS)
        if others and dice.random() < 0.05:
            other = dice.choice(others)
            data = data[:dice.randrange(len(data))] + other[dice.randrange(len(other) + 1):]
        else:
            data = dice.choice(BYTE_OPERATIONS)(dice, data)
    return data


# Texts


def number(dice):
    """A number as somebody may write it; one in three is an ordinary one."""
    if dice.random() < 0.33:
        return f"{dice.choice(('', '', '-'))}{dice.randrange(10 ** dice.randint(1, 7))}" + (
            f".{dice.randrange(10 ** dice.randint(1, 9))}" if dice.random() < 0.5 else "")
    return dice.choice(NUMBERS)


def time(dice):
    if dice.random() < 0.3:
        return (f"20{dice.randint(0, 99):02}-{dice.randint(0, 13):02}-{dice.randint(0, 32):02}T"
                f"{dice.randint(0, 24):02}:{dice.randint(0, 60):02}:{dice.randint(0, 60):02}Z")
    return dice.choice(TIMES)


def text(dice):
    if dice.random() < 0.3:
        letters = dice.choice(("abc", "ABC-0", "\x00\n\x1b", "éß𝕏\u202e", "{}%s$",
                               "0123456789"))
        return "".join(dice.choices(letters, k=dice.randint(0, 40)))
    return dice.choice(TEXTS)


def like(dice, old):
    """A text in the place of the text `old`: mostly of its own kind."""
    if dice.random() < 0.6 and LIKE_TIME.match(old):
        return time(dice)
    if dice.random() < 0.6 and LIKE_NUMBER.fullmatch(old):
        return number(dice)
    if dice.random() < 0.15 and old:
        at = dice.randrange(len(old))
        return old[:at] + text(dice)[:50] + old[at:]
    return dice.choice((text, text, number, time))(dice)


# JSON trees


def value(dice, old=None, words=()):
    """What may stand in the place of `old`; `words` are values that stood there elsewhere."""
    roll = dice.random()
    if words and roll < 0.3:
        return copied(dice.choice(words))
    if roll < 0.7:
        return like(dice, old if isinstance(old, str) else "")
    if roll < 0.8:
        return Literal(dice.choice(LITERALS))
    return dice.choice((
        None, True, False, 0, 1, -1, 10**15, 10**16, {}, [], [None], [[]], [{}], {"": ""}, [old],
        {"value": old, "currency": "USD"}, {"value": old, "currency": "EUR"}, {"value": {}}, 1.5))


def nodes(tree):
    """Every place in a tree, as (container, key), the outer ones first."""
    found, waiting = [], [tree]
    while waiting and len(found) < NODES_MAX:
        inner = waiting.pop(0)
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner))
        for key in keys:
            found.append((inner, key))
            if isinstance(inner[key], dict | list):
                waiting.append(inner[key])
    return found


def copied(tree):
    if isinstance(tree, dict):
        return {key: copied(each) for key, each in tree.items()}
    return [copied(each) for each in tree] if isinstance(tree, list) else tree


def changed(dice, tree, words=None):
    """Return a copy of a tree with some places changed.

    words  values by their key, from whatever else is known
    """
    tree = copied(tree)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 6))):
        places = nodes(tree) if isinstance(tree, dict | list) else []
        if not places:
            return value(dice, tree)
        inner, key = dice.choice(places)
        _change(dice, inner, key, (words or {}).get(key, ()))
    return tree


def _change(dice, inner, key, words):
    roll = dice.random()
    if roll < 0.65:
        inner[key] = value(dice, inner[key], words)
    elif roll < 0.8:
        del inner[key]
    elif isinstance(inner, list):
        if roll < 0.9:
            inner.extend([inner[key]] * dice.choice((1, 1, 120)))
        else:
            dice.shuffle(inner)
    elif roll < 0.85:
        inner[f"{key}\x00TWICE"] = value(dice, inner[key], words)
    elif roll < 0.92:
        inner[text(dice)] = inner.pop(key)
    else:
        other = dice.choice(list(inner))
        inner[key], inner[other] = inner[other], inner[key]


def written(tree):
    """The JSON text of a tree, as bytes, with its literals and its repeated keys."""
    literals = []

    def note(each):
        literals.append(each.text)
        return f"\x00LITERAL{len(literals) - 1}\x00"

    said = json.dumps(tree, default=note).replace("\\u0000TWICE", "")
    for index, literal in enumerate(literals):
        said = said.replace(f'"\\u0000LITERAL{index}\\u0000"', literal)
    return said.encode()


def json_bytes(dice, tree, words=None, others=()):
    """The bytes of a tree that was changed by its structure, or by its bytes, or both."""
    roll = dice.random()
    if roll < 0.75:
        tree = changed(dice, tree, words)
    data = written(tree)
    return spoiled(dice, data, others) if roll > 0.7 else data


def vocabulary(trees):
    """The values that stand in any of the trees, by their key."""
    found = {}
    for tree in trees:
        for inner, key in nodes(tree):
            known = found.setdefault(key, []) if isinstance(key, str) else []
            if len(known) < 40 and not isinstance(inner[key], dict) and inner[key] not in known:
                known.append(inner[key])
    return found

"""Forms: how are numbers, times and identities written on the wire?

Pure.  Decimals are written without exponent and without trailing zeros, times as RFC 3339 in UTC.
"""

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal

ZERO = Decimal(0)
CENT = Decimal("0.01")
MONEY_STEP = Decimal("0.00000001")
AVERAGE = Context(prec=16)
NAMESPACE = uuid.UUID("00000000-0000-4000-8000-00000000c0de")
OPPOSITE = {"BUY": "SELL", "SELL": "BUY"}
SIGN = {"BUY": Decimal(1), "SELL": Decimal(-1)}


def plain(value: Decimal) -> str:
    """Write a number the way the venue does: no exponent, no trailing zeros, no minus zero."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def money(value: Decimal) -> str:
    """An amount of dollars: eight decimals are the most that the venue's number text may have."""
    return plain(value.quantize(MONEY_STEP, ROUND_HALF_UP))


def cents(value: Decimal) -> str:
    return plain(value.quantize(CENT, ROUND_HALF_UP))


def ratio(over: Decimal, under: Decimal) -> Decimal:
    """A quotient with the sixteen digits that live averages show."""
    return AVERAGE.divide(over, under)


def decimal(value: object) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-len("+00:00")] + "Z"


def short_iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")[:-len("+00:00")] + "Z"


def moment(value: object) -> datetime:
    """Read a time: RFC 3339 text, a number of seconds since 1970, or a datetime."""
    if isinstance(value, datetime):
        return value
    text = str(value)
    if text.replace(".", "", 1).isdigit():
        # Whole microseconds keep a recorded path exact where a binary fraction would not.
        return datetime.fromtimestamp(0, UTC) + timedelta(
            microseconds=int(Decimal(text) * 1_000_000))
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def epoch(at: datetime) -> int:
    return int(at.timestamp())


def identity(kind: str, number: int) -> str:
    """The same run gives the same identities, so a failing seed can be replayed."""
    return str(uuid.uuid5(NAMESPACE, f"{kind} {number}"))


def entry_identity(number: int) -> str:
    return hashlib.sha256(f"entry {number}".encode()).hexdigest()

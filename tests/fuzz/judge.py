"""Judge: is what came out sound?

The checks know what a value must be and share no code with the rooms that made it.
"""

from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum

from perps_bot.errors import PerpsBotError

TEXT_BYTES_MAX = 4096
MAGNITUDE_MAX = 100  # digits: what an event can carry
# Above zero wherever they stand, and where they stand at all.
POSITIVE = frozenset(
    """price bid ask bid_size ask_size open high low close contract_size quantity_increment
    price_increment min_quantity max_quantity limit_price stop_price attached_stop_price
    average_price entry_price mark_price long_margin_rate short_margin_rate""".split())
NOT_NEGATIVE = frozenset("filled_quantity min_notional".split())
# A product whose row has no rates has zeros there, and may not be traded.
RATES = frozenset(("long_margin_rate", "short_margin_rate"))


class Broken(AssertionError):
    """What must hold did not."""


def require(holds, words):
    if not holds:
        raise Broken(words)


def sound(value, name="", infinite_mark=False):
    """Every number finite, every price above zero, every text fit for one line."""
    if isinstance(value, Decimal):
        _sound_number(value, name, infinite_mark)
    elif isinstance(value, str) and not isinstance(value, Enum):
        sound_text(value, name)
    elif isinstance(value, datetime):
        require(value.utcoffset() == timedelta(), f"{name} is not in UTC")
    elif names := _names(value):
        for each in names:
            found = getattr(value, each)
            if not found and _may_be_nothing(value, each):
                continue
            if found is not None:
                sound(found, each, infinite_mark)
    elif isinstance(value, dict):
        for key, each in value.items():
            sound(key, f"a key of {name}")
            sound(each, str(key), infinite_mark)
    elif isinstance(value, list | tuple):
        for each in value:
            sound(each, name, infinite_mark)
    else:
        require(value is None or isinstance(value, bool | int | Enum | date),
                f"{name} is a {type(value).__name__}")


def _may_be_nothing(value, name):
    """No rates where the product may not be traded; no entry price where the value is unbounded."""
    return (name in RATES and not value.tradable) or (
        name == "entry_price" and value.mark_price == Decimal("Infinity"))


def _names(value):
    return [each.name for each in fields(value)] if is_dataclass(value) else getattr(
        value, "_fields", ())


def _sound_number(value, name, infinite_mark):
    if infinite_mark and name == "mark_price" and value == Decimal("Infinity"):
        return
    require(value.is_finite(), f"{name} is {value}")
    require(abs(value.adjusted()) <= MAGNITUDE_MAX, f"{name} cannot be written down: {value}")
    require(name not in POSITIVE or value > 0, f"{name} is {value:f}, not above zero")
    require(name not in NOT_NEGATIVE or value >= 0, f"{name} is {value:f}, below zero")


def sound_text(value, name="a text"):
    require(value.isprintable(), f"{name} has control characters: {value[:80]!a}")
    require(len(value.encode("utf-8", "surrogatepass")) <= TEXT_BYTES_MAX,
            f"{name} has {len(value)} characters: {value[:80]!a}")


def sound_error(error):
    """What this package raises on purpose is one line that can be shown."""
    require(isinstance(error, PerpsBotError), f"not an error of ours: {type(error).__name__}")
    sound_text(str(error), f"the message of a {type(error).__name__}")

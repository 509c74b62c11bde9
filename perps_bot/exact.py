"""Exact: how does a value stand in JSON, so that it comes back as it was?

Texts, whole numbers, decimals, moments, lists and mappings of them, and nothing else: above all
no float, which would not come back as the number that was meant.  One walk makes the text, as it
stands between a decision and its order.  Nothing is read, written to a file or rounded here.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from json.encoder import encode_basestring_ascii as quoted
from types import NoneType

DECIMAL_MAGNITUDE_MAX = 100  # digits before or after the point; a longer number is a bug


class Form(dict):
    """By type, what makes the text of a value; a type is looked at when it comes first.

    length_max    where texts are cut; None: nowhere
    comma, colon  what stands between values, and between a name and its value
    """

    def __init__(self, length_max: int | None = None, comma: str = ",", colon: str = ":") -> None:
        self.length_max, self.comma, self.colon = length_max, comma, colon

    def __missing__(self, kind: type) -> Callable[[object], str]:
        found = next((make for base, make in MAKERS if issubclass(kind, base)), _refuse)
        self[kind] = made = partial(found, self)
        return made

    def text(self, value: object) -> str:
        """Return `value` in JSON.  Raises TypeError for what cannot be told exactly."""
        return self[type(value)](value)

    def spread(self, value: object, levels: int, margin: str = "\n") -> str:
        """As `text`, for people: what stands on the first `levels` has a line of its own."""
        if not levels or not value or self[type(value)].func not in (_list, _mapping):
            return self.text(value)
        inner, (begin, end) = f"{margin}  ", "{}" if isinstance(value, Mapping) else "[]"
        below = partial(self.spread, levels=levels - 1, margin=inner)
        rows = ([f"{quoted(key)}{self.colon}{below(each)}" for key, each in value.items()]
                if begin == "{" else map(below, value))
        return f"{begin}{inner}{f',{inner}'.join(rows)}{margin}{end}"


def _refuse(_: Form, value: object) -> str:
    raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be recorded exactly")


def _number(form: Form, value: Decimal) -> str:
    is_sound = value.is_finite() and abs(value.adjusted()) <= DECIMAL_MAGNITUDE_MAX
    return f'"{value:f}"' if is_sound else _refuse(form, value)


def _moment(form: Form, value: datetime) -> str:
    is_sound = value.utcoffset() is not None
    return f'"{value.astimezone(UTC).isoformat()}"' if is_sound else _refuse(form, value)


def _list(form: Form, value: list | tuple) -> str:
    return f"[{form.comma.join([form[type(each)](each) for each in value])}]"


def _mapping(form: Form, value: Mapping) -> str:
    colon = form.colon
    rows = [f"{quoted(key)}{colon}{form[type(each)](each)}" for key, each in value.items()]
    return f"{{{form.comma.join(rows)}}}"


MAKERS = (
    # what a value is, the first that fits    what makes its text
    (str,                                     lambda form, value: quoted(value[:form.length_max])),
    (bool,                                    lambda _, value: "true" if value else "false"),
    (int,                                     lambda _, value: int.__repr__(value)),
    (NoneType,                                lambda _, value: "null"),
    (Decimal,                                 _number),
    (datetime,                                _moment),
    (date,                                    lambda _, value: f'"{value.isoformat()}"'),
    (list | tuple,                            _list),
    (Mapping,                                 _mapping),
)  # fmt: skip

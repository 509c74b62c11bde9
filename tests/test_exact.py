"""What a value becomes in JSON: it comes back as it was, or is refused."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType

import pytest

from perps_bot.exact import DECIMAL_MAGNITUDE_MAX, Form
from perps_bot.model import Side

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FORM = Form()


@pytest.mark.parametrize("value, text", [
    ("a\"b\\\n\u00e9\U0001f600", '"a\\"b\\\\\\n\\u00e9\\ud83d\\ude00"'),
    (Side.BUY,                   '"buy"'),
    (True,                       "true"),
    (False,                      "false"),
    (None,                       "null"),
    (-7,                         "-7"),
    (Decimal("1E+3"),            '"1000"'),
    (Decimal("0.10"),            '"0.10"'),
    (NOON,                       '"2026-11-23T12:00:00+00:00"'),
    (NOON.astimezone(timezone(timedelta(hours=5))), '"2026-11-23T12:00:00+00:00"'),
    (date(2026, 11, 23),         '"2026-11-23"'),
    ((1, [Decimal(2), ()]),      '[1,["2",[]]]'),
    ({"a": {}, "b": {"c": 1}},   '{"a":{},"b":{"c":1}}'),
    (MappingProxyType({"a": 1}), '{"a":1}'),
])  # fmt: skip
def test_a_value_has_one_text(value, text):
    assert FORM.text(value) == FORM.text(value) == text
    assert json.loads(FORM.spread({"a": [value]}, 9)) == {"a": [json.loads(text)]}


@pytest.mark.parametrize("value", [
    1.5, Decimal("NaN"), Decimal("Infinity"), Decimal(f"1E{DECIMAL_MAGNITUDE_MAX + 1}"), b"x", {1},
    datetime(2026, 11, 23), object(), {1: 2}, {None: 2}, {"a": [{"b": 1.0}]},
], ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_is_refused(value):
    for _ in range(2):
        with pytest.raises(TypeError):
            FORM.text(value)
        with pytest.raises(TypeError):
            FORM.spread([value], 1)


def test_a_text_is_cut_where_the_form_says_so():
    assert Form(3).text(["abcd", {"abcd": Side.SELL}]) == '["abc",{"abcd":"sel"}]'


def test_for_people_the_outer_levels_have_lines_of_their_own():
    said = Form(comma=", ", colon=": ").spread({"a": [1, 2], "b": {"c": {"d": 1}}, "e": []}, 2)
    assert said == '''{
  "a": [
    1,
    2
  ],
  "b": {
    "c": {"d": 1}
  },
  "e": []
}'''

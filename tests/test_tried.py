"""The specification of `tried`: what is asked for, and a table that does not sell luck."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.errors import ConfigError
from perps_bot.settings import resolve
from perps_bot.tried import (
    COMBINATIONS_MAX, Outcome, as_json, combinations, lines, ranked, settled, write_csv,
)

FIGURES = {
    "symbols": ["BTC-PERP"], "start": "2025-05-01T00:01:00+00:00",
    "end": "2025-05-02T00:00:00+00:00", "start_equity": "10000", "end_equity": "10000",
    "return_pct": "0", "realized_pnl": "0", "unrealized_pnl": "0", "fees": "0", "funding": "0",
    "trades": 40, "win_rate": None, "profit_factor": None, "sharpe": None, "sortino": None,
    "max_drawdown_pct": "0.1", "exposure": "0.5", "halts": 0, "refusals": {}, "bars": 1440,
    "bad_rows": 0, "message": "",
}


def row(name, out, inside, trades=40, trades_inside=40, **more):
    return {"set": {"short_ma_period": name},
            "out_of_sample": {**FIGURES, "return_pct": out, "trades": trades, **more},
            "in_sample": {**FIGURES, "return_pct": inside, "trades": trades_inside}}


# A luck that the past alone knew, a loser, and one that stood aside.
ROWS = [row("2", "-0.02", "0.5"), row("3", "0", "0", trades=0), row("4", "0.01", "-0.1"),
        row("5", "-0.01", "0.2", trades=29, sharpe="-1.234")]


def outcome(rows=ROWS, **more):
    return Outcome(**{"rows": ranked(rows, "out_of_sample"), "left_out": [], "failed": [], **more})


def names(rows):
    return [each["set"]["short_ma_period"] for each in rows]


# What is asked for


def test_a_grid_is_every_point_of_it():
    asked = combinations(["short_ma_period=5, 10", "enable_shorts=0,1"])
    assert [*asked] == [{"short_ma_period": short, "enable_shorts": shorts}
                        for short in ("5", "10") for shorts in ("0", "1")]


@pytest.mark.parametrize("text", [
    "short_ma_period,enable_shorts,target_leverage\n5,1,1.5\n10,0,2\n",
    '[{"short_ma_period": 5, "enable_shorts": true, "target_leverage": 1.5},'
    ' {"short_ma_period": "10", "enable_shorts": false, "target_leverage": 2}]',
])
def test_a_list_is_a_combination_a_row_for_each_point_of_the_grid(text, tmp_path):
    path = tmp_path / "list"
    path.write_text(text)
    rows = [{"short_ma_period": "5", "enable_shorts": "1", "target_leverage": "1.5"},
            {"short_ma_period": "10", "enable_shorts": "0", "target_leverage": "2"}]
    assert [*combinations([], str(path))] == rows
    both = [*combinations(["long_ma_period=20,50"], str(path))]
    assert both == [{**each, "long_ma_period": long} for each in rows for long in ("20", "50")]


@pytest.mark.parametrize("text, words", [
    ("short_ma_period\n5,6\n",           "a value is missing, or too many"),
    ("short_ma_period,long_ma_period\n5\n", "a value is missing, or too many"),
    ('[{"short_ma_period": null}]',      "a value is missing, or too many"),
    ('[{"short_ma_period": [5]}]',       "a value is missing, or too many"),
    ("[5]",                              "has no attribute"),
    ("[{",                               "Expecting"),
    ("[" * 100_000,                      "recursion"),
    ('{"short_ma_period": 5}\n1,2\n',    "a value is missing, or too many"),
    ("",                                 "nothing to try"),
    ("short_ma_period,short_ma_period\n5,7\n", "a setting stands twice in a row"),
    ('[{"short_ma_period": 5, "short_ma_period": 7}]', "a setting stands twice in a row"),
    ("short_ma_period\n" + "5\n" * 600_000, "more than 1 MiB"),
    ("fee_rate\n0.1\n",                  "fee_rate: is given twice, or cannot be tried; there are"),
    ("api_key\nx\n",                     "api_key: is given twice, or cannot be tried"),
])
def test_a_list_that_cannot_be_read_is_refused_in_one_line(text, words, tmp_path):
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        combinations([], str(path))
    assert words in str(refusal.value)
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="none: .*: give CSV with names in the first line"):
        combinations([], str(tmp_path / "none"))


@pytest.mark.parametrize("sets, words", [
    ([],                                        "nothing to try: add --set"),
    (["short_ma_period=5", "short_ma_period=6"], "short_ma_period: is given twice"),
    (["symbols=BTC-PERP"],                      "symbols: is given twice, or cannot be tried"),
    (["profile=prod"],                          "profile: is given twice, or cannot be tried"),
    (["fee_rate=0"],                            "fee_rate: is given twice, or cannot be tried"),
    (["short_ma_period=" + "5," * COMBINATIONS_MAX], "10001 combinations: at most 10000"),
])
def test_a_grid_that_makes_no_sense_is_refused(sets, words):
    with pytest.raises(ConfigError) as refusal:
        combinations(sets)
    assert words in str(refusal.value)


def test_what_settings_refuse_is_left_out_with_the_reason_and_equals_run_once():
    asked = combinations(["short_ma_period=5,05,20,99", "trailing_stop_pct=0.010,0.01"])
    wanted, left_out = settled(resolve({}, {}), asked)
    assert wanted == [{"short_ma_period": "5", "trailing_stop_pct": "0.01"}]
    why = [reason for _, reason in left_out]
    assert len(why) == 4
    assert "short_ma_period 20 (sweep) must be below long_ma_period 20" in why[0]
    assert "short_ma_period (sweep): must be a whole number from 2 to 50" in why[2]


# What is said


def test_the_return_out_of_sample_ranks_and_what_did_not_trade_has_no_rank():
    assert names(ranked(ROWS, "out_of_sample")) == ["4", "5", "2", "3"]
    assert names(ranked(ROWS, "in_sample")) == ["2", "5", "3", "4"]
    assert [each["rank"] for each in as_json(outcome())["rows"]] == [1, 2, 3, None]
    assert [each["rank_in_sample"] for each in as_json(outcome())["rows"]] == [4, 2, 1, 3]


def test_equal_results_keep_the_order_in_which_they_were_asked_for():
    same = [row(name, "0.01", "0.01") for name in "987"]
    assert names(ranked(same, "out_of_sample")) == ["9", "8", "7"]


def test_the_table_shows_first_what_was_not_seen_and_says_what_the_best_of_many_is_worth():
    text = [*lines(outcome(left_out=[({"short_ma_period": "99"}, "too long")], others=7), 20)]
    assert text[0].startswith("BTC-PERP, each part from 10,000.00 USD, ranked by the return out of")
    assert "1,440 bars; starts flat, averages warmed on the bars before" in text[2]
    heads = text[5].split()
    assert heads == ("rank trades return Sharpe drawdown rank trades return Sharpe drawdown "
                     "settings").split()
    cells = [line.replace("not defined", "n/d").split() for line in text[6:10]]
    assert cells == [
        ["1", "40", "1.00%", "n/d", "10.00%", "4", "40", "-10.00%", "n/d", "10.00%",
         "short_ma_period=4"],
        ["2", "*29", "-1.00%", "-1.23", "10.00%", "2", "40", "20.00%", "n/d", "10.00%",
         "short_ma_period=5"],
        ["3", "40", "-2.00%", "n/d", "10.00%", "1", "40", "50.00%", "n/d", "10.00%",
         "short_ma_period=2"],
        ["-", "*0", "0.00%", "n/d", "10.00%", "3", "40", "0.00%", "n/d", "10.00%",
         "short_ma_period=3"],
    ]
    assert text[11:] == [
        "4 combinations were tried, and 7 more earlier; 1 of 4 gained out of sample",
        "the best in sample (short_ma_period=2, 50.00%) is 3 of 4 out of sample, -2.00%",
        "the best of many looks good by luck, out of sample too: believe a setting only on prices "
        "that no sweep has seen",
        "* fewer than 30 closed round trips: mostly chance",
        "left out: short_ma_period=99: too long",
    ]


def test_a_best_in_sample_that_did_not_trade_after_it_says_so():
    rows = [row("2", "0", "0.5", trades=0), row("3", "0.1", "0.1")]
    assert any("short_ma_period=2, 50.00%) did not trade out of sample" in line
               for line in lines(outcome(rows), 20))


def test_only_the_top_is_printed_and_many_reasons_are_counted():
    many = [({"short_ma_period": str(n)}, "why") for n in range(25)]
    text = [*lines(outcome(failed=many), 2)]
    assert "... and 2 more; --top shows more, --csv writes all" in text
    assert text[-2:] == ["failed: short_ma_period=9: why", "failed: 15 more"]


def test_nothing_finished_is_no_table():
    assert [*lines(Outcome([], [], [({"short_ma_period": "2"}, "why")]), 20)] == [
        "failed: short_ma_period=2: why"]


def test_json_and_csv_have_every_figure_of_both_parts(tmp_path):
    found = json.loads(json.dumps(as_json(outcome(left_out=[({"short_ma_period": "9"}, "x")]))))
    assert found["tried"] == 4 and found["left_out"] == [{"set": {"short_ma_period": "9"},
                                                          "why": "x"}]
    assert found["rows"][1]["out_of_sample"] == ROWS[3]["out_of_sample"]
    write_csv(tmp_path / "all.csv", outcome())
    with open(tmp_path / "all.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [each["rank"] for each in rows] == ["1", "2", "3", ""]
    assert list(rows[0])[0] == "rank" and list(rows[0])[-1] == "short_ma_period"
    assert Decimal(rows[1]["out_of_sample_sharpe"]) == Decimal("-1.234")
    assert (rows[0]["out_of_sample_sharpe"], rows[0]["in_sample_return_pct"]) == ("", "-0.1")
    assert Path(tmp_path / "all.csv").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="--csv .*: No such file or directory: make room"):
        write_csv(tmp_path / "gone" / "all.csv", outcome())

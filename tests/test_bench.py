"""The benchmarks run and tell what they measured; no figure is judged here.

What a figure must be is in docs/PERFORMANCE.md, and bin/bench measures it: a test that shares its
machine with others cannot.
"""

import json
import re

import pytest
from bench import inputs
from bench.__main__ import main
from bench.suite import BENCHES, Bench, Figure, NotRun, line, run_benches

FIELDS = {"name", "value", "unit", "reference", "ratio", "goal", "note", "is_met"}
MACHINE = {"cpus", "system", "architecture", "python", "memory_mib", "load"}


@pytest.fixture
def small(tmp_path):
    return Bench("smoke", rounds=1, cache=tmp_path)


def made_up(number):
    """Rows of 60 bars that go up and come down: one round trip an hour and a half or so."""
    prices = [90000 + abs(n % 60 - 30) * 40 + number for n in range(300)]
    return [[str(price), str(price + 9), str(price - 9), str(price + 3)] for price in prices]


def test_the_smallest_replay_is_told_as_a_table_and_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.__main__.CACHE", tmp_path / "cache")
    monkeypatch.setattr(inputs, "recorded", lambda name: made_up(len(name)))
    path = tmp_path / "figures.json"
    assert main(["--only", "replay", "--size", "smoke", "--rounds", "1", "--json", str(path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["figure", "measured", "reference", "ratio", "goal", "met", "note"]
    assert [row.split()[0] for row in rows] == ["replay", "replay_memory"]
    told = json.loads(path.read_text())
    assert set(told) == {"size", "rounds", "machine", "figures"}
    assert set(told["machine"]) == MACHINE
    assert [set(figure) for figure in told["figures"]] == [FIELDS, FIELDS]
    speed = told["figures"][0]
    assert 0 < speed["ratio"] == speed["value"] / speed["reference"] < 1
    _, trips, plain = map(int, re.findall(r"\d+", speed["note"].replace(",", "")))
    assert trips == plain > 20, "both did the same job"


@pytest.mark.parametrize("value, ratio, goal, is_met", [
    (9, 0.2, ">= 0.17", True),
    (9, 0.1, ">= 0.17", False),
    (9, None, "<= 40", True),
    (41, None, "<= 40", False),
    (41, 1.6, "<= 1.6", True),
    (41, None, "", None),
])
def test_a_goal_is_of_the_ratio_where_there_is_one(value, ratio, goal, is_met):
    assert Figure("it", value, "s", 1, ratio, goal).is_met is is_met


@pytest.mark.parametrize("failure, said", [
    (NotRun("there is no disk"), "not run: there is no disk"),
    (inputs.Missing("no prices"), "not run: no prices"),
    (AssertionError("the feed\nis mute"), "not run: AssertionError: the feed is mute"),
])
def test_a_bench_that_cannot_run_says_why_and_holds_up_no_other(
        failure, said, small, monkeypatch):
    def broken(bench):
        raise failure
        yield

    def whole(bench):
        yield Figure("whole", 1, "s")

    monkeypatch.setitem(BENCHES, "broken", broken)
    monkeypatch.setitem(BENCHES, "whole", whole)
    told = []
    figures = run_benches(small, ("broken", "whole"), told.append)
    assert [figure.name for figure in figures] == ["whole"]
    assert told[1].split() == ["broken", *said.split()]
    assert told[2] == line(figures[0])


def test_every_bench_says_what_it_asks():
    assert all(bench.__doc__ for bench in BENCHES.values())

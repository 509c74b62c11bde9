"""The benchmarks run and tell what they measured; no figure is judged here.

What a figure must be is in docs/PERFORMANCE.md, and bin/bench measures it: a test that shares its
machine with others cannot.
"""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from bench import inputs, jobs, peers
from bench.__main__ import main
from bench.growth import long_run
from bench.suite import BENCHES, ROOT, Bench, Figure, NotRun, line, run_benches
from bench.where import rooms

from perps_bot.store import EventStore

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
    run, head, *rows = capsys.readouterr().out.splitlines()
    assert run.startswith("size smoke, 1 rounds; ") and " cpus, " in run and " Python 3" in run
    assert head.split() == ["figure", "measured", "reference", "ratio", "goal", "met", "note"]
    assert [row.split()[0] for row in rows] == ["replay", "replay_memory"]
    told = json.loads(path.read_text())
    assert set(told) == {"size", "rounds", "machine", "figures"}
    assert set(told["machine"]) == MACHINE
    assert [set(figure) for figure in told["figures"]] == [FIELDS, FIELDS]
    speed = told["figures"][0]
    assert 0 < speed["ratio"] == speed["value"] / speed["reference"] < 1
    _, trips, plain, *_ = map(int, re.findall(r"\d+", speed["note"].replace(",", "")))
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
    assert told[2].split() == ["broken", *said.split()]
    assert told[3] == line(figures[0])


def test_every_bench_says_what_it_asks():
    assert all(bench.__doc__ for bench in BENCHES.values())


def test_no_round_begins_after_the_time_is_up_but_one_is_always_run(small, monkeypatch):
    small.rounds, runs = 5, []
    monkeypatch.setattr("bench.suite.ROUNDS_SECONDS_MAX", 0)
    assert small.in_turn(lambda: runs.append("ours"), lambda: runs.append("limit")) == [
        [None], [None]]
    assert runs == ["ours", "limit"]


def test_a_job_that_takes_too_long_is_not_run(small):
    with pytest.raises(NotRun, match="read_all_limit took more than 0 s"):
        small.job("read_all_limit", "nowhere", seconds_max=0)


def test_the_reports_job_counts_what_the_report_says_it_read(tmp_path):
    store = EventStore(tmp_path / "events", datetime(2025, 5, 1, tzinfo=UTC))
    store.open_day(date(2025, 5, 1), {}, equity=Decimal(1))
    for _ in range(1234):
        store.append("strategy.signal", symbol="BTC-PERP", action="hold", reason="",
                     mark_price="1", equity="1")
    store.close()
    assert jobs.report(tmp_path / "events") == {"code": 0, "events": 1234}


def test_a_long_run_says_how_many_ticks_fitted_into_its_time(tmp_path):
    found = long_run(tmp_path, 10**6, 0)
    assert found["ticks"] == 5 and found["opened"] == 0 and found["late_seconds"] > 0


@pytest.mark.parametrize("arguments, said", [
    (["--json", "no/such/folder.json"], "--json no/such/folder.json: its folder is not there"),
    (["--rounds", "0"], "--rounds: invalid choice: 0"),
    (["--only", "speed"], "--only: invalid choice: 'speed'"),
    (["--size", "huge"], "--size: invalid choice: 'huge'"),
])
def test_what_cannot_be_measured_is_said_before_anything_is(arguments, said, tmp_path, monkeypatch,
                                                            capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out


def test_peers_that_have_nothing_to_run_beside_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.__main__.CACHE", tmp_path)
    monkeypatch.setattr("bench.__main__.run_benches", lambda bench, names, out: [])
    assert main(["--only", "size", "--peers", "basana"]) == 0
    assert capsys.readouterr().out.split()[:3] == ["peers", "not", "run:"]


def test_a_peer_that_cannot_be_had_is_named_and_the_rest_goes_on(small, monkeypatch):
    monkeypatch.setattr(inputs, "recorded", lambda name: made_up(len(name)))
    monkeypatch.setattr(peers, "_call", unreachable)
    small.peers, told = ["nobody", "basana"], []
    figures = run_benches(small, ("replay",), told.append)
    assert [figure.name for figure in figures] == ["replay", "replay_memory"]
    assert told[-2].startswith("replay_nobody            not run: no such peer; there are")
    assert told[-1] == "replay_basana            not run: the registry is not reachable"


def unreachable(argv, seconds):
    raise peers.Unavailable("the registry is not reachable")


def test_the_time_goes_to_rooms_and_what_they_call_outside_counts_as_theirs():
    store_py, loop_py = (str(ROOT / "perps_bot" / name) for name in ("store.py", "loop.py"))
    write, tick, sleep = (store_py, 1, "write"), (loop_py, 9, "tick"), ("~", 0, "<sleep>")
    stats = {write: (3, 3, 0.5, 0.5, {tick: (3, 3, 0.5, 0.5)}), tick: (1, 1, 0.25, 1.0, {}),
             sleep: (2, 2, 0.25, 0.25, {tick: (2, 2, 0.2, 0.2), ("x.py", 1, "f"): (1, 1, 0.05, 0)})}
    assert list(rooms(stats)) == [
        ("store", pytest.approx(0.5), 3), ("loop", pytest.approx(0.45), 1),
        ("the rest", pytest.approx(0.05), 0)]

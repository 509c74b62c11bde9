"""The specification of `sweep`: many settings over one file, and each result what replay says."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from perps_bot import market, sweep as room
from perps_bot.cli import main
from perps_bot.errors import ConfigError
from perps_bot.settings import resolve
from perps_bot.sweep import job_of, sweep
from perps_bot.tried import combinations

ROOT = Path(__file__).resolve().parent.parent
MAY, MINUTE = datetime(2025, 5, 1, tzinfo=UTC), timedelta(minutes=1)
PATIENCE_SECONDS = 60
GRID = ("short_ma_period=3,5,9", "long_ma_period=10,20")


class Here(ThreadPoolExecutor):
    """Runs one after the other in this process, and counts."""

    def __init__(self):
        super().__init__(max_workers=1)
        self.done = []

    def submit(self, function, *arguments):
        self.done.append(arguments[1])
        return super().submit(function, *arguments)


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch, no_settings_of_the_tester):
    monkeypatch.chdir(tmp_path)


def candles(name, closes, step=MINUTE):
    rows, opened = [], None
    for number, close in enumerate(closes):
        opened = close if opened is None else opened
        rows.append(f"{MAY + number * step:%Y-%m-%dT%H:%M:%SZ},{opened},{max(opened, close) + 5},"
                    f"{min(opened, close) - 5},{close}\n")
        opened = close
    Path(name).write_text("time,open,high,low,close\n" + "".join(rows))
    return name


def waves(count):
    """Up for 30 minutes and down for 30, some of them high enough to earn their fees."""
    close = 80000
    for number in range(count):
        close += (1 if number % 60 < 30 else -1) * 4 * (1, 2, 12)[number // 60 % 3] + number % 7 - 3
        yield close


@pytest.fixture
def btc():
    return candles("btc.csv", waves(400))


@pytest.fixture
def longer():
    return candles("btc.csv", waves(1200))


def job(prices, *, split="0.7", config=None, **more):
    return job_of(prices, resolve({}, {}, config), split, **more)


def swept(prices, grid=GRID, executor=None, out=None, **more):
    return sweep(job(prices, **more), combinations(grid), executor or Here(), out=out)


def said_by(capsys, *argv):
    capsys.readouterr()
    code = main([*map(str, argv)])
    out, err = capsys.readouterr()
    return SimpleNamespace(code=code, out=out, err=err)


# What a result is


def test_the_first_part_is_what_replay_says_of_those_bars(btc, capsys):
    rows = swept(btc, ("short_ma_period=3,9", "trailing_stop_pct=0.02")).rows
    for row in rows:
        until = MAY + 280 * MINUTE
        alone = said_by(capsys, "replay", btc, "--to", until.isoformat(), "--short-ma-period",
                        row["set"]["short_ma_period"], "--trailing-stop-pct", "0.02", "--json")
        alone = json.loads(alone.out)
        del alone["bars_per_second"]
        assert row["in_sample"] == alone
        assert alone["trades"] >= 3
    assert len(rows) == 2


def test_the_rest_starts_flat_with_averages_warmed_on_the_bars_before():
    # Fourteen bars are too few for an average of twenty; a cross comes on the third.
    turn = [80000 - 10 * n for n in range(90)] + [79200 + 200 * n for n in range(14)]
    (row,) = swept(candles("turn.csv", turn), ["long_ma_period=20"], split=str(0.85)).rows
    assert (row["in_sample"]["bars"], row["out_of_sample"]["bars"]) == (88, 16)
    assert Decimal(row["out_of_sample"]["exposure"]) > Decimal("0.5")
    assert row["in_sample"]["exposure"] == "0"
    # Without history it would still be warming, as replay says of the same bars.
    begin = MAY + 88 * MINUTE
    cold = sweep(job("turn.csv", split="0.99", begin=begin), [{"long_ma_period": "20"}], Here())
    assert cold.rows[0]["in_sample"]["exposure"] == "0"


def test_a_position_before_the_split_is_not_carried_over_it():
    rise = [80000 - 9 * n for n in range(30)] + [79730 + 60 * n for n in range(90)]
    (row,) = swept(candles("rise.csv", rise), ["long_ma_period=20"]).rows
    assert Decimal(row["in_sample"]["exposure"]) > Decimal("0.3")
    later = row["out_of_sample"]
    assert (later["exposure"], later["start_equity"], later["trades"]) == ("0", "10000", 0)


def test_bars_of_an_hour_warm_the_averages_too():
    turn = [80000 - 10 * n for n in range(90)] + [79200 + 200 * n for n in range(14)]
    prices = candles("hours.csv", turn, timedelta(hours=1))
    (row,) = swept(prices, ["long_ma_period=20"], split="0.85").rows
    assert Decimal(row["out_of_sample"]["exposure"]) > Decimal("0.5")


def test_funding_is_paid_in_both_parts(btc):
    rates = [f"{MAY + 7 * n * MINUTE:%Y-%m-%dT%H:%M:%SZ},0.01\n" for n in range(57)]
    Path("funding.csv").write_text("time,funding_rate\n" + "".join(rates))
    (row,) = swept(btc, ["long_ma_period=20"], funding=["funding.csv"]).rows
    assert all(Decimal(row[part]["funding"]) for part in ("in_sample", "out_of_sample"))


def test_what_travels_to_a_worker_holds_no_secret(btc):
    keys = {"COINBASE_API_KEY": "swordfish", "COINBASE_API_SECRET": "swordfish"}
    travels = pickle.dumps(job_of(btc, resolve({}, keys)))
    assert b"swordfish" not in travels and str(Path(btc).resolve()).encode() in travels


# How it is run


def test_the_file_is_read_once_for_the_sweep_and_once_in_a_worker(btc, monkeypatch):
    opened, lines = Counter(), market._lines

    def counted(path):
        opened["all"] += 1
        return lines(path)

    monkeypatch.setattr(market, "_lines", counted)
    the_job = job(btc)
    for_the_job = opened["all"]
    with ThreadPoolExecutor(2) as executor:
        assert len(sweep(the_job, combinations(GRID), executor).rows) == 6
    assert opened["all"] == 2 * for_the_job
    assert room._held.cache_info().currsize == 0, "nothing stays in our own memory"


def test_a_file_too_long_to_be_kept_gives_the_same_results(btc, monkeypatch):
    kept = swept(btc).rows
    monkeypatch.setattr(room, "HELD_ROWS_MAX", 399)
    assert swept(btc).rows == kept


def test_one_process_two_processes_and_a_file_of_results_say_the_same(btc, capsys):
    tables = [said_by(capsys, "sweep", btc, *(f"--set={each}" for each in GRID), *more) for more in
              ([], ["--jobs", "1", "--out", "results"], ["--out", "results"])]
    assert [(each.code, each.err) for each in tables] == [(0, "")] * 3
    assert len({each.out for each in tables}) == 1
    outcome = swept(btc)
    assert json.loads(said_by(capsys, "sweep", btc, *(f"--set={each}" for each in GRID), "--json",
                              "--out", "results").out)["rows"][0]["set"] == outcome.rows[0]["set"]


def test_progress_is_told_up_to_the_end(btc):
    told = []
    sweep(job(btc), combinations(GRID[:1]), Here(), progress=told.append)
    assert told == [Decimal(n) / 3 for n in (1, 2, 3)]


def test_a_run_that_fails_is_named_with_the_reason_and_the_rest_goes_on(btc, monkeypatch):
    replay = room.replay

    def breaks(market, settings):
        if settings.short_ma_period == 5:
            raise KeyError("a bug")
        return replay(market, settings)

    with monkeypatch.context() as broken:
        broken.setattr(room, "replay", breaks)
        outcome = swept(btc, GRID[:1], out="results")
    assert outcome.failed == [({"short_ma_period": "5"}, "KeyError: 'a bug'")]
    assert {row["set"]["short_ma_period"] for row in outcome.rows} == {"3", "9"}
    again = Here()
    assert len(swept(btc, GRID[:1], again, out="results").rows) == 3
    assert again.done == [{"short_ma_period": "5"}], "what failed is tried again, the rest is kept"


@pytest.mark.parametrize("change, words", [
    (lambda: candles("btc.csv", [*waves(399), 80000]), "btc.csv: was changed"),
    (lambda: room._program.cache_clear() or setattr(room, "__version__", "9.9.9"),
     "this worker runs 9.9.9-"),
])
def test_a_worker_refuses_another_file_and_another_program(btc, monkeypatch, change, words):
    monkeypatch.setattr(room, "__version__", room.__version__)
    the_job = job(btc)
    room._held.cache_clear()
    change()
    outcome = sweep(the_job, [{"short_ma_period": "3"}], Here())
    room._program.cache_clear()
    assert outcome.rows == [] and words in outcome.failed[0][1]


@pytest.mark.parametrize("argv, words", [
    (["--set", "short_ma_period=3", "--split", "0"],   "--split 0: must be above 0 and below 1"),
    (["--set", "short_ma_period=3", "--split", "x"],   "--split x: must be above 0 and below 1"),
    (["--set", "short_ma_period=3", "--split", "0.001"], "leave none in sample"),
    (["--set", "short_ma_period=3", "--from", "2026-01-01"], "no bars to be used"),
    (["--set", "short_ma_period=3", "--jobs", "none"], "--jobs none: must be a whole number"),
    (["--set", "short_ma_period=99"],                  "no combination is possible"),
    (["--set", "short_ma_period=3", "--out", "there/results"], "No such file or directory"),
    (["--set", "short_ma_period=3", "--out", "btc.csv"], "is no file of results"),
    (["--set", "short_ma_period=3", "--csv", "btc.csv"], "--csv btc.csv: is there already"),
    (["--set", "short_ma_period=3", "--funding", "no.csv"], "no.csv cannot be read"),
    (["--list", "no.csv"],                             "--list no.csv: "),
    ([],                                               "nothing to try"),
])
def test_a_wrong_argument_is_one_line_and_changes_nothing(argv, words, btc, capsys):
    before = Path(btc).read_bytes()
    answer = said_by(capsys, "sweep", btc, *argv)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert words in line
    assert (os.listdir(), Path(btc).read_bytes()) == ([btc], before)


def test_prices_that_are_no_bars_are_refused(capsys):
    Path("quotes.csv").write_text(
        "time,recv_ns,bid,bid_size,ask,ask_size\n2025-05-01T00:00:00Z,1,1,1,2,1\n")
    answer = said_by(capsys, "sweep", "quotes.csv", "--set", "short_ma_period=3")
    assert answer.code == 2 and "quotes.csv: no bars to be used: give candles" in answer.err


def test_bars_that_could_not_warm_an_average_are_refused():
    odd = candles("odd.csv", waves(100), timedelta(seconds=61))
    with pytest.raises(ConfigError, match="odd.csv: bars of 0:01:01 must end at multiples of it"):
        job(odd)


def test_bad_rows_are_counted_where_they_may_be_skipped(btc):
    with open(btc, "a") as file:
        file.write("nonsense\n")
    with pytest.raises(ConfigError, match="btc.csv line 402"):
        job(btc)
    assert job(btc, skip_bad_rows=True).bad_rows == 1
    assert swept(btc, skip_bad_rows=True).rows


# The file of results


def test_a_second_sweep_runs_only_what_is_missing_whatever_was_torn(btc):
    first, second = Here(), Here()
    whole = swept(btc)
    swept(btc, ("short_ma_period=3,5", "long_ma_period=10,20"), first, out="results")
    with open("results", "ab") as file:
        file.write(b'{"set": {"short_ma_per')
    outcome = swept(btc, GRID, second, out="results")
    assert len(first.done) == 4 and [each["short_ma_period"] for each in second.done] == ["9", "9"]
    assert outcome.rows == whole.rows
    assert os.stat("results").st_mode & 0o777 == 0o600
    assert len(Path("results").read_text().splitlines()) == 7
    few = swept(btc, ("short_ma_period=3", "long_ma_period=10"), out="results")
    assert (len(few.rows), few.others) == (1, 5)


@pytest.mark.parametrize("size", [0, 1, 40])
def test_a_file_whose_first_line_was_torn_begins_anew(btc, size):
    swept(btc, GRID[:1], out="results")
    whole = Path("results").read_bytes()
    Path("results").write_bytes(whole[:size])
    assert len(swept(btc, GRID[:1], out="results").rows) == 3
    assert sorted(Path("results").read_bytes().split()) == sorted(whole.split())


@pytest.mark.parametrize("change", [
    lambda: dict(split="0.6"),
    lambda: dict(begin=MAY + MINUTE),
    lambda: dict(skip_bad_rows=True),
    lambda: candles("btc.csv", [*waves(399), 80000]) and {},
    lambda: Path("p.toml").write_text("fee_rate = 0.0007\n") and dict(config="p.toml"),
    lambda: room._program.cache_clear() or setattr(room, "__version__", "9.9.9") or {},
    lambda: Path("results").write_text("my notes\n") and {},
    lambda: Path("results").write_text("my notes") and {},
    lambda: Path("results").write_text("{}\n") and {},
], ids=["split", "from", "skips", "prices", "settings", "version", "text", "torn text", "JSON"])
def test_results_of_another_job_are_refused_in_one_line_and_kept(btc, monkeypatch, change):
    monkeypatch.setattr(room, "__version__", room.__version__)
    swept(btc, GRID[:1], out="results")
    more = change()
    before = Path("results").read_bytes()
    with pytest.raises(ConfigError, match="^results: is no file of results, or .* name a new file"):
        swept(btc, GRID[:1], out="results", **more)
    room._program.cache_clear()
    assert Path("results").read_bytes() == before


@pytest.mark.parametrize("line", [b"[]", b"{}", b"nonsense", b'{"set": {}, "out_of_sample": 1}'])
def test_a_damaged_result_is_refused_with_its_line(btc, line):
    swept(btc, GRID[:1], out="results")
    whole = Path("results").read_bytes().splitlines(keepends=True)
    Path("results").write_bytes(b"".join((*whole[:2], line + b"\n", *whole[2:])))
    before = Path("results").read_bytes()
    with pytest.raises(ConfigError, match="results line 3: is no result of a sweep"):
        swept(btc, GRID[:1], out="results")
    assert Path("results").read_bytes() == before


def test_the_place_of_the_prices_is_no_matter(btc):
    swept(btc, GRID[:1], out="results")
    os.rename(btc, "moved.csv")
    again = Here()
    assert len(swept("moved.csv", GRID[:1], again, out="results").rows) == 3
    assert again.done == []


def test_two_sweeps_do_not_write_one_file(btc):
    class Meddles(Here):
        def submit(self, *arguments):
            with pytest.raises(ConfigError, match="results: another sweep writes it"):
                swept(btc, GRID[:1], out="results")
            return super().submit(*arguments)

    assert len(swept(btc, GRID[:1], Meddles(), out="results").rows) == 3


def test_a_disk_that_is_full_ends_it_with_what_was_kept(btc, monkeypatch):
    swept(btc, ["short_ma_period=3"], out="results")
    with monkeypatch.context() as full, pytest.raises(
            ConfigError, match="results: No space: what was kept before is kept; make room"):
        full.setattr(room.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space")))
        swept(btc, GRID[:1], out="results")
    assert len(swept(btc, GRID[:1], out="results").rows) == 3


# Real processes, ended in the middle


@contextmanager
def begun(prices):
    """A sweep of hundreds of runs by two workers, which has kept its first result."""
    argv = ["--set", "short_ma_period=" + ",".join(map(str, range(2, 32))),
            "--set", "long_ma_period=" + ",".join(map(str, range(40, 60)))]
    sweeping = subprocess.Popen(
        [sys.executable, "-B", "-P", "-m", "perps_bot", "sweep", prices, *argv, "--jobs", "2",
         "--out", "results"], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        until(lambda: Path("results").exists() and len(kept()) > 0 or sweeping.poll() is not None)
        yield sweeping
    finally:
        with suppress(ProcessLookupError):
            os.killpg(sweeping.pid, signal.SIGKILL)
        sweeping.communicate(timeout=PATIENCE_SECONDS)


def kept():
    return [json.loads(line)["set"] for line in Path("results").read_text().split("\n")[1:-1]]


def until(is_so):
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def alive_in(session):
    """The processes of a session that are no zombies: those wait only for their parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        found += [path.parent.name] * (int(of) == session and state != "Z")
    return found


@pytest.mark.parametrize("number, to_all, code", [
    (signal.SIGINT, True, 3),  # Ctrl-C, which a terminal sends to the workers as well
    (signal.SIGINT, False, 3),
    (signal.SIGTERM, False, 3),
    (signal.SIGHUP, True, 3),
    (signal.SIGKILL, False, -signal.SIGKILL),
])
def test_what_ends_it_leaves_nobody_behind_and_what_is_done_is_kept(number, to_all, code, longer):
    with begun(longer) as sweeping:
        assert len(alive_in(sweeping.pid)) >= 3
        (os.killpg if to_all else os.kill)(sweeping.pid, number)
        out, err = sweeping.communicate(timeout=PATIENCE_SECONDS)
    interrupted = "perps-bot: interrupted; the same command goes on from results\n"
    assert (sweeping.returncode, out) == (code, "")
    assert err == interrupted if code == 3 else "Traceback" not in err
    until(lambda: not alive_in(sweeping.pid))
    more, again = {"short_ma_period": "3"}, Here()
    outcome = sweep(job(longer), [kept()[0], more], again, out="results")
    assert again.done == [more]
    alone = sweep(job(longer), [kept()[0]], Here()).rows
    assert alone[0] in outcome.rows, "a kept result is what would be found again"


def test_a_worker_that_is_killed_ends_the_sweep_with_a_reason(longer):
    with begun(longer) as sweeping:
        workers = [int(pid) for pid in alive_in(sweeping.pid)
                   if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        out, err = sweeping.communicate(timeout=PATIENCE_SECONDS)
    assert (sweeping.returncode, err) == (3, "")
    assert "failed: " in out and "a worker was ended from outside, or had no memory" in out
    assert re.search(r"failed: \d+ more", out)
    until(lambda: not alive_in(sweeping.pid))


# A cluster


def test_a_cluster_of_dask_finds_what_this_machine_finds(btc):
    distributed = pytest.importorskip(
        "distributed", reason="Dask is not installed: pip install 'perps-bot[cluster]'")
    with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        by_dask = swept(btc, GRID, client.get_executor())
        pids = client.run(os.getpid)
    assert len({*pids.values(), os.getpid()}) == 3
    assert by_dask == swept(btc)

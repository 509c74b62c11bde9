"""SIM: random fault schedules over the real bot, and what must hold after every step of each.

One seed is one run in virtual time: `bin/perps-sim --seeds 1 --start N --shrink` shows one.
PERPS_SIM_SEEDS says how many are run here; `bin/perps-sim --release` is the full run.
"""

import ast
import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
from sim import fleet, same
from sim import parts as parts_room
from sim import release as release_room
from sim.checks import AT_A_CREATE, AT_A_TICK, AT_AN_ENTRY, AT_THE_END
from sim.command import main
from sim.faults import FAULTS, KINDS_MIN, ORDER_PATH
from sim.fleet import many, pair_cases, random_cases, single_cases
from sim.release import PARTS, Reached, found, release
from sim.run import NOISY_TICKS, find, run_seed
from sim.same import ENVIRONMENTS, differing
from sim.seams import Disk

from perps_bot import ops as ops_room
from perps_bot import rest as rest_room
from perps_bot import wire as wire_room
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.errors import OrderRejected, VenueUnavailable
from perps_bot.model import Purpose
from perps_bot.rest import Rest
from perps_bot.risk import LiveRiskManager

SEEDS = int(os.environ.get("PERPS_SIM_SEEDS", "2000"))
SINGLES_FROM = 50_000
SAME_SEEDS = range(40_000, 40_020)
TESTS = Path(__file__).parent
ROW = re.compile(r"[A-L][0-9]{1,2}|I-[0-9]{1,2}")


def test_no_schedule_of_faults_breaks_an_invariant():
    report = many(random_cases(0, SEEDS))
    assert not report.failures, report.text()
    assert report.cases == SEEDS
    # A rig in which nothing happens has not looked.
    assert len(report.struck) == len(FAULTS)
    for name, least in (("struck", 5), ("creates", 3), ("fills", 2), ("processes", 2),
                        ("ticks", NOISY_TICKS)):
        assert report.figures[name] >= least * SEEDS, f"{name}: {report.text()}"


def test_no_single_kind_of_fault_breaks_an_invariant():
    report = many(single_cases(SINGLES_FROM))
    assert not report.failures, report.text()
    assert report.cases == len(FAULTS)


def test_the_document_names_every_kind_in_its_row_and_counts_the_pairs():
    document = (TESTS.parent / "docs" / "RELIABILITY.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([A-L][0-9]+|I-[0-9]+) \| (.*?) \|$", document, re.MULTILINE))
    assert sorted((row, name) for row, names in rows.items() for name in names.split(", ")
                  ) == sorted((fault.row, name) for name, fault in FAULTS.items())
    assert f"there are {len(ORDER_PATH) ** 2:,} of them" in document


def test_pairs_are_all_ordered_pairs_on_the_order_path_and_each_strikes_in_its_order():
    cases = pair_cases(0)
    assert len({case.kinds for case in cases}) == len(cases) == len(ORDER_PATH) ** 2 > 5000
    for first, second in (("429", "answer lost"), ("answer lost", "429")):
        (case,) = [each for each in cases if each.kinds == (first, second)]
        result = case.run(traces=True)
        struck = [line.split("fault ")[1] for line in result.trace if "  fault " in line]
        assert not result.broken and struck
        assert struck == [first, second] * (len(struck) // 2) + [first] * (len(struck) % 2)


def test_a_run_without_faults_trades_and_breaks_nothing():
    results = [run_seed(seed, kinds=[]) for seed in range(6)]
    assert [result.broken for result in results] == [""] * 6
    assert sum(result.figures["fills"] for result in results) > 12


def test_at_least_35_kinds_of_faults_are_drawn_each_with_its_row_of_the_map():
    assert len(FAULTS) >= KINDS_MIN == 35
    assert all(ROW.fullmatch(fault.row) for fault in FAULTS.values())
    assert not [name for name in FAULTS if "," in name]  # the command's own separator


def test_one_seed_is_one_trace_whatever_the_environment_and_the_folder():
    assert len(ENVIRONMENTS) == 4
    assert differing(SAME_SEEDS) == []


def test_a_trace_that_depends_on_the_environment_is_told(monkeypatch):
    monkeypatch.setattr(same, "SAYS_DIGESTS", "import os; print(1, 1, hash('x'))")
    (line,) = differing(range(5, 8))
    assert line.startswith("seed 7: ") and line.endswith(" traces in 4 environments")
    monkeypatch.setattr(same, "SAYS_DIGESTS", "import os; print(1) or os.abort()")
    assert len(differing(range(5, 8))) == len(ENVIRONMENTS)


def test_another_seed_is_another_trace():
    assert run_seed(1, kinds=[]).digest != run_seed(2, kinds=[]).digest


def test_wall_clock_leaps_change_no_request():
    """B1, I-35: all that is sent, answered and recorded stays the same."""
    for seed in range(3):
        leapt = run_seed(seed, kinds=["wall clock leaps", "answer lost"])
        plain = run_seed(seed, kinds=["answer lost"])
        assert not leapt.broken and not plain.broken
        assert leapt.wire == plain.wire


def test_the_checks_import_nothing_from_the_bot():
    for name in ("checks.py", "journal.py", "world.py"):
        tree = ast.parse((TESTS / "sim" / name).read_text("utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree)
                     if isinstance(node, ast.ImportFrom)}
        assert not [name for name in imported if name.startswith("perps_bot")]


def test_every_check_says_which_invariant_it_holds():
    checks = [*AT_A_CREATE, *AT_AN_ENTRY, *AT_A_TICK, *AT_THE_END]
    named = {number for check in checks for number in re.findall(r"i([0-9]+)", check.__name__)}
    assert len(named) >= 20
    assert len(checks) == len(set(checks))


def a_timeout_is_taken_for_a_no(monkeypatch):
    def certain(reply, path):
        if reply.value is None:
            raise VenueUnavailable(path)
        return reply.value
    monkeypatch.setattr(rest_room, "_certain", certain)


def an_order_is_sent_twice(monkeypatch):
    send = Rest.send

    def twice(rest, *order, **more):
        send(rest, *order, **more)
        return send(rest, *order, **more)
    monkeypatch.setattr(Rest, "send", twice)


def more_is_sent_than_was_intended(monkeypatch):
    body_of = wire_room.create_body

    def doubled(*arguments):
        body = body_of(*arguments)
        ((_, members),) = body["order_configuration"].items()
        members["base_size"] = str(2 * int(members["base_size"]))
        return body
    monkeypatch.setattr(wire_room, "create_body", doubled)


def no_stop_is_sent(monkeypatch):
    place = CoinbasePerpetualsClient.place

    def refused(client, order, now):
        if order.purpose is Purpose.STOP:
            raise OrderRejected("FORGOTTEN", "never sent")
        return place(client, order, now)
    monkeypatch.setattr(CoinbasePerpetualsClient, "place", refused)


def a_halt_is_kept_in_memory_alone(monkeypatch):
    monkeypatch.setattr(
        LiveRiskManager, "_change", lambda risk, kind, state, reason, **more: risk._fold_change(
            risk._store.now, {"kind": kind, "state": state, "reason": reason, **more}))


def a_torn_tail_is_not_cut(monkeypatch):
    monkeypatch.setattr(Disk, "truncate", lambda disk, fd, size: None)


def the_intent_is_not_synced(monkeypatch):
    monkeypatch.setattr(Disk, "fsync", lambda disk, fd: None)


def a_cancel_is_taken_for_done(monkeypatch):
    """What is being cancelled is listed as if it were gone."""
    read = wire_room.order

    def hasty(row, product):
        gone = {**row, "status": "CANCELLED"} if row["status"] == "CANCEL_QUEUED" else row
        return read(gone, product)
    monkeypatch.setattr(wire_room, "order", hasty)


def health_is_always_ok(monkeypatch):
    health = ops_room.health
    monkeypatch.setattr(ops_room, "health", lambda *about: {**health(*about), "ok": True})


BUGS = (
    # what is planted                 with these faults                    and what it breaks
    (a_timeout_is_taken_for_a_no,     ["answer lost"],                     "I-26 I-9 I-30 I-18"),
    (an_order_is_sent_twice,          [],                                  "I-1"),
    (more_is_sent_than_was_intended,  [],                                  "I-3"),
    (no_stop_is_sent,                 [],                                  "stop"),
    (a_halt_is_kept_in_memory_alone,  ["SIGINT"],                          "I-12"),
    (a_torn_tail_is_not_cut,          ["killed in a write"],               "journal I-3 I-16"),
    (the_intent_is_not_synced,        [],                                  "I-3"),
    (a_cancel_is_taken_for_done,      ["cancel slow"],                     "I-26"),
    (health_is_always_ok,             ["liquidation", "SIGUSR1"],          "I-41"),
)
BUG_SEEDS = 40


@pytest.mark.parametrize("plant, kinds, names", BUGS, ids=[bug[0].__name__ for bug in BUGS])
def test_a_planted_bug_is_found(monkeypatch, plant, kinds, names):
    plant(monkeypatch)
    found = find(range(BUG_SEEDS), kinds)
    assert found and found.split(":")[0] in names.split(), found


def test_the_command_runs_a_seed_and_says_what_it_saw(capsys):
    assert main(["--seeds", "2", "--start", "7", "--faults", "429,SIGUSR1", "--ticks", "5"]) == 0
    assert capsys.readouterr().out.startswith("2 schedules in ")


def test_the_command_lists_the_kinds_with_their_rows(capsys):
    assert main(["--list"]) == 0
    assert "A6     power cut" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, why", [
    (["--faults", "429,nonsense"],      "no such kind: nonsense (--list names them)"),
    (["--seeds", "0"],                  "'0' is no whole number from 1 to"),
    (["--seeds", "-5"],                 "'-5' is no whole number from 1 to"),
    (["--seeds", "ten"],                "'ten' is no whole number from 1 to"),
    (["--start", "-1"],                 "'-1' is no whole number from 0 to"),
    (["--ticks", "0"],                  "'0' is no whole number from 1 to"),
    (["--release", "--minutes", "0"],   "'0' is no whole number from 1 to"),
    (["--minutes", "5"],                "--minutes is of --release"),
    (["--release", "--seeds", "5"],     "--release takes --start and --minutes alone"),
    (["--pairs", "--seeds", "5"],       "--pairs runs each pair once"),
    (["--nonsense"],                    "unrecognized arguments: --nonsense"),
])
def test_the_command_refuses_in_one_line_what_it_does_not_understand(capsys, arguments, why):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert why in said and said.startswith("perps-sim: ") and said.count("\n") == 1


def test_a_failing_seed_is_shown_small_with_the_command_that_shows_it_again(monkeypatch, capsys):
    no_stop_is_sent(monkeypatch)
    assert main(["--seeds", "1", "--faults", "429,deposit", "--shrink"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("BROKEN stop: ")
    assert len(said) < 140 and all(len(line) <= 400 for line in said)
    again = shlex.split(said[-1].removeprefix("again: bin/perps-sim "))
    assert main(again) == 1
    assert capsys.readouterr().out.splitlines()[-2] == said[-2]
    # Neither kind had to do with it.
    assert again[again.index("--faults") + 1] == ""


def test_a_failing_pair_is_shown_with_the_command_that_shows_it_again(monkeypatch, capsys):
    no_stop_is_sent(monkeypatch)
    assert main(["--pairs", "--faults", "another's answer"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert main(shlex.split(said[-1].removeprefix("again: bin/perps-sim "))) == 1
    assert capsys.readouterr().out.splitlines()[-2] == said[-2]


def three(deadline, first_seed):
    assert time.monotonic() < deadline
    return Reached(3, [])


def broken(deadline, first_seed):
    return Reached(7, [f"seed {first_seed}: I-1"])


def does_nothing(deadline, first_seed):
    return Reached()


def ends_by_an_error(deadline, first_seed):
    raise ValueError("a bug of the rig")


def dies(deadline, first_seed):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(deadline, first_seed):
    time.sleep(600)


def test_the_report_of_a_full_run_tells_every_way_in_which_a_part_can_fail(monkeypatch):
    monkeypatch.setattr(release_room, "GRACE_SECONDS", 0.2)
    parts = [(name, count, share, f"{__name__}:{name}") for name, count, share in (
        ("three", 3, 1), ("broken", 7, 1), ("does_nothing", 1, 1), ("ends_by_an_error", 1, 1),
        ("dies", 1, 1), ("nobody_wrote_it", 1, 1), ("hangs", 1, 0.01))]
    parts.append(("neither", 1, 1, "no_such_rig.release:cases"))
    told = []
    assert not release(1, 5, parts, told.append)
    lines = told[-1].splitlines()
    assert re.fullmatch(r"[-0-9]{10} [0-9:]{5} UTC, commit \S+, [0-9]+ cores, Python 3\S+, "
                        r"[0-9]+ s", lines[0])
    assert [row.rpartition("|")[0].rpartition("|")[0] for row in lines[4:12]] == [
        "| three | 3 | 3 | 0 ",
        "| broken | 7 | 7 | 1 ",
        "| does_nothing | 1 | 0 | - ",
        "| ends_by_an_error | 1 | 0 (ended by an error) | - ",
        "| dies | 1 | 0 (ended by an error) | - ",
        "| nobody_wrote_it | 1 | not there | - ",
        "| hangs | 1 | 0 (overran) | - ",
        "| neither | 1 | not there | - ",
    ]
    assert "- seed 5: I-1" in lines and "- ValueError: a bug of the rig" in lines
    assert lines[-1] == "1 of 8 parts passed"


def test_a_part_that_reached_fewer_than_asked_passes_and_is_named():
    told = []
    assert release(1, 0, [("three", 4, 1, f"{__name__}:three")], told.append)
    assert told[-1].endswith("1 of 1 parts passed; fewer than asked within the time: three")


def test_every_part_of_the_simulation_is_there():
    parts = [where for name, _, _, where in PARTS if name.startswith("SIM")]
    assert len(parts) == 3 and all(found(where) for where in parts)


@pytest.mark.parametrize("name", [name for name, _, _, where in PARTS if name.startswith("SIM")])
def test_a_part_of_the_simulation_heeds_its_deadline(name, monkeypatch):
    monkeypatch.setattr(fleet, "ROUND", 1)
    monkeypatch.setattr(parts_room, "SAME_AT_ONCE", 1)
    where = next(where for each, _, _, where in PARTS if each == name)
    for seconds in (3, 30):  # a slow machine needs more for the first
        reached = found(where)(time.monotonic() + seconds, 3)
        if reached.count:
            break
    assert 0 < reached.count < 1000 and reached.violations == [] and not reached.is_all

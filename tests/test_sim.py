"""SIM: random fault schedules over the real bot, and what must hold after every step of each.

One seed is one run in virtual time: `bin/perps-sim --seeds 1 --start N --shrink` shows one.
PERPS_SIM_SEEDS says how many are run here; `bin/perps-sim --release` runs as many as an hour
allows.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sim.checks import AT_A_CREATE, AT_A_TICK, AT_AN_ENTRY, AT_THE_END
from sim.command import main, many
from sim.faults import FAULTS, KINDS_MIN
from sim.run import NOISY_TICKS, find, run_seed
from sim.seams import Disk

from perps_bot import ops as ops_room
from perps_bot import rest as rest_room
from perps_bot import wire as wire_room
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.errors import OrderRejected, VenueUnavailable
from perps_bot.model import Purpose
from perps_bot.rest import Rest
from perps_bot.risk import LiveRiskManager

SEEDS = int(os.environ.get("PERPS_SIM_SEEDS", "360"))
SAME_SEEDS, SAME_SEEDS_FROM = 20, 40_000
TESTS = Path(__file__).parent
ROW = re.compile(r"[A-L][0-9]{1,2}|I-[0-9]{1,2}")


def test_no_schedule_of_faults_breaks_an_invariant():
    report = many(0, SEEDS)
    assert not report.failures, report.text()
    assert report.seeds == SEEDS
    # A rig in which nothing happens has not looked.
    assert len(report.struck) == len(FAULTS)
    for name, least in (("struck", 5), ("creates", 3), ("fills", 2), ("processes", 2),
                        ("ticks", NOISY_TICKS)):
        assert report.figures[name] >= least * SEEDS, f"{name}: {report.text()}"


def test_a_run_without_faults_trades_and_breaks_nothing():
    results = [run_seed(seed, kinds=[]) for seed in range(6)]
    assert [result.broken for result in results] == [""] * 6
    assert sum(result.figures["fills"] for result in results) > 12


def test_at_least_35_kinds_of_faults_are_drawn_each_with_its_row_of_the_map():
    assert len(FAULTS) >= KINDS_MIN == 35
    assert all(ROW.fullmatch(fault.row) for fault in FAULTS.values())


@pytest.mark.parametrize("environment", [
    {"PYTHONHASHSEED": "1", "TZ": "Pacific/Chatham"},
    {"PYTHONHASHSEED": "4711", "LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8"},
    {"PYTHONHASHSEED": "0", "TZ": "America/St_Johns", "LC_ALL": "C"},
])
def test_one_seed_is_one_trace_whatever_the_environment_and_the_folder(environment, tmp_path):
    theirs = subprocess.run(
        [sys.executable, "-P", "-c", SAYS_DIGESTS], text=True, check=True, cwd=tmp_path,
        stdout=subprocess.PIPE, timeout=300,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert theirs.stdout.split() == here()


SAYS_DIGESTS = f"""
from sim.run import run_seed
for seed in range({SAME_SEEDS_FROM}, {SAME_SEEDS_FROM + SAME_SEEDS}):
    print(run_seed(seed).digest)
"""


def here(known=[]):  # noqa: B006  asked once for all environments
    if not known:
        known += [run_seed(seed).digest
                  for seed in range(SAME_SEEDS_FROM, SAME_SEEDS_FROM + SAME_SEEDS)]
    return known


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
    assert "2 seeds" in capsys.readouterr().out


def test_the_command_lists_the_kinds_with_their_rows(capsys):
    assert main(["--list"]) == 0
    assert "A6     power cut" in capsys.readouterr().out


def test_the_command_knows_no_other_kinds(capsys):
    with pytest.raises(SystemExit):
        main(["--faults", "429,nonsense"])
    assert "no such kind: nonsense" in capsys.readouterr().err

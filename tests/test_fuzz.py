"""Hostile bytes: whatever reads bytes says what it must, or refuses by name; it never orders.

Rows of `faults.md` shown here: A14, C4, C5, D5, E12, F5, F6, G1, G2, G3, J1, J4, J5, J6, and the
invariants I-17, I-22, I-36 and I-45.  The rig is tests/fuzz; the full run is a part of
`bin/perps-sim --release`.
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fuzz import answers, files, mutate, run, seeds
from fuzz.judge import Broken
from fuzz.run import NAMES, Target

from perps_bot import feed, market, rest, settings, store, transport, wire

TESTS = Path(__file__).resolve().parent
INPUTS, PARTS = 20_000, 4
TEETH_INPUTS = 3_000


@pytest.mark.parametrize("part", range(PARTS))
def test_no_input_breaks_anything(part):
    """20,000 inputs: typed errors alone, sound values alone, 50 ms and 16 MiB each, no order."""
    each = INPUTS // PARTS
    report = run.run(part * each, each)
    assert not report.failures, report.text()
    assert report.counts.keys() == NAMES.keys()


def test_a_seed_makes_the_same_input_whatever_the_process():
    said = [subprocess.run(
        [sys.executable, "-P", "-c", "import test_fuzz; print(test_fuzz._made_here())"],
        capture_output=True, text=True, check=True, cwd=TESTS,
        env={"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))]
    assert said[0] == said[1] and len(said[0]) > 10_000
    assert said[0].strip() == _made_here()


def _made_here():
    """The first inputs, without the objects of literals, whose addresses differ."""
    made = [run.made(seed) for seed in range(300)]
    return ascii([(target.name, given) for target, given in made])


def test_what_a_seed_is_told_to_be_is_what_it_was():
    """The command that is printed makes the same input again."""
    for seed in range(200):
        target, given = run.made(seed)
        assert run.made(seed, target.name) == (target, given)


def test_the_memory_folder_of_a_run_is_gone_with_it(tmp_path):
    found = subprocess.run(
        [sys.executable, "-P", "-c", "from fuzz import files; print(files.folder())"],
        capture_output=True, text=True, check=True, cwd=TESTS,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}).stdout.strip()
    assert found and not Path(found).parent.parent.exists()


# What the rig itself can see


def slow(given):
    end = time.thread_time() + 2 * run.SECONDS_MAX
    while time.thread_time() < end:
        pass


def broken(given):
    raise Broken("so it is")


def untyped(given):
    wire.number(given, None) + wire.decoded(b'{"a":1}')["b"]


@pytest.mark.parametrize("check, words", [
    (broken, "so it is"), (untyped, "KeyError"), (slow, "ms of processor time"),
    (lambda given: bytearray(20 * 2**20), "MiB of memory"),
    (lambda given: run.LOG.warning("x" * 5000), None),
    (lambda given: run.LOG.warning("a\nb"), None),  # escaped by the diary itself
    (lambda given: None, None),
])
def test_the_rig_tells_what_is_wrong_and_how_to_see_it_again(monkeypatch, check, words):
    only = Target("odd", 1, lambda dice: "7", check)
    monkeypatch.setattr(run, "TARGETS", (only,))
    monkeypatch.setitem(run.NAMES, "odd", only)
    report = run.run(50, 1)
    if words is None:
        assert not report.failures
    else:
        (failure,) = report.failures
        assert words in failure.words and "'7'" in run.told(failure)
        assert "python -m fuzz --start 50 --count 1 --target odd" in run.told(failure)


def test_a_line_of_the_diary_that_is_no_line_is_a_failure(monkeypatch):
    only = Target("odd", 1, lambda dice: "7", lambda given: run.LOG.warning("x" * 5000))
    monkeypatch.setattr(run, "TARGETS", (only,))
    monkeypatch.setitem(run.NAMES, "odd", only)
    monkeypatch.setattr(run.Line, "format", lambda line, record: record.getMessage())
    (failure,) = run.run(0, 1).failures
    assert "5000 characters" in failure.words


def test_a_long_input_is_told_shortened_and_escaped():
    said = run.shortened(b"\x1b[2J" + b"a" * 10_000)
    assert said.isprintable() and len(said) < 700 and "more" in said


# Faults that the rig must find, each one that a parser may easily have

def swap(module, name, made):
    """Put `made(real)` in the place of a function of a room."""
    def plant(monkeypatch):
        monkeypatch.setattr(module, name, made(getattr(module, name)))
    return plant


PLANTED = {
    "any Decimal is a number": (
        "body", swap(wire, "number", lambda real: lambda value, name: wire.Decimal(str(value)))),
    "half a character passes": (
        "body", swap(wire, "HALF", lambda real: wire.re.compile(rb"(?!)"))),
    "a price may be below zero": (
        "body", swap(wire, "_positive", lambda real: wire.number)),
    "no depth is too deep": ("body", swap(wire, "_is_deeper", lambda real: lambda *_: False)),
    "words have any letters": (
        "body", swap(wire, "words", lambda real: lambda *said: next(
            (each for each in said if isinstance(each, str)), ""))),
    "the first id of an order is its id": (
        "create", swap(wire, "_order_id", lambda real: lambda answer: wire.word(
            (answer.get("success_response") or {}).get("order_id")
            if isinstance(answer.get("success_response"), dict) else answer.get("order_id")))),
    "the size of an echo is not looked at": (
        "create", swap(wire, "_is_echo", lambda real: lambda answer, sent: real(
            {**answer, "order_configuration": None}, sent))),
    "what the answer repeats is not looked at": (
        "create", swap(wire, "ECHOED", lambda real: ())),
    "no reason stands against an accepted order": (
        "create", swap(wire, "_refusal", lambda real: lambda answer: (
            [], "") if answer.get("success") is True else real(answer))),
    "a time may be the last of the calendar": (
        "session", swap(rest, "YEARS", lambda real: range(1, 10_000))),
    "a body counts whatever its status": (
        "session", swap(rest, "_reply", lambda real: lambda answer: real(
            replace(answer, status=answer.status and 200)))),
    "a product may be called anything": (
        "session", swap(wire, "PRODUCT_ID", lambda real: wire.re.compile(".*", wire.re.DOTALL))),
    "a quote has any age": (
        "message", swap(feed, "QUOTE_SECONDS_MAX", lambda real: 10**11)),
    "a frame that is not ours ends the thread": (
        "frames", swap(feed, "LOSSES", lambda real: (OSError,))),
    "what has no form ends the worker": (
        "response", swap(transport, "_body", lambda real: lambda answer: answer.raw.read(
            decode_content=True))),
    "a crc is not looked at": (
        "events", swap(store, "CRC_LENGTH", lambda real: 0)),
    "damage is quoted at any length": (
        "events", swap(store, "_said", lambda real: str)),
    "a cache needs no crc": (
        "state", swap(market, "_window_crc", lambda real: lambda symbol, row: row.get("crc"))),
    "a row needs no grammar": (
        "recording", swap(market, "_OTHER_COLUMN", lambda real: (".*", real[1]))),
    "a setting needs no grammar": (
        "settings", swap(settings, "NUMBER", lambda real: settings.re.compile(".*", 16))),
    "an unknown name is repeated as it stands": (
        "settings", swap(settings, "_shown", lambda real: lambda name: name)),
}


@pytest.mark.parametrize("target, plant", PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(monkeypatch, target, plant):
    plant(monkeypatch)
    assert run.run(0, TEETH_INPUTS, target, failures_max=1).failures


# The mutators


def test_every_kind_of_body_is_made_and_most_differ_from_what_was_sent():
    made = [run.made(seed, "body")[1] for seed in range(2000)]
    assert {kind for kind, _ in made} == answers.PARSERS.keys()
    known = {mutate.written(tree) for trees in seeds.bodies().values() for tree in trees}
    assert sum(data not in known for _, data in made) > 1800


def test_mutations_leave_the_seeds_alone():
    before = repr(seeds.bodies()), repr(files.run_files())
    run.run(0, 500)
    assert (repr(seeds.bodies()), repr(files.run_files())) == before


def test_the_full_run_stops_at_its_deadline_and_counts_what_it_did():
    pytest.importorskip("sim.release", reason="the release run is not here")
    from fuzz import release

    found = release.inputs(time.monotonic() + 2, 10**6)
    assert found.count > 0 and not found.violations

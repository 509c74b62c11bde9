"""CRASH: the bot dies at every operation, wakes up to every disk that it may, and converges.

Two scenes are tried here, and of the failing disk calls the first fifty; the rest by
`bin/perps-sim crash` and `bin/perps-sim --release`.  The rig has to find what is planted.
"""

import json
import time

import pytest
from crash import errors, points, release
from crash.command import all_errors, all_points, main
from crash.disk import EVENTS, CrashDisk, images
from crash.scenes import SCENES
from crash.stage import Stage
from perps_bot import store as room
from perps_bot.store import EventStore

TRIED = ("entry with a stop", "midnight")
SHARE, AGAIN = 0.2, 0.1
CALLS = 50


def shown(tally):
    return "\n".join(f"{spec}: {broken}" for spec, broken in tally.failures[:5])


def test_a_bot_that_dies_at_any_operation_wakes_up_and_converges():
    """A1 to A7, A23."""
    tally = all_points(TRIED, share=SHARE, again=AGAIN, parts=1)
    assert not tally.failures, shown(tally)
    # A rig in which nothing dies has not looked.
    assert tally.points > 200 and tally.deep > 20 and tally.operations > 300
    kinds = {"disk open", "disk write", "disk inside", "disk written", "disk fsync", "disk synced",
             "disk renamed", "net before", "net answered", "net after"}
    assert kinds <= {*tally.kinds}


def test_whatever_of_its_first_fifty_disk_calls_fails_the_bot_only_reduces():
    """A9, A10, A13: once and for good, two kinds of errors at each call."""
    tally = all_errors(("entry with a stop", "exit by crossover"), kinds=errors.one_kind,
                       calls=CALLS, parts=1)
    assert not tally.failures, shown(tally)
    assert tally.points > CALLS


def test_every_scene_shows_what_it_is_named_for_and_breaks_nothing_undisturbed():
    assert len(SCENES) >= 12
    for name, scene in SCENES.items():
        with points.scratch():
            stage = Stage(scene, errors.nothing)
            assert stage.run().broken == "", name
            assert {*scene.shows} <= {*stage.checks.journal.kinds}, name
            assert scene.window[0] < scene.window[1] <= scene.ends + 1, name


def test_one_point_is_the_same_alone_as_in_the_midst_of_all(capsys):
    scene, operations = SCENES["entry with a stop"], []
    with points.scratch():
        Stage(scene, lambda stage, where, size: operations.append((where, stage.tick))).run()
    number = operations.index(("net answered", 0)) + 1
    spec = f"{scene.name}:{number}=cut"
    first, second = points.again(spec), points.again(spec)
    assert first.broken == second.broken == "" and first.digest == second.digest
    assert main(["--at", spec]) == 0
    assert f"operation {number}, net answered: the machine stops; it finds: cut" in (
        capsys.readouterr().out)


def test_a_part_that_ran_out_of_time_says_so():
    pytest.importorskip("sim.release", reason="the parts of a full run are registered there")
    reached = release.points(time.monotonic() - 1, 0)
    assert (reached.count, reached.violations, reached.is_all) == (0, [], False)


# The disk


@pytest.fixture
def disk():
    with points.scratch():
        disk = CrashDisk(lambda where, size=0: None, lambda what, data: None)
        disk._open = room._open
        room._make_folder(room.Path(EVENTS))
        yield disk


def put(disk, name, *parts, syncs=0):
    """A file of these parts, of which so many were synced."""
    fd = disk.open(f"{EVENTS}/{name}", room.os.O_WRONLY | room.os.O_CREAT | room.os.O_APPEND)
    for number, part in enumerate(parts):
        disk.write(fd, part)
        if number < syncs:
            disk.fsync(fd)
    return fd


def sync(disk, folder):
    fd = disk.open(folder, room.os.O_RDONLY)
    disk.fsync(fd)
    room.os.close(fd)


def test_a_cut_leaves_what_was_synced_under_names_that_were_synced(disk):
    path = f"{EVENTS}/2026-11-23.jsonl"
    for folder in ("bot", "bot/profile"):
        sync(disk, folder)
    put(disk, "2026-11-23.jsonl", b"one\n", b"two\n", syncs=1)
    found = images(disk, "disk written", lambda length: (0, length))
    assert path not in found["cut"] and found["kill"][path] == b"one\ntwo\n"
    assert path not in found["2026-11-23.jsonl has no name"]
    sync(disk, EVENTS)
    found = images(disk, "disk written", lambda length: (0, 2, length))
    assert found["cut"][path] == b"one\n"
    assert found["2026-11-23.jsonl torn 2"][path] == b"one\ntw"
    assert found["2026-11-23.jsonl zeros"][path] == b"one\n\0\0\0\0"


def test_a_rename_that_was_not_synced_may_be_lost(disk):
    for folder in ("bot", "bot/profile", EVENTS):
        sync(disk, folder)
    put(disk, "new", b"{}")
    disk.replace(f"{EVENTS}/new", f"{EVENTS}/old")
    assert {f"{EVENTS}/new", f"{EVENTS}/old"}.isdisjoint(disk.sure())
    sync(disk, EVENTS)
    assert disk.sure()[f"{EVENTS}/old"] == b""  # the name is there, and its bytes are not


def test_what_a_killed_process_did_not_sync_is_no_surer_afterwards(disk):
    sync(disk, "bot"), sync(disk, "bot/profile"), sync(disk, EVENTS)
    put(disk, "2026-11-23.jsonl", b"one\n")
    disk.next_image, disk.is_kill = images(disk, "net", lambda length: ())["kill"], True
    disk.lose_power(None)
    assert disk.now()[f"{EVENTS}/2026-11-23.jsonl"] == b"one\n"
    assert f"{EVENTS}/2026-11-23.jsonl" not in disk.sure()


# What is planted must be found


def nothing_is_synced(monkeypatch):
    monkeypatch.setattr(EventStore, "_sync", lambda store, sync, target: None)


def lines_are_not_synced(monkeypatch):
    put = EventStore._put
    monkeypatch.setattr(EventStore, "_put", lambda store, line, synced: put(store, line, False))


def answers_are_not_synced(monkeypatch):
    monkeypatch.setattr(room, "SYNCED", room.SYNCED - {"order.updated"})


def names_are_not_synced(monkeypatch):
    monkeypatch.setattr(room, "_fsync_folder", lambda path: None)


def a_torn_tail_stays(monkeypatch):
    monkeypatch.setattr(EventStore, "_repair", lambda store, file, seq: None)


def what_is_cut_is_not_kept(monkeypatch):
    def repair(store, file, seq):
        if file.torn or file.damage:
            with open(file.path, "r+b", opener=room._open) as bad:
                room._truncate(bad.fileno(), file.offset)
    monkeypatch.setattr(EventStore, "_repair", repair)


def the_crc_is_not_looked_at(monkeypatch):
    verified = room._DayFile._verified

    def trusting(file, lines):
        return verified(file, sound(file.last and file.last[1], lines))

    def sound(crc, lines):
        for line in lines:
            if line.endswith(b"\n"):
                crc = int(str(json.loads(line).get("chain")), 16) if crc is None else crc
                crc = room.zlib.crc32(line[:-room.CRC_LENGTH], crc)
                line = line[:-room.CRC_LENGTH] + room.CRC_FORM % crc
            yield line
    monkeypatch.setattr(room._DayFile, "_verified", trusting)


def the_old_day_is_not_synced_before_the_new(monkeypatch):
    turn = EventStore._turn_to

    def hasty(store, day, end):
        store.close()
        turn(store, day, end)
    monkeypatch.setattr(EventStore, "_turn_to", hasty)


def a_folder_that_is_there_counts_as_on_the_disk(monkeypatch):
    make = room._make_folder
    monkeypatch.setattr(room, "_make_folder", lambda path: path.is_dir() or make(path))


def an_unanswered_intent_is_forgotten(monkeypatch):
    from perps_bot.execution import ExecutionEngine
    monkeypatch.setattr(ExecutionEngine, "recover", lambda engine: engine.orders.tickets.clear())


PLANTS = (
    # what is planted                         scene                images      what it breaks
    (nothing_is_synced,                       "entry with a stop", "kill",     "I-3 I-16"),
    (lines_are_not_synced,                    "entry with a stop", "kill",     "I-3 I-16"),
    (answers_are_not_synced,                  "entry with a stop", "kill",     "I-16"),
    (names_are_not_synced,                    "entry with a stop", "cut",      "I-16"),
    (a_torn_tail_stays,                       "entry with a stop", "torn 1",   "I-17 A7"),
    (what_is_cut_is_not_kept,                 "entry with a stop", "torn 1",   "A7"),
    (the_crc_is_not_looked_at,                "entry with a stop", "altered",  "I-17"),
    (the_old_day_is_not_synced_before_the_new, "midnight",         "zeros",    "I-17"),
    (an_unanswered_intent_is_forgotten,       "entry with a stop", "kill",     "I-30 I-19 I-9"),
)


@pytest.mark.parametrize("plant, scene, only, names", PLANTS,
                         ids=[each[0].__name__ for each in PLANTS])
def test_a_planted_bug_is_found(monkeypatch, plant, scene, only, names):
    plant(monkeypatch)
    tally = all_points((scene,), again=0, parts=2, only=only, stops=True)
    assert tally.failures, f"nothing in {tally.points} points"
    assert {broken.split(":")[0] for _, broken in tally.failures} & {*names.split()}, shown(tally)


def a_passing_error(count):
    return [("EIO", "once")]


def test_a_folder_taken_for_sure_is_found_by_an_fsync_that_failed_once(monkeypatch):
    a_folder_that_is_there_counts_as_on_the_disk(monkeypatch)
    # Whether the power is cut in the end, or only the process ends, depends on the scene.
    scenes = ("entry with a stop", "stop filled", "midnight", "daily loss limit", "adoption")
    tally = all_errors(scenes, kinds=a_passing_error, calls=4, parts=1)
    assert tally.failures and tally.failures[0][1].startswith("I-16"), shown(tally)

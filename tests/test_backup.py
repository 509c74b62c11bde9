"""Backup and restore: what is copied and what is put back is whole, and nothing else moves."""

import errno
import json
import os
import shlex
import shutil
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import rechained
from test_disk_full import Bot

from perps_bot import backup as room
from perps_bot import store as disk
from perps_bot.backup import backup, restore
from perps_bot.cli import main
from perps_bot.errors import ConfigError, InUse
from perps_bot.model import TradingState
from perps_bot.risk import LiveRiskManager
from perps_bot.store import EventStore, InstanceLock, read_events

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def a_folder_of_its_own(no_settings_of_the_tester, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data():
    """The folder of a profile that has run for three days, halted on the second."""
    return a_history(Path("data/perps_bot/dev"))


@pytest.fixture
def target():
    Path("backups").mkdir(mode=0o700)
    return Path("backups")


def a_history(folder, profile="dev", chain="events", days=3):
    events = EventStore(folder / chain, NOON - days * DAY, profile=profile)
    risk = LiveRiskManager(event_store=events)
    for n in range(days):
        events.now = NOON - (days - 1 - n) * DAY
        events.open_day(events.now.date(), {"risk": risk.snapshot()})
        events.append("funding.rate", symbol="BTC-PERP", rate="0.0001", ended_at=events.now)
        if n == 1:
            risk.activate_kill_switch("the owner said so")
    events.close()
    return folder


def files_in(folder):
    """Everything that lies there, with modes and times: what is only read stays the same."""
    return {str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_mtime_ns,
                                            path.is_file() and path.read_bytes())
            for path in sorted(Path(folder).rglob("*"))}


def events_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "events").glob("*.jsonl"))}


def a_backup(data, target, now=NOON, **more):
    return backup(data, target, "dev", now, **more)


def run(line, capsys):
    capsys.readouterr()
    code = main(shlex.split(line))
    out, err = capsys.readouterr()
    return SimpleNamespace(code=code, out=out, err=err)


# What a backup is


def test_a_backup_holds_every_line_and_changes_none(data, target):
    a_history(data, chain="paper-events", days=2)
    before = files_in(data)
    done = a_backup(data, target)
    assert files_in(data) == before
    assert done.path == target / "perps-bot-dev-20261123T120000Z"
    for chain in ("events", "paper-events"):
        assert list(read_events(done.path / chain)) == list(read_events(data / chain))
    last = {chain: list(read_events(data / chain))[-1].seq for chain in room.CHAINS}
    row = done.row()
    assert (row["days"], row["last_seq"]) == (5, last)
    assert row["events"] == sum(last.values())
    assert row["bytes"] == sum(p.stat().st_size for p in data.rglob("*.jsonl"))
    modes = {path.stat().st_mode & 0o777 for path in done.path.rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (done.path, *done.path.glob("*events"))}
    assert (modes, folders) == ({0o600}, {0o700})


def test_a_last_line_without_an_end_is_left_out(data, target):
    path = data / "events" / "2026-11-23.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":')
    done = a_backup(data, target)
    assert (done.path / "events" / path.name).read_bytes() == whole
    assert path.read_bytes() == whole + b'{"seq":'


def test_while_the_bot_runs_each_backup_is_what_it_had_written_at_a_moment(tmp_path, target):
    bot = Bot(tmp_path).start()
    try:
        bot.wait_for(bot.positions)
        made = []
        for n in range(3):
            written = bot.seq()
            bot.wait_for(lambda written=written: bot.seq() > written)
            made.append(a_backup(bot.data, target, NOON + n * timedelta(seconds=1)))
    finally:
        assert bot.stop() == 0
    seqs = [each.row()["last_seq"]["events"] for each in made]
    assert seqs == sorted(set(seqs))
    for each in made:
        for name, copy in events_of(each.path).items():
            assert (bot.data / "events" / name).read_bytes().startswith(copy)
    assert list(read_events(bot.data / "events"))[-1].type == "bot.stopped"


def test_a_day_that_begins_meanwhile_belongs_to_the_next_backup(data, target, monkeypatch):
    copy = room._copy_lines

    def and_midnight_comes(source, into):
        if source.name == "2026-11-23.jsonl" and not (source.parent / "2026-11-24.jsonl").exists():
            events = EventStore(data / "events", profile="dev")
            events.recover()
            events.now = NOON + DAY
            events.open_day(date(2026, 11, 24), {})
        return copy(source, into)
    monkeypatch.setattr(room, "_copy_lines", and_midnight_comes)
    assert sorted(events_of(a_backup(data, target).path))[-1] == "2026-11-23.jsonl"
    later = a_backup(data, target, NOON + DAY)
    assert sorted(events_of(later.path))[-1] == "2026-11-24.jsonl"


def test_a_day_that_is_over_costs_the_disk_nothing_more(data, target):
    first, second = a_backup(data, target), a_backup(data, target, NOON + DAY)
    inodes = [{p.name: p.stat().st_ino for p in each.path.rglob("*.jsonl")}
              for each in (first, second)]
    assert inodes[0] == inodes[1] != {p.name: p.stat().st_ino for p in data.rglob("*.jsonl")}
    spoilt = first.path / "events" / "2026-11-21.jsonl"
    spoilt.write_bytes(spoilt.read_bytes().replace(b"BTC", b"ETC"))  # both, for they share it
    third = a_backup(data, target, NOON + 2 * DAY)
    assert events_of(third.path) == events_of(data)


def test_another_disk_takes_a_backup_as_well_and_nothing_is_said_of_the_same_one(data):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(".").st_dev:
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        done = [a_backup(data, Path(other), NOON + n * DAY) for n in (0, 1)][1]
        assert done.notes == () and events_of(done.path) == events_of(data)
        shutil.rmtree("data")
        assert events_of(restore(done.path, data, "dev", NOON).path).keys() == events_of(
            done.path).keys()


# What is no backup


def flip(path, number):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace(b'"ts":"2', b'"ts":"3')
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("day, line", [("2026-11-21", 1), ("2026-11-22", 2), ("2026-11-23", 2)])
def test_damaged_events_are_named_with_file_and_line_and_leave_no_backup(data, target, day, line):
    flip(data / "events" / f"{day}.jsonl", line)
    with pytest.raises(ConfigError, match=rf"^data/.*/{day}.jsonl line {line}: .*runbook|RUNBOOK"):
        a_backup(data, target)
    assert not list(target.glob("perps-bot*"))


def test_what_the_runbook_says_of_a_damaged_old_day_is_the_way_out(data, target, capsys):
    flip(data / "events" / "2026-11-22.jsonl", 1)
    aside = data / "events" / "quarantine"
    aside.mkdir(0o700)
    for day in ("2026-11-21", "2026-11-22"):
        (data / "events" / f"{day}.jsonl").rename(aside / f"{day}.jsonl")
    done = a_backup(data, target)
    assert list(events_of(done.path)) == ["2026-11-23.jsonl"]
    assert "HALTED because of kill_switch" in run("--dev-fast", capsys).out


def test_a_missing_day_is_damage(data, target):
    (data / "events" / "2026-11-22.jsonl").unlink()
    with pytest.raises(ConfigError, match="2026-11-23.jsonl line 1: does not follow"):
        a_backup(data, target)


def test_a_copy_that_does_not_read_back_is_no_backup(data, target, monkeypatch):
    write = disk._write

    def a_bad_disk(fd, part):
        return write(fd, part.replace(b'"funding.rate"', b'"funding.bate"'))
    monkeypatch.setattr(disk, "_write", a_bad_disk)
    with pytest.raises(ConfigError, match="does not read back as it was written: use another disk"):
        a_backup(data, target)
    assert not list(target.glob("perps-bot*"))


def a_target_inside(data, target):
    (data / "copies").mkdir()
    return data / "copies"


def a_target_that_leads_inside(data, target):
    a_target_inside(data, target)
    Path("elsewhere").symlink_to(data / "copies")
    return Path("elsewhere")


def a_target_that_is_a_file(data, target):
    Path("file").write_text("")
    return Path("file")


TARGETS = [
    (lambda data, target: Path("missing"), "is no folder: is its disk mounted"),
    (a_target_that_is_a_file, "is no folder"),
    (a_target_inside, "is inside the data folder"),
    (a_target_that_leads_inside, "is inside the data folder"),
    (lambda data, target: Path("/proc"), "make room there, or name another folder"),
]


@pytest.mark.parametrize("make, words", TARGETS)
def test_a_target_that_will_not_do_is_refused_in_one_line(data, target, make, words, capsys):
    before, place = files_in("data"), make(data, target)
    before = files_in("data")
    answer = run(f"backup {place}", capsys)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert words in line and str(place) in line
    assert files_in("data") == before


@pytest.mark.parametrize("failure", ["ENOSPC", "EIO", "short"])
def test_a_full_disk_keeps_nothing_and_gets_its_room_back(
        data, target, failure, monkeypatch):
    write = disk._write

    def full(fd, part, **_):
        if failure == "short" and isinstance(fd, int):
            return write(fd, part[:10])
        code = getattr(errno, failure, errno.EPERM)
        raise OSError(code, os.strerror(code))
    earlier = a_backup(data, target, NOON - DAY)
    monkeypatch.setattr(disk, "_write", full)
    monkeypatch.setattr(room.os, "link", full)
    with pytest.raises(ConfigError, match="^backups: .*: make room there"):
        a_backup(data, target, keep_days=1)
    monkeypatch.setattr(disk, "_write", write)
    assert [path.name for path in target.glob("perps-bot*")] == [earlier.path.name]
    assert not list(target.glob(".*.partial"))
    a_backup(data, target, NOON + DAY)


def test_two_at_once_take_turns_and_the_second_says_so(data, target, monkeypatch):
    copy = room._copied

    def and_another_one_comes(*arguments):
        with pytest.raises(InUse, match=f"pid {os.getpid()} is at this already"):
            a_backup(data, target, NOON + DAY)
        return copy(*arguments)
    monkeypatch.setattr(room, "_copied", and_another_one_comes)
    a_backup(data, target)
    assert len(list(target.glob("perps-bot-*"))) == 1


def test_without_events_there_is_nothing_to_back_up_and_nothing_is_made(target):
    with pytest.raises(ConfigError, match="there are no events to back up"):
        a_backup(Path("data/perps_bot/dev"), target)
    assert not Path("data").exists() and not list(target.glob("*perps-bot-dev-*"))


# Age


def test_older_backups_go_when_the_new_one_is_there_and_nothing_else_does(data, target):
    old = [a_backup(data, target, NOON - n * DAY) for n in (40, 31, 30, 1)]
    a_history(Path("data/perps_bot/demo"), "demo")
    others = backup(Path("data/perps_bot/demo"), target, "demo", NOON - 40 * DAY).path
    (target / "perps-bot-dev-20200101T000000Z").mkdir()
    (target / "perps-bot-dev-20200101T000000Z" / "manifest.json").write_text("{}")
    kept = a_backup(data, target, NOON - 50 * DAY).path
    (kept / "notes.txt").write_text("mine")
    (target / "perps-bot-dev-link").symlink_to(others.absolute())
    done = a_backup(data, target, keep_days=30)
    assert list(done.removed) == [str(each.path) for each in old[:2]]
    assert not any(each.path.exists() for each in old[:2])
    assert all(each.path.exists() for each in old[2:])
    assert others.exists() and (kept / "notes.txt").exists() and (kept / "events").exists()
    assert any(f"{kept}: holds what no backup made" in note for note in done.notes)
    assert (target / "perps-bot-dev-20200101T000000Z").exists()
    assert not list(target.glob(".*.partial"))


def test_without_an_age_nothing_is_removed(data, target):
    a_backup(data, target, NOON - 3000 * DAY)
    assert a_backup(data, target).removed == ()
    assert len(list(target.glob("perps-bot-dev-*"))) == 2


def test_a_backup_that_failed_removes_nothing(data, target):
    old = a_backup(data, target, NOON - 400 * DAY)
    flip(data / "events" / "2026-11-22.jsonl", 1)
    with pytest.raises(ConfigError):
        a_backup(data, target, keep_days=1)
    assert old.path.exists()


def test_a_clock_that_went_back_removes_nothing_and_says_so(data, target):
    late, old = a_backup(data, target, NOON + DAY), a_backup(data, target, NOON - 40 * DAY)
    done = a_backup(data, target, keep_days=1)
    assert done.removed == () and old.path.exists()
    assert f"{late.path}: is of a later time: is the clock right?" in " ".join(done.notes)
    with pytest.raises(ConfigError, match="is there already; is the clock right?"):
        a_backup(data, target)


# Restoring


def test_what_is_restored_is_what_was_there_and_halted(data, target):
    done, lines = a_backup(data, target), events_of(data)
    data.rename("gone")
    restore(done.path, data, "dev", NOON + DAY)
    restored = events_of(data)
    assert {name: restored[name][:len(text)] for name, text in lines.items()} == lines
    *before, last = read_events(data / "events")
    assert before == list(read_events("gone/events"))
    assert (last.type, last.data["kind"], last.data["state"]) == (
        "state.changed", "restored", "HALTED")
    assert {p.stat().st_mode & 0o777 for p in data.rglob("*") if p.is_file()} == {0o600}
    assert {p.stat().st_mode & 0o777 for p in (data, data / "events")} == {0o700}
    assert sorted(p.name for p in data.parent.iterdir()) == ["dev"]


def test_a_halt_that_was_in_force_still_is_and_both_are_lifted_by_one_resume(data, target, capsys):
    done = a_backup(data, target)
    shutil.rmtree("data")
    assert run(f"restore {done.path}", capsys).code == 0
    state = run("--dev-fast", capsys).out
    assert "HALTED because of kill_switch: the owner said so" in state
    assert "HALTED because of restored: restored from a backup of 2026-11-23 12:00" in state
    answer = run("resume --reason 'compared with the venue'", capsys)
    assert (answer.code, answer.out) == (0, "resumed: kill_switch, restored; state TRADING\n")
    assert "state TRADING" in run("--dev-fast", capsys).out


def put(kind):
    """What may stand where a restore shall go."""
    def stand(data):
        data.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            Path("other").mkdir()
            data.symlink_to(Path("other").absolute())
        else:
            data.mkdir(mode=0o700)
        if kind == "events":
            a_history(data)
        elif kind == "one file":
            (data / "marks.json").write_text("{}")
        elif kind == "open to all":
            data.chmod(0o777)
        elif kind == "another's":
            os.chown(data, 12345, 12345)
    return stand


@pytest.mark.parametrize("kind, words", [
    ("events", "is not empty, and nothing is restored over it: move it away: mv data/perps_bot/d"),
    ("one file", "is not empty"),
    ("link", "is a symlink: name its target"),
    ("open to all", "others may write it: chmod 700"),
    pytest.param("another's", "is another user's: run as its owner, with sudo -u '#12345'",
                 marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give it away")),
])
def test_nothing_is_restored_over_anything(data, target, kind, words):
    done = a_backup(data, target)
    data.rename("gone")
    put(kind)(data)
    before = files_in("data")
    with pytest.raises(ConfigError, match=words):
        restore(done.path, data, "dev", NOON)
    assert files_in("data") == before


def test_nothing_is_restored_under_a_running_bot(data, target, capsys):
    done = a_backup(data, target)
    shutil.rmtree("data")
    data.mkdir(parents=True, mode=0o700)
    lock = InstanceLock(data / "lock")
    lock.acquire()
    answer = run(f"restore {done.path}", capsys)
    lock.release()
    assert answer.code == 75
    assert f"is in use by pid {os.getpid()}; stop it first: kill -TERM {os.getpid()}" in answer.err


def test_a_disk_that_spoils_what_is_restored_leaves_nothing(data, target, monkeypatch):
    done, write = a_backup(data, target), disk._write
    shutil.rmtree("data")
    monkeypatch.setattr(disk, "_write", lambda fd, part: write(fd, part[:-1] + b" ") if
                        part.endswith(b"}\n") else write(fd, part))
    with pytest.raises(ConfigError, match="restoring-dev/events/2026-11-21.jsonl"):
        restore(done.path, data, "dev", NOON)
    assert not data.exists() and not list(Path("data").rglob("*.jsonl"))


def test_an_empty_folder_is_taken(data, target):
    done = a_backup(data, target)
    shutil.rmtree("data")
    data.mkdir(parents=True, mode=0o700)
    assert restore(done.path, data, "dev", NOON).path == data


def edit_manifest(path, **changes):
    row = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**row, **changes}))


LAST, FIRST = "events/2026-11-23.jsonl", "events/2026-11-21.jsonl"
SPOILT = [
    (lambda path: flip(path / LAST, 2), f"{LAST} line 2: does not follow the line before: use an"),
    (lambda path: (path / LAST).write_bytes((path / LAST).read_bytes()[:-9]),
     f"{LAST} line 2: has no end"),
    (lambda path: os.truncate(path / LAST, (path / LAST).read_bytes().index(b"\n") + 1),
     f"{LAST}: is not what manifest.json says of it"),
    (lambda path: (path / LAST).unlink(), f"{LAST}: is not what manifest.json says"),
    (lambda path: (path / "events/2026-11-24.jsonl").write_text(""), "2026-11-24.jsonl: is not"),
    (lambda path: rechained(path / FIRST, b'"schema":1', b'"schema":2'), "holds schema 2 of"),
    (lambda path: rechained(path / FIRST, b'"profile":"dev"', b'"profile":"prod"'),
     "holds events of profile prod, not of dev"),
    (lambda path: edit_manifest(path, profile="prod"), "of profile 'prod', not of dev"),
    (lambda path: edit_manifest(path, format=2), "format 2 is of another version"),
    (lambda path: edit_manifest(path, files={"../../etc/passwd": {
        "bytes": 0, "events": 0, "last_seq": 0, "sha256": ""}}), "passwd: is not what manifest"),
    (lambda path: edit_manifest(path, files=[]), "is no backup"),
    (lambda path: (path / "manifest.json").write_text("{" * 100_000), "is no backup"),
    (lambda path: (path / "manifest.json").unlink(), "is no backup"),
    (lambda path: ((path / "manifest.json").unlink(), os.mkfifo(path / "manifest.json")),
     "is no backup"),
    (lambda path: ((path / LAST).unlink(), os.mkfifo(path / LAST, 0o600)), f"{LAST}: is not what"),
    (lambda path: os.truncate(path / "manifest.json", 1 << 26), "is no backup"),
    (lambda path: ((path / LAST).rename("x.jsonl"), (path / LAST).symlink_to(
        Path("x.jsonl").absolute())), f"{LAST}: is a symlink"),
    (lambda path: (path / "events").chmod(0o777), "events: others may write it"),
    (lambda path: shutil.rmtree(path), "is no folder"),
    pytest.param(lambda path: os.chown(path / LAST, 12345, -1), "is another user's: run as its own",
                 marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give it away")),
]


@pytest.mark.parametrize("spoil, words", SPOILT)
def test_what_is_not_whole_or_not_ours_is_not_restored(data, target, spoil, words, capsys):
    done = a_backup(data, target)
    shutil.rmtree("data")
    spoil(done.path)
    before = files_in(target)
    answer = run(f"restore {done.path}", capsys)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert words in line
    assert not Path("data").exists()
    assert files_in(target) == before


def test_a_link_to_a_backup_is_refused_and_the_folder_above_names_the_newest(data, target, capsys):
    newest = [a_backup(data, target, NOON + n * DAY) for n in (0, 1)][1].path
    shutil.rmtree("data")
    Path("link").symlink_to(newest.absolute())
    assert "is a symlink: name its target" in run("restore link", capsys).err
    assert f"name one in it, such as {newest}" in run(f"restore {target}", capsys).err


# Killed at any moment


@pytest.mark.parametrize("work", ["backup", "restore"])
def test_all_of_it_is_on_the_disk_before_it_gets_its_name(data, target, work, monkeypatch):
    done, replace, fsync = a_backup(data, target, NOON - DAY), disk._replace, disk._fsync
    shutil.rmtree(done.path / "events")  # so that nothing is shared with it
    first, synced, found = a_backup(data, target), set(), []

    def name(made, place):
        if Path(made).is_dir():
            inside = [path for path in Path(made).rglob("*") if path.name != "lock"]
            found.append({path.stat().st_ino for path in (Path(made), *inside)} - synced)
            synced.clear()
        replace(made, place)
    monkeypatch.setattr(disk, "_fsync", lambda fd: (fsync(fd), synced.add(os.fstat(fd).st_ino)))
    monkeypatch.setattr(disk, "_replace", name)
    if work == "backup":
        monkeypatch.setattr(room.os, "link", lambda *_, **__: os.stat("/nowhere"))
        a_backup(data, target, NOON + DAY)
    else:
        data.rename("gone")
        restore(first.path, data, "dev", NOON)
    assert found == [set()]
    assert synced == {(target if work == "backup" else data.parent).stat().st_ino}


class Killed(BaseException):
    pass


OPERATIONS = [(disk, name) for name in ("_open", "_write", "_fsync", "_replace")] + [
    (os, name) for name in ("mkdir", "rename", "link", "unlink", "rmdir")]


def handles():
    numbers = os.listdir("/proc/self/fd")
    return {each for each in numbers if os.path.exists(f"/proc/self/fd/{each}")}


def killed_at(count, work, monkeypatch):
    """Do `work` and die at its disk call number `count`; whether there were so many."""
    calls, before = iter(range(10_000)), handles()

    def dying(operation):
        def call(*arguments, **more):
            if next(calls) == count:
                raise Killed
            return operation(*arguments, **more)
        return call
    with monkeypatch.context() as patch:
        for module, name in OPERATIONS:
            patch.setattr(module, name, dying(getattr(module, name)))
        try:
            work()
        except Killed:
            for handle in handles() - before:  # as the kernel does, and so the locks are free
                os.close(int(handle))
            return True
    return False


def test_a_backup_killed_anywhere_is_whole_or_none_and_the_next_one_is_whole(
        data, target, monkeypatch):
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)  # what is slow, and no power is cut
    old = a_backup(data, target, NOON - 40 * DAY)
    for count in range(1000):
        shutil.rmtree(target)
        target.mkdir()
        a_backup(data, target, NOON - 40 * DAY)
        was_killed = killed_at(count, lambda: a_backup(data, target, keep_days=30), monkeypatch)
        whole = [path for path in target.glob("perps-bot-*") if room._verified_backup(path, "dev")]
        assert whole, "the old one, the new one, or both"
        if not was_killed:
            break
        done = a_backup(data, target, NOON + DAY, keep_days=30)
        assert room._verified_backup(done.path, "dev").files == old.files
        assert not list(target.glob(".*.partial"))
    assert count > 30 and not was_killed


def test_a_restore_killed_anywhere_is_whole_and_halted_or_nothing(data, target, monkeypatch):
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)
    done, lines = a_backup(data, target), events_of(data)
    for count in range(1000):
        shutil.rmtree("data", ignore_errors=True)
        was_killed = killed_at(
            count, lambda: restore(done.path, data, "dev", NOON + DAY), monkeypatch)
        if was_killed and not data.exists():
            restore(done.path, data, "dev", NOON + DAY)
        risk = LiveRiskManager(event_store=(events := EventStore(data / "events", profile="dev")))
        found = events.recover()
        assert found.events == 3 and not found.damage and not found.torn_bytes
        assert risk.state is TradingState.HALTED and set(risk.holds) == {"kill_switch", "restored"}
        assert {name: text[:len(lines[name])] for name, text in events_of(data).items()} == lines
        if not was_killed:
            break
    assert count > 30 and not was_killed


# Versions


def test_events_of_a_newer_version_are_refused_by_all_who_read_them(data, target, capsys):
    for path in (data / "events").iterdir():
        rechained(path, b'"schema":1', b'"schema":2')
        break
    only = path
    for other in (data / "events").iterdir():
        if other != only:
            other.unlink()
    before = files_in("data")
    for line in ("--dev-fast", "resume --reason x", f"backup {target}"):
        answer = run(line, capsys)
        assert answer.code == 2 and "holds schema 2 of" in answer.err, line
        assert "use the version that wrote it" in answer.err
    with pytest.raises(ConfigError, match="holds schema 2"):
        list(read_events(data / "events"))
    after = files_in("data")
    assert {name: after[name] for name in before if name in after and ".jsonl" in name} == {
        name: row for name, row in before.items() if ".jsonl" in name}


# What is printed


def test_the_answers_are_what_was_done(data, target, capsys):
    answer = run(f"backup {target} --json", capsys)
    row = json.loads(answer.out)
    assert answer.code == 0 and answer.err == ""
    assert (row["days"], row["last_seq"], row["removed"]) == (3, {"events": 7}, [])
    assert "is on the same disk as the data" in row["notes"][0]
    shutil.rmtree("data")
    answer = run(f"restore {row['path']}", capsys)
    assert answer.code == 0
    first, second = answer.out.splitlines()
    assert first == (f"restored to data/perps_bot/dev: 3 days, 7 events, {row['bytes']} bytes of "
                     f"profile dev; last seq: events 7; read back and compared")
    assert second.startswith("HALTED: start it, compare with the venue")


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "36501", "١", "9" * 5000])
def test_an_age_that_is_none_is_refused(data, target, text, capsys):
    answer = run(f"backup {target} --keep-days={text}", capsys)
    assert answer.code == 2 and "must be a whole number from 1 to 36500; days" in answer.err
    assert not list(target.iterdir())


@pytest.mark.parametrize("inside", [False, True], ids=["the folder", "a chain in it"])
def test_what_a_link_leads_to_is_never_taken_away(data, target, tmp_path, inside):
    mine = tmp_path / "mine" / "events"
    mine.mkdir(parents=True, mode=0o700)
    (mine / "2026-01-01.jsonl").write_text("mine")
    left = target / ".perps-bot-dev-20260101T000000Z.partial"
    if inside:
        left.mkdir(mode=0o700)
        (left / "events").symlink_to(mine)
    else:
        left.symlink_to(mine.parent)
    done = a_backup(data, target)
    assert (mine / "2026-01-01.jsonl").read_text() == "mine"
    assert any("is left of a backup that was killed" in note for note in done.notes)

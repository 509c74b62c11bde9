"""The specification of `perps_bot/journal.py`: events read back from the newest, and followed."""

import json
import os
import zlib
from datetime import UTC, datetime, timedelta

import pytest

from perps_bot import journal
from perps_bot.errors import ConfigError
from perps_bot.journal import Place, end_of, newest, news
from perps_bot.store import EventStore, read_events

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class AWriter:
    def __init__(self, folder):
        self.folder = folder
        self.store = EventStore(folder, NOON)

    def writes(self, count, text="word"):
        for n in range(count):
            self.store.append("feed.stale", connection="market", reason=f"{text} {n}")
        return self

    def day(self, snapshot=()):
        self.store.now += DAY
        self.store.open_day(self.store.now.date(), dict(snapshot))
        return self

    @property
    def path(self):
        return self.folder / f"{self.store.now.date()}.jsonl"


@pytest.fixture
def writer(tmp_path):
    return AWriter(tmp_path / "events")


def numbers(events):
    return [event.seq for event in events]


@pytest.fixture(params=[7, 64, 1 << 16], ids="blocks_of_{}".format)
def block(request, monkeypatch):
    monkeypatch.setattr(journal, "BLOCK_BYTES", request.param)


def test_the_newest_come_first_over_all_days_and_blocks(writer, block):
    writer.writes(3).day({"a": "x" * 500}).writes(2, "y" * 90).day().writes(1)
    assert list(newest(writer.folder)) == list(read_events(writer.folder))[::-1]
    assert len(list(newest(writer.folder))) == 9


def test_only_what_is_asked_for_is_read(writer, monkeypatch):
    writer.writes(2000, "y" * 200)
    read = []
    opener = journal.opened

    def counting(path):
        file = opener(path)
        read.append(file)
        return file

    monkeypatch.setattr(journal, "opened", counting)
    events = newest(writer.folder)
    assert numbers(next(events) for _ in range(10)) == [*range(2001, 1991, -1)]
    assert read[-1].tell() > writer.path.stat().st_size - 2 * journal.BLOCK_BYTES


@pytest.mark.parametrize("torn", [b"{", b'{"seq":99,"ts":"2026', b"x" * 100_000])
def test_a_torn_end_is_left_out_and_left_alone(writer, torn):
    writer.writes(3)
    with open(writer.path, "ab") as file:
        file.write(torn)
    assert numbers(newest(writer.folder)) == [4, 3, 2, 1]
    assert end_of(writer.folder).offset == writer.path.stat().st_size - len(torn)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_where_nothing_was_written_there_is_nothing(tmp_path, make):
    make(tmp_path / "events")
    assert list(newest(tmp_path / "events")) == []
    assert vars(end_of(tmp_path / "events")) == vars(Place())


# Following


def test_a_day_that_is_just_being_opened_is_empty(writer):
    writer.writes(1).day()
    os.truncate(writer.path, 30)
    place = end_of(writer.folder)
    assert numbers(newest(writer.folder)) == [2, 1]
    assert numbers(news(writer.folder, place)) == []


def test_what_is_written_is_followed_over_midnight_and_never_twice(writer, block):
    place = Place()
    assert list(news(writer.folder, place)) == []
    writer.writes(2)
    seen = numbers(news(writer.folder, place))
    assert numbers(news(writer.folder, place)) == []
    writer.writes(1).day().writes(1).day()
    seen += numbers(news(writer.folder, place))
    assert seen == [*range(1, 8)]


def test_following_from_the_end_gives_only_what_is_new(writer):
    place = end_of(writer.writes(5).folder)
    assert numbers(newest(writer.folder, place)) == [6, 5, 4, 3, 2, 1]
    writer.writes(1).day()
    assert numbers(newest(writer.folder, place))[0] == 6  # as of that place
    assert numbers(news(writer.folder, place)) == [7, 8]


def test_a_line_is_told_when_it_is_finished_and_not_before(writer):
    place = end_of(writer.writes(1).folder)
    writer.writes(1)
    whole = writer.path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 30):
        writer.path.write_bytes(whole[:size])
        assert numbers(news(writer.folder, place)) == []
    writer.path.write_bytes(whole)
    assert numbers(news(writer.folder, place)) == [3]


def test_a_torn_end_of_yesterday_holds_up_nothing(writer):
    place = end_of(writer.writes(1).folder)
    yesterday = writer.path
    writer.day()
    with open(yesterday, "ab") as file:
        file.write(b'{"seq":')
    assert numbers(news(writer.folder, place)) == [3]


def test_a_restart_that_cuts_a_torn_end_is_followed(writer):
    place = end_of(writer.writes(1).folder)
    with open(writer.path, "ab") as file:
        file.write(b'{"torn')
    assert numbers(news(writer.folder, place)) == []
    writer.store.close()
    again = EventStore(writer.folder, NOON)
    assert again.recover().torn_bytes == 6
    again.append("feed.stale", connection="user", reason="back")
    assert numbers(news(writer.folder, place)) == [3]


# What is refused


def changed(path, old, new):
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new, 1))


def removed(path, number):
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))


def sealed(fields):
    """One line of a file of its own, its crc as it should be."""
    body = json.dumps(fields, separators=(",", ":"))[:-1].encode()
    return body + b',"crc":"%08x"}\n' % zlib.crc32(body, 0)


OPENING = {"seq": 1, "ts": NOON.isoformat(), "type": "day.opened", "schema": 1,
           "day": "2026-11-23", "chain": "00000000", "snapshot": {}}


@pytest.mark.parametrize("spoil, words", [
    (lambda path: changed(path, b"word 1", b"sword "), "does not follow the line before"),
    (lambda path: removed(path, 2), "does not follow the line before"),
    (lambda path: removed(path, 0), "damaged"),
    (lambda path: path.write_bytes(b"[" * 100_000 + b"\n"), "damaged"),
    (lambda path: path.write_bytes(b"\xff\xfe\n" * 3), "damaged"),
    (lambda path: path.write_bytes(b'{"seq":1e9999999999999999999}\n'), "damaged"),
    (lambda path: path.write_bytes(b"\n\n\n"), "damaged"),
    (lambda path: path.write_bytes(sealed({**OPENING, "schema": 2})), "is not of this version"),
    (lambda path: path.write_bytes(sealed({**OPENING, "day": "2026-11-22"})), "was renamed"),
    (lambda path: path.write_bytes(sealed({**OPENING, "ts": "2026-11-23"})), "without its offset"),
    (lambda path: path.rename(path.with_name("2026-11-24.jsonl")), "was renamed"),
    (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "cannot be read"),
])
@pytest.mark.parametrize("reading", [
    lambda folder: list(newest(folder)), lambda folder: list(news(folder, Place()))])
def test_what_does_not_follow_is_refused_in_one_line_and_not_changed(writer, spoil, words, reading):
    spoil(writer.writes(4).path)
    before = [(path, path.lstat().st_mtime_ns) for path in sorted(writer.folder.rglob("*"))]
    with pytest.raises(ConfigError, match=words) as refusal:
        reading(writer.folder)
    assert str(refusal.value).isprintable() and str(writer.folder) in str(refusal.value)
    assert before == [(p, p.lstat().st_mtime_ns) for p in sorted(writer.folder.rglob("*"))]


@pytest.mark.parametrize("reading", [{}, {"wants": lambda line: False}], ids=["all", "nothing"])
def test_a_line_that_nobody_wants_to_read_is_verified_all_the_same(writer, reading):
    assert len(list(newest(writer.writes(4).folder, **reading))) == (0 if reading else 5)
    changed(writer.path, b"word 1", b"word 7")
    with pytest.raises(ConfigError, match="a line does not follow the line before"):
        list(newest(writer.folder, **reading))


def test_no_more_lines_are_looked_at_than_asked_for_wanted_or_not(writer):
    writer.writes(8)
    looked_at = []
    read = newest(writer.folder, wants=lambda line: looked_at.append(line) or b"word 5" in line,
                  lines_max=6)
    assert [event.data["reason"] for event in read] == ["word 5"] and len(looked_at) == 6


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(writer, monkeypatch):
    monkeypatch.setattr(journal, "LINE_BYTES_MAX", 1 << 17)
    changed(writer.writes(2).path, b"word 0", b"w" * (1 << 18))
    with pytest.raises(ConfigError, match="a line of more than"):
        list(newest(writer.folder))


def test_a_file_that_is_cut_or_gone_while_it_is_followed_is_said(writer):
    place = end_of(writer.writes(3).folder)
    os.truncate(writer.path, place.offset - 1)
    with pytest.raises(ConfigError, match="is shorter than it was"):
        list(news(writer.folder, place))
    writer.path.unlink()
    with pytest.raises(ConfigError, match="put back what was moved"):
        list(news(writer.folder, place))

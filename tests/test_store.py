"""The specification of `perps_bot/store.py`: what happened, in order?"""

import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import zlib
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perps_bot import store as room
from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.lines import HOLD, brief, unparsed
from perps_bot.model import Side
from perps_bot.store import (
    SYNCED,
    EventStore,
    InstanceLock,
    Recovery,
    prepare_folder,
    read_events,
    read_state,
    write_state,
)

REPO = Path(__file__).resolve().parents[1]
NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
DAY = NOON.date()
NEXT_DAY = DAY + timedelta(days=1)
FIRST, SECOND = "2025-05-01.jsonl", "2025-05-02.jsonl"
DISK_CALLS = ("_open", "_write", "_fsync", "_truncate", "_replace", "_make_folder")


class Killed(BaseException):
    """The process died here."""


@pytest.fixture
def quick(monkeypatch):
    """Where hundreds of crashes are tried, the real disk need not turn."""
    monkeypatch.setattr(room, "_fsync", lambda fd: None)


@pytest.fixture
def folder(request, tmp_path):
    memory = Path("/dev/shm")
    if "quick" not in request.fixturenames or not os.access(memory, os.W_OK):
        yield tmp_path / "events"
        return
    with tempfile.TemporaryDirectory(dir=memory) as top:
        yield Path(top) / "events"


def a_store(folder, *types, **data):
    """A store whose first day is open, with an event of each type appended."""
    store = EventStore(folder, now=NOON)
    for number, type in enumerate(types):
        store.append(type, n=number, **data)
    return store


def written(folder, *types):
    """The bytes of a day with these events."""
    a_store(folder, *types).close()
    return (folder / FIRST).read_bytes()


def restarted(folder, now=NOON):
    """What a new process knows: the store, what it said, and the events that it was told."""
    store, told = EventStore(folder, now=now), []
    store.subscribe(told.append)
    return store, store.recover(), told


def types_after_restart(folder):
    store, _, told = restarted(folder)
    store.close()
    return [event.type for event in told]


def a_copy(folder, content, name=FIRST):
    """`folder` with nothing in it but one file of these bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    (folder / name).write_bytes(content)
    return folder


def verified(folder):
    """The events of all files, checked without any help of the room; it raises at any fault."""
    events, crc = [], 0
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            found = re.fullmatch(rb'(\{"seq":.*),"crc":"([0-9a-f]{8})"\}\n', line)
            crc = zlib.crc32(found[1], crc)
            assert int(found[2], 16) == crc
            events.append(json.loads(line))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return events


def bit_flips(content, start, end, step=1):
    for bit in range(8 * start, 8 * end, step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def path_of(fd):
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def kept_aside(folder):
    return [path.read_bytes() for path in sorted(folder.glob("[tq]*/*"))]


def failing(code, times=10**9):
    """A disk call that fails that often, and then does nothing."""
    left = [times]

    def call(*_):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))

    return call


# The line


def test_an_event_is_one_line_whose_crc_is_chained_to_the_line_before(folder):
    store = a_store(folder)
    store.now = NOON + timedelta(microseconds=5)
    store.append("strategy.signal", symbol="BTC-PERP", price=Decimal("1E+2"), side=Side.BUY)
    first = b'{"seq":1,"ts":"2025-05-01T12:00:00.000005+00:00","type":"day.opened","schema":1,' \
            b'"day":"2025-05-01","chain":"00000000","snapshot":{}'
    second = b'{"seq":2,"ts":"2025-05-01T12:00:00.000005+00:00","type":"strategy.signal",' \
             b'"symbol":"BTC-PERP","price":"100","side":"buy"'
    crc = zlib.crc32(first)
    lines = first + b',"crc":"%08x"}\n' % crc + second
    lines += b',"crc":"%08x"}\n' % zlib.crc32(second, crc)
    assert (folder / FIRST).read_bytes() == lines


@pytest.mark.parametrize("value, text", [
    (Decimal("0.10"), '"0.10"'),
    (Decimal("1E-9"), '"0.000000001"'),
    (Decimal("-0"), '"-0"'),
    (NOON.astimezone(timezone(timedelta(hours=2))), '"2025-05-01T12:00:00+00:00"'),
    (DAY, '"2025-05-01"'),
    (Side.SELL, '"sell"'),
    (True, "true"),
    (10**30, str(10**30)),
    ({"a": (Decimal(1), None)}, '{"a":["1",null]}'),
    ("é\n\x1b[31m\u202e\ud800", r'"\u00e9\n\u001b[31m\u202e\ud800"'),
])
def test_values_are_written_exactly_and_printable(folder, value, text):
    a_store(folder).append("alert", value=value)
    line = (folder / FIRST).read_text("ascii").splitlines()[-1]
    assert line.partition('"value":')[2].rpartition(',"crc"')[0] == text
    assert line.isprintable()


@pytest.mark.parametrize("value", [
    1.0, {"a": [0.5]}, Decimal("NaN"), Decimal("Infinity"), Decimal("1E+5000"),
    NOON.replace(tzinfo=None), {1: "a"}, {1, 2}, b"bytes", object(),
])
def test_what_could_not_be_read_back_as_it_was_meant_is_refused(folder, value):
    store = a_store(folder, "bot.started")
    before, told = (folder / FIRST).read_bytes(), []
    store.subscribe(told.append)
    with pytest.raises(TypeError):
        store.append("alert", value=value)
    assert (folder / FIRST).read_bytes() == before and not told
    assert store.append("alert").seq == 3


@pytest.mark.parametrize("name", ["seq", "ts", "crc"])
def test_the_lines_own_fields_are_refused_as_data(folder, name):
    store = a_store(folder, "alert")
    with pytest.raises(TypeError, match=f"multiple values for keyword argument '{name}'"):
        store.append("alert", **{name: 1})
    assert store.append("alert").seq == len(verified(folder)) == 3


def test_long_strings_are_cut_except_in_the_snapshot_of_a_day(folder):
    store = EventStore(folder)
    store.open_day(DAY, {"text": "x" * 5000})
    event = store.append("alert", text="x" * 5000, exact="x" * 2000)
    opened, alert = store.read()
    assert opened.data["snapshot"]["text"] == "x" * 5000
    assert alert.data == {"text": "x" * 2000, "exact": "x" * 2000}
    assert event.data["text"] == "x" * 5000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.sampled_from(Side)
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=-10**20, max_value=10**20)
    | st.datetimes(timezones=st.just(UTC)) | st.dates(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def as_read(value):
    if isinstance(value, dict):
        return {key: as_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, date) else value


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.dictionaries(st.text(max_size=9), VALUES, max_size=4), max_size=4))
def test_what_was_written_is_read_back(tmp_path_factory, batch):
    batch = [{f"_{key}": value for key, value in data.items()} for data in batch]
    folder = tmp_path_factory.mktemp("x") / "events"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_fsync", lambda fd: None)
        store = EventStore(folder, now=NOON)
    for data in batch:
        store.append("alert", **data)
    store.close()
    whole = list(map(as_read, batch))
    assert [event.data for event in read_events(folder)][1:] == whole
    assert [dict(event.data) for event in read_events(folder, read=unparsed)][1:] == whole
    assert_found_singly(folder, whole)
    verified(folder)


def assert_found_singly(folder, whole):
    """Each field is the same, whether it is the first or the last that is asked for."""
    for names in (list, lambda data: list(data)[::-1]):
        read = list(read_events(folder, read=unparsed))[1:]
        for event, data in zip(read, whole, strict=True):
            assert [(name, event.data[name]) for name in names(data)] == [
                (name, data[name]) for name in names(data)]
            assert event.data.get("no such name") is None and "type" not in event.data
    for number, data in enumerate(whole, 1):
        for name in data:
            assert list(read_events(folder, read=unparsed))[number].data[name] == data[name]


def test_a_field_that_is_not_parsed_yet_is_never_another_ones(folder):
    """Decoys: in a text, in a nested object before and after, escaped, and at the line's ends."""
    batch = [
        {"note": ',"price":"9"', "price": "1"},
        {"note": 'a {"price":"9"', "price": "1"},
        {"deep": {"a": "0", "price": "9"}, "price": "1"},
        {"price": "1", "deep": {"a": "0", "price": "9"}},
        {"rows": [{"a": "0", "price": "9"}], "price": "1", "rest": ["a", "price"]},
        {"price": None, "prices": "9", "text": 'quote " and \\'}, {"price": "\\"},
        {"price": "\u20ac"}, {"price": 5}, {"price": True, "type_of": "x"}, {"crc_": "0"}, {},
    ]
    store = EventStore(folder, now=NOON)
    for data in batch:
        store.append("alert", **data)
    store.close()
    assert_found_singly(folder, batch)
    assert [event.data.get("price") for event in read_events(folder, read=unparsed)][1:] == [
        data.get("price") for data in batch]


HELD = {"symbol": "BTC-PERP", "action": "hold", "reason": "no cross", "mark_price": "93.5"}


@pytest.mark.parametrize("data, is_brief", [
    (HELD, True), ({**HELD, "equity": "9", "rows": [{"mark_price": "9"}]}, True),
    ({**HELD, "mark_price": "93"}, True), ({**HELD, "reason": ""}, True),
    ({**HELD, "reason": 'x","mark_price":"9'}, False), ({**HELD, "reason": "\\"}, True),
    ({**HELD, "symbol": "\u20ac"}, False), ({**HELD, "symbol": 'a"b'}, False),
    ({**HELD, "action": "buy"}, False), ({**HELD, "mark_price": None}, False),
    ({**HELD, "mark_price": "-1"}, False), ({**HELD, "mark_price": "1E3"}, False),
    ({"symbol": "BTC-PERP", "action": "hold", "mark_price": "9"}, False),
])
def test_a_decision_to_hold_is_brief_only_where_it_says_the_same(folder, data, is_brief):
    store = EventStore(folder, now=NOON)
    store.append("strategy.signal", **data, bid="9")
    store.append("alert", **data, bid="9")
    store.close()
    whole = list(read_events(folder))
    told = list(read_events(folder, read=brief))
    assert [event[:2] for event in told] == [event[:2] for event in whole]
    assert (told[1].type == HOLD) == is_brief and told[2].type == "alert"
    assert (told[1].data if is_brief else (told[1].data["symbol"], told[1].data["mark_price"])) == (
        data["symbol"], data["mark_price"])


def test_a_line_that_is_not_ours_is_refused_once_a_field_is_asked_for(folder):
    lines = written(folder, "alert", "alert").splitlines(keepends=True)
    (folder / FIRST).write_bytes(relined([lines[0], lines[1].replace(b'"n":0', b'"n":[[')], [0, 1]))
    with pytest.raises(StoreDamaged, match="line 2"):
        list(read_events(folder))
    _, event = read_events(folder, read=unparsed)
    assert event.type == "alert"
    with pytest.raises(ValueError, match="its line"):
        event.data["n"]


# Appending


def test_events_are_numbered_and_dispatched_in_order_after_they_were_written(folder):
    store, told = EventStore(folder, now=NOON), []
    store.subscribe(lambda event: told.append((event.seq, verified(folder)[-1]["type"])))
    store.subscribe(lambda event: told.append(event.type))
    price = Decimal("1.50")
    event = store.append("order.intended", price=price)
    assert told == [(1, "day.opened"), "day.opened", (2, "order.intended"), "order.intended"]
    assert (event.seq, event.at, event.type) == (2, NOON, "order.intended")
    assert event.data["price"] is price


def test_each_reader_is_told_the_types_that_it_asked_for_and_some_only_at_a_restart(folder):
    told = {}
    for _ in range(2):
        store, told = EventStore(folder, now=NOON), {"all": [], "some": []}
        store.subscribe(lambda event: told["all"].append(event.type))
        store.subscribe(lambda event: told["some"].append(event.type),
                        ("alert", "order.lost"), recovered=("alert",))
        if not store.recover().events:
            store.append("alert")
            store.append("order.lost")
            store.append("funding.paid")
            assert told["some"] == ["order.lost"]
    assert told == {"all": ["day.opened", "alert", "order.lost", "funding.paid"],
                    "some": ["alert", "order.lost"]}


def test_an_event_that_nobody_stores_or_reads_is_not_wanted(folder):
    store = EventStore()
    store.subscribe(print, ("alert", "order.lost"), recovered=("alert",))
    assert [store.wants(type) for type in ("alert", "order.lost", "stop.moved")] == [
        False, True, False]
    store.subscribe(print)
    assert store.wants("stop.moved")
    assert EventStore(folder).wants("stop.moved")


def test_after_a_recovery_events_carry_the_last_ones_moment_until_the_loop_says_another(folder):
    written(folder, "alert")
    store, *_ = restarted(folder, now=NOON + timedelta(hours=1))
    assert store.now == NOON


def test_without_a_folder_events_are_numbered_and_dispatched_and_no_disk_is_touched(monkeypatch):
    for name in DISK_CALLS:
        monkeypatch.setattr(room, name, failing(errno.EIO))
    store, told = EventStore(now=NOON), []
    store.subscribe(told.append)
    assert store.recover() == Recovery()
    assert [store.append("alert", required=True).seq for _ in range(3)] == [1, 2, 3]
    assert store.open_day(DAY, {}).seq == 4 and store.day == DAY
    assert len(told) == 4 and list(store.read()) == [] and store.writable


@pytest.mark.parametrize("type", sorted(SYNCED) + ["strategy.signal", "alert"])
def test_orders_money_and_halts_are_fsynced_before_append_returns(folder, monkeypatch, type):
    store, synced = a_store(folder, "alert"), []
    monkeypatch.setattr(room, "_fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    store.append(type)
    inode = (folder / FIRST).stat().st_ino
    assert synced == ([inode] if type in SYNCED else [])
    store.append("alert", required=True)
    assert synced[-1] == inode


def test_with_sync_off_no_line_is_fsynced_and_all_else_is_the_same(tmp_path, monkeypatch):
    contents = []
    for sync in (True, False):
        store, synced = EventStore(tmp_path / str(sync), NOON, sync=sync), []
        with monkeypatch.context() as patch:
            patch.setattr(room, "_fsync", synced.append)
            store.append("order.intended", required=True, price=Decimal("1.5"))
            store.open_day(NEXT_DAY, {})
            store.append("trade.executed")
        assert bool(synced) is sync and store.writable
        contents.append([path.read_bytes() for path in sorted((tmp_path / str(sync)).iterdir())])
    assert contents[0] == contents[1] and len(contents[0]) == 2
    monkeypatch.setattr(room, "_write", failing(errno.ENOSPC))
    with pytest.raises(StoreDamaged):
        store.append("order.intended", required=True)


def test_every_file_is_0600_and_every_folder_0700_whatever_the_umask(tmp_path):
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            top = tmp_path / f"umask-{umask}"
            folder = top / "profile" / "events"
            content = written(folder, "alert", "alert")
            (folder / FIRST).write_bytes(content[:-5])
            restarted(folder)[0].close()
            (folder / FIRST).write_bytes(content.replace(b"alert", b"Alert", 1))
            restarted(folder)[0].close()
            write_state(top / "state.json", {})
            InstanceLock(top / "lock").acquire()
        finally:
            os.umask(before)
        paths = [top, *top.rglob("*")]
        assert {path.name for path in paths} >= {"torn", "quarantine", "lock", "state.json"}
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_file_that_a_backup_left_readable_is_closed_again(folder):
    written(folder, "alert")
    (folder / FIRST).chmod(0o644)
    restarted(folder)
    assert stat.S_IMODE((folder / FIRST).stat().st_mode) == 0o600


# Days


def test_the_first_append_opens_the_day_of_utc(folder):
    late = datetime(2025, 5, 1, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    store = EventStore(folder, now=late)
    assert store.day is None
    store.append("bot.started")
    assert store.day == NEXT_DAY and (folder / SECOND).exists()


def test_each_day_opens_a_file_with_a_snapshot_and_goes_on_with_number_and_chain(folder):
    store = a_store(folder, "alert")
    store.now = NOON + timedelta(days=1)
    event = store.open_day(NEXT_DAY, {"BTC-PERP": Decimal("0.01")}, first_equity=Decimal(5))
    store.append("alert")
    assert list(event.data) == ["schema", "day", "first_equity", "chain", "snapshot"]
    events = verified(folder)
    assert events[2]["snapshot"] == {"BTC-PERP": "0.01"}
    assert events[2]["chain"] == events[1]["crc"]
    assert [e.seq for e in store.read()] == [1, 2, 3, 4]
    assert [e.seq for e in store.read(NEXT_DAY)] == [3, 4]
    assert [e.seq for e in read_events(folder, DAY)] == [1, 2]
    assert list(store.read(DAY - timedelta(days=1))) == []


def test_recovery_reads_the_newest_day_alone(folder):
    store = a_store(folder, "alert")
    store.open_day(NEXT_DAY, {"held": 1})
    store.append("order.intended")
    store.close()
    (folder / FIRST).unlink()
    store, recovery, told = restarted(folder)
    assert recovery == Recovery(2, 0, "") and store.day == NEXT_DAY
    assert [event.type for event in told] == ["day.opened", "order.intended"]
    assert store.append("alert").seq == 5 and [e.seq for e in store.read()] == [3, 4, 5]


@pytest.mark.parametrize("days", [0, -1])
def test_days_never_go_backwards(folder, days):
    for store in (a_store(folder, "alert"), EventStore(now=NOON)):
        store.day = store.day or DAY
        with pytest.raises(ValueError, match="cannot be opened"):
            store.open_day(DAY + timedelta(days=days), {})


def test_an_old_day_is_on_disk_before_the_new_one_and_the_new_name_too(folder, monkeypatch):
    store, synced = a_store(folder, "alert"), []
    monkeypatch.setattr(room, "_fsync", lambda fd: synced.append(path_of(fd)))
    store.open_day(NEXT_DAY, {})
    assert synced == [folder / FIRST, folder / SECOND, folder, folder / SECOND]


def test_a_crash_inside_open_day_is_harmless_at_any_byte(folder, quick):
    store = a_store(folder, "alert")
    before = (folder / FIRST).read_bytes()
    store.open_day(NEXT_DAY, {"held": {"BTC-PERP": "1"}})
    store.close()
    opening = (folder / SECOND).read_bytes()
    for end in range(len(opening)):
        a_copy(folder, before)
        (folder / SECOND).write_bytes(opening[:end])
        assert [event.seq for event in read_events(folder)] == [1, 2]
        store, recovery, _ = restarted(folder)
        assert recovery == Recovery(2, end, "")
        assert (folder / SECOND).read_bytes() == b""
        assert kept_aside(folder) == [opening[:end]] * (end > 0)
        store.append("alert")
        assert [event.seq for event in store.read()] == [1, 2, 3]
        store.open_day(NEXT_DAY, {"held": {}})
        store.close()
        assert restarted(folder)[1] == Recovery(1, 0, "")
        assert len(verified(folder)) == 4


# Torn tails


def test_a_torn_tail_is_cut_at_every_offset_and_the_next_append_survives(folder, quick):
    content = written(folder, "alert", "order.intended", "trade.executed")
    lines = content.splitlines(keepends=True)
    for end in range(len(b"".join(lines[:2])), len(content) + 1):
        whole = content[:end].count(b"\n")
        good = len(b"".join(lines[:whole]))
        a_copy(folder, content[:end])
        assert len(list(read_events(folder))) == whole
        store, recovery, told = restarted(folder)
        assert recovery == Recovery(whole, end - good, "")
        assert [event.seq for event in told] == list(range(1, whole + 1))
        assert kept_aside(folder) == [content[good:end]] * (end > good)
        store.append("bot.started", required=True)
        store.close()
        assert types_after_restart(folder)[whole:] == ["bot.started"]
        assert len(verified(folder)) == whole + 1


@pytest.mark.parametrize("tail", [
    b"\0", b"\0" * 5000, b"{}", b"\xff", b"[" * 20000, b'{"seq":3,"ts":"2025-05-01T12:00:00',
])
def test_what_was_written_without_its_end_is_cut_and_kept(folder, tail):
    content = written(folder, "alert")
    a_copy(folder, content + tail)
    assert restarted(folder)[1] == Recovery(2, len(tail), "")
    assert (folder / FIRST).read_bytes() == content
    assert kept_aside(folder) == [tail]


@pytest.mark.parametrize("tail", [
    b"\n", b"{}\n", b"[]\n", b"1\n", b"\xff\n\n{", b"[" * 20000 + b"\n",
    b'{"seq":1e99999999999999999999}\n', b'{"seq":' + b"9" * 5000 + b"}\n",
    b'{"seq":3,"ts":"2025-05-01T12:00:00+00:00","type":"alert","crc":"00000000"}\n',
])
def test_a_whole_line_that_is_not_ours_is_damage(folder, tail):
    content = written(folder, "alert")
    a_copy(folder, content + tail)
    recovery = restarted(folder)[1]
    assert f"{FIRST} line 3: " in recovery.damage and recovery.torn_bytes == 0
    assert (folder / FIRST).read_bytes() == content
    assert kept_aside(folder) == [content + tail]


@pytest.mark.parametrize("ts", ["x" * 4000, "\x1b[2J" * 900, "\u202e" * 4000])
def test_damage_is_quoted_in_one_short_plain_line_I45(folder, ts):
    """J5: whatever stands in the file; read and recovered alike."""
    line = json.dumps({"seq": 3, "ts": ts, "type": "alert", "crc": ""}).encode() + b"\n"
    a_copy(folder, written(folder, "alert") + line)
    with pytest.raises(StoreDamaged) as refused:
        list(read_events(folder))
    for said in (str(refused.value), restarted(folder)[1].damage):
        assert "line 3" in said and said.isprintable() and len(said) < 600


def test_what_another_version_wrote_is_quoted_in_one_short_plain_line_I45(folder):
    content = written(folder, "alert")
    long = b'"schema":"' + b"\\u001b" * 4000 + b'"'
    a_copy(folder, relined(content.replace(b'"schema":1', long).splitlines(True), range(2)))
    with pytest.raises(ConfigError, match="holds schema") as refused:
        EventStore(folder).recover()
    assert str(refused.value).isprintable() and len(str(refused.value)) < 1200


def spied(monkeypatch):
    """A list that grows by (call, file name) with every call that changes the disk."""
    calls = []
    for name in ("_write", "_truncate", "_fsync", "_replace"):
        def spy(target, *rest, name=name, call=getattr(room, name)):
            path = path_of(target) if isinstance(target, int) else rest[0]
            calls.append((name, path.name))
            return call(target, *rest)
        monkeypatch.setattr(room, name, spy)
    return calls


@pytest.mark.parametrize("harm, aside", [
    (lambda content: content + b"torn", "torn"),
    (lambda content: content.replace(b'"n":1', b'"n":7'), "quarantine"),
])
def test_what_is_wrong_is_kept_then_cut_and_both_are_on_disk_before_the_first_append(
    folder, monkeypatch, harm, aside
):
    content = written(folder, "alert", "alert")
    a_copy(folder, harm(content))
    calls = spied(monkeypatch)
    restarted(folder)
    ((kept,),) = ([path.name for path in (folder / aside).iterdir()],)
    assert kept.startswith(f"{FIRST}.3-" if aside == "torn" else f"{FIRST}.2-")
    assert calls == [
        ("_fsync", folder.parent.name), ("_fsync", folder.parent.name),
        ("_fsync", "events"),  # in which the folder aside is new
        ("_write", kept), ("_fsync", kept), ("_fsync", aside),
        ("_truncate", FIRST),
        ("_fsync", FIRST), ("_fsync", "events"),
    ]


def test_each_mishap_is_kept_even_when_it_happens_at_the_same_event(folder):
    content = written(folder, "alert")
    tails = [b"first", b"second and longer", b"third"]
    for number, tail in enumerate(tails):
        (folder / FIRST).write_bytes(content + tail)
        os.utime(folder / FIRST, ns=(number, number))
        restarted(folder)
    assert sorted(kept_aside(folder)) == sorted(tails)


def test_what_the_last_process_wrote_is_on_disk_before_the_first_append(folder, monkeypatch):
    written(folder, "alert")
    calls = spied(monkeypatch)
    restarted(folder)
    assert calls[1:] == [("_fsync", FIRST), ("_fsync", "events")]


def test_a_new_folder_is_on_disk_before_its_first_event(tmp_path, monkeypatch):
    calls = spied(monkeypatch)
    EventStore(tmp_path / "profile" / "events")
    assert calls[-2:] == [("_fsync", tmp_path.name), ("_fsync", "profile")]


def test_any_flipped_bit_in_the_last_record_loses_that_record_and_no_other(folder, quick):
    content = written(folder, "alert", "order.intended", "order.updated")
    start = content.rindex(b"\n", 0, -1) + 1
    for flipped in bit_flips(content, start, len(content)):
        a_copy(folder, flipped)
        store, recovery, told = restarted(folder)
        store.close()
        assert [event.type for event in told] == ["day.opened", "alert", "order.intended"]
        assert bool(recovery.torn_bytes) != bool(recovery.damage)
        assert kept_aside(folder) in ([flipped[start:]], [flipped])
        assert (folder / FIRST).read_bytes() == content[:start]


# Damage


def test_any_flipped_bit_before_the_last_record_is_damage(folder, quick):
    content = written(folder, "alert", "order.intended", "order.updated")
    lines = content.splitlines(keepends=True)
    start = len(lines[0] + lines[1])
    for flipped in bit_flips(content, start, start + len(lines[2])):
        a_copy(folder, flipped)
        with pytest.raises(StoreDamaged, match=f"{FIRST} line 3"):
            list(read_events(folder))
        with pytest.raises(StoreDamaged, match=f"{FIRST} line 3"):
            list(read_events(folder, read=unparsed))
        store, recovery, told = restarted(folder)
        store.close()
        assert [event.type for event in told] == ["day.opened", "alert"]
        assert f"{FIRST} line 3: " in recovery.damage and recovery.torn_bytes == 0
        assert kept_aside(folder) == [flipped]
        assert (folder / FIRST).read_bytes() == content[:start]


def test_a_flipped_bit_in_the_first_record_falls_back_to_the_day_before(folder, quick):
    store = a_store(folder, "alert")
    before = (folder / FIRST).read_bytes()
    store.open_day(NEXT_DAY, {"held": "1"})
    store.append("order.intended")
    store.close()
    content = (folder / SECOND).read_bytes()
    for flipped in bit_flips(content, 0, content.index(b"\n") + 1, step=9):
        a_copy(folder, before)
        (folder / SECOND).write_bytes(flipped)
        store, recovery, told = restarted(folder)
        assert [event.type for event in told] == ["day.opened", "alert"]
        assert f"{SECOND} line 1: " in recovery.damage and store.day == DAY
        assert kept_aside(folder) == [flipped]
        store.open_day(NEXT_DAY, {})
        store.close()
        assert restarted(folder)[1] == Recovery(1, 0, "")


def relined(lines, keep):
    """The lines of `keep`, with a proper chain but the numbers that they had."""
    crc, out = 0, b""
    for number in keep:
        body = lines[number].rpartition(b',"crc"')[0]
        crc = zlib.crc32(body, crc)
        out += body + b',"crc":"%08x"}\n' % crc
    return out


@pytest.mark.parametrize("harm", [
    lambda lines: b"".join(lines[:2] + lines[3:]),
    lambda lines: b"".join(lines[:2] + lines[3:4]),
    lambda lines: b"".join(lines[:2] + [lines[1]] + lines[2:]),
    lambda lines: b"".join([*lines[:2], lines[3], lines[2], *lines[4:]]),
    lambda lines: b"".join(lines[:2]) + b"\0" * len(lines[2]) + b"".join(lines[3:]),
    lambda lines: b"".join(lines[:2]) + lines[2][:9] + lines[3] + lines[4],
    lambda lines: b"".join(lines[:2]) + b"{}\n" + b"".join(lines[2:]),
    lambda lines: relined(lines, [0, 1, 3, 4]),
    lambda lines: relined(lines, [0, 1, 3]),
    lambda lines: relined([*lines[:2], b'{"seq":3,"ts":"x","type":"a","crc":'] + lines, range(4)),
])
def test_lines_lost_doubled_swapped_or_overwritten_are_damage(folder, harm):
    content = written(folder, "alert", "alert", "alert", "alert")
    lines = content.splitlines(keepends=True)
    a_copy(folder, harm(lines))
    with pytest.raises(StoreDamaged, match=f"{FIRST} line 3: "):
        list(read_events(folder))
    with pytest.raises(StoreDamaged, match=f"{FIRST} line 3: "):
        list(read_events(folder, read=unparsed))
    assert f"{FIRST} line 3: " in restarted(folder)[1].damage
    assert types_after_restart(folder) == ["day.opened", "alert"]


def test_damage_is_said_again_until_something_was_recorded_after_it(folder):
    content = written(folder, "alert", "alert", "alert")
    a_copy(folder, content.replace(b'"n":1', b'"n":7'))
    assert "line 3" in restarted(folder)[1].damage
    store, recovery, told = restarted(folder)
    assert "quarantine" in recovery.damage and len(told) == 2
    store.append("state.changed", state="REDUCING")
    assert restarted(folder)[1] == Recovery(3, 0, "")


def disk_calls(monkeypatch, die_at, done):
    """Number the disk calls; die at the given one, before it or, if `done`, after it."""
    count = [0]
    for name in DISK_CALLS:
        def call(*args, real=getattr(room, name), name=name):
            count[0] += 1
            number = count[0]
            if number == die_at and not done:
                raise Killed
            if number == die_at and name == "_write":
                os.write(args[0], args[1][: len(args[1]) // 2])
                raise Killed
            result = real(*args)
            if number == die_at:
                raise Killed
            return result
        monkeypatch.setattr(room, name, call)
    return count


def two_days(folder):
    store = a_store(folder, "alert")
    for day in (DAY, NEXT_DAY):
        if day > store.day:
            store.open_day(day, {})
        for n, type in enumerate(("order.intended", "order.updated", "alert")):
            store.append(type, n=n)
    store.close()
    return (folder / FIRST).read_bytes(), (folder / SECOND).read_bytes()


def unharmed(content):
    return content


def torn(content):
    return content[:-7]


def torn_opening(content):
    return content[:50]


def damaged(content):
    return content.replace(b'"n":1', b'"n":7')


def damaged_opening(content):
    return content.replace(b"snapshot", b"Snapshot")


HARMS = (
    # the older day   the newest
    (unharmed,        torn),
    (unharmed,        torn_opening),
    (unharmed,        damaged_opening),
    (torn,            torn_opening),
    (torn,            damaged_opening),
    (damaged,         torn_opening),
    (damaged,         damaged_opening),
    (damaged_opening, damaged_opening),
    (unharmed,        damaged),
)


@pytest.mark.parametrize("older, newest", HARMS)
def test_recovery_may_be_killed_at_any_disk_call_and_then_does_the_same(
    folder, quick, older, newest
):
    first, second = two_days(folder)

    def prepared():
        a_copy(folder, older(first))
        (folder / SECOND).write_bytes(newest(second))

    def outcome():
        store, recovery, told = restarted(folder)
        store.close()
        contents = {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}
        return told, bool(recovery.damage), contents, set(kept_aside(folder))

    prepared()
    wanted = outcome()
    assert outcome() == wanted
    points = 0
    for done in (False, True):
        for die_at in range(1, 100):
            prepared()
            with pytest.MonkeyPatch.context() as patch:
                count = disk_calls(patch, die_at, done)
                try:
                    restarted(folder)[0].close()
                except Killed:
                    points += 1
            if count[0] < die_at:
                break
            told, damaged, contents, kept = outcome()
            assert (told, damaged, contents) == wanted[:3]
            assert kept >= wanted[3]
    assert points > 15


def test_a_death_at_any_disk_call_keeps_every_event_that_append_returned(folder, quick):
    points = 0
    for done in (False, True):
        for die_at in range(1, 100):
            shutil.rmtree(folder, ignore_errors=True)
            returned = []
            with pytest.MonkeyPatch.context() as patch:
                count = disk_calls(patch, die_at, done)
                try:
                    store = EventStore(folder, now=NOON)
                    for type in ("bot.started", "order.intended", "alert"):
                        returned.append(store.append(type, required=True).type)
                    store.open_day(NEXT_DAY, {"all": returned[:]})
                    returned = ["trade.executed"] and returned + ["day.opened"]
                    returned.append(store.append("trade.executed", required=True).type)
                except Killed:
                    points += 1
            if count[0] < die_at:
                break
            store, recovery, _ = restarted(folder)
            store.close()
            found = [event["type"] for event in verified(folder)]
            assert found[1:1 + len(returned)] == returned and not recovery.damage
            assert len(found) <= len(returned) + 2
    assert points > 15


# What is refused


def test_a_file_of_another_schema_is_refused_with_its_path(folder):
    content = written(folder, "alert")
    lines = content.replace(b'"schema":1', b'"schema":2').splitlines(keepends=True)
    a_copy(folder, relined(lines, range(2)))
    with pytest.raises(ConfigError, match=f"{folder / FIRST}: holds schema 2 of 2025-05-01: undo"):
        EventStore(folder).recover()


@pytest.mark.parametrize("asks, is_refused", [("demo", True), ("prod", False), ("", False)])
def test_events_of_another_profile_are_refused_with_the_path_A15(folder, asks, is_refused):
    store = EventStore(folder, NOON, profile="prod")
    store.append("alert")
    store.close()
    again = EventStore(folder, NOON, profile=asks)
    if is_refused:
        with pytest.raises(ConfigError, match=f"{folder / FIRST}: holds events of profile prod"):
            again.recover()
    else:
        assert again.recover().events == 2


def test_a_renamed_file_is_refused_with_its_path(folder):
    a_copy(folder, written(folder, "alert"), name=SECOND)
    with pytest.raises(ConfigError, match=f"{folder / SECOND}: holds schema 1 of 2025-05-01: undo"):
        EventStore(folder).recover()


def test_a_file_that_is_a_link_or_a_folder_is_refused(folder):
    content = written(folder, "alert")
    (folder / FIRST).rename(folder / "elsewhere")
    (folder / FIRST).symlink_to(folder / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        EventStore(folder).recover()
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        EventStore(folder).recover()
    assert (folder / "elsewhere").read_bytes() == content


def test_events_that_were_not_recovered_are_never_appended_to(folder):
    content = written(folder, "alert")
    store = EventStore(folder, now=NOON)
    with pytest.raises(StoreDamaged, match="not recovered"):
        store.append("order.intended", required=True)
    assert (folder / FIRST).read_bytes() == content


def test_recovery_comes_once_and_first(folder):
    store = a_store(folder, "alert")
    with pytest.raises(ValueError, match="before the first append"):
        store.recover()


# A disk that fails


def fails_from(number):
    calls = iter(range(1, 10**9))
    return lambda fd, data: 0 if next(calls) >= number else os.write(fd, data)


def short_write(fd, data):
    return os.write(fd, data[: len(data) // 2])


@pytest.mark.parametrize("write", [
    short_write, *map(failing, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)),
])
def test_a_refused_line_waits_while_the_state_goes_on(folder, monkeypatch, write):
    store, told = a_store(folder, "alert"), []
    before = (folder / FIRST).read_bytes()
    store.subscribe(lambda event: told.append(event.seq))
    with monkeypatch.context() as patch:
        patch.setattr(room, "_write", write)
        store.append("order.updated")
        store.append("alert")
        assert told == [3, 4] and not store.writable
        assert str(folder / FIRST) in store.trouble and "\n" not in store.trouble
        assert (folder / FIRST).read_bytes().startswith(before)
        assert [event.seq for event in read_events(folder)] == [1, 2]
    store.append("alert")
    assert store.writable and store.trouble == ""
    assert [event["seq"] for event in verified(folder)] == [1, 2, 3, 4, 5]
    assert types_after_restart(folder)[2:] == ["order.updated", "alert", "alert"]


def test_a_required_line_that_is_refused_never_happened(folder, monkeypatch):
    store, told = a_store(folder, "alert"), []
    store.subscribe(lambda event: told.append(event.seq))
    with monkeypatch.context() as patch:
        patch.setattr(room, "_write", short_write)
        with pytest.raises(StoreDamaged, match="were written"):
            store.append("order.intended", required=True, price=1)
        store.append("alert")
        with pytest.raises(StoreDamaged):
            store.append("order.intended", required=True, price=2)
        assert told == [3]
    assert store.append("order.intended", required=True, price=3).seq == 4
    assert [event.get("price") for event in verified(folder)] == [None, None, None, 3]


@pytest.mark.parametrize("call", ["_write", "_fsync"])
@pytest.mark.parametrize("days", [0, 1])
def test_a_refused_line_is_taken_back_before_anything_follows(folder, monkeypatch, call, days):
    store = a_store(folder, "alert")
    with monkeypatch.context() as patch:
        patch.setattr(room, call, short_write if call == "_write" else failing(errno.EIO))
        with pytest.raises(StoreDamaged):
            store.append("order.intended", required=True)
        patch.setattr(room, "_truncate", failing(errno.EIO))
        store.append("alert", n=2)
    assert len((folder / FIRST).read_bytes().splitlines()) == 3
    if days:
        store.open_day(NEXT_DAY, {})
    store.append("alert", n=3)
    assert [event.get("n") for event in verified(folder) if event["type"] == "alert"] == [0, 2, 3]
    assert len(verified(folder)) == 4 + days


def test_a_line_waits_when_the_store_was_closed_under_it(folder):
    store = a_store(folder, "alert")
    store.close()
    other = os.open(folder / "other", os.O_RDWR | os.O_CREAT)  # gets the number of the closed file
    os.write(other, b"not ours")
    store.append("alert")
    with pytest.raises(StoreDamaged, match="Bad file descriptor"):
        store.append("order.intended", required=True)
    os.close(other)
    assert (folder / "other").read_bytes() == b"not ours" and len(verified(folder)) == 2


def test_a_day_opens_on_a_full_disk_and_reaches_the_disk_when_it_can(folder, monkeypatch):
    store = a_store(folder, "alert")
    with monkeypatch.context() as patch:
        patch.setattr(room, "_write", short_write)
        store.append("trade.executed")
        assert store.open_day(NEXT_DAY, {}).seq == 4 and store.day == NEXT_DAY
        store.append("order.updated")
        assert not store.writable
    store.append("alert")
    assert store.writable and len(verified(folder)) == 6
    assert len((folder / FIRST).read_bytes().splitlines()) == 3
    assert restarted(folder)[1] == Recovery(3, 0, "")


def test_beyond_its_bound_the_backlog_stays_an_exact_prefix_until_the_restart(folder, monkeypatch):
    store, told = a_store(folder, "alert"), []
    store.subscribe(told.append)
    monkeypatch.setattr(room, "BACKLOG_LINES_MAX", 5)
    with monkeypatch.context() as patch:
        patch.setattr(room, "_write", failing(errno.ENOSPC))
        for _ in range(9):
            store.append("alert")
        patch.setattr(room, "_write", fails_from(3))
        store.append("alert")
    assert len(verified(folder)) == 2 + 2
    store.append("alert")
    assert len(told) == 11 and store.poisoned and not store.writable
    with pytest.raises(StoreDamaged, match="restart"):
        store.append("order.intended", required=True)
    assert len(verified(folder)) == 2 + 4
    assert restarted(folder)[1] == Recovery(6, 0, "")


def test_after_a_failed_fsync_no_later_append_is_acknowledged(folder, monkeypatch):
    store, told = a_store(folder, "alert"), []
    store.subscribe(lambda event: told.append(event.seq))
    monkeypatch.setattr(room, "_fsync", failing(errno.EIO, times=1))
    for _ in range(3):
        with pytest.raises(StoreDamaged, match="Input/output error: .* restart"):
            store.append("order.intended", required=True)
        store.append("order.updated")
        assert store.poisoned and not store.writable and str(folder / FIRST) in store.trouble
    assert told == [3, 4, 5]
    assert [event["type"] for event in verified(folder)][2:] == ["order.updated"] * 3
    assert restarted(folder)[0].append("order.intended", required=True)


def test_a_day_whose_name_may_not_be_on_disk_is_not_trusted(folder, monkeypatch):
    store = a_store(folder, "alert")
    monkeypatch.setattr(room, "_fsync_folder", failing(errno.EIO, times=1))
    store.open_day(NEXT_DAY, {})
    with pytest.raises(StoreDamaged, match="restart"):
        store.append("order.intended", required=True)
    store.append("alert")
    assert [event["seq"] for event in verified(folder)] == [1, 2, 3, 4]


def test_a_poisoned_store_keeps_writing_what_it_can(folder, monkeypatch):
    store = a_store(folder, "alert")
    monkeypatch.setattr(room, "_fsync", failing(errno.EIO))
    for type in ("order.updated", "trade.executed", "alert"):
        store.append(type)
    store.open_day(NEXT_DAY, {})
    store.append("state.changed")
    assert len(verified(folder)) == 7 and store.poisoned


def test_a_file_deleted_or_cut_by_somebody_else_is_trouble(folder):
    store = a_store(folder, "alert")
    os.truncate(folder / FIRST, 10)
    with pytest.raises(StoreDamaged, match="changed by others"):
        store.append("order.intended", required=True)
    assert (folder / FIRST).stat().st_size == 10
    (folder / FIRST).unlink()
    store = a_store(folder, "alert")
    (folder / FIRST).unlink()
    with pytest.raises(StoreDamaged, match="changed by others"):
        store.append("order.intended", required=True)


REPAIRS = [
    ("torn", "_make_folder"), ("torn", "_write"), ("torn", "_truncate"), ("torn", "_open"),
    ("damaged", "_make_folder"), ("damaged", "_write"), ("damaged", "_truncate"),
]


def harmed(harm, folder):
    """Harm a day of four events: its bytes, how many are good, and what of it is to be kept."""
    content = written(folder, "alert", "alert", "alert")
    if harm == "torn":
        wrong = content[:-7]
        good, bad = 3, wrong[wrong.rindex(b"\n") + 1:]
    else:
        wrong = content.replace(b'"n":1', b'"n":7')
        good, bad = 2, wrong
    a_copy(folder, wrong)
    return wrong, good, bad


def refuses_to_create(path, flags, real=room._open):
    if flags & os.O_CREAT:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(path, flags)


@pytest.mark.parametrize("harm, call", REPAIRS)
def test_a_start_on_a_disk_that_cannot_be_repaired_lets_the_owner_close_and_goes_on_when_it_can(
    folder, monkeypatch, harm, call
):
    wrong, good, bad = harmed(harm, folder)
    store, told = EventStore(folder, now=NOON), []
    store.subscribe(told.append)
    with monkeypatch.context() as patch:
        patch.setattr(room, call,
                      refuses_to_create if call == "_open" else failing(errno.ENOSPC))
        recovery = store.recover()
        assert not store.writable and "No space left on device" in store.trouble
        assert bool(recovery.damage) == (harm == "damaged")
        with pytest.raises(StoreDamaged, match="No space left on device"):
            store.append("order.intended", required=True)
        assert store.append("order.updated") is told[-1]
        assert (folder / FIRST).read_bytes() == wrong
    store.append("order.intended", required=True)
    assert store.writable and [event.seq for event in store.read()] == list(range(1, good + 3))
    assert kept_aside(folder) == [bad]
    assert restarted(folder)[1] == Recovery(good + 2, 0, "")


@pytest.mark.parametrize("harm", ["torn", "damaged"])
@pytest.mark.parametrize("number", [3, 4, 5, 6, 7])  # the first two are of the folders
def test_after_a_failed_fsync_a_repair_is_not_trusted_and_what_it_kept_not_lost(
    folder, monkeypatch, harm, number
):
    _, good, bad = harmed(harm, folder)
    for name in ("torn", "quarantine"):
        (folder / name).mkdir(mode=0o700)
    calls = iter(range(1, 100))

    def fsync(fd):
        if next(calls) == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(room, "_fsync", fsync)
    store, recovery, told = restarted(folder)
    assert store.poisoned == (number <= 6) and len(told) == good
    if store.poisoned:
        with pytest.raises(StoreDamaged, match="Input/output error: .* restart"):
            store.append("order.intended", required=True)
    store.append("alert")
    assert len(verified(folder)) == good + 1
    assert kept_aside(folder) == [bad]


FULL_DISK = """
import resource, sys
from perps_bot.store import EventStore, StoreDamaged
store = EventStore(sys.argv[1])
store.append("alert", n=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for n in range(1, 40):
    try:
        store.append("order.intended" if n % 2 else "alert", required=bool(n % 2), n=n)
    except StoreDamaged:
        print(n)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append("order.intended", required=True, n=40)
assert store.writable
"""


def a_process(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )


def test_a_file_size_limit_is_met_and_lifted_without_a_loss(folder):
    refused = [int(line) for line in a_process(FULL_DISK, folder).communicate()[0].split()]
    found = [event["n"] for event in verified(folder)[1:]]
    assert refused and refused == list(range(refused[0], 40, 2))
    assert found == [n for n in range(41) if n not in refused]


KILLED_WRITER = """
import sys
from perps_bot.store import EventStore
store = EventStore(sys.argv[1])
store.recover()
while True:
    print(store.append("order.intended", required=True, text="x" * 1500).seq, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(folder):
    acknowledged = 0
    for lines in (3, 7, 4):
        process = a_process(KILLED_WRITER, folder)
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        rest = process.communicate()[0].split("\n")[:-1]
        acknowledged = int(rest[-1]) if rest else acknowledged
        store, recovery, told = restarted(folder)
        store.close()
        assert told[-1].seq >= acknowledged and not recovery.damage
        assert len(verified(folder)) == told[-1].seq


# Reading


def test_reading_changes_no_byte_and_bears_with_a_running_writer(folder):
    store = a_store(folder, "alert", "alert")
    content = (folder / FIRST).read_bytes() + b'{"seq":4,"ts":"2025'
    (folder / FIRST).write_bytes(content)
    before = {path: path.stat() for path in folder.rglob("*")}
    assert [event.seq for event in store.read()] == [1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == \
        {path: found.st_mtime_ns for path, found in before.items()}
    assert (folder / FIRST).read_bytes() == content


def test_a_reader_does_not_judge_what_a_writer_adds_meanwhile(folder):
    store = a_store(folder, *["alert"] * 3)
    whole = (folder / FIRST).read_bytes()
    os.truncate(folder / FIRST, len(whole) - 5)
    events = store.read()
    next(events)
    with (folder / FIRST).open("ab") as file:
        file.write(whole[-5:] + whole)
    assert [event.seq for event in events] == [2, 3]


def test_reading_says_where_an_old_day_is_torn_or_a_day_is_missing(folder):
    store = a_store(folder, "alert")
    for days in (1, 2):
        store.open_day(DAY + timedelta(days=days), {})
    store.close()
    (folder / SECOND).rename(folder / "gone")
    with pytest.raises(StoreDamaged, match="2025-05-03.jsonl line 1: does not follow"):
        list(read_events(folder))
    (folder / "gone").rename(folder / SECOND)
    os.truncate(folder / FIRST, (folder / FIRST).stat().st_size - 1)
    with pytest.raises(StoreDamaged, match=f"{SECOND} line 1: does not follow"):
        list(read_events(folder))


def test_reading_notices_a_day_of_another_history(folder, tmp_path):
    for other, price in ((folder, 1), (tmp_path / "other", 2)):
        store = a_store(other, "alert", price=price)
        store.open_day(NEXT_DAY, {})
        store.close()
    shutil.copy(tmp_path / "other" / SECOND, folder / SECOND)
    with pytest.raises(StoreDamaged, match=f"{SECOND} line 1: does not follow"):
        list(read_events(folder))


def test_a_day_that_was_never_opened_is_no_gap(folder):
    store = a_store(folder, "alert")
    (folder / SECOND).write_bytes(b"")
    store.open_day(NEXT_DAY + timedelta(days=1), {})
    assert [event.seq for event in store.read()] == [1, 2, 3]


def test_reading_a_folder_that_is_not_there_finds_nothing(tmp_path):
    assert list(read_events(tmp_path / "nowhere")) == [] and not (tmp_path / "nowhere").exists()


# State files


def test_a_state_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "health.json"
    write_state(path, {"ok": True, "equity": Decimal("1E+3"), "at": NOON, "side": Side.BUY})
    assert path.read_text() == '{\n  "ok": true,\n  "equity": "1000",\n' \
                               '  "at": "2025-05-01T12:00:00+00:00",\n  "side": "buy"\n}\n'
    assert read_state(path)["equity"] == "1000"
    monkeypatch.setattr(room, "_fsync", failing(errno.EIO))
    write_state(path, {"ok": False})
    for name, call in (("_write", short_write), ("_replace", failing(errno.EIO))):
        monkeypatch.setattr(room, name, call)
        with pytest.raises(OSError):
            write_state(path, {"ok": True, "more": "x" * 1000})
        assert read_state(path) == {"ok": False}
        monkeypatch.undo()
    with pytest.raises(TypeError):
        write_state(path, {"price": 1.5})
    write_state(path, [1, 2])
    assert json.loads(path.read_text()) == [1, 2]
    assert [found.name for found in tmp_path.iterdir()] == ["health.json"]


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"1", b"null", b"\xff", b"\0" * 99, b"[" * 100_000,
    b"{" + b" " * 2**20 + b"}",
    b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e99999999999999999999}',
    b'{"a":' + b"9" * 5000 + b"}",
])
def test_a_state_file_that_cannot_be_used_is_moved_away_with_one_warning(tmp_path, caplog, content):
    path = tmp_path / "marks.json"
    for _ in range(2):
        path.write_bytes(content)
        caplog.clear()
        assert read_state(path) is None and not path.exists()
        assert (tmp_path / "marks.json.bad").read_bytes() == content
        (record,) = caplog.records
        message = record.getMessage()
        assert record.levelname == "WARNING" and str(path) in message and message.isprintable()


def test_a_state_path_that_is_no_file_cannot_hang_or_mislead(tmp_path):
    (tmp_path / "secret").write_text('{"a": 1}')
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        assert read_state(tmp_path / name) is None
        assert os.path.lexists(tmp_path / f"{name}.bad")
    assert (tmp_path / "secret").exists()


def test_a_pipe_that_somebody_holds_open_is_no_state_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    assert read_state(tmp_path / "pipe") is None
    os.close(writer)


def test_a_state_file_that_is_absent_is_nothing_to_warn_of(tmp_path, caplog):
    assert read_state(tmp_path / "absent") is None and not caplog.records


def test_writers_that_are_killed_leave_one_temporary_file_at_most(tmp_path, monkeypatch):
    path = tmp_path / "health.json"
    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            disk_calls(patch, 3, done=False)
            write_state(path, {"ok": True})
        monkeypatch.setattr(os, "getpid", lambda: 12345)
        assert [found.name for found in tmp_path.iterdir()] == [".health.json.tmp"]
    write_state(path, {"ok": True})
    assert [found.name for found in tmp_path.iterdir()] == ["health.json"]


def test_numbers_in_state_files_come_back_as_decimals_and_the_bound_is_exact(tmp_path):
    path = tmp_path / "state.json"
    path.write_text('{"a":0.1}')
    assert read_state(path, size_max=9) == {"a": Decimal("0.1")}
    assert read_state(path, size_max=8) is None


# The lock


HOLDER = """
import sys
from perps_bot.store import InstanceLock
print(InstanceLock(sys.argv[1]).acquire(), flush=True)
sys.stdin.read()
"""


def test_the_lock_is_held_for_life_and_kill_9_frees_it(tmp_path):
    lock = InstanceLock(tmp_path / "lock")
    assert lock.holder() is None and not (tmp_path / "lock").exists()
    process = a_process(HOLDER, tmp_path / "lock")
    assert process.stdout.readline() == "None\n"
    assert lock.acquire() == process.pid and lock.holder() == process.pid
    os.truncate(tmp_path / "lock", 0)
    assert lock.acquire() == 0 and lock.holder() == 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock.holder() is None
    assert lock.acquire() is None
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert a_process(HOLDER, tmp_path / "lock").communicate()[0] == f"{os.getpid()}\n"
    lock.release()
    assert a_process(HOLDER, tmp_path / "lock").communicate()[0] == "None\n"


def test_the_lock_names_its_holder_whatever_stood_in_the_file(tmp_path):
    (tmp_path / "lock").write_text("9" * 20)
    assert InstanceLock(tmp_path / "lock").acquire() is None
    assert InstanceLock(tmp_path / "lock").holder() == os.getpid()


def test_a_lock_that_is_refused_or_asked_for_leaves_no_file_open(tmp_path):
    held = InstanceLock(tmp_path / "lock")
    held.acquire()
    before = len(os.listdir("/proc/self/fd"))
    assert InstanceLock(tmp_path / "lock").acquire() == held.holder() == os.getpid()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_lock_is_not_inherited_and_never_unlinked(tmp_path):
    lock = InstanceLock(tmp_path / "lock")
    lock.acquire()
    inode = (tmp_path / "lock").stat().st_ino
    child = subprocess.Popen(["sleep", "30"], close_fds=False)
    lock.release()
    try:
        assert InstanceLock(tmp_path / "lock").holder() is None
    finally:
        child.kill()
        child.wait()
    assert (tmp_path / "lock").stat().st_ino == inode


def test_who_only_asks_for_the_holder_cannot_keep_the_bot_from_starting(tmp_path, monkeypatch):
    lock, refusals = InstanceLock(tmp_path / "lock"), [BlockingIOError, BlockingIOError]
    real = room.fcntl.flock

    def flock(fd, how):
        if how & room.fcntl.LOCK_EX and refusals:
            raise refusals.pop()
        real(fd, how)

    monkeypatch.setattr(room.fcntl, "flock", flock)
    assert lock.acquire() is None and not refusals


def test_a_lock_that_is_always_asked_for_is_given_up_after_a_bounded_time(tmp_path, monkeypatch):
    """Every attempt finds it shared, and nobody who holds it: the pid is then not known."""
    def flock(fd, how):
        if how & room.fcntl.LOCK_EX:
            attempts.append(how)
            raise BlockingIOError

    lock, attempts, before = InstanceLock(tmp_path / "lock"), [], len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(room.fcntl, "flock", flock)
    assert lock.acquire() == 0 and len(attempts) == room.LOCK_ATTEMPTS_MAX
    lock.release()  # of what was never taken
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_account_is_held_by_one_until_it_is_let_go_A17():
    name = f"organizations/1/apiKeys/{os.getpid()}"
    held = room.account_lock(name)
    assert held is not None and room.account_lock(name) is None
    with room.account_lock(f"{name}-other"):
        held.close()
    with room.account_lock(name) as again:
        assert again is not None


def test_the_lock_is_taken_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_write", failing(errno.ENOSPC))
    lock = InstanceLock(tmp_path / "lock")
    assert lock.acquire() is None and InstanceLock(tmp_path / "lock").holder() == 0


# Folders


def a_link(path):
    path.with_name("target").mkdir(mode=0o700)
    path.symlink_to("target")


def a_folder(mode):
    def make(path):
        path.mkdir()
        path.chmod(mode)
    return make


@pytest.mark.parametrize("make, words, way_out", [
    (a_link, "is a symlink", "name its target"),
    (a_folder(0o720), "others may write it", "chmod 700 {path}"),
    (a_folder(0o702), "others may write it", "chmod 700 {path}"),
])
def test_a_folder_that_cannot_be_trusted_is_refused_in_one_line_with_the_way_out(
    tmp_path, make, words, way_out
):
    path = tmp_path / "profile"
    make(path)
    for use in (prepare_folder, EventStore):
        with pytest.raises(ConfigError) as refusal:
            use(path)
        assert str(refusal.value) == f"{path}: {words}: {way_out.format(path=path)}"


@pytest.mark.parametrize("make", [
    lambda path: path.write_text(""),
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.parent.rmdir() or path.parent.write_text(""),
])
def test_what_cannot_be_a_folder_is_refused_in_one_line(tmp_path, make):
    path = tmp_path / "data" / "profile"
    path.parent.mkdir()
    make(path)
    with pytest.raises(ConfigError, match=f"^{path}: .*: choose another folder$"):
        prepare_folder(path)


def test_a_folder_on_a_disk_that_is_read_only_is_refused(tmp_path, monkeypatch):
    (tmp_path / "profile").mkdir()
    monkeypatch.setattr(os, "chmod", failing(errno.EROFS))
    with pytest.raises(ConfigError, match="Read-only file system: choose another folder"):
        prepare_folder(tmp_path / "profile")


@pytest.mark.parametrize("mode", [0o755, 0o500, 0])
def test_a_folder_of_ours_becomes_0700(tmp_path, mode):
    path = tmp_path / "profile"
    path.mkdir()
    path.chmod(mode)
    assert prepare_folder(str(path)) == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_two_bots_may_make_their_common_folder_at_the_same_moment(tmp_path, monkeypatch):
    def mkdir(path, mode, real=os.mkdir):
        real(path, mode)
        raise FileExistsError
    monkeypatch.setattr(os, "mkdir", mkdir)
    assert prepare_folder(tmp_path / "data" / "profile").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path):
    (tmp_path / "profile").mkdir()
    os.chown(tmp_path / "profile", 12345, 12345)
    with pytest.raises(ConfigError, match="is another user's"):
        prepare_folder(tmp_path / "profile")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_is_let_in_nowhere_is_told_as_whom_to_run():
    """As an owner is who runs a command on the files of the service's user."""
    program = ("import os, pathlib, sys; from perps_bot import store, backup, emergency\n"
               "from perps_bot.errors import ConfigError\n"
               "from perps_bot.settings import resolve\n"
               "os.setuid(54321); path = pathlib.Path(sys.argv[1])\n"
               "settings = resolve({}, {'EVENT_STORE_ROOT': str(path.parents[1])})\n"
               "for work in (lambda: store.prepare_folder(path),\n"
               "             lambda: store.refuse_denied(path),\n"
               "             lambda: emergency.ask(settings, 'halt', {'reason': 'x'}),\n"
               "             lambda: backup._copied(path, path, 'dev', [])):\n"
               "    try: work()\n"
               "    except ConfigError as refusal: print(refusal)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "perps_bot" / "dev"
        (path / "events").mkdir(parents=True)
        os.chmod(folder, 0o700)
        os.chown(folder, 12345, 12345)
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True,
                              text=True, env={**os.environ, "PYTHONPATH": str(REPO)}, check=True)
    said = "is another user's: run as its owner, with sudo -u '#12345' before the command"
    assert done.stdout.splitlines() == [
        *[f"{path}: {said}"] * 3, f"{path / 'events'}: {said}"]


def test_a_folder_whose_name_may_not_be_on_the_disk_yet_is_made_sure_of(tmp_path, monkeypatch):
    """A6: the last start may have ended between making the folder and the fsync of its parent."""
    path, synced, fails = tmp_path / "data" / "profile", [], [True]

    def fsync(fd):
        if fails and os.path.samestat(os.fstat(fd), os.stat(tmp_path)):
            raise OSError(fails.pop() and errno.EIO, "the name of data is not on the disk")
        synced.append(os.fstat(fd).st_ino)
    monkeypatch.setattr(room, "_fsync", fsync)
    with pytest.raises(ConfigError, match="not on the disk"):
        prepare_folder(path)
    prepare_folder(path)
    assert synced[-2:] == [tmp_path.stat().st_ino, path.parent.stat().st_ino]
    synced.clear()
    prepare_folder(path)  # and it may have been killed there
    assert synced == [path.parent.stat().st_ino]

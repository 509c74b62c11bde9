"""Files: what does the bot read back from the disk?

The events of a run, its state files, a recording, a key: each damaged in every way.  A damaged
event file never yields an event that was not written; a damaged state file changes no decision.
"""

import gzip
import json
import os
import shutil
import tempfile
import zlib
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from helpers import NOON, Rig

from perps_bot import store as store_room
from perps_bot.errors import ConfigError, StoreDamaged
from perps_bot.keys import load_credentials
from perps_bot.market import RecordedMarket, SyntheticMarket, cached_closes
from perps_bot.paper import PaperBroker
from perps_bot.store import EventStore, read_events, read_state, write_state

from . import mutate, seeds
from .judge import require, sound, sound_error, sound_text

SYMBOL, BAR = "BTC-PERP", 60
STATES = ("health.json", "last_state.json", "risk_events.json", "marks.json")
MARKS_READ_MAX = 2000


class _Scratch:
    """One folder in memory where that can be had, made anew for each input, gone at the end."""

    def __init__(self):
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._made = tempfile.TemporaryDirectory(prefix="perps-bot-fuzz-", dir=where)
        self._owner, self._number = os.getpid(), 0
        if self._owner != os.getpid():
            raise RuntimeError("made by another process")

    def new(self):
        self._number += 1
        return Path(self._made.name) / str(os.getpid()) / str(self._number)


@lru_cache(1)
def _scratch():
    return _Scratch()


def folder():
    """An empty folder; the one before is gone."""
    path = _scratch().new()
    shutil.rmtree(path.parent, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    return path


@lru_cache(1)
def run_files():
    """What a short run on paper leaves: its event files by name, and its state files by name."""
    with tempfile.TemporaryDirectory() as name:
        rig = Rig(PaperBroker(SyntheticMarket(1)), Path(name), NOON - timedelta(seconds=60),
                  bar=BAR)
        for _ in range(40):
            rig.tick(30)
        rig.now = NOON + timedelta(hours=12)
        for _ in range(8):
            rig.tick(30)
        rig.bot.store.close()
        events = {path.name: path.read_bytes()
                  for path in sorted((Path(name) / "events").glob("*.jsonl"))}
        states = {each: _steady((Path(name) / each).read_bytes()) for each in STATES}
    return events, states


def _steady(data):
    """A state file without the number of the process that wrote it."""
    return data.replace(b'"pid": %d' % os.getpid(), b'"pid": 4242')


# Events

FRAME = ("seq", "ts", "type", "schema", "day", "chain")


def _line(event):
    return (event.seq, event.at, event.type, json.dumps(_plain(event.data)))


def _plain(value):
    """Data as an event carries it, without what only says how it was stored."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key != "crc"}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return f"{value:f}" if isinstance(value, Decimal) else value


@lru_cache(1)
def written_events():
    """By file name, its events, read by nothing of the bot."""
    return {name: [json.loads(line) for line in data.splitlines()]
            for name, data in run_files()[0].items()}


def make_events(dice):
    """The files of the run, one of them damaged; now and then so that its crc fits."""
    files = dict(run_files()[0])
    name = dice.choice(tuple(files))
    lines = files[name].splitlines(keepends=True)
    if dice.random() < 0.2:
        lines = lines[:dice.randint(1, 8)]
        files[name] = _forged(dice, lines)
        return "forged", name, files
    roll = dice.random()
    if roll < 0.45:
        # Around one line, so that a change is not lost among the hundreds of others.
        number = dice.choice((0, len(lines) - 1, dice.randrange(len(lines))))
        lines[number] = mutate.spoiled(dice, lines[number])
        files[name] = b"".join(lines)
    elif roll < 0.65:
        _shuffled(dice, lines)
        files[name] = b"".join(lines)
    elif roll < 0.75:
        other = dice.choice(tuple(files))
        files[name] = files[other] if roll < 0.7 else files[name] + files[other]
    elif roll < 0.8:
        del files[name]
    else:
        files[name] = mutate.spoiled(dice, files[name])
    return "damaged", name, files


def _shuffled(dice, lines):
    one, two = dice.randrange(len(lines)), dice.randrange(len(lines))
    roll = dice.randrange(5)
    if roll == 0:
        del lines[one]
    elif roll == 1:
        lines.insert(one, lines[two])
    elif roll == 2:
        lines[one], lines[two] = lines[two], lines[one]
    elif roll == 3:
        lines[one] = json.dumps(mutate.changed(dice, json.loads(lines[one])), default=str).encode()
        lines[one] += b"\n"
    else:
        lines[one] = lines[one][:-2] + dice.choice((b"", b"\n\n", b" }\n", b"}\r\n"))


def _forged(dice, lines):
    """Lines that somebody changed and made fit again: read they are, and nothing worse."""
    number, chain = dice.randrange(len(lines)), None
    told = []
    for index, line in enumerate(lines):
        tree = json.loads(line)
        if index == number:
            # A head has settings by the dozen: half of the time only what frames a line changes.
            frame = {name: tree[name] for name in FRAME if name in tree}
            part = frame if dice.random() < 0.5 else tree
            changed = mutate.changed(dice, part)
            if not isinstance(changed, dict):
                return mutate.written(changed)
            tree = {**tree, **changed} if part is frame else changed
        tree.pop("crc", None)
        body = mutate.written(tree)[:-1]
        if chain is None:
            text = str(tree.get("chain"))
            chain = int(text, 16) if text.isalnum() and text.isascii() and len(text) == 8 else 0
        chain = zlib.crc32(body, chain)
        told.append(body + b',"crc":"%08x"}\n' % chain)
    return b"".join(told)


def check_events(given):
    how, name, files = given
    path = folder()
    for each, data in files.items():
        (path / each).write_bytes(data)
    found, damage = _read(path)
    if how == "damaged":
        _check_prefix(found, name)
    _check_recovery(path, how)
    require(damage or how == "forged" or len(found) <= sum(map(len, written_events().values())),
            "more events than were written")


def _read(path):
    found = []
    try:
        for event in read_events(path):
            found.append(event)
    except (StoreDamaged, ConfigError) as error:
        sound_error(error)
        return found, True
    return found, False


def _same(event, row):
    return (event.seq == row["seq"] and event.at == datetime.fromisoformat(row["ts"])
            and event.type == row["type"]
            and json.loads(json.dumps(event.data, default=str))
            == {key: each for key, each in row.items() if key not in ("seq", "ts", "type", "crc")})


def _check_prefix(found, name):
    """Day by day the events are those that were written, from the first on, none left out."""
    known = {row["seq"]: row for rows in written_events().values() for row in rows}
    for before, event in zip([None, *found], found):
        require(event.seq in known and _same(event, known[event.seq]),
                f"an event that was not written: {event.seq} {event.type!a:.40}")
        is_next = before is None or event.seq == before.seq + 1
        require(is_next or event.type == "day.opened" or event.seq == found[0].seq,
                f"event {event.seq} after {before and before.seq}")


def _check_recovery(path, how):
    """What recovery dispatches was written, and after it the files can be gone on with."""
    told = []
    store = EventStore(path, NOON + timedelta(days=2), sync=False)
    store.subscribe(told.append)
    try:
        found = store.recover()
    except ConfigError as error:
        sound_error(error)
        return
    sound_text(found.damage, "the damage")
    sound_text(store.trouble, "the trouble")
    if how == "damaged":
        _check_prefix(told, "")
        rows = {row["seq"] for rows in written_events().values() for row in rows}
        require(not told or {event.seq for event in told} <= rows, "an event from nowhere")
    require(found.events == len(told), "a count of events that is not theirs")
    event = store.append("state.changed", state="reducing")
    store.close()
    day = store.day
    again = EventStore(path, NOON + timedelta(days=2), sync=False)
    seen = []
    again.subscribe(seen.append)
    second = again.recover()
    again.close()
    require(not second.torn_bytes and again.day == day, "not mended by the first recovery")
    require(seen and seen[-1].seq == event.seq and seen[-1].type == event.type,
            "what was appended after the recovery is gone")


# State files


def make_state(dice):
    name = dice.choice((*STATES, "marks.json", "marks.json"))
    data = run_files()[1][name]
    roll = dice.random()
    if roll < 0.45:
        return name, mutate.spoiled(dice, data)
    if roll < 0.9:
        return name, mutate.json_bytes(dice, json.loads(data), seeds.words())
    return name, dice.choice((b"", b"[]", b"null", b"{" * 5000, b"[" * 100_000, b"\xff" * 300,
                              b'{"a":1}' * 200_000, b"0" * (1 << 20), data[:-1], data * 2, b"\x00"))


def check_state(given):
    """Read, it is what was written or nothing; moved away where it cannot be used."""
    name, data = given
    path = folder() / name
    path.write_bytes(data)
    value = read_state(path)
    require(value is None or isinstance(value, dict), "a state that is no object")
    require(value is not None or not path.exists(), "an unusable state that stays")
    cache, last = json.loads(run_files()[1]["marks.json"])[SYMBOL], _cached_at()
    closes = cached_closes(value, SYMBOL, timedelta(seconds=BAR), last - timedelta(days=1),
                           last + timedelta(days=1))
    sound([close for _, close in closes], "close")
    sound([at for at, _ in closes], "the end of a bar")
    if closes:
        require([f"{close:f}" for _, close in closes] == cache["closes"] and closes[-1][0] == last,
                "a cache that was changed is believed")
    with suppress(OSError, TypeError):
        write_state(path, value or {})


def _cached_at():
    return datetime.fromisoformat(json.loads(run_files()[1]["marks.json"])[SYMBOL]["bar_at"])


# Recordings

HEADERS = {
    "time,open,high,low,close,volume": "2025-05-01T12:{:02}:00Z,100,110.5,90,105,{}",
    "time,open,high,low,close": "2025-05-01 12:{:02}:00+00:00,100,110.5,90,10{}",
    "time,recv_ns,trade_id,price,size,taker_side": "2025-05-01T12:{:02}:00.5Z,1,2,100.5,{}1,buy",
    "time,recv_ns,bid,bid_size,ask,ask_size": "2025-05-01T12:{:02}:00.5Z,1,100,1,10{}.5,2",
}
FUNDING = b"time,funding_rate\n2025-05-01T12:00:00Z,0.0001\n2025-05-01T13:00:00Z,-0.0001\n"


def make_recording(dice):
    header = dice.choice(tuple(HEADERS))
    rows = [HEADERS[header].format(minute, minute % 10 + 1) for minute in range(12)]
    data = "\n".join([header, *rows, ""]).encode()
    if dice.random() < 0.5:
        number = dice.randrange(len(rows))
        cells = rows[number].split(",")
        cells[dice.randrange(len(cells))] = dice.choice((mutate.number, mutate.time, mutate.text))(
            dice)
        rows[number] = ",".join(cells)
        data = "\n".join([header, *rows, ""]).encode("utf-8", "surrogatepass")
    if dice.random() < 0.6:
        data = mutate.spoiled(dice, data, [FUNDING])
    funding = mutate.spoiled(dice, FUNDING) if dice.random() < 0.3 else FUNDING
    packed = dice.random() < 0.15
    if packed:
        data = gzip.compress(data, 1, mtime=0)
        data = mutate.spoiled(dice, data) if dice.random() < 0.7 else data
    return packed, dice.random() < 0.5, data, funding


def check_recording(given):
    packed, skips, data, funding = given
    path = folder()
    files = [path / f"prices.csv{'.gz' * packed}", path / "funding.csv"]
    files[0].write_bytes(data)
    files[1].write_bytes(funding)
    try:
        market = RecordedMarket([str(files[0])], [SYMBOL], [str(files[1])], skip_bad_rows=skips)
        last = None
        for now in islice(iter(market.advance, None), MARKS_READ_MAX):
            require(last is None or now >= last, "time goes back")
            last = now
            sound(market.marks([SYMBOL], now))
            sound(market.funding(SYMBOL, now))
    except ConfigError as error:
        sound_error(error)


# The key file


@lru_cache(1)
def _key_body():
    keys = SimpleNamespace(
        name="organizations/1/apiKeys/2",
        secret="MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g")
    return {"name": keys.name, "privateKey": keys.secret}


def make_key(dice):
    return mutate.json_bytes(dice, _key_body(), seeds.words())


def check_key(given):
    """A signer or one line, which repeats nothing of what stands in the file."""
    path = folder() / "key.json"
    path.write_bytes(given)
    path.chmod(0o600)
    settings = SimpleNamespace(api_key=None, api_secret=None, api_key_file=path)
    try:
        signer = load_credentials(settings, {})
    except ConfigError as error:
        sound_error(error)
        require(_key_body()["privateKey"][8:40] not in str(error), "a secret in a message")
    else:
        require(signer is not None, "a key file that is none")
        sound_text(signer.name, "the name of the key")
        signer.rest_token("GET", "api.coinbase.com", "/x", NOON)

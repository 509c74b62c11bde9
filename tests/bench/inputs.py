"""Inputs: what is replayed and read, made once and kept in the cache.

The bars are real: the BTC-USDT perpetual of May 2025, minute by minute, walked to and fro so that
no seam has a jump, and each walk 0.1 USD above the one before it, so that none is the same.  The
minutes run on without a gap.
"""

import csv
import gzip
import re
import zlib
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, islice
from pathlib import Path

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = ("btcusdt", "ethusdt", "solusdt", "xrpusdt")
BEGIN, MINUTE = datetime(2020, 1, 1, tzinfo=UTC), timedelta(minutes=1)
LIFT = Decimal("0.1")  # USD by which each walk lies above the one before
HISTORY_BARS = 2_880  # two days, of which the second is copied
CRC_LENGTH = len(b',"crc":"00000000"}\n')


class Missing(Exception):
    """The recorded data are not here."""


def recorded(name):
    path = DATA / f"{name}-perp-binance-1m-2025-05.csv.gz"
    if not path.exists():
        raise Missing(f"{path.name} is not in ../shared/data")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [row[1:5] for row in list(csv.reader(lines))[1:]]


def bars(cache, number, name="btcusdt"):
    """A CSV file of so many one-minute bars; the same every time."""
    path = Path(cache) / f"{name}-{number}.csv"
    if not path.exists():
        part = path.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as file:
            file.write("time,open,high,low,close\n")
            for at, row in zip(_minutes(), islice(_walked(recorded(name)), number)):
                file.write(f"{at},{','.join(row)}\n")
        part.rename(path)
    return path


def four_symbols(cache, number):
    return [bars(cache, number, name) for name in NAMES]


def _minutes():
    return (f"{BEGIN + number * MINUTE:%Y-%m-%dT%H:%M:%SZ}" for number in count())


def _walked(rows):
    """To and fro without end; back to front, open and close change places."""
    back = [(close, high, low, opened) for opened, high, low, close in reversed(rows)]
    for walk in count():
        lift = walk * LIFT
        for row in back if walk % 2 else rows:
            yield [str(Decimal(price) + lift) for price in row] if walk else row


def history(bench, folder, events):
    """Write a history of about so many events, a day a file, chained as the store does it.

    The second day of a replay, again and again under the dates that follow; return the days.
    """
    bench.job("write_events", bars(bench.cache, HISTORY_BARS), folder)
    source = sorted(folder.glob("*.jsonl"))[1]
    lines = source.read_bytes().splitlines(keepends=True)
    for path in folder.glob("*.jsonl"):
        path.unlink()
    day, seq, crc, days = date.fromisoformat(source.stem), 0, 0, 0
    word = source.stem.encode()
    while seq < events:
        today = day + timedelta(days=days)
        with open(folder / f"{today}.jsonl", "wb") as file:
            for row in lines:
                seq += 1
                body = re.sub(rb'^\{"seq":\d+', b'{"seq":%d' % seq, row[:-CRC_LENGTH])
                body = body.replace(word, str(today).encode())
                body = re.sub(rb'"chain":"\w{8}"', b'"chain":"%08x"' % crc, body, count=1)
                crc = zlib.crc32(body, crc)
                file.write(b'%s,"crc":"%08x"}\n' % (body, crc))
        days += 1
    return days

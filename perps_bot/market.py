"""Market: where do other prices come from?

`SyntheticMarket` makes prices up from a seed, for `dev`; `RecordedMarket` streams CSV files, for
replay.  Both implement `broker.MarketData`.  No clock is read here, nothing is written or logged,
and nothing is known before its time: a candle is told at its end.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from hashlib import blake2b
from heapq import merge
from io import BufferedReader, TextIOWrapper
from itertools import islice, pairwise
from operator import attrgetter
from pathlib import Path

from perps_bot.broker import MarketData
from perps_bot.errors import ConfigError
from perps_bot.model import ZERO, Candle, FundingRate, Mark, Product, tuple_of

HALF = Decimal("0.5")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)

# After the venue's listing; XRP's tick and the margin rates with two decimals are only plausible.
_LISTING = (
    # symbol     product_id         contract  tick      long       short       base price
    ("BTC-PERP", "BIP-20DEC30-CDE", "0.01",   "5",      "0.21025", "0.256625", "82570"),
    ("ETH-PERP", "ETP-20DEC30-CDE", "0.1",    "0.5",    "0.25",    "0.30",     "3100"),
    ("SOL-PERP", "SLP-20DEC30-CDE", "5",      "0.01",   "0.30",    "0.55975",  "145"),
    ("XRP-PERP", "XPP-20DEC30-CDE", "500",    "0.0001", "0.32",    "0.45",     "2.2"),
)
ORDER_CONTRACTS_MAX = 5000


def _product(symbol, product_id, contract, tick, long_rate, short_rate, _base_price) -> Product:
    size = Decimal(contract)
    return Product(
        symbol, product_id, contract_size=size, quantity_increment=size, min_quantity=size,
        max_quantity=size * ORDER_CONTRACTS_MAX, min_notional=ZERO, price_increment=Decimal(tick),
        long_margin_rate=Decimal(long_rate), short_margin_rate=Decimal(short_rate),
    )


SYNTHETIC_PRODUCTS = tuple(_product(*row) for row in _LISTING)
_BASE_TICKS = {row[0]: int(Decimal(row[6]) / Decimal(row[3])) for row in _LISTING}

# The synthetic path is a sum of octaves of smooth noise.  The periods are primes, so that no two
# octaves turn in step; at the highest activity all amplitudes together stay below 7.5 %.
OCTAVES = (
    # seconds, millionths of the base price
    (5, 70), (11, 112), (23, 179), (47, 287), (97, 459), (193, 734), (389, 1174), (769, 1879),
    (1543, 3006), (3079, 4810), (6151, 7697), (12289, 10000), (24593, 10000), (49157, 10000),
    (98317, 10000),
)
BUSY_SECONDS_MAX = 2000  # octaves up to this period follow the activity
ACTIVITY_PERIODS, ACTIVITY_LEAST, ACTIVITY_MOST = (1801, 7207), 0.2, 2.6  # in seconds, times
DICE_CACHED_MAX = 4096  # a symbol uses 36 at one moment
SPREAD_TICKS_MAX, SPREAD_SECONDS = 3, 20
SIZE_CONTRACTS_MAX, VOLUME_CONTRACTS_MAX = 40, 9  # at the best price, in a second
CANDLE_PARTS = 5  # high and low are those of the moments between them
FUNDING_SECONDS, FUNDING_UNIT = 3600, Decimal("0.0000001")


class SyntheticMarket:
    """A living market whose prices depend on nothing but (seed, symbol, whole second)."""

    def __init__(self, seed: int = 1, symbols: Sequence[str] | None = None):
        self._products = _products_of(symbols or _BASE_TICKS, SYNTHETIC_PRODUCTS)
        self._listing = tuple(self._products.values())
        self._keys = {symbol: f"{seed}|{symbol}" for symbol in self._products}

    def connect(self, traded: Iterable[str] = ()) -> str:
        return ""

    def products(self) -> Sequence[Product]:
        return self._listing

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        second = (now - EPOCH) // SECOND
        return {s: self._mark(s, second) for s in symbols if s in self._products}

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> Sequence[Candle]:
        """Return bars of the mid price; a bar's close is the mark at the second of its end."""
        if symbol not in self._products:
            return ()
        end = (now - EPOCH) // SECOND // seconds * seconds
        starts = range(end - count * seconds, end, seconds)
        return [self._candle(symbol, start, seconds) for start in starts]

    def funding(self, symbol: str, now: datetime) -> FundingRate | None:
        if symbol not in self._products:
            return None
        second = (now - EPOCH) // SECOND // FUNDING_SECONDS * FUNDING_SECONDS
        dice = _dice(self._keys[symbol], "funding", second)
        # The sum of three dice: in 95 of 100 hours within 0.003 %, never beyond 0.0045 %.
        units = sum(dice // 301**throw % 301 - 150 for throw in range(3))
        return FundingRate(symbol, FUNDING_UNIT * units, EPOCH + second * SECOND)

    def _mark(self, symbol: str, second: int) -> Mark:
        key, product = self._keys[symbol], self._products[symbol]
        tick, contract = product.price_increment, product.contract_size
        spread = 1 + _dice(key, "spread", second // SPREAD_SECONDS) % SPREAD_TICKS_MAX
        middle = _BASE_TICKS[symbol] * (1 + _millionths(key, second) / 1_000_000)
        bid = int(middle - spread / 2 + 0.5)
        ask_contracts, bid_contracts = divmod(_dice(key, "size", second), SIZE_CONTRACTS_MAX)
        return Mark(
            symbol, tick * (2 * bid + spread) * HALF, tick * bid, tick * (bid + spread),
            EPOCH + second * SECOND, contract * (1 + bid_contracts),
            contract * (1 + ask_contracts % SIZE_CONTRACTS_MAX),
        )

    def _candle(self, symbol: str, start: int, seconds: int) -> Candle:
        moments = [start + seconds * part // CANDLE_PARTS for part in range(CANDLE_PARTS + 1)]
        prices = [self._mark(symbol, moment).price for moment in moments]
        contracts = 1 + _dice(self._keys[symbol], "volume", start) % VOLUME_CONTRACTS_MAX
        volume = self._products[symbol].contract_size * contracts * seconds
        at = EPOCH + start * SECOND
        return Candle(at, prices[0], max(prices), min(prices), prices[-1], volume)


# Nothing below asks the C library or `sum` for a float: those differ between platforms and
# Python versions, while + - * / do not.
def _millionths(key: str, second: int) -> float:
    """Return how far the price is from its base, in millionths; within 75,000."""
    total = mood = 0
    for period in ACTIVITY_PERIODS:
        mood += (1 + _noise(key, period, second)) / (2 * len(ACTIVITY_PERIODS))
    # Squared: mostly quiet, and sometimes very much not.
    activity = ACTIVITY_LEAST + (ACTIVITY_MOST - ACTIVITY_LEAST) * mood * mood
    for period, amplitude in OCTAVES:
        wave = amplitude * _noise(key, period, second)
        total += wave * activity if period <= BUSY_SECONDS_MAX else wave
    return total


def _noise(key: str, period: int, second: int) -> float:
    """Return a smooth curve between -1 and 1 through one random point every `period` seconds."""
    index, offset = divmod(second, period)
    share = offset / period
    here, there = _dice(key, period, index) / 2**63, _dice(key, period, index + 1) / 2**63
    return here - 1 + (there - here) * share * share * (3 - 2 * share)


@lru_cache(maxsize=DICE_CACHED_MAX)
def _dice(key: str, name: object, index: int) -> int:
    """Return 64 random bits that depend on nothing but the arguments."""
    text = f"{key}|{name}|{index}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _products_of(symbols: Collection[str], listing: Iterable[Product]) -> dict[str, Product]:
    known = {product.symbol: product for product in listing}
    for symbol in symbols:
        if symbol not in known:
            raise ConfigError(f"no product is known for {symbol!r}; choose of {', '.join(known)}")
    return {symbol: known[symbol] for symbol in symbols}


# Candle lengths that a venue may have, in seconds, longest first.
CANDLE_SECONDS = (86400, 21600, 14400, 7200, 3600, 1800, 900, 300, 60)


def bar_closes(
    market: MarketData, symbol: str, bar: timedelta, count: int, now: datetime
) -> list[tuple[datetime, Decimal]]:
    """Return the closes of the last bars, oldest first, each with the moment of its bar's end.

    From candles of the bar's own length, else from the longest that divide it; else nothing.
    """
    for length in (bar, *(timedelta(seconds=seconds) for seconds in CANDLE_SECONDS)):
        if length > bar or bar % length:
            continue
        seconds, candles_a_bar = int(length.total_seconds()), bar // length
        candles = market.candles(symbol, seconds, count * candles_a_bar, now)
        ends = [(candle.opened_at + length, candle.close) for candle in candles]
        closes = [(end, close) for end, close in ends if end == bar_start(end, bar)]
        if closes:
            return closes
    return []


CLOSE = re.compile(r"[0-9]{1,15}(\.[0-9]{1,30})?")  # as the cache writes it


def window_row(
    symbol: str, bar_at: datetime | None, bar_seconds: int, closes: Iterable[Decimal]
) -> dict[str, object]:
    """Return one row of a mark-window cache, which `cached_closes` reads."""
    row = {"bar_at": bar_at and bar_at.isoformat(), "bar_seconds": bar_seconds,
           "closes": [f"{close:f}" for close in closes]}
    return row | {"crc": _window_crc(symbol, row)}


def cached_closes(
    cache: Mapping | None, symbol: str, bar: timedelta, since: datetime, until: datetime
) -> list[tuple[datetime, Decimal]]:
    """Return the closes of a mark-window cache whose last bar ended in `since` to `until`.

    One of another bar length, one that was changed, and one that is no cache counts as none.
    """
    try:
        row = cache[symbol]
        last, texts = datetime.fromisoformat(row["bar_at"]), row["closes"]
        fits = since <= last <= until and timedelta(seconds=row["bar_seconds"]) == bar
        is_sound = all(map(CLOSE.fullmatch, texts)) and row["crc"] == _window_crc(symbol, row)
        closes = [Decimal(text) for text in texts] if fits and is_sound else []
    except (TypeError, KeyError, ValueError, ArithmeticError):
        return []
    ages = range(len(closes) - 1, -1, -1)
    return [(last - age * bar, close) for age, close in zip(ages, closes)] if all(closes) else []


def _window_crc(symbol: str, row: Mapping) -> int:
    """What tells a cache that was written from one that was damaged: its prices make decisions."""
    return zlib.crc32(ascii((symbol, row["bar_at"], row["bar_seconds"], row["closes"])).encode())


def bar_start(at: datetime, bar: timedelta) -> datetime:
    """Return the start of the bar that `at` lies in, counted from the Unix epoch."""
    return at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % bar


LINE_LENGTH_MAX, BAR_LENGTH_ROWS = 1000, 500  # characters of a line, rows that tell a bar
# Recorders write in order of arrival, so the exchange's own times go back by some milliseconds.
LATENESS_MAX = timedelta(seconds=1)
FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)


class RecordedMarket:
    """CSV files, one for each symbol, on one clock that `advance` moves; memory does not grow.

    files          paths, or marks that were read already, oldest first
    funding_files  in the order of the symbols; there may be fewer
    bar_seconds    length of a candle; without it the smallest spacing of a file's first rows
    begin, end     rows with begin <= time < end count; a candle's time is that of its open
    products       the symbols' rules; recorded prices need not lie on their ticks
    history        marks of candles before the first row: a start fills its averages with them
    """

    def __init__(
        self, files: Sequence[str | Iterable[Mark]], symbols: Sequence[str],
        funding_files: Sequence[str] = (), bar_seconds: int | None = None,
        begin: datetime | None = None, end: datetime | None = None, skip_bad_rows: bool = False,
        products: Iterable[Product] | None = None, history: Sequence[Mark] = (),
    ):
        counts = f"{len(files)} files, {len(symbols)} symbols, {len(funding_files)} funding files"
        if not len(set(symbols)) == len(symbols) == len(files) >= max(1, len(funding_files)):
            raise ConfigError(f"{counts}: give each file a symbol of its own")
        self._listing = tuple(_products_of(symbols, products or SYNTHETIC_PRODUCTS).values())
        bar, skip = bar_seconds and timedelta(seconds=bar_seconds), skip_bad_rows
        options = _PRICE_KINDS, skip, bar, begin, end
        self._files = [_CsvFile(file, symbol, *options) if isinstance(file, str | Path) else
                       _Given(file) for file, symbol in zip(files, symbols)]
        self._history = history
        self._news = merge(*(file.rows() for file in self._files), key=attrgetter("at"))
        self._ahead = next(self._news, None)
        self._marks: dict[str, Mark] = {}
        self._funding = {s: _FundingReader(f, s, skip) for s, f in zip(symbols, funding_files)}

    def advance(self) -> datetime | None:
        """Move to the next moment at which any file has news and return it; None at the end."""
        ahead, now = self._ahead, self._ahead and self._ahead.at
        while ahead is not None and ahead.at == now:
            self._marks[ahead.symbol] = ahead
            ahead = next(self._news, None)
        self._ahead = ahead
        return now

    def connect(self, traded: Iterable[str] = ()) -> str:
        return ""

    def products(self) -> Sequence[Product]:
        return self._listing

    def marks(self, symbols: Iterable[str], now: datetime) -> Mapping[str, Mark]:
        """Return the newest marks of all symbols: always one dict, which `advance` changes."""
        return self._marks

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> Sequence[Candle]:
        """Return of the history: what was recorded has none of its own before it starts."""
        length = timedelta(seconds=seconds)
        return [mark.candle for mark in self._history[-count:]
                if mark.symbol == symbol and mark.at - mark.candle.opened_at == length]

    def funding(self, symbol: str, now: datetime) -> FundingRate | None:
        """Return the newest rate at or before `now`, which never goes back."""
        reader = self._funding.get(symbol)
        return reader and reader.newest_until(now)

    @property
    def rows(self) -> int:
        """Good rows of prices read so far; each file is one row ahead of the clock."""
        return sum(file.rows_read for file in self._files)

    @property
    def bad_rows(self) -> int:
        """Rows that were skipped, those of the funding files included."""
        files = (*self._files, *(reader.file for reader in self._funding.values()))
        return sum(file.bad_rows for file in files)

    def progress(self) -> Decimal:
        """Return the fraction of the price files' bytes, as they lie on disk, read so far."""
        read = sum(file.bytes_read() for file in self._files)
        return Decimal(read) / sum(file.size for file in self._files)


class _Given:
    """Marks that were read already, in place of a file; how far it has come is not known."""

    bad_rows, size = 0, 1

    def __init__(self, marks: Iterable[Mark]) -> None:
        self._marks, self.rows_read = marks, 0

    def rows(self) -> Iterator[Mark]:
        for self.rows_read, mark in enumerate(self._marks, 1):
            yield mark

    def bytes_read(self) -> int:
        return 0


class _FundingReader:
    """One funding file, read as far as time has come."""

    def __init__(self, path: str, symbol: str, skip_bad_rows: bool):
        self.file = _CsvFile(path, symbol, _FUNDING_KINDS, skip_bad_rows)
        self._rates = self.file.rows()
        self._ahead = next(self._rates)
        self._newest: FundingRate | None = None

    def newest_until(self, moment: datetime) -> FundingRate | None:
        while self._ahead is not None and self._ahead.at <= moment:
            self._newest, self._ahead = self._ahead, next(self._rates, None)
        return self._newest


@dataclass
class _CsvFile:
    """One file, read once from top to bottom, and how far that has come."""

    path: str
    symbol: str
    kinds: Mapping[str, tuple]
    skip_bad_rows: bool
    bar: timedelta | None = None
    begin: datetime | None = None
    end: datetime | None = None
    raw: BufferedReader | None = None
    size: int = 0  # bytes on disk
    line: int = 1
    rows_read: int = 0
    bad_rows: int = 0

    def rows(self) -> Iterator[Mark | FundingRate]:
        """Yield what each good row says, oldest first."""
        symbol, begin, end = self.symbol, self.begin or FIRST_MOMENT, self.end  # once, for speed
        latest = earliest = FIRST_MOMENT
        with _lines(self.path) as (self.raw, self.size, lines):
            header = next(lines, "").removesuffix("\n")
            is_good, build, spacing = self._kind(header)
            for self.line, row in enumerate(lines, 2):
                try:
                    if not is_good(row):
                        raise ValueError(_what_is_wrong(row, header))
                    fields = row.split(",")
                    at = datetime.fromisoformat(fields[0])
                    if at < earliest:
                        raise ValueError(f"{at} is out of order or repeated, before {earliest}"
                                         f"{self._way_out(spacing)}")
                    moment = at if at > latest else latest
                    after = moment + spacing
                    built = build(symbol, moment, after, fields)
                except ValueError as problem:
                    self._refuse(row, problem)
                    continue
                latest, earliest = moment, after
                if end and moment >= end:
                    return
                if moment >= begin:
                    self.rows_read += 1
                    yield built
        if latest == FIRST_MOMENT:
            raise ConfigError(f"{self.path}: not one usable row; give another file")

    def bytes_read(self) -> int:
        return self.size if self.raw.closed else self.raw.tell()

    def _kind(self, header: str) -> tuple[Callable, Callable, timedelta]:
        if header not in self.kinds:
            raise ConfigError(f"{self.path}: header {header[:80]!r} is none of {[*self.kinds]}")
        grammar = ",".join(_COLUMNS.get(name, _OTHER_COLUMN)[0] for name in header.split(","))
        build, spacing = self.kinds[header]
        is_good = re.compile(grammar + r"\n?", re.ASCII).fullmatch
        return is_good, build, spacing or self.bar or self._bar_length()

    def _way_out(self, spacing: timedelta) -> str:
        said = int(spacing.total_seconds())
        return f" (bars of {said} s: is --bar right?)" if self.bar and spacing == self.bar else ""

    def _bar_length(self) -> timedelta:
        """Return the smallest spacing of the first rows, by a reading of its own."""
        first = replace(self, bar=datetime.resolution, begin=None, end=None).rows()
        times = [mark.candle.opened_at for mark in islice(first, BAR_LENGTH_ROWS)]
        if len(times) < 2:
            raise ConfigError(f"{self.path}: one row does not tell a bar's length; give two")
        return min(later - earlier for earlier, later in pairwise(times))

    def _refuse(self, row: str, problem: ValueError) -> None:
        where = f"{self.path} line {self.line}"
        if len(row) == LINE_LENGTH_MAX:
            raise ConfigError(f"{where}: over {LINE_LENGTH_MAX} characters; give another file")
        if not self.skip_bad_rows:
            raise ConfigError(f"{where}: {problem}; correct it or use --skip-bad-rows")
        self.bad_rows += 1


def _candle_mark(symbol: str, opened_at: datetime, ended_at: datetime, fields: list[str]) -> Mark:
    opened, high, low, close = map(Decimal, fields[1:5])
    if not (low <= opened <= high and low <= close <= high and low):
        raise ValueError("high and low do not enclose open and close, or a price is zero")
    volume = Decimal(fields[5]) if len(fields) > 5 else ZERO
    candle = tuple_of(Candle, (opened_at, opened, high, low, close, volume))
    return tuple_of(Mark, (symbol, close, close, close, ended_at, None, None, candle))


def _trade_mark(symbol: str, at: datetime, _after: datetime, fields: list[str]) -> Mark:
    price = Decimal(fields[3])
    if not (price and Decimal(fields[4])):
        raise ValueError("price or size is zero")
    return Mark(symbol, price, price, price, at)


def _quote_mark(symbol: str, at: datetime, _after: datetime, fields: list[str]) -> Mark:
    bid, bid_size, ask, ask_size = map(Decimal, fields[2:])
    if not (bid < ask and bid and bid_size and ask_size):
        raise ValueError(f"bid {bid} is not below ask {ask}, or something is zero")
    return Mark(symbol, (bid + ask) * HALF, bid, ask, at, bid_size, ask_size)


def _funding_rate(symbol: str, at: datetime, _after: datetime, fields: list[str]) -> FundingRate:
    return FundingRate(symbol, Decimal(fields[1]), at)


_PRICE_KINDS = {
    # header                        what a row says, the least time to the next; None is a bar
    "time,open,high,low,close,volume":             (_candle_mark, None),
    "time,open,high,low,close":                    (_candle_mark, None),
    "time,recv_ns,trade_id,price,size,taker_side": (_trade_mark,  -LATENESS_MAX),
    "time,recv_ns,bid,bid_size,ask,ask_size":      (_quote_mark,  -LATENESS_MAX),
}
_FUNDING_KINDS = {"time,funding_rate": (_funding_rate, datetime.resolution)}

# Possessive quantifiers (`?+`) halve the time: a row that fails is not tried in other ways.
_NUMBER = r"\d{1,15}+(?:\.\d{1,18}+)?+"
_DAY, _CLOCK = r"(?:19|20)\d\d-\d\d-\d\d", r"\d\d:\d\d:\d\d(?:\.\d{1,6}+)?+"
_COLUMNS = {
    "time": (rf"{_DAY}[T ]{_CLOCK}(?:Z|\+00:00)", "a UTC time as 2025-01-31T23:59:00Z"),
    **dict.fromkeys(("recv_ns", "trade_id"), (r"\d{1,20}+", "a whole number")),
    "taker_side": ("(?:buy|sell)", "buy or sell"),
    "funding_rate": ("-?" + _NUMBER, "a plain number"),
}
_OTHER_COLUMN = (_NUMBER, "a plain number without a sign")


def _what_is_wrong(row: str, header: str) -> str:
    columns, fields = header.split(","), row.removesuffix("\n").split(",")
    for column, text in zip(columns, fields):
        grammar, wanted = _COLUMNS.get(column, _OTHER_COLUMN)
        if len(columns) == len(fields) and not re.fullmatch(grammar, text, re.ASCII):
            return f"{column} {text[:40]!r} is not {wanted}"
    return f"{len(fields)} columns instead of {len(columns)}"


@contextmanager
def _lines(path: str) -> Iterator[tuple]:
    """Open `path`; yield the file on disk, its size in bytes and its lines, of bounded length."""
    try:
        with open(path, "rb") as raw:
            size = raw.seek(0, 2)
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if str(path).endswith(".gz") else raw
            text = TextIOWrapper(stream, encoding="utf-8")
            yield raw, size, iter(partial(text.readline, LINE_LENGTH_MAX), "")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}; give another file") from problem

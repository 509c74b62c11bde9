"""Sweep: which settings would have done how, on prices that they were not chosen by?

Each combination runs twice through `replay`: over the first part of the bars, and over the rest,
flat, its averages warmed on the bars before, without trading.  Here it is run, by workers, and
kept; `tried` says it.  No clock is read, and no rule of trading or statistic stands here.
"""

import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed,
)
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from errno import ENOSPC
from functools import lru_cache
from io import FileIO
from itertools import islice
from pathlib import Path
from threading import Lock, Thread

from perps_bot import __version__, store
from perps_bot.clock import uninterrupted
from perps_bot.errors import ConfigError
from perps_bot.market import RecordedMarket, bar_start
from perps_bot.model import Mark
from perps_bot.outputs import private
from perps_bot.process import leave_no_core
from perps_bot.replay import Result, replay
from perps_bot.settings import SETTINGS, Settings, changed, printable, recorded_settings
from perps_bot.tried import PARTS, SPLIT, Outcome, fraction, key, ranked, settled

# A worker keeps so many parsed bars, some 250 MB; a longer file is read anew for each run.
HELD_ROWS_MAX = 300_000
# Bars before the split on which the second part may warm its averages; the longest needs 204.
WARM_UP_ROWS_MAX = 256
RESULTS_BYTES_MAX = 1 << 28
# A bot on the same machine comes first.
NICENESS = 10

_READING = Lock()  # workers that are threads read the file once, too


@dataclass(frozen=True)
class Job:
    """What a result depends on apart from its combination; it travels to the workers.

    files           of prices and perhaps of funding, as every worker finds them
    reading         RecordedMarket's bar_seconds, begin, end and skip_bad_rows
    rows, bad_rows  bars, and rows that were skipped
    first_out       bars that are in sample
    settings        all others, by name and in words; no secret is among them
    program         which code: version and digest
    """

    files: tuple[str, ...]
    digests: tuple[str, ...]
    reading: tuple
    split: str
    rows: int
    bad_rows: int
    first_out: int
    settings: tuple[tuple[str, str], ...]
    program: str

    @property
    def base(self) -> Settings:
        return recorded_settings(dict(self.settings))

    def header(self) -> str:
        """The line by which a file of results is this job's, wherever its own files lie."""
        said = {**asdict(self), "sweep": 1, "files": len(self.files)}
        return json.dumps(said, default=_plain, sort_keys=True) + "\n"

    def market(self) -> RecordedMarket:
        """The file of prices, read anew."""
        return RecordedMarket(self.files[:1], self.base.symbols, (), *self.reading)


def job_of(
    prices: str | Path, settings: Settings, split: str = SPLIT, funding: Sequence[str | Path] = (),
    bar_seconds: int | None = None, begin: datetime | None = None, end: datetime | None = None,
    skip_bad_rows: bool = False,
) -> Job:
    """Read `prices` once, from top to bottom, and say what is to be done.  Raises ConfigError."""
    share, files = fraction(split), tuple(map(os.path.realpath, (prices, *funding)))
    if len(settings.symbols) != 1:
        raise ConfigError(f"{' '.join(settings.symbols)}: a sweep takes one symbol")
    words = {row.name: printable(row, getattr(settings, row.name))
             for row in SETTINGS if row.env is None}  # those are surroundings, and secrets
    reading = (bar_seconds, begin, end, skip_bad_rows)
    market = RecordedMarket(files[:1], settings.symbols, (), *reading)
    first = next(_told(market), None)
    if first is None or first.candle is None:
        raise ConfigError(f"{prices}: no bars to be used: give candles, as time,open,high,low,"
                          f"close, and no --from or --to that leave none")
    bar = first.at - first.candle.opened_at
    if bar_start(first.at, bar) != first.at:
        raise ConfigError(f"{prices}: bars of {bar} must end at multiples of it, UTC: give others")
    words["bar"] = str(bar // timedelta(seconds=1))
    rows = 1 + sum(1 for _ in _told(market))
    if not int(rows * share):
        raise ConfigError(f"{prices}: {rows} bars split at {split} leave none in sample: give more")
    return Job(files, tuple(map(_digest, files)), reading, f"{share.normalize():f}", rows,
               market.bad_rows, int(rows * share), tuple(words.items()), _program())


def sweep(
    job: Job, combinations: Iterable[Mapping[str, str]], executor: Executor | None = None,
    jobs: int | None = None, out: str | Path | None = None,
    progress: Callable[[Decimal], None] | None = None,
) -> Outcome:
    """Run every combination (settings by name, as text) and return the results, ranked.

    executor  any Executor whose workers find the same program and files; without one, `jobs`
              processes of this machine, all its processors by default
    out       keeps each finished run, durably; the same job goes on from it
    progress  called now and then with the fraction that is done
    Raises ConfigError where nothing can be run, or a result cannot be kept.
    """
    wanted, left_out = settled(job.base, combinations)
    failed, futures = [], {}
    with _results(out, job) as (kept, keep):
        todo = [words for words in wanted if key(words) not in kept]
        others, done = len(kept) + len(todo) - len(wanted), len(wanted) - len(todo)
        own = _processes(min(jobs or len(os.sched_getaffinity(0)), len(todo)))
        try:
            with nullcontext(executor) if executor or not todo else own as pool:
                _submit(pool, job, todo, futures)
                for done, future in enumerate(as_completed(futures), done + 1):
                    if failure := future.exception():
                        failed.append((futures[future], _why(failure)))
                    else:
                        keep(future.result())
                        kept[key(futures[future])] = future.result()
                    if progress is not None:
                        progress(Decimal(done) / len(wanted))
        finally:
            for future in futures:  # in an executor of others; our own has ended
                future.cancel()
    _held.cache_clear()  # where the workers were threads of this process
    rows = [kept[key(words)] for words in wanted if key(words) in kept]
    return Outcome(ranked(rows, PARTS[0]), left_out, failed, others)


def run_one(job: Job, words: Mapping[str, str]) -> dict:
    """Both runs of one combination: what a worker does."""
    base = job.base
    settings = changed(base, words, "sweep")
    with _READING:
        held = _held(job)
    row = {"set": dict(words)}
    for part in PARTS:
        bars, before = iter(_told(job.market()) if held is None else held), []
        if part == "in_sample":
            bars = islice(bars, job.first_out)
        else:
            before = [*deque(islice(bars, job.first_out), WARM_UP_ROWS_MAX)]
        market = RecordedMarket([bars], base.symbols, job.files[1:],
                                skip_bad_rows=job.reading[-1], history=before)
        row[part] = {name: _plain(value)
                     for name, value in asdict(replay(market, settings)).items()}
    return row


def _plain(value: object) -> object:
    """As JSON has it: what comes back from a file is then the same as what comes new."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    return [*value] if isinstance(value, tuple) else value


# The workers


def _submit(pool: Executor, job: Job, todo: list[dict], futures: dict[Future, dict]) -> None:
    try:
        with uninterrupted():
            for words in todo:
                futures[pool.submit(run_one, job, words)] = words
    except (BrokenExecutor, OSError) as failure:
        raise ConfigError(f"workers cannot be started: {failure}: give fewer --jobs") from failure


def _why(failure: BaseException) -> str:
    if isinstance(failure, BrokenExecutor):
        return "a worker was ended from outside, or had no memory: give fewer --jobs"
    return f"{type(failure).__name__}: {failure}"


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Workers of our own.  They are spawned: a fork would copy locks that threads here hold."""
    others, is_done = {*multiprocessing.active_children()}, False
    with uninterrupted():
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin_worker)
    try:
        yield pool
        is_done = True
    finally:
        with uninterrupted():  # a run may take minutes, so it is not waited for
            for worker in () if is_done else {*multiprocessing.active_children()} - others:
                worker.terminate()
            pool.shutdown()


def _begin_worker() -> None:
    os.nice(NICENESS)
    leave_no_core()
    logging.getLogger("perps_bot").addHandler(logging.NullHandler())
    Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """However the parent ends, kill -9 included: nobody stays behind and waits for work."""
    multiprocessing.parent_process().join()
    os._exit(1)


@lru_cache(maxsize=1)
def _held(job: Job) -> tuple[Mark, ...] | None:
    """Once in a worker: the bars, unless they are too many; refuses what is not the job's."""
    if _program() != job.program:
        raise ConfigError(f"this worker runs {_program()}, not {job.program}: install the same")
    for path, digest in zip(job.files, job.digests):
        if _digest(path) != digest:
            raise ConfigError(f"{path}: was changed, or is another file: begin anew")
    return tuple(_told(job.market())) if job.rows <= HELD_ROWS_MAX else None


def _told(market: RecordedMarket) -> Iterator[Mark]:
    """The marks of a market of one symbol, to its end."""
    while (now := market.advance()) is not None:
        yield from market.marks((), now).values()


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem}; give another file") from problem


@lru_cache(maxsize=1)
def _program() -> str:
    """The version, and what tells one state of its code from another."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return f"{__version__}-{code.hexdigest()[:12]}"


# The file of results


@contextmanager
def _results(path: str | Path | None, job: Job) -> Iterator[tuple[dict, Callable[[dict], None]]]:
    """Yield the results that the file holds, by combination, and what adds one durably."""
    if path is None:
        yield {}, lambda row: None
        return

    def keep(row: dict) -> None:
        with _refusing(path):
            _write(file, json.dumps(row).encode() + b"\n")

    with _refusing(path):
        file = open(path, "a+b", buffering=0, opener=private)
    with file:
        yield _taken(file, path, job.header().encode()), keep


@contextmanager
def _refusing(path: str | Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError as busy:
        raise ConfigError(f"{path}: another sweep writes it: let it end, or name another") from busy
    except OSError as failure:
        raise ConfigError(f"{path}: {failure.strerror}: what was kept before is kept; make room, "
                          f"or name another file") from failure


def _taken(file: FileIO, path: str | Path, header: bytes) -> dict[frozenset, dict]:
    """What the file holds; another job's is refused, and a torn last line is cut."""
    with _refusing(path):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        body = file.read(RESULTS_BYTES_MAX)
    *lines, torn = body.split(b"\n")
    head = lines.pop(0) + b"\n" if lines else torn
    if head != header and not (head is torn and header.startswith(head)):
        raise ConfigError(f"{path}: is no file of results, or of other prices, another split, "
                          f"other settings or another version: name a new file")
    kept = {}
    for number, line in enumerate(lines, 2):
        row = _row(line, f"{path} line {number}")
        kept[key(row["set"])] = row
    with _refusing(path):
        file.truncate(len(body) - len(torn))
        if head is torn:
            _write(file, header)
            store._fsync_folder(Path(path).parent)
    return kept


def _row(line: bytes, where: str) -> dict:
    figures = {each.name for each in fields(Result)}
    try:
        row = json.loads(line)
        if [*row] == ["set", *PARTS] and all(row[part].keys() == figures for part in PARTS):
            return row
    except (ValueError, TypeError, AttributeError):  # no JSON, or not of this form
        pass
    raise ConfigError(f"{where}: is no result of a sweep: name a new file")


def _write(file: FileIO, line: bytes) -> None:
    if file.write(line) != len(line):
        raise OSError(ENOSPC, "the disk took only part of a result")
    os.fsync(file.fileno())

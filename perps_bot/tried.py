"""Tried: which combinations are asked for, and what is said of what came of them?

Combinations come from --set and from a list; results are ranked by what they did out of sample,
and said with how many were tried.  Nothing is run here, nothing is measured, and what was not
measured has neither rank nor number.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from itertools import chain, product
from math import prod
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.execution import ExecutionConfig
from perps_bot.outputs import kept_when_done, table
from perps_bot.risk import RiskConfig
from perps_bot.score import ROWS
from perps_bot.settings import SETTINGS, Settings, changed
from perps_bot.strategy import StrategyConfig

PARTS = ("out_of_sample", "in_sample")  # in the order in which they are shown
# What decides, limits and sends; what a trade costs is not chosen but told, by its own flags.
SWEPT = [row.name for row in SETTINGS if row.name != "symbols" and row.name in {
    each.name for kind in (StrategyConfig, RiskConfig, ExecutionConfig) for each in fields(kind)}]
SPLIT, FRACTION = "0.7", re.compile(r"0?\.[0-9]{1,6}")
COMBINATIONS_MAX = 10_000
LIST_BYTES_MAX = 1 << 20
TRADES_FEW = 30  # below it, a result says more about chance than about settings
NAMED_MAX = 10  # of those left out or failed; --json has all

COLUMNS = (
    # heading   Figures field       width
    ("trades",   "trades",            7),
    ("return",   "return_pct",        9),
    ("Sharpe",   "sharpe",           12),
    ("drawdown", "max_drawdown_pct",  9),
)  # fmt: skip
FORMS = {field: form for _, field, form, _ in ROWS}


@dataclass
class Outcome:
    """What came of a sweep.

    rows      {"set", "out_of_sample", "in_sample"} of each finished run, ranked; figures as in
              replay's JSON
    left_out  (combination, why) that the settings refuse; failed  (combination, why) that broke off
    others    results in the file of combinations that were not asked for this time
    """

    rows: list[dict]
    left_out: list[tuple[dict, str]]
    failed: list[tuple[dict, str]]
    others: int = 0


def combinations(sets: Sequence[str], listed: str | None = None) -> Iterator[dict[str, str]]:
    """Every point of the grid `name=value,value`, for each row of a JSON or CSV file."""
    axes = [[(name, value.strip()) for value in values.split(",")]
            for name, _, values in (each.partition("=") for each in sets)]
    rows = [{}] if listed is None else _listed(listed)
    _refuse_names([axis[0][0] for axis in axes] + [*dict.fromkeys(chain.from_iterable(rows))])
    points = prod(map(len, (rows, *axes)))
    if points > COMBINATIONS_MAX:
        raise ConfigError(f"{points} combinations: at most {COMBINATIONS_MAX}; the more are tried, "
                          f"the less the best of them means")
    return ({**row, **dict(point)} for row in rows for point in product(*axes))


def settled(base: Settings, combinations: Iterable[Mapping[str, str]]) -> tuple[list, list]:
    """Those that can run, each once and every value in one spelling; and those that cannot."""
    wanted, left_out = {}, []
    for given in combinations:
        try:
            settings = changed(base, given, "sweep")
        except ConfigError as refusal:
            left_out.append((dict(given), str(refusal)))
            continue
        words = {name: _word(getattr(settings, name)) for name in given}
        wanted.setdefault(key(words), words)
    if not wanted:
        why = left_out[0][1] if left_out else "none was given"
        raise ConfigError(f"no combination is possible: {why}")
    return [*wanted.values()], left_out


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def key(words: Mapping[str, str]) -> frozenset:
    return frozenset(words.items())


def fraction(text: str) -> Decimal:
    """What --split says.  Raises ConfigError."""
    if not FRACTION.fullmatch(text) or not Decimal(text):
        raise ConfigError(f"--split {text}: must be above 0 and below 1, as {SPLIT}")
    return Decimal(text)


def ranked(rows: Sequence[dict], part: str) -> list[dict]:
    """By return, best first; where nothing was traded nothing was measured, and it comes last."""
    return sorted(rows, key=lambda row: -_number(row[part], "return_pct")
                  if is_measured(row[part]) else Decimal("Infinity"))


def is_measured(figures: Mapping) -> bool:
    return figures["trades"] > 0 and figures["return_pct"] is not None


def lines(outcome: Outcome, top: int) -> Iterator[str]:
    """Say it for people: what was not seen first, and what the best of many is worth."""
    rows = outcome.rows
    if rows:
        yield from _head(rows[0])
        yield ""
        outside, inside = (_ranks(rows, part) for part in PARTS)
        heads = "".join(f"{heading:>{width}}" for heading, _, width in COLUMNS)
        yield f"{'':8}{'out of sample':^{len(heads)}}{'':4}{'in sample':^{len(heads)}}".rstrip()
        yield f"rank  {heads}  rank{heads}  settings"
        yield from map(_line, rows[:top], outside, inside)
        if len(rows) > top:
            yield f"... and {len(rows) - top} more; --top shows more, --csv writes all"
        yield ""
        yield from _verdict(rows, outside, inside, outcome.others)
    for what, pairs in (("left out", outcome.left_out), ("failed", outcome.failed)):
        yield from (f"{what}: {said(words)}: {why}" for words, why in pairs[:NAMED_MAX])
        if len(pairs) > NAMED_MAX:
            yield f"{what}: {len(pairs) - NAMED_MAX} more"


def as_json(outcome: Outcome) -> dict[str, object]:
    rows, others = outcome.rows, outcome.others
    ranks = zip(_ranks(rows, PARTS[0]), _ranks(rows, PARTS[1]), rows)
    named = {name: [{"set": words, "why": why} for words, why in getattr(outcome, name)]
             for name in ("left_out", "failed")}
    return {"tried": len(rows), "others_in_file": others, **named, "rows": [
        {"rank": out, "rank_in_sample": inside, **row} for out, inside, row in ranks]}


def write_csv(path: Path, outcome: Outcome) -> None:
    """Every figure of both parts, a row each.  Raises ConfigError where it cannot be written."""
    rows, figures = outcome.rows, [field for _, field, _, _ in ROWS]
    names = [*dict.fromkeys(chain.from_iterable(row["set"] for row in rows))]
    columns = ("rank", *(f"{part}_{field}" for part in PARTS for field in figures), *names)
    try:
        with kept_when_done(path) as part_file, table(part_file, columns) as write:
            for rank, row in zip(_ranks(rows, PARTS[0]), rows):
                write((rank, *(_number(row[part], field) for part in PARTS for field in figures),
                       *(row["set"].get(name) for name in names)))
    except OSError as failure:
        raise ConfigError(f"--csv {path}: {failure.strerror}: make room, or name another place; "
                          f"what --out kept need not run again") from failure


def said(words: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in words.items())


def _refuse_names(names: list[str]) -> None:
    if not names:
        raise ConfigError("nothing to try: add --set short_ma_period=5,10, or --list FILE")
    for name in names:
        if name not in SWEPT or names.count(name) > 1:
            raise ConfigError(f"{name[:100]}: is given twice, or cannot be tried; there are "
                              f"{' '.join(SWEPT)}")


def _listed(path: str) -> list[dict[str, str]]:
    """The rows of a file: CSV with names in its first line, or a JSON array of objects."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(LIST_BYTES_MAX + 1)
        if len(text) > LIST_BYTES_MAX:
            raise ValueError(f"more than {LIST_BYTES_MAX >> 20} MiB")
        if not text.lstrip().startswith("["):
            rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
            if any(len(row) != len(rows[0]) for row in rows):
                raise ValueError("a value is missing, or too many, in a row")
            found = [_named(zip(rows[0], row)) for row in rows[1:]]
        else:
            found = json.loads(text, parse_float=str, parse_int=str, object_pairs_hook=_named)
        return [{name: _text(value) for name, value in row.items()} for row in found]
    except (OSError, ValueError, csv.Error, AttributeError, TypeError, RecursionError) as problem:
        raise ConfigError(f"--list {path}: {problem}: give CSV with names in the first line, or a "
                          f"JSON array of objects such as {{\"short_ma_period\": 5}}") from problem


def _named(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    found = [*pairs]
    if len(dict(found)) < len(found):
        raise ValueError("a setting stands twice in a row")
    return dict(found)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str):
        raise ValueError("a value is missing, or too many, or neither number nor text")
    return value.strip()


def _ranks(rows: Sequence[dict], part: str) -> list[int | None]:
    """The rank of each row by one part; None where nothing was measured."""
    order = {id(row): number for number, row in enumerate(ranked(rows, part), 1)}
    return [order[id(row)] if is_measured(row[part]) else None for row in rows]


def _number(figures: Mapping, field: str) -> Decimal | int | None:
    value = figures[field]
    return Decimal(value) if isinstance(value, str) else value


def _head(row: Mapping) -> Iterator[str]:
    figures = row[PARTS[0]]
    yield (f"{' '.join(figures['symbols'])}, each part from {_shown(figures, 'start_equity')} USD, "
           f"ranked by the return out of sample")
    warmed = "; starts flat, averages warmed on the bars before"
    for part, more in (("in_sample", ""), ("out_of_sample", warmed)):
        begin, end = (datetime.fromisoformat(row[part][name]) for name in ("start", "end"))
        yield (f"{part.replace('_', ' '):<14} {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, "
               f"{row[part]['bars']:,} bars{more}")


def _line(row: Mapping, out: int | None, inside: int | None) -> str:
    parts = ["".join(f"{_shown(row[part], field):>{width}}" for _, field, width in COLUMNS)
             for part in PARTS]
    return f"{out or '-':>4}  {parts[0]}  {inside or '-':>4}{parts[1]}  {said(row['set'])}"


def _shown(figures: Mapping, field: str) -> str:
    value = _number(figures, field)
    few = "*" * (field == "trades" and value < TRADES_FEW)
    return "not defined" if value is None else f"{few}{value:{FORMS[field]}}"


def _verdict(rows: list[dict], outside: list, inside: list, others: int) -> Iterator[str]:
    """What a table of the best hides."""
    tried = f"{len(rows)} combinations were tried" + f", and {others} more earlier" * bool(others)
    gained = sum(is_measured(row[PARTS[0]]) and _number(row[PARTS[0]], "return_pct") > 0
                 for row in rows)
    yield f"{tried}; {gained} of {len(rows)} gained out of sample"
    if 1 in inside:
        best = inside.index(1)
        rank, row = outside[best], rows[best]
        yield (f"the best in sample ({said(row['set'])}, {_shown(row[PARTS[1]], 'return_pct')}) "
               + (f"is {rank} of {len(rows)} out of sample, {_shown(row[PARTS[0]], 'return_pct')}"
                  if rank else "did not trade out of sample"))
    yield ("the best of many looks good by luck, out of sample too: believe a setting only on "
           "prices that no sweep has seen")
    if any(row[part]["trades"] < TRADES_FEW for row in rows for part in PARTS):
        yield f"* fewer than {TRADES_FEW} closed round trips: mostly chance"
